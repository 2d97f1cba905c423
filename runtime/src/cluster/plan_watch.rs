//! What is to run: the ConfigMap `<pipeline>-plan`, watched by the API, so that an edit is seen at once.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, utils::Backoff, watcher};
use millrace_plan::handover::{PLAN_KEY, PlanDocument};
use serde::Deserialize;
use tokio::sync::watch;

use super::api::Cluster;

/// The plan as it was last seen. What is not known stands as it was: a watch that breaks takes nothing away.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Wanted {
    /// Nothing has been seen yet.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There is one that this release cannot read.
    Unreadable(String),
    /// There is one of another Pipeline of this name: the one whose plan was seen first has been deleted.
    Anothers,
    /// This.
    Plan(Box<PlanDocument>),
}

impl Wanted {
    /// The document.
    pub fn plan(&self) -> Option<&PlanDocument> {
        match self {
            Self::Plan(plan) => Some(plan),
            _ => None,
        }
    }
}

/// The UID of the Pipeline whose plan was seen first. A process works for no other.
#[derive(Clone, Debug, Default)]
pub struct Owner(Arc<OnceLock<String>>);

impl Owner {
    /// The UID, once a plan has been seen that says whose it is.
    pub fn uid(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// What a ConfigMap says.
    fn reads(&self, map: &ConfigMap) -> Wanted {
        let mut owners = map.metadata.owner_references.iter().flatten();
        match owners.find(|owner| owner.kind == "Pipeline") {
            Some(owner) if *self.0.get_or_init(|| owner.uid.clone()) != owner.uid => Wanted::Anothers,
            _ => read(map),
        }
    }
}

/// Starts to watch.
pub fn start(cluster: &Cluster, owner: &Owner) -> watch::Receiver<Wanted> {
    let owner = owner.clone();
    let (seen, receiver) = watch::channel(Wanted::Unknown);
    let (maps, name) = (cluster.config_maps(), cluster.names().plan());
    let place = cluster.place("ConfigMap", &name);
    tokio::spawn(async move {
        let mut objects = watcher::watch_object(maps, &name).backoff(Waits::of(&place)).boxed();
        let mut is_quiet = false;
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) => {
                    is_quiet = false;
                    let wanted = object.as_ref().map_or(Wanted::Absent, |map| owner.reads(map));
                    if let Wanted::Unreadable(why) = &wanted {
                        tracing::error!(plan = %place, %why, "the plan cannot be read; what runs, runs on");
                    }
                    seen.send_if_modified(|before| {
                        let changes = *before != wanted;
                        *before = wanted;
                        changes
                    });
                }
                Err(error) if is_quiet => tracing::debug!(plan = %place, %error, "the plan cannot be watched"),
                Err(error) => {
                    is_quiet = true;
                    tracing::warn!(plan = %place, %error, "the plan cannot be watched; it is tried again");
                }
            }
        }
    });
    receiver
}

/// The waits before a watch that broke is begun again, which double. People wait for their edits when an API server is back,
/// so they stay short; the pods of many Pipelines have different ones.
struct Waits {
    of: u64,
    broken: u32,
}

const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(5);

impl Waits {
    fn of(place: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        Self { of: hasher.finish(), broken: 0 }
    }
}

impl Iterator for Waits {
    type Item = Duration;

    /// From half of a wait to all of it.
    fn next(&mut self) -> Option<Duration> {
        let mut hasher = DefaultHasher::new();
        (self.of, self.broken).hash(&mut hasher);
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.broken)).min(MAX_WAIT);
        self.broken = self.broken.saturating_add(1);
        Some(wait.mul_f64(0.5 + (hasher.finish() % 1024) as f64 / 2048.0))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.broken = 0;
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// What a ConfigMap says.
fn read(map: &ConfigMap) -> Wanted {
    let Some(text) = map.data.as_ref().and_then(|data| data.get(PLAN_KEY)) else { return Wanted::Absent };
    match serde_json::from_str::<Version>(text) {
        Ok(Version { version }) if version > PlanDocument::VERSION => Wanted::Unreadable(format!(
            "{PLAN_KEY} has version {version}, and this runtime reads versions up to {}: it is older than the operator",
            PlanDocument::VERSION
        )),
        _ => match serde_json::from_str(text) {
            Ok(plan) => Wanted::Plan(Box::new(plan)),
            Err(error) => Wanted::Unreadable(format!("{PLAN_KEY}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn map(text: &str) -> ConfigMap {
        let data = BTreeMap::from([(PLAN_KEY.to_owned(), text.to_owned())]);
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn a_watch_that_breaks_is_begun_again_within_five_seconds_however_often() {
        let mut waits = Waits::of("here/web-plan");
        let first: Vec<_> = waits.by_ref().take(100).collect();
        assert!(
            first[0] <= FIRST_WAIT && first.iter().all(|wait| (FIRST_WAIT / 2..=MAX_WAIT).contains(wait)),
            "{first:?}"
        );
        assert!(first[99] >= MAX_WAIT / 2);
        waits.reset();
        assert_eq!(waits.next(), Some(first[0]));
        assert_ne!(Waits::of("here/web-plan").next(), Waits::of("here/shop-plan").next());
    }

    #[test]
    fn a_config_map_without_a_plan_is_none() {
        assert_eq!(read(&ConfigMap::default()), Wanted::Absent);
    }

    #[test]
    fn the_plan_of_another_pipeline_of_the_name_is_told_from_ones_own() {
        let of = |uid: Option<&str>| {
            let mut map = map("{");
            map.metadata.owner_references = uid.map(|uid| {
                let (kind, uid) = ("Pipeline".to_owned(), uid.to_owned());
                vec![OwnerReference { kind, uid, ..OwnerReference::default() }]
            });
            map
        };
        let owner = Owner::default();
        assert!(matches!(owner.reads(&of(None)), Wanted::Unreadable(_)));
        assert_eq!(owner.uid(), None);
        for (uid, is_ones_own) in [("a", true), ("b", false), ("a", true)] {
            assert_eq!(owner.reads(&of(Some(uid))) != Wanted::Anothers, is_ones_own, "{uid}");
        }
        assert_eq!(owner.uid(), Some("a"));
    }

    #[test]
    fn a_plan_that_cannot_be_read_says_why() {
        for (text, why) in [
            ("{", "EOF"),
            (r#"{"version":1}"#, "missing field `revision`"),
            (r#"{"version":2,"anything":[]}"#, "older than the operator"),
        ] {
            let Wanted::Unreadable(said) = read(&map(text)) else { panic!("{text} was read") };
            assert!(said.contains(why), "{said}");
        }
    }
}
