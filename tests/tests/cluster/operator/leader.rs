//! Two replicas, of which one leads: what happens when the leader ends, is killed, or sleeps for longer than its Lease.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use millrace_tests::{
    Deadline,
    cluster::{self, Namespace, OPERATOR_PORT, Tool},
    manifest, wait,
};
use serde_json::Value;

use super::{LEASE, field, numbers, rows};

/// What the operator makes or writes the status of.
const WRITTEN: &str = "pipelines.millrace.dev,windows.millrace.dev,sinks.millrace.dev,serviceaccounts,roles,rolebindings,\
                       services,poddisruptionbudgets,configmaps,statefulsets,events.events.k8s.io";
/// How many Pipelines there are to make at once.
const PIPELINES: usize = 40;

/// The pod that leads.
fn leader(namespace: &Namespace<'_>) -> String {
    Deadline::secs(60).wait_for("a leader", || {
        let holder = field(namespace, LEASE, ".spec.holderIdentity");
        (!holder.is_empty()).then_some(holder)
    })
}

/// Waits until another pod than this one leads.
fn another(namespace: &Namespace<'_>, than: &str) -> String {
    Deadline::secs(60).wait_for("another leader", || {
        let holder = field(namespace, LEASE, ".spec.holderIdentity");
        (!holder.is_empty() && holder != than).then_some(holder)
    })
}

/// A request for a page of a replica.
fn asks(namespace: &Namespace<'_>, pod: &str, page: &str) -> Tool {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:{OPERATOR_PORT}/proxy/{page}", namespace.name);
    namespace.cluster.kubectl(["get", "--raw", &path])
}

/// A page of a replica.
fn page(namespace: &Namespace<'_>, pod: &str, page: &str) -> String {
    asks(namespace, pod, page).run()
}

/// Makes a Window and waits until an operator has seen it.
fn expect_work(namespace: &Namespace<'_>, window: &str) {
    namespace.apply(&manifest::window(window, "tumbling: {size: 1m}"));
    namespace.wait_until(&format!("window/{window}"), "Ready");
}

/// What of each object has been written by an operator, with when that was; and its events.
fn written(namespace: &Namespace<'_>) -> BTreeMap<String, String> {
    let listed = namespace.kubectl(["get", WRITTEN, "-o", "json", "--show-managed-fields"]).run();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let mut written = BTreeMap::new();
    for object in listed["items"].as_array().unwrap() {
        let fields = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let fields: Vec<String> =
            fields.filter(|entry| entry["manager"] == "millrace-operator").map(Value::to_string).collect();
        if !fields.is_empty() || object["reportingController"] == "millrace-operator" {
            written.insert(format!("{} {}", object["kind"], object["metadata"]["name"]), fields.concat());
        }
    }
    written
}

fn replicas(namespace: &Namespace<'_>) -> Vec<String> {
    let selector = "app.kubernetes.io/name=millrace-operator";
    let listed = namespace.kubectl(["get", "pods", "-l", selector, "-o", "name"]).run();
    listed.lines().map(|pod| pod.trim_start_matches("pod/").to_owned()).collect()
}

