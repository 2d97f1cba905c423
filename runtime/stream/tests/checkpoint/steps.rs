//! What can happen next, and what comes of it.
//!
//! This is the executor, the workers, the stores and the sinks. What they decide they ask
//! `millrace_stream::checkpoint`; the places where a planted mistake differs ask [`Protocol::fault`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millrace_stream::{
    BarrierKind, Epoch, Generation,
    checkpoint::{
        Action, Advance, Claim, Coordinator, Decided, Event, Facts, Ledger, ManifestOutcome, ManifestState, Pointer,
        PointerOutcome, Recovery, Start, Taken, advance, claim, recover, retire,
    },
};
use stateright::{Model, Property};

use crate::{
    faults::Fault,
    invariants::{reached, safety},
    world::{
        Acknowledged, File, Found, Manifest, Packet, Protocol, Rows, Run, Running, SETTINGS, Task, WORKERS, World, task,
    },
};

/// Something that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new run takes a generation. Older ones may still be at work.
    Begin,
    /// A run claims the pointer.
    Claim(Generation),
    /// A run reads what is stored, and decides what to restore.
    Read(Generation),
    /// A run commits what it restores again, cleans up, and starts its tasks.
    Restore(Generation),
    /// A run's interval elapses.
    Open(Generation),
    /// A run's epoch takes too long.
    TimeOut(Generation),
    /// Something arrives.
    Arrive(Packet),
    /// The pointer moves, or does not, and nobody hears of it.
    ArriveUnheard(Packet),
    /// A run's coordinator crashes, and its tasks with it.
    CrashRun(Generation),
    /// A run's task crashes.
    CrashTask(Generation, usize),
    /// A run notices that its task has crashed.
    Notice(Generation, usize),
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if (world.runs.len() as u64) < self.generations {
            steps.push(Step::Begin);
        }
        for (index, run) in world.runs.iter().enumerate() {
            let generation = Generation(index as u64 + 1);
            let Some(run) = run else { continue };
            match run {
                Run::Born => steps.push(Step::Claim(generation)),
                Run::Claimed(_) => steps.push(Step::Read(generation)),
                Run::Found(_) => steps.push(Step::Restore(generation)),
                Run::Running(running) => {
                    if running.coordinator.in_flight().is_none() && running.next.0 <= self.epochs {
                        steps.push(Step::Open(generation));
                    } else if running.coordinator.next_deadline().is_some() && world.timeouts < self.timeouts {
                        steps.push(Step::TimeOut(generation));
                    }
                    for (worker, task) in running.tasks.iter().enumerate() {
                        if task.is_none() {
                            steps.push(Step::Notice(generation, worker));
                        } else if world.crashes < self.crashes {
                            steps.push(Step::CrashTask(generation, worker));
                        }
                    }
                }
            }
            if world.crashes < self.crashes {
                steps.push(Step::CrashRun(generation));
            }
        }
        for packet in &world.network {
            steps.push(Step::Arrive(packet.clone()));
            if matches!(packet, Packet::Move(..)) {
                steps.push(Step::ArriveUnheard(packet.clone()));
            }
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Begin => world.runs.push(Some(Run::Born)),
            Step::Claim(generation) => self.claim(&mut world, generation),
            Step::Read(generation) => self.read(&mut world, generation),
            Step::Restore(generation) => self.restore(&mut world, generation),
            Step::Open(generation) => {
                self.hear(&mut world, generation, NOW, Event::Requested(BarrierKind::Checkpoint));
            }
            Step::TimeOut(generation) => {
                world.timeouts += 1;
                self.hear(&mut world, generation, SETTINGS.timeout, Event::Tick);
            }
            Step::Arrive(packet) => self.arrive(&mut world, packet, true),
            Step::ArriveUnheard(packet) => self.arrive(&mut world, packet, false),
            Step::CrashRun(generation) => {
                world.crashes += 1;
                end(&mut world, generation);
            }
            Step::CrashTask(generation, worker) => {
                world.crashes += 1;
                running(&mut world, generation)?.tasks[worker] = None;
            }
            Step::Notice(generation, worker) => {
                self.hear(&mut world, generation, NOW, Event::TaskFailed { task: task(worker) });
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        safety().into_iter().chain(reached(self)).collect()
    }
}

/// Time stands still, save for time-outs.
const NOW: Duration = Duration::ZERO;

fn running(world: &mut World, generation: Generation) -> Option<&mut Running> {
    match world.runs.get_mut(generation.0 as usize - 1)? {
        Some(Run::Running(running)) => Some(running),
        _ => None,
    }
}

fn set(world: &mut World, generation: Generation, run: Run) {
    world.runs[generation.0 as usize - 1] = Some(run);
}

