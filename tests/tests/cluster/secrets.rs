//! Secrets: mounted, never read by API, taken up when they change; and with them checkpoints in an S3 bucket.

use std::{fs, path::PathBuf};

use millrace_tests::{Deadline, cluster, cluster::Namespace, manifest, read, s3::Gateway, workspace::cache};
use serde_json::{Value, json};

use crate::live::{Live, Rows, expect_each_once};

/// A Pipeline with checkpoints in the bucket, and its output on a volume of its own.
fn manifests(gateway: &Gateway) -> String {
    let fields = json!([{"name": "id", "sequence": {}}, {"name": "ts", "timestamp": {"start": "2024-01-01T00:00:00Z", "step": "2ms"}}]);
    let container = json!({"name": "millrace", "volumeMounts": [{"name": "output", "mountPath": "/output"}]});
    let volume = json!({"name": "output", "persistentVolumeClaim": {"claimName": "output"}});
    let spec = json!({
        "sources": [{"name": "ids", "generator": {"rate": 1000, "fields": fields}, "eventTime": {"column": "ts"}}],
        "transforms": [{"name": "sums", "window": "w", "sql": "SELECT id % 8 AS key, window_start, count(*) AS n FROM ids GROUP BY id % 8"}],
        "outputs": [{"from": "ids", "sink": "every"}, {"from": "sums", "sink": "sums"}],
        "checkpoints": {
            "interval": "500ms", "minPause": "50ms", "retain": 2,
            "storage": gateway.url("checkpoints"), "credentials": {"secretRef": {"name": "store"}},
        },
        "deployment": {"volume": {"size": "1Gi"}, "template": {"spec": {"containers": [container], "volumes": [volume]}}},
    });
    let pipeline =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "web"}, "spec": spec});
    [
        format!("{pipeline}\n---\n{}\n", manifest::claim("output")),
        manifest::window("w", "tumbling: {size: 1s}"),
        manifest::sink(
            "every",
            "file: {path: /output/every, format: {json: {}}}\n  credentials: {secretRef: {name: lake}}",
        ),
        manifest::sink("sums", "file: {path: /output/sums, format: {json: {}}}"),
    ]
    .concat()
}

/// Makes a Secret, or changes it.
fn secret(namespace: &Namespace<'_>, name: &str, values: &Value) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values});
    namespace.apply(&secret.to_string());
}

fn key(gateway: &Gateway, access: &str) -> Value {
    json!({
        "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": format!("{access}-secret"),
        "AWS_ENDPOINT_URL": gateway.endpoint(), "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
    })
}

/// A file of a Secret as the pod sees it.
fn mounted(live: &Live<'_>, secret: &str, file: &str) -> String {
    let pod = live.pod();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["secret"]["secretName"] == secret);
    let volume = volume.unwrap_or_else(|| panic!("{secret} is not mounted"))["name"].as_str().unwrap().to_owned();
    let container = &pod["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == volume.as_str()).unwrap();
    assert_eq!(mount["mountPath"], format!("/etc/millrace/credentials/{secret}"));
    let pod = pod["metadata"]["uid"].as_str().unwrap();
    let folder: PathBuf = cache().join("cluster/run/kubelet/pods").join(pod).join("volumes/kubernetes.io~secret");
    fs::read_to_string(folder.join(volume).join(file)).unwrap_or_default()
}

/// Whether an account of the namespace may read its Secrets.
fn may_read_secrets(namespace: &Namespace<'_>, account: &str) -> bool {
    let user = format!("--as=system:serviceaccount:{}:{account}", namespace.name);
    ["get", "list", "watch"].into_iter().any(|verb| {
        let said = namespace.kubectl(["auth", "can-i", verb, "secrets", &user]).output();
        String::from_utf8_lossy(&said.stdout).trim_start().starts_with("yes")
    })
}

#[test]
fn a_key_is_replaced_while_checkpoints_go_to_a_bucket_and_a_pod_without_its_volume_goes_on_from_there() {
    let Some(cluster) = cluster::cluster() else { return };
    if !cluster.is_ours() {
        return println!("skipped: pods of another cluster do not reach a server on this machine");
    }
    let namespace = cluster.namespace("secrets");
    let mut gateway = Gateway::start_for_pods();
    gateway.let_in("first", "first-secret");
    let installed = namespace.install(&[]);
    secret(&namespace, "store", &key(&gateway, "first"));
    secret(&namespace, "lake", &json!({"token": "one"}));
    let live = Live::new(&namespace, "web");
    namespace.apply(&manifests(&gateway));
    live.is_ready();
    live.completes(2);
    let stored = || read::all_files(&gateway.folder(&format!("checkpoints/{}/web", namespace.name))).len();
    assert!(stored() > 2, "checkpoints are in the bucket");
    let checkpoints = live.data().join("checkpoints");
    assert!(!checkpoints.exists() || read::all_files(&checkpoints).is_empty(), "and not on the volume");
    assert_eq!(mounted(&live, "lake", "token"), "one");
    let operator = namespace.get("deployment", &installed.operator());
    let operator = operator["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap();
    for account in ["web", operator] {
        assert!(!may_read_secrets(&namespace, account), "{account} may read Secrets");
    }

    // Both Secrets change. The kubelet renews the files; nothing restarts.
    let process = live.process();
    gateway.let_in("second", "second-secret");
    secret(&namespace, "store", &key(&gateway, "second"));
    secret(&namespace, "lake", &json!({"token": "two"}));
    // What the kubelet sees of a pod makes it look at the pod's volumes at once.
    namespace.kubectl(["annotate", "pod", "web-0", "look=again"]).run();
    let renewed =
        || mounted(&live, "store", "AWS_ACCESS_KEY_ID") == "second" && mounted(&live, "lake", "token") == "two";
    Deadline::secs(120).wait_for("the kubelet to renew the files", || renewed().then_some(()));
    gateway.shut_out("first");
    live.completes(3);
    let log = namespace.logs("web-0");
    assert!(log.contains("another key for the object store"), "{log}");
    assert_eq!(live.process(), process);
    let failed =
        live.object.all().into_iter().find(|object| object["status"]["checkpoint"]["failures"].as_u64() > Some(0));
    assert_eq!(failed, None, "no checkpoint has failed over it");

    // The pod and its volume are gone: a new one has an empty volume, and goes on from the bucket.
    let old = live.namespace.get("persistentvolumeclaim", "data-web-0")["metadata"]["uid"].clone();
    namespace.kubectl(["delete", "persistentvolumeclaim", "data-web-0", "--wait=false"]).run();
    namespace.kubectl(["delete", "pod", "web-0", "--wait"]).run();
    live.is_ready();
    live.object.wait_for("Running", |object| object["status"]["phase"] == "Running");
    assert_ne!(live.namespace.get("persistentvolumeclaim", "data-web-0")["metadata"]["uid"], old);
    let now = live.process();
    assert_ne!(now, process);
    let last = live.last_epoch_before(&now);
    assert_eq!(live.report()["restoredFrom"].as_u64(), Some(last));
    live.completes(3);
    let output = namespace.volume("output");
    let every = Rows::of(&output.join("every")).more().numbers("id");
    expect_each_once(&every, |_| true, "every row");
    let mut sums = Rows::of(&output.join("sums"));
    let mut keys: Vec<(String, i64)> =
        sums.more().table.rows.iter().map(|row| (row["window_start"].to_string(), row["key"].int())).collect();
    keys.sort();
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "each window and key once");
    assert!(sums.table.rows.iter().all(|row| [62, 63].contains(&row["n"].int())), "500 rows of 8 keys: {sums:?}");
    installed.expect_nothing_forbidden();
}
