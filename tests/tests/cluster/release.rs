//! A release from its installation to what it leaves behind, in one namespace and in all.

use std::{collections::BTreeSet, fs};

use millrace_tests::{
    Deadline, cluster,
    cluster::{Cluster, Namespace, Tool},
    manifest,
    workspace::repository,
};

use crate::{
    live::{Live, Rows},
    restarts::{Spec, expect_each_row_once},
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
pub fn nothing_is_left(cluster: &Cluster, before: &BTreeSet<String>, but: impl Fn(&str) -> bool) {
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

/// Removes the release `millrace`, and what Helm writes into definitions of which it is made the owner.
pub struct Release<'c>(pub &'c Cluster);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let _ = helm(self.0, &["uninstall", "millrace", "--ignore-not-found", "--wait", "--timeout", "60s"]).attempt();
        let definitions = ["crd/pipelines.millrace.dev", "crd/windows.millrace.dev", "crd/sinks.millrace.dev"];
        let of_helm = ["meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-", "helm.sh/resource-policy-"];
        let _ = self.0.kubectl(["annotate"].into_iter().chain(definitions).chain(of_helm)).attempt();
        let labels = ["app.kubernetes.io/managed-by-", "app.kubernetes.io/instance-", "helm.sh/chart-"];
        let _ = self.0.kubectl(["label"].into_iter().chain(definitions).chain(labels)).attempt();
        // Another test may want it at once.
        let namespace = ["delete", "namespace", "millrace-system", "--ignore-not-found", "--wait", "--timeout=90s"];
        let _ = self.0.kubectl(namespace).attempt();
    }
}

/// Helm in the namespace of the release `millrace`.
fn helm(cluster: &Cluster, command: &[&str]) -> Tool {
    cluster.helm(command.iter().copied().chain(["--namespace", "millrace-system"]))
}

/// The images under test as values of the chart.
pub fn images(cluster: &Cluster) -> String {
    let images = cluster.images();
    let (operator, tag) = images.operator.rsplit_once(':').unwrap();
    format!("image.repository={operator},image.tag={tag},{}", runtime(&images.runtime))
}

/// The runtime's image as values of the chart.
fn runtime(image: &str) -> String {
    let (repository, tag) = image.rsplit_once(':').unwrap();
    format!("runtimeImage.repository={repository},runtimeImage.tag={tag}")
}

/// Installs the release `millrace` with all that the chart has by default, the definitions too. These are there already.
fn install(cluster: &Cluster, values: &str) -> String {
    let how = ["--take-ownership", "--create-namespace", "--set", values, "--wait", "--timeout", "120s"];
    helm(cluster, &[&["install", "millrace", "charts/millrace"][..], &how].concat()).run()
}

/// Upgrades it to these values, the others being as they are.
fn upgrade(cluster: &Cluster, values: &str) {
    let how = ["--reuse-values", "--set", values, "--wait", "--timeout", "120s"];
    helm(cluster, &[&["upgrade", "millrace", "charts/millrace"][..], &how].concat()).run();
}

/// Whether it is the namespace of the release `millrace`, or what every namespace has.
pub fn is_the_namespace(name: &str) -> bool {
    let there = ["ServiceAccount millrace-system/default", "ConfigMap millrace-system/kube-root-ca.crt"];
    name == "Namespace <none>/millrace-system" || there.contains(&name)
}

