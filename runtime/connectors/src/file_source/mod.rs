//! Files: found by globs, plain or compressed, read to their end or followed as they grow.
//!
//! ```text
//! Catalog (one a source)       which files there are, and whose they are
//!   └─ FileReader (one a task)   which file is read next
//!        └─ Split (one a file)     bytes ─> records ─> columns; position
//! ```
//!
//! A file is a split. It is known by device, inode and its first 1024 bytes, so a renamed file is no new one; a Parquet file,
//! which does not grow, by its length and contents, too. Its replay point is the offset, in its uncompressed bytes, of the
//! first row that was not returned, with a digest of the 1024 bytes before it; for Parquet the number of rows. A compressed
//! file is read from its beginning up to that offset when it is resumed. Where other bytes stand before the offset, it is
//! another file, or was truncated and has grown again.
//!
//! A compressed copy of a followed file, as log rotation makes it, is recognised by its name and by what it holds, and
//! stands for the file: what was read of the one is not read again from the other.
//!
//! # Guarantees
//!
//! Exactly once, as long as files are only appended to. What voids it: a file changed in its middle; a followed file that
//! is truncated or deleted before it was read to its end (copytruncate loses what was written between the copy and the
//! last poll, and the copy, if a glob matches it, is a file of its own).

mod archive;
mod catalog;
mod identity;
mod members;
mod moved;
mod parquet;
mod paths;
mod place;
mod reader;
mod split;
mod stream;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use millrace_crds::{FileSource as FileSpec, FormatKind, FormatSpec, MoveSourceSpec, OnError, SourceSpec};

use self::{catalog::Catalog, reader::FileReader};
use crate::{
    ReplayPoint, Source, SourceContext, SourceError, SourceReader, SplitId,
    format::{Format, unusable},
};

/// Files as a source.
pub struct FileSource {
    spec: SourceSpec,
    catalog: Arc<Catalog>,
    bounded: bool,
}

/// What the splits of a task share.
struct Shared {
    catalog: Arc<Catalog>,
    format: Format,
    on_error: OnError,
}

/// The numbers of the paths that no file matches now.
pub fn unmatched(files: &FileSpec) -> Vec<usize> {
    let matches = |pattern: &String| {
        // What is no glob, or cannot be looked at, is told elsewhere.
        paths::matching(pattern).map_or(true, |paths| paths.iter().any(|path| path.is_file()))
    };
    files.paths.iter().enumerate().filter(|(_, pattern)| !matches(pattern)).map(|(number, _)| number).collect()
}

fn is_parquet(spec: &SourceSpec) -> bool {
    matches!(spec.format.as_ref().and_then(FormatSpec::kind), Some(FormatKind::Parquet))
}

impl FileSource {
    /// The source of this spec.
    pub fn new(spec: &SourceSpec, files: &FileSpec) -> Self {
        let catalog = Arc::new(Catalog::new(&spec.name, files.clone(), is_parquet(spec)));
        Self { spec: spec.clone(), catalog, bounded: !files.follow }
    }
}

impl Source for FileSource {
    fn max_parallelism(&self) -> Option<u32> {
        None
    }

    fn is_bounded(&self) -> bool {
        self.bounded
    }

    fn moved(
        &self,
        to: &MoveSourceSpec,
        restored: BTreeMap<SplitId, ReplayPoint>,
    ) -> Result<BTreeMap<SplitId, ReplayPoint>, SourceError> {
        if to.files.is_empty() {
            return Err(unusable(format!("source {} reads files: it goes on from places in `files`", self.spec.name)));
        }
        self.catalog.moved(&to.files, is_parquet(&self.spec), restored)
    }

    fn has_more(&self, restored: BTreeMap<SplitId, ReplayPoint>) -> BoxFuture<'_, Result<bool, SourceError>> {
        // Files that cannot be looked at, or are gone, are read already.
        let opened = self.catalog.open(0, 1, &restored, true, Duration::ZERO);
        Box::pin(std::future::ready(Ok(opened.is_ok() && self.catalog.has_more_to_come())))
    }

    fn open(&self, cx: SourceContext) -> BoxFuture<'_, Result<Box<dyn SourceReader>, SourceError>> {
        Box::pin(async move {
            let format = Format::new(&self.spec, &cx.schema, cx.clock.now())?;
            let shared = Shared { catalog: Arc::clone(&self.catalog), format, on_error: self.spec.on_error };
            Ok(Box::new(FileReader::open(shared, cx)?) as Box<dyn SourceReader>)
        })
    }
}
