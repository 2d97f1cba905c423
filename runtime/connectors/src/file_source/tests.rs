#![allow(clippy::unwrap_used)]

mod appended;
mod archives;
mod hostile;
mod moved;
mod parquet;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use futures::FutureExt;
use millrace_crds::{ColumnSpec, ColumnType, Compression, DurationStr, Empty, FormatSpec, JsonFormat};
use millrace_stream::{Clock, EventTime, ManualClock, Timestamp};

use super::*;
use crate::{Lag, Read, ReplayPoint, SplitId};

struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::at(Timestamp(0))) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn spec(&self, glob: &str, follow: bool) -> SourceSpec {
        SourceSpec {
            name: "rows".to_owned(),
            generator: None,
            file: Some(FileSpec {
                paths: vec![self.path(glob).display().to_string()],
                compression: Compression::Auto,
                follow,
                poll_interval: DurationStr::from_secs(1),
            }),
            stdin: None,
            format: Some(FormatSpec { json: Some(JsonFormat::default()), ..FormatSpec::default() }),
            columns: vec![ColumnSpec::new("n", &ColumnType::BigInt)],
            event_time: None,
            on_error: OnError::DeadLetter,
        }
    }

    fn source(&self, glob: &str, follow: bool) -> FileSource {
        let spec = self.spec(glob, follow);
        FileSource::new(&spec, spec.file.as_ref().unwrap())
    }

    fn cx(&self, index: u32, parallelism: u32, restored: &[(SplitId, ReplayPoint)]) -> SourceContext {
        SourceContext {
            index,
            parallelism,
            restored: restored.iter().cloned().collect::<BTreeMap<_, _>>(),
            resumes: !restored.is_empty(),
            schema: schema(),
            batch_rows: 8192,
            clock: self.clock.clone(),
            scratch: self.folder.path().to_owned(),
        }
    }

    fn open(
        &self,
        source: &FileSource,
        restored: &[(SplitId, ReplayPoint)],
    ) -> Result<Box<dyn SourceReader>, SourceError> {
        source.open(self.cx(0, 1, restored)).now_or_never().unwrap()
    }

    /// Lets a poll interval pass and reads what there is.
    fn poll(&self, reader: &mut Box<dyn SourceReader>) -> Vec<i64> {
        self.clock.advance(Duration::from_secs(1));
        drain(reader).0
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
}

fn next(reader: &mut Box<dyn SourceReader>) -> Read {
    reader.next().now_or_never().unwrap().unwrap()
}

fn numbers(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Reads until there is nothing more; gives the rows and what stopped it.
fn drain(reader: &mut Box<dyn SourceReader>) -> (Vec<i64>, Read) {
    let mut read = Vec::new();
    loop {
        match next(reader) {
            Read::Rows { rows, .. } => read.extend(numbers(&rows)),
            Read::SplitEnded(_) => {}
            stop => return (read, stop),
        }
    }
}

fn lines(range: std::ops::Range<i64>) -> String {
    range.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn sorted(mut numbers: Vec<i64>) -> Vec<i64> {
    numbers.sort_unstable();
    numbers
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn plain_and_compressed_files_are_read_to_their_ends() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..50_000));
    fs::write(bench.path("b.ndjson.gz"), [gzip(&lines(50_000..90_000)), gzip(&lines(90_000..100_000))].concat())
        .unwrap();
    fs::write(bench.path("c.ndjson.zst"), zstd::encode_all(lines(100_000..150_000).as_bytes(), 3).unwrap()).unwrap();
    // Compressed by its bytes, not by its name.
    fs::write(bench.path("d.ndjson"), gzip(&lines(150_000..150_010))).unwrap();
    bench.append("empty.ndjson.gz", "");
    let mut reader = bench.open(&bench.source("*.ndjson*", false), &[]).unwrap();
    assert_eq!(reader.unread_splits(), 5);
    let (read, stop) = drain(&mut reader);
    assert!(matches!(stop, Read::Ended));
    assert_eq!(sorted(read), (0..150_010).collect::<Vec<_>>());
    assert_eq!(reader.unread_splits(), 0);
}

