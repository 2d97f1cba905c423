//! Whose data folder it is: the file `pipeline` in it holds the name of the pipeline that works there.
//!
//! The checkpoints of pipelines lie apart, so without it another name would begin anew in a folder that has been used, beside
//! what the first one has committed to the same sinks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millrace_engine::JobError;
use millrace_state::{DataFolder, StateError, durable, envelope};

const OWNER: &str = "pipeline";
const VERSION: u32 = 1;

/// Takes a data folder for the pipeline of this name, or finds that it has it already.
///
/// # Errors
///
/// [`JobError::OtherPipeline`] if it is another's; [`JobError::State`] if that cannot be found out.
pub fn take(folder: &DataFolder, pipeline: &str) -> Result<(), JobError> {
    match of(folder.path())? {
        None => Ok(note(folder.path(), pipeline)?),
        Some(found) if found == pipeline => Ok(()),
        Some(found) => Err(JobError::OtherPipeline { found, expected: pipeline.to_owned() }),
    }
}

/// The pipeline whose data folder it is; `None`: nobody's yet.
///
/// # Errors
///
/// [`StateError::Damaged`], [`StateError::TooNew`], [`StateError::Io`].
pub fn of(folder: &Path) -> Result<Option<String>, StateError> {
    let path = path(folder);
    match fs::read(&path) {
        Ok(bytes) => envelope::open(OWNER, VERSION, &path.display().to_string(), &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { action: "read", path, source }),
    }
}

/// Notes whose folder it is.
///
/// # Errors
///
/// [`StateError::Io`].
pub fn note(folder: &Path, pipeline: &str) -> Result<(), StateError> {
    durable::replace(&path(folder), &envelope::seal(OWNER, VERSION, &pipeline))
}

/// Where it is noted.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(OWNER)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_state::Opener;
    use millrace_stream::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    /// What a note may have become: each of its bits flipped, cut off anywhere, with more at its end, and bytes of any kind.
    fn damaged(whole: &[u8]) -> Vec<Vec<u8>> {
        let flips = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let cuts = (0..whole.len()).map(|at| whole[..at].to_vec());
        let added = [&b"\n"[..], b" ", b"\0", b"null\n", &vec![b'['; 1 << 20], whole];
        let added = added.into_iter().map(|more| [whole, more].concat());
        let others = (0..200_u64).map(|number| {
            let mix = |at: u64| (number * 300 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            (0..number).map(|at| mix(at) as u8).collect()
        });
        flips.chain(cuts).chain(added).chain(others).collect()
    }

    /// What a note may say under a right checksum.
    fn any_values() -> Vec<Value> {
        let deep = (0..100).fold(json!("web"), |inner, _| json!([inner]));
        let long = "w".repeat(1 << 20);
        let texts =
            ["", "web", "\0", "a\nb", "ü/../..", "s3://", "file://", "file:///%00", "://", "s3://b/\u{1}?#", &long];
        let numbers = [json!(0), json!(-1), json!(u64::MAX), json!(0.5)];
        let others = [json!(null), json!(true), json!([]), json!(["web"]), json!({}), json!({"pipeline": "web"}), deep];
        texts.into_iter().map(Value::from).chain(numbers).chain(others).collect()
    }

    /// The note at a path, which says `text`, is refused when it is damaged, and means nothing but what it says. `read` reads it;
    /// the inner `None` is what `null` says.
    pub(crate) fn expect_nothing_guessed(
        path: &Path,
        (kind, version): (&str, u32),
        text: &str,
        read: impl Fn() -> Result<Option<Option<String>>, StateError>,
    ) {
        let whole = fs::read(path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(path, bytes).unwrap();
            read()
        };
        assert_eq!(read(&whole).unwrap(), Some(Some(text.to_owned())));
        for bytes in damaged(&whole) {
            let error = read(&bytes).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. } | StateError::TooNew { .. }), "{error}: {bytes:?}");
        }
        for value in any_values() {
            match read(&envelope::seal(kind, version, &value)) {
                Ok(found) => assert_eq!(found.unwrap().as_deref(), value.as_str()),
                Err(error) => assert!(error.is_damaged_note() && !value.is_string(), "{error}: {value}"),
            }
        }
        let newer = read(&envelope::seal(kind, version + 1, &text));
        assert!(matches!(newer, Err(StateError::TooNew { .. })), "{newer:?}");
        assert!(read(&envelope::seal("another", version, &text)).is_err(), "the note of something else");
    }

    #[test]
    fn a_folder_belongs_to_the_pipeline_that_took_it_first() {
        let folder = tempfile::tempdir().unwrap();
        let opener = Opener::this_process(Timestamp(0), "instance".to_owned());
        let folder = DataFolder::open(folder.path(), &opener).unwrap();
        take(&folder, "web").unwrap();
        take(&folder, "web").unwrap();
        let error = take(&folder, "shop").unwrap_err().to_string();
        assert!(error.contains("belongs to pipeline web, not to shop"), "{error}");
        fs::write(folder.path().join(OWNER), "web").unwrap();
        assert!(matches!(take(&folder, "web"), Err(JobError::State(_))), "a damaged file is not guessed from");
    }

    #[test]
    fn version_1_is_what_the_golden_text_says() {
        let golden = "{\"millrace\":\"pipeline\",\"version\":1,\"bytes\":5,\"xxh3\":\"5afe6d5e6083d47f\"}\n\"web\"\n";
        assert_eq!(String::from_utf8(envelope::seal(OWNER, VERSION, &"web")).unwrap(), golden);
    }

    #[test]
    fn a_damaged_note_is_refused_and_no_name_is_guessed() {
        let folder = tempfile::tempdir().unwrap();
        note(folder.path(), "web").unwrap();
        expect_nothing_guessed(&path(folder.path()), (OWNER, VERSION), "web", || Ok(of(folder.path())?.map(Some)));
    }
}
