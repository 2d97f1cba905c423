//! Keys by group, in the representation that suits their types.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringViewArray, UInt64Array, make_array},
    buffer::{Buffer, NullBuffer, ScalarBuffer},
    datatypes::{DataType, Int32Type, UInt32Type},
    row::{RowConverter, Rows, SortField},
};
use millrace_stream::KeyGroup;

use super::{
    NO_GROUP,
    bytes::{Blocks, Place},
    segments::Segments,
};
use crate::operator::OperatorError;

/// Keys in one representation.
pub(super) trait KeyStore {
    /// The keys of a batch in the same representation.
    type Batch<'a>;
    /// Whether the group's key is that of the row.
    fn matches(&self, group: u32, batch: &Self::Batch<'_>, row: usize) -> bool;
    /// Adds the key of the row.
    fn push(&mut self, batch: &Self::Batch<'_>, row: usize);
    /// Adds the key that is null.
    fn push_null(&mut self);
}

/// What keys have besides their values.
#[derive(Clone)]
pub(super) struct Shared {
    hashes: Segments<u64>,
    /// The group of the key that is null, for keys of one column.
    pub(super) null_group: u32,
}

impl Shared {
    #[inline]
    pub(super) fn push(&mut self, hash: u64) -> u32 {
        let group = self.hashes.len() as u32;
        self.hashes.push(hash);
        group
    }
}

/// The keys of groups and their hashes. A clone shares what it holds and can go to another thread.
#[derive(Clone)]
pub struct GroupKeys {
    types: Vec<DataType>,
    shared: Shared,
    store: Store,
}

#[derive(Clone)]
enum Store {
    None,
    Ints(Ints),
    Views(Views),
    Rows(KeyRows),
}

/// The keys of a batch, converted.
pub(super) enum KeyBatch<'a> {
    Ints(Cow<'a, [i64]>, Option<NullBuffer>),
    Views(&'a StringViewArray, Option<NullBuffer>),
    Rows(Rows),
}

impl GroupKeys {
    pub(crate) fn new(types: &[DataType]) -> Result<Self, OperatorError> {
        let store = match types {
            [] => Store::None,
            [one] if is_int(one) => Store::Ints(Ints::default()),
            [DataType::Utf8View] => Store::Views(Views::default()),
            _ => Store::Rows(KeyRows {
                converter: Arc::new(converter(types)?),
                places: Segments::default(),
                lens: Segments::default(),
                blocks: Blocks::default(),
            }),
        };
        let shared = Shared { hashes: Segments::default(), null_group: NO_GROUP };
        Ok(Self { types: types.to_vec(), shared, store })
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.shared.hashes.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stable hash of a group's key.
    #[inline]
    pub fn hash(&self, group: u32) -> u64 {
        self.shared.hashes.get(group as usize)
    }

    /// The key group in which a group's key falls.
    #[inline]
    pub fn key_group(&self, group: u32) -> KeyGroup {
        KeyGroup::of_hash(self.hash(group))
    }

    pub(super) fn is_null_group(&self, group: u32) -> bool {
        group == self.shared.null_group
    }

    pub(super) fn push_empty(&mut self) {
        self.shared.push(0);
    }

    pub(super) fn batch<'a>(&self, columns: &'a [ArrayRef]) -> Result<KeyBatch<'a>, OperatorError> {
        Ok(match &self.store {
            Store::Ints(_) => {
                let nulls = columns[0].nulls().filter(|nulls| nulls.null_count() > 0).cloned();
                KeyBatch::Ints(ints_of(&columns[0])?, nulls)
            }
            Store::Views(_) => {
                let array = columns[0].as_string_view_opt().ok_or_else(|| wrong_type(&columns[0]))?;
                KeyBatch::Views(array, array.nulls().filter(|nulls| nulls.null_count() > 0).cloned())
            }
            Store::Rows(rows) => KeyBatch::Rows(rows.converter.convert_columns(columns)?),
            Store::None => return Err(wrong_type(&columns[0])),
        })
    }

    pub(super) fn ints_mut(&mut self, f: impl FnOnce(&mut Ints, &mut Shared)) {
        if let Store::Ints(store) = &mut self.store {
            f(store, &mut self.shared);
        }
    }

    pub(super) fn views_mut(&mut self, f: impl FnOnce(&mut Views, &mut Shared)) {
        if let Store::Views(store) = &mut self.store {
            f(store, &mut self.shared);
        }
    }

    pub(super) fn rows_mut(&mut self, f: impl FnOnce(&mut KeyRows, &mut Shared)) {
        if let Store::Rows(store) = &mut self.store {
            f(store, &mut self.shared);
        }
    }

    /// The keys of `groups`, as columns.
    ///
    /// # Errors
    /// Fails if stored keys cannot be read back, which would be a defect.
    pub fn gather(&self, groups: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        let null_group = self.shared.null_group;
        let nulls = || {
            let has_null = null_group != NO_GROUP && groups.contains(&null_group);
            has_null.then(|| groups.iter().map(|group| *group != null_group).collect::<NullBuffer>())
        };
        match &self.store {
            Store::None => Ok(Vec::new()),
            Store::Ints(store) => {
                let values = groups.iter().map(|group| store.values.get(*group as usize));
                Ok(vec![ints_to(&self.types[0], values, nulls())?])
            }
            Store::Views(store) => Ok(vec![Arc::new(store.gather(groups, nulls()))]),
            Store::Rows(store) => {
                let parser = store.converter.parser();
                let rows = groups.iter().map(|group| parser.parse(store.get(*group)));
                Ok(store.converter.convert_rows(rows)?)
            }
        }
    }

    /// A copy that holds only `groups`, numbered from 0 in that order.
    pub(super) fn only(&self, groups: &[u32]) -> Self {
        let mut shared = Shared { hashes: Segments::default(), null_group: NO_GROUP };
        for group in groups {
            let new = shared.push(self.hash(*group));
            if self.is_null_group(*group) {
                shared.null_group = new;
            }
        }
        let store = match &self.store {
            Store::None => Store::None,
            Store::Ints(store) => Store::Ints(store.only(groups)),
            Store::Views(store) => Store::Views(store.only(groups)),
            Store::Rows(store) => Store::Rows(store.only(groups)),
        };
        Self { types: self.types.clone(), shared, store }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let store = match &self.store {
            Store::None => 0,
            Store::Ints(store) => store.values.memory_bytes(),
            Store::Views(store) => store.views.memory_bytes() + store.blocks.memory_bytes(),
            Store::Rows(store) => store.places.memory_bytes() + store.lens.memory_bytes() + store.blocks.memory_bytes(),
        };
        store + self.shared.hashes.memory_bytes()
    }
}

/// Keys of one integer-like column.
#[derive(Clone, Default)]
pub(super) struct Ints {
    values: Segments<i64>,
}

impl Ints {
    fn only(&self, groups: &[u32]) -> Self {
        let mut copy = Self::default();
        for group in groups {
            copy.values.push(self.values.get(*group as usize));
        }
        copy
    }
}

impl KeyStore for Ints {
    type Batch<'a> = &'a [i64];

    #[inline]
    fn matches(&self, group: u32, batch: &&[i64], row: usize) -> bool {
        self.values.get(group as usize) == batch[row]
    }

    #[inline]
    fn push(&mut self, batch: &&[i64], row: usize) {
        self.values.push(batch[row]);
    }

    fn push_null(&mut self) {
        self.values.push(0);
    }
}

/// Keys of one string column, in Arrow's view layout: up to 12 bytes inline, longer ones with their first four bytes and
/// where the whole string lies in `blocks`.
#[derive(Clone, Default)]
pub(super) struct Views {
    views: Segments<u128>,
    blocks: Blocks,
}

const INLINE: u32 = 12;
const LEN_AND_PREFIX: u128 = u64::MAX as u128;

fn view_len(view: u128) -> u32 {
    view as u32
}

fn place_of(view: u128) -> Place {
    Place { block: (view >> 64) as u32, offset: (view >> 96) as u32 }
}

fn with_place(view: u128, place: Place) -> u128 {
    (view & LEN_AND_PREFIX) | (u128::from(place.block) << 64) | (u128::from(place.offset) << 96)
}

impl Views {
    fn bytes(&self, view: u128) -> &[u8] {
        self.blocks.get(place_of(view), view_len(view) as usize)
    }

    fn only(&self, groups: &[u32]) -> Self {
        let mut copy = Self::default();
        for group in groups {
            let view = self.views.get(*group as usize);
            let view =
                if view_len(view) <= INLINE { view } else { with_place(view, copy.blocks.push(self.bytes(view))) };
            copy.views.push(view);
        }
        copy
    }

    fn gather(&self, groups: &[u32], nulls: Option<NullBuffer>) -> StringViewArray {
        const BUFFER_BYTES: usize = 1 << 30;
        let mut full: Vec<Buffer> = Vec::new();
        let mut long: Vec<u8> = Vec::new();
        let mut views = Vec::with_capacity(groups.len());
        for group in groups {
            let view = self.views.get(*group as usize);
            if view_len(view) <= INLINE {
                views.push(view);
                continue;
            }
            if long.len() > BUFFER_BYTES {
                full.push(std::mem::take(&mut long).into());
            }
            views.push(with_place(view, Place { block: full.len() as u32, offset: long.len() as u32 }));
            long.extend_from_slice(self.bytes(view));
        }
        if !long.is_empty() {
            full.push(long.into());
        }
        // SAFETY: every view was copied from a valid string view array: short ones as they were, long ones with a place
        // inside the buffers that were filled here with the same, whole UTF-8 strings.
        unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), full, nulls) }
    }
}

