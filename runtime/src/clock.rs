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
        jumped(Timestamp(since_epoch.as_millis() as u64))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The wall clock as the machine has it.
#[cfg(not(feature = "fault-points"))]
fn jumped(now: Timestamp) -> Timestamp {
    now
}

/// For tests of a wall clock that jumps: the file that `MILLRACE_CLOCK_JUMP` names says by how many milliseconds, which may
/// be less than none, and may change at any time.
#[cfg(feature = "fault-points")]
fn jumped(now: Timestamp) -> Timestamp {
    static FILE: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    let Some(path) = FILE.get_or_init(|| std::env::var_os("MILLRACE_CLOCK_JUMP").map(Into::into)) else { return now };
    let by_ms = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Timestamp(now.0.saturating_add_signed(by_ms))
}
