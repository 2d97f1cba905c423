//! SIGINT and SIGTERM: both stop a pipeline at a final checkpoint.

use std::{io, sync::Arc, time::Duration};

use millrace_stream::Clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::EXIT_FAILED;

/// A second SIGINT that comes this long after the first, or later, ends the process at once.
const IMPATIENT_AFTER: Duration = Duration::from_secs(1);

/// Calls `stop` at the first of them. Who sends SIGINT again, later than the same key press could be told twice, does not
/// want to wait for the checkpoint.
///
/// # Errors
///
/// Signals cannot be waited for.
pub fn on_stop(clock: &Arc<dyn Clock>, stop: impl Fn() + Clone + Send + 'static) -> io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)?;
        let (stop, clock) = (stop.clone(), Arc::clone(clock));
        tokio::spawn(async move {
            let mut first = None;
            while signals.recv().await.is_some() {
                let now = clock.monotonic();
                let asked = *first.get_or_insert(now);
                if kind == SignalKind::interrupt() && now.saturating_sub(asked) >= IMPATIENT_AFTER {
                    tracing::error!(
                        "ended without a final checkpoint; the next run goes on from the last completed one"
                    );
                    std::process::exit(i32::from(EXIT_FAILED));
                }
                if asked == now {
                    tracing::info!("stopping at a final checkpoint");
                    stop();
                }
            }
        });
    }
    Ok(())
}
