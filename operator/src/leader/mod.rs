//! Which of the operator's replicas leads: the one that holds the Lease `millrace-operator`.
//!
//! Only the leader watches and writes. It renews the Lease every [`RENEW_EVERY`]; a replica that has seen the Lease unchanged
//! for [`LEASE`], by its own clock, takes it. Each write passes the [`Gate`], which is open only until [`MARGIN`] before the
//! Lease could be taken, counted from when the last renewal that succeeded was *sent*: so a leader that was frozen, or cannot
//! reach the API server, writes nothing once another may lead. A leader that ends gives the Lease back, and another
//! takes it within [`POLL_EVERY`].

mod decide;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use millrace_stream::Clock;

use self::decide::{Decision, Seen, decide};
use crate::{cluster::writer::WriteError, telemetry::chain};

/// The Lease's name.
pub const NAME: &str = "millrace-operator";
/// For how long a Lease that nobody renews is believed.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often the leader renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How often the others look.
pub const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long before the Lease could be taken the leader writes no more: a write on its way must have arrived by then.
pub const MARGIN: Duration = Duration::from_secs(4);
/// For how long a request for the Lease is waited for.
const REQUEST: Duration = Duration::from_secs(3);

/// Open while this replica leads for certain.
pub struct Gate {
    clock: Arc<dyn Clock>,
    /// In milliseconds of the monotonic clock, plus one; 0 while shut.
    until: AtomicU64,
}

impl Gate {
    /// A gate that is shut.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, until: AtomicU64::new(0) }
    }

    /// Whether writing is allowed now.
    pub fn is_open(&self) -> bool {
        (self.clock.monotonic().as_millis() as u64) < self.until.load(Ordering::SeqCst)
    }

    /// Opens it until then, by the monotonic clock.
    pub fn open_until(&self, until: Duration) {
        self.until.store(until.as_millis() as u64, Ordering::SeqCst);
    }

    /// Shuts it.
    pub fn shut(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

/// One replica's view of the Lease.
pub struct Elector {
    api: Api<Lease>,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    identity: String,
    seen: Option<Seen>,
    /// What went wrong at the last look: the same is told once.
    trouble: Option<String>,
}

impl Elector {
    /// A replica that does not lead yet. Its identity is no other's.
    pub fn new(client: Client, namespace: &str, identity: String, clock: Arc<dyn Clock>, gate: Arc<Gate>) -> Self {
        Self { api: Api::namespaced(client, namespace), clock, gate, identity, seen: None, trouble: None }
    }

    /// Waits until this replica leads. Cancel-safe.
    pub async fn win(&mut self) {
        loop {
            if self.step().await {
                return;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Holds the Lease, until it is lost. Cancel-safe.
    pub async fn hold(&mut self) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if !self.step().await && !self.gate.is_open() {
                return;
            }
        }
    }

    /// Gives the Lease back. The gate is shut.
    pub async fn release(&mut self) {
        self.gate.shut();
        crate::fault::point("before-release");
        let released = tokio::time::timeout(REQUEST, async {
            let lease = self.api.get_opt(NAME).await?;
            let Some(mut lease) = lease.filter(|lease| holder(lease) == Some(self.identity.as_str())) else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
        });
        match released.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given back; it expires"),
            Err(_) => tracing::warn!("the Lease could not be given back in time; it expires"),
        }
    }

    /// Looks at the Lease, and takes or renews it if it may be. Whether this replica leads after that.
    async fn step(&mut self) -> bool {
        let sent = self.clock.monotonic();
        match tokio::time::timeout(REQUEST, self.try_step()).await {
            Ok(Ok(leads)) => {
                self.trouble = None;
                if leads {
                    self.gate.open_until(sent + LEASE - MARGIN);
                } else {
                    self.gate.shut();
                }
                leads
            }
            Ok(Err(error)) => self.failed(chain(&error)),
            Err(_) => self.failed(format!("the API server has not answered within {} s", REQUEST.as_secs())),
        }
    }

    fn failed(&mut self, trouble: String) -> bool {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(error = %trouble, "the Lease cannot be read or written, and is tried again");
        }
        self.trouble = Some(trouble);
        false
    }

    async fn try_step(&mut self) -> Result<bool, WriteError> {
        let lease = self.api.get_opt(NAME).await?;
        let now = self.clock.monotonic();
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Seen { version, holder: lease.as_ref().and_then(holder).map(str::to_owned), since: now });
        }
        let Some(seen) = &self.seen else { return Ok(false) };
        let wanted = match decide(seen, &self.identity, now, LEASE) {
            Decision::Wait => return Ok(false),
            Decision::Create => None,
            Decision::Take | Decision::Renew => lease,
        };
        let is_new = wanted.is_none();
        let wanted = self.held(wanted);
        let params = PostParams::default();
        let written = match is_new {
            true => self.api.create(&params, &wanted).await,
            false => self.api.replace(NAME, &params, &wanted).await,
        };
        match written.map_err(WriteError::from) {
            Ok(_) => Ok(true),
            // Somebody was quicker; the next look shows who.
            Err(WriteError::Conflict(_) | WriteError::Gone(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The Lease, held by this replica from now.
    fn held(&self, lease: Option<Lease>) -> Lease {
        let now = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        let now = MicroTime(jiff::Timestamp::from_millisecond(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH));
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let is_renewal = holder(&lease) == Some(self.identity.as_str());
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: if is_renewal { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_renewal)),
            ..LeaseSpec::default()
        });
        lease
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use millrace_stream::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn a_leader_that_cannot_renew_writes_nothing_before_another_may_lead() {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let gate = Gate::new(clock.clone());
        assert!(!gate.is_open());
        gate.open_until(clock.monotonic() + LEASE - MARGIN);
        assert!(gate.is_open());
        clock.advance(LEASE - MARGIN);
        assert!(!gate.is_open());
        gate.open_until(clock.monotonic() + LEASE - MARGIN);
        gate.shut();
        assert!(!gate.is_open());
    }

    #[test]
    fn a_renewal_may_fail_once_before_the_gate_shuts() {
        assert!(RENEW_EVERY * 2 < LEASE - MARGIN);
        assert!(REQUEST < MARGIN);
    }
}
