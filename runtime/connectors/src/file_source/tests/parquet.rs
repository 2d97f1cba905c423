//! Parquet files, and what of them is no row.

use std::os::unix::fs::MetadataExt;

use arrow::array::{Decimal128Array, Float64Array, StringViewArray, new_null_array};

use super::*;

/// A source of Parquet files with the column `n`.
fn spec(bench: &Bench, glob: &str, on_error: OnError) -> SourceSpec {
    let mut spec = bench.spec(glob, false);
    spec.format = Some(FormatSpec { parquet: Some(Empty {}), ..FormatSpec::default() });
    spec.on_error = on_error;
    spec
}

pub(super) fn write_parquet(path: &Path, numbers: std::ops::Range<i64>, group: usize) {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("other", Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| n.to_string())))),
        ("n", Arc::new(Int64Array::from_iter_values(numbers))),
    ];
    write_columns(path, columns, group);
}

fn write_columns(path: &Path, columns: Vec<(&str, ArrayRef)>, group: usize) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties =
        ::parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_files_are_read_and_resumed_in_the_middle_of_a_row_group() {
    let bench = Bench::new();
    write_parquet(&bench.path("a.parquet"), 0..50_000, 20_000);
    write_parquet(&bench.path("b.parquet"), 50_000..60_000, 20_000);
    let spec = spec(&bench, "*.parquet", OnError::Fail);
    let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
    let mut reader = bench.open(&source(), &[]).unwrap();
    let mut read = Vec::new();
    loop {
        match next(&mut reader) {
            Read::Rows { rows, .. } => read.extend(numbers(&rows)),
            Read::SplitEnded(_) => {}
            _ => break,
        }
        let mut again = bench.open(&source(), &reader.replay_points()).unwrap();
        let rest = drain(&mut again).0;
        assert_eq!(sorted([read.clone(), rest].concat()), (0..60_000).collect::<Vec<_>>());
    }
}

/// The numbers, the places and reasons of bad rows with their text, and how many were counted, or the error.
fn outcome(bench: &Bench, spec: &SourceSpec) -> Result<(Vec<i64>, Vec<String>, u64), String> {
    let mut reader = bench.open(&FileSource::new(spec, spec.file.as_ref().unwrap()), &[]).unwrap();
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    loop {
        match reader.next().now_or_never().unwrap().map_err(|error| error.to_string())? {
            Read::Rows { rows: batch, errors, .. } => {
                rows.extend(numbers(&batch));
                if let Some(errors) = errors {
                    let raw = errors.column(0).as_binary::<i32>();
                    let reasons: &StringViewArray = errors.column(1).as_string_view();
                    let positions = errors.column(3).as_primitive::<Int64Type>();
                    told.extend((0..errors.num_rows()).map(|row| {
                        let raw = String::from_utf8_lossy(raw.value(row)).into_owned();
                        format!("{}: {}: {raw}", positions.value(row), reasons.value(row))
                    }));
                }
            }
            Read::SplitEnded(_) => {}
            _ => return Ok((rows, told, reader.bad_rows())),
        }
    }
}

fn said(bench: &Bench, error: &str) -> String {
    error.replace(&bench.folder.path().display().to_string(), "…")
}

#[test]
fn a_file_that_lacks_a_column_has_no_row_that_can_be_decoded() {
    let bench = Bench::new();
    write_parquet(&bench.path("a.parquet"), 0..3, 2);
    write_columns(&bench.path("b.parquet"), vec![("m", Arc::new(Int64Array::from(vec![7, 8])))], 10);
    write_columns(&bench.path("c.parquet"), vec![("m", Arc::new(Int64Array::from(Vec::<i64>::new())))], 10);
    let error = outcome(&bench, &spec(&bench, "*.parquet", OnError::Fail)).unwrap_err();
    assert_eq!(said(&bench, &error), "…/b.parquet has no column n; it has m");
    let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::Drop)).unwrap();
    assert_eq!((sorted(rows), told, bad), (vec![0, 1, 2], Vec::new(), 2));
    let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::DeadLetter)).unwrap();
    assert_eq!((sorted(rows), bad), (vec![0, 1, 2], 2));
    // No column of it is read.
    assert_eq!(told, ["0: the file has no column n; it has m: {}", "1: the file has no column n; it has m: {}"]);
}

