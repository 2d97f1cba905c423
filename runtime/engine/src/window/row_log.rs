//! Rows that are remembered for a span of event time, in buckets that are forgotten as a whole.
//!
//! What an operator keeps of its input (rows that wait for the watermark, rows of a trailing range, marks of keys) is
//! appended to the bucket of its time. At a barrier the rows that came since the last one are handed over in the batches in
//! which they came, to be joined and written behind the task's back as one part a bucket and key group; when a bucket is over, its parts are deleted. A bucket that comes and goes between two barriers
//! never touches the store. Over the memory budget, buckets leave memory, latest first, and are read back when their time
//! has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::{ByteViewType, DataType, Schema, SchemaRef},
};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

use super::chunks::{self, Content, Kind, Layout, PartWrite, Pieces, Stored};
use crate::{group::GroupKeys, operator::OperatorError};

/// Remembered rows, by bucket of event time.
pub(crate) struct RowLog {
    layout: Layout,
    schema: SchemaRef,
    keys: Vec<usize>,
    store: Arc<TaskStore>,
    key_groups: KeyGroupRange,
    buckets: BTreeMap<i64, Vec<RowPart>>,
    /// Buckets with rows that are not in the store.
    fresh: BTreeSet<i64>,
    /// Buckets with rows that were handed over.
    handed_over: Vec<i64>,
    deletes: Vec<(Kind, i64, Stored)>,
    next_part: u64,
    writing: bool,
    memory_bytes: usize,
    spilled_bytes: u64,
    rows: u64,
}

/// Rows of a bucket.
struct RowPart {
    /// `None`: only in the store.
    rows: Option<Rows>,
    count: usize,
    bytes: usize,
    stored: Vec<Stored>,
}

impl RowPart {
    fn is_fresh(&mut self) -> bool {
        self.stored.is_empty()
    }
}

/// Rows of some buckets; see [`RowLog::parted`].
pub(crate) struct Parted {
    buckets: Vec<PartedBucket>,
}

struct PartedBucket {
    bucket: i64,
    /// What is in memory, with the number of its part, sorted by key group, and where each key group begins.
    in_memory: Vec<(u64, RecordBatch, Vec<u32>)>,
    /// The key groups of each part that are only in the store. Others of the same part may be in memory.
    cold: BTreeMap<u64, u128>,
}

/// Rows in memory.
enum Rows {
    Whole(RecordBatch),
    /// A writer has them too.
    HandedOver(Arc<Pieces>),
}

impl Rows {
    fn batches(&self) -> &[RecordBatch] {
        match self {
            Self::Whole(rows) => std::slice::from_ref(rows),
            Self::HandedOver(pieces) => pieces.batches(),
        }
    }
}

/// What a barrier writes.
pub(crate) struct RowWrites {
    layout: Layout,
    puts: Vec<PartWrite>,
    deletes: Vec<(Kind, i64, Stored)>,
}

impl RowWrites {
    pub(crate) fn write(self, store: &TaskStore) -> Result<(), StateError> {
        let keys = GroupKeys::new(&[]).map_err(chunks::unstorable)?;
        chunks::write(store, &self.layout, &keys, self.puts, &self.deletes)?;
        Ok(())
    }
}

/// The same rows, without buffers of which they need little. Rows that were parted share those of the batch that they came in, as
/// a Parquet file's do: each part would hold all of it, and be counted so.
fn alone(rows: RecordBatch) -> RecordBatch {
    fn is_sparse<T: ByteViewType>(column: &GenericByteViewArray<T>) -> bool {
        column.data_buffers().iter().map(|buffer| buffer.len()).sum::<usize>() > 2 * column.total_buffer_bytes_used()
    }
    let own = |column: &ArrayRef| -> Option<ArrayRef> {
        match column.data_type() {
            DataType::Utf8View => {
                Some(column.as_string_view()).filter(|it| is_sparse(it)).map(|it| Arc::new(it.gc()) as _)
            }
            DataType::BinaryView => {
                Some(column.as_binary_view()).filter(|it| is_sparse(it)).map(|it| Arc::new(it.gc()) as _)
            }
            _ => None,
        }
    };
    let owned: Vec<Option<ArrayRef>> = rows.columns().iter().map(own).collect();
    if owned.iter().all(Option::is_none) {
        return rows;
    }
    let columns = owned.into_iter().zip(rows.columns()).map(|(own, column)| own.unwrap_or_else(|| Arc::clone(column)));
    RecordBatch::try_new(rows.schema(), columns.collect()).unwrap_or(rows)
}

