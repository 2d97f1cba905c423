//! Where and how parts of slices lie in the store: one columnar chunk for the rows of one key group in one part.
//!
//! ```text
//! key    key group u16 | kind u8 | slice start i64, sign flipped | part u64          all big-endian
//! value  a chunk (`millrace_state::chunk`): key columns, then state columns
//! ```
//!
//! Kinds are 1 for parts and 2 for the numbers of corrected results. Part numbers rise and are never used twice by a task.

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

const KEY_BYTES: usize = 19;

/// The store's key of a chunk.
pub(crate) fn key_of(key_group: u16, kind: Kind, slice: i64, part: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..2].copy_from_slice(&key_group.to_be_bytes());
    key[2] = kind as u8;
    key[3..11].copy_from_slice(&((slice as u64) ^ (1 << 63)).to_be_bytes());
    key[11..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The slice and the part that a key of the store names.
fn parse_key(key: &[u8]) -> Option<(i64, u64)> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let long = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| key[at + byte]));
    Some(((long(3) ^ (1 << 63)) as i64, long(11)))
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
        Self { state, keys: keys.len(), parts: schema(states), panes }
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
        let from = key_of(key_group, kind, slices.0, 0);
        let to = match slices.1 {
            Some(to) => key_of(key_group, kind, to, 0).to_vec(),
            None => [&key_group.to_be_bytes()[..], &[kind as u8 + 1]].concat(),
        };
        let mut scan = store.scan(self.state, &from..&to)?;
        while let Some(entry) = scan.next_entry() {
            let (key, value) = entry?;
            let (slice, part) = parse_key(key).ok_or_else(|| OperatorError::Damaged {
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
    Rows(RecordBatch, Vec<usize>),
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
            Some((key_of(key_group, put.kind, put.slice, put.stored.part), Some((put, rows))))
        }));
        let bit = 1_u128 << key_group;
        entries.extend(
            gone.iter()
                .filter(|(_, key_groups)| *key_groups & bit != 0)
                .map(|((kind, slice, part), _)| (key_of(key_group, *kind, *slice, *part), None)),
        );
        entries.sort_by_key(|(key, _)| *key);
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

fn sort_by_key_group(of: &[KeyGroup]) -> (Vec<u32>, Vec<u32>) {
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
                (part.groups.iter().map(|group| keys.key_group(*group)).collect(), &part.state[..])
            }
            Content::Rows(rows, keys) => (key_groups_of(rows, keys), rows.columns()),
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
