//! Which files there are, which of them are known already, and which task reads which.
//!
//! One catalog a source, shared by its tasks: they see the same files, whoever looks first. A file goes to the task with
//! the least to read. Replay points of all tasks are matched with the files that are there by identity first, so that a
//! renamed file is found, then by path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millrace_crds::FileSource as FileSpec;
use serde::{Deserialize, Serialize};

use super::{
    archive::{self, Copy},
    identity::{FOOTER_END_BYTES, Identity},
    paths::{self, Unlisted},
    place::Place,
    split::{QUIET_POLLS, Split},
    stream::Stream,
};
use crate::{
    ReplayPoint, SourceError, SplitId,
    format::{tail::TailDigest, unusable},
};

/// Linux's number for a link that leads in a circle.
const ELOOP: i32 = 40;
/// So many files that have been read and are gone a bounded source remembers, those that went last.
const REMEMBERED_FILES: usize = 10_000;
/// At so many looks a followed Parquet file that has been read is remembered after it has gone.
const REMEMBERED_LOOKS: u32 = 600;
/// The form of [`Point`].
const VERSION: u32 = 1;

/// Where a file is resumed, as checkpoints store it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Point {
    version: u32,
    pub(super) path: PathBuf,
    #[serde(flatten)]
    pub(super) identity: Identity,
    #[serde(flatten)]
    pub(super) place: Place,
    pub(super) ended: bool,
    /// It has ended only because the source did not follow: one that follows reads it on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) bounded: bool,
    /// It has ended only because it was away in its midst: it is read on once it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) given_up: bool,
    #[serde(default, skip_serializing_if = "Growth::is_none")]
    pub(super) growth: Growth,
    /// It has ended, and at so many looks or starts it was not there any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) away: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How a followed file that is compressed grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Growth {
    /// Nothing was appended to it so far.
    #[default]
    None,
    /// It is at rest, with this many bytes as it lies there.
    AtRest(u64),
    /// Something was appended to it after it had been read to its end.
    Appended,
}