#[test]
fn reading_goes_on_from_any_replay_point_without_a_gap_or_a_repeat() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..60_000));
    fs::write(bench.path("b.ndjson.gz"), gzip(&lines(60_000..120_000))).unwrap();
    fs::write(bench.path("c.ndjson.zst"), zstd::encode_all(lines(120_000..180_000).as_bytes(), 3).unwrap()).unwrap();
    let source = bench.source("*.ndjson*", false);
    let mut reader = bench.open(&source, &[]).unwrap();
    let mut read = Vec::new();
    loop {
        match next(&mut reader) {
            Read::Rows { rows, .. } => read.extend(numbers(&rows)),
            Read::SplitEnded(_) => {}
            _ => break,
        }
        let mut again = bench.open(&bench.source("*.ndjson*", false), &reader.replay_points()).unwrap();
        let rest = drain(&mut again).0;
        assert_eq!(sorted([read.clone(), rest].concat()), (0..180_000).collect::<Vec<_>>());
    }
    let mut finished = bench.open(&bench.source("*.ndjson*", false), &reader.replay_points()).unwrap();
    assert!(drain(&mut finished).0.is_empty());
}

#[test]
fn a_glob_that_matches_nothing_is_named() {
    let bench = Bench::new();
    let error = bench.open(&bench.source("*.none", false), &[]).err().unwrap().to_string();
    assert!(error.contains("source rows: no file matches `") && error.ends_with("*.none`"), "{error}");
    assert!(bench.open(&bench.source("*.none", true), &[]).is_ok());
    // What it had read once may all be gone.
    let later = SourceContext { resumes: true, ..bench.cx(0, 1, &[]) };
    let mut reader = bench.source("*.none", false).open(later).now_or_never().unwrap().unwrap();
    assert!(matches!(next(&mut reader), Read::Ended));
}

#[test]
fn a_file_that_was_away_while_others_were_read_is_not_read_again() {
    let bench = Bench::new();
    let goes_on = |points: &[(SplitId, ReplayPoint)]| {
        let mut reader = bench.open(&bench.source("in/*.ndjson", false), points).unwrap();
        (sorted(drain(&mut reader).0), reader.replay_points())
    };
    fs::create_dir(bench.path("in")).unwrap();
    bench.append("in/a.ndjson", &lines(0..10));
    let (mut read, mut points) = goes_on(&[]);
    assert_eq!(read, (0..10).collect::<Vec<_>>());
    fs::rename(bench.path("in/a.ndjson"), bench.path("a")).unwrap();
    for run in 1..4 {
        bench.append(&format!("in/b{run}.ndjson"), &lines(run * 10..run * 10 + 10));
        (read, points) = goes_on(&points);
        assert_eq!(read, (run * 10..run * 10 + 10).collect::<Vec<_>>());
    }
    fs::rename(bench.path("a"), bench.path("in/a.ndjson")).unwrap();
    (read, points) = goes_on(&points);
    assert_eq!(read, Vec::<i64>::new());
    // Another one under its name is another one.
    fs::remove_file(bench.path("in/a.ndjson")).unwrap();
    (read, points) = goes_on(&points);
    assert_eq!((read, points.len()), (Vec::new(), 4));
    bench.append("in/a.ndjson", &lines(100..110));
    assert_eq!(goes_on(&points).0, (100..110).collect::<Vec<_>>());
}

