//! The committer of sinks for which a file under its name is all there is to show: `file` and `parquet`.

use futures::future::BoxFuture;
use millrace_stream::Epoch;

use super::{Folder, Publisher, fault_point};
use crate::sink::{CommitHandle, Committed, Committer, SinkError};

/// Commits by renaming.
pub(crate) struct FolderCommitter {
    publisher: Publisher,
}

impl FolderCommitter {
    pub(crate) fn new(folder: Folder) -> Result<Self, SinkError> {
        folder.create()?;
        Ok(Self { publisher: Publisher::new(folder) })
    }
}

impl Committer for FolderCommitter {
    fn commit<'a>(
        &'a mut self,
        epoch: Epoch,
        handles: &'a [CommitHandle],
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async move {
            fault_point("before-commit")?;
            let committed = self.publisher.publish(epoch, &Publisher::load(handles)?).await?;
            fault_point("after-commit")?;
            Ok(committed)
        })
    }

    fn recover<'a>(
        &'a mut self,
        decided: Option<(Epoch, &'a [CommitHandle])>,
    ) -> BoxFuture<'a, Result<Committed, SinkError>> {
        Box::pin(async move {
            let Some((epoch, handles)) = decided else {
                self.publisher.sweep(&[]).await?;
                return Ok(Committed::default());
            };
            let handles = Publisher::load(handles)?;
            let committed = self.publisher.publish_again(epoch, &handles).await?;
            self.publisher.sweep(&handles).await?;
            Ok(committed)
        })
    }
}
