//! Replicas that quarrel about one Lease, on a clock that only the test moves.

use std::sync::Mutex;

use millrace_stream::{ManualClock, Timestamp};
use proptest::prelude::*;

use super::*;

/// The Lease of a cluster in memory. Each request takes the time that is next in the list, and fails as the list says.
struct Shared {
    lease: Mutex<Option<Lease>>,
    clock: Arc<ManualClock>,
    fate: Mutex<Fate>,
}

/// What becomes of the next request.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    takes: Duration,
    /// Nothing is done.
    is_refused: bool,
    /// It is done, and nobody learns of it.
    is_unanswered: bool,
}

impl Shared {
    fn new(clock: &Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self { lease: Mutex::default(), clock: Arc::clone(clock), fate: Mutex::default() })
    }

    fn holder(&self) -> Option<String> {
        self.lease.lock().unwrap().as_ref().and_then(holder).map(str::to_owned)
    }

    fn write(&self, lease: &Lease, version: Option<&String>) -> Result<(), WriteError> {
        let fate = *self.fate.lock().unwrap();
        // Half of its time to get there, half for the answer.
        self.clock.advance(fate.takes / 2);
        let mut there = self.lease.lock().unwrap();
        if fate.is_refused {
            return Err(WriteError::TimedOut);
        }
        if there.as_ref().and_then(|lease| lease.metadata.resource_version.as_ref()) != version {
            return Err(WriteError::Conflict(String::new()));
        }
        let next = version.map_or(0, |version| version.parse::<u64>().unwrap()) + 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(next.to_string());
        *there = Some(lease);
        drop(there);
        self.clock.advance(fate.takes / 2);
        if fate.is_unanswered { Err(WriteError::TimedOut) } else { Ok(()) }
    }
}

impl Leases for Arc<Shared> {
    async fn read(&self) -> Result<Option<Lease>, WriteError> {
        Ok(self.lease.lock().unwrap().clone())
    }

    async fn create(&self, lease: &Lease) -> Result<(), WriteError> {
        self.write(lease, None)
    }

    async fn replace(&self, lease: &Lease) -> Result<(), WriteError> {
        self.write(lease, lease.metadata.resource_version.as_ref())
    }
}

/// A replica, and when it looks at the Lease next.
struct Replica {
    elector: Elector<Arc<Shared>>,
    gate: Arc<Gate>,
    next: Duration,
}

impl Replica {
    fn new(name: &str, shared: &Arc<Shared>) -> Self {
        let clock: Arc<dyn Clock> = shared.clock.clone();
        let gate = Arc::new(Gate::new(Arc::clone(&clock)));
        let elector = Elector::of(Arc::clone(shared), name.to_owned(), clock, Arc::clone(&gate));
        Self { elector, gate, next: Duration::ZERO }
    }

    /// What `win` and `hold` do between two of their waits.
    async fn look(&mut self) -> Look {
        let look = self.elector.step().await;
        let now = self.elector.clock.monotonic();
        self.next = now
            + match look {
                Look::Leads => RENEW_EVERY,
                _ if self.gate.is_open() => RETRY_EVERY,
                _ => POLL_EVERY,
            };
        look
    }
}

/// What disturbs a look.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    None,
    Slow(u64),
    Refused,
    Unanswered,
    /// The replica is stopped for so many milliseconds before it looks.
    Frozen(u64),
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        6 => Just(Disturbance::None),
        2 => (1..1_500_u64).prop_map(Disturbance::Slow),
        1 => Just(Disturbance::Refused),
        1 => Just(Disturbance::Unanswered),
        1 => (1..20_000_u64).prop_map(Disturbance::Frozen),
    ]
}