impl KeyStore for Views {
    type Batch<'a> = &'a StringViewArray;

    #[inline]
    fn matches(&self, group: u32, batch: &&StringViewArray, row: usize) -> bool {
        let (known, view) = (self.views.get(group as usize), batch.views()[row]);
        if view_len(view) <= INLINE {
            return known == view;
        }
        known & LEN_AND_PREFIX == view & LEN_AND_PREFIX && self.bytes(known) == batch.value(row).as_bytes()
    }

    #[inline]
    fn push(&mut self, batch: &&StringViewArray, row: usize) {
        let view = batch.views()[row];
        if view_len(view) <= INLINE {
            self.views.push(view);
        } else {
            let place = self.blocks.push(batch.value(row).as_bytes());
            self.views.push(with_place(view, place));
        }
    }

    fn push_null(&mut self) {
        self.views.push(0);
    }
}

/// Keys of any columns, in Arrow's row format.
#[derive(Clone)]
pub(super) struct KeyRows {
    converter: Arc<RowConverter>,
    places: Segments<Place>,
    lens: Segments<u32>,
    blocks: Blocks,
}

impl KeyRows {
    #[inline]
    fn get(&self, group: u32) -> &[u8] {
        let group = group as usize;
        self.blocks.get(self.places.get(group), self.lens.get(group) as usize)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.places.push(self.blocks.push(bytes));
        self.lens.push(bytes.len() as u32);
    }

