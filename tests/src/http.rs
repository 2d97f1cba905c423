//! A client of `--listen`, which sends what it is told, well-formed or not.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{Deadline, Running};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The lines before the body, in small letters.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    fn of(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// The address that a `millrace run --listen 127.0.0.1:0` says it serves.
///
/// # Panics
///
/// If it does not say one.
pub fn address(running: &Running) -> SocketAddr {
    Deadline::secs(60).wait_for("the address in the log", || {
        let log = running.stderr();
        let behind = log.split_once("address=")?.1;
        behind.split_whitespace().next()?.parse().ok()
    })
}

/// Opens a connection.
///
/// # Errors
///
/// If nobody listens.
pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Asks; `None`: nobody listens, or the connection was closed without an answer.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Option<Answer> {
    let mut stream = connect(address).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Answer::of(&String::from_utf8_lossy(&answer))
}

/// Gets a page.
///
/// # Panics
///
/// If there is no answer.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, "").unwrap_or_else(|| panic!("no answer to GET {path}"))
}
