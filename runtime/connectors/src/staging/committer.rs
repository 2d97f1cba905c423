//! The committer of sinks for which a file under its name is all there is to show: `file` and `parquet`.

use futures::future::BoxFuture;
use millrace_stream::Epoch;

use super::{Folder, Proof, Publisher, fault_point};
use crate::sink::{CommitHandle, Committed, Committer, SinkContext, SinkError};

/// Commits by renaming.
pub(crate) struct FolderCommitter {
    publisher: Publisher,
}

impl FolderCommitter {
    pub(crate) fn new(folder: Folder, cx: &SinkContext) -> Result<Self, SinkError> {
        folder.check()?;
        Ok(Self { publisher: Publisher::new(folder, cx) })
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
            let handles = Publisher::load(handles)?;
            let committed = self.publisher.publish(epoch, &handles).await?;
            self.publisher.completed(&handles).await;
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
                self.publisher.folder().create()?;
                self.publisher.sweep(None, &[]).await?;
                return Ok(Committed::default());
            };
            let handles = Publisher::load(handles)?;
            self.publisher.settle(epoch, &handles, Proof::Renamed, |_| false)?;
            self.publisher.folder().create()?;
            let committed = self.publisher.publish(epoch, &handles).await?;
            self.publisher.completed(&handles).await;
            self.publisher.sweep(Some(epoch), &handles).await?;
            Ok(committed)
        })
    }

    fn newest(&mut self) -> BoxFuture<'_, Result<Option<Epoch>, SinkError>> {
        Box::pin(self.publisher.newest())
    }

    fn discard<'a>(&'a mut self, keep: &'a [CommitHandle]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move { self.publisher.discard(&Publisher::load(keep)?).await })
    }
}
