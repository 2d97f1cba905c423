//! The golden files of persisted forms. `UPDATE_EXPECT=1` writes those that are not there; a form that was released never
//! changes, so one that is there and differs is an error, whatever is set.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

fn path(name: &str) -> PathBuf {
    // As it is when the test runs: what was built may have been built in another checkout.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(package).join("tests/golden").join(name)
}

/// What the file holds.
pub(crate) fn read(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}; UPDATE_EXPECT=1 makes it"))
}

/// Asserts that the file holds this.
pub(crate) fn check(name: &str, written: &[u8]) {
    if !path(name).exists() && std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path("")).unwrap();
        fs::write(path(name), written).unwrap();
    }
    assert!(
        read(name) == written,
        "{name}: the stored form has changed; that needs a new version and a new golden file"
    );
}
