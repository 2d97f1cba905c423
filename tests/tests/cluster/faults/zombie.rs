//! A coordinator that is frozen past its Lease, replaced, and wakes.

use std::{fs, panic::resume_unwind, thread, time::Duration};

use millrace_plan::handover::RunPhase;
use millrace_tests::{Deadline, cluster, cluster::Processes, coordination::Site, manifest, wait};
use serde_json::{Value, json};

use super::flow::{Flow, RATE, Shape, slowly};

/// Checkpoints and outputs are where both pods reach them, as on a file server; each pod has a volume of its own for the rest.
const SHARED: Shape = Shape {
    outputs: Some("shared"),
    mount: "/shared",
    sums: "file",
    checkpoints: "interval: 100ms, minPause: 10ms, storage: \"file:///shared/checkpoints\"",
    more: "  deployment:
    template:
      spec:
        containers: [{name: millrace, volumeMounts: [{name: shared, mountPath: /shared}]}]
        volumes: [{name: shared, persistentVolumeClaim: {claimName: shared}}]
",
};

#[test]
fn a_coordinator_that_is_frozen_past_its_lease_and_replaced_wakes_up_to_decide_and_report_nothing() {
    let Some(cluster) = cluster::cluster() else { return };
    if !cluster.is_ours() {
        println!("skipped: only containers of this machine can be frozen");
        return;
    }
    let site = Site::over(cluster.namespace("zombie"));
    let installed = site.namespace().install(&["replicas=1"]);
    site.namespace().apply(&manifest::claim("shared"));
    thread::scope(|scope| {
        let same_volume = scope.spawn(|| same_volume(&site));
        other_volume(&site);
        same_volume.join().unwrap_or_else(|why| resume_unwind(why));
    });
    installed.expect_nothing_forbidden();
}

/// The pod that replaces it has another volume, and goes on from the checkpoints while the zombie sleeps.
fn other_volume(site: &Site) {
    let flow = Flow::start(site, "other-volume", RATE * 200, SHARED);
    let (objects, processes) = (flow.objects(), site.namespace().processes(&flow.pod));
    let left = frozen_before_the_pointer(&flow, &processes);
    let of_zombie = generation(&flow);
    let successor = replace(&flow, json!({"name": "data", "emptyDir": {}}));
    let more = || objects.epoch().filter(|epoch| *epoch > left + 3);
    let decided = Deadline::secs(30).poll(|| slowly(more));
    assert!(decided.is_some(), "the successor decides no epoch: {:?} after {left}", objects.epoch());
    let of_successor = Deadline::secs(30).wait_for("the successor's report", || {
        slowly(|| objects.report()?.generation.filter(|generation| generation.0 > of_zombie))
    });

    wake(&flow, &processes);
    // It may have tried all it can by now; what stands is the successor's, and goes on.
    for _ in 0..20 {
        let (holder, pointer, report) = (objects.holder().unwrap(), objects.checkpoint(), objects.report().unwrap());
        assert!(is_of(&holder, &successor), "{holder}");
        assert_eq!(pointer["generation"], of_successor.to_string());
        assert!(is_of(&pointer["claimedBy"], &successor), "{pointer:?}");
        assert_eq!((report.pod.as_str(), report.generation), (successor.as_str(), Some(of_successor)));
        wait::pass(Duration::from_millis(100));
    }
    take_over_again(flow, &successor);
}

/// The pod that replaces it finds the same volume, in which the zombie still works: it says so, and waits.
fn same_volume(site: &Site) {
    let flow = Flow::start(site, "same-volume", RATE * 200, Shape::PLAIN);
    let (objects, processes) = (flow.objects(), site.namespace().processes(&flow.pod));
    assert!(processes.signal("STOP"));
    let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-same-volume-0"}});
    let successor = replace(&flow, claim);
    let waits = || {
        let report = objects.report()?;
        let problem = report.problem.filter(|problem| problem.message.contains("/data is in use by process"))?;
        (report.pod == successor).then_some((report.phase, problem.message))
    };
    let (phase, message) = Deadline::secs(30).wait_for("a word of the zombie", || slowly(waits));
    assert_eq!(phase, RunPhase::Starting, "{message}");
    wake(&flow, &processes);
    flow.expect_more(flow.files(), "rows of the successor");
    assert!(is_of(&objects.holder().unwrap(), &successor));
    take_over_again(flow, &successor);
}