#[test]
fn a_column_of_a_type_that_never_becomes_the_declared_one_is_told() {
    let bench = Bench::new();
    let lists = Field::new("n", DataType::new_list(DataType::Int64, true), true);
    write_columns(&bench.path("a.parquet"), vec![("n", new_null_array(lists.data_type(), 2))], 10);
    let error = outcome(&bench, &spec(&bench, "*.parquet", OnError::Fail)).unwrap_err();
    let error = said(&bench, &error);
    assert!(error.starts_with("…/a.parquet does not fit: column n is List("), "{error}");
    assert!(error.ends_with(" and cannot be read as BIGINT"), "{error}");
    let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::DeadLetter)).unwrap();
    assert_eq!((rows, told.len(), bad), (Vec::new(), 2, 2));
}

#[test]
fn a_value_that_is_none_of_its_columns_type_is_a_bad_row_and_the_others_are_read() {
    let texts: ArrayRef =
        Arc::new(StringArray::from(vec![Some("1"), Some("n/a"), None, Some("9223372036854775808"), Some("5")]));
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(1.5), None, Some(f64::NAN), Some(5.0)]));
    let decimals: ArrayRef = Arc::new(
        Decimal128Array::from(vec![Some(100), Some(150), None, Some(-1), Some(500)])
            .with_precision_and_scale(10, 2)
            .unwrap(),
    );
    for (values, found, shown) in [
        (texts, "Utf8", ["`n/a`", "`9223372036854775808`"]),
        (doubles, "Float64", ["`1.5`", "`NaN`"]),
        (decimals, "Decimal128(10, 2)", ["`1.50`", "`-0.01`"]),
    ] {
        let bench = Bench::new();
        write_columns(&bench.path("a.parquet"), vec![("n", values)], 10);
        let error = outcome(&bench, &spec(&bench, "*.parquet", OnError::Fail)).unwrap_err();
        let one = shown[0];
        assert_eq!(
            said(&bench, &error),
            format!(
                "…/a.parquet at row 1: column n (BIGINT): {one} was found, as {found}\n  row: {{n: {}}}",
                one.trim_matches('`')
            )
        );
        let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::DeadLetter)).unwrap();
        // What is null is no bad row.
        assert_eq!((rows.len(), bad), (3, 2), "{found}");
        let line = |row: usize, value: &str| {
            format!("{row}: column n (BIGINT): {value} was found, as {found}: {{n: {}}}", value.trim_matches('`'))
        };
        assert_eq!(told, [line(1, shown[0]), line(3, shown[1])]);
        let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::Drop)).unwrap();
        assert_eq!((rows.len(), told.len(), bad), (3, 0, 2));
    }
}

#[test]
fn rows_behind_bad_ones_keep_their_numbers() {
    let bench = Bench::new();
    let values =
        StringArray::from_iter_values((0..20).map(|n| if n % 3 == 0 { "x".to_owned() } else { n.to_string() }));
    write_columns(&bench.path("a.parquet"), vec![("n", Arc::new(values))], 7);
    let spec = spec(&bench, "*.parquet", OnError::Drop);
    let mut reader = bench.open(&FileSource::new(&spec, spec.file.as_ref().unwrap()), &[]).unwrap();
    let mut seen = 0;
    while let Read::Rows { rows, .. } = next(&mut reader) {
        let all: Vec<usize> = (0..rows.num_rows()).collect();
        let places: Vec<i64> = origins(&mut reader, &all).into_iter().map(|(row, _)| row as i64).collect();
        assert_eq!(places, numbers(&rows));
        seen += rows.num_rows();
        let mut again =
            bench.open(&FileSource::new(&spec, spec.file.as_ref().unwrap()), &reader.replay_points()).unwrap();
        assert_eq!(drain(&mut again).0.len(), 13 - seen, "rows that were bad are not read again");
    }
    assert_eq!((seen, reader.bad_rows()), (13, 7));
}

