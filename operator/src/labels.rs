//! The labels of what a Pipeline owns, and the selectors by which it is found again.

use std::collections::BTreeMap;

/// Says who made it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Names the Pipeline.
pub const PIPELINE: &str = "millrace.dev/pipeline";
/// Says which of a Pipeline's ConfigMaps one is.
pub const PART: &str = "millrace.dev/part";
/// [`PART`] of the plan's ConfigMap.
pub const PLAN: &str = "plan";
/// [`PART`] of the report's ConfigMap.
pub const REPORT: &str = "report";
/// [`PART`] of the pointer's ConfigMap, which changes with every checkpoint and is not watched.
pub const CHECKPOINT: &str = "checkpoint";

/// Everything that the operator makes.
pub const OWNED: &str = "app.kubernetes.io/managed-by=millrace-operator";
/// The ConfigMaps that the operator watches.
pub const DOCUMENTS: &str = "app.kubernetes.io/managed-by=millrace-operator,millrace.dev/part in (plan,report)";

/// All labels of what belongs to a Pipeline.
pub fn of(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pipeline);
    labels.insert(MANAGED_BY.to_owned(), "millrace-operator".to_owned());
    labels
}

/// Those of a Pipeline's pods by which its StatefulSet, Service and PodDisruptionBudget select them.
pub fn selector(pipeline: &str) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "millrace"),
        ("app.kubernetes.io/instance", pipeline),
        ("app.kubernetes.io/component", "runtime"),
        (PIPELINE, pipeline),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// All labels of the pod that deletes a Pipeline's checkpoints. It is none of the Pipeline's own, which [`selector`] finds.
pub fn of_clearing(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = of(pipeline);
    labels.insert("app.kubernetes.io/component".to_owned(), "checkpoints".to_owned());
    labels
}

/// The Jobs that delete the checkpoints of a Pipeline of this name.
pub fn clearing_text(pipeline: &str) -> String {
    format!("{OWNED},{PIPELINE}={pipeline},app.kubernetes.io/component=checkpoints")
}

/// [`selector`], as `kubectl -l` and the scale subresource write it.
pub fn selector_text(pipeline: &str) -> String {
    let labels = selector(pipeline);
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
