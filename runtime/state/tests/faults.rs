//! A process that takes checkpoints is killed at every fault point of this crate, at the first hit and at later ones. What it
//! leaves must be what the pointer says: the decided checkpoint whole, and nothing but garbage beside it, which the next
//! start removes before it goes on to the same end as an undisturbed run.

#![cfg(feature = "fault-points")]
#![allow(clippy::unwrap_used)]

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use millrace_state::{
    CheckpointStore, Create, DataFolder, FilePointer, Latest, Manifest, ManifestId, ManifestKind, Opener, Origin,
    RestoreFrom, StoreResources, TaskManifest, TaskStore, fault, pointer::Newest,
};
use millrace_stream::{
    BarrierKind, Epoch, EventTime, Generation, KeyGroupRange, Revision, TaskId, Timestamp,
    checkpoint::{Advance, Claim, Decided, Taken},
};
use serde_json::json;

const CHILD: &str = "MILLRACE_STATE_CHILD";
const EPOCHS: u64 = 5;
const RETAIN: usize = 2;
const STATES: [&str; 2] = ["sums", "seen"];
const KEYS: u16 = 64;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn task() -> TaskId {
    TaskId { stage: "counts".into(), index: 0 }
}

/// What every key holds after an epoch, in both states.
fn value(epoch: u64, key: u16) -> Vec<u8> {
    format!("{epoch}/{key}").into_bytes()
}

fn opener() -> Opener {
    Opener::this_process(Timestamp(1), "one".into())
}

/// Recovers, and goes on to the last epoch: what an engine does, without one.
fn pipeline(path: &Path) {
    let data = DataFolder::open(path, &opener()).unwrap();
    let store = CheckpointStore::in_folder(&data.checkpoints(), "p").unwrap();
    let pointer = FilePointer::open(store.folder().unwrap()).unwrap();
    let generation = data.next_generation(None).unwrap();
    let Claim::Take(mut claimed) = pointer.claim_now(generation).unwrap() else { panic!("fenced") };

    // What was never decided goes: manifests first, then files that no manifest names.
    let decided: Vec<ManifestId> = claimed.decided.iter().map(|decided| decided.taken.into()).collect();
    let undecided = wait(store.list()).unwrap().into_iter().map(|entry| entry.id).filter(|id| !decided.contains(id));
    wait(store.retire(&undecided.collect::<Vec<_>>(), &[])).unwrap();
    wait(store.delete_orphans(Generation(u64::MAX))).unwrap();

    let resources = StoreResources::new(1 << 20);
    let (db, fetched) = (data.task_store(&task()), data.task_folder(&task()).join("fetched"));
    let (tasks, mut known) = match claimed.decided.last() {
        None => (TaskStore::create(&db, &STATES, &resources).unwrap(), vec![]),
        Some(last) => {
            let manifest = wait(store.read_manifest(&ManifestId::from(last.taken).location())).unwrap();
            let local = data.task_checkpoint(&task(), last.taken.epoch);
            wait(store.fetch_task(&manifest.tasks[0], &fetched, Some(&local))).unwrap();
            let from = [RestoreFrom { dir: fetched, range: KeyGroupRange::ALL }];
            let tasks = TaskStore::restore(&db, &STATES, KeyGroupRange::ALL, &from, &resources).unwrap();
            assert_eq!(tasks.origin(), Origin::Linked);
            (tasks, manifest.tasks[0].files.clone())
        }
    };

    while claimed.epoch().is_none_or(|epoch| epoch.0 < EPOCHS) {
        let epoch = claimed.epoch().map_or(1, |epoch| epoch.0 + 1);
        let mut run = tasks.writer();
        for state in STATES {
            (0..KEYS).for_each(|key| run.put(state, key.to_be_bytes(), value(epoch, key)).unwrap());
        }
        run.finish().unwrap();
        let copy = data.task_checkpoint(&task(), Epoch(epoch));
        let files = tasks.checkpoint(&copy).unwrap();
        known = wait(store.upload_task(&task(), generation, &files, &known)).unwrap();
        let taken = Taken { epoch: Epoch(epoch), generation };
        let manifest = Manifest {
            pipeline: "p".into(),
            instance: data.instance(),
            epoch: taken.epoch,
            generation,
            kind: ManifestKind::Checkpoint,
            barrier: BarrierKind::Checkpoint,
            plan: json!({}),
            revision: Revision("0".repeat(64)),
            created_at: Timestamp(epoch),
            tasks: vec![TaskManifest {
                task: task(),
                key_groups: KeyGroupRange::ALL,
                watermark: EventTime(epoch as i64),
                files: known.clone(),
                meta: json!(null),
                replay_points: vec![],
            }],
            sinks: vec![],
            finished: false,
        };
        let Create::Created { location } = wait(store.create_manifest(&manifest)).unwrap() else { panic!("exists") };
        let mut decided = claimed.decided.clone();
        decided.push(Decided { taken, savepoint: false });
        let retired: Vec<ManifestId> =
            decided.drain(..decided.len().saturating_sub(RETAIN)).map(|decided| decided.taken.into()).collect();
        let newest = Newest {
            manifest: location,
            size_bytes: manifest.state_bytes(),
            duration: Duration::from_millis(1),
            completed_at: Timestamp(epoch),
        };
        let next = Latest { generation, decided, newest: Some(newest) };
        match pointer.advance_now(claimed.epoch(), &next).unwrap() {
            Advance::Move(moved) => claimed = moved,
            other => panic!("{other:?}"),
        }
        wait(store.retire(&retired, &[])).unwrap();
    }
}

