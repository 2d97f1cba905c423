//! What windows compile to.

use expect_test::expect;

use super::*;

#[test]
fn a_tumbling_window_groups_by_key() {
    check_transforms(
        &transform(
            "t window=minute: SELECT tenant, window_start, to_char(window_start, '%Y-%m-%d') AS day, count(*) AS errors, approx_percentile_cont(latency_ms, 0.99) AS p99 FROM requests WHERE status >= 500 GROUP BY tenant",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms
              keeps status >= 500

            transform t
              from requests
                compute tenant, latency_ms, 0.99
              stage t
                exchange by hash of tenant
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) (native)
                aggregate approx_percentile_cont(latency_ms, 0.99) (DataFusion)
                state: sliced window by tenant VARCHAR: count(*) as BIGINT; approx_percentile_cont(latency_ms, 0.99) as BIGINT UNSIGNED, DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE[]
                compute tenant, window_start, CAST(to_char(CAST(window_start AS Timestamp(Nanosecond, Some("UTC"))), %Y-%m-%d) AS Utf8View) as day, count(*) as errors, approx_percentile_cont(latency_ms, 0.99) as p99
              gives tenant VARCHAR, window_start TIMESTAMP, day VARCHAR, errors BIGINT, p99 DOUBLE
        "#]],
    );
}

