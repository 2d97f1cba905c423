#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema},
};
use millrace_crds::{ColumnType, OnError, Quantity};
use proptest::prelude::*;

use super::*;

fn decoder(csv: CsvFormat) -> CsvDecoder {
    let columns = [("n", ColumnType::BigInt, DataType::Int64), ("s", ColumnType::Varchar, DataType::Utf8View)];
    let inputs: Vec<InputColumn> = columns
        .iter()
        .map(|(name, of, _)| InputColumn { name: (*name).to_owned(), path: (*name).to_owned(), of: of.clone() })
        .collect();
    let fields: Vec<Field> = columns.iter().map(|(name, _, of)| Field::new(*name, of.clone(), true)).collect();
    let declared = ["x", "n", "s"].map(str::to_owned);
    CsvDecoder::new(&csv, &inputs, &declared, Arc::new(Schema::new(fields))).unwrap()
}

type Row = (Option<i64>, Option<String>);

fn decode(csv: CsvFormat, text: &[u8]) -> (Vec<Row>, Vec<String>) {
    let mut decoder = decoder(csv);
    let start = decoder.preamble(text, true).unwrap().unwrap();
    decode_rest(&mut decoder, &text[start..])
}

fn decode_rest(decoder: &mut CsvDecoder, text: &[u8]) -> (Vec<Row>, Vec<String>) {
    let mut bad = BadRows::new(OnError::DeadLetter, "test");
    let rows = decoder.decode(&Chunk::copy_of(text, 0), &mut bad).unwrap();
    let (n, s) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string_view());
    let row = |row| ((!n.is_null(row)).then(|| n.value(row)), (!s.is_null(row)).then(|| s.value(row).to_owned()));
    let good = (0..rows.num_rows()).map(row).collect();
    let bad = bad.take().unwrap();
    let reasons =
        bad.map_or(Vec::new(), |bad| bad.column(1).as_string_view().iter().flatten().map(str::to_owned).collect());
    (good, reasons)
}

fn row(n: i64, s: &str) -> Row {
    (Some(n), Some(s.to_owned()))
}

