#![allow(clippy::unwrap_used)]

use super::*;

fn taken(epoch: u64, generation: u64) -> Taken {
    Taken { epoch: Epoch(epoch), generation: Generation(generation) }
}

fn decided(epoch: u64, generation: u64) -> Decided {
    Decided { taken: taken(epoch, generation), savepoint: false }
}

/// Generation 9 finds these: (epoch, generation) of decided epochs and of manifests.
fn found(pointed: &[(u64, u64)], stored: &[(u64, u64)]) -> Facts {
    let sound = ManifestState::Sound { kind: BarrierKind::Checkpoint };
    Facts {
        generation: Generation(9),
        pointer: Some(Pointer {
            generation: Generation(8),
            decided: pointed.iter().map(|(epoch, generation)| decided(*epoch, *generation)).collect(),
        }),
        manifests: stored.iter().map(|(epoch, generation)| (taken(*epoch, *generation), sound.clone())).collect(),
        allow_previous: false,
    }
}

#[test]
fn a_first_run_starts_from_nothing() {
    let facts = Facts { pointer: None, ..found(&[], &[]) };
    assert_eq!(recover(&facts), Recovery::Fresh { first: Epoch(1), orphans: vec![] });
}

#[test]
fn a_manifest_whose_pointer_never_moved_is_not_decided() {
    assert_eq!(
        recover(&found(&[], &[(1, 8)])),
        Recovery::Fresh { first: Epoch(2), orphans: vec![] },
        "its number is not used again, by the runs after this one either"
    );
    assert_eq!(
        recover(&found(&[(4, 8), (5, 8)], &[(4, 8), (5, 8), (6, 7), (7, 8)])),
        Recovery::Restore {
            from: taken(5, 8),
            finished: false,
            decided: vec![decided(4, 8), decided(5, 8)],
            first: Epoch(8),
            orphans: vec![taken(6, 7)],
            passed_over: vec![],
        }
    );
}

#[test]
fn an_undecided_manifest_of_the_same_epoch_is_told_apart_by_its_generation() {
    let Recovery::Restore { from, orphans, .. } = recover(&found(&[(5, 8)], &[(5, 7), (5, 8)])) else {
        panic!("epoch 5 is decided")
    };
    assert_eq!((from, orphans), (taken(5, 8), vec![taken(5, 7)]));
}

#[test]
fn what_a_newer_generation_is_making_is_no_orphan() {
    let Recovery::Restore { orphans, first, .. } = recover(&found(&[(5, 8)], &[(5, 8), (6, 8), (6, 10), (7, 10)]))
    else {
        panic!("epoch 5 is decided")
    };
    assert_eq!((orphans, first), (vec![taken(6, 8)], Epoch(8)));
}

#[test]
fn after_going_back_the_numbers_of_what_sinks_may_have_committed_are_never_taken_again() {
    let mut stored = vec![(3, 8), (4, 8), (5, 8)];
    // Epochs 4 and 5 were decided, and the pointer was moved back to 3; then run after run ends before its first checkpoint.
    for _ in 0..3 {
        let Recovery::Restore { orphans, first, .. } = recover(&found(&[(3, 8)], &stored)) else {
            panic!("epoch 3 is decided")
        };
        assert_eq!(first, Epoch(6));
        stored.retain(|(epoch, generation)| !orphans.contains(&taken(*epoch, *generation)));
    }
    let after = recover(&found(&[(3, 8), (6, 8)], &[(3, 8), (5, 8), (6, 8)]));
    assert!(
        matches!(after, Recovery::Restore { orphans, .. } if orphans == [taken(5, 8)]),
        "it goes when it is passed"
    );
}

#[test]
fn a_pipeline_that_was_drained_is_finished() {
    let mut facts = found(&[(5, 8)], &[(5, 8)]);
    facts.manifests.insert(taken(5, 8), ManifestState::Sound { kind: BarrierKind::Drain });
    assert!(matches!(recover(&facts), Recovery::Restore { finished: true, .. }));
}

#[test]
fn a_damaged_newest_checkpoint_is_refused_and_the_one_before_it_named() {
    let mut facts = found(&[(3, 8), (5, 8)], &[(3, 8), (4, 8), (5, 8)]);
    facts.manifests.insert(taken(5, 8), ManifestState::Damaged);
    let refusal = Refusal::Damaged { epoch: Epoch(5), missing: false, previous: Some(Epoch(3)) };
    assert_eq!(recover(&facts), Recovery::Refuse(refusal.clone()), "not 4, which was never decided");
    assert_eq!(refusal.to_string(), "checkpoint 5, the newest, is damaged; checkpoint 3 before it is sound");
}

#[test]
fn the_one_before_it_is_restored_by_the_users_leave() {
    let mut facts = found(&[(3, 8), (5, 8)], &[(3, 8), (4, 8), (5, 8)]);
    facts.manifests.insert(taken(5, 8), ManifestState::Damaged);
    facts.allow_previous = true;
    assert_eq!(
        recover(&facts),
        Recovery::Restore {
            from: taken(3, 8),
            finished: false,
            decided: vec![decided(3, 8)],
            first: Epoch(6),
            orphans: vec![taken(4, 8)],
            passed_over: vec![taken(5, 8)],
        }
    );
}

#[test]
fn leave_to_use_an_older_one_changes_nothing_while_the_newest_is_sound() {
    let facts = found(&[(3, 8), (5, 8)], &[(3, 8), (5, 8)]);
    assert_eq!(recover(&facts), recover(&Facts { allow_previous: true, ..facts.clone() }));
}

#[test]
fn a_missing_manifest_is_refused_even_if_there_is_nothing_else() {
    let mut facts = found(&[(5, 8)], &[]);
    facts.allow_previous = true;
    let refusal = Refusal::Damaged { epoch: Epoch(5), missing: true, previous: None };
    assert_eq!(recover(&facts), Recovery::Refuse(refusal.clone()));
    assert_eq!(refusal.to_string(), "checkpoint 5, the newest, is missing; there is no sound one before it");
}

#[test]
fn manifests_without_a_pointer_are_not_guessed_about() {
    let facts = Facts { pointer: None, ..found(&[], &[(4, 8), (5, 8)]) };
    assert_eq!(recover(&facts), Recovery::Refuse(Refusal::PointerLost { newest: Epoch(5) }));
}
