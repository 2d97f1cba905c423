#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    datatypes::*,
    util::display::array_value_to_string,
};
use millrace_crds::OnError;

use super::*;

mod generated;

/// Columns written as `name:TYPE` or `name:TYPE:path`.
fn columns(declared: &[&str]) -> (Vec<InputColumn>, SchemaRef) {
    let columns: Vec<InputColumn> = declared
        .iter()
        .map(|declared| {
            let mut parts = declared.splitn(3, ':');
            let (name, of) = (parts.next().unwrap(), parts.next().unwrap());
            let path = parts.next().unwrap_or(name);
            InputColumn { name: name.to_owned(), path: path.to_owned(), of: of.parse().unwrap() }
        })
        .collect();
    let fields: Vec<Field> =
        columns.iter().map(|column| Field::new(&column.name, arrow_type(&column.of), true)).collect();
    (columns, Arc::new(Schema::new(fields)))
}

fn arrow_type(of: &ColumnType) -> DataType {
    match of {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::BigInt => DataType::Int64,
        ColumnType::Float => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Varchar | ColumnType::Json => DataType::Utf8View,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
        ColumnType::Array(item) => DataType::List(Arc::new(Field::new("item", arrow_type(item), true))),
    }
}

fn decode(declared: &[&str], text: impl AsRef<[u8]>) -> (RecordBatch, Vec<(i64, String)>) {
    let (columns, schema) = columns(declared);
    let mut decoder = JsonDecoder::new(&columns, schema, TimestampUnit::Milliseconds);
    decode_with(&mut decoder, text.as_ref(), 0)
}

fn decode_with(decoder: &mut JsonDecoder, text: &[u8], offset: u64) -> (RecordBatch, Vec<(i64, String)>) {
    let mut bad = BadRows::new(OnError::DeadLetter, "test");
    let rows = decoder.decode(&Chunk::copy_of(text, offset), &mut bad).unwrap();
    for column in rows.columns() {
        column.to_data().validate_full().unwrap();
    }
    let bad = bad.take().unwrap();
    let bad = bad.map_or(Vec::new(), |bad| {
        let reasons = bad.column(1).as_string_view();
        let positions = bad.column(3).as_primitive::<Int64Type>();
        (0..bad.num_rows()).map(|row| (positions.value(row), reasons.value(row).to_owned())).collect()
    });
    (rows, bad)
}

/// A column's values as text; null is `~`.
fn shown(rows: &RecordBatch, column: usize) -> Vec<String> {
    let column = rows.column(column);
    let show = |row| match column.data_type() {
        _ if column.is_null(row) => "~".to_owned(),
        DataType::Timestamp(..) => {
            let moment = column.as_primitive::<TimestampMicrosecondType>().value_as_datetime(row).unwrap();
            moment.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string()
        }
        _ => array_value_to_string(column, row).unwrap(),
    };
    (0..rows.num_rows()).map(show).collect()
}

#[test]
fn rows_become_columns_of_their_types() {
    let (rows, bad) = decode(
        &["ts:TIMESTAMP", "key:VARCHAR", "value:DOUBLE", "status:INT", "n:BIGINT", "ok:BOOLEAN", "f:FLOAT", "d:DATE"],
        concat!(
            r#"{"ts":1700000000123,"key":"k0001234","value":12.34,"status":200,"n":-9223372036854775808,"ok":true,"f":0.1,"d":"2013-01-31"}"#,
            "\n",
            r#" { "d" : null , "ok":false,"ts":"2023-11-14T22:13:20.5Z","key":"a longer key than a view holds", "value" : -1e-3 } "#,
            "\r\n",
        ),
    );
    assert_eq!(bad, []);
    assert_eq!(shown(&rows, 0), ["2023-11-14T22:13:20.123Z", "2023-11-14T22:13:20.500Z"]);
    assert_eq!(shown(&rows, 1), ["k0001234", "a longer key than a view holds"]);
    assert_eq!(shown(&rows, 2), ["12.34", "-0.001"]);
    assert_eq!(shown(&rows, 3), ["200", "~"]);
    assert_eq!(shown(&rows, 4), ["-9223372036854775808", "~"]);
    assert_eq!(shown(&rows, 5), ["true", "false"]);
    assert_eq!(shown(&rows, 6), ["0.1", "~"]);
    assert_eq!(shown(&rows, 7), ["2013-01-31", "~"]);
}

