//! What SQL that remembers compiles to: windows, running aggregates, top n, DISTINCT.

use expect_test::expect;

use super::*;

#[test]
fn a_tumbling_window_groups_by_key() {
    check(
        &transform(
            "t window=minute: SELECT tenant, window_start, to_char(window_start, '%Y-%m-%d') AS day, count(*) AS errors, approx_percentile_cont(latency_ms, 0.99) AS p99 FROM requests WHERE status >= 500 GROUP BY tenant",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms
              skips ts, tags, body, day
              event time from ts, 5s out of order
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

            sink t->out (stdout)
              takes tenant VARCHAR, window_start TIMESTAMP, day VARCHAR, errors BIGINT, p99 DOUBLE

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn windows_may_be_named_in_group_by_and_have_no_other_key() {
    check(
        &transform(
            "t window=hopping: SELECT window_start, window_end, window_pane, max(price) AS top FROM bid GROUP BY window_start, window_end",
        ),
        expect![[r#"
            source bid (generator)
              reads price
              skips auction, bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform t
              from bid
              stage t
                exchange: all rows to one task
                window hopping: hopping, 10s long, one every 2s; late rows go to .late
                aggregate max(price) (native)
                state: sliced window by nothing: max(price) as BIGINT
                compute window_start, window_end, window_pane, max(price) as top
              gives window_start TIMESTAMP, window_end TIMESTAMP, window_pane INT, top BIGINT

            sink t->out (stdout)
              takes window_start TIMESTAMP, window_end TIMESTAMP, window_pane INT, top BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn filters_having_expressions_and_distinct_go_around_aggregates() {
    check(
        &transform(
            "t window=minute: SELECT auction % 10 AS bucket, count(*) FILTER (WHERE price > 100) AS dear, count(DISTINCT bidder) AS bidders, sum(price) / count(*) AS mean FROM bid GROUP BY auction % 10 HAVING count(*) > 3 AND max(price) < 1000",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price
              skips channel, url, date_time, extra
              event time from date_time, 4s out of order

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

            sink t->out (stdout)
              takes bucket BIGINT, dear BIGINT, bidders BIGINT, mean BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn native_aggregates_widen_what_is_narrower_than_64_bits() {
    check(
        &transform(
            "t window=minute: SELECT min(status) AS lo, max(latency_ms) AS hi, sum(status) AS s, avg(status) AS a, count(tenant) AS c, max(ts) AS last, min(tenant) AS least FROM requests",
        ),
        expect![[r#"
            source requests (file, json)
              reads ts, tenant, status, latency_ms
              skips tags, body, day
              event time from ts, 5s out of order

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

            sink t->out (stdout)
              takes lo INT, hi DOUBLE, s BIGINT, a DOUBLE, c BIGINT, last TIMESTAMP, least VARCHAR

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn any_aggregate_of_datafusion_works() {
    check(
        &transform(
            "t window=minute: SELECT stddev(latency_ms) AS sd, approx_distinct(tenant) AS d, median(latency_ms) AS med, first_value(tenant) AS f, last_value(tenant ORDER BY latency_ms) AS l, array_agg(tenant ORDER BY latency_ms DESC) AS arr, bool_or(status > 499) AS bad, string_agg(tenant, ',') AS names FROM requests",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms
              skips ts, tags, body, day
              event time from ts, 5s out of order

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

            sink t->out (stdout)
              takes sd DOUBLE, d BIGINT, med DOUBLE, f VARCHAR, l VARCHAR, arr VARCHAR[], bad BOOLEAN, names VARCHAR

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn a_session_window_groups_by_key() {
    check(
        &transform(
            "t window=visit: SELECT bidder, count(*) AS bids, window_start, window_end FROM bid GROUP BY bidder",
        ),
        expect![[r#"
            source bid (generator)
              reads bidder
              skips auction, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform t
              from bid
              stage t
                exchange by hash of bidder
                window visit: sessions, ended by 10s of silence; late rows are dropped
                aggregate count(*) (native)
                state: session window by bidder BIGINT: count(*) as BIGINT
                compute bidder, count(*) as bids, window_start, window_end
              gives bidder BIGINT, bids BIGINT, window_start TIMESTAMP, window_end TIMESTAMP

            sink t->out (stdout)
              takes bidder BIGINT, bids BIGINT, window_start TIMESTAMP, window_end TIMESTAMP

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn a_rolling_window_by_group_by_keeps_the_rows_own_columns() {
    check(
        &transform(
            "t window=trailing: SELECT auction, price, window_start, avg(price) AS usual, min(CAST(price AS INT)) AS lo FROM bid WHERE price > 1 GROUP BY auction HAVING avg(price) < price",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order
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

            sink t->out (stdout)
              takes auction BIGINT, price BIGINT, window_start TIMESTAMP, usual DOUBLE, lo INT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn a_rolling_window_by_over_says_the_same() {
    check(
        &transform(
            "t window=trailing: SELECT auction, price, avg(price) OVER (PARTITION BY auction) AS usual FROM bid",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order

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

            sink t->out (stdout)
              takes auction BIGINT, price BIGINT, usual DOUBLE

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn order_by_with_limit_takes_the_first_rows_of_each_window() {
    check(
        &transform(
            "t window=hopping: SELECT auction, count(*) AS bids FROM bid GROUP BY auction ORDER BY bids DESC LIMIT 3",
        ),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform t
              from bid
              stage t
                exchange by hash of auction
                window hopping: hopping, 10s long, one every 2s; late rows go to .late
                aggregate count(*) (native)
                state: sliced window by auction BIGINT: count(*) as BIGINT
                compute auction, count(*) as bids
              stage t.top
                exchange: all rows to one task
                first 3 of each window, by bids desc
                state: top by nothing order bids desc: auction BIGINT, bids BIGINT
              gives auction BIGINT, bids BIGINT

            sink t->out (stdout)
              takes auction BIGINT, bids BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn row_number_takes_the_first_rows_of_each_group_in_each_window() {
    check(
        &transform(
            "t window=minute: SELECT tenant, status, n, rank FROM (SELECT *, row_number() OVER (PARTITION BY tenant ORDER BY n DESC) AS rank FROM (SELECT tenant, status, count(*) AS n FROM requests GROUP BY tenant, status) AS counts) AS ranked WHERE rank <= 2",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status
              skips ts, latency_ms, tags, body, day
              event time from ts, 5s out of order

            transform t
              from requests
              stage t
                exchange by hash of tenant, status
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) (native)
                state: sliced window by tenant VARCHAR, status INT: count(*) as BIGINT
                compute tenant, status, count(*) as n
              stage t.top
                exchange by hash of tenant
                first 2 of each tenant in each window, by n desc
                state: top by tenant VARCHAR order n desc: tenant VARCHAR, status INT, n BIGINT
                compute tenant, status, n, CAST(row_number AS Int64) as rank
              gives tenant VARCHAR, status INT, n BIGINT, rank BIGINT

            sink t->out (stdout)
              takes tenant VARCHAR, status INT, n BIGINT, rank BIGINT

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn rows_are_ranked_under_a_tumbling_window_without_grouping() {
    check(
        &transform("t window=minute: SELECT auction, price, window_start FROM bid ORDER BY price DESC LIMIT 5"),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform t
              from bid
                compute window_last_ms(_event_time) as _event_time, auction, price, window_start(_event_time) as window_start
              stage t
                exchange: all rows to one task
                first 5 of each window, by price desc
                state: top by nothing in windows of 1m order price desc: auction BIGINT, price BIGINT, window_start TIMESTAMP
              gives auction BIGINT, price BIGINT, window_start TIMESTAMP

            sink t->out (stdout)
              takes auction BIGINT, price BIGINT, window_start TIMESTAMP

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn the_output_of_a_window_can_be_ranked_by_another_transform() {
    check(
        &pipeline(
            &[
                "counts window=minute: SELECT auction, window_start, count(*) AS n FROM bid GROUP BY auction",
                "top: SELECT * FROM counts ORDER BY n DESC LIMIT 1",
            ],
            &["top > out"],
        ),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform counts
              from bid
              stage counts
                exchange by hash of auction
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) (native)
                state: sliced window by auction BIGINT: count(*) as BIGINT
                compute auction, window_start, count(*) as n
              gives auction BIGINT, window_start TIMESTAMP, n BIGINT

            transform top
              from counts
              stage top
                exchange: all rows to one task
                first 1 of each window, by n desc
                state: top by nothing order n desc: auction BIGINT, window_start TIMESTAMP, n BIGINT
              gives auction BIGINT, window_start TIMESTAMP, n BIGINT

            sink top->out (stdout)
              takes auction BIGINT, window_start TIMESTAMP, n BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn windows_run_over_the_output_of_windows() {
    check(
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
              skips bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

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

            sink hours->out (stdout)
              takes auction BIGINT, window_start TIMESTAMP, n BIGINT, last_minute TIMESTAMP

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn a_running_aggregate_gives_a_changelog() {
    check(
        &transform("t emitEvery=2s: SELECT auction, count(*) AS bids, max(price) AS top FROM bid GROUP BY auction"),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform t
              from bid
              stage t
                exchange by hash of auction
                running groups, what changed is put out every 2s
                aggregate count(*) (native)
                aggregate max(price) (native)
                state: running by auction BIGINT: count(*) as BIGINT; max(price) as BIGINT
                compute auction, count(*) as bids, max(price) as top
              gives auction BIGINT, bids BIGINT, top BIGINT
              as changes by auction

            sink t->out (stdout)
              takes auction BIGINT, bids BIGINT, top BIGINT
              as changes by auction

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn a_changelog_can_be_projected_and_filtered_by_its_key() {
    check(
        &pipeline(
            &[
                "r: SELECT auction, count(*) AS bids FROM bid GROUP BY auction",
                "s: SELECT auction AS id, bids * 2 AS twice FROM r WHERE auction > 10",
            ],
            &["s > rows"],
        ),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform r
              from bid
              stage r
                exchange by hash of auction
                running groups, what changed is put out every 1s
                aggregate count(*) (native)
                state: running by auction BIGINT: count(*) as BIGINT
                compute auction, count(*) as bids
              gives auction BIGINT, bids BIGINT
              as changes by auction

            transform s
              from r
                keep auction > 10
                compute auction as id, bids * 2 as twice
              gives id BIGINT, twice BIGINT
              as changes by id

            sink s->rows (file /out/rows)
              takes id BIGINT, twice BIGINT
              as changes by id

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn distinct_on_drops_repeats_within_a_time() {
    check(
        &transform("t within=10m: SELECT DISTINCT ON (auction, bidder) price, bidder FROM bid"),
        expect![[r#"
        source bid (generator)
          reads auction, bidder, price
          skips channel, url, date_time, extra
          event time from date_time, 4s out of order

        transform t
          from bid
            compute price, bidder, auction
          stage t
            exchange by hash of auction, bidder
            first row of each key within 10m
            state: distinct on auction BIGINT, bidder BIGINT
            compute price, bidder
          gives price BIGINT, bidder BIGINT

        sink t->out (stdout)
          takes price BIGINT, bidder BIGINT

        warning: spec.sources[1]: nothing reads `requests`
    "#]],
    );
}

#[test]
fn select_distinct_within_a_time_has_all_columns_as_its_key() {
    check(
        &transform("t within=10m: SELECT DISTINCT auction, bidder FROM bid"),
        expect![[r#"
        source bid (generator)
          reads auction, bidder
          skips price, channel, url, date_time, extra
          event time from date_time, 4s out of order

        transform t
          from bid
          stage t
            exchange by hash of auction, bidder
            first row of each key within 10m
            state: distinct on auction BIGINT, bidder BIGINT
          gives auction BIGINT, bidder BIGINT

        sink t->out (stdout)
          takes auction BIGINT, bidder BIGINT

        warning: spec.sources[1]: nothing reads `requests`
    "#]],
    );
}

#[test]
fn select_distinct_under_a_window_groups_by_all_columns() {
    check(
        &transform("t window=minute: SELECT DISTINCT auction, bidder FROM bid"),
        expect![[r#"
        source bid (generator)
          reads auction, bidder
          skips price, channel, url, date_time, extra
          event time from date_time, 4s out of order

        transform t
          from bid
          stage t
            exchange by hash of auction, bidder
            window minute: tumbling, 1m long; late rows are dropped
            state: sliced window by auction BIGINT, bidder BIGINT: 
            compute auction, bidder
          gives auction BIGINT, bidder BIGINT

        sink t->out (stdout)
          takes auction BIGINT, bidder BIGINT

        warning: spec.sources[1]: nothing reads `requests`
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
              skips ts, tags, body, day
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

#[test]
fn a_common_expression_of_the_planner_is_spelled_out_in_the_state() {
    check(
        &transform(
            "t window=minute: SELECT lower(channel) AS c, count(DISTINCT lower(channel) || 'x') AS n FROM bid GROUP BY lower(channel)",
        ),
        expect![[r#"
            source bid (generator)
              reads channel
              skips auction, bidder, price, url, date_time, extra
              event time from date_time, 4s out of order

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

            sink t->out (stdout)
              takes c VARCHAR, n BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}
