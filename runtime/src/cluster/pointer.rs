//! The pointer of a cluster: the ConfigMap `<pipeline>-checkpoint`.
//!
//! ```text
//! data:
//!   latest.json   the pointer, in its stored form
//!   claimedBy     which process claimed its generation
//!   startToken    the wish that the newest checkpoints began with, if there was one
//!   refusedToken, refusedBecause     the last wish that could not act, and why
//!   epoch, generation, manifest, size, duration, completedAt     for people; nothing reads them
//! ```
//!
//! A ConfigMap without `latest.json` is a pointer before its first claim; one that is not there at all is an error, since
//! the operator makes it before it makes a pod.
//!
//! **Compare and swap.** The object is replaced with the `resourceVersion` that it was read with. If somebody wrote in
//! between, whoever it was, it is read again and decided again. Without an answer nobody knows whether it was written: that
//! is an error, and the next try finds out by reading.
//!
//! **Generations.** On one machine a counter in the data folder makes them unique. Two pods have two folders, and both may
//! have read the same pointer: of two claims of the same generation the second is fenced, by `claimedBy`.
//!
//! A generation is claimed only by who certainly has the Lease. Whoever was frozen or cut off, and starts its tasks again when
//! it is back, would else take the pipeline from its successor for a moment.
//!
//! **Wishes that act once.** The token of a start wish is written by the first move to a new epoch, in the same step. Until
//! then the wish acts again, and finds the same checkpoints decided; from then on it has acted. That of one that cannot act is
//! written at once, with why, so that it does not act later.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::{api::core::v1::ConfigMap, jiff};
use kube::{Api, api::PostParams};
use millrace_plan::handover::LATEST_KEY;
use millrace_state::{Latest, Pointer, StateError, fault};
use millrace_stream::{
    Epoch, Generation,
    checkpoint::{self, Advance, Claim},
};
use tokio::sync::Mutex;

use super::{
    api::{ApiError, Cluster, FIELD_MANAGER, ask},
    lease::Tenure,
};

const CLAIMED_BY: &str = "claimedBy";
const START_TOKEN: &str = "startToken";
/// The last one that could not act, and why.
const REFUSED_TOKEN: &str = "refusedToken";
const REFUSED_BECAUSE: &str = "refusedBecause";
/// How often a write is tried again at once because somebody else wrote in between.
const CONFLICTS: usize = 64;

/// The pointer of a Pipeline in a cluster.
pub struct ConfigMapPointer {
    maps: Api<ConfigMap>,
    name: String,
    place: String,
    /// This process, among all that have ever claimed.
    claimant: String,
    /// The wish that a run begins with.
    token: Option<String>,
    tenure: Tenure,
    /// As this process has written it: what the next move most likely finds.
    written: Mutex<Option<ConfigMap>>,
}

/// A start wish that will not act any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its token.
    pub token: String,
    /// Why it could not act; `None`: it has.
    pub error: Option<String>,
}

/// What the ConfigMap holds.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    latest: Latest,
    claimed_by: Option<String>,
}

impl ConfigMapPointer {
    /// The pointer of the cluster's Pipeline, for the process `claimant`.
    pub fn new(cluster: &Cluster, claimant: &str, token: Option<String>, tenure: Tenure) -> Arc<Self> {
        let name = cluster.names().checkpoint();
        Arc::new(Self {
            maps: cluster.config_maps(),
            place: cluster.place("ConfigMap", &name),
            name,
            claimant: claimant.to_owned(),
            token,
            tenure,
            written: Mutex::new(None),
        })
    }

    /// The start wishes that were answered for good: the last that has acted, and the last that could not.
    ///
    /// # Errors
    ///
    /// [`StateError::Pointer`].
    pub async fn answered(&self) -> Result<Vec<Answered>, StateError> {
        let mut data = self.get().await?.data.unwrap_or_default();
        let acted = data.remove(START_TOKEN).map(|token| Answered { token, error: None });
        let error = data.remove(REFUSED_BECAUSE).or(Some(String::new()));
        let refused = data.remove(REFUSED_TOKEN).map(|token| Answered { token, error });
        Ok(acted.into_iter().chain(refused).collect())
    }

    /// Notes that a start wish cannot act.
    ///
    /// # Errors
    ///
    /// [`StateError::Pointer`].
    pub async fn note_refusal(&self, token: &str, why: &str) -> Result<(), StateError> {
        for _ in 0..CONFLICTS {
            let mut map = self.get().await?;
            let data = map.data.get_or_insert_default();
            data.insert(REFUSED_TOKEN.to_owned(), token.to_owned());
            data.insert(REFUSED_BECAUSE.to_owned(), why.to_owned());
            if self.replace(&map).await?.is_some() {
                return Ok(());
            }
        }
        Err(self.busy())
    }

    async fn get(&self) -> Result<ConfigMap, StateError> {
        ask(self.maps.get(&self.name)).await.map_err(|error| self.failed("read", error))
    }

    /// Writes over what was read; `None`: it was not that any more.
    async fn replace(&self, map: &ConfigMap) -> Result<Option<ConfigMap>, StateError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match ask(self.maps.replace(&self.name, &params, map)).await {
            Ok(written) => Ok(Some(written)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(self.failed("move the pointer in", error)),
        }
    }

    fn failed(&self, action: &'static str, error: ApiError) -> StateError {
        let source: Box<dyn std::error::Error + Send + Sync> = match error.is_gone() {
            true => "it is gone; docs/operations.md says how a pointer that is lost is made anew".into(),
            false => Box::new(error),
        };
        StateError::Pointer { action, place: self.place.clone(), source }
    }

