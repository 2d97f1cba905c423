#![allow(clippy::unwrap_used)]

use arrow::{
    array::{
        ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray, Float64Array, Int32Array,
        Int64Array, ListArray, NullArray, StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
    },
    datatypes::{Field, Float64Type, Int32Type, Int64Type, Schema},
};
use proptest::prelude::*;

use super::*;

type Row = (i64, Option<i64>, Option<f64>, bool, Option<String>, Option<Vec<Option<i64>>>);

fn row() -> impl Strategy<Value = Row> {
    (
        any::<i64>(),
        any::<Option<i64>>(),
        proptest::option::of(-1e9..1e9),
        any::<bool>(),
        proptest::option::of(".{0,30}"),
        proptest::option::of(proptest::collection::vec(any::<Option<i64>>(), 0..4)),
    )
}

/// A batch of many types with these rows.
fn batch(rows: &[Row]) -> RecordBatch {
    let texts = || rows.iter().map(|row| row.4.as_deref());
    let lists = || rows.iter().map(|row| row.5.clone());
    let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
    let views: ArrayRef = Arc::new(texts().collect::<StringViewArray>());
    let pairs = StructArray::from(vec![
        (Arc::new(Field::new("number", DataType::Int64, true)), Arc::clone(&numbers)),
        (Arc::new(Field::new("view", DataType::Utf8View, true)), Arc::clone(&views)),
    ]);
    let twos = rows.iter().map(|row| Some([row.2, None]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "time",
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0)).with_timezone("UTC")),
        ),
        ("number", numbers),
        ("double", Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>())),
        ("flag", Arc::new(rows.iter().map(|row| row.2.map(|_| row.3)).collect::<BooleanArray>())),
        ("text", Arc::new(texts().collect::<StringArray>())),
        ("view", views),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists()))),
        ("two", Arc::new(FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(twos, 2))),
        ("pair", Arc::new(pairs)),
        ("name", Arc::new(texts().collect::<DictionaryArray<Int32Type>>())),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter_values(rows.iter().map(|row| row.0.into()))
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
        ),
        ("nothing", Arc::new(NullArray::new(rows.len()))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn encoded(batch: &RecordBatch) -> Vec<u8> {
    let mut chunk = Vec::new();
    encode(batch, &mut chunk).unwrap();
    chunk
}

fn sample() -> RecordBatch {
    batch(&[
        (1_700_000_000_000, Some(1), Some(0.5), true, Some("a".into()), Some(vec![Some(1), None])),
        (1_700_000_000_001, None, None, false, None, None),
        (-5, Some(-3), Some(-2.0), false, Some("longer than twelve bytes, and then some".into()), Some(vec![])),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_encoded_is_decoded(
        rows in proptest::collection::vec(row(), 0..40), from in 0..40_usize, length in 0..40_usize, before in 0..20_usize,
    ) {
        let whole = batch(&rows);
        let from = from.min(rows.len());
        let slice = whole.slice(from, length.min(rows.len() - from));
        for batch in [whole, slice] {
            let mut chunk = vec![7; before];
            encode(&batch, &mut chunk).unwrap();
            prop_assert_eq!(&decode(&chunk[before..], batch.schema_ref()).unwrap(), &batch);
        }
    }

    #[test]
    fn damaged_bytes_under_a_good_checksum_give_an_error_or_a_valid_batch(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let batch = sample();
        let mut chunk = encoded(&batch);
        for (at, value) in damage {
            let at = HEAD_BYTES + 4 + at.index(chunk.len() - HEAD_BYTES - 4);
            chunk[at] = value;
        }
        if let Some(cut) = cut {
            chunk.truncate(HEAD_BYTES + cut.index(chunk.len() - HEAD_BYTES));
        }
        let checksum = xxh3_64(&chunk[HEAD_BYTES..]);
        chunk[1..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        match decode(&chunk, batch.schema_ref()) {
            // To walk over every value shows that the batch is sound.
            Ok(decoded) => drop(format!("{decoded:?}")),
            Err(error) => prop_assert!(matches!(error, StateError::Damaged { .. }), "{error}"),
        }
    }
}

#[test]
fn a_change_of_any_byte_is_found() {
    let batch = sample();
    let chunk = encoded(&batch);
    for at in 0..chunk.len() {
        let mut damaged = chunk.clone();
        damaged[at] ^= 0x10;
        let error = decode(&damaged, batch.schema_ref()).unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. } | StateError::TooNew { .. }), "{at}: {error}");
        assert!(decode(&chunk[..at], batch.schema_ref()).is_err(), "cut at {at}");
    }
}

#[test]
fn a_chunk_is_not_read_as_columns_of_other_types() {
    let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
    let other = Arc::new(Schema::new(vec![Field::new("a", DataType::Float64, true)]));
    let error = decode(&encoded(&batch), &other).unwrap_err().to_string();
    assert!(error.contains("columns of other types"), "{error}");
    assert!(error.contains("Float64"), "{error}");
}

#[test]
fn a_slice_of_a_large_batch_makes_a_small_chunk() {
    let texts: Vec<_> = (0..10_000).map(|number| format!("a text that is longer than a view, {number}")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from_iter_values(&texts))),
        ("view", Arc::new(StringViewArray::from_iter_values(&texts))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>((0..10_000).map(|at| Some([Some(at)]))))),
        ("flag", Arc::new(BooleanArray::from(vec![true; 10_000]))),
    ];
    let slice = RecordBatch::try_from_iter(columns).unwrap().slice(5_003, 10);
    let chunk = encoded(&slice);
    assert!(chunk.len() < 2_000, "{}", chunk.len());
    assert_eq!(decode(&chunk, slice.schema_ref()).unwrap(), slice);
}

#[test]
fn a_batch_without_columns_keeps_its_rows() {
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(decode(&encoded(&batch), batch.schema_ref()).unwrap().num_rows(), 3);
}

#[test]
fn a_union_is_refused() {
    let schema = Arc::new(Schema::new(vec![Field::new(
        "u",
        DataType::Union(arrow::datatypes::UnionFields::empty(), arrow::datatypes::UnionMode::Dense),
        true,
    )]));
    assert!(matches!(types_digest(&schema), Err(StateError::Unstorable { .. })));
}

#[test]
fn version_1_is_what_the_golden_file_holds() {
    let batch = sample();
    crate::golden::check("chunk-1.bin", &encoded(&batch));
    assert_eq!(decode(&crate::golden::read("chunk-1.bin"), batch.schema_ref()).unwrap(), batch);
}

#[test]
fn a_null_where_the_schema_allows_none_is_damage() {
    let batch = RecordBatch::try_from_iter_with_nullable([(
        "a",
        Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef,
        true,
    )])
    .unwrap();
    let strict = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, false)]));
    assert!(matches!(decode(&encoded(&batch), &strict), Err(StateError::Damaged { .. })));
}
