//! What every [`Pointer`] guarantees, to be tried with each: the tests of an implementation include this file by its path.
//!
//! `open(n)` is the pointer of process number n, all to one place where nothing has been claimed yet.

use std::{sync::Arc, time::Duration};

use millrace_stream::{
    Epoch, Generation, Timestamp,
    checkpoint::{Advance, Claim, Decided, Taken},
};

use super::{Latest, Newest, Pointer};

/// A pointer of this generation to the last of these epochs.
pub fn latest(generation: u64, epochs: &[u64]) -> Latest {
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

/// A pointer that was never moved names nothing.
pub async fn nothing_at_first(open: impl Fn(u32) -> Arc<dyn Pointer>) {
    assert_eq!(open(1).read().await.unwrap(), None);
    assert_eq!(open(1).advance(None, latest(1, &[1])).await.unwrap(), Advance::Lost, "nobody has claimed it");
}

/// An older generation moves nothing and is told by whom it was replaced.
pub async fn older_generations_are_fenced(open: impl Fn(u32) -> Arc<dyn Pointer>) {
    let (older, newer) = (open(1), open(2));
    assert!(matches!(older.claim(Generation(1)).await.unwrap(), Claim::Take(_)));
    assert!(matches!(older.advance(None, latest(1, &[1])).await.unwrap(), Advance::Move(_)));
    assert!(matches!(newer.claim(Generation(2)).await.unwrap(), Claim::Take(_)));
    let fenced = older.advance(Some(Epoch(1)), latest(1, &[1, 2])).await.unwrap();
    assert_eq!(fenced, Advance::Fenced { by: Generation(2) });
    assert_eq!(older.claim(Generation(1)).await.unwrap(), Claim::Fenced { by: Generation(2) });
    let left = newer.read().await.unwrap();
    assert_eq!(left, Some(latest(2, &[1])), "claimed, and left where it stood");
    assert!(matches!(newer.advance(Some(Epoch(1)), latest(2, &[1, 2])).await.unwrap(), Advance::Move(_)));
}

/// Moving again to the same place is no error, and moving from elsewhere is.
pub async fn moves_are_idempotent(open: impl Fn(u32) -> Arc<dyn Pointer>) {
    let pointer = open(1);
    pointer.claim(Generation(1)).await.unwrap();
    assert!(matches!(pointer.claim(Generation(1)).await.unwrap(), Claim::Take(_)), "claiming again neither");
    pointer.advance(None, latest(1, &[5])).await.unwrap();
    assert_eq!(pointer.advance(None, latest(1, &[5])).await.unwrap(), Advance::AlreadyMoved);
    assert_eq!(pointer.advance(None, latest(1, &[6])).await.unwrap(), Advance::Lost);
    assert_eq!(pointer.read().await.unwrap(), Some(latest(1, &[5])));
}

/// Of many that race the greatest generation stays, and loses no move.
pub async fn the_greatest_generation_stays(open: impl Fn(u32) -> Arc<dyn Pointer>) {
    const RACERS: u32 = 8;
    const MOVES: u64 = 5;
    let races = (1..=RACERS).map(|racer| {
        let (pointer, generation) = (open(racer), u64::from(racer));
        tokio::spawn(async move {
            let Claim::Take(mut claimed) = pointer.claim(Generation(generation)).await.unwrap() else { return };
            for _ in 0..MOVES {
                let from = claimed.epoch();
                let next = latest(generation, &[from.map_or(1, |epoch| epoch.0 + 1)]);
                match pointer.advance(from, next).await.unwrap() {
                    Advance::Move(moved) => claimed = moved,
                    Advance::Fenced { by } => return assert!(by.0 > generation),
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    for race in races.collect::<Vec<_>>() {
        race.await.unwrap();
    }
    let stays = open(1).read().await.unwrap().unwrap();
    assert_eq!(stays.generation, Generation(u64::from(RACERS)));
    assert!(stays.epoch() >= Some(Epoch(MOVES)));
}
