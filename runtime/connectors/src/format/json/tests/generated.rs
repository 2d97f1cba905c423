//! Generated rows and bytes: what is decoded is what another reader reads, whatever the spelling and the chunks.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A JSON value as text, with blanks and escapes strewn in by `noise`.
fn write(value: &Value, noise: &mut impl FnMut() -> u32, out: &mut String) {
    let blank = |noise: &mut dyn FnMut() -> u32, out: &mut String| match noise() % 12 {
        0 => out.push(' '),
        1 => out.push_str("\t \r"),
        _ => {}
    };
    blank(noise, out);
    match value {
        Value::String(string) => write_string(string, noise, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, noise, out);
            }
            blank(noise, out);
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                blank(noise, out);
                write_string(name, noise, out);
                blank(noise, out);
                out.push(':');
                write(value, noise, out);
            }
            blank(noise, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
    blank(noise, out);
}

fn write_string(string: &str, noise: &mut dyn FnMut() -> u32, out: &mut String) {
    out.push('"');
    for character in string.chars() {
        if noise().is_multiple_of(6) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&if noise().is_multiple_of(2) {
                    format!("\\u{unit:04x}")
                } else {
                    format!("\\u{unit:04X}")
                });
            }
        } else {
            let plain = Value::from(character.to_string()).to_string();
            out.push_str(&plain[1..plain.len() - 1]);
        }
    }
    out.push('"');
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no other", |value| value.is_finite()).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[a-z0-9]{0,30}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]|.{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What a column takes of a value: `Err` if the row is bad.
fn expected(of: &str, value: Option<&Value>) -> Result<Value, ()> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Value::Null) };
    match of {
        "BIGINT" => match value.as_i64() {
            Some(number) => Ok(json!(number)),
            // Whole numbers that are written as doubles.
            None if value.is_number() => whole(&value.to_string()).map(Value::from).ok_or(()),
            None => Err(()),
        },
        "DOUBLE" => value.as_f64().map(Value::from).ok_or(()),
        "BOOLEAN" => value.as_bool().map(Value::from).ok_or(()),
        "VARCHAR" => match value {
            Value::String(_) => Ok(value.clone()),
            other => Ok(Value::from(other.to_string())),
        },
        _ => Ok(reread(value)),
    }
}

/// The whole number that a text like `1.5e3` says, to the last digit: as a double it may be its neighbour.
fn whole(text: &str) -> Option<i64> {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let shift = exponent.parse::<i64>().unwrap().checked_sub_unsigned(fraction.len() as u64)?;
    let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
    let number = digits.checked_mul(10i128.checked_pow(u32::try_from(shift).ok()?)?)?;
    i64::try_from(number).ok().filter(|number| number.unsigned_abs() < 9_000_000_000_000_000_000)
}

/// The value as `serde_json` reads what it has written, which is not always the same double.
fn reread(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap()
}

