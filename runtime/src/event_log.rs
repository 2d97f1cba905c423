//! What happens to a pipeline, as log lines.

use millrace_engine::status::JobEvent;

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
                kind = ?report.kind,
                duration_ms = report.duration.as_millis() as u64,
                size_bytes = report.size_bytes,
                uploaded_bytes = report.uploaded_bytes,
                "checkpoint completed"
            );
        }
        JobEvent::CheckpointFailed { epoch, reason } => {
            tracing::warn!(epoch = epoch.0, %reason, "checkpoint failed; the one before it stands");
        }
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
