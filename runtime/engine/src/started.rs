//! The plan that a process has started, as its data folder remembers it: if it is killed before its first checkpoint nothing else says
//! where it has staged files.

use millrace_plan::{Plan, ResolvedSpec};
use millrace_stream::Revision;
use serde::{Deserialize, Serialize};

/// The plan that was started last.
#[derive(Serialize, Deserialize)]
pub struct Started {
    revision: Revision,
    spec: ResolvedSpec,
}

impl Started {
    /// This plan.
    pub fn of(plan: &Plan) -> Self {
        Self { revision: plan.revision.clone(), spec: plan.spec.clone() }
    }

    /// Whether it is this one.
    pub fn is(&self, plan: &Plan) -> bool {
        self.revision == plan.revision
    }

    /// The plan, if it is none of these: nobody goes on with it.
    pub fn left_behind(&self, others: [Option<&Plan>; 2]) -> Option<Plan> {
        let is_left = others.into_iter().flatten().all(|plan| !self.is(plan));
        // One that this release cannot read stays as it is.
        is_left.then(|| millrace_plan::compile(&self.spec).ok()).flatten()
    }
}
