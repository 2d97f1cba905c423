#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType},
};
use futures::FutureExt;
use millrace_crds::{
    ColumnType, DurationStr, GeneratorField, IntRange, NexmarkGenerator, NexmarkStream, OnError, Sequence,
    StringValues, TimestampSteps,
};
use millrace_stream::{ManualClock, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn spec(generator: GeneratorSpec) -> SourceSpec {
    SourceSpec {
        name: "made_up".to_owned(),
        generator: Some(generator),
        file: None,
        stdin: None,
        format: None,
        columns: Vec::new(),
        event_time: None,
        on_error: OnError::Fail,
    }
}

fn plain(rows: Option<u64>, rate: Option<u64>) -> GeneratorSpec {
    let field = |name: &str| GeneratorField { name: name.to_owned(), ..GeneratorField::default() };
    GeneratorSpec {
        seed: 7,
        rows,
        rate,
        nexmark: None,
        fields: vec![
            GeneratorField { sequence: Some(Sequence { start: 0, step: 1 }), ..field("n") },
            GeneratorField { int: Some(IntRange { min: -5, max: 5 }), ..field("i") },
            GeneratorField {
                string: Some(StringValues {
                    prefix: Some("k".to_owned()),
                    cardinality: Some(100),
                    choices: Vec::new(),
                }),
                ..field("key")
            },
            GeneratorField {
                timestamp: Some(TimestampSteps {
                    start: "2024-01-01T00:00:00Z".to_owned(),
                    step: DurationStr::from_millis(10),
                }),
                ..field("ts")
            },
        ],
    }
}

fn nexmark(stream: NexmarkStream, rows: u64) -> GeneratorSpec {
    let nexmark = Some(NexmarkGenerator { stream, events_per_second: 10_000 });
    GeneratorSpec { seed: 1, rows: Some(rows), rate: None, nexmark, fields: Vec::new() }
}

fn open(
    generator: &GeneratorSpec,
    tasks: (u32, u32),
    restored: &[(SplitId, ReplayPoint)],
    clock: &Arc<ManualClock>,
) -> Box<dyn SourceReader> {
    try_open(generator, tasks, restored, clock).unwrap()
}

fn try_open(
    generator: &GeneratorSpec,
    (index, parallelism): (u32, u32),
    restored: &[(SplitId, ReplayPoint)],
    clock: &Arc<ManualClock>,
) -> Result<Box<dyn SourceReader>, SourceError> {
    let fields: Vec<Field> = generator
        .columns()
        .iter()
        .map(|column| {
            let of = match column.data_type().unwrap() {
                ColumnType::BigInt => DataType::Int64,
                ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                _ => DataType::Utf8View,
            };
            Field::new(&column.name, of, true)
        })
        .collect();
    let cx = SourceContext {
        index,
        parallelism,
        resumes: !restored.is_empty(),
        restored: restored.iter().cloned().collect::<BTreeMap<_, _>>(),
        schema: Arc::new(Schema::new(fields)),
        batch_rows: 1000,
        clock: clock.clone(),
        scratch: std::path::PathBuf::new(),
    };
    let spec = spec(generator.clone());
    GeneratorSource::new(&spec, generator).open(cx).now_or_never().unwrap()
}

fn next(reader: &mut Box<dyn SourceReader>) -> Read {
    reader.next().now_or_never().unwrap().unwrap()
}

fn drain(reader: &mut Box<dyn SourceReader>) -> Vec<RecordBatch> {
    std::iter::from_fn(|| match next(reader) {
        Read::Rows { rows, .. } => Some(rows),
        _ => None,
    })
    .collect()
}

fn numbers(batches: &[RecordBatch], column: usize) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(column).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp(0)))
}

#[test]
fn one_task_makes_all_rows_in_order_and_any_replay_point_gives_the_same_rest() {
    let generator = plain(Some(10_010), None);
    let whole = drain(&mut open(&generator, (0, 1), &[], &clock()));
    let whole = arrow::compute::concat_batches(&whole[0].schema(), &whole).unwrap();
    assert_eq!(numbers(std::slice::from_ref(&whole), 0), (0..10_010).collect::<Vec<_>>());
    assert!(numbers(std::slice::from_ref(&whole), 1).iter().all(|n| (-5..=5).contains(n)));
    assert!(whole.column(2).as_string_view().iter().flatten().all(|key| key.starts_with('k')));
    assert_eq!(whole.column(3).as_primitive::<TimestampMicrosecondType>().value(100), 1_704_067_201_000_000);
    let mut reader = open(&generator, (0, 1), &[], &clock());
    let mut read = 0;
    while let Read::Rows { rows, .. } = next(&mut reader) {
        read += rows.num_rows();
        let rest = drain(&mut open(&generator, (0, 1), &reader.replay_points(), &clock()));
        let rest = arrow::compute::concat_batches(&whole.schema(), &rest).unwrap();
        assert_eq!(rest, whole.slice(read, whole.num_rows() - read));
    }
    assert!(matches!(next(&mut reader), Read::Ended));
}

