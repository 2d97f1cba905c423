//! The inputs of a task: watermarks combined, barriers aligned.
//!
//! When one input has brought the barrier of epoch N it is not read until the others have brought theirs; then the task
//! sees one barrier. Rows of the next epoch wait in the blocked inputs' channels meanwhile, under those channels' budgets.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

use arrow::array::RecordBatch;
use millrace_stream::{Barrier, EventTime, Message, WatermarkTracker, watermark::Advance};

use crate::channel::Receiver;

/// What a task sees of its inputs.
#[derive(Debug)]
pub enum InputEvent {
    /// Rows of some input.
    Batch(RecordBatch),
    /// The combined watermark has risen.
    Watermark(EventTime),
    /// All inputs are idle.
    Idle,
    /// Not all inputs are idle any more. Comes before what they say.
    Active,
    /// Every input has brought this barrier.
    Barrier(Barrier),
    /// Every sender is gone without a barrier that ends tasks: something upstream failed.
    Closed,
}

/// The receivers of a task.
#[derive(Debug)]
pub struct Inputs {
    inputs: Vec<Input>,
    watermarks: WatermarkTracker,
    /// What follows from the message that was taken last.
    due: VecDeque<InputEvent>,
    barrier: Option<Barrier>,
    next: usize,
}

#[derive(Debug)]
struct Input {
    receiver: Receiver,
    state: InputState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputState {
    Open,
    Aligned,
    Closed,
}

/// Whose messages a receiver brings: those of one task of a stage, or of any of them. What is from the same is idle together
/// ([`WatermarkTracker`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The stage, by number.
    pub stage: usize,
    /// A source's task, which has splits of its own.
    pub task: Option<u32>,
}

