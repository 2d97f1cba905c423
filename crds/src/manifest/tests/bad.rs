//! Bad manifests, and what is said about each: the golden file has both.

use std::fmt::Write;

use expect_test::expect_file;

use super::*;

/// A source, and outputs for it, so that a case shows only what it is about.
const SOURCE: &str = "  sources: [{name: a, generator: {nexmark: {stream: Bid}}}]";
const OUTPUTS: &str = "  outputs: [{from: a, sink: out}]";

fn source(fields: &str) -> String {
    with(&format!("  sources:\n    - name: a\n{fields}\n{OUTPUTS}"))
}

fn rows(fields: &str) -> String {
    source(&format!(
        "      file: {{paths: [x.log]}}\n{fields}\n      columns: [{{name: ts, type: TIMESTAMP}}, {{name: level, type: VARCHAR}}]"
    ))
}

fn transform(fields: &str) -> String {
    with(&format!("{SOURCE}\n  transforms:\n    - name: b\n{fields}\n{OUTPUTS}"))
}

fn pipeline(fields: &str) -> String {
    with(&format!("{SOURCE}\n{OUTPUTS}\n{fields}"))
}

fn object(kind: &str, spec: &str) -> String {
    format!("apiVersion: millrace.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: it}}\nspec: {spec}\n")
}

fn window(spec: &str) -> String {
    object("Window", spec)
}

fn sink(spec: &str) -> String {
    object("Sink", spec)
}

