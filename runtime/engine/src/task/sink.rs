//! A sink's task: hands rows to the connector, and asks it at each barrier to make them durable.

use arrow::array::RecordBatch;
use millrace_connectors::Sink;
use millrace_stream::Barrier;

use super::{Report, Snapshot, TaskContext, TaskError, snapshot::stateless};
use crate::inputs::{InputEvent, Inputs};

/// A sink's task.
pub struct SinkTask {
    cx: TaskContext,
    inputs: Inputs,
    sink: Box<dyn Sink>,
}

impl SinkTask {
    /// A task that writes to `sink` what comes from `inputs`.
    pub fn new(cx: TaskContext, inputs: Inputs, sink: Box<dyn Sink>) -> Self {
        Self { cx, inputs, sink }
    }

    /// Runs until a barrier that ends tasks.
    pub async fn run(mut self) -> Result<(), TaskError> {
        loop {
            match self.inputs.next().await {
                InputEvent::Batch(batch) => self.write(batch).await?,
                InputEvent::Watermark(_) => self.show(false),
                InputEvent::Idle => self.show(true),
                InputEvent::Barrier(barrier) => {
                    let last = barrier.kind.ends_tasks();
                    self.barrier(barrier).await?;
                    if last {
                        return Ok(());
                    }
                }
                InputEvent::Closed => return Err(TaskError::Neighbour),
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
        // The next graph may have another sink, or fewer tasks: nothing is held back for it.
        if barrier.kind.ends_tasks() {
            self.sink.finish();
        }
        let handle = self.sink.prepare(barrier.epoch).await?;
        self.cx.metrics.barrier_pause.observe(self.cx.clock.monotonic().saturating_sub(started));
        let manifest = stateless(&self.cx.id, self.inputs.watermark(), serde_json::Value::Null);
        let snapshot = Box::new(Snapshot { manifest, sink: Some(handle), uploaded_bytes: 0 });
        let acked = Report::Acked { task: self.cx.id.clone(), epoch: barrier.epoch, snapshot };
        self.cx.reports.send(acked).await.map_err(|_| TaskError::Neighbour)
    }
}
