#![allow(clippy::unwrap_used)]

use arrow::{
    array::Int64Array,
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use proptest::prelude::*;

use super::*;
use crate::window::tests::damage::{any_json, damaged};

const DISORDER_MS: i64 = 100;

fn node() -> SourceNode {
    let spec = serde_json::json!({
        "name": "rows",
        "generator": {"fields": [{"name": "n", "sequence": {}}]},
        "eventTime": {"column": "ts", "maxOutOfOrderness": "100ms", "idleTimeout": "1h", "maxFutureSkew": "1h"},
    });
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let millis = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let declared = vec![Field::new("n", DataType::Int64, true), Field::new("ts", micros, true)];
    SourceNode {
        spec: serde_json::from_value(spec).unwrap(),
        declared: Arc::new(Schema::new(declared.clone())),
        read: vec![0],
        event_time: Some(1),
        filter: None,
        schema: Arc::new(Schema::new(vec![Field::new("_event_time", millis, false), declared[0].clone()])),
    }
}

fn split(name: &str) -> SplitId {
    SplitId(name.into())
}

fn stored(latest: &[(&str, i64)], watermark: i64) -> StoredProgress {
    let latest = latest.iter().map(|(name, at)| (split(name), EventTime(*at))).collect();
    StoredProgress { latest, watermark: EventTime(watermark) }
}

#[test]
fn after_a_rescale_a_task_waits_for_its_own_splits_and_for_no_other() {
    let before = [stored(&[("a", 5_000), ("b", 1_000)], 900), stored(&[("c", 3_000)], 2_900)];
    let now = Duration::from_secs(1);
    let watermarks =
        |own: &'static [&'static str]| SplitWatermarks::new(&node(), &before, |split| own.contains(&&*split.0), now);
    let rows =
        |watermarks: &mut SplitWatermarks, name: &str, at: i64| watermarks.rows(&split(name), Some(EventTime(at)), now);

    let mut ahead = watermarks(&["a"]);
    assert_eq!(ahead.current(), EventTime(900), "what was said before is the least of all tasks'");
    assert_eq!(ahead.stored().latest.into_keys().collect::<Vec<_>>(), [split("a")]);
    rows(&mut ahead, "a", 6_000);
    assert_eq!(
        ahead.advance(0, now, |_| now),
        Progress::Watermark(EventTime(6_000 - DISORDER_MS)),
        "b and c are others'"
    );

    let mut both = watermarks(&["a", "b"]);
    rows(&mut both, "a", 6_000);
    assert_eq!(both.advance(0, now, |_| now), Progress::None, "b stands where it was");
    rows(&mut both, "b", 2_000);
    assert_eq!(both.advance(0, now, |_| now), Progress::Watermark(EventTime(2_000 - DISORDER_MS)));

    let mut none = watermarks(&[]);
    assert_eq!(none.advance(0, now, |_| now), Progress::None, "without a split nothing is known");
    rows(&mut none, "new", 4_000);
    assert_eq!(none.advance(1, now, |_| now), Progress::None, "a split that was not read yet may be older");
    assert_eq!(none.advance(0, now, |_| now), Progress::Watermark(EventTime(4_000 - DISORDER_MS)));
}

