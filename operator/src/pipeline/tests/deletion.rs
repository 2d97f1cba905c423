//! A Pipeline whose checkpoints go with it: those in a bucket. Volumes are in `volumes`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cluster::writer::{FINALIZER, WriteError},
    testing::{PipelineBuilder, World, web},
};

/// `web` with checkpoints in a bucket.
fn in_bucket(on_delete: &str) -> PipelineBuilder {
    let credentials = json!({"secretRef": {"name": "store"}});
    web().with("checkpoints", json!({"storage": "s3://lake/all", "credentials": credentials, "onDelete": on_delete}))
}

fn held(world: &World) -> bool {
    world.get("Pipeline", "web").is_some_and(|web| web["metadata"]["finalizers"] == json!([FINALIZER]))
}

/// One that runs.
async fn running() -> World {
    let mut world = World::new();
    world.put("Pipeline", in_bucket("Delete").build());
    world.settle().await;
    world.run("web");
    own(&mut world);
    world.settle().await;
    world.log();
    world
}

/// What the API server adds: the pointer's UID.
fn own(world: &mut World) {
    let mut pointer = world.get("ConfigMap", "web-checkpoint").unwrap();
    pointer["metadata"]["uid"] = json!("uid-pointer");
    world.put("ConfigMap", pointer);
}

/// The StatefulSet's controller has done what it was told, and its pod is gone.
fn pod_ends(world: &mut World) {
    let mut set = world.get("StatefulSet", "web").unwrap();
    assert_eq!(set["spec"]["replicas"], 0);
    set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
    set["status"]["replicas"] = json!(0);
    world.put("StatefulSet", set);
    world.pod("web", None);
}

/// The Job that deletes checkpoints.
fn job(world: &World) -> Option<Value> {
    let objects = world.objects();
    let mut jobs = objects.into_iter().filter(|(id, _)| id.starts_with("Job web-clear-"));
    jobs.next().map(|(_, job)| job)
}

/// What the Job's controller says of it.
pub fn job_says(world: &mut World, of: &str, message: &str) {
    let mut job = job(world).unwrap();
    job["status"]["conditions"] = json!([{"type": of, "status": "True", "message": message}]);
    world.put("Job", job);
}

