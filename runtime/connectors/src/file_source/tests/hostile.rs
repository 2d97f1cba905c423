//! Bytes of any kind, and replay points that are none.

use proptest::prelude::*;

use super::*;
use crate::format::tail::Tail;

/// Reads a file of these bytes to its end, or to the error that it gives.
fn read_all(bytes: &[u8], name: &str) -> Result<(usize, u64), SourceError> {
    let bench = Bench::new();
    fs::write(bench.path(name), bytes).unwrap();
    let mut reader = bench.open(&bench.source(name, false), &[])?;
    let mut rows = 0;
    loop {
        match reader.next().now_or_never().unwrap()? {
            Read::Rows { rows: batch, .. } => rows += batch.num_rows(),
            Read::SplitEnded(_) => {}
            Read::Ended | Read::Pending(_) => return Ok((rows, reader.bad_rows())),
        }
    }
}

fn parquet(bytes: &[u8]) -> Result<usize, SourceError> {
    let bench = Bench::new();
    fs::write(bench.path("a.parquet"), bytes).unwrap();
    let mut spec = bench.spec("a.parquet", false);
    spec.format = Some(FormatSpec { parquet: Some(Empty {}), ..FormatSpec::default() });
    let mut reader = bench.open(&FileSource::new(&spec, spec.file.as_ref().unwrap()), &[])?;
    let mut rows = 0;
    loop {
        match reader.next().now_or_never().unwrap()? {
            Read::Rows { rows: batch, .. } => rows += batch.num_rows(),
            Read::SplitEnded(_) => {}
            Read::Ended | Read::Pending(_) => return Ok(rows),
        }
    }
}

fn whole_parquet() -> Vec<u8> {
    let bench = Bench::new();
    super::parquet::write_parquet(&bench.path("a.parquet"), 0..300, 100);
    fs::read(bench.path("a.parquet")).unwrap()
}

#[test]
fn a_pipe_that_a_glob_matches_is_not_waited_for() {
    let bench = Bench::new();
    fs::write(bench.path("a.ndjson"), lines(0..3)).unwrap();
    let made = std::process::Command::new("mkfifo").arg(bench.path("b.ndjson")).status().unwrap();
    assert!(made.success());
    let mut reader = bench.open(&bench.source("*.ndjson", false), &[]).unwrap();
    let mut rows = 0;
    loop {
        match reader.next().now_or_never().unwrap().unwrap() {
            Read::Rows { rows: batch, .. } => rows += batch.num_rows(),
            Read::SplitEnded(_) => {}
            Read::Ended | Read::Pending(_) => break,
        }
    }
    assert_eq!(rows, 3);
}

proptest! {
    #[test]
    fn a_compressed_file_with_damage_is_read_or_refused(
        is_gzip: bool,
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let text = lines(0..200);
        let mut bytes = if is_gzip { gzip(&text) } else { zstd::encode_all(text.as_bytes(), 3).unwrap() };
        *at.get_mut(&mut bytes) ^= bits;
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let name = if is_gzip { "a.ndjson.gz" } else { "a.ndjson.zst" };
        if let Ok((rows, bad)) = read_all(&bytes, name) {
            prop_assert!(rows <= 200 && rows as u64 + bad <= 10_000);
        }
    }

    #[test]
    fn any_bytes_behind_a_compression_s_mark_are_read_or_refused(
        is_gzip: bool,
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mark: &[u8] = if is_gzip { &[0x1f, 0x8b, 8, 0] } else { &[0x28, 0xb5, 0x2f, 0xfd] };
        let _ = read_all(&[mark, &rest].concat(), "a.ndjson");
    }

    #[test]
    fn a_parquet_file_with_damage_is_read_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = whole_parquet();
        for (at, bits) in damage {
            *at.get_mut(&mut bytes) ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(rows) = parquet(&bytes) {
            prop_assert!(rows <= 100_000, "{rows}");
        }
    }

    #[test]
    fn a_replay_point_that_is_none_is_refused(
        version in prop_oneof![Just(1u64), any::<u64>()],
        offset: i64,
        device: u64,
        head_bytes: u64,
        leave_out in prop::option::of(0usize..6),
    ) {
        let bench = Bench::new();
        bench.append("a.ndjson", &lines(0..10));
        let mut point = serde_json::json!({
            "version": version,
            "path": bench.path("a.ndjson"),
            "device": device,
            "inode": 1,
            "headBytes": head_bytes,
            "head": 1,
            "offset": offset,
            "ended": false,
        });
        if let Some(left_out) = leave_out {
            let names = ["version", "path", "device", "inode", "headBytes", "offset"];
            point.as_object_mut().unwrap().remove(names[left_out]);
        }
        let restored = [(SplitId("a".into()), ReplayPoint(point))];
        // It is no file that is there, whatever it says.
        prop_assert!(bench.open(&bench.source("a.ndjson", false), &restored).is_err());
    }
}

/// What stands in a manifest in the place of a field of a replay point.
fn any_field() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let numbers = [0, 1, 9, 490, 491, 1024, 1 << 40, i64::MAX as u64, u64::MAX];
    prop_oneof![
        3 => prop::sample::select(numbers.to_vec()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        2 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => "[a-z./]{0,9}".prop_map(Value::from),
        1 => Just(json!("appended")),
        2 => prop::sample::select(numbers.to_vec()).prop_map(|bytes| json!({"atRest": bytes})),
    ]
}

