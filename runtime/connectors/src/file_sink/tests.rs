#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use arrow::array::{ArrayRef, Int64Array};

use super::*;
use crate::{
    sink::Committed,
    staging::{
        STAGING,
        tests::{context, files, visible},
    },
};

fn rows(values: std::ops::Range<i64>) -> RecordBatch {
    let column = Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn factory(path: &Path, batching: Batching) -> FileSinkFactory {
    FileSinkFactory { path: path.to_path_buf(), format: FileFormat::Json, batching }
}

fn cx(path: &Path) -> SinkContext {
    context(rows(0..1).schema(), path.to_path_buf()).0
}

/// The values that a reader finds in the folder.
fn read(path: &Path) -> Vec<i64> {
    let mut values: Vec<i64> = visible(path)
        .values()
        .flat_map(|text| String::from_utf8(text.clone()).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap()["n"].as_i64().unwrap())
        .collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn rows_are_seen_once_their_epoch_is_committed_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    committer.recover(None).await.unwrap();
    sink.write(rows(0..5)).await.unwrap();
    let handle = sink.prepare(Epoch(1)).await.unwrap();
    assert!(visible(folder.path()).is_empty());
    assert!(files(folder.path()).keys().all(|name| name.starts_with(STAGING) && name.ends_with(".staged")));

    let committed = committer.commit(Epoch(1), std::slice::from_ref(&handle)).await.unwrap();
    assert_eq!((committed.rows, committed.bytes), (5, 40));
    assert_eq!(read(folder.path()), [0, 1, 2, 3, 4]);
    let name = visible(folder.path()).into_keys().next().unwrap();
    assert_eq!(name, "web-0123456789abcdef-rows--out-e0000000001-t0.ndjson");

    let again = committer.commit(Epoch(1), &[handle]).await.unwrap();
    assert_eq!(again, Committed::default());
    assert_eq!(read(folder.path()), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn what_an_aborted_epoch_prepared_is_committed_with_the_next_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    sink.write(rows(0..2)).await.unwrap();
    sink.prepare(Epoch(1)).await.unwrap();
    sink.write(rows(2..4)).await.unwrap();
    let second = sink.prepare(Epoch(2)).await.unwrap();
    sink.write(rows(4..6)).await.unwrap();
    let third = sink.prepare(Epoch(3)).await.unwrap();
    assert_eq!(committer.commit(Epoch(2), &[second]).await.unwrap().rows, 4);
    assert_eq!(committer.commit(Epoch(3), &[third]).await.unwrap().rows, 2);
    let fourth = sink.prepare(Epoch(4)).await.unwrap();
    assert_eq!(committer.commit(Epoch(4), &[fourth]).await.unwrap().rows, 0);
    assert_eq!(read(folder.path()), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn rows_that_come_while_an_epoch_is_made_durable_belong_to_the_next() {
    for batching in [Batching::default(), Batching { max_rows: Some(4), ..Batching::default() }] {
        let folder = tempfile::tempdir().unwrap();
        let factory = factory(folder.path(), batching);
        let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
        let mut committer = factory.committer(cx(folder.path())).await.unwrap();
        sink.write(rows(0..2)).await.unwrap();
        let first = sink.prepare(Epoch(1));
        sink.write(rows(2..5)).await.unwrap();
        let first = first.await.unwrap();
        let second = sink.prepare(Epoch(2));
        sink.write(rows(5..6)).await.unwrap();
        let seen = |committed: Committed| (committed.rows, read(folder.path()).len());
        let at_first = if batching.holds() { (0, 0) } else { (2, 2) };
        assert_eq!(seen(committer.commit(Epoch(1), &[first]).await.unwrap()), at_first);
        let second = second.await.unwrap();
        assert_eq!(seen(committer.commit(Epoch(2), &[second]).await.unwrap()), (5 - at_first.0, 5));
    }
}

#[tokio::test]
async fn an_epoch_without_rows_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    let handle = sink.prepare(Epoch(1)).await.unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    assert_eq!(committer.commit(Epoch(1), &[handle]).await.unwrap(), Committed::default());
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn recovery_commits_what_is_decided_and_removes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let decided = sink.prepare(Epoch(1)).await.unwrap();
    sink.write(rows(3..6)).await.unwrap();
    sink.prepare(Epoch(2)).await.unwrap();
    sink.write(rows(6..9)).await.unwrap();
    drop(sink);

    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let handles = [decided];
    assert_eq!(committer.recover(Some((Epoch(1), &handles))).await.unwrap().rows, 3);
    assert_eq!(committer.recover(Some((Epoch(1), &handles))).await.unwrap().rows, 0);
    assert_eq!(read(folder.path()), [0, 1, 2]);
    assert_eq!(files(folder.path()).len(), 1, "no orphan is left");
}

#[tokio::test]
async fn recovery_leaves_alone_what_others_staged_and_what_a_reader_took_away() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut other = cx(folder.path());
    other.node = "other->out".to_owned();
    let mut theirs = factory.open(other, None).await.unwrap();
    theirs.write(rows(0..1)).await.unwrap();
    theirs.prepare(Epoch(1)).await.unwrap();

    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let handles = [sink.prepare(Epoch(1)).await.unwrap()];
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    committer.commit(Epoch(1), &handles).await.unwrap();
    let name = visible(folder.path()).into_keys().next().unwrap();
    std::fs::remove_file(folder.path().join(name)).unwrap();
    committer.recover(Some((Epoch(1), &handles))).await.unwrap();
    assert!(visible(folder.path()).is_empty());
    assert_eq!(files(folder.path()).len(), 1, "the other node's file");
    let error = committer.commit(Epoch(1), &handles).await.unwrap_err();
    assert!(error.to_string().contains("removed by somebody else"), "{error}");
}

#[tokio::test]
async fn a_held_file_grows_over_epochs_and_is_cut_to_its_decided_length_on_restore() {
    let folder = tempfile::tempdir().unwrap();
    let batching = Batching { max_rows: Some(10), ..Batching::default() };
    let factory = factory(folder.path(), batching);
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let first = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), std::slice::from_ref(&first)).await.unwrap();
    sink.write(rows(3..5)).await.unwrap();
    let decided = sink.prepare(Epoch(2)).await.unwrap();
    committer.commit(Epoch(2), std::slice::from_ref(&decided)).await.unwrap();
    assert!(visible(folder.path()).is_empty());
    sink.write(rows(5..200)).await.unwrap();
    sink.prepare(Epoch(3)).await.unwrap();
    drop(sink);

    let mut restarted = cx(folder.path());
    restarted.generation = restarted.generation.next();
    let handles = [decided.clone()];
    committer.recover(Some((Epoch(2), &handles))).await.unwrap();
    let mut sink = factory.open(restarted, Some(decided)).await.unwrap();
    sink.write(rows(5..9)).await.unwrap();
    let third = sink.prepare(Epoch(3)).await.unwrap();
    committer.commit(Epoch(3), &[third]).await.unwrap();
    assert!(visible(folder.path()).is_empty(), "nine rows are fewer than ten");
    sink.write(rows(9..12)).await.unwrap();
    let fourth = sink.prepare(Epoch(4)).await.unwrap();
    committer.commit(Epoch(4), &[fourth]).await.unwrap();
    assert_eq!(read(folder.path()), (0..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_held_is_committed_when_it_is_old_enough_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let batching = Batching { max_delay: Some(Duration::from_secs(60)), ..Batching::default() };
    let factory = factory(folder.path(), batching);
    let (cx, clock) = context(rows(0..1).schema(), folder.path().to_path_buf());
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    let mut sink = factory.open(cx, None).await.unwrap();
    for (epoch, seconds, seen) in [(1, 30, 0), (2, 30, 2), (3, 59, 2)] {
        sink.write(rows(epoch..epoch + 1)).await.unwrap();
        clock.advance(Duration::from_secs(seconds));
        let handle = sink.prepare(Epoch(epoch as u64)).await.unwrap();
        committer.commit(Epoch(epoch as u64), &[handle]).await.unwrap();
        assert_eq!(read(folder.path()).len(), seen, "after epoch {epoch}");
    }
    sink.finish();
    let handle = sink.prepare(Epoch(4)).await.unwrap();
    committer.commit(Epoch(4), &[handle]).await.unwrap();
    assert_eq!(read(folder.path()), [1, 2, 3]);
}

#[tokio::test]
async fn a_held_file_that_is_gone_or_shorter_than_decided_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching { max_rows: Some(10), ..Batching::default() });
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let held = sink.prepare(Epoch(1)).await.unwrap();
    drop(sink);
    let staged = folder.path().join(files(folder.path()).into_keys().next().unwrap());
    std::fs::write(&staged, b"{}\n").unwrap();
    let Err(error) = factory.open(cx(folder.path()), Some(held.clone())).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("is not as the checkpoint left it"), "{error}");
    std::fs::remove_file(&staged).unwrap();
    assert!(factory.open(cx(folder.path()), Some(held)).await.is_err());
}

