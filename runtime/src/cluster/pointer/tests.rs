#![allow(clippy::unwrap_used)]

use std::time::Duration;

use expect_test::expect;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use millrace_state::{ErrorKind, Newest};
use millrace_stream::{Clock, Timestamp};
use tokio::sync::watch;

use super::*;
use crate::cluster::{
    fake_api::{FakeApi, Mischief},
    lease::{GOOD_FOR, Standing},
};
use guarantee::latest;

#[path = "../../../state/src/pointer/guarantee.rs"]
mod guarantee;

const MAP: &str = "configmaps/web-checkpoint";

fn run(test: impl Future<Output = ()>) {
    crate::install_tls();
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap().block_on(test);
}

fn processes(cluster: Cluster) -> impl Fn(u32) -> Arc<dyn Pointer> {
    move |number| {
        ConfigMapPointer::new(&cluster, &format!("process-{number}"), None, tenure(Duration::ZERO)) as Arc<dyn Pointer>
    }
}

struct At(Duration);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn monotonic(&self) -> Duration {
        self.0
    }
}

/// The Lease of a process that it was told it has this long ago.
fn tenure(ago: Duration) -> Tenure {
    // What was said last stays when nobody says anything else.
    let standing = watch::channel(Standing::Held { confirmed: Duration::ZERO }).1;
    Tenure { standing, clock: Arc::new(At(ago)) }
}

fn guaranteed<R: Future<Output = ()>>(test: impl FnOnce(Box<dyn Fn(u32) -> Arc<dyn Pointer>>) -> R) {
    run(async {
        let (_api, cluster) = FakeApi::start("web").await;
        test(Box::new(processes(cluster))).await;
    });
}

#[test]
fn a_config_map_that_the_operator_has_just_made_names_nothing() {
    guaranteed(guarantee::nothing_at_first);
}

#[test]
fn an_older_generation_moves_nothing_and_is_told_by_whom() {
    guaranteed(guarantee::older_generations_are_fenced);
}

#[test]
fn moving_again_to_the_same_place_is_no_error_and_moving_from_elsewhere_is() {
    guaranteed(guarantee::moves_are_idempotent);
}

#[test]
fn of_many_that_race_the_greatest_generation_stays() {
    guaranteed(guarantee::the_greatest_generation_stays);
}

/// The same against the API server of the cluster that tests use, or that `KUBECONFIG` names.
#[test]
fn a_real_api_server_gives_the_same_guarantees() {
    if std::env::var_os("MILLRACE_CLUSTER").is_none() {
        println!("skipped: it needs a cluster, and MILLRACE_CLUSTER is not set");
        return;
    }
    run(async {
        let client = real_api_server().await;
        let namespace = format!("millrace-test-pointer-{}", std::process::id());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        for number in 0..4 {
            let cluster = Cluster::over(client.clone(), &namespace, &format!("p{number}"));
            let mut map = ConfigMap::default();
            map.metadata.name = Some(cluster.names().checkpoint());
            cluster.config_maps().create(&PostParams::default(), &map).await.unwrap();
            let open = processes(cluster);
            match number {
                0 => guarantee::nothing_at_first(open).await,
                1 => guarantee::older_generations_are_fenced(open).await,
                2 => guarantee::moves_are_idempotent(open).await,
                _ => guarantee::the_greatest_generation_stays(open).await,
            }
        }
        namespaces.delete(&namespace, &kube::api::DeleteParams::default()).await.unwrap();
    });
}

async fn real_api_server() -> Client {
    if std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty()) {
        return Client::try_default().await.unwrap();
    }
    let cache = match std::env::var_os("CACHE") {
        Some(cache) => std::path::PathBuf::from(cache),
        None => std::path::PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/millrace"),
    };
    let read = Kubeconfig::read_from(cache.join("cluster/run/kubeconfig")).expect("`make cluster-up` starts a cluster");
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[test]
fn of_two_processes_that_claim_the_same_generation_the_second_is_fenced() {
    run(async {
        let (_api, cluster) = FakeApi::start("web").await;
        let open = processes(cluster);
        let (one, other) = (open(1), open(2));
        assert!(matches!(one.claim(Generation(3)).await.unwrap(), Claim::Take(_)));
        assert_eq!(other.claim(Generation(3)).await.unwrap(), Claim::Fenced { by: Generation(3) });
        let move_of_other = other.advance(None, latest(3, &[1])).await.unwrap();
        assert_eq!(move_of_other, Advance::Fenced { by: Generation(3) });
        assert!(matches!(one.advance(None, latest(3, &[1])).await.unwrap(), Advance::Move(_)));
    });
}

