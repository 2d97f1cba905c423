//! What the `prepare` of every staging sink begins and ends with.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;

use super::{Folder, Handle, cannot, fault_point, spawn_io};
use crate::{
    causes::chain,
    sink::{CommitHandle, SinkError},
};

/// What failed first, after which it is unknown what is in the staged files until the sink is opened again from a checkpoint. A
/// clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failed(Arc<OnceLock<String>>);

impl Failed {
    /// Fails if something failed before, for the same reason; another try may succeed.
    pub(crate) fn check(&self, folder: &Folder) -> Result<(), SinkError> {
        match self.0.get() {
            None => Ok(()),
            Some(why) => Err(cannot("write", folder.root(), io::Error::other(why.clone()))),
        }
    }

    /// Passes `result` on, and remembers an error.
    pub(crate) fn note<T>(&self, result: Result<T, SinkError>) -> Result<T, SinkError> {
        if let Err(error) = &result {
            self.0.get_or_init(|| chain(error));
        }
        result
    }
}

/// The future of a `prepare` whose epoch is sealed, and being made durable by `staging`.
pub(crate) fn prepared(
    failed: Failed,
    staging: Result<impl Future<Output = Result<Handle, SinkError>> + Send + 'static, SinkError>,
) -> BoxFuture<'static, Result<CommitHandle, SinkError>> {
    Box::pin(async move {
        let handle = match staging {
            Ok(staging) => staging.await,
            Err(error) => Err(error),
        };
        let handle = failed.note(handle);
        fault_point("sink-prepared")?;
        handle?.store()
    })
}

/// Makes the names of staged files durable.
pub(crate) async fn sync_staging(folder: &Folder) -> Result<(), SinkError> {
    let staging = folder.staging().to_path_buf();
    let synced = spawn_io(move || std::fs::File::open(staging)?.sync_all()).await;
    synced.map_err(|source| cannot("write", folder.staging(), source))?;
    // What is staged in a folder without the mark that it was opened with would not be missed later.
    match folder.look()?.is_some_and(|listing| listing.is_of(folder.place())) {
        true => Ok(()),
        false => Err(folder.vanished()),
    }
}
