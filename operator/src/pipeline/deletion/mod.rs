//! The end of a Pipeline whose checkpoints go with it.
//!
//! It has a finalizer, from before its first pod on: nobody but the operator does away with checkpoints, and by what the spec says
//! when it is deleted. What is to be kept is seen to be nobody's, and it goes. What is on its volume goes with the volume, which is
//! given to it ([`super::volume`]). A bucket has no owner: there this is done, one after the other:
//!
//! | what | at the longest |
//! |---|---|
//! | its StatefulSet gets no pods, and the pod that there is ends: nobody writes any more | the pod's grace period and [`decide::MARGIN`] |
//! | a Job deletes its checkpoints, with the runtime's image and the Secret of the storage | [`job::DEADLINE`], by Kubernetes' clock; [`decide::LONGEST`] by the operator's |
//! | the pointer's ConfigMap is given to it, and goes with it, and the Job with that; and its volume | |
//! | its finalizer is taken off | |
//!
//! What fails, or takes longer, ends it all the same: an event says why and what is left. So does a namespace that is being
//! deleted, which takes no Job. A Job that is at work when its Pipeline is let go is ended. Each step can be done again: who leads next begins at the first, and finds what is done.

pub mod decide;
pub mod ending;
pub mod job;

use std::{sync::atomic::Ordering, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use millrace_crds::{CheckpointsSpec, OnDelete, Phase, Pipeline, PipelineStatus};
use millrace_plan::handover::{ClearedDocument, Names};
use serde_json::{Value, json};

use self::decide::{Clearing, Ended, Pods};
use super::{
    LOOK_AGAIN,
    apply::is_no,
    build::{Owner, run},
    decide::Decision,
    dereference::Observed,
    status::pods::{PodState, pod_state},
    volume, write_status,
};
use crate::{
    clock::time,
    cluster::{
        key::{Key, Kind},
        raw::Raw,
        stores,
        warning::{Regarding, Warned},
        writer::{FINALIZER, Happening, Wanted, WriteError, Writer},
    },
    conditions::{Reason, Say, Type, conditions},
    context::{Context, Note, WATCH_LAG},
    fault,
    telemetry::chain,
};

/// How often a Job is looked at; its pod's events come sooner.
const LOOK: Duration = Duration::from_secs(5);
/// The same once its pod has ended, which the Job's controller sees next.
pub const LOOK_SOON: Duration = Duration::from_secs(1);

/// An operator that ends because its own namespace is deleted lets the Pipelines there go: nobody would come after it, and its
/// rights go with the rest. Kubernetes deletes pods first and all else after that, since 1.33.
pub async fn leave<W: Writer>(context: &Context<W>, namespace: &str) {
    let is_held = |pipeline: &Raw<Pipeline>| pipeline.namespace() == namespace && pipeline.is_held_by(FINALIZER);
    let held = context.stores.pipelines.state_filter(is_held);
    if held.is_empty() || !context.writer.is_terminating(namespace).await {
        return;
    }
    context.is_leaving.store(true, Ordering::SeqCst);
    for pipeline in held {
        let key = stores::key(Kind::Pipeline, &pipeline);
        match context.writer.hold(&key, pipeline.uid(), false).await {
            Ok(()) => tracing::info!(pipeline = %key, "let go, with its namespace; its checkpoints stay"),
            Err(error) => tracing::warn!(pipeline = %key, error = %chain(&error), "cannot be let go"),
        }
    }
}

/// How far a deletion is, as this leader has seen it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// When it was seen first, by the monotonic clock; the others likewise.
    since: Duration,
    /// When the StatefulSet was told to have no pods.
    stopped: Option<Duration>,
    /// Since when nobody writes, and a Job is wanted.
    clearing: Option<Duration>,
    /// Since when the Job is complete.
    complete: Option<Duration>,
    /// What was in its way last.
    cause: Option<String>,
    /// What a warning about its pod said, and when that was looked for.
    warning: Option<(Option<Warned>, Duration)>,
}

/// Gives a Pipeline its finalizer if there is something that it is for, and takes it off if there is not.
///
/// # Errors
/// Why it could not.
pub async fn hold<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    decision: &Decision,
    note: &mut Note,
) -> Result<(), (String, WriteError)> {
    let Some(document) = decision.document.as_ref().filter(|_| !decision.is_dry_run) else { return Ok(()) };
    let wanted = document.spec.pipeline.checkpoints.on_delete == OnDelete::Delete;
    if !wanted && !volume::is_free(observed, note) {
        return Ok(());
    }
    let now = context.clock.monotonic();
    // The watch may be behind.
    let is_believed = note.hold.is_some_and(|(is_held, at)| is_held == wanted && now.saturating_sub(at) < WATCH_LAG);
    if observed.pipeline.is_held_by(FINALIZER) == wanted || is_believed || context.is_leaving.load(Ordering::SeqCst) {
        return Ok(());
    }
    fault::point("before-hold", observed.at());
    let held = context.writer.hold(key, observed.pipeline.uid(), wanted).await;
    held.map_err(|error| (format!("the finalizer of Pipeline {}", observed.name()), error))?;
    context.metrics.wrote("finalizer");
    note.hold = Some((wanted, now));
    Ok(())
}

