//! A folder for one test, in which `millrace` runs and which is removed with it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use tempfile::TempDir;

/// A test's folder. The repository's `examples` can be reached from it under that name, as from a checkout.
///
/// With `MILLRACE_KEEP` set it stays there when the test ends.
#[derive(Debug)]
pub struct Workspace {
    folder: Option<TempDir>,
    path: PathBuf,
}

impl Workspace {
    /// A new, empty one.
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("millrace-test-").tempdir().expect("the temporary folder is writable");
        let path = folder.path().to_owned();
        std::os::unix::fs::symlink(repository().join("examples"), path.join("examples")).expect("the folder is new");
        if std::env::var_os("MILLRACE_KEEP").is_some() {
            println!("keeps {}", folder.keep().display());
            return Self { folder: None, path };
        }
        Self { folder: Some(folder), path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into it, with the folders that it needs. One that is there is replaced at once: nobody sees half.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let folder = path.parent().expect("a file is in a folder");
        fs::create_dir_all(folder).expect("the workspace is writable");
        let partial = self.path.join(".partial");
        fs::write(&partial, content).and_then(|()| fs::rename(&partial, &path)).expect("the workspace is writable");
        path
    }

    /// Appends to a file, as a program that logs does.
    pub fn append(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let file = fs::OpenOptions::new().append(true).create(true).open(self.join(name));
        file.and_then(|mut file| file.write_all(content.as_ref())).expect("the workspace is writable");
    }

    /// Stays there when the test ends.
    pub fn keep(&mut self) -> &Path {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
        &self.path
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// The checkout. Cargo says at run time which; what it said when this was compiled may be another one that shares the target
/// folder.
pub fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let above = Path::new(&package).ancestors().find(|folder| folder.join("Cargo.lock").exists());
        above.expect("a package lies in the checkout").to_path_buf()
    });
    &REPOSITORY
}

/// The text of a gzipped file of the checkout.
///
/// # Panics
///
/// If it is none.
pub fn unpacked(file: &str) -> String {
    let unpacked = Command::new("gzip").args(["-dc", file]).current_dir(repository()).output().expect("gzip is there");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    String::from_utf8(unpacked.stdout).expect("it is text")
}

/// Where downloads are kept, and the Python venv.
pub fn cache() -> PathBuf {
    match std::env::var_os("CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/millrace"),
    }
}

/// The Python with the packages of `scripts/requirements.txt`.
pub fn python() -> PathBuf {
    match std::env::var_os("PYTHON") {
        Some(python) => PathBuf::from(python),
        None => cache().join("venv/bin/python"),
    }
}
