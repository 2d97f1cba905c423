//! Parts of the cluster that are away: the API server, etcd, the kubelet.

use std::{net::SocketAddr, time::Duration};

use millrace_tests::{Deadline, Seed, cluster, coordination::Site, http, wait};
use serde_json::Value;

use super::flow::{Flow, RATE, Shape, condition};

/// For how long the API server is stopped.
const OUTAGE: Duration = Duration::from_secs(120);

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn pods_go_on_while_parts_of_the_cluster_are_away_and_what_waits_is_decided_when_they_are_back() {
        let Some(cluster) = cluster::cluster() else { return };
        if !cluster.is_ours() {
            println!("skipped: only components of this machine can be stopped");
            return;
        }
        let mut seed = Seed::of_test("parts of the cluster");
        let site = Site::over(cluster.alone("away"));
        let _installed = site.namespace().install(&[]);
        let mut calm = Flow::start(&site, "calm", RATE * 420, Shape::PLAIN);
        let mut killed = Flow::start(&site, "killed", RATE * 420, Shape { sums: "parquet", ..Shape::PLAIN });
        let life = calm.life().unwrap();

        // Away for a moment, in any order, and killed rather than stopped.
        let mut parts = ["apiserver", "etcd", "kubelet", "apiserver"];
        seed.shuffle(&mut parts);
        for part in parts {
            wait::pass(seed.time(Duration::ZERO, Duration::from_secs(1)));
            let away = cluster.kill(part);
            wait::pass(seed.time(Duration::ZERO, Duration::from_secs(3)));
            away.start();
            calm.expect_more(calm.files(), part);
            killed.expect_more(killed.files(), part);
            calm.edit();
            println!("{part} was killed and started again");
        }
        assert_eq!(calm.life(), Some(life.clone()), "nothing crashes, and no pod is replaced");

        // While the kubelet is away nobody starts a container again.
        let (uid, before) = killed.life().unwrap();
        let away = cluster.kill("kubelet");
        site.namespace().signal("KILL", &killed.pod);
        wait::pass(seed.time(Duration::ZERO, Duration::from_secs(2)));
        away.start();
        killed.expect_more(killed.files(), "rows after a kill without a kubelet");
        killed.expect_life(&(uid, before + 1));

        outage(&mut calm, &mut killed, &life, &mut seed);
        let crashed = restarts(&site);
        assert_eq!(crashed, [killed.pod.clone()], "the operator has not crashed either");
        // Nothing is said of rights: an API server that has just started does not know the Roles for a moment, and forbids.
        calm.expect_exactly_once();
        killed.expect_exactly_once();
    }
}

/// The API server is stopped for two minutes. Meanwhile one Pipeline is left in peace, and the container of the other is
/// killed, which the kubelet starts again by itself.
fn outage<'a>(calm: &mut Flow<'a>, killed: &mut Flow<'a>, life: &(String, i32), seed: &mut Seed) {
    let cluster = calm.namespace().cluster;
    let address = address(calm);
    let of_killed = killed.life().unwrap();
    let away = cluster.stop("apiserver");
    let (since, mut shown, mut rows) = (Deadline::after(OUTAGE), None, rows_in(address));
    wait::pass(seed.time(Duration::from_secs(1), Duration::from_secs(4)));
    killed.namespace().signal("KILL", &killed.pod);
    while !since.is_over() {
        wait::pass(Duration::from_secs(5));
        let now = rows_in(address);
        assert!(now > rows + RATE, "rows flow on: {rows}, {now} after {:?}", since.waited());
        rows = now;
        // What was decided before is committed; then nothing more is shown.
        let files = (calm.files(), killed.files());
        assert_eq!(*shown.get_or_insert(files), files, "nothing is shown that is not decided");
        assert_eq!(http::get(address, "/healthz").status, 200);
        assert_eq!(http::get(address, "/readyz").status, 200);
    }
    println!("{rows} rows were read by the end of {:?} without an API server", since.waited());
    let before = (calm.files(), killed.files());
    away.start();
    let waited = (calm.expect_more(before.0, "what waited"), killed.expect_more(before.1, "a start that waited"));
    println!(
        "rows again {:.1?} after the API server was ready, and {:.1?} in a pod that had to start",
        waited.0, waited.1
    );
    for flow in [&*calm, &*killed] {
        flow.expect_status("all well", |status| condition(status, "Ready").0 == "True");
    }
    // Nothing crashes, and no pod is replaced, but for the kill.
    calm.expect_life(life);
    killed.expect_life(&(of_killed.0, of_killed.1 + 1));
    assert_eq!(calm.objects().report().map(|report| report.restarts), Some(0), "the tasks ran through");
    // An edit is taken up as ever.
    for flow in [calm, killed] {
        flow.edit();
        flow.expect_edition();
    }
}

/// The pods of whose containers one was started again.
fn restarts(site: &Site) -> Vec<String> {
    let listed = site.namespace().kubectl(["get", "pods", "-o", "json"]).run();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let has_restarted = |pod: &&Value| {
        let containers = pod["status"]["containerStatuses"].as_array();
        containers.is_some_and(|all| all.iter().any(|container| container["restartCount"] != 0))
    };
    let pods = listed["items"].as_array().unwrap().iter().filter(has_restarted);
    pods.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Where the pod answers.
fn address(flow: &Flow<'_>) -> SocketAddr {
    let pod = flow.site.pod(&flow.pod).unwrap();
    let ip = pod.status.and_then(|status| status.pod_ip).expect("it runs");
    SocketAddr::new(ip.parse().unwrap(), 9600)
}

/// How many rows the source has read.
fn rows_in(address: SocketAddr) -> i64 {
    let overview: Value = http::get(address, "/api/v1/pipeline").json();
    let nodes = overview["nodes"].as_array().expect("it has nodes");
    let source = nodes.iter().find(|node| node["name"] == "events").expect("it has the source");
    source["rowsIn"].as_i64().expect("it is counted")
}
