//! What becomes of a Pipeline's volume, and of the pointer to what is on it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cluster::{
        error::{Cause, Rejection},
        writer::{FINALIZER, WriteError},
    },
    testing::{START, World, web},
};

const CLAIM: (&str, &str) = ("PersistentVolumeClaim", "data-web-0");
const POINTER: (&str, &str) = ("ConfigMap", "web-checkpoint");

fn on_volume(on_delete: &str) -> Value {
    web().with("checkpoints", json!({"onDelete": on_delete})).build()
}

/// An edit of `web`, which nobody has looked at yet.
fn edit(world: &mut World, edit: impl FnOnce(&mut Value)) {
    let mut web = world.get("Pipeline", "web").unwrap();
    edit(&mut web["spec"]);
    world.put("Pipeline", web);
}

fn set_on_delete(world: &mut World, on_delete: &str) {
    edit(world, |spec| spec["checkpoints"]["onDelete"] = json!(on_delete));
}

fn owners(world: &World, (kind, name): (&str, &str)) -> Vec<String> {
    let owners = world.get(kind, name).unwrap()["metadata"]["ownerReferences"].clone();
    let owners = owners.as_array().cloned().unwrap_or_default();
    owners.iter().map(|owner| owner["kind"].as_str().unwrap().to_owned()).collect()
}

fn held(world: &World) -> bool {
    world.get("Pipeline", "web").is_some_and(|web| web["metadata"]["finalizers"] == json!([FINALIZER]))
}

/// One that runs, on its volume.
async fn running(on_delete: &str) -> World {
    let mut world = World::new();
    world.put("Pipeline", on_volume(on_delete));
    world.settle().await;
    world.claim("web");
    world.run("web");
    world.settle().await;
    world.log();
    world
}

/// Whether the volume and the pointer are there once the garbage collector has done its work.
async fn stays(world: &mut World) -> [bool; 2] {
    world.delete("Pipeline", "web");
    world.pass(Duration::from_secs(120)).await;
    assert_eq!(world.get("Pipeline", "web"), None, "{:#?}", world.log());
    world.collect();
    assert_eq!(world.get("StatefulSet", "web"), None);
    [CLAIM, POINTER].map(|(kind, name)| world.get(kind, name).is_some())
}

#[tokio::test]
async fn a_volume_goes_with_the_pipeline_or_stays_as_the_spec_says_when_it_is_deleted() {
    for (before, after, expected) in [
        ("Delete", "Delete", false),
        ("Retain", "Retain", true),
        ("Delete", "Retain", true),
        ("Retain", "Delete", false),
    ] {
        for is_settled in [true, false] {
            let mut world = running(before).await;
            assert_eq!(held(&world), before == "Delete");
            set_on_delete(&mut world, after);
            if is_settled {
                world.settle().await;
                assert_eq!(held(&world), after == "Delete");
            }
            // What nobody has looked at yet has no finalizer, and then all of it stays.
            let expected = expected || (before == "Retain" && !is_settled);
            assert_eq!(stays(&mut world).await, [expected; 2], "{before}, {after}, settled {is_settled}");
        }
    }
}

#[tokio::test]
async fn a_volume_of_a_suspended_pipeline_is_no_other() {
    for (before, after, expected) in [("Delete", "Retain", true), ("Retain", "Delete", false)] {
        let mut world = running(before).await;
        edit(&mut world, |spec| spec["suspend"] = json!(true));
        world.settle().await;
        world.pod("web", None);
        set_on_delete(&mut world, after);
        world.pass(Duration::from_secs(30)).await;
        assert_eq!(stays(&mut world).await, [expected; 2], "{before}, {after}");
    }
}

