//! Durations as users write them: a whole number and a unit, `500ms`, `5s`, `1m`, `24h`, `7d`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a duration must look like, as the CRDs check it.
pub(crate) const PATTERN: &str = "^(0|[1-9][0-9]{0,14})(ms|s|m|h|d)$";

/// The same for durations that may not be nothing.
pub(crate) const POSITIVE_PATTERN: &str = "^[1-9][0-9]{0,14}(ms|s|m|h|d)$";

/// The longest duration, about a hundred years: sums of two stay far from what 64 bits of milliseconds hold.
const MAX_MS: u64 = 36_500 * 86_400_000;

/// A unit and its length in milliseconds, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A length of time of whole milliseconds, written as a whole number and one of the units `ms`, `s`, `m`, `h` and `d`.
///
/// Two spellings of one length are equal, and it is written back with the longest unit that fits: `60s` as `1m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationStr(u64);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// There is a number, and no unit.
    #[error("a duration needs a unit")]
    NoUnit,
    /// The unit is not one of ours.
    #[error("`{unit}` is not a unit of time")]
    UnknownUnit {
        /// What stands where the unit should.
        unit: String,
    },
    /// It is not a whole number.
    #[error("a duration is one whole number and one unit")]
    NotANumber,
    /// It is longer than 36500 days.
    #[error("a duration may not be longer than 36500d")]
    TooLong,
}

impl DurationStr {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// A number of milliseconds; at most 36500 days.
    pub const fn from_millis(ms: u64) -> Self {
        Self(if ms > MAX_MS { MAX_MS } else { ms })
    }

    /// A number of seconds; at most 36500 days.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1_000))
    }

    /// As the standard library has it.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// In milliseconds, in the type that event time has.
    pub const fn as_millis_i64(self) -> i64 {
        self.0 as i64
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<DurationStr> for Duration {
    fn from(value: DurationStr) -> Self {
        value.get()
    }
}

impl fmt::Display for DurationStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let (unit, ms) = UNITS.into_iter().find(|(_, ms)| self.0.is_multiple_of(*ms)).unwrap_or(("ms", 1));
        write!(f, "{}{unit}", self.0 / ms)
    }
}

impl FromStr for DurationStr {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty()
            || unit.starts_with(['.', ',', '_', '-', '+'])
            || (number.len() > 1 && number.starts_with('0'))
        {
            return Err(DurationError::NotANumber);
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit);
        }
        if unit.contains(|c: char| c.is_ascii_digit()) {
            return Err(DurationError::NotANumber);
        }
        let Some((_, unit_ms)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit { unit: unit.trim().to_owned() });
        };
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let ms = number.checked_mul(unit_ms).filter(|ms| *ms <= MAX_MS).ok_or(DurationError::TooLong)?;
        Ok(Self(ms))
    }
}

impl Serialize for DurationStr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationStr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for DurationStr {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "x-millrace-form": "duration" })
    }
}