#[test]
fn another_replica_leads_within_seconds_and_one_that_has_slept_writes_nothing() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("operator-leader");
    let installed = namespace.install(&[]);
    expect_work(&namespace, "first");
    let first = leader(&namespace);
    for pod in replicas(&namespace) {
        assert_eq!(
            (page(&namespace, &pod, "healthz"), page(&namespace, &pod, "readyz")),
            ("ok\n".into(), "ok\n".into())
        );
        let leads = format!("\nmillrace_operator_leader {}\n", u8::from(pod == first));
        assert!(page(&namespace, &pod, "metrics").contains(&leads), "{pod}");
    }

    // The leader is frozen in the middle of its work; it knows of all of it, and has written a part.
    let suspended: String =
        (0..PIPELINES).map(|n| numbers(&format!("p{n}"), &manifest::numbers(10, 10), 0, "  suspend: true")).collect();
    namespace.apply(&format!("{}{suspended}", rows()));
    Deadline::secs(60).wait_for("some plans", || {
        let made = namespace.objects("statefulsets").len();
        assert!(made < PIPELINES, "all was made before the leader could be frozen");
        (made > 0).then_some(())
    });
    cluster.harness(["freeze", &first, "-n", &namespace.name]);
    let (second, took) = wait::timed(|| another(&namespace, &first));
    println!("another replica leads {took:.1?} after the leader was frozen");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let all = ["wait", "--for=jsonpath={.status.phase}=Suspended", "pipelines", "--all", "--timeout=60s"];
    namespace.kubectl(all).run();
    // An edit that the sleeper would write if it could: it is the first thing that it hears of when it wakes.
    namespace.apply(&numbers("p0", &manifest::numbers(20, 10), 1, "  suspend: true"));
    let plan = || field(&namespace, "configmap/p0-plan", ".data.plan\\.json");
    Deadline::secs(60).wait_for("the edit", || plan().contains("1 AS edit").then_some(()));
    let told = || field(&namespace, "pipeline/p0", ".status.observedGeneration");
    Deadline::secs(60).wait_for("its status", || (told() == "2").then_some(()));
    let before = written(&namespace);

    cluster.harness(["thaw", &first, "-n", &namespace.name]);
    let log = || namespace.kubectl(["logs", &first]).run();
    Deadline::secs(60).wait_for("the sleeper to notice", || log().contains("does not lead any more").then_some(()));
    Deadline::secs(60).wait_for("it to wait", || {
        page(&namespace, &first, "metrics").contains("\nmillrace_operator_leader 0\n").then_some(())
    });
    let after = written(&namespace);
    let changed: Vec<_> = after.iter().filter(|(name, written)| before.get(*name) != Some(written)).collect();
    assert!(changed.is_empty(), "the sleeper has written {changed:?}\n{}", log());
    assert_eq!(leader(&namespace), second);
    assert_eq!(field(&namespace, &format!("pod/{first}"), ".status.containerStatuses[0].restartCount"), "0");

    // The leader is told to end.
    namespace.kubectl(["delete", "pod", &second, "--wait=false"]).run();
    let (third, took) = wait::timed(|| another(&namespace, &second));
    println!("another replica leads {took:.1?} after the leader was told to end");
    assert!(took < Duration::from_secs(6), "{took:?}");
    expect_work(&namespace, "third");

    // The leader is killed: its container is started again, and leads at once, or another does.
    cluster.harness(["signal", "KILL", &third, "-n", &namespace.name]);
    let ((), took) = wait::timed(|| expect_work(&namespace, "fourth"));
    println!("an operator works {took:.1?} after the leader was killed");
    assert!(took < Duration::from_secs(15), "{took:?}");
    installed.expect_nothing_forbidden();
    assert!(!installed.logs().contains("panicked"));
}

/// How often a pod's container was started again.
fn restarts(namespace: &Namespace<'_>, pod: &str) -> u32 {
    field(namespace, &format!("pod/{pod}"), ".status.containerStatuses[0].restartCount").parse().unwrap_or(0)
}

/// How often each signal is sent.
const ROUNDS: usize = 3;

#[test]
fn another_replica_leads_at_once_after_a_leader_was_told_to_end_and_within_seconds_after_one_was_killed() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("operator-takeover");
    let installed = namespace.install(&[]);
    expect_work(&namespace, "first");
    let lease = namespace.watch("lease", Some("millrace-operator"));
    let holder = |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    // How often each has ended.
    let mut ended: BTreeMap<String, u32> = BTreeMap::new();
    // Who gives the Lease back is followed at once, and who does not when it has run out.
    for (signal, most) in [("TERM", Duration::from_secs(6)), ("KILL", Duration::from_secs(15))] {
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            // By themselves, and none that is on its way out: both could be waiting to be started again.
            let answers = |pod: &String| asks(&namespace, pod, "readyz").attempt().is_ok_and(|page| page == "ok\n");
            let is_back = |pod: &String| restarts(&namespace, pod) >= ended.get(pod).copied().unwrap_or(0);
            Deadline::secs(180).wait_for("two replicas", || {
                let pods = replicas(&namespace);
                (pods.len() == 2 && pods.iter().all(|pod| is_back(pod) && answers(pod))).then_some(())
            });
            let first = leader(&namespace);
            *ended.entry(first.clone()).or_default() += 1;
            let ready = namespace.processes(&first).ready(signal);
            let (_, passed) = wait::timed(|| {
                // A container that ends is started again at once if its pod has lost none before, and may be back before another
                // has looked, or before the Lease has run out: then its pod leads on, under the same name.
                assert!(ready.send(), "the leader runs");
                let at = Timestamp::now();
                let is_since =
                    |of: &Value| of.as_str().and_then(|of| of.parse().ok()).is_some_and(|of: Timestamp| of > at);
                let leads = if signal == "KILL" { "renewTime" } else { "acquireTime" };
                lease.wait_for("a leader that works", |lease| match holder(lease) {
                    nobody if nobody.is_empty() => false,
                    same if same == first => is_since(&lease["spec"][leads]),
                    _ => true,
                })
            });
            took.push(passed);
            expect_work(&namespace, &format!("{}-{round}", signal.to_lowercase()));
        }
        took.sort_unstable();
        println!("a replica leads after SIG{signal}: {took:.2?}");
        assert!(took.iter().all(|passed| *passed < most), "SIG{signal}: {took:?}");
    }
    installed.expect_nothing_forbidden();
}
