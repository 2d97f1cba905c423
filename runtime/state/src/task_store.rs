//! The store of one stateful task: one RocksDB, a column family a state.
//!
//! ```text
//! RunWriter ─▶ runs/N.sst ─ingest─▶ level 0 ─compaction, universal─▶ … ─▶ the last level
//!              sorted, lz4          one sorted run an ingest
//! ```
//!
//! Nothing is ever written to a memtable or to a log: what comes in comes as whole sorted runs ([`RunWriter`]). So what a
//! [`TaskStore::checkpoint`] holds is exactly the runs that were finished before it, and its files never change: an
//! incremental upload is those that the last one did not have.
//!
//! - Keys are `key group (u16 BE) | namespace | key`, compared as bytes, so a range of key groups is a range of keys.
//! - Compaction is universal, from [`RUNS_BEFORE_COMPACTION`] runs on: a run is rewritten about once for every such
//!   number of runs, not once a level. It runs on one thread of the process's pool and never holds up an ingest, which
//!   RocksDB lets pass its write stalls.
//! - Memory: the block cache that all stores of the process share, index and filter blocks included, and about 1 MB a
//!   store. At most [`OPEN_FILES`] files are open.
//!
//! **One writer's cut.** A checkpoint holds everything that was ingested before it. Who writes behind the task's back
//! (a frozen epoch) while the task itself spills has to keep the spill out until the checkpoint is taken, or be able to
//! tell from the keys what came later.
//!
//! **Crashes.** The folder is worth nothing once the process has died: a task is restored from a decided checkpoint, whose
//! files were complete before it was decided. So it does not matter that a run which touches several states is ingested
//! one state after the other: in this process a lock keeps [`TaskStore::checkpoint`] from coming in between, a failure in
//! between makes the store refuse every further use, and death in between leaves a folder that nobody reads.

use std::{
    fs,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use millrace_stream::KeyGroupRange;
use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle,
    DBCompressionType, DBPinnableSlice, DBRawIterator, LogLevel, Options, ReadOptions, UniversalCompactOptions,
    checkpoint::Checkpoint,
};

use crate::{StateError, data_folder::remove_folder, durable, fault};

mod restore;
mod run;

pub use restore::{Origin, RestoreFrom};
pub use run::{RunStats, RunWriter};

/// How many sorted runs a state has before they are merged.
pub const RUNS_BEFORE_COMPACTION: i32 = 8;
/// How many files a store keeps open.
pub const OPEN_FILES: i32 = 256;
/// A file of a run or a compaction is closed, and the next begun, at about this size.
pub const FILE_BYTES: u64 = 32 << 20;

const BLOCK_BYTES: usize = 16 << 10;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const RUNS_FOLDER: &str = "runs";

/// What the stores of a process share.
#[derive(Clone)]
pub struct StoreResources {
    cache: Cache,
}

/// The store of one task. Shared by reference between the task's thread and the one that writes frozen epochs.
pub struct TaskStore {
    db: DB,
    path: PathBuf,
    states: Vec<String>,
    origin: Origin,
    /// Options of every column family, and of the runs that are ingested into them.
    options: Options,
    next_run: AtomicU64,
    /// Held while a run's states are ingested and while a checkpoint is taken, so that no checkpoint holds half a run.
    cut: Mutex<()>,
    /// Half a run was ingested and the other half failed.
    torn: AtomicBool,
}

/// A value, pinned in the block cache as long as it is held.
pub struct Pinned<'a>(DBPinnableSlice<'a>);

/// A file of a checkpoint on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalFile {
    /// What the store calls it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Whether this name has the same content in every checkpoint of this store that holds it, and of a store that was
    /// restored from it with [`Origin::Linked`] for as long as no two stores go on from the same checkpoint.
    pub immutable: bool,
}

/// What a store holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of its files.
    pub bytes: u64,
    /// Sorted runs that a read may have to look into, over all states.
    pub runs: u64,
    /// Bytes that compaction has still to rewrite, by RocksDB's estimate.
    pub compaction_debt_bytes: u64,
}

