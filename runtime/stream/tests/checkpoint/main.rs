//! The checkpoint protocol, checked over all interleavings of what can happen to it.
//!
//! [`world`] is everything there is: runs under their generations, their tasks, the manifest store, the pointer, sinks,
//! sources, and a network that loses, delays and repeats. [`steps`] is what can happen next; every decision in it is made by
//! the functions of `millrace_stream::checkpoint` themselves. [`invariants`] is what must hold in every state. [`faults`]
//! plants mistakes and expects them to be found.

#![allow(clippy::unwrap_used)]

mod faults;
mod invariants;
mod steps;
mod world;

use stateright::{Checker, Model};

use crate::{
    invariants::{reached, safety},
    world::Protocol,
};

fn check(protocol: Protocol) {
    let name = format!("{protocol:?}");
    let reached = reached(&protocol);
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them different, {} steps deep",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    for (invariant, path) in checker.discoveries() {
        if safety().iter().any(|property| property.name == invariant) {
            let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
            panic!("{invariant} does not hold after:\n{}", steps.join("\n"));
        }
    }
    for property in reached {
        checker.assert_any_discovery(property.name);
    }
}

/// Two coordinators at once, of which one may crash, or one of its tasks.
#[test]
fn two_generations_that_overlap_and_crash_keep_every_invariant() {
    check(Protocol { generations: 2, epochs: 2, crashes: 1, timeouts: 0, fault: None });
}

/// Two coordinators at once, and an epoch that is given up.
#[test]
fn two_generations_that_overlap_and_give_up_keep_every_invariant() {
    check(Protocol { generations: 2, epochs: 2, crashes: 0, timeouts: 1, fault: None });
}

#[test]
fn three_generations_that_overlap_keep_every_invariant() {
    check(Protocol { generations: 3, epochs: 1, crashes: 0, timeouts: 0, fault: None });
}

/// Long enough for retention to delete files.
#[test]
fn retention_keeps_every_invariant() {
    check(Protocol { generations: 1, epochs: 3, crashes: 1, timeouts: 1, fault: None });
}

/// Minutes rather than seconds: `make model-check`.
#[test]
#[ignore = "takes minutes"]
fn more_generations_epochs_and_crashes_keep_every_invariant() {
    check(Protocol { generations: 2, epochs: 2, crashes: 1, timeouts: 1, fault: None });
    check(Protocol { generations: 2, epochs: 3, crashes: 1, timeouts: 0, fault: None });
    check(Protocol { generations: 3, epochs: 2, crashes: 0, timeouts: 0, fault: None });
}
