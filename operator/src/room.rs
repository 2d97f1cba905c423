//! Room for planning: to compile SQL is the one thing that the operator computes for long, and everybody who may create a Pipeline
//! can ask for it.
//!
//! It is done beside the runtime's threads, so that watches, the Lease and `/healthz` go on whatever it takes, and by few at a time:
//! small specs wait for their turn, of large ones there is one, and who finds it taken looks again later. So no Pipeline waits
//! long because others are large.

use std::time::Duration;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
};

/// A spec is large if its SQL has more bytes than this.
const LARGE_BYTES: usize = 8 << 10;
/// So many small specs are planned at a time.
const SMALL: usize = 2;
/// When to look again if the room for large specs is taken.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who plans.
pub struct Room {
    small: Semaphore,
    large: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self { small: Semaphore::new(SMALL), large: Semaphore::new(1) }
    }
}

impl Room {
    /// Does work that may plan a spec with so many bytes of SQL. `None`: there is no room for it now.
    pub async fn plan<T>(&self, sql_bytes: usize, work: impl FnOnce() -> T) -> Option<T> {
        let turn = match sql_bytes > LARGE_BYTES {
            true => self.large.try_acquire().ok()?,
            // It is never closed.
            false => self.small.acquire().await.ok()?,
        };
        let done = match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => block_in_place(work),
            // A test's: there is no other thread to go on with what else there is to do.
            _ => work(),
        };
        drop(turn);
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_plan_that_takes_long_stops_neither_other_work_nor_small_plans_and_large_ones_come_back_later() {
        let room = Arc::new(Room::default());
        let (go_on, waits) = mpsc::sync_channel::<()>(1);
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let long = tokio::spawn({
            let room = Arc::clone(&room);
            async move {
                let work = move || {
                    begun.send(()).unwrap();
                    waits.recv().unwrap();
                };
                room.plan(LARGE_BYTES + 1, work).await
            }
        });
        // The runtime has one thread, and it plans.
        has_begun.await.unwrap();
        assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
        assert_eq!(room.plan(LARGE_BYTES + 1, || 1).await, None);
        assert_eq!(room.plan(LARGE_BYTES, || 2).await, Some(2));
        go_on.send(()).unwrap();
        assert_eq!(long.await.unwrap(), Some(()));
        assert_eq!(room.plan(LARGE_BYTES + 1, || 3).await, Some(3));
    }
}