impl StoreResources {
    /// Resources with a block cache of this size, which all stores share.
    pub fn new(block_cache_bytes: usize) -> Self {
        Self { cache: Cache::new_lru_cache(block_cache_bytes) }
    }

    /// Bytes in the block cache.
    pub fn cached_bytes(&self) -> usize {
        self.cache.get_usage()
    }

    fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_size(BLOCK_BYTES);
        table.set_block_cache(&self.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        table.set_optimize_filters_for_memory(true);
        table.set_checksum_type(ChecksumType::XXH3);
        table.set_format_version(6);

        let mut universal = UniversalCompactOptions::default();
        // More runs at a time, at more space: state is small next to the disk, and each rewrite is an upload too.
        universal.set_size_ratio(20);
        universal.set_max_size_amplification_percent(200);

        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Lz4);
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_universal_compaction_options(&universal);
        options.set_level_zero_file_num_compaction_trigger(RUNS_BEFORE_COMPACTION);
        options.set_level_zero_slowdown_writes_trigger(1 << 20);
        options.set_level_zero_stop_writes_trigger(1 << 20);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_compaction_readahead_size(256 << 10);
        // The memtables stay empty.
        options.set_write_buffer_size(64 << 10);
        options.set_max_write_buffer_number(2);

        options.set_max_background_jobs(2);
        options.set_max_subcompactions(1);
        options.set_max_open_files(OPEN_FILES);
        options.set_max_file_opening_threads(1);
        options.set_skip_stats_update_on_db_open(true);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(1);
        options.set_max_log_file_size(1 << 20);
        options.set_max_manifest_file_size(64 << 10);
        options.set_manifest_preallocation_size(16 << 10);
        options
    }
}

impl TaskStore {
    /// An empty store with these states. What is in the folder is deleted.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Rocks`].
    pub fn create(dir: &Path, states: &[&str], resources: &StoreResources) -> Result<Self, StateError> {
        remove_folder(dir)?;
        durable::create_folder(dir)?;
        Self::open(dir, states, resources, Origin::Empty)
    }

    fn open(dir: &Path, states: &[&str], resources: &StoreResources, origin: Origin) -> Result<Self, StateError> {
        let options = resources.options();
        let mut database = options.clone();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        let families = states.iter().map(|state| ColumnFamilyDescriptor::new(*state, options.clone()));
        let db = DB::open_cf_descriptors(&database, dir, families).map_err(StateError::rocks("open", dir))?;
        let runs = dir.join(RUNS_FOLDER);
        remove_folder(&runs)?;
        fs::create_dir(&runs).map_err(StateError::io("create", &runs))?;
        Ok(Self {
            db,
            path: dir.to_owned(),
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            origin,
            options,
            next_run: AtomicU64::new(1),
            cut: Mutex::new(()),
            torn: AtomicBool::new(false),
        })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its content came from: says whether the files of the checkpoint that it was restored from are still its own.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Begins a sorted run. Nothing of it is seen before [`RunWriter::finish`].
    pub fn writer(&self) -> RunWriter<'_> {
        RunWriter::new(self)
    }