#[tokio::test]
async fn a_path_that_is_a_file_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    std::fs::write(&path, b"keep me").unwrap();
    let factory = factory(&path, Batching::default());
    let Err(error) = factory.open(cx(&path), None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("a file stands where a folder is needed"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"keep me");
}

#[tokio::test]
async fn a_folder_that_vanishes_fails_the_epoch_and_nothing_committed_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let factory = factory(&path, Batching::default());
    let mut committer = factory.committer(cx(&path)).await.unwrap();
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let first = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[first]).await.unwrap();
    std::fs::remove_dir_all(path.join(STAGING)).unwrap();
    let wrote = sink.write(rows(3..6)).await;
    let error = match wrote {
        Err(error) => error,
        Ok(()) => sink.prepare(Epoch(2)).await.unwrap_err(),
    };
    assert!(error.to_string().contains("cannot write"), "{error}");
    assert_eq!(read(&path), [0, 1, 2]);
    let error = sink.write(rows(6..7)).await.unwrap_err();
    assert!(error.to_string().contains("failed before"), "{error}");
}

#[tokio::test]
async fn csv_files_begin_with_the_header_and_take_no_changelog() {
    let folder = tempfile::tempdir().unwrap();
    let factory = FileSinkFactory {
        path: folder.path().to_path_buf(),
        format: FileFormat::Csv { delimiter: b';', header: true },
        batching: Batching::default(),
    };
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..1)).await.unwrap();
    sink.write(rows(1..2)).await.unwrap();
    let handle = sink.prepare(Epoch(7)).await.unwrap();
    committer.commit(Epoch(7), &[handle]).await.unwrap();
    let (name, text) = visible(folder.path()).into_iter().next().unwrap();
    assert!(name.ends_with("-e0000000007-t0.csv"), "{name}");
    assert_eq!(text, b"n\n0\n1\n");

    let mut changelog = cx(folder.path());
    changelog.changelog = Some(vec![0]);
    let Err(error) = factory.open(changelog, None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("changelog"), "{error}");
}

