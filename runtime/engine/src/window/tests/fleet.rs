//! Some tasks with the same operator, restarted and rescaled from their checkpoints.

use std::{path::PathBuf, sync::Arc};

use arrow::{array::RecordBatch, compute};
use millrace_plan::KeyedOp;
use millrace_state::{RestoreFrom, StoreResources, TaskStore};
use millrace_stream::{Epoch, EventTime, KeyGroup, KeyGroupRange, ManualClock, Timestamp, key_hash};
use tempfile::TempDir;

use crate::{
    operator::{Emitted, Frozen, KeyedOperator, OperatorContext, OperatorError, Progress},
    window::{eras, make_operator, states},
};

/// The tasks of a keyed stage.
pub(crate) struct Fleet {
    op: KeyedOp,
    exchange: Vec<usize>,
    budget_bytes: usize,
    batch_rows: usize,
    folder: TempDir,
    resources: StoreResources,
    pub(crate) clock: Arc<ManualClock>,
    tasks: Vec<Task>,
    stores: usize,
    /// The greatest number of rows that a task emitted when it was called once for a watermark.
    pub(crate) most_emitted: usize,
    /// The greatest memory that a task said to hold.
    pub(crate) most_memory_bytes: u64,
    epoch: Epoch,
    /// Of the last checkpoint.
    metas: Vec<serde_json::Value>,
}

struct Task {
    operator: Box<dyn KeyedOperator>,
    store: Arc<TaskStore>,
    range: KeyGroupRange,
    frozen: Option<Frozen>,
}

/// What a restart goes on from.
pub(crate) struct Checkpoint(Vec<(RestoreFrom, serde_json::Value)>);

impl Checkpoint {
    /// What each task has left in the manifest.
    pub(crate) fn left(&self) -> Vec<&serde_json::Value> {
        self.0.iter().map(|(_, meta)| meta).collect()
    }
}

impl Fleet {
    pub(crate) fn new(op: KeyedOp, exchange: Vec<usize>, tasks: u32, budget_bytes: usize, batch_rows: usize) -> Self {
        let mut fleet = Self {
            op,
            exchange,
            budget_bytes,
            batch_rows,
            folder: TempDir::new().unwrap(),
            resources: StoreResources::new(1 << 20),
            clock: Arc::new(ManualClock::at(Timestamp(1_000_000))),
            tasks: Vec::new(),
            stores: 0,
            most_emitted: 0,
            most_memory_bytes: 0,
            epoch: Epoch(0),
            metas: Vec::new(),
        };
        fleet.start(tasks, &Checkpoint(Vec::new()));
        fleet
    }

    fn folder(&mut self) -> PathBuf {
        self.stores += 1;
        self.folder.path().join(self.stores.to_string())
    }

    fn start(&mut self, tasks: u32, from: &Checkpoint) {
        self.tasks.clear();
        for index in 0..tasks {
            let range = KeyGroupRange::of_task(index, tasks);
            let folder = self.folder();
            let names = states(&self.op);
            let sources: Vec<&(RestoreFrom, serde_json::Value)> =
                from.0.iter().filter(|(source, _)| source.range.intersection(range).is_some()).collect();
            let store = if sources.is_empty() {
                TaskStore::create(&folder, names, &self.resources).unwrap()
            } else {
                let from: Vec<RestoreFrom> = sources.iter().map(|(source, _)| source.clone()).collect();
                TaskStore::restore(&folder, names, range, &from, &self.resources).unwrap()
            };
            let store = Arc::new(store);
            let cx = OperatorContext {
                store: Arc::clone(&store),
                key_groups: range,
                restored: sources.iter().map(|(_, meta)| meta.clone()).collect(),
                memory_budget_bytes: self.budget_bytes,
                batch_rows: self.batch_rows,
                clock: self.clock.clone(),
            };
            let operator = make_operator(&self.op, cx).unwrap();
            self.tasks.push(Task { operator, store, range, frozen: None });
        }
    }

    /// Sends each row to the task that owns its key.
    pub(crate) fn process(&mut self, batch: &RecordBatch, out: &mut Emitted) {
        let keys: Vec<_> = self.exchange.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        let mut hashes = vec![0; batch.num_rows()];
        if !keys.is_empty() {
            key_hash::hash_columns(&keys, &mut hashes);
        }
        for task in &mut self.tasks {
            let own = hashes.iter().map(|hash| Some(task.range.contains(KeyGroup::of_hash(*hash)))).collect();
            let rows = compute::filter_record_batch(batch, &own).unwrap();
            if rows.num_rows() > 0 {
                task.operator.process(rows, out).unwrap();
                self.most_memory_bytes = self.most_memory_bytes.max(task.operator.stats().memory_bytes);
            }
        }
    }

