//! What users say of pods, and what stays of a Pipeline that is deleted.

use millrace_tests::{Deadline, cluster, cluster::BUSYBOX, manifest};
use serde_json::{Value, json};

use crate::live::{Live, Rows, condition, expect_each_once};

fn manifests(name: &str, deployment: &Value, on_delete: &str) -> String {
    let generator = json!({"rate": 1000, "fields": [{"name": "id", "sequence": {}}]});
    let spec = json!({
        "sources": [{"name": "ids", "generator": generator}],
        "outputs": [{"from": "ids", "sink": name}],
        "checkpoints": {"interval": "300ms", "minPause": "50ms", "onDelete": on_delete},
        "deployment": deployment,
    });
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec});
    let sink = manifest::sink(name, "file: {path: /data/out, format: {json: {}}}");
    format!("{pipeline}\n{sink}")
}

#[test]
fn what_users_say_of_pods_is_laid_over_them_and_what_would_break_them_is_refused() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("pods");
    let installed = namespace.install(&[]);
    for (kind, name, key, value) in
        [("secret", "words", "word", "open sesame"), ("configmap", "lists", "list", "a,b,c")]
    {
        let kind = if kind == "secret" { vec!["secret", "generic"] } else { vec![kind] };
        let literal = format!("--from-literal={key}={value}");
        namespace.kubectl(["create"].into_iter().chain(kind).chain([name, &literal])).run();
    }
    let restricted = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mounts = json!([{"name": "words", "mountPath": "/words"}, {"name": "lists", "mountPath": "/lists"}]);
    let says = "cat /words/word /lists/list; echo; exec sleep 2147483647";
    let template = json!({
        "metadata": {"labels": {"team": "streams"}, "annotations": {"note": "mine"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "streams", "operator": "Exists", "effect": "NoSchedule"}],
            "terminationGracePeriodSeconds": 70,
            "volumes": [{"name": "words", "secret": {"secretName": "words"}}, {"name": "lists", "configMap": {"name": "lists"}}],
            "containers": [
                {
                    "name": "millrace", "volumeMounts": mounts,
                    "env": [
                        {"name": "COLOUR", "value": "blue"},
                        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}},
                    ],
                    "envFrom": [{"configMapRef": {"name": "lists"}}],
                },
                {
                    "name": "sidecar", "image": BUSYBOX, "command": ["sh", "-c", says], "volumeMounts": mounts,
                    "securityContext": restricted,
                },
            ],
        },
    });
    let resources = json!({"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}});
    let deployment = json!({"volume": {"size": "1Gi"}, "resources": resources, "template": template});
    let live = Live::new(&namespace, "web");
    namespace.apply(&manifests("web", &deployment, "Retain"));
    live.is_ready();

    // The namespace lets in only pods that meet the `restricted` standard.
    let pod = live.pod();
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    assert_eq!((&metadata["labels"]["team"], &metadata["annotations"]["note"]), (&json!("streams"), &json!("mine")));
    assert_eq!(metadata["labels"]["millrace.dev/pipeline"], "web");
    assert_eq!(spec["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(spec["terminationGracePeriodSeconds"], 70);
    let tolerations = spec["tolerations"].as_array().unwrap();
    assert!(tolerations.iter().any(|toleration| toleration["key"] == "streams"), "{tolerations:?}");
    let container = |name: &str| {
        let containers = spec["containers"].as_array().unwrap();
        containers.iter().find(|container| container["name"] == name).unwrap().clone()
    };
    let runtime = container("millrace");
    assert_eq!(runtime["resources"], resources);
    assert_eq!(runtime["securityContext"]["readOnlyRootFilesystem"], true);
    let line = |name: &str| runtime["env"].as_array().unwrap().iter().any(|variable| variable["name"] == name);
    assert!(["POD_UID", "COLOUR", "WORD"].into_iter().all(line), "{:#}", runtime["env"]);
    let environment = live.environment();
    for variable in ["COLOUR=blue", "WORD=open sesame", "list=a,b,c"] {
        assert!(environment.iter().any(|set| set == variable), "{variable}: {environment:?}");
    }
    let said = Deadline::secs(60).wait_for("the sidecar", || {
        namespace.kubectl(["logs", "web-0", "-c", "sidecar"]).attempt().ok().filter(|said| !said.is_empty())
    });
    assert_eq!(said, "open sesamea,b,c\n");
    let process = live.process();

    // What would break pods is refused, with its place, and what runs runs on.
    let runtime = |what: Value| json!({"spec": {"containers": [what]}});
    for (template, says) in [
        (
            runtime(json!({"name": "millrace", "args": ["run"]})),
            "template.spec.containers[millrace].args: how the runtime",
        ),
        (
            runtime(json!({"name": "millrace", "env": [{"name": "POD_UID", "value": "x"}]})),
            "env[POD_UID]: this variable",
        ),
        (json!({"spec": {"volumes": [{"name": "data", "emptyDir": {}}]}}), "spec.volumes[data]: this is the name"),
        (json!({"metadata": {"labels": {"millrace.dev/pipeline": "x"}}}), "by this label pods are found"),
        (json!({"spec": {"nodeSelektor": {"a": "b"}}}), ".spec.nodeSelektor: there is no such field in a pod template"),
    ] {
        let mut bad = deployment.clone();
        bad["template"] = template;
        namespace.apply(&manifests("web", &bad, "Retain"));
        let object = live.object.wait_for(says, |object| condition(object, "ConfigValid").2.contains(says));
        let said = condition(&object, "ConfigValid");
        assert_eq!((said.0.as_str(), said.1.as_str()), ("False", "InvalidSpec"), "{}", said.2);
    }
    live.completes(2);
    assert_eq!(live.process(), process);
    installed.expect_nothing_forbidden();
}

#[test]
fn a_pod_that_is_not_ready_keeps_nobody_from_draining_its_node() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("drained");
    let _installed = namespace.install(&["replicas=1"]);
    let never = json!({"template": {"spec": {"readinessGates": [{"conditionType": "example.com/never"}]}}});
    namespace.apply(&manifests("web", &never, "Retain"));
    let live = Live::new(&namespace, "web");
    let runs = || {
        let pod = namespace.kubectl(["get", "pod", "web-0", "-o", "json"]).attempt().ok()?;
        let pod: Value = serde_json::from_str(&pod).unwrap();
        let is_up = pod["status"]["containerStatuses"][0]["ready"] == true;
        is_up.then(|| pod["metadata"]["uid"].as_str().unwrap().to_owned())
    };
    let uid = Deadline::secs(60).wait_for("the container", runs);
    // The budget has to have seen it first.
    let budget = || {
        let seen = namespace.get("poddisruptionbudget", "web")["status"].clone();
        (seen["expectedPods"] == 1 && seen["currentHealthy"] == 0).then_some(seen)
    };
    let seen = Deadline::secs(60).wait_for("the budget", budget);
    assert_eq!(seen["disruptionsAllowed"], 0, "by the count alone it would stay");
    let path = format!("/api/v1/namespaces/{}/pods/web-0/eviction", namespace.name);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-0"}}).to_string();
    namespace.kubectl(["create", "--raw", &path, "-f", "-"]).input(&eviction).run();
    Deadline::secs(60).wait_for("another pod", || runs().filter(|other| *other != uid));
    assert_ne!(live.pod()["metadata"]["uid"], json!(uid));
}

#[test]
fn what_is_deleted_with_a_pipeline_is_what_on_delete_says() {
    let Some(cluster) = cluster::cluster() else { return };
    let namespace = cluster.namespace("deleted");
    let installed = namespace.install(&[]);
    let deployment = json!({"volume": {"size": "1Gi"}});
    let (kept, gone) = (Live::new(&namespace, "kept"), Live::new(&namespace, "gone"));
    namespace.apply(&manifests("kept", &deployment, "Retain"));
    // What `onDelete` says can change; the pods do not.
    namespace.apply(&manifests("gone", &deployment, "Retain"));
    gone.is_ready();
    let process = gone.process();
    let object = gone.takes_up(&manifests("gone", &deployment, "Delete"));
    assert_eq!(object["status"]["change"]["class"], "Hot");
    assert_eq!(gone.process(), process);
    kept.is_ready();
    kept.completes(2);
    gone.completes(2);

    namespace.kubectl(["delete", "pipelines", "kept", "gone"]).run();
    for kind in ["statefulsets", "poddisruptionbudgets"] {
        let is_gone =
            || namespace.objects(kind).iter().all(|name| !name.ends_with("/kept") && !name.ends_with("/gone"));
        Deadline::secs(120).wait_for(kind, || is_gone().then_some(()));
    }
    namespace.wait_for_objects("persistentvolumeclaims", &["persistentvolumeclaim/data-kept-0"]);
    let before = Rows::of(&kept.data().join("out")).more().numbers("id");
    let maps = namespace.objects("configmaps");
    assert!(maps.contains("configmap/kept-checkpoint") && !maps.contains("configmap/gone-checkpoint"), "{maps:?}");
    assert!(!maps.contains("configmap/kept-plan") && !maps.contains("configmap/kept-report"), "{maps:?}");

    // Made anew under its name, the one goes on from where it stopped, and the other one begins anew.
    namespace.apply(&manifests("kept", &deployment, "Retain"));
    namespace.apply(&manifests("gone", &deployment, "Delete"));
    let (kept, gone) = (Live::new(&namespace, "kept"), Live::new(&namespace, "gone"));
    kept.is_ready();
    gone.is_ready();
    kept.completes(2);
    gone.completes(1);
    let after = Rows::of(&kept.data().join("out")).more().numbers("id");
    assert!(after.len() > before.len());
    expect_each_once(&after, |_| true, "every row of the one that was kept");
    expect_each_once(&Rows::of(&gone.data().join("out")).more().numbers("id"), |_| true, "every row of the other");
    installed.expect_nothing_forbidden();
}