#[test]
fn great_rows_are_read_few_at_a_time() {
    let bench = Bench::new();
    let text = "x".repeat(1 << 20);
    // Each of another length, or they would be few in a dictionary.
    let values = StringArray::from_iter_values((0..200).map(|n| &text[n..]));
    write_columns(&bench.path("a.parquet"), vec![("n", Arc::new(values))], 1_000);
    let mut spec = spec(&bench, "*.parquet", OnError::Fail);
    spec.columns = vec![ColumnSpec::new("n", &ColumnType::Varchar)];
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Utf8View, true)]));
    let cx = SourceContext { schema, ..bench.cx(0, 1, &[]) };
    let source = FileSource::new(&spec, spec.file.as_ref().unwrap());
    let mut reader = source.open(cx).now_or_never().unwrap().unwrap();
    let mut read = 0;
    while let Read::Rows { rows, .. } = next(&mut reader) {
        assert!(rows.num_rows() <= 33, "{} rows at once", rows.num_rows());
        read += rows.num_rows();
    }
    assert_eq!(read, 200);
}

#[test]
fn what_is_unread_of_a_file_is_told_in_its_bytes() {
    let bench = Bench::new();
    write_parquet(&bench.path("a.parquet"), 0..50_000, 10_000);
    let bytes = fs::metadata(bench.path("a.parquet")).unwrap().len();
    let spec = spec(&bench, "*.parquet", OnError::Fail);
    let mut reader = bench.open(&FileSource::new(&spec, spec.file.as_ref().unwrap()), &[]).unwrap();
    assert_eq!(reader.lag(), Some(crate::Lag::Bytes(bytes)));
    let mut read = 0;
    while let Read::Rows { rows, .. } = next(&mut reader) {
        read += rows.num_rows() as u64;
        assert_eq!(reader.lag(), Some(crate::Lag::Bytes(bytes * (50_000 - read) / 50_000)));
    }
    assert_eq!(reader.lag(), Some(crate::Lag::Bytes(0)));
}

/// Overwrites the beginning of a column's pages in one row group.
fn damage(path: &Path, group: usize, column: usize) {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let file = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let (at, _) = file.metadata().row_group(group).column(column).byte_range();
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize..at as usize + 12].fill(0xff);
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_inside_a_file_costs_the_rows_of_its_row_group() {
    let bench = Bench::new();
    write_parquet(&bench.path("a.parquet"), 0..5_000, 1_000);
    damage(&bench.path("a.parquet"), 1, 1);
    damage(&bench.path("a.parquet"), 4, 1);
    // Nothing reads this column.
    damage(&bench.path("a.parquet"), 2, 0);
    write_parquet(&bench.path("b.parquet"), 5_000..6_000, 1_000);
    let error = outcome(&bench, &spec(&bench, "*.parquet", OnError::Fail)).unwrap_err();
    assert_eq!(said(&bench, &error), "…/a.parquet cannot be read as Parquet");
    let whole: Vec<i64> = [0..1_000, 2_000..4_000, 5_000..6_000].into_iter().flatten().collect();
    let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::Drop)).unwrap();
    assert_eq!((sorted(rows), told, bad), (whole.clone(), Vec::new(), 2_000));
    let dead = spec(&bench, "*.parquet", OnError::DeadLetter);
    let (rows, told, bad) = outcome(&bench, &dead).unwrap();
    assert_eq!((sorted(rows), bad), (whole.clone(), 2_000));
    let places: Vec<i64> = told.iter().map(|told| told.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(places, (1_000..2_000).chain(4_000..5_000).collect::<Vec<_>>());
    assert!(told[0].starts_with("1000: ") && told[0].contains("cannot be read as Parquet: "), "{}", told[0]);
    // Whoever goes on in the midst of it has each row once, as one or the other.
    let source = || FileSource::new(&dead, dead.file.as_ref().unwrap());
    let mut reader = bench.open(&source(), &[]).unwrap();
    let (mut read, mut bad) = (Vec::new(), 0);
    while let Read::Rows { rows, errors, .. } = next(&mut reader) {
        read.extend(numbers(&rows));
        bad += errors.map_or(0, |errors| errors.num_rows());
        let mut again = bench.open(&source(), &reader.replay_points()).unwrap();
        let rest = drain(&mut again).0;
        assert_eq!(sorted([read.clone(), rest].concat()), whole);
        assert_eq!(bad as u64 + again.bad_rows(), 2_000);
    }
}

