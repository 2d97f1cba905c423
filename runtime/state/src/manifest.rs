//! The manifest of a checkpoint or savepoint: everything from which a pipeline can be continued, by name.
//!
//! Stored in the form of [`envelope`], as version [`Manifest::VERSION`]. What a connector or an operator puts
//! into it is theirs to version ([`TaskManifest::meta`], [`TaskManifest::replay_points`], [`SinkManifest::handles`]).

use millrace_stream::{
    BarrierKind, Epoch, EventTime, Generation, KeyGroupRange, Revision, TaskId, Timestamp, checkpoint::Taken,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{StateError, envelope};

/// A checkpoint or savepoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The pipeline's name.
    pub pipeline: String,
    /// The id of the data folder, or the object, that the pipeline was made with.
    pub instance: String,
    /// The stretch of stream that it ends.
    pub epoch: Epoch,
    /// Which incarnation wrote it.
    pub generation: Generation,
    /// Who owns it.
    pub kind: ManifestKind,
    /// Why the stream was cut, and so what happened after it.
    pub barrier: BarrierKind,
    /// The specs that the plan was compiled from: a recovery runs the plan that belongs to the state.
    pub plan: Value,
    /// The plan's revision.
    pub revision: Revision,
    /// When it was written.
    pub created_at: Timestamp,
    /// One for each task.
    pub tasks: Vec<TaskManifest>,
    /// One for each sink node.
    pub sinks: Vec<SinkManifest>,
    /// Whether every source had ended: nothing is left to do.
    pub finished: bool,
}

/// Who owns a manifest, and so who deletes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ManifestKind {
    /// Taken and expired by Millrace.
    Checkpoint,
    /// Asked for and owned by the user.
    Savepoint {
        /// What the user calls it: letters, digits, `.`, `_` and `-`.
        name: String,
    },
}

/// What one task wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskManifest {
    /// The task.
    pub task: TaskId,
    /// The key groups that it owned.
    pub key_groups: KeyGroupRange,
    /// How far event time had come for it.
    pub watermark: EventTime,
    /// Its store's files. Empty for a task without state.
    pub files: Vec<StoredFile>,
    /// What its operator keeps beside the store.
    pub meta: Value,
    /// Where its splits are resumed, by split.
    pub replay_points: Vec<(String, Value)>,
}

/// A file in the checkpoint store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredFile {
    /// Where it is, from the root of the store's part that belongs to the pipeline.
    pub name: String,
    /// What the task's store calls it.
    pub local: String,
    /// Its length.
    pub bytes: u64,
    /// Its checksum, as 16 hexadecimal digits.
    #[serde(with = "hex")]
    pub xxh3: u64,
}

/// What a sink node prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkManifest {
    /// The sink node's name.
    pub node: String,
    /// One handle for each of its tasks, by index.
    pub handles: Vec<Value>,
}

/// What a manifest is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManifestId {
    /// `manifests/<epoch>-<generation>.json`: two generations that write the same epoch do not meet.
    Checkpoint {
        /// Its epoch.
        epoch: Epoch,
        /// Who wrote it.
        generation: Generation,
    },
    /// `savepoints/<name>.json`.
    Savepoint {
        /// What the user calls it.
        name: String,
    },
}

impl Manifest {
    /// The version that is written.
    pub const VERSION: u32 = 1;
    const KIND: &'static str = "manifest";

    /// Its name.
    pub fn id(&self) -> ManifestId {
        match &self.kind {
            ManifestKind::Checkpoint => ManifestId::Checkpoint { epoch: self.epoch, generation: self.generation },
            ManifestKind::Savepoint { name } => ManifestId::Savepoint { name: name.clone() },
        }
    }

    /// Its stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        envelope::seal(Self::KIND, Self::VERSION, self)
    }

    /// Reads the stored form. `place` is where it was found, for errors.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`] and [`StateError::TooNew`], which say what is there and what should be.
    pub fn from_bytes(place: &str, bytes: &[u8]) -> Result<Self, StateError> {
        let manifest: Self = envelope::open(Self::KIND, Self::VERSION, place, bytes)?;
        for task in &manifest.tasks {
            let KeyGroupRange { start, end } = task.key_groups;
            if start > end || end > millrace_stream::KEY_GROUPS {
                let found = format!("key groups {start}..{end} of task {}", task.task);
                return Err(StateError::damaged(
                    place,
                    found,
                    format!("groups within 0..{}", millrace_stream::KEY_GROUPS),
                ));
            }
        }
        Ok(manifest)
    }

    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &StoredFile> {
        self.tasks.iter().flat_map(|task| &task.files)
    }

    /// How many bytes of state it names.
    pub fn state_bytes(&self) -> u64 {
        self.files().map(|file| file.bytes).sum()
    }

    /// What `task` wrote.
    pub fn task(&self, task: &TaskId) -> Option<&TaskManifest> {
        self.tasks.iter().find(|written| written.task == *task)
    }
}

impl From<Taken> for ManifestId {
    fn from(taken: Taken) -> Self {
        Self::Checkpoint { epoch: taken.epoch, generation: taken.generation }
    }
}

impl ManifestId {
    pub(crate) const CHECKPOINTS: &'static str = "manifests";
    pub(crate) const SAVEPOINTS: &'static str = "savepoints";

    /// Where it is, from the root of the store's part that belongs to the pipeline.
    pub fn location(&self) -> String {
        match self {
            Self::Checkpoint { epoch, generation } => format!("{}/{epoch}-{generation}.json", Self::CHECKPOINTS),
            Self::Savepoint { name } => format!("{}/{name}.json", Self::SAVEPOINTS),
        }
    }

    /// What is at a location; `None` if no manifest is called that.
    pub fn from_location(location: &str) -> Option<Self> {
        let (folder, name) = location.split_once('/')?;
        let name = name.strip_suffix(".json")?;
        let id = match folder {
            Self::CHECKPOINTS => {
                let (epoch, generation) = name.split_once('-')?;
                Self::Checkpoint { epoch: Epoch(epoch.parse().ok()?), generation: Generation(generation.parse().ok()?) }
            }
            Self::SAVEPOINTS if savepoint_name_is_good(name) => Self::Savepoint { name: name.to_owned() },
            _ => return None,
        };
        (id.location() == location).then_some(id)
    }
}

/// Whether a savepoint may be called this: at most 128 letters, digits, `.`, `_` and `-`, not beginning with a dot.
pub(crate) fn savepoint_name_is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good)
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(|_| D::Error::custom(format!("{text:?} is no checksum")))
    }
}

#[cfg(test)]
pub(crate) mod tests;
