//! What can be wrong with a row.

use std::fmt;

/// Why a row is bad, without the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Object,
    Key,
    Colon,
    CommaOrBrace,
    CommaOrBracket,
    Value,
    Number,
    Unfinished,
    Control,
    Escape,
    Surrogate,
    Depth,
    Trailing,
    Boolean,
    Integer,
    NumberExpected,
    Range,
    Date,
    DateForm,
    Timestamp,
    TimestampForm,
    Decimal,
    List,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "a row must be a JSON object",
            Self::Key => "a field's name in quotes was expected",
            Self::Colon => "`:` was expected",
            Self::CommaOrBrace => "`,` or `}` was expected",
            Self::CommaOrBracket => "`,` or `]` was expected",
            Self::Value => "a JSON value was expected",
            Self::Number => "a number is malformed",
            Self::Unfinished => "the row ends too early",
            Self::Control => "a control character in a string must be escaped",
            Self::Escape => "an escape in a string is malformed",
            Self::Surrogate => "half of a surrogate pair stands alone",
            Self::Depth => "values are nested more than 128 deep",
            Self::Trailing => "only one object a line was expected",
            Self::Boolean => "true or false was expected",
            Self::Integer => "a whole number was expected",
            Self::NumberExpected => "a number was expected",
            Self::Range => "the number is out of range",
            Self::Date => "a day as text, YYYY-MM-DD, was expected",
            Self::DateForm => "the day is not of the form YYYY-MM-DD, or does not exist",
            Self::Timestamp => "a timestamp as a number or as ISO 8601 text was expected",
            Self::TimestampForm => "the timestamp is not in ISO 8601, or does not exist",
            Self::Decimal => "a decimal number was expected",
            Self::List => "a JSON array was expected",
        })
    }
}
