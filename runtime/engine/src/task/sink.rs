//! A sink's task: hands rows to the connector, and has it make them durable at each barrier, while rows of the next epoch
//! are written already.

use arrow::array::RecordBatch;
use millrace_connectors::{CommitHandle, Sink, SinkError};
use millrace_stream::{Barrier, BarrierKind, Epoch, EventTime};

use super::{Snapshot, TaskContext, TaskError, beside::Beside, snapshot::stateless};
use crate::inputs::{InputEvent, Inputs};

/// A sink's task.
pub struct SinkTask {
    cx: TaskContext,
    inputs: Inputs,
    sink: Box<dyn Sink>,
    preparing: Beside<Prepared>,
}

/// An epoch that is durable, or could not be made so.
struct Prepared {
    watermark: EventTime,
    handle: Result<CommitHandle, SinkError>,
}

impl SinkTask {
    /// A task that writes to `sink` what comes from `inputs`.
    pub fn new(cx: TaskContext, inputs: Inputs, sink: Box<dyn Sink>) -> Self {
        Self { cx, inputs, sink, preparing: Beside::idle() }
    }

    /// Runs until a barrier that ends tasks.
    pub async fn run(mut self) -> Result<(), TaskError> {
        loop {
            tokio::select! {
                biased;
                prepared = self.preparing.done() => self.acknowledge(prepared?).await?,
                event = self.inputs.next() => match event {
                    InputEvent::Batch(batch) => self.write(batch).await?,
                    InputEvent::Watermark(_) | InputEvent::Active => self.show(false),
                    InputEvent::Idle => self.show(true),
                    InputEvent::Barrier(barrier) => {
                        let last = barrier.kind.ends_tasks();
                        self.barrier(barrier).await?;
                        if last {
                            let prepared = self.preparing.done().await?;
                            return self.acknowledge(prepared).await;
                        }
                    }
                    InputEvent::Closed => return Err(TaskError::Neighbour),
                },
            }
        }
    }

    async fn write(&mut self, batch: RecordBatch) -> Result<(), TaskError> {
        let rows = batch.num_rows() as u64;
        self.cx.metrics.rows_in.add(rows);
        // Event time stays inside; a changelog's operation goes along.
        let outside: Vec<usize> = (1..batch.num_columns()).collect();
        self.sink.write(batch.project(&outside)?).await?;
        self.cx.metrics.rows_out.add(rows);
        Ok(())
    }

    fn show(&self, idle: bool) {
        let watermark = self.inputs.watermark();
        self.cx.metrics.update_task(self.cx.id.index, |task| {
            task.watermark = watermark;
            task.idle = idle;
        });
    }

    async fn barrier(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        let started = self.cx.clock.monotonic();
        // At most one epoch is under way; this waits only after one that was given up.
        while self.preparing.is_busy() {
            let prepared = self.preparing.done().await?;
            self.acknowledge(prepared).await?;
        }
        // The next graph may have another sink, or fewer tasks: nothing is held back for it. Nor for who comes back to a savepoint.
        if barrier.kind.ends_tasks() || barrier.kind == BarrierKind::Savepoint {
            self.sink.finish();
        }
        let (watermark, preparing) = (self.inputs.watermark(), self.sink.prepare(barrier.epoch));
        self.preparing.begin(barrier.epoch, async move { Prepared { watermark, handle: preparing.await } });
        self.cx.metrics.barrier_pause.observe(self.cx.clock.monotonic().saturating_sub(started));
        Ok(())
    }

    async fn acknowledge(&mut self, (epoch, prepared): (Epoch, Prepared)) -> Result<(), TaskError> {
        let Prepared { watermark, handle } = prepared;
        let manifest = stateless(&self.cx.id, watermark, serde_json::Value::Null);
        self.cx.acknowledge(epoch, Snapshot { manifest, sink: Some(handle?), uploaded_bytes: 0 }).await
    }
}