    fn only(&self, groups: &[u32]) -> Self {
        let mut copy = Self {
            converter: Arc::clone(&self.converter),
            places: Segments::default(),
            lens: Segments::default(),
            blocks: Blocks::default(),
        };
        for group in groups {
            copy.add(self.get(*group));
        }
        copy
    }
}

impl KeyStore for KeyRows {
    type Batch<'a> = Rows;

    #[inline]
    fn matches(&self, group: u32, batch: &Rows, row: usize) -> bool {
        self.get(group) == batch.row(row).data()
    }

    fn push(&mut self, batch: &Rows, row: usize) {
        self.add(batch.row(row).data());
    }

    fn push_null(&mut self) {}
}

/// A converter between columns of these types and Arrow's row format.
fn converter(types: &[DataType]) -> Result<RowConverter, OperatorError> {
    Ok(RowConverter::new(types.iter().map(|of| SortField::new(of.clone())).collect())?)
}

fn is_int(of: &DataType) -> bool {
    use DataType::{Date32, Date64, Int32, Int64, Timestamp, UInt32, UInt64};
    matches!(of, Int32 | Int64 | UInt32 | UInt64 | Date32 | Date64 | Timestamp(..))
}

/// The values of an integer-like column; those of null rows are arbitrary.
fn ints_of(array: &ArrayRef) -> Result<Cow<'_, [i64]>, OperatorError> {
    use DataType::{Date32, Date64, Int32, Int64, Timestamp, UInt32, UInt64};
    Ok(match array.data_type() {
        Int32 => array.as_primitive::<Int32Type>().values().iter().map(|value| i64::from(*value)).collect(),
        UInt32 => array.as_primitive::<UInt32Type>().values().iter().map(|value| i64::from(*value)).collect(),
        Date32 => {
            let dates = array.as_primitive::<arrow::datatypes::Date32Type>();
            dates.values().iter().map(|value| i64::from(*value)).collect()
        }
        Int64 | UInt64 | Date64 | Timestamp(..) => {
            Cow::Borrowed(crate::aggregate::longs(array).ok_or_else(|| wrong_type(array))?)
        }
        _ => return Err(wrong_type(array)),
    })
}

fn ints_to(
    of: &DataType,
    values: impl Iterator<Item = i64>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, OperatorError> {
    use arrow::array::{Date32Array, Int32Array, UInt32Array};
    Ok(match of {
        DataType::Int32 => Arc::new(Int32Array::new(values.map(|value| value as i32).collect(), nulls)),
        DataType::Date32 => Arc::new(Date32Array::new(values.map(|value| value as i32).collect(), nulls)),
        DataType::UInt32 => Arc::new(UInt32Array::new(values.map(|value| value as u32).collect(), nulls)),
        _ => {
            let bits = UInt64Array::new(values.map(|value| value as u64).collect(), nulls);
            make_array(bits.into_data().into_builder().data_type(of.clone()).build()?)
        }
    })
}

fn wrong_type(array: &ArrayRef) -> OperatorError {
    OperatorError::Arrow(arrow::error::ArrowError::SchemaError(format!(
        "a key column is {}, which is not the type that the plan says",
        array.data_type()
    )))
}