/// The run is gone, and with it whoever could receive what was sent to it.
fn end(world: &mut World, generation: Generation) {
    world.runs[generation.0 as usize - 1] = None;
    world.network.retain(
        |packet| !matches!(packet, Packet::Barrier(taken, _) | Packet::Ack(taken, ..) if taken.generation == generation),
    );
}

impl Protocol {
    fn claim(&self, world: &mut World, generation: Generation) {
        if self.fault == Some(Fault::NeverClaims) {
            let seen = world.pointer.clone();
            return set(world, generation, Run::Claimed(seen));
        }
        match claim(world.pointer.as_ref(), generation) {
            Claim::Take(pointer) => {
                let seen = world.pointer.replace(pointer);
                set(world, generation, Run::Claimed(seen));
            }
            Claim::Fenced { .. } => end(world, generation),
        }
    }

    fn read(&self, world: &mut World, generation: Generation) {
        let Some(Some(Run::Claimed(seen))) = world.runs.get(generation.0 as usize - 1) else { return };
        let pointer = if self.fault == Some(Fault::RestoresTheNewestManifest) {
            let decided = world.manifests.keys().map(|taken| Decided { taken: *taken, savepoint: false }).collect();
            Some(Pointer { generation, decided })
        } else {
            seen.clone()
        };
        let sound = |taken: &Taken| (*taken, ManifestState::Sound { kind: BarrierKind::Checkpoint });
        let generation_as_told = match self.fault {
            Some(Fault::CleansUpAfterNewerOnes) => Generation(u64::MAX),
            _ => generation,
        };
        let facts = Facts {
            generation: generation_as_told,
            pointer,
            manifests: world.manifests.keys().map(sound).collect(),
            allow_previous: false,
        };
        let (from, decided, first, orphans) = match recover(&facts) {
            Recovery::Fresh { first, orphans } => (None, Vec::new(), first, orphans),
            Recovery::Restore { from, decided, first, orphans, .. } => (Some(from), decided, first, orphans),
            // What it refuses is a kept manifest that is gone, which the invariants have found before.
            Recovery::Refuse(_) => return end(world, generation),
        };
        let start = Start { generation, tasks: (0..WORKERS).map(task).collect(), decided, first };
        let from = from.map(|taken| (taken, world.manifests[&taken].clone()));
        let start = Coordinator::new(SETTINGS, start, NOW);
        set(world, generation, Run::Found(Box::new(Found { from, start, first, orphans })));
    }

    fn restore(&self, world: &mut World, generation: Generation) {
        let Some(Some(Run::Found(found))) = world.runs.get(generation.0 as usize - 1) else { return };
        let Found { from, start, first, orphans } = *found.clone();
        let manifest = from.as_ref().map(|(_, manifest)| manifest.clone()).unwrap_or_default();
        if let Some((taken, manifest)) = &from {
            for (worker, rows) in manifest.rows.iter().enumerate() {
                commit(world, *taken, worker, rows);
            }
            world.history.restored.insert(*taken);
        }
        let is_older = |by: Generation| by < generation || self.fault == Some(Fault::CleansUpAfterNewerOnes);
        world.staged.retain(|rows| !is_older(rows.taken.generation) || manifest.rows[rows.worker].contains(rows));
        world.manifests.retain(|taken, _| !orphans.contains(taken));
        let kept: BTreeSet<File> = world.manifests.values().flat_map(|manifest| manifest.files.concat()).collect();
        world.files.retain(|file| !is_older(file.taken.generation) || kept.contains(file));

        let tasks = std::array::from_fn(|worker| {
            let position = manifest.positions[worker].unwrap_or_default();
            Some(Task { position, barrier: None, files: manifest.files[worker].clone(), undecided: Vec::new() })
        });
        let ledger = Ledger::default();
        let committed = Default::default();
        set(
            world,
            generation,
            Run::Running(Box::new(Running { coordinator: start, next: first, ledger, tasks, committed })),
        );
    }

    /// The run's coordinator hears of something, and its executor does what it says.
    fn hear(&self, world: &mut World, generation: Generation, now: Duration, event: Event) {
        let Some(running) = running(world, generation) else { return };
        let actions = running.coordinator.on(now, event);
        for action in actions {
            self.execute(world, generation, action);
        }
    }

