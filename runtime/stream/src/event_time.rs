//! Event time: when a thing happened, as opposed to when it was read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before every event: the watermark of a stream that has said nothing yet.
    pub const MIN: Self = Self(i64::MIN);
    /// After every event: the watermark of a stream that has ended.
    pub const MAX: Self = Self(i64::MAX);

    /// This time moved back by `ms`, without passing [`EventTime::MIN`].
    pub fn saturating_sub(self, ms: i64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// This time moved on by `ms`, without passing [`EventTime::MAX`].
    pub fn saturating_add(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("-"),
            Self::MAX => f.write_str("end"),
            Self(ms) => write!(f, "{ms}"),
        }
    }
}
