//! Golden tests: manifests in; plans, errors and edits as text out. `UPDATE_EXPECT=1` writes the goldens anew.

#![allow(clippy::unwrap_used)]

mod aggregates;
mod edits;
mod errors;
mod evaluation;
mod mistakes;
mod nexmark;
mod plans;
mod ranking;
mod running;
mod size;
mod together;
mod windows;

use std::fmt::Write;

use expect_test::Expect;
use millrace_crds::manifest;

use crate::{Plan, PlanError, explain, resolve_and_compile};

/// The Windows, Sinks and sources that most tests use.
const PRELUDE: &str = r#"
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: minute}
spec: {tumbling: {size: 1m}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: hour}
spec: {tumbling: {size: 1h}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: ten-seconds}
spec: {tumbling: {size: 10s}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: hopping}
spec: {hopping: {size: 10s, slide: 2s}, lateRows: SideOutput}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: corrected}
spec: {tumbling: {size: 1m}, allowedLateness: 30s, lateRows: SideOutput}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: trailing}
spec: {rolling: {range: 10s}}
---
apiVersion: millrace.dev/v1alpha1
kind: Window
metadata: {name: visit}
spec: {session: {gap: 10s}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: out}
spec: {stdout: {}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: rows}
spec: {file: {path: /out/rows, format: {json: {}}}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: table}
spec: {file: {path: /out/table, format: {csv: {}}}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: lake}
spec: {delta: {uri: "file:///out/lake"}}
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {name: by-day}
spec: {parquet: {uri: "file:///out/by_day", partitionBy: [day]}}
"#;

const SOURCES: &str = r#"
---
apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: example}
spec:
  sources:
    - name: bid
      generator: {nexmark: {stream: Bid}}
      eventTime: {column: date_time, maxOutOfOrderness: 4s}
    - name: requests
      file: {paths: ["/logs/*.ndjson"]}
      format: {json: {}}
      columns:
        - {name: ts, type: TIMESTAMP}
        - {name: tenant, type: VARCHAR}
        - {name: status, type: INT}
        - {name: latency_ms, type: DOUBLE}
        - {name: tags, type: "VARCHAR[]"}
        - {name: body, type: JSON}
        - {name: day, type: DATE}
      eventTime: {column: ts, maxOutOfOrderness: 5s}
      onError: DeadLetter
"#;

/// Manifests with these transforms, a line each: `name [field=value ..]: SQL`; and these outputs: `from > sink`.
fn pipeline(transforms: &[&str], outputs: &[&str]) -> String {
    let mut yaml = format!("{PRELUDE}{SOURCES}");
    if !transforms.is_empty() {
        yaml.push_str("  transforms:\n");
    }
    for transform in transforms {
        let (head, sql) = transform.split_once(": ").unwrap();
        let mut head = head.split(' ');
        let name = head.next().unwrap();
        let _ = write!(yaml, "    - name: {name}\n      sql: |\n        {}\n", sql.replace('\n', "\n        "));
        for field in head {
            let (name, value) = field.split_once('=').unwrap();
            let _ = writeln!(yaml, "      {name}: {value}");
        }
    }
    yaml.push_str("  outputs:\n");
    for output in outputs {
        let (from, sink) = output.split_once(" > ").unwrap();
        let _ = writeln!(yaml, "    - {{from: {from}, sink: {sink}}}");
    }
    yaml
}

/// One transform whose rows go to stdout.
fn transform(transform: &str) -> String {
    let name = transform.split([' ', ':']).next().unwrap();
    pipeline(&[transform], &[&format!("{name} > out")])
}

/// Compiles the only Pipeline of some manifests.
fn compiled(yaml: &str) -> Result<Plan, Vec<PlanError>> {
    let (manifests, _) = manifest::read(&[("test.yaml", yaml)]);
    let pipeline = manifests.pipelines.first().unwrap_or_else(|| panic!("no pipeline in:\n{yaml}"));
    let namespace = pipeline.namespace();
    resolve_and_compile(
        pipeline.name(),
        pipeline.value.spec.clone(),
        &manifests.windows_in(namespace),
        &manifests.sinks_in(namespace),
    )
}

/// The plan as text, without the line that names the revision.
fn plan_text(plan: &Plan) -> String {
    let text = explain::text(plan);
    text.split_once("key groups\n\n").map_or(text.clone(), |(_, nodes)| nodes.to_owned())
}

/// The plan, or all errors, as text.
fn outcome(yaml: &str) -> String {
    match compiled(yaml) {
        Ok(plan) => plan_text(&plan),
        Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
    }
}

fn check(yaml: &str, golden: Expect) {
    golden.assert_eq(&outcome(yaml));
}

/// Only what sources read and the transforms of a plan whose rows go to stdout. What does not depend on the transforms is left
/// out, and what follows from them is checked here: that a sink takes what its transform gives.
fn check_transforms(yaml: &str, golden: Expect) {
    let outcome = outcome(yaml);
    let blocks: Vec<(&str, &str)> = outcome.split("\n\n").filter_map(|block| block.split_once('\n')).collect();
    let given = |name: &str| {
        let (_, lines) = blocks.iter().find(|(head, _)| *head == format!("transform {name}")).unwrap();
        lines[lines.find("  gives ").unwrap()..].replacen("gives", "takes", 1)
    };
    let mut shown = String::new();
    for (head, lines) in &blocks {
        if head.ends_with("nothing reads `bid`") || head.ends_with("nothing reads `requests`") {
            assert!(lines.is_empty(), "{lines}");
        } else if let Some(sink) = head.strip_prefix("sink ") {
            let (name, _) = sink.split_once("->").unwrap();
            assert_eq!(lines.trim_end(), given(name).trim_end(), "{head}");
        } else {
            let is_of_its_sql = |line: &&str| !line.starts_with("  skips ") && !line.starts_with("  event time from ");
            let lines = lines.lines().filter(is_of_its_sql).collect::<Vec<_>>().join("\n");
            let _ = writeln!(shown, "{head}\n{lines}\n");
        }
    }
    golden.assert_eq(&format!("{}\n", shown.trim_end()));
}
