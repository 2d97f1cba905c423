#![allow(clippy::unwrap_used)]

use millrace_engine::status::{CheckpointReport, JobPhase, JobState};
use millrace_plan::handover::{Problem, ProblemOf, RunPhase};
use millrace_stream::{BarrierKind, Epoch, Revision};

use super::*;
use crate::cluster::fake_api::FakeApi;

fn counted(name: &str, kind: &'static str, rate: f64) -> NodeReport {
    NodeReport {
        name: name.to_owned(),
        kind,
        inputs: Vec::new(),
        rows_in: 0,
        rows_out: 0,
        rows_in_per_second: rate,
        rows_out_per_second: rate,
        bytes_in: None,
        bad_rows: None,
        lag_bytes: None,
        lag_rows: None,
        watermark: None,
        backpressure_seconds: 0.0,
        backpressure: 0.0,
        state_entries: None,
        state_bytes: None,
        late_rows: None,
        committed: None,
    }
}

fn job(epoch: u64, rate: f64) -> Report {
    let checkpoint = CheckpointReport {
        epoch: Epoch(epoch),
        kind: BarrierKind::Checkpoint,
        completed_at: Timestamp(epoch * 1000),
        duration: Duration::from_millis(38),
        size_bytes: 1234,
        uploaded_bytes: 0,
    };
    let state = JobState {
        phase: JobPhase::Running,
        checkpoint: Some(checkpoint),
        committed: Some(Epoch(epoch)),
        ..JobState::default()
    };
    Report {
        name: "web".to_owned(),
        state,
        now: 0,
        checkpoints_completed: 0,
        checkpoints_failed: 0,
        committed_rows: 0,
        restarts: 0,
        nodes: vec![
            counted("requests", "source", rate),
            NodeReport { committed: Some(Epoch(epoch)), ..counted("requests->out", "sink", rate) },
        ],
    }
}

fn said() -> Said {
    Said { revision: Some(Revision("a".to_owned())), ..Said::default() }
}

fn report(epoch: u64, rate: f64, now: u64) -> ReportDocument {
    document(&said(), &job(epoch, rate), "web-0", Timestamp(now))
}

fn written(report: ReportDocument) -> Written {
    Written { report, at: Duration::from_secs(100) }
}

fn is_due_after(last: &ReportDocument, next: &ReportDocument, age: Duration) -> bool {
    due(Some(&written(last.clone())), next, Duration::from_secs(100) + age)
}

/// After how many seconds of looking twice a second a report is written.
fn due_at(last: &ReportDocument, next: &ReportDocument) -> Option<f64> {
    (0..7200).map(|half| f64::from(half) / 2.0).find(|age| is_due_after(last, next, Duration::from_secs_f64(*age)))
}

#[test]
fn the_first_report_is_written_at_once() {
    assert!(due(None, &report(1, 0.0, 0), Duration::ZERO));
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    assert_eq!(due_at(&report(1, 5.0, 0), &report(1, 5.0, 3_600_000)), None);
    assert_eq!(due_at(&report(1, 5.001, 0), &report(1, 5.002, 0)), None, "nobody can see that");
}

#[test]
fn what_people_wait_for_is_written_at_once() {
    let last = report(1, 5.0, 0);
    let problem = Problem { of: ProblemOf::Sink, node: None, message: "no".to_owned(), since: Timestamp(0) };
    for (what, next) in [
        ("phase", ReportDocument { phase: RunPhase::Failed, ..last.clone() }),
        ("revision", ReportDocument { revision: None, ..last.clone() }),
        ("problem", ReportDocument { problem: Some(problem), ..last.clone() }),
        ("checkpoints that fail", ReportDocument { checkpoint_failures: 1, ..last.clone() }),
    ] {
        assert_eq!(due_at(&last, &next), Some(0.5), "{what}");
    }
}

#[test]
fn counts_are_written_every_five_seconds_and_epochs_alone_every_ten() {
    let last = report(1, 5.0, 0);
    assert_eq!(due_at(&last, &report(2, 6.0, 0)), Some(5.0));
    assert_eq!(due_at(&last, &ReportDocument { restarts: 1, ..last.clone() }), Some(5.0));
    assert_eq!(due_at(&last, &report(2, 5.0, 0)), Some(10.0));
}