#[test]
fn a_file_that_has_an_earlier_ones_inode_is_told_from_it_by_what_was_read_last() {
    let bench = Bench::new();
    let goes_on = |points: &[(SplitId, ReplayPoint)]| {
        let mut reader = bench.open(&bench.source("in/*", false), points).unwrap();
        (drain(&mut reader).0, reader.replay_points())
    };
    fs::create_dir(bench.path("in")).unwrap();
    let banner = format!("{{\"n\":1,\"text\":\"{}\"}}\n", "x".repeat(2_000));
    bench.append("in/a", &(banner.clone() + &lines(10..20)));
    let (mut read, mut points) = goes_on(&[]);
    assert_eq!(read.len(), 11);
    // Written over, so that the inode is the same; as long, and longer.
    for numbers in [20..30, 30..45] {
        fs::write(bench.path("in/a"), banner.clone() + &lines(numbers.clone())).unwrap();
        (read, points) = goes_on(&points);
        assert_eq!(read, std::iter::once(1).chain(numbers).collect::<Vec<_>>());
    }
}

#[test]
fn whole_lines_behind_the_end_of_a_file_are_read_by_the_next_run() {
    let bench = Bench::new();
    let goes_on = |points: &[(SplitId, ReplayPoint)]| {
        let mut reader = bench.open(&bench.source("*.ndjson", false), points).unwrap();
        (sorted(drain(&mut reader).0), reader.replay_points())
    };
    bench.append("empty.ndjson", "");
    bench.append("a.ndjson", &lines(0..10));
    bench.append("torn.ndjson", lines(10..20).trim_end());
    let (mut read, mut points) = goes_on(&[]);
    assert_eq!(read, (0..20).collect::<Vec<_>>());
    assert!(goes_on(&points).0.is_empty());
    bench.append("empty.ndjson", &lines(20..25));
    bench.append("a.ndjson", &lines(25..30));
    // What goes on in the last row that was read is none of its own.
    bench.append("torn.ndjson", &lines(40..50));
    (read, points) = goes_on(&points);
    assert_eq!(read, (20..30).collect::<Vec<_>>());
    assert!(goes_on(&points).0.is_empty());
}

#[test]
fn a_damaged_or_vanished_file_is_named() {
    let bench = Bench::new();
    let whole = gzip(&lines(0..10_000));
    fs::write(bench.path("a.gz"), &whole[..whole.len() / 2]).unwrap();
    let mut reader = bench.open(&bench.source("a.gz", false), &[]).unwrap();
    let error = loop {
        if let Err(error) = reader.next().now_or_never().unwrap() {
            break error.to_string();
        }
    };
    assert!(error.ends_with("a.gz is damaged"), "{error}");
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(lines(0..10_000).as_bytes()).unwrap();
    for mut bytes in [gzip(&lines(0..10_000)), zstd.finish().unwrap()] {
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(bench.path("flipped"), bytes).unwrap();
        for follow in [false, true] {
            let mut reader = bench.open(&bench.source("flipped", follow), &[]).unwrap();
            let error = loop {
                match reader.next().now_or_never().unwrap() {
                    Ok(Read::Ended | Read::Pending(_)) => panic!("damage is passed over"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(&error, SourceError::Unusable { what, .. } if what.ends_with("flipped is damaged")),
                "{error}"
            );
        }
    }
    bench.append("b.ndjson", &lines(0..1));
    let mut reader = bench.open(&bench.source("b.ndjson", false), &[]).unwrap();
    fs::remove_file(bench.path("b.ndjson")).unwrap();
    let error = reader.next().now_or_never().unwrap().unwrap_err().to_string();
    assert!(error.ends_with("b.ndjson is gone"), "{error}");
}

#[test]
fn a_last_line_without_line_feed_is_a_row_of_a_bounded_file_and_is_waited_for_in_a_followed_one() {
    let bench = Bench::new();
    bench.append("a.ndjson", "{\"n\":1}\n{\"n\":2}");
    assert_eq!(drain(&mut bench.open(&bench.source("a.ndjson", false), &[]).unwrap()).0, [1, 2]);
    let mut reader = bench.open(&bench.source("a.ndjson", true), &[]).unwrap();
    let (read, stop) = drain(&mut reader);
    assert_eq!(read, [1]);
    assert!(matches!(stop, Read::Pending(wait) if wait <= Duration::from_secs(1)));
    bench.append("a.ndjson", "3}\n{\"n\":4}\n");
    assert_eq!(bench.poll(&mut reader), [4], "2}} with 3}} behind it is a bad row");
}

#[test]
fn a_followed_file_is_read_through_rotation_by_renaming() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..10));
    let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
    assert_eq!(drain(&mut reader).0, (0..10).collect::<Vec<_>>());
    bench.append("app.log", &lines(10..15));
    fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
    bench.append("app.log.1", &lines(15..20));
    bench.append("app.log", &lines(20..30));
    assert_eq!(sorted(bench.poll(&mut reader)), (10..30).collect::<Vec<_>>());
    // The renamed file is found again after a restart as well.
    fs::rename(bench.path("app.log.1"), bench.path("app.log.2")).unwrap();
    fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
    bench.append("app.log.1", &lines(30..35));
    bench.append("app.log", &lines(35..40));
    let mut reader = bench.open(&bench.source("app.log*", true), &reader.replay_points()).unwrap();
    assert_eq!(sorted(drain(&mut reader).0), (30..40).collect::<Vec<_>>());
    bench.append("app.log.2", &lines(40..41));
    assert_eq!(bench.poll(&mut reader), [40]);
}

