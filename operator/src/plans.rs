//! What the planner said, remembered by revision: compiling is the costliest thing that the operator does, and a report every
//! few seconds is no reason to do it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use millrace_crds::EditClass;
use millrace_plan::{Edit, NodeChange, ResolvedSpec, compile, diff, revision};
use millrace_stream::Revision;

/// So many answers are kept. Forgetting costs time, nothing else.
const KEPT: usize = 4_096;

/// Remembered answers.
#[derive(Default)]
pub struct Plans {
    edits: Mutex<HashMap<(Revision, Revision), Arc<Edit>>>,
}

impl Plans {
    /// The class of the edit from one spec, which was compiled once, to another, which compiles.
    pub fn edit(&self, from: &ResolvedSpec, to: &ResolvedSpec) -> Arc<Edit> {
        let key = (revision(from), revision(to));
        let mut edits = self.edits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edit) = edits.get(&key) {
            return Arc::clone(edit);
        }
        if edits.len() >= KEPT {
            edits.clear();
        }
        let edit = Arc::new(class(from, to));
        edits.insert(key, Arc::clone(&edit));
        edit
    }
}

fn class(from: &ResolvedSpec, to: &ResolvedSpec) -> Edit {
    match (compile(from), compile(to)) {
        (Ok(from), Ok(to)) => diff(&from, &to),
        // Another version of Millrace took it. The runtime looks at the state itself and refuses what would lose any.
        _ => {
            let why = "the running plan is none that this version would take, so the runtime decides".to_owned();
            let change = NodeChange { node: to.name.clone(), class: EditClass::Hot, why };
            Edit { class: EditClass::Hot, nodes: vec![change] }
        }
    }
}
