#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arrow::datatypes::SchemaRef;
use millrace_stream::{Generation, ManualClock, Revision, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sink::Committer;

/// What the first task of the sink node `rows->out` is given. What it keeps on this machine is lost at once, unless a test
/// makes the folder.
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
        goes_back: false,
        scratch: scratch.join(".scratch"),
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
        version: 2,
        place: Some("made-00000001-1700000000000".to_owned()),
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
        "version": 2,
        "place": "made-00000001-1700000000000",
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
    assert_eq!(Handle::load(&CommitHandle(golden.clone())).unwrap(), handle);

    let mut first_form = golden;
    first_form["version"] = json!(1);
    first_form.as_object_mut().unwrap().remove("place");
    let read = Handle::load(&CommitHandle(first_form)).unwrap();
    assert_eq!(read, Handle { version: 1, place: None, ..handle });
}

#[test]
fn a_handle_of_another_version_is_refused_with_both_versions() {
    let error = Handle::load(&CommitHandle(json!({"version": 9, "files": []}))).unwrap_err();
    assert_eq!(error.to_string(), "the checkpoint's handle of a sink has version 9, this build reads version 2");
}

#[test]
fn a_handle_that_names_a_file_outside_of_the_folder_is_refused() {
    for name in ["/etc/passwd", "../beside.ndjson", "day=1/../../beside", "", "."] {
        let file = Prepared { staged: "a.staged".to_owned(), name: name.to_owned(), ..Prepared::default() };
        let handle = Handle { version: 2, files: vec![file], ..Handle::default() };
        let error = Handle::load(&handle.store().unwrap()).unwrap_err().to_string();
        assert!(error.contains("names a file elsewhere"), "{error}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let texts =
        prop::sample::select(vec!["", "..", "/", "a.staged", "day=1/a.ndjson", "made-1-1", "\u{0}", "\u{fffd}é"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![0, 1, 2, 3, u64::MAX]).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let fields = vec!["version", "files", "held", "spent", "staged", "name", "rows", "bytes", "epoch", "x"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(fields), inner, 0..5)
                .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// A handle in which some things are others than they should be.
fn any_handle() -> impl Strategy<Value = Value> {
    let file = |name: &str| {
        json!({
            "staged": format!("{name}.staged"), "name": format!("{name}.ndjson"), "epoch": 1,
            "rows": u64::MAX, "bytes": u64::MAX, "partition": [["day", null]], "stats": "{}",
        })
    };
    let whole = json!({
        "version": 2,
        "place": "made-00000001-1",
        "files": [file("a"), file("b"), file("day=1/c")],
        "held": {"staged": "d.staged", "bytes": 7, "rows": u64::MAX, "sinceMs": 9},
        "spent": ["e.staged"],
    });
    let places = vec![
        "",
        "/version",
        "/place",
        "/files",
        "/files/0",
        "/files/1/staged",
        "/files/0/name",
        "/files/0/epoch",
        "/files/2/rows",
        "/files/2/partition",
        "/held",
        "/held/bytes",
        "/held/staged",
        "/spent",
        "/spent/0",
    ];
    prop::collection::vec((prop::sample::select(places), any_json()), 0..3).prop_map(move |changes| {
        let mut handle = whole.clone();
        for (place, value) in changes {
            if let Some(found) = handle.pointer_mut(place) {
                *found = value;
            }
        }
        handle
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_handle_of_any_form_makes_a_committer_panic_or_touch_what_is_outside(
        handles in prop::collection::vec(prop_oneof![any_json(), any_handle()].prop_map(CommitHandle), 1..3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        fs::write(folder.path().join("beside"), "keep me").unwrap();
        let (cx, _) = context(Arc::new(arrow::datatypes::Schema::empty()), folder.path().to_path_buf());
        let view = Folder::new(root.clone(), &cx);
        view.create().unwrap();
        for name in ["a", "b", "d", "e"] {
            fs::write(view.staging().join(format!("{name}.staged")), "{}\n").unwrap();
        }
        let mut committer = FolderCommitter::new(view, &cx).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // Whether it succeeds does not matter.
            let _ = committer.commit(Epoch(1), &handles).await;
            let _ = committer.recover(Some((Epoch(1), &handles))).await;
            let _ = committer.discard(&handles).await;
        });
        prop_assert_eq!(fs::read_to_string(folder.path().join("beside")).unwrap(), "keep me");
        let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(beside.len(), 2, "{:?}", beside);
    }
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
