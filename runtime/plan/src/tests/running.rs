//! What SQL compiles to that remembers without a window: running aggregates and DISTINCT.

use expect_test::expect;

use super::*;

#[test]
fn a_running_aggregate_gives_a_changelog() {
    check_transforms(
        &transform("t emitEvery=2s: SELECT auction, count(*) AS bids, max(price) AS top FROM bid GROUP BY auction"),
        expect![[r#"
            source bid (generator)
              reads auction, price

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
        "#]],
    );
}

#[test]
fn a_changelog_can_be_projected_and_filtered_by_its_key() {
    check_transforms(
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
        "#]],
    );
}

#[test]
fn distinct_on_drops_repeats_within_a_time() {
    check_transforms(
        &transform("t within=10m: SELECT DISTINCT ON (auction, bidder) price, bidder FROM bid"),
        expect![[r#"
            source bid (generator)
              reads auction, bidder, price

            transform t
              from bid
                compute price, bidder, auction
              stage t
                exchange by hash of auction, bidder
                first row of each key within 10m; late rows are dropped
                state: distinct on auction BIGINT, bidder BIGINT
                compute price, bidder
              gives price BIGINT, bidder BIGINT
        "#]],
    );
}

#[test]
fn select_distinct_within_a_time_has_all_columns_as_its_key() {
    check_transforms(
        &transform("t within=10m: SELECT DISTINCT auction, bidder FROM bid"),
        expect![[r#"
            source bid (generator)
              reads auction, bidder

            transform t
              from bid
              stage t
                exchange by hash of auction, bidder
                first row of each key within 10m; late rows are dropped
                state: distinct on auction BIGINT, bidder BIGINT
              gives auction BIGINT, bidder BIGINT
        "#]],
    );
}

#[test]
fn late_rows_of_distinct_have_the_columns_of_what_comes_out() {
    let transforms = ["t within=10m: SELECT DISTINCT ON (auction, bidder) price, bidder FROM bid"];
    let text = outcome(&pipeline(&transforms, &["t > out", "t.late > rows"]));
    assert!(text.contains("first row of each key within 10m; late rows go to .late"), "{text}");
    assert!(text.contains("late rows price BIGINT, bidder BIGINT"), "{text}");
    assert_eq!(text.matches("takes price BIGINT, bidder BIGINT").count(), 2, "{text}");
}
