#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use millrace_connectors::SinkError;
use millrace_engine::blame::Blame;
use millrace_plan::{
    Edit, EditClass, ResolvedSpec,
    handover::{EditSaid, RunPhase, SavepointWish},
};
use millrace_stream::{Generation, Timestamp, checkpoint::Failure};
use serde_json::json;

use super::*;

fn revision(name: &str) -> Revision {
    Revision(name.to_owned())
}

fn wanted(name: &str) -> PlanDocument {
    let pipeline = json!({"sources": [], "transforms": [], "outputs": []});
    PlanDocument {
        version: PlanDocument::VERSION,
        revision: revision(name),
        spec: ResolvedSpec {
            name: "web".to_owned(),
            pipeline: serde_json::from_value(pipeline).unwrap(),
            windows: BTreeMap::new(),
            sinks: BTreeMap::new(),
        },
        suspend: false,
        savepoint: None,
        start_from: None,
    }
}

fn wish(token: &str) -> StartWish {
    StartWish {
        token: token.to_owned(),
        savepoint: Some("savepoint-4".to_owned()),
        reset_sources: Vec::new(),
        move_sources: Vec::new(),
    }
}

fn never(_: &str) -> bool {
    false
}

mod beginning {
    use super::*;

    #[test]
    fn what_is_wanted_is_run() {
        let plain = Begin::Wanted { wish: None };
        assert_eq!(begin(&wanted("b"), None, None, never), plain, "for the first time");
        assert_eq!(begin(&wanted("b"), None, Some(&revision("a")), never), plain, "edited meanwhile");
    }

    #[test]
    fn a_suspended_pipeline_stays_so() {
        let suspended = PlanDocument { suspend: true, start_from: Some(wish("t")), ..wanted("a") };
        assert_eq!(begin(&suspended, None, Some(&revision("a")), never), Begin::Suspended);
    }

    #[test]
    fn a_wish_acts_once() {
        let wanted = PlanDocument { start_from: Some(wish("t")), ..wanted("a") };
        assert_eq!(begin(&wanted, None, None, never), Begin::Wanted { wish: Some(wish("t")) });
        assert_eq!(begin(&wanted, None, None, |token| token == "t"), Begin::Wanted { wish: None });
    }

    #[test]
    fn what_was_rejected_is_not_tried_again_while_there_is_something_before_it() {
        let (rejected, stored) = (revision("b"), revision("a"));
        assert_eq!(begin(&wanted("b"), Some(&rejected), Some(&stored), never), Begin::Stored { wish: None });
        let plain = Begin::Wanted { wish: None };
        assert_eq!(begin(&wanted("c"), Some(&rejected), Some(&stored), never), plain, "another one");
        assert_eq!(begin(&wanted("b"), Some(&rejected), None, never), plain, "there is nothing else to run");
        assert_eq!(begin(&wanted("b"), Some(&rejected), Some(&rejected), never), plain, "it has run after all");
    }

    #[test]
    fn a_wish_that_came_with_what_was_rejected_acts_with_what_runs_instead() {
        let (rejected, stored) = (revision("b"), revision("a"));
        let wanted = PlanDocument { start_from: Some(wish("t")), ..wanted("b") };
        let with = |wish| Begin::Stored { wish };
        assert_eq!(begin(&wanted, Some(&rejected), Some(&stored), never), with(Some(wish("t"))));
        assert_eq!(begin(&wanted, Some(&rejected), Some(&stored), |token| token == "t"), with(None));
    }

    #[test]
    fn only_a_rollback_is_remembered_after_a_restart() {
        let mut report = ReportDocument {
            pod_uid: None,
            pipeline_uid: None,
            version: 1,
            pod: "web-0".to_owned(),
            generation: None,
            phase: RunPhase::Running,
            revision: None,
            runs: None,
            restored_from: None,
            checkpoint: None,
            checkpoint_failures: 0,
            checkpoint_error: None,
            problem: None,
            edit: None,
            savepoint: None,
            started: None,
            restarts: 0,
            nodes: Vec::new(),
            at: Timestamp(0),
        };
        assert_eq!(rejected_before(&report), None);
        for (result, rejected) in
            [(EditResult::RolledBack, Some(revision("b"))), (EditResult::Refused, None), (EditResult::TakenUp, None)]
        {
            let (from, to) = (revision("a"), revision("b"));
            report.edit = Some(EditSaid { from, to, result, since: None, message: None, at: Timestamp(0) });
            assert_eq!(rejected_before(&report), rejected, "{result:?}");
        }
    }
}

mod running {
    use super::*;

    fn course(name: &str) -> Course {
        Course { revision: Some(revision(name)), ..Course::default() }
    }

    #[test]
    fn a_job_that_runs_what_is_wanted_is_told_nothing() {
        assert_eq!(steer(&wanted("a"), &course("a"), never), None);
    }

    #[test]
    fn an_edit_is_offered_once() {
        assert_eq!(steer(&wanted("b"), &course("a"), never), Some(Order::Edit));
        let offered = Course { offered: Some(revision("b")), ..course("a") };
        assert_eq!(steer(&wanted("b"), &offered, never), None, "it is under way, or was refused");
        assert_eq!(steer(&wanted("c"), &offered, never), Some(Order::Edit), "a newer one takes its place");
        assert_eq!(steer(&wanted("a"), &offered, never), None, "it may still be taken up, and then this is an edit");
    }

    #[test]
    fn a_savepoint_is_asked_for_once_and_with_the_old_plan() {
        let savepoint = SavepointWish { token: "t".to_owned() };
        let wanted = PlanDocument { savepoint: Some(savepoint), ..wanted("b") };
        assert_eq!(steer(&wanted, &course("a"), never), Some(Order::Savepoint("t".to_owned())));
        let asked = Course { savepoint: Some("t".to_owned()), ..course("a") };
        assert_eq!(steer(&wanted, &asked, never), Some(Order::Edit), "then the edit");
    }

