//! What sinks hold back, where the plan that comes does not go on with them.
//!
//! A sink that gathers rows over several epochs holds them in a file that only its successor can continue, task by task. At the
//! barrier of an edit it holds nothing back. But the process may have been killed, and the edit comes with the next start. Then the
//! sinks of the plan that wrote the checkpoint close their files first, in an epoch of its own that differs from the last one
//! in nothing else: prepared, decided by the pointer, committed, like any other.
//!
//! So it is where somebody goes back to an older checkpoint: what that held back may have been shown since, and is not held any
//! longer.

use std::collections::BTreeMap;

use millrace_connectors::{Committer, SinkContext};
use millrace_plan::{Plan, SinkNode};
use millrace_state::{Manifest, ManifestKind, SinkManifest};
use millrace_stream::{
    BarrierKind, Epoch, Generation, NodeName,
    checkpoint::{Decided, Taken},
};

use crate::{
    JobContext, JobError,
    commits::{CommitError, Handles},
    drive::{sink_handles, sink_nodes},
    launch::Connectors,
    recover::move_pointer,
    stages::Head,
};

/// Whether a plan goes on with a sink as it is: the same destination, for the same columns.
pub fn goes_on(plan: &Plan, name: &NodeName, sink: &SinkNode) -> bool {
    let same =
        |other: &SinkNode| other.spec == sink.spec && other.schema == sink.schema && other.changelog == sink.changelog;
    sink_nodes(plan).any(|(other_name, other)| other_name == name && same(other))
}

/// From what to what a start goes.
#[derive(Clone, Copy)]
pub struct Course<'a> {
    /// The plan that wrote the checkpoint.
    pub old: &'a Plan,
    /// The plan that comes.
    pub plan: &'a Plan,
    /// Whether later checkpoints are passed over.
    pub goes_back: bool,
    /// Whether there is a checkpoint that has the number before the first epoch.
    pub is_numbered: bool,
}

/// The checkpoint of epoch `first`, decided and committed, in which nothing is held back that the plan does not go on with;
/// `None` if nothing is and there is no need of one for its number. `manifest`, written by the old plan, is the newest of
/// `decided`, to which the new one is added.
pub async fn conclude(
    course: &Course<'_>,
    committers: &mut BTreeMap<NodeName, Box<dyn Committer>>,
    manifest: &Manifest,
    (decided, first): (&mut Vec<Decided>, Epoch),
    generation: Generation,
    cx: &JobContext,
) -> Result<Option<Manifest>, JobError> {
    let mut handles = sink_handles(manifest);
    let closed = close(course, &mut handles, first, generation, cx).await?;
    if closed.is_empty() && course.is_numbered {
        return Ok(None);
    }
    let stored = |(node, handles): (&NodeName, &Vec<millrace_connectors::CommitHandle>)| SinkManifest {
        node: node.0.clone(),
        handles: handles.iter().map(|handle| handle.0.clone()).collect(),
    };
    let concluded = Manifest {
        epoch: first,
        generation,
        kind: ManifestKind::Checkpoint,
        barrier: BarrierKind::Checkpoint,
        created_at: cx.clock.now(),
        sinks: handles.iter().map(stored).collect(),
        ..manifest.clone()
    };
    // Its name has the generation in it, so nobody else's is there.
    cx.store.create_manifest(&concluded).await?;
    decided.push(Decided { taken: Taken { epoch: first, generation }, savepoint: false });
    move_pointer(cx, Some(manifest.epoch), generation, decided, Some(&concluded)).await?;
    for node in &closed {
        let (Some(committer), Some(handles)) = (committers.get_mut(node), handles.get(node)) else { continue };
        let committed = committer.commit(first, handles).await;
        let committed = committed.map_err(|source| CommitError { node: node.clone(), source })?;
        cx.metrics.committed_rows.add(committed.rows);
        tracing::info!(sink = %node, epoch = %first, rows = committed.rows,
            "committed what was held back for a fuller file, before the edit is taken up");
    }
    Ok(Some(concluded))
}

/// Has the sinks of `old` that `plan` does not go on with, and the tasks of others for which it has none, close what they hold;
/// answers which did.
async fn close(
    &Course { old, plan, goes_back, .. }: &Course<'_>,
    handles: &mut Handles,
    epoch: Epoch,
    generation: Generation,
    cx: &JobContext,
) -> Result<Vec<NodeName>, JobError> {
    let connectors = Connectors::of(old)?;
    let stages = Connectors::of(plan)?.stages(plan).stages;
    // How many of a sink's tasks go on.
    let tasks = |name: &NodeName, node: &SinkNode| {
        let stage = stages.iter().find(|stage| matches!(stage.head, Head::Sink(_)) && stage.node == *name);
        stage.filter(|_| !goes_back && goes_on(plan, name, node)).map_or(0, |stage| stage.parallelism)
    };
    let mut closed = Vec::new();
    for (name, node) in sink_nodes(old) {
        let (Some(factory), Some(handles)) = (connectors.sinks.get(name), handles.get_mut(name)) else { continue };
        let failed = |source| JobError::Sink { node: name.clone(), source };
        let going_on = tasks(name, node);
        for (index, handle) in (0..).zip(handles).filter(|(index, handle)| *index >= going_on && factory.holds(handle))
        {
            let sink_cx = SinkContext { goes_back, ..cx.sink_context(old, name, node, generation, index)? };
            let mut sink = factory.open(sink_cx, Some(handle.clone())).await.map_err(failed)?;
            sink.finish();
            *handle = sink.prepare(epoch).await.map_err(failed)?;
            if closed.last() != Some(name) {
                closed.push(name.clone());
            }
        }
    }
    Ok(closed)
}
