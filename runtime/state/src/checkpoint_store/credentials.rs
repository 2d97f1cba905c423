//! What an object store asks for before it lets in, from a folder: one file a key, as a Secret is mounted.
//!
//! The files are named as the variables of the environment are, `AWS_ACCESS_KEY_ID` for example, and have precedence over these.
//! The access key is read anew for each request, so one that is replaced is taken up without a restart; everything else
//! (`AWS_ENDPOINT_URL`, `AWS_REGION`, …) is read when the store is opened. A mounted Secret is replaced as a whole, by a link
//! `..data` that points to another folder, so that no two files of one reading are of different Secrets.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use object_store::{
    CredentialProvider,
    aws::{AmazonS3Builder, AwsCredential},
};

/// The link in a mounted Secret that points to the folder with its files.
const CURRENT: &str = "..data";
const KEY_ID: &str = "aws_access_key_id";
const SECRET: &str = "aws_secret_access_key";
const TOKEN: &str = "aws_session_token";
/// A file that is longer is none of these.
const MAX_BYTES: u64 = 64 << 10;

/// A folder with a file for each key.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// What was read last.
    last: Mutex<Option<Arc<AwsCredential>>>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::default() }
    }

    /// Gives a store all that the folder has.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(super) fn apply_to(self, mut builder: AmazonS3Builder) -> io::Result<AmazonS3Builder> {
        let values = read(&self.path)?;
        for (name, value) in &values {
            if ![KEY_ID, SECRET, TOKEN].contains(&name.as_str())
                && let Ok(key) = name.parse()
            {
                builder = builder.with_config(key, value);
            }
        }
        // Without a key of its own the store's folder tells where it is, and no more.
        let has_key = values.contains_key(KEY_ID) || values.contains_key(SECRET);
        Ok(if has_key { builder.with_credentials(Arc::new(self)) } else { builder })
    }

    fn credential(&self) -> io::Result<Arc<AwsCredential>> {
        let mut values = read(&self.path)?;
        let mut value = |name: &str| values.remove(name).filter(|value| !value.is_empty());
        let (key_id, secret_key, token) = (value(KEY_ID), value(SECRET), value(TOKEN));
        let (Some(key_id), Some(secret_key)) = (key_id, secret_key) else {
            let missing = format!("{} has not both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", self.path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, missing));
        };
        let read = AwsCredential { key_id, secret_key, token };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) if **last == read => return Ok(last.clone()),
            Some(_) => {
                tracing::info!(folder = %self.path.display(), key = %read.key_id, "another key for the object store")
            }
            None => {}
        }
        let read = Arc::new(read);
        *last = Some(read.clone());
        Ok(read)
    }
}

// As the macro `async_trait` has it.
impl CredentialProvider for Folder {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        // A few short files that are in memory, where they are a Secret's.
        let read = self.credential();
        let read = read.map_err(|source| object_store::Error::Generic { store: "S3", source: source.into() });
        Box::pin(async { read })
    }
}

/// All files of a folder, by their names in small letters.
fn read(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    // Where the link was moved in the middle, what it pointed to is gone.
    read_once(folder).or_else(|_| read_once(folder))
}

fn read_once(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let current = match fs::canonicalize(folder.join(CURRENT)) {
        Ok(current) => current,
        Err(_) => folder.to_owned(),
    };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let mut values = BTreeMap::new();
    for entry in fs::read_dir(current).map_err(named)? {
        let entry = entry.map_err(named)?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if !name.starts_with("aws_") {
            continue;
        }
        let path = entry.path();
        if fs::metadata(&path).map_err(named)?.len() <= MAX_BYTES {
            values.insert(name, fs::read_to_string(&path).map_err(named)?.trim().to_owned());
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use futures::FutureExt;

    use super::*;

    /// A Secret as the kubelet mounts it: each key a link through `..data`.
    fn mount(folder: &Path, version: &str, values: &[(&str, &str)]) {
        let current = folder.join(version);
        fs::create_dir(&current).unwrap();
        for (name, value) in values {
            fs::write(current.join(name), value).unwrap();
            let _ = symlink(Path::new(CURRENT).join(name), folder.join(name));
        }
        symlink(version, folder.join("..next")).unwrap();
        fs::rename(folder.join("..next"), folder.join(CURRENT)).unwrap();
    }

    fn credential(folder: &Folder) -> (String, String, Option<String>) {
        let read = folder.get_credential().now_or_never().unwrap().unwrap();
        (read.key_id.clone(), read.secret_key.clone(), read.token.clone())
    }

    #[test]
    fn a_key_that_is_replaced_is_read_at_the_next_request() {
        let mounted = tempfile::tempdir().unwrap();
        let both = |id: &'static str, secret| [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
        mount(mounted.path(), "..1", &both("one", "first\n"));
        let folder = Folder::new(mounted.path().to_owned());
        assert_eq!(credential(&folder), ("one".to_owned(), "first".to_owned(), None));
        let before = folder.credential().unwrap();
        assert!(Arc::ptr_eq(&before, &folder.credential().unwrap()));
        mount(mounted.path(), "..2", &[&both("two", "second")[..], &[("AWS_SESSION_TOKEN", "token")]].concat());
        assert_eq!(credential(&folder), ("two".to_owned(), "second".to_owned(), Some("token".to_owned())));
        fs::remove_dir_all(mounted.path().join("..2")).unwrap();
        let error = folder.get_credential().now_or_never().unwrap().unwrap_err().to_string();
        assert!(error.contains(&mounted.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_plain_folder_will_do_and_names_the_endpoint_too() {
        let mounted = tempfile::tempdir().unwrap();
        for (name, value) in [("AWS_ENDPOINT_URL", "http://10.0.0.1:9000"), ("AWS_REGION", "eu-west-3"), ("other", "x")]
        {
            fs::write(mounted.path().join(name), value).unwrap();
        }
        let builder = AmazonS3Builder::new().with_bucket_name("lake");
        let builder = Folder::new(mounted.path().to_owned()).apply_to(builder).unwrap();
        let said = |key: &str| builder.get_config_value(&key.parse().unwrap());
        assert_eq!(said("aws_endpoint_url").as_deref(), Some("http://10.0.0.1:9000"));
        assert_eq!(said("aws_region").as_deref(), Some("eu-west-3"));
    }

    #[test]
    fn half_a_key_is_none() {
        let mounted = tempfile::tempdir().unwrap();
        fs::write(mounted.path().join("AWS_ACCESS_KEY_ID"), "one").unwrap();
        let error = Folder::new(mounted.path().to_owned()).credential().unwrap_err();
        assert!(error.to_string().contains("has not both"), "{error}");
    }
}
