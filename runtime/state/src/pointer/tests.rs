#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use millrace_stream::checkpoint::Taken;

use super::*;
use guarantee::latest;

#[path = "guarantee.rs"]
mod guarantee;

fn pointer() -> (tempfile::TempDir, FilePointer) {
    let folder = tempfile::tempdir().unwrap();
    let pointer = FilePointer::open(&folder.path().join("checkpoints")).unwrap();
    (folder, pointer)
}

fn guaranteed<R: Future<Output = ()>>(test: impl FnOnce(Box<dyn Fn(u32) -> Arc<dyn Pointer>>) -> R) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("checkpoints");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(test(Box::new(move |_| Arc::new(FilePointer::open(&place).unwrap()))));
}

#[test]
fn a_pointer_that_was_never_moved_names_nothing() {
    guaranteed(guarantee::nothing_at_first);
}

#[test]
fn an_older_generation_moves_nothing_and_is_told_by_whom() {
    guaranteed(guarantee::older_generations_are_fenced);
}

#[test]
fn moving_again_to_the_same_place_is_no_error_and_moving_from_elsewhere_is() {
    guaranteed(guarantee::moves_are_idempotent);
}

#[test]
fn of_many_that_race_the_greatest_generation_stays() {
    guaranteed(guarantee::the_greatest_generation_stays);
}

#[test]
fn of_two_processes_that_claim_one_generation_the_second_is_fenced() {
    let (folder, first) = pointer();
    let second = FilePointer::open(&folder.path().join("checkpoints")).unwrap();
    assert!(matches!(first.claim_now(Generation(3)).unwrap(), Claim::Take(_)));
    assert_eq!(second.claim_now(Generation(3)).unwrap(), Claim::Fenced { by: Generation(3) });
    assert!(matches!(first.clone().claim_now(Generation(3)).unwrap(), Claim::Take(_)), "tried again");
    assert!(matches!(second.claim_now(Generation(4)).unwrap(), Claim::Take(_)));
    assert_eq!(first.claim_now(Generation(3)).unwrap(), Claim::Fenced { by: Generation(4) });
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
    let kept = pointer.repair(Some(&latest(2, &[7]))).unwrap().unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"rubbish");
    assert_eq!(pointer.read_now().unwrap(), Some(latest(2, &[7])));
    fs::write(pointer.path(), b"again").unwrap();
    let again = pointer.repair(None).unwrap().unwrap();
    assert_eq!((fs::read(kept).unwrap(), fs::read(again).unwrap()), (b"rubbish".to_vec(), b"again".to_vec()));
    assert_eq!(pointer.read_now().unwrap(), None);
    assert_eq!(pointer.repair(None).unwrap(), None, "there is nothing to keep");
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
