//! How many lines of JSON are decoded a second, on one core: `cargo bench -p millrace-connectors`.
//!
//! Prints a line for each selection of columns: rows a second, bytes a second and nanoseconds a row, the best of several
//! runs over the same chunks.

use std::{hint::black_box, sync::Arc, time::Instant};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millrace_connectors::format::{BadRows, Chunk, Decoder, InputColumn, json::JsonDecoder};
use millrace_crds::{ColumnType, OnError, TimestampUnit};

const ROWS: usize = 400_000;
const CHUNK_BYTES: usize = 512 << 10;
const RUNS: usize = 9;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's time")]
fn main() {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let all = [
        ("ts", ColumnType::Timestamp, micros),
        ("key", ColumnType::Varchar, DataType::Utf8View),
        ("value", ColumnType::Double, DataType::Float64),
        ("status", ColumnType::Int, DataType::Int32),
    ];
    for (name, spaced) in [("compact", false), ("with blanks", true)] {
        let chunks = chunks(spaced);
        for read in [&[0, 1, 2, 3][..], &[0, 1, 2], &[0, 3], &[0], &[]] {
            let columns: Vec<InputColumn> = read
                .iter()
                .map(|&column: &usize| {
                    let (name, of, _) = &all[column];
                    InputColumn { name: (*name).to_owned(), path: (*name).to_owned(), of: of.clone() }
                })
                .collect();
            let fields: Vec<Field> =
                read.iter().map(|&column| Field::new(all[column].0, all[column].2.clone(), true)).collect();
            let mut decoder = JsonDecoder::new(&columns, Arc::new(Schema::new(fields)), TimestampUnit::Milliseconds);
            let mut bad = BadRows::new(OnError::Fail, "bench");
            let best = (0..RUNS)
                .map(|_| {
                    let start = Instant::now();
                    let mut rows = 0;
                    for chunk in &chunks {
                        rows += black_box(decoder.decode(chunk, &mut bad).map_or(0, |batch| batch.num_rows()));
                    }
                    assert_eq!(rows, ROWS);
                    start.elapsed()
                })
                .min()
                .unwrap_or_default();
            let bytes: usize = chunks.iter().map(|chunk| chunk.bytes().len()).sum();
            let names: Vec<&str> = read.iter().map(|&column| all[column].0).collect();
            println!(
                "{name:11} {:24} {:6.2} M rows/s {:7.0} MB/s {:5.0} ns/row",
                names.join(","),
                ROWS as f64 / best.as_secs_f64() / 1e6,
                bytes as f64 / best.as_secs_f64() / 1e6,
                best.as_nanos() as f64 / ROWS as f64,
            );
        }
    }
}

/// Lines of about 65 bytes, in chunks.
fn chunks(spaced: bool) -> Vec<Chunk> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut chunks = Vec::new();
    let mut text = String::new();
    for row in 0..ROWS as u64 {
        let (ts, key) = (1_700_000_000_123 + row, random() % 10_000);
        let (value, status) = (random() % 100_000, [200, 200, 200, 404, 500][(random() % 5) as usize]);
        let value = format!("{}.{:02}", value / 100, value % 100);
        text += &if spaced {
            format!("{{\"ts\": {ts}, \"key\": \"k{key:07}\", \"value\": {value}, \"status\": {status}}}\n")
        } else {
            format!("{{\"ts\":{ts},\"key\":\"k{key:07}\",\"value\":{value},\"status\":{status}}}\n")
        };
        if text.len() > CHUNK_BYTES {
            chunks.push(Chunk::copy_of(text.as_bytes(), 0));
            text.clear();
        }
    }
    chunks.push(Chunk::copy_of(text.as_bytes(), 0));
    chunks
}
