//! What a pod says of itself, as a person would want to hear it.

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{cluster::writer::shorten, conditions::Reason, pipeline::build::pod::CONTAINER};

/// How a Pipeline's pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// There is none, or it is going.
    Absent,
    /// It runs, and says that rows flow.
    Ready,
    /// It is on its way.
    NotReady {
        /// Whether its container runs.
        runs: bool,
        /// What it waits for.
        message: String,
    },
    /// It does not get any further.
    Trouble {
        /// In one word.
        reason: Reason,
        /// The cause.
        message: String,
        /// Whether it can pass without an edit.
        may_pass: bool,
    },
}

/// How it is.
pub fn pod_state(pod: Option<&Pod>) -> PodState {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return PodState::Absent };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let Some(status) = &pod.status else { return not_ready(false, format!("pod {name} waits for a node")) };
    if let Some(message) = condition(status, "PodScheduled", "False") {
        let message = format!("pod {name} cannot be scheduled: {message}");
        return PodState::Trouble { reason: Reason::Unschedulable, message, may_pass: true };
    }
    if let Some(trouble) = containers(status).find_map(|container| trouble(name, container)) {
        return trouble;
    }
    if status.phase.as_deref() == Some("Failed") {
        let why = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("it does not say why");
        let message = format!("pod {name} has failed: {why}");
        return PodState::Trouble { reason: Reason::Crashing, message, may_pass: true };
    }
    if is(status, "Ready", "True") {
        return PodState::Ready;
    }
    let runs = |container: &&ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    if status.container_statuses.iter().flatten().any(|container| runs(&container)) {
        return not_ready(true, format!("pod {name} is not ready yet"));
    }
    // One of those that run beside the others has started, and is not waited for.
    let mut before = status.init_container_statuses.iter().flatten().filter(runs);
    let message = match before.find(|container| container.started != Some(true)) {
        Some(init) => format!("pod {name} waits for its init container {} to end", init.name),
        None if spec.is_some_and(|spec| spec.node_name.is_none()) => format!("pod {name} waits for a node"),
        None => format!("pod {name} is being started"),
    };
    not_ready(false, message)
}

/// That a pod is going and has not gone, with when it was to have, and what holds it if it says so.
pub fn going(pod: &Pod) -> Option<String> {
    let since = pod.metadata.deletion_timestamp.as_ref()?.0;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let held = pod.metadata.finalizers.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
    let held = if held.is_empty() { held } else { format!("; it is held by its finalizers {held}") };
    Some(format!("pod {name} is to end by {since:.0} and is still there{held}"))
}

/// The crash before the container that runs now; `since` is when it was started. A container that ends again and again runs
/// for a moment each time, which is no news.
pub fn crash_before(pod: Option<&Pod>) -> Option<(PodState, Time)> {
    let pod = pod?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    containers(pod.status.as_ref()?).find_map(|container| {
        let since = container.state.as_ref()?.running.as_ref()?.started_at.clone()?;
        let last = container.last_state.as_ref()?.terminated.as_ref().filter(|last| last.exit_code != 0)?;
        Some((ended(&whose(name, container), container.restart_count, Some(last)), since))
    })
}

/// The runtime's container.
pub fn runtime(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find(|container| container.name == CONTAINER)
}

/// How the runtime's container runs, if it does.
pub fn running(pod: &Pod) -> Option<&ContainerStateRunning> {
    runtime(pod)?.state.as_ref()?.running.as_ref()
}

fn whose(pod: &str, container: &ContainerStatus) -> String {
    format!("container {} of pod {pod}", container.name)
}

fn not_ready(runs: bool, message: String) -> PodState {
    PodState::NotReady { runs, message }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

fn is(status: &PodStatus, of: &str, value: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == of && condition.status == value)
}

fn condition<'a>(status: &'a PodStatus, of: &str, value: &str) -> Option<&'a str> {
    let found =
        status.conditions.iter().flatten().find(|condition| condition.type_ == of && condition.status == value)?;
    found.message.as_deref().or(found.reason.as_deref())
}

/// What keeps a container from running.
fn trouble(pod: &str, container: &ContainerStatus) -> Option<PodState> {
    let ContainerState { waiting, terminated, .. } = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let whose = whose(pod, container);
    if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let said = cause(waiting.message.as_deref().unwrap_or(reason));
        let image = |may_pass| PodState::Trouble {
            reason: Reason::ImagePull,
            message: format!("the image {} of pod {pod} cannot be pulled: {said}", container.image),
            may_pass,
        };
        return match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "RegistryUnavailable" => Some(image(true)),
            "InvalidImageName" => Some(image(false)),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(PodState::Trouble {
                reason: Reason::ContainerConfig,
                message: format!("{whose} cannot be made: {said}"),
                may_pass: true,
            }),
            "CrashLoopBackOff" => Some(ended(&whose, container.restart_count, last)),
            _ => None,
        };
    }
    // An init container that has done its work, and the pod's of a StatefulSet while it is started again.
    terminated.as_ref().filter(|it| it.exit_code != 0).map(|it| ended(&whose, container.restart_count, Some(it)))
}

