//! From what is stored to what a generation starts from: the facts gathered, the decision carried out.

mod manifests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_connectors::{Committer, SinkContext};
use millrace_plan::{KeyedOp, KeyedStage, NodeKind, Plan, ResolvedSpec, SinkNode, SourceNode};
use millrace_state::{ErrorKind, Latest, Manifest, ManifestId, Newest, StateError, fault};
use millrace_stream::{
    Epoch, Generation, NodeName, StageId,
    checkpoint::{self, Advance, Claim, Decided, Facts, Pointer, Recovery, Taken},
};

use self::manifests::{
    Found, check_files, check_later, read_manifests, refuse_lost_pointer, set_aside, up_to_savepoint,
};
pub use self::manifests::{manifest_of, savepoint_name};
use crate::{
    JobContext, JobError,
    commits::{self, CommitError},
    conclude::{Course, conclude, goes_on},
    drive::{sink_handles, sink_nodes},
    job::refused_edit,
    launch::{Connectors, ReplayPoints, Restored, replay_points},
    started::Started,
    window::eras,
};

/// What a generation starts from.
pub struct Recovered {
    /// The generation, which has claimed the pointer.
    pub generation: Generation,
    /// The decided epochs that are kept.
    pub decided: Vec<Decided>,
    /// The first epoch to take.
    pub first: Epoch,
    /// What is restored; `None`: the pipeline starts from nothing.
    pub manifest: Option<Manifest>,
    /// Where sources go on from that are moved.
    pub moved: BTreeMap<NodeName, ReplayPoints>,
    /// The plan's committers, which have committed what was decided.
    pub committers: BTreeMap<NodeName, Box<dyn Committer>>,
    /// Whether nothing is left to do.
    pub finished: bool,
}

impl Recovered {
    /// What tasks go on from.
    pub fn restored(&self) -> Restored<'_> {
        Restored { manifest: self.manifest.as_ref(), moved: &self.moved }
    }

    /// The epoch that is restored.
    pub fn epoch(&self) -> Option<Epoch> {
        self.manifest.as_ref().map(|manifest| manifest.epoch)
    }
}

/// How often a run has started its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Not yet.
    First,
    /// Before.
    Again {
        /// What the first start restored.
        began_with: Option<Epoch>,
    },
}

impl Turn {
    /// The turn after this one, which restored this epoch.
    pub fn next(self, restored: Option<Epoch>) -> Self {
        match self {
            Self::First => Self::Again { began_with: restored },
            again @ Self::Again { .. } => again,
        }
    }

    /// Whether nothing was decided since the run began, if this turn restores this epoch.
    fn is_where_it_began(self, restored: Option<Epoch>) -> bool {
        match self {
            Self::First => true,
            Self::Again { began_with } => began_with == restored,
        }
    }
}