    fn uncertain(&self) -> StateError {
        StateError::Pointer {
            action: "claim the pointer in",
            place: self.place.clone(),
            source: "the Lease may be another pod's by now".into(),
        }
    }

    fn busy(&self) -> StateError {
        StateError::Pointer {
            action: "move the pointer in",
            place: self.place.clone(),
            source: format!("{CONFLICTS} times somebody else wrote to it in between").into(),
        }
    }

    fn held(&self, map: &ConfigMap) -> Result<Option<Held>, StateError> {
        let data = map.data.as_ref();
        let Some(text) = data.and_then(|data| data.get(LATEST_KEY)) else { return Ok(None) };
        let latest = Latest::from_bytes(&format!("{LATEST_KEY} of {}", self.place), text.as_bytes())?;
        Ok(Some(Held { latest, claimed_by: data.and_then(|data| data.get(CLAIMED_BY)).cloned() }))
    }

    async fn claim_it(&self, generation: Generation) -> Result<Claim, StateError> {
        let mut written = self.written.lock().await;
        *written = None;
        for _ in 0..CONFLICTS {
            let mut map = self.get().await?;
            let held = self.held(&map)?;
            let claim = claim(held.as_ref(), generation, &self.claimant);
            let Claim::Take(pointer) = &claim else { return Ok(claim) };
            // Whoever is frozen after this finds that its successor has written.
            if !self.tenure.is_certain() {
                return Err(self.uncertain());
            }
            let newest = held.and_then(|held| held.latest.newest);
            let next = Latest { generation, decided: pointer.decided.clone(), newest };
            fill(&mut map, &next, &self.claimant);
            if let Some(map) = self.replace(&map).await? {
                *written = Some(map);
                return Ok(claim);
            }
        }
        Err(self.busy())
    }

    async fn advance_it(&self, from: Option<Epoch>, next: &Latest) -> Result<Advance, StateError> {
        fault::point("before-pointer")?;
        let mut written = self.written.lock().await;
        // Taken, so that after an error the next try reads.
        let mut known = written.take();
        for _ in 0..CONFLICTS {
            let mut map = match known.take() {
                Some(map) => map,
                None => self.get().await?,
            };
            let advance = advance(self.held(&map)?.as_ref(), from, next, &self.claimant);
            if !matches!(advance, Advance::Move(_)) {
                return Ok(advance);
            }
            fill(&mut map, next, &self.claimant);
            if let Some(token) = self.token.as_ref().filter(|_| next.epoch() > from) {
                map.data.get_or_insert_default().insert(START_TOKEN.to_owned(), token.clone());
            }
            fault::point("mid-pointer")?;
            if let Some(map) = self.replace(&map).await? {
                *written = Some(map);
                fault::point("after-pointer")?;
                return Ok(advance);
            }
        }
        Err(self.busy())
    }
}

impl Pointer for ConfigMapPointer {
    fn read(&self) -> BoxFuture<'_, Result<Option<Latest>, StateError>> {
        Box::pin(async move { Ok(self.held(&self.get().await?)?.map(|held| held.latest)) })
    }

    fn claim(&self, generation: Generation) -> BoxFuture<'_, Result<Claim, StateError>> {
        Box::pin(self.claim_it(generation))
    }

    fn advance(&self, from: Option<Epoch>, next: Latest) -> BoxFuture<'_, Result<Advance, StateError>> {
        Box::pin(async move { self.advance_it(from, &next).await })
    }
}

/// [`checkpoint::claim`], for one of several processes.
fn claim(held: Option<&Held>, generation: Generation, claimant: &str) -> Claim {
    match held {
        Some(held) if held.latest.generation == generation && !held.is_of(claimant) => Claim::Fenced { by: generation },
        _ => checkpoint::claim(held.map(|held| held.latest.pointer()).as_ref(), generation),
    }
}

/// [`checkpoint::advance`], for one of several processes.
fn advance(held: Option<&Held>, from: Option<Epoch>, next: &Latest, claimant: &str) -> Advance {
    match held {
        Some(held) if held.latest.generation == next.generation && !held.is_of(claimant) => {
            Advance::Fenced { by: next.generation }
        }
        _ => checkpoint::advance(held.map(|held| held.latest.pointer()).as_ref(), from, next.pointer()),
    }
}

impl Held {
    fn is_of(&self, claimant: &str) -> bool {
        self.claimed_by.as_deref() == Some(claimant)
    }
}

/// Puts a pointer into the object, and beside it what people want to see. What else is there stays.
fn fill(map: &mut ConfigMap, latest: &Latest, claimant: &str) {
    let data = map.data.get_or_insert_default();
    data.insert(LATEST_KEY.to_owned(), String::from_utf8_lossy(&latest.to_bytes()).into_owned());
    data.insert(CLAIMED_BY.to_owned(), claimant.to_owned());
    for (key, value) in for_people(latest) {
        match value {
            Some(value) => data.insert(key.to_owned(), value),
            None => data.remove(key),
        };
    }
}

fn for_people(latest: &Latest) -> BTreeMap<&'static str, Option<String>> {
    let newest = latest.newest.as_ref();
    let time = |ms: u64| jiff::Timestamp::from_millisecond(ms as i64).ok().map(|time| time.to_string());
    BTreeMap::from([
        ("generation", Some(latest.generation.to_string())),
        ("epoch", latest.epoch().map(|epoch| epoch.to_string())),
        ("manifest", newest.map(|newest| newest.manifest.clone())),
        ("size", newest.map(|newest| newest.size_bytes.to_string())),
        ("duration", newest.map(|newest| format!("{}ms", newest.duration.as_millis()))),
        ("completedAt", newest.and_then(|newest| time(newest.completed_at.0))),
    ])
}

#[cfg(test)]
mod tests;
