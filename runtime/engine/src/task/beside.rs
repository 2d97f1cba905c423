//! What is done about an epoch beside a task, while rows of the next one are taken already: writing a snapshot, making a
//! sink's output durable.

use millrace_stream::Epoch;
use tokio::task::JoinHandle;

use super::TaskError;

/// At most one epoch's work.
pub(super) struct Beside<T>(Option<(Epoch, JoinHandle<T>)>);

impl<T: Send + 'static> Beside<T> {
    /// None yet.
    pub(super) fn idle() -> Self {
        Self(None)
    }

    /// Begins an epoch's work. That of the one before has ended.
    pub(super) fn begin(&mut self, epoch: Epoch, work: impl Future<Output = T> + Send + 'static) {
        debug_assert!(self.0.is_none(), "one epoch at a time");
        self.0 = Some((epoch, tokio::spawn(work)));
    }

    /// Whether there is some.
    pub(super) fn is_busy(&self) -> bool {
        self.0.is_some()
    }

    /// What it came to; never ready if there is none. Cancel-safe.
    pub(super) async fn done(&mut self) -> Result<(Epoch, T), TaskError> {
        let Some((epoch, work)) = &mut self.0 else { return std::future::pending().await };
        let (epoch, done) = (*epoch, work.await);
        self.0 = None;
        Ok((epoch, done.map_err(|error| TaskError::Panicked(error.to_string()))?))
    }
}
