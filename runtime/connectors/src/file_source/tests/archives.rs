//! Rotation that compresses.

use super::*;

/// What `reader` gives until nothing has come for some polls.
fn polled(bench: &Bench, reader: &mut Box<dyn SourceReader>) -> Vec<i64> {
    (0..6).flat_map(|_| bench.poll(reader)).collect()
}

#[test]
fn a_file_that_is_renamed_and_then_compressed_is_read_once() {
    let bench = Bench::new();
    let mut reader = bench.open(&bench.source("app.log*", true), &[]).unwrap();
    bench.append("app.log", &lines(0..300));
    assert_eq!(polled(&bench, &mut reader), (0..300).collect::<Vec<_>>());
    for turn in 1..4 {
        let first = turn * 1000;
        bench.append("app.log", &lines(first..first + 10));
        if turn > 1 {
            fs::rename(bench.path(&format!("app.log.{}.gz", turn - 1)), bench.path(&format!("app.log.{turn}.gz")))
                .unwrap();
        }
        fs::rename(bench.path("app.log"), bench.path("app.log.1")).unwrap();
        bench.append("app.log", &lines(first + 10..first + 300));
        let read = polled(&bench, &mut reader);
        assert_eq!(sorted(read), (first..first + 300).collect::<Vec<_>>());

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
        assert!(polled(&bench, &mut reader).is_empty());
    }
}

#[test]
fn a_copy_that_was_made_between_two_runs_is_read_on_where_the_original_was_left() {
    for ended in [false, true] {
        let bench = Bench::new();
        let source = bench.source("app.log*", true);
        bench.append("app.log", &lines(0..1_000));
        let mut reader = bench.open(&source, &[]).unwrap();
        assert_eq!(polled(&bench, &mut reader).len(), 1_000);
        let points = reader.replay_points();
        if !ended {
            bench.append("app.log", &lines(1_000..1_500));
        }
        fs::write(bench.path("app.log-20240102.gz"), gzip(&fs::read_to_string(bench.path("app.log")).unwrap()))
            .unwrap();
        fs::remove_file(bench.path("app.log")).unwrap();
        bench.append("app.log", &lines(2_000..2_010));

        let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        let unread = if ended { vec![] } else { (1_000..1_500).collect() };
        let expected: Vec<i64> = unread.into_iter().chain(2_000..2_010).collect();
        assert_eq!(sorted(polled(&bench, &mut reader)), expected);
        let points = reader.replay_points();
        let mut reader = bench.open(&bench.source("app.log*", true), &points).unwrap();
        assert!(polled(&bench, &mut reader).is_empty());
    }
}

#[test]
fn an_archive_of_other_rows_is_a_file_of_its_own_also_where_its_name_and_first_lines_are_alike() {
    let bench = Bench::new();
    let banner = "{\"n\":7}\n".repeat(300);
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
