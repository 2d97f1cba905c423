//! `millrace run`: the wiring of one pipeline in this process.

use std::{io::IsTerminal, path::Path, sync::Arc, time::Duration};

use millrace_crds::{OnDelete, SourceSpec};
use millrace_engine::{
    Command, JobContext, JobError, Outcome, chain,
    metrics::Metrics,
    status::{JobEvent, Status},
};
use millrace_plan::{NodeKind, Plan};
use millrace_state::{
    CheckpointStore, DataFolder, ErrorKind, FilePointer, ManifestId, Opener, StateError, StoreResources,
};
use millrace_stream::Clock;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    Failure,
    cli::{EXIT_FAILED, RunArgs},
    clock::SystemClock,
    control, live,
    manifests::{self, Texts},
    overview::Overview,
    owner, server, watch,
};

/// About how many rows a batch has: enough to make per-batch work vanish, few enough to stay in the processor's cache.
const BATCH_ROWS: usize = 8192;
/// Blocks of task stores that are kept in memory, for all of them together.
const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// A second SIGINT that comes this long after the first, or later, ends the process at once.
const IMPATIENT_AFTER: Duration = Duration::from_secs(1);

/// Runs a pipeline to its end, or until it is told to stop.
pub fn run(args: RunArgs) -> Result<(), Failure> {
    let texts = manifests::read_files(&args.manifests.files)?;
    let compiled = manifests::compile(&texts, args.manifests.pipeline.as_deref());
    for message in &compiled.messages {
        eprintln!("{message}");
    }
    let mut plan = compiled.plan.ok_or_else(Failure::told)?;
    if plan.spec.pipeline.suspend {
        return Err(Failure::usage(format!(
            "pipeline {} is suspended (`suspend: true`); nothing was started",
            plan.spec.name
        ))
        .advise("set `suspend: false`, or take it out, and run again; it goes on from its last checkpoint"));
    }
    if args.manifests.files.iter().any(|file| file.as_os_str() == "-")
        && let Some(source) = stdin_source(&plan)
    {
        return Err(Failure::usage(format!(
            "source {} reads the standard input, and the manifests were read from it (`-f -`)",
            source.name
        ))
        .advise("put the manifests into a file"));
    }
    for notice in notices(&plan) {
        eprintln!("note: {notice}");
    }
    if let Some(parallelism) = args.parallelism {
        plan = with_parallelism(&plan, parallelism)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers(&plan))
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    // A read of the standard input that waits for more cannot be called back, so it is not waited for long.
    let patience = if stdin_source(&plan).is_some() { Duration::from_millis(200) } else { Duration::from_secs(10) };
    let done = runtime.block_on(run_plan(plan, texts, args));
    // Scratch work of tasks that have ended may still be in a task store, whose library must not be torn down under it.
    runtime.shutdown_timeout(patience);
    done
}

fn stdin_source(plan: &Plan) -> Option<&SourceSpec> {
    plan.spec.pipeline.sources.iter().find(|source| source.stdin.is_some())
}