#[test]
fn windows_may_be_named_in_group_by_and_have_no_other_key() {
    check_transforms(
        &transform(
            "t window=hopping: SELECT window_start, window_end, window_pane, max(price) AS top FROM bid GROUP BY window_start, window_end",
        ),
        expect![[r#"
            source bid (generator)
              reads price

            transform t
              from bid
              stage t
                exchange: all rows to one task
                window hopping: hopping, 10s long, one every 2s; late rows go to .late
                aggregate max(price) (native)
                state: sliced window by nothing: max(price) as BIGINT
                compute window_start, window_end, window_pane, max(price) as top
              gives window_start TIMESTAMP, window_end TIMESTAMP, window_pane INT, top BIGINT
        "#]],
    );
}

#[test]
fn a_session_window_groups_by_key() {
    check_transforms(
        &transform(
            "t window=visit: SELECT bidder, count(*) AS bids, window_start, window_end FROM bid GROUP BY bidder",
        ),
        expect![[r#"
            source bid (generator)
              reads bidder

            transform t
              from bid
              stage t
                exchange by hash of bidder
                window visit: sessions, ended by 10s of silence; late rows are dropped
                aggregate count(*) (native)
                state: session window by bidder BIGINT: count(*) as BIGINT
                compute bidder, count(*) as bids, window_start, window_end
              gives bidder BIGINT, bids BIGINT, window_start TIMESTAMP, window_end TIMESTAMP
        "#]],
    );
}

#[test]
fn a_rolling_window_by_group_by_keeps_the_rows_own_columns() {
    check_transforms(
        &transform(
            "t window=trailing: SELECT auction, price, window_start, avg(price) AS usual, min(CAST(price AS INT)) AS lo FROM bid WHERE price > 1 GROUP BY auction HAVING avg(price) < price",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price
              keeps price > 1

            transform t
              from bid
                compute auction, CAST(price AS Float64) as price, CAST(CAST(price AS Int32) AS Int64) as price, price
              stage t
                exchange by hash of auction
                window trailing: rolling over 10s; late rows are dropped
                aggregate avg(price) (native)
                aggregate min(price) (native)
                each row keeps auction, price
                state: rolling window by auction BIGINT: avg(price) as BIGINT UNSIGNED, DOUBLE; min(price) as BIGINT
                compute auction, price, avg(price), CAST(min(price) AS Int32) as min(price), window_start, window_end, window_pane
                keep avg(price) < CAST(price AS Float64)
                compute auction, price, window_start, avg(price) as usual, min(price) as lo
              gives auction BIGINT, price BIGINT, window_start TIMESTAMP, usual DOUBLE, lo INT
        "#]],
    );
}

#[test]
fn aggregates_over_a_range_may_have_an_order_of_rows_of_their_own() {
    check_transforms(
        &transform(
            "t window=trailing: SELECT auction, count(*) AS n, array_agg(bidder ORDER BY price DESC) AS best, first_value(bidder ORDER BY price) AS least FROM bid GROUP BY auction",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price

            transform t
              from bid
              stage t
                exchange by hash of auction
                window trailing: rolling over 10s; late rows are dropped
                aggregate array_agg(bidder) ORDER BY [price DESC NULLS FIRST] (DataFusion)
                aggregate first_value(bidder) ORDER BY [price ASC NULLS LAST] (DataFusion)
                aggregate count(*) (native)
                each row keeps auction, bidder, price
                state: rolling window by auction BIGINT: array_agg(bidder) ORDER BY [price DESC NULLS FIRST] as BIGINT[], STRUCT(price@3 BIGINT)[]; first_value(bidder) ORDER BY [price ASC NULLS LAST] as BIGINT, BIGINT, BOOLEAN; count(*) as BIGINT
                compute auction, count(*) as n, array_agg(bidder) ORDER BY [price DESC NULLS FIRST] as best, first_value(bidder) ORDER BY [price ASC NULLS LAST] as least
              gives auction BIGINT, n BIGINT, best BIGINT[], least BIGINT
        "#]],
    );
}

#[test]
fn an_order_that_names_a_column_twice_is_taken() {
    for window in ["minute", "trailing"] {
        let sql =
            "SELECT auction, first_value(bidder ORDER BY price, bidder, price DESC) AS least FROM bid GROUP BY auction";
        let plan = outcome(&transform(&format!("t window={window}: {sql}")));
        let order = "aggregate first_value(bidder) ORDER BY [price ASC NULLS LAST, bidder ASC NULLS LAST, price DESC";
        assert!(plan.contains(order), "{window}: {plan}");
    }
}

#[test]
fn a_rolling_window_by_over_says_the_same() {
    check_transforms(
        &transform(
            "t window=trailing: SELECT auction, price, avg(price) OVER (PARTITION BY auction) AS usual FROM bid",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price

            transform t
              from bid
                compute auction, CAST(price AS Float64) as price, price
              stage t
                exchange by hash of auction
                window trailing: rolling over 10s; late rows are dropped
                aggregate avg(price) (native)
                each row keeps auction, price
                state: rolling window by auction BIGINT: avg(price) as BIGINT UNSIGNED, DOUBLE
                compute auction, price, avg(price) as usual
              gives auction BIGINT, price BIGINT, usual DOUBLE
        "#]],
    );
}

#[test]
fn windows_run_over_the_output_of_windows() {
    check_transforms(
        &pipeline(
            &[
                "minutes window=minute: SELECT auction, window_start, count(*) AS n FROM bid GROUP BY auction",
                "hours window=hour: SELECT auction, window_start, sum(n) AS n, max(minutes.window_start) AS last_minute FROM minutes GROUP BY auction",
            ],
            &["hours > out"],
        ),
        expect![[r#"
            source bid (generator)
              reads auction

            transform minutes
              from bid
              stage minutes
                exchange by hash of auction
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) (native)
                state: sliced window by auction BIGINT: count(*) as BIGINT
                compute auction, window_start, count(*) as n
              gives auction BIGINT, window_start TIMESTAMP, n BIGINT

            transform hours
              from minutes
                compute auction, n, window_start
              stage hours
                exchange by hash of auction
                window hour: tumbling, 1h long; late rows are dropped
                aggregate sum(n) (native)
                aggregate max(window_start) (native)
                state: sliced window by auction BIGINT: sum(n) as BIGINT; max(window_start) as TIMESTAMP
                compute auction, window_start, sum(n) as n, max(window_start) as last_minute
              gives auction BIGINT, window_start TIMESTAMP, n BIGINT, last_minute TIMESTAMP
        "#]],
    );
}

#[test]
fn select_distinct_under_a_window_groups_by_all_columns() {
    check_transforms(
        &transform("t window=minute: SELECT DISTINCT auction, bidder FROM bid"),
        expect![[r#"
            source bid (generator)
              reads auction, bidder

            transform t
              from bid
              stage t
                exchange by hash of auction, bidder
                window minute: tumbling, 1m long; late rows are dropped
                state: sliced window by auction BIGINT, bidder BIGINT: 
                compute auction, bidder
              gives auction BIGINT, bidder BIGINT
        "#]],
    );
}

#[test]
fn late_rows_are_as_the_input_has_them() {
    check(
        &pipeline(
            &[
                "errors: SELECT tenant, status, latency_ms FROM requests WHERE status >= 500",
                "t window=corrected: SELECT tenant, count(*) AS n FROM errors WHERE latency_ms > 1 GROUP BY tenant",
            ],
            &["t > out", "t.late > rows", "requests.errors > lake"],
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms
              skips tags, body, day
              event time from ts, 5s out of order
              keeps status >= 500

            transform errors
              from requests
              gives tenant VARCHAR, status INT, latency_ms DOUBLE

            transform t
              from errors
                keep latency_ms > 1
              stage t
                exchange by hash of tenant
                window corrected: tumbling, 1m long, corrected for 30s; late rows go to .late
                aggregate count(*) (native)
                state: sliced window by tenant VARCHAR: count(*) as BIGINT
                compute tenant, count(*) as n
              gives tenant VARCHAR, n BIGINT
              late rows tenant VARCHAR, status INT, latency_ms DOUBLE

            sink t->out (stdout)
              takes tenant VARCHAR, n BIGINT

            sink t.late->rows (file /out/rows)
              takes tenant VARCHAR, status INT, latency_ms DOUBLE

            sink requests.errors->lake (delta file:///out/lake)
              takes raw Binary, reason VARCHAR, source VARCHAR, position BIGINT

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}