/// Does what is next. Answers when to look again without being asked to.
///
/// # Errors
/// What could not be written. It is safe to do all of it again.
pub async fn delete<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let now = context.clock.monotonic();
    let before: PipelineStatus = note.status_of(&observed.pipeline);
    if !observed.pipeline.is_held_by(FINALIZER) {
        let others = observed.pipeline.metadata.finalizers.as_deref().unwrap_or_default();
        if others.is_empty() {
            return Ok(None);
        }
        let message = format!("it is held by {}", others.join(", "));
        return say(context, key, observed, &before, &message, note).await;
    }
    if let Some((false, at)) = note.hold
        && now.saturating_sub(at) < WATCH_LAG
    {
        return Ok(Some(at + WATCH_LAG - now));
    }
    let progress = note.deletion.get_or_insert_with(|| Progress { since: now, ..Progress::default() });
    let waited = now.saturating_sub(progress.since);
    let Some(checkpoints) = decide::goes(observed, &before) else {
        return keep(context, key, observed, waited, note).await;
    };
    if !decide::is_in_bucket(&checkpoints) {
        return give(context, key, observed, &checkpoints, waited, note).await;
    }
    let mut deletion = Deletion {
        context,
        key,
        observed,
        before,
        place: decide::place(observed, &checkpoints),
        checkpoints,
        progress: note.deletion.take().unwrap_or_default(),
        now,
    };
    let done = deletion.go_on(note).await;
    note.deletion = Some(deletion.progress);
    done
}

/// Lets a Pipeline go without its checkpoints.
async fn keep<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    waited: Duration,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    if !decide::is_orphaned(observed) {
        match volume::keep(context, observed, waited).await {
            Ok(true) => {}
            Ok(false) => return Ok(Some(LOOK_SOON)),
            // It holds nobody up who has no right to see to it.
            Err(error) if is_no(&error) && waited >= decide::MARGIN => {
                tracing::warn!(pipeline = %key, error = %chain(&error), "what is kept of it may not be");
            }
            Err(error) => return Err(error),
        }
    }
    let_go(context, key, observed, None, note).await
}

/// Lets a Pipeline go, and with it its volume, and what is on that.
async fn give<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    checkpoints: &CheckpointsSpec,
    waited: Duration,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    // In a folder nobody deletes checkpoints, and the pointer stays with them.
    let why = match volume::give(context, observed, checkpoints.storage.is_none()).await {
        Ok(why) => why,
        Err(error) if is_no(&error) && waited >= decide::MARGIN => Some(chain(&error)),
        Err(error) => return Err(error.without_fields()),
    };
    let happening = why.map(|why| {
        let note = format!("the volume of {} stays: {why}", observed.name());
        Happening { reason: "CheckpointsLeft", note, is_warning: true }
    });
    let_go(context, key, observed, happening, note).await
}

/// What is known of a deletion while it is worked on.
struct Deletion<'a, W: Writer> {
    context: &'a Context<W>,
    key: &'a Key,
    observed: &'a Observed,
    before: PipelineStatus,
    checkpoints: CheckpointsSpec,
    place: String,
    progress: Progress,
    now: Duration,
}