impl Inputs {
    /// Reads from these receivers.
    pub fn new(receivers: Vec<(Origin, Receiver)>) -> Self {
        let watermarks = WatermarkTracker::new(receivers.iter().map(|(origin, _)| *origin));
        let inputs = receivers.into_iter().map(|(_, receiver)| Input { receiver, state: InputState::Open }).collect();
        Self { inputs, watermarks, due: VecDeque::new(), barrier: None, next: 0 }
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> InputEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The combined watermark so far.
    pub fn watermark(&self) -> EventTime {
        self.watermarks.current()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<InputEvent> {
        if let Some(due) = self.due.pop_front() {
            return Poll::Ready(due);
        }
        let count = self.inputs.len();
        let start = self.next;
        for index in (0..count).map(|offset| (start + offset) % count) {
            while self.inputs[index].state == InputState::Open {
                let Poll::Ready(message) = self.inputs[index].receiver.poll_recv(cx) else { break };
                // Every input gets its turn, however much one of them sends.
                self.next = (index + 1) % count;
                if let Some(event) = self.take(index, message) {
                    return Poll::Ready(event);
                }
            }
        }
        if self.inputs.iter().all(|input| input.state == InputState::Closed) {
            return Poll::Ready(InputEvent::Closed);
        }
        Poll::Pending
    }

    fn take(&mut self, index: usize, message: Option<Message>) -> Option<InputEvent> {
        match message {
            Some(Message::Batch(batch)) => Some(InputEvent::Batch(batch)),
            Some(Message::Watermark(watermark)) => {
                let advance = self.watermarks.advance(index, watermark);
                self.first_of(advance)
            }
            Some(Message::Idle) => {
                let advance = self.watermarks.set_idle(index);
                self.first_of(advance)
            }
            Some(Message::Barrier(barrier)) => {
                self.inputs[index].state = InputState::Aligned;
                // A barrier of a later epoch replaces one that was given up: its tasks were told to abort.
                if self.barrier.as_ref().is_none_or(|held| held.epoch < barrier.epoch) {
                    if self.barrier.is_some() {
                        self.reopen_all_but(index);
                    }
                    self.barrier = Some(barrier);
                }
                self.aligned()
            }
            None => {
                self.inputs[index].state = InputState::Closed;
                self.aligned()
            }
        }
    }

    fn reopen_all_but(&mut self, index: usize) {
        for (other, input) in self.inputs.iter_mut().enumerate() {
            if other != index && input.state == InputState::Aligned {
                input.state = InputState::Open;
            }
        }
    }

    fn aligned(&mut self) -> Option<InputEvent> {
        if self.inputs.iter().any(|input| input.state == InputState::Open) {
            return None;
        }
        let barrier = self.barrier.take()?;
        for input in &mut self.inputs {
            if input.state == InputState::Aligned {
                input.state = InputState::Open;
            }
        }
        Some(InputEvent::Barrier(barrier))
    }

    /// The first of what follows from an advance; the others are due.
    fn first_of(&mut self, Advance { active, to, idle }: Advance) -> Option<InputEvent> {
        self.due.extend(active.then_some(InputEvent::Active));
        self.due.extend(to.map(InputEvent::Watermark));
        self.due.extend(idle.then_some(InputEvent::Idle));
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::Schema;
    use futures::FutureExt;
    use millrace_stream::{BarrierKind, Epoch};

    use super::*;
    use crate::channel::{Load, Sender, channel};

    fn barrier(epoch: u64) -> Message {
        Message::Barrier(Barrier { epoch: Epoch(epoch), kind: BarrierKind::Checkpoint })
    }

    fn two_inputs() -> (Sender, Sender, Inputs) {
        let budget = Load { rows: 100, bytes: usize::MAX };
        let (a, from_a) = channel(budget);
        let (b, from_b) = channel(budget);
        let origin = |task| Origin { stage: 0, task: Some(task) };
        (a, b, Inputs::new(vec![(origin(0), from_a), (origin(1), from_b)]))
    }

    async fn send_rows(sender: &Sender) {
        let batch = RecordBatch::new_empty(Schema::empty().into());
        let load = Load::of(&batch);
        sender.room_for(load).await.unwrap();
        sender.send_over(batch, load).unwrap();
    }

    #[tokio::test]
    async fn rows_behind_a_barrier_wait_until_every_input_has_brought_it() {
        let (a, b, mut inputs) = two_inputs();
        a.send_control(barrier(1)).unwrap();
        send_rows(&a).await;
        assert!(inputs.next().now_or_never().is_none(), "a's rows belong to the next epoch");
        send_rows(&b).await;
        assert!(matches!(inputs.next().await, InputEvent::Batch(_)));
        b.send_control(barrier(1)).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Barrier(b) if b.epoch == Epoch(1)));
        assert!(matches!(inputs.next().await, InputEvent::Batch(_)));
    }

    #[tokio::test]
    async fn a_later_barrier_replaces_one_that_was_given_up() {
        let (a, b, mut inputs) = two_inputs();
        a.send_control(barrier(1)).unwrap();
        b.send_control(barrier(2)).unwrap();
        assert!(inputs.next().now_or_never().is_none());
        a.send_control(barrier(2)).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Barrier(b) if b.epoch == Epoch(2)));
        assert!(inputs.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn the_least_watermark_of_the_inputs_is_seen() {
        let (a, b, mut inputs) = two_inputs();
        a.send_control(Message::Watermark(EventTime(9))).unwrap();
        assert!(inputs.next().now_or_never().is_none());
        b.send_control(Message::Watermark(EventTime(4))).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Watermark(EventTime(4))));
    }

    #[tokio::test]
    async fn the_watermark_comes_before_the_idleness_that_it_follows_from_and_after_its_end() {
        let (a, b, mut inputs) = two_inputs();
        a.send_control(Message::Watermark(EventTime(9))).unwrap();
        b.send_control(Message::Watermark(EventTime(5))).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Watermark(EventTime(5))));
        a.send_control(Message::Idle).unwrap();
        b.send_control(Message::Idle).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Watermark(EventTime(9))));
        assert!(matches!(inputs.next().await, InputEvent::Idle));
        a.send_control(Message::Watermark(EventTime(10))).unwrap();
        assert!(matches!(inputs.next().await, InputEvent::Active));
        assert!(matches!(inputs.next().await, InputEvent::Watermark(EventTime(10))));
    }

    #[tokio::test]
    async fn a_task_whose_senders_are_all_gone_is_told() {
        let (a, b, mut inputs) = two_inputs();
        drop(a);
        assert!(inputs.next().now_or_never().is_none());
        drop(b);
        assert!(matches!(inputs.next().await, InputEvent::Closed));
    }
}
