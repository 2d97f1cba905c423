#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType},
};
use millrace_crds::{ColumnType, OnError};
use proptest::prelude::*;

use super::*;

/// Columns written as `name:TYPE`.
fn columns(declared: &[&str]) -> (Vec<InputColumn>, SchemaRef) {
    let columns = declared.iter().map(|declared| {
        let (name, of) = declared.split_once(':').unwrap();
        let of: ColumnType = of.parse().unwrap();
        let arrow = match of {
            ColumnType::BigInt => DataType::Int64,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => DataType::Utf8View,
        };
        (InputColumn { name: name.to_owned(), path: name.to_owned(), of }, Field::new(name, arrow, true))
    });
    let (inputs, fields): (Vec<_>, Vec<_>) = columns.unzip();
    (inputs, Arc::new(Schema::new(fields)))
}

/// The rows, each as its values joined by `|`, and the reasons of the bad ones.
fn decode(decoder: &mut LineDecoder, text: &[u8]) -> (Vec<String>, Vec<String>) {
    let mut bad = BadRows::new(OnError::DeadLetter, "test");
    let rows = decoder.decode(&Chunk::copy_of(text, 0), &mut bad).unwrap();
    let show = |row: usize| {
        let value = |column: &arrow::array::ArrayRef| match column.data_type() {
            _ if column.is_null(row) => "~".to_owned(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::Utf8View => column.as_string_view().value(row).to_owned(),
            _ => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        };
        rows.columns().iter().map(value).collect::<Vec<_>>().join("|")
    };
    let bad = bad.take().unwrap();
    let bad =
        bad.map_or(Vec::new(), |bad| bad.column(1).as_string_view().iter().flatten().map(str::to_owned).collect());
    ((0..rows.num_rows()).map(show).collect(), bad)
}

#[test]
fn named_groups_become_columns() {
    let (inputs, schema) = columns(&["n:BIGINT", "word:VARCHAR"]);
    let mut decoder = LineDecoder::regex(r"^(?P<word>\w+)=(?P<n>\d+)?$", None, &inputs, Arc::clone(&schema)).unwrap();
    let (rows, bad) = decode(&mut decoder, b"a=1\r\n\nb=\nanother word\n");
    assert_eq!(rows, ["1|a", "~|b"]);
    assert_eq!(bad, ["the line does not match the pattern"]);
    let error = LineDecoder::regex(r"(?P<word>\w+)", None, &inputs, schema).err().unwrap().to_string();
    assert_eq!(error, "the pattern has no n; it has word");
}

#[test]
fn a_pattern_matches_at_the_start_of_a_line() {
    let (inputs, schema) = columns(&["n:BIGINT"]);
    let mut decoder = LineDecoder::regex(r"(?P<n>\d+)", None, &inputs, schema).unwrap();
    let (rows, bad) = decode(&mut decoder, b"1 and more\nfirst 2\n3\n");
    assert_eq!((rows, bad.len()), (vec!["1".to_owned(), "3".to_owned()], 1));
}

#[test]
fn a_message_without_a_year_is_of_the_last_one_that_is_not_ahead_of_its_file() {
    let moments = |written: &str, text: &str| {
        let (inputs, schema) = columns(&["timestamp:TIMESTAMP"]);
        let mut decoder = LineDecoder::syslog(&inputs, schema, 0).unwrap();
        let written = chrono::DateTime::parse_from_rfc3339(written).unwrap().timestamp_millis();
        decoder.written_at(Timestamp(written as u64));
        let (rows, bad) = decode(&mut decoder, text.as_bytes());
        let moment = |micros: &String| {
            let moment = chrono::DateTime::from_timestamp_micros(micros.parse().unwrap()).unwrap();
            moment.format("%Y-%m-%d %H:%M").to_string()
        };
        (rows.iter().map(moment).collect::<Vec<_>>(), bad.len())
    };
    let text = "Dec 31 23:59:59 h a: x\nJan  1 00:00:01 h a: x\nFeb 29 12:00:00 h a: x\nJun 15 12:00:00 h a: x\n";
    let new_year = ["2025-12-31 23:59", "2026-01-01 00:00", "2024-02-29 12:00", "2025-06-15 12:00"];
    // On either side of midnight, whosever clock is ahead.
    assert_eq!(moments("2026-01-01T00:00:05Z", text).0, new_year);
    assert_eq!(moments("2025-12-31T23:59:50Z", text).0, new_year);
    let archived = ["2018-12-31 23:59", "2019-01-01 00:00", "2016-02-29 12:00", "2019-06-15 12:00"];
    assert_eq!(moments("2019-09-01T00:00:00Z", text).0, archived);
    assert_eq!(moments("2026-01-01T00:00:05Z", "Feb 30 00:00:00 h a: x\n"), (vec![], 1));
}

#[test]
fn lines_of_web_servers_are_read() {
    let (inputs, schema) = columns(&[
        "remote_host:VARCHAR",
        "user:VARCHAR",
        "time:TIMESTAMP",
        "method:VARCHAR",
        "target:VARCHAR",
        "status:BIGINT",
        "bytes:BIGINT",
        "user_agent:VARCHAR",
    ]);
    let mut decoder = LineDecoder::combined(&inputs, schema).unwrap();
    let text = concat!(
        r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 "http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; \"I\" ;Nav)""#,
        "\n",
        r#"::1 - - [10/Oct/2000:20:55:36 +0000] "GET / HTTP/1.1" 304 -"#,
        "\n",
        r#"10.0.0.1 - - [10/Oct/2000:20:55:36 +0000] "\x16\x03\x01" 400 0 "-" "-""#,
        "\n",
        "something else\n",
    );
    let (rows, bad) = decode(&mut decoder, text.as_bytes());
    assert_eq!(
        rows,
        [
            r#"127.0.0.1|frank|971211336000000|GET|/apache_pb.gif|200|2326|Mozilla/4.08 [en] (Win98; "I" ;Nav)"#,
            "::1|~|971211336000000|GET|/|304|~|~",
            "10.0.0.1|~|971211336000000|~|~|400|0|~",
        ]
    );
    assert_eq!(bad.len(), 1);
}

#[test]
fn what_a_server_has_escaped_in_the_combined_log_format_is_undone() {
    let (inputs, schema) = columns(&["user:VARCHAR", "request:VARCHAR", "target:VARCHAR", "user_agent:VARCHAR"]);
    let mut decoder = LineDecoder::combined(&inputs, schema).unwrap();
    let line = |user: &str, request: &str, agent: &str| {
        format!("::1 - {user} [10/Oct/2000:20:55:36 +0000] \"{request}\" 200 1 \"-\" \"{agent}\"\n")
    };
    let text = [
        // Apache's way, and nginx's.
        line("-", r#"GET /a\"b HTTP/1.1"#, r"tab\tand \\n, caf\xc3\xa9"),
        line("-", r"GET /\x22b\x5C HTTP/1.1", r"\xC3\xA9\x2D"),
        // Noise stays as the server wrote it.
        line(r"\xff", r"\x16\x03\x01\xfe", r"\xZZ and \q and \x4"),
        line(r"caf\xc3\xa9", r"GET /\q HTTP/1.1", r"\x2d"),
    ]
    .concat();
    let (rows, bad) = decode(&mut decoder, text.as_bytes());
    assert_eq!(
        rows,
        [
            "~|GET /a\"b HTTP/1.1|/a\"b|tab\tand \\n, café",
            "~|GET /\"b\\ HTTP/1.1|/\"b\\|é-",
            r"\xff|\x16\x03\x01\xfe|~|\xZZ and \q and \x4",
            r"café|GET /\q HTTP/1.1|/\q|-",
        ]
    );
    assert_eq!(bad, [""; 0]);
}

#[test]
fn escapes_in_logfmt_are_those_of_json() {
    let (inputs, schema) = columns(&["msg:VARCHAR"]);
    let mut decoder = LineDecoder::logfmt(&inputs, schema).unwrap();
    let text = [
        r#"msg="caf\u00e9 \"x\" \\u00e9 \ud83d\ude00!" other="\u00E9""#,
        r#"msg="a\/b\tc\bd\fe""#,
        r#"msg="\u00e""#,
        r#"msg="\ud83d alone""#,
        r#"msg="\ud83d\u0041""#,
        r#"msg="\u00é9""#,
        r#"msg="open\"#,
        r#"msg="open\u00e9"#,
        r"msg=bare\u00e9",
    ]
    .join("\n");
    let (rows, bad) = decode(&mut decoder, text.as_bytes());
    assert_eq!(rows, ["café \"x\" \\u00e9 😀!", "a/b\tc\u{8}d\u{c}e", r"bare\u00e9"]);
    let malformed = "the value of msg has a malformed escape: `\\u`";
    let open = "the value of msg has no closing quote";
    assert_eq!(bad, [malformed, malformed, malformed, malformed, open, open]);
}

#[test]
fn logfmt_values_may_be_bare_quoted_or_missing() {
    let (inputs, schema) = columns(&["level:VARCHAR", "n:BIGINT", "msg:VARCHAR", "flag:VARCHAR"]);
    let mut decoder = LineDecoder::logfmt(&inputs, schema).unwrap();
    let text = "level=info n=7 msg=\"hello \\\"you\\\"\" other=x\nmsg=\"plain and longer than twelve\" flag n=\nn=x\nmsg=\"open\n=1\n";
    let (rows, bad) = decode(&mut decoder, text.as_bytes());
    assert_eq!(rows, ["info|7|hello \"you\"|~", "~|~|plain and longer than twelve|true"]);
    assert_eq!(
        bad,
        [
            "column n (BIGINT): a whole number of 64 bits was expected, found `x`",
            "the value of msg has no closing quote",
            "a key was expected, found `=1`",
        ]
    );
}

#[test]
fn both_forms_of_syslog_are_read() {
    let (inputs, schema) = columns(&[
        "facility:BIGINT",
        "severity:BIGINT",
        "timestamp:TIMESTAMP",
        "hostname:VARCHAR",
        "app_name:VARCHAR",
        "proc_id:VARCHAR",
        "structured_data:VARCHAR",
        "message:VARCHAR",
    ]);
    // 2004-01-02
    let mut decoder = LineDecoder::syslog(&inputs, schema, 1_073_001_600_000).unwrap();
    let text = concat!(
        "<165>1 2003-10-11T22:14:15.003Z host.example.com evntslog - ID47 [ex@1 k=\"a \\\"]\\\" b\"][ex@2] An event\n",
        "<34>1 2003-10-11T22:14:15Z h su 77 - -\n",
        "<34>Oct 11 22:14:15 mymachine su[12]: 'su root' failed\n",
        "Jan  2 00:00:01 mymachine kernel: text\n",
        "<999>1 - - - - - -\n",
        "<34>Oct 32 22:14:15 mymachine su: x\n",
    );
    let (rows, bad) = decode(&mut decoder, text.as_bytes());
    assert_eq!(
        rows,
        [
            "20|5|1065910455003000|host.example.com|evntslog|~|[ex@1 k=\"a \\\"]\\\" b\"][ex@2]|An event",
            "4|2|1065910455000000|h|su|77|~|~",
            "4|2|1065910455000000|mymachine|su|12|~|'su root' failed",
            "~|~|1073001601000000|mymachine|kernel|~|~|text",
        ]
    );
    assert_eq!(bad, ["`<999>` is not a priority from 0 to 191", "`Oct 32 22:14:15` is not a timestamp"]);
}

proptest! {
    #[test]
    fn no_line_makes_them_panic(line in prop_oneof![".{0,80}", "[<>0-9 \\[\\]\"\\\\=A-Za-zé:.-]{0,80}", "(<34>)?(1 )?(Oct 1|2003-10-11T22:14:15Z)?.{0,40}"]) {
        let (inputs, schema) = columns(&["message:VARCHAR"]);
        let _ = decode(&mut LineDecoder::syslog(&inputs, Arc::clone(&schema), 0).unwrap(), line.as_bytes());
        let _ = decode(&mut LineDecoder::logfmt(&inputs, schema).unwrap(), line.as_bytes());
        let (inputs, schema) = columns(&["request:VARCHAR"]);
        let _ = decode(&mut LineDecoder::combined(&inputs, schema).unwrap(), line.as_bytes());
    }
}
