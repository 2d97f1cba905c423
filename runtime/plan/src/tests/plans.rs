//! What SQL compiles to.

use expect_test::expect;

use super::*;

#[test]
fn a_filter_and_a_projection_are_pushed_to_the_source() {
    check(&transform("t: SELECT tenant, latency_ms * 2 AS double FROM requests WHERE status >= 500"), expect![[r#"
        source requests (file, json)
          reads tenant, status, latency_ms
          skips ts, tags, body, day
          event time from ts, 5s out of order
          keeps status >= 500

        transform t
          from requests
            compute tenant, latency_ms * 2 as double
          gives tenant VARCHAR, double DOUBLE

        sink t->out (stdout)
          takes tenant VARCHAR, double DOUBLE

        warning: spec.sources[0]: nothing reads `bid`
    "#]]);
}

#[test]
fn columns_that_nothing_reads_are_not_decoded_through_a_chain_of_transforms() {
    check(
        &pipeline(
            &[
                "errors: SELECT * FROM requests WHERE status >= 500",
                "by_tenant window=minute: SELECT tenant, count(*) AS errors FROM errors GROUP BY tenant",
            ],
            &["by_tenant > out"],
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status
              skips ts, latency_ms, tags, body, day
              event time from ts, 5s out of order
              keeps status >= 500

            transform errors
              from requests
                compute tenant
              gives tenant VARCHAR

            transform by_tenant
              from errors
              stage by_tenant
                exchange by hash of tenant
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) (native)
                state: sliced window by tenant VARCHAR: count(*) as BIGINT
                compute tenant, count(*) as errors
              gives tenant VARCHAR, errors BIGINT

            sink by_tenant->out (stdout)
              takes tenant VARCHAR, errors BIGINT

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn a_filter_stays_where_it_is_if_its_source_has_two_readers() {
    check(
        &pipeline(
            &[
                "a: SELECT tenant FROM requests WHERE status >= 500",
                "b: SELECT status FROM requests WHERE tenant = 'x'",
            ],
            &["a > out", "b > rows"],
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status
              skips ts, latency_ms, tags, body, day
              event time from ts, 5s out of order

            transform a
              from requests
                keep status >= 500
                compute tenant
              gives tenant VARCHAR

            transform b
              from requests
                keep tenant = x
                compute status
              gives status INT

            sink a->out (stdout)
              takes tenant VARCHAR

            sink b->rows (file /out/rows)
              takes status INT

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn select_star_leaves_event_time_out_and_it_can_be_named() {
    check(&transform("t: SELECT *, _event_time AS at FROM bid"), expect![[r#"
        source bid (generator)
          reads auction, bidder, price, channel, url, date_time, extra
          event time from date_time, 4s out of order

        transform t
          from bid
            compute auction, bidder, price, channel, url, date_time, extra, CAST(_event_time AS Timestamp(Microsecond, Some("UTC"))) as at
          gives auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR, at TIMESTAMP

        sink t->out (stdout)
          takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR, at TIMESTAMP

        warning: spec.sources[1]: nothing reads `requests`
    "#]]);
}

#[test]
fn scalar_functions_of_every_family_compile() {
    check(
        &transform(
            "t: SELECT upper(tenant) AS u, date_trunc('hour', ts) AS h, to_char(ts, '%Y-%m-%d') AS d, regexp_replace(tenant, 'a+', 'b') AS r, sqrt(latency_ms) AS s, body->>'user' AS who, json_get_int(body, 'n') AS n, tags[1] AS first, array_length(tags) AS len, CASE WHEN status < 400 THEN 'ok' ELSE 'bad' END AS verdict, CAST(status AS VARCHAR) AS text, coalesce(tenant, 'none') AS c, md5(tenant) AS h5, extract(hour FROM ts) AS hour FROM requests",
        ),
        expect![[r#"
            source requests (file, json)
              reads ts, tenant, status, latency_ms, tags, body
              skips day
              event time from ts, 5s out of order

            transform t
              from requests
                compute upper(tenant) as u, date_trunc(hour, ts) as h, CAST(to_char(CAST(ts AS Timestamp(Nanosecond, Some("UTC"))), %Y-%m-%d) AS Utf8View) as d, regexp_replace(tenant, a+, b) as r, sqrt(latency_ms) as s, CAST(json_as_text(body, user) AS Utf8View) as who, json_get_int(body, n) as n, array_element(tags, 1) as first, CAST(array_length(tags) AS Int64) as len, CAST(CASE WHEN status < 400 THEN ok ELSE bad END AS Utf8View) as verdict, CAST(status AS Utf8View) as text, CASE WHEN tenant IS NOT NULL THEN tenant ELSE none END as c, md5(tenant) as h5, date_part(HOUR, ts) as hour
              gives u VARCHAR, h TIMESTAMP, d VARCHAR, r VARCHAR, s DOUBLE, who VARCHAR, n BIGINT, first VARCHAR, len BIGINT, verdict VARCHAR, text VARCHAR, c VARCHAR, h5 VARCHAR, hour INT

            sink t->out (stdout)
              takes u VARCHAR, h TIMESTAMP, d VARCHAR, r VARCHAR, s DOUBLE, who VARCHAR, n BIGINT, first VARCHAR, len BIGINT, verdict VARCHAR, text VARCHAR, c VARCHAR, h5 VARCHAR, hour INT

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn a_union_all_of_inputs_has_a_branch_each() {
    check(
        &pipeline(
            &[
                "t: SELECT auction AS id, price FROM bid WHERE price > 7 UNION ALL SELECT status, latency_ms FROM requests",
            ],
            &["t > out"],
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order
              keeps price > 7

            source requests (file, json)
              reads status, latency_ms
              skips ts, tenant, tags, body, day
              event time from ts, 5s out of order

            transform t
              from bid
                compute auction as id, CAST(price AS Float64) as price
              from requests
                compute CAST(status AS Int64) as id, latency_ms as price
              gives id BIGINT, price DOUBLE

            sink t->out (stdout)
              takes id BIGINT, price DOUBLE
        "#]],
    );
}

#[test]
fn unnest_makes_a_row_of_each_element() {
    check(&transform("t: SELECT tenant, unnest(tags) AS tag FROM requests"), expect![[r#"
        source requests (file, json)
          reads tenant, tags
          skips ts, status, latency_ms, body, day
          event time from ts, 5s out of order

        transform t
          from requests
            compute tenant, tags as __unnest_placeholder(requests.tags,depth=1)
            unnest __unnest_placeholder(requests.tags,depth=1)
            compute tenant, __unnest_placeholder(requests.tags,depth=1) as tag
          gives tenant VARCHAR, tag VARCHAR

        sink t->out (stdout)
          takes tenant VARCHAR, tag VARCHAR

        warning: spec.sources[0]: nothing reads `bid`
    "#]]);
}

#[test]
fn a_subquery_in_from_says_the_same_as_its_parts() {
    check(
        &transform(
            "t: SELECT b.id, b.price + 1 AS more FROM (SELECT auction AS id, price FROM bid WHERE price > 3) AS b WHERE b.id <> 4",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, date_time, extra
              event time from date_time, 4s out of order
              keeps price > 3 AND auction != 4

            transform t
              from bid
                compute auction as id, price + 1 as more
              gives id BIGINT, more BIGINT

            sink t->out (stdout)
              takes id BIGINT, more BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

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
                compute auction % 10 as bid.auction % Int64(10), price > 100, bidder, price
              stage t
                exchange by hash of bid.auction % Int64(10)
                window minute: tumbling, 1m long; late rows are dropped
                aggregate count(*) FILTER (WHERE price > Int64(100)), filtered by column price > 100 (native)
                aggregate count(DISTINCT bidder) (DataFusion)
                aggregate sum(price) (native)
                aggregate count(*) (native)
                aggregate max(price) (native)
                state: sliced window by auction % 10 BIGINT: count(*) FILTER (WHERE price > Int64(100)) as BIGINT; count(DISTINCT bidder) as BIGINT[]; sum(price) as BIGINT; count(*) as BIGINT; max(price) as BIGINT
                keep count(*) > 3 AND max(price) < 1000
                compute bid.auction % Int64(10) as bucket, count(*) FILTER (WHERE price > Int64(100)) as dear, count(DISTINCT bidder) as bidders, sum(price) / count(*) as mean
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
                aggregate bool_or(requests.status > Int64(499)) (DataFusion)
                aggregate string_agg(tenant, ,) (DataFusion)
                state: sliced window by nothing: stddev(latency_ms) as BIGINT UNSIGNED, DOUBLE, DOUBLE; approx_distinct(tenant) as Binary; median(latency_ms) as DOUBLE[]; first_value(tenant) as VARCHAR, TIMESTAMP, BOOLEAN; last_value(tenant) ORDER BY [latency_ms ASC NULLS LAST] as VARCHAR, DOUBLE, BOOLEAN; array_agg(tenant) ORDER BY [latency_ms DESC NULLS FIRST] as VARCHAR[], STRUCT(latency_ms@1 DOUBLE)[]; bool_or(status > 499) as BOOLEAN; string_agg(tenant, ,) as VARCHAR
                compute stddev(latency_ms) as sd, CAST(approx_distinct(tenant) AS Int64) as d, median(latency_ms) as med, first_value(tenant) as f, last_value(tenant) ORDER BY [latency_ms ASC NULLS LAST] as l, array_agg(tenant) ORDER BY [latency_ms DESC NULLS FIRST] as arr, bool_or(requests.status > Int64(499)) as bad, CAST(string_agg(tenant, ,) AS Utf8View) as names
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
            spec.transforms[0].sql: `window_start` is there only where a transform with a `window` groups
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
    check(&transform("t within=10m: SELECT DISTINCT ON (auction, bidder) price, bidder FROM bid"), expect![[r#"
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
    "#]]);
}

#[test]
fn select_distinct_within_a_time_has_all_columns_as_its_key() {
    check(&transform("t within=10m: SELECT DISTINCT auction, bidder FROM bid"), expect![[r#"
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
    "#]]);
}

#[test]
fn select_distinct_under_a_window_groups_by_all_columns() {
    check(&transform("t window=minute: SELECT DISTINCT auction, bidder FROM bid"), expect![[r#"
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
    "#]]);
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
fn what_nothing_reads_is_compiled_and_warned_about() {
    check(
        &pipeline(&["used: SELECT auction FROM bid", "unused: SELECT tenant FROM requests"], &["used > out"]),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform used
              from bid
              gives auction BIGINT

            sink used->out (stdout)
              takes auction BIGINT

            warning: spec.transforms[1]: nothing reads `unused`
        "#]],
    );
}

#[test]
fn with_names_subqueries() {
    check(&transform("t: WITH dear AS (SELECT * FROM bid WHERE price > 100) SELECT auction FROM dear"), expect![[r#"
        source bid (generator)
          reads auction, price
          skips bidder, channel, url, date_time, extra
          event time from date_time, 4s out of order
          keeps price > 100

        transform t
          from bid
            compute auction
          gives auction BIGINT

        sink t->out (stdout)
          takes auction BIGINT

        warning: spec.sources[1]: nothing reads `requests`
    "#]]);
}

#[test]
fn a_source_goes_straight_to_a_sink() {
    check(&pipeline(&[], &["bid > lake"]), expect![[r#"
        source bid (generator)
          reads auction, bidder, price, channel, url, date_time, extra
          event time from date_time, 4s out of order

        sink bid->lake (delta file:///out/lake)
          takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR

        warning: spec.sources[1]: nothing reads `requests`
    "#]]);
}

#[test]
fn the_graph_is_drawn_for_graphviz() {
    let yaml = pipeline(
        &[
            "errors: SELECT * FROM requests WHERE status >= 500",
            "t window=hopping: SELECT tenant, count(*) AS n FROM errors GROUP BY tenant ORDER BY n DESC LIMIT 3",
        ],
        &["t > out", "t.late > lake"],
    );
    expect![[r#"
        digraph "example" {
          rankdir=LR;
          node [shape=box, fontname="monospace"];
          "requests" [label="requests\nfile, json", shape=cds];
          "errors" [label="errors", shape=box];
          "t" [label="t\nwindow hopping, by tenant\nfirst 3, one task", shape=box];
          "t->out" [label="out\nstdout", shape=folder];
          "t.late->lake" [label="lake\ndelta file:///out/lake", shape=folder];
          "requests" -> "errors";
          "errors" -> "t";
          "t" -> "t->out";
          "t" -> "t.late->lake" [label=late, style=dashed];
        }
    "#]].assert_eq(&explain::graphviz(&compiled(&yaml).unwrap()));
}

#[test]
fn the_same_spec_has_the_same_revision_and_another_has_another() {
    let revision = |sql: &str| compiled(&transform(sql)).unwrap().revision;
    let one = revision("t: SELECT auction FROM bid");
    assert_eq!(one, revision("t: SELECT auction FROM bid"));
    assert_eq!(one.0.len(), 64);
    assert_ne!(one, revision("t: SELECT bidder FROM bid"));
}
