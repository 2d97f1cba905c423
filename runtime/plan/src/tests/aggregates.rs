//! What aggregates compile to, and what is remembered of them.

use expect_test::expect;

use super::*;

#[test]
fn filters_having_expressions_and_distinct_go_around_aggregates() {
    check_transforms(
        &transform(
            "t window=minute: SELECT auction % 10 AS bucket, count(*) FILTER (WHERE price > 100) AS dear, count(DISTINCT bidder) AS bidders, sum(price) / count(*) AS mean FROM bid GROUP BY auction % 10 HAVING count(*) > 3 AND max(price) < 1000",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price

            transform t
              from bid
                compute auction % 10, price > 100, bidder, price
              stage t
                exchange by hash of auction % 10
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) FILTER (WHERE price > 100), filtered by column price > 100 (native)
                aggregate count(DISTINCT bidder) (DataFusion)
                aggregate sum(price) (native)
                aggregate count(*) (native)
                aggregate max(price) (native)
                state: sliced window by auction % 10 BIGINT: count(*) FILTER (WHERE price > 100) as BIGINT; count(DISTINCT bidder) as BIGINT[]; sum(price) as BIGINT; count(*) as BIGINT; max(price) as BIGINT
                keep count(*) > 3 AND max(price) < 1000
                compute auction % 10 as bucket, count(*) FILTER (WHERE price > 100) as dear, count(DISTINCT bidder) as bidders, sum(price) / count(*) as mean
              gives bucket BIGINT, dear BIGINT, bidders BIGINT, mean BIGINT
        "#]],
    );
}

