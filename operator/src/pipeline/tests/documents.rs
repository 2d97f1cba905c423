//! What is made for a Pipeline.

use expect_test::{expect, expect_file};
use serde_json::{Value, json};

use crate::testing::{World, pipeline, web};

#[tokio::test]
async fn a_new_pipeline_gets_its_objects_in_the_order_in_which_they_need_each_other() {
    let mut world = World::new();
    world.settle().await;
    world.log();
    world.put("Pipeline", web().build());
    world.settle().await;
    expect![[r#"
        status Pipeline web: Pending, Starting, change None
        apply ServiceAccount web
        apply Role web
        apply RoleBinding web
        apply Service web
        apply PodDisruptionBudget web
        apply Lease web-coordinator
        apply ConfigMap web-checkpoint
        apply ConfigMap web-report
        apply ConfigMap web-plan
        apply StatefulSet web
        status Sink out"#]]
    .assert_eq(&world.log().join("\n"));
}

#[tokio::test]
async fn the_objects_are_what_the_golden_file_says() {
    let mut world = World::new();
    let deployment = json!({
        "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
        "volume": {"size": "1Gi", "storageClassName": "standard"},
    });
    world.put(
        "Sink",
        json!({
            "metadata": {"name": "out", "namespace": "default", "uid": "uid-out"},
            "spec": {"parquet": {"uri": "/data/out"}, "credentials": {"secretRef": {"name": "lake"}}},
        }),
    );
    let by_minute = "SELECT bidder, count(*) AS n, window_start FROM bid GROUP BY bidder";
    world.put(
        "Pipeline",
        pipeline("web").transform("by_minute", by_minute).window("minute").with("deployment", deployment).build(),
    );
    world.settle().await;
    let kinds = [
        "ServiceAccount web",
        "Role web",
        "RoleBinding web",
        "Service web",
        "PodDisruptionBudget web",
        "Lease web-coordinator",
        "ConfigMap web-checkpoint",
        "ConfigMap web-report",
        "ConfigMap web-plan",
        "StatefulSet web",
    ];
    let mut page = String::new();
    for id in kinds {
        let (kind, name) = id.split_once(' ').unwrap();
        let mut object = world.get(kind, name).unwrap();
        let metadata = object["metadata"].as_object_mut().unwrap();
        ["resourceVersion", "uid"].into_iter().for_each(|given| drop(metadata.remove(given)));
        page.push_str(&format!("{object:#}\n"));
    }
    expect_file!["../../../golden/objects.json"].assert_eq(&page);
}

#[tokio::test]
async fn a_template_is_laid_over_the_pods_and_cannot_take_away_what_finds_them() {
    let mut world = World::new();
    let template = json!({
        "metadata": {"labels": {"team": "web"}, "annotations": {"a": "b"}},
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "streams", "operator": "Exists"}],
            "containers": [
                {"name": "millrace", "env": [{"name": "AWS_REGION", "value": "eu-1"}],
                 "envFrom": [{"secretRef": {"name": "lake"}}]},
                {"name": "sidecar", "image": "sidecar:1"},
            ],
        },
    });
    let resources = json!({"limits": {"cpu": 1, "memory": "1Gi"}});
    let deployment = json!({"template": template, "image": "mine:2", "resources": resources});
    world.put("Pipeline", web().with("deployment", deployment).build());
    world.settle().await;
    let pod = world.get("StatefulSet", "web").unwrap()["spec"]["template"].clone();
    assert_eq!(pod["metadata"]["labels"]["millrace.dev/pipeline"], "web");
    assert_eq!(pod["metadata"]["labels"]["team"], "web");
    assert_eq!(pod["spec"]["nodeSelector"]["disk"], "fast");
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let names: Vec<&Value> = containers.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["millrace", "sidecar"]);
    assert_eq!(containers[0]["image"], "mine:2");
    assert_eq!(containers[0]["resources"], json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    assert_eq!(containers[0]["args"][0], "worker");
    assert_eq!(containers[1]["terminationMessagePolicy"], "FallbackToLogsOnError", "its last words are told too");
    let env: Vec<&str> = containers[0]["env"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(env, ["POD_NAME", "POD_NAMESPACE", "POD_UID", "AWS_REGION"]);
    assert_eq!(containers[0]["securityContext"]["readOnlyRootFilesystem"], true);
}

#[tokio::test]
async fn a_template_that_would_break_the_pod_is_refused_and_a_service_account_of_the_users_gets_the_role() {
    let mut world = World::new();
    let with = |template: Value| web().with("deployment", json!({ "template": template })).build();
    world.put("Pipeline", with(json!({"spec": {"serviceAccountName": "cloud"}})));
    world.settle().await;
    assert_eq!(world.get("RoleBinding", "web").unwrap()["subjects"][0]["name"], "cloud");
    let pod = world.get("StatefulSet", "web").unwrap()["spec"]["template"].clone();
    assert_eq!(pod["spec"]["serviceAccountName"], "cloud");
    world.put("Pipeline", with(json!({"metadata": {"labels": {"millrace.dev/pipeline": "another"}}})));
    world.settle().await;
    let said = world.says("web", "ConfigValid");
    let expected = "False InvalidSpec: spec.deployment.template.metadata.labels[millrace.dev/pipeline]: by this label";
    assert!(said.starts_with(expected), "{said}");
}

#[tokio::test]
async fn the_secret_of_the_checkpoints_is_mounted_and_the_runtime_is_told_where() {
    let mut world = World::new();
    let checkpoints = json!({"storage": "s3://lake/kept", "credentials": {"secretRef": {"name": "store"}}});
    world.put("Pipeline", web().with("checkpoints", checkpoints).build());
    world.settle().await;
    let pod = world.get("StatefulSet", "web").unwrap()["spec"]["template"]["spec"].clone();
    let runtime = &pod["containers"][0];
    let list = |value: &Value| value.as_array().unwrap().clone();
    let mounts = list(&runtime["volumeMounts"]);
    let mount = mounts.iter().find(|mount| mount["mountPath"] == "/etc/millrace/credentials/store").unwrap();
    assert_eq!(mount["readOnly"], true);
    let volume = list(&pod["volumes"]).into_iter().find(|volume| volume["name"] == mount["name"]).unwrap();
    assert_eq!(volume["secret"]["secretName"], "store");
    let told = json!({"name": "MILLRACE_STORAGE_CREDENTIALS", "value": "/etc/millrace/credentials/store"});
    assert!(list(&runtime["env"]).contains(&told));
}

#[tokio::test]
async fn wishes_and_pods_are_no_part_of_the_revision() {
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    let before = world.plan("web");
    world.put(
        "Pipeline",
        web()
            .with("savepoint", json!({"token": "t1"}))
            .with("startFrom", json!({"token": "s1", "resetSources": ["bid"]}))
            .with("deployment", json!({"image": "other:1"}))
            .build(),
    );
    world.settle().await;
    let after = world.plan("web");
    assert_eq!(after.revision, before.revision);
    assert_eq!(after.savepoint.map(|wish| wish.token).as_deref(), Some("t1"));
    assert_eq!(after.start_from.map(|wish| wish.reset_sources).unwrap_or_default(), ["bid"]);
    assert_eq!(after.spec.pipeline.deployment, None);
}

#[tokio::test]
async fn neither_the_pointer_nor_the_volume_goes_with_anything_while_the_pipeline_is_there() {
    for (on_delete, storage) in [("Retain", None), ("Delete", None), ("Delete", Some("s3://lake/kept"))] {
        let mut world = World::new();
        let mut checkpoints = json!({"onDelete": on_delete});
        if let Some(storage) = storage {
            checkpoints["storage"] = json!(storage);
        }
        world.put("Pipeline", web().with("checkpoints", checkpoints).build());
        world.settle().await;
        let pointer = world.get("ConfigMap", "web-checkpoint").unwrap();
        assert_eq!(pointer["metadata"]["ownerReferences"], Value::Null, "{on_delete}");
        let claims = world.get("StatefulSet", "web").unwrap()["spec"]["persistentVolumeClaimRetentionPolicy"].clone();
        assert_eq!(claims["whenDeleted"], "Retain");
    }
}

#[tokio::test]
async fn windows_and_sinks_say_who_uses_them() {
    let mut world = World::new();
    let by_minute = "SELECT bidder, count(*) AS n, window_start FROM bid GROUP BY bidder";
    world.put("Pipeline", pipeline("b").transform("t", by_minute).window("minute").build());
    world.put("Pipeline", pipeline("a").transform("t", by_minute).window("minute").build());
    world.settle().await;
    for (kind, name) in [("Window", "minute"), ("Sink", "out")] {
        assert_eq!(world.get(kind, name).unwrap()["status"]["usedBy"], json!(["a", "b"]), "{kind}");
    }
    world.put(
        "Window",
        json!({"metadata": {"name": "minute", "namespace": "default", "uid": "uid-minute"},
        "spec": {"tumbling": {"size": "1 minute"}}}),
    );
    world.settle().await;
    let conditions = world.get("Window", "minute").unwrap()["status"]["conditions"].clone();
    assert!(conditions[0]["message"].as_str().unwrap().contains("spec.tumbling.size"), "{conditions}");
    let said = world.says("a", "ConfigValid");
    assert!(said.starts_with("False InvalidSpec: Window minute: spec.tumbling.size"), "{said}");
}
