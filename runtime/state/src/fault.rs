//! Fault points: places at which a test can kill the process, make a step fail or hold it up.
//!
//! Compiled in with the feature `fault-points`; without it [`point`] is nothing. With it, the environment variable
//! `MILLRACE_FAULT_POINT` says what happens: `name:nth[:action]`, several parted by commas, where `nth` counts from 1 the
//! times that the process comes by and `action` is
//!
//! - `kill` (the default): SIGKILL to the process itself, so that nothing is flushed and no destructor runs;
//! - `error`: [`point`] returns [`Injected`], once;
//! - `delay`: the thread sleeps for half a second, so that what waits for the step meets a shorter time-out and the step is
//!   done after all;
//! - `stall`: the thread sleeps for good, so that what waits for the step meets its time-out.
//!
//! A specification that can't be understood, or that names no point of [`POINTS`], aborts the process: a test that
//! injects nothing proves nothing. For the same reason `MILLRACE_FAULT_TRACE` names a file to which every point is written,
//! a line each, when the process first comes by: so a test sees that its points are reached at all.

use std::fmt;

/// The environment variable that arms fault points.
pub const VARIABLE: &str = "MILLRACE_FAULT_POINT";
/// The environment variable that names the file to which the points that are reached are written.
pub const TRACE_VARIABLE: &str = "MILLRACE_FAULT_TRACE";

/// Every fault point, in the order in which a checkpoint comes by.
pub const POINTS: &[&str] = &[
    // engine
    "barrier-injected",
    "snapshot-frozen",
    // task store
    "sst-ingested",
    "local-checkpoint",
    // connectors
    "sink-staged",
    "sink-prepared",
    // checkpoint store
    "before-upload",
    "mid-upload",
    "after-upload",
    "acknowledged",
    "before-manifest",
    "after-manifest",
    "before-pointer",
    "mid-pointer",
    "after-pointer",
    // connectors, at the coordinator
    "before-commit",
    "mid-commit",
    "delta-before-commit",
    "delta-after-commit",
    "after-commit",
    // checkpoint store
    "before-retire",
    "mid-retire",
    "after-retire",
    // start: the pointer is claimed and sinks recover, then every keyed task restores its store
    "before-recover",
    "after-recover",
    "before-restore",
    "mid-restore",
    "after-restore",
];

/// A fault point fired with the action `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Its name.
    pub point: &'static str,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault point {} fired", self.point)
    }
}

impl std::error::Error for Injected {}

impl From<Injected> for std::io::Error {
    fn from(injected: Injected) -> Self {
        Self::other(injected)
    }
}

/// A place at which a fault may be injected. `name` stands in [`POINTS`].
///
/// # Errors
///
/// [`Injected`], if the point is armed with `error` and this is the hit that was asked for.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// A place at which a fault may be injected. `name` stands in [`POINTS`].
///
/// # Errors
///
/// [`Injected`], if the point is armed with `error` and this is the hit that was asked for.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) -> Result<(), Injected> {
    assert!(POINTS.contains(&name), "fault point {name:?} does not stand in POINTS");
    armed::hit(name)
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::{
        collections::BTreeSet,
        fs::{File, OpenOptions},
        io::Write,
        str::FromStr,
        sync::{
            Mutex, OnceLock, PoisonError,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use super::{Injected, POINTS, TRACE_VARIABLE, VARIABLE};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Error,
        Delay,
        Stall,
    }

    #[derive(Debug)]
    pub(super) struct Fault {
        name: String,
        nth: u64,
        action: Action,
        hits: AtomicU64,
    }

    impl FromStr for Fault {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            let mut parts = text.trim().split(':');
            let name = parts.next().unwrap_or_default();
            if !POINTS.contains(&name) {
                return Err(format!("no fault point {name:?}; there are {}", POINTS.join(", ")));
            }
            let nth = match parts.next().map(str::parse) {
                Some(Ok(nth)) if nth > 0 => nth,
                other => return Err(format!("{text:?} needs a hit to fire at, from 1, not {other:?}")),
            };
            let action = match parts.next() {
                None | Some("kill") => Action::Kill,
                Some("error") => Action::Error,
                Some("delay") => Action::Delay,
                Some("stall") => Action::Stall,
                Some(other) => return Err(format!("no action {other:?}; there are kill, error, delay, stall")),
            };
            Ok(Self { name: name.to_owned(), nth, action, hits: AtomicU64::new(0) })
        }
    }

    fn faults() -> &'static [Fault] {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        FAULTS.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            let faults: Result<_, String> =
                text.split(',').filter(|part| !part.trim().is_empty()).map(str::parse).collect();
            faults.unwrap_or_else(|error| {
                eprintln!("{VARIABLE}: {error}");
                std::process::abort()
            })
        })
    }

    /// The points that were reached, and where that is written.
    struct Trace {
        file: File,
        reached: Mutex<BTreeSet<&'static str>>,
    }

    fn trace(name: &'static str) {
        static TRACE: OnceLock<Option<Trace>> = OnceLock::new();
        let trace = TRACE.get_or_init(|| {
            let path = std::env::var_os(TRACE_VARIABLE)?;
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.unwrap_or_else(|error| {
                eprintln!("{TRACE_VARIABLE}: {error}");
                std::process::abort()
            });
            Some(Trace { file, reached: Mutex::default() })
        });
        let Some(Trace { file, reached }) = trace else { return };
        if reached.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            // A line that is lost makes the test fail that looks for it.
            let _ = (&*file).write_all(format!("{name}\n").as_bytes());
        }
    }

    pub(super) fn hit(name: &'static str) -> Result<(), Injected> {
        trace(name);
        for fault in faults().iter().filter(|fault| fault.name == name) {
            if fault.hits.fetch_add(1, Ordering::SeqCst) + 1 != fault.nth {
                continue;
            }
            match fault.action {
                Action::Error => return Err(Injected { point: name }),
                Action::Delay => std::thread::sleep(Duration::from_millis(500)),
                Action::Stall => loop {
                    std::thread::sleep(Duration::from_secs(3600));
                },
                Action::Kill => {
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                    std::process::abort()
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_specification_names_a_point_a_hit_and_an_action() {
            let fault: Fault = "mid-upload:3:error".parse().unwrap();
            assert_eq!((fault.name.as_str(), fault.nth, fault.action), ("mid-upload", 3, Action::Error));
            let fault: Fault = "after-pointer:1".parse().unwrap();
            assert_eq!(fault.action, Action::Kill);
            for bad in ["", "nowhere:1", "mid-upload", "mid-upload:0", "mid-upload:x", "mid-upload:1:explode"] {
                assert!(bad.parse::<Fault>().is_err(), "{bad}");
            }
        }
    }
}
