//! Key groups: the fixed number of hash buckets in which keyed state is stored and moved.
//!
//! A key's group depends on the key alone, never on the parallelism, so a rescale moves whole groups. Task `i` of `n`
//! owns a contiguous range of them, and with the group as the first two bytes of every stored key a range of groups is a
//! range of keys.

use serde::{Deserialize, Serialize};

/// How many key groups there are: also the greatest parallelism of a keyed stage.
pub const KEY_GROUPS: u16 = 128;

/// One hash bucket of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyGroup(pub u16);

impl KeyGroup {
    /// The group of a key with this hash.
    ///
    /// Takes the hash's high bits, so that a hash table that uses its low bits sees evenly spread keys.
    #[inline]
    pub fn of_hash(hash: u64) -> Self {
        Self((((hash >> 32) * u64::from(KEY_GROUPS)) >> 32) as u16)
    }

    /// Which of `parallelism` tasks owns this group.
    #[inline]
    pub fn task(self, parallelism: u32) -> u32 {
        u32::from(self.0) * parallelism / u32::from(KEY_GROUPS)
    }
}

/// The groups from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// The first group.
    pub start: u16,
    /// The group after the last.
    pub end: u16,
}

impl KeyGroupRange {
    /// Every key group.
    pub const ALL: Self = Self { start: 0, end: KEY_GROUPS };

    /// The groups that task `index` of `parallelism` owns: those for which [`KeyGroup::task`] answers `index`.
    pub fn of_task(index: u32, parallelism: u32) -> Self {
        let groups = u32::from(KEY_GROUPS);
        let first = |task: u32| (task * groups).div_ceil(parallelism).min(groups) as u16;
        Self { start: first(index), end: first(index + 1) }
    }

    /// Whether the group lies in the range.
    pub fn contains(self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&group.0)
    }

    /// The groups that both ranges hold, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (both.start < both.end).then_some(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_task_holds_exactly_the_groups_that_map_to_it() {
        for parallelism in 1..=u32::from(KEY_GROUPS) {
            for group in (0..KEY_GROUPS).map(KeyGroup) {
                for index in 0..parallelism {
                    let owns = KeyGroupRange::of_task(index, parallelism).contains(group);
                    assert_eq!(owns, group.task(parallelism) == index, "{group:?} of {index}/{parallelism}");
                }
            }
        }
    }

    #[test]
    fn the_greatest_hash_still_falls_in_the_last_group() {
        assert_eq!(KeyGroup::of_hash(u64::MAX), KeyGroup(KEY_GROUPS - 1));
        assert_eq!(KeyGroup::of_hash(0), KeyGroup(0));
    }
}
