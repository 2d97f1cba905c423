//! What a job is given, made from a plan and a data folder: for `millrace run` and for `millrace worker`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millrace_crds::MoveSourceSpec;
use millrace_engine::{JobContext, JobError, metrics::Metrics, status::Status};
use millrace_plan::Plan;
use millrace_state::{CheckpointStore, DataFolder, Opener, Pointer, StateError, StoreResources};
use millrace_stream::Clock;
use tokio::runtime::{Handle, Runtime};

use crate::{clock::SystemClock, owner, storage::Storage};

/// About how many rows a batch has: enough to make per-batch work vanish, few enough to stay in the processor's cache.
const BATCH_ROWS: usize = 8192;
/// Blocks of task stores that are kept in memory, for all of them together.
const BLOCK_CACHE_BYTES: usize = 32 << 20;

/// What the process's jobs share.
#[derive(Clone)]
pub struct Instruments {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is shown.
    pub status: Arc<Status>,
}

/// Where a pipeline keeps what it must remember.
#[derive(Clone, Debug)]
pub struct Place {
    /// The data folder.
    pub data_dir: PathBuf,
    /// In a cluster: where checkpoints are outside the data folder they are in a folder of this name, since pipelines of two
    /// namespaces may have one name.
    pub namespace: Option<String>,
}

/// Where a job begins.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// At this savepoint, whatever was decided after it.
    pub from_savepoint: Option<String>,
    /// With these sources at their beginning.
    pub reset_sources: Vec<String>,
    /// With these sources elsewhere.
    pub move_sources: Vec<MoveSourceSpec>,
    /// If the newest checkpoint is damaged, at the one before it.
    pub allow_previous_checkpoint: bool,
}

/// Takes the data folder and opens the checkpoint store. `pointer` says which checkpoint counts, for a store.
///
/// # Errors
///
/// [`JobError::State`], [`JobError::OtherPipeline`], [`JobError::StorageMoved`], [`JobError::CheckpointsGone`].
pub async fn open(
    plan: &Plan,
    place: &Place,
    pointer: impl FnOnce(&DataFolder, &CheckpointStore) -> Result<Arc<dyn Pointer>, StateError>,
    beginning: Beginning,
    instruments: Instruments,
    tasks: Handle,
) -> Result<JobContext, JobError> {
    let folder = open_folder(&place.data_dir)?;
    owner::take(&folder, &plan.spec.name)?;
    let spec = &plan.spec.pipeline.checkpoints;
    let storage = place.storage(spec.storage.as_deref())?;
    // On a cluster the operator refuses such an edit, and the pointer, which is elsewhere, tells of checkpoints that are gone.
    if place.namespace.is_none() {
        storage.stays(&place.data_dir, &plan.spec.name).await?;
        storage.refuse_gone(&place.data_dir, &plan.spec.name).await?;
    }
    let store = storage.open(&place.data_dir, &plan.spec.name)?;
    storage.note(&place.data_dir)?;
    let pointer = pointer(&folder, &store)?;
    settle_instance(&folder, &store, &*pointer).await?;
    let Instruments { clock, metrics, status } = instruments;
    Ok(JobContext {
        folder,
        store,
        pointer,
        resources: StoreResources::new(BLOCK_CACHE_BYTES),
        clock,
        metrics,
        status,
        tasks,
        memory_budget_bytes: usize::try_from(spec.memory_budget.bytes()).unwrap_or(usize::MAX),
        batch_rows: BATCH_ROWS,
        allow_previous_checkpoint: beginning.allow_previous_checkpoint,
        from_savepoint: beginning.from_savepoint,
        reset_sources: beginning.reset_sources,
        move_sources: beginning.move_sources,
    })
}

impl Place {
    /// The checkpoint store of a pipeline, where `checkpoints.storage` says.
    ///
    /// # Errors
    ///
    /// As [`CheckpointStore::open`].
    pub fn store(&self, storage: Option<&str>, pipeline: &str) -> Result<CheckpointStore, StateError> {
        self.storage(storage)?.open(&self.data_dir, pipeline)
    }

    /// Where `checkpoints.storage` says that checkpoints are.
    fn storage(&self, said: Option<&str>) -> Result<Storage, StateError> {
        match (said, &self.namespace) {
            (Some(said), Some(namespace)) => {
                Storage::said(Some(&format!("{}/{namespace}", said.trim_end_matches('/'))))
            }
            (said, _) => Storage::said(said),
        }
    }
}

/// The threads of a process that runs a job: some for its tasks, which compute a batch without giving their thread back, and
/// others for what must not wait for that: checkpoints, commits, signals, `/healthz`.
pub struct Threads {
    tasks: Runtime,
    rest: Runtime,
}

impl Threads {
    /// Starts them: one for each task of the plan's widest stage and at least one for each processor, and one more.
    ///
    /// # Errors
    ///
    /// There are no threads to be had.
    pub fn start(plan: &Plan) -> io::Result<Self> {
        let threads = |name: &str, count: usize| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()
        };
        let machine = std::thread::available_parallelism().map_or(1, usize::from);
        let tasks = threads("millrace-tasks", machine.max(plan.parallelism as usize) + 1)?;
        Ok(Self { tasks, rest: threads("millrace", 2)? })
    }

    /// Does the work, which is told where tasks run, to its end. Then background work of tasks has so long to end, too: it may
    /// still be in a task store, whose library must not be torn down under it.
    pub fn run<F: Future>(self, patience: Duration, work: impl FnOnce(Handle) -> F) -> F::Output {
        let done = self.rest.block_on(work(self.tasks.handle().clone()));
        self.tasks.shutdown_timeout(patience);
        self.rest.shutdown_timeout(patience);
        done
    }
}

/// Takes a data folder for this process.
///
/// # Errors
///
/// As [`DataFolder::open`].
pub fn open_folder(path: &Path) -> Result<DataFolder, StateError> {
    DataFolder::open(path, &opener()?)
}

/// This process.
///
/// # Errors
///
/// As [`fresh_id`].
pub fn opener() -> Result<Opener, StateError> {
    Ok(Opener::this_process(SystemClock::new().now(), fresh_id()?))
}

/// Sinks know a pipeline's commits by its instance id, and epochs are counted from 1 where nothing is stored. So where there is
/// nothing, or nothing any more, the id is new, lest a sink take the first epochs for ones that it has. Where there is something
/// the start takes the id that it was stored under.
async fn settle_instance(
    folder: &DataFolder,
    store: &CheckpointStore,
    pointer: &dyn Pointer,
) -> Result<(), StateError> {
    if pointer.read().await?.is_some() || !store.list().await?.is_empty() {
        return Ok(());
    }
    folder.renew_instance()
}

/// 16 random bytes from the operating system, as hexadecimal digits.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn fresh_id() -> Result<String, StateError> {
    const RANDOM: &str = "/dev/urandom";
    let mut bytes = [0u8; 16];
    let read = File::open(RANDOM).and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|source| StateError::Io { action: "read", path: RANDOM.into(), source })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
