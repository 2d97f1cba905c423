//! A release from its installation to what it leaves behind, in one namespace and in all.

use std::{collections::BTreeSet, fs};

use millrace_tests::{
    Deadline, cluster,
    cluster::{Cluster, Namespace},
    manifest,
    workspace::repository,
};

/// Ten rows into a file on the Pipeline's volume.
fn pipeline(name: &str, on_delete: &str) -> String {
    let source = manifest::numbers(10, 100);
    format!(
        "---\napiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         sources: [{{name: ids, {source}}}]\n  outputs: [{{from: ids, sink: rows}}]\n  \
         checkpoints: {{onDelete: {on_delete}}}\n"
    )
}

/// Waits until there is nothing beside what was before, but for these.
#[track_caller]
fn nothing_is_left(cluster: &Cluster, before: &BTreeSet<String>, but: impl Fn(&str) -> bool) {
    let mut left = Vec::new();
    let done = Deadline::secs(90).poll(|| {
        let now = cluster.everything();
        left = now.difference(before).filter(|name| !but(name)).cloned().collect();
        left.is_empty().then_some(())
    });
    assert!(done.is_some(), "these are left: {left:#?}");
}

#[test]
fn a_release_leaves_nothing_behind_but_what_retain_says() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("left");
    let ours = |all: BTreeSet<String>| -> BTreeSet<String> {
        all.into_iter().filter(|name| name.contains(&namespace.name) || name.contains("/left-")).collect()
    };
    let before = ours(cluster.everything());
    let installed = namespace.install(&["replicas=1", "rbac.aggregate=true"]);
    assert!(installed.test().contains("Phase:          Succeeded"));
    namespace
        .apply(&(pipeline("kept", "Retain") + &pipeline("gone", "Delete") + &manifest::sink("rows", "stdout: {}")));
    for name in ["kept", "gone"] {
        namespace.wait_for(&format!("pipeline/{name}"), ".status.phase", "Finished");
    }
    let during = ours(cluster.everything());
    assert!(during.len() > before.len() + 20, "{during:?}");
    installed.expect_nothing_forbidden();
    namespace.kubectl(["delete", "pipelines,sinks", "--all", "--wait"]).run();
    installed.uninstall();
    let volume = namespace.get("persistentvolumeclaim", "data-kept-0")["spec"]["volumeName"].clone();
    let kept = [
        format!("ConfigMap {}/kept-checkpoint", namespace.name),
        format!("PersistentVolumeClaim {}/data-kept-0", namespace.name),
        format!("PersistentVolume <none>/{}", volume.as_str().unwrap()),
    ];
    let mut left = BTreeSet::new();
    let done = Deadline::secs(90).poll(|| {
        left = ours(cluster.everything()).difference(&before).cloned().collect();
        let is_kept = |name: &String| kept.contains(name);
        (left.iter().all(is_kept) && left.len() >= 2).then_some(())
    });
    assert!(done.is_some(), "these are left: {left:#?}, and {kept:?} should be");
}

/// Removes what Helm writes into definitions of which it is made the owner.
struct Disown<'c>(&'c Cluster);

impl Drop for Disown<'_> {
    fn drop(&mut self) {
        let definitions = ["crd/pipelines.millrace.dev", "crd/windows.millrace.dev", "crd/sinks.millrace.dev"];
        let of_helm = ["meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-", "helm.sh/resource-policy-"];
        let _ = self.0.kubectl(["annotate"].into_iter().chain(definitions).chain(of_helm)).attempt();
        let labels = ["app.kubernetes.io/managed-by-", "app.kubernetes.io/instance-", "helm.sh/chart-"];
        let _ = self.0.kubectl(["label"].into_iter().chain(definitions).chain(labels)).attempt();
        let _ =
            self.0.kubectl(["delete", "namespace", "millrace-system", "--ignore-not-found", "--wait=false"]).attempt();
    }
}

