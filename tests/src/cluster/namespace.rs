//! A namespace of a test's own.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use super::{Cluster, Tool, hold::Hold};
use crate::{Deadline, workspace::repository};

/// How long something may take on a busy machine before the test fails.
const PATIENCE: &str = "--timeout=240s";

/// A namespace. It is deleted, with all in it, when this is dropped.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: String,
    _hold: Hold,
}

impl<'a> Namespace<'a> {
    /// A new one. What a run that crashed left of it is removed.
    pub(super) fn new(cluster: &'a Cluster, name: &str, hold: Hold) -> Self {
        let name = format!("millrace-test-{name}");
        let_go(cluster, &name);
        cluster.kubectl(["delete", "namespace", &name, "--ignore-not-found", "--wait", PATIENCE]).run();
        cluster.kubectl(["create", "namespace", &name]).run();
        // Pods that do not meet the standard are refused.
        let standard = "pod-security.kubernetes.io/enforce=restricted";
        cluster.kubectl(["label", "namespace", &name, standard]).run();
        Self { cluster, name, _hold: hold }
    }

    /// `kubectl` in this namespace.
    pub fn kubectl<'b>(&'b self, args: impl IntoIterator<Item = &'b str>) -> Tool {
        self.cluster.kubectl(["--namespace", &self.name].into_iter().chain(args))
    }

    /// Applies manifests.
    ///
    /// # Panics
    ///
    /// With what the API server says, if it does not take them.
    #[track_caller]
    pub fn apply(&self, manifests: &str) -> String {
        self.kubectl(["apply", "-f", "-"]).input(manifests).run()
    }

    /// An example's manifests, with images that a cluster without a registry has.
    pub fn example(name: &str) -> String {
        let examples = repository().join("examples");
        let of_clusters = examples.join("cluster").join(name);
        let folder = if of_clusters.is_dir() { of_clusters } else { examples.join(name) };
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("the folder can be read").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        let texts = files.iter().map(|path| fs::read_to_string(path).expect("the manifest can be read"));
        texts.collect::<Vec<_>>().join("\n---\n").replace("busybox:1.37", super::BUSYBOX)
    }

    /// A ConfigMap of one file of the checkout.
    pub fn config_map(&self, name: &str, file: &str) {
        self.kubectl(["create", "configmap", name, &format!("--from-file={file}")]).run();
    }

    /// An object.
    ///
    /// # Panics
    ///
    /// If it is not there.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(["get", kind, name, "-o", "json"]).run()).expect("kubectl prints JSON")
    }

    /// Waits until a field of an object has a value, by a watch.
    ///
    /// # Panics
    ///
    /// With the object, if it does not get it.
    #[track_caller]
    pub fn wait_for(&self, object: &str, field: &str, value: &str) {
        let condition = format!("--for=jsonpath={{{field}}}={value}");
        if let Err(why) = self.kubectl(["wait", &condition, object, PATIENCE]).attempt() {
            let now = self.kubectl(["get", object, "-o", "yaml"]).attempt().unwrap_or_else(|error| error);
            panic!("{object} does not get {field}={value}: {why}\n{now}");
        }
    }

    /// Waits until a condition of an object is true, by a watch.
    ///
    /// # Panics
    ///
    /// With the object, if it does not become so.
    #[track_caller]
    pub fn wait_until(&self, object: &str, condition: &str) {
        self.wait_for(object, &format!(".status.conditions[?(@.type==\"{condition}\")].status"), "True");
    }

    /// The folder on this machine that a claim's volume is.
    ///
    /// # Panics
    ///
    /// If the volume is not on this machine.
    pub fn volume(&self, claim: &str) -> PathBuf {
        let claim = self.get("persistentvolumeclaim", claim);
        let volume = claim["spec"]["volumeName"].as_str().expect("the claim has a volume").to_owned();
        let volume = self.get("persistentvolume", &volume);
        let path = ["local", "hostPath"].into_iter().find_map(|kind| volume["spec"][kind]["path"].as_str());
        let path = PathBuf::from(path.expect("the volume is a folder"));
        assert!(path.is_dir(), "{} is on another machine", path.display());
        path
    }

    /// What a pod's only container has logged.
    pub fn logs(&self, pod: &str) -> String {
        self.kubectl(["logs", pod]).attempt().unwrap_or_else(|error| error)
    }

    /// The names of all objects of these kinds, as `kind/name`.
    pub fn objects(&self, kinds: &str) -> BTreeSet<String> {
        let listed = self.kubectl(["get", kinds, "-o", "name", "--ignore-not-found"]).run();
        listed.lines().map(str::to_owned).collect()
    }

    /// Waits until the objects of these kinds are just those that are expected.
    ///
    /// # Panics
    ///
    /// With those that are there, if they are others.
    #[track_caller]
    pub fn wait_for_objects(&self, kinds: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        let done = Deadline::secs(60).poll(|| (self.objects(kinds) == expected).then_some(()));
        assert!(done.is_some(), "there are {:?}, and expected are {expected:?}", self.objects(kinds));
    }
}

/// Takes the finalizers off the Pipelines of a namespace: its operator may be gone.
fn let_go(cluster: &Cluster, namespace: &str) {
    let place = ["--namespace", namespace];
    let listed =
        cluster.kubectl(["get", "pipelines", "-o", "name", "--ignore-not-found"].into_iter().chain(place)).attempt();
    for pipeline in listed.unwrap_or_default().lines() {
        let patch = ["patch", pipeline, "--type=merge", "-p", "{\"metadata\": {\"finalizers\": null}}"];
        let _ = cluster.kubectl(patch.into_iter().chain(place)).attempt();
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let folder = std::env::temp_dir().join(format!("{}-failure", self.name));
            self.cluster.collect(&folder.to_string_lossy());
        }
        if std::env::var_os("MILLRACE_KEEP").is_some() {
            println!("keeps the namespace {}", self.name);
            return;
        }
        let gone = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        let deleted = self.cluster.kubectl(gone).attempt();
        let_go(self.cluster, &self.name);
        if let Err(why) = deleted {
            println!("the namespace {} stays: {why}", self.name);
        }
    }
}
