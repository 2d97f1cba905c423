//! What must hold in every state, and what must be reachable at all.

use std::collections::BTreeSet;

use millrace_stream::{Epoch, checkpoint::Taken};
use stateright::Property;

use crate::world::{File, Protocol, Run, World};

/// The six invariants of the protocol, and what users get from them.
pub fn safety() -> Vec<Property<Protocol>> {
    vec![
        Property::always("no sink commits an epoch before it is decided", no_sink_commits_before_the_decision),
        Property::always("sinks commit epochs in order", sinks_commit_in_order),
        Property::always("no source forgets before the decision", no_source_forgets_before_the_decision),
        Property::always("an older generation decides nothing", an_older_generation_decides_nothing),
        Property::always("no file that a kept manifest names is deleted", no_kept_file_is_deleted),
        Property::always("a worker restores decided epochs only", workers_restore_decided_epochs_only),
        Property::always("a decided epoch has every task's acknowledgement", decided_epochs_are_whole),
        Property::always("what is decided can be shown", what_is_decided_can_be_shown),
        Property::always("readers see every row once, in order", readers_see_every_row_once),
    ]
}

/// What a check that finds nothing wrong must have seen. A planted mistake is only looked for.
pub fn reached(protocol: &Protocol) -> Vec<Property<Protocol>> {
    if protocol.fault.is_some() {
        return Vec::new();
    }
    let mut reached = vec![
        Property::sometimes(
            "every epoch but those given up is decided and shown",
            |protocol: &Protocol, world: &World| {
                let all = |epochs: usize| epochs as u64 + u64::from(world.timeouts) == protocol.epochs;
                all(world.history.decided.len()) && world.sinks.iter().all(|sink| all(sink.committed.len()))
            },
        ),
        Property::sometimes("a manifest is there that is not decided", |_, world: &World| {
            world.manifests.keys().any(|taken| !decided(world).any(|decided| decided == *taken))
        }),
    ];
    if protocol.generations > 1 {
        reached.push(Property::sometimes("an older generation works beside a newer one", |_, world: &World| {
            world.runs.iter().filter(|run| matches!(run, Some(Run::Running(_)))).count() > 1
        }));
    }
    if protocol.generations > 1 && protocol.epochs > 1 {
        reached.push(Property::sometimes("two generations decide", |_, world: &World| {
            decided(world).map(|taken| taken.generation).collect::<BTreeSet<_>>().len() > 1
        }));
    }
    if protocol.epochs > 2 {
        reached.push(Property::sometimes("retention deletes a file", |_, world: &World| {
            decided(world).any(|taken| !world.files.contains(&File { taken, worker: 0 }))
        }));
    }
    reached
}

fn decided(world: &World) -> impl Iterator<Item = Taken> {
    world.history.decided.iter().map(|(taken, _)| *taken)
}

fn no_sink_commits_before_the_decision(_: &Protocol, world: &World) -> bool {
    let decided: BTreeSet<Epoch> = decided(world).map(|taken| taken.epoch).collect();
    world.sinks.iter().all(|sink| sink.committed.iter().all(|epoch| decided.contains(epoch)))
}

fn sinks_commit_in_order(_: &Protocol, world: &World) -> bool {
    let decided: Vec<Epoch> = decided(world).map(|taken| taken.epoch).collect();
    world.sinks.iter().all(|sink| decided.starts_with(&sink.committed))
}

fn no_source_forgets_before_the_decision(_: &Protocol, world: &World) -> bool {
    world.forgotten.iter().zip(&world.history.replay_points).all(|(forgotten, replay)| forgotten <= replay)
}

fn an_older_generation_decides_nothing(_: &Protocol, world: &World) -> bool {
    world.history.decided.iter().all(|(taken, claimed)| taken.generation >= *claimed)
}

fn no_kept_file_is_deleted(_: &Protocol, world: &World) -> bool {
    world.pointer.iter().flat_map(|pointer| &pointer.decided).all(|kept| {
        let there = |file: &File| world.files.contains(file);
        world.manifests.get(&kept.taken).is_some_and(|manifest| manifest.files.iter().flatten().all(there))
    })
}

fn workers_restore_decided_epochs_only(_: &Protocol, world: &World) -> bool {
    world.history.restored.iter().all(|restored| decided(world).any(|decided| decided == *restored))
}

fn decided_epochs_are_whole(_: &Protocol, world: &World) -> bool {
    world.pointer.iter().flat_map(|pointer| &pointer.decided).all(|kept| {
        world.manifests.get(&kept.taken).is_none_or(|manifest| manifest.positions.iter().all(Option::is_some))
    })
}

fn what_is_decided_can_be_shown(_: &Protocol, world: &World) -> bool {
    let newest = world.pointer.as_ref().and_then(|pointer| pointer.decided.last());
    let Some((newest, manifest)) = newest.and_then(|newest| Some((newest.taken, world.manifests.get(&newest.taken)?)))
    else {
        return true;
    };
    let shown = |worker: usize| world.sinks[worker].committed.last() >= Some(&newest.epoch);
    manifest.rows.iter().flatten().all(|rows| shown(rows.worker) || world.staged.contains(rows))
}

fn readers_see_every_row_once(_: &Protocol, world: &World) -> bool {
    world.sinks.iter().all(|sink| sink.visible.iter().zip(1..).all(|(row, expected)| *row == expected))
}
