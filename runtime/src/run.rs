//! `millrace run`: the wiring of one pipeline in this process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millrace_crds::{OnDelete, SourceSpec};
use millrace_engine::{
    Command, JobContext, JobError, Outcome, chain,
    metrics::Metrics,
    recover::manifest_of,
    status::{JobPhase, Status},
};
use millrace_plan::{NodeKind, Plan, ResolvedSpec, unknown_losses};
use millrace_state::{CheckpointStore, DataFolder, ErrorKind, FilePointer, ManifestId, Pointer, StateError};
use millrace_stream::{Clock, checkpoint::Refusal};
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    Failure,
    cli::RunArgs,
    clock::SystemClock,
    context::{self, Beginning, Instruments, Place, Threads},
    control, event_log, live,
    manifests::{self, Texts},
    overview::Overview,
    server, signals, watch,
};

/// What helps where a note of the data folder, or the pointer to the newest checkpoint, is damaged.
pub const REPAIR: &str = "look at the disk; then `millrace checkpoints repair` makes it anew from the checkpoints that there are, and \
     keeps what is damaged under another name";

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
    let stdin = args.manifests.files.iter().find(|file| manifests::is_stdin(file));
    if let Some(stdin) = stdin {
        let why = match stdin_source(&plan) {
            _ if args.watch => Some(
                "`--watch` takes up edits of files, and the manifests were read from the standard input".to_owned(),
            ),
            Some(source) => {
                Some(format!("source {} reads the standard input, and the manifests were read from it", source.name))
            }
            None => None,
        };
        if let Some(why) = why {
            let why = format!("{why} (`-f {}`)", stdin.display());
            return Err(Failure::usage(why).advise("put the manifests into a file"));
        }
    }
    let is_read_once = |path: &&PathBuf| path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
    if args.watch
        && let Some(pipe) = args.manifests.files.iter().find(is_read_once)
    {
        let why = format!("`--watch` takes up edits of files, and {} is none that can be read again", pipe.display());
        return Err(Failure::usage(why).advise("put the manifests into a file"));
    }
    for notice in notices(&plan) {
        eprintln!("note: {notice}");
    }
    if let Some(parallelism) = args.parallelism {
        plan = with_parallelism(&plan, parallelism)?;
    }
    let threads = Threads::start(&plan).map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    // A read of the standard input that waits for more cannot be called back, so it is not waited for long.
    let patience = if stdin_source(&plan).is_some() { Duration::from_millis(200) } else { Duration::from_secs(10) };
    threads.run(patience, |tasks| run_plan(plan, texts, args, tasks))
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

