//! What a Sink has to say.

use std::collections::BTreeSet;

use super::Findings;
use crate::{
    ParquetCompression, SinkDestination, SinkFormatKind, SinkSpec,
    manifest::{forms::quoted, problem::Complaint},
};

pub(super) fn check(spec: &SinkSpec, findings: &mut Findings) {
    match spec.destination() {
        Some(SinkDestination::Parquet(sink)) => {
            parquet("parquet", &sink.partition_by, sink.compression, sink.compression_level, findings);
        }
        Some(SinkDestination::Delta(sink)) => {
            parquet("delta", &sink.partition_by, sink.compression, sink.compression_level, findings);
        }
        Some(SinkDestination::File(sink)) => {
            if let Some(SinkFormatKind::Csv(csv)) = sink.format.kind() {
                delimiter("spec.file.format.csv.delimiter", &csv.delimiter, findings);
            }
        }
        Some(SinkDestination::Stdout(_)) => {
            for (is_set, field) in [
                (spec.batch.max_rows.is_some(), "maxRows"),
                (spec.batch.max_bytes.is_some(), "maxBytes"),
                (spec.batch.max_delay.is_some(), "maxDelay"),
            ] {
                if is_set {
                    let message = format!("`{field}` has no meaning for `stdout`, which shows rows as they come");
                    findings.add(format!("spec.batch.{field}"), Complaint::new(message).warning());
                }
            }
        }
        None => {}
    }
    if spec.batch.max_bytes.is_some_and(|bytes| bytes.bytes() == 0) {
        findings.add("spec.batch.maxBytes", Complaint::new("this must be greater than 0"));
    }
}

fn parquet(
    sink: &str,
    partition_by: &[String],
    compression: ParquetCompression,
    level: Option<i32>,
    findings: &mut Findings,
) {
    let mut seen = BTreeSet::new();
    for (n, column) in partition_by.iter().enumerate() {
        if !seen.insert(column) {
            let complaint = Complaint::new(format!("column `{column}` is named twice")).expected("each column once");
            findings.add(format!("spec.{sink}.partitionBy[{n}]"), complaint);
        }
    }
    if level.is_some() && compression != ParquetCompression::Zstd {
        let message = format!("`compressionLevel` is for Zstd, and the compression is {compression:?}");
        findings.add(format!("spec.{sink}.compressionLevel"), Complaint::new(message).expected("`compression: Zstd`"));
    }
}

/// The character between values is one that no value has to be quoted for.
pub(super) fn delimiter(path: &str, text: &str, findings: &mut Findings) {
    if !matches!(text.as_bytes(), [b'\t' | b' '..=b'~']) || matches!(text, "\"" | "\\") {
        let complaint = Complaint::new(format!("{text:?} cannot stand between values"));
        let near = matches!(text, "\\t" | "tab" | "TAB").then(|| quoted("\\t"));
        findings.add(path, complaint.expected("one printable ASCII character, or `\"\\t\"` for a tab").nearest(near));
    }
}