/// A Pipeline of a namespace that is not the operator's runs, and the operator lacks no right.
fn runs_elsewhere(cluster: &Cluster, namespace: &Namespace<'_>, name: &str) {
    cluster
        .kubectl(["--namespace=millrace-system", "rollout", "status", "deployment/millrace-operator", "--timeout=120s"])
        .run();
    namespace.apply(&(pipeline(name, "Delete") + &manifest::sink("rows", "stdout: {}")));
    namespace.wait_for(&format!("pipeline/{name}"), ".status.phase", "Finished");
    let selector = "--selector=app.kubernetes.io/name=millrace-operator";
    let log = cluster.kubectl(["--namespace=millrace-system", "logs", selector, "--tail=-1", "--prefix"]).run();
    // Both replicas are up, and one leads.
    let pods: BTreeSet<&str> = log.lines().filter_map(|line| line.split(['/', ']']).nth(1)).collect();
    assert_eq!((pods.len(), log.matches("this replica leads").count()), (2, 1), "{log}");
    cluster::expect_nothing_forbidden(&log);
    namespace.kubectl(["delete", "pipelines,sinks", "--all", "--wait"]).run();
}

#[test]
fn every_namespace_is_watched_by_a_release_of_the_defaults_and_by_install_yaml() {
    let Some(cluster) = cluster::cluster() else { return };
    // An operator of the whole cluster would meddle with the others'.
    let namespace = cluster.alone("everywhere");
    let _disown = Disown(cluster);
    let before = cluster.everything();
    let images = cluster.images();
    let repository_and_tag = |image: &str| {
        let (repository, tag) = image.rsplit_once(':').unwrap();
        (repository.to_owned(), tag.to_owned())
    };
    let ((operator, operator_tag), (runtime, runtime_tag)) =
        (repository_and_tag(&images.operator), repository_and_tag(&images.runtime));
    let values = format!(
        "image.repository={operator},image.tag={operator_tag},runtimeImage.repository={runtime},runtimeImage.tag={runtime_tag}"
    );
    // It brings the definitions, which are there already.
    let place = ["--namespace", "millrace-system", "--create-namespace"];
    let command = ["install", "millrace", "charts/millrace", "--take-ownership", "--set", &values, "--wait"];
    let notes = cluster.helm(command.into_iter().chain(place).chain(["--timeout", "120s"])).run();
    assert!(notes.contains("runs the Pipelines of all namespaces"), "{notes}");
    let release = cluster.kubectl(["get", "crd", "sinks.millrace.dev", "-o", "jsonpath={.metadata.annotations}"]).run();
    assert!(release.contains("\"meta.helm.sh/release-name\":\"millrace\""), "{release}");
    runs_elsewhere(cluster, &namespace, "by-helm");
    let place = ["--namespace", "millrace-system"];
    let command = ["upgrade", "millrace", "charts/millrace", "--reuse-values", "--set", "logLevel=debug"];
    cluster.helm(command.into_iter().chain(place).chain(["--wait", "--timeout", "120s"])).run();
    cluster.helm(["uninstall", "millrace", "--wait", "--timeout", "60s"].into_iter().chain(place)).run();
    let is_the_namespaces = |name: &str| {
        name == "Namespace <none>/millrace-system"
            || ["ServiceAccount millrace-system/default", "ConfigMap millrace-system/kube-root-ca.crt"].contains(&name)
    };
    nothing_is_left(cluster, &before, is_the_namespaces);
    // The definitions stay, for with them every Pipeline would go.
    cluster.kubectl(["get", "crd", "pipelines.millrace.dev", "windows.millrace.dev", "sinks.millrace.dev"]).run();

    let text = fs::read_to_string(repository().join("charts/install.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let [operator, runtime] = ["operator", "runtime"].map(|name| format!("millrace/{name}:{version}"));
    assert!(text.contains(&operator) && text.contains(&runtime));
    let text = text.replace(&operator, &images.operator).replace(&runtime, &images.runtime);
    cluster.kubectl(["apply", "--server-side", "--force-conflicts", "-f", "-"]).input(&text).run();
    runs_elsewhere(cluster, &namespace, "by-install-yaml");
    // All of it goes but the definitions.
    let documents = text.split("\n---\n").filter(|document| !document.contains("kind: CustomResourceDefinition"));
    let rest: Vec<&str> = documents.collect();
    cluster.kubectl(["delete", "--wait", "-f", "-"]).input(&rest.join("\n---\n")).run();
    nothing_is_left(cluster, &before, |_| false);
}