/// Claims the pointer, decides what to start from, commits what was decided and cleans up, after the sinks of `abandoned`
/// plans too. `claimed` is the generation that this run has claimed last: another that came after it is left in peace.
pub async fn recover(
    plan: &Plan,
    cx: &Arc<JobContext>,
    turn: Turn,
    claimed_last: &mut Option<Generation>,
    abandoned: &mut Vec<Plan>,
) -> Result<Recovered, JobError> {
    let first_turn = turn == Turn::First;
    let before = cx.pointer.read().await?;
    if before.is_none() {
        refuse_lost_pointer(cx, turn).await?;
    }
    let seen = before.as_ref().map(|latest| latest.generation);
    if let Some(by) = successor(*claimed_last, seen) {
        return Err(JobError::SteppedDown { by });
    }
    let (mut generation, claimed) = claim(cx, seen, claimed_last).await?;
    fault::point("before-recover").map_err(StateError::from)?;
    let mut manifests = read_manifests(cx, &claimed.decided).await?;
    let wanted = match &cx.from_savepoint {
        Some(name) if first_turn => up_to_savepoint(&claimed, &manifests, name)?,
        _ => claimed.decided.clone(),
    };
    let unchecked = check_files(cx, &wanted, &mut manifests).await?;
    let facts = Facts {
        generation,
        pointer: before.as_ref().map(|latest| Pointer { decided: wanted.clone(), ..latest.pointer() }),
        manifests: manifests.iter().map(|(taken, found)| (*taken, found.state())).collect(),
        allow_previous: cx.allow_previous_checkpoint,
    };
    let (from, mut decided, mut first, orphans, passed_over) = match checkpoint::recover(&facts) {
        Recovery::Refuse(refusal) => return Err(JobError::Refused(refusal)),
        Recovery::Fresh { first, orphans } => (None, Vec::new(), first, orphans, false),
        Recovery::Restore { from, decided, first, orphans, passed_over, .. } => {
            (Some(from), decided, first, orphans, !passed_over.is_empty())
        }
    };
    decided.splice(0..0, set_aside(&claimed, &decided, &manifests));
    let numbered = manifests.keys().map(|taken| taken.epoch).max();
    let manifest = from.and_then(|from| match manifests.into_iter().find(|(taken, _)| *taken == from)?.1 {
        Found::Sound(manifest) => Some(*manifest),
        Found::Damaged => None,
    });
    let as_asked = turn.is_where_it_began(manifest.as_ref().map(|manifest| manifest.epoch));
    if as_asked {
        // That a place is not there is found out before anything is changed.
        moved_sources(plan, manifest.as_ref(), cx)?;
    }
    // So is that the plan cannot take its place.
    let before = manifest.as_ref().map(|manifest| plan_before(plan, manifest)).transpose()?.flatten();
    let wrote = before.as_ref().unwrap_or(plan);
    let moved_back = decided != claimed.decided;
    if let Some(manifest) = &manifest {
        cx.folder.adopt_instance(&manifest.instance)?;
    }
    // And that what there is to go on from is older than what was committed.
    let asked = Some(wrote).filter(|_| first_turn && manifest.is_some());
    let is_behind = match newest_used(asked, generation, cx).await? {
        Some((used, by)) if used >= first => {
            let checkpoint = manifest.as_ref().map(|manifest| manifest.epoch);
            if !cx.goes_back() {
                return Err(JobError::Behind { checkpoint, used, by });
            }
            tracing::warn!(checkpoint = checkpoint.map(|epoch| epoch.0), newest = used.0, %by,
                "going on from a checkpoint that is older than what was committed: rows since then come again");
            first = used.next();
            true
        }
        _ => false,
    };
    let started: Option<Started> = cx.folder.started();
    if first_turn && let Some(started) = &started {
        abandoned.extend(started.left_behind([Some(plan), before.as_ref()]));
    }
    if let Some(manifest) = &manifest {
        cx.folder.note_decided(manifest.epoch)?;
    }
    let goes_back = moved_back || is_behind;
    if moved_back {
        move_pointer(cx, claimed.epoch(), generation, &decided, manifest.as_ref()).await?;
    }
    let mut manifest = manifest;
    let mut committers = recover_sinks(wrote, manifest.as_ref(), goes_back, generation, cx).await?;
    if let Some(last) = manifest.as_ref().filter(|_| before.is_some() || goes_back) {
        // Nothing but a later checkpoint keeps the numbers from being taken again that were gone back over.
        let is_numbered = !goes_back || numbered.map(Epoch::next) >= Some(first);
        let course = Course { old: wrote, plan, goes_back, is_numbered };
        let concluded = conclude(&course, &mut committers, last, (&mut decided, first), generation, cx).await?;
        if let Some(concluded) = concluded {
            first = concluded.epoch.next();
            manifest = Some(concluded);
            // What comes now stages under names of its own: a commit that is done again must not find another file there.
            (generation, _) = claim(cx, Some(generation), claimed_last).await?;
        }
    }
    let committers = committers_of(plan, before.as_ref(), manifest.as_ref(), committers, generation, cx).await?;
    for abandoned in std::mem::take(abandoned) {
        discard(&abandoned, [plan, wrote], manifest.as_ref(), generation, cx).await;
    }
    if let (Some(before), Some(manifest)) = (&before, &mut manifest) {
        take_up_edit(before, plan, manifest)?;
    }
    let moved = if as_asked { moved_sources(plan, manifest.as_ref(), cx)? } else { BTreeMap::new() };
    let is_sent = as_asked && !(cx.reset_sources.is_empty() && moved.is_empty());
    if let Some(manifest) = manifest.as_mut().filter(|_| as_asked) {
        // A source's stage has the source's name.
        manifest.tasks.retain(|task| !cx.reset_sources.contains(&task.task.stage.0));
    }
    if !goes_back && !passed_over {
        match clean(cx, &orphans, generation).await {
            // Which files a damaged checkpoint names is not known. That must not keep a run from going on that does not
            // need it; once it has expired its files go too.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(error = %crate::chain(&error), "nothing is cleaned up while a kept checkpoint is damaged");
            }
            cleaned => cleaned?,
        }
    }
    if started.is_none_or(|started| !started.is(plan)) {
        cx.folder.note_started(&Started::of(plan))?;
    }
    if first_turn {
        tokio::spawn(check_later(cx.store.clone(), unchecked));
    }
    fault::point("after-recover").map_err(StateError::from)?;
    let is_over = |manifest: &Manifest| manifest.finished && manifest.revision == plan.revision && !is_sent;
    let finished = match manifest.as_ref().filter(|manifest| is_over(manifest)) {
        Some(manifest) => !has_more(plan, manifest).await?,
        None => false,
    };
    Ok(Recovered { generation, decided, first, manifest, moved, committers, finished })
}

