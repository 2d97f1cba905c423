//! Specs that the API server alone finds something wrong with.

use std::time::Duration;

use millrace_plan::handover::RunPhase;
use serde_json::json;

use crate::{
    cluster::error::{Cause, Rejection, WriteError},
    testing::{World, running, web},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// What the API server says of limits that are below what is asked for, and of a field that it does not know.
fn invalid(causes: &[(&str, &str)]) -> WriteError {
    let cause = |&(field, message): &(&str, &str)| Cause { field: field.to_owned(), message: message.to_owned() };
    let message = "StatefulSet.apps \"web\" is invalid".to_owned();
    WriteError::Invalid(Rejection { message, causes: causes.iter().map(cause).collect() })
}

#[tokio::test]
async fn what_only_the_api_server_finds_wrong_with_the_spec_is_an_invalid_spec_with_its_field_and_is_not_sent_again_and_again()
 {
    const TOO_LOW: [(&str, &str); 1] = [(
        "spec.template.spec.containers[0].ports[1].containerPort",
        "Invalid value: 70000: must be between 1 and 65535, inclusive",
    )];
    let mut world = World::new();
    world.put("Pipeline", web().build());
    world.settle().await;
    world.run("web");
    world.settle().await;
    world.refuse(Some(("apply StatefulSet", || invalid(&TOO_LOW))));
    let ports = json!([{"name": "http", "containerPort": 9600}, {"name": "more", "containerPort": 70_000}]);
    let template = json!({"spec": {"containers": [{"name": "millrace", "ports": ports}]}});
    world.put("Pipeline", web().with("deployment", json!({"template": template})).build());
    world.settle().await;
    let why = "spec.deployment.template.spec.containers[millrace].ports[more].containerPort: Invalid value: 70000: must be \
               between 1 and 65535, inclusive";
    assert_eq!(world.says("web", "ConfigValid"), format!("False InvalidSpec: {why}"));
    assert!(world.says("web", "Ready").starts_with(&format!("False InvalidSpec: {why}\nrevision ")));
    assert!(world.says("web", "Stalled").starts_with("True InvalidSpec: "));
    assert_eq!(world.status("web").phase, Some(millrace_crds::Phase::Running), "what ran goes on");
    assert!(world.log().iter().any(|line| line.starts_with("event InvalidSpec")), "it is told");
    let told = world.status("web").conditions;
    // The runtime reports every ten seconds, and that is no reason to try.
    world.pass(HOUR).await;
    let tries = world.log().iter().filter(|line| *line == "apply StatefulSet web FAILED").count();
    assert!((12..=20).contains(&tries), "{tries} tries in an hour");
    assert_eq!(world.status("web").conditions, told, "a status does not change with every try");
    // It can be suspended all the same.
    let suspended = web().with("deployment", json!({"template": template})).with("suspend", json!(true));
    world.put("Pipeline", suspended.build());
    let mut report = running(&world.plan("web").revision);
    report.phase = RunPhase::Suspended;
    world.report("web", &report);
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(world.get("StatefulSet", "web").unwrap()["spec"]["replicas"], 0);
    // Another spec is sent at once.
    world.refuse(None);
    world.put("Pipeline", web().build());
    world.pass(Duration::from_secs(2)).await;
    assert!(world.says("web", "ConfigValid").starts_with("True Valid"), "{}", world.says("web", "ConfigValid"));
}

#[tokio::test]
async fn a_first_spec_that_only_the_api_server_finds_wrong_has_failed() {
    let refused: [fn() -> WriteError; 2] = [
        || invalid(&[("spec.template.spec.containers[0].resources.requests", "Invalid value: \"2\": must be less")]),
        || invalid(&[]),
    ];
    for (refuse, why) in refused.into_iter().zip([".requests: Invalid value", ": StatefulSet.apps \"web\" is invalid"])
    {
        let mut world = World::new();
        world.refuse(Some(("apply StatefulSet", refuse)));
        let resources = json!({"requests": {"example.com/gpu": "2"}});
        world.put("Pipeline", web().with("deployment", json!({"resources": resources})).build());
        world.settle().await;
        let says = world.says("web", "Ready");
        assert!(says.starts_with(&format!("False InvalidSpec: spec.deployment.resources{why}")), "{says}");
        assert_eq!(world.status("web").phase, Some(millrace_crds::Phase::Failed));
        world.refuse(None);
        world.pass(Duration::from_secs(301)).await;
        assert!(world.says("web", "Ready").starts_with("False Starting"), "{}", world.says("web", "Ready"));
    }
}

#[tokio::test]
async fn what_the_api_server_finds_wrong_with_what_is_not_the_specs_is_no_invalid_spec() {
    for refuse in [|| invalid(&[("spec.serviceName", "Required value")]), || invalid(&[])] {
        let mut world = World::new();
        world.refuse(Some(("apply StatefulSet", refuse)));
        world.put("Pipeline", web().build());
        world.settle().await;
        let says = world.says("web", "Ready");
        assert!(says.starts_with("False ApplyFailed: StatefulSet web cannot be written: StatefulSet.apps"), "{says}");
    }
}
