//! The chart: its values, what it renders, `install.yaml`, and a release's life on a cluster.

use std::{collections::BTreeSet, fs, process::Command};

use millrace_tests::{Deadline, cluster, manifest, workspace::repository};
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The paths of all values, as `image.tag`.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        // These hold what the user likes.
        Value::Object(fields) if !fields.is_empty() && !path.ends_with("labels") && !path.ends_with("resources") => {
            for (name, inner) in fields {
                paths(inner, &format!("{path}{}{name}", if path.is_empty() { "" } else { "." }), found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

fn values() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    paths(&serde_saphyr::from_str(&read("charts/millrace/values.yaml")).unwrap(), "", &mut found);
    found
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme() {
    let schema: Value = serde_json::from_str(&read("charts/millrace/values.schema.json")).unwrap();
    let readme = read("charts/millrace/README.md");
    for path in values() {
        let place = path.split('.').try_fold(&schema, |at, name| at.get("properties")?.get(name));
        assert!(place.is_some(), "values.schema.json lacks {path}");
        assert!(readme.contains(&format!("| `{path}` |")), "README.md lacks {path}");
    }
}

/// The manifests that the notes tell to apply.
fn in_the_notes() -> String {
    let notes = read("charts/millrace/templates/NOTES.txt");
    let (_, manifests) = notes.split_once("<<'END'\n").unwrap();
    let (manifests, _) = manifests.split_once("  END\n").unwrap();
    manifests.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap())).collect()
}

#[test]
fn the_first_pipeline_of_the_notes_is_without_a_mistake() {
    let (read, problems) = millrace_crds::manifest::read(&[("notes.yaml", in_the_notes())]);
    assert_eq!(problems, []);
    assert_eq!((read.pipelines.len(), read.sinks.len()), (1, 1));
}

#[test]
fn the_first_pipeline_of_the_notes_runs() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("notes");
    let installed = namespace.install(&["replicas=1"]);
    namespace.apply(&in_the_notes());
    namespace.wait_until("pipeline/hello", "Ready");
    Deadline::secs(60).wait_for("a row in the log", || namespace.logs("hello-0").contains("\"times\":").then_some(()));
    installed.expect_nothing_forbidden();
}

#[test]
fn install_yaml_is_what_the_chart_renders() {
    let Some(_) = cluster::cluster() else { return };
    let rendered = Command::new("scripts/install-yaml").current_dir(repository()).output().unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let rendered = String::from_utf8(rendered.stdout).unwrap();
    assert!(read("charts/install.yaml") == rendered, "charts/install.yaml is old: `make install-yaml` writes it anew");
}

#[test]
fn the_chart_renders_the_definitions_as_they_are() {
    let Some(cluster) = cluster::cluster() else { return };
    let command = ["template", "it", "charts/millrace", "--kube-version", "1.34", "--show-only", "templates/crds.yaml"];
    let rendered: Vec<Value> = serde_saphyr::from_multiple(&cluster.helm(command).run()).unwrap();
    let mut rendered: Vec<Value> = rendered.into_iter().filter(|crd| !crd.is_null()).collect();
    let mut expected: Vec<Value> = millrace_crds::crds().iter().map(|crd| serde_json::json!(crd)).collect();
    for crds in [&mut rendered, &mut expected] {
        crds.sort_by_key(|crd| crd["metadata"]["name"].to_string());
    }
    assert_eq!(rendered.len(), expected.len());
    for (rendered, expected) in rendered.iter().zip(&expected) {
        assert_eq!(whole(&rendered["spec"]), whole(&expected["spec"]));
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

/// With numbers that are whole written so: 1.0 is 1.
fn whole(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), whole(value))).collect(),
        Value::Array(items) => items.iter().map(whole).collect(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 => Value::from(float as i64),
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let Some(cluster) = cluster::cluster() else { return };
    for (value, says) in [
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=0", "minimum"),
        ("watch.namespace=Big_", "does not match pattern"),
        ("logFormat=xml", "must be one of"),
        ("metrics.podMonitor.interval=often", "does not match pattern"),
        ("serviceAccount.create=false", "serviceAccount.name is needed"),
    ] {
        let command = ["template", "it", "charts/millrace", "--kube-version", "1.34", "--set", value];
        let said = cluster.helm(command).attempt().expect_err(value);
        assert!(said.contains(says), "{value}: {said}");
    }
}

