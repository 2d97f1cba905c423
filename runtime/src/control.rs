//! The control socket of a data folder: how `millrace checkpoints savepoint` speaks to the process that runs there.
//!
//! The address stands in the file `control` of the folder. The socket itself may be elsewhere, since the path of a Unix
//! socket is at most 107 bytes long.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_engine::Command;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use crate::{
    overview::Overview,
    server::{self, Readiness},
};

const ADDRESS: &str = "control";
const LONGEST_PATH: usize = 100;

/// The socket; it is removed when this is dropped.
pub struct Control {
    socket: PathBuf,
    address: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Whoever comes next makes its own; what is left says "connection refused".
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.address);
    }
}

/// Serves a data folder's control socket.
pub async fn serve(
    folder: &Path,
    overview: Arc<Overview>,
    readiness: Readiness,
    commands: mpsc::Sender<Command>,
) -> io::Result<Control> {
    let folder = fs::canonicalize(folder)?;
    let mut socket = folder.join("control.sock");
    if socket.as_os_str().len() > LONGEST_PATH {
        socket = std::env::temp_dir().join(format!("millrace-{}.sock", std::process::id()));
    }
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&socket)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    let address = folder.join(ADDRESS);
    fs::write(&address, socket.as_os_str().as_encoded_bytes())?;
    let app = server::control(overview, readiness, commands);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the control socket has ended");
        }
    });
    Ok(Control { socket, address })
}

/// Asks the process that runs in a data folder; answers the status code and the body.
pub async fn ask(folder: &Path, method: &str, path: &str) -> io::Result<(u16, String)> {
    let address = fs::read_to_string(folder.join(ADDRESS))?;
    let mut stream = UnixStream::connect(address.trim()).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}
