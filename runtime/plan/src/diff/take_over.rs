//! Whether a stage can go on with what it remembers, and from when on a window of other lengths holds.

use millrace_crds::DurationStr;
use millrace_stream::{NodeName, StageId};

use crate::{
    boundary::Boundaries,
    graph::{Input, KeyedOp, KeyedStage, NodeKind, OutputName, Plan, WindowDef, WindowKind},
};

/// Whether a keyed stage can go on with what its namesake in an older plan remembered. A stage that only one of them has
/// can.
pub fn keeps_state(old: &Plan, new: &Plan, stage: &StageId) -> bool {
    let (Some((_, before)), Some((node, after))) = (stage_of(old, stage), stage_of(new, stage)) else { return true };
    if before.state_signature != after.state_signature {
        return false;
    }
    match (&before.op, &after.op) {
        (KeyedOp::Window(was), KeyedOp::Window(is)) => match take_over(&was.def, &is.def, new, node, stage) {
            TakeOver::AtOnce | TakeOver::At(_) => true,
            TakeOver::Never | TakeOver::Ranked => false,
        },
        _ => true,
    }
}

fn stage_of<'a>(plan: &'a Plan, id: &StageId) -> Option<(&'a NodeName, &'a KeyedStage)> {
    plan.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Transform(transform) => {
            transform.keyed.iter().find(|stage| stage.id == *id).map(|stage| (&node.name, stage))
        }
        NodeKind::Source(_) | NodeKind::Sink(_) => None,
    })
}

/// How a window takes over from the one that its stage had.
pub(super) enum TakeOver {
    /// The lengths are the same.
    AtOnce,
    /// At the next of these instants.
    At(Boundaries),
    /// There is no instant at which it could.
    Never,
    /// Windows of both would end at the same instant, by which a ranking tells windows apart.
    Ranked,
}

pub(super) fn take_over(was: &WindowDef, is: &WindowDef, new: &Plan, node: &NodeName, stage: &StageId) -> TakeOver {
    if was.kind == is.kind {
        return TakeOver::AtOnce;
    }
    // A window that began before the others and is not longer ends before any of them does.
    let overlap = match was.kind {
        WindowKind::Hopping { size_ms, slide_ms, .. } => size_ms > slide_ms && size_of(is.kind) < size_ms,
        _ => false,
    };
    match Boundaries::of(was.kind, is.kind) {
        None => TakeOver::Never,
        Some(_) if overlap && is_ranked(new, node, Some(stage)) => TakeOver::Ranked,
        Some(boundaries) => TakeOver::At(boundaries),
    }
}

/// How long the windows are.
fn size_of(kind: WindowKind) -> i64 {
    match kind {
        WindowKind::Tumbling { size_ms, .. } | WindowKind::Hopping { size_ms, .. } => size_ms,
        WindowKind::Rolling { .. } | WindowKind::Session { .. } => i64::MAX,
    }
}

/// Whether the rows of a transform, or of this stage of it, are ranked before anything else is remembered of them.
fn is_ranked(plan: &Plan, name: &NodeName, stage: Option<&StageId>) -> bool {
    if let Some(stage) = stage
        && let Some(NodeKind::Transform(transform)) = plan.node(name).map(|node| &node.kind)
        && let Some(next) = transform.keyed.iter().skip_while(|other| other.id != *stage).nth(1)
    {
        return matches!(next.op, KeyedOp::Top(_));
    }
    plan.nodes.iter().any(|node| match &node.kind {
        NodeKind::Transform(reader) => {
            let reads = |input: &Input| input.node == *name && input.output == OutputName::Main;
            reader.branches.iter().any(|branch| reads(&branch.input))
                && match reader.keyed.first() {
                    Some(stage) => matches!(stage.op, KeyedOp::Top(_)),
                    None => is_ranked(plan, &node.name, None),
                }
        }
        NodeKind::Source(_) | NodeKind::Sink(_) => false,
    })
}

/// The same in words.
pub(super) fn how_it_takes_over(kind: WindowKind, boundaries: &Boundaries) -> String {
    match kind {
        WindowKind::Tumbling { .. } | WindowKind::Hopping { .. } => {
            let every = match boundaries.every_ms() {
                Some(ms) => format!(" (one every {})", DurationStr::from_millis(ms.unsigned_abs())),
                None => String::new(),
            };
            format!(
                "from the next instant at which windows of both begin{every}; those that began before it end as they were"
            )
        }
        WindowKind::Rolling { .. } => {
            "for the rows that are later than all so far; a longer range begins with what is still remembered"
                .to_owned()
        }
        WindowKind::Session { .. } => {
            "for sessions that begin later than all rows so far; those that are open keep their gap".to_owned()
        }
    }
}
