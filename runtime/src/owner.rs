//! Whose data folder it is: the file `pipeline` in it holds the name of the pipeline that works there.
//!
//! The checkpoints of pipelines lie apart, so without it another name would begin anew in a folder that has been used, beside
//! what the first one has committed to the same sinks.

use std::{fs, io};

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
    let path = folder.path().join(OWNER);
    let found: String = match fs::read(&path) {
        Ok(bytes) => envelope::open(OWNER, VERSION, &path.display().to_string(), &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            durable::replace(&path, &envelope::seal(OWNER, VERSION, &pipeline))?;
            return Ok(());
        }
        Err(source) => return Err(StateError::Io { action: "read", path, source }.into()),
    };
    if found == pipeline { Ok(()) } else { Err(JobError::OtherPipeline { found, expected: pipeline.to_owned() }) }
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