#[test]
fn native_aggregates_widen_what_is_narrower_than_64_bits() {
    check_transforms(
        &transform(
            "t window=minute: SELECT min(status) AS lo, max(latency_ms) AS hi, sum(status) AS s, avg(status) AS a, count(tenant) AS c, max(ts) AS last, min(tenant) AS least FROM requests",
        ),
        expect![[r#"
            source requests (file, json)
              reads ts, tenant, status, latency_ms

            transform t
              from requests
                compute CAST(status AS Int64) as status, latency_ms, CAST(status AS Float64) as status, tenant, ts
              stage t
                exchange: all rows to one task
                window minute: tumbling, 1m long; late rows are dropped
                aggregate min(status) (native)
                aggregate max(latency_ms) (native)
                aggregate sum(status) (native)
                aggregate avg(status) (native)
                aggregate count(tenant) (native)
                aggregate max(ts) (native)
                aggregate min(tenant) (DataFusion)
                state: sliced window by nothing: min(status) as BIGINT; max(latency_ms) as DOUBLE; sum(status) as BIGINT; avg(status) as BIGINT UNSIGNED, DOUBLE; count(tenant) as BIGINT; max(ts) as TIMESTAMP; min(tenant) as VARCHAR
                compute CAST(min(status) AS Int32) as lo, max(latency_ms) as hi, sum(status) as s, avg(status) as a, count(tenant) as c, max(ts) as last, min(tenant) as least
              gives lo INT, hi DOUBLE, s BIGINT, a DOUBLE, c BIGINT, last TIMESTAMP, least VARCHAR
        "#]],
    );
}

#[test]
fn any_aggregate_of_datafusion_works() {
    check_transforms(
        &transform(
            "t window=minute: SELECT stddev(latency_ms) AS sd, approx_distinct(tenant) AS d, median(latency_ms) AS med, first_value(tenant) AS f, last_value(tenant ORDER BY latency_ms) AS l, array_agg(tenant ORDER BY latency_ms DESC) AS arr, bool_or(status > 499) AS bad, string_agg(tenant, ',') AS names FROM requests",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms

            transform t
              from requests
                compute latency_ms, tenant, status > 499, ,
              stage t
                exchange: all rows to one task
                window minute: tumbling, 1m long; late rows are dropped
                aggregate stddev(latency_ms) (DataFusion)
                aggregate approx_distinct(tenant) (DataFusion)
                aggregate median(latency_ms) (DataFusion)
                aggregate first_value(tenant) (DataFusion)
                aggregate last_value(tenant) ORDER BY [latency_ms ASC NULLS LAST] (DataFusion)
                aggregate array_agg(tenant) ORDER BY [latency_ms DESC NULLS FIRST] (DataFusion)
                aggregate bool_or(status > 499) (DataFusion)
                aggregate string_agg(tenant, ,) (DataFusion)
                state: sliced window by nothing: stddev(latency_ms) as BIGINT UNSIGNED, DOUBLE, DOUBLE; approx_distinct(tenant) as Binary; median(latency_ms) as DOUBLE[]; first_value(tenant) as VARCHAR, TIMESTAMP, BOOLEAN; last_value(tenant) ORDER BY [latency_ms ASC NULLS LAST] as VARCHAR, DOUBLE, BOOLEAN; array_agg(tenant) ORDER BY [latency_ms DESC NULLS FIRST] as VARCHAR[], STRUCT(latency_ms@1 DOUBLE)[]; bool_or(status > 499) as BOOLEAN; string_agg(tenant, ,) as VARCHAR
                compute stddev(latency_ms) as sd, CAST(approx_distinct(tenant) AS Int64) as d, median(latency_ms) as med, first_value(tenant) as f, last_value(tenant) ORDER BY [latency_ms ASC NULLS LAST] as l, array_agg(tenant) ORDER BY [latency_ms DESC NULLS FIRST] as arr, bool_or(status > 499) as bad, CAST(string_agg(tenant, ,) AS Utf8View) as names
              gives sd DOUBLE, d BIGINT, med DOUBLE, f VARCHAR, l VARCHAR, arr VARCHAR[], bad BOOLEAN, names VARCHAR
        "#]],
    );
}

#[test]
fn aggregates_in_an_order_keep_what_puts_their_parts_in_order() {
    for (call, state) in [
        ("string_agg(tenant, ',' ORDER BY latency_ms DESC)", "VARCHAR[], STRUCT(latency_ms@"),
        ("string_agg(DISTINCT tenant, ',' ORDER BY tenant)", "VARCHAR[]"),
        ("nth_value(tenant, 2 ORDER BY latency_ms)", "STRUCT(value VARCHAR, o0 DOUBLE)[]"),
        ("(array_agg(tenant ORDER BY latency_ms, ts))[-1]", "STRUCT(value VARCHAR, o0 DOUBLE, o1 TIMESTAMP)[]"),
        // By event time, as first_value.
        ("nth_value(status, 3)", "STRUCT(value INT, o0 TIMESTAMP)[]"),
        // Its result does not depend on the order.
        ("count(status ORDER BY ts)", "BIGINT"),
    ] {
        for by in ["window=minute", "window=hopping", "window=visit", "window=trailing", "emitEvery=1s"] {
            if by == "window=trailing" && (call.contains("ORDER BY") || call.starts_with("nth_value")) {
                continue; // The planner takes none of these OVER a range, and says so.
            }
            // What is taken of a result has no filter of its own.
            let filter = if call.ends_with(')') { " FILTER (WHERE status > 1)" } else { "" };
            let sql = format!("t {by}: SELECT tenant, {call}{filter} AS x FROM requests GROUP BY tenant");
            let plan = outcome(&pipeline(&[&sql], &["t > rows"]));
            assert!(plan.lines().any(|line| line.contains("state:") && line.contains(state)), "{call}, {by}: {plan}");
        }
    }
}

#[test]
fn a_common_expression_of_the_planner_is_spelled_out_in_the_state() {
    check_transforms(
        &transform(
            "t window=minute: SELECT lower(channel) AS c, count(DISTINCT lower(channel) || 'x') AS n FROM bid GROUP BY lower(channel)",
        ),
        expect![[r#"
            source bid (generator)
              reads channel

            transform t
              from bid
                compute lower(channel) as __common_expr_1
                compute __common_expr_1 as lower(channel), __common_expr_1 || x as lower(channel) || x
              stage t
                exchange by hash of lower(channel)
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(DISTINCT lower(channel) || x) (DataFusion)
                state: sliced window by lower(channel) VARCHAR: count(DISTINCT lower(channel) || x) as VARCHAR[]
                compute lower(channel) as c, count(DISTINCT lower(channel) || x) as n
              gives c VARCHAR, n BIGINT
        "#]],
    );
}

#[test]
fn a_key_is_the_input_s_column_before_it_is_a_result_of_that_name() {
    let expect_key = |window: &str, sql: &str, key: &str| {
        let plan = compiled(&transform(&format!("t window={window}: {sql}"))).expect(sql);
        let text = explain::text(&plan);
        assert!(text.contains(&format!("exchange by hash of {key}\n")), "{sql}\n{text}");
    };
    for from in [
        "bid",
        "bid AS q",
        "(SELECT * FROM bid) AS q",
        "(SELECT bid.auction, (price) FROM bid UNION ALL SELECT auction, price FROM bid) AS q",
        "bid AS q (auction, bidder, price, channel, url, date_time, extra)",
    ] {
        let sql = format!("SELECT window_start, sum(price) AS auction FROM {from} GROUP BY auction");
        expect_key("minute", &sql, "auction");
        expect_key("minute", &sql.replace("BY auction", "BY AUCTION"), "auction");
    }
    // The rows of a rolling window have values of their own beside the aggregate.
    let sql = "SELECT lower(channel) AS channel, sum(price) AS s FROM bid GROUP BY channel";
    expect_key("trailing", sql, "channel");
    let sql = "SELECT lower(channel) AS c, sum(price) AS s FROM bid GROUP BY c";
    expect_key("trailing", sql, "lower(channel)");
}
