//! What every reconcile works with.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millrace_stream::Clock;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cluster::{key::Key, raw::Raw, stores::Stores, writer::Writer},
    metrics::Metrics,
    pipeline::{decide::Decision, validate::Verdict},
    plans::Plans,
};

/// For how long the watch may be behind a write of ours: until then what was written is believed, not what is in the store.
pub const WATCH_LAG: Duration = Duration::from_secs(10);

/// What every reconcile works with.
pub struct Context<W: Writer> {
    /// What is in the cluster.
    pub stores: Stores,
    /// Changes it.
    pub writer: W,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The image of runtime pods that name no other.
    pub runtime_image: String,
    /// What the planner said.
    pub plans: Plans,
    /// What is remembered of each object.
    pub notes: Notes,
}

impl<W: Writer> Context<W> {
    /// How long a status that differs in nothing but numbers waits for the next: ten seconds, and longer where there are so
    /// many Pipelines that their numbers alone would be more than twenty writes a second.
    pub fn numbers_pause(&self) -> Duration {
        let pipelines = self.stores.pipelines.len() as u64;
        Duration::from_secs(10).max(Duration::from_millis(pipelines * 50))
    }

    /// The same for what a Sink has committed, which stands in its Pipelines' numbers too.
    pub fn commits_pause(&self) -> Duration {
        self.numbers_pause() * 3
    }
}

/// Objects by UID, each at a generation of its spec.
pub type Generations = Vec<(String, i64)>;

/// What the operator remembers of an object, while it leads. All of it may be forgotten: that costs a read or a write, and
/// nothing is wrong.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// The UID of the object that is meant; another one of its name is a stranger.
    pub uid: String,
    /// What was found of the spec, and of which generations of which objects that holds.
    pub verdict: Option<(Generations, Arc<Verdict>)>,
    /// The status that was written last, and when, by the monotonic clock.
    pub status: Option<(Value, Duration)>,
    /// What was applied last, by kind and name.
    pub applied: BTreeMap<String, Applied>,
    /// When nothing had to be written.
    pub settled: Option<Settled>,
    /// What kept its pod from starting, and when that was looked for, by the monotonic clock.
    pub warning: Option<(Option<String>, Duration)>,
    /// Why something could not be written, until it could.
    pub failure: Option<String>,
    /// Errors in a row.
    pub errors: u32,
}

impl Note {
    /// The status of an object: what was written last, until the watch must have brought it.
    pub fn status_of<K, S>(&self, object: &Raw<K>, now: Duration) -> S
    where
        S: for<'de> Deserialize<'de> + Default,
    {
        match &self.status {
            Some((written, at)) if now.saturating_sub(*at) < WATCH_LAG => S::deserialize(written).unwrap_or_default(),
            _ => object.status(),
        }
    }
}

/// All was as it was wanted.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The versions of what was there.
    pub versions: BTreeMap<String, String>,
    /// What was wanted, for one verdict on the spec.
    pub decision: Decision,
}

/// What was applied last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The hash of what was wanted.
    pub hash: String,
    /// When, by the monotonic clock.
    pub at: Duration,
    /// The version of the stored object that differed from what was wanted: it is not applied to twice, since what the API
    /// server makes of an object may differ from it for good.
    pub despite: Option<String>,
}

/// The notes of all objects.
#[derive(Default)]
pub struct Notes(Mutex<HashMap<Key, Note>>);

impl Notes {
    /// Takes the note of an object out; each is worked on by one at a time.
    pub fn take(&self, key: &Key, uid: &str) -> Note {
        let note = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        note.filter(|note| note.uid == uid).unwrap_or_else(|| Note { uid: uid.to_owned(), ..Note::default() })
    }

    /// Puts it back.
    pub fn put(&self, key: &Key, note: Note) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), note);
    }

    /// Forgets an object that is no more.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
