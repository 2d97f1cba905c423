//! Fault points: places at which a test can end the operator between two steps.
//!
//! Compiled into builds with debug assertions, and with the feature `fault-points`; in others [`point`] is nothing. The
//! environment variable `MILLRACE_FAULT_POINT` says what happens, as for the runtime: `name[@object[/generation]]:nth[:action]`,
//! several parted by commas, where `nth` counts from 1 the times that the process comes by with the object of this name, and of
//! this generation of its spec (with any, if none is named), and `action` is `kill` (the default: the process aborts, no
//! destructor runs, nothing is flushed) or `stall` (the process stops for good, lease and all). A specification that cannot be
//! understood aborts at start: a test that injects nothing proves nothing.

/// Every fault point, in the order in which a reconcile comes by. Between two of them lies one write at the most.
pub const POINTS: &[&str] = &[
    "before-status",
    "after-status",
    "before-events",
    "before-hold",
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
    "before-scale",
    "after-scale",
    "before-stop",
    "before-clear",
    "before-pointer-goes",
    "before-volume-goes",
    "before-let-go",
    "before-release",
];

/// Reads what is armed.
pub fn arm() {
    #[cfg(any(feature = "fault-points", debug_assertions))]
    armed::read();
}

/// A place at which the process may be ended. `name` stands in [`POINTS`]; `of` is the object that it works on and
/// its generation.
#[cfg(not(any(feature = "fault-points", debug_assertions)))]
#[inline(always)]
pub fn point(_name: &'static str, _of: (&str, i64)) {}

/// A place at which the process may be ended. `name` stands in [`POINTS`]; `of` is the object that it works on and
/// its generation.
#[cfg(any(feature = "fault-points", debug_assertions))]
pub fn point(name: &'static str, of: (&str, i64)) {
    armed::hit(name, of);
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
        of: Option<String>,
        nth: u64,
        stalls: bool,
        hits: AtomicU64,
    }

    impl Fault {
        fn is_about(&self, (name, generation): (&str, i64)) -> bool {
            self.of.as_deref().is_none_or(|only| only == name || *only == format!("{name}/{generation}"))
        }
    }

    fn parse(text: &str) -> Result<Fault, String> {
        let mut parts = text.trim().split(':');
        let place = parts.next().unwrap_or_default();
        let (name, of) = place.split_once('@').map_or((place, None), |(name, of)| (name, Some(of.to_owned())));
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
        Ok(Fault { name: name.to_owned(), of, nth, stalls, hits: AtomicU64::new(0) })
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

    pub(super) fn read() {
        for fault in faults() {
            tracing::warn!(?fault, "a fault point is armed");
        }
    }

    pub(super) fn hit(name: &'static str, of: (&str, i64)) {
        assert!(POINTS.contains(&name), "fault point {name:?} does not stand in POINTS");
        for fault in faults().iter().filter(|fault| fault.name == name && fault.is_about(of)) {
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
        fn a_specification_names_a_point_an_object_a_hit_and_an_action() {
            let fault = parse("before-plan:2:stall").unwrap();
            assert_eq!(
                (fault.name.as_str(), fault.of.as_deref(), fault.nth, fault.stalls),
                ("before-plan", None, 2, true)
            );
            let fault = parse("after-status@web:1").unwrap();
            assert_eq!((fault.name.as_str(), fault.of.as_deref(), fault.stalls), ("after-status", Some("web"), false));
            assert!(fault.is_about(("web", 7)) && !fault.is_about(("other", 7)));
            let fault = parse("after-status@web/7:1").unwrap();
            assert!(fault.is_about(("web", 7)) && !fault.is_about(("web", 8)));
            for bad in ["", "nowhere:1", "before-plan", "before-plan:0", "before-plan:x", "before-plan:1:explode"] {
                assert!(parse(bad).is_err(), "{bad}");
            }
        }
    }
}
