//! Writing a sorted run.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use super::{FILE_BYTES, RUNS_FOLDER, TaskStore};
use crate::{StateError, fault};

/// Writes one run: puts and deletes, ascending by key within each state, the states in any order. One that is dropped
/// before [`RunWriter::finish`] leaves nothing.
pub struct RunWriter<'s> {
    store: &'s TaskStore,
    states: Vec<StateRun<'s>>,
    stats: RunStats,
}

/// What a run wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Puts and deletes.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
}

/// The part of a run that goes to one state.
struct StateRun<'s> {
    state: &'s str,
    /// The file that is being written.
    open: Option<SstFileWriter<'s>>,
    /// Every file that was begun.
    files: Vec<PathBuf>,
    /// The last key, once there is one.
    previous: Option<Vec<u8>>,
    /// Roughly what has gone into the open file; its real size is known only where a block ends.
    open_bytes: u64,
}

impl<'s> RunWriter<'s> {
    pub(super) fn new(store: &'s TaskStore) -> Self {
        Self { store, states: Vec::new(), stats: RunStats::default() }
    }

    /// Sets a key's value.
    ///
    /// # Errors
    ///
    /// [`StateError::OutOfOrder`] if the key does not come after the one before it in its state,
    /// [`StateError::UnknownState`], [`StateError::Rocks`].
    pub fn put(&mut self, state: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), StateError> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let path = &self.store.path;
        let written = (key.len() + value.len()) as u64;
        self.stats.entries += 1;
        let file = self.file(state, key, written)?;
        file.put(key, value).map_err(StateError::rocks("write a run for", path))
    }

    /// Removes a key, whether it is there or not.
    ///
    /// # Errors
    ///
    /// As [`RunWriter::put`].
    pub fn delete(&mut self, state: &str, key: impl AsRef<[u8]>) -> Result<(), StateError> {
        let key = key.as_ref();
        let path = &self.store.path;
        self.stats.entries += 1;
        let file = self.file(state, key, key.len() as u64)?;
        file.delete(key).map_err(StateError::rocks("write a run for", path))
    }

    /// The file that `key` goes to.
    fn file(&mut self, state: &str, key: &[u8], bytes: u64) -> Result<&mut SstFileWriter<'s>, StateError> {
        let store = self.store;
        let at = match self.states.iter().position(|run| run.state == state) {
            Some(at) => at,
            None => {
                store.family(state)?;
                let known = store.states.iter().find(|known| *known == state).expect("a state with a family is known");
                self.states.push(StateRun {
                    state: known,
                    open: None,
                    files: Vec::new(),
                    previous: None,
                    open_bytes: 0,
                });
                self.states.len() - 1
            }
        };
        let run = &mut self.states[at];
        match &mut run.previous {
            Some(previous) if previous.as_slice() >= key => {
                return Err(StateError::OutOfOrder {
                    state: state.to_owned(),
                    previous: previous.clone(),
                    key: key.to_owned(),
                });
            }
            Some(previous) => {
                previous.clear();
                previous.extend_from_slice(key);
            }
            None => run.previous = Some(key.to_owned()),
        }
        if run.open_bytes >= 2 * FILE_BYTES
            || run.open_bytes >= FILE_BYTES && run.open.as_ref().is_some_and(|open| open.file_size() >= FILE_BYTES)
        {
            self.stats.bytes += run.close(store)?;
        }
        run.open_bytes += bytes;
        run.file(store)
    }

    /// Ingests the run. Until then nothing of it is seen; after it, all.
    ///
    /// # Errors
    ///
    /// [`StateError::Rocks`]. If it comes in the middle of several states, the store refuses to go on.
    pub fn finish(mut self) -> Result<RunStats, StateError> {
        let store = self.store;
        for run in &mut self.states {
            self.stats.bytes += run.close(store)?;
            self.stats.files += run.files.len() as u64;
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let _cut = store.cut()?;
        for (done, run) in self.states.iter_mut().enumerate() {
            let torn = |error: StateError| {
                store.torn.store(done > 0, Ordering::SeqCst);
                error
            };
            let files = std::mem::take(&mut run.files);
            let ingested = store.family(run.state).and_then(|family| {
                let ingested = store.db.ingest_external_file_cf_opts(family, &options, files.clone());
                ingested.map_err(StateError::rocks("ingest a run into", &store.path))
            });
            if ingested.is_err() {
                run.files = files;
            }
            ingested.map_err(torn)?;
            fault::point("sst-ingested").map_err(|injected| {
                store.torn.store(true, Ordering::SeqCst);
                StateError::from(injected)
            })?;
        }
        Ok(self.stats)
    }
}

impl<'s> StateRun<'s> {
    fn file(&mut self, store: &'s TaskStore) -> Result<&mut SstFileWriter<'s>, StateError> {
        if self.open.is_none() {
            let number = store.next_run.fetch_add(1, Ordering::Relaxed);
            let path = store.path.join(RUNS_FOLDER).join(format!("{number}.sst"));
            let writer = SstFileWriter::create(&store.options);
            writer.open(&path).map_err(StateError::rocks("begin a run for", &store.path))?;
            self.files.push(path);
            self.open = Some(writer);
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    /// Ends the open file, if there is one, and says how long it has become.
    fn close(&mut self, store: &TaskStore) -> Result<u64, StateError> {
        self.open_bytes = 0;
        let Some(mut open) = self.open.take() else { return Ok(0) };
        open.finish().map_err(StateError::rocks("end a run for", &store.path))?;
        Ok(open.file_size())
    }
}

impl Drop for RunWriter<'_> {
    fn drop(&mut self) {
        for run in &mut self.states {
            run.open = None;
            // What was ingested has moved away; the rest is of no use, and the next start deletes the folder anyway.
            run.files.iter().for_each(|path| drop(fs::remove_file(path)));
        }
    }
}

impl std::fmt::Debug for RunWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunWriter").field("store", self.store).field("stats", &self.stats).finish_non_exhaustive()
    }
}