/// What a killed run left is what its pointer says.
fn inspect(path: &Path, place: &str) {
    assert_eq!(DataFolder::holder(path).unwrap(), None, "{place}: the lock died with its holder");
    let root = DataFolder::checkpoints_of(path);
    if !root.exists() {
        return;
    }
    let store = CheckpointStore::in_folder(&root, "p").unwrap();
    let pointer = FilePointer::open(store.folder().unwrap()).unwrap();
    let Some(latest) = pointer.read_now().unwrap() else { return };
    for decided in &latest.decided {
        let manifest = wait(store.read_manifest(&ManifestId::from(decided.taken).location())).unwrap();
        wait(store.verify(&manifest)).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let fetched = scratch.path().join("fetched");
        wait(store.fetch_task(&manifest.tasks[0], &fetched, None)).unwrap();
        let from = [RestoreFrom { dir: fetched, range: KeyGroupRange::ALL }];
        let resources = StoreResources::new(1 << 20);
        let db = scratch.path().join("db");
        let tasks = TaskStore::restore(&db, &STATES, KeyGroupRange::ALL, &from, &resources).unwrap();
        for state in STATES {
            let entries: Vec<_> = tasks.scan_all(state).unwrap().map(Result::unwrap).collect();
            assert_eq!(entries.len(), usize::from(KEYS), "{place}: {state} of {decided:?}");
            for ((key, found), number) in entries.iter().zip(0..KEYS) {
                assert_eq!(**key, number.to_be_bytes());
                assert_eq!(**found, *value(decided.taken.epoch.0, number), "{place}: {state} of {decided:?}");
            }
        }
    }
}

fn child(path: &Path, fault: &str) -> std::process::ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_process_that_is_killed", "--ignored", "--nocapture"]);
    command.env(CHILD, path).env(fault::VARIABLE, fault);
    command.output().unwrap().status
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn the_process_that_is_killed() {
    if let Some(path) = std::env::var_os(CHILD) {
        pipeline(&PathBuf::from(path));
    }
}

#[test]
fn a_run_that_is_killed_anywhere_leaves_the_decided_checkpoints_and_is_continued() {
    let ours = [
        "sst-ingested",
        "local-checkpoint",
        "before-upload",
        "mid-upload",
        "after-upload",
        "before-manifest",
        "after-manifest",
        "before-pointer",
        "mid-pointer",
        "after-pointer",
        "before-retire",
        "mid-retire",
        "after-retire",
    ];
    assert!(ours.iter().all(|point| fault::POINTS.contains(point)));
    for point in ours {
        let folder = tempfile::tempdir().unwrap();
        // Each start but the last is killed, a little later each time.
        for nth in [1, 2, 3, 5] {
            let place = format!("{point}:{nth}");
            let status = child(folder.path(), &place);
            let killed = status.signal() == Some(9);
            assert!(killed || status.success(), "{place}: {status}");
            assert!(killed || nth > 1, "{place} was never hit");
            inspect(folder.path(), &place);
        }
        assert!(child(folder.path(), "").success(), "after {point}");
        inspect(folder.path(), point);
        let store = CheckpointStore::in_folder(&DataFolder::checkpoints_of(folder.path()), "p").unwrap();
        let pointer = FilePointer::open(store.folder().unwrap()).unwrap();
        assert_eq!(pointer.read_now().unwrap().unwrap().epoch(), Some(Epoch(EPOCHS)), "after {point}");
        assert_eq!(wait(store.orphans()).unwrap(), Vec::<String>::new(), "after {point}");
        assert_eq!(wait(store.list()).unwrap().len(), RETAIN, "after {point}");
    }
}

#[test]
fn a_fault_that_is_an_error_is_told_and_nothing_has_moved() {
    let folder = tempfile::tempdir().unwrap();
    let status = child(folder.path(), "mid-pointer:2:error");
    assert!(!status.success());
    inspect(folder.path(), "mid-pointer:2:error");
    let store = CheckpointStore::in_folder(&DataFolder::checkpoints_of(folder.path()), "p").unwrap();
    let pointer = FilePointer::open(store.folder().unwrap()).unwrap();
    assert_eq!(pointer.read_now().unwrap().unwrap().epoch(), Some(Epoch(1)));
}

#[test]
fn a_second_process_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_process_that_is_killed", "--ignored", "--nocapture"]);
    command.env(CHILD, folder.path()).env(fault::VARIABLE, "before-upload:1:stall");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut holder = command.spawn().unwrap();
    let held = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        DataFolder::holder(folder.path()).unwrap().is_some_and(|by| by.pid == holder.id())
    });
    let refused = DataFolder::open(folder.path(), &opener()).map(drop);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(held);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&format!("in use by process {}", holder.id())), "{text}");
    DataFolder::open(folder.path(), &opener()).unwrap();
}
