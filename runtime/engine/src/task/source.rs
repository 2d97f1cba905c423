//! A source's task: reads, times and routes rows; begins every barrier.
//!
//! A barrier begins when the coordinator says so, also while the task waits for room downstream: what it has read and not
//! sent belongs to the epoch that ends, goes over the channels' budget, and the barrier follows it. Until the channels are
//! within their budget again the task reads nothing more.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Builder, RecordBatch, StringViewArray, StringViewBuilder, TimestampMillisecondArray,
};
use millrace_connectors::{
    Read, SourceReader, SplitId,
    format::{row_as_text, shorten},
};
use millrace_crds::OnError;
use millrace_plan::{OutputName, SourceNode, errors_schema};
use millrace_stream::{Barrier, Epoch, EventTime, Message};
use tokio::{sync::mpsc, time::Sleep};

use super::{
    Report, Snapshot, TaskContext, TaskError,
    event_times::{EventTimes, Progress, SplitWatermarks, StoredProgress, Unusable},
    hit,
    snapshot::stateless,
};
use crate::{router::Router, steps};

/// How often a source with nothing to read looks whether it has become idle.
const IDLE_CHECK: Duration = Duration::from_millis(200);

/// What the coordinator tells a source task.
#[derive(Clone, Debug)]
pub enum SourceControl {
    /// Begin this barrier.
    Inject(Barrier),
    /// The epoch is decided: what came before it may be forgotten.
    Decided(Epoch),
}

/// Whether a task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    On,
    /// The barrier that ends tasks has been sent.
    Last,
    /// The coordinator is gone.
    Gone,
}

/// A source's task.
pub struct SourceTask {
    cx: TaskContext,
    node: SourceNode,
    reader: Box<dyn SourceReader>,
    router: Router,
    control: mpsc::Receiver<SourceControl>,
    times: EventTimes,
    progress: SplitWatermarks,
    ended: bool,
    /// Since when more is sent than there is room for: nothing is read until that has been taken.
    over_budget: Option<Duration>,
    /// What the reader had counted when it was last asked.
    bad_rows: u64,
}

impl SourceTask {
    /// A task that goes on from `restored`.
    pub fn new(
        cx: TaskContext,
        node: SourceNode,
        reader: Box<dyn SourceReader>,
        router: Router,
        control: mpsc::Receiver<SourceControl>,
        restored: &[StoredProgress],
    ) -> Self {
        let times = EventTimes::new(&node);
        let own: BTreeSet<SplitId> = reader.replay_points().into_iter().map(|(split, _)| split).collect();
        let progress = SplitWatermarks::new(&node, restored, |split| own.contains(split), cx.clock.monotonic());
        Self { cx, node, reader, router, control, times, progress, ended: false, over_budget: None, bad_rows: 0 }
    }

    /// Runs until a barrier that ends tasks, or until the coordinator is gone.
    pub async fn run(mut self) -> Result<(), TaskError> {
        if self.progress.current() > EventTime::MIN {
            self.router.send_control(&Message::Watermark(self.progress.current()))?;
        }
        let mut pause: Option<Pin<Box<Sleep>>> = None;
        loop {
            let (ended, over_budget) = (self.ended, self.over_budget.is_some());
            let turn = tokio::select! {
                biased;
                control = self.control.recv() => self.control(control).await?,
                within = self.router.within_budget(), if over_budget => {
                    within?;
                    let since = self.over_budget.take();
                    self.waited_since(since);
                    Turn::On
                }
                () = elapsed(&mut pause), if !ended && pause.is_some() => {
                    pause = None;
                    self.note_progress()?;
                    Turn::On
                }
                read = self.reader.next(), if !ended && !over_budget && pause.is_none() => match read? {
                    Read::Rows { split, rows, errors, bytes } => self.rows(&split, rows, errors, bytes).await?,
                    Read::SplitEnded(split) => {
                        self.progress.ended(&split);
                        self.note_progress()?;
                        Turn::On
                    }
                    Read::Pending(wait) => {
                        pause = Some(Box::pin(tokio::time::sleep(wait.min(IDLE_CHECK))));
                        self.note_progress()?;
                        Turn::On
                    }
                    Read::Ended => {
                        self.end().await?;
                        Turn::On
                    }
                },
            };
            match turn {
                Turn::On => {}
                Turn::Last => return self.until_decided().await,
                Turn::Gone => return Ok(()),
            }
        }
    }