#[test]
fn everything_behind_a_switch_is_taken_by_the_api_server() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("switches");
    let switches = format!(
        "fullnameOverride=it,networkPolicy.enabled=true,networkPolicy.pipelineNamespaces={{{0}}},metrics.dashboard.enabled=true,watch.namespace={0},\
         crds.enabled=false",
        namespace.name
    );
    let command = ["template", "it", "charts/millrace", "--kube-version", "1.34", "--namespace", &namespace.name];
    let rendered = cluster.helm(command.into_iter().chain(["--set", &switches])).run();
    for kind in ["NetworkPolicy", "ConfigMap", "PodDisruptionBudget", "Deployment"] {
        assert!(rendered.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    namespace.kubectl(["apply", "--server-side", "--dry-run=server", "-f", "-"]).input(&rendered).run();
}

/// Whether an object's labels are those that a selector asks for.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().filter(|wanted| !wanted.is_empty()).expect("a selector of all is none");
    wanted.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn monitors_and_policies_select_what_there_is() {
    let Some(cluster) = cluster::cluster() else { return };
    let switches = "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,networkPolicy.enabled=true,\
                    networkPolicy.pipelineNamespaces={streams},metrics.serviceMonitor.labels.release=prometheus";
    let command = ["template", "it", "charts/millrace", "--kube-version", "1.34", "--set", switches];
    let rendered: Vec<Value> = serde_saphyr::from_multiple(&cluster.helm(command).run()).unwrap();
    let find = |kind: &str, name: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        rendered.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    };
    let golden = read("operator/golden/objects.json");
    let objects = serde_json::Deserializer::from_str(&golden).into_iter::<Value>().map(Result::unwrap);
    let runtime = objects.last().unwrap()["spec"]["template"].clone();
    let (service, deployment) = (find("Service", "it-millrace-operator"), find("Deployment", "it-millrace-operator"));
    let operator = &deployment["spec"]["template"];
    let labels = |object: &Value| object["metadata"]["labels"].clone();

    let monitor = find("ServiceMonitor", "it-millrace-operator");
    assert!(selects(&monitor["spec"]["selector"]["matchLabels"], &labels(service)));
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    let monitor = find("PodMonitor", "it-millrace-pipelines");
    assert!(selects(&monitor["spec"]["selector"]["matchLabels"], &labels(&runtime)));
    let port = &runtime["spec"]["containers"][0]["ports"][0];
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], port["name"]);
    for (name, pod, port) in [
        ("it-millrace-operator", operator, &operator["spec"]["containers"][0]["ports"][0]),
        ("it-millrace-pipelines", &runtime, port),
    ] {
        let policy = find("NetworkPolicy", name);
        assert!(selects(&policy["spec"]["podSelector"]["matchLabels"], &labels(pod)), "{name}");
        assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], port["containerPort"], "{name}");
    }
    let budget = find("PodDisruptionBudget", "it-millrace-operator");
    assert!(selects(&budget["spec"]["selector"]["matchLabels"], &labels(operator)));
    assert!(selects(&service["spec"]["selector"], &labels(operator)));
}

#[test]
fn a_release_is_installed_tested_upgraded_and_uninstalled() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("release");
    let installed = namespace.install(&[]);
    let test = installed.test();
    assert!(test.contains("Phase:          Succeeded"), "{test}");
    namespace.apply(&manifest::window("minute", "tumbling: {size: 1m}"));
    namespace.wait_until("window/minute", "Ready");
    installed.upgrade(&["replicas=1", "logLevel=debug"]);
    namespace.wait_for(&format!("deployment/{}", installed.operator()), ".status.readyReplicas", "1");
    installed.expect_nothing_forbidden();
    installed.uninstall();
    // A Window outlives the operator; of the release nothing is left.
    assert!(namespace.objects("windows").contains("window.millrace.dev/minute"));
    let left = "deployments,services,serviceaccounts,leases,roles,rolebindings,poddisruptionbudgets,pods";
    namespace.wait_for_objects(left, &["serviceaccount/default"]);
}