    #[test]
    fn a_start_wish_stops_the_job_unless_the_job_began_with_it_or_it_has_acted() {
        let wanted = PlanDocument { start_from: Some(wish("t")), ..wanted("b") };
        assert_eq!(steer(&wanted, &course("a"), never), Some(Order::StartOver));
        let began = Course { began_with: Some("t".to_owned()), ..course("b") };
        assert_eq!(steer(&wanted, &began, never), None);
        assert_eq!(steer(&wanted, &course("b"), |token| token == "t"), None);
    }

    #[test]
    fn a_suspension_comes_first_and_is_told_once() {
        let wanted = PlanDocument { suspend: true, start_from: Some(wish("t")), ..wanted("b") };
        assert_eq!(steer(&wanted, &course("a"), never), Some(Order::Suspend));
        let ending = Course { is_ending: true, ..course("a") };
        assert_eq!(steer(&wanted, &ending, never), None);
    }
}

mod failing {
    use super::*;

    fn sink(error: SinkError) -> JobError {
        JobError::Sink { node: "rows->out".into(), source: error }
    }

    fn refused() -> JobError {
        sink(SinkError::Refused { what: "no".to_owned(), source: None })
    }

    fn passing() -> JobError {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        sink(SinkError::Io { what: "/out".to_owned(), source })
    }

    fn next(error: &JobError, attempt: Attempt) -> Next {
        after(error, Blame::of(error).part, &attempt)
    }

    const PLAIN: Attempt =
        Attempt { is_edit: false, was_failing: false, has_wish: false, from_savepoint: false, failed: 0 };
    const TRIAL: Attempt = Attempt { is_edit: true, ..PLAIN };

    #[test]
    fn a_failed_pipeline_is_tried_again_after_waits_that_double_up_to_five_minutes() {
        let waits = [0, 1, 2, 8, 9, u32::MAX].map(|failed| next(&refused(), Attempt { failed, ..PLAIN }));
        let seconds = [1, 2, 4, 256, 300, 300].map(|seconds| Next::Later(Duration::from_secs(seconds)));
        assert_eq!(waits, seconds);
    }

    #[test]
    fn whoever_was_replaced_steps_down() {
        assert_eq!(next(&JobError::SteppedDown { by: Generation(2) }, TRIAL), Next::StepDown);
    }

    #[test]
    fn an_api_server_that_is_away_is_asked_again_soon_however_often() {
        let error = StateError::Pointer { action: "read", place: "here".to_owned(), source: "refused".into() };
        let attempt = Attempt { failed: 20, ..TRIAL };
        assert_eq!(next(&error.into(), attempt), Next::Soon(API_WAIT));
    }

    #[test]
    fn a_data_folder_that_the_pod_before_still_works_in_is_waited_for_and_no_plans_fault() {
        let holder = millrace_state::Holder { pid: 1, host: "web-0".to_owned(), since: Timestamp(0) };
        let error = StateError::Held { path: "/data".into(), holder };
        assert_eq!(next(&error.into(), Attempt { failed: 20, ..TRIAL }), Next::Held(HELD_WAIT));
    }

    #[test]
    fn a_wish_that_cannot_act_is_dropped() {
        let error = JobError::NoSavepoint { name: "s".to_owned(), known: Vec::new() };
        assert_eq!(next(&error, Attempt { has_wish: true, ..PLAIN }), Next::DropWish);
        assert_eq!(next(&error, PLAIN), Next::Later(FIRST_WAIT));
    }

    #[test]
    fn an_edit_that_would_lose_state_is_refused_where_there_is_a_plan_to_go_on_with() {
        let edit = || JobError::EditRefused(Box::new(Edit { class: EditClass::Refused, nodes: Vec::new() }));
        assert_eq!(next(&edit(), TRIAL), Next::Refuse);
        assert_eq!(next(&edit(), PLAIN), Next::Later(FIRST_WAIT));
        // A savepoint that the plan cannot go on from is no reason to refuse the plan, nor to try again and again.
        for attempt in [PLAIN, TRIAL] {
            assert_eq!(next(&edit(), Attempt { has_wish: true, from_savepoint: true, ..attempt }), Next::DropWish);
        }
        assert_eq!(next(&edit(), Attempt { has_wish: true, ..TRIAL }), Next::Refuse);
    }

    #[test]
    fn an_edited_plan_that_does_not_run_is_rolled_back_at_once_or_after_a_few_starts() {
        assert_eq!(next(&refused(), TRIAL), Next::RollBack);
        let tries = [0, 1, 2].map(|failed| next(&passing(), Attempt { failed, ..TRIAL }));
        let [one, two] = [1, 2].map(|seconds| Next::Later(Duration::from_secs(seconds)));
        assert_eq!(tries, [one, two, Next::RollBack]);
    }

    #[test]
    fn there_is_no_way_back_to_a_plan_that_did_not_run() {
        let attempt = Attempt { was_failing: true, ..TRIAL };
        assert_eq!(next(&refused(), attempt), Next::Later(FIRST_WAIT));
    }

    #[test]
    fn a_checkpoint_store_that_fails_is_no_fault_of_the_plan() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = StateError::Io { action: "write", path: "/data".into(), source: io };
        let attempt = Attempt { failed: 9, ..TRIAL };
        assert_eq!(next(&full.into(), attempt.clone()), Next::Later(MAX_WAIT));
        let halted = JobError::Halted { why: Failure::StopTimedOut, decided: None };
        assert_eq!(next(&halted, attempt), Next::Later(MAX_WAIT));
    }
}
