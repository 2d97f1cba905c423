//! Containers that are killed and pods that are deleted, with edits in between.

use std::{collections::BTreeMap, env, thread, time::Duration};

use millrace_tests::{Deadline, Seed, cluster, coordination::Site, wait, watcher::Watcher};

use super::flow::{Flow, RATE, Shape, slowly};

/// How many there are without `MILLRACE_FAULTS`.
const FAULTS: usize = 21;
/// The Pipelines that they are dealt out to, which suffer at the same time.
const SHAPES: [Shape; 3] = [
    Shape::PLAIN,
    Shape { sums: "parquet", ..Shape::PLAIN },
    Shape { sums: "delta", checkpoints: "interval: 150ms, minPause: 10ms, retain: 1", ..Shape::PLAIN },
];
/// For so many seconds there are rows for each fault; one takes about four.
const SECONDS_A_FAULT: i64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL to the container.
    Kill,
    /// The pod is deleted, and may take its final checkpoint.
    Delete,
    /// The pod's object is taken away at once; what runs learns of it when the kubelet does.
    DeleteNow,
    /// The container is frozen, for less than the Lease is good for.
    Pause,
}

/// What came of a campaign.
#[derive(Default)]
struct Told {
    faults: BTreeMap<Fault, usize>,
    edits: usize,
    /// From SIGKILL to the next rows that readers see.
    after_kills: Vec<Duration>,
}

#[test]
fn each_row_is_seen_once_however_often_pods_are_killed_and_deleted_between_edits() {
    let Some(cluster) = cluster::cluster() else { return };
    if !cluster.is_ours() {
        println!("skipped: only containers of this machine can be killed");
        return;
    }
    let mut seed = Seed::of_test("killed pods");
    let wanted = env::var("MILLRACE_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(FAULTS);
    let site = Site::over(cluster.namespace("killed-pods"));
    let installed = site.namespace().install(&["replicas=1"]);
    let told: Vec<Told> = thread::scope(|scope| {
        let campaigns: Vec<_> = SHAPES
            .iter()
            .enumerate()
            .map(|(number, shape)| {
                // So many to the last, and to the others as many or one less.
                let faults = (wanted * (number + 1)) / SHAPES.len() - (wanted * number) / SHAPES.len();
                let (site, mut seed) = (&site, seed.fork());
                scope.spawn(move || campaign(site, number, *shape, faults, &mut seed))
            })
            .collect();
        campaigns
            .into_iter()
            .map(|campaign| campaign.join().unwrap_or_else(|why| std::panic::resume_unwind(why)))
            .collect()
    });
    installed.expect_nothing_forbidden();
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    for (fault, count) in told.iter().flat_map(|told| &told.faults) {
        *faults.entry(*fault).or_default() += count;
    }
    assert_eq!(faults.values().sum::<usize>(), wanted);
    let mut after_kills: Vec<Duration> = told.iter().flat_map(|told| told.after_kills.clone()).collect();
    after_kills.sort_unstable();
    println!("{faults:?}, {} edits", told.iter().map(|told| told.edits).sum::<usize>());
    println!("from SIGKILL to the next rows: {after_kills:.1?}");
}

/// What is to happen, such that the kubelet never makes us wait: a container that is killed for the second time in one pod is
/// started again after 10 s, then 20, and so on.
fn plan(seed: &mut Seed, count: usize) -> Vec<Fault> {
    let mut plan: Vec<Fault> = Vec::new();
    let mut was_killed = false;
    while plan.len() < count {
        let fault = *seed.pick(&[Fault::Kill, Fault::Kill, Fault::Delete, Fault::DeleteNow, Fault::Pause]);
        let is_kill = fault == Fault::Kill;
        if is_kill && was_killed {
            continue;
        }
        was_killed = is_kill || (was_killed && fault == Fault::Pause);
        plan.push(fault);
    }
    plan
}

fn campaign(site: &Site, number: usize, shape: Shape, faults: usize, seed: &mut Seed) -> Told {
    let rows = RATE * SECONDS_A_FAULT * (faults as i64 + 2);
    let mut flow = Flow::start(site, &format!("killed-{number}"), rows, shape);
    // One reader looks all the time; it costs as much as the pod.
    let watcher = (number == 0).then(|| Watcher::start(&flow.output("some"), &["id"]));
    let mut told = Told::default();
    for fault in plan(seed, faults) {
        wait::pass(seed.time(Duration::ZERO, Duration::from_millis(1200)));
        if seed.one_in(2) {
            flow.edit();
            told.edits += 1;
            wait::pass(seed.time(Duration::ZERO, Duration::from_millis(400)));
        }
        suffer(&flow, fault, seed, &mut told);
        *told.faults.entry(fault).or_default() += 1;
    }
    flow.expect_exactly_once();
    if let Some(seen) = watcher.map(Watcher::stop) {
        assert!(seen.wrong.is_empty(), "{:#?}", &seen.wrong[..seen.wrong.len().min(10)]);
        assert!(seen.looks > 1 && seen.rows > 0, "{seen:?}");
    }
    told
}

/// Does it, and waits until rows are seen again.
fn suffer(flow: &Flow<'_>, fault: Fault, seed: &mut Seed, told: &mut Told) {
    let namespace = flow.namespace();
    let (uid, _) = flow.life().expect("there is a pod");
    match fault {
        Fault::Kill => {
            namespace.signal("KILL", &flow.pod);
            told.after_kills.push(flow.expect_more(flow.files(), "rows after SIGKILL"));
        }
        Fault::Delete | Fault::DeleteNow => {
            let now: &[&str] = if fault == Fault::DeleteNow { &["--grace-period=0", "--force"] } else { &[] };
            namespace.delete_pod(&flow.pod, now);
            flow.expect_another_pod(&uid);
            // The pod before may still commit what it has. What comes of the next one comes after its Lease.
            let next = || flow.objects().holder().filter(|holder| !holder.ends_with(&uid));
            let held = Deadline::secs(120).poll(|| slowly(next));
            assert!(held.is_some(), "{}: nobody takes the Lease after {fault:?}", flow.name);
            flow.expect_more(flow.files(), "rows of another pod");
        }
        Fault::Pause => {
            namespace.signal("STOP", &flow.pod);
            wait::pass(seed.time(Duration::from_millis(200), Duration::from_secs(4)));
            namespace.signal("CONT", &flow.pod);
            flow.expect_more(flow.files(), "rows after a pause");
        }
    }
}
