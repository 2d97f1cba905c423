//! The `stdout` sink: rows for a person, or for the next program in a pipe.
//!
//! | | |
//! |---|---|
//! | promise | at least once: what was printed since the last checkpoint is printed again after a crash |
//! | form | on a terminal a [table]; otherwise a JSON object a line |
//! | changelogs | each row begins with its operation, `_op` |
//!
//! Rows are printed when they come: what has been printed cannot be taken back, so there is nothing to commit. A handle only
//! says how many rows its task has printed, so that they are counted when their epoch is decided.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use millrace_stream::Epoch;
use serde_json::json;

use crate::{
    file_sink::NdjsonEncoder,
    sink::{CommitHandle, Committed, Committer, Sink, SinkContext, SinkError, SinkFactory},
    staging::refused,
};

mod table;

use table::Table;

/// How many columns a terminal is taken to have if it does not say.
const DEFAULT_WIDTH: usize = 120;

/// Makes the parts of a `stdout` sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdoutSinkFactory {
    /// The form; `None`: by whether the standard output is a terminal.
    pub form: Option<StdoutForm>,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutForm {
    /// A table for people, so many characters wide.
    Table {
        /// The terminal's columns.
        width: usize,
    },
    /// A JSON object a line.
    Json,
}

impl StdoutForm {
    fn detect() -> Self {
        if !io::stdout().is_terminal() {
            return Self::Json;
        }
        let width = terminal_width().unwrap_or(DEFAULT_WIDTH);
        Self::Table { width }
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

impl SinkFactory for StdoutSinkFactory {
    fn open(
        &self,
        cx: SinkContext,
        _restored: Option<CommitHandle>,
    ) -> BoxFuture<'_, Result<Box<dyn Sink>, SinkError>> {
        let changelog = cx.changelog.is_some();
        let form = match self.form.unwrap_or_else(StdoutForm::detect) {
            StdoutForm::Json => Form::Json(NdjsonEncoder::new(&cx.schema, changelog)),
            StdoutForm::Table { width } => Form::Table(Table::new(&cx.schema, changelog, width)),
        };
        let sink = StdoutSink { form, buffer: Vec::new(), task: cx.index, printed: 0 };
        Box::pin(async move { Ok(Box::new(sink) as Box<dyn Sink>) })
    }

    fn committer(&self, _cx: SinkContext) -> BoxFuture<'_, Result<Box<dyn Committer>, SinkError>> {
        Box::pin(async { Ok(Box::new(PrintedRows::default()) as Box<dyn Committer>) })
    }
}

enum Form {
    Json(NdjsonEncoder),
    Table(Table),
}

struct StdoutSink {
    form: Form,
    buffer: Vec<u8>,
    task: u32,
    /// Rows since the task began.
    printed: u64,
}

impl StdoutSink {
    fn print(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.buffer.clear();
        let encoded = match &mut self.form {
            Form::Json(json) => json.encode(batch, &mut self.buffer),
            Form::Table(table) => table.print(batch, &mut self.buffer),
        };
        encoded.map_err(|source| refused("a value cannot be written as text".to_owned(), source))?;
        // Whole batches, so that the rows of tasks that print at the same time do not mix within a line.
        let mut out = io::stdout().lock();
        let printed = out.write_all(&self.buffer).and_then(|()| out.flush());
        printed.map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => refused("nobody reads the standard output any more".to_owned(), source),
            _ => SinkError::Io { what: "the standard output".to_owned(), source },
        })?;
        self.printed += batch.num_rows() as u64;
        Ok(())
    }
}

impl Sink for StdoutSink {
    fn write(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(self.print(&batch)))
    }

    fn prepare(&mut self, _epoch: Epoch) -> BoxFuture<'static, Result<CommitHandle, SinkError>> {
        let handle = CommitHandle(json!({"version": 1, "task": self.task, "rows": self.printed}));
        Box::pin(std::future::ready(Ok(handle)))
    }
}

/// Counts what was printed.
#[derive(Default)]
struct PrintedRows {
    /// The rows of each task that are counted.
    counted: BTreeMap<u64, u64>,
}

impl PrintedRows {
    /// The rows of these handles that are not counted yet. Those of an epoch that was aborted are in the next one's.
    fn count(&mut self, handles: &[CommitHandle]) -> u64 {
        let mut rows = 0;
        for CommitHandle(handle) in handles {
            let number = |name: &str| handle.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let printed = number("rows");
            let before = self.counted.insert(number("task"), printed).unwrap_or(0);
            // Less than before: the task has begun anew.
            rows += printed.checked_sub(before).unwrap_or(printed);
        }
        rows
    }
}

impl Committer for PrintedRows {
    fn commit<'a>(
        &'a mut self,
        _epoch: Epoch,
        handles: &'a [CommitHandle],
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        let rows = self.count(handles);
        Box::pin(std::future::ready(Ok(Committed { rows, ..Committed::default() })))
    }

    fn recover<'a>(
        &'a mut self,
        _decided: Option<(Epoch, &'a [CommitHandle])>,
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async { Ok(Committed::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(task: u32, rows: u64) -> CommitHandle {
        CommitHandle(json!({"version": 1, "task": task, "rows": rows}))
    }

    #[test]
    fn each_printed_row_is_counted_once() {
        let mut printed = PrintedRows::default();
        assert_eq!(printed.count(&[handle(0, 3), handle(1, 4)]), 7);
        assert_eq!(printed.count(&[handle(0, 3), handle(1, 4)]), 0, "the same epoch again");
        assert_eq!(printed.count(&[handle(0, 5), handle(1, 4)]), 2);
        assert_eq!(printed.count(&[handle(0, 1), handle(1, 0)]), 1, "tasks that began anew");
        assert_eq!(printed.count(&[CommitHandle(json!({"version": 1}))]), 0, "a handle of before");
    }
}
