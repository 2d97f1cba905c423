//! Which pod runs the Pipeline: whoever holds the Lease `<pipeline>-coordinator`.
//!
//! It is taken when nobody holds it, or when its holder has not renewed it for the time that it is good for *as seen from
//! here*: clocks of two machines are never compared. A holder renews it every [`RENEW_EVERY`]; another pod waits
//! [`GOOD_FOR`] after the last renewal that it saw.
//!
//! The Lease keeps two pods from working at the same time where that can be known. It fences nothing: a holder that is
//! frozen, or cut off from the API server, works on when it wakes, until it sees another holder. What it does meanwhile
//! comes to nothing, because the pointer moves for the newest generation only.
//!
//! A holder that cannot renew keeps working. The Lease may be another's by then; the pointer decides.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime, jiff};
use kube::{Api, api::PostParams};
use millrace_stream::Clock;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};

use super::api::{ApiError, Cluster, FIELD_MANAGER, ask};

/// How long after its last renewal a Lease is good.
pub const GOOD_FOR: Duration = Duration::from_secs(15);
/// How often it is renewed, more or less.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often another's is looked at, and how soon a request that failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; `None`: nobody.
    pub holder: Option<String>,
    /// The holder's own idea of when it was renewed: only whether it changes counts.
    pub renewed: Option<MicroTime>,
    /// For how long it is good.
    pub good_for: Duration,
    /// How often it has passed from one holder to another.
    pub transitions: i32,
}

/// A record, and since when it has stood there, by the clock of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What stands there.
    pub record: Record,
    /// When it was first read so.
    pub since: Duration,
}

/// What to do about a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write ourselves into it.
    Take,
    /// It is ours: say so again.
    Renew,
    /// It is another's, until this moment unless it is renewed.
    Wait {
        /// By the clock of this machine.
        until: Duration,
    },
    /// It was ours and is another's: step down.
    Lost {
        /// Whose it is.
        to: String,
    },
}

/// Whether the Lease is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No, or not known.
    Waiting {
        /// Who has it, if that is known.
        holder: Option<String>,
    },
    /// Yes, as far as is known.
    Held {
        /// When the API server last said so, by the clock of this machine.
        confirmed: Duration,
    },
}

impl Record {
    /// What a Lease says.
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            renewed: spec.renew_time,
            good_for: seconds.map_or(GOOD_FOR, Duration::from_secs),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

impl Seen {
    /// What is known after the record has been read `now`.
    pub fn next(before: Option<Self>, record: Record, now: Duration) -> Self {
        match before {
            Some(before) if before.record == record => before,
            _ => Self { record, since: now },
        }
    }
}

impl Standing {
    /// Whether nobody else can have taken it by now.
    pub fn is_certain(&self, now: Duration) -> bool {
        matches!(self, Self::Held { confirmed } if now.saturating_sub(*confirmed) < GOOD_FOR)
    }

    /// Whether it was ours when the API server was last heard.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// Whether the Lease is ours, for those who act on it elsewhere.
#[derive(Clone)]
pub struct Tenure {
    /// What is known of it.
    pub standing: watch::Receiver<Standing>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Tenure {
    /// Whether nobody else can have it now.
    pub fn is_certain(&self) -> bool {
        self.standing.borrow().is_certain(self.clock.monotonic())
    }
}

/// Decides about a Lease, which was ours when it was last read, or was not.
pub fn decide(me: &str, was_ours: bool, seen: &Seen, now: Duration) -> Decision {
    match &seen.record.holder {
        None => Decision::Take,
        Some(holder) if holder == me => Decision::Renew,
        Some(holder) if was_ours => Decision::Lost { to: holder.clone() },
        Some(_) => {
            let until = seen.since.saturating_add(seen.record.good_for);
            if now >= until { Decision::Take } else { Decision::Wait { until } }
        }
    }
}

/// Keeps the Lease in the background.
pub struct Keeper {
    /// Whether it is ours.
    pub standing: watch::Receiver<Standing>,
    look: Arc<Notify>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Starts to keep the Pipeline's Lease for `me`.
    pub fn start(cluster: &Cluster, me: &str, clock: Arc<dyn Clock>) -> Self {
        let (standing, receiver) = watch::channel(Standing::Waiting { holder: None });
        let (stop, stopped) = oneshot::channel();
        let look = Arc::new(Notify::new());
        let name = cluster.names().coordinator();
        let work = Work {
            leases: cluster.leases(),
            place: cluster.place("Lease", &name),
            name,
            me: me.to_owned(),
            clock,
            standing,
            known: None,
            seen: None,
            turns: 0,
            is_quiet: false,
        };
        let task = tokio::spawn(work.run(look.clone(), stopped));
        Self { standing: receiver, look, stop, task }
    }

