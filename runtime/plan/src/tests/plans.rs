//! What SQL compiles to.

use expect_test::expect;

use super::*;

#[test]
fn a_filter_and_a_projection_are_pushed_to_the_source() {
    check(
        &transform("t: SELECT tenant, latency_ms * 2 AS double FROM requests WHERE status >= 500"),
        expect![[r#"
            source requests (file, json)
              reads tenant, status, latency_ms
              skips tags, body, day
              event time from ts, 5s out of order
              keeps status >= 500

            transform t
              from requests
                compute tenant, latency_ms * 2 as double
              gives tenant VARCHAR, double DOUBLE

            sink t->out (stdout)
              takes tenant VARCHAR, double DOUBLE

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
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
              skips latency_ms, tags, body, day
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
              skips latency_ms, tags, body, day
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
    check(
        &transform("t: SELECT *, _event_time AS at FROM bid"),
        expect![[r#"
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
    "#]],
    );
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
              skips bidder, channel, url, extra
              event time from date_time, 4s out of order
              keeps price > 7

            source requests (file, json)
              reads status, latency_ms
              skips tenant, tags, body, day
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
    check(
        &transform("t: SELECT tenant, unnest(tags) AS tag FROM requests"),
        expect![[r#"
            source requests (file, json)
              reads tenant, tags
              skips status, latency_ms, body, day
              event time from ts, 5s out of order

            transform t
              from requests
                unnest tags
                compute tenant, tags as tag
              gives tenant VARCHAR, tag VARCHAR

            sink t->out (stdout)
              takes tenant VARCHAR, tag VARCHAR

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
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
              skips bidder, channel, url, extra
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
fn what_nothing_reads_is_compiled_and_warned_about() {
    check(
        &pipeline(&["used: SELECT auction FROM bid", "unused: SELECT tenant FROM requests"], &["used > out"]),
        expect![[r#"
            source bid (generator)
              reads auction
              skips bidder, price, channel, url, extra
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
fn json_values_become_text_where_a_transform_ends() {
    check(
        &transform("t: SELECT body->'user' AS who FROM requests WHERE json_contains(body, 'user')"),
        expect![[r#"
            source requests (file, json)
              reads body
              skips tenant, status, latency_ms, tags, day
              event time from ts, 5s out of order
              keeps json_contains(body, user)

            transform t
              from requests
                compute json_union_to_text(json_get(body, user)) as who
              gives who VARCHAR

            sink t->out (stdout)
              takes who VARCHAR

            warning: spec.sources[0]: nothing reads `bid`
        "#]],
    );
}

#[test]
fn with_names_subqueries() {
    check(
        &transform("t: WITH dear AS (SELECT * FROM bid WHERE price > 100) SELECT auction FROM dear"),
        expect![[r#"
            source bid (generator)
              reads auction, price
              skips bidder, channel, url, extra
              event time from date_time, 4s out of order
              keeps price > 100

            transform t
              from bid
                compute auction
              gives auction BIGINT

            sink t->out (stdout)
              takes auction BIGINT

            warning: spec.sources[1]: nothing reads `requests`
        "#]],
    );
}

#[test]
fn a_source_goes_straight_to_a_sink() {
    check(
        &pipeline(&[], &["bid > lake"]),
        expect![[r#"
        source bid (generator)
          reads auction, bidder, price, channel, url, date_time, extra
          event time from date_time, 4s out of order

        sink bid->lake (delta file:///out/lake)
          takes auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR

        warning: spec.sources[1]: nothing reads `requests`
    "#]],
    );
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
    "#]]
    .assert_eq(&explain::graphviz(&compiled(&yaml).unwrap()));
}

#[test]
fn the_same_spec_has_the_same_revision_and_another_has_another() {
    let revision = |sql: &str| compiled(&transform(sql)).unwrap().revision;
    let one = revision("t: SELECT auction FROM bid");
    assert_eq!(one, revision("t: SELECT auction FROM bid"));
    assert_eq!(one.0.len(), 64);
    assert_ne!(one, revision("t: SELECT bidder FROM bid"));
}