impl RowLog {
    /// An empty log of rows of this schema, whose key columns are `keys`.
    pub(crate) fn new(
        state: &'static str,
        schema: &SchemaRef,
        keys: &[usize],
        store: &Arc<TaskStore>,
        key_groups: KeyGroupRange,
    ) -> Self {
        let fields = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        Self {
            layout: Layout::new(state, &[], fields),
            schema: Arc::new(Schema::new(schema.fields().clone())),
            keys: keys.to_vec(),
            store: Arc::clone(store),
            key_groups,
            buckets: BTreeMap::new(),
            fresh: BTreeSet::new(),
            handed_over: Vec::new(),
            deletes: Vec::new(),
            next_part: 1,
            writing: false,
            memory_bytes: 0,
            spilled_bytes: 0,
            rows: 0,
        }
    }

    /// Adds rows to a bucket.
    pub(crate) fn append(&mut self, bucket: i64, rows: RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        let rows = alone(rows);
        let part = RowPart {
            count: rows.num_rows(),
            bytes: rows.get_array_memory_size(),
            rows: Some(Rows::Whole(rows)),
            stored: Vec::new(),
        };
        self.memory_bytes += part.bytes;
        self.rows += part.count as u64;
        self.buckets.entry(bucket).or_default().push(part);
        self.fresh.insert(bucket);
    }

    /// The buckets, in order.
    pub(crate) fn buckets(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.buckets.keys().copied()
    }

    /// The first bucket.
    pub(crate) fn first_bucket(&self) -> Option<i64> {
        self.buckets.keys().next().copied()
    }

    /// How many rows a bucket has, and in how many parts.
    pub(crate) fn size_of(&self, bucket: i64) -> (usize, usize) {
        let parts = self.buckets.get(&bucket).map_or(&[][..], |parts| &parts[..]);
        (parts.iter().map(|part| part.count).sum(), parts.len())
    }

    /// The rows of a bucket, in the order in which they came.
    pub(crate) fn read(&self, bucket: i64) -> Result<RecordBatch, OperatorError> {
        let parts = self.buckets.get(&bucket).map_or(&[][..], |parts| &parts[..]);
        let mut batches = Vec::with_capacity(parts.len());
        for part in parts {
            match &part.rows {
                Some(rows) => batches.extend_from_slice(rows.batches()),
                None => self.read_stored(bucket, part, &mut batches)?,
            }
        }
        Ok(concat_batches(&self.schema, &batches)?)
    }