    /// The values of many keys, in their order. Quickest when the keys ascend, as a batch is then read block by block.
    ///
    /// # Errors
    ///
    /// [`StateError::UnknownState`], [`StateError::Rocks`].
    pub fn multi_get<K: AsRef<[u8]>>(&self, state: &str, keys: &[K]) -> Result<Vec<Option<Pinned<'_>>>, StateError> {
        let family = self.family(state)?;
        let sorted = keys.is_sorted_by(|left, right| left.as_ref() <= right.as_ref());
        let values = self.db.batched_multi_get_cf(family, keys, sorted);
        let values = values.into_iter().map(|value| Ok(value?.map(Pinned)));
        values.collect::<Result<_, _>>().map_err(StateError::rocks("read", &self.path))
    }

    /// The entries with keys in `range`, ascending, as they are now; what is ingested later is not seen.
    ///
    /// # Errors
    ///
    /// [`StateError::UnknownState`].
    pub fn scan(&self, state: &str, range: Range<&[u8]>) -> Result<Scan<'_>, StateError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start);
        options.set_iterate_upper_bound(range.end);
        self.scan_with(state, options)
    }

    /// Every entry of a state, ascending by key.
    ///
    /// # Errors
    ///
    /// [`StateError::UnknownState`].
    pub fn scan_all(&self, state: &str) -> Result<Scan<'_>, StateError> {
        self.scan_with(state, ReadOptions::default())
    }

    fn scan_with(&self, state: &str, mut options: ReadOptions) -> Result<Scan<'_>, StateError> {
        let family = self.family(state)?;
        options.fill_cache(false);
        options.set_auto_readahead_size(true);
        let entries = self.db.raw_iterator_cf_opt(family, options);
        Ok(Scan { entries, path: &self.path, begun: false, ended: false })
    }

    /// A consistent copy, by hard links, of what was ingested before; what is in the folder is deleted. The files that
    /// are returned are all that a restore needs.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`], [`StateError::Rocks`].
    pub fn checkpoint(&self, to: &Path) -> Result<Vec<LocalFile>, StateError> {
        remove_folder(to)?;
        durable::create_folder(durable::folder_of(to))?;
        {
            let _cut = self.cut()?;
            let checkpoint = Checkpoint::new(&self.db).map_err(StateError::rocks("checkpoint", &self.path))?;
            checkpoint.create_checkpoint(to).map_err(StateError::rocks("checkpoint", &self.path))?;
        }
        let files = restore::checkpoint_files(to)?;
        fault::point("local-checkpoint")?;
        Ok(files)
    }

    /// What it holds.
    pub fn stats(&self) -> StoreStats {
        let sum = |property: &str| {
            let of = |state: &String| {
                let family = self.db.cf_handle(state)?;
                self.db.property_int_value_cf(family, property).ok().flatten()
            };
            self.states.iter().filter_map(of).sum()
        };
        StoreStats {
            bytes: sum("rocksdb.total-sst-files-size"),
            runs: sum("rocksdb.num-files-at-level0"),
            compaction_debt_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
        }
    }

    fn family(&self, state: &str) -> Result<&ColumnFamily, StateError> {
        let found = self.db.cf_handle(state).filter(|_| self.states.iter().any(|known| known == state));
        found.ok_or_else(|| StateError::UnknownState {
            path: self.path.clone(),
            state: state.to_owned(),
            known: self.states.clone(),
        })
    }

    /// Keeps runs and checkpoints apart; refuses if half a run is in the store.
    fn cut(&self) -> Result<MutexGuard<'_, ()>, StateError> {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if self.torn.load(Ordering::SeqCst) { Err(StateError::Torn { path: self.path.clone() }) } else { Ok(cut) }
    }
}

/// The keys of a range of key groups: from the first up to, not including, the second.
pub fn key_range(groups: KeyGroupRange) -> Range<[u8; 2]> {
    groups.start.to_be_bytes()..groups.end.to_be_bytes()
}

impl Deref for Pinned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Pinned<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl std::fmt::Debug for TaskStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskStore").field("path", &self.path).field("states", &self.states).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StoreResources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreResources").field("cached_bytes", &self.cached_bytes()).finish()
    }
}

/// A key and its value, lent.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// The entries of a [`TaskStore::scan`]. As an iterator it copies each; [`Scan::next_entry`] lends them.
pub struct Scan<'a> {
    entries: DBRawIterator<'a>,
    path: &'a Path,
    begun: bool,
    ended: bool,
}

impl Scan<'_> {
    /// The next entry, until the next call.
    pub fn next_entry(&mut self) -> Option<Result<Entry<'_>, StateError>> {
        if self.ended {
            return None;
        }
        if self.begun {
            self.entries.next();
        } else {
            self.entries.seek_to_first();
            self.begun = true;
        }
        if !self.entries.valid() {
            self.ended = true;
            return self.entries.status().err().map(|error| Err(StateError::rocks("read", self.path)(error)));
        }
        self.entries.item().map(Ok)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Box<[u8]>, Box<[u8]>), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_entry()?.map(|(key, value)| (key.into(), value.into())))
    }
}

#[cfg(test)]
mod tests;
