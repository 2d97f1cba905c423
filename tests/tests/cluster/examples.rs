//! The examples of `examples/cluster` and the flights, from `kubectl apply` to an output that equals what the same example gives in one
//! process, which `tests/all` compares with DuckDB and DataFusion.

use std::{collections::BTreeSet, fs, path::Path};

use millrace_tests::{
    Deadline, Millrace, Table, Workspace, cluster,
    cluster::{Cluster, Namespace},
    delta, read,
    workspace::repository,
};

use crate::plugin;

/// The output of the example beside this one, run in this process' machine without a cluster.
fn in_one_process(manifests: &str) -> Workspace {
    let workspace = Workspace::new();
    Millrace::run(&workspace, manifests).finish().expect_success();
    workspace
}

fn folder(volume: &Path, name: &str) -> Table {
    read::folder(&volume.join(name))
}

#[test]
fn every_example_of_a_cluster_is_tried_by_a_test_here() {
    let tried = fs::read_to_string(repository().join("tests/tests/cluster/examples.rs")).unwrap();
    let folders = fs::read_dir(repository().join("examples/cluster")).unwrap();
    let names: BTreeSet<String> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    let missing: Vec<&String> = names.iter().filter(|name| !tried.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "no test runs {missing:?}");
}

#[test]
fn every_example_of_a_cluster_is_without_a_mistake() {
    for example in ["flights", "cluster/access-logs", "cluster/nexmark-q5", "cluster/follow"] {
        let workspace = Workspace::new();
        let checked = Millrace::new(&workspace, ["check", "-f", &format!("examples/{example}")]).finish();
        checked.expect_success();
    }
}

#[test]
fn every_example_is_taken_by_the_api_server() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("taken");
    let said = namespace.kubectl(["apply", "--dry-run=server", "--recursive", "-f", "examples"]).run();
    let pipelines = said.lines().filter(|line| line.starts_with("pipeline.millrace.dev/")).count();
    assert!(pipelines >= 25, "{said}");
}

/// Applies an example and waits for its end.
fn run_to_its_end<'a>(cluster: &'a Cluster, example: &str, input: Option<(&str, &str)>) -> Namespace<'a> {
    let namespace = cluster.namespace(example);
    let installed = namespace.install(&[]);
    if let Some((name, file)) = input {
        namespace.config_map(name, file);
    }
    namespace.apply(&Namespace::example(example));
    namespace.wait_for(&format!("pipeline/{example}"), ".status.phase", "Finished");
    installed.expect_nothing_forbidden();
    drop(installed);
    namespace
}

#[test]
fn flights_land_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let input = ("flights-input", "examples/flights/flights-2013-01.csv.gz");
    let namespace = run_to_its_end(cluster, "flights", Some(input));
    let volume = namespace.volume("flights-output");
    let expected = in_one_process("examples/flights");
    let by_carrier = delta::table(&volume.join("delays_by_carrier"));
    assert_eq!(by_carrier.sum("flights"), 27_004);
    // What percentile it is depends on the order in which sketches merge.
    let without = |table: Table| table.without(&["p90_delay"]);
    without(by_carrier)
        .expect_same(&without(delta::table(&expected.join("out/flights/delays_by_carrier"))), "days by carrier");
    folder(&volume, "delays_by_origin")
        .expect_same(&folder(&expected.join("out/flights"), "delays_by_origin"), "hours by origin");

    // kubectl millrace sees the same.
    let status = plugin::ask(&namespace, &["status", "flights"]);
    assert!(status.starts_with("flights  Finished"), "{status}");
    assert!(!status.contains("  ! "), "{status}");
    let plan = plugin::ask(&namespace, &["plan", "-f", "examples/flights"]);
    assert!(plan.starts_with("flights: None: nothing changes"), "{plan}");

    // What a Pipeline owns goes with it; what `Retain` keeps stays.
    namespace.kubectl(["delete", "-f", "examples/flights", "--ignore-not-found"]).run();
    namespace.wait_for_objects("statefulsets,leases,roles,rolebindings,poddisruptionbudgets,services", &[]);
    namespace.wait_for_objects("persistentvolumeclaims", &["persistentvolumeclaim/data-flights-0"]);
}

#[test]
fn access_logs_land_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let input = ("access-logs-input", "examples/data/access.log.gz");
    let namespace = run_to_its_end(cluster, "access-logs", Some(input));
    let volume = namespace.volume("access-logs-output");
    let expected = in_one_process("examples/access-logs");
    for name in ["health", "top_pages"] {
        folder(&volume, name).expect_same(&folder(&expected.join("out/access-logs"), name), name);
    }
    let dead = |table: Table| table.only(&["raw", "reason"]);
    dead(folder(&volume, "dead_letters"))
        .expect_same(&dead(folder(&expected.join("out/access-logs"), "dead_letters")), "dead letters");
}

#[test]
fn a_nexmark_query_with_a_hopping_window_lands_on_a_volume() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = run_to_its_end(cluster, "nexmark-q5", None);
    let expected = in_one_process("examples/nexmark/q5.yaml");
    let found = read::folder(&namespace.volume("nexmark-q5-output"));
    found.expect_same(&folder(&expected.join("out/nexmark"), "q5"), "hot items");
}

#[test]
fn a_folder_that_is_being_written_is_followed() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("follow");
    let installed = namespace.install(&[]);
    namespace.apply(&Namespace::example("follow"));
    namespace.wait_until("pipeline/follow", "Ready");
    namespace.wait_for("job/follow-writer", ".status.succeeded", "1");
    let volume = namespace.volume("follow-output");
    let errors = Deadline::secs(60).wait_for("1000 errors", || {
        let table = folder(&volume, "errors");
        (table.len() >= 1000).then_some(table)
    });
    let mut lines: Vec<i64> = errors.column("line").map(millrace_tests::Cell::int).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..5000).step_by(5).collect::<Vec<i64>>());
    installed.expect_nothing_forbidden();
}