/// The newest epoch that was decided or committed, as the data folder and the sinks of the plan that wrote the checkpoint tell,
/// and who tells it. What is taken now must be newer: sinks would take it for what they have, or put it in its place.
async fn newest_used(
    wrote: Option<&Plan>,
    generation: Generation,
    cx: &Arc<JobContext>,
) -> Result<Option<(Epoch, String)>, JobError> {
    let mut newest = cx.folder.newest_decided()?.map(|epoch| (epoch, "this data folder".to_owned()));
    let Some(wrote) = wrote else { return Ok(newest) };
    let nodes: Vec<_> = sink_nodes(wrote).collect();
    for (node, mut committer) in open_committers(wrote, &nodes, false, generation, cx).await? {
        let shown = committer.newest().await.map_err(|source| CommitError { node: node.clone(), source })?;
        if let Some(epoch) = shown.filter(|epoch| newest.as_ref().is_none_or(|(newest, _)| epoch > newest)) {
            newest = Some((epoch, format!("sink {node}")));
        }
    }
    Ok(newest)
}

/// The generation that came after the one that a run has claimed last.
pub fn successor(claimed: Option<Generation>, seen: Option<Generation>) -> Option<Generation> {
    seen.filter(|seen| claimed.is_some_and(|claimed| *seen > claimed))
}

/// Claims the pointer for the next generation after the last that was seen.
async fn claim(
    cx: &JobContext,
    seen: Option<Generation>,
    claimed: &mut Option<Generation>,
) -> Result<(Generation, Pointer), JobError> {
    let generation = cx.folder.next_generation(seen)?;
    // Before it is: without an answer nobody knows whether it was.
    *claimed = Some(generation);
    match cx.pointer.claim(generation).await? {
        Claim::Take(pointer) => Ok((generation, pointer)),
        Claim::Fenced { by } => Err(JobError::SteppedDown { by }),
    }
}

/// Where sources go on from that are asked to go on from elsewhere.
fn moved_sources(
    plan: &Plan,
    manifest: Option<&Manifest>,
    cx: &JobContext,
) -> Result<BTreeMap<NodeName, ReplayPoints>, JobError> {
    let mut moved = BTreeMap::new();
    if cx.move_sources.is_empty() {
        return Ok(moved);
    }
    let connectors = Connectors::of(plan)?;
    for to in &cx.move_sources {
        let node = NodeName(to.name.clone());
        let Some(source) = connectors.sources.get(&node) else { continue };
        let tasks = manifest.into_iter().flat_map(|manifest| &manifest.tasks);
        // A source's stage has the source's name.
        let points = replay_points(tasks.filter(|task| task.task.stage.0 == to.name));
        let points = source.moved(to, points).map_err(|source| JobError::Move { node: node.clone(), source })?;
        moved.insert(node, points);
    }
    Ok(moved)
}

