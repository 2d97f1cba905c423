#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

const STATES: [&str; 2] = ["groups", "spilled"];

type Model = BTreeMap<(usize, Vec<u8>), Vec<u8>>;
/// State, key group, key, value or deletion.
type Change = (usize, u16, u8, Option<Vec<u8>>);

#[derive(Clone, Debug)]
enum Step {
    Run(Vec<Change>),
    /// A checkpoint of every store, from which all go on.
    Restart,
    /// The same at a parallelism of this many tasks.
    Rescale(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    let change = (0..2_usize, 0..128_u16, 0..6_u8, value);
    prop_oneof![
        4 => proptest::collection::vec(change, 0..60).prop_map(Step::Run),
        1 => Just(Step::Restart),
        1 => (1..5_u32).prop_map(Step::Rescale),
    ]
}

fn resources() -> StoreResources {
    StoreResources::new(1 << 20)
}

fn key(group: u16, rest: u8) -> Vec<u8> {
    let mut key = group.to_be_bytes().to_vec();
    key.push(rest);
    key
}

struct Tasks {
    folder: tempfile::TempDir,
    resources: StoreResources,
    stores: Vec<(KeyGroupRange, TaskStore)>,
    incarnation: u32,
}

impl Tasks {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let resources = resources();
        let store = TaskStore::create(&folder.path().join("db"), &STATES, &resources).unwrap();
        Self { folder, resources, stores: vec![(KeyGroupRange::ALL, store)], incarnation: 0 }
    }

    fn run(&self, changes: &[Change], model: &mut Model) {
        let sorted: Model = changes
            .iter()
            .map(|(state, group, rest, value)| {
                ((*state, key(*group, *rest)), value.clone().map_or(vec![], |value| [&[1], &value[..]].concat()))
            })
            .collect();
        for (range, store) in &self.stores {
            let mut run = store.writer();
            for ((state, key), value) in &sorted {
                let group = u16::from_be_bytes([key[0], key[1]]);
                if range.contains(millrace_stream::KeyGroup(group)) {
                    match value.split_first() {
                        Some((_, value)) => run.put(STATES[*state], key, value).unwrap(),
                        None => run.delete(STATES[*state], key).unwrap(),
                    }
                }
            }
            run.finish().unwrap();
        }
        for (at, value) in sorted {
            match value.split_first() {
                Some((_, value)) => drop(model.insert(at, value.to_vec())),
                None => drop(model.remove(&at)),
            }
        }
    }

    fn restart(&mut self, parallelism: u32) {
        self.incarnation += 1;
        let mut from = Vec::new();
        for (index, (range, store)) in self.stores.drain(..).enumerate() {
            let dir = self.folder.path().join(format!("copy-{}-{index}", self.incarnation));
            store.checkpoint(&dir).unwrap();
            from.push(RestoreFrom { dir, range });
        }
        for index in 0..parallelism {
            let range = KeyGroupRange::of_task(index, parallelism);
            let dir = self.folder.path().join(format!("db-{}-{index}", self.incarnation));
            let mine: Vec<_> = from.iter().filter(|from| from.range.intersection(range).is_some()).cloned().collect();
            let store = TaskStore::restore(&dir, &STATES, range, &mine, &self.resources).unwrap();
            self.stores.push((range, store));
        }
    }

