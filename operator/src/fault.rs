//! Fault points: places at which a test can end the operator between two steps.
//!
//! Compiled into builds with debug assertions, and with the feature `fault-points`; in others [`point`] is nothing. The
//! environment variable `MILLRACE_FAULT_POINT` says what happens, as for the runtime: `name:nth[:action]`, several parted by
//! commas, where `nth` counts from 1 the times that the process comes by, and `action` is `kill` (the default: the process
//! aborts, no destructor runs, nothing is flushed) or `stall` (the process stops for good, lease and all). A specification
//! that cannot be understood aborts at start: a test that injects nothing proves nothing.

/// Every fault point, in the order in which a reconcile comes by.
pub const POINTS: &[&str] = &[
    "before-status",
    "after-status",
    "before-service-account",
    "before-role",
    "before-role-binding",
    "before-service",
    "before-disruption-budget",
    "before-lease",
    "before-checkpoint-pointer",
    "before-report",
    "before-plan",
    "after-plan",
    "before-stateful-set",
    "after-stateful-set",
    "before-events",
    "before-release",
];

/// A place at which the process may be ended. `name` stands in [`POINTS`].
#[cfg(not(any(feature = "fault-points", debug_assertions)))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// A place at which the process may be ended. `name` stands in [`POINTS`].
#[cfg(any(feature = "fault-points", debug_assertions))]
pub fn point(name: &'static str) {
    armed::hit(name);
}

#[cfg(any(feature = "fault-points", debug_assertions))]
mod armed {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use super::POINTS;

    #[derive(Debug)]
    struct Fault {
        name: String,
        nth: u64,
        stalls: bool,
        hits: AtomicU64,
    }

    fn parse(text: &str) -> Result<Fault, String> {
        let mut parts = text.trim().split(':');
        let name = parts.next().unwrap_or_default();
        if !POINTS.contains(&name) {
            return Err(format!("no fault point {name:?}; there are {}", POINTS.join(", ")));
        }
        let nth = match parts.next().map(str::parse) {
            Some(Ok(nth)) if nth > 0 => nth,
            other => return Err(format!("{text:?} needs a hit to fire at, from 1, not {other:?}")),
        };
        let stalls = match parts.next() {
            None | Some("kill") => false,
            Some("stall") => true,
            Some(other) => return Err(format!("no action {other:?}; there are kill and stall")),
        };
        Ok(Fault { name: name.to_owned(), nth, stalls, hits: AtomicU64::new(0) })
    }

    fn faults() -> &'static [Fault] {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        FAULTS.get_or_init(|| {
            let text = std::env::var("MILLRACE_FAULT_POINT").unwrap_or_default();
            let faults: Result<_, _> = text.split(',').filter(|part| !part.trim().is_empty()).map(parse).collect();
            faults.unwrap_or_else(|error| {
                eprintln!("MILLRACE_FAULT_POINT: {error}");
                std::process::abort()
            })
        })
    }

    pub(super) fn hit(name: &'static str) {
        assert!(POINTS.contains(&name), "fault point {name:?} does not stand in POINTS");
        for fault in faults().iter().filter(|fault| fault.name == name) {
            if fault.hits.fetch_add(1, Ordering::SeqCst) + 1 == fault.nth {
                if !fault.stalls {
                    std::process::abort();
                }
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_specification_names_a_point_a_hit_and_an_action() {
            let fault = parse("before-plan:2:stall").unwrap();
            assert_eq!((fault.name.as_str(), fault.nth, fault.stalls), ("before-plan", 2, true));
            for bad in ["", "nowhere:1", "before-plan", "before-plan:0", "before-plan:x", "before-plan:1:explode"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }
    }
}