/// Writes files that begin with the same 1024 bytes and are equally long, whatever the numbers. One that is there is written over.
fn write_alike(path: &Path, numbers: impl IntoIterator<Item = i64>) {
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let keys = StringArray::from_iter_values((0..numbers.len()).map(|key| format!("the key of the row {key:08}")));
    let columns: Vec<(&str, ArrayRef)> = vec![("key", Arc::new(keys)), ("n", Arc::new(Int64Array::from(numbers)))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let changed = || fs::metadata(path).map(|metadata| (metadata.ctime(), metadata.ctime_nsec())).ok();
    let before = changed();
    // Until the kernel's clock has gone on, by which it says when a file was changed.
    while changed() == before {
        let properties = ::parquet::file::properties::WriterProperties::builder().set_dictionary_enabled(false).build();
        let file = fs::File::create(path).unwrap();
        let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// The numbers of a file, of which two have changed places: neither its length nor its bounds tell it from the first one.
fn swapped(numbers: std::ops::Range<i64>) -> Vec<i64> {
    let mut numbers: Vec<i64> = numbers.collect();
    numbers.swap(100, 200);
    numbers
}

fn assert_alike(left: &[u8], right: &[u8]) {
    assert!(left != right && left.len() == right.len() && left[..1024] == right[..1024]);
}

#[test]
fn a_file_that_has_an_earlier_ones_inode_and_beginning_is_another() {
    for (follow, renamed, same_bounds) in
        (0..8).map(|case| [1, 2, 4].map(|bit| case & bit != 0)).map(|[follow, renamed, same]| (follow, renamed, same))
    {
        let case = format!("follow {follow}, renamed {renamed}, the same bounds {same_bounds}");
        let bench = Bench::new();
        let mut spec = spec(&bench, "*.parquet", OnError::Fail);
        spec.file.as_mut().unwrap().follow = follow;
        let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
        let (path, other) = (bench.path("a.parquet"), bench.path("b.parquet"));
        write_alike(&path, 0..1_000);
        let first = fs::read(&path).unwrap();
        let mut reader = bench.open(&source(), &[]).unwrap();
        assert_eq!(drain(&mut reader).0, (0..1_000).collect::<Vec<_>>(), "{case}");
        let points = reader.replay_points();
        // What is known is not read again, by this reader or the next.
        assert_eq!(bench.poll(&mut reader), Vec::<i64>::new(), "{case}");
        assert_eq!(drain(&mut bench.open(&source(), &points).unwrap()).0, Vec::<i64>::new(), "{case}");

        // In place: the inode is the same.
        let others = if same_bounds { swapped(0..1_000) } else { (1..1_001).collect() };
        write_alike(&path, others.clone());
        assert_alike(&first, &fs::read(&path).unwrap());
        if renamed {
            fs::rename(&path, &other).unwrap();
        }
        let mut again = bench.open(&source(), &points).unwrap();
        assert_eq!(drain(&mut again).0, others, "{case}");
        assert_eq!(drain(&mut bench.open(&source(), &again.replay_points()).unwrap()).0, Vec::<i64>::new(), "{case}");
        if follow {
            assert_eq!(bench.poll(&mut reader), others, "{case}");
            assert_eq!(bench.poll(&mut reader), Vec::<i64>::new(), "{case}");
            // And once more, now that the name was another file's.
            write_alike(if renamed { &other } else { &path }, 2..1_002);
            assert_eq!(bench.poll(&mut reader), (2..1_002).collect::<Vec<_>>(), "{case}");
        }
    }
}

#[test]
fn a_file_that_was_copied_renamed_or_touched_is_the_same() {
    let bench = Bench::new();
    let mut spec = spec(&bench, "*.parquet", OnError::Fail);
    let (path, other) = (bench.path("a.parquet"), bench.path("b.parquet"));
    // Larger than what is looked at whole.
    write_alike(&path, 0..20_000);
    assert!(fs::metadata(&path).unwrap().len() > 500_000);
    for follow in [false, true] {
        spec.file.as_mut().unwrap().follow = follow;
        let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
        let mut reader = bench.open(&source(), &[]).unwrap();
        let Read::Rows { rows, .. } = next(&mut reader) else { panic!("no rows") };
        let rest: Vec<i64> = (rows.num_rows() as i64..20_000).collect();
        let points = reader.replay_points();
        let read_on = |points: &[(SplitId, ReplayPoint)]| drain(&mut bench.open(&source(), points).unwrap()).0;
        fs::rename(&path, &other).unwrap();
        assert!(read_on(&points) == rest, "renamed");
        if follow {
            assert!(bench.poll(&mut reader) == rest, "renamed while it is read");
            fs::hard_link(&other, &path).unwrap();
            assert_eq!(bench.poll(&mut reader), Vec::<i64>::new(), "linked");
            fs::remove_file(&path).unwrap();
        }
        // Another inode.
        fs::copy(&other, &path).unwrap();
        fs::remove_file(&other).unwrap();
        assert!(read_on(&points) == rest, "copied back");
        fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(read_on(&points) == rest, "touched");
        // What an earlier version has written says nothing of the contents; what is written now does.
        let old: Vec<(SplitId, ReplayPoint)> = points
            .iter()
            .map(|(id, point)| {
                let mut point = point.0.clone();
                assert!(point.as_object_mut().unwrap().remove("whole").is_some());
                (id.clone(), ReplayPoint(point))
            })
            .collect();
        let reader = bench.open(&source(), &old).unwrap();
        assert!(reader.replay_points().iter().all(|(_, point)| point.0.get("whole").is_some()));
        assert!(read_on(&old) == rest, "of an earlier version");
    }
}

#[test]
fn a_file_that_has_other_contents_is_not_read_on() {
    let bench = Bench::new();
    let spec = spec(&bench, "*.parquet", OnError::DeadLetter);
    let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
    let path = bench.path("a.parquet");
    write_alike(&path, 0..20_000);
    let mut reader = bench.open(&source(), &[]).unwrap();
    let Read::Rows { rows, .. } = next(&mut reader) else { panic!("no rows") };
    write_alike(&path, 1..20_001);
    let error = bench.open(&source(), &reader.replay_points()).map(|_| ()).unwrap_err();
    assert_eq!(
        said(&bench, &error.to_string()),
        format!(
            "source rows: …/a.parquet is gone or has other contents; the checkpoint goes on in it at row {}; \
             put it back as it was when it was read: one that is mended is another file",
            rows.num_rows()
        )
    );
}

#[test]
fn a_row_group_whose_pages_tell_of_fewer_values_than_it_has_rows_is_damaged() {
    let bench = Bench::new();
    let path = bench.path("a.parquet");
    let batch =
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..600)) as ArrayRef)]).unwrap();
    let properties = ::parquet::file::properties::WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(300))
        .build();
    let file = fs::File::create(&path).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // How many values the first page has: 300, as Thrift has it. Now 200.
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<usize> = (0..64).filter(|at| bytes[*at..*at + 2] == [0xd8, 0x04]).collect();
    let [place] = places[..] else { panic!("{places:?}") };
    bytes[place..place + 2].copy_from_slice(&[0x90, 0x03]);
    fs::write(&path, bytes).unwrap();

    let error = outcome(&bench, &spec(&bench, "*.parquet", OnError::Fail)).unwrap_err();
    let why = "the pages of column \"n\" in a row group of 300 rows tell of 200 values";
    assert_eq!(said(&bench, &error), format!("…/a.parquet cannot be read as Parquet: {why}"));
    let (rows, told, bad) = outcome(&bench, &spec(&bench, "*.parquet", OnError::DeadLetter)).unwrap();
    assert_eq!(rows, (300..600).collect::<Vec<_>>());
    assert_eq!((told.len(), bad), (300, 300));
    assert!(told[0].starts_with("0: ") && told[0].contains(why), "{}", told[0]);
}

