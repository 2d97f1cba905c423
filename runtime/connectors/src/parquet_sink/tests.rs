#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, StringViewArray, TimestampMicrosecondArray},
    datatypes::{DataType, Int64Type, TimeUnit},
};
use bytes::Bytes;
use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder, basic::Encoding, file::reader::FileReader,
    file::serialized_reader::SerializedFileReader,
};

use super::*;
use crate::staging::{
    STAGING,
    tests::{context, files, visible},
};

fn rows(values: std::ops::Range<i64>) -> RecordBatch {
    let days: Vec<String> = values.clone().map(|n| format!("2013-01-{:02}", n % 3 + 1)).collect();
    RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from_iter_values(values.clone())) as ArrayRef),
        ("day", Arc::new(StringViewArray::from_iter_values(days))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(|n| n * 1_000)).with_timezone("UTC"))),
    ])
    .unwrap()
}

fn factory(path: &Path, partition_by: &[&str], batching: Batching) -> ParquetSinkFactory {
    ParquetSinkFactory {
        path: path.to_path_buf(),
        partition_by: partition_by.iter().map(|&name| name.to_owned()).collect(),
        settings: ParquetSettings::default(),
        batching,
    }
}

fn cx(path: &Path) -> SinkContext {
    context(rows(0..1).schema(), path.to_path_buf()).0
}

/// The values of `n` that a reader finds, by file.
fn read(path: &Path) -> BTreeMap<String, Vec<i64>> {
    visible(path)
        .into_iter()
        .map(|(name, bytes)| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap().build().unwrap();
            let values = reader.flat_map(|batch| {
                batch.unwrap().column_by_name("n").unwrap().as_primitive::<Int64Type>().values().to_vec()
            });
            (name, values.collect())
        })
        .collect()
}

fn all(path: &Path) -> Vec<i64> {
    let mut all: Vec<i64> = read(path).into_values().flatten().collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn partitions_are_folders_and_appear_with_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &["day"], Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    committer.recover(None).await.unwrap();
    sink.write(rows(0..4)).await.unwrap();
    sink.write(rows(4..9)).await.unwrap();
    let handle = sink.prepare(Epoch(3)).await.unwrap();
    assert!(files(folder.path()).keys().all(|name| name.starts_with(STAGING) && name.ends_with(".staged")));
    committer.commit(Epoch(3), std::slice::from_ref(&handle)).await.unwrap();
    committer.commit(Epoch(3), &[handle]).await.unwrap();
    let prefix = "web-0123456789abcdef-rows--out-e0000000003-t0";
    let expected = BTreeMap::from([
        (format!("day=2013-01-01/{prefix}.parquet"), vec![0, 3, 6]),
        (format!("day=2013-01-02/{prefix}-1.parquet"), vec![1, 4, 7]),
        (format!("day=2013-01-03/{prefix}-2.parquet"), vec![2, 5, 8]),
    ]);
    assert_eq!(read(folder.path()), expected);
    assert_eq!(files(folder.path()).len(), 3, "nothing is left in the staging folder");
}

#[tokio::test]
async fn rows_that_come_while_an_epoch_is_made_durable_belong_to_the_next() {
    for batching in [Batching::default(), Batching { max_rows: Some(4), ..Batching::default() }] {
        let folder = tempfile::tempdir().unwrap();
        let factory = factory(folder.path(), &["day"], batching);
        let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
        let mut committer = factory.committer(cx(folder.path())).await.unwrap();
        sink.write(rows(0..2)).await.unwrap();
        let first = sink.prepare(Epoch(1));
        sink.write(rows(2..5)).await.unwrap();
        let first = first.await.unwrap();
        let second = sink.prepare(Epoch(2));
        sink.write(rows(5..6)).await.unwrap();
        committer.commit(Epoch(1), &[first]).await.unwrap();
        assert_eq!(all(folder.path()), if batching.holds() { vec![] } else { vec![0, 1] });
        let second = second.await.unwrap();
        committer.commit(Epoch(2), &[second]).await.unwrap();
        assert_eq!(all(folder.path()), [0, 1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_sink_that_is_gone_stages_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &[], Batching { max_rows: Some(1), ..Batching::default() });
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..5)).await.unwrap();
    let preparing = sink.prepare(Epoch(1));
    drop(sink);
    let before = files(folder.path()).into_keys().collect::<Vec<_>>();
    let error = preparing.await.unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
    assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn files_have_plain_types_statistics_and_the_encodings_that_pay() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &[], Batching::default());
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    sink.write(rows(0..1000)).await.unwrap();
    let handle = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[handle]).await.unwrap();
    let bytes = Bytes::from(visible(folder.path()).into_values().next().unwrap());
    let reader = SerializedFileReader::new(bytes.clone()).unwrap();
    let group = reader.metadata().row_group(0);
    let encodings = |column: usize| group.column(column).encodings().collect::<Vec<_>>();
    assert!(encodings(1).contains(&Encoding::RLE_DICTIONARY), "{:?}", encodings(1));
    assert!(encodings(2).contains(&Encoding::DELTA_BINARY_PACKED), "{:?}", encodings(2));
    assert_eq!(group.column(0).statistics().unwrap().null_count_opt(), Some(0));
    let schema = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().schema().clone();
    assert_eq!(schema.field(1).data_type(), &DataType::Utf8);
    assert_eq!(schema.field(2).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    assert!(schema.metadata().is_empty());
}

