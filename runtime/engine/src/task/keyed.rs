//! A keyed operator's task.

use std::time::Duration;

use arrow::array::RecordBatch;
use millrace_plan::OutputName;
use millrace_stream::{Barrier, Epoch, EventTime, Message};

use super::{
    Snapshot, TaskContext, TaskError,
    beside::Beside,
    hit,
    snapshot::{Snapshotter, StateUpload},
};
use crate::{
    inputs::{InputEvent, Inputs},
    operator::{Emitted, KeyedOperator, Progress},
    router::Router,
};

/// A keyed operator's task.
pub struct KeyedTask {
    cx: TaskContext,
    inputs: Inputs,
    operator: Box<dyn KeyedOperator>,
    router: Router,
    /// `None` while a snapshot is being written.
    snapshotter: Option<Snapshotter>,
    writing: Beside<Written>,
    watermark: EventTime,
}

/// A snapshot that is written, or could not be.
struct Written {
    /// What the task had spilled when it was frozen.
    spilled_bytes: u64,
    snapshotter: Snapshotter,
    upload: Result<StateUpload, millrace_state::StateError>,
}

impl KeyedTask {
    /// A task that drives `operator`.
    pub fn new(
        cx: TaskContext,
        inputs: Inputs,
        operator: Box<dyn KeyedOperator>,
        router: Router,
        snapshotter: Snapshotter,
    ) -> Self {
        Self {
            cx,
            inputs,
            operator,
            router,
            snapshotter: Some(snapshotter),
            writing: Beside::idle(),
            watermark: EventTime::MIN,
        }
    }

    /// Runs until a barrier that ends tasks.
    pub async fn run(mut self) -> Result<(), TaskError> {
        loop {
            let tick = self.operator.next_tick();
            tokio::select! {
                biased;
                written = self.writing.done() => self.parts().1.written(written?).await?,
                () = wait_until(&self.cx, tick), if tick.is_some() => {
                    let mut emitted = Emitted::default();
                    self.operator.tick(&mut emitted)?;
                    self.emit(emitted).await?;
                }
                event = self.inputs.next(), if !(self.writing.is_busy() && self.operator.is_full()) => match event {
                    InputEvent::Batch(batch) => {
                        self.cx.metrics.rows_in.add(batch.num_rows() as u64);
                        let mut emitted = Emitted::default();
                        self.operator.process(batch, &mut emitted)?;
                        self.emit(emitted).await?;
                    }
                    InputEvent::Watermark(watermark) => self.advance(watermark).await?,
                    InputEvent::Active => {
                        // Before all that comes out now: what counts for those downstream is how far this task is.
                        self.router.send_control(&Message::Watermark(self.watermark))?;
                        self.show(false);
                    }
                    InputEvent::Idle => {
                        self.router.send_control(&Message::Idle)?;
                        self.show(true);
                    }
                    InputEvent::Barrier(barrier) => {
                        let last = barrier.kind.ends_tasks();
                        self.barrier(barrier).await?;
                        if last {
                            return self.until_written().await;
                        }
                    }
                    InputEvent::Closed => return Err(TaskError::Neighbour),
                },
            }
        }
    }

    async fn advance(&mut self, watermark: EventTime) -> Result<(), TaskError> {
        self.watermark = watermark;
        if watermark == EventTime::MAX {
            // The operator emits all that it has, and needs what is being written for that.
            self.until_written().await?;
        }
        loop {
            let mut emitted = Emitted::default();
            let progress = self.operator.advance(watermark, &mut emitted)?;
            self.emit(emitted).await?;
            if progress == Progress::Done {
                break;
            }
        }
        self.router.send_control(&Message::Watermark(watermark))?;
        self.show(false);
        Ok(())
    }

    async fn emit(&mut self, emitted: Emitted) -> Result<(), TaskError> {
        let waited = self.router.waited_ns();
        for rows in emitted.rows {
            self.cx.metrics.rows_out.add(rows.num_rows() as u64);
            self.send(OutputName::Main, rows).await?;
        }
        for rows in emitted.late {
            self.send(OutputName::Late, rows).await?;
        }
        self.cx.metrics.backpressure_ns.add(self.router.waited_ns() - waited);
        Ok(())
    }

    /// Carries rows on, when there is room; what has been written meanwhile is acknowledged without it.
    async fn send(&mut self, output: OutputName, rows: RecordBatch) -> Result<(), TaskError> {
        self.router.route(output, rows)?;
        let (router, mut state) = self.parts();
        loop {
            tokio::select! {
                biased;
                sent = router.flush() => return Ok(sent?),
                written = state.writing.done() => state.written(written?).await?,
            }
        }
    }

    /// Waits for the snapshot that is being written, if there is one.
    async fn until_written(&mut self) -> Result<(), TaskError> {
        while self.writing.is_busy() {
            let written = self.writing.done().await?;
            self.parts().1.written(written).await?;
        }
        Ok(())
    }

    /// What waits for room, and what goes on meanwhile.
    fn parts(&mut self) -> (&mut Router, Snapshots<'_>) {
        let Self { cx, operator, router, snapshotter, writing, .. } = self;
        (router, Snapshots { cx, operator: operator.as_mut(), snapshotter, writing })
    }

    fn show(&self, idle: bool) {
        let (watermark, operator) = (self.watermark, self.operator.stats());
        self.cx.metrics.update_task(self.cx.id.index, |task| {
            task.watermark = watermark;
            task.idle = idle;
            task.operator = operator;
        });
    }

    async fn barrier(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        // At most one snapshot is under way; this waits only after an epoch that was given up.
        self.until_written().await?;
        let started = self.cx.clock.monotonic();
        let mut emitted = Emitted::default();
        let frozen = self.operator.freeze(barrier.epoch, &mut emitted)?;
        let pause = self.cx.clock.monotonic().saturating_sub(started);
        self.emit(emitted).await?;
        let epoch = barrier.epoch;
        self.router.send_control(&Message::Barrier(barrier))?;
        self.cx.metrics.barrier_pause.observe(pause);
        hit("snapshot-frozen")?;
        if let Some(snapshotter) = self.snapshotter.take() {
            let (watermark, spilled_bytes) = (self.watermark, self.operator.stats().spilled_bytes);
            self.writing.begin(epoch, async move {
                let (snapshotter, upload) = snapshotter.take(epoch, frozen, watermark).await;
                Written { spilled_bytes, snapshotter, upload }
            });
        }
        self.show(false);
        Ok(())
    }
}

/// The part of a task that a snapshot needs when it is written.
struct Snapshots<'a> {
    cx: &'a TaskContext,
    operator: &'a mut dyn KeyedOperator,
    snapshotter: &'a mut Option<Snapshotter>,
    writing: &'a mut Beside<Written>,
}

impl Snapshots<'_> {
    async fn written(&mut self, (epoch, written): (Epoch, Written)) -> Result<(), TaskError> {
        let Written { spilled_bytes, snapshotter, upload } = written;
        *self.snapshotter = Some(snapshotter);
        debug_assert_eq!(self.operator.stats().spilled_bytes, spilled_bytes, "nothing is spilled into a checkpoint");
        let StateUpload { manifest, uploaded_bytes } = upload?;
        self.operator.thawed()?;
        self.cx.acknowledge(epoch, Snapshot { manifest, sink: None, uploaded_bytes }).await
    }
}

async fn wait_until(cx: &TaskContext, moment: Option<Duration>) {
    if let Some(moment) = moment {
        tokio::time::sleep(moment.saturating_sub(cx.clock.monotonic())).await;
    }
}