#[test]
fn a_file_that_is_renamed_out_of_the_glob_is_read_to_its_end() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..10));
    let mut reader = bench.open(&bench.source("app.log", true), &[]).unwrap();
    assert_eq!(drain(&mut reader).0.len(), 10);
    fs::rename(bench.path("app.log"), bench.path("old")).unwrap();
    bench.append("old", "{\"n\":10}\n{\"n\":11}");
    bench.append("app.log", &lines(12..14));
    assert_eq!(sorted(bench.poll(&mut reader)), [10, 12, 13]);
    // Its last line comes when it is over.
    let mut rest = Vec::new();
    for _ in 0..6 {
        rest.extend(bench.poll(&mut reader));
    }
    assert_eq!(rest, [11]);
    bench.append("app.log", &lines(14..15));
    assert_eq!(bench.poll(&mut reader), [14]);
    let mut again = bench.open(&bench.source("app.log", true), &reader.replay_points()).unwrap();
    assert!(drain(&mut again).0.is_empty());
}

#[test]
fn a_file_that_is_renamed_between_the_look_at_the_folder_and_its_opening_is_read_once() {
    let rows = |rows: usize, at: i64| lines(at..at + rows as i64);
    for (before, another) in [(0, false), (0, true), (7, false), (7, true)] {
        let bench = Bench::new();
        // More than an identity covers.
        bench.append("app.log", &rows(500, 0));
        let source = || bench.source("app.log*", true);
        let mut points = Vec::new();
        if before > 0 {
            fs::write(bench.path("app.log"), rows(before, 0)).unwrap();
            let mut reader = bench.open(&source(), &[]).unwrap();
            assert_eq!(drain(&mut reader).0.len(), before);
            bench.append("app.log", &rows(500 - before, before as i64));
            points = reader.replay_points();
        }
        let mut reader = bench.open(&source(), &points).unwrap();
        fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
        if another {
            bench.append("app.log", &rows(400, 500));
        }
        let mut read = drain(&mut reader).0;
        assert!(read.is_empty(), "it is under another name");
        assert_eq!(reader.unread_splits(), 1, "and holds the watermark back");
        read.extend(bench.poll(&mut reader));
        read.extend(bench.poll(&mut reader));
        let all = if another { 900 } else { 500 };
        assert_eq!(sorted(read), (before as i64..all).collect::<Vec<_>>(), "{before} {another}");
        let mut again = bench.open(&source(), &reader.replay_points()).unwrap();
        assert!(drain(&mut again).0.is_empty());
    }
}