/// Uninstalls it.
pub fn uninstall(cluster: &Cluster) {
    helm(cluster, &["uninstall", "millrace", "--wait", "--timeout", "60s"]).run();
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

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn every_namespace_is_watched_by_a_release_of_the_defaults_and_by_install_yaml() {
        let Some(cluster) = cluster::cluster() else { return };
        // An operator of the whole cluster would meddle with the others'.
        let namespace = cluster.alone("everywhere");
        let _release = Release(cluster);
        let before = cluster.everything();
        // It brings the definitions, which are there already.
        let notes = install(cluster, &images(cluster));
        assert!(notes.contains("runs the Pipelines of all namespaces"), "{notes}");
        let release =
            cluster.kubectl(["get", "crd", "sinks.millrace.dev", "-o", "jsonpath={.metadata.annotations}"]).run();
        assert!(release.contains("\"meta.helm.sh/release-name\":\"millrace\""), "{release}");
        runs_elsewhere(cluster, &namespace, "by-helm");
        upgrade(cluster, "logLevel=debug");
        uninstall(cluster);
        nothing_is_left(cluster, &before, is_the_namespace);
        // The definitions stay, for with them every Pipeline would go.
        cluster.kubectl(["get", "crd", "pipelines.millrace.dev", "windows.millrace.dev", "sinks.millrace.dev"]).run();

        let images = cluster.images();
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

    #[test]
    fn a_pipeline_runs_on_while_its_operator_is_upgraded_uninstalled_and_installed_again() {
        let Some(cluster) = cluster::cluster() else { return };
        let namespace = cluster.alone("outlives");
        let _release = Release(cluster);
        let mut values = images(cluster);
        install(cluster, &values);
        let live = Live::new(&namespace, "web");
        namespace.apply(&numbered("SELECT id, 0 AS edit FROM ids").manifests());
        live.is_ready();
        live.completes(2);
        let process = live.process();
        let mut rows = Rows::of(&live.data().join("out/every"));
        let stateful_set = || live.set.last().unwrap()["metadata"]["generation"].clone();
        let set = stateful_set();

        // Other operators: rows and checkpoints go on in the same process, and an edit is taken up by it.
        upgrade(cluster, "logLevel=debug,replicas=1");
        live.completes(2);
        live.takes_up(&numbered("SELECT id, 1 AS edit FROM ids").manifests());
        rows.wait_for("rows of the edit", |rows| rows.last("edit") == 1);
        assert_eq!(
            (live.process(), stateful_set()),
            (process.clone(), set),
            "an upgrade of the operator leaves the pod alone"
        );

        // Another image of the runtime: the pod is made anew, from its last checkpoint.
        let image = &cluster.images().runtime;
        if cluster.is_ours() && !image.contains('/') {
            values = format!("{values},{}", runtime(&format!("docker.io/library/{image}")));
            upgrade(cluster, &values);
            live.object.wait_for("another pod", |object| {
                let newest = &object["status"]["history"][0];
                newest["class"] == "Restart" && newest["result"] == "TakenUp"
            });
            live.is_ready();
            let after = live.process();
            assert_ne!(after, process);
            assert_eq!(
                live.report()["restoredFrom"].as_u64(),
                Some(live.last_epoch_before(&after)),
                "no row is read twice"
            );
        }
        let process = live.process();

        // No operator: what it has made stays, and goes on.
        uninstall(cluster);
        cluster.kubectl(["get", "crd", "pipelines.millrace.dev", "windows.millrace.dev", "sinks.millrace.dev"]).run();
        let ours =
            ["pipeline.millrace.dev/web", "sink.millrace.dev/every", "sink.millrace.dev/sums", "window.millrace.dev/w"];
        namespace.wait_for_objects("pipelines,windows,sinks", &ours);
        live.completes(3);
        assert_eq!(live.process(), process, "the pod outlives the operator");
        // An edit waits for somebody who takes it up, and a pod that is killed comes back without anybody's help.
        let before = live.newest();
        namespace.apply(&numbered("SELECT id, 2 AS edit FROM ids").manifests());
        namespace.signal("KILL", "web-0");
        let last = rows.more().last("id");
        rows.wait_for("rows after the kill", |rows| rows.last("id") > last + 2000);
        let process = live.process();
        assert_eq!(live.newest(), before, "nobody has seen the edit");

        // An operator again: it takes up what was edited meanwhile, and what is edited then.
        install(cluster, &values);
        live.is_ready();
        let after = live.newest();
        assert!(after["result"] == "TakenUp" && after["revision"] != before["revision"], "{before:#} {after:#}");
        rows.wait_for("rows of the edit that was made meanwhile", |rows| rows.last("edit") == 2);
        live.takes_up(&numbered("SELECT id, 3 AS edit FROM ids").manifests());
        rows.wait_for("rows of the last edit", |rows| rows.last("edit") == 3);
        live.completes(2);
        assert_eq!(live.process(), process, "edits are taken up by the process that runs");

        // Each row is there once, and the edits came one after the other.
        expect_each_row_once(&live);
        let mut edits: Vec<(i64, i64)> =
            rows.more().table.rows.iter().map(|row| (row["id"].int(), row["edit"].int())).collect();
        edits.sort_unstable();
        assert!(
            edits.is_sorted_by_key(|(_, edit)| *edit),
            "a row is of an edit that was made before the row's before it"
        );
        let log = cluster
            .kubectl([
                "--namespace=millrace-system",
                "logs",
                "--selector=app.kubernetes.io/name=millrace-operator",
                "--tail=-1",
            ])
            .run();
        cluster::expect_nothing_forbidden(&log);
        namespace.kubectl(["delete", "pipelines,windows,sinks", "--all", "--wait"]).run();
        uninstall(cluster);
    }
}

/// The same Pipeline with another number in each row.
fn numbered(every: &'static str) -> Spec {
    Spec { every, ..Spec::new() }
}