/// What the pointer says of the newest checkpoint.
pub fn newest(manifest: &Manifest, cx: &JobContext, duration: std::time::Duration) -> Newest {
    Newest {
        manifest: manifest.id().location(),
        size_bytes: manifest.state_bytes(),
        duration,
        completed_at: cx.clock.now(),
    }
}

/// Moves the pointer while no tasks run.
pub async fn move_pointer(
    cx: &JobContext,
    from: Option<Epoch>,
    generation: Generation,
    decided: &[Decided],
    manifest: Option<&Manifest>,
) -> Result<(), JobError> {
    let next = Latest {
        generation,
        decided: decided.to_vec(),
        newest: manifest.map(|manifest| newest(manifest, cx, std::time::Duration::ZERO)),
    };
    match cx.pointer.advance(from, next).await? {
        Advance::Move(_) | Advance::AlreadyMoved => Ok(()),
        Advance::Fenced { by } => Err(JobError::SteppedDown { by }),
        Advance::Lost => Err(JobError::Failed(checkpoint::Failure::PointerLost)),
    }
}

/// Whether a source has more to read behind the end at which all of them were.
async fn has_more(plan: &Plan, manifest: &Manifest) -> Result<bool, JobError> {
    for (node, source) in Connectors::of(plan)?.sources {
        let tasks = manifest.tasks.iter().filter(|task| task.task.stage.0 == node.0);
        let more = source.has_more(replay_points(tasks)).await;
        if more.map_err(|source| JobError::Source { node: node.clone(), source })? {
            tracing::info!(source = %node, "the pipeline was finished, and there is more to read since");
            return Ok(true);
        }
    }
    Ok(false)
}

/// The plan that wrote a manifest, if it was another one, and this one may take its place.
fn plan_before(plan: &Plan, manifest: &Manifest) -> Result<Option<Plan>, JobError> {
    if manifest.pipeline != plan.spec.name {
        let (found, expected) = (manifest.pipeline.clone(), plan.spec.name.clone());
        return Err(JobError::OtherPipeline { found, expected });
    }
    if manifest.revision == plan.revision {
        return Ok(None);
    }
    let before = stored_plan(manifest)?;
    match refused_edit(&before, plan) {
        Some(edit) => Err(JobError::EditRefused(Box::new(edit))),
        None => Ok(Some(before)),
    }
}

/// The sinks of the plan that wrote the manifest, after they have committed what was decided.
async fn recover_sinks(
    wrote: &Plan,
    manifest: Option<&Manifest>,
    goes_back: bool,
    generation: Generation,
    cx: &Arc<JobContext>,
) -> Result<BTreeMap<NodeName, Box<dyn Committer>>, JobError> {
    let Some(manifest) = manifest else { return Ok(BTreeMap::new()) };
    let nodes: Vec<_> = sink_nodes(wrote).collect();
    let mut committers = open_committers(wrote, &nodes, goes_back, generation, cx).await?;
    let handles = sink_handles(manifest);
    let committed = commits::recover(&mut committers, Some((manifest.epoch, &handles))).await?;
    cx.metrics.committed_rows.add(committed.rows);
    Ok(committers)
}

