//! What kstatus, by which Flux and Helm wait, and Argo CD make of our statuses, by their own libraries.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, sync::OnceLock};

use millrace_tests::{
    Workspace,
    cluster::{self, Cluster, Namespace},
    manifest,
    workspace::{cache, repository},
};
use serde::Deserialize;
use serde_json::Value;

use crate::plugin;

/// What the tools say of an object.
#[derive(Debug, Deserialize)]
pub struct Verdict {
    /// The object's name.
    pub name: String,
    /// Of kstatus.
    pub kstatus: String,
    /// Of Argo CD.
    pub argo: Option<String>,
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

/// What the tools say of objects, in their order.
pub fn judged(cluster: &Cluster, objects: &str) -> Vec<Verdict> {
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
fn nothing_turns_up_as_drift_while_the_operator_works() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("drift");
    let installed = namespace.install(&["replicas=1"]);
    let manifests = Namespace::example("nexmark-q5");
    namespace.apply(&manifests);
    namespace.wait_for("pipeline/nexmark-q5", ".status.phase", "Finished");
    let objects = ["pipeline/nexmark-q5", "window/q5", "sink/q5"];
    let specs = || -> Vec<(Value, Value)> {
        let get = |object: &str| {
            let (kind, name) = object.split_once('/').unwrap();
            let object = namespace.get(kind, name);
            (object["spec"].clone(), object["metadata"]["generation"].clone())
        };
        objects.map(get).into()
    };
    let before = specs();
    // As `kubectl diff` compares, and Argo CD by either of its ways.
    for way in [
        &["diff", "-f", "-"][..],
        &["diff", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-"],
    ] {
        let found = namespace.kubectl(way.iter().copied()).input(&manifests).output();
        // With other managers' marks, which are no drift.
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        let drift = said
            .lines()
            .filter(|line| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---"));
        assert_eq!(drift.collect::<Vec<_>>(), Vec::<&str>::new(), "{said}");
    }
    // As Flux applies, again and again.
    let apply = ["apply", "--server-side", "--field-manager=kustomize-controller", "--force-conflicts", "-f", "-"];
    for _ in 0..2 {
        namespace.kubectl(apply).input(&manifests).run();
    }
    assert_eq!(specs(), before);
    assert_eq!(namespace.get("pipeline", "nexmark-q5")["status"]["phase"], "Finished");
    installed.expect_nothing_forbidden();
}

/// The manifests on the page about GitOps.
fn on_the_page() -> Vec<Value> {
    let page = read("docs/gitops.md");
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let documents = blocks.flat_map(|block| block.split("\n---\n"));
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn what_the_page_about_gitops_installs_is_this_chart() {
    let Some(cluster) = cluster::cluster() else { return };
    let chart: Value = serde_saphyr::from_str(&read("charts/millrace/Chart.yaml")).unwrap();
    let tag = format!("v{}", chart["version"].as_str().unwrap());
    let mut seen = Vec::new();
    for object in on_the_page() {
        let spec = &object["spec"];
        let kind = object["kind"].as_str().unwrap_or_default();
        let (place, version, values) = match kind {
            "GitRepository" => (None, &spec["ref"]["tag"], None),
            "HelmRelease" => (Some(&spec["chart"]["spec"]["chart"]), &Value::Null, Some(&spec["values"])),
            "Application" => (Some(&spec["source"]["path"]), &spec["source"]["targetRevision"], None),
            _ => continue,
        };
        seen.push(kind.to_owned());
        if let Some(place) = place.and_then(Value::as_str).filter(|place| place.starts_with("charts/")) {
            assert!(repository().join(place).join("Chart.yaml").is_file(), "{place}");
        }
        if let Some(version) = version.as_str().filter(|version| version.starts_with('v')) {
            assert_eq!(version, tag);
        }
        if let Some(values) = values {
            let command = ["template", "it", "charts/millrace", "--kube-version", "1.34", "--values", "-"];
            cluster.helm(command).input(&values.to_string()).run();
        }
    }
    assert_eq!(seen, ["GitRepository", "HelmRelease", "Application", "Application"]);
}

#[test]
fn a_pull_request_is_told_what_it_would_do() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("pull-request");
    let workspace = Workspace::new();
    workspace.write("pipelines/pipeline.yaml", Namespace::example("nexmark-q5"));
    workspace
        .write("pipelines/kustomization.yaml", format!("namespace: {}\nresources: [pipeline.yaml]\n", namespace.name));
    let built = cluster.kubectl(["kustomize", &workspace.join("pipelines").to_string_lossy()]).run();
    let (code, said) = plugin::plan(&namespace, &built);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("nexmark-q5: new; "), "{said}");
}

#[test]
fn the_page_about_gitops_has_the_health_check_as_it_is_tested() {
    let page = read("docs/gitops.md");
    let script = read("docs/argocd/health.lua");
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with("--")) {
        assert!(page.contains(line), "docs/gitops.md lacks {line:?}");
    }
}
