//! Operators that are killed at fault points, one after the other, and which points there are: what the operator itself says.

use std::{path::PathBuf, process::Command};

use millrace_tests::{
    Deadline,
    cluster::{Installed, Namespace},
    process,
};
use serde_json::Value;

use super::{field, lone_pod};

/// Operators that come one after the other, each a pod that ends when it is killed.
pub struct Operators<'a> {
    namespace: &'a Namespace<'a>,
    deployment: Value,
    count: u32,
}

impl<'a> Operators<'a> {
    /// The rights are the release's; its own operators are sent away.
    pub fn new(namespace: &'a Namespace<'a>, installed: &Installed<'_>) -> Self {
        let operator = installed.operator();
        let deployment = namespace.get("deployment", &operator);
        namespace.kubectl(["scale", "deployment", &operator, "--replicas=0"]).run();
        let selector = "app.kubernetes.io/name=millrace-operator";
        Deadline::secs(60).wait_for("the end of the release's operators", || {
            let left = namespace.kubectl(["get", "pods", "-l", selector, "-o", "name"]).run();
            left.is_empty().then_some(())
        });
        Self { namespace, deployment, count: 0 }
    }

    /// The next one, which is killed at this point. They have one name among themselves: the one before is dead for certain.
    pub fn next(&mut self, fault: &str, manifests: &str) -> String {
        self.count += 1;
        let name = format!("operator-{}", self.count);
        let environment = [("POD_NAME", "operator"), ("MILLRACE_FAULT_POINT", fault)];
        let pod = lone_pod(&self.deployment, &name, &environment);
        self.namespace.apply(&format!("---\n{pod}\n{manifests}"));
        name
    }

    /// Waits until the last one has been killed by its fault point.
    #[track_caller]
    pub fn expect_killed(&self, fault: &str) {
        let pod = format!("operator-{}", self.count);
        let object = format!("pod/{pod}");
        let done = self.namespace.kubectl(["wait", "--for=jsonpath={.status.phase}=Failed", &object, "--timeout=60s"]);
        if let Err(why) = done.attempt() {
            panic!("the operator does not come by {fault}: {why}\n{}", self.namespace.logs(&pod));
        }
        let code = field(self.namespace, &object, ".status.containerStatuses[0].state.terminated.exitCode");
        let log = self.namespace.logs(&pod);
        // SIGABRT; a container's first process ignores it, and is ended by SIGSEGV then.
        assert!(["134", "139"].contains(&&*code), "{fault}: {code}: {log}");
        assert!(!log.to_lowercase().contains("forbidden"), "{fault}: {log}");
    }
}

/// Every fault point, in the order in which a reconcile comes by. An operator that is to be killed at another says so.
pub fn points() -> Vec<String> {
    let binary = process::binary().with_file_name("millrace-operator");
    let binary: PathBuf = std::env::var_os("MILLRACE_OPERATOR").map_or(binary, Into::into);
    let said = Command::new(&binary).env("MILLRACE_FAULT_POINT", "nowhere:1").output();
    let said = said.unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let (_, points) =
        said.split_once("there are ").unwrap_or_else(|| panic!("it does not say which there are: {said}"));
    points.trim().split(", ").map(str::to_owned).collect()
}