/// The sinks of the plan: those that it goes on with, and those that it has new, or elsewhere, which begin with nothing.
async fn committers_of(
    plan: &Plan,
    before: Option<&Plan>,
    manifest: Option<&Manifest>,
    mut committers: BTreeMap<NodeName, Box<dyn Committer>>,
    generation: Generation,
    cx: &Arc<JobContext>,
) -> Result<BTreeMap<NodeName, Box<dyn Committer>>, JobError> {
    let old = before.unwrap_or(plan);
    let is_kept = |name: &NodeName, sink: &SinkNode| manifest.is_some() && goes_on(old, name, sink);
    let (kept, fresh): (Vec<_>, Vec<_>) = sink_nodes(plan).partition(|(name, sink)| is_kept(name, sink));
    let kept: BTreeSet<&NodeName> = kept.into_iter().map(|(name, _)| name).collect();
    committers.retain(|name, _| kept.contains(name));
    committers.append(&mut fresh_committers(plan, &fresh, generation, cx).await?);
    Ok(committers)
}

/// Whether a plan has this sink, as it is.
fn has_sink(plan: &Plan, name: &NodeName, sink: &SinkNode) -> bool {
    sink_nodes(plan).any(|(other_name, other)| other_name == name && other.spec == sink.spec)
}

/// The committers of sinks that begin with nothing.
async fn fresh_committers(
    plan: &Plan,
    nodes: &[(&NodeName, &SinkNode)],
    generation: Generation,
    cx: &Arc<JobContext>,
) -> Result<BTreeMap<NodeName, Box<dyn Committer>>, JobError> {
    let mut committers = open_committers(plan, nodes, false, generation, cx).await?;
    let recovered = commits::recover(&mut committers, None).await;
    // Nothing is committed here: it is the sink that cannot be used.
    recovered.map_err(|CommitError { node, source }| JobError::Sink { node, source })?;
    Ok(committers)
}

/// Removes what the sinks of a plan that was given up have staged, save those that `kept` plans have too.
async fn discard(
    abandoned: &Plan,
    kept: [&Plan; 2],
    manifest: Option<&Manifest>,
    generation: Generation,
    cx: &Arc<JobContext>,
) {
    let handles = manifest.map(sink_handles).unwrap_or_default();
    let is_kept = |name: &NodeName, sink: &SinkNode| kept.iter().any(|plan| has_sink(plan, name, sink));
    for (name, sink) in sink_nodes(abandoned).filter(|(name, sink)| !is_kept(name, sink)) {
        let discarded = async {
            let mut committers = open_committers(abandoned, &[(name, sink)], false, generation, cx).await?;
            let Some(committer) = committers.get_mut(name) else { return Ok(()) };
            // Another sink of this name may stage in the same place.
            let keep = handles.get(name).map_or(&[][..], Vec::as_slice);
            committer.discard(keep).await.map_err(|source| JobError::Sink { node: name.clone(), source })
        };
        if let Err(error) = discarded.await {
            // Often the very reason why the plan was given up.
            tracing::debug!(sink = %name, error = %crate::chain(&error), "nothing could be cleared away");
        }
    }
}

/// After an edit: a stage that cannot go on with what it remembered (as `allowStateLoss` says) begins with nothing, and a
/// window of other lengths takes over at its next boundary. A source that cannot go on from where it was read to begins at
/// its beginning.
fn take_up_edit(stored: &Plan, plan: &Plan, manifest: &mut Manifest) -> Result<(), JobError> {
    let is_read_on = |stage: &StageId| match (source(stored, stage), source(plan, stage)) {
        (Some(before), Some(after)) => millrace_plan::keeps_replay_point(before, after),
        _ => true,
    };
    manifest.tasks.retain(|task| {
        let stage = &task.task.stage;
        millrace_plan::keeps_state(stored, plan, stage) && is_read_on(stage)
    });
    let before = keyed_stages(stored);
    for (id, stage) in keyed_stages(plan) {
        let (KeyedOp::Window(is), Some(KeyedOp::Window(was))) = (&stage.op, before.get(id).map(|stage| &stage.op))
        else {
            continue;
        };
        if was.def == is.def {
            continue;
        }
        let tasks = manifest.tasks.iter_mut().filter(|task| task.task.stage == *id);
        let mut left: Vec<_> = tasks.map(|task| &mut task.meta).collect();
        let taken = eras::take_up(&was.def, &is.def, &mut left)
            .map_err(|source| JobError::Operator { node: NodeName(id.0.clone()), source })?;
        if let Some(from_ms) = taken.and_then(|taken| taken.from_ms)
            && was.def.kind != is.def.kind
        {
            tracing::info!(stage = %id, from = %eras::instant(from_ms), "the window changes at its next boundary");
        }
    }
    Ok(())
}

