//! `--watch`: notices edits of the manifests and hands the new plan to the running job.
//!
//! Files are read again and compared, not watched: that notices every way of replacing a file, a changed symbolic link
//! (as a mounted ConfigMap's) too, and asks nothing of the file system.

use std::{sync::Arc, time::Duration};

use millrace_engine::{Command, launch::misfits};
use millrace_plan::{Plan, unknown_losses};
use tokio::sync::{mpsc, oneshot};

use crate::{
    cli::ManifestArgs,
    manifests::{self, Texts},
    overview::Overview,
    telemetry,
};

const EVERY: Duration = Duration::from_millis(250);
/// How many looks in turn find a file gone that is not just being replaced.
const GONE_AFTER: u32 = 8;

/// What runs, and what it was made from.
pub struct Seen {
    /// The manifests.
    pub texts: Texts,
    /// The plan.
    pub plan: Plan,
}

/// Watches until the job is gone.
pub async fn watch(
    args: ManifestArgs,
    parallelism: Option<u32>,
    mut seen: Seen,
    commands: mpsc::Sender<Command>,
    overview: Arc<Overview>,
) {
    let mut unsettled: Option<Texts> = None;
    let mut unread = 0;
    loop {
        tokio::time::sleep(EVERY).await;
        let texts = match manifests::read_files(&args.files) {
            Ok(texts) => texts,
            // A file that is being replaced may be missing for a moment.
            Err(why) => {
                unread += 1;
                if unread == GONE_AFTER {
                    tracing::warn!("{}; the running plan stays", why.text);
                }
                continue;
            }
        };
        if unread >= GONE_AFTER {
            tracing::info!("the manifests can be read again");
        }
        unread = 0;
        if texts == seen.texts {
            unsettled = None;
            continue;
        }
        // An editor writes in several steps: what counts is what was there twice.
        if unsettled.as_ref() != Some(&texts) {
            unsettled = Some(texts);
            continue;
        }
        seen.texts = texts;
        let compiled = manifests::compile(&seen.texts, args.pipeline.as_deref());
        for message in &compiled.messages {
            telemetry::tell(&message.to_string());
        }
        let plan = compiled.plan.and_then(|plan| match parallelism {
            None => Some(plan),
            Some(parallelism) => {
                let mut spec = plan.spec;
                spec.pipeline.parallelism = parallelism;
                millrace_plan::compile(&spec).ok()
            }
        });
        let Some(plan) = plan else {
            tracing::warn!("edit refused: the manifests have errors; the running plan stays");
            continue;
        };
        if plan.spec.pipeline.suspend {
            tracing::info!("suspended (`suspend: true`): stopping at a final checkpoint");
            // Whoever has ended by itself has nothing to stop.
            let _ = commands.send(Command::Stop).await;
            return;
        }
        for loss in unknown_losses(&plan.spec.pipeline, Some(&seen.plan.spec.pipeline)) {
            tracing::warn!("{loss}");
        }
        if let Some(why) = misfits(&plan).await {
            tracing::warn!("edit refused, the running plan stays:\n{why}");
            continue;
        }
        let (reply, answer) = oneshot::channel();
        let edited = plan.clone();
        if commands.send(Command::Edit { plan: Box::new(plan), reply }).await.is_err() {
            return;
        }
        match answer.await {
            Ok(Ok(())) => {
                overview.set_plan(&edited);
                seen.plan = edited;
            }
            Ok(Err(why)) => tracing::warn!("edit refused, the running plan stays:\n{why}"),
            Err(_) => return,
        }
    }
}
