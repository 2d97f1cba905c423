#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use arrow::array::{ArrayRef, Int64Array};
use millrace_stream::Generation;

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
async fn a_file_that_readers_see_is_never_replaced_and_its_name_tells_the_newest_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    assert_eq!(committer.newest().await.unwrap(), None);
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let first = vec![sink.prepare(Epoch(7)).await.unwrap()];
    committer.commit(Epoch(7), &first).await.unwrap();
    let day = folder.path().join("day=1");
    std::fs::create_dir(&day).unwrap();
    let shown = visible(folder.path()).into_keys().next().unwrap();
    for (name, newest) in [
        // Another node's, somebody else's, and one of a partition.
        (shown.replace("rows--out", "rows--out2").replace("e0000000007", "e0000000099"), 7),
        (shown.replace("e0000000007-t0", "e0000000098"), 7),
        (shown.replace("e0000000007", "e0000000009"), 9),
        (format!("day=1/{}", shown.replace("e0000000007", "e0000000011")), 11),
    ] {
        std::fs::write(folder.path().join(&name), "").unwrap();
        assert_eq!(committer.newest().await.unwrap(), Some(Epoch(newest)), "{name}");
    }

    // As after checkpoints of before were put back: another file is to get the name.
    let mut again = factory.open(cx(folder.path()), None).await.unwrap();
    again.write(rows(5..6)).await.unwrap();
    let second = vec![again.prepare(Epoch(7)).await.unwrap()];
    let before = visible(folder.path());
    let refused = committer.commit(Epoch(7), &second).await.unwrap_err();
    assert!(matches!(refused, SinkError::Refused { .. }), "{refused:?}");
    assert!(refused.to_string().contains("is there already with other rows"), "{refused}");
    assert_eq!(visible(folder.path()), before);

    // And as where a folder was copied while it was shown: what is staged is what is there.
    let mut copied = factory.open(cx(folder.path()), None).await.unwrap();
    copied.write(rows(0..3)).await.unwrap();
    let third = vec![copied.prepare(Epoch(7)).await.unwrap()];
    committer.commit(Epoch(7), &third).await.unwrap();
    assert_eq!(visible(folder.path()), before);
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
    assert_eq!(committer.commit(Epoch(1), &handles).await.unwrap().rows, 0, "it is known to be done");
}

/// Like [`cx`], with a folder for what is kept on this machine, and of another generation.
fn restarted(path: &Path, scratch: &Path, generation: u64) -> SinkContext {
    SinkContext { scratch: scratch.to_path_buf(), generation: Generation(generation), ..cx(path) }
}

fn expect_gone(result: Result<Committed, SinkError>, what: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, SinkError::Gone { .. }), "{error:?}");
    assert!(error.to_string().contains(what), "{error}");
}

#[tokio::test]
async fn decided_rows_that_went_with_their_folder_are_an_error_until_they_are_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("out"), folder.path().join("away"));
    let factory = factory(&path, Batching::default());
    let cx = |generation| restarted(&path, folder.path(), generation);
    let mut sink = factory.open(cx(1), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let handles = [sink.prepare(Epoch(7)).await.unwrap()];
    let mut running = factory.committer(cx(1)).await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    let what = "1 file with 3 rows of checkpoint 7";
    expect_gone(running.commit(Epoch(7), &handles).await, what);
    expect_gone(factory.committer(cx(2)).await.unwrap().recover(Some((Epoch(7), &handles))).await, what);
    assert!(!path.exists(), "the place stays free for what is put back");

    // A folder that somebody has put in its place, and in which another run has staged.
    let mut sink = factory.open(cx(2), None).await.unwrap();
    sink.write(rows(100..101)).await.unwrap();
    sink.prepare(Epoch(8)).await.unwrap();
    expect_gone(running.commit(Epoch(7), &handles).await, what);
    expect_gone(factory.committer(cx(3)).await.unwrap().recover(Some((Epoch(7), &handles))).await, what);
    assert!(read(&path).is_empty());

    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    let mut committer = factory.committer(cx(4)).await.unwrap();
    assert_eq!(committer.recover(Some((Epoch(7), &handles))).await.unwrap().rows, 3);
    assert_eq!(read(&path), [0, 1, 2]);
}

#[tokio::test]
async fn an_epoch_of_which_a_file_is_gone_is_not_shown_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut handles = Vec::new();
    for index in 0..3 {
        let mut sink = factory.open(SinkContext { index, ..cx(folder.path()) }, None).await.unwrap();
        sink.write(rows(0..3)).await.unwrap();
        handles.push(sink.prepare(Epoch(1)).await.unwrap());
    }
    let staged = files(folder.path()).into_keys().nth(1).unwrap();
    std::fs::remove_file(folder.path().join(staged)).unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    expect_gone(committer.commit(Epoch(1), &handles).await, "1 file with 3 rows");
    assert!(visible(folder.path()).is_empty());
}

#[tokio::test]
async fn a_folder_that_was_removed_after_its_commit_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let factory = factory(&path, Batching::default());
    let cx = |generation| restarted(&path, folder.path(), generation);
    let mut committer = factory.committer(cx(1)).await.unwrap();
    committer.recover(None).await.unwrap();
    let mut sink = factory.open(cx(1), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let handles = [sink.prepare(Epoch(1)).await.unwrap()];
    committer.commit(Epoch(1), &handles).await.unwrap();
    std::fs::remove_dir_all(&path).unwrap();

    let elsewhere = SinkContext { scratch: folder.path().join("another machine"), ..cx(2) };
    expect_gone(factory.committer(elsewhere).await.unwrap().recover(Some((Epoch(1), &handles))).await, "1 file");
    let mut committer = factory.committer(cx(3)).await.unwrap();
    assert_eq!(committer.recover(Some((Epoch(1), &handles))).await.unwrap(), Committed::default());
    let mut sink = factory.open(cx(3), None).await.unwrap();
    sink.write(rows(3..5)).await.unwrap();
    let handles = [sink.prepare(Epoch(2)).await.unwrap()];
    committer.commit(Epoch(2), &handles).await.unwrap();
    assert_eq!(read(&path), [3, 4]);
}

