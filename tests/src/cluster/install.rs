//! The chart in a cluster.

use super::{BUSYBOX, Namespace};

/// The port that operators serve metrics and health on.
pub const OPERATOR_PORT: u16 = 9601;

/// A release of the chart. It is uninstalled when this is dropped.
#[derive(Debug)]
pub struct Installed<'a> {
    namespace: &'a Namespace<'a>,
    /// The release's name.
    pub release: String,
}

impl Namespace<'_> {
    /// Installs an operator that watches this namespace alone, with the rights of the chart and no others, and waits until
    /// it is ready.
    pub fn install(&self, more: &[&str]) -> Installed<'_> {
        let release = self.name.trim_start_matches("millrace-test-").to_owned();
        let installed = Installed { namespace: self, release };
        installed.upgrade(more);
        installed
    }
}

impl Installed<'_> {
    /// The operator's Deployment and Service.
    pub fn operator(&self) -> String {
        format!("{}-millrace-operator", self.release)
    }

    /// Installs the chart with more values, or upgrades to them.
    pub fn upgrade(&self, more: &[&str]) {
        let images = self.namespace.cluster.images();
        let (operator, operator_tag) = split(&images.operator);
        let (runtime, runtime_tag) = split(&images.runtime);
        let values = [
            format!("image.repository={operator}"),
            format!("image.tag={operator_tag}"),
            format!("runtimeImage.repository={runtime}"),
            format!("runtimeImage.tag={runtime_tag}"),
            format!("watch.namespace={}", self.namespace.name),
            format!("test.image={BUSYBOX}"),
            // The definitions are the whole cluster's; the harness has applied them.
            "crds.enabled=false".to_owned(),
        ];
        let values = values.iter().map(String::as_str).chain(more.iter().copied());
        let values = values.flat_map(|value| ["--set", value]);
        let command = ["upgrade", "--install", &self.release, "charts/millrace", "--wait", "--timeout", "180s"];
        let place = ["--namespace", &self.namespace.name];
        self.namespace.cluster.helm(command.into_iter().chain(place).chain(values)).run();
    }

    /// `helm test`.
    pub fn test(&self) -> String {
        let place = ["--namespace", &self.namespace.name];
        self.namespace.cluster.helm(["test", &self.release, "--timeout", "60s"].into_iter().chain(place)).run()
    }

    /// What all of the operator's replicas have logged.
    pub fn logs(&self) -> String {
        let selector = format!("app.kubernetes.io/name=millrace-operator,app.kubernetes.io/instance={}", self.release);
        self.namespace.kubectl(["logs", "--selector", &selector, "--tail=-1", "--prefix"]).run()
    }

    /// The operator's `/metrics`, of the replica that answers.
    pub fn metrics(&self) -> String {
        let (namespace, operator) = (&self.namespace.name, self.operator());
        let path = format!("/api/v1/namespaces/{namespace}/services/{operator}:{OPERATOR_PORT}/proxy/metrics");
        self.namespace.cluster.kubectl(["get", "--raw", &path]).run()
    }

    /// Checks that the operator had all the rights that it asked for.
    ///
    /// # Panics
    ///
    /// With the lines of its log that say that it had not.
    pub fn expect_nothing_forbidden(&self) {
        expect_nothing_forbidden(&self.logs());
    }

    /// Uninstalls it, and waits until its pods are gone.
    pub fn uninstall(&self) {
        let place = ["--namespace", &self.namespace.name];
        self.namespace
            .cluster
            .helm(["uninstall", &self.release, "--wait", "--timeout", "60s"].into_iter().chain(place))
            .run();
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if std::env::var_os("MILLRACE_KEEP").is_some() {
            return;
        }
        // Some of what it has made is in no namespace.
        let place = ["--namespace", &self.namespace.name, "--ignore-not-found"];
        let gone = self.namespace.cluster.helm(["uninstall", &self.release].into_iter().chain(place)).attempt();
        if let Err(why) = gone {
            println!("the release {} stays: {why}", self.release);
        }
    }
}

/// An image's repository and tag.
fn split(image: &str) -> (&str, &str) {
    image.rsplit_once(':').unwrap_or((image, "latest"))
}

/// Checks in an operator's log that the API server has forbidden it nothing, but to make something in a namespace that goes.
#[track_caller]
pub fn expect_nothing_forbidden(log: &str) {
    let is_forbidden = |line: &&str| line.to_lowercase().contains("forbidden") && !line.contains("is being terminated");
    let forbidden: Vec<&str> = log.lines().filter(is_forbidden).collect();
    assert!(forbidden.is_empty(), "the operator lacks rights:\n{}", forbidden.join("\n"));
}
