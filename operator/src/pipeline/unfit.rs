//! What the API server alone finds wrong with a spec: it has refused the StatefulSet that was made from it, for a field that the
//! Pipeline's is.

use std::time::Duration;

use serde_json::{Value, json};

use super::{build::pod::CONTAINER, validate::Valid};
use crate::cluster::writer::{Rejection, Wanted};

/// For so long the same object is not sent again: it would be refused again.
const REST: Duration = Duration::from_secs(180);
/// So many causes are told.
const TOLD: usize = 5;

/// An object that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Its hash.
    wanted: String,
    /// Why, by the Pipeline's fields.
    pub message: String,
    /// Until when it is not sent again, by the monotonic clock.
    until: Duration,
}

impl Unfit {
    /// This one, now.
    pub fn now(wanted: &Wanted, message: String, now: Duration) -> Self {
        Self { wanted: wanted.hash.clone(), message, until: now + REST }
    }

    /// Whether that is what is wanted still.
    pub fn is(&self, wanted: &Wanted) -> bool {
        self.wanted == wanted.hash
    }

    /// For how long it is not sent.
    pub fn rest(&self, wanted: &Wanted, now: Duration) -> Option<Duration> {
        (self.is(wanted) && self.until > now).then(|| self.until - now)
    }
}

/// What keeps a Pipeline's objects from being as they are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Obstacle<'a> {
    /// One could not be written, for this reason.
    Failed(&'a str),
    /// What is there has to go first.
    Waits(&'a str),
    /// The spec makes none that the API server takes, for this reason.
    Unfit(&'a str),
}

/// What of the spec the API server has refused; `None`: nothing of it, so that the fault is not the Pipeline's.
pub fn blame(rejection: &Rejection, wanted: &Wanted, valid: &Valid) -> Option<String> {
    if wanted.resource.kind != "StatefulSet" {
        return None;
    }
    if rejection.causes.is_empty() {
        // It could not even be read.
        let field = match (valid.overlay == Default::default(), &valid.deployment.resources) {
            (false, _) => "spec.deployment.template",
            (true, Some(_)) => "spec.deployment.resources",
            (true, None) => return None,
        };
        return Some(format!("{field}: {}", rejection.message));
    }
    let fields =
        rejection.causes.iter().filter_map(|cause| Some((field(&cause.field, wanted, valid)?, &cause.message)));
    let told: Vec<String> = fields.take(TOLD).map(|(field, message)| format!("{field}: {message}")).collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

/// The field of a Pipeline from which a field of its StatefulSet comes.
fn field(of: &str, wanted: &Wanted, valid: &Valid) -> Option<String> {
    let rest = of.strip_prefix("spec.")?;
    if rest.starts_with("volumeClaimTemplates") {
        let volume = valid.deployment.volume.as_ref()?;
        let is_class = rest.contains("storageClassName") && volume.storage_class_name.is_some();
        return Some(format!("spec.deployment.volume.{}", if is_class { "storageClassName" } else { "size" }));
    }
    let rest = rest.strip_prefix("template.")?;
    let overlay = json!(valid.overlay);
    let metadata = rest.strip_prefix("metadata.").unwrap_or(rest);
    if metadata.starts_with("labels") || metadata.starts_with("annotations") {
        let name = metadata.split(['[', '.']).next()?;
        overlay.pointer(&format!("/metadata/{name}"))?;
        return Some(format!("spec.deployment.template.metadata.{metadata}"));
    }
    let rest = named(rest.strip_prefix("spec.")?, wanted.body.pointer("/spec/template/spec")?);
    if let Some(of_runtime) = rest.strip_prefix(&format!("containers[{CONTAINER}]")) {
        let containers = overlay.pointer("/spec/containers").and_then(Value::as_array);
        let laid_over = containers.into_iter().flatten().find(|container| container["name"] == CONTAINER);
        let of_runtime = of_runtime.trim_start_matches('.');
        let name = of_runtime.split(['[', '.']).next()?;
        let deployment = json!(valid.deployment);
        return match laid_over.and_then(|container| container.get(name)) {
            Some(_) => Some(format!("spec.deployment.template.spec.{rest}")),
            None => deployment.get(name).map(|_| format!("spec.deployment.{of_runtime}")),
        };
    }
    let name = rest.split(['[', '.']).next()?;
    overlay.pointer(&format!("/spec/{name}"))?;
    Some(format!("spec.deployment.template.spec.{rest}"))
}

/// A path with the names of a list's items in the place of their numbers, which no manifest has.
fn named(path: &str, of: &Value) -> String {
    let mut there = Some(of);
    let mut parts = Vec::new();
    for part in path.split('.') {
        let (field, number) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((field, number)) => (field, Some(number)),
            None => (part, None),
        };
        there = there.and_then(|there| there.get(field));
        let Some(number) = number else {
            parts.push(part.to_owned());
            continue;
        };
        there = there.and_then(|list| list.get(number.parse::<usize>().ok()?));
        let name = there.and_then(|item| item.get("name")).and_then(Value::as_str);
        parts.push(format!("{field}[{}]", name.unwrap_or(number)));
    }
    parts.join(".")
}