#[test]
fn a_followed_file_that_was_given_up_in_its_midst_is_read_on_once_it_is_back() {
    let bench = Bench::new();
    let mut spec = spec(&bench, "*.parquet", OnError::Fail);
    spec.file.as_mut().unwrap().follow = true;
    let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
    let (there, away) = (bench.path("a.parquet"), bench.path("away/a"));
    fs::create_dir(bench.path("away")).unwrap();
    write_alike(&there, 0..20_000);
    let mut reader = bench.open(&source(), &[]).unwrap();
    let Read::Rows { rows, .. } = next(&mut reader) else { panic!("no rows") };
    let rest: Vec<i64> = (rows.num_rows() as i64..20_000).collect();
    let before = reader.replay_points();
    let mut again = bench.open(&source(), &before).unwrap();
    fs::rename(&there, &away).unwrap();
    for _ in 0..10 {
        assert_eq!(bench.poll(&mut again), Vec::<i64>::new());
    }
    let points = again.replay_points();
    let gone = bench.open(&source(), &points).unwrap().replay_points();
    fs::rename(&away, &there).unwrap();
    assert!(bench.poll(&mut again) == rest, "by the one that has given it up");
    assert!(drain(&mut bench.open(&source(), &points).unwrap()).0 == rest, "by the next one");
    assert!(drain(&mut bench.open(&source(), &gone).unwrap()).0 == rest, "by the one after that");
    // By a source that does not follow as well, which fails without it.
    let bounded = self::spec(&bench, "*.parquet", OnError::Fail);
    let bounded = FileSource::new(&bounded, bounded.file.as_ref().unwrap());
    assert!(drain(&mut bench.open(&bounded, &points).unwrap()).0 == rest, "bounded");
    fs::rename(&there, &away).unwrap();
    assert!(bench.open(&bounded, &points).err().unwrap().to_string().contains("is gone or has other contents"));
    // And by one that begins while it is away in its midst.
    let mut late = bench.open(&source(), &before).unwrap();
    assert_eq!(bench.poll(&mut late), Vec::<i64>::new());
    fs::copy(&away, &there).unwrap();
    assert!(bench.poll(&mut late) == rest, "copied back");
}

