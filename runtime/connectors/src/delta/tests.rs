#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringViewArray,
        TimestampMicrosecondArray,
    },
    datatypes::Int64Type,
};
use bytes::Bytes;
use deltalake_core::{DeltaTable, DeltaTableBuilder, checkpoints::create_checkpoint, kernel::CommitInfo};
use futures::TryStreamExt;
use millrace_stream::{Epoch, Timestamp};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use url::Url;

use super::*;
use crate::staging::tests::{context, files};

fn rows(values: std::ops::Range<i64>) -> RecordBatch {
    let days: Vec<String> = values.clone().map(|n| format!("2013-01-{:02}", n % 2 + 1)).collect();
    RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from_iter_values(values.clone())) as ArrayRef),
        ("day", Arc::new(StringViewArray::from_iter_values(days))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(values.map(|n| n * 1_000)).with_timezone("UTC"))),
    ])
    .unwrap()
}

fn wider(values: std::ops::Range<i64>) -> RecordBatch {
    let narrow = rows(values.clone());
    let prices = Float64Array::from_iter_values(values.map(|n| n as f64 / 4.0));
    let schema = narrow.schema();
    let columns = schema.fields().iter().map(|field| field.name().clone()).zip(narrow.columns().to_vec());
    RecordBatch::try_from_iter(columns.chain([("price".to_owned(), Arc::new(prices) as ArrayRef)])).unwrap()
}

fn factory(path: &Path, settings: DeltaSettings) -> DeltaSinkFactory {
    DeltaSinkFactory {
        path: path.to_path_buf(),
        table: settings,
        files: ParquetSettings::default(),
        batching: Batching::default(),
    }
}

fn cx(path: &Path, batch: &RecordBatch) -> SinkContext {
    context(batch.schema(), path.to_path_buf()).0
}

async fn open(path: &Path) -> DeltaTable {
    let url = Url::from_directory_path(path).unwrap();
    DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap()
}

/// The values of `n` in the table's newest version, by the log.
async fn read(path: &Path) -> Vec<i64> {
    let mut values = Vec::new();
    for uri in open(path).await.get_file_uris().unwrap() {
        let file = uri.strip_prefix("file://").unwrap_or(&uri);
        let bytes = Bytes::from(std::fs::read(file).unwrap());
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            values.extend(batch.unwrap().column_by_name("n").unwrap().as_primitive::<Int64Type>().values());
        }
    }
    values.sort_unstable();
    values
}

async fn history(path: &Path) -> Vec<CommitInfo> {
    open(path).await.history(None).try_collect().await.unwrap()
}

