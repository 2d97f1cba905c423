//! A data folder of which a note is damaged, so that it cannot be opened: what is in it, and how a note is made anew.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use millrace_stream::Generation;
use serde::de::DeserializeOwned;

use super::{
    ErrorKind, GENERATION, Holder, INSTANCE, LAYOUT, Layout, StateError, VERSION, durable, envelope, read_fact,
    refuse_strangers, take_lock,
};

/// A data folder that this process, and no other, repairs. Given back when dropped.
#[derive(Debug)]
pub struct DamagedFolder {
    path: PathBuf,
    _lock: File,
}

/// What became of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note<T> {
    /// It can be read; `None`: there is none.
    Whole(Option<T>),
    /// It is not what was written.
    Damaged,
}

impl<T> Note<T> {
    /// Of an attempt to read it.
    ///
    /// # Errors
    ///
    /// Every error that says nothing of damage.
    pub fn of(read: Result<Option<T>, StateError>) -> Result<Self, StateError> {
        match read {
            Ok(found) => Ok(Self::Whole(found)),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Self::Damaged),
            Err(error) => Err(error),
        }
    }

    /// Whether it is damaged.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged)
    }

    /// What it says, if anything.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Whole(found) => found,
            Self::Damaged => None,
        }
    }
}

impl DamagedFolder {
    /// Takes the folder, which is there.
    ///
    /// # Errors
    ///
    /// [`StateError::Held`], [`StateError::NotADataFolder`] if it has neither a lock nor a layout, [`StateError::Io`].
    pub fn take(path: &Path, holder: &Holder) -> Result<Self, StateError> {
        refuse_strangers(path)?;
        Ok(Self { path: path.to_owned(), _lock: take_lock(path, holder)? })
    }

    /// The version of its layout. There has been one so far, so a damaged note of it is no loss.
    ///
    /// # Errors
    ///
    /// As of [`Note::of`]; so for the others.
    pub fn layout(&self) -> Result<Note<u32>, StateError> {
        self.read::<Layout>(LAYOUT).map(|note| match note {
            Note::Whole(found) => Note::Whole(found.map(|found| found.layout)),
            Note::Damaged => Note::Damaged,
        })
    }

    /// Its id.
    ///
    /// # Errors
    ///
    /// As of [`Note::of`].
    pub fn instance(&self) -> Result<Note<String>, StateError> {
        self.read(INSTANCE)
    }

    /// The last generation that it handed out.
    ///
    /// # Errors
    ///
    /// As of [`Note::of`].
    pub fn generation(&self) -> Result<Note<Generation>, StateError> {
        self.read(GENERATION)
    }

    /// Notes this layout anew. Gives the new path of what was there; so for the others.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn renew_layout(&self) -> Result<Option<PathBuf>, StateError> {
        self.renew(LAYOUT, &envelope::seal(LAYOUT, VERSION, &Layout { layout: VERSION }))
    }

    /// Takes the id away. The next start takes that of the checkpoint which it goes on from, or makes one.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn forget_instance(&self) -> Result<Option<PathBuf>, StateError> {
        let path = self.path.join(INSTANCE);
        let kept = durable::keep_damaged(&path)?;
        durable::remove(&path)?;
        Ok(kept)
    }

    /// Goes on counting from `last`, which must be no less than any generation that was handed out.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`].
    pub fn renew_generation(&self, last: Generation) -> Result<Option<PathBuf>, StateError> {
        self.renew(GENERATION, &envelope::seal(GENERATION, VERSION, &last))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Note<T>, StateError> {
        Note::of(read_fact(&self.path.join(name), name))
    }

    fn renew(&self, name: &str, sealed: &[u8]) -> Result<Option<PathBuf>, StateError> {
        let path = self.path.join(name);
        let kept = durable::keep_damaged(&path)?;
        durable::replace(&path, sealed)?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use millrace_stream::Timestamp;

    use super::*;
    use crate::{DataFolder, Opener};

    #[test]
    fn every_note_that_is_damaged_is_found_kept_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let opener = Opener::this_process(Timestamp(0), "instance-1".into());
        let data = DataFolder::open(folder.path(), &opener).unwrap();
        data.next_generation(None).unwrap();
        let held = DamagedFolder::take(folder.path(), &opener.holder).unwrap_err();
        assert!(matches!(held, StateError::Held { .. }), "nobody repairs under a run: {held}");
        drop(data);

        let damaged = DamagedFolder::take(folder.path(), &opener.holder).unwrap();
        assert_eq!(damaged.generation().unwrap(), Note::Whole(Some(Generation(1))));
        for name in [LAYOUT, INSTANCE, GENERATION] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert!(damaged.layout().unwrap().is_damaged() && damaged.instance().unwrap().is_damaged());
        assert!(damaged.generation().unwrap().is_damaged());
        let kept = [damaged.renew_layout(), damaged.forget_instance(), damaged.renew_generation(Generation(7))];
        for (kept, name) in kept.into_iter().zip([LAYOUT, INSTANCE, GENERATION]) {
            assert_eq!(fs::read_to_string(kept.unwrap().unwrap()).unwrap(), name);
        }
        assert_eq!(damaged.instance().unwrap(), Note::Whole(None));
        drop(damaged);

        let second = Opener { fresh_instance: "instance-2".into(), ..opener };
        let data = DataFolder::open(folder.path(), &second).unwrap();
        assert_eq!(data.instance(), "instance-2");
        assert_eq!(data.next_generation(None).unwrap(), Generation(8));
    }

    #[test]
    fn a_folder_of_a_newer_layout_is_not_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let opener = Opener::this_process(Timestamp(0), "instance-1".into());
        drop(DataFolder::open(folder.path(), &opener).unwrap());
        fs::write(folder.path().join(LAYOUT), envelope::seal(LAYOUT, 2, &1)).unwrap();
        let damaged = DamagedFolder::take(folder.path(), &opener.holder).unwrap();
        assert!(matches!(damaged.layout(), Err(StateError::TooNew { .. })));
    }
}