#[test]
fn a_bad_row_says_why_and_where_and_leaves_its_neighbours_alone() {
    let lines = [
        r#"{"n":1,"s":"good"}"#,
        r#"{"n":"7","s":"a number in quotes"}"#,
        r#"{"n":2.5}"#,
        r#"{"n":3000000000}"#,
        r#"{"n":1"#,
        r#"{"n":1,}"#,
        r#"{"n" 1}"#,
        r#"[1]"#,
        r#"{"n":1} {"n":2}"#,
        r#"{"s":"\x"}"#,
        r#"{"s":"\ud800 alone"}"#,
        "{\"s\":\"a\ttab\"}",
        r#"{"s":"open"#,
        r#"{"n":01}"#,
        r#"{"n":tru}"#,
        r#"{"x":[1,2}"#,
        r#"{"x":{"y":1]"#,
        r#"{"n":2,"s":"good too"}"#,
    ];
    let (rows, bad) = decode(&["n:INT", "s:VARCHAR"], lines.join("\n"));
    assert_eq!(shown(&rows, 0), ["1", "2"]);
    assert_eq!(shown(&rows, 1), ["good", "good too"]);
    let reasons: Vec<&str> = bad.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "column n (INT): a whole number was expected, found `\"7\",\"s\":\"a number in quo…` at byte 5 of the row",
            "column n (INT): a whole number was expected, found `2.5}` at byte 5 of the row",
            "column n (INT): the number is out of range, found `3000000000}` at byte 5 of the row",
            "the row ends too early, and the row ends at byte 6",
            "a field's name in quotes was expected, found `}` at byte 7 of the row",
            "`:` was expected, found `1}` at byte 5 of the row",
            "a row must be a JSON object, found `[1]` at byte 0 of the row",
            "only one object a line was expected, found `{\"n\":2}` at byte 8 of the row",
            "column s (VARCHAR): an escape in a string is malformed, found `\\x\"}` at byte 6 of the row",
            "column s (VARCHAR): half of a surrogate pair stands alone, found `\\ud800 alone\"}` at byte 6 of the row",
            "column s (VARCHAR): a control character in a string must be escaped, found `\ttab\"}` at byte 7 of the row",
            "column s (VARCHAR): the row ends too early, and the row ends at byte 10",
            "column n (INT): a number is malformed, found `01}` at byte 5 of the row",
            "column n (INT): a whole number was expected, found `tru}` at byte 5 of the row",
            "`,` or `]` was expected, found `}` at byte 9 of the row",
            "`,` or `}` was expected, found `]` at byte 11 of the row",
        ]
    );
    let mut offset = 0;
    for (index, line) in lines.iter().enumerate() {
        if index > 0 && index < lines.len() - 1 {
            assert_eq!(bad[index - 1].0, offset);
        }
        offset += line.len() as i64 + 1;
    }
}

#[test]
fn bytes_that_are_not_utf8_make_only_their_own_row_bad() {
    let (rows, bad) = decode(&["s:VARCHAR"], b"{\"s\":\"fine\"}\n{\"s\":\"\xff\"}\n{\"s\":\"\xc3\xa9\"}\n");
    assert_eq!(shown(&rows, 0), ["fine", "é"]);
    assert_eq!(bad, [(13, "not UTF-8 from byte 6 of the row".to_owned())]);
}

#[test]
fn blank_lines_are_no_rows_and_an_empty_object_is_one() {
    let (rows, bad) = decode(&["n:INT"], "\n  \r\n{}\n\t\n{ }\n\r\n");
    assert_eq!(shown(&rows, 0), ["~", "~"]);
    assert_eq!(bad, []);
}

