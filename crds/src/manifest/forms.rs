//! Texts that have to have a form: names, durations, sizes, types, moments. What is said when they do not.

use crate::{
    ColumnType, ColumnTypeError, DurationError, DurationStr, Quantity,
    manifest::{
        names::{nearest, one_of},
        problem::{Complaint, shorten},
    },
    schema::{COLUMN_NAME_PATTERN, FROM_PATTERN, NODE_NAME_PATTERN, OBJECT_NAME_PATTERN, URI_PATTERN},
    timestamp,
};

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Duration { positive: bool },
    Size,
    ColumnType,
    Timestamp,
    NodeName,
    ColumnName,
    ObjectName,
    From,
    Uri,
    Any,
}

impl Form {
    /// What the schema's keys say.
    pub fn of(form: Option<&str>, pattern: Option<&str>) -> Self {
        match (form, pattern) {
            (Some("duration"), pattern) => {
                Self::Duration { positive: pattern == Some(crate::duration::POSITIVE_PATTERN) }
            }
            (Some("size"), _) => Self::Size,
            (Some("columnType"), _) => Self::ColumnType,
            (Some("timestamp"), _) => Self::Timestamp,
            (_, Some(NODE_NAME_PATTERN)) => Self::NodeName,
            (_, Some(COLUMN_NAME_PATTERN)) => Self::ColumnName,
            (_, Some(OBJECT_NAME_PATTERN)) => Self::ObjectName,
            (_, Some(FROM_PATTERN)) => Self::From,
            (_, Some(URI_PATTERN)) => Self::Uri,
            _ => Self::Any,
        }
    }

    /// What a value of this form is, in words.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Duration { .. } => "a whole number and one of `ms`, `s`, `m`, `h`, `d`, like `500ms` or `5s`",
            Self::Size => "a number of bytes, or a whole number and a suffix, like `512Mi`, `10Gi` or `1M`",
            Self::ColumnType => {
                "one of BOOLEAN, INT, BIGINT, FLOAT, DOUBLE, VARCHAR, DATE, TIMESTAMP, DECIMAL(p, s), JSON, or a list of \
                 one, like `VARCHAR[]`"
            }
            Self::Timestamp => "a moment by RFC 3339, like `2024-01-31T12:00:00Z`",
            Self::NodeName => "lower-case letters, digits and `_`, beginning with a letter",
            Self::ColumnName => "letters, digits and `_`, not beginning with a digit",
            Self::ObjectName => "lower-case letters, digits, `-` and `.`, with a letter or digit at both ends",
            Self::From => "`<transform>`, `<source>`, `<transform>.late` or `<source>.errors`",
            Self::Uri => "a URL like `file:///out/table`, or a path",
            Self::Any => "a text",
        }
    }

    /// A valid text in the place of one that is none, for values that are parsed.
    pub const fn stand_in(self) -> Option<&'static str> {
        match self {
            Self::Duration { .. } => Some("1s"),
            Self::Size => Some("1Mi"),
            Self::ColumnType => Some("VARCHAR"),
            Self::Timestamp => Some("1970-01-01T00:00:00Z"),
            _ => None,
        }
    }

    /// Whether a text has the form.
    pub fn check(self, text: &str) -> Result<(), Complaint> {
        let complaint = match self {
            Self::Duration { positive } => match text.parse::<DurationStr>() {
                Ok(duration) if positive && duration.is_zero() => {
                    return Err(
                        Complaint::new("this must be longer than nothing").expected("a duration greater than 0")
                    );
                }
                Ok(_) => return Ok(()),
                Err(error @ DurationError::TooLong) => return Err(Complaint::new(error.to_string())),
                Err(error) => Complaint::new(error.to_string()).nearest(nearest_duration(text)),
            },
            Self::Size => match text.parse::<Quantity>() {
                Ok(_) => return Ok(()),
                Err(error) => Complaint::new(error.to_string()).nearest(nearest_size(text)),
            },
            Self::ColumnType => match text.parse::<ColumnType>() {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let near = match &error {
                        ColumnTypeError::Unknown { nearest, .. } => *nearest,
                        ColumnTypeError::Decimal => Some("DECIMAL(18, 2)"),
                        ColumnTypeError::NestedArray => Some("JSON"),
                    };
                    Complaint::new(error.to_string()).nearest(near)
                }
            },
            Self::Timestamp if timestamp::parse_rfc3339(text).is_some() => return Ok(()),
            Self::Timestamp => Complaint::new("this is no moment"),
            Self::NodeName if is_node_name(text) => return Ok(()),
            Self::NodeName => Complaint::new("this cannot be a name in SQL").nearest(as_node_name(text)),
            Self::ColumnName if is_column_name(text) => return Ok(()),
            Self::ColumnName => {
                let near: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                let near = near.trim_start_matches('_').to_owned();
                Complaint::new("this cannot be the name of a column; `path` says what a row calls it")
                    .nearest(Some(near).filter(|near| is_column_name(near)))
            }
            Self::ObjectName if is_object_name(text) => return Ok(()),
            Self::ObjectName => Complaint::new("this cannot be the name of an object").nearest(as_object_name(text)),
            Self::From => match text.split_once('.').map_or((text, None), |(node, side)| (node, Some(side))) {
                (node, None | Some("late" | "errors")) if is_node_name(node) => return Ok(()),
                (node, Some(side)) if is_node_name(node) => {
                    let near = nearest(side, ["late", "errors"]).map(|side| format!("{node}.{side}"));
                    Complaint::new(format!("there is no side output `.{side}`")).nearest(near)
                }
                _ => Complaint::new("this is no output of a source or transform").nearest(as_node_name(text)),
            },
            Self::Uri if is_uri(text) => return Ok(()),
            Self::Uri => Complaint::new("this is neither a URL nor a path"),
            Self::Any => return Ok(()),
        };
        Err(complaint.expected(self.expected()))
    }
}

