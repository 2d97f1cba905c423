//! Rotation that compresses.

use super::*;

/// What `reader` gives until nothing has come for some polls.
fn polled(bench: &Bench, reader: &mut Box<dyn SourceReader>) -> Vec<i64> {
    (0..6).flat_map(|_| bench.poll(reader)).collect()
}

/// Lines that all files of a test begin with: more than identities cover.
fn banner() -> String {
    "{\"n\":7}\n".repeat(300)
}

/// `lines`, behind a banner or not, and the rows that these are.
fn headed(is_headed: bool, range: std::ops::Range<i64>) -> (String, Vec<i64>) {
    let (banner, sevens) = if is_headed { (banner(), vec![7; 300]) } else { Default::default() };
    (format!("{banner}{}", lines(range.clone())), sevens.into_iter().chain(range).collect())
}

#[test]
fn a_file_that_is_renamed_and_then_compressed_is_read_once() {
    for is_headed in [false, true] {
        let bench = Bench::new();
        let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
        let (text, rows) = headed(is_headed, 0..300);
        bench.append("app.log", &text);
        assert_eq!(polled(&bench, &mut reader), rows);
        for turn in 1..4 {
            let first = turn * 1000;
            bench.append("app.log", &lines(first..first + 10));
            if turn > 1 {
                fs::rename(bench.path(&format!("app.log.{}.gz", turn - 1)), bench.path(&format!("app.log.{turn}.gz")))
                    .unwrap();
            }
            fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
            // As long as the one before it.
            let (text, rows) = headed(is_headed, first + 10..first + 310);
            bench.append("app.log", &text);
            let expected = (first..first + 10).chain(rows);
            assert_eq!(sorted(polled(&bench, &mut reader)), sorted(expected.collect()), "{is_headed} {turn}");

            // The copy grows beside its original, which goes when it is whole.
            let copy = gzip(&fs::read_to_string(bench.path("app.log.1")).unwrap());
            for part in [0, 1, copy.len() / 2, copy.len() - 1] {
                fs::write(bench.path("app.log.1.gz"), &copy[..part]).unwrap();
                assert!(bench.poll(&mut reader).is_empty(), "a copy is read at {part} bytes");
            }
            fs::write(bench.path("app.log.1.gz"), &copy).unwrap();
            if turn % 2 == 0 {
                assert!(bench.poll(&mut reader).is_empty());
            }
            fs::remove_file(bench.path("app.log.1")).unwrap();
            assert!(polled(&bench, &mut reader).is_empty(), "{is_headed} {turn}");
        }
    }
}

#[test]
fn a_copy_that_is_made_member_by_member_is_read_once_also_if_polls_fall_between_them() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..900));
    let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
    assert_eq!(polled(&bench, &mut reader).len(), 900);
    fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
    let mut copy = fs::OpenOptions::new().create(true).append(true).open(bench.path("app.log.1.gz")).unwrap();
    for first in [0, 300, 600] {
        copy.write_all(&gzip(&lines(first..first + 300))).unwrap();
        assert!(bench.poll(&mut reader).is_empty());
    }
    fs::remove_file(bench.path("app.log.1")).unwrap();
    assert!(polled(&bench, &mut reader).is_empty());
}

#[test]
fn an_archive_that_stays_a_part_of_another_file_is_a_file_of_its_own() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..900));
    fs::write(bench.path("app.log.1.gz"), gzip(&lines(0..300))).unwrap();
    let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
    assert_eq!(polled(&bench, &mut reader).len(), 900 + 300);
}

#[test]
fn a_copy_that_was_made_between_two_runs_is_read_on_where_the_original_was_left() {
    for case in 0..8 {
        let [ended, is_headed, is_same_inode] = [1, 2, 4].map(|bit| case & bit != 0);
        let bench = Bench::new();
        let source = bench.source("app.log*", true);
        let (text, rows) = headed(is_headed, 0..1_000);
        bench.append("app.log", &text);
        let mut reader = bench.open(&source, &[]).unwrap();
        assert_eq!(polled(&bench, &mut reader), rows);
        let points = reader.replay_points();
        if !ended {
            bench.append("app.log", &lines(1_000..1_500));
        }
        fs::write(bench.path("app.log-20240102.gz"), gzip(&fs::read_to_string(bench.path("app.log")).unwrap()))
            .unwrap();
        let (text, rows) = headed(is_headed, 2_000..2_010);
        match is_same_inode {
            // A file that is removed gives its inode to the one that comes next.
            true => fs::write(bench.path("app.log"), text).unwrap(),
            false => {
                fs::create_dir(bench.path("away")).unwrap();
                fs::rename(bench.path("app.log"), bench.path("away/app.log")).unwrap();
                bench.append("app.log", &text);
            }
        }

        let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        let unread: Vec<i64> = if ended { vec![] } else { (1_000..1_500).collect() };
        let expected = unread.into_iter().chain(rows).collect();
        assert_eq!(sorted(polled(&bench, &mut reader)), sorted(expected), "{ended} {is_headed} {is_same_inode}");
        let points = reader.replay_points();
        let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        assert!(polled(&bench, &mut reader).is_empty());
    }
}

