//! Rows that are remembered for a span of event time, in buckets that are forgotten as a whole.
//!
//! What an operator keeps of its input (rows that wait for the watermark, rows of a trailing range, marks of keys) is
//! appended to the bucket of its time. At a barrier the rows that came since the last one are handed over in the batches in
//! which they came, to be joined and written behind the task's back as one part a bucket and key group; when a bucket is over, its parts are deleted. A bucket that comes and goes between two barriers
//! never touches the store. Over the memory budget, buckets leave memory, latest first, and are read back when their time
//! has come.
//!
//! Where buckets are only an order ([`RowLog::gather`]), those of a longer span are written as one, so that few rows in much
//! event time are not many small parts. Then buckets may overlap, as rows that come after that may be of any time in it.

mod parted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch},
    compute::concat_batches,
    datatypes::{ByteViewType, DataType, Schema, SchemaRef},
};
use millrace_state::{StateError, TaskStore};
use millrace_stream::KeyGroupRange;

pub(crate) use self::parted::Parted;
use super::chunks::{self, Content, Kind, Layout, PartWrite, Pieces, Stored};
use crate::{aggregate::longs, group::GroupKeys, operator::OperatorError};

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
    /// The span of event time of which rows are written as one bucket.
    gathered_ms: i64,
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
    /// The first and the last event time.
    times: (i64, i64),
    stored: Vec<Stored>,
}

/// The first and the last event time of rows.
fn times_of(rows: &RecordBatch) -> (i64, i64) {
    let times = rows.columns().first().and_then(longs).unwrap_or_default();
    let both = times.iter().fold((i64::MAX, i64::MIN), |(first, last), time| (first.min(*time), last.max(*time)));
    if times.is_empty() { (i64::MIN, i64::MAX) } else { both }
}

impl RowPart {
    fn is_fresh(&mut self) -> bool {
        self.stored.is_empty()
    }

    /// Adds rows of the same part in another key group, which are only in the store as well.
    fn join(&mut self, rows: usize, times: (i64, i64), key_group: u16) {
        self.count += rows;
        self.times = (self.times.0.min(times.0), self.times.1.max(times.1));
        for stored in &mut self.stored {
            let others = stored.key_groups.get().copied().unwrap_or(0);
            stored.key_groups = Arc::new(OnceLock::from(others | 1 << key_group));
        }
    }
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
            gathered_ms: 1,
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
            times: times_of(&rows),
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

    /// The first and the last event time of a bucket's rows.
    pub(crate) fn times_of(&self, bucket: i64) -> (i64, i64) {
        let times = self.buckets.get(&bucket).into_iter().flatten().map(|part| part.times);
        times.fold((i64::MAX, i64::MIN), |all, part| (all.0.min(part.0), all.1.max(part.1)))
    }

    /// From now on what is written of `span_ms` of event time is one bucket, that of the first of its rows. Of rows of equal
    /// time those in a bucket that begins earlier came earlier.
    pub(crate) fn gather(&mut self, span_ms: i64) {
        self.gathered_ms = span_ms.max(1);
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
        self.gather_fresh();
        let mut puts = Vec::with_capacity(self.fresh.len());
        for bucket in std::mem::take(&mut self.fresh) {
            let Some(parts) = self.buckets.get_mut(&bucket) else { continue };
            // Written parts are not followed by others that are not, save by those that came after them.
            let from = parts.iter().rposition(|part| !part.stored.is_empty()).map_or(0, |written| written + 1);
            let (mut pieces, mut count, mut bytes) = (Vec::with_capacity(parts.len() - from), 0, 0);
            let mut times = (i64::MAX, i64::MIN);
            for part in parts.drain(from..) {
                pieces.extend(part.rows.iter().flat_map(Rows::batches).cloned());
                (count, bytes) = (count + part.count, bytes + part.bytes);
                times = (times.0.min(part.times.0), times.1.max(part.times.1));
            }
            if pieces.is_empty() {
                continue;
            }
            let (pieces, stored) = (Arc::new(Pieces::new(pieces)), Stored::new(&mut self.next_part));
            let content = Content::Rows(Arc::clone(&pieces), self.keys.clone());
            puts.push(PartWrite { kind: Kind::Part, slice: bucket, stored: stored.clone(), content });
            parts.push(RowPart { rows: Some(Rows::HandedOver(pieces)), count, bytes, times, stored: vec![stored] });
            self.handed_over.push(bucket);
        }
        puts
    }

    /// Puts fresh rows into the first bucket of their span. None pass by a bucket that has rows which came before them.
    fn gather_fresh(&mut self) {
        if self.gathered_ms == 1 {
            return;
        }
        let (mut into, mut moved) = (None, Vec::new());
        for (bucket, parts) in &self.buckets {
            let is_fresh = parts.last().is_some_and(|part| part.stored.is_empty());
            let is_new = parts.iter().all(|part| part.stored.is_empty());
            let span = bucket.div_euclid(self.gathered_ms);
            into = match into {
                Some((first, of)) if of == span && is_new => {
                    moved.push((*bucket, first));
                    into
                }
                _ => is_fresh.then_some((*bucket, span)),
            };
        }
        for (bucket, first) in moved {
            let parts = self.buckets.remove(&bucket).unwrap_or_default();
            self.buckets.entry(first).or_default().extend(parts);
            self.fresh.remove(&bucket);
        }
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
        let mut cold: BTreeMap<(i64, u64), RowPart> = BTreeMap::new();
        for key_group in chunks::key_groups(self.key_groups) {
            self.layout.scan(
                &self.store,
                key_group,
                Kind::Part,
                (i64::MIN, None),
                |_, _| true,
                |bucket, part, rows| {
                    let (count, bytes, times) = (rows.num_rows(), rows.get_array_memory_size(), times_of(&rows));
                    self.rows += count as u64;
                    let fits = self.memory_bytes + bytes <= budget_bytes / 2;
                    if !fits && let Some(others) = cold.get_mut(&(bucket, part)) {
                        others.join(count, times, key_group);
                        return Ok(());
                    }
                    let stored = vec![Stored { part, key_groups: Arc::new(OnceLock::from(1 << key_group)) }];
                    if fits {
                        self.memory_bytes += bytes;
                        let read = RowPart { rows: Some(Rows::Whole(rows)), count, bytes, times, stored };
                        found.entry((bucket, part)).or_default().push(read);
                    } else {
                        cold.insert((bucket, part), RowPart { rows: None, count, bytes: 0, times, stored });
                    }
                    Ok(())
                },
            )?;
        }
        for (place, part) in cold {
            found.entry(place).or_default().push(part);
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

    use arrow::{
        array::{StringViewArray, UInt32Array},
        compute::take_record_batch,
    };

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