/// Starts a pod like the Pipeline's, with another name and this volume, and waits until it has the Lease: what a StatefulSet
/// does once the pod's object is gone and its node cannot be asked. On the one node here the kubelet would end the zombie.
fn replace(flow: &Flow<'_>, volume: Value) -> String {
    let (namespace, name) = (flow.namespace(), format!("{}-successor", flow.name));
    let mut pod = namespace.get("pod", &flow.pod);
    pod["metadata"] = json!({"name": name});
    let spec = pod["spec"].as_object_mut().unwrap();
    for of_the_first in ["nodeName", "hostname", "subdomain"] {
        spec.remove(of_the_first);
    }
    let volumes = spec["volumes"].as_array_mut().unwrap();
    volumes.retain(|volume| volume["name"] != "data");
    volumes.push(volume);
    pod["status"].take();
    namespace.kubectl(["create", "-f", "-"]).input(&pod.to_string()).run();
    let held = Deadline::secs(50).poll(|| slowly(|| flow.objects().holder().filter(|holder| is_of(holder, &name))));
    assert!(held.is_some(), "the successor does not get the Lease:\n{}", namespace.logs(&name));
    name
}

/// Lets the zombie go on, and waits until it knows what it is.
fn wake(flow: &Flow<'_>, processes: &Processes) {
    let log = || flow.namespace().logs(&flow.pod);
    assert!(processes.signal("CONT"), "the zombie is still there:\n{}", log());
    let steps_down = |text: &String| text.contains("stepped down") || text.contains("steps down");
    let text = Deadline::secs(30).poll(|| slowly(|| Some(log()).filter(steps_down)));
    let text = text.unwrap_or_else(|| panic!("the zombie does not step down:\n{}", log()));
    println!("the zombie of {}: {}", flow.name, text.lines().rfind(|line| steps_down(&(*line).to_owned())).unwrap());
}

/// When the successor goes, what was the zombie goes on from there.
fn take_over_again(flow: Flow<'_>, successor: &str) {
    let (_, restarts) = flow.life().unwrap();
    assert_eq!(restarts, 0, "it has stepped down, and not crashed");
    flow.namespace().delete_pod(successor, &[]);
    let held = || flow.objects().holder().filter(|holder| is_of(holder, &flow.pod));
    let held = Deadline::secs(60).poll(|| slowly(held));
    assert!(held.is_some(), "{} does not get the Lease again", flow.pod);
    flow.expect_exactly_once();
}

/// Whether a holder or claimant is this pod.
fn is_of(identity: &str, pod: &str) -> bool {
    identity.split_once('_').is_some_and(|(name, _)| name == pod)
}

/// The generation that has claimed the pointer.
fn generation(flow: &Flow<'_>) -> u64 {
    flow.objects().checkpoint()["generation"].parse().unwrap()
}

/// Freezes the pod when it has written a manifest and not moved the pointer to it: what it does first when it wakes is to try
/// that. The epoch that is decided then.
fn frozen_before_the_pointer(flow: &Flow<'_>, processes: &Processes) -> u64 {
    let namespace = flow.namespace();
    let manifests = namespace.volume("shared").join(format!("checkpoints/{}/other-volume/manifests", namespace.name));
    let newest = || {
        let files = fs::read_dir(&manifests).unwrap().flatten();
        files.filter_map(|file| epoch_of(file.file_name().to_str()?)).max().unwrap_or(0)
    };
    let deadline = Deadline::secs(60);
    for tries in 1.. {
        assert!(!deadline.is_over(), "in {tries} tries it was never frozen between a manifest and its decision");
        let freeze = processes.ready("STOP");
        let before = newest();
        // Without a pause: the moment lasts for a few milliseconds.
        while newest() == before && !deadline.is_over() {}
        assert!(freeze.send());
        // What it had sent before has been answered by then.
        wait::pass(Duration::from_millis(300));
        let decided = flow.objects().epoch().unwrap();
        if newest() > decided {
            println!("frozen between manifest {} and its decision, in {tries} tries", newest());
            return decided;
        }
        assert!(processes.signal("CONT"));
    }
    unreachable!("it is tried until it is done, or too late")
}

/// Of `12-3.json`, written by generation 3.
fn epoch_of(manifest: &str) -> Option<u64> {
    manifest.strip_suffix(".json")?.split_once('-')?.0.parse().ok()
}
