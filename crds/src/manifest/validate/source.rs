//! What a source has to say.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, sink::delimiter};
use crate::{
    ColumnSpec, ColumnType, Compression, CsvFormat, FieldValues, FormatKind, FormatSpec, GeneratorSource, RegexFormat,
    SourceConnector, SourceSpec,
    manifest::{
        names::{list, nearest, one_of},
        problem::Complaint,
    },
};

/// Columns that every batch has; a source's would stand in their way.
const RESERVED: [&str; 2] = ["_event_time", "_op"];

pub(super) fn check(source: &SourceSpec, path: &str, findings: &mut Findings) {
    match source.connector() {
        Some(SourceConnector::Generator(generator)) => {
            if source.format.is_some() {
                let complaint = Complaint::new("a generator's rows have no format");
                findings.add(format!("{path}.format"), complaint.expected("no `format` beside `generator`"));
            }
            if !source.columns.is_empty() {
                let complaint = Complaint::new("a generator has columns of its own");
                findings.add(format!("{path}.columns"), complaint.expected("no `columns` beside `generator`"));
            }
            check_generator(generator, &format!("{path}.generator"), findings);
        }
        Some(SourceConnector::File(file)) => {
            let is_parquet = matches!(source.format.as_ref().and_then(FormatSpec::kind), Some(FormatKind::Parquet));
            if is_parquet && !matches!(file.compression, Compression::Auto | Compression::None) {
                let complaint =
                    Complaint::new("Parquet files are compressed in themselves").expected("no `compression`");
                findings.add(format!("{path}.file.compression"), complaint);
            }
            for (n, pattern) in file.paths.iter().enumerate() {
                if let Err(error) = glob::Pattern::new(pattern) {
                    let complaint = Complaint::new(format!("this is no glob: {}", error.msg));
                    let expected =
                        "a path in which `*`, `?`, `**` and `[…]` stand for others; `[[]` is a bracket itself";
                    findings.add(format!("{path}.file.paths[{n}]"), complaint.expected(expected));
                }
            }
            needs_rows(source, "file", path, findings);
        }
        Some(SourceConnector::Stdin(_)) => {
            if let Some(FormatKind::Parquet) = source.format.as_ref().and_then(FormatSpec::kind) {
                let complaint = Complaint::new("Parquet cannot be read from the standard input");
                let expected = "a format of lines, or `file` as the connector";
                findings.add(format!("{path}.format.parquet"), complaint.expected(expected));
            }
            needs_rows(source, "stdin", path, findings);
        }
        None => {}
    }
    check_columns(&source.columns, &format!("{path}.columns"), "name", findings);
    check_lists(source, path, findings);
    match source.format.as_ref().and_then(FormatSpec::kind) {
        Some(FormatKind::Csv(csv)) => check_csv(csv, &format!("{path}.format.csv"), findings),
        Some(FormatKind::Regex(regex)) => check_regex(regex, &source.columns, path, findings),
        Some(FormatKind::Combined) => check_fixed(&source.columns, &crate::COMBINED_COLUMNS, path, findings),
        Some(FormatKind::Syslog) => check_fixed(&source.columns, &crate::SYSLOG_COLUMNS, path, findings),
        Some(FormatKind::Json(_) | FormatKind::Logfmt | FormatKind::Parquet) | None => {}
    }
    check_event_time(source, path, findings);
}

fn needs_rows(source: &SourceSpec, connector: &str, path: &str, findings: &mut Findings) {
    if source.format.is_none() {
        let complaint = Complaint::new(format!("`{connector}` needs a `format`"));
        findings.add(format!("{path}.format"), complaint.expected("the form of the rows, as in `format: {json: {}}`"));
    }
    if source.columns.is_empty() {
        let complaint = Complaint::new(format!("`{connector}` needs `columns`"));
        let expected = "the columns that are read, as in `columns: [{name: ts, type: TIMESTAMP}]`";
        findings.add(format!("{path}.columns"), complaint.expected(expected));
    }
}

fn check_columns(columns: &[ColumnSpec], path: &str, field: &str, findings: &mut Findings) {
    check_names(columns.iter().map(|column| column.name.as_str()), path, field, findings);
}