#[test]
fn a_split_that_goes_on_from_a_checkpoint_goes_on_from_its_greatest_time() {
    let now = Duration::from_secs(1);
    let mut watermarks = SplitWatermarks::new(&node(), &[stored(&[("a", 5_000)], 4_900)], |_| true, now);
    assert_eq!(watermarks.rows(&split("a"), Some(EventTime(10)), now), EventTime(4_900));
    assert_eq!(watermarks.advance(0, now, |_| now), Progress::None);
    assert_eq!(watermarks.stored(), stored(&[("a", 5_000)], 4_900));
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_wait_for_room_downstream_makes_no_split_idle() {
    let mut watermarks = SplitWatermarks::new(&node(), &[], |_| true, Duration::ZERO);
    watermarks.rows(&split("a"), Some(EventTime(5_000)), Duration::ZERO);
    watermarks.rows(&split("b"), Some(EventTime(9_000)), Duration::ZERO);
    assert_eq!(watermarks.advance(0, Duration::ZERO, |_| Duration::ZERO), Progress::Watermark(EventTime(4_900)));
    watermarks.waited(2 * HOUR);
    assert_eq!(watermarks.advance(0, 2 * HOUR, |_| 2 * HOUR), Progress::None);
    assert_eq!(watermarks.wake(), None);
}

#[test]
fn a_split_that_was_not_looked_at_for_so_long_is_not_idle() {
    let mut watermarks = SplitWatermarks::new(&node(), &[], |_| true, Duration::ZERO);
    watermarks.rows(&split("behind"), Some(EventTime(5_000)), Duration::ZERO);
    watermarks.rows(&split("ahead"), Some(EventTime(9_000)), Duration::ZERO);
    watermarks.advance(0, Duration::ZERO, |_| Duration::ZERO);
    watermarks.rows(&split("ahead"), Some(EventTime(9_500)), 2 * HOUR);
    let last_look = HOUR / 2;
    assert_eq!(watermarks.advance(0, 2 * HOUR, |_| last_look), Progress::None, "the other was read all the while");
    assert_eq!(watermarks.advance(0, 2 * HOUR, |_| 2 * HOUR), Progress::Watermark(EventTime(9_400)));
}

#[test]
fn a_task_without_a_split_stands_by_until_it_has_rows() {
    let mut watermarks = SplitWatermarks::new(&node(), &[], |_| true, Duration::ZERO);
    assert!(!watermarks.has_splits());
    assert_eq!(watermarks.stand_by(), Progress::Idle);
    assert_eq!(watermarks.stand_by(), Progress::None, "said once");
    assert_eq!(watermarks.wake(), Some(EventTime::MIN));
    watermarks.rows(&split("new"), Some(EventTime(4_000)), Duration::ZERO);
    assert!(watermarks.has_splits());
}

#[test]
fn splits_that_were_never_read_hold_the_watermark_back_however_long_that_takes() {
    let mut watermarks = SplitWatermarks::new(&node(), &[], |_| true, Duration::ZERO);
    watermarks.rows(&split("a"), Some(EventTime(5_000)), Duration::ZERO);
    assert_eq!(watermarks.advance(1, 2 * HOUR, |_| 2 * HOUR), Progress::None);
}

#[test]
fn when_all_splits_are_idle_none_holds_back_another_and_rows_end_the_idleness() {
    for ahead in ["a", "b"] {
        let mut watermarks = SplitWatermarks::new(&node(), &[], |_| true, Duration::ZERO);
        for name in ["a", "b"] {
            let latest = if name == ahead { 9_000 } else { 5_000 };
            watermarks.rows(&split(name), Some(EventTime(latest)), Duration::ZERO);
        }
        watermarks.advance(0, Duration::ZERO, |_| Duration::ZERO);
        assert_eq!(watermarks.advance(0, HOUR, |_| HOUR), Progress::Watermark(EventTime(8_900)));
        assert_eq!(watermarks.advance(0, HOUR, |_| HOUR), Progress::Idle);
        assert_eq!(watermarks.advance(0, HOUR, |_| HOUR), Progress::None);
        assert_eq!(watermarks.wake(), Some(EventTime(8_900)), "said before the rows");
        assert_eq!(watermarks.wake(), None);
    }
}

#[test]
fn rows_whose_event_time_cannot_be_used_are_told_by_their_numbers() {
    let node = node();
    let fields = node.declared.clone();
    let hour = 3_600_000_000;
    let times = arrow::array::TimestampMicrosecondArray::from(vec![
        Some(0),
        None,
        Some(2 * hour),
        Some(i64::MIN),
        Some(i64::MAX),
        Some(hour),
    ]);
    let numbers = Int64Array::from_iter_values(0..6);
    let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(times.with_timezone("UTC"))];
    let rows = RecordBatch::try_new(fields, columns).unwrap();
    let timed = EventTimes::new(&node).apply(rows, Timestamp(0)).unwrap();
    let unusable = timed.unusable.unwrap();
    assert_eq!(unusable.numbers, [1, 2, 4]);
    assert_eq!(unusable.rows.num_rows(), 3);
    assert_eq!((timed.rows.num_rows(), timed.latest), (3, Some(EventTime(3_600_000))));
    let reasons = EventTimes::new(&node).reasons(&unusable.rows);
    assert_eq!(reasons[0], "the event time is null");
    assert!(reasons[1].contains("1970-01-01 02:00:00Z") && reasons[2].contains("beyond all calendars"), "{reasons:?}");
}

proptest! {
    #[test]
    fn any_stored_progress_is_gone_on_from_or_passed_over(
        values in prop::collection::vec(any_progress(), 0..3), row: i64, unread in 0_usize..2,
    ) {
        // As a launch reads it.
        let restored: Vec<StoredProgress> =
            values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
        let now = Duration::from_secs(1);
        let mut watermarks = SplitWatermarks::new(&node(), &restored, |_| true, now);
        let before = watermarks.current();
        prop_assert!(before < EventTime::MAX, "nothing that was stored is the end");
        watermarks.rows(&split("a"), Some(EventTime(row)), now);
        let _ = watermarks.advance(unread, now, |_| now);
        prop_assert!(watermarks.current() >= before);
        let stored = watermarks.stored();
        let written = serde_json::to_value(&stored).unwrap();
        prop_assert_eq!(serde_json::from_value::<StoredProgress>(written).unwrap(), stored);
    }
}

fn any_progress() -> impl Strategy<Value = serde_json::Value> {
    let whole = serde_json::to_value(stored(&[("a", 5_000), ("b", 1_000)], 900)).unwrap();
    prop_oneof![any_json(), damaged(&whole), Just(whole)]
}
