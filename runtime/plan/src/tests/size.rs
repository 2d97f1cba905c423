//! SQL that is valid or nearly so, and would take long to plan: refused by its size, or planned in a moment.

use std::fmt::Write;

use super::*;
use crate::size::{MAX_CALLS, MAX_COLUMNS, MAX_KEYS};

/// `0, 1, …` put into a text, with commas between.
fn list(count: usize, of: impl Fn(usize) -> String) -> String {
    (0..count).map(of).collect::<Vec<_>>().join(", ")
}

/// A query around another, so often; `$` stands for what is inside.
fn nested(times: usize, query: &str, innermost: &str) -> String {
    (0..times).fold(innermost.to_owned(), |inner, _| query.replace('$', &format!("({inner})")))
}

/// The first error of one transform; empty without one.
fn first_error(text: &str) -> String {
    match compiled(&transform(text)) {
        Ok(_) => String::new(),
        Err(errors) => errors[0].to_string(),
    }
}

fn assert_taken(text: &str) {
    assert_eq!(first_error(text), "", "{}", &text[..text.len().min(120)]);
}

fn assert_refused(text: &str, message: &str) {
    let error = first_error(text);
    assert!(error.contains(message), "{}\n{error}", &text[..text.len().min(120)]);
}

#[test]
fn a_select_gives_so_many_columns_and_no_more() {
    let select = |columns| format!("t: SELECT {} FROM bid", list(columns, |n| format!("price AS c{n}")));
    assert_taken(&select(MAX_COLUMNS));
    check(
        &transform(&select(MAX_COLUMNS + 1)),
        expect_test::expect![[r#"
            spec.transforms[0].sql:1:14898: the SELECT has 1001 columns; expected at most 1000 columns
        "#]],
    );
}

#[test]
fn stars_count_as_the_columns_that_they_are() {
    let wide = format!("wide: SELECT {} FROM bid", list(600, |n| format!("price AS c{n}")));
    let stars = |text: String| pipeline(&[&wide, &text], &["t > out"]);
    let more = |columns| list(columns, |n| format!("c0 AS d{n}"));
    assert!(compiled(&stars(format!("t: SELECT *, {} FROM wide", more(400)))).is_ok());
    assert!(compiled(&stars(format!("t: SELECT * EXCEPT (c0), {} FROM wide", more(401)))).is_ok());
    for text in [
        format!("t: SELECT *, {} FROM wide", more(401)),
        format!("t: SELECT {} FROM wide", vec!["*"; 900].join(", ")),
        format!("t: SELECT {} FROM (SELECT * FROM wide) AS w", vec!["w.*"; 900].join(", ")),
    ] {
        assert!(outcome(&stars(text)).contains(" columns; expected at most 1000 columns"));
    }
}

#[test]
fn every_list_of_keys_has_so_many_and_no_more() {
    let keys = |count| list(count, |n| format!("price + {n}"));
    let named = |count| list(count, |n| format!("price + {n} AS k{n}"));
    for (text, what) in [
        (
            &(|count| format!("t window=minute: SELECT count(*) AS n FROM bid GROUP BY {}", keys(count)))
                as &dyn Fn(usize) -> String,
            "GROUP BY",
        ),
        (
            &|count| format!("t window=minute: SELECT {}, count(*) AS n FROM bid GROUP BY ALL", named(count)),
            "GROUP BY ALL",
        ),
        (&|count| format!("t within=10m: SELECT DISTINCT ON ({}) price FROM bid", keys(count)), "DISTINCT ON"),
        (&|count| format!("t window=minute: SELECT price FROM bid ORDER BY {} LIMIT 3", keys(count)), "ORDER BY"),
        (
            &|count| {
                format!("t window=trailing: SELECT price, sum(price) OVER (PARTITION BY {}) AS s FROM bid", keys(count))
            },
            "PARTITION BY",
        ),
    ] {
        assert_taken(&text(MAX_KEYS));
        assert_refused(&text(MAX_KEYS + 1), &format!("{what} has 101 keys; expected at most 100 keys"));
    }
}

#[test]
fn a_select_calls_so_many_aggregates_and_no_more() {
    let sums = |count| list(count, |n| format!("sum(price + {n}) AS s{n}"));
    for window in ["minute", "trailing"] {
        let select = |count| format!("t window={window}: SELECT channel, {} FROM bid GROUP BY channel", sums(count));
        assert_taken(&select(MAX_CALLS));
        assert_refused(&select(MAX_CALLS + 1), "the SELECT calls more than 500 aggregates and window functions");
    }
    assert_refused(
        &format!(
            "t window=minute: SELECT * FROM (SELECT price, {} FROM bid) WHERE r1 < 3",
            list(600, |n| format!("ROW_NUMBER() OVER (PARTITION BY price + {n} ORDER BY price) AS r{n}"))
        ),
        "the SELECT calls more than 500 aggregates and window functions",
    );
}

#[test]
fn names_that_stand_for_others_may_stand_for_so_much() {
    let doubled = |times| nested(times, "SELECT price + price AS price FROM $", "SELECT price FROM bid");
    // Nothing puts one expression into the other here.
    assert_taken(&format!("t: {}", doubled(20)));
    assert_taken(&format!("t: {} WHERE price > 3", doubled(8)));
    let too_large = "the SELECT is too large: it weighs ";
    for text in [
        format!("t: {} WHERE price > 3", doubled(20)),
        format!("t window=minute: SELECT price, count(*) AS n FROM ({}) GROUP BY price", doubled(20)),
        format!("t window=minute: SELECT max(price) AS n FROM ({})", doubled(20)),
        format!(
            "t: WITH q0 AS (SELECT price FROM bid), {} SELECT price FROM q29 WHERE price > 3",
            list(29, |n| format!("q{} AS (SELECT price + price AS price FROM q{n})", n + 1))
        ),
        format!(
            "t: WITH q0 AS (SELECT price FROM bid), {} SELECT * FROM q39",
            list(39, |n| format!("q{} AS (SELECT * FROM q{n} UNION ALL SELECT * FROM q{n})", n + 1))
        ),
        format!(
            "t window=minute: SELECT {} AS k, count(*) AS n FROM bid GROUP BY {}",
            vec!["price"; 200].join(" + "),
            list(100, |_| "k".to_owned())
        ),
        format!(
            "t window=trailing: SELECT {} FROM bid GROUP BY {}",
            list(400, |n| format!("sum(price + {n}) AS s{n}")),
            list(100, |n| format!("price + {n} * 2 - 4 + auction"))
        ),
        format!("t: SELECT {} FROM bid", list(100, |n| format!("{} AS x{n}", vec!["price"; 120].join(" + ")))),
    ] {
        assert_refused(&text, too_large);
    }
}

#[test]
fn what_is_computed_once_is_spelled_out_so_far() {
    let twice = |times| nested(times, "SELECT (price + 1) * (price + 1) AS price FROM $", "SELECT price FROM bid");
    assert_taken(&format!("t: {}", twice(6)));
    assert_refused(&format!("t: {}", twice(16)), "the SELECT is too large: it weighs ");
}

#[test]
fn all_transforms_together_weigh_so_much_and_no_more() {
    let wide = format!("t0: SELECT {} FROM bid", list(MAX_COLUMNS, |n| format!("price AS c{n}")));
    let more: Vec<String> = (1..50).map(|n| format!("t{n}: SELECT * FROM t{}", n - 1)).collect();
    let texts: Vec<&str> = std::iter::once(wide.as_str()).chain(more.iter().map(String::as_str)).collect();
    let outcome = outcome(&pipeline(&texts, &["t49 > out"]));
    assert!(outcome.contains("the transforms of this pipeline are too large together"), "{outcome}");
    assert_eq!(outcome.lines().count(), 1, "{outcome}");
}

#[test]
fn the_constants_of_a_select_have_room_for_so_much() {
    let select = |count| format!("t: SELECT {} FROM bid", list(count, |n| format!("repeat('x', 1000000) AS c{n}")));
    assert_taken(&select(20));
    assert_taken("t: SELECT replace('a b c', ' ', '_') AS c, concat_ws(', ', 'a', 'b') AS d FROM bid");
    let replaced = (0..40).fold("'a'".to_owned(), |text, _| format!("replace({text}, 'a', 'aa')"));
    for text in [
        select(100),
        format!("t: SELECT {replaced} AS c FROM bid"),
        format!("t: SELECT replace('{}', 'a', '{}') AS c FROM bid", "a".repeat(30_000), "b".repeat(30_000)),
        format!("t: SELECT array_to_string(range(0, 1000000), '{}') AS c FROM bid", "b".repeat(30_000)),
        format!("t: SELECT concat_ws('{}', {}) AS c FROM bid", "b".repeat(30_000), list(10_000, |_| "'a'".to_owned())),
    ] {
        assert_refused(&text, "the constants that functions make here have more than 33554432 bytes together");
    }
}

#[test]
fn long_texts_of_other_forms_are_planned_or_refused() {
    let numbers = |count| list(count, |n| n.to_string());
    let branches = (0..2_500).fold(String::new(), |mut text, n| {
        let _ = write!(text, "WHEN price = {n} THEN {n} ");
        text
    });
    for text in [
        format!("t: SELECT price FROM bid WHERE price IN ({})", numbers(10_000)),
        format!("t: SELECT CASE {branches} END AS c FROM bid"),
        format!("t: SELECT unnest([{}]) AS x FROM bid", numbers(10_000)),
        format!("t: SELECT price FROM bid WHERE {}", vec!["price > 1"; 240].join(" OR ")),
        format!("t: {}", vec!["SELECT price FROM bid"; 240].join(" UNION ALL ")),
        format!("t: {}", nested(20, "SELECT price FROM $", "SELECT price FROM bid")),
        format!("t: SELECT {}price{} AS x FROM bid", "(".repeat(40), ")".repeat(40)),
    ] {
        assert_taken(&text);
    }
    assert_refused(&format!("t: {}", nested(100, "SELECT price FROM $", "SELECT price FROM bid")), "nested too deeply");
}

#[test]
fn faults_are_told_up_to_a_number() {
    for (text, message) in [
        (format!("t: SELECT {} FROM bid", list(1_000, |n| format!("nope{n} AS c{n}"))), "there is no column `nope0`"),
        (
            format!("t: SELECT {} FROM bid", list(1_000, |n| format!("nope{n}(price) AS c{n}"))),
            "there is no function `nope0`",
        ),
        (format!("t: SELECT {} FROM bid", list(1_000, |n| format!("price + {n}"))), "`price + 0` has no name"),
        (
            format!("t: SELECT {} FROM bid", list(1_000, |n| format!("upper(price + {n}) AS c{n}"))),
            "there is no `upper(BIGINT)`",
        ),
        (
            format!("t: SELECT price FROM bid WHERE price IN ({})", list(8_000, |n| format!("'{n}'"))),
            "they do not compare",
        ),
        (vec!["SELECT upper(price) AS u FROM bid"; 200].join(" UNION ALL "), "there is no `upper(BIGINT)`"),
    ] {
        let text = if text.starts_with("t:") { text } else { format!("t: {text}") };
        let errors = compiled(&transform(&text)).unwrap_err();
        assert!(errors[0].to_string().contains(message), "{}", errors[0]);
        assert!(errors.len() <= 51, "{} errors", errors.len());
    }
}

#[test]
fn a_wrong_expression_among_many_is_still_found() {
    let columns = list(900, |n| format!("price + {n} AS c{n}"));
    assert_refused(&format!("t: SELECT {columns}, upper(price) AS u FROM bid"), "there is no `upper(BIGINT)`");
}