/// The source that a stage reads.
fn source<'p>(plan: &'p Plan, stage: &StageId) -> Option<&'p SourceNode> {
    match &plan.node(&NodeName::from(stage.0.as_str()))?.kind {
        NodeKind::Source(source) => Some(source),
        NodeKind::Transform(_) | NodeKind::Sink(_) => None,
    }
}

fn keyed_stages(plan: &Plan) -> BTreeMap<&StageId, &KeyedStage> {
    let transforms = plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Transform(transform) => Some(transform),
        NodeKind::Source(_) | NodeKind::Sink(_) => None,
    });
    transforms.flat_map(|transform| &transform.keyed).map(|stage| (&stage.id, stage)).collect()
}

fn stored_plan(manifest: &Manifest) -> Result<Plan, JobError> {
    let epoch = manifest.epoch;
    let spec: ResolvedSpec = serde_json::from_value(manifest.plan.clone())
        .map_err(|_| JobError::StoredPlan { epoch, errors: Vec::new() })?;
    millrace_plan::compile(&spec).map_err(|errors| JobError::StoredPlan { epoch, errors })
}

async fn open_committers(
    plan: &Plan,
    nodes: &[(&NodeName, &SinkNode)],
    goes_back: bool,
    generation: Generation,
    cx: &Arc<JobContext>,
) -> Result<BTreeMap<NodeName, Box<dyn Committer>>, JobError> {
    let connectors = Connectors::of(plan)?;
    let mut committers = BTreeMap::new();
    for (name, sink) in nodes {
        let sink_cx = SinkContext { goes_back, ..cx.sink_context(plan, name, sink, generation, 0)? };
        let opened = connectors.sinks[*name].committer(sink_cx).await;
        let committer = opened.map_err(|source| JobError::Sink { node: (*name).clone(), source })?;
        committers.insert((*name).clone(), committer);
    }
    Ok(committers)
}

/// Removes what no decided epoch names.
async fn clean(cx: &JobContext, orphans: &[Taken], generation: Generation) -> Result<(), StateError> {
    let ids = cx.store.list().await?.into_iter().map(|entry| entry.id);
    let is_orphan = |id: &ManifestId| orphans.iter().any(|taken| is_manifest_of(id, taken));
    let retired: Vec<ManifestId> = ids.filter(is_orphan).collect();
    cx.store.retire(&retired, &[]).await?;
    cx.store.delete_orphans(generation).await?;
    Ok(())
}

fn is_manifest_of(id: &ManifestId, taken: &Taken) -> bool {
    match id {
        ManifestId::Checkpoint { epoch, generation } => *epoch == taken.epoch && *generation == taken.generation,
        ManifestId::Savepoint { name } => *name == savepoint_name(taken.epoch),
    }
}

impl JobContext {
    /// Whether the user has said that an older checkpoint will do.
    fn goes_back(&self) -> bool {
        self.allow_previous_checkpoint || self.from_savepoint.is_some()
    }

    /// Deletes the checkpoints before `decided` that are not in `keep`, and their files.
    pub(crate) async fn retire(&self, decided: Epoch, keep: &BTreeSet<Taken>) -> Result<(), StateError> {
        let goes = |id: &ManifestId| match id {
            ManifestId::Checkpoint { epoch, generation } => {
                *epoch <= decided && !keep.contains(&Taken { epoch: *epoch, generation: *generation })
            }
            // A savepoint is its user's.
            ManifestId::Savepoint { .. } => false,
        };
        let retired: Vec<ManifestId> =
            self.store.list().await?.into_iter().map(|entry| entry.id).filter(goes).collect();
        if retired.is_empty() {
            return Ok(());
        }
        self.store.retire(&retired, &[]).await.map(|_| ())
    }
}