#[test]
fn columns_are_found_by_the_header_s_names() {
    let text = "s,other,n\r\n\"a, quoted \"\"word\"\"\",x,1\r\nplain and long enough to be a view,y,2\n\n\"two\nlines\",,\"3\"";
    let (rows, bad) = decode(CsvFormat::default(), text.as_bytes());
    let long = "plain and long enough to be a view";
    assert_eq!(rows, [row(1, "a, quoted \"word\""), row(2, long), row(3, "two\nlines")]);
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn without_a_header_columns_are_found_by_their_order() {
    let csv = CsvFormat { header: false, delimiter: ";".to_owned(), ..CsvFormat::default() };
    assert_eq!(decode(csv, b"\xef\xbb\xbfx;1;a\ny;2;b;more\n").0, [row(1, "a"), row(2, "b")]);
}

#[test]
fn carriage_returns_without_line_feeds_are_told_and_do_not_hide_rows_in_a_header() {
    for ended in [false, true] {
        let (text, mut decoder) = (b"n,s\r1,a\r2,b\r", decoder(CsvFormat::default()));
        assert_eq!(decoder.preamble(text, ended).unwrap(), Some(0));
        assert_eq!(decoder.complete(text), 0);
        let (rows, bad) = decode_rest(&mut decoder, text);
        assert!(rows.is_empty() && bad.len() == 1, "{rows:?} {bad:?}");
        assert!(bad[0].starts_with("the CSV header is malformed: line 1: a carriage return stands without"), "{bad:?}");
    }
    let text = b"n,s\r\n1,a\r\n2,b\rc\r\n3,\"d\re\"\r\n4,f\r";
    let (rows, bad) = decode(CsvFormat::default(), text);
    assert_eq!(rows, [row(1, "a"), row(3, "d\re"), row(4, "f")]);
    assert_eq!(bad, ["a carriage return stands without a line feed; expected lines that end in LF or CRLF"]);
    let csv = CsvFormat { header: false, ..CsvFormat::default() };
    let (rows, bad) = decode(csv, b"x,1,a\ry,2,b\r");
    assert!(rows.is_empty() && bad.len() == 1, "{rows:?} {bad:?}");
}

#[test]
fn half_a_line_end_is_waited_for() {
    for text in [&b"n,s\r"[..], b"n,s"] {
        assert_eq!(decoder(CsvFormat::default()).preamble(text, false).unwrap(), None);
    }
    assert_eq!(decoder(CsvFormat::default()).preamble(b"n,s\r\n1", false).unwrap(), Some(5));
    assert_eq!(decoder(CsvFormat::default()).preamble(b"n,s\r", true).unwrap(), Some(4));
    let mut quoted = decoder(CsvFormat::default());
    for (text, complete) in [(&b"1,\"a\"\r\n2,b\r"[..], 7), (b"1,\"a\"\r\n2,b\r\n", 12)] {
        assert_eq!(quoted.complete(text), complete);
    }
}

#[test]
fn empty_fields_and_the_null_value_are_null() {
    let (rows, _) = decode(CsvFormat::default(), b"n,s\n,\n1,NA\n");
    assert_eq!(rows, [(None, Some(String::new())), row(1, "NA")]);
    let csv = CsvFormat { null_value: Some("NA".to_owned()), ..CsvFormat::default() };
    assert_eq!(decode(csv, b"n,s\nNA,NA\n1,\"NA\"\n").0, [(None, None), row(1, "NA")]);
}

#[test]
fn bad_rows_say_why_and_leave_their_neighbours_alone() {
    let (rows, bad) = decode(CsvFormat::default(), b"n,s\n1,a\nx,b\n2\n3,\"c\"d\n4,\xff\n5,e\n6,\"open\n");
    assert_eq!(rows, [row(1, "a"), row(5, "e")]);
    assert_eq!(
        bad,
        [
            "column n (BIGINT): a whole number of 64 bits was expected, found `x`",
            "1 fields, where the header has 2",
            "text stands behind a closing quote",
            "field 2 is not UTF-8",
            "a quote is not closed",
        ]
    );
}

#[test]
fn a_quote_that_is_never_closed_costs_its_line_and_no_other_wherever_the_text_is_cut() {
    let csv = || CsvFormat { max_row_size: Quantity::from_bytes(64), ..CsvFormat::default() };
    let mut text = "1,a\n2,\"open\n".to_owned();
    (3..40).for_each(|n| text += &format!("{n},b\n"));
    text += "40,\"closed\nlater\"\n41,\"open again\n42,c\n";
    let whole = {
        let mut decoder = decoder(csv());
        decoder.preamble(b"n,s\n", false).unwrap();
        decode_rest(&mut decoder, text.as_bytes())
    };
    let numbers: Vec<i64> = whole.0.iter().filter_map(|row| row.0).collect();
    assert_eq!(numbers, [1].into_iter().chain(3..=40).chain([42]).collect::<Vec<_>>());
    assert_eq!(whole.1, [NOT_CLOSED, NOT_CLOSED]);
    for cut in 0..=text.len() {
        let mut decoder = decoder(csv());
        decoder.preamble(b"n,s\n", false).unwrap();
        let end = decoder.complete(&text.as_bytes()[..cut]);
        assert!(cut - end <= 64 + 12, "{} bytes wait for a quote", cut - end);
        let (head, bad_head) = decode_rest(&mut decoder, &text.as_bytes()[..end]);
        let (tail, bad_tail) = decode_rest(&mut decoder, &text.as_bytes()[end..]);
        assert_eq!((([head, tail].concat()), [bad_head, bad_tail].concat()), whole, "cut at {cut}");
    }
}

#[test]
fn under_a_header_without_a_column_no_row_can_be_decoded() {
    let mut lacking = decoder(CsvFormat::default());
    assert_eq!(lacking.preamble(b"a,n\n1,2\n", false).unwrap(), Some(4));
    let (rows, bad) = decode_rest(&mut lacking, b"1,2\n\n3,4\n");
    assert_eq!((rows.len(), bad.len()), (0, 2));
    assert!(bad.iter().all(|bad| format!("{bad:?}").contains("the CSV header has no s; it has a, n")), "{bad:?}");
    // The next file has it.
    assert_eq!(lacking.preamble(b"s,n\n", false).unwrap(), Some(4));
    let (rows, bad) = decode_rest(&mut lacking, b"x,2\n");
    assert_eq!((rows.len(), bad.len()), (1, 0));
    assert_eq!(decoder(CsvFormat::default()).preamble(b"a,n", false).unwrap(), None);
}

#[test]
fn under_a_malformed_header_every_line_is_a_bad_row_wherever_the_text_is_cut() {
    let headers = [
        ("\"n\" ,s\n", "text stands behind a closing quote"),
        ("\"n,s and more than a row may have\n", NOT_CLOSED),
        ("n\r,s\n", BARE_RETURN),
        ("\u{feff}\r\n\n\"n\"x\n", "text stands behind a closing quote"),
    ];
    for (header, why) in headers {
        let csv = || CsvFormat { max_row_size: Quantity::from_bytes(24), ..CsvFormat::default() };
        let text = format!("{header}1,a\n\n2,\"b\nc\"\n\"3\"d\n4,\"e\n5,f");
        let text = text.as_bytes();
        let mut whole = decoder(csv());
        let start = whole.preamble(text, true).unwrap().unwrap();
        let line = if header.contains("\r\n") { 3 } else { 1 };
        let lines = |range: &[u8]| range.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((line, start > 0), (1 + lines(&text[..start]), line == 3));
        let (rows, bad) = decode_rest(&mut whole, &text[start..]);
        assert!(rows.is_empty(), "{rows:?}");
        let reason = format!("the CSV header is malformed: line {line}: {why}");
        assert_eq!(bad, vec![reason; 6], "{header:?}");
        for cut in 0..text.len() {
            let mut first = decoder(csv());
            // What is too short to tell is asked about again, with more.
            let Some(begin) = first.preamble(&text[..cut], false).unwrap() else { continue };
            assert_eq!(begin, start, "{header:?} cut at {cut}");
            let end = begin + first.complete(&text[begin..cut]);
            let (_, head_bad) = decode_rest(&mut first, &text[begin..end]);
            let mut resumed = decoder(csv());
            assert_eq!(resumed.preamble(text, true).unwrap(), Some(start));
            let (_, tail_bad) = decode_rest(&mut resumed, &text[end..]);
            assert_eq!([head_bad, tail_bad].concat(), bad, "{header:?} cut at {cut}");
        }
    }
    // A file that is all header loses nothing, and the next one is as any other.
    let mut decoder = decoder(CsvFormat::default());
    assert_eq!(decoder.preamble(b"\"n\" ,s", true).unwrap(), Some(0));
    assert_eq!(decode_rest(&mut decoder, b"\"n\" ,s").1.len(), 1);
    assert_eq!(decoder.preamble(b"n,s\n", false).unwrap(), Some(4));
    assert_eq!(decode_rest(&mut decoder, b"1,a\n"), (vec![row(1, "a")], vec![]));
}

#[test]
fn a_header_longer_than_a_record_may_be_is_a_bad_row_and_no_end() {
    for (end, ended) in [("", false), ("", true), ("\n", false), ("\n1,a\n", true)] {
        let mut decoder = decoder(CsvFormat::default());
        let text = format!("n,s{}{end}", ",".repeat(MAX_RECORD_BYTES));
        assert_eq!(decoder.preamble(text.as_bytes(), ended).unwrap(), Some(0));
        let reason = "the CSV header is malformed: line 1: it is longer than 16 MiB";
        assert_eq!(decode_rest(&mut decoder, b"1,a\n"), (vec![], vec![reason.to_owned()]));
    }
}

#[test]
fn a_column_that_the_header_has_twice_is_told_where_it_is_read() {
    let (rows, bad) = decode(CsvFormat::default(), b"n,s,x,n\n1,a,b,2\n\n3,c\n");
    assert_eq!((rows, bad), (vec![], vec!["the CSV header has n more than once: as its fields 1, 4".to_owned(); 2]));
    let (_, bad) = decode(CsvFormat::default(), b"s, s ,\"s\"\na,b,c\n");
    assert_eq!(bad, ["the CSV header has no n; it has s, s, s; it has s more than once: as its fields 1, 2, 3"]);
    // Nothing reads x.
    assert_eq!(decode(CsvFormat::default(), b"x,n,s,x\n0,1,a,0\n"), (vec![row(1, "a")], vec![]));
}

#[test]
fn empty_lines_in_front_of_the_header_are_passed_over() {
    for (front, header) in [("\n", "n,s\n"), ("\r\n\n\r\n", "n,s\r\n"), ("\u{feff}\n", "n,s\n")] {
        let text = format!("{front}{header}1,a\n");
        assert_eq!(decode(CsvFormat::default(), text.as_bytes()), (vec![row(1, "a")], vec![]), "{text:?}");
        let taken = front.len() + header.len();
        for cut in 0..text.len() {
            let told = decoder(CsvFormat::default()).preamble(&text.as_bytes()[..cut], false).unwrap();
            assert_eq!(told, (cut >= taken).then_some(taken), "{text:?} cut at {cut}");
        }
    }
    for text in ["", "\n", "\n\r\n\r", "\u{feff}\n"] {
        assert_eq!(decoder(CsvFormat::default()).preamble(text.as_bytes(), false).unwrap(), None);
        assert_eq!(decoder(CsvFormat::default()).preamble(text.as_bytes(), true).unwrap(), Some(text.len()));
        assert_eq!(decode(CsvFormat::default(), text.as_bytes()), (vec![], vec![]));
    }
    // A line of blanks is a header.
    let (_, bad) = decode(CsvFormat::default(), b" \n1,a\n");
    assert_eq!(bad, ["the CSV header has no n, s; it has "]);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_wherever_it_is_cut(rows in prop::collection::vec((any::<i64>(), "[a-z,\"\n\r é]{0,20}"), 0..20), cut in any::<prop::sample::Index>()) {
        let mut text = String::new();
        for (n, s) in &rows {
            text += &format!("{n},\"{}\"\n", s.replace('"', "\"\""));
        }
        let mut decoder = decoder(CsvFormat::default());
        decoder.preamble(b"n,s\n", false).unwrap();
        let end = decoder.complete(&text.as_bytes()[..cut.index(text.len() + 1)]);
        let (head, bad_head) = decode_rest(&mut decoder, &text.as_bytes()[..end]);
        let (tail, bad_tail) = decode_rest(&mut decoder, &text.as_bytes()[end..]);
        let expected: Vec<Row> = rows.iter().map(|(n, s)| row(*n, s)).collect();
        prop_assert_eq!([head, tail].concat(), expected);
        prop_assert!(bad_head.is_empty() && bad_tail.is_empty());
        prop_assert_eq!(decoder.complete(text.as_bytes()), text.len());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\",\n\r1a".to_vec())], 0..200)) {
        let mut decoder = decoder(CsvFormat::default());
        let _ = decoder.preamble(&bytes, false);
        let _ = decoder.preamble(&bytes, true);
        decoder.complete(&bytes);
        decode_rest(&mut decoder, &bytes);
    }
}