#[test]
fn a_file_that_begins_as_one_that_is_gone_is_read_from_its_beginning() {
    // The new one is shorter than, as long as and longer than what was read of the old one.
    for (rows, is_compressed) in [30, 100, 400].into_iter().flat_map(|rows| [(rows, false), (rows, true)]) {
        let bench = Bench::new();
        bench.append("app.log", &headed(true, 1_000..1_100).0);
        let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
        assert_eq!(polled(&bench, &mut reader).len(), 400);
        let points = reader.replay_points();
        // Another file gets no inode that is in use.
        fs::rename(bench.path("app.log"), bench.path("elsewhere")).unwrap();
        let (text, expected) = headed(true, 2_000..2_000 + rows);
        match is_compressed {
            false => bench.append("app.log", &text),
            true => fs::write(bench.path("app.log.1.gz"), gzip(&text)).unwrap(),
        }
        let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        assert_eq!(polled(&bench, &mut reader), expected, "{rows} {is_compressed}");
    }
}

#[test]
fn a_file_that_is_truncated_and_grows_beyond_what_was_read_of_it_is_read_from_its_beginning() {
    for restarts in [false, true] {
        let bench = Bench::new();
        bench.append("app.log", &headed(true, 1_000..1_100).0);
        let source = bench.source("app.log*", true);
        let mut reader = bench.open(&source, &[]).unwrap();
        assert_eq!(polled(&bench, &mut reader).len(), 400);
        let points = reader.replay_points();
        // Written over, it stays the same file.
        let (text, expected) = headed(true, 2_000..2_400);
        fs::write(bench.path("app.log"), text).unwrap();
        if restarts {
            reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        }
        assert_eq!(polled(&bench, &mut reader), expected, "{restarts}");
    }
}

#[test]
fn a_bounded_file_that_has_become_another_is_told_also_if_it_begins_alike() {
    let bench = Bench::new();
    let rows = bench.spec("app.log", false);
    bench.append("app.log", &headed(true, 1_000..21_000).0);
    let source = FileSource::new(&rows, rows.file.as_ref().unwrap());
    let mut reader = bench.open(&source, &[]).unwrap();
    assert!(matches!(next(&mut reader), Read::Rows { .. }));
    let points = reader.replay_points();
    fs::write(bench.path("app.log"), headed(true, 31_000..51_000).0).unwrap();
    let mut reader = bench.open(&FileSource::new(&rows, rows.file.as_ref().unwrap()), &points).unwrap();
    let error = reader.next().now_or_never().unwrap().unwrap_err().to_string();
    assert!(error.contains("has changed since"), "{error}");
}

#[test]
fn a_place_that_says_nothing_of_the_bytes_before_it_is_gone_on_from() {
    let bench = Bench::new();
    bench.append("app.log", &lines(0..300));
    let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
    assert_eq!(polled(&bench, &mut reader).len(), 300);
    let mut points = reader.replay_points();
    let point = points[0].1.0.as_object_mut().unwrap();
    assert!(point.remove("tail").is_some() && point.remove("tailBytes") == Some(1024.into()));
    bench.append("app.log", &lines(300..310));
    let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
    assert_eq!(polled(&bench, &mut reader), (300..310).collect::<Vec<_>>());
    assert_eq!(reader.replay_points()[0].1.0["tailBytes"], 1024);
}

#[test]
fn an_archive_of_other_rows_is_a_file_of_its_own_also_where_its_name_and_first_lines_are_alike() {
    let bench = Bench::new();
    let banner = banner();
    bench.append("app.log", &format!("{banner}{}", lines(0..10)));
    fs::write(bench.path("app.log.1.gz"), gzip(&format!("{banner}{}", lines(10..30)))).unwrap();
    fs::write(bench.path("web.log.1.gz"), gzip(&format!("{banner}{}", lines(0..10)))).unwrap();
    let mut reader = bench.open(&bench.source("*.log*", true), &[]).unwrap();
    assert_eq!(polled(&bench, &mut reader).len(), 300 + 10 + 300 + 20 + 300 + 10);
}

#[test]
fn the_count_of_bad_rows_only_rises_also_when_files_go_or_are_truncated() {
    let bench = Bench::new();
    bench.append("a.log", "nonsense\n");
    bench.append("b.log", "nonsense\nmore\n");
    let mut reader = bench.open(&bench.source("*.log", true), &[]).unwrap();
    assert!(polled(&bench, &mut reader).is_empty());
    assert_eq!(reader.bad_rows(), 3);
    fs::remove_file(bench.path("a.log")).unwrap();
    polled(&bench, &mut reader);
    assert_eq!(reader.bad_rows(), 3);
    fs::write(bench.path("b.log"), "x\n").unwrap();
    polled(&bench, &mut reader);
    assert_eq!(reader.bad_rows(), 4);
}
