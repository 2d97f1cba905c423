//! Mistakes that are planted, and must be found.

use stateright::{Checker, HasDiscoveries, Model};

use crate::world::Protocol;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first acknowledgement is taken for all of them.
    DecidesBeforeTheLastAcknowledgement,
    /// Sinks are told to commit when the pointer is asked to move.
    CommitsBeforeThePointerMoves,
    /// Whoever asks moves the pointer.
    MovesWithoutComparing,
    /// Sources are told to forget when the pointer is asked to move.
    ForgetsBeforeTheDecision,
    /// Retention deletes all that dropped manifests name.
    DeletesWhatAKeptManifestNames,
    /// A manifest is taken for a decision.
    RestoresTheNewestManifest,
    /// A run restores and cleans up while older ones can still decide.
    NeverClaims,
    /// A run takes what a newer one is making for orphans.
    CleansUpAfterNewerOnes,
    /// The next epoch is decided while the last one's sinks still commit.
    DecidesBeforeTheLastCommit,
    /// A manifest holds only what its own epoch prepared.
    DropsWhatAbortedEpochsPrepared,
    /// A task says only once what it prepared, though that message may be lost.
    AcknowledgesOnlyTheNewestEpoch,
}

/// Asserts that the mistake breaks the invariant.
fn finds(fault: Fault, epochs: u64, crashes: u8, timeouts: u8, invariant: &'static str) {
    let protocol = Protocol { generations: 2, epochs, crashes, timeouts, fault: Some(fault) };
    let until = HasDiscoveries::AnyOf([invariant].into());
    let checker = protocol.checker().threads(2).finish_when(until).spawn_bfs().join();
    let path = checker.assert_any_discovery(invariant);
    println!("{fault:?}: found by {} steps, in {} states", path.into_actions().len(), checker.unique_state_count());
}

#[test]
fn deciding_before_the_last_acknowledgement_is_found() {
    let broken = "a decided epoch has every task's acknowledgement";
    finds(Fault::DecidesBeforeTheLastAcknowledgement, 1, 0, 0, broken);
}

#[test]
fn committing_before_the_pointer_has_moved_is_found() {
    finds(Fault::CommitsBeforeThePointerMoves, 1, 0, 0, "no sink commits an epoch before it is decided");
}

#[test]
fn moving_the_pointer_without_comparing_is_found() {
    finds(Fault::MovesWithoutComparing, 1, 0, 0, "an older generation decides nothing");
}

#[test]
fn forgetting_before_the_decision_is_found() {
    finds(Fault::ForgetsBeforeTheDecision, 1, 0, 0, "no source forgets before the decision");
}

#[test]
fn deleting_what_a_kept_manifest_names_is_found() {
    finds(Fault::DeletesWhatAKeptManifestNames, 2, 0, 0, "no file that a kept manifest names is deleted");
}

#[test]
fn restoring_what_was_never_decided_is_found() {
    finds(Fault::RestoresTheNewestManifest, 1, 1, 0, "a worker restores decided epochs only");
}

#[test]
fn restoring_without_a_claim_is_found() {
    finds(Fault::NeverClaims, 1, 0, 0, "what is decided can be shown");
}

#[test]
fn cleaning_up_after_a_newer_generation_is_found() {
    finds(Fault::CleansUpAfterNewerOnes, 1, 0, 0, "what is decided can be shown");
}

#[test]
fn deciding_the_next_epoch_before_the_last_one_is_committed_is_found() {
    finds(Fault::DecidesBeforeTheLastCommit, 2, 0, 0, "sinks commit epochs in order");
}

#[test]
fn dropping_what_an_aborted_epoch_prepared_is_found() {
    finds(Fault::DropsWhatAbortedEpochsPrepared, 2, 0, 1, "readers see every row once, in order");
}

#[test]
fn acknowledging_only_the_newest_epoch_where_messages_are_lost_is_found() {
    finds(Fault::AcknowledgesOnlyTheNewestEpoch, 2, 0, 1, "readers see every row once, in order");
}
