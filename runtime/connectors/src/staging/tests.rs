#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arrow::datatypes::SchemaRef;
use millrace_stream::{Generation, ManualClock, Revision, Timestamp};
use serde_json::json;

use super::*;

/// What the first task of the sink node `rows->out` is given.
pub(crate) fn context(schema: SchemaRef, scratch: PathBuf) -> (SinkContext, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let cx = SinkContext {
        pipeline: "web".to_owned(),
        instance: "0123456789abcdef0123".to_owned(),
        revision: Revision("ab".repeat(32)),
        node: "rows->out".to_owned(),
        generation: Generation(1),
        index: 0,
        schema,
        changelog: None,
        clock: clock.clone(),
        scratch,
    };
    (cx, clock)
}

/// Every file under `root` that a reader may find, with its text: names relative to `root`, what is hidden left out.
pub(crate) fn visible(root: &Path) -> BTreeMap<String, Vec<u8>> {
    files(root).into_iter().filter(|(name, _)| !name.starts_with('.')).collect()
}

/// Every file under `root`.
pub(crate) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_stored_handle_keeps_its_form() {
    let handle = Handle {
        version: 1,
        files: vec![Prepared {
            staged: "00000001-t0-0.staged".to_owned(),
            name: "day=2013-01-31/web-e1-t0.parquet".to_owned(),
            epoch: 1,
            rows: 3,
            bytes: 40,
            partition: vec![("day".to_owned(), Some("2013-01-31".to_owned())), ("x".to_owned(), None)],
            stats: Some("{\"numRecords\":3}".to_owned()),
        }],
        held: Some(Held { staged: "00000001-t0-1.staged".to_owned(), bytes: 7, rows: 1, since_ms: 9 }),
        spent: vec!["00000001-t0-2.staged".to_owned()],
    };
    let golden = json!({
        "version": 1,
        "files": [{
            "staged": "00000001-t0-0.staged",
            "name": "day=2013-01-31/web-e1-t0.parquet",
            "epoch": 1,
            "rows": 3,
            "bytes": 40,
            "partition": [["day", "2013-01-31"], ["x", null]],
            "stats": "{\"numRecords\":3}",
        }],
        "held": {"staged": "00000001-t0-1.staged", "bytes": 7, "rows": 1, "sinceMs": 9},
        "spent": ["00000001-t0-2.staged"],
    });
    assert_eq!(handle.store().unwrap().0, golden);
    assert_eq!(Handle::load(&CommitHandle(golden)).unwrap(), handle);
}

#[test]
fn a_handle_of_another_version_is_refused_with_both_versions() {
    let error = Handle::load(&CommitHandle(json!({"version": 9, "files": []}))).unwrap_err();
    assert_eq!(error.to_string(), "the checkpoint's handle of a sink has version 9, this build reads version 1");
}

#[test]
fn a_folder_is_named_by_a_path_or_a_file_url() {
    assert_eq!(local_folder("/out/rows").unwrap(), PathBuf::from("/out/rows"));
    assert_eq!(local_folder("file:///out/a%20b").unwrap(), PathBuf::from("/out/a b"));
    assert!(local_folder("out").unwrap().is_absolute());
    let error = local_folder("s3://lake/rows").unwrap_err().to_string();
    assert!(error.contains("s3 store"), "{error}");
    assert!(local_folder("file://host/out").is_err());
}

#[test]
fn a_batch_is_due_at_the_first_limit_that_it_reaches() {
    let batching = Batching { max_rows: Some(10), max_bytes: Some(100), max_delay: Some(Duration::from_secs(5)) };
    let (start, soon, later) = (Timestamp(1_000), Timestamp(5_999), Timestamp(6_000));
    assert!(!batching.is_due(9, 99, start, soon));
    assert!(batching.is_due(10, 1, start, soon));
    assert!(batching.is_due(1, 100, start, soon));
    assert!(batching.is_due(1, 1, start, later));
    assert!(batching.is_due(1, 1, later, start), "a clock that jumped back holds nothing back");
    assert!(Batching::default().is_due(1, 1, start, start), "without limits every epoch is committed");
}