fn cases() -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("nothing", text("")),
        ("empty documents", text("---\n---\n# a comment\n---\n...\n")),
        ("a text", text("hello\n")),
        ("a list", text("- apiVersion: v1\n")),
        ("no apiVersion", text("kind: Pipeline\nmetadata: {name: x}\n")),
        ("no kind", text("apiVersion: millrace.dev/v1alpha1\n")),
        ("a kind that is a number", text("apiVersion: millrace.dev/v1alpha1\nkind: [1]\n")),
        (
            "an unknown kind of our group",
            text("apiVersion: millrace.dev/v1alpha1\nkind: Pipelines\nmetadata: {name: x}\n"),
        ),
        ("another version", text("apiVersion: millrace.dev/v1\nkind: Window\nmetadata: {name: x}\nspec: {}\n")),
        ("a group that is nearly ours", text("apiVersion: milrace.dev/v1alpha1\nkind: Window\nmetadata: {name: x}\n")),
        ("a version without its group", text("apiVersion: v1alpha1\nkind: Sink\nmetadata: {name: x}\n")),
        (
            "another's Pipeline and a ConfigMap",
            text(
                "apiVersion: tekton.dev/v1\nkind: Pipeline\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\n",
            ),
        ),
        (
            "a list of objects",
            text(
                "apiVersion: v1\nkind: List\nitems:\n  - {apiVersion: v1, kind: Pod, metadata: {name: p}}\n  - {apiVersion: millrace.dev/v1alpha1, kind: Sink, metadata: {name: s}, spec: {stdot: {}}}\n",
            ),
        ),
        ("no metadata and no spec", text("apiVersion: millrace.dev/v1alpha1\nkind: Window\n")),
        (
            "fields beside the spec",
            text(
                "apiVersion: millrace.dev/v1alpha1\nkind: Window\nmetdata: {name: x}\nsize: 1m\nspec: {tumbling: {size: 1m}}\n",
            ),
        ),
        ("no name", object("Window", "{tumbling: {size: 1m}}").replace("{name: it}", "{namespace: x}")),
        (
            "bad names",
            [
                object("Window", "{tumbling: {size: 1m}}").replace("it", "One_Minute"),
                object("Pipeline", "{}").replace("name: it", "name: web.errors"),
                object("Sink", "{stdout: {}}").replace("name: it", "name: 7"),
            ]
            .join("---\n"),
        ),
        (
            "bad metadata",
            sink("{stdout: {}}").replace("{name: it}", "{name: it, labels: {tier: 1, on: yes}, anotations: {}}"),
        ),
        ("the same name twice", format!("{0}---\n{0}", sink("{stdout: {}}"))),
        (
            "the same name in two namespaces",
            format!("{0}---\n{1}", sink("{stdout: {}}"), sink("{stdout: {}}").replace("it}", "it, namespace: other}")),
        ),
        ("an empty spec", object("Pipeline", "{}")),
        ("a spec that is a list", object("Pipeline", "[a]")),
        ("empty lists", with("  sources: []\n  outputs: []")),
        ("an unknown field", pipeline("  paralellism: 2")),
        ("an unknown field of which nothing is near", pipeline("  color: red")),
        ("a field that is set twice", pipeline("  parallelism: 2\n  parallelism: 3")),
        ("no connector", source("      onError: Drop")),
        ("a connector that is mistyped", source("      generater: {seed: 1}")),
        ("two connectors", source("      generator: {nexmark: {stream: Bid}}\n      stdin: {}")),
        ("a connector without a value", source("      stdin:")),
        ("no format and no columns", source("      stdin: {}")),
        (
            "a generator with a format and columns",
            source(
                "      generator: {nexmark: {stream: Bid}}\n      format: {json: {}}\n      columns: [{name: x, type: INT}]",
            ),
        ),
        ("two formats", rows("      format: {json: {}, logfmt: {}}")),
        ("no format in a format", rows("      format: {}")),
        ("a format as a text", rows("      format: json")),
        ("bad separators", rows("      format: {csv: {delimiter: '\\t', quote: \"ab\"}}")),
        ("a quote that separates", rows("      format: {csv: {delimiter: ';', quote: ';'}}")),
        (
            "a bad glob",
            source(
                "      file: {paths: [x.log, 'in/[.ndjson']}\n      format: {json: {}}\n      columns: [{name: ts, type: TIMESTAMP}]",
            ),
        ),
        ("lists in lines of text", rows("      format: {logfmt: {}}").replace("type: VARCHAR", "type: 'VARCHAR[]'")),
        ("a bad regular expression", rows("      format: {regex: {pattern: '(?<ts>[0-9]+'}}")),
        ("a regular expression without groups", rows("      format: {regex: {pattern: '([0-9]+)'}}")),
        (
            "a regular expression that lacks a column",
            rows("      format: {regex: {pattern: '(?<ts>[0-9]+) (?<lvl>.*)'}}"),
        ),
        ("a preset that lacks a column", rows("      format: {combined: {}}")),
        (
            "Parquet from the standard input",
            source("      stdin: {}\n      format: {parquet: {}}\n      columns: [{name: x, type: INT}]"),
        ),
        (
            "compressed Parquet",
            source(
                "      file: {paths: [x], compression: Gzip}\n      format: {parquet: {}}\n      columns: [{name: x, type: INT}]",
            ),
        ),
        (
            "bad types",
            source(
                "      stdin: {}\n      format: {json: {}}\n      columns:\n        - {name: a, type: STRING}\n        - {name: b, type: DECIMAL}\n        - {name: c, type: \"INT[][]\"}\n        - {name: d, type: VARCHER}\n        - {name: e, type: 7}\n        - {name: f}\n        - {nam: g, type: INT}",
            ),
        ),
        (
            "bad column names",
            source(
                "      stdin: {}\n      format: {json: {}}\n      columns:\n        - {name: user-id, type: INT}\n        - {name: \"@timestamp\", type: INT}\n        - {name: x, type: INT}\n        - {name: x, type: INT}\n        - {name: X, type: INT}\n        - {name: _op, type: INT}\n        - {name: no, type: INT}",
            ),
        ),
        ("an event time that is not there", rows("      format: {json: {}}\n      eventTime: {column: tss}")),
        ("an event time of another type", rows("      format: {json: {}}\n      eventTime: {column: level}")),
        ("an event time without a column", rows("      format: {json: {}}\n      eventTime: {maxOutOfOrderness: 5}")),
        (
            "bad durations",
            rows(
                "      format: {json: {}}\n      eventTime: {column: ts, maxOutOfOrderness: 1h30m, idleTimeout: 5 sec, maxFutureSkew: 1.5d}",
            ),
        ),
        (
            "more bad durations",
            rows(
                "      format: {json: {}}\n      eventTime: {column: ts, maxOutOfOrderness: soon, idleTimeout: 0s, maxFutureSkew: 99999999d}",
            ),
        ),
        ("an unknown choice", rows("      format: {json: {}}\n      onError: deadLetter")),
        ("dead letters that nobody takes", rows("      format: {json: {}}\n      onError: DeadLetter")),
        (
            "one path where a list is expected",
            source(
                "      file: {paths: /logs/*.json, follow: yes, pollInterval: 1}\n      format: {json: {}}\n      columns: [{name: x, type: INT}]",
            ),
        ),
        (
            "generators",
            with(
                "  sources:\n    - {name: a, generator: {}}\n    - {name: b, generator: {nexmark: {stream: Bids}, fields: [{name: x, int: {max: 1}}]}}\n    - {name: c, generator: {rate: 0, fields: [{name: x, int: {min: 5, max: 1}}, {name: y, int: {max: 1}, double: {max: 1}}, {name: z}]}}\n    - {name: d, generator: {seed: -1, rows: 1e6, fields: [{name: x, string: {}}, {name: y, string: {choices: [NO, SE, 1], cardinality: 5}}, {name: t, timestamp: {start: 2024-13-01T00:00:00Z, step: 1}}]}}\n  outputs: [{from: a, sink: out}]",
            ),
        ),
        (
            "names that are taken",
            with(
                "  sources: [{name: a, generator: {nexmark: {stream: Bid}}}]\n  transforms: [{name: a, sql: SELECT 1}, {name: By-Tenant, sql: SELECT 1}]\n  outputs: [{from: a, sink: out}]",
            ),
        ),
        ("no SQL", transform("      window: minute")),
        ("an empty SQL", transform("      sql: ''")),
        ("a Window that is not there", transform("      sql: SELECT 1\n      window: minutes")),
        ("emitEvery beside a window", transform("      sql: SELECT 1\n      window: minute\n      emitEvery: 1s")),
        (
            "outputs of nothing",
            with(&format!(
                "{SOURCE}\n  outputs:\n    - {{from: aa, sink: outt}}\n    - {{from: a.late, sink: out}}\n    - {{from: a.errors, sink: out}}\n    - {{from: a.error, sink: out}}\n    - {{from: a, sink: out}}\n    - {{from: a, sink: out}}\n    - {{from: A b, sink: Out}}\n    - {{sink: out}}"
            )),
        ),
        (
            "late rows that are dropped",
            with(&format!(
                "{SOURCE}\n  transforms: [{{name: b, sql: SELECT 1, window: minute}}, {{name: c, sql: SELECT 1}}]\n  outputs: [{{from: b.late, sink: out}}, {{from: c.late, sink: out}}, {{from: c.errors, sink: out}}]"
            )),
        ),
        (
            "numbers",
            pipeline(
                "  parallelism: 129\n  checkpoints: {retain: 0, interval: 0s, timeout: -5s, memoryBudget: 1.5Gb}\n  suspend: 'true'\n  deployment: {replicas: 2.0, image: 7, volume: {size: 10GB}}",
            ),
        ),
        (
            "more numbers",
            pipeline(
                "  parallelism: 1_000\n  checkpoints: {retain: many, memoryBudget: -1}\n  deployment: {replicas: 99999999999999999999999999999999999999999}",
            ),
        ),
        ("places to store", pipeline("  checkpoints: {storage: 'S3://lake/x'}")),
        (
            "quantities of a pod",
            pipeline(
                "  deployment: {resources: {limits: {cpu: lots, memory: 1GB, ephemeral-storage: 1Gi}, requests: {cpu: -1, ephemeral-storage: 2048Mi}}}",
            ),
        ),
        (
            "resources of a pod",
            pipeline(
                "  deployment: {imagePullPolicy: always, resources: {limit: {cpu: 1}, requests: [cpu]}, template: [x]}",
            ),
        ),
        ("no window in a Window", window("{allowedLateness: 5s}")),
        ("two windows in a Window", window("{tumbling: {size: 1m}, session: {gap: 5m}}")),
        ("windows of nothing", window("{tumbling: {size: 0s}}")),
        ("a slide that is too long", window("{hopping: {size: 1m, slide: 2m}}")),
        ("a slide that is too short", window("{hopping: {size: 1d, slide: 1ms}}")),
        (
            "offsets",
            [
                window("{tumbling: {size: 1h, offset: 90m}}"),
                window("{hopping: {size: 1h, slide: 5m, offset: 5m}}").replace("it}", "two}"),
            ]
            .join("---\n"),
        ),
        (
            "a Window of another's fields",
            window("{hopping: {size: 1m}, rolling: {size: 1m}, alowedLateness: 5s, lateRows: Sideoutput}"),
        ),
        ("no destination", sink("{batch: {maxRows: 1}}")),
        ("a destination that is not there yet", sink("{kafka: {topic: x}}")),
        ("a file without a format", sink("{file: {path: /out}}")),
        ("what Parquet lacks", sink("{parquet: {partitionBy: [a, b, a], compression: zstd, compressionLevel: 30}}")),
        (
            "a level without Zstd",
            sink(
                "{delta: {uri: /out, compression: Snappy, compressionLevel: 3, schemaEvolution: AddColumn, logRetention: 1w}}",
            ),
        ),
        ("a batch for people", sink("{stdout: {}, batch: {maxRows: 5, maxBytes: 0, maxDelay: 1}}")),
        ("credentials in the open", sink("{delta: {uri: \"s3://lake/x\"}, credentials: {accessKey: abc}}")),
        ("tabs", text("apiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata:\n\tname: x\n")),
        (
            "a bracket that is not closed, and a good document after it",
            text("kind: [Pipeline\n---\napiVersion: v1\nkind: Pod\n"),
        ),
        ("a quote that is not closed", text("kind: \"Pipeline\nmetadata: {}\n")),
        ("a colon too many", text("apiVersion: v1: v2\n")),
        ("indentation", text("apiVersion: v1\n  kind: Pod\n")),
        ("a character that begins no text", text("apiVersion: @v1\n")),
        ("an unknown escape", text("a: \"\\d+\"\n")),
        ("an unknown anchor", text("apiVersion: v1\nkind: &kind Pod\nmetadata: {name: *kin}\n")),
        ("an alias inside what it names", text("a: &a [*a]\n")),
        (
            "merge keys",
            text(
                "apiVersion: millrace.dev/v1alpha1\nkind: Window\nmetadata: &m {name: x, <<: 5}\nspec: {tumbling: {<<: {sizes: 1m}, size: 1m}}\n",
            ),
        ),
        (
            "keys that are no texts",
            text(
                "apiVersion: millrace.dev/v1alpha1\nkind: Window\nmetadata: {name: x, [a]: b}\nspec: {tumbling: {size: 1m}}\n",
            ),
        ),
        ("a long line", sink(&format!("{{stdout: {{}}, {} colour: red}}", " ".repeat(200)))),
    ]
}

