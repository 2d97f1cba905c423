//! A reader that looks at a folder of files all the time while a pipeline writes into it, is killed and recovers.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{read, wait};

/// What the reader has seen, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often it looked.
    pub looks: u64,
    /// How many files it has read.
    pub files: u64,
    /// How many rows.
    pub rows: u64,
    /// Rows that were there twice, files that went or changed.
    pub wrong: Vec<String>,
}

/// A reader of a folder, in a thread of its own.
#[derive(Debug)]
pub struct Watcher {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Watcher {
    /// Begins to read. `identity` are the columns in which no two rows agree.
    pub fn start(folder: &Path, identity: &[&str]) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let identity: Vec<String> = identity.iter().map(|&name| name.to_owned()).collect();
        let thread = {
            let (folder, ended) = (folder.to_owned(), ended.clone());
            thread::spawn(move || look(&folder, &identity, &ended))
        };
        Self { ended, thread: Some(thread) }
    }

    /// Looks a last time and ends.
    ///
    /// # Panics
    ///
    /// If the reader failed.
    pub fn stop(mut self) -> Seen {
        self.ended.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it is taken here only");
        thread.join().expect("a committed file can be read")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

/// What was read stays: a committed file neither goes nor changes, so each is read once.
fn look(folder: &Path, identity: &[String], ended: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut sizes: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut places: HashMap<String, PathBuf> = HashMap::new();
    loop {
        let last = ended.load(Ordering::SeqCst);
        let files: BTreeMap<PathBuf, u64> = read::visible_files(folder).into_iter().collect();
        for path in sizes.keys().filter(|path| !files.contains_key(*path)) {
            seen.wrong.push(format!("{} was there and has gone", path.display()));
        }
        sizes.retain(|path, _| files.contains_key(path));
        for (path, size) in files {
            match sizes.insert(path.clone(), size) {
                Some(before) if before == size => continue,
                Some(before) => {
                    seen.wrong.push(format!("{} had {before} bytes and has {size}", path.display()));
                    continue;
                }
                None => seen.files += 1,
            }
            for key in read::identities(&path, identity) {
                seen.rows += 1;
                if let Some(other) = places.insert(key.clone(), path.clone()) {
                    seen.wrong.push(format!("{key} is in {} and in {}", other.display(), path.display()));
                }
            }
        }
        seen.looks += 1;
        if last {
            return seen;
        }
        wait::pass(Duration::from_millis(10));
    }
}
