//! What the first n rows of windows compile to.

use expect_test::expect;

use super::*;

#[test]
fn order_by_with_limit_takes_the_first_rows_of_each_window() {
    check_transforms(
        &transform(
            "t window=hopping: SELECT auction, count(*) AS bids FROM bid GROUP BY auction ORDER BY bids DESC LIMIT 3",
        ),
        expect![[r#"
            source bid (generator)
              reads auction

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
        "#]],
    );
}

#[test]
fn row_number_takes_the_first_rows_of_each_group_in_each_window() {
    check_transforms(
        &transform(
            "t window=minute: SELECT tenant, status, n, rank FROM (SELECT *, row_number() OVER (PARTITION BY tenant ORDER BY n DESC) AS rank FROM (SELECT tenant, status, count(*) AS n FROM requests GROUP BY tenant, status) AS counts) AS ranked WHERE rank <= 2",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status

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
        "#]],
    );
}

#[test]
fn rows_are_ranked_under_a_tumbling_window_without_grouping() {
    check_transforms(
        &transform("t window=minute: SELECT auction, price, window_start FROM bid ORDER BY price DESC LIMIT 5"),
        expect![[r#"
            source bid (generator)
              reads auction, price

            transform t
              from bid
                compute window_last_ms(_event_time) as _event_time, auction, price, window_start(_event_time) as window_start
              stage t
                exchange: all rows to one task
                first 5 of each window, by price desc
                state: top by nothing in windows of 1m order price desc: auction BIGINT, price BIGINT, window_start TIMESTAMP
              gives auction BIGINT, price BIGINT, window_start TIMESTAMP
        "#]],
    );
}

#[test]
fn the_output_of_a_window_can_be_ranked_by_another_transform() {
    check_transforms(
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
        "#]],
    );
}

#[test]
fn sessions_are_told_apart_by_their_start_too() {
    check_transforms(
        &transform(
            "t window=visit: SELECT tenant, n, place FROM (SELECT tenant, count(*) AS n, row_number() OVER (PARTITION BY tenant ORDER BY count(*) DESC) AS place FROM requests GROUP BY tenant, status) WHERE place <= 2",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant, status

            transform t
              from requests
              stage t
                exchange by hash of tenant, status
                window visit: sessions, ended by 10s of silence; late rows are dropped
                aggregate count(*) (native)
                state: session window by tenant VARCHAR, status INT: count(*) as BIGINT
                compute tenant, count(*), window_start
              stage t.top
                exchange by hash of window_start, tenant
                first 2 of each window_start, tenant in each window, by count(*) desc
                state: top by window_start TIMESTAMP, tenant VARCHAR order count(*) desc: tenant VARCHAR, count(*) BIGINT, window_start TIMESTAMP
                compute tenant, count(*) as n, CAST(row_number AS Int64) as place
              gives tenant VARCHAR, n BIGINT, place BIGINT
        "#]],
    );
    check_transforms(
        &transform(
            "t window=visit: SELECT tenant, window_start AS since, count(*) AS n FROM requests GROUP BY tenant HAVING count(*) > 1 ORDER BY n DESC LIMIT 1",
        ),
        expect![[r#"
            source requests (file, json)
              reads tenant

            transform t
              from requests
              stage t
                exchange by hash of tenant
                window visit: sessions, ended by 10s of silence; late rows are dropped
                aggregate count(*) (native)
                state: session window by tenant VARCHAR: count(*) as BIGINT
                keep count(*) > 1
                compute tenant, window_start as since, count(*) as n
              stage t.top
                exchange by hash of since
                first 1 of each since in each window, by n desc
                state: top by since TIMESTAMP order n desc: tenant VARCHAR, since TIMESTAMP, n BIGINT
              gives tenant VARCHAR, since TIMESTAMP, n BIGINT
        "#]],
    );
}
