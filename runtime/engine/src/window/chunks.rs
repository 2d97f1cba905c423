//! Where and how parts of slices lie in the store: one columnar chunk for the rows of one key group in one part.
//!
//! ```text
//! key    key group u16 | kind u8 | slice start i64, sign flipped | part u64                  all big-endian
//!        key group u16 | kind u8 | era u32 | slice start i64, sign flipped | part u64        of eras but the first
//! value  a chunk (`millrace_state::chunk`): key columns, then state columns
//! ```
//!
//! Kinds are 1 for parts and 2 for the numbers of corrected results, and 3 and 4 for those of a window's later definitions
//! ([`super::eras`]), whose slices may begin where others do. Part numbers rise and are never used twice by a task.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array},
    compute,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use millrace_state::{StateError, TaskStore, chunk};
use millrace_stream::{KEY_GROUPS, KeyGroup, KeyGroupRange, key_hash};

use super::table::Part;
use crate::{group::GroupKeys, operator::OperatorError};

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// States of groups.
    Part = 1,
    /// How often results were corrected.
    Panes = 2,
}

/// The length of the end of a key that names slice and part.
const SLICE_AND_PART_BYTES: usize = 16;

/// What the keys of the chunks of one key group, kind and era begin with.
fn prefix_of(key_group: u16, kind: Kind, era: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(7 + SLICE_AND_PART_BYTES);
    prefix.extend(key_group.to_be_bytes());
    if era == 0 {
        prefix.push(kind as u8);
    } else {
        prefix.push(kind as u8 + LATER_ERAS);
        prefix.extend(era.to_be_bytes());
    }
    prefix
}

/// What is added to a kind where an era's number follows it.
const LATER_ERAS: u8 = 2;

/// The store's key of a chunk.
fn key_of(mut prefix: Vec<u8>, slice: i64, part: u64) -> Vec<u8> {
    prefix.extend(((slice as u64) ^ (1 << 63)).to_be_bytes());
    prefix.extend(part.to_be_bytes());
    prefix
}

/// The first key after all that begin with a prefix.
fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.last_mut() {
        match last.checked_add(1) {
            Some(next) => {
                *last = next;
                break;
            }
            None => drop(prefix.pop()),
        }
    }
    prefix
}

/// The slice and the part that a key with this prefix names.
fn parse_key(key: &[u8], prefix: &[u8]) -> Option<(i64, u64)> {
    let key: &[u8; SLICE_AND_PART_BYTES] = key.strip_prefix(prefix)?.try_into().ok()?;
    let long = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| key[at + byte]));
    Some(((long(0) ^ (1 << 63)) as i64, long(8)))
}

/// A part that is in the store, and in which key groups it has rows. Those are known once it has been written.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) part: u64,
    pub(crate) key_groups: Arc<OnceLock<u128>>,
}

impl Stored {
    /// A place in the store that was never used; `next_part` counts on.
    pub(crate) fn new(next_part: &mut u64) -> Self {
        let part = *next_part;
        *next_part += 1;
        Self { part, key_groups: Arc::new(OnceLock::new()) }
    }
}

/// The columns of chunks, and the name of the state that they are in.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    state: &'static str,
    /// Which of a window's definitions they belong to.
    era: u32,
    keys: usize,
    parts: SchemaRef,
    panes: SchemaRef,
}

impl Layout {
    pub(crate) fn new(state: &'static str, keys: &[DataType], states: Vec<Field>) -> Self {
        let schema = |rest: Vec<Field>| {
            let keys = keys.iter().enumerate().map(|(at, of)| Field::new(format!("k{at}"), of.clone(), true));
            Arc::new(Schema::new(keys.chain(rest).collect::<Vec<_>>()))
        };
        let panes = schema(vec![Field::new("pane", DataType::Int32, true)]);
        Self { state, era: 0, keys: keys.len(), parts: schema(states), panes }
    }

    /// The same for another era.
    pub(crate) fn of_era(self, era: u32) -> Self {
        Self { era, ..self }
    }

