//! Syslog messages: RFC 5424, and RFC 3164 as it is commonly written.

use chrono::{DateTime, Datelike, NaiveDate};

use super::temporal;

/// What a message may have.
pub(super) const NAMES: [&str; 10] = [
    "priority",
    "facility",
    "severity",
    "timestamp",
    "hostname",
    "app_name",
    "proc_id",
    "msg_id",
    "structured_data",
    "message",
];

const DAY_MICROS: i64 = 86_400_000_000;
/// Within so many years there is a 29th of February, around 1900 and 2100 too.
const LEAP_YEARS_APART: i32 = 9;

/// A message's parts; what is missing, or `-`, is none.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Message<'a> {
    priority: Option<u16>,
    pub(super) timestamp: Option<(&'a str, i64)>,
    hostname: Option<&'a str>,
    app_name: Option<&'a str>,
    proc_id: Option<&'a str>,
    msg_id: Option<&'a str>,
    structured_data: Option<&'a str>,
    message: Option<&'a str>,
}

impl Message<'_> {
    /// Calls `set` for each part but the timestamp.
    pub(super) fn each(&self, mut set: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), String> {
        if let Some(priority) = self.priority {
            set("priority", &priority.to_string())?;
            set("facility", &(priority / 8).to_string())?;
            set("severity", &(priority % 8).to_string())?;
        }
        let parts = [
            ("hostname", self.hostname),
            ("app_name", self.app_name),
            ("proc_id", self.proc_id),
            ("msg_id", self.msg_id),
            ("structured_data", self.structured_data),
            ("message", self.message),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                set(name, value)?;
            }
        }
        Ok(())
    }
}

/// The year of a moment.
fn year_of(micros: i64) -> i32 {
    DateTime::from_timestamp_micros(micros).map_or(1970, |moment| moment.year())
}

/// Reads a message, which was written about `written_micros`, or before.
pub(super) fn parse(line: &str, written_micros: i64) -> Result<Message<'_>, String> {
    let mut rest = line;
    let mut message = Message::default();
    if let Some(behind) = rest.strip_prefix('<') {
        let (digits, behind) = behind.split_once('>').ok_or("`<` and no priority behind it")?;
        let priority = digits.parse::<u16>().ok().filter(|priority| *priority < 192 && digits.len() <= 3);
        message.priority = Some(priority.ok_or_else(|| format!("`<{digits}>` is not a priority from 0 to 191"))?);
        rest = behind;
        if let Some(behind) = rest.strip_prefix("1 ") {
            return rfc5424(behind, message);
        }
    }
    rfc3164(rest, message, written_micros)
}

fn rfc5424<'a>(line: &'a str, mut message: Message<'a>) -> Result<Message<'a>, String> {
    let mut rest = line;
    let mut word = |what: &str| {
        let (word, behind) = rest.split_once(' ').ok_or_else(|| format!("the message ends before its {what}"))?;
        rest = behind;
        Ok::<_, String>(Some(word).filter(|word| *word != "-"))
    };
    if let Some(text) = word("timestamp")? {
        let micros = temporal::timestamp(text.as_bytes()).ok_or_else(|| format!("`{text}` is not a timestamp"))?;
        message.timestamp = Some((text, micros));
    }
    message.hostname = word("hostname")?;
    message.app_name = word("application's name")?;
    message.proc_id = word("process id")?;
    message.msg_id = word("message id")?;
    if let Some(behind) = rest.strip_prefix('-') {
        rest = behind;
    } else {
        let end = structured_end(rest).ok_or("the structured data is malformed")?;
        message.structured_data = Some(&rest[..end]);
        rest = &rest[end..];
    }
    let text = rest.strip_prefix(' ').unwrap_or(rest);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    message.message = Some(text).filter(|text| !text.is_empty());
    Ok(message)
}

/// The place behind `[id key="value" …][…]`.
fn structured_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut pos = 0;
    while bytes.get(pos) == Some(&b'[') {
        let mut in_quotes = false;
        loop {
            pos += 1;
            match *bytes.get(pos)? {
                b'\\' if in_quotes => pos += 1,
                b'"' => in_quotes = !in_quotes,
                b']' if !in_quotes => break,
                _ => {}
            }
        }
        pos += 1;
    }
    (pos > 0 && matches!(bytes.get(pos), None | Some(b' '))).then_some(pos)
}

fn rfc3164<'a>(line: &'a str, mut message: Message<'a>, written_micros: i64) -> Result<Message<'a>, String> {
    let (text, rest) = line.split_at_checked(15).ok_or("the message ends before its timestamp")?;
    // Clocks differ: a message may seem to be of tomorrow, also on New Year's Eve.
    let latest = written_micros.saturating_add(DAY_MICROS);
    let years = (0..LEAP_YEARS_APART).map(|back| year_of(latest) - back);
    let micros = years.filter_map(|year| without_year(text, year)).find(|micros| *micros <= latest);
    let micros = micros.ok_or_else(|| format!("`{text}` is not a timestamp"))?;
    message.timestamp = Some((text, micros));
    let rest = rest.strip_prefix(' ').ok_or("a blank was expected behind the timestamp")?;
    let (hostname, rest) = rest.split_once(' ').ok_or("the message ends before its text")?;
    message.hostname = Some(hostname);
    let tag_end = rest.find(|c: char| !(c.is_alphanumeric() || "-_./".contains(c))).unwrap_or(rest.len());
    let (tag, behind) = rest.split_at(tag_end);
    let mut text = rest;
    if let Some(behind) = behind.strip_prefix(':') {
        message.app_name = Some(tag);
        text = behind;
    } else if let Some((id, behind)) = behind.strip_prefix('[').and_then(|behind| behind.split_once("]:")) {
        message.app_name = Some(tag);
        message.proc_id = Some(id);
        text = behind;
    }
    message.message = Some(text.strip_prefix(' ').unwrap_or(text)).filter(|text| !text.is_empty());
    Ok(message)
}

/// The moment of `Oct  1 22:14:15` in a year.
fn without_year(text: &str, year: i32) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|month| text.get(..3) == Some(month))? as u32 + 1;
    if text.get(3..4)? != " " || text.get(6..7)? != " " {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text.get(range)?.trim_start().parse::<u32>().ok();
    if text.get(9..10)? != ":" || text.get(12..13)? != ":" {
        return None;
    }
    let day = NaiveDate::from_ymd_opt(year, month, number(4..6)?)?;
    let moment = day.and_hms_opt(number(7..9)?, number(10..12)?, number(13..15)?)?;
    Some(moment.and_utc().timestamp_micros())
}