    fn content(&self) -> Model {
        let mut content = Model::new();
        for (_, store) in &self.stores {
            for (number, state) in STATES.iter().enumerate() {
                let mut last: Option<Box<[u8]>> = None;
                for entry in store.scan_all(state).unwrap() {
                    let (key, value) = entry.unwrap();
                    assert!(last.as_ref().is_none_or(|last| *last < key), "ascending");
                    last = Some(key.clone());
                    assert!(content.insert((number, key.into()), value.into()).is_none(), "in one store only");
                }
            }
        }
        content
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn stores_hold_what_a_map_holds_over_runs_restarts_and_rescales(steps in proptest::collection::vec(step(), 1..14)) {
        let (mut tasks, mut model) = (Tasks::new(), Model::new());
        for step in steps {
            match step {
                Step::Run(changes) => tasks.run(&changes, &mut model),
                Step::Restart => {
                    let parallelism = tasks.stores.len() as u32;
                    tasks.restart(parallelism);
                    prop_assert!(tasks.stores.iter().all(|(_, store)| store.origin() == Origin::Linked));
                }
                Step::Rescale(parallelism) => tasks.restart(parallelism),
            }
            prop_assert_eq!(&tasks.content(), &model);
        }
        for (range, store) in &tasks.stores {
            for (number, state) in STATES.iter().enumerate() {
                let keys: Vec<_> = (range.start..range.end).flat_map(|group| (0..6).map(move |rest| key(group, rest))).collect();
                let values = store.multi_get(state, &keys).unwrap();
                for (key, value) in keys.into_iter().zip(values) {
                    prop_assert_eq!(value.as_deref(), model.get(&(number, key)).map(Vec::as_slice));
                }
                let part = key_range(*range);
                let middle = key(range.start, 3);
                let scanned: Vec<_> = store.scan(state, &middle..&part.end).unwrap().map(|entry| entry.unwrap().0).collect();
                let expected: Vec<_> = model.keys().filter(|(of, key)| {
                    *of == number && *key >= middle && key[..] < part.end[..]
                }).map(|(_, key)| key.clone().into_boxed_slice()).collect();
                prop_assert_eq!(scanned, expected);
            }
        }
    }
}

#[test]
fn a_key_that_does_not_ascend_is_refused_with_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(folder.path(), &STATES, &resources()).unwrap();
    let mut run = store.writer();
    run.put("groups", [0, 2], b"x").unwrap();
    run.put("spilled", [0, 1], b"each state has an order of its own").unwrap();
    let error = run.delete("groups", [0, 2]).unwrap_err();
    assert!(error.to_string().contains("key 0x0002 of state \"groups\" does not come after 0x0002"), "{error}");
    drop(run);
    assert_eq!(store.scan_all("groups").unwrap().count(), 0, "a run that was not finished leaves nothing");
    assert_eq!(fs::read_dir(folder.path().join(RUNS_FOLDER)).unwrap().count(), 0);
    let error = store.writer().put("grups", b"a", b"b").unwrap_err();
    assert!(error.to_string().ends_with("has no state \"grups\"; it has groups, spilled"), "{error}");
}

#[test]
fn an_empty_run_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(folder.path(), &STATES, &resources()).unwrap();
    assert_eq!(store.writer().finish().unwrap(), RunStats::default());
    assert!(store.checkpoint(&folder.path().join("copy")).unwrap().iter().all(|file| !file.immutable));
}

#[test]
fn a_large_run_is_cut_into_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(folder.path(), &STATES, &resources()).unwrap();
    let mut run = store.writer();
    let mut noise = 1_u64;
    for number in 0..160_u32 {
        let value: Vec<u8> = (0..512 << 10)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            })
            .collect();
        run.put("groups", number.to_be_bytes(), value).unwrap();
    }
    let stats = run.finish().unwrap();
    assert!((2..=3).contains(&stats.files), "{stats:?}");
    assert!(stats.bytes > 80 << 20, "{stats:?}");
    assert_eq!(store.scan_all("groups").unwrap().count(), 160);
}

#[test]
fn many_runs_are_merged_behind_the_writers_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(folder.path(), &STATES, &resources()).unwrap();
    for round in 0..60_u32 {
        let mut run = store.writer();
        for number in 0..200_u32 {
            run.put("groups", number.to_be_bytes(), round.to_be_bytes()).unwrap();
        }
        run.finish().unwrap();
    }
    for _ in 0..600 {
        if store.stats().runs <= RUNS_BEFORE_COMPACTION as u64 + 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(store.stats().runs <= RUNS_BEFORE_COMPACTION as u64 + 1, "{:?}", store.stats());
    let last: Vec<_> = store.scan_all("groups").unwrap().map(|entry| entry.unwrap().1).collect();
    assert!(last.len() == 200 && last.iter().all(|value| **value == 59_u32.to_be_bytes()));
}

