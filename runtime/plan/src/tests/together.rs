//! One mistake hides no other: what is wrong with a SELECT is told at once.

use expect_test::expect;

use super::{mistakes::despite, *};

#[test]
fn a_call_that_is_refused_hides_no_other_mistake_of_its_select() {
    check(
        &pipeline(
            &[
                "a: SELECT uper(channel) AS u, prize AS x, price + url AS y FROM bid WHERE md6(auctoin) > '3'",
                "b: SELECT uper(channel) AS u FROM bids WHERE now() > date_time",
                "c: SELECT price + channel, nothing FROM bid AS q WHERE upper(price)",
                "d: SELECT uper(n) AS u, channel FROM (SELECT md6(url) AS n FROM bid) AS s",
                "e window=minute: SELECT uper(channel) AS u, sum(url) AS s FROM bid AS q GROUP BY uper(channel), nothing",
                "f: SELECT upper(DISTINCT channel) AS u, uper(price) + 1 AS v FROM bid WHERE price",
                "g: SELECT u FROM a WHERE nothing > 3",
                "h: SELECT nothing, x FROM bid JOIN requsts ON true",
                "i: SELECT uper(channel) AS u FROM j",
                "j: SELECT uper(channel) AS u FROM i",
            ],
            &["a > out", "e.late > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[0].sql:1:72: there is no function `md6`; expected one of DataFusion's functions or its JSON functions; did you mean `md5`?
            spec.transforms[0].sql:1:28: there is no column `prize`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `price`?
            spec.transforms[0].sql:1:40: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
            spec.transforms[0].sql:1:76: there is no column `auctoin`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `auction`?
            spec.transforms[1].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[1].sql:1:43: `now()` gives something else each time, so a replay after a crash would not agree; expected what follows from the row alone; for its time, use `_event_time`
            spec.transforms[1].sql:1:32: there is no source or transform `bids`; expected one of: `bid`, `requests`, `a`, `c`, `d`, `e`, `f`, `g`, `h`, `i`, `j`; did you mean `bid`?
            spec.transforms[2].sql:1:8: `price + channel` has no name; expected a name: `price + channel AS …`
            spec.transforms[2].sql:1:8: cannot coerce arithmetic expression BIGINT + VARCHAR to valid types
            spec.transforms[2].sql:1:25: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[2].sql:1:53: there is no `upper(BIGINT)`; expected upper(VARCHAR)
            spec.transforms[3].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[3].sql:1:43: there is no function `md6`; expected one of DataFusion's functions or its JSON functions; did you mean `md5`?
            spec.transforms[4].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[4].sql:1:65: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[4].sql:1:28: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
            spec.transforms[4].sql:1:80: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[5].sql:1:8: `upper` cannot be called with DISTINCT; expected its arguments alone
            spec.transforms[5].sql:1:38: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[5].sql:1:43: cannot create filter with non-boolean predicate 'bid.price' returning BIGINT
            spec.transforms[7].sql:1:33: joins are not yet supported; expected one input, or a UNION ALL of several
            spec.transforms[7].sql:1:33: there is no source or transform `requsts`; expected one of: `bid`, `requests`, `a`, `b`, `c`, `d`, `e`, `f`, `g`, `i`, `j`; did you mean `requests`?
            spec.transforms[8].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.transforms[8].sql:1:32: transforms read each other in a circle: i reads j reads i; expected inputs that come, in the end, from sources
            spec.transforms[9].sql:1:8: there is no function `uper`; expected one of DataFusion's functions or its JSON functions; did you mean `upper`?
            spec.outputs[1].from: the Window `minute` drops late rows; expected `lateRows: SideOutput` in the Window
        "#]],
    );
}

#[test]
fn keys_that_are_not_there_are_told_with_the_columns_that_are() {
    check(
        &pipeline(
            &[
                "a window=minute: SELECT count(*) AS n FROM bid GROUP BY channl",
                "b window=minute: SELECT channl, count(*) AS n, sum(url) AS s FROM bid GROUP BY channl HAVING n > 'x'",
                "c window=minute: SELECT count(*) AS n FROM bid GROUP BY lower(channl), price + nothing",
                "d window=minute: SELECT count(*) AS n FROM bid AS q GROUP BY nothing, 3",
                "e window=minute: SELECT lower(channl) AS c, count(*) AS n FROM (SELECT channel FROM bid) AS s GROUP BY c",
                "f window=trailing: SELECT price, count(*) AS n FROM bid GROUP BY channl",
                "g: SELECT count(*) AS n FROM bid GROUP BY window_start",
                "h window=minute: SELECT auction, count(*) AS n FROM bid GROUP BY count(*), auction",
                "i window=minute: SELECT auction, count(*) AS n FROM bid GROUP BY n, auction",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:40: there is no column `channl`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `channel`?
            spec.transforms[1].sql:1:8: there is no column `channl`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `channel`?
            spec.transforms[1].sql:1:31: there is no `sum(VARCHAR)`; expected sum(Decimal), sum(BIGINT UNSIGNED), sum(BIGINT), sum(DOUBLE), sum(Duration), sum(Interval)
            spec.transforms[1].sql:1:63: there is no column `channl`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `channel`?
            spec.transforms[1].sql:1:77: `count(*)` is BIGINT, and `'x'` is VARCHAR: they do not compare; expected a value of type BIGINT, without quotes
            spec.transforms[2].sql:1:46: there is no column `channl`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `channel`?
            spec.transforms[2].sql:1:63: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[3].sql:1:45: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[3].sql:1:54: there is no result number 3 to group by; expected a number from 1 to 1, or a column
            spec.transforms[4].sql:1:14: there is no column `channl`; expected one of the columns: `channel`; did you mean `channel`?
            spec.transforms[5].sql:1:47: there is no column `channl`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`; did you mean `channel`?
            spec.transforms[6].sql:1:40: `window_start` is there only where a transform with a `window` groups; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
            spec.transforms[7].sql:1:49: an aggregate cannot be a key: its value is known only when its group is; expected columns, or expressions of them
            spec.transforms[8].sql:1:49: `n` is the alias of `count(*)` here, and an aggregate cannot be a key: its value is known only when its group is; expected columns, or expressions of them
        "#]],
    );
}

#[test]
fn keys_may_be_columns_results_and_their_numbers() {
    for keys in ["channel", "c", "1", "1, price", "lower(channel)", "c, window_start", "q.channel", "CHANNEL"] {
        let sql = format!("t window=minute: SELECT lower(channel) AS c, count(*) AS n FROM bid AS q GROUP BY {keys}");
        compiled(&transform(&sql)).expect(keys);
    }
}

#[test]
fn a_name_has_a_character() {
    check(
        &pipeline(
            &[
                "a: SELECT price AS \"\", auction AS '' FROM bid",
                "b: SELECT n FROM (SELECT price AS \"\", auction AS n FROM bid) AS s",
                "c: SELECT n FROM (SELECT price, auction FROM bid) AS s(\"\", n)",
                "d: WITH s (n, \"\") AS (SELECT price, auction FROM bid) SELECT n FROM s",
                "e: SELECT nothing AS \"\" FROM bid",
            ],
            &["a > out"],
        ),
        expect![[r#"
            spec.transforms[0].sql:1:17: this name is empty; expected a name of at least one character
            spec.transforms[0].sql:1:21: this name is empty; expected a name of at least one character
            spec.transforms[1].sql:1:32: this name is empty; expected a name of at least one character
            spec.transforms[2].sql:1:53: this name is empty; expected a name of at least one character
            spec.transforms[3].sql:1:12: this name is empty; expected a name of at least one character
            spec.transforms[4].sql:1:19: this name is empty; expected a name of at least one character
            spec.transforms[4].sql:1:8: there is no column `nothing`; expected one of the columns: `auction`, `bidder`, `price`, `channel`, `url`, `date_time`, `extra`
        "#]],
    );
}

#[test]
fn a_field_that_is_mistyped_is_told_of_by_its_own_name_alone() {
    let yaml = transform("t: SELECT nothing FROM requests");
    let broken = |from: &str, to: &str| {
        assert!(yaml.contains(from), "{from}");
        despite(&yaml.replace(from, to))
    };
    let nothing = "spec.transforms[0].sql:1:8: there is no column `nothing`; expected one of the columns: `ts`, `tenant`, `status`, `latency_ms`, `tags`, `body`, `day`\n";
    for (from, to) in [
        ("eventTime: {column: ts,", "eventTime: {colum: ts,"),
        ("eventTime: {column: ts,", "eventTime: {"),
        ("eventTime: {column: ts, maxOutOfOrderness: 5s}", "eventTime: ts"),
    ] {
        assert_eq!(broken(from, to), nothing, "{to}");
    }
    assert_eq!(broken("eventTime: {column: ts,", "eventTime: {column: tss,").lines().count(), 2);
}
