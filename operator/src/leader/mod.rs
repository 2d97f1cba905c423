//! Which of the operator's replicas leads: the one that holds the Lease `millrace-operator`.
//!
//! Only the leader watches and writes. It renews the Lease every [`RENEW_EVERY`]; a replica that has seen the Lease unchanged
//! for [`LEASE`], by its own clock, takes it. Each write passes the [`Gate`], which is open only until [`MARGIN`] before the
//! Lease could be taken, counted from when the last renewal that succeeded was *sent*: so a leader that was frozen, or cannot
//! reach the API server, writes nothing once another may lead. One that ends waits for the writes that are on their way and gives
//! the Lease back, and another takes it within [`POLL_EVERY`].
//!
//! ```text
//! renewal sent ─ arrives ──────────────────────────── another may take it
//! 0 s            ≤ 1.5 s                              ≥ 6 s after it arrived
//! ├── the gate is open ──────────┤
//!                            3.5 s ├ a last write ┤ 5.5 s
//! ```
//!
//! No clocks are compared, only lengths of time. That a length is the same on two machines, up to a twelfth (half a second of
//! six), and that a request which its sender has given up does nothing later, is all that is assumed; and where it does not
//! hold, what another leader has written since is not overwritten: each apply names the version that it was decided on.

mod decide;
mod gate;
#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

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
pub use self::gate::Gate;
use crate::{cluster::writer::WriteError, telemetry::chain};

/// The Lease's name.
pub const NAME: &str = "millrace-operator";
/// For how long a Lease that nobody renews is believed.
pub const LEASE: Duration = Duration::from_secs(6);
/// How often the leader renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How soon it tries again when it could not.
pub const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often the others look.
pub const POLL_EVERY: Duration = Duration::from_millis(500);
/// How long before the Lease could be taken the leader writes no more: a write on its way must have arrived by then.
pub const MARGIN: Duration = Duration::from_millis(2_500);
/// For how long a request for the Lease is waited for.
const REQUEST: Duration = Duration::from_millis(1_500);

/// Where the Lease is kept.
///
/// Implementers replace it only if it is still of the version that it was read with, and answer [`WriteError::Conflict`] if it is
/// not, or if there is one already where one is to be made.
pub trait Leases: Send + Sync {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self) -> impl Future<Output = Result<Option<Lease>, WriteError>> + Send;

    /// Makes it.
    ///
    /// # Errors
    /// There is one, or it may or may not have been made.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Replaces it.
    ///
    /// # Errors
    /// It is another, or it may or may not have been replaced.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<(), WriteError>> + Send;
}

impl Leases for Api<Lease> {
    async fn read(&self) -> Result<Option<Lease>, WriteError> {
        Ok(self.get_opt(NAME).await?)
    }

    async fn create(&self, lease: &Lease) -> Result<(), WriteError> {
        Ok(Api::create(self, &PostParams::default(), lease).await.map(drop)?)
    }

    async fn replace(&self, lease: &Lease) -> Result<(), WriteError> {
        Ok(Api::replace(self, NAME, &PostParams::default(), lease).await.map(drop)?)
    }
}

/// What came of a look at the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// This replica holds it.
    Leads,
    /// Another does.
    Follows,
    /// Nobody knows.
    Failed,
}

/// One replica's view of the Lease.
pub struct Elector<L = Api<Lease>> {
    leases: L,
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
        Self::of(Api::namespaced(client, namespace), identity, clock, gate)
    }
}

impl<L: Leases> Elector<L> {
    fn of(leases: L, identity: String, clock: Arc<dyn Clock>, gate: Arc<Gate>) -> Self {
        Self { leases, clock, gate, identity, seen: None, trouble: None }
    }

    /// Waits until this replica leads, and tells each time that another is seen to. Cancel-safe.
    pub async fn win(&mut self, follows: impl Fn()) {
        loop {
            match self.step().await {
                Look::Leads => return,
                Look::Follows => follows(),
                Look::Failed => {}
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Holds the Lease, until it is lost. Cancel-safe.
    pub async fn hold(&mut self) {
        let mut wait = RENEW_EVERY;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.step().await {
                Look::Leads => RENEW_EVERY,
                // One that was not answered in time may have succeeded, and there is little time for the next.
                _ if self.gate.is_open() => RETRY_EVERY,
                _ => return,
            };
        }
    }

    /// Gives the Lease back. The gate is shut.
    pub async fn release(&mut self) {
        self.gate.shut();
        crate::fault::point("before-release", (NAME, 0));
        let released = tokio::time::timeout(REQUEST, async {
            let lease = self.leases.read().await?;
            let Some(mut lease) = lease.filter(|lease| holder(lease) == Some(self.identity.as_str())) else {
                return Ok(());
            };
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            self.leases.replace(&lease).await
        });
        match released.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "the Lease could not be given back; it expires");
            }
            Err(_) => tracing::warn!("the Lease could not be given back in time; it expires"),
        }
    }

    /// Looks at the Lease, and takes or renews it if it may be.
    async fn step(&mut self) -> Look {
        let sent = self.clock.monotonic();
        match tokio::time::timeout(REQUEST, self.try_step()).await {
            Ok(Ok(true)) => {
                self.trouble = None;
                self.gate.open_until(sent + LEASE - MARGIN);
                Look::Leads
            }
            Ok(Ok(false)) => {
                self.trouble = None;
                self.gate.shut();
                Look::Follows
            }
            Ok(Err(error)) => self.failed(chain(&error)),
            Err(_) => self.failed(format!("the API server has not answered within {REQUEST:?}")),
        }
    }

    fn failed(&mut self, trouble: String) -> Look {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(error = %trouble, "the Lease cannot be read or written, and is tried again");
        }
        self.trouble = Some(trouble);
        Look::Failed
    }

    async fn try_step(&mut self) -> Result<bool, WriteError> {
        let lease = self.leases.read().await?;
        let now = self.clock.monotonic();
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            self.seen = Some(Seen { version, holder: lease.as_ref().and_then(holder).map(str::to_owned), since: now });
        }
        let Some(seen) = &self.seen else { return Ok(false) };
        let written = match decide(seen, &self.identity, now, LEASE) {
            Decision::Wait => return Ok(false),
            Decision::Create => self.leases.create(&self.held(None)).await,
            Decision::Take | Decision::Renew => self.leases.replace(&self.held(lease)).await,
        };
        match written {
            Ok(()) => Ok(true),
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