#[test]
fn a_number_beyond_the_greatest_is_a_bad_row_and_inf_is_inf() {
    let inputs = [("d", ColumnType::Double, DataType::Float64), ("f", ColumnType::Float, DataType::Float32)];
    let fields: Vec<Field> = inputs.iter().map(|(name, _, of)| Field::new(*name, of.clone(), true)).collect();
    let inputs = inputs.map(|(name, of, _)| InputColumn { name: name.to_owned(), path: name.to_owned(), of });
    let declared = ["d", "f"].map(str::to_owned);
    let csv = CsvFormat { header: false, ..CsvFormat::default() };
    let mut decoder = CsvDecoder::new(&csv, &inputs, &declared, Arc::new(Schema::new(fields))).unwrap();
    let mut bad = BadRows::new(OnError::DeadLetter, "test");
    let text = b"1e308,3e38\n1e309,1\n1,-1e39\ninf,-inf\nInfinity,nan\n";
    let rows = decoder.decode(&Chunk::copy_of(text, 0), &mut bad).unwrap();
    let (d, f) = (rows.column(0).as_primitive::<Float64Type>(), rows.column(1).as_primitive::<Float32Type>());
    assert_eq!(d.values(), &[1e308, f64::INFINITY, f64::INFINITY]);
    assert_eq!((f.value(0), f.value(1), f.value(2).is_nan()), (3e38, f32::NEG_INFINITY, true));
    let bad = bad.take().unwrap().unwrap();
    let reasons: Vec<&str> = bad.column(1).as_string_view().iter().flatten().collect();
    assert_eq!(
        reasons,
        [
            "column d (DOUBLE): a number of 64 bits was expected, found `1e309`",
            "column f (FLOAT): a number of 32 bits was expected, found `-1e39`",
        ]
    );
}