#[test]
fn the_last_of_fields_with_one_name_counts_be_it_null() {
    let (rows, bad) = decode(
        &["n:INT", "b:INT:a.b", "l:INT[]"],
        concat!(
            r#"{"n":1,"n":2,"a":{"b":1},"a":{"c":1},"l":[1,2,3],"l":[4]}"#,
            "\n",
            r#"{"n":1,"n":null,"a":{"b":1},"a":5,"l":[1,2,3],"l":null}"#,
            "\n",
            r#"{"n":null,"n":3,"a":null,"a":{"b":2,"b":3},"l":[]}"#,
        ),
    );
    assert_eq!(bad, []);
    assert_eq!(shown(&rows, 0), ["2", "~", "3"]);
    assert_eq!(shown(&rows, 1), ["~", "~", "3"]);
    assert_eq!(shown(&rows, 2), ["[4]", "~", "[]"]);
}

#[test]
fn a_dotted_path_leads_into_objects_and_a_value_may_be_read_twice() {
    let (rows, bad) = decode(
        &["id:BIGINT:user.id", "city:VARCHAR:user.address.city", "user:JSON", "dotted:INT:http.status"],
        concat!(
            r#"{"user":{"id":7,"address":{"street":"x","city":"Bern"}},"http.status":200}"#,
            "\n",
            r#"{"http":{"status":201},"user":{"address":[],"id":8}}"#,
            "\n",
            r#"{"user":"nobody"}"#,
        ),
    );
    assert_eq!(bad, []);
    assert_eq!(shown(&rows, 0), ["7", "8", "~"]);
    assert_eq!(shown(&rows, 1), ["Bern", "~", "~"]);
    assert_eq!(
        shown(&rows, 2),
        [r#"{"id":7,"address":{"street":"x","city":"Bern"}}"#, r#"{"address":[],"id":8}"#, r#""nobody""#]
    );
    assert_eq!(shown(&rows, 3), ["200", "201", "~"]);
}

#[test]
fn strings_are_unescaped_and_other_values_are_kept_as_text() {
    let (rows, bad) = decode(
        &["s:VARCHAR"],
        concat!(
            r#"{"s":"\"\\\/\b\f\n\r\t\u0041\u00e9\uD83D\uDE00"}"#,
            "\n",
            r#"{"\u0073":"an escape in a name"}"#,
            "\n",
            r#"{"s":12.50}"#,
            "\n",
            r#"{"s":{"a" : [1, "x"]}}"#,
            "\n",
            r#"{"s":""}"#,
            "\n",
            r#"{"s":"a longer string with one \n escape"}"#,
        ),
    );
    assert_eq!(bad, []);
    assert_eq!(
        shown(&rows, 0),
        [
            "\"\\/\u{8}\u{c}\n\r\tAé😀",
            "an escape in a name",
            "12.50",
            "{\"a\" : [1, \"x\"]}",
            "",
            "a longer string with one \n escape",
        ]
    );
}

#[test]
fn decimals_and_timestamps_are_exact() {
    let (rows, bad) = decode(
        &["d:DECIMAL(6, 2)", "t:TIMESTAMP"],
        concat!(
            r#"{"d":12.345,"t":1700000000123.4567}"#,
            "\n",
            r#"{"d":"9999.99","t":"1969-12-31T23:59:59.999999Z"}"#,
            "\n",
            r#"{"d":1e3,"t":-1}"#,
            "\n",
            r#"{"d":10000}"#,
            "\n",
            r#"{"t":"yesterday"}"#,
            "\n",
            r#"{"t":9e300}"#,
        ),
    );
    assert_eq!(shown(&rows, 0), ["12.35", "9999.99", "1000.00"]);
    assert_eq!(
        shown(&rows, 1),
        ["2023-11-14T22:13:20.123456Z", "1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999Z"]
    );
    assert_eq!(bad.len(), 3);
}

#[test]
fn lists_hold_values_and_nulls_and_a_bad_item_makes_the_row_bad() {
    let (rows, bad) = decode(
        &["s:VARCHAR[]", "n:BIGINT[]"],
        concat!(
            r#"{"s":["a",null,"a string that is long enough"],"n":[1 , 2]}"#,
            "\n",
            r#"{"n":[1,"x"]}"#,
            "\n",
            r#"{"s":[ ],"n":[null]}"#,
            "\n",
            r#"{"s":"a"}"#,
            "\n",
            r#"{"n":[3]}"#,
        ),
    );
    assert_eq!(shown(&rows, 0), ["[a, , a string that is long enough]", "[]", "~"]);
    assert_eq!(shown(&rows, 1), ["[1, 2]", "[]", "[3]"]);
    assert_eq!(bad[0].1, "column n (BIGINT[]): a whole number was expected, found `\"x\"]}` at byte 8 of the row");
    assert!(bad[1].1.contains("a JSON array was expected"), "{}", bad[1].1);
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| format!("{{\"x\":{}{}}}\n", "[".repeat(depth), "]".repeat(depth));
    let (rows, bad) = decode(&["j:JSON:x"], nested(128) + &nested(129) + &nested(1_000_000));
    assert_eq!((rows.num_rows(), bad.len()), (1, 2));
    assert!(bad[0].1.contains("nested more than 128 deep"), "{}", bad[0].1);
}

#[test]
fn fields_may_come_in_any_order_and_go_missing() {
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["a", "c", "b"]];
    let mut text = String::new();
    for row in 0..200 {
        let order = orders[row * 7 % 4];
        let fields = order.iter().filter(|name| row % 5 != 0 || **name != "b");
        let fields: Vec<String> = fields.map(|name| format!("\"{name}\":{row}")).collect();
        text += &format!("{{{}}}\n", fields.join(","));
    }
    let (rows, bad) = decode(&["a:INT", "b:INT", "c:INT"], text);
    assert_eq!(bad, []);
    for row in 0..200 {
        let value = row.to_string();
        assert_eq!(shown(&rows, 0)[row], value);
        assert_eq!(shown(&rows, 1)[row], if row % 5 == 0 { "~" } else { &value });
        assert_eq!(shown(&rows, 2)[row], value);
    }
}

