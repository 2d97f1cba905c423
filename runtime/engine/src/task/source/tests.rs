#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, future::poll_fn};

use arrow::{
    array::{AsArray, Int64Array},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use futures::{FutureExt, future::BoxFuture};
use millrace_connectors::{ReplayPoint, SourceError};
use millrace_stream::{BarrierKind, ManualClock, TaskId, Timestamp};

use super::*;
use crate::{
    channel::{Load, Receiver, channel},
    metrics::StageMetrics,
    router::OutEdge,
    stages::{Route, Target},
};

const BATCH_ROWS: usize = 10;

/// Batches of ten numbers, without end.
struct Numbers {
    next: i64,
}

impl SourceReader for Numbers {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, SourceError>> {
        Box::pin(async {
            let first = self.next;
            self.next += BATCH_ROWS as i64;
            let numbers = Int64Array::from_iter_values(first..self.next);
            let rows = RecordBatch::try_new(numbers_schema(), vec![Arc::new(numbers)]).unwrap();
            Ok(Read::Rows { split: SplitId("all".into()), rows, errors: None, bytes: 80 })
        })
    }

    fn replay_points(&self) -> Vec<(SplitId, ReplayPoint)> {
        vec![(SplitId("all".into()), ReplayPoint(self.next.into()))]
    }
}

fn numbers_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, false)]))
}

fn node() -> SourceNode {
    let spec = serde_json::json!({"name": "numbers", "generator": {"fields": [{"name": "number", "sequence": {}}]},
        "eventTime": {"column": "at", "idleTimeout": "1s"}});
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, Some("UTC".into()));
    let inside = vec![Field::new("_event_time", time, false), Field::new("number", DataType::Int64, false)];
    SourceNode {
        spec: serde_json::from_value(spec).unwrap(),
        declared: numbers_schema(),
        read: vec![0],
        event_time: None,
        filter: None,
        schema: Arc::new(Schema::new(inside)),
    }
}

struct Fixture {
    control: mpsc::Sender<SourceControl>,
    reports: mpsc::Receiver<Report>,
    receivers: Vec<Receiver>,
    clock: Arc<ManualClock>,
    task: tokio::task::JoinHandle<Result<(), TaskError>>,
}

/// A source in front of `receivers` channels that have room for one batch each, and that nobody reads.
fn blocked_source(receivers: usize) -> Fixture {
    let (report, reports) = mpsc::channel(16);
    let (control, controls) = mpsc::channel(16);
    let clock = Arc::new(ManualClock::at(Timestamp(1_000)));
    let cx = TaskContext {
        id: TaskId { stage: "numbers".into(), index: 0 },
        metrics: Arc::new(StageMetrics::default()),
        clock: clock.clone(),
        reports: report,
    };
    let budget = Load { rows: BATCH_ROWS, bytes: usize::MAX };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..receivers).map(|_| channel(budget)).unzip();
    let edges: Vec<OutEdge> =
        senders.into_iter().map(|sender| OutEdge { route: Route::Forward, senders: vec![sender] }).collect();
    let targets = (0..edges.len()).map(Target::Edge).collect();
    let outputs = BTreeMap::from([(OutputName::Main, targets)]);
    let router = Router::new(outputs, Vec::new(), edges, |_| Arc::default());
    let task = SourceTask::new(cx, node(), Box::new(Numbers { next: 0 }), router, controls, &[]);
    Fixture { control, reports, receivers, clock, task: tokio::spawn(task.run()) }
}

impl Fixture {
    async fn inject(&self, epoch: u64, kind: BarrierKind) {
        self.control.send(SourceControl::Inject(Barrier { epoch: Epoch(epoch), kind })).await.unwrap();
    }

    /// Where the source says that it goes on.
    async fn acknowledged(&mut self) -> (Epoch, i64) {
        match self.reports.recv().await.unwrap() {
            Report::Acked { epoch, snapshot, .. } => (epoch, snapshot.manifest.replay_points[0].1.as_i64().unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// What lies in a channel: the numbers up to the next barrier, and its epoch.
    fn waiting(&mut self, at: usize) -> (Vec<i64>, Option<Epoch>) {
        let mut numbers = Vec::new();
        loop {
            match poll_fn(|cx| self.receivers[at].poll_recv(cx)).now_or_never() {
                Some(Some(Message::Batch(batch))) => {
                    numbers.extend(batch.column(1).as_primitive::<Int64Type>().values());
                }
                Some(Some(Message::Barrier(barrier))) => return (numbers, Some(barrier.epoch)),
                Some(Some(Message::Idle)) => panic!("the source is never idle"),
                Some(Some(_)) => {}
                Some(None) | None => return (numbers, None),
            }
        }
    }
}

#[tokio::test]
async fn a_barrier_begins_although_there_is_no_room_downstream() {
    let mut source = blocked_source(2);
    // Until both channels are full and a batch waits, the source does not let this task have its turn.
    tokio::task::yield_now().await;
    source.inject(1, BarrierKind::Checkpoint).await;
    let (epoch, goes_on) = source.acknowledged().await;
    assert_eq!((epoch, goes_on), (Epoch(1), 20), "one batch under way, one over the budget");
    for channel in 0..2 {
        let (numbers, barrier) = source.waiting(channel);
        assert_eq!(barrier, Some(Epoch(1)));
        assert_eq!(numbers, (0..goes_on).collect::<Vec<_>>(), "every row before its barrier, once");
    }
    tokio::task::yield_now().await;
    let (numbers, _) = source.waiting(0);
    assert_eq!(numbers, (20..30).collect::<Vec<_>>(), "and it goes on where it said");
}

#[tokio::test]
async fn barriers_that_follow_one_another_add_no_rows_while_nothing_is_taken() {
    let mut source = blocked_source(1);
    tokio::task::yield_now().await;
    for epoch in 1..=50 {
        source.inject(epoch, BarrierKind::Checkpoint).await;
        assert_eq!(source.acknowledged().await, (Epoch(epoch), 20));
    }
    assert_eq!(source.waiting(0), ((0..20).collect(), Some(Epoch(1))));
}

#[tokio::test]
async fn a_source_that_waits_for_room_ends_with_the_last_barrier() {
    let mut source = blocked_source(1);
    tokio::task::yield_now().await;
    source.inject(1, BarrierKind::Stop).await;
    assert_eq!(source.acknowledged().await, (Epoch(1), 20));
    drop(source.control);
    source.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_source_that_waits_for_room_is_not_idle_however_long_it_waits() {
    let mut source = blocked_source(1);
    tokio::task::yield_now().await;
    for round in 0..3 {
        source.clock.advance(Duration::from_secs(60));
        assert_eq!(source.waiting(0).0, (round * 10..round * 10 + 10).collect::<Vec<_>>());
        tokio::task::yield_now().await;
    }
    source.inject(1, BarrierKind::Checkpoint).await;
    source.acknowledged().await;
    source.clock.advance(Duration::from_secs(60));
    source.waiting(0);
    tokio::task::yield_now().await;
    source.waiting(0);
}
