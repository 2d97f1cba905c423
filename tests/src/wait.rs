//! Waiting on conditions, by the machine's clock.

#![expect(clippy::disallowed_methods, reason = "tests wait for real processes, in real time")]

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A moment at which a test stops waiting.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    from: Instant,
}

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        let from = Instant::now();
        Self { at: from + limit, from }
    }

    /// So many seconds from now.
    pub fn secs(limit: u64) -> Self {
        Self::after(Duration::from_secs(limit))
    }

    /// Whether it has come.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    /// How long it has been waited for.
    pub fn waited(&self) -> Duration {
        self.from.elapsed()
    }

    /// Polls until `probe` gives something; `None` if the deadline came first.
    pub fn poll<T>(&self, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = probe() {
                return Some(found);
            }
            if self.is_over() {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Polls until `probe` gives something.
    ///
    /// # Panics
    ///
    /// With what was waited for, if the deadline came first.
    pub fn wait_for<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        match self.poll(probe) {
            Some(found) => found,
            None => panic!("waited {:?} in vain for {what}", self.waited()),
        }
    }
}

/// Runs `work` and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

/// Lets time pass where passing time is the point: the moment of a kill, the pace of a writer.
pub fn pass(time: Duration) {
    thread::sleep(time);
}
