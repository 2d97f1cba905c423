//! A pod whose volume is gone goes on from the object store.

use millrace_plan::handover::RunPhase;
use millrace_tests::{Deadline, Workspace, coordination::Site, s3::Gateway};

use super::pod::{Numbers, committed, in_phase, worker};

#[test]
fn a_pod_with_an_empty_volume_goes_on_from_the_object_store() {
    let Some(site) = Site::new("volumes") else { return };
    let (workspace, gateway) = (Workspace::new(), Gateway::start());
    let objects = site.pipeline("web");
    let storage = format!("interval: 200ms, minPause: 10ms, storage: \"{}\"", gateway.url("checkpoints"));
    let numbers = Numbers { checkpoints: storage, ..Numbers::new(400_000, 20_000) };
    objects.want(&numbers.plan());
    for pod in 0..3 {
        let running = gateway.reached_by(worker(&workspace, &site, &format!("web-{pod}"), "1")).start();
        // The Lease of the one before has to run out.
        let holder = format!("web-{pod}_1");
        Deadline::secs(60).wait_for("the Lease", || (objects.holder() == Some(holder.clone())).then_some(()));
        let before = objects.epoch();
        Deadline::secs(60).wait_for("checkpoints", || (objects.epoch() > before.map(|epoch| epoch + 3)).then_some(()));
        // Of the first pod that may be one checkpoint, before any row or before what it has is committed.
        Deadline::secs(60).wait_for("rows", || (committed(&workspace) > 0).then_some(()));
        running.kill();
    }
    let running = gateway.reached_by(worker(&workspace, &site, "web-3", "1")).start();
    let report = in_phase(&running, &objects, RunPhase::Finished);
    assert!(report.restored_from.is_some(), "{report:#?}");
    numbers.expect_all(&workspace);
    let folder = gateway.folder(&format!("checkpoints/{}/web/manifests", site.namespace().name));
    assert!(folder.is_dir(), "pipelines of two namespaces do not meet");
}
