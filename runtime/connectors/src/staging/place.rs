//! Which staging folder this is.
//!
//! A staging folder has a mark, an empty folder whose name no other staging folder has: generation and time of whoever made
//! it. A handle names the mark, so one that is read later tells whether the files that it names were staged in the folder
//! that is there now, or in one that has been removed or replaced since. The mark is made durable together with the names of
//! the files. An empty folder and no file, so that readers that look for files find nothing.

use std::{collections::BTreeSet, fs, io};

use millrace_stream::{Epoch, Generation, Timestamp};

use super::{Folder, cannot};
use crate::sink::SinkError;

/// What marks begin with.
const MARK: &str = "made-";
/// What the names of files begin with by which users say that rows may be lost.
const LOST: &str = "lost-";

/// The mark of a staging folder that is made now.
pub(super) fn mark(generation: Generation, now: Timestamp) -> String {
    format!("{MARK}{:08}-{}", generation.0, now.0)
}

/// The file by which a user says that what is missing of this epoch may be left out.
pub(super) fn lost(epoch: Epoch) -> String {
    format!("{LOST}e{:010}", epoch.0)
}

/// Whether what has this name in a staging folder is nothing that was staged.
pub(super) fn is_mark(name: &str) -> bool {
    name.starts_with(MARK)
}

/// What one look at a staging folder has found.
pub(crate) struct Listing {
    names: BTreeSet<String>,
}

impl Listing {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether it is the folder that has this mark. Handles of version 1 tell of none.
    pub(crate) fn is_of(&self, place: Option<&str>) -> bool {
        place.is_none_or(|place| self.has(place))
    }

    /// Whether the user has said that rows of the checkpoint may be lost. Of what was said to earlier ones nothing is left.
    pub(crate) fn forgives(&self) -> bool {
        self.names.iter().any(|name| name.starts_with(LOST))
    }

    fn mark(&self) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|name| is_mark(name))
    }
}

impl Folder {
    /// The staging folder's mark, as it was when the folder was opened.
    pub(crate) fn place(&self) -> Option<&str> {
        self.place.get().map(String::as_str)
    }

    /// What is in the staging folder; `None`: there is no such folder.
    pub(crate) fn look(&self) -> Result<Option<Listing>, SinkError> {
        self.list().map_err(|source| cannot("read", &self.staging, source))
    }

    fn list(&self) -> io::Result<Option<Listing>> {
        let entries = match fs::read_dir(&self.staging) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            // Our own names are all ASCII.
            names.extend(entry?.file_name().into_string());
        }
        Ok(Some(Listing { names }))
    }

    /// Reads the folder's mark, which it gets if it has none.
    pub(super) fn settle_place(&self) -> io::Result<()> {
        let found = self.list()?.and_then(|listing| listing.mark().map(str::to_owned));
        let place = match found {
            Some(found) => found,
            None => {
                match fs::create_dir(self.staging.join(&self.mark)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                self.mark.clone()
            }
        };
        // What was staged is in the folder that was there first.
        let _ = self.place.set(place);
        Ok(())
    }

    /// The staging folder is not the one that was opened.
    pub(crate) fn vanished(&self) -> SinkError {
        let why = "the folder was removed or replaced while rows were staged in it";
        cannot("write", &self.staging, io::Error::new(io::ErrorKind::NotFound, why))
    }
}