fn log_entry(path: &Path, version: u64) -> Vec<Value> {
    let text = std::fs::read_to_string(path.join(format!("_delta_log/{version:020}.json"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn put(factory: &DeltaSinkFactory, cx: &SinkContext, epoch: u64, batch: RecordBatch) -> CommitHandle {
    let mut sink = factory.open(cx.clone(), None).await.unwrap();
    sink.write(batch).await.unwrap();
    sink.prepare(Epoch(epoch)).await.unwrap()
}

#[tokio::test]
async fn a_table_is_made_and_an_epoch_is_one_commit_that_says_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let settings = DeltaSettings { partition_by: vec!["day".to_owned()], ..DeltaSettings::default() };
    let (factory, cx) = (factory(path, settings), cx(path, &rows(0..1)));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    assert_eq!(open(path).await.version(), Some(0), "the empty table can be read");

    let handle = put(&factory, &cx, 1, rows(0..5)).await;
    assert!(read(path).await.is_empty());
    assert_eq!(committer.commit(Epoch(1), std::slice::from_ref(&handle)).await.unwrap().rows, 5);
    assert_eq!(committer.commit(Epoch(1), &[handle]).await.unwrap(), Default::default());
    assert_eq!(read(path).await, [0, 1, 2, 3, 4]);

    let table = open(path).await;
    assert_eq!(table.version(), Some(1));
    let snapshot = table.snapshot().unwrap();
    assert_eq!(snapshot.metadata().partition_columns(), ["day"]);
    let property = |key: &str| snapshot.metadata().configuration().get(key).cloned();
    assert_eq!(property("delta.logRetentionDuration").as_deref(), Some("interval 604800 seconds"));
    let version = snapshot.transaction_version(&table.log_store(), app_id(&cx)).await.unwrap();
    assert_eq!(version, Some(1));
    let newest = history(path).await.remove(0);
    assert_eq!(newest.operation.as_deref(), Some("STREAMING UPDATE"));
    assert_eq!(newest.info["pipeline"], "web");
    assert_eq!(newest.info["epoch"], 1);
    assert_eq!(newest.info["revision"], "ab".repeat(32));
    let add = log_entry(path, 1).into_iter().find_map(|action| action.get("add").cloned()).unwrap();
    assert_eq!(add["partitionValues"]["day"], "2013-01-01");
    assert!(add["path"].as_str().unwrap().starts_with("day=2013-01-01/web-"), "{add}");
    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!(
        stats,
        serde_json::json!({
            "numRecords": 3,
            "minValues": {"n": 0, "at": "1970-01-01T00:00:00Z"},
            "maxValues": {"n": 4, "at": "1970-01-01T00:00:00.004Z"},
            "nullCount": {"n": 0, "at": 0},
        })
    );
}

#[tokio::test]
async fn an_epoch_without_rows_is_no_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (factory, cx) = (factory(folder.path(), DeltaSettings::default()), cx(folder.path(), &rows(0..1)));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let handle = factory.open(cx, None).await.unwrap().prepare(Epoch(1)).await.unwrap();
    committer.commit(Epoch(1), &[handle]).await.unwrap();
    assert_eq!(open(folder.path()).await.version(), Some(0));
}

#[tokio::test]
async fn recovery_commits_the_decided_epoch_once_and_removes_what_is_undecided() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    factory.committer(cx.clone()).await.unwrap().recover(None).await.unwrap();
    let decided = [put(&factory, &cx, 1, rows(0..3)).await];
    put(&factory, &cx, 2, rows(3..6)).await;

    for expected in [3, 0, 0] {
        let mut committer = factory.committer(cx.clone()).await.unwrap();
        assert_eq!(committer.recover(Some((Epoch(1), &decided))).await.unwrap().rows, expected);
        assert_eq!(read(path).await, [0, 1, 2]);
    }
    assert_eq!(open(path).await.version(), Some(1));
    let parquet: Vec<String> = files(path).into_keys().filter(|name| !name.starts_with("_delta_log")).collect();
    assert_eq!(parquet.len(), 1, "no orphan is left: {parquet:?}");
}

#[tokio::test]
async fn files_that_were_put_in_place_before_a_crash_are_committed_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    factory.committer(cx.clone()).await.unwrap().recover(None).await.unwrap();
    let decided = [put(&factory, &cx, 1, rows(0..3)).await];
    // What a commit does before it writes to the log.
    let handles = crate::staging::Publisher::load(&decided).unwrap();
    let mut publisher = crate::staging::Publisher::new(Folder::new(path.to_path_buf(), &cx), &cx);
    publisher.publish(Epoch(1), &handles).await.unwrap();
    assert!(read(path).await.is_empty(), "a Delta reader goes by the log");

    let mut committer = factory.committer(cx.clone()).await.unwrap();
    assert_eq!(committer.recover(Some((Epoch(1), &decided))).await.unwrap().rows, 3);
    assert_eq!(read(path).await, [0, 1, 2]);
}