#[tokio::test]
async fn a_batch_over_several_epochs_is_one_file_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &[], Batching { max_rows: Some(100), ..Batching::default() });
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..30)).await.unwrap();
    let first = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[first]).await.unwrap();
    sink.write(rows(30..60)).await.unwrap();
    let decided = [sink.prepare(Epoch(2)).await.unwrap()];
    committer.commit(Epoch(2), &decided).await.unwrap();
    assert!(visible(folder.path()).is_empty());
    // An undecided epoch that was large enough to be written as Parquet.
    sink.write(rows(60..500)).await.unwrap();
    sink.prepare(Epoch(3)).await.unwrap();
    sink.write(rows(500..510)).await.unwrap();
    drop(sink);

    let mut restarted = cx(folder.path());
    restarted.generation = restarted.generation.next();
    committer.recover(Some((Epoch(2), &decided))).await.unwrap();
    assert_eq!(files(folder.path()).len(), 1, "only the log is left");
    let mut sink = factory.open(restarted, Some(decided[0].clone())).await.unwrap();
    sink.write(rows(60..110)).await.unwrap();
    let fourth = [sink.prepare(Epoch(4)).await.unwrap()];
    assert_eq!(committer.commit(Epoch(4), &fourth).await.unwrap().rows, 110);
    committer.recover(Some((Epoch(4), &fourth))).await.unwrap();
    assert_eq!(read(folder.path()).len(), 1);
    assert_eq!(all(folder.path()), (0..110).collect::<Vec<_>>());
    assert_eq!(files(folder.path()).len(), 1, "the log is gone");
}

#[tokio::test]
async fn what_is_held_is_written_when_it_is_old_enough_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let batching = Batching { max_delay: Some(Duration::from_secs(10)), ..Batching::default() };
    let factory = factory(folder.path(), &["day"], batching);
    let (cx, clock) = context(rows(0..1).schema(), folder.path().to_path_buf());
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    let mut sink = factory.open(cx, None).await.unwrap();
    sink.write(rows(0..5)).await.unwrap();
    let first = sink.prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[first]).await.unwrap();
    assert!(all(folder.path()).is_empty());
    clock.advance(Duration::from_secs(10));
    let second = sink.prepare(Epoch(2)).await.unwrap();
    committer.commit(Epoch(2), &[second]).await.unwrap();
    assert_eq!(all(folder.path()), (0..5).collect::<Vec<_>>());
    sink.write(rows(5..7)).await.unwrap();
    sink.finish();
    let third = sink.prepare(Epoch(3)).await.unwrap();
    committer.commit(Epoch(3), &[third]).await.unwrap();
    assert_eq!(all(folder.path()), (0..7).collect::<Vec<_>>());
    assert_eq!(files(folder.path()).len(), visible(folder.path()).len());
}

#[tokio::test]
async fn an_aborted_batch_is_committed_with_the_next_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &[], Batching { max_rows: Some(10), ..Batching::default() });
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..12)).await.unwrap();
    sink.prepare(Epoch(1)).await.unwrap();
    sink.write(rows(12..14)).await.unwrap();
    let second = sink.prepare(Epoch(2)).await.unwrap();
    assert_eq!(committer.commit(Epoch(2), &[second]).await.unwrap().rows, 12);
    sink.finish();
    let third = sink.prepare(Epoch(3)).await.unwrap();
    committer.commit(Epoch(3), &[third]).await.unwrap();
    assert_eq!(all(folder.path()), (0..14).collect::<Vec<_>>());
    assert_eq!(files(folder.path()).len(), 2);
}

#[tokio::test]
async fn a_damaged_log_is_an_error_and_not_fewer_rows() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &[], Batching { max_rows: Some(20), ..Batching::default() });
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    sink.write(rows(0..15)).await.unwrap();
    let held = sink.prepare(Epoch(1)).await.unwrap();
    drop(sink);
    let staged = folder.path().join(files(folder.path()).into_keys().next().unwrap());
    let mut bytes = std::fs::read(&staged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&staged, &bytes).unwrap();
    let mut sink = factory.open(cx(folder.path()), Some(held)).await.unwrap();
    sink.write(rows(15..30)).await.unwrap();
    let error = sink.prepare(Epoch(2)).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[tokio::test]
async fn many_partitions_are_written_with_few_files_open() {
    let folder = tempfile::tempdir().unwrap();
    let factory = factory(folder.path(), &["n"], Batching::default());
    let mut committer = factory.committer(cx(folder.path())).await.unwrap();
    let mut sink = factory.open(cx(folder.path()), None).await.unwrap();
    for _ in 0..3 {
        sink.write(rows(0..400)).await.unwrap();
    }
    let handle = sink.prepare(Epoch(1)).await.unwrap();
    assert_eq!(committer.commit(Epoch(1), &[handle]).await.unwrap().rows, 1_200);
    assert_eq!(visible(folder.path()).len(), 400, "a file a partition, however often it had rows");
    let names = visible(folder.path());
    let folders: std::collections::BTreeSet<&str> = names.keys().map(|name| name.split('/').next().unwrap()).collect();
    assert_eq!(folders.len(), 400);
}

#[test]
fn rows_of_every_type_come_back_as_they_were() {
    let batch = rows(0..50);
    let columns = Columns::new(&batch.schema(), &[]).unwrap();
    let parts = columns.split(&batch).unwrap();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].rows.column(1).as_string::<i32>().value(2), "2013-01-03");
    assert_eq!(parts[0].rows.num_rows(), batch.num_rows());
}
