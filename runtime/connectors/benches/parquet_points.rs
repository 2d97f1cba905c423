//! Prints the CPU time and the size of a Parquet file of 1,000,000 points: a timestamp and a value with two decimals.
//!
//! The values are drawn evenly from 0.00 to 99.99, which no encoding can compress below 1.66 MB, and, as sensors give
//! them, from a walk around a mean.

use std::{path::Path, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::Schema,
};
use millrace_connectors::{
    SinkContext, SinkFactory,
    parquet_sink::{ParquetSettings, ParquetSinkFactory},
    staging::Batching,
};
use millrace_stream::{Epoch, Generation, ManualClock, Revision};

const ROWS: usize = 1_000_000;
const BATCH: usize = 8192;

/// The CPU time of the process, by its threads.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux tells of threads");
    let spent_ns = threads.flatten().filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent_ns.sum())
}

fn points(mut value: impl FnMut(u64) -> f64) -> Vec<RecordBatch> {
    let mut seed = 42u64;
    let rows: Vec<(i64, f64)> = (0..ROWS)
        .map(|row| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (1_700_000_000_000_000 + row as i64 * 1_000_000, value(seed))
        })
        .collect();
    rows.chunks(BATCH)
        .map(|rows| {
            let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0)).with_timezone("UTC");
            let values = Float64Array::from_iter_values(rows.iter().map(|row| row.1));
            RecordBatch::try_from_iter([("at", Arc::new(times) as ArrayRef), ("value", Arc::new(values))])
                .expect("the columns have the same length")
        })
        .collect()
}

fn context(schema: Arc<Schema>, scratch: &Path) -> SinkContext {
    SinkContext {
        pipeline: "bench".to_owned(),
        instance: "bench".to_owned(),
        revision: Revision(String::new()),
        node: "points".to_owned(),
        generation: Generation(1),
        index: 0,
        schema,
        changelog: None,
        clock: Arc::new(ManualClock::default()),
        goes_back: false,
        scratch: scratch.to_path_buf(),
    }
}

async fn write(name: &str, batches: &[RecordBatch]) {
    let mut best = (Duration::MAX, 0);
    for _ in 0..7 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let factory = ParquetSinkFactory {
            path: folder.path().to_path_buf(),
            partition_by: Vec::new(),
            settings: ParquetSettings::default(),
            batching: Batching::default(),
        };
        let cx = context(batches[0].schema(), folder.path());
        let mut sink = factory.open(cx.clone(), None).await.expect("the sink opens");
        let mut committer = factory.committer(cx).await.expect("the committer opens");
        let before = cpu();
        for batch in batches {
            sink.write(batch.clone()).await.expect("the sink takes rows");
        }
        let handle = sink.prepare(Epoch(1)).await.expect("the sink prepares");
        let spent = cpu() - before;
        let committed = committer.commit(Epoch(1), &[handle]).await.expect("the sink commits");
        best = best.min((spent, committed.bytes));
    }
    println!("{name}: {:.1} ms of CPU, {} bytes", best.0.as_secs_f64() * 1e3, best.1);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let even = points(|random| (random % 10_000) as f64 / 100.0);
    let mut mean = 2_000i64;
    let walk = points(|random| {
        mean += (random % 11) as i64 - 5;
        mean = mean.clamp(0, 4_000);
        mean as f64 / 100.0
    });
    runtime.block_on(async {
        write("1,000,000 points, even values", &even).await;
        write("1,000,000 points, walking values", &walk).await;
    });
}
