//! Sources that are moved.

use millrace_crds::{FilePositionSpec, MoveSourceSpec};

use super::*;

fn to(files: &[(PathBuf, usize)]) -> MoveSourceSpec {
    let at = |(path, offset): &(PathBuf, usize)| FilePositionSpec {
        path: path.display().to_string(),
        offset: *offset as u64,
    };
    MoveSourceSpec { name: "rows".to_owned(), row: None, files: files.iter().map(at).collect() }
}

/// What is read after the source was moved there from the end of all.
fn moved(bench: &Bench, spec: &SourceSpec, files: &[(PathBuf, usize)]) -> Result<Vec<i64>, SourceError> {
    let source = || FileSource::new(spec, spec.file.as_ref().unwrap());
    let mut reader = bench.open(&source(), &[])?;
    drain(&mut reader);
    let points = source().moved(&to(files), reader.replay_points().into_iter().collect())?;
    let points: Vec<_> = points.into_iter().collect();
    Ok(sorted(drain(&mut bench.open(&source(), &points)?).0))
}

#[test]
fn a_file_is_read_on_where_it_is_asked_for_and_the_others_where_they_were_read_to() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..100));
    fs::write(bench.path("b.ndjson.gz"), gzip(&lines(100..200))).unwrap();
    bench.append("c.ndjson", &lines(200..300));
    let spec = bench.spec("*.ndjson*", false);
    let places = [(bench.path("a.ndjson"), lines(0..40).len()), (bench.path("b.ndjson.gz"), lines(100..190).len())];
    assert_eq!(moved(&bench, &spec, &places).unwrap(), (40..100).chain(190..200).collect::<Vec<_>>());
    let places = [(bench.path("c.ndjson"), 0), (bench.path("a.ndjson"), lines(0..100).len())];
    assert_eq!(moved(&bench, &spec, &places).unwrap(), (200..300).collect::<Vec<_>>());
}

#[test]
fn rows_that_were_not_read_yet_can_be_passed_over() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..10));
    let source = bench.source("*.ndjson", true);
    let points = source.moved(&to(&[(bench.path("a.ndjson"), lines(0..7).len())]), BTreeMap::new()).unwrap();
    let points: Vec<_> = points.into_iter().collect();
    assert_eq!(drain(&mut bench.open(&source, &points).unwrap()).0, [7, 8, 9]);
}

#[test]
fn parquet_is_moved_by_its_rows() {
    let bench = Bench::new();
    super::parquet::write_parquet(&bench.path("a.parquet"), 0..50, 20);
    let mut spec = bench.spec("*.parquet", false);
    spec.format = Some(FormatSpec { parquet: Some(Empty {}), ..FormatSpec::default() });
    let at = |row| [(bench.path("a.parquet"), row)];
    assert_eq!(moved(&bench, &spec, &at(33)).unwrap(), (33..50).collect::<Vec<_>>());
    assert_eq!(moved(&bench, &spec, &at(50)).unwrap(), Vec::<i64>::new());
    let error = moved(&bench, &spec, &at(51)).unwrap_err().to_string();
    assert!(error.ends_with("a.parquet has 50 rows, and none with the number 51"), "{error}");
}

#[test]
fn where_no_row_begins_nothing_is_read_on() {
    let bench = Bench::new();
    bench.append("a.ndjson", &lines(0..3));
    fs::write(bench.path("b.ndjson.gz"), gzip(&lines(0..3))).unwrap();
    let spec = bench.spec("*.ndjson*", false);
    for (path, offset, says) in [
        ("a.ndjson", 1, "a.ndjson begins at byte 1: the byte before it ends none"),
        ("a.ndjson", 25, "a.ndjson has fewer than 25 bytes"),
        ("b.ndjson.gz", 9, "b.ndjson.gz begins at byte 9: the byte before it ends none"),
        ("b.ndjson.gz", 25, "b.ndjson.gz has fewer than 25 bytes"),
        ("other", 0, "the source reads no file"),
    ] {
        let error = moved(&bench, &spec, &[(bench.path(path), offset)]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let row = MoveSourceSpec { name: "rows".to_owned(), row: Some(1), files: Vec::new() };
    let error = bench.source("*", false).moved(&row, BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(error, "source rows reads files: it goes on from places in `files`");
}
