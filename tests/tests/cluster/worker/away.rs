//! The API server is away: the pipeline goes on, and checkpoints wait.

use std::time::Duration;

use millrace_plan::handover::RunPhase;
use millrace_tests::{
    Deadline, Workspace,
    coordination::{Bridge, Site},
    http, wait,
};

use super::{
    life::address,
    pod::{Numbers, committed, in_phase, worker},
};

#[test]
fn rows_flow_on_while_the_api_server_is_away_and_are_committed_when_it_is_back() {
    let Some(site) = Site::new("away") else { return };
    let workspace = Workspace::new();
    let objects = site.pipeline("web");
    let numbers = Numbers::new(1_000_000, 20_000);
    objects.want(&numbers.plan());
    let bridge = Bridge::new(site.kubeconfig());
    let kubeconfig = bridge.kubeconfig(workspace.join("kubeconfig"));
    let worker = worker(&workspace, &site, "web-0", "1").env("KUBECONFIG", kubeconfig.to_str().unwrap());
    let mut running = worker.start();
    Deadline::secs(60).wait_for("committed rows", || (committed(&workspace) > 0).then_some(()));
    let read = |log: &str| -> i64 {
        let answer = http::get(address(log), "/api/v1/pipeline");
        let overview: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        overview["nodes"][0]["rowsIn"].as_i64().unwrap()
    };
    bridge.cut(true);
    // Longer than the Lease is good for.
    wait::pass(Duration::from_secs(5));
    let (rows, shown) = (read(&running.stderr()), committed(&workspace));
    wait::pass(Duration::from_secs(15));
    let later = read(&running.stderr());
    assert!(later > rows + 10_000, "rows flow on: {rows}, {later}");
    assert_eq!(committed(&workspace), shown, "nothing is shown that is not decided");
    assert!(running.is_alive());
    assert_eq!(http::get(address(&running.stderr()), "/readyz").status, 200);
    bridge.cut(false);
    Deadline::secs(30).wait_for("commits", || (committed(&workspace) > shown).then_some(()));
    assert!(!running.stderr().contains("starting again"), "{}", running.stderr());
    let report = in_phase(&running, &objects, RunPhase::Finished);
    assert_eq!(report.restarts, 0);
    numbers.expect_all(&workspace);
}