#[test]
fn a_checkpoint_is_not_changed_by_what_comes_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(&folder.path().join("db"), &STATES, &resources()).unwrap();
    let put = |value: &[u8]| {
        let mut run = store.writer();
        run.put("groups", [0, 0, 1], value).unwrap();
        run.finish().unwrap();
    };
    put(b"before");
    let copy = folder.path().join("copy");
    let files = store.checkpoint(&copy).unwrap();
    assert_eq!(files.iter().filter(|file| file.immutable).count(), 1, "{files:?}");
    put(b"after");
    let again = store.checkpoint(&folder.path().join("again")).unwrap();
    assert!(again.iter().any(|file| file.name == files[0].name), "the delta is one more file: {again:?}");
    // Only what was returned is needed: the name of the current list is made up for.
    fs::remove_file(copy.join("CURRENT")).unwrap();
    for name in ["first", "second"] {
        let from = [RestoreFrom { dir: copy.clone(), range: KeyGroupRange::ALL }];
        let dir = folder.path().join(name);
        let restored = TaskStore::restore(&dir, &STATES, KeyGroupRange::ALL, &from, &resources()).unwrap();
        let values = restored.multi_get("groups", &[[0, 0, 1]]).unwrap();
        assert_eq!(values[0].as_deref(), Some(&b"before"[..]));
    }
}

#[test]
fn key_groups_that_are_nowhere_or_twice_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let restore = |ranges: &[(u16, u16)]| {
        let from: Vec<_> = ranges
            .iter()
            .map(|(start, end)| RestoreFrom {
                dir: folder.path().join(format!("{start}")),
                range: KeyGroupRange { start: *start, end: *end },
            })
            .collect();
        let dir = folder.path().join("db");
        TaskStore::restore(&dir, &STATES, KeyGroupRange::ALL, &from, &resources()).unwrap_err().to_string()
    };
    assert!(restore(&[(0, 64)]).contains("group 64 is in none of 1 checkpoints"));
    assert!(restore(&[(0, 64), (63, 128)]).contains("group 63 is in"));
    assert!(restore(&[]).contains("group 0 is in none"));
}

#[test]
fn a_state_that_would_be_lost_is_refused_and_a_new_one_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(&folder.path().join("db"), &STATES, &resources()).unwrap();
    let copy = folder.path().join("copy");
    store.checkpoint(&copy).unwrap();
    let from = [RestoreFrom { dir: copy, range: KeyGroupRange::ALL }];
    let restore = |states: &[&str]| {
        TaskStore::restore(&folder.path().join("new"), states, KeyGroupRange::ALL, &from, &resources())
    };
    let error = restore(&["groups"]).unwrap_err();
    assert!(error.to_string().contains("has no state \"spilled\"") || error.to_string().contains("spilled"), "{error}");
    let restored = restore(&["groups", "spilled", "sessions"]).unwrap();
    assert_eq!(restored.scan_all("sessions").unwrap().count(), 0);
}

#[test]
fn a_damaged_data_file_gives_an_error_and_no_wrong_value() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(&folder.path().join("db"), &STATES, &resources()).unwrap();
    let mut run = store.writer();
    for number in 0..2_000_u32 {
        run.put("groups", number.to_be_bytes(), (number * 7).to_be_bytes()).unwrap();
    }
    run.finish().unwrap();
    let files = store.checkpoint(&folder.path().join("copy")).unwrap();
    let data = files.iter().find(|file| file.immutable).unwrap();
    let whole = fs::read(&data.path).unwrap();
    let damaged_folder = folder.path().join("damaged");
    for at in (0..whole.len()).step_by(whole.len() / 24) {
        remove_folder(&damaged_folder).unwrap();
        fs::create_dir(&damaged_folder).unwrap();
        for file in &files {
            fs::copy(&file.path, damaged_folder.join(&file.name)).unwrap();
        }
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        fs::write(damaged_folder.join(&data.name), damaged).unwrap();
        let from = [RestoreFrom { dir: damaged_folder.clone(), range: KeyGroupRange::ALL }];
        let read = || -> Result<(), StateError> {
            let dir = folder.path().join("new");
            let store = TaskStore::restore(&dir, &STATES, KeyGroupRange::ALL, &from, &resources())?;
            for (number, entry) in (0_u32..).zip(store.scan_all("groups")?) {
                let (key, value) = entry?;
                assert_eq!((&*key, &*value), (&number.to_be_bytes()[..], &(number * 7).to_be_bytes()[..]), "at {at}");
            }
            Ok(())
        };
        if let Err(error) = read() {
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Restart | ErrorKind::FixSpec),
                "at {at}: {error}"
            );
        }
    }
}
