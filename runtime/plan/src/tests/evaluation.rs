//! Compiled expressions, run over small batches.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
        TimestampMillisecondArray,
    },
    compute::filter_record_batch,
    datatypes::SchemaRef,
    util::pretty::pretty_format_batches,
};
use expect_test::expect;

use super::*;
use crate::{Branch, NodeKind, SourceNode, Step, TransformNode};

/// The plan's source and the only transform.
fn parts(plan: &Plan) -> (&SourceNode, &TransformNode) {
    let source = plan.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Source(source) if !source.read.is_empty() => Some(source),
        _ => None,
    });
    let transform = plan.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Transform(transform) => Some(transform),
        _ => None,
    });
    (source.unwrap(), transform.unwrap())
}

/// Four bids, of the columns that the schema has.
fn bids(schema: &SchemaRef) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "_event_time" => {
                Arc::new(TimestampMillisecondArray::from(vec![0, 59_999, 60_000, 61_001]).with_timezone("UTC"))
            }
            "date_time" => Arc::new(
                TimestampMicrosecondArray::from(vec![0, 59_999_000, 60_000_000, 61_001_000]).with_timezone("UTC"),
            ),
            "auction" => Arc::new(Int64Array::from(vec![1, 2, 123, 246])),
            "bidder" => Arc::new(Int64Array::from(vec![10, 20, 10, 20])),
            "price" => Arc::new(Int64Array::from(vec![Some(5), Some(50), None, Some(5_000)])),
            "channel" => Arc::new(StringViewArray::from(vec!["Apple", "Google", "x", "baidu"])),
            "url" => Arc::new(StringViewArray::from(vec![
                "https://www.nexmark.com/a/b/c/item.htm?query=1",
                "https://www.nexmark.com/d/e/f/item.htm?query=1&channel_id=77",
                "",
                "https://www.nexmark.com/g",
            ])),
            _ => Arc::new(StringViewArray::from(vec!["", "abc", "c,c,c", "e"])),
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
}

fn run(mut batch: RecordBatch, steps: &[Step]) -> RecordBatch {
    for step in steps {
        let rows = batch.num_rows();
        batch = match step {
            Step::Filter(predicate) => {
                let kept = predicate.evaluate(&batch).unwrap().into_array(rows).unwrap();
                let kept = kept.as_any().downcast_ref::<BooleanArray>().unwrap();
                filter_record_batch(&batch, kept).unwrap()
            }
            Step::Project { exprs, schema } => {
                let columns = exprs.iter().map(|expr| expr.evaluate(&batch).unwrap().into_array(rows).unwrap());
                RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
            }
            Step::Unnest { .. } => panic!("there is no list here"),
        };
    }
    batch
}

/// What the stateless steps of a transform make of the bids.
fn evaluated(sql: &str) -> String {
    let plan = compiled(&transform(sql)).unwrap_or_else(|errors| panic!("{errors:?}"));
    let (source, transform) = parts(&plan);
    let batch = bids(&source.schema);
    let batch = match &source.filter {
        Some(filter) => run(batch, &[Step::Filter(Arc::clone(filter))]),
        None => batch,
    };
    let [Branch { steps, .. }] = transform.branches.as_slice() else { panic!("one branch") };
    let batch = run(batch, steps);
    let expected = transform.keyed.first().map_or(&transform.schema, |stage| stage.op.input());
    assert_eq!(batch.schema_ref(), expected);
    pretty_format_batches(&[batch]).unwrap().to_string()
}

fn check_rows(sql: &str, golden: expect_test::Expect) {
    golden.assert_eq(&evaluated(sql));
}