    fn key_of(&self, key_group: u16, kind: Kind, slice: i64, part: u64) -> Vec<u8> {
        key_of(prefix_of(key_group, kind, self.era), slice, part)
    }

    /// The store's key of a chunk of a part.
    pub(crate) fn part_key(&self, key_group: u16, slice: i64, part: u64) -> Vec<u8> {
        self.key_of(key_group, Kind::Part, slice, part)
    }

    /// The chunk of a part that lies in one key group.
    pub(crate) fn chunk(&self, keys: &GroupKeys, part: &Part) -> Result<RecordBatch, OperatorError> {
        let mut columns = keys.gather(&part.groups)?;
        columns.extend_from_slice(part.state()?);
        batch(&self.parts, columns, part.groups.len())
    }

    fn schema(&self, kind: Kind) -> &SchemaRef {
        match kind {
            Kind::Part => &self.parts,
            Kind::Panes => &self.panes,
        }
    }

    /// Reads every chunk of a kind in a key group with a slice from `slices.0` up to, not including, `slices.1`. Chunks for
    /// which `wanted` says no are passed over unread.
    pub(crate) fn scan(
        &self,
        store: &TaskStore,
        key_group: u16,
        kind: Kind,
        slices: (i64, Option<i64>),
        mut wanted: impl FnMut(i64, u64) -> bool,
        mut take: impl FnMut(i64, u64, RecordBatch) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        let prefix = prefix_of(key_group, kind, self.era);
        let from = key_of(prefix.clone(), slices.0, 0);
        let to = match slices.1 {
            Some(to) => key_of(prefix.clone(), to, 0),
            None => after(prefix.clone()),
        };
        let mut scan = store.scan(self.state, &from..&to)?;
        while let Some(entry) = scan.next_entry() {
            let (key, value) = entry?;
            let (slice, part) = parse_key(key, &prefix).ok_or_else(|| OperatorError::Damaged {
                found: format!("a key of {} bytes", key.len()),
                expected: "the key of a chunk",
            })?;
            if wanted(slice, part) {
                take(slice, part, chunk::decode(value, self.schema(kind))?)?;
            }
        }
        Ok(())
    }

    /// Parts a chunk's columns into those of the keys and those of the states.
    pub(crate) fn split<'a>(&self, rows: &'a RecordBatch) -> (&'a [ArrayRef], &'a [ArrayRef]) {
        rows.columns().split_at(self.keys)
    }
}

/// A part that is to be written.
pub(crate) struct PartWrite {
    pub(crate) kind: Kind,
    pub(crate) slice: i64,
    pub(crate) stored: Stored,
    pub(crate) content: Content,
}

/// What a written part holds.
pub(crate) enum Content {
    /// States of groups, whose keys the interner has.
    States(Arc<Part>),
    /// Rows, whose key columns are named.
    Rows(Arc<Pieces>, Vec<usize>),
}

/// Rows in the batches in which they came. The writer makes one batch of them.
pub(crate) struct Pieces {
    pieces: Vec<RecordBatch>,
    joined: OnceLock<RecordBatch>,
}

impl Pieces {
    /// `pieces` must not be empty.
    pub(crate) fn new(pieces: Vec<RecordBatch>) -> Self {
        Self { pieces, joined: OnceLock::new() }
    }

    /// All rows, in one batch if they have been joined.
    pub(crate) fn batches(&self) -> &[RecordBatch] {
        self.joined().map_or(&self.pieces[..], std::slice::from_ref)
    }

    /// All rows, if they have been joined.
    pub(crate) fn joined(&self) -> Option<&RecordBatch> {
        self.joined.get()
    }

    fn join(&self) -> Result<&RecordBatch, StateError> {
        if let Some(joined) = self.joined() {
            return Ok(joined);
        }
        let joined = match &self.pieces[..] {
            [one] => one.clone(),
            pieces => {
                compute::concat_batches(pieces[0].schema_ref(), pieces).map_err(|error| unstorable(error.into()))?
            }
        };
        Ok(self.joined.get_or_init(|| joined))
    }
}

