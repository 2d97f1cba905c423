//! What was asked of a running pipeline.

use std::time::Duration;

use millrace_plan::Plan;
use millrace_stream::{BarrierKind, Epoch, Revision};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Command,
    job::{refusal, refused_edit},
};

/// Where somebody waits for what becomes of an edit.
pub type Answer = oneshot::Sender<Result<(), String>>;

/// What was asked for and is not answered; it outlives a generation.
#[derive(Debug, Default)]
pub struct Inbox {
    pub(super) savepoints: Vec<oneshot::Sender<Result<Epoch, String>>>,
    pub(super) edit: Option<(Box<Plan>, Answer)>,
    pub(super) unmet: Vec<BarrierKind>,
    /// The commands' sender is gone: nothing more will be asked.
    pub(super) closed: bool,
}

/// Why it was waited no longer.
#[derive(Debug)]
pub enum Waited {
    /// The time is over.
    Over,
    /// A stop was asked for.
    Stop,
    /// Another plan was asked for, which may take the place of the one that is waited with.
    Edit(Box<Plan>, Answer),
}

impl Inbox {
    /// While no tasks run: waits, and takes commands meanwhile. The plan that is to run next is `next`; what is stored was
    /// written by `stored`.
    pub async fn wait(
        &mut self,
        wait: Duration,
        commands: &mut mpsc::Receiver<Command>,
        next: &Plan,
        stored: &Plan,
    ) -> Waited {
        // What was asked for before, and would have been taken up at a barrier, is taken up now.
        self.unmet.retain(|kind| !matches!(kind, BarrierKind::Reconfigure(_)));
        if let Some((plan, answer)) = self.edit.take()
            && let Some((plan, answer)) = judge(plan, answer, next, stored)
        {
            return Waited::Edit(plan, answer);
        }
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            let command = tokio::select! {
                biased;
                command = commands.recv(), if !self.closed => command,
                () = &mut over => return Waited::Over,
            };
            match command {
                None => self.closed = true,
                Some(Command::Stop) => return Waited::Stop,
                Some(Command::Savepoint(reply)) => {
                    self.savepoints.push(reply);
                    if !self.unmet.contains(&BarrierKind::Savepoint) {
                        self.unmet.push(BarrierKind::Savepoint);
                    }
                }
                Some(Command::Edit { plan, reply }) => {
                    if let Some((plan, answer)) = judge(plan, reply, next, stored) {
                        return Waited::Edit(plan, answer);
                    }
                }
            }
        }
    }

    /// The plan of this revision, which has been taken up.
    pub fn take_edit(&mut self, revision: &Revision) -> Option<Plan> {
        let (plan, reply) = self.edit.take_if(|(plan, _)| plan.revision == *revision)?;
        // Whoever asked may not care any more.
        let _ = reply.send(Ok(()));
        Some(*plan)
    }
}

/// An edit that changes something and may be taken up; any other is answered at once.
fn judge(plan: Box<Plan>, answer: Answer, next: &Plan, stored: &Plan) -> Option<(Box<Plan>, Answer)> {
    let refused = refused_edit(stored, &plan).map(|refused| refusal(&refused));
    if refused.is_none() && plan.revision != next.revision {
        return Some((plan, answer));
    }
    // Whoever asked may not care any more.
    let _ = answer.send(refused.map_or(Ok(()), Err));
    None
}