fn check_names<'a>(names: impl Iterator<Item = &'a str>, path: &str, field: &str, findings: &mut Findings) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (n, name) in names.enumerate() {
        let path = format!("{path}[{n}].{field}");
        if RESERVED.contains(&name) {
            let complaint = Complaint::new(format!("`{name}` is a column that Millrace adds"));
            findings.add(path, complaint.expected("another name; `path` says what a row calls it"));
        } else if let Some(first) = seen.insert(name.to_lowercase(), name).filter(|_| !name.is_empty()) {
            let complaint = if first == name {
                Complaint::new(format!("column `{name}` is declared twice"))
            } else {
                Complaint::new(format!("columns `{first}` and `{name}` differ in capital letters only"))
            };
            findings.add(path, complaint.expected("each name once"));
        }
    }
}

/// Only JSON and Parquet have lists; a value in a line of text is one value.
fn check_lists(source: &SourceSpec, path: &str, findings: &mut Findings) {
    let format = match source.format.as_ref().and_then(FormatSpec::kind) {
        Some(FormatKind::Csv(_)) => "CSV",
        Some(FormatKind::Regex(_)) => "a line that a regular expression takes apart",
        Some(FormatKind::Combined) => "the combined log format",
        Some(FormatKind::Logfmt) => "logfmt",
        Some(FormatKind::Syslog) => "syslog",
        Some(FormatKind::Json(_) | FormatKind::Parquet) | None => return,
    };
    for (n, column) in source.columns.iter().enumerate() {
        if let Ok(ColumnType::Array(_)) = column.data_type() {
            let complaint = Complaint::new(format!("there are no lists in {format}"));
            let expected = "VARCHAR, of which `string_to_array` makes a list, or JSON";
            findings.add(format!("{path}.columns[{n}].type"), complaint.expected(expected));
        }
    }
}

fn check_csv(csv: &CsvFormat, path: &str, findings: &mut Findings) {
    delimiter(&format!("{path}.delimiter"), &csv.delimiter, findings);
    if !matches!(csv.quote.as_bytes(), [b'!'..=b'~']) {
        let complaint = Complaint::new(format!("{:?} cannot stand around values", csv.quote));
        findings.add(format!("{path}.quote"), complaint.expected("one printable ASCII character"));
    } else if csv.quote == csv.delimiter {
        let complaint = Complaint::new("`quote` and `delimiter` are the same character");
        findings.add(format!("{path}.quote"), complaint.expected("two different ones"));
    }
    if !(1..=16 << 20).contains(&csv.max_row_size.bytes()) {
        let complaint = Complaint::new(format!("a row cannot have {} bytes", csv.max_row_size.bytes()));
        findings.add(format!("{path}.maxRowSize"), complaint.expected("a size from 1 to 16Mi"));
    }
}

fn check_regex(regex: &RegexFormat, columns: &[ColumnSpec], path: &str, findings: &mut Findings) {
    let pattern_path = format!("{path}.format.regex.pattern");
    let regex = match regex::Regex::new(&regex.pattern) {
        Ok(regex) => regex,
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            let complaint = Complaint::new(format!("this is no regular expression: {reason}"));
            findings.add(
                pattern_path,
                complaint.expected("the syntax of Rust's `regex`: no backreferences, no look-around"),
            );
            return;
        }
    };
    let groups: Vec<&str> = regex.capture_names().flatten().collect();
    if groups.is_empty() {
        let complaint = Complaint::new("this regular expression names no groups");
        findings.add(pattern_path, complaint.expected("a named group for each column, as in `(?<level>[A-Z]+)`"));
        return;
    }
    check_fixed(columns, &groups, path, findings);
}

/// Checks that a row has each column.
fn check_fixed(columns: &[ColumnSpec], fields: &[&str], path: &str, findings: &mut Findings) {
    for (n, column) in columns.iter().enumerate().filter(|(_, column)| !fields.contains(&column.source_path())) {
        let field = if column.path.is_some() { "path" } else { "name" };
        let complaint = Complaint::new(format!("the format's rows have no `{}`", column.source_path()));
        let complaint = complaint.expected(one_of(fields.iter().copied()));
        let complaint = complaint.nearest(nearest(column.source_path(), fields.iter().copied()));
        findings.add(format!("{path}.columns[{n}].{field}"), complaint);
    }
}

