#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
        Int64Array, ListArray, StringArray, StringViewArray, TimestampMicrosecondArray, UInt8Array, UInt64Array,
    },
    datatypes::{DataType, Field, Int64Type},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn lines(batch: &RecordBatch, changelog: bool) -> Vec<String> {
    let schema = match changelog {
        true => Schema::new(batch.schema().fields()[1..].to_vec()),
        false => batch.schema().as_ref().clone(),
    };
    let mut out = Vec::new();
    NdjsonEncoder::new(&schema, changelog).encode(batch, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_type_has_its_json() {
    let batch = RecordBatch::try_from_iter([
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None])) as ArrayRef),
        ("i", Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX]))),
        ("u", Arc::new(UInt64Array::from(vec![0, u64::MAX]))),
        ("f", Arc::new(Float32Array::from(vec![0.1f32, f32::INFINITY]))),
        ("d", Arc::new(Float64Array::from(vec![19.99, f64::NAN]))),
        ("s", Arc::new(StringViewArray::from(vec!["a \"quoted\" \\ line\n\u{1}", "é 漢 🦀"]))),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, -1]).with_timezone("UTC"))),
        ("day", Arc::new(Date32Array::from(vec![15_706, -1]))),
        ("m", Arc::new(Decimal128Array::from(vec![1999, -5]).with_precision_and_scale(10, 2).unwrap())),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None, Some(3)]), None]))),
        ("raw", Arc::new(BinaryArray::from(vec![b"ok".as_slice(), b"\xff\n"]))),
    ])
    .unwrap();
    assert_eq!(
        lines(&batch, false),
        [
            r#"{"b":true,"i":-9223372036854775808,"u":0,"f":0.1,"d":19.99,"s":"a \"quoted\" \\ line\n\u0001","t":"1970-01-01T00:00:01.500Z","day":"2013-01-01","m":19.99,"l":[1,null,3],"raw":"ok"}"#,
            "{\"b\":null,\"i\":9223372036854775807,\"u\":18446744073709551615,\"f\":null,\"d\":null,\"s\":\"é 漢 🦀\",\"t\":\"1969-12-31T23:59:59.999999Z\",\"day\":\"1969-12-31\",\"m\":-0.05,\"l\":null,\"raw\":\"\u{fffd}\\n\"}",
        ]
    );
}

#[test]
fn a_changelog_row_begins_with_its_operation() {
    let batch = RecordBatch::try_from_iter([
        (OP_COLUMN, Arc::new(UInt8Array::from(vec![0, 1, 2, 3])) as ArrayRef),
        ("k", Arc::new(Int32Array::from(vec![1, 1, 1, 1]))),
    ])
    .unwrap();
    assert_eq!(
        lines(&batch, true),
        [
            r#"{"_op":"insert","k":1}"#,
            r#"{"_op":"update_before","k":1}"#,
            r#"{"_op":"update_after","k":1}"#,
            r#"{"_op":"delete","k":1}"#,
        ]
    );
}

#[test]
fn sliced_batches_give_the_rows_of_the_slice() {
    let batch = RecordBatch::try_from_iter([
        ("s", Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as ArrayRef),
        (
            "l",
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                Some(vec![Some(1)]),
                Some(vec![Some(2), Some(3)]),
                None,
                Some(vec![]),
            ])),
        ),
    ])
    .unwrap();
    assert_eq!(
        lines(&batch.slice(1, 3), false),
        [r#"{"s":"b","l":[2,3]}"#, r#"{"s":"c","l":null}"#, r#"{"s":"d","l":[]}"#]
    );
}

#[derive(Clone, Debug)]
struct Row {
    text: Option<String>,
    int: Option<i64>,
    float: Option<f64>,
    flag: Option<bool>,
    list: Option<Vec<Option<String>>>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        any::<Option<String>>(),
        any::<Option<i64>>(),
        any::<Option<f64>>(),
        any::<Option<bool>>(),
        proptest::option::of(proptest::collection::vec(any::<Option<String>>(), 0..4)),
    )
        .prop_map(|(text, int, float, flag, list)| Row { text, int, float, flag, list });
    proptest::collection::vec(row, 0..20)
}

proptest! {
    #[test]
    fn a_line_parses_to_the_row_that_it_was_written_from(rows in rows(), name in "\\PC{0,12}") {
        let mut list = arrow::array::ListBuilder::new(arrow::array::StringViewBuilder::new());
        for row in &rows {
            match &row.list {
                Some(items) => list.append_value(items.iter().map(Option::as_deref)),
                None => list.append_null(),
            }
        }
        let schema = Schema::new(vec![
            Field::new(&name, DataType::Utf8View, true),
            Field::new("int", DataType::Int64, true),
            Field::new("float", DataType::Float64, true),
            Field::new("flag", DataType::Boolean, true),
            Field::new_list("list", Field::new_list_field(DataType::Utf8View, true), true),
        ]);
        prop_assume!(schema.fields().iter().filter(|field| *field.name() == name).count() == 1);
        let batch = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.text.as_deref()))),
                Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.int))),
                Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.float))),
                Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.flag))),
                Arc::new(list.finish()),
            ],
        )
        .unwrap();
        let lines = lines(&batch, false);
        prop_assert_eq!(lines.len(), rows.len());
        for (line, row) in lines.iter().zip(&rows) {
            let mut parsed: Value = serde_json::from_str(line).unwrap();
            // What reads JSON here may be off by the last bit of a float, so the text itself is read. No string can hold this key:
            // quotes in strings stand behind a backslash.
            let mut float = row.float.filter(|value| value.is_finite());
            if float.is_some() {
                let (_, rest) = line.split_once(",\"float\":").unwrap();
                let number = rest.split([',', '}']).next().unwrap();
                prop_assert_eq!(number.parse::<f64>().ok(), float);
                parsed["float"] = Value::Null;
                float = None;
            }
            prop_assert_eq!(
                &parsed,
                &json!({ &name: row.text, "int": row.int, "float": float, "flag": row.flag, "list": row.list })
            );
        }
    }
}
