//! What `make cluster-demo` shows, from the installation to the edit.

use millrace_tests::{cluster, cluster::Cluster, workspace::python};
use serde_json::Value;

use crate::release::{Release, images, is_the_namespace, nothing_is_left, uninstall};

/// What the demo leaves in the namespace that kubectl is in, so that a person can look at it.
struct Leftovers<'c>(&'c Cluster);

impl Leftovers<'_> {
    fn remove(&self) -> Result<String, String> {
        let examples =
            ["delete", "-f", "examples/flights", "-f", "examples/cluster/follow", "--ignore-not-found", "--wait"];
        self.0.kubectl(examples).attempt()?;
        let kept = [
            "configmap/flights-input",
            "configmap/flights-checkpoint",
            "configmap/follow-checkpoint",
            "persistentvolumeclaim/data-flights-0",
            "persistentvolumeclaim/data-follow-0",
        ];
        self.0.kubectl(["delete"].into_iter().chain(kept).chain(["--ignore-not-found", "--wait"])).attempt()
    }
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.remove() {
            println!("something of the demo stays: {why}");
        }
    }
}

/// These have the cluster for themselves.
mod alone {
    use super::*;

    #[test]
    fn the_demo_shows_the_flights_and_an_edit_that_is_taken_up() {
        let Some(cluster) = cluster::cluster() else { return };
        if !cluster.is_ours() {
            println!("skipped: the demo is for the cluster of this machine");
            return;
        }
        // Its operator is the whole cluster's.
        let _namespace = cluster.alone("demo");
        let _release = Release(cluster);
        let leftovers = Leftovers(cluster);
        let before = cluster.everything();
        // The definitions are there already, and the images are those under test.
        let values = images(cluster);
        let arguments = ["--take-ownership", "--set", &values];
        let shown = cluster.tool("scripts/cluster-demo", arguments).env("PYTHON", python()).run();
        println!("{shown}");
        for text in [
            "runs the Pipelines of all namespaces",
            "The days with the most delays",
            "27,004 flights in the input, 27,004 counted in the Delta table",
            "27,004 in the Parquet folder: they agree",
            "pipeline.millrace.dev/follow configured",
        ] {
            assert!(shown.contains(text), "{text:?} is not shown");
        }
        let is_shown =
            |begin: &str, word: &str| shown.lines().any(|line| line.starts_with(begin) && line.contains(word));
        assert!(is_shown("flights ", " Finished "), "kubectl get pipelines shows that the flights have landed");
        assert!(is_shown("EditClassed ", "Hot") && is_shown("TakenUp ", "runs"), "the events tell of the edit");

        let get = |kind: &str, name: &str| -> Value {
            serde_json::from_str(&cluster.kubectl(["get", kind, name, "-o", "json"]).run()).unwrap()
        };
        let follow = get("pipeline", "follow");
        let history = follow["status"]["history"].as_array().unwrap();
        let told: Vec<_> = history.iter().map(|entry| [&entry["class"], &entry["result"]]).collect();
        assert_eq!(told, [["Hot", "TakenUp"], ["None", "TakenUp"]]);
        assert_eq!(get("pod", "follow-0")["status"]["containerStatuses"][0]["restartCount"], 0);

        leftovers.remove().unwrap();
        uninstall(cluster);
        nothing_is_left(cluster, &before, is_the_namespace);
    }
}