#[test]
fn a_file_that_is_gone_before_it_was_opened_has_ended_after_some_polls() {
    let bench = Bench::new();
    bench.append("a.log", &lines(0..5));
    let mut reader = bench.open(&bench.source("*.log", true), &[]).unwrap();
    fs::remove_file(bench.path("a.log")).unwrap();
    let mut polls = 0;
    while !matches!(next(&mut reader), Read::SplitEnded(_)) {
        polls += 1;
        bench.clock.advance(Duration::from_secs(1));
        assert!(polls < 9, "it never ends");
    }
    assert_eq!((polls, reader.unread_splits()), (3, 0));
}

#[test]
fn a_truncated_file_is_read_from_its_beginning() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..1000));
    let mut reader = bench.open(&bench.source("app.log", true), &[]).unwrap();
    assert_eq!(drain(&mut reader).0.len(), 1000);
    fs::OpenOptions::new().write(true).open(bench.path("app.log")).unwrap().set_len(0).unwrap();
    bench.append("app.log", &lines(1000..1010));
    assert_eq!(bench.poll(&mut reader), (1000..1010).collect::<Vec<_>>());
    // Truncated and longer than before when it is looked at again.
    fs::write(bench.path("app.log"), lines(5000..6000)).unwrap();
    assert_eq!(bench.poll(&mut reader), (5000..6000).collect::<Vec<_>>());
    // Truncated while nobody was looking.
    let points = reader.replay_points();
    fs::write(bench.path("app.log"), lines(7000..7003)).unwrap();
    let mut again = bench.open(&bench.source("app.log", true), &points).unwrap();
    assert_eq!(sorted([drain(&mut again).0, bench.poll(&mut again)].concat()), [7000, 7001, 7002]);
}

#[test]
fn new_and_deleted_files_are_noticed() {
    let bench = Bench::new();
    bench.append("a.log", &lines(0..5));
    let source = bench.source("*.log", true);
    let mut reader = bench.open(&source, &[]).unwrap();
    assert_eq!(drain(&mut reader).0.len(), 5);
    bench.append("b.log", &lines(5..10));
    assert_eq!(bench.poll(&mut reader), (5..10).collect::<Vec<_>>());
    bench.append("a.log", "{\"n\":77}");
    fs::remove_file(bench.path("a.log")).unwrap();
    let mut rest = Vec::new();
    for _ in 0..6 {
        rest.extend(bench.poll(&mut reader));
    }
    assert_eq!(rest, [77], "what was in the file when it was deleted is read");
    assert_eq!(reader.replay_points().len(), 1, "only b.log is left");
    // A file of the same name is a new one.
    bench.append("a.log", &lines(80..82));
    assert_eq!(bench.poll(&mut reader), [80, 81]);
}

#[test]
fn the_file_that_is_furthest_behind_is_read_next() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..100_000));
    bench.append("b.ndjson", &lines(1_000_000..1_100_000));
    let mut reader = bench.open(&bench.source("*.ndjson", false), &[]).unwrap();
    let mut order = Vec::new();
    loop {
        match next(&mut reader) {
            Read::Rows { split, rows, .. } => {
                let last = *numbers(&rows).last().unwrap();
                reader.note_watermark(&split, EventTime(last));
                order.push(last >= 1_000_000);
            }
            Read::SplitEnded(_) => {}
            _ => break,
        }
    }
    // A look at each, then all of the first, then all of the second.
    assert_eq!(&order[..2], [false, true]);
    assert!(order[2..].is_sorted(), "{order:?}");
    assert!(order[2..].contains(&false));
}

