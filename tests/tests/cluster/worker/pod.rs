//! A worker as a pod would run it, and the pipeline that it runs.

use std::time::Duration;

use millrace_plan::handover::{PlanDocument, ReportDocument, RunPhase};
use millrace_tests::{
    Deadline, Millrace, Running, Workspace,
    coordination::{self, Objects, Site},
    manifest, read,
};

/// A worker with a data folder and an identity.
pub fn worker(workspace: &Workspace, site: &Site, pod: &str, uid: &str) -> Millrace {
    let args =
        ["worker", "--namespace", &site.namespace().name, "--pipeline", "web", "--listen", "127.0.0.1:0", "--data-dir"];
    let worker = Millrace::new(workspace, args).args([format!("data-{pod}")]);
    worker
        .env("KUBECONFIG", &site.kubeconfig().to_string_lossy())
        .env("POD_NAME", pod)
        .env("POD_UID", uid)
        .patience(Duration::from_secs(60))
}

/// A pipeline that passes on the numbers below `rows`, `rate` a second, and sums them up by the second of their event time.
pub struct Numbers {
    pub rows: i64,
    pub rate: u64,
    /// Which of them are passed on.
    pub filter: &'static str,
    /// Where to, below the workspace.
    pub path: String,
    /// `checkpoints: {…}`.
    pub checkpoints: String,
    /// Further fields of the spec.
    pub more: &'static str,
}

impl Numbers {
    pub fn new(rows: i64, rate: u64) -> Self {
        Self {
            rows,
            rate,
            filter: "id % 10 = 0",
            path: "out/some".to_owned(),
            checkpoints: "interval: 200ms, minPause: 10ms".to_owned(),
            more: "",
        }
    }

    pub fn plan(&self) -> PlanDocument {
        let Self { rows, rate, filter, path, checkpoints, more } = self;
        let summed = "SELECT window_start, count(*) AS n, sum(id) AS ids FROM events";
        let pipeline = manifest::Pipeline {
            name: "web",
            checkpoints,
            more,
            events: &manifest::numbers(rows, rate),
            transforms: &[("some", "", &format!("SELECT id FROM events WHERE {filter}")), ("sums", "second", summed)],
            outputs: &[("some", "some"), ("sums", "sums")],
        };
        let manifests = [
            pipeline.to_string(),
            manifest::window("second", "tumbling: {size: 1s}"),
            manifest::sink("some", &format!("file: {{path: {path}, format: {{json: {{}}}}}}")),
            manifest::sink("sums", "file: {path: out/sums, format: {json: {}}}"),
        ];
        coordination::plan(&manifests.concat())
    }

    /// Both outputs have each row once.
    pub fn expect_all(&self, workspace: &Workspace) {
        let sums = read::folder(&workspace.join("out/sums"));
        assert_eq!(sums.sum("n"), self.rows, "each row is counted once");
        assert_eq!(sums.sum("ids"), self.rows * (self.rows - 1) / 2);
        let mut ids: Vec<i64> = read::folder(&workspace.join("out/some")).column("id").map(|id| id.int()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..self.rows).filter(|id| id % 10 == 0).collect::<Vec<_>>());
    }
}

/// How many rows are committed.
pub fn committed(workspace: &Workspace) -> usize {
    read::folder(&workspace.join("out/some")).len()
}

/// Waits until the report is like this.
pub fn reported(
    running: &Running,
    objects: &Objects<'_>,
    what: &str,
    is: impl Fn(&ReportDocument) -> bool,
) -> ReportDocument {
    let mut last = None;
    let found = Deadline::secs(60).poll(|| {
        let report = objects.report()?;
        let is_it = is(&report);
        last = Some(report.clone());
        is_it.then_some(report)
    });
    found.unwrap_or_else(|| panic!("no report of {what}; the last: {last:#?}\n{}", running.stderr()))
}

/// Waits for a phase.
pub fn in_phase(running: &Running, objects: &Objects<'_>, phase: RunPhase) -> ReportDocument {
    reported(running, objects, &format!("{phase:?}"), |report| report.phase == phase)
}
