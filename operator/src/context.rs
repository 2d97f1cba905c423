//! What every reconcile works with.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use millrace_stream::Clock;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cluster::{
        key::Key,
        raw::Raw,
        stores::Stores,
        warning::{Regarding, Warned},
        writer::{Happening, Wanted, Writer},
    },
    metrics::Metrics,
    pipeline::{
        decide::Decision,
        deletion::Progress,
        silence::Heard,
        unfit::{Obstacle, Unfit},
        validate::Verdict,
    },
    plans::Plans,
    room::Room,
};

/// For how long the watch may be behind a write of ours: until then what was written is believed, not what is in the store.
pub const WATCH_LAG: Duration = Duration::from_secs(10);

/// The longest wait before an object is put right that somebody changes again and again.
const LONGEST_TRUCE: Duration = Duration::from_secs(300);
/// After so long without a change by somebody else the next one is put right at once.
const AT_PEACE: Duration = Duration::from_secs(600);
/// For how long what was told is not told again.
const OLD_NEWS: Duration = Duration::from_secs(600);

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
    /// Where planning is done.
    pub room: Room,
    /// What is remembered of each object.
    pub notes: Notes,
    /// Whether the operator's own namespace is being deleted, and the operator with it.
    pub is_leaving: AtomicBool,
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
    /// The status that was written last.
    pub status: Option<Written>,
    /// What was applied last, by kind and name.
    pub applied: BTreeMap<String, Applied>,
    /// When nothing had to be written.
    pub settled: Option<Settled>,
    /// What kept its pod from starting, of which object that is, and when that was looked for, by the monotonic clock.
    pub warning: Option<(Regarding, Option<Warned>, Duration)>,
    /// Why something could not be written, until it could.
    pub failure: Option<String>,
    /// What has to go before anything is written, until it has.
    pub waits: Option<String>,
    /// The object that the API server has refused for the spec's sake, until there is another.
    pub unfit: Option<Unfit>,
    /// When the reports of a Sink's users were read last, by the monotonic clock, and how many users that were.
    pub looked: Option<(Duration, usize)>,
    /// What its runtime has said last.
    pub heard: Option<Heard>,
    /// What was changed of the StatefulSet last beside all that is applied, and when, by the monotonic clock.
    pub amended: Option<(Value, Duration)>,
    /// Whether it was given its finalizer last, or freed of it, and when, by the monotonic clock.
    pub hold: Option<(bool, Duration)>,
    /// Whether no Job of another Pipeline of its name is at work.
    pub is_alone: bool,
    /// Whether its volume is known to belong to nobody.
    pub is_volume_free: bool,
    /// How far its deletion is.
    pub deletion: Option<Progress>,
    /// What is told if it is still so at this time, by the monotonic clock.
    pub held: Option<(Happening, Duration)>,
    /// What was told, and when.
    pub told: Vec<(Happening, Duration)>,
    /// Errors in a row.
    pub errors: u32,
}

impl Note {
    /// Whether something has not been told lately. What comes and goes is no news each time.
    pub fn is_news(&mut self, happening: &Happening, now: Duration) -> bool {
        self.told.retain(|(_, at)| now.saturating_sub(*at) < OLD_NEWS);
        let is_news = self.told.iter().all(|(told, _)| told != happening);
        if is_news {
            self.told.push((happening.clone(), now));
        }
        is_news
    }

    /// The status of an object: what was written last, since nobody else writes it, or what it has.
    pub fn status_of<K, S>(&self, object: &Raw<K>) -> S
    where
        S: for<'de> Deserialize<'de> + Default,
    {
        match &self.status {
            Some(written) => S::deserialize(&written.status).unwrap_or_default(),
            None => object.status(),
        }
    }

    /// The API server has this object.
    pub fn is_fit(&mut self, wanted: &Wanted) {
        self.unfit = self.unfit.take().filter(|unfit| !unfit.is(wanted));
    }

    /// What keeps the objects from being as they are wanted.
    pub fn obstacle(&self) -> Option<Obstacle<'_>> {
        let unfit = self.unfit.as_ref().map(|unfit| Obstacle::Unfit(&unfit.message));
        let failed = self.failure.as_deref().map(Obstacle::Failed);
        unfit.or(failed).or(self.waits.as_deref().map(Obstacle::Waits))
    }

    /// Everything could be written. Answers whether that was otherwise before.
    pub fn is_rid_of_obstacles(&mut self) -> bool {
        let (failure, waits) = (self.failure.take(), self.waits.take());
        failure.is_some() || waits.is_some()
    }

    /// Whether an object has another status than the one that was written last: after how long that is not believed to be the
    /// watch any more, and written again.
    pub fn disputed<K>(&self, object: &Raw<K>, now: Duration) -> Option<Duration> {
        let written = self.status.as_ref().filter(|written| written.stored != object.status)?;
        Some((written.at + truce(written.again + 1)).saturating_sub(now))
    }

    /// A status was written, and is stored like this.
    pub fn wrote(&mut self, status: Value, stored: Value, at: Duration) {
        let before = self.status.take().filter(|before| before.status == status);
        self.status = Some(Written { status, stored, at, again: before.map_or(0, |before| before.again + 1) });
    }
}

/// A status that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// As it was meant.
    pub status: Value,
    /// As the API server has stored it: perhaps without fields that its definition does not know.
    pub stored: Value,
    /// When, by the monotonic clock.
    pub at: Duration,
    /// How often in a row the same was written again, because another was stored.
    pub again: u32,
}

/// How long is waited before the so-many-th write of the same: somebody who undoes each of them makes no hot loop.
fn truce(again: u32) -> Duration {
    match again {
        0 => Duration::ZERO,
        again => (WATCH_LAG * (1 << (again - 1).min(5))).min(LONGEST_TRUCE),
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
    /// How often in a row the same was applied again, because it was gone or another.
    pub again: u32,
}

impl Applied {
    /// Applied now, after it was applied before.
    pub fn now(hash: &str, at: Duration, despite: Option<String>, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.hash == hash && at.saturating_sub(before.at) < AT_PEACE);
        Self { hash: hash.to_owned(), at, despite, again: before.map_or(0, |before| before.again + 1) }
    }

    /// Until when it is not applied again: somebody who changes it whenever we have put it right makes no hot loop.
    pub fn rests_until(&self) -> Duration {
        match self.again {
            0 => Duration::ZERO,
            again => self.at + truce(again),
        }
    }
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
