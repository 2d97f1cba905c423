//! Which files were committed last, kept on this machine.
//!
//! A file that is gone after a start, from the staging folder and from its final place, was committed if it stands here:
//! then somebody took it away, which is their right. The record is written after the commit is durable, and not made
//! durable itself: what it says is true, and what it does not say has to be known from elsewhere. No two files ever have the
//! same staged name, so what an old record says stays true.
//!
//! It has the form of [`envelope`].

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use millrace_state::envelope;
use serde::{Deserialize, Serialize};

use super::Handle;

const KIND: &str = "committed";
const VERSION: u32 = 1;

/// The last commit of a sink node.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    fact: Fact,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fact {
    /// By their staged names.
    files: BTreeSet<String>,
}

impl Record {
    /// The record in this folder, as far as one can be read.
    pub(super) fn read(scratch: PathBuf) -> Self {
        let path = scratch.join(KIND);
        let read = || envelope::open(KIND, VERSION, &path.display().to_string(), &fs::read(&path).ok()?).ok();
        let fact = read().unwrap_or_default();
        Self { path, fact }
    }

    /// Whether the file was committed.
    pub(super) fn has(&self, staged: &str) -> bool {
        self.fact.files.contains(staged)
    }

    /// Everything that the handles name is committed. Gives what is left to do: to write that down.
    pub(super) fn note(&mut self, handles: &[Handle]) -> Option<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let files = handles.iter().flat_map(|handle| &handle.files).map(|file| file.staged.clone()).collect();
        let fact = Fact { files };
        if fact.files.is_empty() || fact == self.fact {
            return None;
        }
        let sealed = envelope::seal(KIND, VERSION, &fact);
        self.fact = fact;
        let path = self.path.clone();
        Some(move || {
            let beside = path.with_extension("new");
            fs::write(&beside, sealed)?;
            fs::rename(&beside, &path)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::{prelude::*, sample::Index};
    use serde_json::{Value, json};

    use super::*;
    use crate::staging::Prepared;

    fn handles(staged: &[&str]) -> Vec<Handle> {
        let file = |name: &&str| Prepared { staged: (*name).to_owned(), ..Prepared::default() };
        vec![Handle { files: staged.iter().map(file).collect(), ..Handle::default() }]
    }

    #[test]
    fn a_record_keeps_its_form_and_a_damaged_one_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = || folder.path().to_path_buf();
        let mut record = Record::read(scratch());
        assert!(record.note(&handles(&[])).is_none());
        record.note(&handles(&["b.staged", "a.staged"])).unwrap()().unwrap();
        let text = fs::read_to_string(folder.path().join("committed")).unwrap();
        assert_eq!(text.lines().nth(1).unwrap(), r#"{"files":["a.staged","b.staged"]}"#);
        assert!(text.starts_with(r#"{"millrace":"committed","version":1,"#), "{text}");
        let read = Record::read(scratch());
        assert!(read.has("a.staged") && read.has("b.staged") && !read.has("c.staged"));
        assert!(record.note(&handles(&["a.staged", "b.staged"])).is_none(), "nothing new");

        for bytes in [&b""[..], &text.as_bytes()[..text.len() - 1], text.replace("b.staged", "c.staged").as_bytes()] {
            fs::write(folder.path().join("committed"), bytes).unwrap();
            assert!(!Record::read(scratch()).has("a.staged"));
        }
    }

    proptest! {
        #[test]
        fn a_record_of_any_bytes_says_nothing(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            is_damage: bool,
            (at, bits) in (any::<Index>(), 1_u8..),
            cut in prop::option::of(any::<Index>()),
        ) {
            let fact = Fact { files: BTreeSet::from(["a.staged".to_owned()]) };
            let mut damaged = envelope::seal(KIND, VERSION, &fact);
            *at.get_mut(&mut damaged) ^= bits;
            damaged.truncate(cut.map_or(damaged.len(), |cut| cut.index(damaged.len())));
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(KIND), if is_damage { damaged } else { bytes }).unwrap();
            prop_assert_eq!(Record::read(folder.path().to_path_buf()).fact, Fact::default());
        }

        #[test]
        fn a_record_under_a_right_checksum_is_read_or_says_nothing(
            names in prop::collection::vec(prop_oneof![4 => ".{0,9}".prop_map(Value::from), 1 => Just(json!(1))], 0..4),
            is_list: bool,
            version in 0..3_u32,
        ) {
            let files = if is_list { json!(names) } else { json!({"x": names}) };
            let folder = tempfile::tempdir().unwrap();
            let sealed = envelope::seal(KIND, version, &json!({"files": files}));
            fs::write(folder.path().join(KIND), sealed).unwrap();
            let record = Record::read(folder.path().to_path_buf());
            let is_one = is_list && version <= VERSION && names.iter().all(Value::is_string);
            let named = names.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect();
            prop_assert_eq!(record.fact.files, if is_one { named } else { BTreeSet::new() });
        }
    }
}