/// Writes parts, and removes others, as one sorted run. Returns how many bytes of chunks went in.
pub(crate) fn write(
    store: &TaskStore,
    layout: &Layout,
    keys: &GroupKeys,
    mut puts: Vec<PartWrite>,
    deletes: &[(Kind, i64, Stored)],
) -> Result<u64, StateError> {
    puts.sort_by_key(|put| (put.kind, put.slice, put.stored.part));
    let by_key_group: Vec<Partitioned> =
        puts.iter().map(|put| Partitioned::new(put, keys)).collect::<Result<_, _>>()?;
    let mut gone: BTreeMap<(Kind, i64, u64), u128> = BTreeMap::new();
    for (kind, slice, stored) in deletes {
        *gone.entry((*kind, *slice, stored.part)).or_default() |= stored.key_groups.get().copied().unwrap_or(0);
    }
    let mut run = store.writer();
    let mut value = Vec::new();
    let mut bytes = 0;
    for key_group in 0..KEY_GROUPS {
        let mut entries = Vec::with_capacity(puts.len());
        entries.extend(puts.iter().zip(&by_key_group).filter_map(|(put, rows)| {
            let rows = rows.of(key_group)?;
            Some((layout.key_of(key_group, put.kind, put.slice, put.stored.part), Some((put, rows))))
        }));
        let bit = 1_u128 << key_group;
        entries.extend(
            gone.iter()
                .filter(|(_, key_groups)| *key_groups & bit != 0)
                .map(|((kind, slice, part), _)| (layout.key_of(key_group, *kind, *slice, *part), None)),
        );
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (key, put) in entries {
            match put {
                None => run.delete(layout.state, key)?,
                Some((put, rows)) => {
                    value.clear();
                    chunk::encode(&rows.chunk(put, keys, layout).map_err(unstorable)?, &mut value)?;
                    bytes += value.len() as u64;
                    run.put(layout.state, key, &value)?;
                }
            }
        }
    }
    run.finish()?;
    Ok(bytes)
}

/// The rows of a part, by key group.
struct Partitioned {
    order: Vec<u32>,
    starts: Vec<u32>,
    columns: Vec<ArrayRef>,
}

/// The rows of one key group in a part.
struct Rows<'a> {
    of: &'a Partitioned,
    from: usize,
    to: usize,
}

/// Sorts the rows of a part by key group: the rows in order, and where each key group's begin.
pub(crate) fn by_key_group(groups: &[u32], keys: &GroupKeys) -> (Vec<u32>, Vec<u32>) {
    sort_by_key_group(&groups.iter().map(|group| keys.key_group(*group)).collect::<Vec<_>>())
}

pub(crate) fn sort_by_key_group(of: &[KeyGroup]) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0_u32; usize::from(KEY_GROUPS) + 1];
    of.iter().for_each(|key_group| starts[usize::from(key_group.0) + 1] += 1);
    for key_group in 0..usize::from(KEY_GROUPS) {
        starts[key_group + 1] += starts[key_group];
    }
    let mut next = starts.clone();
    let mut order = vec![0_u32; of.len()];
    for (row, key_group) in of.iter().enumerate() {
        let at = &mut next[usize::from(key_group.0)];
        order[*at as usize] = row as u32;
        *at += 1;
    }
    (order, starts)
}

impl Partitioned {
    fn new(put: &PartWrite, keys: &GroupKeys) -> Result<Self, StateError> {
        let (of, columns) = match &put.content {
            Content::States(part) => {
                (part.groups.iter().map(|group| keys.key_group(*group)).collect(), part.state().map_err(unstorable)?)
            }
            Content::Rows(pieces, keys) => {
                let rows = pieces.join()?;
                (key_groups_of(rows, keys), rows.columns())
            }
        };
        let (order, starts) = sort_by_key_group(&of);
        let mask = (0..KEY_GROUPS)
            .filter(|key_group| starts[usize::from(*key_group)] < starts[usize::from(*key_group) + 1])
            .fold(0_u128, |mask, key_group| mask | (1 << key_group));
        let _ = put.stored.key_groups.set(mask);
        let indices = UInt32Array::from(order);
        let columns = compute::take_arrays(columns, &indices, None).map_err(|error| unstorable(error.into()))?;
        let (_, order, _) = indices.into_parts();
        Ok(Self { order: order.to_vec(), starts, columns })
    }