#[test]
fn an_hour_of_an_idle_pipeline_whose_checkpoints_go_on_is_360_reports_at_the_most() {
    let mut last = written(report(0, 0.0, 0));
    let mut writes = 0;
    for half in 0..7200_u64 {
        let now = Duration::from_millis(100_000 + half * 500);
        let next = report(half / 10, 0.0, half * 500);
        if due(Some(&last), &next, now) {
            writes += 1;
            last = Written { report: next, at: now };
        }
    }
    assert!((300..=360).contains(&writes), "{writes}");
}

#[test]
fn rates_have_three_digits() {
    assert_eq!([0.0, -1.0, f64::NAN].map(visible), [0.0; 3]);
    assert_eq!([0.012_345, 1.2345, 51_234.5, 1_234_567.0].map(visible), [0.0123, 1.23, 51_200.0, 1_230_000.0]);
}

#[test]
fn each_sink_says_what_it_has_committed() {
    let mut job = job(7, 0.0);
    job.nodes.push(NodeReport { committed: None, ..counted("requests->new", "sink", 0.0) });
    let report = document(&said(), &job, "web-0", Timestamp(0));
    let committed: Vec<_> = report.nodes.iter().map(|node| node.committed).collect();
    assert_eq!(committed, [None, Some(Epoch(7)), None]);
    assert_eq!(report.checkpoint.unwrap().duration_ms, 38);
}

struct At(Mutex<Duration>);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp(self.monotonic().as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// What a pod says that has the Lease, and whose clock stands still.
fn reporter(cluster: &Cluster, pod: &str) -> (Arc<Reporter>, Arc<At>) {
    let clock = Arc::new(At(Mutex::new(Duration::ZERO)));
    let instruments = crate::context::Instruments {
        clock: clock.clone(),
        metrics: Arc::default(),
        status: Arc::new(millrace_engine::status::Status::new(|_| {})),
    };
    let reporter = Reporter {
        cluster: cluster.clone(),
        pod: pod.to_owned(),
        pod_uid: format!("uid of {pod}"),
        owner: Owner::default(),
        board: Arc::new(Board::default()),
        overview: Arc::new(Overview::new(instruments)),
        clock: clock.clone(),
        // What was said last stays when nobody says anything else.
        standing: watch::channel(Standing::Held { confirmed: Duration::ZERO }).1,
        version: Mutex::default(),
    };
    (Arc::new(reporter), clock)
}

#[test]
fn a_pod_whose_lease_has_run_out_says_nothing_and_what_was_said_is_found_again() {
    crate::install_tls();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (api, cluster) = FakeApi::start("web").await;
        let (reporter, clock) = reporter(&cluster, "web-0");
        let mut last = None;
        reporter.board.update(|said| {
            said.idle = Some(RunPhase::Suspended);
            said.savepoint_token = Some("t".to_owned());
        });
        reporter.write_if_due(&mut last).await.unwrap();
        reporter.write_if_due(&mut last).await.unwrap();
        assert_eq!(api.requests().1, 1, "the same is not written twice");
        let before = Before::read(&cluster, Some("any")).await.unwrap();
        assert_eq!(before.savepoint_token.as_deref(), Some("t"));
        assert_eq!(before.report.unwrap().phase, RunPhase::Suspended);

        *clock.0.lock().unwrap() = super::super::lease::GOOD_FOR;
        reporter.board.update(|said| said.idle = Some(RunPhase::Failed));
        reporter.write_if_due(&mut last).await.unwrap();
        reporter.write_last(&mut last).await.unwrap();
        assert_eq!(api.requests().1, 1);
    });
}

#[test]
fn a_report_of_a_pod_that_was_frozen_on_the_way_is_lost_if_its_successor_has_reported() {
    crate::install_tls();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (_api, cluster) = FakeApi::start("web").await;
        let ((zombie, _), (successor, _)) = (reporter(&cluster, "zombie"), reporter(&cluster, "successor"));
        let (mut of_zombie, mut of_successor) = (None, None);
        zombie.write_if_due(&mut of_zombie).await.unwrap();
        successor.write_if_due(&mut of_successor).await.unwrap();
        let pod = async || Before::read(&cluster, None).await.unwrap().report.unwrap().pod;
        assert_eq!(pod().await, "successor");
        // Its clock says that the Lease is its own.
        zombie.board.update(|said| said.idle = Some(RunPhase::Failed));
        of_zombie = None;
        zombie.write_if_due(&mut of_zombie).await.unwrap();
        assert_eq!(pod().await, "successor");
        assert!(of_zombie.is_none(), "it does not think that it has reported");
    });
}
