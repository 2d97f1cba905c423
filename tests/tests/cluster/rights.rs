//! The chart gives the operator the rights that it uses, and no others.
//!
//! The operator runs as a process of this machine, as the chart's service account, and speaks to the API server through
//! `kubectl proxy`, which writes down every request.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead, BufReader},
    process::Child,
};

use millrace_tests::{Deadline, Workspace, cluster, cluster::Namespace, manifest, process};
use serde_json::Value;

/// A right: group, resource (with its subresource), verb.
type Right = (String, String, String);

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// The rights that rules give.
fn given(rules: &Value) -> BTreeSet<Right> {
    let list = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect()
    };
    let mut found = BTreeSet::new();
    for rule in rules.as_array().unwrap() {
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                found.extend(list(rule, "verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    found
}

/// A request, as an API server's authorizer sees it.
struct Asked {
    group: String,
    resource: String,
    name: Option<String>,
    verbs: Vec<&'static str>,
}

/// The request that a line of kubectl's log is about.
fn asked(line: &str) -> Option<Asked> {
    let words: Vec<&str> = line.split([' ', '"', '=']).filter(|word| !word.is_empty()).collect();
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let method = *words.iter().find(|word| methods.contains(*word))?;
    let (_, rest) = line.split_once("https://")?;
    let url = rest.split([' ', '"']).next()?;
    let (_, path) = url.split_once('/')?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parts: Vec<&str> = path.split('/').collect();
    let group = match parts.first() {
        Some(&"api") if parts.len() > 2 => {
            parts.drain(..2);
            String::new()
        }
        Some(&"apis") if parts.len() > 3 => parts.drain(..3).nth(1)?.to_owned(),
        _ => return None,
    };
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let name = parts.get(1).map(|name| (*name).to_owned());
    let resource = match parts.get(2) {
        Some(part) => format!("{}/{part}", parts[0]),
        None => parts[0].to_owned(),
    };
    let is_new = line.contains("201 Created");
    let verbs = match (method, &name) {
        ("GET", Some(_)) => vec!["get"],
        ("GET", None) if query.contains("watch=") => vec!["watch"],
        ("GET", None) => vec!["list"],
        ("POST", _) => vec!["create"],
        ("PUT", _) => vec!["update"],
        // A patch that makes the object needs both.
        ("PATCH", _) if is_new => vec!["patch", "create"],
        ("PATCH", _) => vec!["patch"],
        _ => vec!["delete"],
    };
    Some(Asked { group, resource, name, verbs })
}

#[test]
fn a_request_is_read_out_of_a_log_of_kubectl() {
    let old = "I1127 22:00:00.000001  77 round_trippers.go:560] PATCH https://10.244.0.1:6443/apis/apps/v1/namespaces/n/statefulsets/a?force=true 201 Created in 5 milliseconds";
    let new = "I1127 22:00:00.000001 77 round_trippers.go:632] \"Response\" verb=\"GET\" url=\"https://10.244.0.1:6443/api/v1/pods?watch=true&x=1\" status=\"200 OK\" milliseconds=1";
    let status = "I1 77 x.go:1] PATCH https://h/apis/millrace.dev/v1alpha1/namespaces/n/pipelines/a/status 200 OK in 5 milliseconds";
    let read = |line| asked(line).map(|asked| (asked.group, asked.resource, asked.name, asked.verbs)).unwrap();
    assert_eq!(read(old), ("apps".into(), "statefulsets".into(), Some("a".into()), vec!["patch", "create"]));
    assert_eq!(read(new), (String::new(), "pods".into(), None, vec!["watch"]));
    assert_eq!(read(status), ("millrace.dev".into(), "pipelines/status".into(), Some("a".into()), vec!["patch"]));
    assert!(asked("Starting to serve on 127.0.0.1:8001").is_none());
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    /// Lets it end, as an operator ends that gives its Lease back.
    fn terminate(&mut self) {
        let ended = std::process::Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status();
        assert!(ended.is_ok_and(|status| status.success()));
        Deadline::secs(20).wait_for("the operator to end", || self.0.try_wait().expect("the child is ours"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pipeline(name: &str, sink: &str, source: &str, more: &str) -> String {
    format!(
        "---\napiVersion: millrace.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  \
         sources: [{{name: ids, {source}, eventTime: {{column: ts}}}}]\n  \
         transforms: [{{name: counts, window: minute, sql: \"SELECT window_start, count(*) AS times FROM ids\"}}]\n  \
         outputs: [{{from: counts, sink: {sink}}}]\n{more}"
    )
}

/// A Pipeline is deleted whose checkpoints in a bucket are to go with it. What is needed for that is not there.
fn goes(namespace: &Namespace<'_>) {
    let checkpoints = "  checkpoints: {onDelete: Delete, storage: \"s3://lake/all\", credentials: {secretRef: {name: missing}}}\n  suspend: true\n";
    namespace.apply(&pipeline("goes", "rows", &manifest::numbers(10, 100), checkpoints));
    namespace.wait_for("pipeline/goes", ".metadata.finalizers[0]", "millrace.dev/checkpoints");
    namespace.wait_for("pipeline/goes", ".status.phase", "Suspended");
    namespace.kubectl(["delete", "pipeline", "goes", "--wait=false"]).run();
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    Deadline::secs(60).wait_for("the Job's cause", || {
        let said = namespace.kubectl(["get", "pipeline", "goes", "-o", ready]).run();
        said.contains("secret \"missing\" not found").then_some(())
    });
    // Kubernetes ends it.
    let job = namespace.kubectl(["get", "jobs", "-o", "name"]).run();
    namespace.kubectl(["patch", job.trim(), "--type=merge", "-p", "{\"spec\": {\"activeDeadlineSeconds\": 1}}"]).run();
    namespace.kubectl(["wait", "--for=delete", "pipeline/goes", "--timeout=60s"]).run();
    // Who asks to keep them while a Job is at work has it ended.
    let kept = checkpoints.replace("onDelete: Delete", "onDelete: Retain");
    namespace.apply(&pipeline("stays", "rows", &manifest::numbers(10, 100), checkpoints));
    namespace.wait_for("pipeline/stays", ".metadata.finalizers[0]", "millrace.dev/checkpoints");
    namespace.wait_for("pipeline/stays", ".status.phase", "Suspended");
    namespace.kubectl(["delete", "pipeline", "stays", "--wait=false"]).run();
    let jobs = || namespace.kubectl(["get", "jobs", "-l", "millrace.dev/pipeline=stays", "-o", "name"]).run();
    Deadline::secs(60).wait_for("a Job", || (!jobs().is_empty()).then_some(()));
    namespace.apply(&pipeline("stays", "rows", &manifest::numbers(10, 100), &kept));
    namespace.kubectl(["wait", "--for=delete", "pipeline/stays", "--timeout=60s"]).run();
    Deadline::secs(60).wait_for("it to end", || jobs().is_empty().then_some(()));
}

/// What an operator does in its life: makes all that Pipelines own, puts right what others change, scales, looks for what keeps
/// pods from starting, tells of it.
fn live(namespace: &Namespace<'_>) {
    namespace.apply(&manifest::window("minute", "tumbling: {size: 1m}"));
    namespace.apply(&manifest::sink("rows", "stdout: {}"));
    namespace.apply(&manifest::sink(
        "locked",
        "file: {path: /data/out, format: {json: {}}}\n  credentials: {secretRef: {name: missing}}",
    ));
    namespace.apply(&pipeline("ends", "rows", &manifest::numbers(10, 100), ""));
    namespace.apply(&pipeline("waits", "locked", &manifest::numbers(10, 100), ""));
    namespace.wait_for("pipeline/ends", ".status.phase", "Finished");
    let ready = "{.status.conditions[?(@.type==\"Ready\")].message}";
    Deadline::secs(60).wait_for("the missing Secret's name", || {
        let said = namespace.kubectl(["get", "pipeline", "waits", "-o", &format!("jsonpath={ready}")]).run();
        said.contains("secret \"missing\" not found").then_some(())
    });
    // An edit that cannot be run leaves the objects, and is stopped all the same.
    let broken = pipeline("waits", "nowhere", &manifest::numbers(10, 100), "  suspend: true\n");
    namespace.apply(&broken);
    namespace.wait_for("pipeline/waits", ".status.phase", "Suspended");
    goes(namespace);
    // What is on a volume goes with that.
    let checkpoints = "  checkpoints: {onDelete: Delete}\n";
    namespace.apply(&pipeline("gone", "rows", &manifest::numbers(10, 100), checkpoints));
    namespace.wait_for("pipeline/gone", ".status.phase", "Finished");
    namespace.kubectl(["delete", "pipeline", "gone", "--wait"]).run();
    namespace.kubectl(["wait", "--for=delete", "pvc/data-gone-0", "--timeout=60s"]).run();
    for kind in ["service", "role", "rolebinding", "serviceaccount", "poddisruptionbudget", "statefulset"] {
        namespace.kubectl(["delete", kind, "ends", "--wait"]).run();
        Deadline::secs(60).wait_for(kind, || namespace.kubectl(["get", kind, "ends"]).attempt().ok());
    }
}

#[test]
fn the_operator_has_the_rights_that_it_uses_and_no_others() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("rights");
    let installed = namespace.install(&["replicas=1"]);
    let operator = installed.operator();
    // The chart's own operator makes room. It has given its Lease back when it is gone.
    namespace.kubectl(["scale", "deployment", &operator, "--replicas=0"]).run();
    namespace.kubectl(["wait", "--for=delete", "pod", "--all", "--timeout=60s"]).run();
    // One that finds no Lease makes it.
    namespace.kubectl(["delete", "lease", "millrace-operator"]).run();

    let workspace = Workspace::new();
    let log = workspace.join("proxy.log");
    let account = format!("--as=system:serviceaccount:{}:{operator}", namespace.name);
    let proxy = cluster.kubectl(["proxy", "--port=0", "--v=6", &account]);
    let mut proxy = Process(proxy.stream(File::create(&log).unwrap()));
    let mut said = String::new();
    BufReader::new(proxy.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().rsplit(' ').next().unwrap();
    let kubeconfig = workspace.join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, clusters: [{{name: it, cluster: {{server: \"http://{address}\"}}}}], users: [{{name: it, user: {{}}}}], \
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}], current-context: it}}"
    );
    fs::write(&kubeconfig, text).unwrap();
    let binary = process::binary().with_file_name("millrace-operator");
    let binary = std::env::var_os("MILLRACE_OPERATOR").map_or(binary, Into::into);
    let (name, runtime) = (namespace.name.as_str(), cluster.images().runtime.as_str());
    let args = ["--namespace", name, "--lease-namespace", name, "--identity", "process", "--runtime-image", runtime];
    let process = cluster.tool(binary, args.into_iter().chain(["--listen", "127.0.0.1:0"]));
    let process = process.env("KUBECONFIG", &kubeconfig).stream(File::create(workspace.join("operator.log")).unwrap());
    let mut process = Process(process);
    live(&namespace);
    process.terminate();
    drop(proxy);

    let said = fs::read_to_string(workspace.join("operator.log")).unwrap();
    let forbidden: Vec<&str> = said.lines().filter(|line| line.to_lowercase().contains("forbidden")).collect();
    assert!(forbidden.is_empty(), "the operator lacks rights:\n{}", forbidden.join("\n"));
    let role = |name: &str| given(&namespace.get("role", name)["rules"]);
    let mut used: BTreeMap<bool, BTreeSet<Right>> = BTreeMap::new();
    for asked in fs::read_to_string(&log).unwrap().lines().filter_map(asked) {
        // Of the Lease by which replicas agree there is a Role of its own.
        let is_leader = asked.resource == "leases" && asked.name.as_deref().is_none_or(|it| it == "millrace-operator");
        let rights = asked.verbs.iter().map(|verb| right(&asked.group, &asked.resource, verb));
        used.entry(is_leader).or_default().extend(rights);
    }
    let (works, leads) = (used.remove(&false).unwrap_or_default(), used.remove(&true).unwrap_or_default());
    // Nobody may give a right to others that they do not have: those of a Pipeline's pods.
    let mut needed = role("ends");
    needed.extend(works);
    // Clusters with OwnerReferencesPermissionEnforcement ask for it, and this one does not.
    needed.insert(right("millrace.dev", "pipelines/finalizers", "update"));
    assert_eq!(role(&operator), needed);
    assert_eq!(role(&format!("{operator}-leader")), leads);
}