#[test]
fn tasks_share_the_files_and_a_rescale_shares_them_anew() {
    let bench = Bench::new();
    for file in 0..7_i64 {
        bench.append(&format!("{file}.ndjson"), &lines(file * 1000..file * 1000 + 100 * (file + 1)));
    }
    let source = bench.source("*.ndjson", false);
    let mut readers: Vec<_> =
        (0..3).map(|index| source.open(bench.cx(index, 3, &[])).now_or_never().unwrap().unwrap()).collect();
    let mut read = Vec::new();
    let mut points = Vec::new();
    for reader in &mut readers {
        if let Read::Rows { rows, .. } = next(reader) {
            read.extend(numbers(&rows));
        }
        assert!(reader.unread_splits() > 0);
        points.extend(reader.replay_points());
    }
    assert_eq!(points.len(), 7);
    for index in 0..2 {
        let mut reader = source.open(bench.cx(index, 2, &points)).now_or_never().unwrap().unwrap();
        read.extend(drain(&mut reader).0);
    }
    let all: Vec<i64> = (0..7).flat_map(|file| file * 1000..file * 1000 + 100 * (file + 1)).collect();
    assert_eq!(sorted(read), all);
}

#[test]
fn bad_rows_come_with_their_place_and_a_row_that_is_too_long_is_one() {
    let bench = Bench::new();
    bench.append("a.ndjson", "{\"n\":1}\nnonsense\n");
    bench.append("a.ndjson", &format!("{{\"x\":\"{}\"}}\n{{\"n\":2}}\n", "x".repeat(20 << 20)));
    let mut reader = bench.open(&bench.source("a.ndjson", false), &[]).unwrap();
    let (mut read, mut bad) = (Vec::new(), Vec::new());
    while let Read::Rows { rows, errors, .. } = next(&mut reader) {
        read.extend(numbers(&rows));
        if let Some(errors) = errors {
            let (reasons, places) = (errors.column(1).as_string_view(), errors.column(3).as_primitive::<Int64Type>());
            bad.extend((0..errors.num_rows()).map(|row| (places.value(row), reasons.value(row).to_owned())));
            assert!(errors.column(2).as_string_view().value(0).ends_with("a.ndjson"));
        }
    }
    assert_eq!(read, [1, 2]);
    assert_eq!(bad[0].0, 8);
    assert_eq!(bad[1], (17, "the row is longer than 16 MiB".to_owned()));
    assert_eq!(reader.bad_rows(), 2);
}

#[test]
fn on_error_fail_names_file_offset_and_row() {
    let bench = Bench::new();
    bench.append("a.ndjson", "{\"n\":1}\n{\"n\":\"x\"}\n");
    let mut spec = bench.spec("a.ndjson", false);
    spec.on_error = OnError::Fail;
    let source = FileSource::new(&spec, spec.file.as_ref().unwrap());
    let mut reader = bench.open(&source, &[]).unwrap();
    let error = reader.next().now_or_never().unwrap().unwrap_err().to_string();
    assert!(error.contains("a.ndjson at byte 8: column n (BIGINT): a whole number was expected"), "{error}");
}

/// Where rows of the last batch come from: position and bytes.
fn origins(reader: &mut Box<dyn SourceReader>, rows: &[usize]) -> Vec<(u64, Option<String>)> {
    let origins = reader.origins(rows).unwrap().unwrap();
    origins
        .into_iter()
        .map(|origin| (origin.position.number(), origin.raw.map(|raw| String::from_utf8(raw).unwrap())))
        .collect()
}

