//! What is wrong with a Pipeline, the worst first, each said once. Pure.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::ResourceExt;

use super::cluster::Observed;

/// Everything that is wrong: an empty list is a good sign.
pub fn of(seen: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    if seen.status.conditions.is_empty() {
        found.push("no operator has looked at it yet: is one running that watches this namespace?".to_owned());
    } else if !seen.is_up_to_date() {
        found.push("the operator has not seen the latest edit yet".to_owned());
    }
    let is_settled = seen.status.phase.is_some_and(|phase| {
        use millrace_crds::Phase::{Finished, Suspended};
        matches!(phase, Suspended | Finished)
    });
    if let Some(problem) = seen.report.as_ref().and_then(|report| report.problem.as_ref()) {
        let whose = problem.node.as_ref().map_or_else(
            || format!("{:?}", problem.of).to_lowercase(),
            |node| format!("{} `{node}`", format!("{:?}", problem.of).to_lowercase()),
        );
        found.push(format!("{whose}: {}", problem.message));
    }
    for condition in &seen.status.conditions {
        if let Some(problem) = bad(condition, is_settled) {
            found.push(problem);
        }
    }
    if let Some(report) = seen.report.as_ref().filter(|report| report.checkpoint_failures > 0) {
        let why = report.checkpoint_error.as_deref().unwrap_or("no reason is told");
        found.push(format!("{} checkpoints have failed since the last one: {why}", report.checkpoint_failures));
    }
    // What the operator says of a pod is the whole of it.
    let is_told = |condition: &Condition| condition.type_ == "Ready" && OF_PODS.contains(&condition.reason.as_str());
    if !seen.status.conditions.iter().any(is_told) {
        seen.pods.iter().for_each(|pod| found.extend(of_pod(pod)));
    }
    once(found)
}

/// The reasons of `Ready` whose message says what is wrong with a pod.
const OF_PODS: [&str; 5] = ["Unschedulable", "ImagePull", "ContainerConfig", "Crashing", "OutOfMemory"];

/// A condition that is not as it should be.
fn bad(condition: &Condition, is_settled: bool) -> Option<String> {
    let is_bad = match condition.type_.as_str() {
        "Stalled" => condition.status == "True",
        "Ready" => condition.status != "True" && !is_settled,
        "ConfigValid" | "CheckpointHealthy" | "SourcesHealthy" | "SinksHealthy" => condition.status == "False",
        _ => false,
    };
    is_bad.then(|| format!("{}: {} ({})", condition.type_, condition.message, condition.reason))
}

fn of_pod(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut found = Vec::new();
    let name = pod.name_any();
    for condition in status.conditions.iter().flatten() {
        if condition.type_ == "PodScheduled" && condition.status == "False" {
            let why = condition.message.as_deref().unwrap_or("no reason is told");
            found.push(format!("pod {name} is on no node: {why}"));
        }
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    found.extend(containers.filter_map(|container| of_container(&name, container)));
    found
}

/// The last words of a container say more than that it is backing off.
fn of_container(pod: &str, container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or("it waits");
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let words = last.and_then(|last| last.message.as_deref()).and_then(|text| text.trim_end().lines().last());
    let why = words.or(waiting.message.as_deref()).unwrap_or_default();
    Some(format!("pod {pod}, container {}: {reason}: {why}", container.name))
}

/// Without what was said already: conditions repeat the report's problem.
fn once(found: Vec<String>) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for problem in found {
        let gist = problem.split_once(": ").map_or(problem.as_str(), |(_, gist)| gist);
        let gist = gist.rsplit_once(" (").map_or(gist, |(gist, _)| gist);
        if !said.iter().any(|other| other.contains(gist)) {
            said.push(problem);
        }
    }
    said
}