#[tokio::test]
async fn a_spec_that_is_not_taken_up_says_what_becomes_of_the_volume_all_the_same() {
    let edits: [fn(&mut World); 4] = [
        |world| {
            let mut web = world.get("Pipeline", "web").unwrap();
            web["metadata"]["annotations"]["millrace.dev/dry-run"] = json!("true");
            world.put("Pipeline", web);
        },
        |world| world.delete("Sink", "out"),
        |world| edit(world, |spec| spec["deployment"] = json!({"replicas": 3})),
        |world| edit(world, |spec| spec["transforms"][0]["sql"] = json!("SELECT nothing FROM bid")),
    ];
    for edit in edits {
        let mut world = running("Delete").await;
        edit(&mut world);
        world.settle().await;
        set_on_delete(&mut world, "Retain");
        world.pass(Duration::from_secs(20)).await;
        assert_eq!(stays(&mut world).await, [true; 2]);
    }
}

#[tokio::test]
async fn one_that_others_hold_is_being_deleted_and_not_ready() {
    let mut world = running("Retain").await;
    let mut web = world.get("Pipeline", "web").unwrap();
    web["metadata"]["finalizers"] = json!(["example.com/hold"]);
    world.put("Pipeline", web);
    world.delete("Pipeline", "web");
    world.settle().await;
    assert_eq!(world.says("web", "Ready"), "False Deleting: it is held by example.com/hold");
    assert_eq!(world.status("web").phase, Some(millrace_crds::Phase::Deleting));
    world.log();
    world.pass(Duration::from_secs(600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn where_dependents_go_first_what_is_kept_is_no_dependent() {
    let mut world = running("Delete").await;
    set_on_delete(&mut world, "Retain");
    // The garbage collector takes them before the operator has looked.
    let mut web = world.get("Pipeline", "web").unwrap();
    web["metadata"]["deletionTimestamp"] = json!("2024-01-01T01:00:00Z");
    let owned = world.objects().into_iter().filter(|(_, object)| !object["metadata"]["ownerReferences"].is_null());
    for (id, _) in owned.collect::<Vec<_>>() {
        let (kind, name) = id.split_once(' ').unwrap();
        world.delete(kind, name);
    }
    world.put("Pipeline", web);
    assert_eq!(stays(&mut world).await, [true; 2]);
}

#[tokio::test]
async fn a_stateful_set_that_somebody_deletes_takes_no_volume_along() {
    let mut world = running("Delete").await;
    world.delete("StatefulSet", "web");
    world.collect();
    world.pass(Duration::from_secs(15)).await;
    assert!(world.get("StatefulSet", "web").is_some());
    assert!(world.get(CLAIM.0, CLAIM.1).is_some() && held(&world));
}

#[tokio::test]
async fn a_claim_that_has_lost_its_label_stays_with_the_pointer_and_that_is_told() {
    let mut world = running("Delete").await;
    let mut claim = world.get(CLAIM.0, CLAIM.1).unwrap();
    claim["metadata"]["labels"] = json!({});
    world.put(CLAIM.0, claim);
    assert_eq!(stays(&mut world).await, [true; 2]);
    assert!(world.log().contains(&"event CheckpointsLeft".to_owned()));
}

#[tokio::test]
async fn with_checkpoints_in_a_folder_the_volume_goes_and_the_pointer_stays_with_them() {
    let mut world = World::new();
    world.put("Pipeline", web().with("checkpoints", json!({"onDelete": "Delete", "storage": "file:///all"})).build());
    world.settle().await;
    world.claim("web");
    world.run("web");
    world.settle().await;
    assert_eq!(stays(&mut world).await, [false, true]);
}

#[tokio::test]
async fn what_an_operator_before_this_one_has_made_is_freed() {
    for is_suspended in [false, true] {
        let mut before = running("Delete").await;
        if is_suspended {
            edit(&mut before, |spec| spec["suspend"] = json!(true));
            before.settle().await;
            before.pod("web", None);
            before.settle().await;
        }
        before.as_made_before("web");
        let mut web = before.get("Pipeline", "web").unwrap();
        web["metadata"]["finalizers"] = json!([]);
        before.put("Pipeline", web);
        let mut world = World::with(&before.objects(), START);
        world.settle().await;
        assert!(held(&world), "{:#?}", world.log());
        assert_eq!((owners(&world, POINTER).len(), owners(&world, CLAIM)), (0, vec!["StatefulSet".to_owned()]));
        // Nor is it let go before the StatefulSet's controller has seen that it is to keep its claim.
        set_on_delete(&mut world, "Retain");
        world.settle().await;
        assert!(held(&world));
        world.rolled("web");
        world.settle().await;
        assert_eq!((owners(&world, CLAIM).len(), held(&world)), (0, false));
        assert_eq!(stays(&mut world).await, [true; 2]);
    }
}

#[tokio::test]
async fn what_an_operator_before_this_one_has_made_is_kept_if_it_is_deleted_at_once() {
    for is_seen in [true, false] {
        let mut world = running("Delete").await;
        world.as_made_before("web");
        set_on_delete(&mut world, "Retain");
        world.delete("Pipeline", "web");
        world.settle().await;
        assert!(held(&world) && owners(&world, CLAIM).len() == 1, "{:#?}", world.log());
        if is_seen {
            world.rolled("web");
            world.pass(Duration::from_secs(2)).await;
            assert_eq!(world.get("Pipeline", "web"), None, "{:#?}", world.log());
        }
        assert_eq!(stays(&mut world).await, [true; 2]);
    }
}

#[tokio::test]
async fn who_asks_to_keep_it_before_it_is_gone_has_it_kept() {
    let mut world = running("Delete").await;
    world.refuse(Some(("let go", || WriteError::TimedOut)));
    world.delete("Pipeline", "web");
    world.settle().await;
    assert_eq!(owners(&world, CLAIM), ["Pipeline"]);
    world.refuse(None);
    set_on_delete(&mut world, "Retain");
    assert_eq!(stays(&mut world).await, [true; 2]);
}

#[tokio::test]
async fn an_operator_that_has_no_right_to_claims_holds_nobody_up() {
    for on_delete in ["Delete", "Retain"] {
        let mut world = running("Delete").await;
        set_on_delete(&mut world, on_delete);
        world.refuse(Some(("PersistentVolumeClaim", || WriteError::Forbidden("no right to claims".to_owned()))));
        world.delete("Pipeline", "web");
        world.pass(Duration::from_secs(20)).await;
        assert!(held(&world));
        assert!(stays(&mut world).await[0]);
        assert_eq!(world.log().iter().any(|line| line == "event CheckpointsLeft"), on_delete == "Delete");
    }
}

#[tokio::test]
async fn whoever_leads_next_goes_on_wherever_the_one_before_has_died() {
    for (on_delete, writes) in
        ["Delete", "Retain"].into_iter().flat_map(|on_delete| (0..5).map(move |n| (on_delete, n)))
    {
        let mut world = running("Delete").await;
        world.as_made_before("web");
        set_on_delete(&mut world, on_delete);
        world.dies_after(Some(writes));
        world.delete("Pipeline", "web");
        world.settle().await;
        world.rolled("web");
        world.settle().await;
        world.dies_after(None);
        world.new_leader();
        assert_eq!(stays(&mut world).await, [on_delete == "Retain"; 2], "{on_delete}, after {writes} writes");
    }
}

#[tokio::test]
async fn a_claim_of_somebody_else_is_not_taken_over_and_never_deleted() {
    let mut world = World::new();
    let foreign = json!({"metadata": {"name": "data-web-0", "namespace": "default", "labels": {"app": "db"}}});
    world.put("PersistentVolumeClaim", foreign);
    world.put("Pipeline", on_volume("Delete"));
    world.settle().await;
    let said = world.says("web", "Ready");
    let expected = "False ApplyFailed: PersistentVolumeClaim data-web-0 cannot be written: there is a PersistentVolumeClaim of \
                    this name already, and it is not this Pipeline's; remove it, ";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(world.get("StatefulSet", "web"), None);
    world.delete("Pipeline", "web");
    world.pass(Duration::from_secs(5)).await;
    world.collect();
    assert_eq!((world.get("Pipeline", "web"), world.get(CLAIM.0, CLAIM.1).is_some()), (None, true));
    assert_eq!(owners(&world, CLAIM).len(), 0);
}

#[tokio::test]
async fn a_claim_that_was_kept_is_taken_again_and_one_that_is_on_its_way_out_is_waited_for() {
    for on_delete in ["Retain", "Delete"] {
        let mut world = running(on_delete).await;
        world.delete("Pipeline", "web");
        world.settle().await;
        let mut left = world.objects();
        // Until its pod has ended the claim stays, though it is to be deleted.
        left.retain(|id, _| id.starts_with("PersistentVolumeClaim ") || id.starts_with("Sink "));
        let mut world = World::with(&left, START);
        let mut web = on_volume(on_delete);
        web["metadata"]["uid"] = json!("uid-web-2");
        world.put("Pipeline", web);
        world.settle().await;
        assert_eq!(world.get("StatefulSet", "web").is_some(), on_delete == "Retain");
        if on_delete == "Delete" {
            let said = world.says("web", "Ready");
            assert!(
                said.ends_with("PersistentVolumeClaim data-web-0 is to go first, which is being deleted"),
                "{said}"
            );
            world.collect();
            world.pass(Duration::from_secs(2)).await;
            assert!(world.get("StatefulSet", "web").is_some(), "{:#?}", world.log());
        }
    }
}

/// What the API server says of a port whose number somebody has changed: ports are merged by it, and both have one name.
fn duplicate() -> WriteError {
    let cause = Cause { field: "spec.ports[1].name".to_owned(), message: "Duplicate value: \"http\"".to_owned() };
    let message = "Service \"web\" is invalid: spec.ports[1].name: Duplicate value: \"http\"".to_owned();
    WriteError::Invalid(Rejection { message, causes: vec![cause] })
}

#[tokio::test]
async fn what_does_not_go_together_with_what_somebody_has_changed_is_made_anew_from_it() {
    let mut world = running("Retain").await;
    let good = world.get("Service", "web").unwrap()["spec"].clone();
    let mut service = world.get("Service", "web").unwrap();
    service["spec"]["ports"][0]["port"] = json!(9_601);
    world.put("Service", service);
    world.refuse(Some(("apply Service web", duplicate)));
    world.settle().await;
    assert_eq!(world.log(), ["apply Service web FAILED", "replace Service web"]);
    assert_eq!(world.get("Service", "web").unwrap()["spec"], good);
    world.pass(Duration::from_secs(3_600)).await;
    assert_eq!(world.log(), Vec::<String>::new());
}

#[tokio::test]
async fn a_service_that_cannot_be_written_does_not_keep_an_edit_from_the_pods() {
    let mut world = running("Retain").await;
    let revision = world.plan("web").revision;
    world.refuse(Some(("Service web", || WriteError::Rejected("admission webhook \"a.example\": no".to_owned()))));
    let mut service = world.get("Service", "web").unwrap();
    service["spec"]["ports"][0]["port"] = json!(9_601);
    world.put("Service", service);
    edit(&mut world, |spec| spec["transforms"][0]["sql"] = json!("SELECT auction, price FROM bid WHERE price > 5"));
    world.settle().await;
    assert_ne!(world.plan("web").revision, revision);
    let log = world.log();
    assert!(!log.contains(&"apply StatefulSet web".to_owned()), "{log:#?}");
    assert!(world.says("web", "Ready").contains("Service web cannot be written"), "{}", world.says("web", "Ready"));
    // Pods are not made without it.
    let mut world = World::new();
    world.refuse(Some(("apply Service web", || WriteError::Rejected("no".to_owned()))));
    world.put("Pipeline", on_volume("Retain"));
    world.settle().await;
    assert_eq!(world.get("StatefulSet", "web"), None);
}
