//! What a pod says that runs: when it is believed.

use std::time::Duration;

use millrace_plan::handover::{EditResult, ReportDocument};
use serde_json::json;

use super::rollback::{cheap, made_anew, ran};
use crate::{
    cluster::key::{Key, Kind},
    pipeline::dereference::dereference,
    testing::{START, World},
};

#[tokio::test]
async fn what_runs_is_believed_of_the_pod_that_is_there_and_as_far_as_the_objects_go() {
    let cases = [
        "another pod",
        "a pod that goes",
        "another's pod",
        "another pipeline",
        "another plan",
        "a secret",
        "a secret of another sink",
        "a bucket",
    ];
    for case in cases.into_iter().chain(["its own"]) {
        let (mut world, left, mut report) = made_anew(EditResult::Refused).await;
        let wanted = world.plan("web").revision;
        let mut pod = world.get("Pod", "web-0").unwrap();
        match case {
            "another pod" => report.pod_uid = Some("the one before".to_owned()),
            "a pod that goes" => pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T01:00:00Z"),
            "another's pod" => pod["metadata"]["ownerReferences"][0]["uid"] = json!("the set before"),
            "another pipeline" => report.pipeline_uid = Some("the one before".to_owned()),
            "another plan" => report.runs.as_mut().unwrap().pipeline.transforms.clear(),
            "a secret" | "a secret of another sink" => {
                if case != "a secret" {
                    // Where a Sink is missing, all are looked at, to say which was meant.
                    let mut anothers = world.get("Sink", "out").unwrap();
                    anothers["metadata"]["name"] = json!("anothers");
                    anothers["metadata"]["uid"] = json!("uid-anothers");
                    anothers["spec"]["credentials"] = json!({"secretRef": {"name": "anothers"}});
                    world.put("Sink", anothers);
                    world.delete("Sink", "out");
                }
                let spec = report.runs.as_mut().unwrap();
                let credentials = json!({"secretRef": {"name": "anothers"}});
                spec.sinks
                    .values_mut()
                    .for_each(|sink| sink.credentials = serde_json::from_value(credentials.clone()).unwrap());
                report.revision = Some(millrace_plan::revision(spec));
            }
            "a bucket" => {
                let spec = report.runs.as_mut().unwrap();
                spec.pipeline.checkpoints.storage = Some("s3://anothers/checkpoints".to_owned());
                report.revision = Some(millrace_plan::revision(spec));
            }
            _ => report.pipeline_uid = Some("uid-web".to_owned()),
        }
        world.put("Pod", pod);
        world.report("web", &report);
        let key = Key { kind: Kind::Pipeline, namespace: "default".to_owned(), name: "web".to_owned() };
        let observed = dereference(&world.context.stores, &key).unwrap();
        let believed =
            observed.previous.is_some_and(|previous| previous.revision == *report.revision.as_ref().unwrap());
        assert_eq!(believed, case == "its own", "{case}");
        world.settle().await;
        let expected = if case == "its own" { &left.revision } else { &wanted };
        assert_eq!(world.plan("web").revision, *expected, "{case}: {:#?}", world.log());
    }
}

