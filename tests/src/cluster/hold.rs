//! Who uses the cluster: many tests at once, or one that breaks it, alone.
//!
//! Tests that stop an API server or a kubelet would fail all others. They wait until nobody uses the cluster, and others wait
//! meanwhile, in this process and in others on this machine: the locks are files beside the cluster's folder.
//!
//! ```text
//! turnstile   passed by everybody on the way in; held by a test that waits to be alone, so that it gets its turn
//! use         held by all that use the cluster, shared, or by one alone
//! ```

use std::{
    cell::Cell,
    fs::{self, File},
};

use crate::workspace::cache;

thread_local! {
    /// How many holds this test has. A second one is covered by the first, and must not wait for those who wait for it.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// The use of the cluster, for as long as this lives.
#[derive(Debug)]
pub(super) struct Hold {
    _use: Option<File>,
}

impl Hold {
    /// Beside others.
    pub(super) fn with_others() -> Self {
        Self::take(|file| file.lock_shared().expect("files can be locked"))
    }

    /// Alone.
    pub(super) fn alone() -> Self {
        assert_eq!(HELD.get(), 0, "a test that wants the cluster for itself asks for that first");
        Self::take(|file| file.lock().expect("files can be locked"))
    }

    fn take(lock: impl Fn(&File)) -> Self {
        let is_first = HELD.get() == 0;
        HELD.set(HELD.get() + 1);
        if !is_first {
            return Self { _use: None };
        }
        let turnstile = file("turnstile");
        turnstile.lock().expect("files can be locked");
        let using = file("use");
        lock(&using);
        Self { _use: Some(using) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

fn file(name: &str) -> File {
    let folder = cache().join("cluster");
    fs::create_dir_all(&folder).expect("the cache is writable");
    let path = folder.join(format!("{name}.lock"));
    File::options().create(true).append(true).open(&path).expect("the cache is writable")
}
