//! Mistakes that would otherwise be found late, or never: what the planner passes over, what it compares in a way that
//! nobody means, and what fails only when rows come.

use std::collections::BTreeSet;

use expect_test::expect;

use super::*;
use crate::{Doubts, functions, resolve_and_compile_here};

/// Every clause that means nothing here, and the name by which it is refused.
const CLAUSES: [(&str, &str); 43] = [
    ("SELECT auction FROM bid TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
    ("SELECT auction FROM bid TABLESAMPLE SYSTEM (10) REPEATABLE (1)", "TABLESAMPLE"),
    ("SELECT auction FROM (SELECT auction FROM bid) AS s TABLESAMPLE (10 ROWS)", "TABLESAMPLE"),
    ("SELECT auction FROM bid FOR UPDATE", "FOR UPDATE"),
    ("SELECT auction FROM bid FOR SHARE NOWAIT", "FOR SHARE"),
    ("SELECT auction FROM bid FOR JSON AUTO", "FOR JSON"),
    ("SELECT auction FROM bid FOR XML AUTO", "FOR XML"),
    ("SELECT auction FROM bid FOR BROWSE", "FOR BROWSE"),
    ("SELECT auction FROM bid FETCH FIRST 3 ROWS ONLY", "FETCH"),
    ("SELECT auction FROM bid ORDER BY price FETCH FIRST 3 ROWS WITH TIES", "FETCH"),
    ("SELECT auction FROM bid SETTINGS max_threads = 3", "SETTINGS"),
    ("SELECT auction FROM bid FORMAT JSONCompact", "FORMAT"),
    ("SELECT auction FROM bid |> WHERE price > 3", "|>"),
    ("SELECT auction FROM bid ORDER BY price LIMIT 3 BY auction", "LIMIT BY"),
    ("SELECT auction FROM bid ORDER BY price LIMIT 3 OFFSET 3", "OFFSET"),
    ("SELECT auction FROM bid ORDER BY price LIMIT 3, 3", "OFFSET"),
    ("SELECT auction FROM bid ORDER BY price WITH FILL FROM 1 TO 9 LIMIT 3", "WITH FILL"),
    ("SELECT auction FROM bid ORDER BY price WITH FILL INTERPOLATE (auction) LIMIT 3", "INTERPOLATE"),
    ("WITH a AS MATERIALIZED (SELECT auction FROM bid) SELECT auction FROM a", "MATERIALIZED"),
    ("WITH RECURSIVE a AS (SELECT auction FROM bid) SELECT auction FROM a", "RECURSIVE"),
    ("SELECT /*+ FAST */ auction FROM bid", "/*+"),
    ("SELECT TOP 3 auction FROM bid", "TOP"),
    ("SELECT TOP 3 WITH TIES auction FROM bid", "TOP"),
    ("SELECT auction INTO other FROM bid", "INTO"),
    ("SELECT auction FROM bid LATERAL VIEW explode(url) AS u", "LATERAL VIEW"),
    ("SELECT auction FROM bid PREWHERE price > 3 WHERE price < 9", "PREWHERE"),
    ("SELECT auction FROM bid START WITH price = 1 CONNECT BY auction = bidder", "CONNECT BY"),
    ("SELECT auction FROM bid CLUSTER BY auction", "CLUSTER BY"),
    ("SELECT auction FROM bid DISTRIBUTE BY auction", "DISTRIBUTE BY"),
    ("SELECT auction FROM bid SORT BY auction", "SORT BY"),
    ("SELECT count(*) AS n FROM bid GROUP BY auction WITH ROLLUP", "WITH ROLLUP"),
    ("SELECT count(*) AS n FROM bid GROUP BY auction WITH CUBE", "WITH CUBE"),
    ("SELECT count(*) AS n FROM bid GROUP BY auction WITH TOTALS", "WITH TOTALS"),
    ("SELECT count(*) AS n FROM bid GROUP BY ROLLUP (auction)", "ROLLUP"),
    ("SELECT count(*) AS n FROM bid GROUP BY CUBE (auction)", "CUBE"),
    ("SELECT count(*) AS n FROM bid GROUP BY GROUPING SETS ((auction), ())", "GROUPING SETS"),
    ("SELECT * RENAME (auction AS a) FROM bid", "RENAME"),
    ("SELECT auction FROM bid WITH (NOLOCK)", "WITH (hints)"),
    ("SELECT auction FROM bid USE INDEX (a)", "USE INDEX"),
    ("SELECT auction FROM bid PARTITION (p)", "PARTITION"),
    ("SELECT auction FROM bid UNION ALL BY NAME SELECT auction FROM bid", "UNION ALL BY NAME"),
    ("SELECT upper(DISTINCT channel) AS u FROM bid", "DISTINCT"),
    ("SELECT upper(channel) FILTER (WHERE price > 3) AS u FROM bid", "FILTER"),
];

#[test]
fn a_clause_that_would_be_passed_over_is_refused_by_its_name() {
    for (sql, clause) in CLAUSES {
        let errors = compiled(&transform(&format!("t: {sql}"))).expect_err(sql);
        let about =
            errors.iter().find(|error| error.message.contains(clause) || error.offending.as_deref() == Some(clause));
        // What the parser itself does not know has its place from it.
        let unparsed = errors.iter().find(|error| error.message.starts_with("the SQL does not parse at"));
        let found = about.or(unparsed).unwrap_or_else(|| panic!("{sql}: {errors:?}"));
        let (line, column) = found.span.unwrap_or_else(|| panic!("{sql}: {found} has no place"));
        assert!(line == 1 && column <= sql.chars().count(), "{sql}: {found}");
    }
}

#[test]
fn the_clauses_that_are_known_are_refused_by_name_and_not_as_bad_sql() {
    let unparsed: Vec<&str> = CLAUSES
        .into_iter()
        .filter(|(sql, _)| {
            let faults = crate::sql::Sql::parse(sql).map_or_else(|faults| faults, |sql| sql.form.faults);
            faults.iter().any(|f| f.message.contains("does not parse"))
        })
        .map(|(_, clause)| clause)
        .collect();
    expect!["MATERIALIZED, USE INDEX"].assert_eq(&unparsed.join(", "));
}

#[test]
fn qualify_ranks_as_a_filter_around_would() {
    let around = outcome(&transform(
        "t window=minute: SELECT auction, price FROM (SELECT auction, price, row_number() OVER (PARTITION BY auction ORDER BY price) AS n FROM bid) AS s WHERE n <= 3",
    ));
    let qualified = outcome(&transform(
        "t window=minute: SELECT auction, price FROM bid QUALIFY row_number() OVER (PARTITION BY auction ORDER BY price) <= 3",
    ));
    assert_eq!(qualified, around);
}

#[test]
fn each_wrong_part_of_a_select_is_told_at_its_own_place() {
    check(
        &pipeline(
            &[
                "a: SELECT auction,\n  price + channel AS x,\n  upper(price) AS u\nFROM bid\nWHERE channel > 5 AND price",
                "b window=minute: SELECT channel, sum(url) AS s, count(*) AS n FROM bid GROUP BY channel HAVING n > 'x' AND max(channel) > 3",
                "c: SELECT x, channel > 3 AS y FROM (SELECT abs(url) AS x, channel FROM bid) AS s",
                "d: SELECT auction FROM bid HAVING auction > 3",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:2:3: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
            spec.transforms[0].sql:3:3: there is no `upper(BIGINT)`; expected upper(VARCHAR)
            spec.transforms[0].sql:5:7: `channel` is VARCHAR, and `5` is BIGINT: they do not compare; expected `'5'`, or `CAST(channel AS BIGINT)`
            spec.transforms[1].sql:1:17: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
            spec.transforms[1].sql:1:79: `count(*)` is BIGINT, and `'x'` is VARCHAR: they do not compare; expected a value of type BIGINT, without quotes
            spec.transforms[1].sql:1:91: `max(bid.channel)` is VARCHAR, and `3` is BIGINT: they do not compare; expected `'3'`, or `CAST(max(bid.channel) AS BIGINT)`
            spec.transforms[2].sql:1:41: there is no `abs(VARCHAR)`; expected abs(Numeric(1))
            spec.transforms[3].sql:1:25: HAVING clause references: bid.auction > 3 must appear in the GROUP BY clause or be used in an aggregate function
        "#]],
    );
}

#[test]
fn types_that_do_not_compare_are_refused_with_the_cast_to_write() {
    check(
        &pipeline(
            &[
                "a: SELECT auction FROM bid WHERE channel > 5",
                "b: SELECT auction FROM bid WHERE price = '5'",
                "c: SELECT auction FROM bid WHERE url = price",
                "d: SELECT auction FROM bid WHERE price IN (1, '2')",
                "e: SELECT auction FROM bid WHERE channel BETWEEN 1 AND 2",
                "f: SELECT CASE channel WHEN 1 THEN 'one' END AS c FROM bid",
                "g: SELECT auction FROM bid WHERE date_time > 1704067200000",
                "h: SELECT auction FROM bid WHERE date_time > url",
                "i: SELECT auction FROM bid WHERE (price > 3) = 1",
                "j: SELECT status FROM requests WHERE (body->>'n') > 3",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:31: `channel` is VARCHAR, and `5` is BIGINT: they do not compare; expected `'5'`, or `CAST(channel AS BIGINT)`
            spec.transforms[1].sql:1:31: `price` is BIGINT, and `'5'` is VARCHAR: they do not compare; expected a value of type BIGINT, without quotes
            spec.transforms[2].sql:1:31: `url` is VARCHAR, and `price` is BIGINT: they do not compare; expected one type, such as `CAST(url AS BIGINT)` gives
            spec.transforms[3].sql:1:31: `price` is BIGINT, and `'2'` is VARCHAR: they do not compare; expected a value of type BIGINT, without quotes
            spec.transforms[4].sql:1:31: `channel` is VARCHAR, and `1` is BIGINT: they do not compare; expected `'1'`, or `CAST(channel AS BIGINT)`
            spec.transforms[4].sql:1:31: `channel` is VARCHAR, and `2` is BIGINT: they do not compare; expected `'2'`, or `CAST(channel AS BIGINT)`
            spec.transforms[5].sql:1:8: `channel` is VARCHAR, and `1` is BIGINT: they do not compare; expected `'1'`, or `CAST(channel AS BIGINT)`
            spec.transforms[6].sql:1:31: cannot infer common argument type for comparison operation TIMESTAMP > BIGINT
            spec.transforms[7].sql:1:31: `date_time` is TIMESTAMP, and `url` is VARCHAR: they do not compare; expected one type, such as `CAST(url AS TIMESTAMP)` gives
            spec.transforms[8].sql:1:32: cannot infer common argument type for comparison operation BOOLEAN = BIGINT
            spec.transforms[9].sql:1:36: `json_as_text(body, 'n')` is VARCHAR, and `3` is BIGINT: they do not compare; expected `'3'`, or `CAST(json_as_text(body, 'n') AS BIGINT)`
        "#]],
    );
}

#[test]
fn types_that_compare_are_taken() {
    for filter in [
        "status > 2.5",
        "status = latency_ms",
        "tenant > 'a'",
        "ts > '2024-01-01T00:00:00Z'",
        "day = '2024-01-01'",
        "ts > day",
        "ts BETWEEN TIMESTAMP '2024-01-01 00:00:00' AND '2024-02-01'",
        "tenant IN ('a', NULL)",
        "status IS DISTINCT FROM NULL",
        "(status IS DISTINCT FROM 500) AND tenant = 'a'",
        "tenant = 'a' AND status IS NOT DISTINCT FROM 500 + 1",
        "CAST(tenant AS INT) > 3",
        "_event_time > '2024-01-01'",
        "(body->>'n') = '3'",
    ] {
        compiled(&transform(&format!("t: SELECT tenant FROM requests WHERE {filter}"))).expect(filter);
    }
}

#[test]
fn constants_that_would_make_values_without_bounds_are_refused() {
    check(
        &pipeline(
            &[
                "a: SELECT lpad(channel, 2147483647) AS a, upper(repeat('ab', 1024 * 1024)) AS b, auction FROM bid",
                "b: SELECT auction FROM bid WHERE rpad('x', 9999999999, url) = 'x'",
                "c: SELECT range(100000000) AS a, generate_series(auction, 3, 1) AS b FROM bid",
                "d window=minute: SELECT channel, max(repeat(url, 2000000)) AS m FROM bid GROUP BY channel",
                "e: SELECT array_repeat(array_repeat(1, 100000), 100000) AS x FROM bid",
                "f: SELECT lpad(channel, 1048576) AS a, repeat('', 2000000000) AS b, range(1048576) AS c, repeat(url, auction) AS d FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: `lpad` would make a value of 2147483647 characters, and may make one of 1048576
            spec.transforms[0].sql:1:46: `repeat` would make a value of 2097152 bytes, and may make one of 1048576
            spec.transforms[1].sql:1:31: `rpad` would make a value of 9999999999 characters, and may make one of 1048576
            spec.transforms[2].sql:1:8: `range` would make a value of 100000000 entries, and may make one of 1048576
            spec.transforms[3].sql:1:21: `repeat` would make a value of 2000000 bytes, and may make one of 1048576
            spec.transforms[4].sql:1:8: `array_repeat` would make 160001600000 bytes of one row, and may make 268435456
        "#]],
    );
}

#[test]
fn constants_that_fail_in_every_row_are_refused_at_their_places() {
    for (sql, place, what) in [
        ("SELECT auction, 1 / 0 AS x FROM bid", "1:17", "`1 / 0` divides by zero"),
        ("SELECT auction FROM bid WHERE price % (2 - 2) = 0", "1:31", "divides by zero"),
        ("SELECT auction, CAST('x' AS INT) + 1 AS x FROM bid", "1:22", "fails in every row"),
        ("SELECT auction, TIMESTAMP '2024-13-01' AS x FROM bid", "1:27", "fails in every row"),
    ] {
        let said = refusal(&transform(&format!("t: {sql}")));
        assert!(said.starts_with(&format!("spec.transforms[0].sql:{place}: ")) && said.contains(what), "{sql}: {said}");
        assert_eq!(said.lines().count(), 1, "{sql}: {said}");
    }
    for sql in [
        "SELECT coalesce(price, 1 / 0) AS x FROM bid WHERE price <> 0 AND 5 / price > 1 OR 1 / 0 = 1",
        "SELECT TRY_CAST('x' AS INT) AS y, 1.0e0 / 0 AS z, price / nullif(0, 0) AS n, CAST('1' AS INT) AS one FROM bid",
    ] {
        assert_eq!(refusal(&transform(&format!("t: {sql}"))), "", "{sql}");
    }
}

#[test]
fn arithmetic_of_constants_that_leaves_its_type_is_refused() {
    check(
        &pipeline(
            &[
                "a: SELECT auction + 9223372036854775807 * 2 AS x FROM bid WHERE price > -2 - 9223372036854775807",
                "b: SELECT CAST(2147483647 AS INT) + CAST(1 AS INT) AS x, 9223372036854775807 + 0 AS y FROM bid",
                "c window=minute: SELECT sum(9223372036854775807 + 1) AS s FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:18: `9223372036854775807 * 2` leaves the range of BIGINT; expected a wider type, such as `CAST(… AS DECIMAL(38, 0))` gives
            spec.transforms[0].sql:1:71: `-2 - 9223372036854775807` leaves the range of BIGINT; expected a wider type, such as `CAST(… AS DECIMAL(38, 0))` gives
            spec.transforms[1].sql:1:13: `2147483647 + 1` leaves the range of INT; expected a wider type, such as `CAST(… AS DECIMAL(38, 0))` gives
            spec.transforms[2].sql:1:12: `9223372036854775807 + 1` leaves the range of BIGINT; expected a wider type, such as `CAST(… AS DECIMAL(38, 0))` gives
        "#]],
    );
}

#[test]
fn a_condition_behind_is_distinct_from_is_not_taken_for_its_right_side() {
    check(
        &pipeline(
            &[
                "a: SELECT auction FROM bid WHERE channel IS DISTINCT FROM 'x' AND price > 1",
                "b: SELECT auction FROM bid WHERE price > 1 OR channel IS NOT DISTINCT FROM 'x' OR auction = 2",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:31: where IS DISTINCT FROM ends is not clear here; expected parentheses around it, as in `(a IS DISTINCT FROM b) AND c`, or around its right side
            spec.transforms[1].sql:1:44: where IS DISTINCT FROM ends is not clear here; expected parentheses around it, as in `(a IS DISTINCT FROM b) AND c`, or around its right side
        "#]],
    );
}

/// What is said against a manifest, in one text; nothing if it can run.
fn refusal(yaml: &str) -> String {
    let errors = compiled(yaml).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_operator_that_binds_tighter_than_one_of_json_needs_parentheses() {
    for (filter, meant) in [
        ("body->>'a' = 'x'", "(body ->> 'a') = 'x'"),
        ("body->'a'->>'b' = 'x' AND status = 500", "(body -> 'a' ->> 'b') = 'x'"),
        ("'x' = body->>'a'", "'x' = (body ->> 'a')"),
        ("body->>'a' || 'b' = 'xb'", "(body ->> 'a') || 'b' = 'xb'"),
        ("body->>'a' IS NULL", "(body ->> 'a') IS NULL"),
        ("body->>'n'::INT > 3", "(body ->> 'n')::INT > 3"),
        ("body->>'a' IN ('x', 'y')", "(body ->> 'a') IN ('x', 'y')"),
        ("body->>'a' LIKE 'x%'", "(body ->> 'a') LIKE 'x%'"),
        ("body->>'n' BETWEEN 'a' AND 'b'", "(body ->> 'n') BETWEEN 'a' AND 'b'"),
    ] {
        let manifest = transform(&format!("t: SELECT tenant FROM requests WHERE {filter}"));
        let error = refusal(&manifest);
        assert!(error.contains(&format!("parentheses, as in `{meant}`")), "{filter}: {error}");
        assert!(error.contains("binds weaker than the operator beside it"), "{filter}: {error}");
        let filter = if filter.contains(" AND status") { "(body->'a'->>'b') = 'x'" } else { meant };
        compiled(&transform(&format!("t: SELECT tenant FROM requests WHERE {filter}"))).expect(filter);
    }
    for filter in [
        "body->'a'->>'b' AND status = 5",
        "NOT body->'a'->>'b' AND status = 5",
        "tenant = 'a' AND body->>'b'",
        "(body->>('a' || 'b')) = 'x'",
    ] {
        let manifest = transform(&format!("t: SELECT tenant FROM requests WHERE {filter}"));
        let said = refusal(&manifest);
        assert!(!said.contains("binds weaker"), "{filter}: {said}");
    }
}

#[test]
fn substr_without_a_place_is_told_in_plain_words() {
    let said = refusal(&transform("t: SELECT substr(tenant) AS s FROM requests"));
    assert!(said.contains("needs a place to begin at; expected substr(text, from)"), "{said}");
    assert!(!said.contains("span"), "{said}");
}

#[test]
fn an_nth_value_that_there_cannot_be_is_refused() {
    for (call, why) in [
        ("nth_value(tenant, 0)", "the second argument of nth_value is a whole number other than 0"),
        ("nth_value(tenant, status)", "the second argument of nth_value is a whole number other than 0"),
        ("nth_value(DISTINCT tenant, 2 ORDER BY ts)", "with DISTINCT it is ordered by the values themselves"),
    ] {
        let said = refusal(&transform(&format!("t window=minute: SELECT {call} AS x FROM requests")));
        assert!(said.contains("spec.transforms[0].sql:1:8:"), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn what_a_transform_gives_has_a_name() {
    check(
        &pipeline(
            &[
                "a: SELECT auction, price + 1, upper(channel) FROM bid",
                "b window=minute: SELECT auction, count(*) FROM bid GROUP BY auction",
                "c: SELECT * FROM (SELECT auction, price * 2 FROM bid) AS s",
                "d: WITH s AS (SELECT CAST(price AS DOUBLE) FROM bid) SELECT * FROM s",
                "e: SELECT auction AS a FROM bid UNION ALL SELECT price + 1 FROM bid",
                "f: SELECT (auction), bid.price, \"url\" FROM bid",
                "g: SELECT * FROM (SELECT price + 1 FROM bid) AS s(n)",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:17: `price + 1` has no name; expected a name: `price + 1 AS …`
            spec.transforms[0].sql:1:28: `upper(channel)` has no name; expected a name: `upper(channel) AS …`
            spec.transforms[1].sql:1:17: `count(*)` has no name; expected a name: `count(*) AS …`
            spec.transforms[2].sql:1:32: `price * 2` has no name; expected a name: `price * 2 AS …`
            spec.transforms[3].sql:1:24: `CAST(price AS DOUBLE)` has no name; expected a name: `CAST(price AS DOUBLE) AS …`
        "#]],
    );
}

#[test]
fn an_aggregate_that_cannot_run_is_refused_when_the_plan_is_made() {
    let mut refused = String::new();
    for name in functions().names().filter(|name| functions().aggregate(name).is_some()) {
        let calls = [
            "(price)",
            "(price, auction)",
            "(channel, ',')",
            "(price, 0.5)",
            "(price, auction, 0.5)",
            "(price, 2)",
            "(price > 3)",
        ];
        let tried: Vec<_> = calls
            .iter()
            .map(|args| {
                compiled(&transform(&format!(
                    "t window=minute: SELECT auction, {name}{args} AS x FROM bid GROUP BY auction"
                )))
            })
            .collect();
        if tried.iter().all(Result::is_err) {
            let why = tried.into_iter().filter_map(Result::err).flatten().find(|e| e.message.contains("cannot run"));
            let _ = writeln!(refused, "{name}: {}", why.map(|why| why.to_string()).unwrap_or_default());
        }
    }
    expect![[r#"
        grouping: spec.transforms[0].sql:1:17: `grouping` cannot run over a stream: physical plan is not yet implemented for GROUPING aggregate function; expected an aggregate whose state can be kept
    "#]].assert_eq(&refused);
}

/// The arguments that some aggregate or other takes.
const ARGUMENTS: [&str; 12] = [
    "price",
    "CAST(price AS INT)",
    "CAST(price AS DOUBLE)",
    "CAST(price AS DECIMAL(12, 2))",
    "channel",
    "date_time",
    "price > 3",
    "price, auction",
    "channel, ','",
    "CAST(price AS DOUBLE), 0.5",
    "CAST(price AS DOUBLE), CAST(auction AS DOUBLE), 0.5",
    "price, 2",
];

#[test]
fn every_aggregate_that_is_taken_keeps_its_state_as_it_declares_it() {
    let mut refused = String::new();
    let (mut taken, mut taken_names) = (0, BTreeSet::new());
    for name in functions().names().filter(|name| functions().aggregate(name).is_some()) {
        for args in ARGUMENTS {
            let first = args.split(", ").next().unwrap_or(args);
            for call in [
                format!("{name}({args})"),
                format!("{name}(DISTINCT {args})"),
                format!("{name}({args} ORDER BY auction)"),
                format!("{name}(DISTINCT {args} ORDER BY {first})"),
            ] {
                let sql = format!("t window=minute: SELECT auction, {call} AS x FROM bid GROUP BY auction");
                match compiled(&transform(&sql)) {
                    Ok(_) => {
                        taken += 1;
                        taken_names.insert(name);
                    }
                    // A wrong argument, and what is no aggregate at all, are told elsewhere.
                    Err(errors) => {
                        for error in errors.iter().filter(|error| error.message.contains("it declares a state of")) {
                            let _ = writeln!(refused, "{call}: {}", error.message);
                        }
                    }
                }
            }
        }
    }
    expect![[r#"
        bit_xor(DISTINCT price): `bit_xor` cannot run over a stream: it declares a state of BIGINT[], and has one of BIGINT
        bit_xor(DISTINCT price ORDER BY price): `bit_xor` cannot run over a stream: it declares a state of BIGINT[], and has one of BIGINT
        bit_xor(DISTINCT CAST(price AS INT)): `bit_xor` cannot run over a stream: it declares a state of INT[], and has one of INT
        bit_xor(DISTINCT CAST(price AS INT) ORDER BY CAST(price AS INT)): `bit_xor` cannot run over a stream: it declares a state of INT[], and has one of INT
    "#]].assert_eq(&refused);
    println!("{taken} calls of {} aggregates are taken", taken_names.len());
    assert!(taken > 300 && taken_names.len() > 40, "{taken} calls of {taken_names:?}");
}

#[test]
fn aggregates_of_distinct_values_are_taken_if_they_keep_their_state() {
    for call in [
        "bit_xor(price)",
        "sum(DISTINCT price)",
        "count(DISTINCT channel)",
        "array_agg(DISTINCT channel)",
        "median(DISTINCT price)",
    ] {
        let sql = format!("t window=minute: SELECT auction, {call} AS x FROM bid GROUP BY auction");
        compiled(&transform(&sql)).expect(call);
    }
}

#[test]
fn outputs_of_different_columns_do_not_share_a_place() {
    let sinks = "---\napiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata: {name: again}\nspec: {file: {path: /out/./rows/, format: {json: {}}}}\n---\napiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata: {name: other-way}\nspec: {parquet: {uri: \"file:///out/rows\"}}\n---\napiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata: {name: inside}\nspec: {file: {path: /out/rows/more, format: {json: {}}}}\n";
    let transforms = ["a: SELECT auction FROM bid", "b: SELECT auction FROM bid", "c: SELECT price FROM bid"];
    let with = |outputs: &[&str]| outcome(&format!("{}{sinks}", pipeline(&transforms, outputs)));
    expect![[r#"
        spec.outputs[1].sink: `a` and `c` both go to the Sink `rows`, and their columns differ; expected a Sink with a place of its own for each output
    "#]].assert_eq(&with(&["a > rows", "c > rows"]));
    expect![[r#"
        spec.outputs[1].sink: `a` and `c` both go to one place, and their columns differ; expected a Sink with a place of its own for each output
    "#]].assert_eq(&with(&["a > rows", "c > again"]));
    expect![[r#"
        spec.outputs[1].sink: the Sinks `rows` and `other-way` write to one place, each in its own way; expected a Sink with a place of its own for each output
    "#]].assert_eq(&with(&["a > rows", "b > other-way"]));
    expect![[r#"
        spec.outputs[1].sink: the folder of the Sink `inside` lies in that of the Sink `rows`; expected a Sink with a place of its own for each output
    "#]].assert_eq(&with(&["a > inside", "b > rows"]));
    assert!(with(&["a > rows", "b > rows"]).contains("sink a->rows"));
    assert!(with(&["a > rows", "b > again"]).contains("sink b->again"), "alike, and spelt in two ways");
    assert!(with(&["a > out", "c > out"]).contains("sink a->out"));
}

#[test]
fn one_place_is_known_in_each_of_its_spellings() {
    let told = |here: &(dyn Fn(&str) -> String + Sync), one: &str, other: &str| {
        let sink = |name: &str, sink: &str| {
            format!(
                "---\napiVersion: millrace.dev/v1alpha1\nkind: Sink\nmetadata: {{name: {name}}}\nspec: {{{sink}}}\n"
            )
        };
        let sinks = [
            sink("one", &format!("file: {{path: \"{one}\", format: {{json: {{}}}}}}")),
            sink("other", &format!("parquet: {{uri: \"{other}\"}}")),
        ];
        let pipeline = pipeline(&["a: SELECT auction FROM bid"], &["a > one", "a > other"]);
        despite_here(here, &format!("{pipeline}{}", sinks.concat()))
    };
    let as_written = |path: &str| path.to_owned();
    let in_home = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/home/someone/{path}") };
    let linked = |path: &str| path.replace("/link", "/out");
    let same = "write to one place, each in its own way";
    for (here, one, other) in [
        (&as_written as &(dyn Fn(&str) -> String + Sync), "out/./rows", "out/more/../rows"),
        (&as_written, "/out/a b", "file:///out/a%20b/"),
        (&as_written, "/../out", "/out"),
        (&in_home, "out/rows", "/home/someone/out/rows"),
        (&in_home, "../out", "file:///home/out"),
        (&linked, "/link/rows", "/out/rows"),
    ] {
        assert!(told(here, one, other).contains(same), "{one} and {other}: {}", told(here, one, other));
    }
    for (here, one, other) in [
        (&as_written as &(dyn Fn(&str) -> String + Sync), "out/rows", "/home/someone/out/rows"),
        (&in_home, "out/rows", "/out/rows"),
        (&as_written, "../out", "out"),
    ] {
        assert_eq!(told(here, one, other), "a plan\n", "{one} and {other}");
    }
}

#[test]
fn a_source_that_reads_what_its_pipeline_writes_is_told() {
    let warned = |path: &str, sink: &str| {
        let yaml = format!(
            "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: circle}}
spec:
  sources:
    - name: rows
      file: {{paths: [\"/in/*\", \"{path}\"]}}
      format: {{json: {{}}}}
      columns: [{{name: id, type: BIGINT}}, {{name: day, type: VARCHAR}}]
  transforms: [{{name: t, sql: \"SELECT id, day FROM rows\"}}]
  outputs: [{{from: t, sink: out}}]
---
apiVersion: millrace.dev/v1alpha1
kind: Sink
metadata: {{name: out}}
spec: {{{sink}}}
"
        );
        let warnings = compiled(&yaml).unwrap().warnings;
        warnings.into_iter().map(|warning| format!("{}: {}", warning.path, warning.message)).collect::<Vec<_>>()
    };
    let json = "file: {path: out/rows, format: {json: {}}}";
    let days = "parquet: {uri: \"file:///out/rows\", partitionBy: [day]}";
    let told = "spec.sources[0].file.paths[1]: the files of the Sink `out` match this: their rows would be read again";
    for (path, sink) in [
        ("out/rows/*", json),
        ("./out/../out/r*/*.ndjson", json),
        ("**", json),
        ("out/**/*.ndjson", json),
        ("/out/rows/**/*.parquet", days),
        ("/out/rows/day=*/*", days),
        ("/out/rows/*", "delta: {uri: /out/rows}"),
    ] {
        assert_eq!(warned(path, sink), [told], "{path} and {sink}");
    }
    for (path, sink) in [
        ("out/*", json),
        ("out/rows/*.csv", json),
        ("out/rows/app-*", json),
        ("/out/rows/*", json),
        ("/out/rows/*", days),
        ("/out/rows/**", "stdout: {}"),
    ] {
        assert_eq!(warned(path, sink), Vec::<String>::new(), "{path} and {sink}");
    }
}

#[test]
fn columns_that_differ_in_capital_letters_are_told_before_the_table_refuses_them() {
    check(
        &pipeline(&["t: SELECT auction, price AS \"Auction\" FROM bid"], &["t > lake", "t > rows"]),
        expect![[r#"
            spec.outputs[0].from: a Delta table cannot have the columns `auction` and `Auction`: it does not tell capital letters from small ones; expected another name for one of them, given with AS
        "#]],
    );
}

#[test]
fn checkpoints_go_to_a_folder_or_a_bucket() {
    let yaml = transform("t: SELECT auction FROM bid");
    for storage in ["ftp://host/a", "s3://", "s3:///a", "s3://lake/a?versionId=1", "file://host/a"] {
        let errors = compiled(&format!("{yaml}  checkpoints: {{storage: \"{storage}\"}}\n")).expect_err(storage);
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.checkpoints.storage"], "{errors:?}");
    }
    for storage in ["/a", "a", "file:///a", "s3://lake", "s3://lake/a/b"] {
        compiled(&format!("{yaml}  checkpoints: {{storage: \"{storage}\"}}\n")).expect(storage);
    }
}

/// All that is told of manifests of which some could not be read.
pub(super) fn despite(yaml: &str) -> String {
    despite_here(&|path| path.to_owned(), yaml)
}

/// The same on a machine on which paths lead where `here` says.
fn despite_here(here: &(dyn Fn(&str) -> String + Sync), yaml: &str) -> String {
    let (manifests, _) = manifest::read(&[("test.yaml", yaml)]);
    let pipeline = manifests.pipelines.first().unwrap();
    let namespace = pipeline.namespace();
    let doubts = Doubts {
        fields: pipeline.unread_fields().clone(),
        windows: manifests.unread_windows_in(namespace),
        sinks: manifests.unread_sinks_in(namespace),
    };
    let windows = manifests.windows_in(namespace);
    let sinks = manifests.sinks_in(namespace);
    let spec = pipeline.value.spec.clone();
    let done = resolve_and_compile_here(here, &doubts, pipeline.name(), spec, &windows, &sinks);
    done.map_or_else(|errors| errors.iter().map(|error| format!("{error}\n")).collect(), |_| "a plan\n".to_owned())
}

#[test]
fn what_could_not_be_read_hides_nothing_else_and_makes_nothing_up() {
    let good = pipeline(
        &[
            "a: SELECT tenant, status + tenant AS x, nothing FROM requests",
            "b window=minute: SELECT tenant, sum(tenant) AS s, latency_ms FROM requests GROUP BY tenant",
            "c: SELEC tenant FROM requests",
            "d: SELECT * FROM e",
            "e: SELECT * FROM d",
            "f: SELECT price, auction + channel AS x FROM bid WHERE nothing > 3",
        ],
        &["b > lake", "requests.errors > out", "f > owt"],
    );
    let broken = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        despite(&good.replace(from, to))
    };
    expect![[r#"
        spec.transforms[0].sql:1:16: cannot coerce arithmetic expression INT + VARCHAR to valid types
        spec.transforms[0].sql:1:38: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
        spec.transforms[1].sql:1:16: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        spec.transforms[1].sql:1:34: 'requests.latency_ms' must appear in GROUP BY clause because it's not an aggregate expression; expected either add 'requests.latency_ms' to GROUP BY clause, or use an aggregate function like ANY_VALUE(requests.latency_ms)
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&despite(&good));
    // A type that is guessed: names only.
    expect![[r#"
        spec.transforms[0].sql:1:38: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&broken("{name: status, type: INT}", "{name: status, type: INTT}"));
    // A column whose name is not known: nothing about that source's columns.
    expect![[r#"
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&broken("{name: status, type: INT}", "{nam: status, type: INT}"));
    // A window that is not known: each expression by itself.
    expect![[r#"
        spec.transforms[0].sql:1:16: cannot coerce arithmetic expression INT + VARCHAR to valid types
        spec.transforms[0].sql:1:38: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
        spec.transforms[1].sql:1:16: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        spec.transforms[1].window: there is no Window `minit`; expected the name of a Window: `corrected`, `hopping`, `hour`, `minute`, `ten-seconds`, `trailing`, `visit`; did you mean `minute`?
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&broken("window: minute", "window: minit"));
    expect![[r#"
        spec.transforms[0].sql:1:16: cannot coerce arithmetic expression INT + VARCHAR to valid types
        spec.transforms[0].sql:1:38: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
        spec.transforms[1].sql:1:16: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&broken("window: minute", "windw: minute"));
    expect![[r#"
        spec.transforms[0].sql:1:16: cannot coerce arithmetic expression INT + VARCHAR to valid types
        spec.transforms[0].sql:1:38: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`
        spec.transforms[1].sql:1:16: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
        spec.transforms[1].sql:1:34: 'requests.latency_ms' must appear in GROUP BY clause because it's not an aggregate expression; expected either add 'requests.latency_ms' to GROUP BY clause, or use an aggregate function like ANY_VALUE(requests.latency_ms)
        spec.transforms[2].sql:1:1: the SQL does not parse at `SELEC`; expected an SQL statement
        spec.transforms[3].sql:1:15: transforms read each other in a circle: d reads e reads d; expected inputs that come, in the end, from sources
        spec.transforms[5].sql:1:15: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
        spec.transforms[5].sql:1:53: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        spec.outputs[2].sink: there is no Sink `owt`; expected the name of a Sink: `by-day`, `lake`, `out`, `rows`, `table`; did you mean `out`?
    "#]].assert_eq(&broken("onError: DeadLetter", "onErorr: DeadLetter"));
}
