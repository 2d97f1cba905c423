//! Nexmark's queries that need no join.

use expect_test::expect;

use super::*;

#[test]
fn q0_passes_through() {
    check(
        &transform("q0: SELECT auction, bidder, price, date_time, extra FROM bid"),
        expect![[r#"
        source bid (generator)
          reads auction, bidder, price, date_time, extra
          skips channel, url
          event time from date_time, 4s out of order

        transform q0
          from bid
          gives auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra VARCHAR

        sink q0->out (stdout)
          takes auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra VARCHAR

        warning: spec.sources[1]: nothing reads `requests`
    "#]],
    );
}

#[test]
fn q1_converts_currency() {
    check(
        &transform("q1: SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid"),
        expect![[r#"
        source bid (generator)
          reads auction, bidder, price, date_time, extra
          skips channel, url
          event time from date_time, 4s out of order

        transform q1
          from bid
            compute auction, bidder, 0.908 * CAST(price AS Float64) as price, date_time, extra
          gives auction BIGINT, bidder BIGINT, price DOUBLE, date_time TIMESTAMP, extra VARCHAR

        sink q1->out (stdout)
          takes auction BIGINT, bidder BIGINT, price DOUBLE, date_time TIMESTAMP, extra VARCHAR

        warning: spec.sources[1]: nothing reads `requests`
    "#]],
    );
}

#[test]
fn q2_selects_auctions() {
    check(
        &transform("q2: SELECT auction, price FROM bid WHERE auction % 123 = 0"),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, extra
              event time from date_time, 4s out of order
              keeps auction % 123 = 0

            transform q2
              from bid
              gives auction BIGINT, price BIGINT

            sink q2->out (stdout)
              takes auction BIGINT, price BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q5_finds_hot_items() {
    check(
        &transform(
            "q5 window=hopping: SELECT auction, num FROM (SELECT auction, num, row_number() OVER (PARTITION BY window_end ORDER BY num DESC) AS place FROM (SELECT auction, window_end, count(*) AS num FROM bid GROUP BY auction) AS counts) AS ranked WHERE place <= 1",
        ),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, extra
              event time from date_time, 4s out of order

            transform q5
              from bid
              stage q5
                exchange by hash of auction
                window hopping: hopping, 10s long, one every 2s; late rows go to .late
                aggregate count(*) (native)
                state: sliced window by auction BIGINT: count(*) as BIGINT
                compute auction, window_end, count(*) as num
              stage q5.top
                exchange by hash of window_end
                first 1 of each window_end in each window, by num desc
                state: top by window_end TIMESTAMP order num desc: auction BIGINT, window_end TIMESTAMP, num BIGINT
                compute auction, num
              gives auction BIGINT, num BIGINT

            sink q5->out (stdout)
              takes auction BIGINT, num BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q7_finds_the_highest_bid() {
    check(
        &transform(
            "q7 window=ten-seconds: SELECT auction, price, bidder, date_time, extra FROM bid ORDER BY price DESC LIMIT 1",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, date_time, extra
              skips channel, url
              event time from date_time, 4s out of order

            transform q7
              from bid
                compute window_last_ms(_event_time) as _event_time, auction, price, bidder, date_time, extra
              stage q7
                exchange: all rows to one task
                first 1 of each window, by price desc
                state: top by nothing in windows of 10s order price desc: auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP, extra VARCHAR
              gives auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP, extra VARCHAR

            sink q7->out (stdout)
              takes auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP, extra VARCHAR

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q12_counts_a_bidders_bids_in_a_window() {
    check(
        &transform(
            "q12 window=ten-seconds: SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime FROM bid GROUP BY bidder",
        ),
        expect![[r#"
            source bid (generator)
              reads bidder
              skips auction, price, channel, url, extra
              event time from date_time, 4s out of order

            transform q12
              from bid
              stage q12
                exchange by hash of bidder
                window ten-seconds: tumbling, 10s long; late rows are dropped
                aggregate count(*) (native)
                state: sliced window by bidder BIGINT: count(*) as BIGINT
                compute bidder, count(*) as bid_count, window_start as starttime, window_end as endtime
              gives bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP, endtime TIMESTAMP

            sink q12->out (stdout)
              takes bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP, endtime TIMESTAMP

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q14_calculates() {
    check(
        &transform(
            "q14: SELECT auction, bidder, 0.908 * price AS price, CASE WHEN extract(hour FROM date_time) BETWEEN 8 AND 18 THEN 'dayTime' WHEN extract(hour FROM date_time) <= 6 OR extract(hour FROM date_time) >= 20 THEN 'nightTime' ELSE 'otherTime' END AS bid_time_type, date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, date_time, extra
              skips channel, url
              event time from date_time, 4s out of order

            transform q14
              from bid
                compute 0.908 * CAST(price AS Float64) as __common_expr_9, auction, bidder, price, date_time, extra
                keep __common_expr_9 > 1000000 AND __common_expr_9 < 50000000
                compute date_part(HOUR, date_time) as __common_expr_1, auction, bidder, price, date_time, extra
                compute auction, bidder, 0.908 * CAST(price AS Float64) as price, CAST(CASE WHEN __common_expr_1 >= 8 AND __common_expr_1 <= 18 THEN dayTime WHEN __common_expr_1 <= 6 OR __common_expr_1 >= 20 THEN nightTime ELSE otherTime END AS Utf8View) as bid_time_type, date_time, extra, character_length(extra) - character_length(replace(extra, c, )) as c_counts
              gives auction BIGINT, bidder BIGINT, price DOUBLE, bid_time_type VARCHAR, date_time TIMESTAMP, extra VARCHAR, c_counts INT

            sink q14->out (stdout)
              takes auction BIGINT, bidder BIGINT, price DOUBLE, bid_time_type VARCHAR, date_time TIMESTAMP, extra VARCHAR, c_counts INT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q15_reports_bids_of_each_day() {
    check(
        &transform(
            "q15: SELECT to_char(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids, count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids, count(*) FILTER (WHERE price >= 1000000) AS rank3_bids, count(DISTINCT bidder) AS total_bidders, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders, count(DISTINCT auction) AS total_auctions FROM bid GROUP BY to_char(date_time, '%Y-%m-%d')",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, date_time
              skips channel, url, extra
              event time from date_time, 4s out of order

            transform q15
              from bid
                compute to_char(CAST(date_time AS Timestamp(Nanosecond, Some("UTC"))), %Y-%m-%d) as to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d'), price < 10000, price >= 10000 AND price < 1000000, price >= 1000000, bidder, auction
              stage q15
                exchange by hash of to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d')
                running groups, what changed is put out every 1s
                aggregate count(*) (native)
                aggregate count(*) FILTER (WHERE price < 10000), filtered by column price < 10000 (native)
                aggregate count(*) FILTER (WHERE price >= 10000 AND price < 1000000), filtered by column price >= 10000 AND price < 1000000 (native)
                aggregate count(*) FILTER (WHERE price >= 1000000), filtered by column price >= 1000000 (native)
                aggregate count(DISTINCT bidder) (DataFusion)
                aggregate count(DISTINCT bidder) FILTER (WHERE price < 10000), filtered by column price < 10000 (DataFusion)
                aggregate count(DISTINCT auction) (DataFusion)
                state: running by to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') VARCHAR: count(*) as BIGINT; count(*) FILTER (WHERE price < 10000) as BIGINT; count(*) FILTER (WHERE price >= 10000 AND price < 1000000) as BIGINT; count(*) FILTER (WHERE price >= 1000000) as BIGINT; count(DISTINCT bidder) as BIGINT[]; count(DISTINCT bidder) FILTER (WHERE price < 10000) as BIGINT[]; count(DISTINCT auction) as BIGINT[]
                compute CAST(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') AS Utf8View) as day, count(*) as total_bids, count(*) FILTER (WHERE price < 10000) as rank1_bids, count(*) FILTER (WHERE price >= 10000 AND price < 1000000) as rank2_bids, count(*) FILTER (WHERE price >= 1000000) as rank3_bids, count(DISTINCT bidder) as total_bidders, count(DISTINCT bidder) FILTER (WHERE price < 10000) as rank1_bidders, count(DISTINCT auction) as total_auctions
              gives day VARCHAR, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT, total_bidders BIGINT, rank1_bidders BIGINT, total_auctions BIGINT
              as changes by day

            sink q15->out (stdout)
              takes day VARCHAR, total_bids BIGINT, rank1_bids BIGINT, rank2_bids BIGINT, rank3_bids BIGINT, total_bidders BIGINT, rank1_bidders BIGINT, total_auctions BIGINT
              as changes by day

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q16_reports_channels() {
    check(
        &transform(
            "q16: SELECT channel, to_char(date_time, '%Y-%m-%d') AS day, max(to_char(date_time, '%H:%M')) AS minute, count(*) AS total_bids, count(DISTINCT bidder) AS total_bidders FROM bid GROUP BY channel, to_char(date_time, '%Y-%m-%d')",
        ),
        expect![[r#"
            source bid (generator)
              reads bidder, channel, date_time
              skips auction, price, url, extra
              event time from date_time, 4s out of order

            transform q16
              from bid
                compute CAST(date_time AS Timestamp(Nanosecond, Some("UTC"))) as __common_expr_1, bidder, channel
                compute channel, to_char(__common_expr_1, %Y-%m-%d) as to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d'), to_char(__common_expr_1, %H:%M) as to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%H:%M'), bidder
              stage q16
                exchange by hash of channel, to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d')
                running groups, what changed is put out every 1s
                aggregate max(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%H:%M')) (DataFusion)
                aggregate count(*) (native)
                aggregate count(DISTINCT bidder) (DataFusion)
                state: running by channel VARCHAR, to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') VARCHAR: max(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%H:%M')) as VARCHAR; count(*) as BIGINT; count(DISTINCT bidder) as BIGINT[]
                compute channel, CAST(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') AS Utf8View) as day, CAST(max(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%H:%M')) AS Utf8View) as minute, count(*) as total_bids, count(DISTINCT bidder) as total_bidders
              gives channel VARCHAR, day VARCHAR, minute VARCHAR, total_bids BIGINT, total_bidders BIGINT
              as changes by channel, day

            sink q16->out (stdout)
              takes channel VARCHAR, day VARCHAR, minute VARCHAR, total_bids BIGINT, total_bidders BIGINT
              as changes by channel, day

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q17_reports_auctions() {
    check(
        &transform(
            "q17: SELECT auction, to_char(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids, min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price FROM bid GROUP BY auction, to_char(date_time, '%Y-%m-%d')",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, price, date_time
              skips bidder, channel, url, extra
              event time from date_time, 4s out of order

            transform q17
              from bid
                compute auction, to_char(CAST(date_time AS Timestamp(Nanosecond, Some("UTC"))), %Y-%m-%d) as to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d'), price, CAST(price AS Float64) as price
              stage q17
                exchange by hash of auction, to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d')
                running groups, what changed is put out every 1s
                aggregate count(*) (native)
                aggregate min(price) (native)
                aggregate max(price) (native)
                aggregate avg(price) (native)
                aggregate sum(price) (native)
                state: running by auction BIGINT, to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') VARCHAR: count(*) as BIGINT; min(price) as BIGINT; max(price) as BIGINT; avg(price) as BIGINT UNSIGNED, DOUBLE; sum(price) as BIGINT
                compute auction, CAST(to_char(CAST(date_time AS Timestamp(ns, "UTC")), '%Y-%m-%d') AS Utf8View) as day, count(*) as total_bids, min(price) as min_price, max(price) as max_price, avg(price) as avg_price, sum(price) as sum_price
              gives auction BIGINT, day VARCHAR, total_bids BIGINT, min_price BIGINT, max_price BIGINT, avg_price DOUBLE, sum_price BIGINT
              as changes by auction, day

            sink q17->out (stdout)
              takes auction BIGINT, day VARCHAR, total_bids BIGINT, min_price BIGINT, max_price BIGINT, avg_price DOUBLE, sum_price BIGINT
              as changes by auction, day

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q18_finds_the_last_bid_of_each_window() {
    check(
        &transform(
            "q18 window=minute: SELECT auction, bidder, price, channel, url, date_time, extra FROM (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS rank_number FROM bid) WHERE rank_number <= 1",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform q18
              from bid
                compute window_last_ms(_event_time) as _event_time, auction, bidder, price, channel, url, date_time, extra
              stage q18
                exchange by hash of bidder, auction
                first 1 of each bidder, auction in each window, by date_time desc
                state: top by bidder BIGINT, auction BIGINT in windows of 1m order date_time desc: auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR
                compute auction, bidder, price, channel, url, date_time, extra
              gives auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR

            sink q18->out (stdout)
              takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q19_finds_the_top_bids_of_each_auction() {
    check(
        &transform(
            "q19 window=minute: SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS rank_number FROM bid) WHERE rank_number <= 10",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, channel, url, date_time, extra
              event time from date_time, 4s out of order

            transform q19
              from bid
                compute window_last_ms(_event_time) as _event_time, auction, bidder, price, channel, url, date_time, extra
              stage q19
                exchange by hash of auction
                first 10 of each auction in each window, by price desc
                state: top by auction BIGINT in windows of 1m order price desc: auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR
                compute auction, bidder, price, channel, url, date_time, extra, CAST(row_number AS Int64) as rank_number
              gives auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR, rank_number BIGINT

            sink q19->out (stdout)
              takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR, rank_number BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q20_is_a_join_and_is_refused() {
    check(
        &transform("q20: SELECT b.auction FROM bid AS b INNER JOIN bid AS a ON b.auction = a.auction"),
        expect![[r#"
            spec.transforms[0].sql:1:43: joins are not yet supported; expected one input, or a UNION ALL of several
        "#]],
    );
}

#[test]
fn q21_adds_channel_ids() {
    check(
        &transform(
            "q21: SELECT auction, bidder, price, channel, CASE WHEN lower(channel) = 'apple' THEN '0' WHEN lower(channel) = 'google' THEN '1' WHEN lower(channel) = 'facebook' THEN '2' WHEN lower(channel) = 'baidu' THEN '3' ELSE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] END AS channel_id FROM bid WHERE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] IS NOT NULL OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, channel, url
              skips extra
              event time from date_time, 4s out of order
              keeps array_element(regexp_match(url, (&|^)channel_id=([^&]*)), 2) IS NOT NULL OR lower(channel) IN (apple, google, facebook, baidu)

            transform q21
              from bid
                compute lower(channel) as __common_expr_1, auction, bidder, price, channel, url
                compute auction, bidder, price, channel, CASE WHEN __common_expr_1 = apple THEN 0 WHEN __common_expr_1 = google THEN 1 WHEN __common_expr_1 = facebook THEN 2 WHEN __common_expr_1 = baidu THEN 3 ELSE array_element(regexp_match(url, (&|^)channel_id=([^&]*)), 2) END as channel_id
              gives auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, channel_id VARCHAR

            sink q21->out (stdout)
              takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, channel_id VARCHAR

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn q22_takes_urls_apart() {
    check(
        &transform(
            "q22: SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3 FROM bid",
        ),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price, channel, url
              skips extra
              event time from date_time, 4s out of order

            transform q22
              from bid
                compute auction, bidder, price, channel, split_part(url, /, 4) as dir1, split_part(url, /, 5) as dir2, split_part(url, /, 6) as dir3
              gives auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, dir1 VARCHAR, dir2 VARCHAR, dir3 VARCHAR

            sink q22->out (stdout)
              takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, dir1 VARCHAR, dir2 VARCHAR, dir3 VARCHAR

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}
