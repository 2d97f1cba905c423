//! The bounded channel between two tasks of one process.
//!
//! What is bounded is what is under way: [`ROW_BUDGET`] rows and [`BYTE_BUDGET`] bytes by default. A sender waits until the
//! receiver has taken enough, and that wait is the backpressure. A batch that is larger than the whole budget passes alone,
//! when nothing else is under way.
//!
//! Watermarks and barriers cost nothing, so they never wait for the budget; they do keep their place in the order. A source
//! that waits for room when a barrier is to begin sends what it holds over the budget ([`Sender::send_over`]), and the
//! barrier behind it, at once; then it reads nothing more until the channel is within its budget again
//! ([`Sender::within_budget`]). So at most one batch of the source is over the budget, however many barriers come by. A
//! task further down does not do that: its barrier stands behind rows of its own epoch, which have to come out before it,
//! and those are at most a budget a channel.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::DataType,
};
use millrace_stream::Message;
use tokio::sync::{Notify, mpsc};

/// How many rows may be under way in one channel.
pub const ROW_BUDGET: usize = 32 * 1024;
/// How many bytes may be under way in one channel.
pub const BYTE_BUDGET: usize = 8 << 20;

/// The receiver is gone: its task has ended or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiving task has ended")]
pub struct Closed;

/// Rows and the bytes that they take, of a batch or of all that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Rows; a batch without any counts as one.
    pub rows: usize,
    /// Bytes of the rows themselves, whatever larger buffers they lie in.
    pub bytes: usize,
}

impl Load {
    /// What a batch takes.
    pub fn of(batch: &RecordBatch) -> Self {
        let bytes = batch.columns().iter().map(|column| column_bytes(column)).sum();
        Self { rows: batch.num_rows().max(1), bytes }
    }

    fn fits(&self, more: &Self, budget: &Self) -> bool {
        // An empty channel takes everything.
        self.rows == 0 || (self.rows + more.rows <= budget.rows && self.bytes + more.bytes <= budget.bytes)
    }

    fn is_over(&self, budget: &Self) -> bool {
        self.rows > budget.rows || self.bytes > budget.bytes
    }
}

/// What the values of a column take, whatever larger buffers they lie in.
pub fn column_bytes(column: &dyn Array) -> usize {
    let long = match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    };
    // An array that cannot say what its slice takes is counted with all that it holds.
    long + column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
}

/// Makes a channel that holds at most `budget`, and always at least one batch.
pub fn channel(budget: Load) -> (Sender, Receiver) {
    #[expect(clippy::disallowed_methods, reason = "bounded by the budget; control messages must never wait for it")]
    let (queue, receiver) = mpsc::unbounded_channel();
    let under_way = Arc::new(UnderWay { budget, load: Mutex::default(), changed: Notify::new() });
    let waited_ns = Arc::new(AtomicU64::new(0));
    (Sender { queue, under_way: under_way.clone(), waited_ns }, Receiver { queue: receiver, under_way })
}

#[derive(Debug)]
struct UnderWay {
    budget: Load,
    load: Mutex<Load>,
    /// Something was received, or the receiver is gone. There is one sender, so one waits at the most.
    changed: Notify,
}

impl UnderWay {
    fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Load)) {
        change(&mut self.load.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The sending end.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::UnboundedSender<(Message, Load)>,
    under_way: Arc<UnderWay>,
    waited_ns: Arc<AtomicU64>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::UnboundedReceiver<(Message, Load)>,
    under_way: Arc<UnderWay>,
}

impl Sender {
    /// Waits until a batch that takes `load` may be sent. Cancel-safe.
    pub async fn room_for(&self, load: Load) -> Result<(), Closed> {
        self.until(|under_way| under_way.load().fits(&load, &under_way.budget)).await
    }

    /// Waits until no more is under way than may be. Cancel-safe.
    pub async fn within_budget(&self) -> Result<(), Closed> {
        self.until(|under_way| !under_way.load().is_over(&under_way.budget)).await
    }

    /// Whether more is under way than may be.
    pub fn is_over_budget(&self) -> bool {
        self.under_way.load().is_over(&self.under_way.budget)
    }

    /// Sends rows that take `load`, whether there is room or not.
    pub fn send_over(&self, batch: RecordBatch, load: Load) -> Result<(), Closed> {
        self.under_way.change(|under_way| {
            under_way.rows += load.rows;
            under_way.bytes += load.bytes;
        });
        self.queue.send((Message::Batch(batch), load)).map_err(|_| Closed)
    }

    /// Sends what carries no rows, at once.
    pub fn send_control(&self, message: Message) -> Result<(), Closed> {
        self.queue.send((message, Load::default())).map_err(|_| Closed)
    }

    /// For how long the sender has waited, in all, in nanoseconds.
    pub fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Ordering::Relaxed)
    }

    async fn until(&self, holds: impl Fn(&UnderWay) -> bool) -> Result<(), Closed> {
        let mut waiting = None;
        loop {
            // A change between the look and the wait leaves its permit, so that it is not missed.
            let changed = self.under_way.changed.notified();
            if self.queue.is_closed() {
                return Err(Closed);
            }
            if holds(&self.under_way) {
                return Ok(());
            }
            waiting.get_or_insert_with(|| Waiting::on(&self.waited_ns));
            changed.await;
        }
    }
}