#[test]
fn the_bytes_and_the_offset_of_every_row_that_was_read_last_can_be_asked_for() {
    let bench = Bench::new();
    let mut text = String::from("\u{feff}");
    let mut expected = Vec::new();
    for n in 0..50_000 {
        match n % 5 {
            0 => text.push_str(["\n", "  \r\n", "{\"n\":", "no row\n", "{\"n\":\"x\"}\n"][n / 5 % 5]),
            _ => {
                // A row begun and not ended makes the rest of its line bad.
                let is_broken = n % 25 == 11;
                let row = format!("{}{{\"n\": {n}, \"rest\": \"{}\"}}", " ".repeat(n % 3), "ü".repeat(n % 7));
                if !is_broken {
                    expected.push((n as i64, text.len() as u64, row.clone()));
                }
                text.push_str(&row);
                text.push_str(if n % 2 == 0 { "\n" } else { "\r\n" });
            }
        }
    }
    bench.append("a.ndjson", &text);
    let file = fs::File::create(bench.path("b.ndjson.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap();

    for name in ["a.ndjson", "b.ndjson.gz"] {
        let source = bench.source(name, false);
        let mut reader = bench.open(&source, &[]).unwrap();
        let mut found = Vec::new();
        let mut batches = 0;
        loop {
            match next(&mut reader) {
                Read::Rows { rows, .. } => {
                    let all: Vec<usize> = (0..rows.num_rows()).collect();
                    let numbers = numbers(&rows);
                    let origins = origins(&mut reader, &all);
                    found.extend(numbers.into_iter().zip(origins).map(|(n, (at, raw))| (n, at, raw.unwrap())));
                    batches += 1;
                }
                Read::Ended => break,
                _ => {}
            }
        }
        assert!(batches > 2, "{batches}");
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn rows_of_csv_and_of_lines_are_found_again_across_line_ends_in_quotes() {
    let bench = Bench::new();
    let read = |text: &str, format: FormatSpec| {
        bench.append("rows", text);
        let spec = SourceSpec { format: Some(format), ..bench.spec("rows", false) };
        let source = FileSource::new(&spec, spec.file.as_ref().unwrap());
        let mut reader = bench.open(&source, &[]).unwrap();
        let Read::Rows { rows, .. } = next(&mut reader) else { panic!("rows") };
        fs::remove_file(bench.path("rows")).unwrap();
        let all: Vec<usize> = (0..rows.num_rows()).collect();
        (numbers(&rows), origins(&mut reader, &all))
    };
    let csv = serde_json::from_value(serde_json::json!({"csv": {"header": true}})).unwrap();
    let (values, origins) = read("text,n\n\"a\nb\",1\r\n\nx,y\n\"\"\"\",2\nz,3", csv);
    assert_eq!(values, [1, 2, 3]);
    let raw = |at, text: &str| (at, Some(text.to_owned()));
    assert_eq!(origins, [raw(7, "\"a\nb\",1"), raw(21, "\"\"\"\",2"), raw(28, "z,3")]);

    let logfmt = serde_json::from_value(serde_json::json!({"logfmt": {}})).unwrap();
    let (values, origins) = read("n=1 a=b\n\nn=x\r\na=b n=2\r\n", logfmt);
    assert_eq!(values, [1, 2]);
    assert_eq!(origins, [raw(0, "n=1 a=b"), raw(14, "a=b n=2")]);
}

#[test]
fn a_file_is_silent_only_until_it_was_last_looked_at() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..10));
    bench.append("b.ndjson", &lines(10..20));
    let mut reader = bench.open(&bench.source("*.ndjson", true), &[]).unwrap();
    let start = bench.clock.monotonic();
    drain(&mut reader);
    let [a, b] = ["a.ndjson", "b.ndjson"].map(|name| {
        let point = |point: &ReplayPoint| point.0.to_string().contains(name);
        reader.replay_points().into_iter().find(|(_, at)| point(at)).unwrap().0
    });
    bench.clock.advance(Duration::from_secs(10));
    let silent = |reader: &dyn SourceReader| {
        [&a, &b].map(|id| (reader.silent_until(id, bench.clock.monotonic()) - start).as_secs())
    };
    assert_eq!(silent(&*reader), [0, 0], "nobody has looked since");
    assert!(drain(&mut reader).0.is_empty());
    assert_eq!(silent(&*reader), [10, 10]);

    reader.note_watermark(&a, EventTime(2_000));
    reader.note_watermark(&b, EventTime(1_000));
    bench.append("b.ndjson", &lines(20..30));
    bench.clock.advance(Duration::from_secs(10));
    assert!(matches!(next(&mut reader), Read::Rows { split, .. } if split == b), "it is behind");
    assert_eq!(silent(&*reader), [10, 10], "the one that is ahead may have rows");
    assert!(drain(&mut reader).0.is_empty());
    assert_eq!(silent(&*reader), [20, 20]);
}
