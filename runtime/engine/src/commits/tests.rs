#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use super::*;

/// What became of the calls: which sink was asked for which epoch.
type Calls = Arc<Mutex<Vec<(&'static str, u64)>>>;

/// A committer that fails with these errors first.
struct Fails {
    name: &'static str,
    errors: Vec<SinkError>,
    calls: Calls,
}

impl Committer for Fails {
    fn commit<'a>(
        &'a mut self,
        epoch: Epoch,
        _handles: &'a [CommitHandle],
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        self.calls.lock().unwrap().push((self.name, epoch.0));
        let answer = self.errors.pop().map_or(Ok(Committed { rows: 1, bytes: 10 }), Err);
        Box::pin(async move { answer })
    }

    fn recover<'a>(
        &'a mut self,
        _decided: Option<(Epoch, &'a [CommitHandle])>,
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async { Ok(Committed::default()) })
    }
}

fn io_error(kind: io::ErrorKind) -> SinkError {
    SinkError::Io { what: "a file".to_owned(), source: kind.into() }
}

fn refused(source: Option<Box<dyn std::error::Error + Send + Sync>>) -> SinkError {
    SinkError::Refused { what: "no".to_owned(), source }
}

fn failed(source: SinkError) -> CommitError {
    CommitError { node: NodeName("out".into()), source }
}

fn started(errors: Vec<(&'static str, Vec<SinkError>)>) -> (Commits, Handles, Calls) {
    let calls = Calls::default();
    let handles: Handles = errors.iter().map(|(name, _)| (NodeName((*name).into()), Vec::new())).collect();
    let committers = errors.into_iter().map(|(name, errors)| {
        let committer: Box<dyn Committer> = Box::new(Fails { name, errors, calls: calls.clone() });
        (NodeName(name.into()), committer)
    });
    (Commits::start(committers.collect()), handles, calls)
}

#[tokio::test]
async fn a_sink_that_has_committed_is_not_asked_again_for_the_sake_of_another() {
    let (mut commits, handles, calls) =
        started(vec![("a", vec![]), ("b", vec![io_error(io::ErrorKind::StorageFull)]), ("c", vec![])]);
    commits.commit(Epoch(7), handles.clone()).await;
    let first = commits.result().await.unwrap();
    assert_eq!(first.outcome.unwrap_err().node, NodeName("b".into()));
    commits.commit(Epoch(7), handles.clone()).await;
    let second = commits.result().await.unwrap().outcome.unwrap();
    assert_eq!(second, Committed { rows: 3, bytes: 30 }, "all attempts together");
    commits.commit(Epoch(8), handles).await;
    assert_eq!(commits.result().await.unwrap().outcome.unwrap().rows, 3);
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls, [("a", 7), ("b", 7), ("c", 7), ("b", 7), ("a", 8), ("b", 8), ("c", 8)]);
}

#[tokio::test]
async fn of_several_failures_the_one_that_does_not_pass_is_told() {
    let (mut commits, handles, _) = started(vec![
        ("a", vec![io_error(io::ErrorKind::TimedOut)]),
        ("b", vec![refused(None)]),
        ("c", vec![io_error(io::ErrorKind::TimedOut)]),
    ]);
    commits.commit(Epoch(1), handles).await;
    assert_eq!(commits.result().await.unwrap().outcome.unwrap_err().node, NodeName("b".into()));
}

#[test]
fn what_the_operating_system_refuses_may_pass_and_what_does_not_fit_does_not() {
    assert!(may_pass(&io_error(io::ErrorKind::StorageFull)));
    assert!(may_pass(&SinkError::Conflict { what: "another writer".into(), retry_after: Duration::ZERO }));
    assert!(may_pass(&refused(Some(Box::new(io::Error::from(io::ErrorKind::NotADirectory))))));
    assert!(!may_pass(&refused(None)));
    assert!(!may_pass(&refused(Some("a column is missing".into()))));
    assert_eq!(retry_after(&failed(refused(None)), 1, (Epoch(1), Generation(1))), None);
    assert!(!may_pass(&refused(Some(Box::new(io::Error::from(io::ErrorKind::BrokenPipe))))), "nobody reads any more");
}

#[test]
fn rows_that_are_gone_are_looked_for_a_few_times() {
    let error = failed(SinkError::Gone { what: "rows".into() });
    assert!(may_pass(&error.source));
    let waits: Vec<_> = (1..20).map_while(|attempt| retry_after(&error, attempt, (Epoch(1), Generation(1)))).collect();
    assert_eq!(waits.len(), GONE_ATTEMPTS as usize);
    let all: Duration = waits.iter().sum();
    assert!((5..15).contains(&all.as_secs()), "{all:?}");
}

#[test]
fn waits_double_up_to_half_a_minute_and_differ_between_pipelines() {
    let error = failed(io_error(io::ErrorKind::TimedOut));
    let wait = |attempt, epoch| retry_after(&error, attempt, (Epoch(epoch), Generation(1))).unwrap();
    for (attempt, most_ms) in [(1, 200), (2, 400), (5, 3200), (9, 30_000), (1000, 30_000)] {
        for epoch in 0..50 {
            let ms = wait(attempt, epoch).as_millis();
            assert!(ms * 2 >= most_ms && ms <= most_ms, "attempt {attempt}: {ms} ms");
        }
    }
    let waits: BTreeSet<Duration> = (0..50).map(|epoch| wait(3, epoch)).collect();
    assert!(waits.len() > 40, "{waits:?}");
    let conflict = failed(SinkError::Conflict { what: "x".into(), retry_after: Duration::from_secs(10) });
    assert!(retry_after(&conflict, 1, (Epoch(1), Generation(1))).unwrap() >= Duration::from_secs(5));
}