/// Adds up the time for which it lives, also where the wait is given up.
struct Waiting<'a> {
    since: tokio::time::Instant,
    waited_ns: &'a AtomicU64,
}

impl<'a> Waiting<'a> {
    fn on(waited_ns: &'a AtomicU64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "measures a wait; nothing depends on it")]
        let since = tokio::time::Instant::now();
        Self { since, waited_ns }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waited_ns.fetch_add(self.since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Receiver {
    /// The next message; `None` when the sender is gone and all is received.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.queue.poll_recv(cx).map(|received| {
            let (message, load) = received?;
            if load.rows > 0 {
                self.under_way.change(|under_way| {
                    under_way.rows -= load.rows;
                    under_way.bytes -= load.bytes;
                });
                self.under_way.changed.notify_one();
            }
            Some(message)
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.queue.close();
        self.under_way.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{future::poll_fn, sync::Arc};

    use arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringViewArray},
        datatypes::{DataType, Field, Schema},
    };
    use futures::FutureExt;
    use millrace_stream::EventTime;

    use super::*;

    const TEN_ROWS: Load = Load { rows: 10, bytes: usize::MAX };

    fn rows(n: usize) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![0; n]))]).unwrap()
    }

    /// One row of about so many bytes.
    fn wide(bytes: usize) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Utf8View, false)]));
        let column: ArrayRef = Arc::new(StringViewArray::from_iter_values(["x".repeat(bytes)]));
        RecordBatch::try_new(schema, vec![column]).unwrap()
    }

    async fn send(sender: &Sender, batch: RecordBatch) -> Result<(), Closed> {
        let load = Load::of(&batch);
        sender.room_for(load).await?;
        sender.send_over(batch, load)
    }

    async fn received(receiver: &mut Receiver) -> Message {
        poll_fn(|cx| receiver.poll_recv(cx)).await.unwrap()
    }

    #[tokio::test]
    async fn a_sender_waits_for_the_row_budget_but_a_control_message_does_not() {
        let (sender, mut receiver) = channel(TEN_ROWS);
        send(&sender, rows(8)).await.unwrap();
        let mut waiting = Box::pin(send(&sender, rows(8)));
        assert!(waiting.as_mut().now_or_never().is_none());
        sender.send_control(Message::Watermark(EventTime(1))).unwrap();
        assert!(matches!(received(&mut receiver).await, Message::Batch(_)));
        assert!(matches!(received(&mut receiver).await, Message::Watermark(_)));
        waiting.await.unwrap();
        assert!(sender.waited_ns() > 0);
    }

    #[tokio::test]
    async fn a_sender_waits_for_the_byte_budget_however_few_the_rows_are() {
        let (sender, mut receiver) = channel(Load { rows: 1000, bytes: 10_000 });
        send(&sender, wide(6000)).await.unwrap();
        assert!(send(&sender, wide(6000)).now_or_never().is_none());
        send(&sender, wide(2000)).now_or_never().unwrap().unwrap();
        received(&mut receiver).await;
        send(&sender, wide(6000)).now_or_never().unwrap().unwrap();
    }

    #[test]
    fn a_slice_takes_only_its_own_bytes() {
        let load = Load::of(&rows(1000).slice(10, 5));
        assert_eq!((load.rows, load.bytes), (5, 40));
        assert!(Load::of(&wide(5000)).bytes >= 5000);
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_budget_passes_alone() {
        let (sender, mut receiver) = channel(TEN_ROWS);
        send(&sender, rows(100)).await.unwrap();
        assert!(send(&sender, rows(1)).now_or_never().is_none());
        received(&mut receiver).await;
        send(&sender, rows(1)).await.unwrap();
        assert!(send(&sender, rows(100)).now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_was_sent_over_the_budget_is_waited_out() {
        let (sender, mut receiver) = channel(TEN_ROWS);
        send(&sender, rows(8)).await.unwrap();
        assert!(!sender.is_over_budget());
        sender.send_over(rows(8), Load::of(&rows(8))).unwrap();
        assert!(sender.is_over_budget());
        assert!(sender.within_budget().now_or_never().is_none());
        received(&mut receiver).await;
        sender.within_budget().await.unwrap();
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_receiver_is_gone_even_while_it_waits() {
        let (sender, receiver) = channel(TEN_ROWS);
        send(&sender, rows(10)).await.unwrap();
        let waiting = tokio::spawn(async move { send(&sender, rows(1)).await });
        tokio::task::yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
    }
}