#[test]
fn a_followed_file_that_some_looks_do_not_find_is_not_read_again() {
    let bench = Bench::new();
    let mut spec = spec(&bench, "in/*.parquet", OnError::Fail);
    spec.file.as_mut().unwrap().follow = true;
    let source = || FileSource::new(&spec, spec.file.as_ref().unwrap());
    let (there, away) = (bench.path("in"), bench.path("away"));
    fs::create_dir(&there).unwrap();
    write_alike(&there.join("a.parquet"), 0..1_000);
    let mut reader = bench.open(&source(), &[]).unwrap();
    assert_eq!(drain(&mut reader).0.len(), 1_000);
    fs::rename(&there, &away).unwrap();
    for _ in 0..50 {
        assert_eq!(bench.poll(&mut reader), Vec::<i64>::new());
    }
    // Nor is it by whoever goes on from then.
    let mut again = bench.open(&source(), &reader.replay_points()).unwrap();
    assert_eq!(bench.poll(&mut again), Vec::<i64>::new());
    fs::rename(&away, &there).unwrap();
    // Another one has its inode meanwhile, if only by a link.
    fs::hard_link(there.join("a.parquet"), there.join("0.parquet")).unwrap();
    assert_eq!(bench.poll(&mut reader), Vec::<i64>::new());
    assert_eq!(bench.poll(&mut again), Vec::<i64>::new());
    // It is forgotten in the end.
    fs::rename(&there, &away).unwrap();
    for _ in 0..700 {
        bench.poll(&mut reader);
    }
    assert_eq!(reader.replay_points(), Vec::new());
    fs::rename(&away, &there).unwrap();
    assert_eq!(bench.poll(&mut reader).len(), 1_000);
}
