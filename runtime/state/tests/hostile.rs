//! Files of a data folder and of task stores that hold anything at all: they are read as they were written, or refused.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use millrace_state::{
    DataFolder, FilePointer, Latest, LocalFile, Manifest, Opener, RestoreFrom, StateError, StoreResources, TaskStore,
    envelope,
};
use millrace_stream::{Epoch, KeyGroupRange, Timestamp};
use proptest::prelude::*;
use serde_json::json;

/// Bytes that begin as a stored file might.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..300);
    let like_json = "[\\{\\}\\[\\]\":,0-9a-z\n ]{0,200}".prop_map(String::into_bytes);
    prop_oneof![any_bytes, like_json]
}

/// What a stored file holds under a good header and checksum: an object with fields of the forms, and any values.
fn sealed(kind: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let names =
        ["generation", "decided", "newest", "epoch", "tasks", "keyGroups", "start", "end", "plan", "files", "sinks"];
    let value = prop_oneof![
        Just(json!(null)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,10}".prop_map(|text| json!(text)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{"epoch": u64::MAX, "generation": 1, "savepoint": true}])),
    ];
    let object = prop::collection::btree_map(prop::sample::select(names.to_vec()), value, 0..8);
    (0u32..3, object).prop_map(move |(version, object)| envelope::seal(kind, version, &object))
}

fn opener() -> Opener {
    Opener::this_process(Timestamp(1_700_000_000_000), "instance".to_owned())
}

proptest! {
    #[test]
    fn pointers_and_manifests_of_any_bytes_are_refused(bytes in bytes()) {
        prop_assert!(Latest::from_bytes("latest", &bytes).is_err());
        prop_assert!(Manifest::from_bytes("manifest", &bytes).is_err());
        let folder = tempfile::tempdir().unwrap();
        let pointer = FilePointer::open(folder.path()).unwrap();
        fs::write(pointer.path(), &bytes).unwrap();
        prop_assert!(pointer.read_now().is_err());
    }

    #[test]
    fn what_is_under_a_good_checksum_is_read_or_refused(latest in sealed("latest"), manifest in sealed("manifest")) {
        if let Ok(read) = Latest::from_bytes("latest", &latest) {
            prop_assert_eq!(Latest::from_bytes("latest", &read.to_bytes()).unwrap(), read);
        }
        if let Ok(read) = Manifest::from_bytes("manifest", &manifest) {
            prop_assert_eq!(Manifest::from_bytes("manifest", &read.to_bytes()).unwrap(), read);
        }
    }

    #[test]
    fn a_note_that_a_checkpoint_was_decided_says_so_whatever_it_holds_and_is_written_anew(
        bytes in prop_oneof![bytes(), sealed("decided"), sealed("latest")],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let opened = DataFolder::open(folder.path(), &opener()).unwrap();
        let path = folder.path().join("decided");
        fs::write(&path, &bytes).unwrap();
        prop_assert!(DataFolder::has_decided(folder.path()).unwrap());
        opened.newest_decided().unwrap();
        opened.note_decided(Epoch(7)).unwrap();
        let left = match envelope::open::<serde_json::Value>("decided", 1, "here", &bytes) {
            Err(StateError::TooNew { .. }) => bytes,
            _ => envelope::seal("decided", 1, &json!({"epoch": 7, "instance": opened.instance()})),
        };
        prop_assert_eq!(fs::read(&path).unwrap(), left);
        prop_assert!(DataFolder::has_decided(folder.path()).unwrap());
    }

    #[test]
    fn a_data_folder_whose_files_hold_anything_is_refused_and_left_as_it_is(
        name in prop::sample::select(vec!["layout", "generation", "instance"]),
        bytes in bytes(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let opened = DataFolder::open(folder.path(), &opener()).unwrap();
        opened.next_generation(None).unwrap();
        drop(opened);
        fs::write(folder.path().join(name), &bytes).unwrap();
        let again = DataFolder::open(folder.path(), &opener()).and_then(|folder| folder.next_generation(None));
        prop_assert!(again.is_err(), "{name}");
        prop_assert_eq!(fs::read(folder.path().join(name)).unwrap(), bytes);
    }
}

proptest! {
    #[test]
    fn a_data_folder_is_held_whatever_its_lock_says(bytes in bytes()) {
        let folder = tempfile::tempdir().unwrap();
        let _held = DataFolder::open(folder.path(), &opener()).unwrap();
        fs::write(folder.path().join("lock"), &bytes).unwrap();
        let again = DataFolder::open(folder.path(), &opener());
        let is_held = matches!(again, Err(StateError::Held { .. }));
        prop_assert!(is_held);
    }
}

fn resources() -> StoreResources {
    StoreResources::new(1 << 20)
}

fn copy(files: &[LocalFile], to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for file in files {
        fs::copy(&file.path, to.join(&file.name)).unwrap();
    }
}

#[test]
fn a_task_store_whose_metadata_is_damaged_gives_an_error_and_no_wrong_value() {
    let folder = tempfile::tempdir().unwrap();
    let store = TaskStore::create(&folder.path().join("db"), &["groups"], &resources()).unwrap();
    let mut run = store.writer();
    for number in 0..500_u32 {
        run.put("groups", number.to_be_bytes(), (number * 7).to_be_bytes()).unwrap();
    }
    run.finish().unwrap();
    let files = store.checkpoint(&folder.path().join("copy")).unwrap();
    let damaged_folder = folder.path().join("damaged");
    let from = [RestoreFrom { dir: damaged_folder.clone(), range: KeyGroupRange::ALL }];
    let mut refused = 0;
    for file in files.iter().filter(|file| !file.immutable) {
        let whole = fs::read(&file.path).unwrap();
        let step = (whole.len() / 12).max(1);
        let flips = (0..whole.len()).step_by(step).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            bytes
        });
        let cuts = (0..whole.len()).step_by(step).map(|at| whole[..at].to_vec());
        for bytes in flips.chain(cuts) {
            copy(&files, &damaged_folder);
            fs::write(damaged_folder.join(&file.name), bytes).unwrap();
            let read = || -> Result<(), StateError> {
                let dir = folder.path().join("new");
                let store = TaskStore::restore(&dir, &["groups"], KeyGroupRange::ALL, &from, &resources())?;
                for entry in store.scan_all("groups")? {
                    let (key, value) = entry?;
                    let number = u32::from_be_bytes(key[..].try_into().unwrap());
                    assert_eq!(value[..], (number * 7).to_be_bytes(), "{}", file.name);
                }
                Ok(())
            };
            refused += u32::from(read().is_err());
        }
    }
    assert!(refused > 10, "{refused} were refused");
}