/// What follows a plain value that is no text, where one is expected.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The choice that was meant.
pub(crate) fn check_choice(text: &str, choices: &[String]) -> Result<(), Complaint> {
    if choices.iter().any(|choice| choice == text) {
        return Ok(());
    }
    let names = || choices.iter().map(String::as_str);
    let expected = one_of(names());
    Err(Complaint::new(format!("`{}` is none of the choices", shorten(text, 40)))
        .expected(expected)
        .nearest(nearest(text, names())))
}

fn is_node_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_column_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a text can be the name of an object.
pub(crate) fn is_object_name(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_end) && text.ends_with(is_end) && text.chars().all(|c| is_end(c) || c == '-' || c == '.')
}

fn is_uri(text: &str) -> bool {
    match text.split_once(':') {
        None => !text.is_empty(),
        Some((scheme, _)) => {
            scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b))
        }
    }
}

fn as_node_name(text: &str) -> Option<String> {
    let name: String =
        text.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    let name = name.trim_matches(|c: char| c == '_' || c.is_ascii_digit()).to_owned();
    Some(name).filter(|name| is_node_name(name))
}

/// The object name that is nearest to a text.
pub(crate) fn as_object_name(text: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.trim().chars().map(plain).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    Some(name).filter(|name| is_object_name(name))
}

/// What `5`, `5 sec`, `1.5h` and `1h30m` mean.
fn nearest_duration(text: &str) -> Option<String> {
    let mut ms = 0.0_f64;
    let mut rest = text.trim();
    while !rest.is_empty() && rest.len() < 64 {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        ms += number
            * match rest[..letters].to_lowercase().as_str() {
                "ms" | "msec" | "msecs" | "milli" | "millis" | "millisecond" | "milliseconds" => 1.0,
                "" | "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
                "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3600e3,
                "d" | "day" | "days" => 86400e3,
                "w" | "week" | "weeks" => 7.0 * 86400e3,
                _ => return None,
            };
        rest = rest[letters..].trim_start();
    }
    (ms.fract() == 0.0 && (0.0..1e15).contains(&ms) && !text.trim().is_empty())
        .then(|| DurationStr::from_millis(ms as u64).to_string())
}

/// What `10GB`, `10 Gi`, `1.5Gi` and `10gib` mean.
fn nearest_size(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let suffix = text[digits..].trim().to_lowercase();
    let suffix = suffix.strip_suffix("ytes").unwrap_or(&suffix);
    let factor = match suffix.strip_suffix('b').unwrap_or(suffix) {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "p" => 1e15,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        "ti" => 1024.0_f64.powi(4),
        "pi" => 1024.0_f64.powi(5),
        _ => return None,
    };
    let bytes = number * factor;
    (bytes.fract() == 0.0 && (0.0..9e18).contains(&bytes)).then(|| Quantity::from_bytes(bytes as u64).to_string())
}