impl<W: Writer> Deletion<'_, W> {
    async fn go_on(&mut self, note: &mut Note) -> Result<Option<Duration>, WriteError> {
        let (observed, now) = (self.observed, self.now);
        match decide::pods(observed, now.saturating_sub(self.progress.since)) {
            Pods::Wait { writes, message } => {
                let again = self.say(&message, note).await?;
                if writes {
                    self.stop().await?;
                }
                return Ok(again.into_iter().chain([LOOK]).min());
            }
            Pods::Stuck(why) => return self.left(&why, note).await,
            Pods::Ended => {}
        }
        let waited = now.saturating_sub(*self.progress.clearing.get_or_insert(now));
        let job = job::wanted(observed, &self.checkpoints, None, &self.context.runtime_image);
        let (name, stored) = (job.name.clone(), self.context.writer.read(&job).await?);
        self.look_for_a_cause(&name).await;
        let cause = self.progress.cause.clone();
        match decide::clearing(stored.as_ref(), observed, waited) {
            Clearing::Make => {
                self.say(&format!("a Job is to delete the checkpoints in {}", self.place), note).await?;
                let made = self.make().await;
                match made {
                    Ok(()) | Err(WriteError::Conflict(_)) => Ok(Some(LOOK_SOON)),
                    Err(WriteError::Terminating(why) | WriteError::Gone(why)) => self.left(&why, note).await,
                    Err(WriteError::Forbidden(why) | WriteError::Rejected(why)) if waited >= decide::LONGEST => {
                        self.left(&format!("a Job that deletes them cannot be made: {why}"), note).await
                    }
                    Err(error) => {
                        self.progress.cause = Some(chain(&error));
                        Err(error)
                    }
                }
            }
            Clearing::Wait => {
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                let message = format!("Job {name} deletes the checkpoints in {}{cause}", self.place);
                let again = self.say(&message, note).await?;
                let look = if job::has_ended_pods(&self.pods(&name)) { LOOK_SOON } else { LOOK };
                Ok(again.into_iter().chain([look]).min())
            }
            Clearing::Failed(why) => {
                let why = cause.map_or_else(|| why.clone(), |cause| format!("{why}: {cause}"));
                self.left(&format!("Job {name} has failed: {why}"), note).await
            }
            Clearing::Complete => {
                let since = *self.progress.complete.get_or_insert(now);
                match job::words(&self.pods(&name)) {
                    // The watch may be behind.
                    None if now.saturating_sub(since) < WATCH_LAG => Ok(Some(LOOK_SOON)),
                    words => self.cleared(words, note).await,
                }
            }
        }
    }

    /// Says in the status what is waited for. Answers when what was held back is due.
    async fn say(&self, message: &str, note: &mut Note) -> Result<Option<Duration>, WriteError> {
        say(self.context, self.key, self.observed, &self.before, message, note).await
    }

    /// Has the StatefulSet have no pods.
    async fn stop(&mut self) -> Result<(), WriteError> {
        let (observed, now) = (self.observed, self.now);
        if self.progress.stopped.is_some_and(|at| now.saturating_sub(at) < WATCH_LAG) {
            return Ok(());
        }
        fault::point("before-stop", observed.at());
        let spec = json!({"replicas": 0});
        match self.context.writer.amend(observed.namespace(), observed.name(), &spec).await {
            Ok(()) => self.context.metrics.wrote("StatefulSet"),
            // It goes by itself where dependents are deleted first.
            Err(WriteError::Gone(_)) => {}
            Err(error) => return Err(error),
        }
        self.progress.stopped = Some(now);
        Ok(())
    }

    /// Makes the Job. It belongs to the pointer, which stays while checkpoints may, and not to the Pipeline: where dependents are
    /// deleted before their owner it would be deleted at once.
    async fn make(&self) -> Result<(), WriteError> {
        let pointer = self.context.writer.read(&self.pointer(false)).await?;
        let uid = pointer.as_ref().and_then(|pointer| pointer.pointer("/metadata/uid")?.as_str());
        let job = job::wanted(self.observed, &self.checkpoints, uid, &self.context.runtime_image);
        fault::point("before-clear", self.observed.at());
        self.context.writer.create(&job).await?;
        self.context.metrics.wrote("Job");
        Ok(())
    }

    fn pointer(&self, goes_with_the_pipeline: bool) -> Wanted {
        Wanted::new(&run::checkpoint(&Owner::of(self.observed), goes_with_the_pipeline))
    }

    fn pods(&self, job: &str) -> Vec<std::sync::Arc<k8s_openapi::api::core::v1::Pod>> {
        job::pods(&self.context.stores, self.observed.namespace(), job)
    }

    /// What keeps the Job from its work, as its pods or a warning about them say.
    async fn look_for_a_cause(&mut self, job: &str) {
        let (pods, now) = (self.pods(job), self.now);
        let newest = pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|at| at.0));
        let Some(pod) = newest else { return };
        match pod_state(Some(pod)) {
            PodState::Trouble { message, .. } => self.progress.cause = Some(message),
            PodState::NotReady { runs: false, .. } => {
                let looked = self.progress.warning.take();
                let warning = match looked {
                    Some((warning, at)) if now.saturating_sub(at) < LOOK_AGAIN => Some((warning, at)),
                    _ => {
                        let of = Regarding {
                            kind: "Pod",
                            namespace: self.observed.namespace().to_owned(),
                            name: pod.metadata.name.clone().unwrap_or_default(),
                            uid: pod.metadata.uid.clone(),
                        };
                        let read = self.context.writer.warning(&of).await;
                        Some((read.ok().flatten(), now))
                    }
                };
                if let Some((Some(warning), _)) = &warning {
                    self.progress.cause = Some(warning.message.clone());
                }
                self.progress.warning = warning;
            }
            _ => {}
        }
    }

    /// The checkpoints are gone.
    async fn cleared(&self, words: Option<ClearedDocument>, note: &mut Note) -> Result<Option<Duration>, WriteError> {
        let Self { context, observed, place, .. } = self;
        let names = Names::of(observed.name());
        let ended = decide::ended(words, place, &names.checkpoint());
        if ended.pointer_goes {
            let pointer = self.pointer(true);
            if context.writer.read(&pointer).await?.is_some() {
                fault::point("before-pointer-goes", observed.at());
                context.writer.apply(&pointer, None).await?;
                context.metrics.wrote("ConfigMap");
            }
        }
        let Ended { message, .. } = ended;
        let happening = Happening { reason: "CheckpointsDeleted", note: message, is_warning: false };
        self.let_go(happening, note).await
    }

    /// Its volume goes with it, whatever has become of the checkpoints.
    async fn let_go(&self, happening: Happening, note: &mut Note) -> Result<Option<Duration>, WriteError> {
        let Self { context, key, observed, .. } = self;
        let why = match volume::give(context, observed, false).await {
            Err(error) if is_no(&error) => Some(chain(&error)),
            given => given?,
        };
        if let Some(why) = why {
            tracing::warn!(pipeline = %key, why, "its volume stays");
        }
        let_go(context, key, observed, Some(happening), note).await
    }

    /// They, or some of them, are not, and will not be by us.
    async fn left(&self, why: &str, note: &mut Note) -> Result<Option<Duration>, WriteError> {
        let pointer = Names::of(self.observed.name()).checkpoint();
        let message = format!(
            "what is left of the checkpoints in {} stays, and the ConfigMap {pointer} with their pointer: {why}",
            self.place
        );
        let happening = Happening { reason: "CheckpointsLeft", note: message, is_warning: true };
        self.let_go(happening, note).await
    }
}

