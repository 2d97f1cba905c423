//! From a Sink's spec to the connector that does it.

use parquet::basic::{Compression, ZstdLevel};

use millrace_crds::{BatchSpec, ParquetCompression, SchemaEvolution, SinkDestination, SinkFormatKind};
use millrace_plan::SinkNode;

use crate::{
    delta::{DeltaSettings, DeltaSinkFactory},
    file_sink::{FileFormat, FileSinkFactory},
    parquet_sink::{ParquetSettings, ParquetSinkFactory},
    sink::{SinkError, SinkFactory},
    staging::{Batching, local_folder, refused},
    stdout::StdoutSinkFactory,
};

/// The sink that a node of the plan describes. Opens nothing.
///
/// # Errors
/// If the spec says what no sink can do; the plan has said so before, if it was asked.
pub fn make_sink(node: &SinkNode) -> Result<Box<dyn SinkFactory>, SinkError> {
    let refuse = |what: String| SinkError::Refused { what, source: None };
    let batching = batching(&node.spec.batch);
    Ok(match node.spec.destination() {
        Some(SinkDestination::Stdout(_)) => Box::new(StdoutSinkFactory::default()),
        Some(SinkDestination::File(file)) => {
            let format = match file.format.kind() {
                Some(SinkFormatKind::Json) => FileFormat::Json,
                Some(SinkFormatKind::Csv(csv)) => match csv.delimiter.as_bytes() {
                    &[delimiter] if delimiter.is_ascii() && !b"\"\r\n".contains(&delimiter) => {
                        FileFormat::Csv { delimiter, header: csv.header }
                    }
                    _ => return Err(refuse(format!("`{}` cannot delimit values", csv.delimiter))),
                },
                None => return Err(refuse(format!("Sink {} needs one format: json or csv", node.sink))),
            };
            Box::new(FileSinkFactory { path: local_folder(&file.path)?, format, batching })
        }
        Some(SinkDestination::Parquet(parquet)) => Box::new(ParquetSinkFactory {
            path: local_folder(&parquet.uri)?,
            partition_by: parquet.partition_by.clone(),
            settings: settings(parquet.compression, parquet.compression_level, parquet.max_row_group_rows)?,
            batching,
        }),
        Some(SinkDestination::Delta(delta)) => Box::new(DeltaSinkFactory {
            path: local_folder(&delta.uri)?,
            table: DeltaSettings {
                partition_by: delta.partition_by.clone(),
                add_columns: delta.schema_evolution == SchemaEvolution::AddColumns,
                log_retention: delta.log_retention.into(),
                checkpoint_every: delta.checkpoint_every,
            },
            files: settings(delta.compression, delta.compression_level, delta.max_row_group_rows)?,
            batching,
        }),
        None => return Err(refuse(format!("Sink {} needs exactly one destination", node.sink))),
    })
}

fn batching(batch: &BatchSpec) -> Batching {
    Batching {
        max_rows: batch.max_rows,
        max_bytes: batch.max_bytes.map(|bytes| bytes.bytes()),
        max_delay: batch.max_delay.map(Into::into),
    }
}

fn settings(
    compression: ParquetCompression,
    level: Option<i32>,
    max_row_group_rows: u64,
) -> Result<ParquetSettings, SinkError> {
    let compression = match compression {
        ParquetCompression::Zstd => Compression::ZSTD(match level {
            Some(level) => ZstdLevel::try_new(level)
                .map_err(|source| refused(format!("{level} is not a level of zstd"), source))?,
            None => ZstdLevel::default(),
        }),
        ParquetCompression::Snappy => Compression::SNAPPY,
        ParquetCompression::Lz4 => Compression::LZ4_RAW,
        ParquetCompression::None => Compression::UNCOMPRESSED,
    };
    Ok(ParquetSettings { compression, max_row_group_rows: usize::try_from(max_row_group_rows).unwrap_or(usize::MAX) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use millrace_plan::{Input, OutputName};
    use serde_json::json;

    use super::*;

    fn node(spec: serde_json::Value) -> SinkNode {
        SinkNode {
            input: Input { node: "rows".into(), output: OutputName::Main },
            sink: "out".to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
            schema: Arc::new(Schema::empty()),
            changelog: None,
        }
    }

    #[test]
    fn every_kind_of_sink_is_made_from_its_spec() {
        for spec in [
            json!({"stdout": {}}),
            json!({"file": {"path": "/out", "format": {"json": {}}}, "batch": {"maxRows": 10, "maxDelay": "1m"}}),
            json!({"file": {"path": "/out", "format": {"csv": {"delimiter": "\t"}}}}),
            json!({"parquet": {"uri": "file:///out", "compression": "Zstd", "compressionLevel": 19}}),
            json!({"delta": {"uri": "/out", "partitionBy": ["day"], "logRetention": "24h"}}),
        ] {
            assert!(make_sink(&node(spec.clone())).is_ok(), "{spec}");
        }
    }

    #[test]
    fn what_no_sink_can_do_is_refused() {
        for (spec, why) in [
            (json!({}), "exactly one destination"),
            (json!({"stdout": {}, "delta": {"uri": "/out"}}), "exactly one destination"),
            (json!({"delta": {"uri": "s3://lake/t"}}), "s3 store"),
            (json!({"file": {"path": "/out", "format": {}}}), "one format"),
            (json!({"file": {"path": "/out", "format": {"csv": {"delimiter": "\""}}}}), "cannot delimit"),
            (json!({"parquet": {"uri": "/out", "compressionLevel": 99}}), "level of zstd"),
        ] {
            let Err(error) = make_sink(&node(spec.clone())) else { panic!("{spec} must be refused") };
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