fn with_parallelism(plan: &Plan, parallelism: u32) -> Result<Plan, Failure> {
    let mut spec = plan.spec.clone();
    spec.pipeline.parallelism = parallelism;
    millrace_plan::compile(&spec)
        .map_err(|errors| Failure::usage(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

/// What the manifests say and this command does not do.
fn notices(plan: &Plan) -> Vec<String> {
    let spec = &plan.spec.pipeline;
    let mut notices = Vec::new();
    if spec.deployment.is_some() {
        notices.push("`deployment` is for a cluster; `millrace run` makes no use of it".to_owned());
    }
    if spec.checkpoints.on_delete == OnDelete::Delete {
        notices.push(
            "`checkpoints.onDelete: Delete` is for a cluster; here, `millrace checkpoints delete --all` deletes them"
                .to_owned(),
        );
    }
    notices
}

/// A thread for each task that computes, and one for everything else.
fn workers(plan: &Plan) -> usize {
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    machine.max(plan.parallelism as usize) + 1
}

async fn run_plan(plan: Plan, texts: Texts, args: RunArgs) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::new(Metrics::default());
    let is_live =
        !args.no_live && std::io::stderr().is_terminal() && std::io::stdout().is_terminal() && !writes_to_stdout(&plan);
    let status = Arc::new(Status::new(move |event| log(event, is_live)));
    let cx = Arc::new(context(&plan, &args, clock, metrics, status).await?);
    let overview = Arc::new(Overview::new(&plan, cx.clone()));
    let (commands, inbox) = mpsc::channel(16);
    let _control = control::serve(cx.folder.path(), overview.clone(), commands.clone()).await.map_err(|error| {
        Failure::failed(format!("cannot open the control socket in {}: {error}", cx.folder.path().display()))
    })?;
    if let Some(address) = args.listen {
        let bound = server::listen(address, overview.clone(), commands.clone()).await;
        let bound = bound.map_err(|error| Failure::usage(format!("cannot listen on {address}: {error}")))?;
        tracing::info!(address = %bound, "serving /metrics, /healthz, /readyz and /api/v1/pipeline");
    }
    stop_on_signals(&commands, &cx.clock)?;
    tokio::spawn(note_counts(overview.clone()));
    if args.watch {
        tokio::spawn(watch::watch(args.manifests.clone(), args.parallelism, texts, commands.clone(), overview.clone()));
    }
    let view = is_live.then(|| live::show(overview.clone()));
    let ended = millrace_engine::run(plan, cx.clone(), inbox).await;
    if let Some(view) = view {
        view.end();
    }
    match ended {
        Ok(Outcome::Finished { already: true }) => {
            tracing::info!("this pipeline is finished; nothing is left to do");
            Ok(())
        }
        Ok(Outcome::Finished { already: false }) => {
            tracing::info!(rows = cx.metrics.committed_rows.get(), "finished: every row is read and committed");
            Ok(())
        }
        Ok(Outcome::Stopped { epoch }) => {
            tracing::info!(checkpoint = epoch.map_or(0, |epoch| epoch.0), "stopped; the next run goes on from here");
            Ok(())
        }
        Err(error) => Err(failure(&error)),
    }
}

async fn context(
    plan: &Plan,
    args: &RunArgs,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
) -> Result<JobContext, Failure> {
    let opened = |error: StateError| failure(&JobError::State(error));
    let mut folder = open_folder(&args.data_dir)?;
    owner::take(&folder, &plan.spec.name).map_err(|error| failure(&error))?;
    let spec = &plan.spec.pipeline.checkpoints;
    let store = open_store(folder.path(), spec.storage.as_deref(), &plan.spec.name).map_err(opened)?;
    let pointer_folder = store.folder().map_or_else(|| folder.checkpoints(), Path::to_owned);
    let pointer = FilePointer::open(&pointer_folder).map_err(opened)?;
    settle_instance(&mut folder, &store, &pointer).await.map_err(opened)?;
    Ok(JobContext {
        folder,
        store,
        pointer: Arc::new(pointer),
        resources: StoreResources::new(BLOCK_CACHE_BYTES),
        clock,
        metrics,
        status,
        memory_budget_bytes: usize::try_from(spec.memory_budget.bytes()).unwrap_or(usize::MAX),
        batch_rows: BATCH_ROWS,
        allow_previous_checkpoint: args.allow_previous_checkpoint,
        from_savepoint: args.from_savepoint.clone(),
    })
}

/// Takes a data folder for this process.
pub fn open_folder(path: &Path) -> Result<DataFolder, Failure> {
    let opener = Opener::this_process(SystemClock::new().now(), fresh_id()?);
    DataFolder::open(path, &opener).map_err(|error| failure(&JobError::State(error)))
}

/// Sinks know a pipeline's commits by its instance id, and epochs are counted from 1 where nothing is stored. So the id is
/// the one that the checkpoints were taken under, also in a new data folder; and where there are none, or no more, it is
/// new, lest a sink take the first epochs for ones that it has.
async fn settle_instance(
    folder: &mut DataFolder,
    store: &CheckpointStore,
    pointer: &FilePointer,
) -> Result<(), StateError> {
    let Some(latest) = pointer.read_now()? else {
        return if store.list().await?.is_empty() { folder.renew_instance() } else { Ok(()) };
    };
    for decided in latest.decided.iter().rev() {
        let id = match decided.savepoint {
            true => ManifestId::Savepoint { name: millrace_engine::recover::savepoint_name(decided.taken.epoch) },
            false => ManifestId::from(decided.taken),
        };
        match store.read_manifest(&id.location()).await {
            Ok(manifest) => return folder.adopt_instance(&manifest.instance),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The checkpoint store: a URL, a plain path, or the data folder's own.
pub fn open_store(data_dir: &Path, storage: Option<&str>, pipeline: &str) -> Result<CheckpointStore, StateError> {
    match storage {
        None => CheckpointStore::in_folder(&DataFolder::checkpoints_of(data_dir), pipeline),
        Some(url) if url.contains("://") => CheckpointStore::open(url, pipeline),
        Some(path) => CheckpointStore::in_folder(Path::new(path), pipeline),
    }
}

/// 16 random bytes from the operating system, as hexadecimal digits.
fn fresh_id() -> Result<String, Failure> {
    use std::io::Read;
    let mut bytes = [0u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|error| Failure::failed(format!("cannot read /dev/urandom: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn writes_to_stdout(plan: &Plan) -> bool {
    plan.nodes.iter().any(|node| matches!(&node.kind, NodeKind::Sink(sink) if sink.spec.stdout.is_some()))
}

/// Notes once a second what has been counted.
async fn note_counts(overview: Arc<Overview>) {
    loop {
        overview.note_counts();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// SIGINT and SIGTERM stop the pipeline at a final checkpoint. Who sends SIGINT again, later than the same key press could
/// be told twice, does not want to wait for it.
fn stop_on_signals(commands: &mpsc::Sender<Command>, clock: &Arc<dyn Clock>) -> Result<(), Failure> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))?;
        let (commands, clock) = (commands.clone(), Arc::clone(clock));
        tokio::spawn(async move {
            let mut first = None;
            while signals.recv().await.is_some() {
                let now = clock.monotonic();
                let asked = *first.get_or_insert(now);
                if kind == SignalKind::interrupt() && now.saturating_sub(asked) >= IMPATIENT_AFTER {
                    tracing::error!(
                        "ended without a final checkpoint; the next run goes on from the last completed one"
                    );
                    std::process::exit(i32::from(EXIT_FAILED));
                }
                if asked == now {
                    tracing::info!("stopping at a final checkpoint");
                    let commands = commands.clone();
                    // Not awaited here: the next signal is to be heard.
                    tokio::spawn(async move { commands.send(Command::Stop).await });
                }
            }
        });
    }
    Ok(())
}

fn failure(error: &JobError) -> Failure {
    let text = chain(error);
    match error {
        JobError::EditRefused(_) => Failure::usage(text).advise(
            "change the manifests back, name the nodes in `allowStateLoss`, or give the new pipeline a data folder of its own",
        ),
        JobError::OtherPipeline { .. } | JobError::NoSavepoint { .. } => Failure::usage(text),
        JobError::Refused(_) => Failure::failed(text)
            .advise("look with `millrace checkpoints list`; `--allow-previous-checkpoint` starts from the one before it"),
        JobError::State(error) => match error.kind() {
            ErrorKind::Corrupt => Failure::failed(text)
                .advise("`--allow-previous-checkpoint` starts from the checkpoint before the damaged one"),
            ErrorKind::FixSpec => Failure::usage(text),
            _ => Failure::failed(text),
        },
        JobError::Source { .. } | JobError::Sink { .. } => {
            Failure::failed(text).advise("nothing that was committed is affected; mend this and run again")
        }
        JobError::Commit(_) => Failure::failed(text)
            .advise("the last checkpoint stands, and what it holds for the sink with it; mend the cause and run again, and it is committed first"),
        JobError::Task { .. } => Failure::failed(text)
            .advise("the last completed checkpoint stands; mend the cause and run again, and it goes on from there"),
        _ => Failure::failed(text),
    }
}

/// One line a thing that happens. On a terminal the live view shows checkpoints, so they are not logged as well.
fn log(event: &JobEvent, is_live: bool) {
    match event {
        JobEvent::Running { restored, revision } => {
            tracing::info!(revision = %revision, restored = restored.map(|epoch| epoch.0), "running");
        }
        JobEvent::CheckpointCompleted(report) if is_live => {
            tracing::debug!(epoch = report.epoch.0, "checkpoint completed");
        }
        JobEvent::CheckpointCompleted(report) => {
            tracing::info!(
                epoch = report.epoch.0,
                kind = ?report.kind,
                duration_ms = report.duration.as_millis() as u64,
                size_bytes = report.size_bytes,
                uploaded_bytes = report.uploaded_bytes,
                "checkpoint completed"
            );
        }
        JobEvent::CheckpointFailed { epoch, reason } => {
            tracing::warn!(epoch = epoch.0, %reason, "checkpoint failed; the one before it stands");
        }
        JobEvent::Committed { epoch, rows } => tracing::debug!(epoch = epoch.0, rows, "committed"),
        JobEvent::CommitFailed { epoch, error, attempt, retry_after: Some(wait) } => {
            tracing::warn!(
                epoch = epoch.0,
                %error,
                attempt,
                wait_ms = wait.as_millis() as u64,
                "a commit failed and is tried again; rows flow on"
            );
        }
        JobEvent::CommitFailed { epoch, error, .. } => {
            tracing::error!(epoch = epoch.0, %error, "a commit failed for good");
        }
        JobEvent::Restarting { error, attempt, wait } => {
            tracing::warn!(%error, attempt, wait_ms = wait.as_millis() as u64, "starting again from the last checkpoint");
        }
        JobEvent::Edited { from, to } => tracing::info!(%from, %to, "edit taken up"),
        JobEvent::RolledBack { from, to, error } => {
            tracing::error!(%from, %to, %error, "the edited plan failed and is rolled back; nothing is lost");
        }
    }
}