/// Takes the finalizer off, having told what there is to tell.
async fn let_go<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    happening: Option<Happening>,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let now = context.clock.monotonic();
    ending::end_its(context, observed).await?;
    if let Some(happening) = happening.filter(|happening| note.is_news(happening, now)) {
        tracing::info!(pipeline = %key, reason = happening.reason, "{}", happening.note);
        // A namespace that is being deleted takes no events either.
        if let Err(error) = context.writer.tell(&observed.pipeline.object_ref(&()), &happening).await {
            tracing::warn!(pipeline = %key, error = %chain(&error), "an event could not be written");
        }
    }
    fault::point("before-let-go", observed.at());
    match context.writer.hold(key, observed.pipeline.uid(), false).await {
        // It is gone, or another by now.
        Ok(()) | Err(WriteError::Conflict(_) | WriteError::Gone(_)) => {}
        Err(error) => return Err(error),
    }
    context.metrics.wrote("finalizer");
    note.hold = Some((false, now));
    Ok(None)
}

/// Says in the status what a Pipeline that is being deleted waits for. Answers when what was held back is due.
async fn say<W: Writer>(
    context: &Context<W>,
    key: &Key,
    observed: &Observed,
    before: &PipelineStatus,
    message: &str,
    note: &mut Note,
) -> Result<Option<Duration>, WriteError> {
    let after = status(observed, before, message, &time(context.clock.now()));
    match write_status(context, key, observed, before, &after, note).await {
        // Definitions that are older than the operator do not know the phase. That keeps nothing from ending.
        Err(error @ (WriteError::Forbidden(_) | WriteError::Rejected(_) | WriteError::Gone(_))) => {
            tracing::warn!(pipeline = %key, error = %chain(&error), "the status cannot be written");
            Ok(None)
        }
        written => written,
    }
}

/// The status of a Pipeline that is being deleted.
fn status(
    observed: &Observed,
    before: &PipelineStatus,
    message: &str,
    now: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> PipelineStatus {
    let generation = observed.pipeline.generation();
    let nothing = |of| Say::new(of, None, Reason::NotRunning, "the Pipeline is being deleted");
    let says = vec![
        Say::new(Type::Ready, false, Reason::Deleting, message),
        Say::new(Type::Reconciling, true, Reason::Deleting, message),
        Say::new(Type::Stalled, false, Reason::NotStalled, "nothing is in the way"),
        nothing(Type::CheckpointHealthy),
        nothing(Type::SourcesHealthy),
        nothing(Type::SinksHealthy),
    ];
    let mut conditions: Vec<Condition> = conditions(&before.conditions, says, generation, now);
    let valid = crate::conditions::find(&before.conditions, Type::ConfigValid);
    conditions.extend(valid.cloned());
    PipelineStatus {
        observed_generation: Some(generation),
        phase: Some(Phase::Deleting),
        replicas: Some(i32::from(pod_state(observed.pod.as_deref()) == PodState::Ready)),
        throughput: None,
        unread: None,
        conditions,
        ..before.clone()
    }
}

/// The value of a Job's condition, if it is true.
fn condition<'a>(job: &'a Value, of: &str) -> Option<&'a Value> {
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|it| it["type"] == of && it["status"] == "True")
}
