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
mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_state::Opener;
    use millrace_stream::Timestamp;

    use super::*;

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
}
