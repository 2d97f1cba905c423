//! What kstatus, by which Flux and Helm wait, and Argo CD make of our statuses, by their own libraries.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, sync::OnceLock};

use millrace_tests::{
    cluster::{self, Cluster, Namespace},
    manifest,
    workspace::{cache, repository},
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Deserialize)]
struct Verdict {
    name: String,
    kstatus: String,
    argo: Option<String>,
}

/// The judge, built once from Go modules of pinned versions. Its caches are the cluster's, which has built most of it.
fn judge() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let caches = cache().join("cluster/go");
        let binary = cache().join("cluster/bin/gitops-health");
        let built = Command::new("go")
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(&binary)
            .arg(".")
            .current_dir(repository().join("tests/gitops"))
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly -modcacherw")
            .env("GOPATH", &caches)
            .env("GOMODCACHE", caches.join("mod"))
            .env("GOCACHE", caches.join("build"))
            .output()
            .expect("go is there where a cluster is built");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        binary
    })
}

fn judged(cluster: &Cluster, objects: &str) -> Vec<Verdict> {
    let said = cluster.tool(judge(), ["-lua", "docs/argocd/health.lua"]).input(objects).run();
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

#[test]
fn statuses_as_the_operator_writes_them_are_understood() {
    let Some(cluster) = cluster::cluster() else { return };
    let text = read("tests/gitops/statuses.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let expected: BTreeMap<String, (String, String)> = objects
        .iter()
        .map(|object| {
            let metadata = &object["metadata"];
            let expects = |tool: &str| metadata["annotations"][format!("expect/{tool}")].as_str().unwrap().to_owned();
            (metadata["name"].as_str().unwrap().to_owned(), (expects("kstatus"), expects("argo")))
        })
        .collect();
    let found: BTreeMap<String, (String, String)> = judged(cluster, &text)
        .into_iter()
        .map(|verdict| (verdict.name, (verdict.kstatus, verdict.argo.unwrap_or_default())))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn an_object_that_no_operator_has_seen_is_not_taken_for_one_that_is_as_wished() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("unseen");
    namespace.apply(&manifest::window("minute", "tumbling: {size: 1m}"));
    let window = namespace.get("window", "minute");
    let verdicts = judged(cluster, &window.to_string());
    assert_eq!((verdicts[0].kstatus.as_str(), verdicts[0].argo.as_deref()), ("InProgress", Some("Progressing")));
}

#[test]
fn applying_the_same_manifest_twice_changes_nothing() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("twice");
    for example in ["flights", "access-logs", "nexmark-q5", "follow"] {
        let manifests = Namespace::example(example);
        namespace.apply(&manifests);
        let again = namespace.apply(&manifests);
        for line in again.lines().filter(|line| line.contains("millrace.dev")) {
            assert!(line.ends_with(" unchanged"), "{line}");
        }
        // What is stored is what was written: nothing that a comparison would take for drift.
        let written: Vec<Value> = serde_saphyr::from_multiple(&manifests).unwrap();
        for object in written.iter().filter(|object| object["apiVersion"] == "millrace.dev/v1alpha1") {
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            let stored = namespace.get(kind, name);
            assert_eq!(stored["spec"], object["spec"], "{kind} {name}");
            assert_eq!(stored["metadata"]["generation"], 1, "{kind} {name}");
        }
    }
}

#[test]
fn the_page_about_gitops_has_the_health_check_as_it_is_tested() {
    let page = read("docs/gitops.md");
    let script = read("docs/argocd/health.lua");
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with("--")) {
        assert!(page.contains(line), "docs/gitops.md lacks {line:?}");
    }
}
