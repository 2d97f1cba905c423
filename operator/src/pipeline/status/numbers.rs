//! The numbers of a status: what changes all the time, and is written at most every few seconds.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff};
use millrace_crds::{CheckpointStatus, DurationStr, PipelineStatus, Quantity, SourceStatus, ThroughputStatus};
use millrace_plan::handover::{NodeSaid, ReportDocument};

use crate::clock::time;

/// Fills in what the runtime has counted. A last checkpoint stays said when nothing runs; rates and lag do not.
pub(super) fn fill(
    status: &mut PipelineStatus,
    report: Option<&ReportDocument>,
    before: &PipelineStatus,
    is_ready: bool,
) {
    let said = report.and_then(|report| Some((report, report.checkpoint.as_ref()?)));
    status.checkpoint = match said {
        Some((report, checkpoint)) => Some(CheckpointStatus {
            epoch: checkpoint.epoch.0,
            completed_at: Some(time(checkpoint.completed_at)),
            duration: Some(DurationStr::from_millis(checkpoint.duration_ms)),
            size: Some(Quantity::from_bytes(rounded(checkpoint.size_bytes))),
            failures: report.checkpoint_failures,
        }),
        None => before.checkpoint.clone(),
    };
    let Some(report) = report.filter(|_| is_ready) else { return };
    let of = |kind: &'static str| report.nodes.iter().filter(move |node| node.kind == kind);
    let read: f64 = of("source").map(|node| node.rows_in_per_second.max(node.rows_out_per_second)).sum();
    let taken: f64 = of("sink").map(|node| node.rows_in_per_second).sum();
    status.throughput = Some(ThroughputStatus { in_: Some(rate(read)), out: Some(rate(taken)) });
    let sum = |lag: &dyn Fn(&NodeSaid) -> Option<u64>| of("source").filter_map(lag).reduce(u64::saturating_add);
    status.unread = unread(sum(&|node| node.lag_bytes), sum(&|node| node.lag_rows));
    status.sources = of("source").map(source).collect();
}

fn source(node: &NodeSaid) -> SourceStatus {
    let long = |lag: Option<u64>| lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX));
    SourceStatus {
        name: node.name.clone(),
        lag_bytes: long(node.lag_bytes),
        lag_rows: long(node.lag_rows),
        watermark: node.watermark.and_then(moment),
    }
}

/// A moment in milliseconds since 1970, if it is one that can be written.
fn moment(ms: i64) -> Option<Time> {
    jiff::Timestamp::from_second(ms.div_euclid(1_000))
        .ok()
        .filter(|at| at.as_second().abs() < 200_000_000_000)
        .map(Time)
}

/// The size in the greatest unit of which it is at least ten, so that it is short and not off by more than a tenth.
fn rounded(bytes: u64) -> u64 {
    let unit = (0..5).map(|power| 1_u64 << (10 * power)).filter(|unit| bytes / unit >= 10).max().unwrap_or(1);
    bytes / unit * unit
}

/// What is unread, for people.
fn unread(bytes: Option<u64>, rows: Option<u64>) -> Option<String> {
    let bytes = bytes.map(|bytes| Quantity::from_bytes(rounded(bytes)).to_string());
    let rows = rows.map(|rows| if rows == 1 { "1 row".to_owned() } else { format!("{} rows", short(rows as f64)) });
    let known: Vec<String> = bytes.into_iter().chain(rows).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// Rows a second, for people.
fn rate(rows: f64) -> String {
    format!("{}/s", short(rows))
}

fn short(rows: f64) -> String {
    let (rows, unit) = match rows {
        rows if rows >= 999_500_000.0 => (rows / 1e9, "G"),
        rows if rows >= 999_500.0 => (rows / 1e6, "M"),
        rows if rows >= 999.5 => (rows / 1e3, "k"),
        rows => (rows.max(0.0), ""),
    };
    let is_whole = rows >= 9.95 || (rows * 10.0).round() % 10.0 == 0.0;
    if is_whole { format!("{rows:.0}{unit}") } else { format!("{rows:.1}{unit}") }
}

/// The status without what only counts.
pub fn without_numbers(status: &PipelineStatus) -> PipelineStatus {
    let mut status = status.clone();
    if let Some(checkpoint) = &mut status.checkpoint {
        *checkpoint = CheckpointStatus {
            epoch: 0,
            completed_at: None,
            duration: None,
            size: None,
            failures: u32::from(checkpoint.failures > 0),
        };
    }
    status.throughput = status.throughput.map(|_| ThroughputStatus::default());
    status.unread = status.unread.map(|_| String::new());
    for source in &mut status.sources {
        (source.lag_bytes, source.lag_rows, source.watermark) = (None, None, None);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        let table = [
            (0.0, "0/s"),
            (0.04, "0/s"),
            (0.4, "0.4/s"),
            (7.0, "7/s"),
            (812.4, "812/s"),
            (999.9, "1k/s"),
            (1_234.0, "1.2k/s"),
        ];
        for (rows, text) in table.into_iter().chain([(51_234.0, "51k/s"), (1_050_000.0, "1.1M/s"), (3e9, "3G/s")]) {
            assert_eq!(rate(rows), text, "{rows}");
        }
    }

    #[test]
    fn what_is_unread_has_its_unit() {
        let table = [
            (None, None, None),
            (Some(0), None, Some("0")),
            (Some(15 << 20), None, Some("15Mi")),
            (None, Some(1), Some("1 row")),
            (None, Some(812), Some("812 rows")),
            (Some(15 << 20), Some(51_234), Some("15Mi, 51k rows")),
        ];
        for (bytes, rows, text) in table {
            assert_eq!(unread(bytes, rows).as_deref(), text, "{bytes:?} {rows:?}");
        }
    }

    #[test]
    fn sizes_are_rounded_down_to_a_short_unit() {
        for (bytes, text) in [(0, "0"), (9, "9"), (10_300, "10Ki"), (1_300_000, "1269Ki"), (15 << 20, "15Mi")] {
            assert_eq!(Quantity::from_bytes(rounded(bytes)).to_string(), text);
        }
    }
}
