//! Rows for a table some of whose columns may not be null.

use std::collections::BTreeSet;

use arrow::{array::Array, array::RecordBatch};
use futures::future::BoxFuture;
use millrace_stream::Epoch;

use crate::sink::{CommitHandle, Sink, SinkError};

/// Passes rows on, save those that the table may not have, which fail the pipeline.
pub(super) struct Required {
    sink: Box<dyn Sink>,
    columns: BTreeSet<String>,
    place: String,
}

impl Required {
    pub(super) fn new(sink: Box<dyn Sink>, columns: BTreeSet<String>, place: String) -> Self {
        Self { sink, columns, place }
    }

    fn check(&self, batch: &RecordBatch) -> Result<(), SinkError> {
        let is_null =
            |column: &&String| batch.column_by_name(column).is_some_and(|column| column.logical_null_count() > 0);
        match self.columns.iter().find(is_null) {
            None => Ok(()),
            Some(column) => Err(SinkError::Refused {
                what: format!(
                    "a row has no `{column}`, which may not be null in the table {}; leave such rows out with WHERE, \
                     give them a value with coalesce(), or let the column be null in the table",
                    self.place
                ),
                source: None,
            }),
        }
    }
}

impl Sink for Required {
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>> {
        match self.check(&batch) {
            Ok(()) => self.sink.write(batch),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn prepare(&mut self, epoch: Epoch) -> BoxFuture<'static, Result<CommitHandle, SinkError>> {
        self.sink.prepare(epoch)
    }

    fn finish(&mut self) {
        self.sink.finish();
    }
}