    fn read_stored(&self, bucket: i64, part: &RowPart, batches: &mut Vec<RecordBatch>) -> Result<(), OperatorError> {
        let all = part.stored.iter().fold(0_u128, |all, stored| all | stored.key_groups.get().copied().unwrap_or(0));
        for key_group in chunks::key_groups(self.key_groups).filter(|key_group| all & (1 << key_group) != 0) {
            let wanted = |_, number| part.stored.iter().any(|stored| stored.part == number);
            let slices = (bucket, bucket.checked_add(1));
            self.layout.scan(&self.store, key_group, Kind::Part, slices, wanted, |_, _, rows| {
                batches.push(rows);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether rows of a bucket are only in the store.
    pub(crate) fn is_cold(&self, bucket: i64) -> bool {
        self.buckets.get(&bucket).is_some_and(|parts| parts.iter().any(|part| part.rows.is_none()))
    }

    /// The rows of buckets, to be read one key group at a time: what is in memory is sorted by key group for that.
    pub(crate) fn parted(&self, buckets: impl Iterator<Item = i64>) -> Result<Parted, OperatorError> {
        let mut parted = Parted { buckets: Vec::new() };
        for bucket in buckets {
            let (mut in_memory, mut cold) = (Vec::new(), BTreeMap::new());
            for part in self.buckets.get(&bucket).into_iter().flatten() {
                let number = part.stored.iter().map(|stored| stored.part).min().unwrap_or(u64::MAX);
                match &part.rows {
                    None => part.stored.iter().for_each(|stored| {
                        *cold.entry(stored.part).or_default() |= stored.key_groups.get().copied().unwrap_or(0);
                    }),
                    Some(rows) => {
                        for rows in rows.batches() {
                            let (order, starts) = chunks::sort_by_key_group(&chunks::key_groups_of(rows, &self.keys));
                            let rows = take_record_batch(rows, &UInt32Array::from(order))?;
                            in_memory.push((number, rows, starts));
                        }
                    }
                }
            }
            parted.buckets.push(PartedBucket { bucket, in_memory, cold });
        }
        Ok(parted)
    }

    /// The rows of one key group: with their bucket, and a number that rises from older rows of a bucket to younger ones.
    pub(crate) fn read_parted(
        &self,
        parted: &Parted,
        key_group: u16,
        mut take: impl FnMut(i64, u64, RecordBatch) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        for PartedBucket { bucket, in_memory, cold } in &parted.buckets {
            for (number, rows, starts) in in_memory {
                let at = usize::from(key_group);
                let (from, to) = (starts[at] as usize, starts[at + 1] as usize);
                if from < to {
                    take(*bucket, *number, rows.slice(from, to - from))?;
                }
            }
            let is_cold = |key_groups: &u128| key_groups & (1 << key_group) != 0;
            if cold.values().any(is_cold) {
                let wanted = |_, part| cold.get(&part).is_some_and(is_cold);
                let slices = (*bucket, bucket.checked_add(1));
                self.layout.scan(&self.store, key_group, Kind::Part, slices, wanted, &mut take)?;
            }
        }
        Ok(())
    }

    /// How many rows of a bucket are not in the store.
    pub(crate) fn unstored(&self, bucket: i64) -> usize {
        let parts = self.buckets.get(&bucket).into_iter().flatten();
        parts.filter(|part| part.stored.is_empty()).map(|part| part.count).sum()
    }

    /// Takes the rows of a bucket away that are not in the store.
    pub(crate) fn take_unstored(&mut self, bucket: i64) -> Result<RecordBatch, OperatorError> {
        let mut taken = Vec::new();
        for part in self.buckets.get_mut(&bucket).into_iter().flat_map(|parts| parts.extract_if(.., RowPart::is_fresh))
        {
            self.rows -= part.count as u64;
            self.memory_bytes -= part.bytes;
            taken.extend(part.rows.iter().flat_map(Rows::batches).cloned());
        }
        self.fresh.remove(&bucket);
        Ok(concat_batches(&self.schema, &taken)?)
    }

    /// Forgets a bucket.
    pub(crate) fn remove(&mut self, bucket: i64) {
        self.fresh.remove(&bucket);
        for part in self.buckets.remove(&bucket).into_iter().flatten() {
            self.rows -= part.count as u64;
            self.memory_bytes -= if part.rows.is_some() { part.bytes } else { 0 };
            self.deletes.extend(part.stored.into_iter().map(|stored| (Kind::Part, bucket, stored)));
        }
    }

    /// Puts other rows in the place of a bucket's.
    pub(crate) fn replace(&mut self, bucket: i64, rows: RecordBatch) {
        self.remove(bucket);
        self.append(bucket, rows);
    }

    /// Hands over what changed since the last barrier; `None`: nothing. Nothing is spilled until [`Self::thaw`].
    pub(crate) fn freeze(&mut self) -> Option<RowWrites> {
        self.writing = true;
        let puts = self.unwritten();
        let deletes = std::mem::take(&mut self.deletes);
        let changed = !puts.is_empty() || !deletes.is_empty();
        changed.then(|| RowWrites { layout: self.layout.clone(), puts, deletes })
    }

    /// What was handed over has been written.
    pub(crate) fn thaw(&mut self) {
        self.writing = false;
        self.take_joined();
    }

    /// Hands over what is not in the store.
    fn unwritten(&mut self) -> Vec<PartWrite> {
        let mut puts = Vec::with_capacity(self.fresh.len());
        for bucket in std::mem::take(&mut self.fresh) {
            let Some(parts) = self.buckets.get_mut(&bucket) else { continue };
            // Written parts are not followed by others that are not, save by those that came after them.
            let from = parts.iter().rposition(|part| !part.stored.is_empty()).map_or(0, |written| written + 1);
            let (mut pieces, mut count, mut bytes) = (Vec::with_capacity(parts.len() - from), 0, 0);
            for part in parts.drain(from..) {
                pieces.extend(part.rows.iter().flat_map(Rows::batches).cloned());
                (count, bytes) = (count + part.count, bytes + part.bytes);
            }
            if pieces.is_empty() {
                continue;
            }
            let (pieces, stored) = (Arc::new(Pieces::new(pieces)), Stored::new(&mut self.next_part));
            let content = Content::Rows(Arc::clone(&pieces), self.keys.clone());
            puts.push(PartWrite { kind: Kind::Part, slice: bucket, stored: stored.clone(), content });
            parts.push(RowPart { rows: Some(Rows::HandedOver(pieces)), count, bytes, stored: vec![stored] });
            self.handed_over.push(bucket);
        }
        puts
    }

    /// Puts what the writer has joined in the place of the batches in which it came.
    fn take_joined(&mut self) {
        for bucket in std::mem::take(&mut self.handed_over) {
            for part in self.buckets.get_mut(&bucket).into_iter().flatten() {
                let Some(Rows::HandedOver(pieces)) = &part.rows else { continue };
                let Some(rows) = pieces.joined().cloned() else { continue };
                let bytes = rows.get_array_memory_size();
                self.memory_bytes = self.memory_bytes - part.bytes + bytes;
                (part.rows, part.bytes) = (Some(Rows::Whole(rows)), bytes);
            }
        }
    }

    fn count_memory(&mut self) {
        let in_memory = self.buckets.values().flatten().filter(|part| part.rows.is_some());
        self.memory_bytes = in_memory.map(|part| part.bytes).sum();
    }

    /// Lets buckets leave memory, latest first, until what is left takes at most `budget_bytes`.
    ///
    /// # Errors
    /// Fails if they cannot be written.
    pub(crate) fn spill_to(&mut self, budget_bytes: usize) -> Result<(), OperatorError> {
        if self.writing || self.memory_bytes <= budget_bytes {
            return Ok(());
        }
        let puts = self.unwritten();
        if !puts.is_empty() {
            let keys = GroupKeys::new(&[])?;
            self.spilled_bytes += chunks::write(&self.store, &self.layout, &keys, puts, &[])?;
            self.take_joined();
        }
        for part in self.buckets.values_mut().rev().flatten() {
            if self.memory_bytes <= budget_bytes / 2 {
                break;
            }
            if part.rows.take().is_some() {
                self.memory_bytes -= part.bytes;
            }
        }
        Ok(())
    }

    /// Lets everything that is in the store leave memory. Not to be called while changes are being written.
    pub(crate) fn drop_written(&mut self) {
        for part in self.buckets.values_mut().flatten().filter(|part| !part.stored.is_empty()) {
            part.rows = None;
        }
        self.count_memory();
    }

    /// Reads what was stored, as far as `budget_bytes` allow; `next_part` is above every part number that was used.
    ///
    /// # Errors
    /// Fails if it cannot be read.
    pub(crate) fn load(&mut self, next_part: u64, budget_bytes: usize) -> Result<(), OperatorError> {
        self.next_part = self.next_part.max(next_part);
        let mut found: BTreeMap<(i64, u64), Vec<RowPart>> = BTreeMap::new();
        let mut cold: BTreeMap<(i64, u64), (usize, u128)> = BTreeMap::new();
        for key_group in chunks::key_groups(self.key_groups) {
            self.layout.scan(
                &self.store,
                key_group,
                Kind::Part,
                (i64::MIN, None),
                |_, _| true,
                |bucket, part, rows| {
                    let (count, bytes) = (rows.num_rows(), rows.get_array_memory_size());
                    self.rows += count as u64;
                    if self.memory_bytes + bytes > budget_bytes / 2 {
                        let (of, key_groups) = cold.entry((bucket, part)).or_default();
                        *of += count;
                        *key_groups |= 1 << key_group;
                        return Ok(());
                    }
                    self.memory_bytes += bytes;
                    let stored = vec![Stored { part, key_groups: Arc::new(OnceLock::from(1 << key_group)) }];
                    let rows = Some(Rows::Whole(rows));
                    found.entry((bucket, part)).or_default().push(RowPart { count, bytes, rows, stored });
                    Ok(())
                },
            )?;
        }
        for ((bucket, part), (count, key_groups)) in cold {
            let stored = vec![Stored { part, key_groups: Arc::new(OnceLock::from(key_groups)) }];
            found.entry((bucket, part)).or_default().push(RowPart { count, bytes: 0, rows: None, stored });
        }
        for ((bucket, _), parts) in found {
            self.buckets.entry(bucket).or_default().extend(parts);
        }
        Ok(())
    }

    pub(crate) fn next_part(&self) -> u64 {
        self.next_part
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::StringViewArray;

    use super::*;

    #[test]
    fn a_part_of_a_batch_does_not_hold_the_rest_of_it() {
        let texts = StringViewArray::from_iter_values((0..10_000).map(|row| format!("a-rather-long-text-{row}")));
        let whole = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
        let bytes = whole.get_array_memory_size();
        let part = take_record_batch(&whole, &UInt32Array::from(vec![7, 9_000])).unwrap();
        assert!(part.get_array_memory_size() > bytes / 2, "it shares its buffers");
        let own = alone(part.clone());
        assert!(own.get_array_memory_size() < 2_000 && own == part, "{}", own.get_array_memory_size());
        assert_eq!(alone(whole.clone()).get_array_memory_size(), bytes, "what is needed is not copied");
    }
}
