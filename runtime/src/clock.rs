//! The machine's clocks: the one place where they are read.
#![expect(clippy::disallowed_methods, reason = "this is the edge at which time enters")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_stream::{Clock, Timestamp};

/// The wall clock and the monotonic clock of this machine.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A machine whose clock stands before 1970 is told 1970.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since_epoch.as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
