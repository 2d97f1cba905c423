//! The pointer: the one place where epochs are decided.
//!
//! It is a small object that can be compared and swapped: a ConfigMap by its resourceVersion, or the file `latest` under a
//! lock. The functions here are the *compare*; the store reads the pointer, asks, and swaps only what it has read.

use serde::{Deserialize, Serialize};

use crate::{Epoch, Generation};

/// What the pointer says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    /// Who wrote it. Nobody older may write it again.
    pub generation: Generation,
    /// The decided epochs that are kept, oldest first. The last one is the newest decided epoch, from which a recovery
    /// restores; none: nothing is decided yet.
    pub decided: Vec<Decided>,
}

/// An epoch as one generation took it. Two generations may take the same epoch, of which at most one is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// Which epoch.
    pub epoch: Epoch,
    /// Who wrote its manifest.
    pub generation: Generation,
}

/// A decided epoch that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// Which one.
    #[serde(flatten)]
    pub taken: Taken,
    /// Whether it is the user's, and so never expires by itself.
    pub savepoint: bool,
}

impl Pointer {
    /// The newest decided epoch.
    pub fn epoch(&self) -> Option<Epoch> {
        self.decided.last().map(|decided| decided.taken.epoch)
    }
}

/// Whether a generation may take the pointer over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Yes: write this.
    Take(Pointer),
    /// No: a newer one has it.
    Fenced {
        /// Which one.
        by: Generation,
    },
}

/// Whether the pointer may be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Yes: write this.
    Move(Pointer),
    /// It stands there already: an earlier try of the same move succeeded. Counts as moved.
    AlreadyMoved,
    /// No: a newer generation has claimed it.
    Fenced {
        /// Which one.
        by: Generation,
    },
    /// No: it is gone, or is not what this generation left. Something that does not keep to the protocol has touched it.
    Lost,
}

/// Takes the pointer over for `generation`, as it stands. First act of a run, before anything is read, restored or
/// cleaned up: from here on no older generation can decide. `current` is `None` before the pipeline's first run.
pub fn claim(current: Option<&Pointer>, generation: Generation) -> Claim {
    match current {
        None => Claim::Take(Pointer { generation, decided: Vec::new() }),
        Some(current) if current.generation > generation => Claim::Fenced { by: current.generation },
        Some(current) => Claim::Take(Pointer { generation, decided: current.decided.clone() }),
    }
}

/// Moves the pointer, which `next.generation` has claimed and left at epoch `from`, to what `next` says.
pub fn advance(current: Option<&Pointer>, from: Option<Epoch>, next: Pointer) -> Advance {
    match current {
        Some(current) if current.generation > next.generation => Advance::Fenced { by: current.generation },
        Some(current) if *current == next => Advance::AlreadyMoved,
        Some(current) if current.generation == next.generation && current.epoch() == from => Advance::Move(next),
        _ => Advance::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(generation: u64, epochs: &[u64]) -> Pointer {
        let taken = |epoch| Taken { epoch, generation: Generation(1) };
        let decided = epochs.iter().map(|epoch| Decided { taken: taken(Epoch(*epoch)), savepoint: false }).collect();
        Pointer { generation: Generation(generation), decided }
    }

    #[test]
    fn a_claim_takes_the_pointer_over_where_it_stands() {
        assert_eq!(claim(None, Generation(1)), Claim::Take(pointer(1, &[])));
        assert_eq!(claim(Some(&pointer(1, &[3, 4])), Generation(2)), Claim::Take(pointer(2, &[3, 4])));
        assert_eq!(claim(Some(&pointer(2, &[4])), Generation(2)), Claim::Take(pointer(2, &[4])), "tried again");
    }

    #[test]
    fn an_older_generation_can_neither_claim_nor_move() {
        let current = pointer(3, &[4]);
        assert_eq!(claim(Some(&current), Generation(2)), Claim::Fenced { by: Generation(3) });
        assert_eq!(advance(Some(&current), Some(Epoch(4)), pointer(2, &[4, 5])), Advance::Fenced { by: Generation(3) });
    }

    #[test]
    fn the_pointer_moves_only_from_where_its_owner_left_it() {
        let next = pointer(2, &[4, 5]);
        assert_eq!(advance(Some(&pointer(2, &[4])), Some(Epoch(4)), next.clone()), Advance::Move(next.clone()));
        assert_eq!(advance(Some(&pointer(2, &[3])), Some(Epoch(4)), next.clone()), Advance::Lost);
        assert_eq!(advance(Some(&pointer(1, &[4])), Some(Epoch(4)), next.clone()), Advance::Lost, "never claimed");
        assert_eq!(advance(None, Some(Epoch(4)), next.clone()), Advance::Lost, "gone");
        assert_eq!(advance(None, None, next), Advance::Lost, "never claimed");
    }

    #[test]
    fn a_move_that_was_tried_again_has_moved() {
        let next = pointer(2, &[4, 5]);
        assert_eq!(advance(Some(&next.clone()), Some(Epoch(4)), next), Advance::AlreadyMoved);
    }
}
