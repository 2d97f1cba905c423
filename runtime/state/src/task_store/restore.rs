//! Making a store from checkpoints of one or several others.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millrace_stream::{KeyGroup, KeyGroupRange};
use rocksdb::{ColumnFamilyDescriptor, DB, Options, ReadOptions};

use super::{LocalFile, StoreResources, TaskStore, key_range};
use crate::{StateError, data_folder::remove_folder, durable, fault};

/// A checkpoint on this machine to restore from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreFrom {
    /// Its folder: as [`TaskStore::checkpoint`] left it, or with the files that it returned.
    pub dir: PathBuf,
    /// The key groups that its task owned.
    pub range: KeyGroupRange,
}

/// Where a store's content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere: it was empty.
    Empty,
    /// From one checkpoint, whose files it goes on with under the same names.
    Linked,
    /// From ranges of several checkpoints, or a part of one, copied into files of its own.
    Copied,
}

impl TaskStore {
    /// A store of the key groups in `range`, with what the checkpoints `from` hold of them. What is in the folder is
    /// deleted; the checkpoints are left as they are. One checkpoint of the same range is linked, everything else copied.
    /// States that the checkpoints do not have are empty.
    ///
    /// # Errors
    ///
    /// [`StateError::Ranges`] unless each key group is in exactly one checkpoint, [`StateError::UnknownState`] if a
    /// checkpoint has a state that `states` does not name (it would be lost), [`StateError::Damaged`],
    /// [`StateError::Missing`], [`StateError::Io`], [`StateError::Rocks`].
    pub fn restore(
        dir: &Path,
        states: &[&str],
        range: KeyGroupRange,
        from: &[RestoreFrom],
        resources: &StoreResources,
    ) -> Result<Self, StateError> {
        check_cover(range, from)?;
        for source in from {
            check_states(&source.dir, states)?;
        }
        fault::point("mid-restore")?;
        match from {
            [source] if source.range == range => {
                remove_folder(dir)?;
                durable::create_folder(dir)?;
                link(&source.dir, dir)?;
                Self::open(dir, states, resources, Origin::Linked)
            }
            sources => {
                let mut store = Self::create(dir, states, resources)?;
                store.copy(states, range, sources, resources)?;
                store.origin = Origin::Copied;
                Ok(store)
            }
        }
    }

    fn copy(
        &self,
        states: &[&str],
        range: KeyGroupRange,
        sources: &[RestoreFrom],
        resources: &StoreResources,
    ) -> Result<(), StateError> {
        let mut parts: Vec<_> =
            sources.iter().filter_map(|source| Some((source.range.intersection(range)?, &source.dir))).collect();
        // Ascending, so that the parts make one run.
        parts.sort_unstable_by_key(|(part, _)| part.start);
        let mut run = self.writer();
        for (part, dir) in parts {
            let options = resources.options();
            let known = states_of(dir)?;
            let families = known.iter().map(|state| ColumnFamilyDescriptor::new(state, options.clone()));
            let source = DB::open_cf_descriptors_read_only(&options, dir, families, false)
                .map_err(StateError::rocks("open", dir))?;
            for state in states.iter().filter(|state| known.iter().any(|known| known == *state)) {
                let Some(family) = source.cf_handle(state) else { continue };
                let keys = key_range(part);
                let mut bounds = ReadOptions::default();
                bounds.set_iterate_lower_bound(keys.start);
                bounds.set_iterate_upper_bound(keys.end);
                bounds.fill_cache(false);
                let mut entries = source.raw_iterator_cf_opt(family, bounds);
                entries.seek_to_first();
                while let Some((key, value)) = entries.item() {
                    run.put(state, key, value)?;
                    entries.next();
                }
                entries.status().map_err(StateError::rocks("read", dir))?;
            }
        }
        run.finish()?;
        Ok(())
    }
}

/// Each key group of the range must be in exactly one source.
fn check_cover(range: KeyGroupRange, from: &[RestoreFrom]) -> Result<(), StateError> {
    let refuse = |why: String| Err(StateError::Ranges { start: range.start, end: range.end, why });
    for group in (range.start..range.end).map(KeyGroup) {
        let mut holding = from.iter().filter(|source| source.range.contains(group));
        match (holding.next(), holding.next()) {
            (Some(_), None) => {}
            (None, _) => return refuse(format!("group {} is in none of {} checkpoints", group.0, from.len())),
            (Some(one), Some(other)) => {
                let (one, other) = (one.dir.display(), other.dir.display());
                return refuse(format!("group {} is in {one} and in {other}", group.0));
            }
        }
    }
    Ok(())
}

/// A state that nobody asks for would be lost.
fn check_states(dir: &Path, states: &[&str]) -> Result<(), StateError> {
    match states_of(dir)?.into_iter().find(|state| state != "default" && !states.contains(&state.as_str())) {
        Some(state) => Err(StateError::UnknownState {
            path: dir.to_owned(),
            state,
            known: states.iter().map(|state| (*state).to_owned()).collect(),
        }),
        None => Ok(()),
    }
}

fn states_of(dir: &Path) -> Result<Vec<String>, StateError> {
    write_current(dir)?;
    DB::list_cf(&Options::default(), dir).map_err(StateError::rocks("read the states of", dir))
}

/// The files of a checkpoint that a restore needs: the data files and the list of them.
pub(super) fn checkpoint_files(dir: &Path) -> Result<Vec<LocalFile>, StateError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(StateError::io("list", dir))? {
        let entry = entry.map_err(StateError::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let immutable = name.ends_with(".sst");
        if immutable || name.starts_with(MANIFEST) {
            let found = entry.metadata().map_err(StateError::io("look at", entry.path()))?;
            files.push(LocalFile { name, path: entry.path(), bytes: found.len(), immutable });
        }
    }
    files.sort_unstable_by(|left, right| left.name.cmp(&right.name));
    Ok(files)
}

/// The file in which RocksDB lists its data files begins with this.
const MANIFEST: &str = "MANIFEST-";
/// The file in which RocksDB names that list.
const CURRENT: &str = "CURRENT";

/// `CURRENT` is not stored, since it says only what the one `MANIFEST-…` is called.
fn write_current(dir: &Path) -> Result<(), StateError> {
    let path = dir.join(CURRENT);
    if path.exists() {
        return Ok(());
    }
    let lists: Vec<_> = checkpoint_files(dir)?.into_iter().filter(|file| file.name.starts_with(MANIFEST)).collect();
    match lists.as_slice() {
        [list] => durable::replace(&path, format!("{}\n", list.name).as_bytes()),
        [] => Err(StateError::Missing {
            place: format!("{}/{MANIFEST}…", dir.display()),
            named_by: "every copy of a task's store".into(),
        }),
        lists => {
            let names: Vec<_> = lists.iter().map(|list| list.name.as_str()).collect();
            Err(StateError::damaged(dir.display(), names.join(" and "), format!("one {MANIFEST}… and no {CURRENT}")))
        }
    }
}

/// Data files never change, so both may have them; the list is copied, since it is the store's own from here on.
fn link(from: &Path, to: &Path) -> Result<(), StateError> {
    for file in checkpoint_files(from)? {
        let target = to.join(&file.name);
        let linked = if file.immutable { fs::hard_link(&file.path, &target) } else { Err(io::ErrorKind::Other.into()) };
        if linked.is_err() {
            // Another file system, or one without hard links.
            fs::copy(&file.path, &target).map_err(StateError::io("copy", &file.path))?;
        }
    }
    write_current(to)
}
