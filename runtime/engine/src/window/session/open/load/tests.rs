#![allow(clippy::unwrap_used)]

use arrow::array::Int32Array;
use millrace_plan::WindowKind;
use millrace_state::{RestoreFrom, StoreResources, TaskStore};
use millrace_stream::{KeyGroup, KeyGroupRange, key_hash};
use tempfile::TempDir;

use super::*;
use crate::{
    aggregate::Aggregates,
    window::{
        session::STATES,
        tests::{aligned, plans},
    },
};

/// Sessions that older releases wrote, with the same state. What was released never changes.
const VALUE_1: &[u8] = b"\x01\x00\x00\x00\x00\x00\x00\x00\x07state";
const VALUE_2: &[u8] = b"\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x09state";

#[test]
fn entries_of_versions_1_and_2_are_read() {
    assert_eq!(decode_old(VALUE_2).unwrap(), (7, Some(9), &b"state"[..]));
    assert_eq!(decode_old(VALUE_1).unwrap(), (7, None, &b"state"[..]));
    (0..17).for_each(|bytes| assert!(decode_old(&VALUE_2[..bytes]).is_err(), "{bytes} bytes"));
    (0..9).for_each(|bytes| assert!(decode_old(&VALUE_1[..bytes]).is_err(), "{bytes} bytes of version 1"));
    assert!(decode_old(b"\x03").is_err());
}

fn sessions_of(store: &Arc<TaskStore>) -> OpenSessions {
    let plan = plans::window(
        WindowKind::Session { gap_ms: 10 },
        0,
        &aligned::input(),
        &[2],
        aligned::native(&aligned::input()),
    );
    let aggregates = Aggregates::new(&plan.aggregates, &plan.input).unwrap();
    let key_types = [plan.input.field(2).data_type().clone()];
    OpenSessions::new(&key_types, KeyGroupRange::ALL, vec![(i64::MIN, 10)], &aggregates, store).unwrap()
}

/// What a release that had an entry a session left is open again, and the next checkpoint has it as columns, and no entry.
#[test]
fn sessions_of_an_older_release_go_on() {
    let folder = TempDir::new().unwrap();
    let resources = StoreResources::new(1 << 20);
    let store = Arc::new(TaskStore::create(&folder.path().join("old"), &[STATE], &resources).unwrap());
    let old = sessions_of(&store);
    // A state of no rows, as the aggregates have it.
    let empty = old.aggregates.accumulators().unwrap().into_state().unwrap();
    assert!(empty.iter().all(|column| column.is_empty()));
    let mut total = old.aggregates.accumulators().unwrap();
    let rows = aligned::batch_of(&[aligned::random_row(&mut crate::window::tests::Random::new(1), 5, 3)]);
    total.update(&rows, &[0], 1).unwrap();
    let state = super::super::state_converter(&old.aggregates).unwrap();
    let state = state.convert_columns(&total.into_state().unwrap()).unwrap();
    let keys: [i32; 3] = [1, 2, 3];
    let mut run = store.writer();
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let converter = key_converter(&old.key_types).unwrap().unwrap();
    for key in keys {
        let column: arrow::array::ArrayRef = Arc::new(Int32Array::from(vec![key]));
        let mut hashes = Vec::new();
        key_hash::hash_columns(&[Arc::clone(&column)], &mut hashes);
        let rows = converter.convert_columns(&[column]).unwrap();
        let key = i64::from(key);
        let start = ((100 * key as u64) ^ (1 << 63)).to_be_bytes();
        let prefix = prefix(KeyGroup::of_hash(hashes[0]).0, OLD);
        let value = [&[2][..], &(100 * key + 4).to_be_bytes(), &10_i64.to_be_bytes(), state.row(0).data()].concat();
        entries.push(([&prefix[..], rows.row(0).data(), &start].concat(), value));
    }
    entries.sort();
    entries.iter().for_each(|(name, value)| run.put(STATE, name, value).unwrap());
    run.finish().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    store.checkpoint(&checkpoint).unwrap();

    let range = KeyGroupRange::ALL;
    let from = [RestoreFrom { dir: checkpoint, range }];
    let store = Arc::new(TaskStore::restore(&folder.path().join("new"), &STATES, range, &from, &resources).unwrap());
    let mut sessions = sessions_of(&store);
    sessions.load(1, 1 << 20).unwrap();
    let mut ends: Vec<i64> = sessions.take_new().iter().map(|slot| sessions.end_of(*slot)).collect();
    ends.sort_unstable();
    assert_eq!(ends, [114, 214, 314]);
    sessions.freeze().unwrap()(&store).unwrap();
    sessions.thaw();
    assert_eq!(store.scan_all(STATE).unwrap().count(), 0, "no entry is left");
    let mut again = sessions_of(&store);
    again.load(2, 1 << 20).unwrap();
    assert_eq!(again.len(), 3);
}