#[tokio::test]
async fn what_an_aborted_epoch_prepared_comes_with_the_next_commit_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let mut sink = factory.open(cx.clone(), None).await.unwrap();
    sink.write(rows(0..2)).await.unwrap();
    sink.prepare(Epoch(1)).await.unwrap();
    sink.write(rows(2..4)).await.unwrap();
    let second = sink.prepare(Epoch(2)).await.unwrap();
    // Prepared before epoch 2 is committed, so it names the files of 2 again.
    sink.write(rows(4..6)).await.unwrap();
    let third = [sink.prepare(Epoch(3)).await.unwrap()];
    assert_eq!(committer.commit(Epoch(2), &[second]).await.unwrap().rows, 4);
    assert_eq!(committer.commit(Epoch(3), &third).await.unwrap().rows, 2);
    let mut restarted = factory.committer(cx).await.unwrap();
    assert_eq!(restarted.recover(Some((Epoch(3), &third))).await.unwrap().rows, 0);
    assert_eq!(read(path).await, [0, 1, 2, 3, 4, 5]);
    let adds = (1..=2).flat_map(|version| log_entry(path, version)).filter(|action| action.get("add").is_some());
    assert_eq!(adds.count(), 3, "no file is added twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_share_a_table_and_every_row_is_in_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let factory = factory(path, DeltaSettings::default());
    let writer = |node: &str, from: i64| {
        let (factory, mut cx) = (factory.clone(), cx(path, &rows(0..1)));
        cx.node = node.to_owned();
        async move {
            let mut committer = factory.committer(cx.clone()).await.unwrap();
            committer.recover(None).await.unwrap();
            let mut sink = factory.open(cx, None).await.unwrap();
            for epoch in 1..=8u64 {
                let at = from + epoch as i64 * 10;
                sink.write(rows(at..at + 10)).await.unwrap();
                let handle = sink.prepare(Epoch(epoch)).await.unwrap();
                committer.commit(Epoch(epoch), &[handle]).await.unwrap();
            }
        }
    };
    futures::join!(writer("a->out", 0), writer("b->out", 1_000), writer("c->out", 2_000));
    let expected: Vec<i64> = [0, 1_000, 2_000].into_iter().flat_map(|from| from + 10..from + 90).collect();
    assert_eq!(read(path).await, expected);
    assert_eq!(open(path).await.version(), Some(24));
}