#[tokio::test]
async fn more_rows_than_the_buffer_holds_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    for start in 0..20 {
        sink.write(rows(start * 10_000..(start + 1) * 10_000)).await.unwrap();
    }
    let handle = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[handle]).await.unwrap();
    assert_eq!(read(folder.path()), (0..200_000).collect::<Vec<_>>());
}

/// A small file system of its own, for as long as the value lives. `None`: this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Self(folder);
        let mounted = disk.run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        if !mounted {
            eprintln!("not tried: this user may not mount a file system");
        }
        mounted.then_some(disk)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> bool {
        let done = std::process::Command::new(command).args(arguments).arg(self.0.path()).output();
        done.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.run("umount", &[]);
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_epoch_and_leaves_what_is_committed_whole() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("out");
    let factory = factory(&path, Batching::default());
    let mut committer = factory.committer(cx(&path)).await.unwrap();
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    sink.write(rows(0..100)).await.unwrap();
    let first = [sink.prepare(Epoch(1)).await.unwrap()];
    committer.commit(Epoch(1), &first).await.unwrap();
    let error = sink.write(rows(0..500_000)).await.unwrap_err();
    assert!(
        matches!(&error, SinkError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert_eq!(read(&path), (0..100).collect::<Vec<_>>());
    drop(sink);

    committer.recover(Some((Epoch(1), &first))).await.unwrap();
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    sink.write(rows(100..200)).await.unwrap();
    let second = sink.prepare(Epoch(2)).await.unwrap();
    committer.commit(Epoch(2), &[second]).await.unwrap();
    assert_eq!(read(&path), (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_the_reason() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("out");
    let factory = factory(&path, Batching::default());
    let mut committer = factory.committer(cx(&path)).await.unwrap();
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let first = [sink.prepare(Epoch(1)).await.unwrap()];
    drop(sink);
    assert!(disk.run("mount", &["-o", "remount,ro"]));
    let error = committer.commit(Epoch(1), &first).await.unwrap_err();
    assert!(error.to_string().contains("mounted read-only"), "{error}");
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    let error = sink.write(rows(3..6)).await.unwrap_err();
    assert!(error.to_string().contains("mounted read-only"), "{error}");
    assert!(disk.run("mount", &["-o", "remount,rw"]));
    committer.recover(Some((Epoch(1), &first))).await.unwrap();
    assert_eq!(read(&path), [0, 1, 2]);
}
