//! The small facts that an operator leaves in the manifest beside its store.

use millrace_stream::KeyGroupRange;
use serde::{Deserialize, Serialize};

use crate::operator::OperatorError;

const VERSION: u32 = 1;

/// Where an operator stood at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Facts {
    version: u32,
    /// The key groups that it owned.
    pub(crate) key_groups: KeyGroupRange,
    /// Its watermark.
    pub(crate) watermark: i64,
    /// The greatest event time that it had seen.
    pub(crate) latest: i64,
    /// Above every part number that it had used.
    pub(crate) next_part: u64,
}

impl Facts {
    pub(crate) fn new(key_groups: KeyGroupRange, watermark: i64, latest: i64, next_part: u64) -> Self {
        Self { version: VERSION, key_groups, watermark, latest, next_part }
    }

    pub(crate) fn to_value(self) -> serde_json::Value {
        serde_json::to_value(self).expect("numbers are always JSON")
    }

    /// What each task left.
    ///
    /// # Errors
    /// Fails if they are not facts of this version.
    pub(crate) fn read_all(restored: &[serde_json::Value]) -> Result<Vec<Self>, OperatorError> {
        let damaged = |found: String| OperatorError::Damaged { found, expected: "facts of an operator, version 1" };
        let read = |value: &serde_json::Value| -> Result<Self, OperatorError> {
            let facts: Self = serde_json::from_value(value.clone()).map_err(|error| damaged(error.to_string()))?;
            if facts.version == VERSION { Ok(facts) } else { Err(damaged(format!("version {}", facts.version))) }
        };
        restored.iter().map(read).collect()
    }

    /// What several tasks left, as one: the least watermark, since what one of them had not done yet has to be done, and
    /// the greatest numbers. `None`: the first start.
    ///
    /// # Errors
    /// Fails if they are not facts of this version.
    pub(crate) fn join(restored: &[serde_json::Value]) -> Result<Option<Self>, OperatorError> {
        let joined = Self::read_all(restored)?.into_iter().reduce(|before, facts| Self {
            version: VERSION,
            key_groups: facts.key_groups,
            watermark: before.watermark.min(facts.watermark),
            latest: before.latest.max(facts.latest),
            next_part: before.next_part.max(facts.next_part),
        });
        Ok(joined)
    }
}