/// What is behind a back-off: the kubelet says now one and now the other of the same failure.
fn cause(message: &str) -> &str {
    match message.strip_prefix("Back-off pulling image ").and_then(|rest| rest.split_once("\": ")) {
        Some((_, cause)) => cause.strip_prefix("ErrImagePull: ").unwrap_or(cause),
        None => message,
    }
}

/// A container that ended: with its last words, not with when the kubelet tries again, nor with how often it has: that would be
/// news each time.
fn ended(whose: &str, restarts: i32, last: Option<&ContainerStateTerminated>) -> PodState {
    let (what, when) = match restarts {
        0 => ("has ended", ""),
        _ => ("ends again and again", ", the last time"),
    };
    let is_memory = last.is_some_and(|last| last.reason.as_deref() == Some("OOMKilled"));
    if is_memory {
        let message =
            format!("{whose} {what}: it had more memory than its limit; raise `deployment.resources.limits.memory`");
        return PodState::Trouble { reason: Reason::OutOfMemory, message, may_pass: true };
    }
    let code = last.map(|last| format!("{when} with exit code {}", last.exit_code)).unwrap_or_default();
    let words = last.and_then(|last| last.message.as_deref()).map(last_lines).unwrap_or_default();
    let words = if words.is_empty() { words } else { format!(": {words}") };
    PodState::Trouble { reason: Reason::Crashing, message: format!("{whose} {what}{code}{words}"), may_pass: true }
}

/// From the last line that says that something is wrong; without one, the last line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let speaks = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["error", "panicked", "fatal"].iter().any(|word| line.contains(word))
    };
    let from = lines.iter().rposition(speaks).unwrap_or(lines.len().saturating_sub(1));
    shorten(&lines[from.min(lines.len())..].join(" "), 600)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn state(status: Value) -> PodState {
        let pod = json!({"metadata": {"name": "web-0"}, "status": status});
        pod_state(Some(&serde_json::from_value(pod).unwrap()))
    }

    fn container(state: Value, last: Value) -> Value {
        let status = json!({"name": "millrace", "image": "millrace:dev", "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last});
        json!({"phase": "Running", "containerStatuses": [status]})
    }

    #[test]
    fn the_message_names_the_cause() {
        let table = [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/1 nodes are available: 1 Insufficient cpu."}]}),
                Reason::Unschedulable,
                "pod web-0 cannot be scheduled: 0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                container(
                    json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"millrace:dev\": ErrImagePull: not found"}}),
                    json!({}),
                ),
                Reason::ImagePull,
                "the image millrace:dev of pod web-0 cannot be pulled: not found",
            ),
            (
                container(
                    json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"lake\" not found"}}),
                    json!({}),
                ),
                Reason::ContainerConfig,
                "container millrace of pod web-0 cannot be made: secret \"lake\" not found",
            ),
            (
                container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}}),
                    json!({"terminated": {"exitCode": 1, "reason": "Error",
                        "message": "INFO starting\nerror: /data is not writable\nhelp: mount a volume\n"}}),
                ),
                Reason::Crashing,
                "container millrace of pod web-0 ends again and again, the last time with exit code 1: error: /data is not writable help: mount a volume",
            ),
            (
                container(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), json!({})),
                Reason::OutOfMemory,
                "container millrace of pod web-0 ends again and again: it had more memory than its limit; raise `deployment.resources.limits.memory`",
            ),
        ];
        for (status, expected, text) in table {
            let PodState::Trouble { reason, message, .. } = state(status) else { panic!("{text}") };
            assert_eq!((reason, message.as_str()), (expected, text));
        }
    }

    #[test]
    fn a_pod_is_ready_only_when_it_says_so() {
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "millrace", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"running": {}}}]});
        assert!(matches!(state(running.clone()), PodState::NotReady { runs: true, .. }));
        let mut ready = running;
        ready["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(state(ready), PodState::Ready);
        assert!(matches!(state(json!({"phase": "Pending"})), PodState::NotReady { runs: false, .. }));
        assert_eq!(pod_state(None), PodState::Absent);
    }

    #[test]
    fn a_pod_that_does_not_go_is_told_with_what_holds_it() {
        let pod = |metadata: Value| serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert_eq!(going(&pod(json!({"name": "web-0"}))), None);
        let due = "2024-01-01T01:00:00Z";
        let says = going(&pod(json!({"name": "web-0", "deletionTimestamp": due})));
        assert_eq!(says.as_deref(), Some("pod web-0 is to end by 2024-01-01T01:00:00Z and is still there"));
        let says = going(&pod(json!({"name": "web-0", "deletionTimestamp": due, "finalizers": ["example.com/audit"]})));
        assert!(says.is_some_and(|says| says.ends_with("; it is held by its finalizers example.com/audit")));
    }
}
