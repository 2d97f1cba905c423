//! The last revisions, with what came of each.

use millrace_crds::{ChangeResult, ChangeStatus, EditClass, PipelineStatus, RevisionStatus};
use millrace_stream::Timestamp;

use super::decide::Decision;
use crate::clock::time;

/// So many are kept.
const KEPT: usize = 10;

/// The history after a decision. `settled` is the revision of which it is certain that it runs.
pub fn next(
    before: &PipelineStatus,
    decision: &Decision,
    settled: Option<&str>,
    now: Timestamp,
) -> Vec<RevisionStatus> {
    let mut history = before.history.clone();
    if let Some(change) = decision.change.as_ref().filter(|_| !decision.is_dry_run) {
        announce(&mut history, change, now);
    }
    if let Some(rejected) = &decision.rejected {
        let entry = history.iter_mut().find(|entry| entry.revision == rejected.revision);
        // It may have run for a moment before it failed.
        let is_open =
            |entry: &&mut RevisionStatus| matches!(entry.result, ChangeResult::Pending | ChangeResult::TakenUp);
        if let Some(entry) = entry.filter(is_open) {
            entry.result = rejected.result;
            entry.message = Some(rejected.message.clone());
        }
    }
    if let Some(entry) = history.first_mut()
        && entry.result == ChangeResult::Pending
        && settled == Some(&entry.revision)
    {
        entry.result = ChangeResult::TakenUp;
    }
    history
}

/// Adds an edit, unless it stands there already.
fn announce(history: &mut Vec<RevisionStatus>, change: &ChangeStatus, now: Timestamp) {
    let Some(to) = &change.to else { return };
    let result = match change.class {
        EditClass::Refused => ChangeResult::Refused,
        _ => ChangeResult::Pending,
    };
    let is_known = history.first().is_some_and(|newest| {
        newest.revision == *to
            && newest.class == change.class
            && newest.result == result
            && newest.reason == change.reason
    });
    if is_known {
        return;
    }
    for entry in history.iter_mut().filter(|entry| entry.result == ChangeResult::Pending) {
        entry.result = ChangeResult::Superseded;
    }
    let entry = RevisionStatus {
        revision: to.clone(),
        at: time(now),
        class: change.class,
        reason: change.reason.clone(),
        result,
        message: None,
    };
    history.insert(0, entry);
    history.truncate(KEPT);
}

#[cfg(test)]
mod tests {
    use millrace_crds::RejectedStatus;

    use super::*;

    #[test]
    fn a_revision_that_ran_for_a_moment_before_it_was_taken_back_is_told_to_be_taken_back() {
        let at = time(Timestamp(0));
        let ran = RevisionStatus {
            revision: "two".to_owned(),
            at: at.clone(),
            class: EditClass::Hot,
            reason: None,
            result: ChangeResult::TakenUp,
            message: None,
        };
        let before = PipelineStatus { history: vec![ran], ..PipelineStatus::default() };
        let rejected = RejectedStatus {
            revision: "two".to_owned(),
            pods: None,
            message: "divided by zero".to_owned(),
            result: ChangeResult::RolledBack,
            at,
        };
        let decision = Decision {
            document: None,
            previous: None,
            pods: None,
            good_pods: None,
            account: None,
            due: None,
            stays: None,
            replicas: 1,
            builds: true,
            change: None,
            refusal: None,
            rejected: Some(rejected),
            is_dry_run: false,
        };
        let history = next(&before, &decision, Some("one"), Timestamp(1));
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].result, ChangeResult::RolledBack);
        assert_eq!(history[0].message.as_deref(), Some("divided by zero"));
    }
}