    fn execute(&self, world: &mut World, generation: Generation, action: Action) {
        let Some(running) = running(world, generation) else { return };
        let taken = |epoch| Taken { epoch, generation };
        match action {
            Action::Inject { epoch, .. } => {
                running.next = epoch.next();
                world.network.extend((0..WORKERS).map(|worker| Packet::Barrier(taken(epoch), worker)));
            }
            Action::WriteManifest { epoch, .. } => {
                let manifest = self.manifest(&running.ledger, epoch);
                world.network.insert(Packet::Create(taken(epoch), manifest));
            }
            Action::MovePointer { epoch, from, decided } => {
                world.network.insert(Packet::Move(taken(epoch), from, decided));
                match self.fault {
                    Some(Fault::CommitsBeforeThePointerMoves) => self.send_commits(world, taken(epoch)),
                    Some(Fault::ForgetsBeforeTheDecision) => send_forget(world, taken(epoch)),
                    _ => {}
                }
            }
            Action::NotifyDecided { epoch, .. } => {
                running.ledger.decided(epoch);
                send_forget(world, taken(epoch));
            }
            Action::CommitSinks { epoch } => {
                running.committed = Default::default();
                self.send_commits(world, taken(epoch));
                if self.fault == Some(Fault::DecidesBeforeTheLastCommit) {
                    self.hear(world, generation, NOW, Event::Committed { epoch });
                }
            }
            Action::Retire { decided, keep } => {
                world.network.insert(Packet::Retire(taken(decided), keep));
            }
            Action::Abort { .. } => {}
            Action::StepDown { .. } | Action::Ended { .. } | Action::Restart { .. } | Action::Halt { .. } => {
                end(world, generation);
            }
        }
    }

    fn manifest(&self, ledger: &Ledger<Acknowledged>, epoch: Epoch) -> Manifest {
        let mut manifest = Manifest::default();
        for (task, acknowledged) in ledger.upto(epoch) {
            let worker = task.index as usize;
            for (of, what) in acknowledged {
                manifest.positions[worker] = Some(what.position);
                manifest.files[worker] = what.files.clone();
                if of == epoch || self.fault != Some(Fault::DropsWhatAbortedEpochsPrepared) {
                    manifest.rows[worker].push(what.rows);
                }
            }
        }
        manifest
    }

    fn send_commits(&self, world: &mut World, taken: Taken) {
        // What the manifest holds is what was sent to be created; nobody else creates it.
        let manifest = world.network.iter().find_map(|packet| match packet {
            Packet::Create(created, manifest) if *created == taken => Some(manifest.clone()),
            _ => None,
        });
        for (worker, rows) in manifest.unwrap_or_default().rows.into_iter().enumerate() {
            world.network.insert(Packet::Commit(taken, worker, rows));
        }
    }

    fn arrive(&self, world: &mut World, packet: Packet, heard: bool) {
        match packet {
            Packet::Barrier(taken, worker) => self.pass_barrier(world, taken, worker),
            Packet::Ack(taken, worker, what) => {
                let Some(running) = running(world, taken.generation) else { return };
                for (epoch, what) in what {
                    running.ledger.acked(task(worker), epoch, what);
                }
                let workers = match self.fault {
                    Some(Fault::DecidesBeforeTheLastAcknowledgement) => 0..WORKERS,
                    _ => worker..worker + 1,
                };
                for worker in workers {
                    let event = Event::Acked { task: task(worker), epoch: taken.epoch };
                    self.hear(world, taken.generation, NOW, event);
                }
            }
            Packet::Create(taken, manifest) => {
                world.manifests.entry(taken).or_insert(manifest);
                let event = Event::ManifestWritten { epoch: taken.epoch, outcome: ManifestOutcome::Created };
                self.hear(world, taken.generation, NOW, event);
            }
            Packet::Move(taken, from, decided) => {
                let outcome = self.move_pointer(world, taken, from, decided);
                if heard {
                    let event = Event::PointerMoved { epoch: taken.epoch, outcome };
                    self.hear(world, taken.generation, NOW, event);
                }
            }
            Packet::Commit(taken, worker, rows) => {
                commit(world, taken, worker, &rows);
                let Some(running) = running(world, taken.generation) else { return };
                if running.coordinator.decided() == Some(taken.epoch)
                    && running.coordinator.in_flight() == Some(taken.epoch)
                {
                    running.committed[worker] = true;
                    if running.committed == [true; WORKERS] {
                        running.committed = Default::default();
                        self.hear(world, taken.generation, NOW, Event::Committed { epoch: taken.epoch });
                    }
                }
            }
            Packet::Forget(taken, upto) => {
                for task in
                    running(world, taken.generation).into_iter().flat_map(|running| &mut running.tasks).flatten()
                {
                    task.undecided.retain(|(epoch, _)| *epoch > taken.epoch);
                }
                for (forgotten, upto) in world.forgotten.iter_mut().zip(upto) {
                    *forgotten = upto.max(*forgotten);
                }
            }
            Packet::Retire(taken, keep) => self.retire(world, taken, &keep),
        }
    }