/// The Job has a pod, whose container is like this.
fn job_pod(world: &mut World, phase: &str, state: Value) {
    let job = job(world).unwrap();
    let template = &job["spec"]["template"];
    let mut labels = template["metadata"]["labels"].clone();
    labels["batch.kubernetes.io/job-name"] = job["metadata"]["name"].clone();
    let name = format!("{}-abcde", job["metadata"]["name"].as_str().unwrap());
    world.put(
        "Pod",
        json!({
            "metadata": {"name": name, "namespace": "default", "labels": labels, "creationTimestamp": "2024-01-01T01:01:00Z"},
            "status": {"phase": phase, "containerStatuses": [{"name": "millrace", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state}]},
        }),
    );
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Deletes `web`, and waits until its Job is there.
pub async fn deleted() -> World {
    let mut world = running().await;
    world.delete("Pipeline", "web");
    world.settle().await;
    pod_ends(&mut world);
    world.settle().await;
    assert!(job(&world).is_some());
    world.log();
    world
}

#[tokio::test]
async fn only_what_has_checkpoints_that_go_with_it_has_a_finalizer_and_before_it_has_a_pod() {
    let volume = web().with("checkpoints", json!({"onDelete": "Delete"}));
    let folder = web().with("checkpoints", json!({"onDelete": "Delete", "storage": "file:///shared"}));
    for (pipeline, expected) in
        [(volume, true), (folder, true), (web(), false), (in_bucket("Retain"), false), (in_bucket("Delete"), true)]
    {
        let mut world = World::new();
        world.put("Pipeline", pipeline.build());
        world.settle().await;
        assert_eq!(held(&world), expected);
        let log = world.log();
        let at = |what: &str| log.iter().position(|line| line == what);
        assert_eq!(at("hold Pipeline web").is_some(), expected);
        if expected {
            assert!(at("hold Pipeline web") < at("apply StatefulSet web"), "{log:#?}");
        }
        world.pass(seconds(600)).await;
        assert_eq!(world.log(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_finalizer_follows_what_the_plan_in_force_says() {
    let mut world = running().await;
    for on_delete in ["Retain", "Delete"] {
        world.put("Pipeline", {
            let mut web = in_bucket(on_delete).build();
            web["metadata"]["finalizers"] = world.get("Pipeline", "web").unwrap()["metadata"]["finalizers"].clone();
            web
        });
        world.settle().await;
        assert_eq!(held(&world), on_delete == "Delete");
    }
    // An edit that is refused, and one that cannot be run, change nothing of what there is to be deleted.
    let mut elsewhere = in_bucket("Delete").build();
    elsewhere["metadata"]["finalizers"] = json!([FINALIZER]);
    elsewhere["spec"]["checkpoints"] = json!({"onDelete": "Delete"});
    world.put("Pipeline", elsewhere.clone());
    world.settle().await;
    assert!(held(&world), "{:?}", world.log());
    elsewhere["spec"]["transforms"] = json!("nonsense");
    world.put("Pipeline", elsewhere);
    world.settle().await;
    assert!(held(&world));
}

#[tokio::test]
async fn its_pod_ends_then_a_job_deletes_its_checkpoints_then_it_goes() {
    let mut world = running().await;
    world.delete("Pipeline", "web");
    world.settle().await;
    let log = world.log();
    assert_eq!(
        log,
        ["status Pipeline web: Deleting, Deleting, change None", "amend web: {\"replicas\":0}"],
        "it is told before it is done"
    );
    assert_eq!(world.says("web", "Ready"), "False Deleting: pod web-0 is to end before checkpoints are deleted");
    world.pass(seconds(30)).await;
    assert_eq!(job(&world), None, "while the pod is there");
    pod_ends(&mut world);
    world.settle().await;
    let made = job(&world).unwrap();
    let name = made["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.len() <= 63 && held(&world));
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "uid-pointer");
    world.pass(seconds(10)).await;
    let said = world.says("web", "Reconciling");
    assert_eq!(said, format!("True Deleting: Job {name} deletes the checkpoints in s3://lake/all/default/web"));
    world.log();
    job_pod(
        &mut world,
        "Succeeded",
        json!({"terminated": {"exitCode": 0, "message": "{\"checkpoints\":3,\"savepoints\":0}"}}),
    );
    job_says(&mut world, "Complete", "");
    world.pass(seconds(5)).await;
    let log = world.log();
    let sink = "status Sink out";
    assert_eq!(log, ["apply ConfigMap web-checkpoint", "event CheckpointsDeleted", "let go Pipeline web", sink]);
    assert_eq!(world.get("Pipeline", "web"), None);
    assert_eq!(world.get("ConfigMap", "web-checkpoint").unwrap()["metadata"]["ownerReferences"][0]["uid"], "uid-web");
    world.pass(seconds(600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn with_savepoints_or_without_word_of_them_the_pointer_stays() {
    for words in ["{\"checkpoints\":3,\"savepoints\":1}", "no word"] {
        let mut world = deleted().await;
        job_pod(&mut world, "Succeeded", json!({"terminated": {"exitCode": 0, "message": words}}));
        job_says(&mut world, "Complete", "");
        world.pass(seconds(30)).await;
        let log: Vec<String> = world.log().into_iter().filter(|line| !line.starts_with("status")).collect();
        assert_eq!(log, ["event CheckpointsDeleted", "let go Pipeline web"]);
        assert_eq!(world.get("ConfigMap", "web-checkpoint").unwrap()["metadata"]["ownerReferences"], Value::Null);
    }
}

#[tokio::test]
async fn a_job_that_fails_or_does_not_end_lets_it_go_and_says_why() {
    for fails in [true, false] {
        let mut world = deleted().await;
        let why = "error: cannot list: access denied";
        job_pod(&mut world, "Failed", json!({"terminated": {"exitCode": 1, "message": why}}));
        world.pass(seconds(10)).await;
        assert!(world.says("web", "Ready").contains(why), "{}", world.says("web", "Ready"));
        if fails {
            job_says(&mut world, "Failed", "Job has reached the specified backoff limit");
            world.pass(seconds(6)).await;
        } else {
            world.pass(seconds(340)).await;
            assert!(held(&world));
            world.pass(seconds(20)).await;
        }
        let mut log: Vec<String> = world.log().into_iter().filter(|line| !line.starts_with("status")).collect();
        if !fails {
            assert!(log.remove(0).starts_with("delete Job web-clear-"));
        }
        assert_eq!(log, ["event CheckpointsLeft", "let go Pipeline web"], "the pointer stays too");
        assert_eq!(world.get("Pipeline", "web"), None);
    }
}

#[tokio::test]
async fn what_keeps_the_job_from_starting_is_told() {
    let mut world = deleted().await;
    job_pod(&mut world, "Pending", json!({"waiting": {"reason": "ContainerCreating"}}));
    let name = job(&world).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    world.warn(&format!("Pod {name}-abcde"), "secret \"store\" not found");
    world.pass(seconds(20)).await;
    assert!(world.says("web", "Ready").ends_with("/web: secret \"store\" not found"), "{}", world.says("web", "Ready"));
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_takes_no_job_and_lets_it_go_at_once() {
    let mut world = running().await;
    world.delete("Pipeline", "web");
    world.settle().await;
    world.delete("StatefulSet", "web");
    world.pod("web", None);
    world.refuse(Some(("create Job", || WriteError::Terminating("because it is being terminated".to_owned()))));
    world.settle().await;
    assert_eq!(world.get("Pipeline", "web"), None);
    let log: Vec<String> = world.log().into_iter().filter(|line| !line.starts_with("status")).collect();
    assert_eq!(log.len(), 4, "{log:#?}");
    assert!(log[1].starts_with("create Job"), "{log:#?}");
    assert_eq!(log[2..], ["event CheckpointsLeft", "let go Pipeline web"]);
}

#[tokio::test]
async fn a_job_that_may_not_be_made_is_tried_for_a_while_and_then_it_goes() {
    let mut world = running().await;
    world.delete("Pipeline", "web");
    world.settle().await;
    pod_ends(&mut world);
    world.refuse(Some(("create Job", || WriteError::Forbidden("exceeded quota".to_owned()))));
    world.pass(seconds(300)).await;
    assert!(held(&world));
    world.pass(seconds(400)).await;
    assert_eq!(world.get("Pipeline", "web"), None);
    assert!(world.log().contains(&"event CheckpointsLeft".to_owned()));
}

#[tokio::test]
async fn a_pod_that_does_not_end_is_waited_for_no_longer_than_its_grace_period_and_a_minute() {
    let mut world = running().await;
    world.delete("Pipeline", "web");
    world.settle().await;
    world.pass(seconds(115)).await;
    assert!(held(&world) && job(&world).is_none());
    world.pass(seconds(10)).await;
    assert_eq!((world.get("Pipeline", "web"), job(&world)), (None, None));
    assert!(world.log().contains(&"event CheckpointsLeft".to_owned()));
}

#[tokio::test]
async fn who_has_asked_to_keep_them_or_all_that_it_owns_has_them_kept() {
    // By an edit that nobody has looked at yet, or that was refused; or by deleting it alone.
    let retain = |world: &mut World| {
        let mut web = world.get("Pipeline", "web").unwrap();
        web["spec"]["checkpoints"]["onDelete"] = json!("Retain");
        world.put("Pipeline", web);
    };
    let orphan = |world: &mut World| {
        let mut web = world.get("Pipeline", "web").unwrap();
        web["metadata"]["finalizers"] = json!([FINALIZER, "orphan"]);
        world.put("Pipeline", web);
    };
    let orphaned = |world: &mut World| {
        let mut set = world.get("StatefulSet", "web").unwrap();
        set["metadata"]["ownerReferences"] = json!([]);
        world.put("StatefulSet", set);
    };
    for keep in [&retain as &dyn Fn(&mut World), &orphan, &orphaned] {
        let mut world = running().await;
        keep(&mut world);
        world.delete("Pipeline", "web");
        world.settle().await;
        assert!(!held(&world), "{:#?}", world.log());
        assert_eq!(
            (job(&world), world.get("StatefulSet", "web").unwrap()["spec"]["replicas"].clone()),
            (None, json!(1))
        );
        assert!(!world.log().iter().any(|line| line.contains("event")));
    }
}

/// It is to be deleted, once its pods have ended.
fn is_ended(job: Option<Value>) -> bool {
    job.is_some_and(|job| !job["metadata"]["deletionTimestamp"].is_null())
}

#[tokio::test]
async fn who_asks_to_keep_what_is_left_while_a_job_is_at_work_has_it_ended() {
    let mut world = deleted().await;
    let mut web = world.get("Pipeline", "web").unwrap();
    web["spec"]["checkpoints"]["onDelete"] = json!("Retain");
    world.put("Pipeline", web);
    world.settle().await;
    assert!(is_ended(job(&world)), "{:#?}", world.log());
    assert_eq!(world.get("Pipeline", "web"), None);
    // One that has done its work can be looked at, and an operator that may not end it does not hold on for that.
    for is_complete in [true, false] {
        let mut world = deleted().await;
        if is_complete {
            job_says(&mut world, "Failed", "");
        } else {
            world.refuse(Some(("delete Job", || WriteError::Forbidden("cannot delete".to_owned()))));
        }
        let mut web = world.get("Pipeline", "web").unwrap();
        web["spec"]["checkpoints"]["onDelete"] = json!("Retain");
        world.put("Pipeline", web);
        world.settle().await;
        assert_eq!((is_ended(job(&world)), world.get("Pipeline", "web")), (false, None));
    }
}

#[tokio::test]
async fn another_of_its_name_gets_no_pod_before_a_job_that_was_left_behind_has_ended() {
    for (on_delete, is_collected) in [("Delete", true), ("Retain", true), ("Delete", false)] {
        // Its finalizer was taken off by hand, while no operator ran. What it owned may not have been collected yet.
        let mut left = deleted().await.objects();
        left.remove("Pipeline web");
        let mut world = World::with(&left, crate::testing::START);
        if is_collected {
            world.collect();
        }
        let mut web = in_bucket(on_delete).build();
        web["metadata"]["uid"] = json!("uid-web-2");
        world.put("Pipeline", web);
        world.pass(seconds(30)).await;
        if !is_collected {
            let said = world.says("web", "Ready");
            assert!(said.contains("is to go first, which is left of a Pipeline of this name"), "{said}");
            assert_eq!(world.get("StatefulSet", "web").unwrap()["metadata"]["ownerReferences"][0]["uid"], "uid-web");
            world.collect();
            world.pass(seconds(30)).await;
        }
        let name = job(&world).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(is_ended(job(&world)) && world.get("StatefulSet", "web").is_none(), "{:#?}", world.log());
        let told = format!("Job {name} is to end first, which deletes the checkpoints of a Pipeline of this name");
        assert!(world.says("web", "Ready").contains(&told), "{}", world.says("web", "Ready"));
        assert_eq!(world.log().iter().filter(|line| line.starts_with("delete Job")).count(), 1);
        world.delete("Job", &name);
        world.pass(seconds(2)).await;
        assert!(world.get("StatefulSet", "web").is_some(), "{:#?}", world.log());
        assert!(!world.says("web", "Ready").contains("Job"), "{}", world.says("web", "Ready"));
    }
}

#[tokio::test]
async fn where_dependents_go_first_the_job_is_made_from_the_spec() {
    let mut world = World::new();
    let template = json!({"spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "millrace",
        "volumeMounts": [{"name": "out", "mountPath": "/out"}, {"name": "ca", "mountPath": "/ca"}]}],
        "volumes": [{"name": "out", "persistentVolumeClaim": {"claimName": "out"}}, {"name": "ca", "configMap": {"name": "ca"}}]}});
    let pipeline = in_bucket("Delete").with("deployment", json!({"image": "mine:1", "template": template}));
    world.put("Pipeline", pipeline.build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    let from_pods = {
        let mut other = World::with(&world.objects(), crate::testing::START);
        other.delete("Pipeline", "web");
        other.settle().await;
        pod_ends(&mut other);
        other.settle().await;
        job(&other).unwrap()
    };
    world.delete("Pipeline", "web");
    for (kind, name) in [("StatefulSet", "web"), ("ConfigMap", "web-plan"), ("Sink", "out"), ("ServiceAccount", "web")]
    {
        world.delete(kind, name);
    }
    world.pod("web", None);
    world.settle().await;
    let job = job(&world).unwrap();
    assert_eq!(job["spec"]["template"], from_pods["spec"]["template"]);
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        container["args"],
        json!([
            "checkpoints",
            "delete",
            "--all",
            "--keep-savepoints",
            "--storage",
            "s3://lake/all",
            "--pipeline",
            "default/web",
            "--result",
            "/dev/termination-log"
        ])
    );
    assert_eq!((&container["image"], &pod["nodeSelector"]), (&json!("mine:1"), &json!({"disk": "fast"})));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let mounted = names(&container["volumeMounts"]);
    assert_eq!(mounted.len(), 3, "tmp, the Secret and the ConfigMap: {mounted:?}");
    assert!(!mounted.contains(&"data".to_owned()) && !mounted.contains(&"out".to_owned()));
    assert_eq!(names(&pod["volumes"]).len(), 3);
    let secret = pod["volumes"].as_array().unwrap().iter().find(|volume| !volume["secret"].is_null()).unwrap();
    assert_eq!(secret["secret"]["secretName"], "store");
    assert_eq!((&pod["automountServiceAccountToken"], &pod["serviceAccountName"]), (&json!(false), &Value::Null));
    assert_eq!((&pod["securityContext"]["runAsNonRoot"], &pod["restartPolicy"]), (&json!(true), &json!("Never")));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 300);
}

#[tokio::test]
async fn whoever_leads_next_goes_on_wherever_the_one_before_has_died() {
    for writes in 0..10 {
        let mut world = running().await;
        world.dies_after(Some(writes));
        world.delete("Pipeline", "web");
        for turn in 0..8 {
            if turn == 4 {
                world.dies_after(None);
                world.new_leader();
            }
            world.settle().await;
            world.pass(seconds(15)).await;
            if world.get("StatefulSet", "web").unwrap()["spec"]["replicas"] == 0 {
                pod_ends(&mut world);
            }
            if job(&world).is_some() {
                let words = "{\"checkpoints\":3,\"savepoints\":0}";
                job_pod(&mut world, "Succeeded", json!({"terminated": {"exitCode": 0, "message": words}}));
                job_says(&mut world, "Complete", "");
            }
        }
        assert_eq!(world.get("Pipeline", "web"), None, "after {writes} writes");
        let pointer = world.get("ConfigMap", "web-checkpoint").unwrap();
        assert_eq!(pointer["metadata"]["ownerReferences"][0]["uid"], "uid-web");
    }
}

#[tokio::test]
async fn an_operator_whose_own_namespace_is_deleted_lets_pipelines_go_and_any_other_that_ends_does_not() {
    for is_terminating in [false, true] {
        let mut world = running().await;
        if is_terminating {
            world.terminate();
        }
        super::super::deletion::leave(&world.context, "other").await;
        assert!(held(&world));
        super::super::deletion::leave(&world.context, "default").await;
        assert_eq!(held(&world), !is_terminating);
        world.wake();
        world.pass(seconds(30)).await;
        assert_eq!(held(&world), !is_terminating, "and does not take them again");
    }
}
