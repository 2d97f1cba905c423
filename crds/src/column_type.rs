//! The types of columns, by their SQL names.

use std::{fmt, str::FromStr};

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `BOOLEAN`: true or false.
    Boolean,
    /// `INT`: 32 bits, signed.
    Int,
    /// `BIGINT`: 64 bits, signed.
    BigInt,
    /// `FLOAT`: 32 bits.
    Float,
    /// `DOUBLE`: 64 bits.
    Double,
    /// `VARCHAR`: text.
    Varchar,
    /// `DATE`: a day.
    Date,
    /// `TIMESTAMP`: a moment in UTC, in microseconds.
    Timestamp,
    /// `DECIMAL(p, s)`: `p` digits, `s` of them after the point.
    Decimal {
        /// How many digits; 1 to 38.
        precision: u8,
        /// How many of them stand after the point; at most `precision`.
        scale: u8,
    },
    /// `JSON`: any JSON value, kept as its text.
    Json,
    /// `T[]`: a list.
    Array(Box<ColumnType>),
}

/// Why a text is not a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnTypeError {
    /// No type has this name.
    #[error("`{name}` is not a type")]
    Unknown {
        /// What stands where a type should.
        name: String,
        /// The type that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A decimal's digits make no sense.
    #[error("a DECIMAL has 1 to 38 digits, at most all of them after the point")]
    Decimal,
    /// Only one level of lists is there.
    #[error("a list of lists cannot be a column; read it as JSON")]
    NestedArray,
}

/// The names of all types but decimals and lists.
pub(crate) const NAMES: [(&str, ColumnType); 9] = [
    ("BOOLEAN", ColumnType::Boolean),
    ("INT", ColumnType::Int),
    ("BIGINT", ColumnType::BigInt),
    ("FLOAT", ColumnType::Float),
    ("DOUBLE", ColumnType::Double),
    ("VARCHAR", ColumnType::Varchar),
    ("DATE", ColumnType::Date),
    ("TIMESTAMP", ColumnType::Timestamp),
    ("JSON", ColumnType::Json),
];

/// What others call our types.
const OTHER_NAMES: [(&str, &str); 22] = [
    ("BOOL", "BOOLEAN"),
    ("INT2", "INT"),
    ("INT4", "INT"),
    ("INT32", "INT"),
    ("INTEGER", "INT"),
    ("SMALLINT", "INT"),
    ("INT8", "BIGINT"),
    ("INT64", "BIGINT"),
    ("LONG", "BIGINT"),
    ("FLOAT4", "FLOAT"),
    ("FLOAT32", "FLOAT"),
    ("REAL", "FLOAT"),
    ("FLOAT8", "DOUBLE"),
    ("FLOAT64", "DOUBLE"),
    ("DOUBLE PRECISION", "DOUBLE"),
    ("STRING", "VARCHAR"),
    ("TEXT", "VARCHAR"),
    ("UTF8", "VARCHAR"),
    ("DATETIME", "TIMESTAMP"),
    ("TIMESTAMPTZ", "TIMESTAMP"),
    ("NUMERIC", "DECIMAL(18, 2)"),
    ("JSONB", "JSON"),
];

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            Self::Array(item) => write!(f, "{item}[]"),
            plain => {
                let name = NAMES.iter().find(|(_, of)| of == plain).map_or("JSON", |(name, _)| name);
                f.write_str(name)
            }
        }
    }
}

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim().to_ascii_uppercase();
        if let Some(item) = name.strip_suffix("[]") {
            return match item.parse()? {
                Self::Array(_) => Err(ColumnTypeError::NestedArray),
                item => Ok(Self::Array(Box::new(item))),
            };
        }
        if let Some((_, plain)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(plain.clone());
        }
        if let Some(digits) = name.strip_prefix("DECIMAL") {
            return decimal(digits.trim()).ok_or(ColumnTypeError::Decimal);
        }
        Err(ColumnTypeError::Unknown { nearest: nearest(&name), name: text.trim().to_owned() })
    }
}

/// `(p, s)` or `(p)`.
fn decimal(digits: &str) -> Option<ColumnType> {
    let inner = digits.strip_prefix('(')?.strip_suffix(')')?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    ((1..=38).contains(&precision) && scale <= precision).then_some(ColumnType::Decimal { precision, scale })
}

fn nearest(name: &str) -> Option<&'static str> {
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) {
        return Some(ours);
    }
    if name.starts_with("VARCHAR(") || name.starts_with("CHAR") {
        return Some("VARCHAR");
    }
    let (distance, ours) = NAMES.iter().map(|(ours, _)| (strsim::damerau_levenshtein(name, ours), *ours)).min()?;
    (distance <= 2 && distance < ours.len() / 2 + 1).then_some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_read_as_it_is_written() {
        let plain = NAMES.iter().map(|(_, of)| of.clone());
        let decimal = ColumnType::Decimal { precision: 38, scale: 38 };
        for of in plain.chain([decimal]) {
            let list = ColumnType::Array(Box::new(of.clone()));
            assert_eq!(of.to_string().parse(), Ok(of));
            assert_eq!(list.to_string().parse(), Ok(list));
        }
        assert_eq!("decimal( 10 ,2 )".parse(), Ok(ColumnType::Decimal { precision: 10, scale: 2 }));
        assert_eq!("varchar[]".parse(), Ok(ColumnType::Array(Box::new(ColumnType::Varchar))));
    }

    #[test]
    fn what_others_call_a_type_is_understood_as_a_suggestion() {
        for (theirs, ours) in OTHER_NAMES {
            assert!(ours.parse::<ColumnType>().is_ok());
            let error = ColumnTypeError::Unknown { name: theirs.to_owned(), nearest: Some(ours) };
            assert_eq!(theirs.parse::<ColumnType>(), Err(error));
        }
    }

    #[test]
    fn what_is_no_type_is_an_error() {
        for text in ["", "[]", "DECIMAL(0, 0)", "DECIMAL(39, 0)", "DECIMAL(5, 6)", "INT[][]", "DECIMAL(5", "🦀"] {
            assert!(text.parse::<ColumnType>().is_err(), "{text}");
        }
    }
}