#[test]
fn expressions_give_what_sql_says() {
    check_rows(
        "t: SELECT auction, price * 2 AS twice, upper(channel) AS c, _event_time AS at, date_trunc('minute', date_time) AS m FROM bid WHERE price > 5",
        expect![[r#"
            +--------------------------+---------+-------+--------+--------------------------+----------------------+
            | _event_time              | auction | twice | c      | at                       | m                    |
            +--------------------------+---------+-------+--------+--------------------------+----------------------+
            | 1970-01-01T00:00:59.999Z | 2       | 100   | GOOGLE | 1970-01-01T00:00:59.999Z | 1970-01-01T00:00:00Z |
            | 1970-01-01T00:01:01.001Z | 246     | 10000 | BAIDU  | 1970-01-01T00:01:01.001Z | 1970-01-01T00:01:00Z |
            +--------------------------+---------+-------+--------+--------------------------+----------------------+"#]],
    );
}

#[test]
fn rows_to_be_ranked_get_their_windows_last_millisecond() {
    check_rows(
        "t window=minute: SELECT auction, price, window_start, window_end FROM bid ORDER BY price DESC LIMIT 1",
        expect![[r#"
            +--------------------------+---------+-------+----------------------+----------------------+
            | _event_time              | auction | price | window_start         | window_end           |
            +--------------------------+---------+-------+----------------------+----------------------+
            | 1970-01-01T00:00:59.999Z | 1       | 5     | 1970-01-01T00:00:00Z | 1970-01-01T00:01:00Z |
            | 1970-01-01T00:00:59.999Z | 2       | 50    | 1970-01-01T00:00:00Z | 1970-01-01T00:01:00Z |
            | 1970-01-01T00:01:59.999Z | 123     |       | 1970-01-01T00:01:00Z | 1970-01-01T00:02:00Z |
            | 1970-01-01T00:01:59.999Z | 246     | 5000  | 1970-01-01T00:01:00Z | 1970-01-01T00:02:00Z |
            +--------------------------+---------+-------+----------------------+----------------------+"#]],
    );
}

#[test]
fn keys_arguments_and_filters_are_computed_before_the_exchange() {
    check_rows(
        "t window=minute: SELECT auction % 2 AS odd, sum(price + 1) AS s, count(*) FILTER (WHERE bidder = 10) AS ten, approx_percentile_cont(price, 0.5) AS p FROM bid GROUP BY auction % 2",
        expect![[r#"
            +--------------------------+-------------+-----------+-------------+--------+-----+
            | _event_time              | auction % 2 | price + 1 | bidder = 10 | price  | 0.5 |
            +--------------------------+-------------+-----------+-------------+--------+-----+
            | 1970-01-01T00:00:00Z     | 1           | 6         | true        | 5.0    | 0.5 |
            | 1970-01-01T00:00:59.999Z | 0           | 51        | false       | 50.0   | 0.5 |
            | 1970-01-01T00:01:00Z     | 1           |           | true        |        | 0.5 |
            | 1970-01-01T00:01:01.001Z | 0           | 5001      | false       | 5000.0 | 0.5 |
            +--------------------------+-------------+-----------+-------------+--------+-----+"#]],
    );
}

#[test]
fn urls_are_taken_apart() {
    check_rows(
        "t: SELECT split_part(url, '/', 4) AS dir1, regexp_match(url, '(&|^)channel_id=([^&]*)')[2] AS channel_id FROM bid",
        expect![[r#"
            +--------------------------+------+------------+
            | _event_time              | dir1 | channel_id |
            +--------------------------+------+------------+
            | 1970-01-01T00:00:00Z     | a    |            |
            | 1970-01-01T00:00:59.999Z | d    | 77         |
            | 1970-01-01T00:01:00Z     |      |            |
            | 1970-01-01T00:01:01.001Z | g    |            |
            +--------------------------+------+------------+"#]],
    );
}

#[test]
fn event_time_can_be_compared() {
    check_rows(
        "t: SELECT auction FROM bid WHERE _event_time >= TIMESTAMP '1970-01-01T00:01:00Z'",
        expect![[r#"
        +--------------------------+---------+
        | _event_time              | auction |
        +--------------------------+---------+
        | 1970-01-01T00:01:00Z     | 123     |
        | 1970-01-01T00:01:01.001Z | 246     |
        +--------------------------+---------+"#]],
    );
}

#[test]
fn json_values_are_texts_where_a_transform_ends() {
    check_rows(
        "t: SELECT '{\"a\": {\"b\": [1, \"x\"]}, \"s\": \"y\"}'->'a' AS a, extra FROM bid WHERE price > 50",
        expect![[r#"
            +--------------------------+-----------------+-------+
            | _event_time              | a               | extra |
            +--------------------------+-----------------+-------+
            | 1970-01-01T00:01:01.001Z | {"b": [1, "x"]} | e     |
            +--------------------------+-----------------+-------+"#]],
    );
}

#[test]
fn a_count_that_leaves_the_bounds_in_one_row_only_is_an_error_of_the_task() {
    for call in ["lpad(channel, price * 1000)", "repeat('x', price * 1000)", "range(price * 1000)"] {
        let plan = compiled(&transform(&format!("t: SELECT auction, {call} AS x FROM bid"))).expect(call);
        let (source, transform) = parts(&plan);
        let batch = bids(&source.schema);
        let failed = transform.branches.iter().flat_map(|branch| &branch.steps).any(|step| match step {
            Step::Project { exprs, .. } => exprs.iter().any(|expr| {
                let error = expr.evaluate(&batch).err().map(|error| error.to_string()).unwrap_or_default();
                error.contains("would make a value of 5000000 ") && error.contains("may make one of 1048576")
            }),
            _ => false,
        });
        assert!(failed, "{call}");
    }
}

#[test]
fn arithmetic_that_leaves_its_type_is_an_error_and_no_wrong_number() {
    let failure = |list: &str| {
        let plan = compiled(&transform(&format!("t: SELECT auction, {list} AS x FROM bid"))).expect(list);
        let (source, transform) = parts(&plan);
        let batch = bids(&source.schema);
        let exprs = transform.branches.iter().flat_map(|branch| &branch.steps).flat_map(|step| match step {
            Step::Project { exprs, .. } => exprs.as_slice(),
            _ => &[],
        });
        exprs.map(|expr| expr.evaluate(&batch)).find_map(Result::err).map(|error| error.strip_backtrace())
    };
    for list in [
        "price * 9223372036854775807",
        "price + 9223372036854775000",
        "-9000000000000000000 - price * 1000000000000000",
        "CAST(price AS INT) * CAST(1000000 AS INT)",
        "abs(price + 9223372036854775000)",
        "9223372036854775000 + price",
        "1000000000000000000 * price",
        "1000000000000 * (auction + price) * (1000000 + price)",
        "(price + 1000000000) * price * price * (price + 100000000)",
        "-9223372036854775000 - price - price",
        "CASE WHEN 9223372036854775000 + price > 0 THEN price ELSE auction END",
    ] {
        let error = failure(list).unwrap_or_else(|| panic!("{list} is a number"));
        assert!(error.contains("Overflow happened on"), "{list}: {error}");
    }
    for list in [
        "price * 1000000000000000",
        "CAST(price AS DECIMAL(38, 0)) * 9223372036854775807",
        "CAST(price AS DOUBLE) * 9223372036854775807",
        "CASE WHEN price < 10 THEN price * 1000000000000000000 END",
        "date_time + INTERVAL '1 day'",
        "date_time - date_time",
    ] {
        assert_eq!(failure(list), None, "{list}");
    }
}