    /// Looks at it at once, since there is reason to think that it is another's.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Gives it back, so that the next pod need not wait.
    pub async fn release(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

struct Work {
    leases: Api<Lease>,
    name: String,
    place: String,
    me: String,
    clock: Arc<dyn Clock>,
    standing: watch::Sender<Standing>,
    /// As it was last read or written.
    known: Option<Lease>,
    seen: Option<Seen>,
    turns: u64,
    /// The last failure has been told.
    is_quiet: bool,
}

impl Work {
    async fn run(mut self, look: Arc<Notify>, mut stopped: oneshot::Receiver<()>) {
        loop {
            let wait = match self.turn().await {
                Ok(wait) => {
                    self.is_quiet = false;
                    wait
                }
                Err(error) => {
                    self.known = None;
                    self.tell(&error);
                    LOOK_EVERY / 2
                }
            };
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                () = look.notified() => self.known = None,
                () = tokio::time::sleep(self.jittered(wait)) => {}
            }
        }
        if self.is_ours() {
            self.give_back().await;
        }
    }

    fn is_ours(&self) -> bool {
        self.standing.borrow().is_held()
    }

    fn tell(&mut self, error: &ApiError) {
        let error = millrace_engine::chain(error);
        if self.is_quiet {
            tracing::debug!(lease = %self.place, %error, "the Lease cannot be read or written");
        } else if self.is_ours() {
            tracing::warn!(lease = %self.place, %error, "the Lease cannot be renewed; rows flow on, and it is tried again");
        } else {
            tracing::warn!(lease = %self.place, %error, "the Lease cannot be taken; it is tried again");
        }
        self.is_quiet = true;
    }

    /// Looks, decides and acts; says when to look again.
    async fn turn(&mut self) -> Result<Duration, ApiError> {
        let lease = match self.known.take() {
            Some(lease) => lease,
            None => ask(self.leases.get(&self.name)).await?,
        };
        let now = self.clock.monotonic();
        let seen = Seen::next(self.seen.take(), Record::of(&lease), now);
        let decision = decide(&self.me, self.is_ours(), &seen, now);
        let holder = seen.record.holder.clone();
        self.seen = Some(seen);
        match decision {
            Decision::Take => self.write(lease, true, now).await,
            Decision::Renew => self.write(lease, false, now).await,
            Decision::Wait { until } => {
                self.stand(Standing::Waiting { holder });
                Ok(until.saturating_sub(now).min(LOOK_EVERY))
            }
            Decision::Lost { to } => {
                tracing::warn!(lease = %self.place, %to, "another pod holds the Lease; this one steps down");
                self.stand(Standing::Waiting { holder: Some(to) });
                Ok(LOOK_EVERY)
            }
        }
    }

    async fn write(&mut self, mut lease: Lease, is_new: bool, now: Duration) -> Result<Duration, ApiError> {
        let wall = MicroTime(wall(&*self.clock));
        let spec = lease.spec.get_or_insert_default();
        if is_new {
            // A first holder is no transition.
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time = Some(wall.clone());
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(GOOD_FOR.as_secs()).ok();
        spec.renew_time = Some(wall);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match ask(self.leases.replace(&self.name, &params, &lease)).await {
            Ok(lease) => {
                if !self.is_ours() {
                    tracing::info!(lease = %self.place, identity = %self.me, "this pod runs the pipeline");
                }
                self.seen = Some(Seen { record: Record::of(&lease), since: now });
                self.known = Some(lease);
                // From before the request: others count from when it was written, or later.
                self.stand(Standing::Held { confirmed: now });
                Ok(RENEW_EVERY)
            }
            Err(error) if error.is_conflict() => Ok(Duration::from_millis(50)),
            Err(error) => Err(error),
        }
    }

    async fn give_back(&mut self) {
        let lease = match self.known.take() {
            Some(lease) => Ok(lease),
            None => ask(self.leases.get(&self.name)).await,
        };
        let Ok(mut lease) = lease else { return };
        if Record::of(&lease).holder.as_deref() != Some(self.me.as_str()) {
            return;
        }
        let wall = MicroTime(wall(&*self.clock));
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(wall);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        // Who comes next waits until it expires, if this fails.
        if let Err(error) = ask(self.leases.replace(&self.name, &params, &lease)).await {
            tracing::debug!(error = %millrace_engine::chain(&error), "the Lease could not be given back");
        }
    }

    fn stand(&self, standing: Standing) {
        self.standing.send_if_modified(|before| {
            let changes = *before != standing;
            *before = standing;
            changes
        });
    }

    /// Nine to eleven tenths, so that pods that started together do not ask together.
    fn jittered(&mut self, wait: Duration) -> Duration {
        self.turns += 1;
        let mut hasher = DefaultHasher::new();
        (&self.me, self.turns).hash(&mut hasher);
        wait.mul_f64(0.9 + 0.2 * (hasher.finish() % 1024) as f64 / 1024.0)
    }
}

fn wall(clock: &dyn Clock) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(clock.now().0 as i64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "web-0_1";
    const OTHER: &str = "web-0_2";

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: Option<&str>, renewed_ms: i64) -> Record {
        let renewed = jiff::Timestamp::from_millisecond(renewed_ms).ok().map(MicroTime);
        Record { holder: holder.map(str::to_owned), renewed, good_for: at(15), transitions: 0 }
    }

    fn seen(holder: Option<&str>, since: u64) -> Seen {
        Seen { record: record(holder, 0), since: at(since) }
    }

    #[test]
    fn a_free_lease_is_taken_and_our_own_is_renewed() {
        assert_eq!(decide(ME, false, &seen(None, 0), at(0)), Decision::Take);
        assert_eq!(decide(ME, true, &seen(None, 0), at(0)), Decision::Take, "somebody has cleared it");
        assert_eq!(decide(ME, true, &seen(Some(ME), 0), at(60)), Decision::Renew, "late, and nobody has taken it");
        assert_eq!(
            decide(ME, false, &seen(Some(ME), 0), at(0)),
            Decision::Renew,
            "the process before in this pod had it"
        );
    }

    #[test]
    fn anothers_lease_is_taken_when_it_was_not_renewed_for_its_time_by_our_clock() {
        assert_eq!(decide(ME, false, &seen(Some(OTHER), 5), at(6)), Decision::Wait { until: at(20) });
        assert_eq!(decide(ME, false, &seen(Some(OTHER), 5), at(20)), Decision::Take);
    }

    #[test]
    fn a_renewal_begins_the_wait_anew_and_the_same_record_does_not() {
        let first = Seen::next(None, record(Some(OTHER), 1), at(5));
        let same = Seen::next(Some(first.clone()), record(Some(OTHER), 1), at(12));
        assert_eq!(same, first);
        let renewed = Seen::next(Some(first), record(Some(OTHER), 2), at(12));
        assert_eq!(decide(ME, false, &renewed, at(20)), Decision::Wait { until: at(27) });
    }

    #[test]
    fn a_clock_of_another_machine_that_is_wrong_changes_nothing() {
        for renewed_ms in [0, 4_000_000_000_000] {
            let seen = Seen::next(None, record(Some(OTHER), renewed_ms), at(100));
            assert_eq!(decide(ME, false, &seen, at(101)), Decision::Wait { until: at(115) });
        }
    }

    #[test]
    fn a_holder_that_finds_another_has_lost_it_however_old_that_is() {
        assert_eq!(decide(ME, true, &seen(Some(OTHER), 0), at(500)), Decision::Lost { to: OTHER.to_owned() });
    }

    #[test]
    fn a_holder_is_certain_for_as_long_as_others_wait() {
        let held = Standing::Held { confirmed: at(10) };
        assert!(held.is_certain(at(24)) && !held.is_certain(at(25)));
        assert!(held.is_held() && !Standing::Waiting { holder: None }.is_held());
    }

    #[test]
    fn a_lease_that_the_operator_has_just_made_is_free() {
        assert_eq!(Record::of(&Lease::default()).holder, None);
        let cleared = Lease { spec: Some(Default::default()), ..Lease::default() };
        assert_eq!(decide(ME, false, &Seen::next(None, Record::of(&cleared), at(0)), at(0)), Decision::Take);
    }
}
