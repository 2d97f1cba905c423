//! The operator's life: waits to lead, works while it leads, and gives the Lease back when it is told to stop.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use kube::Client;
use millrace_stream::Clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    backoff::Dice,
    cli::Cli,
    clock::SystemClock,
    cluster::{
        stores::Stores,
        watches,
        writer::{self, ApiWriter},
    },
    context::{Context, Notes},
    controller, fault,
    leader::{Elector, Gate},
    metrics::Metrics,
    pipeline,
    plans::Plans,
    queue::Trigger,
    room::Room,
    server,
};

/// Why the operator cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two implementations of cryptography were given.
    #[error("TLS is set up twice")]
    Tls,
    /// Neither a service account nor a kubeconfig can be used.
    #[error("the cluster cannot be found: in a pod its service account says where, elsewhere KUBECONFIG")]
    Cluster(#[source] kube::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start. What fails later is tried again.
pub async fn run(cli: Cli) -> Result<(), Error> {
    fault::arm();
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| Error::Tls)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let client = Client::try_default().await.map_err(Error::Cluster)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let listening = server::listen(cli.listen, Arc::clone(&metrics)).await;
    let address = listening.map_err(|source| Error::Listen { address: cli.listen, source })?;
    let identity = cli.identity.clone().unwrap_or_else(|| made_up(&*clock));
    let lease_namespace = cli.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let scope = cli.namespace.as_deref().unwrap_or("all namespaces");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %address, %identity, %scope, "the operator has started");

    let gate = Arc::new(Gate::new(Arc::clone(&clock)));
    let mut elector =
        Elector::new(client.clone(), &lease_namespace, identity.clone(), Arc::clone(&clock), Arc::clone(&gate));
    let at_work: AtWork = Arc::default();
    let mut life = Box::pin(async {
        loop {
            // Whether it could take over is known when it has seen the Lease.
            elector.win(|| metrics.follows()).await;
            tracing::info!("this replica leads");
            metrics.leads(false);
            let work = work(&cli, &client, &clock, &gate, &metrics, &identity, &at_work);
            tokio::select! {
                () = work => {}
                () = elector.hold() => tracing::warn!("this replica does not lead any more"),
            }
            metrics.rests();
        }
    });
    tokio::select! {
        () = &mut life => {}
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
    }
    let context = at_work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(context) = context {
        let leaving = tokio::time::timeout(LEAVING, pipeline::deletion::leave(&*context, &lease_namespace));
        tokio::select! {
            () = &mut life => {}
            left = leaving => if left.is_err() {
                tracing::warn!("not every Pipeline of this namespace, which is being deleted, was let go");
            }
        }
    }
    // Nothing new is written, and what is on its way has arrived before another leads.
    gate.retire();
    if tokio::time::timeout(writer::REQUEST, gate.quiet()).await.is_err() {
        tracing::warn!("a write has not been answered");
    }
    drop(life);
    elector.release().await;
    Ok(())
}

/// What the replica that leads works with.
type AtWork = Arc<Mutex<Option<Arc<Context<ApiWriter>>>>>;

/// For how long Pipelines are let go of a namespace that is deleted with the operator in it. Its pod has 30 s to end.
const LEAVING: Duration = Duration::from_secs(15);

/// Watches and reconciles, for as long as it is polled.
async fn work(
    cli: &Cli,
    client: &Client,
    clock: &Arc<dyn Clock>,
    gate: &Arc<Gate>,
    metrics: &Arc<Metrics>,
    identity: &str,
    at_work: &AtWork,
) {
    let (stores, writers) = Stores::new();
    let (trigger, asked) = Trigger::new();
    let mut watches = watches::start(client, cli.namespace.as_deref(), &stores, writers, &trigger, metrics);
    let context = Arc::new(Context {
        stores: stores.clone(),
        writer: ApiWriter::new(client.clone(), Arc::clone(gate), Arc::clone(clock), identity),
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
        runtime_image: cli.runtime_image.clone(),
        plans: Plans::default(),
        room: Room::default(),
        notes: Notes::default(),
        is_leaving: AtomicBool::default(),
    });
    *at_work.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&context));
    let filled = async {
        // Deciding on half of what there is would undo the rest.
        if stores.wait_until_filled().await {
            metrics.leads(true);
            tracing::info!(
                pipelines = stores.pipelines.len(),
                windows = stores.windows.len(),
                sinks = stores.sinks.len(),
                "all watches stand"
            );
            trigger.send(stores.keys()).await;
            controller::run(context, asked, cli.concurrency.into(), Dice::of(identity)).await;
        }
    };
    tokio::select! {
        () = filled => {}
        Some(ended) = watches.join_next() => tracing::error!(?ended, "a watch has ended; all start again"),
    }
}

/// An identity for a process that is in no pod.
fn made_up(clock: &dyn Clock) -> String {
    format!("process-{}-{:x}", std::process::id(), clock.now().0)
}
