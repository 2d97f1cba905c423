//! The class of an edit, and why.

use expect_test::{Expect, expect};

use millrace_crds::PipelineSpec;

use super::*;
use crate::{diff, unknown_losses};

/// The transforms that the edits begin with.
const BEFORE: [&str; 3] = [
    "errors: SELECT tenant, status, latency_ms FROM requests WHERE status >= 500",
    "t window=minute: SELECT tenant, count(*) AS n FROM errors GROUP BY tenant",
    "plain: SELECT auction, price FROM bid WHERE price > 10",
];

fn before() -> String {
    pipeline(&BEFORE, &["t > out", "plain > lake"])
}

fn check_edit(old: &str, new: &str, golden: Expect) {
    let edit = diff(&compiled(old).unwrap(), &compiled(new).unwrap());
    let mut text = format!("{:?}\n", edit.class);
    for change in &edit.nodes {
        text.push_str(&format!("{:?} {}: {}\n", change.class, change.node, change.why));
    }
    golden.assert_eq(&text);
}

/// The pipeline with the transforms' SQL changed.
fn edited(from: &str, to: &str) -> String {
    let yaml = before();
    assert!(yaml.contains(from), "{from} is not in the manifests");
    yaml.replace(from, to)
}

#[test]
fn nothing_changed_asks_for_nothing() {
    check_edit(
        &before(),
        &before(),
        expect![[r#"
        None
    "#]],
    );
}

#[test]
fn a_filter_changes_in_the_running_pipeline() {
    check_edit(
        &before(),
        &edited("status >= 500", "status >= 400"),
        expect![[r#"
        Hot
        Hot requests: the filter that its reader pushed down changes
    "#]],
    );
}

#[test]
fn a_column_more_is_decoded_from_then_on() {
    check_edit(
        &before(),
        &edited("SELECT auction, price FROM bid", "SELECT auction, price, bidder FROM bid"),
        expect![[r#"
            Hot
            Hot bid: reads bidder is new
            Hot plain: its columns: bidder BIGINT is new
            Hot plain->lake: the column `bidder` is new to the Sink; a Delta table that lacks it refuses the edit, unless `schemaEvolution: AddColumns` adds it
        "#]],
    );
    check_edit(
        &before(),
        &edited("SELECT auction, price FROM bid", "SELECT auction, price, bidder, channel FROM bid"),
        expect![[r#"
            Hot
            Hot bid: reads bidder is new, channel is new
            Hot plain: its columns: bidder BIGINT is new, channel VARCHAR is new
            Hot plain->lake: the columns `bidder`, `channel` are new to the Sink; a Delta table that lacks them refuses the edit, unless `schemaEvolution: AddColumns` adds them
        "#]],
    );
}

#[test]
fn a_new_branch_begins() {
    check_edit(
        &before(),
        &pipeline(
            &[BEFORE[0], BEFORE[1], BEFORE[2], "more: SELECT tenant FROM errors"],
            &["t > out", "plain > lake", "more > rows"],
        ),
        expect![[r#"
            Hot
            Hot more: a new transform
            Hot more->rows: a new sink
        "#]],
    );
}

#[test]
fn a_stateless_branch_may_go() {
    check_edit(
        &before(),
        &pipeline(&BEFORE[..2], &["t > out"]),
        expect![[r#"
        Hot
        Hot bid: the source is gone
        Hot plain: the transform is gone
        Hot plain->lake: the sink is gone
    "#]],
    );
}

#[test]
fn a_window_of_another_length_begins_at_the_next_boundary() {
    check_edit(
        &before(),
        &edited("tumbling: {size: 1m}}", "tumbling: {size: 1h}}"),
        expect![[r#"
        Hot
        Hot t: the window changes from `tumbling, 1m long; late rows are dropped` to `tumbling, 1h long; late rows are dropped`, from the next instant at which windows of both begin (one every 1h); those that began before it end as they were
    "#]],
    );
}

#[test]
fn overlapping_windows_may_follow_others_and_the_other_way_round() {
    check_edit(
        &before(),
        &edited("window: minute", "window: hopping"),
        expect![[r#"
        Hot
        Hot t: the window changes from `tumbling, 1m long; late rows are dropped` to `hopping, 10s long, one every 2s; late rows go to .late`, from the next instant at which windows of both begin (one every 1m); those that began before it end as they were
    "#]],
    );
    check_edit(
        &edited("window: minute", "window: hopping"),
        &before(),
        expect![[r#"
        Hot
        Hot t: the window changes from `hopping, 10s long, one every 2s; late rows go to .late` to `tumbling, 1m long; late rows are dropped`, from the next instant at which windows of both begin (one every 1m); those that began before it end as they were
    "#]],
    );
}

#[test]
fn windows_that_never_begin_together_would_drop_state() {
    let shifted = edited("tumbling: {size: 1m}}", "tumbling: {size: 1m, offset: 30s}}");
    check_edit(
        &before(),
        &shifted,
        expect![[r#"
        Refused
        Refused t: the window changes from `tumbling, 1m long; late rows are dropped` to `tumbling, 1m long, shifted by 30s; late rows are dropped`, but windows of both never begin at the same instant, at which the one could follow the other: choose an `offset` with which they do. Otherwise the state of `t` would be dropped; to drop it, name `t` in `allowStateLoss`
    "#]],
    );
    let lost = shifted.replace("  outputs:\n", "  allowStateLoss: [t]\n  outputs:\n");
    check_edit(
        &before(),
        &lost,
        expect![[r#"
        Hot
        Hot t: the window changes from `tumbling, 1m long; late rows are dropped` to `tumbling, 1m long, shifted by 30s; late rows are dropped`; its state is dropped, as `allowStateLoss` says
    "#]],
    );
}

#[test]
fn a_range_or_a_gap_changes_for_the_rows_to_come() {
    let rolling = ["t window=trailing: SELECT tenant, count(*) OVER (PARTITION BY tenant) AS n FROM requests"];
    let yaml = pipeline(&rolling, &["t > out"]);
    check_edit(
        &yaml,
        &yaml.replace("range: 10s", "range: 1m"),
        expect![[r#"
        Hot
        Hot t: the window changes from `rolling over 10s; late rows are dropped` to `rolling over 1m; late rows are dropped`, for the rows that are later than all so far; a longer range begins with what is still remembered
    "#]],
    );
    let sessions = ["t window=visit: SELECT tenant, count(*) AS n FROM requests GROUP BY tenant"];
    let yaml = pipeline(&sessions, &["t > out"]);
    check_edit(
        &yaml,
        &yaml.replace("gap: 10s", "gap: 1m"),
        expect![[r#"
        Hot
        Hot t: the window changes from `sessions, ended by 10s of silence; late rows are dropped` to `sessions, ended by 1m of silence; late rows are dropped`, for sessions that begin later than all rows so far; those that are open keep their gap
    "#]],
    );
}

#[test]
fn overlapping_windows_that_are_ranked_take_over_unless_they_become_shorter() {
    let ranked = [
        "t window=hopping: SELECT tenant, count(*) AS n FROM requests GROUP BY tenant ORDER BY n DESC LIMIT 3",
        "u window=hopping: SELECT tenant, count(*) AS n FROM requests GROUP BY tenant",
        "v: SELECT * FROM u WHERE n > 1",
        "w: SELECT * FROM v ORDER BY n DESC LIMIT 3",
    ];
    let yaml = pipeline(&ranked, &["t > out", "w > out"]);
    check_edit(
        &yaml,
        &yaml.replace("slide: 2s", "slide: 5s"),
        expect![[r#"
        Hot
        Hot t: the window changes from `hopping, 10s long, one every 2s; late rows go to .late` to `hopping, 10s long, one every 5s; late rows go to .late`, from the next instant at which windows of both begin (one every 10s); those that began before it end as they were
        Hot u: the window changes from `hopping, 10s long, one every 2s; late rows go to .late` to `hopping, 10s long, one every 5s; late rows go to .late`, from the next instant at which windows of both begin (one every 10s); those that began before it end as they were
    "#]],
    );
    check_edit(
        &yaml,
        &yaml.replace("size: 10s, slide: 2s", "size: 8s, slide: 2s"),
        expect![[r#"
        Refused
        Refused t: the window changes from `hopping, 10s long, one every 2s; late rows go to .late` to `hopping, 8s long, one every 2s; late rows go to .late`, but its rows are ranked window by window, and windows of both would end at the same instant. The state of `t` would have to be dropped; to drop it, name `t` in `allowStateLoss`
        Refused u: the window changes from `hopping, 10s long, one every 2s; late rows go to .late` to `hopping, 8s long, one every 2s; late rows go to .late`, but its rows are ranked window by window, and windows of both would end at the same instant. The state of `u` would have to be dropped; to drop it, name `u` in `allowStateLoss`
    "#]],
    );
    let tumbling = yaml.replace("window: hopping", "window: minute");
    check_edit(
        &tumbling,
        &tumbling.replace("tumbling: {size: 1m}}", "tumbling: {size: 2m}}"),
        expect![[r#"
        Hot
        Hot t: the window changes from `tumbling, 1m long; late rows are dropped` to `tumbling, 2m long; late rows are dropped`, from the next instant at which windows of both begin (one every 2m); those that began before it end as they were
        Hot u: the window changes from `tumbling, 1m long; late rows are dropped` to `tumbling, 2m long; late rows are dropped`, from the next instant at which windows of both begin (one every 2m); those that began before it end as they were
    "#]],
    );
}

#[test]
fn another_window_under_rows_that_are_ranked_would_drop_state() {
    let ranked = ["t window=minute: SELECT tenant, latency_ms FROM requests ORDER BY latency_ms DESC LIMIT 3"];
    let yaml = pipeline(&ranked, &["t > out"]);
    check_edit(
        &yaml,
        &yaml.replace("tumbling: {size: 1m}}", "tumbling: {size: 2m}}"),
        expect![[r#"
        Refused
        Refused t: what is remembered changes from `top by nothing in windows of 1m order latency_ms desc: tenant VARCHAR, latency_ms DOUBLE` to `top by nothing in windows of 2m order latency_ms desc: tenant VARCHAR, latency_ms DOUBLE`, which would drop the state of `t`; to drop it, name `t` in `allowStateLoss`
    "#]],
    );
}

#[test]
fn another_kind_of_window_would_drop_state() {
    check_edit(
        &before(),
        &edited("window: minute", "window: visit"),
        expect![[r#"
        Refused
        Refused t: what is remembered changes from `sliced window by tenant VARCHAR: count(*) as BIGINT` to `session window by tenant VARCHAR: count(*) as BIGINT`, which would drop the state of `t`; to drop it, name `t` in `allowStateLoss`
    "#]],
    );
}

#[test]
fn an_aggregate_more_would_drop_state() {
    check_edit(
        &before(),
        &edited("count(*) AS n", "count(*) AS n, max(latency_ms) AS m"),
        expect![[r#"
        Refused
        Hot requests: reads latency_ms is new
        Hot errors: its columns: latency_ms DOUBLE is new
        Refused t: what is remembered changes from `sliced window by tenant VARCHAR: count(*) as BIGINT` to `sliced window by tenant VARCHAR: count(*) as BIGINT; max(latency_ms) as DOUBLE`, which would drop the state of `t`; to drop it, name `t` in `allowStateLoss`
        Hot t: its columns: m DOUBLE is new
        Hot t->out: its columns: m DOUBLE is new
    "#]],
    );
}

#[test]
fn another_name_for_a_result_keeps_state() {
    check_edit(
        &before(),
        &edited("count(*) AS n", "count(*) AS m"),
        expect![[r#"
        Hot
        Hot t: its columns: m BIGINT is new, n BIGINT is gone
        Hot t->out: its columns: m BIGINT is new, n BIGINT is gone
    "#]],
    );
}

#[test]
fn another_key_would_drop_state() {
    check_edit(
        &before(),
        &edited(
            "SELECT tenant, count(*) AS n FROM errors GROUP BY tenant",
            "SELECT status, count(*) AS n FROM errors GROUP BY status",
        ),
        expect![[r#"
            Refused
            Hot requests: reads tenant is gone
            Hot errors: its columns: status INT is new, tenant VARCHAR is gone
            Refused t: what is remembered changes from `sliced window by tenant VARCHAR: count(*) as BIGINT` to `sliced window by status INT: count(*) as BIGINT`, which would drop the state of `t`; to drop it, name `t` in `allowStateLoss`
            Hot t: its columns: status INT is new, tenant VARCHAR is gone
            Hot t->out: its columns: status INT is new, tenant VARCHAR is gone
        "#]],
    );
}

#[test]
fn a_renamed_keyed_transform_would_drop_state() {
    check_edit(
        &before(),
        &edited("name: t\n", "name: tt\n").replace("from: t,", "from: tt,"),
        expect![[r#"
        Refused
        Hot tt: a new transform
        Hot tt->out: a new sink
        Refused t: the transform is gone, or has another name, which would drop the state of `t`; to drop it, name `t` in `allowStateLoss`
        Hot t->out: the sink is gone
    "#]],
    );
}

#[test]
fn state_may_be_dropped_where_the_spec_says_so() {
    check_edit(
        &before(),
        &edited("count(*) AS n", "count(*) AS n, max(latency_ms) AS m")
            .replace("  outputs:\n", "  allowStateLoss: [t]\n  outputs:\n"),
        expect![[r#"
            Hot
            Hot requests: reads latency_ms is new
            Hot errors: its columns: latency_ms DOUBLE is new
            Hot t: what is remembered changes from `sliced window by tenant VARCHAR: count(*) as BIGINT` to `sliced window by tenant VARCHAR: count(*) as BIGINT; max(latency_ms) as DOUBLE`; its state is dropped, as `allowStateLoss` says
            Hot t: its columns: m DOUBLE is new
            Hot t->out: its columns: m DOUBLE is new
        "#]],
    );
}

#[test]
fn parallelism_rescales() {
    check_edit(
        &before(),
        &edited("  outputs:\n", "  parallelism: 4\n  outputs:\n"),
        expect![[r#"
        Rescale
        Rescale example: parallelism from 1 to 4
    "#]],
    );
}

#[test]
fn a_new_image_restarts() {
    check_edit(
        &before(),
        &edited("  outputs:\n", "  deployment: {image: \"millrace:2\"}\n  outputs:\n"),
        expect![[r#"
            Restart
            Restart example: pods are made anew: `image` of `deployment` changes
        "#]],
    );
}

#[test]
fn a_renamed_source_would_forget_where_it_was() {
    check_edit(
        &before(),
        &edited("name: bid\n", "name: bids\n").replace("FROM bid ", "FROM bids "),
        expect![[r#"
        Refused
        Refused bids: the source was called `bid`, and where it was read to follows its name; to begin anew, name `bid` in `allowStateLoss`
        Hot plain: its inputs: bids is new, bid is gone
        Hot bid: the source is gone
    "#]],
    );
}

#[test]
fn another_connector_cannot_go_on_where_the_first_was() {
    check_edit(
        &before(),
        &edited("file: {paths: [\"/logs/*.ndjson\"]}", "stdin: {}"),
        expect![[r#"
        Refused
        Refused requests: the connector changes from file to stdin, and where the one was read to means nothing to the other; to begin anew, name `requests` in `allowStateLoss`
    "#]],
    );
}

#[test]
fn the_partitioning_of_a_delta_table_cannot_change() {
    check_edit(
        &before(),
        &edited("delta: {uri: \"file:///out/lake\"}", "delta: {uri: \"file:///out/lake\", partitionBy: [auction]}")
            .replace("SELECT auction, price FROM bid", "SELECT auction, price, bidder FROM bid"),
        expect![[r#"
            Refused
            Hot bid: reads bidder is new
            Hot plain: its columns: bidder BIGINT is new
            Refused plain->lake: a Delta table's partitioning cannot change; write to another `uri`
            Hot plain->lake: the column `bidder` is new to the Sink; a Delta table that lacks it refuses the edit, unless `schemaEvolution: AddColumns` adds it
        "#]],
    );
}

#[test]
fn a_sink_moves_to_another_place_with_the_next_epoch() {
    check_edit(
        &before(),
        &edited("file:///out/lake", "file:///out/other"),
        expect![[r#"
        Hot
        Hot plain->lake: from delta file:///out/lake to delta file:///out/other with the next epoch
    "#]],
    );
}

/// A source with another generator, or what a source of files says, changed.
fn edited_source(from: &str, to: &str) -> String {
    let edit = diff(&compiled(&before()).unwrap(), &compiled(&edited(from, to)).unwrap());
    let source = edit.nodes.iter().find(|change| ["bid", "requests"].contains(&change.node.as_str())).unwrap();
    format!("{:?} {}: {}\n", source.class, source.node, source.why)
}

#[test]
fn a_source_whose_replay_point_would_mean_something_else_is_refused() {
    let generator = "generator: {nexmark: {stream: Bid}}";
    let mut golden = String::new();
    for to in [
        "generator: {seed: 7, nexmark: {stream: Bid}}",
        "generator: {nexmark: {stream: Bid, eventsPerSecond: 5}}",
        "generator: {rate: 7, rows: 9, nexmark: {stream: Bid}}",
    ] {
        golden.push_str(&edited_source(generator, to));
    }
    let file = "file: {paths: [\"/logs/*.ndjson\"]}";
    for to in ["file: {paths: [\"/more/*.ndjson\"]}", "file: {paths: [\"/logs/*.ndjson\"], compression: Gzip}"] {
        golden.push_str(&edited_source(file, to));
    }
    golden.push_str(&edited_source("format: {json: {}}\n      columns", "format: {parquet: {}}\n      columns"));
    expect![[r#"
        Refused bid: `seed` changes, and with it every row that the generator makes, the ones before included; to begin anew, name `bid` in `allowStateLoss`
        Refused bid: `nexmark` changes, and with it every row that the generator makes, the ones before included; to begin anew, name `bid` in `allowStateLoss`
        Hot bid: `generator` changes
        Hot requests: `file` changes
        Refused requests: `compression` changes, and offsets are counted in what is unpacked; to begin anew, name `requests` in `allowStateLoss`
        Refused requests: Parquet files are read by rows and others by bytes, so an offset means something else; to begin anew, name `requests` in `allowStateLoss`
    "#]].assert_eq(&golden);
}

#[test]
fn a_source_is_begun_anew_where_its_loss_is_allowed() {
    let new = edited("generator: {nexmark", "generator: {seed: 7, nexmark") + "  allowStateLoss: [bid]\n";
    check_edit(
        &before(),
        &new,
        expect![[r#"
        Hot
        Hot bid: `seed` changes, and with it every row that the generator makes, the ones before included; it is read from its beginning, as `allowStateLoss` says
    "#]],
    );
}

#[test]
fn names_in_allow_state_loss_that_neither_plan_has_are_told() {
    let allowing = |names: &str| {
        let spec = compiled(&(before() + &format!("  allowStateLoss: [{names}]\n"))).unwrap().spec;
        spec.pipeline
    };
    let told = |new: &str, old: Option<&PipelineSpec>| {
        unknown_losses(&allowing(new), old).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(told("bid, t", None).is_empty());
    let mut old = allowing("t");
    old.sources[0].name = "gone".to_owned();
    assert!(told("gone, t", Some(&old)).is_empty());
    let nobody = "and no source or transform is called so, now or in the plan before";
    assert_eq!(told("t, gone", None), [format!("`allowStateLoss` names `gone`, {nobody}")]);
    let bids = unknown_losses(&allowing("t, bids"), Some(&old));
    assert_eq!(bids[0].path, "spec.allowStateLoss[1]");
    assert_eq!(bids[0].to_string(), format!("`allowStateLoss` names `bids`, {nobody}; did you mean `bid`?"));
}
