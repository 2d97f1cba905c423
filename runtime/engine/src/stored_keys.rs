//! Names of groups in a task's store, where each has an entry of its own.
//!
//! ```text
//! key group u16 | kind u8 | key, in Arrow's row format | what the state adds
//! key group u16 | kind u8 | time i64, sign flipped | key, in Arrow's row format         of entries in the order of time
//! ```

use std::ops::RangeInclusive;

use arrow::{
    datatypes::DataType,
    row::{RowConverter, Rows, SortField},
};

use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use crate::{group::GroupKeys, operator::OperatorError};

/// The first bytes of the names of a kind.
pub(crate) fn prefix(key_group: u16, kind: u8) -> [u8; 3] {
    let [high, low] = key_group.to_be_bytes();
    [high, low, kind]
}

/// What the name at a time, of a kind, begins with.
pub(crate) fn timed_prefix(key_group: u16, kind: u8, time: i64) -> [u8; TIMED_PREFIX] {
    let mut name = [0; TIMED_PREFIX];
    name[..3].copy_from_slice(&prefix(key_group, kind));
    name[3..].copy_from_slice(&((time as u64) ^ (1 << 63)).to_be_bytes());
    name
}

/// Where the key begins in a name at a time.
pub(crate) const TIMED_PREFIX: usize = 11;

/// The time in a name at a time.
pub(crate) fn time_of(name: &[u8]) -> Option<i64> {
    let time = name.get(3..TIMED_PREFIX)?.try_into().ok()?;
    Some((u64::from_be_bytes(time) ^ (1 << 63)) as i64)
}

/// Deletes all names of kinds from the first up to, not including, the second.
pub(crate) fn delete_kinds(
    store: &TaskStore,
    state: &'static str,
    key_groups: KeyGroupRange,
    kinds: (u8, u8),
) -> Result<(), StateError> {
    let mut run = store.writer();
    for key_group in key_groups.start..key_groups.end {
        let mut scan = store.scan(state, &prefix(key_group, kinds.0)..&prefix(key_group, kinds.1))?;
        while let Some(entry) = scan.next_entry() {
            run.delete(state, entry?.0)?;
        }
    }
    run.finish().map(|_| ())
}

/// What makes rows of keys; `None` for keys without columns.
pub(crate) fn key_converter(types: &[DataType]) -> Result<Option<RowConverter>, OperatorError> {
    if types.is_empty() {
        return Ok(None);
    }
    Ok(Some(RowConverter::new(types.iter().map(|of| SortField::new(of.clone())).collect())?))
}

/// About how many bytes of keys are made into names at a time; in unit tests few, so that there are several times.
const KEY_BYTES_AT_ONCE: usize = if cfg!(test) { 256 } else { 1 << 24 };

/// Groups whose names come after those of the portions before.
pub(crate) struct Portion {
    pub(crate) groups: Vec<u32>,
    /// Where they stand among all.
    pub(crate) places: Vec<usize>,
    /// The key groups of which the portion has all.
    pub(crate) key_groups: RangeInclusive<u16>,
}

/// Cuts groups into portions of which each has the keys of some key groups, so that the names of all need not be in memory at
/// once: keys may be wide. The portions cover all key groups, and there is at least one.
pub(crate) fn portions(keys: &GroupKeys, groups: &[u32]) -> Vec<Portion> {
    let portion = |places: Vec<usize>, key_groups| {
        let groups = places.iter().map(|place| groups[*place]).collect();
        Portion { groups, places, key_groups }
    };
    let key_bytes = keys.memory_bytes() / keys.len().max(1) + 1;
    let mut places: Vec<usize> = (0..groups.len()).collect();
    if groups.len() * key_bytes <= KEY_BYTES_AT_ONCE {
        return vec![portion(places, 0..=u16::MAX)];
    }
    let key_group = |place: &usize| keys.key_group(groups[*place]).0;
    places.sort_by_key(key_group);
    let (mut portions, mut taken, mut from) = (Vec::new(), Vec::new(), 0);
    for of_key_group in places.chunk_by(|one, other| key_group(one) == key_group(other)) {
        if taken.len() * key_bytes >= KEY_BYTES_AT_ONCE {
            let next = key_group(&of_key_group[0]);
            portions.push(portion(std::mem::take(&mut taken), from..=next - 1));
            from = next;
        }
        taken.extend_from_slice(of_key_group);
    }
    portions.push(portion(taken, from..=u16::MAX));
    portions
}

/// The key group in whose range a name lies.
pub(crate) fn key_group_of(name: &[u8]) -> u16 {
    name.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// Some groups' keys, of which names are made.
pub(crate) struct KeyRows<'a> {
    keys: &'a GroupKeys,
    groups: &'a [u32],
    rows: Option<Rows>,
}

impl<'a> KeyRows<'a> {
    pub(crate) fn new(keys: &'a GroupKeys, types: &[DataType], groups: &'a [u32]) -> Result<Self, OperatorError> {
        let rows = match key_converter(types)? {
            Some(converter) if !groups.is_empty() => Some(converter.convert_columns(&keys.gather(groups)?)?),
            _ => None,
        };
        Ok(Self { keys, groups, rows })
    }

    /// Adds the name of a kind of the group at this place, and `more` behind it.
    pub(crate) fn name(&self, at: usize, kind: u8, more: &[u8], names: &mut Names) {
        let prefix = prefix(self.keys.key_group(self.groups[at]).0, kind);
        let row = self.rows.as_ref().map(|rows| rows.row(at));
        names.push([&prefix, row.as_ref().map_or(&[][..], |row| row.data()), more]);
    }

    /// Adds the name at a time, of a kind, of the group at this place.
    pub(crate) fn timed_name(&self, at: usize, kind: u8, time: i64, names: &mut Names) {
        let prefix = timed_prefix(self.keys.key_group(self.groups[at]).0, kind, time);
        let row = self.rows.as_ref().map(|rows| rows.row(at));
        names.push([&prefix, row.as_ref().map_or(&[][..], |row| row.data()), &[]]);
    }
}

/// Names, one behind the other in one piece of memory.
#[derive(Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// The first bytes of a name, which compare as it does unless they are the same.
fn head(name: &[u8]) -> u128 {
    let mut head = [0; 16];
    let length = name.len().min(16);
    head[..length].copy_from_slice(&name[..length]);
    u128::from_be_bytes(head)
}

impl Names {
    pub(crate) fn push(&mut self, parts: [&[u8]; 3]) {
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    pub(crate) fn get(&self, at: usize) -> &[u8] {
        let from = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from..self.ends[at]]
    }

    /// Where the names stand, in their order.
    pub(crate) fn sorted(&self) -> Vec<usize> {
        let mut places: Vec<(u128, u32)> = (0..self.len()).map(|at| (head(self.get(at)), at as u32)).collect();
        places.sort_unstable_by(|(left_head, left), (right_head, right)| {
            left_head.cmp(right_head).then_with(|| self.get(*left as usize).cmp(self.get(*right as usize)))
        });
        places.into_iter().map(|(_, at)| at as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_sorted_as_their_bytes_are(
            names in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..24), 0..60),
        ) {
            let mut held = Names::default();
            for name in &names {
                let (first, rest) = name.split_at(name.len() / 2);
                held.push([first, rest, &[]]);
            }
            let sorted: Vec<&[u8]> = held.sorted().into_iter().map(|at| held.get(at)).collect();
            let mut expected: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }
}
