//! What happens to a pipeline, as log lines.

use millrace_engine::status::JobEvent;
use millrace_stream::{BarrierKind, Revision};

/// Why a checkpoint was taken, in a word.
fn kind_name(kind: &BarrierKind) -> &'static str {
    match kind {
        BarrierKind::Checkpoint => "checkpoint",
        BarrierKind::Savepoint => "savepoint",
        BarrierKind::Reconfigure(_) => "edit",
        BarrierKind::Drain => "end of input",
        BarrierKind::Stop => "stop",
    }
}

/// The revision that goes on from a checkpoint, if it is another.
fn next_revision(kind: &BarrierKind) -> Option<&Revision> {
    match kind {
        BarrierKind::Reconfigure(revision) => Some(revision),
        _ => None,
    }
}

/// One line a thing that happens. On a terminal the live view shows checkpoints, so they are not logged as well.
pub fn log(event: &JobEvent, is_live: bool) {
    match event {
        JobEvent::Running { restored, revision } => {
            tracing::info!(revision = %revision, restored = restored.map(|epoch| epoch.0), "running");
        }
        JobEvent::CheckpointCompleted(report) if is_live => {
            tracing::debug!(epoch = report.epoch.0, "checkpoint completed");
        }
        JobEvent::CheckpointCompleted(report) => {
            tracing::info!(
                epoch = report.epoch.0,
                kind = kind_name(&report.kind),
                revision = next_revision(&report.kind).map(tracing::field::display),
                duration_ms = report.duration.as_millis() as u64,
                size_bytes = report.size_bytes,
                uploaded_bytes = report.uploaded_bytes,
                "checkpoint completed"
            );
        }
        JobEvent::CheckpointFailed { epoch, reason } => {
            tracing::warn!(epoch = epoch.0, %reason, "checkpoint failed; the one before it stands");
        }
        // The log has each try.
        JobEvent::CheckpointHeldUp { .. } => {}
        JobEvent::Committed { epoch, rows } => tracing::debug!(epoch = epoch.0, rows, "committed"),
        JobEvent::CommitFailed { epoch, error, attempt, retry_after: Some(wait), .. } => {
            tracing::warn!(
                epoch = epoch.0,
                %error,
                attempt,
                wait_ms = wait.as_millis() as u64,
                "a commit failed and is tried again; rows flow on"
            );
        }
        JobEvent::CommitFailed { epoch, error, .. } => {
            tracing::error!(epoch = epoch.0, %error, "a commit failed for good");
        }
        JobEvent::Restarting { error, attempt, wait, .. } => {
            tracing::warn!(%error, attempt, wait_ms = wait.as_millis() as u64, "starting again from the last checkpoint");
        }
        JobEvent::Edited { from, to } => tracing::info!(%from, %to, "edit taken up"),
        JobEvent::RolledBack { from, to, error, .. } => {
            tracing::error!(%from, %to, %error, "the edited plan failed and is rolled back; nothing is lost");
        }
    }
}