#[tokio::test]
async fn new_columns_are_refused_unless_the_sink_says_to_add_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let strict = factory(path, DeltaSettings::default());
    let narrow = cx(path, &rows(0..1));
    let mut committer = strict.committer(narrow.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let first = put(&strict, &narrow, 1, rows(0..2)).await;
    committer.commit(Epoch(1), &[first]).await.unwrap();

    let wide = cx(path, &wider(0..1));
    let Err(error) = strict.open(wide.clone(), None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("lacks `price` (double)"), "{error}");
    assert!(error.to_string().contains("schemaEvolution: AddColumns"), "{error}");

    let adding = factory(path, DeltaSettings { add_columns: true, ..DeltaSettings::default() });
    let mut committer = adding.committer(wide.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let second = put(&adding, &wide, 2, wider(2..4)).await;
    committer.commit(Epoch(2), &[second]).await.unwrap();
    assert_eq!(read(path).await, [0, 1, 2, 3]);
    let table = open(path).await;
    let names: Vec<String> = table.snapshot().unwrap().schema().fields().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["n", "day", "at", "price"]);

    // Fewer columns than the table has are fine: the others are null.
    let mut committer = strict.committer(narrow.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let third = put(&strict, &narrow, 3, rows(4..5)).await;
    committer.commit(Epoch(3), &[third]).await.unwrap();
    assert_eq!(read(path).await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_column_of_another_type_and_another_partitioning_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let plain = factory(path, DeltaSettings::default());
    plain.committer(cx(path, &rows(0..1))).await.unwrap().recover(None).await.unwrap();
    let other = RecordBatch::try_from_iter([("n", Arc::new(StringViewArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    let Err(error) = plain.open(cx(path, &other), None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("`n` is string in the pipeline and long in the table"), "{error}");
    let parted = factory(path, DeltaSettings { partition_by: vec!["day".to_owned()], ..DeltaSettings::default() });
    let Err(error) = parted.open(cx(path, &rows(0..1)), None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("is partitioned by [], the Sink says partitionBy: [day]"), "{error}");
}

#[tokio::test]
async fn a_column_that_may_not_be_null_takes_values_and_no_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    factory.committer(cx.clone()).await.unwrap().recover(None).await.unwrap();
    let log = path.join("_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    let nullable = r#"{\"name\":\"n\",\"type\":\"long\",\"nullable\":true"#;
    let strict = text.replace(nullable, &nullable.replace("true", "false"));
    assert_ne!(text, strict);
    std::fs::write(&log, &strict).unwrap();
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let handle = put(&factory, &cx, 1, rows(0..3)).await;
    committer.commit(Epoch(1), &[handle]).await.unwrap();
    assert_eq!(read(path).await, [0, 1, 2]);

    let with_null = |column: &str| {
        let rows = rows(3..5);
        let schema = rows.schema();
        let columns = schema.fields().iter().zip(rows.columns()).map(|(field, values)| {
            let nulls = arrow::compute::nullif(values, &arrow::array::BooleanArray::from(vec![true, false])).unwrap();
            (field.name().clone(), if field.name() == column { nulls } else { values.clone() })
        });
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, values)| (name, values, true))).unwrap()
    };
    let mut sink = factory.open(cx.clone(), None).await.unwrap();
    sink.write(with_null("day")).await.unwrap();
    let error = sink.write(with_null("n")).await.unwrap_err().to_string();
    assert!(error.contains("a row has no `n`, which may not be null in the table"), "{error}");

    // A column that the pipeline does not have would always be null.
    let narrow = rows(0..1).project(&[1, 2]).unwrap();
    let Err(error) = factory.open(context(narrow.schema(), path.to_path_buf()).0, None).await else {
        panic!("it must be refused")
    };
    assert!(error.to_string().contains("`n`, which the pipeline does not have, may not be null"), "{error}");
}

#[tokio::test]
async fn a_table_that_asks_for_more_than_adding_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let factory = factory(path, DeltaSettings::default());
    factory.committer(cx(path, &rows(0..1))).await.unwrap().recover(None).await.unwrap();
    let log = path.join("_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    let constrained = text.replace("\"delta.checkpointInterval\":\"10\"", "\"delta.constraints.positive\":\"n > 0\"");
    assert_ne!(text, constrained);
    std::fs::write(&log, constrained).unwrap();
    let Err(error) = factory.open(cx(path, &rows(0..1)), None).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("delta.constraints.positive = n > 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_checkpointed_and_old_entries_go_after_their_retention() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let settings =
        DeltaSettings { checkpoint_every: 5, log_retention: Duration::from_secs(3_600), ..DeltaSettings::default() };
    let factory = factory(path, settings);
    let (cx, clock) = context(rows(0..1).schema(), path.to_path_buf());
    // The entries' ages are those of their files, so the clock must not be far from the machine's.
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let now_ms = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    clock.jump_to(Timestamp(now_ms));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let mut sink = factory.open(cx, None).await.unwrap();
    let entries = || files(&path.join("_delta_log")).into_keys().collect::<Vec<_>>();
    for epoch in 1..=12u64 {
        if epoch == 9 {
            assert!(entries().contains(&"00000000000000000004.checkpoint.parquet".to_owned()), "{:?}", entries());
            assert!(entries().contains(&"00000000000000000000.json".to_owned()), "kept for an hour");
            clock.jump_to(Timestamp(now_ms + 7_200_000));
        }
        sink.write(rows(epoch as i64..epoch as i64 + 1)).await.unwrap();
        let handle = sink.prepare(Epoch(epoch)).await.unwrap();
        committer.commit(Epoch(epoch), &[handle]).await.unwrap();
    }
    let left = entries();
    assert!(!left.contains(&"00000000000000000000.json".to_owned()), "{left:?}");
    assert!(left.contains(&"00000000000000000012.json".to_owned()), "{left:?}");
    assert_eq!(read(path).await, (1..=12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_writers_checkpoint_and_commits_do_not_disturb_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let mut sink = factory.open(cx, None).await.unwrap();
    for epoch in 1..=4u64 {
        sink.write(rows(epoch as i64..epoch as i64 + 1)).await.unwrap();
        let handle = sink.prepare(Epoch(epoch)).await.unwrap();
        let mut table = open(path).await;
        create_checkpoint(&table, None).await.ok();
        let properties = std::collections::HashMap::from([("custom.key".to_owned(), epoch.to_string())]);
        table = table.set_tbl_properties().with_properties(properties).with_raise_if_not_exists(false).await.unwrap();
        assert!(table.version().is_some());
        committer.commit(Epoch(epoch), &[handle]).await.unwrap();
    }
    assert_eq!(read(path).await, [1, 2, 3, 4]);
    assert_eq!(open(path).await.version(), Some(8));
}

#[tokio::test]
async fn a_log_that_vanishes_is_an_error_and_not_a_new_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let handle = put(&factory, &cx, 1, rows(0..3)).await;
    std::fs::remove_dir_all(path.join("_delta_log")).unwrap();
    let error = committer.commit(Epoch(1), &[handle]).await.unwrap_err();
    assert!(error.to_string().contains("has vanished"), "{error}");
}

#[tokio::test]
async fn a_table_that_was_removed_is_made_again_if_all_was_committed_and_is_an_error_if_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (&folder.path().join("table"), folder.path().join("away"));
    let factory = factory(path, DeltaSettings::default());
    let cx = SinkContext { scratch: folder.path().to_path_buf(), ..cx(path, &rows(0..1)) };
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let first = [put(&factory, &cx, 1, rows(0..3)).await];

    std::fs::rename(path, &away).unwrap();
    let mut restarted = factory.committer(cx.clone()).await.unwrap();
    for _ in 0..2 {
        let error = restarted.recover(Some((Epoch(1), &first))).await.unwrap_err();
        assert!(matches!(error, SinkError::Gone { .. }), "{error:?}");
        assert!(error.to_string().contains("1 file with 3 rows of checkpoint 1"), "{error}");
        assert!(!path.exists(), "the place stays free for what is put back");
    }
    std::fs::rename(&away, path).unwrap();
    assert_eq!(restarted.recover(Some((Epoch(1), &first))).await.unwrap().rows, 3);

    // Now they are in the table, and whoever removes it knows what they do.
    std::fs::remove_dir_all(path).unwrap();
    let mut restarted = factory.committer(cx.clone()).await.unwrap();
    assert_eq!(restarted.recover(Some((Epoch(1), &first))).await.unwrap().rows, 0);
    assert!(read(path).await.is_empty());
    let second = put(&factory, &cx, 2, rows(3..5)).await;
    assert_eq!(restarted.commit(Epoch(2), &[second]).await.unwrap().rows, 2);
    assert_eq!(read(path).await, [3, 4]);
}

#[tokio::test]
async fn a_log_that_was_removed_before_the_commit_gets_the_rows_in_the_new_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &rows(0..1)));
    factory.committer(cx.clone()).await.unwrap().recover(None).await.unwrap();
    let first = [put(&factory, &cx, 1, rows(0..3)).await];
    std::fs::remove_dir_all(path.join("_delta_log")).unwrap();
    let mut restarted = factory.committer(cx.clone()).await.unwrap();
    assert_eq!(restarted.recover(Some((Epoch(1), &first))).await.unwrap().rows, 3);
    assert_eq!(read(path).await, [0, 1, 2]);
}

#[tokio::test]
async fn statistics_leave_out_what_could_mislead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let batch = RecordBatch::try_from_iter([
        ("plain", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-2.0)])) as ArrayRef),
        ("nan", Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0]))),
        ("infinite", Arc::new(Float64Array::from(vec![1.0, f64::INFINITY, 2.0]))),
        ("text", Arc::new(StringViewArray::from(vec!["b", "a\"", "c"]))),
        ("far", Arc::new(TimestampMicrosecondArray::from(vec![0, i64::MAX, 1]).with_timezone("UTC"))),
        ("price", Arc::new(Decimal128Array::from(vec![5, -1999, 7]).with_precision_and_scale(20, 2).unwrap())),
        ("none", Arc::new(Int64Array::from(vec![None::<i64>; 3]))),
    ])
    .unwrap();
    let (factory, cx) = (factory(path, DeltaSettings::default()), cx(path, &batch));
    let mut committer = factory.committer(cx.clone()).await.unwrap();
    committer.recover(None).await.unwrap();
    let handle = put(&factory, &cx, 1, batch).await;
    committer.commit(Epoch(1), &[handle]).await.unwrap();
    let add = log_entry(path, 1).into_iter().find_map(|action| action.get("add").cloned()).unwrap();
    let stats: BTreeMap<String, Value> = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats["minValues"], serde_json::json!({"plain": -2.0, "text": "a\"", "price": -19.99}));
    assert_eq!(stats["maxValues"], serde_json::json!({"plain": 1.5, "text": "c", "price": 0.07}));
    assert_eq!(
        stats["nullCount"],
        serde_json::json!({"plain": 1, "nan": 0, "infinite": 0, "text": 0, "far": 0, "price": 0, "none": 3})
    );
}
