//! Connections of strangers: a limited number of them, and none that is kept open for nothing.
//!
//! A connection that is asked nothing whole, or whose answer is not taken, for [`PATIENCE`] is closed. While [`MOST`] are
//! open the next ones wait in the kernel's queue, so that no client can use up the process's file descriptors, which the
//! pipeline needs.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

/// How many connections are open at the most.
const MOST: usize = 64;
/// How long one may go without an answer being written to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listener that keeps to the limits.
pub struct Connections {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Connections {
    /// Listens on an address.
    ///
    /// # Errors
    ///
    /// If that is not possible: the port is in use, say.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, room: Arc::new(Semaphore::new(MOST)) })
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("nobody closes the semaphore");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Connection { stream, deadline: Box::pin(sleep(PATIENCE)), _room: room }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with a deadline, which each piece of an answer that is taken puts off.
pub struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// What a wait comes to: it goes on, until the deadline.
    fn waiting<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn written(&mut self, done: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if done.is_pending() {
            return self.waiting(cx);
        }
        self.deadline = Box::pin(sleep(PATIENCE));
        done
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, into) {
            Poll::Pending => self.waiting(cx),
            done => done,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