    async fn control(&mut self, control: Option<SourceControl>) -> Result<Turn, TaskError> {
        match control {
            None => Ok(Turn::Gone),
            Some(SourceControl::Decided(epoch)) => {
                self.reader.decided(epoch).await?;
                Ok(Turn::On)
            }
            Some(SourceControl::Inject(barrier)) => {
                let last = barrier.kind.ends_tasks();
                self.barrier(barrier).await?;
                Ok(if last { Turn::Last } else { Turn::On })
            }
        }
    }

    /// After the last barrier: the source may still be told to forget what is decided.
    async fn until_decided(mut self) -> Result<(), TaskError> {
        while let Some(control) = self.control.recv().await {
            if let SourceControl::Decided(epoch) = control {
                self.reader.decided(epoch).await?;
            }
        }
        Ok(())
    }

    async fn rows(
        &mut self,
        split: &SplitId,
        rows: RecordBatch,
        errors: Option<RecordBatch>,
        bytes: u64,
    ) -> Result<Turn, TaskError> {
        let metrics = self.cx.metrics.clone();
        metrics.bytes_in.add(bytes);
        // The reader's count holds the rows that were dropped, of which no batch tells.
        let bad_rows = self.reader.bad_rows();
        metrics.rows_in.add(bad_rows - self.bad_rows);
        metrics.bad_rows.add(bad_rows - self.bad_rows);
        self.bad_rows = bad_rows;
        metrics.rows_in.add(rows.num_rows() as u64);
        if let Some(errors) = errors {
            self.route_errors(errors.num_rows(), errors.columns().to_vec())?;
        }
        if let Some(watermark) = self.progress.wake() {
            // Before the rows, which may wait long for room.
            self.router.send_control(&Message::Watermark(watermark))?;
        }
        let timed = self.times.apply(rows, self.cx.clock.now())?;
        if let Some(unusable) = timed.unusable {
            metrics.bad_rows.add(unusable.numbers.len() as u64);
            self.unusable(split, &unusable)?;
        }
        if timed.rows.num_rows() > 0 {
            let kept = match &self.node.filter {
                Some(predicate) => steps::keep(predicate, timed.rows).map_err(crate::operator::OperatorError::from)?,
                None => Some(timed.rows),
            };
            if let Some(kept) = kept {
                metrics.rows_out.add(kept.num_rows() as u64);
                self.router.route(OutputName::Main, kept)?;
            }
        }
        let watermark = self.progress.rows(split, timed.latest, self.cx.clock.monotonic());
        self.reader.note_watermark(split, watermark);
        let waited = self.router.waited_ns();
        let since = self.cx.clock.monotonic();
        let turn = self.flush().await;
        self.waited_since(Some(since));
        metrics.backpressure_ns.add(self.router.waited_ns() - waited);
        if turn.as_ref().is_ok_and(|turn| *turn == Turn::On) {
            self.note_progress()?;
        }
        turn
    }

    /// The task has waited for room since then: no split was idle for that.
    fn waited_since(&mut self, since: Option<Duration>) {
        let now = self.cx.clock.monotonic();
        self.over_budget = self.over_budget.map(|_| now);
        self.progress.waited(since.map_or(Duration::ZERO, |since| now.saturating_sub(since)));
    }

    /// Sends what is routed, when there is room, and does what the coordinator says meanwhile.
    async fn flush(&mut self) -> Result<Turn, TaskError> {
        loop {
            // A barrier comes behind all rows of what was read, and there may not be room for those that are not made yet.
            let leaves = self.router.has_left();
            tokio::select! {
                biased;
                sent = self.router.flush() => {
                    sent?;
                    return Ok(Turn::On);
                }
                control = self.control.recv(), if !leaves => {
                    let turn = self.control(control).await?;
                    if turn != Turn::On {
                        return Ok(turn);
                    }
                }
            }
        }
    }