#[tokio::test]
async fn a_plan_that_is_deleted_while_the_spec_is_invalid_is_made_anew_as_the_runtime_knows_it() {
    let mut world = World::new();
    world.put("Pipeline", cheap().build());
    world.settle().await;
    world.run("web");
    let plan = world.plan("web");
    let mut invalid = cheap().build();
    invalid["spec"]["transforms"][0]["sql"] = json!("SELECT nothing FROM bid");
    world.put("Pipeline", invalid);
    world.settle().await;
    world.delete("ConfigMap", "web-plan");
    world.settle().await;
    world.report("web", &ReportDocument { runs: Some(plan.spec.clone()), ..ran(&plan.revision, 7) });
    world.settle().await;
    // What it has just written it believes to be there, whatever a watch says.
    world.pass(Duration::from_secs(120)).await;
    assert_eq!(world.plan("web"), plan);
    world.report("web", &ran(&plan.revision, 7));
    world.log();
    world.pass(Duration::from_secs(600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
    assert!(world.says("web", "Ready").contains("nothing"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn nothing_more_is_written_of_a_pipeline_that_is_deleted_meanwhile() {
    let mut world = World::new();
    world.deletes_at("apply Role web", "Pipeline web");
    world.put("Pipeline", cheap().build());
    world.settle().await;
    let log = world.log();
    let writes: Vec<_> = log.iter().filter(|line| line.starts_with("apply")).collect();
    assert_eq!(writes, ["apply ServiceAccount web", "apply Role web"], "{log:#?}");
}

#[tokio::test]
async fn a_pipeline_that_is_made_anew_is_not_what_the_one_before_it_was() {
    // All that it owned is still there, and its pod says that rows flow.
    let mut before = World::new();
    before.put("Pipeline", cheap().build());
    before.settle().await;
    let mut report = before.run("web");
    report.pipeline_uid = Some("uid-web".to_owned());
    before.report("web", &report);
    before.settle().await;
    assert!(before.says("web", "Ready").starts_with("True"));
    let mut left = before.objects();
    left.remove("Pipeline web");
    for (id, object) in &mut left {
        if ["Pod web-0", "StatefulSet web"].contains(&id.as_str()) {
            object["metadata"]["uid"] = json!(format!("uid of {id}"));
        }
    }

    let mut world = World::with(&left, START);
    let mut web = cheap().build();
    web["metadata"]["uid"] = json!("uid-web-2");
    world.put("Pipeline", web);
    world.settle().await;
    let status = world.status("web");
    assert!(world.says("web", "Ready").starts_with("False Starting"), "{}", world.says("web", "Ready"));
    assert!(world.says("web", "Ready").contains("is to go first"), "{}", world.says("web", "Ready"));
    assert_eq!((status.phase, status.checkpoint.is_none()), (Some(millrace_crds::Phase::Pending), true), "{status:?}");
    world.collect();
    world.pass(Duration::from_secs(120)).await;
    let mut report = world.run("web");
    report.pipeline_uid = Some("uid-web-2".to_owned());
    world.report("web", &report);
    world.settle().await;
    assert!(world.says("web", "Ready").starts_with("True"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn what_no_watch_shows_of_a_pipeline_that_was_deleted_is_not_taken_over() {
    let on_volume = || cheap().with("checkpoints", json!({"onDelete": "Delete"}));
    let mut before = World::new();
    before.put("Pipeline", on_volume().build());
    before.settle().await;
    before.claim("web");
    before.delete("Pipeline", "web");
    before.settle().await;
    for left in ["ConfigMap web-checkpoint", "Lease web-coordinator"] {
        // The garbage collector has come as far as this.
        let mut objects = World::new().objects();
        objects.extend(before.objects().into_iter().filter(|(id, _)| id == left));
        let mut world = World::with(&objects, START);
        let mut web = on_volume().build();
        web["metadata"]["uid"] = json!("uid-web-2");
        world.put("Pipeline", web);
        world.settle().await;
        assert!(
            world.says("web", "Ready").contains(&format!("{left} is to go first")),
            "{}",
            world.says("web", "Ready")
        );
        assert_eq!(world.get("ConfigMap", "web-plan"), None);
        world.collect();
        world.pass(Duration::from_secs(5)).await;
        let (kind, name) = left.split_once(' ').unwrap();
        let owners = world.get(kind, name).unwrap()["metadata"]["ownerReferences"].clone();
        assert!(owners.is_null() || owners[0]["uid"] == "uid-web-2", "{owners}");
        assert!(world.get("StatefulSet", "web").is_some());
    }
}

#[tokio::test]
async fn a_status_of_a_pipeline_that_was_deleted_is_not_written_to_the_one_of_its_name() {
    let mut world = World::new();
    world.put("Pipeline", cheap().build());
    world.settle().await;
    world.run("web");
    world.hold_watches();
    let mut web = cheap().build();
    web["metadata"]["uid"] = json!("uid-web-2");
    web["status"] = json!({});
    world.put("Pipeline", web);
    // To the operator it is the one before still, in which rows flow by now.
    world.settle().await;
    assert!(world.log().iter().any(|line| line.starts_with("status Pipeline web")));
    assert_eq!(world.get("Pipeline", "web").unwrap()["status"], json!({}));
    world.release_watches();
    world.pass(Duration::from_secs(1)).await;
    assert!(world.says("web", "Ready").contains("is to go first"), "{}", world.says("web", "Ready"));
}
