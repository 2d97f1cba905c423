#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

pub(crate) fn sample() -> Manifest {
    let file = |number: u64| StoredFile {
        name: format!("files/by_tenant-0/3-00000{number}-00000000deadbeef.sst"),
        local: format!("00000{number}.sst"),
        bytes: 4096 * number,
        xxh3: 0xdead_beef,
    };
    Manifest {
        pipeline: "web-errors".into(),
        instance: "7f3a9c".into(),
        epoch: Epoch(418),
        generation: Generation(3),
        kind: ManifestKind::Checkpoint,
        barrier: BarrierKind::Checkpoint,
        plan: json!({"name": "web-errors", "pipeline": {"parallelism": 1}}),
        revision: Revision("6f1c".repeat(16)),
        created_at: Timestamp(1_790_000_000_000),
        tasks: vec![TaskManifest {
            task: TaskId { stage: "by_tenant".into(), index: 0 },
            key_groups: KeyGroupRange::ALL,
            watermark: EventTime(1_789_999_995_000),
            files: vec![file(1), file(2)],
            meta: json!({"open": [1, 2, 3]}),
            replay_points: vec![("requests/a.ndjson".into(), json!({"version": 1, "offset": 12_345}))],
        }],
        sinks: vec![SinkManifest { node: "by_tenant->lake".into(), handles: vec![json!({"files": []}), json!(null)] }],
        finished: false,
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn task() -> impl Strategy<Value = TaskManifest> {
    let file = (".{1,20}", ".{1,20}", any::<u64>(), any::<u64>()).prop_map(|(name, local, bytes, xxh3)| StoredFile {
        name,
        local,
        bytes,
        xxh3,
    });
    (
        ("[a-z_.]{1,10}", any::<u32>()),
        (0..=64_u16, 64..=128_u16),
        any::<i64>(),
        proptest::collection::vec(file, 0..4),
        value(),
        proptest::collection::vec((".{0,9}", value()), 0..3),
    )
        .prop_map(|((stage, index), (start, end), watermark, files, meta, replay_points)| TaskManifest {
            task: TaskId { stage: stage.as_str().into(), index },
            key_groups: KeyGroupRange { start, end },
            watermark: EventTime(watermark),
            files,
            meta,
            replay_points,
        })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let kind = prop_oneof![
        Just(ManifestKind::Checkpoint),
        "[a-zA-Z0-9_-]{1,20}".prop_map(|name| ManifestKind::Savepoint { name })
    ];
    let sinks =
        (".{0,9}", proptest::collection::vec(value(), 0..3)).prop_map(|(node, handles)| SinkManifest { node, handles });
    let barrier = prop_oneof![
        Just(BarrierKind::Checkpoint),
        Just(BarrierKind::Drain),
        "[0-9a-f]{64}".prop_map(|revision| BarrierKind::Reconfigure(Revision(revision)))
    ];
    (
        (".{0,9}", ".{0,9}", any::<u64>(), any::<u64>(), kind),
        (barrier, value(), "[0-9a-f]{64}", any::<u64>(), any::<bool>()),
        proptest::collection::vec(task(), 0..3),
        proptest::collection::vec(sinks, 0..3),
    )
        .prop_map(
            |((pipeline, instance, epoch, generation, kind), (barrier, plan, revision, at, finished), tasks, sinks)| {
                Manifest {
                    pipeline,
                    instance,
                    epoch: Epoch(epoch),
                    generation: Generation(generation),
                    kind,
                    barrier,
                    plan,
                    revision: Revision(revision),
                    created_at: Timestamp(at),
                    tasks,
                    sinks,
                    finished,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read(manifest in manifest()) {
        prop_assert_eq!(Manifest::from_bytes("here", &manifest.to_bytes()).unwrap(), manifest);
    }

    #[test]
    fn a_name_is_found_again_at_its_location(manifest in manifest()) {
        prop_assert_eq!(ManifestId::from_location(&manifest.id().location()), Some(manifest.id()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Manifest::from_bytes("here", &bytes).is_err());
    }
}

#[test]
fn a_change_of_any_byte_is_found_and_told_with_the_place() {
    let bytes = sample().to_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x04;
        let error = Manifest::from_bytes("/data/checkpoints/x", &damaged).unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. } | StateError::TooNew { .. }), "{at}: {error}");
        assert!(error.to_string().starts_with("/data/checkpoints/x"), "{error}");
    }
}

#[test]
fn version_1_is_what_the_golden_file_holds() {
    crate::golden::check("manifest-1.json", &sample().to_bytes());
    assert_eq!(Manifest::from_bytes("golden", &crate::golden::read("manifest-1.json")).unwrap(), sample());
}

#[test]
fn names_that_are_not_ours_are_passed_over() {
    for location in [
        "manifests/1-2.json.bak",
        "manifests/01-2.json",
        "manifests/.tmp-3-4",
        "manifests/x.json",
        "savepoints/.json",
        "savepoints/a/b.json",
        "files/a",
    ] {
        assert_eq!(ManifestId::from_location(location), None, "{location}");
    }
}