    /// Rows whose event time cannot be used are bad rows, as those that cannot be decoded are.
    fn unusable(&mut self, split: &SplitId, unusable: &Unusable) -> Result<(), TaskError> {
        let Unusable { rows, numbers } = unusable;
        let mut reasons = self.times.reasons(rows);
        match self.node.spec.on_error {
            OnError::Drop => Ok(()),
            OnError::Fail => {
                let first = self.reader.origins(&numbers[..1])?.and_then(|mut origins| origins.pop());
                let place = first.as_ref().map_or_else(|| split.to_string(), ToString::to_string);
                let row = match first.and_then(|first| first.raw) {
                    Some(raw) => shorten(&raw),
                    None => row_as_text(rows, 0)?,
                };
                Err(TaskError::EventTime { place, reason: reasons.swap_remove(0), row, more: numbers.len() - 1 })
            }
            OnError::DeadLetter => {
                let origins = self.reader.origins(numbers)?;
                let mut raw = BinaryBuilder::new();
                let mut source = StringViewBuilder::new().with_deduplicate_strings();
                let mut position = Int64Builder::new();
                for row in 0..numbers.len() {
                    let origin = origins.as_ref().and_then(|origins| origins.get(row));
                    match origin.and_then(|origin| origin.raw.as_ref()) {
                        Some(bytes) => raw.append_value(bytes),
                        // What has no bytes is shown.
                        None => raw.append_value(row_as_text(rows, row)?),
                    }
                    source.append_value(origin.map_or(&split.0, |origin| &origin.source));
                    position.append_option(origin.and_then(|origin| i64::try_from(origin.position.number()).ok()));
                }
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(raw.finish()),
                    Arc::new(StringViewArray::from_iter_values(reasons)),
                    Arc::new(source.finish()),
                    Arc::new(position.finish()),
                ];
                self.route_errors(numbers.len(), columns)
            }
        }
    }

    fn route_errors(&mut self, rows: usize, columns: Vec<ArrayRef>) -> Result<(), TaskError> {
        let now = i64::try_from(self.cx.clock.now().0).unwrap_or(i64::MAX);
        let read_at = TimestampMillisecondArray::from_value(now, rows).with_timezone("UTC");
        let all = std::iter::once(Arc::new(read_at) as ArrayRef).chain(columns).collect();
        let batch = RecordBatch::try_new(errors_schema(), all)?;
        Ok(self.router.route(OutputName::Errors, batch)?)
    }

    fn note_progress(&mut self) -> Result<(), TaskError> {
        let unread = self.reader.unread_splits();
        let now = self.cx.clock.monotonic();
        let is_spare = unread == 0 && !self.progress.has_splits() && self.reader.is_spare();
        let progress = match is_spare {
            true => self.progress.stand_by(),
            false => self.progress.advance(unread, now, |split| self.reader.silent_until(split, now)),
        };
        match progress {
            Progress::None => return Ok(()),
            Progress::Watermark(watermark) => self.router.send_control(&Message::Watermark(watermark))?,
            Progress::Idle => self.router.send_control(&Message::Idle)?,
        }
        self.show();
        Ok(())
    }

    fn show(&self) {
        let (watermark, idle, lag) = (self.progress.current(), self.progress.is_idle(), self.reader.lag());
        self.cx.metrics.update_task(self.cx.id.index, |task| {
            task.watermark = watermark;
            task.idle = idle;
            task.lag = lag;
        });
    }

    async fn end(&mut self) -> Result<(), TaskError> {
        self.ended = true;
        self.progress.finish();
        self.router.send_control(&Message::Watermark(EventTime::MAX))?;
        self.show();
        // The coordinator is gone only when everything ends.
        self.cx.reports.send(Report::SourceEnded { task: self.cx.id.clone() }).await.map_err(|_| TaskError::Neighbour)
    }

    async fn barrier(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        let started = self.cx.clock.monotonic();
        let replay_points =
            self.reader.replay_points().into_iter().map(|(split, point)| (split.0.to_string(), point.0)).collect();
        let epoch = barrier.epoch;
        // The replay points are behind what was read, so all of it comes before the barrier.
        self.router.flush_over()?;
        self.over_budget = self.router.is_over_budget().then(|| self.over_budget.unwrap_or(started));
        self.router.send_control(&Message::Barrier(barrier))?;
        hit("barrier-injected")?;
        self.cx.metrics.barrier_pause.observe(self.cx.clock.monotonic().saturating_sub(started));
        self.show();
        let stored = serde_json::to_value(self.progress.stored()).unwrap_or_default();
        let manifest =
            millrace_state::TaskManifest { replay_points, ..stateless(&self.cx.id, self.progress.current(), stored) };
        self.cx.acknowledge(epoch, Snapshot { manifest, sink: None, uploaded_bytes: 0 }).await
    }
}

async fn elapsed(pause: &mut Option<Pin<Box<Sleep>>>) {
    match pause {
        Some(pause) => pause.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
