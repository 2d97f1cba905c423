//! `kubectl millrace status`.

use std::fmt::Write;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use millrace_crds::EditClass;
use serde_json::json;

use super::{
    cli::{StatusArgs, StatusFormat},
    cluster::{Cluster, Observed},
    graph, problems,
};
use crate::{Failure, checkpoints, telemetry};

/// Shows one Pipeline, or all.
pub async fn show(cluster: &Cluster, args: &StatusArgs) -> Result<(), Failure> {
    let seen = match &args.pipeline {
        Some(name) => vec![cluster.observe(name).await?],
        None => cluster.observe_all(args.all_namespaces).await?,
    };
    if args.output == StatusFormat::Json {
        for seen in &seen {
            telemetry::say(&as_json(seen).to_string());
        }
        return Ok(());
    }
    let now = Timestamp::now();
    match &args.pipeline {
        Some(_) => seen.iter().for_each(|seen| telemetry::print(&one(seen, now))),
        None if seen.is_empty() => telemetry::say("no Pipelines"),
        None => telemetry::print(&all(&seen, args.all_namespaces, now)),
    }
    Ok(())
}

fn as_json(seen: &Observed) -> serde_json::Value {
    json!({
        "name": seen.name(),
        "namespace": seen.object.namespace(),
        "problems": problems::of(seen),
        "status": seen.status,
        "report": seen.report,
    })
}

/// A Pipeline: problems first, then what it does.
fn one(seen: &Observed, now: Timestamp) -> String {
    let status = &seen.status;
    let mut text = String::new();
    let phase = status.phase.map_or_else(|| "-".to_owned(), |phase| format!("{phase:?}"));
    let revision = status.revision.as_deref().map_or("-", short_revision);
    let ready = match status.replicas.unwrap_or(0) {
        1 => "1 pod ready".to_owned(),
        pods => format!("{pods} pods ready"),
    };
    let _ = writeln!(text, "{}  {phase}  {ready}  revision {revision}", seen.name());
    for problem in problems::of(seen) {
        let _ = writeln!(text, "  ! {problem}");
    }
    if let Some(checkpoint) = &status.checkpoint {
        let age = checkpoint.completed_at.as_ref().map_or_else(|| "-".to_owned(), |at| ago(at.0, now));
        let took = checkpoint.duration.map_or_else(|| "-".to_owned(), |took| took.to_string());
        let size = checkpoint.size.map_or_else(|| "-".to_owned(), |size| checkpoints::bytes(size.bytes()));
        let _ = writeln!(text, "checkpoint {}  {age}, took {took}, {size}", checkpoint.epoch);
    } else {
        text.push_str("no checkpoint yet\n");
    }
    if let Some(change) = status.change.as_ref().filter(|change| change.class != EditClass::None) {
        let name = |revision: &Option<String>| revision.as_deref().map_or("-", short_revision).to_owned();
        let reason = change.reason.as_deref().unwrap_or_default();
        let (from, to) = (name(&change.from), name(&change.to));
        let _ = writeln!(text, "last change {:?}  {from} -> {to}  {reason}", change.class);
    }
    if let Some(report) = &seen.report {
        if report.restarts > 0 {
            let _ = writeln!(text, "{} restarts of the tasks", report.restarts);
        }
        if !report.nodes.is_empty() {
            let _ = write!(text, "\n{}", graph::draw(&report.nodes, status.throughput.is_some()));
        }
    }
    text
}

/// A line a Pipeline, those with problems first.
fn all(seen: &[Observed], with_namespace: bool, now: Timestamp) -> String {
    let mut rows: Vec<(bool, [String; 8])> = Vec::new();
    for seen in seen {
        let problems = problems::of(seen);
        let status = &seen.status;
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let checkpoint = status.checkpoint.as_ref();
        let age = checkpoint.and_then(|checkpoint| checkpoint.completed_at.as_ref()).map(|at| ago(at.0, now));
        let throughput = status.throughput.clone().unwrap_or_default();
        let row = [
            seen.object.namespace().unwrap_or_default(),
            seen.name(),
            text(status.phase.map(|phase| format!("{phase:?}"))),
            text(checkpoint.map(|checkpoint| checkpoint.epoch.to_string())),
            text(age),
            text(status.unread.clone()),
            text(throughput.in_),
            // The rest of it is told of the one.
            problems.first().and_then(|problem| problem.lines().next()).unwrap_or_default().to_owned(),
        ];
        rows.push((problems.is_empty(), row));
    }
    rows.sort();
    let head = ["NAMESPACE", "NAME", "PHASE", "CHECKPOINT", "COMPLETED", "LAG", "IN", "PROBLEM"].map(str::to_owned);
    let rows: Vec<&[String; 8]> = std::iter::once(&head).chain(rows.iter().map(|(_, row)| row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().skip(usize::from(!with_namespace));
        let line: String = cells.map(|(column, cell)| format!("{cell:<width$}  ", width = width(column))).collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn short_revision(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// How long ago, in one unit.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