async fn run_plan(plan: Plan, texts: Texts, args: RunArgs, tasks: Handle) -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    // A stop that is asked for meanwhile waits until the pipeline runs.
    let (commands, inbox) = mpsc::channel(16);
    stop_on_signals(&commands, &clock)?;
    let metrics = Arc::new(Metrics::default());
    let is_live = !args.no_live && crate::telemetry::takes_pictures() && !writes_to_stdout(&plan);
    let status = Arc::new(Status::new(move |event| event_log::log(event, is_live)));
    let instruments = Instruments { clock, metrics, status };
    let overview = Arc::new(Overview::new(instruments.clone()));
    overview.set_plan(&plan);
    let beginning = Beginning {
        from_savepoint: args.from_savepoint.clone(),
        reset_sources: Vec::new(),
        move_sources: Vec::new(),
        allow_previous_checkpoint: args.allow_previous_checkpoint,
    };
    let place = Place { data_dir: args.data_dir.clone(), namespace: None };
    let cx = context::open(&plan, &place, file_pointer, beginning, instruments, tasks).await;
    let cx = Arc::new(cx.map_err(|error| failure(&error))?);
    tell_of_unknown_losses(&plan, &cx).await;
    let _control = control::serve(cx.folder.path(), overview.clone(), readiness(&overview), commands.clone());
    let _control = _control.await.map_err(|error| {
        Failure::failed(format!("cannot open the control socket in {}: {error}", cx.folder.path().display()))
    })?;
    if let Some(address) = args.listen {
        let bound = server::listen(address, overview.clone(), readiness(&overview)).await;
        let bound = bound.map_err(|error| Failure::usage(format!("cannot listen on {address}: {error}")))?;
        tracing::info!(address = %bound, "serving /metrics, /healthz, /readyz and /api/v1/pipeline");
    }
    tokio::spawn(overview.clone().note_counts_always());
    if args.watch {
        let (manifests, seen) = (args.manifests.clone(), watch::Seen { texts, plan: plan.clone() });
        tokio::spawn(watch::watch(manifests, args.parallelism, seen, commands.clone(), overview.clone()));
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

/// Warns of each name in `allowStateLoss` that no node has, nor had in the plan that wrote the checkpoint that is gone on from.
async fn tell_of_unknown_losses(plan: &Plan, cx: &JobContext) {
    if unknown_losses(&plan.spec.pipeline, None).is_empty() {
        return;
    }
    // What keeps the checkpoint from being read is told by the start itself.
    let Ok(latest) = cx.pointer.read().await else { return };
    let newest = latest.as_ref().and_then(|latest| latest.decided.last());
    let id = match (&cx.from_savepoint, newest) {
        (Some(name), _) => Some(ManifestId::Savepoint { name: name.clone() }),
        (None, newest) => newest.map(manifest_of),
    };
    let before = match id {
        None => None,
        Some(id) => {
            let Ok(manifest) = cx.store.read_manifest(&id.location()).await else { return };
            let Ok(spec) = serde_json::from_value::<ResolvedSpec>(manifest.plan) else { return };
            Some(spec.pipeline)
        }
    };
    for loss in unknown_losses(&plan.spec.pipeline, before.as_ref()) {
        tracing::warn!("{loss}");
    }
}

/// The pointer is beside the checkpoints, or in the data folder where these are in an object store.
fn file_pointer(folder: &DataFolder, store: &CheckpointStore) -> Result<Arc<dyn Pointer>, StateError> {
    let place = store.folder().map_or_else(|| folder.checkpoints(), Path::to_owned);
    Ok(Arc::new(FilePointer::open(&place)?))
}

/// A run is ready while rows flow.
fn readiness(overview: &Arc<Overview>) -> server::Readiness {
    let overview = overview.clone();
    Arc::new(move || {
        let phase = overview.phase();
        (phase == JobPhase::Running, format!("{phase:?}"))
    })
}

fn stop_on_signals(commands: &mpsc::Sender<Command>, clock: &Arc<dyn Clock>) -> Result<(), Failure> {
    let commands = commands.clone();
    let stop = move || {
        let commands = commands.clone();
        // Not awaited here: the next signal is to be heard.
        tokio::spawn(async move { commands.send(Command::Stop).await });
    };
    signals::on_stop(clock, stop).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))
}

fn writes_to_stdout(plan: &Plan) -> bool {
    plan.nodes.iter().any(|node| matches!(&node.kind, NodeKind::Sink(sink) if sink.spec.stdout.is_some()))
}

/// How a user is told why a pipeline ended, and what helps.
pub fn failure(error: &JobError) -> Failure {
    let text = chain(error);
    match error {
        JobError::EditRefused(_) => Failure::usage(text).advise(
            "change the manifests back, name the nodes in `allowStateLoss`, or give the new pipeline a data folder of its own",
        ),
        JobError::StorageMoved { .. } => Failure::usage(text).advise(
            "name the place again, or give the new pipeline a data folder of its own",
        ),
        JobError::CheckpointsGone { .. } => Failure::failed(text).advise(
            "mount the volume, or put the folder back, and run again: it goes on from the last checkpoint. Or begin at the beginning: \
             `millrace checkpoints delete --all` with this --data-dir forgets them; what sinks have stays there, and every row comes again",
        ),
        JobError::Behind { .. } => Failure::failed(text).advise(
            "put the newer checkpoints back and run again; or `--allow-previous-checkpoint` goes on from what is there, and what was \
             committed since comes twice",
        ),
        JobError::SteppedDown { .. } => Failure::failed(text).advise(
            "another process runs this pipeline with the same checkpoints, from another data folder: let one of them run, or give each a \
             `checkpoints.storage` of its own",
        ),
        JobError::OtherPipeline { .. } | JobError::NoSavepoint { .. } => Failure::usage(text),
        JobError::Refused(refusal) => Failure::failed(text).advise(match refusal {
            Refusal::PointerLost { .. } => REPAIR,
            Refusal::Damaged { previous: Some(_), .. } => {
                "look with `millrace checkpoints list`; `--allow-previous-checkpoint` starts from the one before it"
            }
            Refusal::Damaged { previous: None, .. } => {
                "put the checkpoint store back from a backup, or begin at the beginning: `millrace checkpoints delete --all` \
                 forgets everything; what sinks have stays there, and every row comes again"
            }
        }),
        JobError::State(error) => match error.kind() {
            ErrorKind::Corrupt if error.is_damaged_note() => Failure::failed(text).advise(REPAIR),
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