#[test]
fn more_columns_than_a_word_has_bits_are_decoded() {
    let declared: Vec<String> = (0..150).map(|column| format!("c{column}:INT")).collect();
    let declared: Vec<&str> = declared.iter().map(String::as_str).collect();
    let fields: Vec<String> =
        (0..150).filter(|column| column % 3 != 0).map(|column| format!("\"c{column}\":{column}")).collect();
    let (rows, bad) = decode(&declared, format!("{{{}}}\n", fields.join(",")));
    assert_eq!(bad, []);
    for column in 0..150 {
        assert_eq!(shown(&rows, column), [if column % 3 == 0 { "~".to_owned() } else { column.to_string() }]);
    }
}

#[test]
fn short_strings_leave_the_chunk_s_memory_free() {
    let (columns, schema) = columns(&["s:VARCHAR"]);
    let mut decoder = JsonDecoder::new(&columns, schema, TimestampUnit::Milliseconds);
    let mut bad = BadRows::new(OnError::Fail, "test");
    let chunk = Chunk::copy_of(b"{\"s\":\"short\"}\n", 0);
    let rows = decoder.decode(&chunk, &mut bad).unwrap();
    assert!(chunk.into_memory().is_some());
    let chunk = Chunk::copy_of(b"{\"s\":\"longer than twelve\"}\n", 0);
    let longer = decoder.decode(&chunk, &mut bad).unwrap();
    assert!(chunk.into_memory().is_none());
    assert_eq!((shown(&rows, 0), shown(&longer, 0)), (vec!["short".to_owned()], vec!["longer than twelve".to_owned()]));
}
