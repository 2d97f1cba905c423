//! Numbers of bytes as Kubernetes writes them: `512Mi`, `10Gi`, `1M`, or a plain whole number.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a quantity must look like, as the CRDs check it.
pub(crate) const PATTERN: &str = "^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// The same for sizes that may not be nothing.
pub(crate) const POSITIVE_PATTERN: &str = "^0*[1-9][0-9]*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// A suffix and its factor, the greatest first of each kind.
pub(crate) const SUFFIXES: [(&str, u64); 10] = [
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

/// A number of bytes, written as a Kubernetes quantity: a whole number and, if wanted, one of the suffixes `k`, `M`, `G`,
/// `T`, `P` (powers of 1000) and `Ki`, `Mi`, `Gi`, `Ti`, `Pi` (powers of 1024).
///
/// Two spellings of one number are equal, and it is written back with the greatest suffix that fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(u64);

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not begin with a whole number.
    #[error("a size is one whole number and, if wanted, one suffix")]
    NotANumber,
    /// The suffix is not one of ours.
    #[error("`{suffix}` is not a suffix of sizes")]
    UnknownSuffix {
        /// What stands where the suffix should.
        suffix: String,
    },
    /// It does not fit into 63 bits.
    #[error("a size may not be greater than 8191Pi")]
    TooGreat,
}

impl Quantity {
    /// A number of bytes; at most 2^63 - 1.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(if bytes > i64::MAX as u64 { i64::MAX as u64 } else { bytes })
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0");
        }
        let (factor, suffix) = SUFFIXES
            .into_iter()
            .filter(|(_, factor)| self.0.is_multiple_of(*factor))
            .map(|(suffix, factor)| (factor, suffix))
            .max()
            .unwrap_or((1, ""));
        write!(f, "{}{suffix}", self.0 / factor)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        if number.is_empty() || suffix.starts_with(['.', ',', '_']) {
            return Err(QuantityError::NotANumber);
        }
        let factor = if suffix.is_empty() {
            1
        } else {
            let known = SUFFIXES.into_iter().find(|(name, _)| *name == suffix);
            known.ok_or_else(|| QuantityError::UnknownSuffix { suffix: suffix.to_owned() })?.1
        };
        let number: u64 = number.parse().map_err(|_| QuantityError::TooGreat)?;
        let bytes = number.checked_mul(factor).filter(|bytes| *bytes <= i64::MAX as u64);
        Ok(Self(bytes.ok_or(QuantityError::TooGreat)?))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like `512Mi` or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Quantity, E> {
                i64::try_from(bytes).map_err(|_| E::custom(QuantityError::TooGreat))?;
                Ok(Quantity(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Quantity, E> {
                u64::try_from(bytes).map(Quantity).map_err(|_| E::custom(QuantityError::NotANumber))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "pattern": PATTERN, "x-millrace-form": "size" })
    }
}