    fn of(&self, key_group: u16) -> Option<Rows<'_>> {
        let at = usize::from(key_group);
        let (from, to) = (self.starts[at] as usize, self.starts[at + 1] as usize);
        (from < to).then_some(Rows { of: self, from, to })
    }
}

impl Rows<'_> {
    fn chunk(&self, put: &PartWrite, keys: &GroupKeys, layout: &Layout) -> Result<RecordBatch, OperatorError> {
        let rows = &self.of.order[self.from..self.to];
        let mut columns = match &put.content {
            Content::States(part) => {
                keys.gather(&rows.iter().map(|row| part.groups[*row as usize]).collect::<Vec<_>>())?
            }
            Content::Rows(..) => Vec::new(),
        };
        columns.extend(self.of.columns.iter().map(|column| column.slice(self.from, rows.len())));
        batch(layout.schema(put.kind), columns, rows.len())
    }
}

/// The key group of each row; without key columns that of the one key there is.
pub(crate) fn key_groups_of(rows: &RecordBatch, keys: &[usize]) -> Vec<KeyGroup> {
    if keys.is_empty() {
        return vec![KeyGroup::of_hash(0); rows.num_rows()];
    }
    let columns: Vec<ArrayRef> = keys.iter().map(|key| Arc::clone(rows.column(*key))).collect();
    let mut hashes = Vec::new();
    key_hash::hash_columns(&columns, &mut hashes);
    hashes.into_iter().map(KeyGroup::of_hash).collect()
}

/// A batch, also of no columns.
pub(crate) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, OperatorError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// An error of another module, as the writer of state reports it.
pub(crate) fn unstorable(error: OperatorError) -> StateError {
    match error {
        OperatorError::State(error) => error,
        error @ OperatorError::Overflow { .. } => StateError::Incomputable { what: error.to_string() },
        error => StateError::Damaged {
            place: "a part of a slice".into(),
            found: error.to_string(),
            expected: "columns that can be stored".into(),
        },
    }
}

/// The key groups of a range, in order.
pub(crate) fn key_groups(range: KeyGroupRange) -> std::ops::Range<u16> {
    range.start..range.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_chunks_are_stored_like_this() {
        let key = |era| {
            let layout = Layout::new("s", &[], Vec::new()).of_era(era);
            let bytes = layout.key_of(0x0102, Kind::Panes, -2, 7);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(key(0), "0102027ffffffffffffffe0000000000000007");
        assert_eq!(key(5), "010204000000057ffffffffffffffe0000000000000007");
    }

    #[test]
    fn the_chunks_of_an_era_are_apart_from_those_of_others() {
        for (kind, era) in
            [(Kind::Part, 0), (Kind::Panes, 0), (Kind::Part, 1), (Kind::Panes, 255), (Kind::Part, u32::MAX)]
        {
            let prefix = prefix_of(3, kind, era);
            let within = prefix.clone()..after(prefix.clone());
            for (other_kind, other_era) in [Kind::Part, Kind::Panes]
                .into_iter()
                .flat_map(|kind| [0, 1, 2, 255, 256, u32::MAX].map(|era| (kind, era)))
            {
                let key = key_of(prefix_of(3, other_kind, other_era), -9, 4);
                let same = (kind, era) == (other_kind, other_era);
                assert_eq!(within.contains(&key), same, "{kind:?} {era} and {other_kind:?} {other_era}");
                assert_eq!(parse_key(&key, &prefix), same.then_some((-9, 4)));
            }
        }
    }
}
