#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs};

use millrace_stream::{Epoch, KeyGroupRange};
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::*;
use crate::{RestoreFrom, StoreResources, TaskStore, manifest::tests::sample};

fn task() -> TaskId {
    TaskId { stage: "counts".into(), index: 0 }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

struct World {
    folder: TempDir,
    store: CheckpointStore,
    resources: StoreResources,
    tasks: TaskStore,
    known: Vec<StoredFile>,
}

impl World {
    fn over(store: impl FnOnce(&Path) -> CheckpointStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let resources = StoreResources::new(1 << 20);
        let tasks = TaskStore::create(&folder.path().join("db"), &["counts"], &resources).unwrap();
        Self { store: store(folder.path()), folder, resources, tasks, known: vec![] }
    }

    fn both() -> [Self; 2] {
        [
            Self::local(),
            Self::over(|_| CheckpointStore::over(Arc::new(InMemory::new()), "lake/p".into(), "memory:///lake")),
        ]
    }

    fn local() -> Self {
        Self::over(|folder| {
            let url = Url::from_directory_path(folder.join("checkpoints")).unwrap();
            CheckpointStore::open(url.as_str(), "p").unwrap()
        })
    }

    fn put(&self, key: u8, value: &[u8]) {
        let mut run = self.tasks.writer();
        run.put("counts", [0, 0, key], value).unwrap();
        run.finish().unwrap();
    }

    fn copy(&self, epoch: u64) -> PathBuf {
        self.folder.path().join(format!("epoch-{epoch}"))
    }

    /// A checkpoint as the coordinator takes it.
    fn checkpoint(&mut self, epoch: u64, generation: u64) -> Manifest {
        let files = self.tasks.checkpoint(&self.copy(epoch)).unwrap();
        self.known = wait(self.store.upload_task(&task(), Generation(generation), &files, &self.known)).unwrap();
        let mut manifest = sample();
        (manifest.epoch, manifest.generation) = (Epoch(epoch), Generation(generation));
        (manifest.tasks[0].task, manifest.tasks[0].files) = (task(), self.known.clone());
        let created = wait(self.store.create_manifest(&manifest)).unwrap();
        assert_eq!(created, Create::Created { location: manifest.id().location() });
        manifest
    }

    fn restore(&self, manifest: &Manifest) -> Result<Vec<(u8, Vec<u8>)>, StateError> {
        let fetched = self.folder.path().join("fetched");
        wait(self.store.fetch_task(&manifest.tasks[0], &fetched, None))?;
        let from = [RestoreFrom { dir: fetched, range: KeyGroupRange::ALL }];
        let dir = self.folder.path().join("restored");
        let store = TaskStore::restore(&dir, &["counts"], KeyGroupRange::ALL, &from, &self.resources)?;
        store.scan_all("counts")?.map(|entry| entry.map(|(key, value)| (key[2], value.into()))).collect()
    }
}

#[test]
fn a_checkpoint_is_restored_from_what_the_store_has() {
    for mut world in World::both() {
        world.put(1, b"one");
        let first = world.checkpoint(1, 1);
        world.put(2, b"two");
        let second = world.checkpoint(2, 1);
        let location = second.id().location();
        assert_eq!(wait(world.store.read_manifest(&location)).unwrap(), second);
        wait(world.store.verify(&second)).unwrap();
        assert_eq!(world.restore(&first).unwrap(), [(1, b"one".to_vec())]);
        assert_eq!(world.restore(&second).unwrap(), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
    }
}

#[test]
fn only_what_the_store_lacks_is_uploaded() {
    for mut world in World::both() {
        world.put(1, b"one");
        let first = world.checkpoint(1, 1);
        world.put(2, b"two");
        let second = world.checkpoint(2, 1);
        let data = |manifest: &Manifest| -> BTreeSet<String> {
            manifest.files().map(|file| file.name.clone()).filter(|name| name.ends_with(".sst")).collect()
        };
        assert!(data(&first).is_subset(&data(&second)));
        assert_eq!((data(&first).len(), data(&second).len()), (1, 2));
        let files = wait(world.store.objects_in(FILES)).unwrap();
        assert_eq!(files.len(), 4, "two data files and a list for each checkpoint: {files:?}");
    }
}

#[test]
fn two_incarnations_that_give_their_files_the_same_numbers_do_not_meet() {
    for mut world in World::both() {
        world.put(1, b"one");
        let first = world.checkpoint(1, 1);
        world.put(2, b"of the first incarnation");
        let aborted = world.checkpoint(2, 1);
        // The second goes on from the first checkpoint, as if it had been the last.
        let from = [RestoreFrom { dir: world.copy(1), range: KeyGroupRange::ALL }];
        let dir = world.folder.path().join("second");
        world.tasks = TaskStore::restore(&dir, &["counts"], KeyGroupRange::ALL, &from, &world.resources).unwrap();
        world.known = first.tasks[0].files.clone();
        world.put(2, b"of the second incarnation");
        for generation in [1, 2] {
            let files = world.tasks.checkpoint(&world.copy(9)).unwrap();
            let known = &first.tasks[0].files;
            let files = wait(world.store.upload_task(&task(), Generation(generation), &files, known)).unwrap();
            let mut manifest = aborted.clone();
            manifest.tasks[0].files = files;
            let restored = world.restore(&manifest).unwrap();
            assert_eq!(restored[1].1, b"of the second incarnation", "in generation {generation} too");
        }
        assert_eq!(world.restore(&aborted).unwrap()[1].1, b"of the first incarnation");
    }
}

#[test]
fn a_manifest_is_created_once() {
    for mut world in World::both() {
        let manifest = world.checkpoint(1, 1);
        let again = Manifest { finished: true, ..manifest.clone() };
        let location = manifest.id().location();
        assert_eq!(wait(world.store.create_manifest(&again)).unwrap(), Create::Exists { location: location.clone() });
        assert_eq!(wait(world.store.read_manifest(&location)).unwrap(), manifest);
        let later = Manifest { generation: Generation(2), ..manifest };
        assert!(matches!(wait(world.store.create_manifest(&later)).unwrap(), Create::Created { .. }));
    }
}

#[test]
fn retiring_deletes_the_files_that_no_other_manifest_names() {
    for mut world in World::both() {
        let mut manifests = vec![];
        for epoch in 1..=3 {
            world.put(epoch, b"value");
            manifests.push(world.checkpoint(epoch.into(), 1));
        }
        let savepoint =
            Manifest { kind: ManifestKind::Savepoint { name: "before-upgrade".into() }, ..manifests[0].clone() };
        wait(world.store.create_manifest(&savepoint)).unwrap();
        let retired = [manifests[0].id(), manifests[1].id()];
        let done = wait(world.store.retire(&retired, &[])).unwrap();
        assert_eq!((done.manifests, done.files), (2, 1), "the list of epoch 2; what else it named is in use");
        assert_eq!(world.restore(&savepoint).unwrap().len(), 1);
        assert_eq!(world.restore(&manifests[2]).unwrap().len(), 3);
        let entries: Vec<_> = wait(world.store.list()).unwrap().into_iter().map(|entry| entry.id).collect();
        assert_eq!(entries, [manifests[2].id(), savepoint.id()]);
        wait(world.store.retire(&retired, &[])).unwrap();
        assert_eq!(wait(world.store.orphans()).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn what_an_upload_without_a_manifest_left_is_found_and_deleted() {
    for mut world in World::both() {
        world.put(1, b"one");
        let kept = world.checkpoint(1, 1);
        world.put(2, b"two");
        let files = world.tasks.checkpoint(&world.copy(2)).unwrap();
        let lost = wait(world.store.upload_task(&task(), Generation(1), &files, &world.known)).unwrap();
        let in_use = wait(world.store.retire(&[kept.id()], &lost)).unwrap();
        assert_eq!((in_use.manifests, in_use.files), (1, 1), "its list; the data file is in use by the upload");
        wait(world.store.create_manifest(&kept)).unwrap();
        assert_eq!(wait(world.store.delete_orphans(Generation(1))).unwrap(), 0, "whoever was replaced deletes nothing");
        assert_eq!(wait(world.store.delete_orphans(Generation(2))).unwrap(), 2);
        assert_eq!(wait(world.store.orphans()).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_everything_from_being_deleted() {
    let mut world = World::local();
    let retired = world.checkpoint(1, 1);
    let damaged = world.checkpoint(2, 1);
    let path = world.store.folder().unwrap().join(damaged.id().location());
    fs::write(&path, b"{}").unwrap();
    for error in [
        wait(world.store.retire(&[retired.id()], &[])).unwrap_err(),
        wait(world.store.orphans()).unwrap_err(),
        wait(world.store.read_manifest(&damaged.id().location())).unwrap_err(),
    ] {
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        assert!(error.to_string().contains("manifests/2-1.json is damaged"), "{error}");
    }
    assert_eq!(world.restore(&retired).unwrap(), []);
    wait(world.store.retire(&[damaged.id()], &[])).unwrap();
}

#[test]
fn a_damaged_or_missing_file_is_told_with_its_name() {
    let mut world = World::local();
    world.put(1, b"one");
    let manifest = world.checkpoint(1, 1);
    let stored = manifest.files().find(|file| file.local.ends_with(".sst")).unwrap();
    let path = world.store.folder().unwrap().join(&stored.name);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(17) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        for error in [world.restore(&manifest).unwrap_err(), wait(world.store.verify(&manifest)).unwrap_err()] {
            assert!(matches!(error, StateError::Damaged { .. }) && error.to_string().contains(&stored.name), "{error}");
        }
    }
    fs::write(&path, &whole[1..]).unwrap();
    let error = world.restore(&manifest).unwrap_err().to_string();
    assert!(error.contains(&format!("found {} bytes, expected {}", whole.len() - 1, whole.len())), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(matches!(world.restore(&manifest), Err(StateError::Missing { .. })));
    // A copy on this machine that is whole does as well.
    let fetched = world.folder.path().join("fetched");
    wait(world.store.fetch_task(&manifest.tasks[0], &fetched, Some(&world.copy(1)))).unwrap();
}

#[test]
fn names_in_a_manifest_lead_nowhere_else() {
    let mut world = World::local();
    let manifest = world.checkpoint(1, 1);
    let with = |name: &str, local: &str| {
        let mut manifest = manifest.clone();
        (manifest.tasks[0].files[0].name, manifest.tasks[0].files[0].local) = (name.into(), local.into());
        manifest
    };
    for manifest in
        [with("files/../../../etc/passwd", "a"), with("files//a", "a"), with(&manifest.tasks[0].files[0].name, "../a")]
    {
        assert!(matches!(world.restore(&manifest), Err(StateError::Damaged { .. })));
    }
}

#[test]
fn a_savepoint_name_that_is_no_file_name_is_refused() {
    let world = World::local();
    for name in ["", "../a", "a b", ".hidden", "ä"] {
        let manifest = Manifest { kind: ManifestKind::Savepoint { name: name.into() }, ..sample() };
        assert!(
            matches!(wait(world.store.create_manifest(&manifest)), Err(StateError::SavepointName { .. })),
            "{name}"
        );
    }
}

#[test]
fn a_url_that_is_no_place_says_why() {
    for (url, why) in
        [("/data", "expected file:///a/folder"), ("file://host/data", "three slashes"), ("gopher://x/y", "gopher")]
    {
        let error = CheckpointStore::open(url, "p").unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn deleting_all_leaves_nothing() {
    for mut world in World::both() {
        world.put(1, b"one");
        world.checkpoint(1, 1);
        wait(world.store.delete_all()).unwrap();
        assert_eq!(wait(world.store.list()).unwrap(), []);
        assert_eq!(wait(world.store.objects_in(FILES)).unwrap(), []);
    }
}

#[test]
fn deleting_checkpoints_leaves_savepoints_with_their_files_and_what_is_another_pipelines() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let of = |pipeline: &str| {
        World::over(|_| CheckpointStore::over(objects.clone(), format!("lake/{pipeline}").into(), "memory:///lake"))
    };
    let (mut world, mut other) = (of("p"), of("p2"));
    let theirs = other.checkpoint(1, 1);
    let mut manifests = vec![];
    for epoch in 1..=3 {
        world.put(epoch, b"value");
        manifests.push(world.checkpoint(epoch.into(), epoch.into()));
    }
    let savepoint = Manifest { kind: ManifestKind::Savepoint { name: "mine".into() }, ..manifests[0].clone() };
    wait(world.store.create_manifest(&savepoint)).unwrap();
    // An upload that has come to nothing, of the newest generation.
    world.put(4, b"value");
    let files = world.tasks.checkpoint(&world.copy(4)).unwrap();
    wait(world.store.upload_task(&task(), Generation(9), &files, &world.known)).unwrap();
    let cleared = wait(world.store.delete_checkpoints()).unwrap();
    assert_eq!(cleared, Cleared { checkpoints: 3, savepoints: vec!["mine".into()] });
    assert_eq!(world.restore(&savepoint).unwrap().len(), 1);
    assert_eq!(wait(world.store.orphans()).unwrap(), Vec::<String>::new());
    assert_eq!(wait(world.store.list()).unwrap().len(), 1);

    // A savepoint that cannot be read names files that nobody knows: nothing is deleted.
    world.checkpoint(5, 9);
    let location = savepoint.id().location();
    wait(world.store.delete(&location)).unwrap();
    let damaged = object_store::path::Path::from(format!("lake/p/{location}"));
    wait(objects.put_opts(&damaged, "damaged".into(), Default::default())).unwrap();
    assert_eq!(wait(world.store.delete_checkpoints()).unwrap_err().kind(), crate::ErrorKind::Corrupt);
    assert_eq!(wait(world.store.list()).unwrap().len(), 2);

    wait(world.store.delete(&location)).unwrap();
    assert_eq!(wait(world.store.delete_checkpoints()).unwrap(), Cleared { checkpoints: 1, savepoints: vec![] });
    assert_eq!(wait(world.store.objects_in(FILES)).unwrap(), []);
    assert_eq!(wait(other.store.list()).unwrap().len(), 1);
    other.restore(&theirs).unwrap();
}