fn check_event_time(source: &SourceSpec, path: &str, findings: &mut Findings) {
    let Some(event_time) = &source.event_time else { return };
    let columns = source.declared_columns();
    if columns.is_empty() || event_time.column.is_empty() {
        return;
    }
    let path = format!("{path}.eventTime.column");
    let timestamps = || {
        let timestamps = columns.iter().filter(|column| column.data_type() == Ok(ColumnType::Timestamp));
        timestamps.map(|column| column.name.as_str())
    };
    match columns.iter().find(|column| column.name == event_time.column) {
        None => {
            let complaint = Complaint::new(format!("the source has no column `{}`", event_time.column));
            let near = nearest(&event_time.column, timestamps())
                .or_else(|| nearest(&event_time.column, columns.iter().map(|column| column.name.as_str())));
            let expected = match timestamps().count() {
                0 => "a column of type TIMESTAMP, and there is none".to_owned(),
                1 => format!("{}, its TIMESTAMP column", list(timestamps())),
                _ => format!("one of its TIMESTAMP columns: {}", list(timestamps())),
            };
            findings.add(path, complaint.expected(expected).nearest(near));
        }
        Some(column) => match column.data_type() {
            Ok(ColumnType::Timestamp) | Err(_) => {}
            Ok(other) => {
                let complaint = Complaint::new(format!("column `{}` is of type {other}", event_time.column));
                findings.add(path, complaint.expected("a column of type TIMESTAMP"));
            }
        },
    }
}

fn check_generator(generator: &GeneratorSource, path: &str, findings: &mut Findings) {
    match (&generator.nexmark, generator.fields.is_empty()) {
        (Some(_), false) => {
            let complaint = Complaint::new("`nexmark` and `fields` are both set");
            findings.add(format!("{path}.fields"), complaint.expected("exactly one of `nexmark`, `fields`"));
        }
        (None, true) => {
            let complaint = Complaint::new("neither `nexmark` nor `fields` is set");
            findings.add(path, complaint.expected("exactly one of `nexmark`, `fields`"));
        }
        _ => {}
    }
    check_names(generator.fields.iter().map(|field| field.name.as_str()), &format!("{path}.fields"), "name", findings);
    for (n, field) in generator.fields.iter().enumerate() {
        let path = format!("{path}.fields[{n}]");
        let below = |kind: &str| (format!("{path}.{kind}.max"), Complaint::new("`max` is less than `min`"));
        match field.values() {
            Some(FieldValues::Int(range)) if range.max < range.min => {
                let (path, complaint) = below("int");
                findings.add(path, complaint.expected(format!("at least {}", range.min)));
            }
            Some(FieldValues::Double(range)) if range.max < range.min => {
                let (path, complaint) = below("double");
                findings.add(path, complaint.expected(format!("at least {}", range.min)));
            }
            Some(FieldValues::String(values)) => {
                let path = format!("{path}.string");
                match (values.choices.is_empty(), values.cardinality) {
                    (true, None) => {
                        let complaint = Complaint::new("neither `choices` nor `cardinality` is set");
                        findings.add(path.as_str(), complaint.expected("exactly one of `choices`, `cardinality`"));
                    }
                    (false, Some(_)) => {
                        let complaint = Complaint::new("`choices` and `cardinality` are both set");
                        findings.add(path.as_str(), complaint.expected("exactly one of `choices`, `cardinality`"));
                    }
                    (false, None) if values.prefix.is_some() => {
                        let complaint =
                            Complaint::new("`prefix` has no meaning for `choices`").expected("`cardinality`");
                        findings.add(format!("{path}.prefix"), complaint);
                    }
                    _ => {}
                }
                let distinct: BTreeSet<&String> = values.choices.iter().collect();
                if distinct.len() < values.choices.len() {
                    let complaint = Complaint::new("a choice is given twice, and comes up twice as often").warning();
                    findings.add(format!("{path}.choices"), complaint);
                }
            }
            _ => {}
        }
    }
}
