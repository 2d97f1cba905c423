//! What is refused, and how it is said.

use expect_test::expect;

use super::*;

#[test]
fn sql_that_does_not_parse_says_where() {
    check(
        &transform("t: SELECT auction\nFROM bid WHERE"),
        expect![[r#"
            spec.transforms[0].sql:2:10: the SQL ends too early; expected an expression
        "#]],
    );
}

#[test]
fn every_statement_but_one_select_is_refused() {
    check(
        &pipeline(
            &[
                "a: INSERT INTO bid VALUES (1)",
                "b: SELECT 1",
                "c: SELECT auction FROM bid; SELECT price FROM bid",
                "d: VALUES (1)",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:1: a transform is a SELECT, not INSERT; expected one SELECT
            spec.transforms[1].sql:1:1: a SELECT without FROM has no rows; expected FROM and the name of a source or transform
            spec.transforms[1].sql:1:8: `1` has no name; expected a name: `1 AS …`
            spec.transforms[2].sql:1:26: a transform is one SELECT, and here are several statements; expected one SELECT
            spec.transforms[3].sql:1:1: VALUES cannot stand in a transform; expected a SELECT
        "#]],
    );
}

#[test]
fn an_unterminated_string_says_where() {
    check(
        &transform("t: SELECT auction FROM bid WHERE channel = 'x"),
        expect![[r#"
        spec.transforms[0].sql:1:41: the SQL does not parse: unterminated string literal
    "#]],
    );
}

#[test]
fn an_unknown_table_is_told_with_those_there_are() {
    check(
        &transform("t: SELECT auction\nFROM bids"),
        expect![[r#"
        spec.transforms[0].sql:2:6: there is no source or transform `bids`; expected one of: `bid`, `requests`; did you mean `bid`?
    "#]],
    );
}

#[test]
fn a_circle_is_named() {
    check(
        &pipeline(
            &["a: SELECT * FROM c", "b: SELECT * FROM a", "c: SELECT * FROM b", "d: SELECT * FROM a"],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:15: transforms read each other in a circle: a reads c reads b reads a; expected inputs that come, in the end, from sources
        "#]],
    );
}

#[test]
fn a_transform_that_reads_itself_is_a_circle() {
    check(
        &transform("t: SELECT * FROM t"),
        expect![[r#"
        spec.transforms[0].sql:1:15: transforms read each other in a circle: t reads t; expected inputs that come, in the end, from sources
    "#]],
    );
}

#[test]
fn unknown_columns_are_told_all_at_once_with_those_there_are() {
    check(
        &transform("t: SELECT auctoin, bidder\nFROM bid\nWHERE prize > 3"),
        expect![[r#"
        spec.transforms[0].sql:1:8: there is no column `auctoin`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `auction`?
        spec.transforms[0].sql:3:7: there is no column `prize`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `price`?
    "#]],
    );
}

#[test]
fn a_misspelled_column_of_a_window_is_told_as_such() {
    check(
        &transform("t: SELECT windowstart FROM bid"),
        expect![[r#"
        spec.transforms[0].sql:1:8: there is no column `windowstart`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `window_start`?
    "#]],
    );
}

#[test]
fn an_unknown_column_of_a_subquery_is_told() {
    check(
        &transform("t: SELECT s.auctoin FROM (SELECT auction FROM bid) AS s"),
        expect![[r#"
            spec.transforms[0].sql:1:8: there is no column `auctoin`; expected one of the columns: `auction`; did you mean `auction`?
        "#]],
    );
}

#[test]
fn an_unknown_function_is_told_with_the_nearest() {
    check(
        &transform("t: SELECT uper(channel) AS c, md6(channel) AS d FROM bid"),
        expect![[r#"
        spec.transforms[0].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
        spec.transforms[0].sql:1:28: there is no function `md6`; expected one of DataFusion's functions or its JSON functions; did you mean `md5`?
    "#]],
    );
}

#[test]
fn type_errors_are_told() {
    check(
        &pipeline(
            &[
                "a: SELECT auction + channel AS x FROM bid",
                "b: SELECT upper(price) AS u FROM bid",
                "c: SELECT auction FROM bid WHERE price",
                "d window=minute: SELECT sum(channel) AS s FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
            spec.transforms[1].sql:1:8: there is no `upper(BIGINT)`; expected upper(VARCHAR)
            spec.transforms[2].sql:1:31: cannot create filter with non-boolean predicate 'bid.price' returning BIGINT
            spec.transforms[3].sql:1:8: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        "#]],
    );
}

#[test]
fn joins_are_not_yet_supported() {
    check(
        &pipeline(
            &[
                "a: SELECT * FROM bid JOIN requests ON true",
                "b: SELECT * FROM bid, requests",
                "c: SELECT auction FROM bid WHERE auction IN (SELECT status FROM requests)",
                "d: SELECT * FROM requests CROSS JOIN UNNEST(tags) AS t(tag)",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:24: joins are not yet supported; expected one input, or a UNION ALL of several
            spec.transforms[1].sql:1:20: joins are not yet supported; expected one input, or a UNION ALL of several
            spec.transforms[2].sql:1:31: a subquery in an expression is a join, which is not yet supported; expected a subquery in FROM
            spec.transforms[3].sql:1:42: joins are not yet supported; expected one input, or a UNION ALL of several
            spec.transforms[3].sql:1:35: UNNEST in FROM is a join, which is not yet supported; expected unnest(column) in the select list
        "#]],
    );
}

#[test]
fn union_without_all_and_other_set_operations_are_refused() {
    check(
        &pipeline(
            &[
                "a: SELECT auction FROM bid UNION SELECT bidder FROM bid",
                "b: SELECT auction FROM bid EXCEPT SELECT bidder FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:25: UNION without ALL would have to remember every row; expected UNION ALL
            spec.transforms[1].sql:1:25: EXCEPT of streams would never be complete; expected UNION ALL, or a filter
        "#]],
    );
}

#[test]
fn order_by_and_limit_need_a_window() {
    check(
        &pipeline(
            &[
                "a: SELECT auction FROM bid ORDER BY price LIMIT 3",
                "b: SELECT auction FROM bid ORDER BY price",
                "c: SELECT auction FROM bid LIMIT 3",
                "d window=minute: SELECT auction, count(*) AS n FROM bid GROUP BY auction ORDER BY n",
                "e window=minute: SELECT auction, count(*) AS n FROM bid GROUP BY auction ORDER BY n LIMIT 3 OFFSET 2",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:25: the first rows of a stream are known only where it is cut into windows; expected a `window` (tumbling, or with GROUP BY), or the output of a tumbling or hopping one as the input
            spec.transforms[1].sql:1:25: a stream has no end at which it could be sorted; expected ORDER BY with LIMIT, which gives the first rows of each window
            spec.transforms[2].sql:1:25: LIMIT without ORDER BY would keep any rows; expected ORDER BY … LIMIT, which gives the first rows of each window
            spec.transforms[3].sql:1:57: a stream has no end at which it could be sorted; expected ORDER BY with LIMIT, which gives the first rows of each window
            spec.transforms[4].sql:1:76: OFFSET makes no sense for a stream; expected LIMIT alone
        "#]],
    );
}

#[test]
fn row_number_needs_a_bound_and_an_order() {
    check(
        &pipeline(
            &[
                "a window=minute: SELECT auction, row_number() OVER (PARTITION BY auction ORDER BY price) AS n FROM bid",
                "b window=minute: SELECT * FROM (SELECT auction, row_number() OVER (PARTITION BY auction) AS n FROM bid) WHERE n <= 2",
                "c window=minute: SELECT * FROM (SELECT auction, rank() OVER (ORDER BY price) AS n FROM bid) WHERE n <= 2",
                "d: SELECT auction, lag(price) AS before FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:17: ROW_NUMBER() without a bound would have to remember every row; expected `WHERE` that name `<= n` in the SELECT around it
            spec.transforms[1].sql:1:32: ROW_NUMBER() without ORDER BY would number the rows anyhow; expected ORDER BY inside OVER (…)
            spec.transforms[2].sql:1:32: `rank` OVER (…) is not supported here; expected ROW_NUMBER()
            spec.transforms[3].sql:1:17: `lag` is a window function, and nothing says what it goes OVER; expected an aggregate, or ROW_NUMBER() OVER (PARTITION BY …) with `<= n` around it
        "#]],
    );
}

#[test]
fn window_columns_are_there_only_in_windows() {
    check(
        &pipeline(
            &[
                "a: SELECT window_start FROM bid",
                "b: SELECT auction, window_start, count(*) AS n FROM bid GROUP BY auction",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: `window_start` is there only where a transform with a `window` groups; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[1].sql:1:17: `window_start` is there only where a transform with a `window` groups; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        "#]],
    );
}

#[test]
fn a_window_that_nothing_uses_is_refused() {
    check(
        &pipeline(&["a window=minute: SELECT auction FROM bid", "b within=1m: SELECT auction FROM bid"], &["a > out"]),
        expect![[r#"
            spec.transforms[0].sql:1:1: `window: minute` is named, and nothing in the SELECT is windowed; expected an aggregate, GROUP BY, or ORDER BY with LIMIT; or no `window`
            spec.transforms[1].sql:1:1: `within` is set, and nothing in the SELECT drops repeats; expected SELECT DISTINCT ON (…), or no `within`
        "#]],
    );
}

#[test]
fn a_changelog_goes_only_to_sinks_that_take_it() {
    check(
        &pipeline(
            &["t: SELECT auction, count(*) AS n FROM bid GROUP BY auction"],
            &["t > lake", "t > table", "t > rows"],
        ),
        expect![[r#"
            spec.outputs[0].from: the rows are a changelog (rows are corrected and taken back), which this sink cannot carry; expected stdout, or file with format: {json: {}}; or a window, whose results are final
            spec.outputs[1].from: the rows are a changelog (rows are corrected and taken back), which this sink cannot carry; expected stdout, or file with format: {json: {}}; or a window, whose results are final
        "#]],
    );
}

#[test]
fn a_changelog_goes_only_to_transforms_that_take_it() {
    check(
        &pipeline(
            &[
                "r: SELECT auction, count(*) AS n FROM bid GROUP BY auction",
                "a window=minute: SELECT sum(n) AS s FROM r",
                "b: SELECT n FROM r",
                "c: SELECT auction, n FROM r WHERE n > 3",
                "d: SELECT auction, count(*) AS n FROM bid GROUP BY auction HAVING count(*) > 3",
                "e: SELECT auction, n FROM r UNION ALL SELECT auction, price FROM bid",
            ],
            &["r > out"],
        ),
        expect![[r#"
            spec.transforms[1].sql:1:1: the rows of a running aggregate change, and cannot be grouped, ranked or joined again; expected a windowed aggregate as the input
            spec.transforms[2].sql:1:1: without its key `auction`, a changed row cannot be found again; expected `auction` in the select list, as it is
            spec.transforms[3].sql:1:26: a filter on a value that a running aggregate changes would lose what becomes of a row; expected a filter on the columns of its key, or a `window`
            spec.transforms[4].sql:1:57: a filter on a value that a running aggregate changes would lose what becomes of a row; expected a filter on the columns of its key, or a `window`
            spec.transforms[5].sql:1:26: the rows of a running aggregate cannot be united with others
        "#]],
    );
}

#[test]
fn results_that_may_be_corrected_cannot_be_windowed_again() {
    check(
        &pipeline(
            &[
                "m window=corrected: SELECT auction, count(*) AS n FROM bid GROUP BY auction",
                "h window=hour: SELECT sum(n) AS n FROM m",
                "top: SELECT auction FROM m ORDER BY n DESC LIMIT 1",
            ],
            &["h > out"],
        ),
        expect![[r#"
            spec.transforms[1].sql:1:20: its input comes from a window with `allowedLateness`, whose results may be corrected later; expected an input whose window has no `allowedLateness`
            spec.transforms[2].sql:1:23: rows of a window with `allowedLateness` may be corrected after they were ranked; expected a window without `allowedLateness`
        "#]],
    );
}

#[test]
fn side_outputs_are_there_only_where_asked_for() {
    check(
        &pipeline(
            &["t window=minute: SELECT count(*) AS n FROM bid", "s: SELECT auction FROM bid"],
            &["t.late > out", "s.late > out", "bid.errors > out", "t.errors > out", "bid.late > out", "nothing > out"],
        ),
        expect![[r#"
            spec.outputs[0].from: the Window `minute` drops late rows; expected `lateRows: SideOutput` in the Window
            spec.outputs[1].from: the transform `s` has neither a window nor `within`, so no row is late; expected `.late` of a transform with a `window`, or with DISTINCT and `within`
            spec.outputs[2].from: the source `bid` keeps no bad rows; expected `onError: DeadLetter` at the source
            spec.outputs[3].from: `t.errors`: only sources have rows that cannot be decoded; expected `.errors` of a source
            spec.outputs[4].from: `bid.late`: a source has no late rows; expected `.late` of a transform with a `window`, or with DISTINCT and `within`
            spec.outputs[5].from: there is no source or transform `nothing`; expected one of: `bid`, `requests`, `t`, `s`
        "#]],
    );
}

#[test]
fn only_outputs_take_side_outputs() {
    check(
        &transform("t: SELECT * FROM requests.errors"),
        expect![[r#"
        spec.transforms[0].sql:1:15: `requests.errors` is no table: sources and transforms have plain names; expected a plain name; only `outputs` can take `.late` and `.errors`
    "#]],
    );
}

#[test]
fn unknown_windows_and_sinks_stand_beside_errors_in_sql() {
    check(
        &pipeline(
            &["t window=minit: SELECT auction, count(*) AS n FROM bid GROUP BY auction", "s: SELECT x FROM bid"],
            &["s > owt"],
        ),
        expect![[r#"
            spec.transforms[0].window: there is no Window `minit`; expected the name of a Window: `corrected`, `hopping`, `hour`, `minute`, `ten-seconds`, `trailing`, `visit`; did you mean `minute`?
            spec.transforms[1].sql:1:8: there is no column `x`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.outputs[0].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
        "#]],
    );
}

#[test]
fn sinks_that_cannot_carry_a_column_say_so() {
    check(
        &pipeline(
            &["t: SELECT tags, body->'x' AS j, status FROM requests", "u: SELECT tags, tenant FROM requests"],
            &["t > lake", "u > table", "u > by-day"],
        ),
        expect![[r#"
            spec.outputs[1].from: CSV cannot carry the column `tags` of type VARCHAR[]; expected a plain column, such as array_to_string(…) makes of a list, or `format: {json: {}}`
            spec.outputs[2].sink: parquet.partitionBy[0] of the Sink `by-day`: there is no column `day`; expected one of tags, tenant
        "#]],
    );
}

#[test]
fn what_differs_on_replay_is_refused() {
    check(
        &transform("t: SELECT now() AS n, random() AS r, uuid() AS u, current_date AS d FROM bid"),
        expect![[r#"
        spec.transforms[0].sql:1:8: `now()` gives something else each time, so a replay after a crash would not agree; expected what follows from the row alone; for its time, use `_event_time`
        spec.transforms[0].sql:1:20: `random()` gives something else each time, so a replay after a crash would not agree; expected what follows from the row alone; for its time, use `_event_time`
        spec.transforms[0].sql:1:35: `uuid()` gives something else each time, so a replay after a crash would not agree; expected what follows from the row alone; for its time, use `_event_time`
        spec.transforms[0].sql:1:48: `current_date()` gives something else each time, so a replay after a crash would not agree; expected what follows from the row alone; for its time, use `_event_time`
    "#]],
    );
}

#[test]
fn two_columns_of_one_name_are_refused() {
    check(
        &transform("t: SELECT auction, price AS auction FROM bid"),
        expect![[r#"
            spec.transforms[0].sql:1:8: two columns are called `auction`; expected an alias for one of them, such as `… AS another_name`
        "#]],
    );
}

#[test]
fn names_that_are_taken_are_refused() {
    check(
        &transform("t: SELECT _event_time, auction FROM bid"),
        expect![[r#"
        spec.transforms[0].sql:1:8: the column name `_event_time` is taken by Millrace itself; expected another name, such as an alias given with AS
    "#]],
    );
}

#[test]
fn a_column_outside_of_its_groups_is_refused() {
    check(
        &transform("t window=minute: SELECT auction, price FROM bid GROUP BY auction"),
        expect![[r#"
        spec.transforms[0].sql:1:17: 'bid.price' must appear in GROUP BY clause because it's not an aggregate expression; expected either add 'bid.price' to GROUP BY clause, or use an aggregate function like ANY_VALUE(bid.price)
    "#]],
    );
}

#[test]
fn two_groupings_in_one_transform_are_refused() {
    check(
        &transform(
            "t window=minute: SELECT max(n) AS m FROM (SELECT auction, count(*) AS n FROM bid GROUP BY auction) AS c",
        ),
        expect![[r#"
            spec.transforms[0].sql:1:65: a transform groups once; expected a transform of its own for the inner SELECT
        "#]],
    );
}

#[test]
fn lists_cannot_be_keys() {
    check(
        &transform("t window=minute: SELECT tags, count(*) AS n FROM requests GROUP BY tags"),
        expect![[r#"
        spec.transforms[0].sql:1:42: `tags` is of type VARCHAR[], which cannot be a key; expected a key that is no list or struct
    "#]],
    );
}

#[test]
fn distinct_needs_a_time() {
    check(
        &pipeline(
            &[
                "a: SELECT DISTINCT auction FROM bid",
                "b within=1m: SELECT DISTINCT ON (auction) auction FROM bid ORDER BY auction, price",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: DISTINCT would have to remember every row forever; expected `within: 10m` (or another time) beside the SQL, or a `window`
            spec.transforms[1].sql:1:47: DISTINCT ON keeps the row that comes first; expected no ORDER BY
        "#]],
    );
}

#[test]
fn functions_that_take_lambdas_are_not_there() {
    check(
        &transform("t: SELECT array_transform(tags, v -> upper(v)) AS u FROM requests"),
        expect![[r#"
        spec.transforms[0].sql:1:8: there is no function `array_transform`; expected one of DataFusion's functions or its JSON functions; did you mean `array_sort`?
    "#]],
    );
}

#[test]
fn a_lambda_of_a_function_that_is_not_there_hides_nothing_else() {
    check(
        &pipeline(
            &[
                "a: SELECT array_transform(tags, v -> upper(v) + w) AS u, nothing, upper(status) AS s FROM requests WHERE tenant > 5",
                "b: SELECT upper(list_map(tags, (v, i) -> v || i)) AS u, status + tenant AS x FROM requests",
                "c window=minute: SELECT tenant, sum(reduce(tags, v -> v)) AS r, sum(tenant) AS s FROM requests GROUP BY tenant",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: there is no function `array_transform`; expected one of DataFusion's functions or its JSON functions; did you mean `array_sort`?
            spec.transforms[0].sql:1:55: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
            spec.transforms[0].sql:1:64: there is no `upper(INT)`; expected upper(VARCHAR)
            spec.transforms[0].sql:1:103: `tenant` is VARCHAR, and `5` is BIGINT: they do not compare; expected `'5'`, or `CAST(tenant AS BIGINT)`
            spec.transforms[1].sql:1:14: there is no function `list_map`; expected one of DataFusion's functions or its JSON functions; did you mean `list_max`?
            spec.transforms[1].sql:1:54: cannot coerce arithmetic expression INT + VARCHAR to valid types
            spec.transforms[2].sql:1:20: there is no function `reduce`; expected one of DataFusion's functions or its JSON functions; did you mean `replace`?
            spec.transforms[2].sql:1:48: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        "#]],
    );
}

#[test]
fn the_functions_that_stand_for_event_time_cannot_be_called() {
    check(
        &transform("t: SELECT __event_time() AS at FROM bid"),
        expect![[r#"
        spec.transforms[0].sql:1:8: there is no function `__event_time`; expected one of DataFusion's functions or its JSON functions; did you mean `current_time`?
    "#]],
    );
}

#[test]
fn a_source_with_bad_columns_or_event_time_is_refused() {
    let yaml = format!(
        "{PRELUDE}{}",
        r#"
---
apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {name: example}
spec:
  sources:
    - name: a
      stdin: {}
      format: {json: {}}
      columns: [{name: at, type: TIMESTAMP}, {name: n, type: INT}]
      eventTime: {column: att}
    - name: b
      stdin: {}
      format: {json: {}}
      columns: [{name: _event_time, type: TIMESTAMP}, {name: n, type: INT}]
      eventTime: {column: n}
  outputs:
    - {from: a, sink: out}
"#
    );
    check(
        &yaml,
        expect![[r#"
        spec.sources[0].eventTime.column: there is no column `att`; expected one of the columns: `at`, `n`; did you mean `at`?
        spec.sources[1].columns[0].name: the column name `_event_time` is taken by Millrace itself; expected another name, such as an alias given with AS
        spec.sources[1].eventTime.column: event time is a TIMESTAMP, and `n` is INT; expected a column of type TIMESTAMP
    "#]],
    );
}

#[test]
fn the_windows_columns_over_a_subquery_say_where_they_come_from() {
    check(
        &pipeline(
            &[
                "a window=minute: SELECT auction, window_start FROM (SELECT auction, price FROM bid) AS q",
                "b window=minute: SELECT auction, n FROM (SELECT auction, count(*) AS n FROM bid GROUP BY auction) AS q WHERE window_end > date_time",
            ],
            &["a > out", "b > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:17: `window_start` is there only in a SELECT that groups under the transform's `window`, and in one that reads it from such a subquery; expected GROUP BY in this SELECT, `window_start` in the select list of the subquery that groups, or one of the columns: `auction`, `price`
            spec.transforms[1].sql:1:93: `window_end` is there only in a SELECT that groups under the transform's `window`, and in one that reads it from such a subquery; expected GROUP BY in this SELECT, `window_end` in the select list of the subquery that groups, or one of the columns: `auction`, `n`
            spec.transforms[1].sql:1:106: there is no column `date_time`; expected one of the columns: `auction`, `n`
        "#]],
    );
}

#[test]
fn a_key_that_is_the_alias_of_an_aggregate_and_no_column_is_told_by_its_alias() {
    check(
        &pipeline(
            &[
                "a window=minute: SELECT window_start, sum(price) AS p FROM bid GROUP BY p",
                "b window=minute: SELECT auction, window_start, sum(price) AS auction FROM bid GROUP BY auction",
                "c window=minute: WITH q AS (SELECT price AS p FROM bid) SELECT sum(p) AS s FROM q GROUP BY s",
                "d window=trailing: SELECT auction, sum(price) AS p FROM bid GROUP BY P",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:56: `p` is the alias of `sum(price)` here, and an aggregate cannot be a key: its value is known only when its group is; expected columns, or expressions of them
            spec.transforms[1].sql:1:8: two columns are called `auction`; expected an alias for one of them, such as `… AS another_name`
            spec.transforms[2].sql:1:75: `s` is the alias of `sum(p)` here, and an aggregate cannot be a key: its value is known only when its group is; expected columns, or expressions of them
            spec.transforms[3].sql:1:51: `P` is the alias of `sum(price)` here, and an aggregate cannot be a key: its value is known only when its group is; expected columns, or expressions of them
        "#]],
    );
}