    /// A task that has not seen the barrier reads a row, stages it, uploads its state and acknowledges.
    fn pass_barrier(&self, world: &mut World, taken: Taken, worker: usize) {
        let Some(running) = running(world, taken.generation) else { return };
        let Some(task) = running.tasks[worker].as_mut().filter(|task| task.barrier < Some(taken.epoch)) else { return };
        let rows = Rows { taken, worker, after: task.position, last: task.position + 1 };
        let file = File { taken, worker };
        task.position += 1;
        task.barrier = Some(taken.epoch);
        task.files.push(file);
        if task.files.len() > 2 {
            task.files.remove(0);
        }
        if self.fault == Some(Fault::AcknowledgesOnlyTheNewestEpoch) {
            task.undecided.clear();
        }
        let what = Acknowledged { position: task.position, files: task.files.clone(), rows };
        task.undecided.push((taken.epoch, what));
        let acknowledged = task.undecided.clone();
        world.files.insert(file);
        world.staged.insert(rows);
        world.network.insert(Packet::Ack(taken, worker, acknowledged));
    }

    fn move_pointer(
        &self,
        world: &mut World,
        taken: Taken,
        from: Option<Epoch>,
        decided: Vec<Decided>,
    ) -> PointerOutcome {
        let next = Pointer { generation: taken.generation, decided };
        let answer = match self.fault {
            Some(Fault::MovesWithoutComparing) => Advance::Move(next),
            // Who does not claim can only compare where the pointer stands.
            Some(Fault::NeverClaims) if world.pointer.as_ref().is_none_or(|at| at.generation <= taken.generation) => {
                match world.pointer.as_ref().and_then(Pointer::epoch) {
                    at if at == from => Advance::Move(next),
                    at if at == Some(taken.epoch) => Advance::AlreadyMoved,
                    _ => Advance::Lost,
                }
            }
            _ => advance(world.pointer.as_ref(), from, next),
        };
        match answer {
            Advance::Move(next) => {
                let claimed = world.pointer.as_ref().map_or(taken.generation, |pointer| pointer.generation);
                world.pointer = Some(next);
                world.history.decided.push((taken, claimed.max(taken.generation)));
                if let Some(manifest) = world.manifests.get(&taken) {
                    world.history.replay_points = manifest.positions.map(Option::unwrap_or_default);
                }
                PointerOutcome::Moved
            }
            Advance::AlreadyMoved => PointerOutcome::Moved,
            Advance::Fenced { by } => PointerOutcome::Fenced { by },
            Advance::Lost => PointerOutcome::Lost,
        }
    }

    fn retire(&self, world: &mut World, decided: Taken, keep: &BTreeSet<Taken>) {
        let names: BTreeMap<String, File> = world.files.iter().map(|file| (format!("{file:?}"), *file)).collect();
        let name = |file: &File| format!("{file:?}");
        let (kept, dropped): (Vec<_>, Vec<_>) = world
            .manifests
            .iter()
            .filter(|(taken, _)| keep.contains(taken) || taken.epoch < decided.epoch)
            .partition(|(taken, _)| keep.contains(taken));
        let named = |manifests: &[(&Taken, &Manifest)]| -> Vec<String> {
            manifests.iter().flat_map(|(_, manifest)| manifest.files.concat()).map(|file| name(&file)).collect()
        };
        let mut kept = named(&kept);
        if self.fault == Some(Fault::DeletesWhatAKeptManifestNames) {
            kept.clear();
        }
        // What this run uploaded for epochs that it gave up is named by no manifest.
        let of_this_run =
            |file: &&File| file.taken.generation == decided.generation && file.taken.epoch < decided.epoch;
        let candidates: Vec<String> =
            named(&dropped).into_iter().chain(world.files.iter().filter(of_this_run).map(name)).collect();
        let dropped: Vec<Taken> = dropped.iter().map(|(taken, _)| **taken).collect();
        for file in retire(kept.iter().map(String::as_str), candidates.iter().map(String::as_str)) {
            if let Some(file) = names.get(file) {
                world.files.remove(file);
            }
        }
        world.manifests.retain(|taken, _| !dropped.contains(taken));
    }
}

/// The sink shows an epoch, unless it has shown that or a later one.
fn commit(world: &mut World, taken: Taken, worker: usize, rows: &[Rows]) {
    let sink = &mut world.sinks[worker];
    if sink.committed.last().is_some_and(|committed| *committed >= taken.epoch) {
        return;
    }
    sink.committed.push(taken.epoch);
    for rows in rows {
        if world.staged.remove(rows) {
            sink.visible.extend(rows.after + 1..=rows.last);
        }
    }
}

fn send_forget(world: &mut World, taken: Taken) {
    let manifest = world.network.iter().find_map(|packet| match packet {
        Packet::Create(created, manifest) if *created == taken => Some(manifest),
        _ => None,
    });
    let upto = manifest.map(|manifest| manifest.positions.map(Option::unwrap_or_default)).unwrap_or_default();
    world.network.insert(Packet::Forget(taken, upto));
}