#[test]
fn a_process_whose_lease_may_be_anothers_claims_nothing_and_may_still_move_what_it_has_claimed() {
    run(async {
        let (api, cluster) = FakeApi::start("web").await;
        processes(cluster.clone())(1).claim(Generation(1)).await.unwrap();
        let zombie = ConfigMapPointer::new(&cluster, "process-1", None, tenure(GOOD_FOR));
        let before = api.requests().1;
        let error = zombie.claim(Generation(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert!(millrace_engine::chain(&error).ends_with("the Lease may be another pod's by now"), "{error:?}");
        assert_eq!(api.requests().1, before);
        assert!(matches!(zombie.advance(None, latest(1, &[1])).await.unwrap(), Advance::Move(_)));
    });
}

#[test]
fn a_move_without_an_answer_is_unknown_and_the_next_try_finds_it_done() {
    run(async {
        let (api, cluster) = FakeApi::start("web").await;
        let pointer = processes(cluster)(1);
        pointer.claim(Generation(1)).await.unwrap();
        api.next([Mischief::DoAndFail]);
        let error = pointer.advance(None, latest(1, &[1])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
        let text = millrace_engine::chain(&error);
        assert_eq!(text, "cannot move the pointer in ConfigMap here/web-checkpoint: Timeout");
        assert_eq!(pointer.advance(None, latest(1, &[1])).await.unwrap(), Advance::AlreadyMoved);
        api.next([Mischief::Refuse]);
        pointer.advance(Some(Epoch(1)), latest(1, &[1, 2])).await.unwrap_err();
        assert!(matches!(pointer.advance(Some(Epoch(1)), latest(1, &[1, 2])).await.unwrap(), Advance::Move(_)));
    });
}

#[test]
fn somebody_who_changes_an_annotation_in_between_stops_no_move() {
    run(async {
        let (api, cluster) = FakeApi::start("web").await;
        let pointer = processes(cluster)(1);
        api.next([Mischief::Overtake]);
        assert!(matches!(pointer.claim(Generation(1)).await.unwrap(), Claim::Take(_)));
        api.next([Mischief::Overtake]);
        assert!(matches!(pointer.advance(None, latest(1, &[1])).await.unwrap(), Advance::Move(_)));
        assert!(api.value(MAP, "/metadata/annotations/touched").is_some(), "and what they wrote stays");
        api.next(vec![Mischief::Overtake; CONFLICTS]);
        let error = pointer.advance(Some(Epoch(1)), latest(1, &[1, 2])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
    });
}

#[test]
fn a_move_is_one_request() {
    run(async {
        let (api, cluster) = FakeApi::start("web").await;
        let pointer = processes(cluster)(1);
        pointer.claim(Generation(1)).await.unwrap();
        let (reads, writes) = api.requests();
        for epoch in 1..=5 {
            let from = (epoch > 1).then(|| Epoch(epoch - 1));
            pointer.advance(from, latest(1, &[epoch])).await.unwrap();
        }
        assert_eq!(api.requests(), (reads, writes + 5));
    });
}

#[test]
fn a_config_map_that_has_gone_is_no_pointer_before_its_first_claim() {
    run(async {
        let (api, cluster) = FakeApi::start("web").await;
        let pointer = processes(cluster)(1);
        pointer.claim(Generation(1)).await.unwrap();
        api.remove(MAP);
        assert_eq!(pointer.read().await.unwrap_err().kind(), ErrorKind::Retry);
        assert_eq!(pointer.claim(Generation(2)).await.unwrap_err().kind(), ErrorKind::Retry);
        assert_eq!(pointer.advance(None, latest(1, &[1])).await.unwrap_err().kind(), ErrorKind::Retry);
    });
}

#[test]
fn a_damaged_pointer_is_told_and_never_taken_for_none() {
    run(async {
        let (_api, cluster) = FakeApi::start("web").await;
        let pointer = ConfigMapPointer::new(&cluster, "process-1", None, tenure(Duration::ZERO));
        pointer.claim(Generation(1)).await.unwrap();
        let mut map = pointer.get().await.unwrap();
        let text = map.data.as_mut().unwrap().get_mut(LATEST_KEY).unwrap();
        *text = text.replace("\"generation\":1", "\"generation\":0");
        pointer.replace(&map).await.unwrap().unwrap();
        for error in [pointer.read().await.unwrap_err(), pointer.claim(Generation(2)).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(
                error.to_string().starts_with("latest.json of ConfigMap here/web-checkpoint is damaged"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_wish_has_acted_when_the_pointer_moves_to_a_new_epoch_and_not_when_it_moves_back() {
    run(async {
        let (_api, cluster) = FakeApi::start("web").await;
        let before = processes(cluster.clone())(1);
        before.claim(Generation(1)).await.unwrap();
        before.advance(None, latest(1, &[1, 2, 3])).await.unwrap();
        let pointer = ConfigMapPointer::new(&cluster, "process-2", Some("again".to_owned()), tenure(Duration::ZERO));
        pointer.claim(Generation(2)).await.unwrap();
        pointer.advance(Some(Epoch(3)), latest(2, &[1, 2])).await.unwrap();
        assert_eq!(pointer.answered().await.unwrap(), [], "the run that died here began with nothing yet");
        pointer.advance(Some(Epoch(2)), latest(2, &[1, 2, 4])).await.unwrap();
        let acted = |token: &str| Answered { token: token.to_owned(), error: None };
        assert_eq!(pointer.answered().await.unwrap(), [acted("again")]);
        let after = processes(cluster.clone())(3);
        after.claim(Generation(3)).await.unwrap();
        after.advance(Some(Epoch(4)), latest(3, &[4, 5])).await.unwrap();
        assert_eq!(pointer.answered().await.unwrap(), [acted("again")], "for good");
        // One that cannot act is answered at once; the pointer stays where it is, and so does what is known of the one before.
        pointer.note_refusal("gone", "there is no savepoint").await.unwrap();
        let refused = Answered { token: "gone".to_owned(), error: Some("there is no savepoint".to_owned()) };
        assert_eq!(pointer.answered().await.unwrap(), [acted("again"), refused.clone()]);
        after.advance(Some(Epoch(5)), latest(3, &[5, 6])).await.unwrap();
        assert_eq!(pointer.answered().await.unwrap(), [acted("again"), refused.clone()]);
        let last = ConfigMapPointer::new(&cluster, "process-4", Some("last".to_owned()), tenure(Duration::ZERO));
        last.claim(Generation(4)).await.unwrap();
        last.advance(Some(Epoch(6)), latest(4, &[6, 7])).await.unwrap();
        assert_eq!(pointer.answered().await.unwrap(), [acted("last"), refused]);
    });
}

#[test]
fn people_find_the_newest_checkpoint_beside_the_pointer() {
    let mut map = ConfigMap::default();
    fill(&mut map, &latest(3, &[417, 418]), "web-0_1_2");
    let shown = map.data.unwrap().into_iter().map(|(key, value)| format!("{key}: {value}\n")).collect::<String>();
    expect![[r#"
        claimedBy: web-0_1_2
        completedAt: 2026-09-21T14:13:20Z
        duration: 38ms
        epoch: 418
        generation: 3
        latest.json: {"millrace":"latest","version":1,"bytes":231,"xxh3":"0811ab0985a2e616"}
        {"generation":3,"decided":[{"epoch":417,"generation":1,"savepoint":false},{"epoch":418,"generation":1,"savepoint":false}],"newest":{"manifest":"manifests/418-1.json","sizeBytes":1234567,"durationMs":38,"completedAt":1790000000000}}

        manifest: manifests/418-1.json
        size: 1234567
    "#]]
    .assert_eq(&shown);
    let mut map = ConfigMap::default();
    fill(&mut map, &Latest { newest: None::<Newest>, ..latest(1, &[]) }, "web-0_1_2");
    let keys: Vec<_> = map.data.unwrap().into_keys().collect();
    assert_eq!(keys, ["claimedBy", "generation", "latest.json"]);
}