#[test]
fn the_set_of_rows_is_the_same_whatever_the_parallelism_and_through_a_rescale() {
    let generator = plain(Some(20_000), None);
    let mut read = Vec::new();
    let mut points = Vec::new();
    for index in 0..3 {
        let mut reader = open(&generator, (index, 3), &[], &clock());
        for _ in 0..=index * 2 {
            if let Read::Rows { rows, .. } = next(&mut reader) {
                read.extend(numbers(&[rows], 0));
            }
        }
        points.extend(reader.replay_points());
    }
    for index in 0..5 {
        read.extend(numbers(&drain(&mut open(&generator, (index, 5), &points, &clock())), 0));
    }
    read.sort_unstable();
    assert_eq!(read, (0..20_000).collect::<Vec<_>>());
}

#[test]
fn a_generator_that_is_moved_goes_on_with_the_row_that_is_asked_for_whatever_the_parallelism() {
    let generator = plain(Some(2_000), None);
    let source = GeneratorSource::new(&spec(generator.clone()), &generator);
    for row in [0, 1, 63, 64, 700, 1_999, 2_000, 5_000] {
        let to = MoveSourceSpec { name: "made_up".to_owned(), row: Some(row), files: Vec::new() };
        let points: Vec<_> = source.moved(&to, BTreeMap::new()).unwrap().into_iter().collect();
        let rest = (row.min(2_000) as i64..2_000).collect::<Vec<_>>();
        assert_eq!(numbers(&drain(&mut open(&generator, (0, 1), &points, &clock())), 0), rest);
        let parts = (0..3).flat_map(|index| numbers(&drain(&mut open(&generator, (index, 3), &points, &clock())), 0));
        let mut parts: Vec<_> = parts.collect();
        parts.sort_unstable();
        assert_eq!(parts, rest);
    }
    let nowhere = MoveSourceSpec { name: "made_up".to_owned(), row: None, files: Vec::new() };
    let error = source.moved(&nowhere, BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(error, "source made_up is a generator: it goes on from a `row`");
}

#[test]
fn the_rate_is_kept_by_the_clock_that_is_handed_in() {
    let clock = clock();
    let mut reader = open(&plain(None, Some(1000)), (0, 1), &[], &clock);
    let mut made = 0;
    for _ in 0..100 {
        clock.advance(Duration::from_millis(30));
        loop {
            match next(&mut reader) {
                Read::Rows { rows, .. } => made += rows.num_rows(),
                Read::Pending(wait) => {
                    assert!(wait <= Duration::from_millis(100));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((2900..=3000).contains(&made), "{made} rows in three seconds");
}

#[test]
fn nexmark_s_streams_hang_together() {
    let rows = |stream, rows| {
        let batches = drain(&mut open(&nexmark(stream, rows), (0, 1), &[], &clock()));
        arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
    };
    let (persons, auctions, bids) =
        (rows(NexmarkStream::Person, 200), rows(NexmarkStream::Auction, 600), rows(NexmarkStream::Bid, 9200));
    let times = |batch: &RecordBatch, name: &str| {
        batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().values().to_vec()
    };
    let ids = |batch: &RecordBatch, name: &str| {
        batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
    };
    assert_eq!(ids(&persons, "id"), (1000..1200).collect::<Vec<_>>());
    assert_eq!(ids(&auctions, "id"), (1000..1600).collect::<Vec<_>>());
    // 10,000 events at 10,000 a second: all within one second of event time, each 100 microseconds after the one before.
    let mut all = [times(&persons, "date_time"), times(&auctions, "date_time"), times(&bids, "date_time")].concat();
    all.sort_unstable();
    assert_eq!(all, (0..10_000).map(|event| 1_436_918_400_000_000 + event * 100).collect::<Vec<_>>());
    assert!(times(&auctions, "expires").iter().zip(times(&auctions, "date_time")).all(|(end, start)| *end > start));
    // A bid is on an auction that is open, or soon will be.
    for (bid, auction) in ids(&bids, "auction").iter().enumerate() {
        let last = 1000 + (bid as i64 / 46) * 3 + 2;
        assert!((1000..=last + 10).contains(auction), "bid {bid} on {auction}");
    }
    let hot = ids(&bids, "auction").iter().filter(|auction| **auction % 100 == 0).count();
    assert!((4000..6000).contains(&hot), "about half of the bids are on hot auctions: {hot}");
    let channels = bids.column_by_name("channel").unwrap().as_string_view();
    let urls = bids.column_by_name("url").unwrap().as_string_view();
    let (mut others, mut told) = (0, 0);
    for row in 0..bids.num_rows() {
        let number = channels.value(row).strip_prefix("channel-").map(|number| number.parse::<i32>().unwrap());
        let id = urls.value(row).split_once("&channel_id=").map(|(_, id)| id.parse::<u32>().unwrap());
        others += usize::from(number.is_some());
        told += usize::from(id.is_some());
        assert!(
            id.is_none() || id == number.map(|number| number.reverse_bits().unsigned_abs()),
            "{id:?} of {number:?}"
        );
    }
    assert!((85..95).contains(&(told * 100 / others)), "{told} of {others} channels that are not hot");
}

/// A lane, and what stands in a manifest as its replay point: mostly one.
fn any_point() -> impl Strategy<Value = (u32, Value)> {
    let lane = 0..LANES + 2;
    let round = prop_oneof![0..40_u64, any::<u64>().prop_map(|round| round / u64::from(LANES)), Just(u64::MAX)];
    let one = (lane.clone(), round).prop_map(|(lane, round)| {
        let next = round.saturating_mul(u64::from(LANES)).saturating_add(u64::from(lane));
        (lane, json!({"version": VERSION, "next": next}))
    });
    prop_oneof![3 => one, 1 => (lane, any_other())]
}

/// One that is none, or with something else in its place.
fn any_other() -> impl Strategy<Value = Value> {
    let number = any::<u64>().prop_map(Value::from);
    let other = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
        Just(json!([1])),
        Just(json!({"next": 0})),
    ];
    let field = prop_oneof![4 => number, 1 => other.clone()];
    let version = prop_oneof![4 => Just(json!(VERSION)), 1 => other.clone(), 1 => Just(json!(VERSION + 1))];
    let point = (version, field).prop_map(|(version, next)| json!({"version": version, "next": next}));
    prop_oneof![6 => point, 1 => other]
}

proptest! {
    #[test]
    fn a_lane_goes_on_with_the_row_that_its_replay_point_names_or_it_is_refused(
        points in prop::collection::vec(any_point(), 0..4).prop_map(BTreeMap::from_iter),
        (index, parallelism) in (0..3_u32, 1..4_u32),
        is_nexmark: bool,
        is_bounded: bool,
    ) {
        let mut generator = if is_nexmark { nexmark(NexmarkStream::Auction, 2_000) } else { plain(Some(2_000), None) };
        generator.rows = generator.rows.filter(|_| is_bounded);
        let restored: BTreeMap<_, _> =
            points.iter().map(|(lane, point)| (lane_id(*lane), ReplayPoint(point.clone()))).collect();
        let row = |point: &Value| (point["version"] == json!(VERSION)).then(|| point["next"].as_u64()).flatten();
        let is_own = |lane: u32| lane < LANES && lane % parallelism == index;
        let own = points.iter().filter(|(lane, _)| is_own(**lane));
        let is_sound = |(lane, point): (&u32, &Value)| {
            row(point).is_some_and(|row| row % u64::from(LANES) == u64::from(*lane))
        };
        let all_sound = own.clone().all(is_sound);
        let restored: Vec<_> = restored.into_iter().collect();
        let opened = try_open(&generator, (index, parallelism), &restored, &clock());
        prop_assert_eq!(opened.is_ok(), all_sound);
        if let Ok(mut reader) = opened {
            let read: BTreeMap<_, _> = reader.replay_points().into_iter().collect();
            for (lane, point) in own {
                prop_assert_eq!(row(&read[&lane_id(*lane)].0), row(point));
            }
            for _ in 0..3 {
                if let Read::Rows { rows, .. } = next(&mut reader) {
                    prop_assert!(rows.num_rows() <= 1_000);
                }
            }
        }
    }
}