#[tokio::test]
async fn a_file_that_a_reader_took_before_its_commit_was_written_down_is_known_by_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let handles = [sink.prepare(Epoch(1)).await.unwrap()];
    // This one keeps nothing on the machine.
    factory.committer(cx(folder.path())).await.unwrap().commit(Epoch(1), &handles).await.unwrap();
    let name = visible(folder.path()).into_keys().next().unwrap();
    std::fs::remove_file(folder.path().join(name)).unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    assert_eq!(committer.recover(Some((Epoch(1), &handles))).await.unwrap().rows, 0);
}

#[tokio::test]
async fn what_is_staged_in_a_folder_that_is_replaced_is_never_said_to_be_prepared() {
    for aborted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let factory = factory(&path, Batching::default());
        let mut sink = factory.open(cx(&path), None).await.unwrap();
        sink.write(rows(0..3)).await.unwrap();
        if aborted {
            sink.prepare(Epoch(1)).await.unwrap();
        }
        // A copy has files of the same names, and everything but what makes them durable.
        let copied = std::process::Command::new("cp").arg("-r").args([&path, &folder.path().join("copy")]).status();
        assert!(copied.unwrap().success());
        std::fs::remove_dir_all(&path).unwrap();
        if aborted {
            factory.open(restarted(&path, folder.path(), 2), None).await.unwrap();
        } else {
            std::fs::rename(folder.path().join("copy"), &path).unwrap();
        }
        let error = sink.prepare(Epoch(2)).await.unwrap_err();
        assert!(
            matches!(&error, SinkError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn rows_that_are_gone_are_left_out_if_the_user_says_so() {
    for batching in [Batching::default(), Batching { max_rows: Some(10), ..Batching::default() }] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let factory = factory(&path, batching);
        let cx = |generation| restarted(&path, folder.path(), generation);
        let mut sink = factory.open(cx(1), None).await.unwrap();
        sink.write(rows(0..3)).await.unwrap();
        let handles = [sink.prepare(Epoch(7)).await.unwrap()];
        drop(sink);
        std::fs::remove_dir_all(&path).unwrap();
        let mut committer = factory.committer(cx(2)).await.unwrap();
        let error = committer.recover(Some((Epoch(7), &handles))).await.unwrap_err().to_string();
        let file = Path::new(error.split("create the empty file ").nth(1).unwrap());
        assert!(file.ends_with("lost-e0000000007"), "{error}");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        // What was said of another checkpoint does not count.
        std::fs::write(file.with_file_name("lost-e0000000006"), "").unwrap();
        expect_gone(committer.recover(Some((Epoch(7), &handles))).await, "3 rows");
        std::fs::write(file, "").unwrap();
        for generation in 3..5 {
            let mut committer = factory.committer(cx(generation)).await.unwrap();
            assert_eq!(committer.recover(Some((Epoch(7), &handles))).await.unwrap().rows, 0);
            factory.open(cx(generation), Some(handles[0].clone())).await.unwrap();
        }
        let mut sink = factory.open(cx(5), Some(handles[0].clone())).await.unwrap();
        let mut committer = factory.committer(cx(5)).await.unwrap();
        committer.recover(Some((Epoch(7), &handles))).await.unwrap();
        sink.write(rows(3..5)).await.unwrap();
        sink.finish();
        let next = [sink.prepare(Epoch(8)).await.unwrap()];
        committer.commit(Epoch(8), &next).await.unwrap();
        assert_eq!(read(&path), [3, 4]);
        factory.committer(cx(6)).await.unwrap().recover(Some((Epoch(8), &next))).await.unwrap();
        assert_eq!(files(&path).len(), 1, "what was said once does not stay said");
    }
}

#[tokio::test]
async fn what_a_sink_that_is_given_up_has_staged_is_discarded_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let factory = factory(&path, Batching::default());
    let mut sink = factory.open(cx(&path), None).await.unwrap();
    sink.write(rows(0..3)).await.unwrap();
    let kept = [sink.prepare(Epoch(1)).await.unwrap()];
    sink.write(rows(3..6)).await.unwrap();
    sink.prepare(Epoch(2)).await.unwrap();
    let mut committer = factory.committer(cx(&path)).await.unwrap();
    committer.discard(&kept).await.unwrap();
    assert_eq!(files(&path).len(), 1, "what a decided epoch names");
    committer.commit(Epoch(1), &kept).await.unwrap();
    committer.discard(&[]).await.unwrap();
    assert_eq!(read(&path), [0, 1, 2]);
    assert!(!path.join(STAGING).exists());
    let nowhere = FileSinkFactory { path: folder.path().join("nowhere"), ..factory.clone() };
    nowhere.committer(cx(&path)).await.unwrap().discard(&[]).await.unwrap();
    assert!(!nowhere.path.exists());
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
    let first = error.to_string();
    let error = sink.write(rows(6..7)).await.unwrap_err();
    assert!(matches!(&error, SinkError::Io { source, .. } if source.to_string().starts_with(&first)), "{error:?}");
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