fn actual(of: &str, rows: &RecordBatch, column: usize, row: usize) -> Value {
    let column = rows.column(column);
    if column.is_null(row) {
        return Value::Null;
    }
    match of {
        "BIGINT" => json!(column.as_primitive::<Int64Type>().value(row)),
        "DOUBLE" => json!(column.as_primitive::<Float64Type>().value(row)),
        "BOOLEAN" => json!(column.as_boolean().value(row)),
        "VARCHAR" => json!(column.as_string_view().value(row)),
        _ => serde_json::from_str(column.as_string_view().value(row)).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn generated_rows_are_decoded_as_serde_json_reads_them(
        rows in prop::collection::vec(prop::collection::btree_map("[a-h]", any_value(), 0..7), 1..20),
        typed in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let mut state = seed | 1;
        let mut noise = move || { state ^= state << 13; state ^= state >> 17; state ^= state << 5; state };
        let types = [("a", "BIGINT"), ("b", "DOUBLE"), ("c", "BOOLEAN"), ("d", "VARCHAR"), ("e", "JSON")];
        let mut text = String::new();
        let mut values = Vec::new();
        for mut row in rows {
            if typed {
                // Mostly values that fit, so that not every row is bad.
                row.insert("a".to_owned(), json!(noise() as i64 - 1000));
                row.insert("b".to_owned(), json!(f64::from(noise()) / 100.0));
                row.remove("c");
            }
            let row = Value::Object(row.into_iter().collect());
            write(&row, &mut noise, &mut text);
            text.push('\n');
            values.push(row);
        }
        let declared: Vec<String> = types.iter().map(|(name, of)| format!("{name}:{of}")).collect();
        let declared: Vec<&str> = declared.iter().map(String::as_str).collect();
        let (batch, bad) = decode(&declared, &text);
        let mut good = 0;
        for value in &values {
            let expected: Result<Vec<Value>, ()> = types.iter().map(|(name, of)| expected(of, value.get(name))).collect();
            let Ok(expected) = expected else { continue };
            prop_assert!(good < batch.num_rows(), "{} should be good: {:?}", value, bad);
            for (column, (name, of)) in types.iter().enumerate() {
                let actual = actual(of, &batch, column, good);
                // A value kept as text has the blanks of its row.
                let kept = *of == "VARCHAR" && !value.get(name).is_none_or(Value::is_string);
                if kept && !actual.is_null() {
                    let actual: Value = serde_json::from_str(actual.as_str().unwrap()).unwrap();
                    prop_assert_eq!(actual, reread(value.get(name).unwrap()));
                } else {
                    prop_assert_eq!(&actual, &expected[column], "column {} of {}", name, value);
                }
            }
            good += 1;
        }
        prop_assert_eq!(good, batch.num_rows());
        prop_assert_eq!(values.len() - good, bad.len());
    }

    #[test]
    fn no_bytes_make_it_panic_and_every_line_is_a_row_or_a_bad_row(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[\\[\\]{}:,\"\\\\0-9a-eu.+\\-nulltrfs \r\n\t]{0,200}".prop_map(String::into_bytes),
            "(\\{\"[a-d]\":(1|\"x\"|null|\\{\"a\":\\[1,2)[,}\\]\n]*){0,20}".prop_map(String::into_bytes),
        ],
    ) {
        let (rows, bad) = decode(
            &["a:BIGINT", "b:VARCHAR", "c:JSON", "d:DOUBLE[]", "e:TIMESTAMP", "x:INT:c.a", "f:BOOLEAN", "g:DECIMAL(5, 1):a"],
            &bytes,
        );
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !lines::is_blank(line)).count();
        prop_assert_eq!(rows.num_rows() + bad.len(), lines);
        // Whether a row is good must not depend on what is read, types aside.
        let (untyped, _) = decode(&[], &bytes);
        let oracle = bytes.split(|&byte| byte == b'\n').filter(|line| !lines::is_blank(line))
            .filter(|line| matches!(serde_json::from_slice::<Value>(line), Ok(Value::Object(_)))).count();
        prop_assert_eq!(untyped.num_rows(), oracle);
    }

    #[test]
    fn where_a_chunk_is_cut_does_not_change_its_rows(rows in prop::collection::vec("\\{\"a\":[0-9]{1,3},\"b\":\"[a-z\\\\n]{0,20}\"\\}|\\{\"b\":null\\}|x", 1..30), cut in 0usize..30) {
        let (columns, schema) = columns(&["a:BIGINT", "b:VARCHAR"]);
        let mut decoder = JsonDecoder::new(&columns, Arc::clone(&schema), TimestampUnit::Milliseconds);
        let whole = decode_with(&mut decoder, rows.join("\n").as_bytes(), 0);
        let cut = cut.min(rows.len());
        let first: String = rows[..cut].iter().map(|row| format!("{row}\n")).collect();
        let head = decode_with(&mut decoder, first.as_bytes(), 0);
        let tail = decode_with(&mut decoder, rows[cut..].join("\n").as_bytes(), first.len() as u64);
        prop_assert_eq!(arrow::compute::concat_batches(&schema, [&head.0, &tail.0]).unwrap(), whole.0);
        prop_assert_eq!([head.1, tail.1].concat(), whole.1);
    }
}
