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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use millrace_state::{DataFolder, Opener};
    use millrace_stream::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::window::tests::damage::{any_json, damaged, damaged_bytes};

    /// What is noted of a plan; its revision is made up.
    fn noted() -> Value {
        let columns = json!([
            {"name": "ts", "type": "TIMESTAMP"},
            {"name": "tenant", "type": "VARCHAR"},
            {"name": "status", "type": "INT"},
        ]);
        let source = json!({
            "name": "requests", "file": {"paths": ["logs/*.ndjson"], "follow": true}, "format": {"json": {}},
            "columns": columns, "eventTime": {"column": "ts", "maxOutOfOrderness": "5s"}, "onError": "DeadLetter",
        });
        let transforms = json!([
            {"name": "errors", "sql": "SELECT ts, tenant, status FROM requests WHERE status >= 500"},
            {"name": "counts", "window": "minute", "sql": "SELECT window_start, count(*) AS n FROM errors"},
            {"name": "sums", "emitEvery": "1s", "sql": "SELECT tenant, sum(status) AS s FROM errors GROUP BY tenant"},
        ]);
        let outputs = json!([
            {"from": "counts", "sink": "lake"},
            {"from": "counts.late", "sink": "rows"},
            {"from": "requests.errors", "sink": "rows2"},
        ]);
        let window =
            json!({"hopping": {"size": "1m", "slide": "10s"}, "allowedLateness": "5s", "lateRows": "SideOutput"});
        let file = |path: &str| json!({"file": {"path": path, "format": {"json": {}}}});
        let spec = json!({
            "name": "web",
            "pipeline": {"sources": [source], "transforms": transforms, "outputs": outputs, "parallelism": 2},
            "windows": {"minute": window},
            "sinks": {"lake": {"delta": {"uri": "/out/lake"}}, "rows": file("/out/rows"), "rows2": file("/out/rows2")},
        });
        json!({"revision": "0123abcd", "spec": spec})
    }

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let folder = tempfile::tempdir().unwrap();
        let opener = Opener::this_process(Timestamp(0), "instance".to_owned());
        let opened = DataFolder::open(folder.path(), &opener).unwrap();
        (folder, opened)
    }

    #[test]
    fn what_was_started_is_found_with_its_plan() {
        let (_place, folder) = folder();
        assert!(folder.started::<Started>().is_none());
        folder.note_started(&noted()).unwrap();
        let plan = folder.started::<Started>().unwrap().left_behind([None, None]).unwrap();
        folder.note_started(&Started::of(&plan)).unwrap();
        let started = folder.started::<Started>().unwrap();
        assert!(started.is(&plan) && started.left_behind([Some(&plan), None]).is_none(), "it is gone on with");
    }

    proptest! {
        #[test]
        fn a_note_of_any_bytes_is_none(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            damaged_bytes(sealed()).prop_filter("damage", |bytes| *bytes != sealed()),
        ]) {
            let (place, folder) = folder();
            fs::write(place.path().join("started"), bytes).unwrap();
            prop_assert!(folder.started::<Started>().is_none());
        }

        #[test]
        fn a_note_with_damage_under_a_right_checksum_is_a_plan_or_none(
            note in prop_oneof![8 => damaged(&noted()), 1 => any_json()],
        ) {
            let (_place, folder) = folder();
            folder.note_started(&note).unwrap();
            if let Some(plan) = folder.started::<Started>().and_then(|started| started.left_behind([None, None])) {
                folder.note_started(&Started::of(&plan)).unwrap();
                prop_assert!(folder.started::<Started>().unwrap().is(&plan));
            }
        }
    }

    /// The note as it lies in the folder.
    fn sealed() -> Vec<u8> {
        millrace_state::envelope::seal("started", 1, &noted())
    }
}
