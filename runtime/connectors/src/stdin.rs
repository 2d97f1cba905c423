//! Standard input: a stream of records that ends with the input.
//!
//! It cannot be read twice. A pipeline that reads it delivers each row once as long as the process lives; one that was
//! stopped cannot be resumed and says so.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use millrace_crds::SourceSpec;
use millrace_stream::Clock;
use tokio::sync::mpsc;

use crate::{
    Origin, Read, ReplayPoint, Source, SourceContext, SourceError, SourceReader, SplitId,
    format::{BadRows, Format, records::Records, unusable},
};

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;
/// For so long is waited for a first byte of an input that would be another.
const LOOK: Duration = Duration::from_secs(2);
/// Of its replay points.
const VERSION: u64 = 1;

/// Standard input as a source.
pub struct StdinSource {
    spec: SourceSpec,
}

impl StdinSource {
    /// The source of this spec.
    pub fn new(spec: &SourceSpec) -> Self {
        Self { spec: spec.clone() }
    }

    /// Reads from `input` instead.
    fn open_input(
        &self,
        cx: SourceContext,
        input: impl io::Read + Send + 'static,
    ) -> Result<StreamReader, SourceError> {
        let split = split();
        if let Some(point) = cx.restored.get(&split) {
            let found = (point.0["version"].as_u64(), point.0["offset"].as_u64(), point.0["ended"].as_bool());
            let (Some(VERSION), Some(offset), Some(ended)) = found else {
                let name = &self.spec.name;
                return Err(unusable(format!("the replay point {} of source {name} is damaged", point.0)));
            };
            if offset > 0 && !ended {
                return Err(unusable(format!(
                    "source {}: standard input cannot be read again, and the checkpoint goes on in it at byte {offset}; \
                     begin with an empty data folder",
                    self.spec.name
                )));
            }
            if ended {
                return Ok(StreamReader {
                    split,
                    records: None,
                    blocks: None,
                    ended: true,
                    position: offset,
                    clock: cx.clock,
                });
            }
        }
        let format = Format::new(&self.spec, &cx.schema, cx.clock.now())?;
        let records = Records::new(format.decoder()?, BadRows::new(self.spec.on_error, "stdin"));
        let (sender, blocks) = mpsc::channel(2);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || pump(input, &sender))
            .map_err(|source| SourceError::Io { what: "standard input".to_owned(), source })?;
        Ok(StreamReader {
            split,
            records: Some(records),
            blocks: Some(blocks),
            ended: false,
            position: 0,
            clock: cx.clock,
        })
    }
}

/// Reads until the input ends or nobody wants more. A thread, since reading standard input cannot be broken off.
fn pump(mut input: impl io::Read, blocks: &mpsc::Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut block = vec![0; READ_BYTES];
        match input.read(&mut block) {
            Ok(0) => return,
            Ok(read) => {
                block.truncate(read);
                if blocks.blocking_send(Ok(block)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                // Whoever reads has the error, or is gone.
                let _ = blocks.blocking_send(Err(error));
                return;
            }
        }
    }
}

fn split() -> SplitId {
    SplitId("stdin".into())
}

impl Source for StdinSource {
    fn max_parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn is_bounded(&self) -> bool {
        true
    }

    fn has_more(&self, _restored: BTreeMap<SplitId, ReplayPoint>) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            match tokio::time::timeout(LOOK, tokio::task::spawn_blocking(|| holds_a_byte(io::stdin()))).await {
                Ok(Ok(true)) => Err(unusable(format!(
                    "source {}: the pipeline has read its standard input to the end and is finished, and there is another input now, \
                     which may be the same once more; begin with an empty data folder",
                    self.spec.name
                ))),
                _ => Ok(false),
            }
        })
    }

    fn open(&self, cx: SourceContext) -> BoxFuture<'_, Result<Box<dyn SourceReader>, SourceError>> {
        Box::pin(async move { Ok(Box::new(self.open_input(cx, io::stdin())?) as Box<dyn SourceReader>) })
    }
}

/// Whether there is a byte to read, which is read. A person's terminal is not asked.
fn holds_a_byte(mut input: impl io::Read + io::IsTerminal) -> bool {
    !input.is_terminal() && input.read(&mut [0]).is_ok_and(|read| read > 0)
}

struct StreamReader {
    split: SplitId,
    records: Option<Records>,
    blocks: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
    ended: bool,
    position: u64,
    clock: Arc<dyn Clock>,
}

impl StreamReader {
    async fn read(&mut self) -> Result<Read, SourceError> {
        loop {
            let (Some(records), false) = (&mut self.records, self.ended) else { return Ok(Read::Ended) };
            let block = match &mut self.blocks {
                Some(blocks) => blocks.recv().await,
                None => None,
            };
            let failed = |source| SourceError::Io { what: "standard input".to_owned(), source };
            let last = block.is_none();
            if let Some(block) = block {
                let block = block.map_err(failed)?;
                records.fill(block.as_slice(), block.len()).map_err(failed)?;
                records.written_at(self.clock.now());
            } else {
                self.blocks = None;
            }
            let decoded = records.decode(last)?;
            self.position = records.position();
            if let Some(decoded) = decoded {
                return Ok(Read::Rows {
                    split: self.split.clone(),
                    rows: decoded.rows,
                    errors: decoded.errors,
                    bytes: decoded.bytes,
                });
            }
            if last {
                self.ended = true;
                return Ok(Read::SplitEnded(self.split.clone()));
            }
        }
    }
}

impl SourceReader for StreamReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, SourceError>> {
        Box::pin(self.read())
    }

    fn replay_points(&self) -> Vec<(SplitId, ReplayPoint)> {
        let point = serde_json::json!({"version": VERSION, "offset": self.position, "ended": self.ended});
        vec![(self.split.clone(), ReplayPoint(point))]
    }

    fn origins(&mut self, rows: &[usize]) -> Result<Option<Vec<Origin>>, SourceError> {
        self.records.as_mut().map(|records| records.origins(rows)).transpose()
    }

    fn bad_rows(&self) -> u64 {
        self.records.as_ref().map_or(0, Records::bad_rows)
    }
}

#[cfg(test)]
mod tests;
