//! A coordinator that is frozen past its Lease, replaced, and wakes.

use std::{fs, panic::resume_unwind, path::PathBuf, thread, time::Duration};

use millrace_tests::{
    Deadline, cluster,
    cluster::{Cluster, Processes},
    coordination::Site,
    wait,
};

use super::flow::{Flow, RATE, Shape, is_unready, slowly};

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

const CLAIM: &str = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";

#[test]
fn a_coordinator_that_wakes_up_replaced_moves_no_pointer_and_reports_nothing() {
    let Some(cluster) = cluster::cluster() else { return };
    if !cluster.is_ours() {
        println!("skipped: only containers of this machine can be frozen");
        return;
    }
    let site = Site::over(cluster.namespace("zombie"));
    let installed = site.namespace().install(&["replicas=1"]);
    thread::scope(|scope| {
        let same_volume = scope.spawn(|| same_volume(&site));
        other_volume(&site);
        same_volume.join().unwrap_or_else(|why| resume_unwind(why));
    });
    installed.expect_nothing_forbidden();
}

/// The pod that comes next finds the same volume, in which the frozen one still works: it says so, and waits until the kubelet
/// has killed that, a minute later.
fn same_volume(site: &Site) {
    let flow = Flow::start(site, "same-volume", RATE * 200, Shape::PLAIN);
    let (uid, _) = flow.life().unwrap();
    site.namespace().signal("STOP", &flow.pod);
    site.namespace().delete_pod(&flow.pod, &["--grace-period=0", "--force"]);
    flow.expect_another_pod(&uid);
    flow.expect_status("a word of the pod before", |status| is_unready(status, "/data is in use by process"));
    flow.expect_more(flow.files(), "the end of the pod before");
    flow.expect_exactly_once();
}

/// The pod that comes next has another volume, and goes on from the checkpoints while the frozen one sleeps.
fn other_volume(site: &Site) {
    site.namespace().apply(CLAIM);
    let flow = Flow::start(site, "numbers", RATE * 200, SHARED);
    let (uid, _) = flow.life().unwrap();
    let log = Log::of(&flow, &uid);
    let volume = keep_volume(&flow);

    let processes = site.namespace().processes(&flow.pod);
    let left = frozen_before_the_pointer(&flow, &processes);
    let objects = flow.objects();
    let of_zombie = generation(&flow);
    // The kubelet ends what it finds without an object, but gives it a minute, and a frozen process hears no SIGTERM. The
    // claim goes too, so that the successor has a volume of its own.
    site.namespace().kubectl(["delete", "persistentvolumeclaim", "data-numbers-0", "--wait=false"]).run();
    site.namespace().delete_pod(&flow.pod, &["--grace-period=0", "--force"]);
    flow.expect_another_pod(&uid);
    let held = Deadline::secs(60).poll(|| slowly(|| objects.holder().filter(|holder| !holder.ends_with(&uid))));
    let successor = held.unwrap_or_else(|| panic!("no successor takes the Lease:\n{}", log.text()));
    let more = || objects.epoch().filter(|epoch| *epoch > left + 3);
    let decided = Deadline::secs(60).poll(|| slowly(more));
    assert!(decided.is_some(), "the successor decides no epoch: {:?} after {left}", objects.epoch());
    let of_successor = Deadline::secs(30).wait_for("the successor's report", || {
        slowly(|| objects.report()?.generation.filter(|generation| generation.0 > of_zombie))
    });

    assert!(processes.signal("CONT"), "the zombie is still there:\n{}", log.text());
    let fenced = Deadline::secs(40)
        .poll(|| Some(log.text()).filter(|text| text.contains("stepped down") || text.contains("steps down")));
    let text = fenced.unwrap_or_else(|| panic!("the zombie does not step down:\n{}", log.text()));
    println!("the zombie's last words:\n{}", text.lines().rev().take(6).collect::<Vec<_>>().join("\n"));
    // It may have tried all it can by now; what stands is the successor's, and goes on.
    for _ in 0..20 {
        assert_eq!(objects.holder().as_deref(), Some(&*successor));
        assert_eq!(generation(&flow), of_successor.0);
        assert!(objects.checkpoint()["claimedBy"].starts_with(&successor), "{:?}", objects.checkpoint());
        assert_eq!(objects.report().unwrap().generation, Some(of_successor));
        wait::pass(Duration::from_millis(100));
    }
    let (now, restarts) = flow.life().unwrap();
    assert!(successor.ends_with(&now) && restarts == 0, "the successor was not disturbed: {restarts} restarts");
    flow.expect_exactly_once();
    drop(volume);
}

/// The generation that has claimed the pointer.
fn generation(flow: &Flow<'_>) -> u64 {
    flow.objects().checkpoint()["generation"].parse().unwrap()
}

/// Freezes the pod when it has written a manifest and not moved the pointer to it: what it does first when it wakes is to try
/// that. The epoch that is decided then.
fn frozen_before_the_pointer(flow: &Flow<'_>, processes: &Processes) -> u64 {
    let namespace = flow.namespace();
    let manifests = namespace.volume("shared").join(format!("checkpoints/{}/numbers/manifests", namespace.name));
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

/// What a container has logged; the file goes when the kubelet has done with the pod.
struct Log(PathBuf);

impl Log {
    fn of(flow: &Flow<'_>, uid: &str) -> Self {
        let run = flow.namespace().cluster.kubeconfig();
        let folder = format!("pod-logs/{}_{}_{uid}/millrace/0.log", flow.namespace().name, flow.pod);
        Self(run.parent().expect("it is in a folder").join(folder))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }
}

/// The zombie's volume stays for as long as this lives, as it would on another machine.
fn keep_volume(flow: &Flow<'_>) -> Volume {
    let claim = flow.namespace().get("persistentvolumeclaim", "data-numbers-0");
    let volume =
        Volume { cluster: flow.namespace().cluster, name: claim["spec"]["volumeName"].as_str().unwrap().to_owned() };
    volume.when_released("Retain");
    volume
}

struct Volume {
    cluster: &'static Cluster,
    name: String,
}

impl Volume {
    fn when_released(&self, policy: &str) {
        let patch = format!("{{\"spec\": {{\"persistentVolumeReclaimPolicy\": \"{policy}\"}}}}");
        if let Err(why) = self.cluster.kubectl(["patch", "persistentvolume", &self.name, "--patch", &patch]).attempt() {
            println!("{} cannot be patched: {why}", self.name);
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.when_released("Delete");
    }
}
