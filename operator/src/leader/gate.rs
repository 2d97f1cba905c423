//! Through which every write passes: open while this replica leads for certain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millrace_stream::Clock;
use tokio::sync::watch;

/// Open while this replica leads for certain.
pub struct Gate {
    clock: Arc<dyn Clock>,
    /// In milliseconds of the monotonic clock; 0 while shut.
    until_ms: AtomicU64,
    /// Whether nothing passes any more: this replica ends.
    is_retired: AtomicBool,
    /// How many have passed that are not done yet.
    on_their_way: watch::Sender<usize>,
}

impl Gate {
    /// A gate that is shut.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            until_ms: AtomicU64::new(0),
            is_retired: AtomicBool::new(false),
            on_their_way: watch::channel(0).0,
        }
    }

    /// Whether this replica leads for certain.
    pub fn is_open(&self) -> bool {
        (self.clock.monotonic().as_millis() as u64) < self.until_ms.load(Ordering::SeqCst)
    }

    /// Opens it until then, by the monotonic clock.
    pub fn open_until(&self, until: Duration) {
        self.until_ms.store(until.as_millis() as u64, Ordering::SeqCst);
    }

    /// Shuts it. What is on its way is given up.
    pub fn shut(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
    }

    /// Lets nothing pass any more, for good. What is on its way may arrive.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::SeqCst);
    }

    /// Lets somebody pass, if it is open.
    pub fn pass(&self) -> Option<Pass<'_>> {
        // Counted before it is looked: who has retired the gate and then sees nobody on the way, will see nobody.
        let pass = Pass::new(self);
        (pass.is_good() && !self.is_retired.load(Ordering::SeqCst)).then_some(pass)
    }

    /// Waits until nobody is on the way.
    pub async fn quiet(&self) {
        // The sender lives as long as this does.
        let _ = self.on_their_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Somebody who has passed and is not done yet.
pub struct Pass<'a> {
    gate: &'a Gate,
}

impl<'a> Pass<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.on_their_way.send_modify(|count| *count += 1);
        Self { gate }
    }

    /// Whether this replica still leads for certain.
    pub fn is_good(&self) -> bool {
        self.gate.is_open()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.on_their_way.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use millrace_stream::{ManualClock, Timestamp};

    use super::*;

    fn open() -> (Arc<ManualClock>, Gate) {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let gate = Gate::new(clock.clone());
        assert!(gate.pass().is_none());
        gate.open_until(clock.monotonic() + Duration::from_secs(3));
        (clock, gate)
    }

    #[test]
    fn a_leader_that_cannot_renew_writes_nothing_any_more() {
        let (clock, gate) = open();
        let pass = gate.pass().unwrap();
        clock.advance(Duration::from_secs(3));
        assert!(!pass.is_good() && gate.pass().is_none());
        gate.open_until(clock.monotonic() + Duration::from_secs(3));
        assert!(pass.is_good() && gate.pass().is_some());
        gate.shut();
        assert!(!pass.is_good() && gate.pass().is_none());
    }

    #[test]
    fn one_that_ends_begins_nothing_and_waits_for_what_it_has_begun() {
        let (clock, gate) = open();
        let pass = gate.pass().unwrap();
        gate.retire();
        assert!(gate.pass().is_none() && pass.is_good());
        gate.open_until(clock.monotonic() + Duration::from_secs(9));
        assert!(gate.pass().is_none(), "a renewal that was on its way opens nothing");
        let mut quiet = Box::pin(gate.quiet());
        let mut context = Context::from_waker(Waker::noop());
        assert!(quiet.as_mut().poll(&mut context).is_pending());
        drop(pass);
        assert_eq!(quiet.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
