#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use millrace_stream::checkpoint::Taken;

use super::*;

fn latest(generation: u64, epochs: &[u64]) -> Latest {
    let decided =
        |epoch: &u64| Decided { taken: Taken { epoch: Epoch(*epoch), generation: Generation(1) }, savepoint: false };
    let newest = epochs.last().map(|epoch| Newest {
        manifest: format!("manifests/{epoch}-1.json"),
        size_bytes: 1_234_567,
        duration: Duration::from_millis(38),
        completed_at: Timestamp(1_790_000_000_000),
    });
    Latest { generation: Generation(generation), decided: epochs.iter().map(decided).collect(), newest }
}

fn pointer() -> (tempfile::TempDir, FilePointer) {
    let folder = tempfile::tempdir().unwrap();
    let pointer = FilePointer::open(&folder.path().join("checkpoints")).unwrap();
    (folder, pointer)
}

#[test]
fn a_pointer_that_was_never_moved_names_nothing() {
    let (_folder, pointer) = pointer();
    assert_eq!(pointer.read_now().unwrap(), None);
}

#[test]
fn an_older_generation_moves_nothing_and_is_told_by_whom() {
    let (_folder, pointer) = pointer();
    assert!(matches!(pointer.claim_now(Generation(1)).unwrap(), Claim::Take(_)));
    assert!(matches!(pointer.advance_now(None, &latest(1, &[1])).unwrap(), Advance::Move(_)));
    assert!(matches!(pointer.claim_now(Generation(2)).unwrap(), Claim::Take(_)));
    let fenced = pointer.advance_now(Some(Epoch(1)), &latest(1, &[1, 2])).unwrap();
    assert_eq!(fenced, Advance::Fenced { by: Generation(2) });
    assert_eq!(pointer.claim_now(Generation(1)).unwrap(), Claim::Fenced { by: Generation(2) });
    assert_eq!(pointer.read_now().unwrap(), Some(latest(2, &[1])), "claimed, and left where it stood");
}

#[test]
fn moving_again_to_the_same_place_is_no_error_and_moving_from_elsewhere_is() {
    let (_folder, pointer) = pointer();
    pointer.claim_now(Generation(1)).unwrap();
    pointer.advance_now(None, &latest(1, &[5])).unwrap();
    assert_eq!(pointer.advance_now(None, &latest(1, &[5])).unwrap(), Advance::AlreadyMoved);
    assert_eq!(pointer.advance_now(None, &latest(1, &[6])).unwrap(), Advance::Lost);
    assert_eq!(pointer.read_now().unwrap(), Some(latest(1, &[5])));
}

#[test]
fn of_many_threads_that_race_the_greatest_generation_stays() {
    let (_folder, pointer) = pointer();
    std::thread::scope(|scope| {
        for generation in 1..=8 {
            let pointer = &pointer;
            scope.spawn(move || {
                let Claim::Take(mut claimed) = pointer.claim_now(Generation(generation)).unwrap() else { return };
                for _ in 0..5 {
                    let from = claimed.epoch();
                    let next = latest(generation, &[from.map_or(1, |epoch| epoch.0 + 1)]);
                    match pointer.advance_now(from, &next).unwrap() {
                        Advance::Move(moved) => claimed = moved,
                        Advance::Fenced { by } => return assert!(by.0 > generation),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    let stays = pointer.read_now().unwrap().unwrap();
    assert_eq!(stays.generation, Generation(8));
    assert!(stays.epoch() >= Some(Epoch(5)));
}

#[test]
fn a_damaged_pointer_is_told_and_never_taken_for_none() {
    let (_folder, pointer) = pointer();
    pointer.claim_now(Generation(1)).unwrap();
    pointer.advance_now(None, &latest(1, &[1])).unwrap();
    let whole = fs::read(pointer.path()).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        fs::write(pointer.path(), &damaged).unwrap();
        let error = pointer.read_now().unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. } | StateError::TooNew { .. }), "{at}: {error}");
        assert!(pointer.claim_now(Generation(2)).is_err(), "nor claimed");
        assert!(pointer.advance_now(Some(Epoch(1)), &latest(1, &[1, 2])).is_err(), "nor moved from where nobody knows");
    }
    fs::write(pointer.path(), b"").unwrap();
    assert!(matches!(pointer.read_now(), Err(StateError::Damaged { .. })));
}

#[test]
fn a_repaired_pointer_keeps_the_damaged_file() {
    let (_folder, pointer) = pointer();
    fs::write(pointer.path(), b"rubbish").unwrap();
    let kept = pointer.repair(&latest(2, &[7])).unwrap().unwrap();
    assert_eq!(fs::read(kept).unwrap(), b"rubbish");
    assert_eq!(pointer.read_now().unwrap(), Some(latest(2, &[7])));
}

#[test]
fn version_1_is_what_the_golden_file_holds() {
    crate::golden::check("latest-1.json", &latest(3, &[417, 418]).to_bytes());
    assert_eq!(Latest::from_bytes("golden", &crate::golden::read("latest-1.json")).unwrap(), latest(3, &[417, 418]));
}

proptest! {
    #[test]
    fn what_was_written_is_read(generation: u64, epochs: Vec<(u64, u64, bool)>, manifest in ".{0,40}", bytes: u64, ms: u64) {
        let decided = epochs.into_iter().map(|(epoch, generation, savepoint)| Decided {
            taken: Taken { epoch: Epoch(epoch), generation: Generation(generation) },
            savepoint,
        });
        let newest = Newest {
            manifest,
            size_bytes: bytes,
            duration: Duration::from_millis(ms),
            completed_at: Timestamp(ms),
        };
        let newest = (bytes % 2 == 0).then_some(newest);
        let latest = Latest { generation: Generation(generation), decided: decided.collect(), newest };
        prop_assert_eq!(Latest::from_bytes("here", &latest.to_bytes()).unwrap(), latest);
    }
}
