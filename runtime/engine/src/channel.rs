//! The bounded channel between two tasks of one process.
//!
//! What is bounded is the number of rows under way ([`ROW_BUDGET`] by default): a sender waits until the receiver has
//! taken enough of them, and that wait is the backpressure. Watermarks and barriers cost nothing, so they never wait for
//! the budget; they do keep their place in the order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use arrow::array::RecordBatch;
use millrace_stream::Message;
use tokio::sync::{Semaphore, mpsc};

/// How many rows may be under way in one channel.
pub const ROW_BUDGET: u32 = 32 * 1024;

/// The receiver is gone: its task has ended or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiving task has ended")]
pub struct Closed;

/// Makes a channel that holds at most `row_budget` rows.
pub fn channel(row_budget: u32) -> (Sender, Receiver) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the row budget; control messages must never wait for it")]
    let (queue, receiver) = mpsc::unbounded_channel();
    let budget = Arc::new(Semaphore::new(row_budget as usize));
    let waited_ns = Arc::new(AtomicU64::new(0));
    (Sender { queue, budget: budget.clone(), row_budget, waited_ns }, Receiver { queue: receiver, budget, row_budget })
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::UnboundedSender<Message>,
    budget: Arc<Semaphore>,
    row_budget: u32,
    waited_ns: Arc<AtomicU64>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::UnboundedReceiver<Message>,
    budget: Arc<Semaphore>,
    row_budget: u32,
}

impl Sender {
    /// Sends rows, when the budget has room for them. A batch larger than the whole budget waits for all of it.
    ///
    /// Cancel-safe in that nothing is sent if the future is dropped; the batch is lost with it.
    pub async fn send_batch(&self, batch: RecordBatch) -> Result<(), Closed> {
        let cost = cost(&batch, self.row_budget);
        let permits = match self.budget.clone().try_acquire_many_owned(cost) {
            Ok(permits) => permits,
            Err(_) => {
                #[expect(clippy::disallowed_methods, reason = "measures a wait; nothing depends on it")]
                let blocked = tokio::time::Instant::now();
                let permits = self.budget.clone().acquire_many_owned(cost).await.map_err(|_| Closed)?;
                self.waited_ns.fetch_add(blocked.elapsed().as_nanos() as u64, Ordering::Relaxed);
                permits
            }
        };
        permits.forget();
        self.queue.send(Message::Batch(batch)).map_err(|_| Closed)
    }

    /// Sends what carries no rows, at once.
    pub fn send_control(&self, message: Message) -> Result<(), Closed> {
        self.queue.send(message).map_err(|_| Closed)
    }

    /// For how long senders have waited for the budget, in all, in nanoseconds.
    pub fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Ordering::Relaxed)
    }
}

impl Receiver {
    /// The next message; `None` when every sender is gone and all is received.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let received = self.queue.poll_recv(cx);
        if let Poll::Ready(Some(Message::Batch(batch))) = &received {
            self.budget.add_permits(cost(batch, self.row_budget) as usize);
        }
        received
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.budget.close();
    }
}

fn cost(batch: &RecordBatch, row_budget: u32) -> u32 {
    u32::try_from(batch.num_rows()).unwrap_or(u32::MAX).clamp(1, row_budget)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{future::poll_fn, sync::Arc};

    use arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    };
    use futures::FutureExt;
    use millrace_stream::EventTime;

    use super::*;

    fn rows(n: usize) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![0; n]))]).unwrap()
    }

    #[tokio::test]
    async fn a_sender_waits_for_the_row_budget_but_a_control_message_does_not() {
        let (sender, mut receiver) = channel(10);
        sender.send_batch(rows(8)).await.unwrap();
        let mut waiting = Box::pin(sender.send_batch(rows(8)));
        assert!(waiting.as_mut().now_or_never().is_none());
        sender.send_control(Message::Watermark(EventTime(1))).unwrap();
        assert!(matches!(poll_fn(|cx| receiver.poll_recv(cx)).await, Some(Message::Batch(_))));
        assert!(matches!(poll_fn(|cx| receiver.poll_recv(cx)).await, Some(Message::Watermark(_))));
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_budget_passes_alone() {
        let (sender, mut receiver) = channel(10);
        sender.send_batch(rows(100)).await.unwrap();
        assert!(sender.send_batch(rows(1)).now_or_never().is_none());
        assert!(matches!(poll_fn(|cx| receiver.poll_recv(cx)).await, Some(Message::Batch(_))));
        sender.send_batch(rows(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_receiver_is_gone_even_while_it_waits() {
        let (sender, receiver) = channel(1);
        sender.send_batch(rows(1)).await.unwrap();
        let waiting = tokio::spawn({
            let sender = sender.clone();
            async move { sender.send_batch(rows(1)).await }
        });
        tokio::task::yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
    }
}
