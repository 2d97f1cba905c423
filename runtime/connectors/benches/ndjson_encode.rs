//! Prints how many rows a CPU-second are written as NDJSON: six columns, as the filter benchmark has them.

use std::{sync::Arc, time::Duration};

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use millrace_connectors::{
    SinkContext, SinkFactory,
    file_sink::{FileFormat, FileSinkFactory},
    staging::Batching,
};
use millrace_stream::{Epoch, Generation, ManualClock, Revision};

/// The CPU time of the process, by its threads.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux tells of threads");
    let spent_ns = threads.flatten().filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent_ns.sum())
}

fn main() {
    const ROWS: i64 = 8192;
    const BATCHES: i64 = 200;
    let column = |array: ArrayRef| array;
    let batch = RecordBatch::try_from_iter([
        (
            "ts",
            column(Arc::new(
                TimestampMicrosecondArray::from_iter_values((0..ROWS).map(|n| 1_700_000_000_000_000 + n * 1_000))
                    .with_timezone("UTC"),
            )),
        ),
        ("id", column(Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| n * 7_919))))),
        (
            "tenant",
            column(Arc::new(StringViewArray::from_iter_values((0..ROWS).map(|n| format!("tenant-{}", n % 1000))))),
        ),
        ("status", column(Arc::new(Int32Array::from_iter_values((0..ROWS).map(|n| 200 + (n % 5) as i32 * 100))))),
        (
            "latency_ms",
            column(Arc::new(Float64Array::from_iter_values((0..ROWS).map(|n| (n * 31 % 100_000) as f64 / 100.0)))),
        ),
    ])
    .expect("the columns have the same length");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let factory =
        FileSinkFactory { path: folder.path().to_path_buf(), format: FileFormat::Json, batching: Batching::default() };
    let cx = SinkContext {
        pipeline: "bench".to_owned(),
        instance: "bench".to_owned(),
        revision: Revision(String::new()),
        node: "rows".to_owned(),
        generation: Generation(1),
        index: 0,
        schema: batch.schema(),
        changelog: None,
        clock: Arc::new(ManualClock::default()),
        goes_back: false,
        scratch: folder.path().to_path_buf(),
    };
    runtime.block_on(async {
        let mut sink = factory.open(cx, None).await.expect("the sink opens");
        for epoch in 1..=3 {
            let before = cpu();
            for _ in 0..BATCHES {
                sink.write(batch.clone()).await.expect("the sink takes rows");
            }
            let spent = cpu() - before;
            let handle = sink.prepare(Epoch(epoch)).await.expect("the sink prepares");
            let bytes = handle.0["files"].as_array().and_then(|files| files.last()?["bytes"].as_u64()).unwrap_or(0);
            let rows = (ROWS * BATCHES) as f64;
            println!(
                "{:.2} million rows a CPU-second, {:.0} ns a row, {:.0} bytes a row",
                rows / spent.as_secs_f64() / 1e6,
                spent.as_secs_f64() * 1e9 / rows,
                bytes as f64 / rows
            );
        }
    });
}