proptest! {
    #[test]
    fn a_file_goes_on_from_a_damaged_replay_point_or_it_is_refused(
        kind in 0..3_usize,
        follow: bool,
        fields in prop::collection::vec((0..11_usize, any_field()), 0..3),
        grows: bool,
    ) {
        const ROWS: usize = 50;
        let bench = Bench::new();
        let name = ["a.ndjson", "a.ndjson.gz", "a.parquet"][kind];
        match kind {
            0 => bench.append(name, &lines(0..ROWS as i64)),
            1 => fs::write(bench.path(name), gzip(&lines(0..ROWS as i64))).unwrap(),
            _ => super::parquet::write_parquet(&bench.path(name), 0..ROWS as i64, 20),
        }
        let identity = identity::Identity::at(&bench.path(name)).unwrap();
        // Behind the ninth row.
        let offset = if kind == 2 { 9 } else { lines(0..9).len() as u64 };
        let whole = catalog::Point::new(bench.path(name), identity, place::Place::at(offset), false).write().0;
        let mut point = whole.clone();
        let names = [
            "version", "path", "device", "inode", "headBytes", "head", "offset", "tailBytes", "tail", "ended", "growth",
        ];
        for (field, value) in fields {
            point[names[field]] = value;
        }
        let is_whole = point == whole;
        let mut spec = bench.spec(name, follow && kind < 2);
        if kind == 2 {
            spec.format = Some(FormatSpec { parquet: Some(Empty {}), ..FormatSpec::default() });
        }
        let restored = [(SplitId(bench.path(name).display().to_string().into()), ReplayPoint(point))];
        let opened = bench.open(&FileSource::new(&spec, spec.file.as_ref().unwrap()), &restored);
        prop_assert!(opened.is_ok() || !is_whole);
        let Ok(mut reader) = opened else { return Ok(()) };
        let (mut rows, mut failed) = (0, false);
        for _ in 0..20 {
            match reader.next().now_or_never().unwrap() {
                Ok(Read::Rows { rows: batch, .. }) => rows += batch.num_rows(),
                Ok(Read::SplitEnded(_)) => {}
                Ok(Read::Ended) => break,
                Ok(Read::Pending(_)) => {
                    if grows && kind == 0 {
                        bench.append(name, &lines(50..51));
                    }
                    bench.clock.advance(Duration::from_secs(1));
                }
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        prop_assert!(!failed || !is_whole);
        prop_assert!(!is_whole || rows >= ROWS - 9, "{rows}");
        // The end of a row that an offset falls in is one bad row, which the reader counts.
        let grown = 20;
        prop_assert!(rows <= ROWS + grown, "{rows}");
        let points = reader.replay_points();
        prop_assert!(points.iter().all(|(split, point)| catalog::Point::read(split, point).is_ok()));
    }
}

#[test]
fn a_replay_point_keeps_its_form() {
    let identity = identity::Identity { device: 3, inode: 9, head_bytes: 1024, head: 77, whole: None };
    let written = catalog::Point::new(PathBuf::from("/logs/a.log"), identity, place::Place::at(4_096), true).write();
    let golden = serde_json::json!({
        "version": 1, "path": "/logs/a.log", "device": 3, "inode": 9, "headBytes": 1024, "head": 77,
        "offset": 4096, "ended": true,
    });
    assert_eq!(written.0, golden);
    let identity = identity::Identity { device: 3, inode: 9, head_bytes: 1024, head: 77, whole: None };
    let place = place::Place { offset: 4_096, tail: Tail::of(b"{\"n\":9}\n").digest() };
    let written = catalog::Point::new(PathBuf::from("/logs/a.log"), identity, place, false).write();
    let golden = serde_json::json!({
        "version": 1, "path": "/logs/a.log", "device": 3, "inode": 9, "headBytes": 1024, "head": 77,
        "offset": 4096, "tailBytes": 8, "tail": 17_533_705_530_255_290_053_u64, "ended": false,
    });
    assert_eq!(written.0, golden);
    assert_eq!(catalog::Point::read(&SplitId("a".into()), &written).unwrap().place, place);
    let identity = identity::Identity { device: 3, inode: 9, head_bytes: 1024, head: 77, whole: None };
    let whole = Some(identity::Whole { bytes: 70_000, changed: 1_704_067_200_000_000_001, contents: 8 });
    let of_parquet = identity::Identity { whole, ..identity.clone() };
    let point = catalog::Point::new(PathBuf::from("/a.parquet"), of_parquet, place::Place::at(40), true);
    let golden = serde_json::json!({
        "version": 1, "path": "/a.parquet", "device": 3, "inode": 9, "headBytes": 1024, "head": 77,
        "whole": {"bytes": 70_000, "changed": 1_704_067_200_000_000_001_i64, "contents": 8}, "offset": 40, "ended": true,
    });
    assert_eq!(point.write().0, golden);
    assert_eq!(catalog::Point::read(&SplitId("a".into()), &point.write()).unwrap(), point);
    let mut point = catalog::Point::new(PathBuf::from("/logs/a.gz"), identity, place::Place::at(4_096), false);
    for (growth, golden) in [
        (catalog::Growth::AtRest(99), serde_json::json!({"atRest": 99})),
        (catalog::Growth::Appended, serde_json::json!("appended")),
    ] {
        point.growth = growth;
        assert_eq!(point.write().0["growth"], golden);
        assert_eq!(catalog::Point::read(&SplitId("a".into()), &point.write()).unwrap(), point);
    }
}