proptest! {
    #[test]
    fn two_replicas_never_write_at_once_and_a_margin_lies_between_them(
        disturbances in prop::collection::vec(disturbance(), 200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let clock = Arc::new(ManualClock::at(Timestamp(0)));
            let shared = Shared::new(&clock);
            let mut replicas = ["a", "b", "c"].map(|name| Replica::new(name, &shared));
            // When each gate was last seen open.
            let mut open_at = [None::<Duration>; 3];
            for disturbance in disturbances {
                let turn = (0..3).min_by_key(|turn| replicas[*turn].next).unwrap();
                // Time goes by in small steps, in which all that is seen of gates is noted.
                while clock.monotonic() < replicas[turn].next {
                    note(&replicas, &mut open_at, clock.monotonic());
                    clock.advance(Duration::from_millis(50));
                }
                let mut fate = Fate::default();
                match disturbance {
                    Disturbance::None => {}
                    Disturbance::Slow(ms) => fate.takes = Duration::from_millis(ms),
                    Disturbance::Refused => fate.is_refused = true,
                    Disturbance::Unanswered => fate.is_unanswered = true,
                    Disturbance::Frozen(ms) => {
                        replicas[turn].next = clock.monotonic() + Duration::from_millis(ms);
                        continue;
                    }
                }
                *shared.fate.lock().unwrap() = fate;
                let was_open = replicas[turn].gate.is_open();
                replicas[turn].look().await;
                let now = clock.monotonic();
                note(&replicas, &mut open_at, now);
                if replicas[turn].gate.is_open() && !was_open {
                    for other in (0..3).filter(|other| *other != turn) {
                        let apart = open_at[other].map(|at| now - at);
                        assert!(apart.is_none_or(|apart| apart >= MARGIN - Duration::from_millis(50)), "{apart:?}");
                    }
                }
            }
        });
    }
}

fn note(replicas: &[Replica; 3], open_at: &mut [Option<Duration>; 3], now: Duration) {
    let open: Vec<usize> = (0..3).filter(|at| replicas[*at].gate.is_open()).collect();
    assert!(open.len() <= 1, "two write at {now:?}");
    open.iter().for_each(|at| open_at[*at] = Some(now));
}

/// `a` leads, `b` has seen it; the leader does nothing any more. When `b` leads.
async fn taken_over_after(clock: &Arc<ManualClock>, a: &mut Replica, b: &mut Replica) -> Duration {
    assert_eq!(a.look().await, Look::Leads);
    let from = clock.monotonic();
    while b.look().await != Look::Leads {
        assert!(clock.monotonic() < from + Duration::from_secs(60));
        clock.advance(POLL_EVERY);
    }
    clock.monotonic() - from
}

#[tokio::test]
async fn another_leads_within_seven_seconds_of_a_leaders_last_renewal_and_not_before_six() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let shared = Shared::new(&clock);
    let (mut a, mut b) = (Replica::new("a", &shared), Replica::new("b", &shared));
    let took = taken_over_after(&clock, &mut a, &mut b).await;
    assert!((LEASE..LEASE + Duration::from_secs(1)).contains(&took), "{took:?}");
    assert!(!a.gate.is_open());
    assert_eq!(a.look().await, Look::Follows, "it finds out");
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_the_next_look() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let shared = Shared::new(&clock);
    let (mut a, mut b) = (Replica::new("a", &shared), Replica::new("b", &shared));
    assert_eq!((a.look().await, b.look().await), (Look::Leads, Look::Follows));
    a.elector.release().await;
    assert_eq!((shared.holder(), a.gate.is_open()), (None, false));
    assert_eq!(b.look().await, Look::Leads);
    b.elector.release().await;
    a.elector.release().await;
    assert_eq!(shared.holder(), None, "who does not hold it gives nothing back");
}

#[tokio::test]
async fn a_container_that_is_started_again_in_its_pod_leads_at_once() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let shared = Shared::new(&clock);
    assert_eq!(Replica::new("a", &shared).look().await, Look::Leads);
    assert_eq!(Replica::new("a", &shared).look().await, Look::Leads);
    assert_eq!(Replica::new("b", &shared).look().await, Look::Follows);
}

#[tokio::test]
async fn a_renewal_that_is_not_answered_is_made_good_before_the_gate_shuts() {
    let clock = Arc::new(ManualClock::at(Timestamp(0)));
    let shared = Shared::new(&clock);
    let mut a = Replica::new("a", &shared);
    assert_eq!(a.look().await, Look::Leads);
    clock.advance(RENEW_EVERY);
    *shared.fate.lock().unwrap() = Fate { takes: REQUEST, is_unanswered: true, ..Fate::default() };
    assert_eq!(a.look().await, Look::Failed);
    assert!(a.gate.is_open());
    *shared.fate.lock().unwrap() = Fate::default();
    clock.advance(RETRY_EVERY);
    assert!(a.gate.is_open());
    assert_eq!(a.look().await, Look::Leads);
}

#[test]
fn the_lengths_of_time_fit_into_each_other() {
    assert!(RENEW_EVERY + REQUEST + RETRY_EVERY < LEASE - MARGIN, "a renewal may fail once");
    assert!(crate::cluster::writer::REQUEST < MARGIN, "a last write arrives before another leads");
}