impl Growth {
    fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// With how many bytes it is at rest.
    pub(super) fn at_rest(self) -> Option<u64> {
        match self {
            Self::AtRest(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Point {
    pub(super) fn new(path: PathBuf, identity: Identity, place: Place, ended: bool) -> Self {
        Self {
            version: VERSION,
            path,
            identity,
            place,
            ended,
            bounded: false,
            given_up: false,
            growth: Growth::None,
            away: 0,
        }
    }

    /// It has not ended after all.
    fn go_on(&mut self) {
        (self.ended, self.bounded, self.given_up) = (false, false, false);
    }

    pub(super) fn write(&self) -> ReplayPoint {
        ReplayPoint(serde_json::to_value(self).unwrap_or_default())
    }

    pub(super) fn read(split: &SplitId, point: &ReplayPoint) -> Result<Self, SourceError> {
        let damaged = |source: Option<serde_json::Error>| SourceError::Unusable {
            what: format!("the replay point of {split} is not one of a file: {}", point.0),
            source: source.map(|source| source.into()),
        };
        let read: Self = serde_json::from_value(point.0.clone()).map_err(|error| damaged(Some(error)))?;
        if read.version == VERSION { Ok(read) } else { Err(damaged(None)) }
    }
}

/// A file that is a split.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: SplitId,
    pub(super) point: Point,
    pub(super) owner: u32,
    /// How long the file was, as it lies there.
    pub(super) bytes: u64,
    /// A path that the globs match leads to it.
    pub(super) present: bool,
}

impl Entry {
    /// A look has found it.
    fn is_there(&mut self, metadata: &Metadata) {
        self.point.identity.found(metadata);
        (self.bytes, self.present) = (metadata.len(), true);
        if self.point.given_up {
            self.point.go_on();
        }
    }

    /// A task has it: it was not only found in a checkpoint.
    pub(super) fn is_being_read(&self) -> bool {
        self.owner != u32::MAX
    }
}

/// Which files there are.
pub(super) struct Catalog {
    source: String,
    spec: FileSpec,
    is_parquet: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opened: BTreeSet<u32>,
    parallelism: u32,
    entries: Vec<Entry>,
    /// Where they are.
    by_id: BTreeMap<SplitId, usize>,
    parts: Parts,
    scanned: Duration,
}

/// Compressed files that hold a part of what their original holds: how long they are, and at how many looks they were so.
type Parts = BTreeMap<PathBuf, (u64, u32)>;

/// The files of folders, by device and inode.
type Folders = BTreeMap<PathBuf, BTreeMap<(u64, u64), Vec<PathBuf>>>;

fn by_inode(folder: &Path) -> BTreeMap<(u64, u64), Vec<PathBuf>> {
    let mut files: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()) {
        if let Ok(metadata) = fs::metadata(&path) {
            files.entry((metadata.dev(), metadata.ino())).or_default().push(path);
        }
    }
    files
}

/// A file as a glob found it.
pub(super) struct Listed {
    pub(super) path: PathBuf,
    metadata: Metadata,
}

impl Catalog {
    pub(super) fn new(source: &str, spec: FileSpec, is_parquet: bool) -> Self {
        Self { source: source.to_owned(), spec, is_parquet, state: Mutex::default() }
    }

    pub(super) fn spec(&self) -> &FileSpec {
        &self.spec
    }

    /// What the file at a path is known by.
    pub(super) fn identify(&self, path: &Path) -> io::Result<Identity> {
        if self.is_parquet { Identity::at_whole(path) } else { Identity::at(path) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of one task. The first task that asks has them listed; one that asks again begins a new run of the graph.
    pub(super) fn open(
        &self,
        index: u32,
        parallelism: u32,
        restored: &BTreeMap<SplitId, ReplayPoint>,
        resumes: bool,
        now: Duration,
    ) -> Result<Vec<Entry>, SourceError> {
        let mut state = self.state();
        if state.opened.contains(&index) || state.parallelism != parallelism {
            *state = State { parallelism, scanned: now, ..State::default() };
        }
        if state.opened.is_empty() {
            let (mut entries, mut gone) = self.restore(restored)?;
            let listed = self.list(!resumes)?;
            self.merge(&mut entries, &mut gone, &mut state.parts, listed)?;
            self.report(&gone)?;
            entries.extend(self.remembered(gone));
            state.entries = entries;
            assign(&mut state.entries, parallelism);
            state.number();
        }
        state.opened.insert(index);
        Ok(owned(&state.entries, index))
    }

    /// The files of one task as they are now; listed again if the last time is longer ago than the poll interval.
    pub(super) fn scan(&self, index: u32, now: Duration) -> Result<Vec<Entry>, SourceError> {
        let mut state = self.state();
        let State { entries, parts, scanned, parallelism, .. } = &mut *state;
        if now.saturating_sub(*scanned) >= self.spec.poll_interval.get() {
            *scanned = now;
            entries.iter_mut().for_each(|entry| entry.present = false);
            let listed = self.list(false)?;
            self.merge(entries, &mut Vec::new(), parts, listed)?;
            for entry in entries.iter_mut() {
                entry.point.away = if entry.present { 0 } else { entry.point.away.saturating_add(1) };
            }
            // Of other files that have ended nobody has found a trace at several looks.
            let is_remembered = |point: &Point| self.is_parquet && point.away <= REMEMBERED_LOOKS;
            entries.retain(|entry| entry.present || !entry.point.ended || is_remembered(&entry.point));
            assign(entries, *parallelism);
            state.number();
        }
        Ok(owned(&state.entries, index))
    }

    /// The files that have been read and are gone, as far as they are to be known when they come back.
    fn remembered(&self, gone: Vec<Entry>) -> Vec<Entry> {
        let mut kept: Vec<Entry> = gone.into_iter().filter(|_| !self.spec.follow || self.is_parquet).collect();
        for Entry { point, .. } in &mut kept {
            point.away = point.away.saturating_add(1);
            // Only a followed file may be away in its midst.
            point.given_up |= !point.ended;
            point.ended = true;
        }
        kept.sort_by_key(|entry| entry.point.away);
        kept.truncate(REMEMBERED_FILES);
        kept
    }

    /// A task has read on in files, has come to their ends for good, or reads one from its beginning because it has other bytes now.
    pub(super) fn update<'a>(&self, splits: impl IntoIterator<Item = &'a Split>, ended: bool) {
        let mut state = self.state();
        // What has ended was told when it did, and its name may be another file's since.
        for split in splits.into_iter().filter(|split| ended || !split.ended) {
            let Some(&index) = state.by_id.get(&split.id) else { continue };
            let point = &mut state.entries[index].point;
            point.identity = split.identity.clone();
            point.place = split.place();
            point.ended |= ended;
            point.given_up = split.given_up;
        }
    }

    /// Whether there is a file that has not ended.
    pub(super) fn has_more_to_come(&self) -> bool {
        self.state().entries.iter().any(|entry| !entry.point.ended)
    }

    /// The splits of a checkpoint, with the paths at which their files are now, and those whose files are not there.
    fn restore(&self, restored: &BTreeMap<SplitId, ReplayPoint>) -> Result<(Vec<Entry>, Vec<Entry>), SourceError> {
        let (mut entries, mut gone) = (Vec::new(), Vec::new());
        let mut folders = Folders::default();
        for (id, point) in restored {
            let mut point = Point::read(id, point)?;
            let found = self.find(&point, &mut folders);
            // A source that does not follow fails without it.
            let was_given_up = point.given_up && (found.is_some() || !self.spec.follow);
            if was_given_up || (self.spec.follow && point.bounded && found.is_some()) {
                point.go_on();
            }
            let mut bytes = 0;
            if let Some(path) = &found {
                bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
                if let Ok(file) = File::open(path)
                    && let Ok(metadata) = file.metadata()
                {
                    point.identity.found(&metadata);
                    if self.is_parquet && point.identity.whole.is_none() {
                        point.identity = Identity::of_whole(&file).unwrap_or(point.identity);
                    }
                }
                point.path.clone_from(path);
                point.away = 0;
                if point.bounded && self.has_grown(&point, bytes) {
                    // Whole lines behind the end are rows that nobody has read.
                    match ends_a_line(path, point.place.offset) {
                        true => point.go_on(),
                        false => tracing::warn!(
                            source = %self.source, file = %path.display(), read_bytes = point.place.offset, bytes,
                            "a file has grown since it was read to its end; what was added is not read, as the last row that was read goes on in it"
                        ),
                    }
                }
            }
            let present = found.is_some();
            let entry = Entry { id: id.clone(), point, owner: u32::MAX, bytes, present };
            if present { entries.push(entry) } else { gone.push(entry) }
        }
        Ok((entries, gone))
    }

    /// Whether there is something behind the end to which a file was read. Of a compressed one that is not known.
    fn has_grown(&self, point: &Point, bytes: u64) -> bool {
        let is_plain = || Stream::open(&point.path, self.spec.compression).is_ok_and(|stream| !stream.is_compressed());
        !self.is_parquet && bytes > point.place.offset && is_plain()
    }

    /// Where the file of a replay point is: at its path, or beside it under another name.
    fn find(&self, point: &Point, folders: &mut Folders) -> Option<PathBuf> {
        let is_it = |path: &Path| point.identity.fits_at(path);
        let same_inode = |path: &Path| fs::metadata(path).is_ok_and(|metadata| point.identity.same_inode(&metadata));
        // An inode is given again: what is there now may be another file, and the one that was read a copy beside it.
        // What has changed in the midst of being read is told by the reader, where the source does not follow.
        let may_have_changed = !self.spec.follow && !point.ended;
        let is_it_still =
            |path: &Path| same_inode(path) && is_it(path) && (may_have_changed || self.has_read(path, point));
        if is_it_still(&point.path) {
            return Some(point.path.clone());
        }
        let folder = point.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = folders.entry(folder.to_owned()).or_insert_with(|| by_inode(folder));
        let mut beside = beside.get(&(point.identity.device, point.identity.inode)).into_iter().flatten();
        beside.find(|path| is_it_still(path)).cloned().or_else(|| {
            // The same contents under the same path: the file was copied back, or the device has another number now.
            let has_read = || {
                point.place.tail == TailDigest::default()
                    || matches!(Stream::open_at(&point.path, self.spec.compression, false, point.place), Ok(Some(_)))
            };
            (point.identity.head_bytes > 0 && is_it(&point.path) && has_read()).then(|| point.path.clone())
        })
    }

    /// Whether what stands before a place in a file is what was read. Of a compressed one that is seen when it is read up to there.
    fn has_read(&self, path: &Path, point: &Point) -> bool {
        let compression = self.spec.compression;
        let is_compressed = || Stream::open(path, compression).is_ok_and(|stream| stream.is_compressed());
        point.place.tail == TailDigest::default()
            || is_compressed()
            || matches!(Stream::open_at(path, compression, false, point.place), Ok(Some(_)))
    }

    /// Says which files are gone that had not been read to their ends.
    fn report(&self, gone: &[Entry]) -> Result<(), SourceError> {
        for Entry { point, .. } in gone.iter().filter(|entry| !entry.point.ended) {
            if !self.spec.follow {
                let (what, help) = match self.is_parquet {
                    true => ("row", "; put it back as it was when it was read: one that is mended is another file"),
                    false => ("byte", ""),
                };
                return Err(unusable(format!(
                    "source {}: {} is gone or has other contents; the checkpoint goes on in it at {what} {}{help}",
                    self.source,
                    point.path.display(),
                    point.place.offset
                )));
            }
            if self.is_parquet {
                tracing::warn!(source = %self.source, file = %point.path.display(), read_rows = point.place.offset,
                    "a file that was being read is gone, or has other contents; it is read on if it comes back");
                continue;
            }
            tracing::warn!(source = %self.source, file = %point.path.display(), read_bytes = point.place.offset,
                "a file that was being read is gone, or was truncated; what it had behind these bytes, if anything, is lost");
        }
        Ok(())
    }

    /// Every file that a glob matches, by path, each once.
    pub(super) fn list(&self, must_match: bool) -> Result<Vec<Listed>, SourceError> {
        let mut files = BTreeMap::new();
        for pattern in &self.spec.paths {
            let paths = paths::matching(pattern).map_err(|unlisted| match unlisted {
                Unlisted::NoGlob(error) => SourceError::Unusable {
                    what: format!("source {}: `{pattern}` is not a glob", self.source),
                    source: Some(Box::new(error)),
                },
                Unlisted::Unreadable(path, source) => SourceError::Io {
                    what: format!("{}, which `{pattern}` of source {} leads through", path.display(), self.source),
                    source,
                },
            })?;
            let mut matched = false;
            for path in paths {
                match fs::metadata(&path) {
                    // A pipe would be waited for, and has no offsets; a folder or device has no rows.
                    Ok(metadata) if !metadata.is_file() => {}
                    Ok(metadata) => {
                        matched = true;
                        files.insert(path, metadata);
                    }
                    // Gone between the listing and the look, or a link to nothing or in a circle.
                    Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ELOOP) => {}
                    Err(source) => return Err(SourceError::Io { what: path.display().to_string(), source }),
                }
            }
            if !matched && must_match && !self.spec.follow {
                return Err(unusable(format!("source {}: no file matches `{pattern}`", self.source)));
            }
        }
        let mut seen = BTreeSet::new();
        let once = files.into_iter().filter(|(_, metadata)| seen.insert((metadata.dev(), metadata.ino())));
        Ok(once.map(|(path, metadata)| Listed { path, metadata }).collect())
    }

    /// Brings what is known up to what is there. Of the entries that are `gone` those are taken whose file is there as a
    /// compressed copy.
    fn merge(
        &self,
        entries: &mut Vec<Entry>,
        gone: &mut Vec<Entry>,
        parts: &mut Parts,
        listed: Vec<Listed>,
    ) -> Result<(), SourceError> {
        let mut known: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
        for (index, Entry { point: Point { identity, .. }, .. }) in entries.iter().enumerate() {
            known.entry((identity.device, identity.inode)).or_default().push(index);
        }
        let mut unknown = Vec::new();
        for Listed { path, metadata } in listed {
            // Under its own path other contents are a truncation, which the reader finds, unless files do not grow; then,
            // and under another path, they are another file, with an inode that was used before.
            let is_it = |index: &usize| {
                let point = &entries[*index].point;
                (point.path == path && point.identity.is_unchanged(&metadata))
                    || (point.identity.fits_at(&path) && self.has_read(&path, point))
            };
            let mut alike = known.get(&(metadata.dev(), metadata.ino())).into_iter().flatten().copied();
            if let Some(index) = alike.find(is_it) {
                let entry = &mut entries[index];
                entry.point.path = path;
                entry.is_there(&metadata);
                continue;
            }
            unknown.push(Listed { path, metadata });
        }
        let mut ids: BTreeSet<Arc<str>> = entries.iter().chain(&*gone).map(|entry| Arc::clone(&entry.id.0)).collect();
        for Listed { path, metadata } in unknown {
            let known = entries.iter().chain(&*gone);
            let copy = if self.spec.follow { archive::copy_of(&path, &self.spec, known) } else { Ok(Copy::None) };
            let read = copy.and_then(|copy| Ok((copy, self.identify(&path)?)));
            let (copy, identity) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.spec.follow => continue,
                Err(source) => return Err(SourceError::Io { what: path.display().to_string(), source }),
            };
            // Copied back: a file that does not grow is known by what it holds.
            let is_back = |entry: &Entry| {
                !entry.present
                    && entry.point.path == path
                    && entry.point.identity.whole.is_some()
                    && entry.point.identity.fits_at(&path)
            };
            if let Some(entry) = entries.iter_mut().find(|entry| is_back(entry)) {
                entry.is_there(&metadata);
                continue;
            }
            // Renamed while the checkpoint's files were looked for.
            let renamed = |Entry { point, .. }: &Entry| {
                point.identity.same_inode(&metadata) && point.identity.fits_at(&path) && self.has_read(&path, point)
            };
            if let Some(index) = gone.iter().position(renamed) {
                let mut entry = gone.swap_remove(index);
                entry.point.path = path;
                entry.is_there(&metadata);
                entries.push(entry);
                continue;
            }
            let entry = match copy {
                Copy::Unfinished => continue,
                Copy::None if self.spec.follow && self.is_parquet && !has_footer(&path, metadata.len()) => {
                    if has_waited(parts, &path, metadata.len()) {
                        tracing::warn!(source = %self.source, file = %path.display(),
                            "this is no whole Parquet file: it has no footer; it is read once it has");
                    }
                    continue;
                }
                Copy::Part if !is_at_rest(parts, &path, metadata.len()) => continue,
                Copy::None | Copy::Part => {
                    let point = Point::new(path.clone(), identity, Place::default(), false);
                    Entry { id: unique(&path, &mut ids), point, owner: u32::MAX, bytes: metadata.len(), present: true }
                }
                Copy::Of(original) => {
                    tracing::info!(source = %self.source, file = %path.display(), original = %original,
                        "a file is the compressed copy of one that is known; what was read is not read again");
                    match gone.iter().position(|entry| entry.id == original) {
                        // Nobody reads the original any more: its copy is read on in its place.
                        Some(index) => {
                            let Entry { id, point, owner, .. } = gone.swap_remove(index);
                            let point = Point::new(path, identity, point.place, point.ended);
                            Entry { id, point, owner, bytes: metadata.len(), present: true }
                        }
                        // The original is read to its end, also once it has no name any more.
                        None => {
                            let id = unique(&path, &mut ids);
                            let point = Point::new(path, identity, Place::default(), true);
                            Entry { id, point, owner: u32::MAX, bytes: metadata.len(), present: true }
                        }
                    }
                }
            };
            entries.push(entry);
        }
        Ok(())
    }
}

impl State {
    /// Notes where the entries are, which have changed.
    fn number(&mut self) {
        self.by_id = self.entries.iter().enumerate().map(|(index, entry)| (entry.id.clone(), index)).collect();
    }
}

/// Looks at a compressed file that holds a part of its original. Whether it has not grown since it was seen to for the first time.
fn is_at_rest(parts: &mut Parts, path: &Path, bytes: u64) -> bool {
    let rests = looks_alike(parts, path, bytes) > QUIET_POLLS;
    if rests {
        parts.remove(path);
    }
    rests
}

/// Whether a file that is not read yet has been the same for some looks, told once.
fn has_waited(parts: &mut Parts, path: &Path, bytes: u64) -> bool {
    looks_alike(parts, path, bytes) == QUIET_POLLS
}

/// Whether a place is one at which a line begins.
fn ends_a_line(path: &Path, offset: u64) -> bool {
    let Some(before) = offset.checked_sub(1) else { return true };
    let mut byte = [0];
    File::open(path).and_then(|file| file.read_exact_at(&mut byte, before)).is_ok() && byte == *b"\n"
}

/// At how many looks, this one included, a file has been as long as it is.
fn looks_alike(parts: &mut Parts, path: &Path, bytes: u64) -> u32 {
    let (before, looks) = parts.entry(path.to_owned()).or_insert((bytes, 0));
    *looks = if *before == bytes { looks.saturating_add(1) } else { 1 };
    *before = bytes;
    *looks
}

/// Whether a file ends as a Parquet file does: with its footer, the footer's length and a mark.
fn has_footer(path: &Path, bytes: u64) -> bool {
    const MARK: &[u8; 4] = b"PAR1";
    let mut end = [0; FOOTER_END_BYTES as usize];
    let mut read = || File::open(path)?.read_exact_at(&mut end, bytes.saturating_sub(FOOTER_END_BYTES));
    // What cannot be read is told by whoever opens it.
    let Ok(()) = read() else { return bytes >= FOOTER_END_BYTES };
    let footer = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    end.ends_with(MARK) && u64::from(footer) + 12 <= bytes
}

/// The path, with a number if a file that had it before has the name already.
pub(super) fn unique(path: &Path, ids: &mut BTreeSet<Arc<str>>) -> SplitId {
    let plain = path.display().to_string();
    let mut id: Arc<str> = plain.as_str().into();
    let mut number = 2;
    while !ids.insert(Arc::clone(&id)) {
        id = format!("{plain}#{number}").into();
        number += 1;
    }
    SplitId(id)
}

/// Gives every file that has no task to the one with the least to read.
fn assign(entries: &mut [Entry], parallelism: u32) {
    let mut loads = vec![0_u64; parallelism.max(1) as usize];
    let load =
        |entry: &Entry| if entry.point.ended { 0 } else { entry.bytes.saturating_sub(entry.point.place.offset) + 1 };
    for entry in entries.iter() {
        if let Some(total) = loads.get_mut(entry.owner as usize) {
            *total += load(entry);
        }
    }
    let mut unassigned: Vec<&mut Entry> = entries.iter_mut().filter(|entry| entry.owner == u32::MAX).collect();
    unassigned.sort_by_key(|entry| std::cmp::Reverse(load(entry)));
    for entry in unassigned {
        let least = (0..loads.len()).min_by_key(|&task| loads[task]).unwrap_or(0);
        loads[least] += load(entry);
        entry.owner = least as u32;
    }
}

fn owned(entries: &[Entry], index: u32) -> Vec<Entry> {
    entries.iter().filter(|entry| entry.owner == index).cloned().collect()
}
