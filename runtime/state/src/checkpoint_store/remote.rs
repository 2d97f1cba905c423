//! A checkpoint store in an object store.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, aws::AmazonS3Builder,
    path::Path as Location,
};
use url::Url;

use super::{StateError, StoredFile, blocking, credentials, verify};
use crate::{durable, fault, task_store::LocalFile};

/// For how long a request is tried again, where the answer is that it may pass. The coordinator waits meanwhile, so not long:
/// whoever asked tries again by its own rules.
const RETRIES: RetryConfig = RetryConfig { backoff: BACKOFF, max_retries: 5, retry_timeout: Duration::from_secs(15) };
const BACKOFF: BackoffConfig =
    BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), base: 2.0 };

/// The environment variable that names a folder with what an object store asks for: see [`credentials`].
const CREDENTIALS: &str = "MILLRACE_STORAGE_CREDENTIALS";

/// The object store at a URL, and where in it. What an S3 store is reached with (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …)
/// comes from the environment, and from the folder that it names.
pub(super) fn open(url: &Url) -> object_store::Result<(Arc<dyn ObjectStore>, Location)> {
    if matches!(url.scheme(), "s3" | "s3a") {
        let mut builder = AmazonS3Builder::from_env();
        if let Some(folder) = std::env::var_os(CREDENTIALS).filter(|folder| !folder.is_empty()) {
            let with = credentials::Folder::new(folder.into()).apply_to(builder);
            builder = with.map_err(|source| object_store::Error::Generic { store: "S3", source: source.into() })?;
        }
        let store = builder.with_url(url.as_str()).with_retry(RETRIES).build()?;
        let path = Location::from_url_path(url.path())?;
        return Ok((Arc::new(store), path));
    }
    let (store, path) = object_store::parse_url(url)?;
    Ok((Arc::from(store), path))
}

/// Objects are sent and fetched whole: a data file has at most about 32 MiB
/// ([`FILE_BYTES`](crate::task_store::FILE_BYTES)), and one at a time is under way for a task.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: Location,
    url: Arc<str>,
}

impl Remote {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: Location, url: Arc<str>) -> Self {
        Self { store, prefix, url }
    }

    fn at(&self, location: &str) -> Location {
        location.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn error(&self, action: &'static str, location: &str) -> impl FnOnce(object_store::Error) -> StateError {
        let (location, store) = (location.to_owned(), self.url.to_string());
        move |source| StateError::Store { action, location, store, source: Box::new(source) }
    }

    pub(super) async fn put_file(&self, file: &LocalFile, stored: &StoredFile) -> Result<(), StateError> {
        let path = file.path.clone();
        let content = blocking(move || fs::read(&path).map_err(StateError::io("read", path))).await?;
        let content = Bytes::from(content);
        verify(&file.path.display().to_string(), &content, stored)?;
        fault::point("mid-upload")?;
        let put = self.store.put(&self.at(&stored.name), PutPayload::from_bytes(content)).await;
        put.map(drop).map_err(self.error("write", &stored.name))
    }

    /// A file's content, if it is what was written.
    pub(super) async fn verified(&self, file: &StoredFile) -> Result<Bytes, StateError> {
        let place = format!("{}/{}", self.url, file.name);
        let Some(content) = self.read(&file.name).await? else {
            return Err(StateError::Missing { place, named_by: "the checkpoint's manifest".into() });
        };
        let content = Bytes::from(content);
        verify(&place, &content, file)?;
        Ok(content)
    }

    pub(super) async fn get_file(&self, file: &StoredFile, to: &Path) -> Result<(), StateError> {
        let content = self.verified(file).await?;
        let to = to.to_owned();
        blocking(move || durable::replace(&to, &content)).await
    }

    pub(super) async fn create(&self, location: &str, content: Vec<u8>) -> Result<bool, StateError> {
        match self.store.put_opts(&self.at(location), content.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.error("create", location)(error)),
        }
    }

    pub(super) async fn read(&self, location: &str) -> Result<Option<Vec<u8>>, StateError> {
        let read = async { self.store.get(&self.at(location)).await?.bytes().await };
        match read.await {
            Ok(content) => Ok(Some(content.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("read", location)(error)),
        }
    }

    pub(super) async fn delete(&self, location: &str) -> Result<(), StateError> {
        match self.store.delete(&self.at(location)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", location)(error)),
        }
    }

    pub(super) async fn list(&self, within: &str) -> Result<Vec<(String, u64)>, StateError> {
        let prefix = self.at(within);
        let objects: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.map_err(self.error("list", within))?;
        let location = |location: &Location| {
            let parts: Vec<_> = location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        let mut found: Vec<_> =
            objects.iter().filter_map(|object| Some((location(&object.location)?, object.size))).collect();
        found.sort_unstable();
        Ok(found)
    }
}
