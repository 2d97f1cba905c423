//! The machine's clocks: the one place where they are read.
#![expect(clippy::disallowed_methods, reason = "this is the edge at which time enters")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff};
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

/// A moment as Kubernetes writes it: in whole seconds.
pub fn time(at: Timestamp) -> Time {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}