#[test]
fn each_bad_manifest_is_told_all_that_is_wrong_with_it() {
    let mut golden = String::new();
    for (name, text) in cases() {
        let _ = writeln!(golden, "==== {name}\n\n{}", said(&[("web.yaml", &text)]));
    }
    expect_file!["bad.txt"].assert_eq(&golden);
}

#[test]
fn problems_come_in_the_order_of_files_and_lines() {
    let (_, problems) = read(&[("z.yaml", window("{x: 1,\n y: 2}")), ("a.yaml", sink("{}"))]);
    let places: Vec<_> = problems.iter().map(Problem::place).collect();
    assert_eq!(places, ["z.yaml:4:7", "z.yaml:4:8", "z.yaml:5:2", "a.yaml:4:7"]);
}

#[test]
fn references_go_from_file_to_file() {
    let files = with(&format!("{SOURCE}\n  outputs: [{{from: a, sink: out}}]"));
    let parts: Vec<_> = files.split("---\n").enumerate().map(|(n, part)| (format!("{n}.yaml"), part)).collect();
    assert_eq!(read(&parts).1, []);
    let alone = read(&parts[..1]).1;
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0].message, "there is no Sink `out`");
}

#[test]
fn an_object_that_names_a_broken_one_is_not_whole() {
    let is_whole = |text: &str| read(&[("a.yaml", text)]).0.pipelines[0].is_whole();
    let good = transform("      sql: SELECT 1\n      window: minute");
    assert!(is_whole(&good));
    assert!(is_whole(&good.replace("outputs:", "parallelism: 0\n  outputs:")));
    assert!(!is_whole(&good.replace("{size: 1m}", "{size: 1x}")));
    assert!(!is_whole(&good.replace("name: b", "nam: b")));
    assert!(!is_whole(&good.replace("stdout", "stdou")));
}
