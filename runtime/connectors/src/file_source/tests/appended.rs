//! Followed files that are compressed, to which more is appended.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Codec {
    Gzip,
    Zstd,
}

const CODECS: [Codec; 2] = [Codec::Gzip, Codec::Zstd];

impl Codec {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "a.ndjson.gz",
            Self::Zstd => "a.ndjson.zst",
        }
    }

    fn member(self, text: &str) -> Vec<u8> {
        match self {
            Self::Gzip => gzip(text),
            Self::Zstd => zstd::encode_all(text.as_bytes(), 3).unwrap(),
        }
    }
}

impl Bench {
    fn append_bytes(&self, name: &str, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn polls(&self, reader: &mut Box<dyn SourceReader>, polls: usize) -> Vec<i64> {
        (0..polls).flat_map(|_| self.poll(reader)).collect()
    }

    fn again(&self, reader: &dyn SourceReader) -> Box<dyn SourceReader> {
        self.open(&self.source("*", true), &reader.replay_points()).unwrap()
    }
}

#[test]
fn what_is_appended_is_read_as_it_comes_and_after_a_restart() {
    for codec in CODECS {
        let bench = Bench::new();
        bench.append_bytes(codec.name(), &codec.member(&lines(0..10)));
        let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
        assert_eq!(drain(&mut reader).0, (0..10).collect::<Vec<_>>());
        // Soon, after a rest, and while nobody looks; with empty members between.
        bench.append_bytes(codec.name(), &codec.member(&lines(10..20)));
        assert_eq!(bench.poll(&mut reader), (10..20).collect::<Vec<_>>());
        assert!(bench.polls(&mut reader, 9).is_empty());
        bench.append_bytes(codec.name(), &[codec.member(""), codec.member(&lines(20..30)), codec.member("")].concat());
        assert_eq!(bench.poll(&mut reader), (20..30).collect::<Vec<_>>());
        for n in 3..6 {
            bench.append_bytes(codec.name(), &codec.member(&lines(n * 10..n * 10 + 10)));
            reader = bench.again(reader.as_ref());
            let read = [drain(&mut reader).0, bench.polls(&mut reader, 9)].concat();
            assert_eq!(read, (n * 10..n * 10 + 10).collect::<Vec<_>>(), "{codec:?}");
        }
    }
}

#[test]
fn a_file_at_rest_is_one_that_has_ended_until_it_grows() {
    for codec in CODECS {
        let bench = Bench::new();
        bench.append_bytes(codec.name(), &codec.member("{\"n\":1}\n{\"n\":2}"));
        let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
        let mut read = Vec::new();
        let mut polls = 0;
        let split = loop {
            match next(&mut reader) {
                Read::Rows { rows, .. } => read.extend(numbers(&rows)),
                Read::SplitEnded(split) => break split,
                _ => {
                    polls += 1;
                    bench.clock.advance(Duration::from_secs(1));
                }
            }
        };
        assert_eq!(read, [1, 2], "a last line without line feed is a row when nothing more comes");
        assert_eq!((polls, reader.unread_splits(), reader.lag()), (3, 0, Some(Lag::Bytes(0))));
        let mut again = bench.again(reader.as_ref());
        assert_eq!((bench.polls(&mut again, 9), again.unread_splits()), (vec![], 0));
        // A source that ends has nothing to do with it.
        let mut bounded = bench.open(&bench.source("*", false), &reader.replay_points()).unwrap();
        assert!(matches!(next(&mut bounded), Read::Ended));

        bench.append_bytes(codec.name(), &codec.member("{\"n\":3}\n"));
        bench.clock.advance(Duration::from_secs(1));
        let Read::Rows { split: grown, rows, .. } = next(&mut reader) else { panic!("it has grown") };
        assert_eq!((numbers(&rows), grown), (vec![3], split));
        for _ in 0..9 {
            bench.clock.advance(Duration::from_secs(1));
            assert!(matches!(next(&mut reader), Read::Pending(_)), "what grows holds the watermark, as plain files do");
        }
    }
}

#[test]
fn a_line_may_go_on_in_the_next_member() {
    for codec in CODECS {
        let bench = Bench::new();
        bench.append_bytes(codec.name(), &codec.member("{\"n\":1}\n{\"n\":"));
        let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
        assert_eq!(drain(&mut reader).0, [1]);
        bench.append_bytes(codec.name(), &codec.member("2}\n{\"n\":3}\n{\"n"));
        assert_eq!(bench.poll(&mut reader), [2, 3]);
        bench.append_bytes(codec.name(), &codec.member("\":4}\n"));
        assert_eq!(bench.polls(&mut bench.again(reader.as_ref()), 2), [4]);
        assert_eq!(reader.bad_rows(), 0);
    }
}

#[test]
fn rotation_and_truncation_are_as_of_plain_files() {
    for codec in CODECS {
        let bench = Bench::new();
        let (name, old) = (codec.name(), "old");
        bench.append_bytes(name, &codec.member(&lines(0..10)));
        let mut reader = bench.open(&bench.source("a*", true), &[]).unwrap();
        assert_eq!(drain(&mut reader).0.len(), 10);
        // Renamed to where no glob looks; more is appended, and a new file has the name.
        bench.append_bytes(name, &codec.member(&lines(10..15)));
        fs::rename(bench.path(name), bench.path(old)).unwrap();
        bench.append_bytes(old, &codec.member(&lines(15..20)));
        bench.append_bytes(name, &codec.member(&lines(20..30)));
        assert_eq!(sorted(bench.polls(&mut reader, 9)), (10..30).collect::<Vec<_>>());
        assert_eq!(reader.replay_points().len(), 1);
        // Truncated: at rest, grown again, while nobody looks, and longer than before.
        for (turn, polls) in [(1, 9), (2, 1), (3, 9), (4, 0)] {
            let (rows, more) = (turn * 1_000, turn * 1_000 + 500);
            fs::write(bench.path(name), codec.member(&lines(rows..rows + 3))).unwrap();
            if turn == 4 {
                reader = bench.open(&bench.source("a*", true), &reader.replay_points()).unwrap();
            }
            assert_eq!(
                bench.polls(&mut reader, polls.max(1)),
                (rows..rows + 3).collect::<Vec<_>>(),
                "{codec:?} {turn}"
            );
            bench.append_bytes(name, &codec.member(&lines(more..more + 100)));
            assert_eq!(bench.polls(&mut reader, 9), (more..more + 100).collect::<Vec<_>>(), "{codec:?} {turn}");
        }
        fs::write(bench.path(name), "").unwrap();
        assert!(bench.polls(&mut reader, 5).is_empty());
        bench.append_bytes(name, &codec.member(&lines(0..3)));
        assert_eq!(bench.polls(&mut reader, 5), [0, 1, 2]);
        fs::remove_file(bench.path(name)).unwrap();
        assert!(bench.polls(&mut reader, 5).is_empty());
        assert!(reader.replay_points().is_empty());
    }
}

#[test]
fn what_a_file_is_compressed_with_is_known_once_it_has_bytes() {
    for codec in CODECS {
        for name in ["a.log", codec.name()] {
            let bench = Bench::new();
            fs::write(bench.path(name), "").unwrap();
            let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
            assert!(bench.polls(&mut reader, 5).is_empty());
            let mut read = Vec::new();
            for byte in codec.member(&lines(0..3)) {
                bench.append_bytes(name, &[byte]);
                read.extend(bench.poll(&mut reader));
            }
            assert_eq!(read, [0, 1, 2]);
            bench.append_bytes(name, &codec.member(&lines(3..5)));
            assert_eq!(bench.poll(&mut reader), [3, 4]);
            assert_eq!(reader.bad_rows(), 0);
        }
    }
}

#[test]
fn of_more_files_than_may_be_open_each_is_read_on() {
    let bench = Bench::new();
    let name = |file: i64| format!("{file}.gz");
    for file in 0..150 {
        bench.append_bytes(&name(file), &gzip(&lines(file * 10..file * 10 + 5)));
    }
    let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
    assert_eq!(bench.polls(&mut reader, 2).len(), 750);
    for file in 0..150 {
        bench.append_bytes(&name(file), &gzip(&lines(file * 10 + 5..file * 10 + 9)));
    }
    assert_eq!(bench.polls(&mut reader, 9).len(), 600);
    for file in 0..150 {
        bench.append_bytes(&name(file), &gzip(&lines(file * 10 + 9..file * 10 + 10)));
    }
    assert_eq!(bench.polls(&mut reader, 9).len(), 150);
}

/// What happens to a file that is followed.
#[derive(Clone, Debug)]
enum Happens {
    /// So much of what is still to come is written.
    Written(usize),
    Polls(usize),
    /// The reader is opened anew where it was.
    Restart,
    /// It is opened anew where it was at the last restart; what was read since is forgotten.
    Crash,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1usize..400).prop_map(Happens::Written),
        3 => (1usize..6).prop_map(Happens::Polls),
        1 => Just(Happens::Restart),
        1 => Just(Happens::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_read_once_however_the_members_arrive(
        codec in prop_oneof![Just(Codec::Gzip), Just(Codec::Zstd)],
        members in prop::collection::vec(0i64..60, 1..12),
        happens in prop::collection::vec(happens(), 1..60),
    ) {
        let bench = Bench::new();
        let (mut bytes, mut end) = (Vec::new(), 0);
        for rows in members {
            bytes.extend(codec.member(&lines(end..end + rows)));
            end += rows;
        }
        let mut written = 0usize;
        let mut reader = bench.open(&bench.source("*", true), &[]).unwrap();
        let mut read = Vec::new();
        let mut kept = (reader.replay_points(), 0);
        for happens in happens.into_iter().chain([Happens::Written(usize::MAX), Happens::Polls(9)]) {
            match happens {
                Happens::Written(some) => {
                    let to = bytes.len().min(written.saturating_add(some));
                    bench.append_bytes(codec.name(), &bytes[written..to]);
                    written = to;
                }
                Happens::Polls(polls) => read.extend(bench.polls(&mut reader, polls)),
                Happens::Restart => {
                    kept = (reader.replay_points(), read.len());
                    reader = bench.open(&bench.source("*", true), &kept.0).unwrap();
                }
                Happens::Crash => {
                    read.truncate(kept.1);
                    reader = bench.open(&bench.source("*", true), &kept.0).unwrap();
                }
            }
        }
        prop_assert_eq!(read, (0..end).collect::<Vec<_>>());
        prop_assert_eq!(reader.bad_rows(), 0);
    }
}