    pub(crate) fn advance(&mut self, watermark: i64, out: &mut Emitted) {
        for task in &mut self.tasks {
            loop {
                let mut emitted = Emitted::default();
                let progress = task.operator.advance(EventTime(watermark), &mut emitted).unwrap();
                let rows = emitted.rows.iter().map(RecordBatch::num_rows).sum();
                self.most_emitted = self.most_emitted.max(rows);
                out.rows.append(&mut emitted.rows);
                out.late.append(&mut emitted.late);
                self.most_memory_bytes = self.most_memory_bytes.max(task.operator.stats().memory_bytes);
                if progress == Progress::Done {
                    break;
                }
            }
        }
    }

    pub(crate) fn tick(&mut self, out: &mut Emitted) {
        use millrace_stream::Clock;
        let now = self.clock.monotonic();
        for task in &mut self.tasks {
            while task.operator.next_tick().is_some_and(|at| at <= now) {
                task.operator.tick(out).unwrap();
                self.most_memory_bytes = self.most_memory_bytes.max(task.operator.stats().memory_bytes);
            }
        }
    }

    /// Freezes every task; what is written is written by [`Self::write`].
    pub(crate) fn freeze(&mut self, out: &mut Emitted) {
        self.epoch = self.epoch.next();
        for task in &mut self.tasks {
            assert!(task.frozen.is_none(), "one checkpoint at a time");
            task.frozen = Some(task.operator.freeze(self.epoch, out).unwrap());
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.tasks.iter().any(|task| task.frozen.is_some())
    }

    /// Whether a task would rather have no rows before its checkpoint has been written.
    pub(crate) fn is_full(&self) -> bool {
        self.tasks.iter().any(|task| task.operator.is_full())
    }

    /// Writes what was frozen and takes the local checkpoints.
    pub(crate) fn write(&mut self) -> Checkpoint {
        let mut taken = Vec::new();
        for at in 0..self.tasks.len() {
            let folder = self.folder();
            let task = &mut self.tasks[at];
            let Some(frozen) = task.frozen.take() else { continue };
            if let Some(write) = frozen.write {
                let store = Arc::clone(&task.store);
                std::thread::spawn(move || write(&store)).join().unwrap().unwrap();
            }
            task.store.checkpoint(&folder).unwrap();
            task.operator.thawed().unwrap();
            taken.push((RestoreFrom { dir: folder, range: task.range }, frozen.meta));
        }
        self.metas = taken.iter().map(|(_, meta)| meta.clone()).collect();
        Checkpoint(taken)
    }

    /// The same after the tasks have gone on. A restart from the checkpoint undoes that, so nothing of it may be in there.
    pub(crate) fn write_late(&mut self, batches: &[RecordBatch], watermark: i64) -> Checkpoint {
        let mut undone = Emitted::default();
        batches.iter().for_each(|batch| self.process(batch, &mut undone));
        self.advance(watermark, &mut undone);
        batches.iter().for_each(|batch| self.process(batch, &mut undone));
        self.write()
    }

    /// Ends the tasks and starts `tasks` of them from the checkpoint.
    pub(crate) fn restart(&mut self, tasks: u32, from: &Checkpoint) {
        self.start(tasks, from);
    }

    /// The operator that goes on with the state of the first task, and with these facts.
    pub(crate) fn go_on_from(&self, restored: Vec<serde_json::Value>) -> Result<Box<dyn KeyedOperator>, OperatorError> {
        let cx = OperatorContext {
            store: Arc::clone(&self.tasks[0].store),
            key_groups: self.tasks[0].range,
            restored,
            memory_budget_bytes: self.budget_bytes,
            batch_rows: self.batch_rows,
            clock: self.clock.clone(),
        };
        make_operator(&self.op, cx)
    }

    /// The same with another definition of the window, as an edit has it.
    pub(crate) fn edit(&mut self, op: KeyedOp, tasks: u32, from: &mut Checkpoint) {
        let (KeyedOp::Window(was), KeyedOp::Window(is)) = (&self.op, &op) else { panic!("a window") };
        let mut left: Vec<&mut serde_json::Value> = from.0.iter_mut().map(|(_, meta)| meta).collect();
        eras::take_up(&was.def, &is.def, &mut left).unwrap();
        self.metas = from.0.iter().map(|(_, meta)| meta.clone()).collect();
        self.op = op;
        self.start(tasks, from);
    }

    /// How many definitions the window was last working by.
    pub(crate) fn eras(&self) -> usize {
        let eras = self.metas.iter().filter_map(|meta| meta.get("eras")?.as_array());
        eras.map(Vec::len).max().unwrap_or(1)
    }

    pub(crate) fn stats(&self) -> Vec<crate::operator::OperatorStats> {
        self.tasks.iter().map(|task| task.operator.stats()).collect()
    }
}
