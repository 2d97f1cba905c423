//! Columns under construction: written at any row, cut to length in the end.
//!
//! A decoder writes a row's values at the row's number as it meets them, over what an earlier field of the same name or
//! an earlier, bad row has left there, and then commits the row, saying which columns got no value. Nothing has to be
//! undone for a bad row: the next one takes its place.
//!
//! Strings are views: up to 12 bytes stand in the view, longer ones in the chunk (block 0) or, where they had escapes, in
//! a buffer of the column's own (block 1).

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
        ListArray, StringViewArray, TimestampMicrosecondArray,
    },
    buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field},
};
use millrace_crds::ColumnType;

use crate::format::chunk::Padded;

/// A column under construction.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) values: Values,
    validity: Bits,
    nulls: usize,
    capacity: usize,
}

/// The values of a column, by its type.
#[derive(Debug)]
pub(crate) enum Values {
    Boolean(Bits),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Decimal { values: Vec<i128>, precision: u8, scale: u8 },
    Varchar(Views),
    Json(Views),
    List(Box<List>),
}

/// Strings.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: Vec<u128>,
    /// Long strings that do not stand in the chunk.
    own: Vec<u8>,
    /// Some string is in the chunk.
    uses_chunk: bool,
}

/// Lists: row `i` has the items from `offsets[i]` to `offsets[i + 1]`.
#[derive(Debug)]
pub(crate) struct List {
    offsets: Vec<i32>,
    pub(crate) items: Column,
}

/// Packed bits.
#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    #[inline(always)]
    pub(crate) fn set(&mut self, index: usize, on: bool) {
        let word = &mut self.0[index / 64];
        let mask = 1 << (index % 64);
        *word = if on { *word | mask } else { *word & !mask };
    }

    fn take(&mut self, len: usize) -> BooleanBuffer {
        let words = std::mem::take(&mut self.0);
        BooleanBuffer::new(Buffer::from_vec(words), 0, len)
    }
}

impl Column {
    /// An empty column of this type.
    pub(crate) fn new(of: &ColumnType) -> Self {
        let values = match of {
            ColumnType::Boolean => Values::Boolean(Bits::default()),
            ColumnType::Int => Values::Int(Vec::new()),
            ColumnType::BigInt => Values::BigInt(Vec::new()),
            ColumnType::Float => Values::Float(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Decimal { precision, scale } => {
                Values::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            ColumnType::Varchar => Values::Varchar(Views::default()),
            ColumnType::Json => Values::Json(Views::default()),
            ColumnType::Array(item) => Values::List(Box::new(List { offsets: vec![0], items: Self::new(item) })),
        };
        Self { values, validity: Bits::default(), nulls: 0, capacity: 0 }
    }

    /// Makes room for `rows` rows in all.
    pub(crate) fn reserve(&mut self, rows: usize) {
        if rows <= self.capacity {
            return;
        }
        match &mut self.values {
            Values::Boolean(bits) => bits.0.resize(rows.div_ceil(64), 0),
            Values::Int(values) | Values::Date(values) => values.resize(rows, 0),
            Values::BigInt(values) | Values::Timestamp(values) => values.resize(rows, 0),
            Values::Float(values) => values.resize(rows, 0.0),
            Values::Double(values) => values.resize(rows, 0.0),
            Values::Decimal { values, .. } => values.resize(rows, 0),
            Values::Varchar(strings) | Values::Json(strings) => strings.views.resize(rows, 0),
            Values::List(list) => list.offsets.resize(rows + 1, 0),
        }
        self.validity.0.resize(rows.div_ceil(64), u64::MAX);
        self.capacity = rows;
    }

    /// Commits a row that has no value here.
    #[cold]
    pub(crate) fn commit_null(&mut self, row: usize) {
        self.validity.set(row, false);
        self.nulls += 1;
        match &mut self.values {
            Values::Boolean(bits) => bits.set(row, false),
            Values::Int(values) | Values::Date(values) => values[row] = 0,
            Values::BigInt(values) | Values::Timestamp(values) => values[row] = 0,
            Values::Float(values) => values[row] = 0.0,
            Values::Double(values) => values[row] = 0.0,
            Values::Decimal { values, .. } => values[row] = 0,
            Values::Varchar(strings) | Values::Json(strings) => strings.views[row] = 0,
            Values::List(list) => list.offsets[row + 1] = list.offsets[row],
        }
    }

    /// The finished column of the first `rows` rows; the column is empty again.
    pub(crate) fn finish(&mut self, rows: usize, chunk: &Buffer) -> ArrayRef {
        self.reserve(rows);
        let nulls = self.nulls > 0;
        let validity = self.validity.take(rows);
        let nulls = nulls.then(|| NullBuffer::new(validity));
        self.nulls = 0;
        self.capacity = 0;
        match &mut self.values {
            Values::Boolean(bits) => Arc::new(BooleanArray::new(bits.take(rows), nulls)),
            Values::Int(values) => Arc::new(Int32Array::new(cut(values, rows), nulls)),
            Values::Date(values) => Arc::new(Date32Array::new(cut(values, rows), nulls)),
            Values::BigInt(values) => Arc::new(Int64Array::new(cut(values, rows), nulls)),
            Values::Timestamp(values) => {
                Arc::new(TimestampMicrosecondArray::new(cut(values, rows), nulls).with_timezone("UTC"))
            }
            Values::Float(values) => Arc::new(Float32Array::new(cut(values, rows), nulls)),
            Values::Double(values) => Arc::new(Float64Array::new(cut(values, rows), nulls)),
            Values::Decimal { values, precision, scale } => {
                let of = DataType::Decimal128(*precision, *scale as i8);
                Arc::new(Decimal128Array::new(cut(values, rows), nulls).with_data_type(of))
            }
            Values::Varchar(strings) | Values::Json(strings) => Arc::new(strings.finish(rows, nulls, chunk)),
            Values::List(list) => {
                let count = list.offsets[rows] as usize;
                let items = list.items.finish_items(count, chunk);
                let mut offsets = std::mem::replace(&mut list.offsets, vec![0]);
                offsets.truncate(rows + 1);
                // SAFETY: an offset is written at each commit, never less than the one before it.
                let offsets = unsafe { OffsetBuffer::new_unchecked(ScalarBuffer::from(offsets)) };
                let field = Arc::new(Field::new("item", items.data_type().clone(), true));
                Arc::new(ListArray::new(field, offsets, items, nulls))
            }
        }
    }

    /// Finishes a list's items, whose validity was written item by item.
    fn finish_items(&mut self, count: usize, chunk: &Buffer) -> ArrayRef {
        self.reserve(count);
        let all_valid =
            BooleanBuffer::new(Buffer::from_slice_ref(&self.validity.0), 0, count).count_set_bits() == count;
        self.nulls = usize::from(!all_valid);
        self.finish(count, chunk)
    }
}

fn cut<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>, rows: usize) -> ScalarBuffer<T> {
    let mut values = std::mem::take(values);
    values.truncate(rows);
    ScalarBuffer::from(values)
}

impl List {
    /// The number of the first item of the list in `row`, at which [`Self::close`]'s count begins.
    pub(crate) fn first(&self, row: usize) -> usize {
        self.offsets[row] as usize
    }

    /// Ends the list in `row` before item `end`.
    pub(crate) fn close(&mut self, row: usize, end: usize) {
        self.offsets[row + 1] = end as i32;
    }

    /// Makes room for item `item`, which has or has no value.
    pub(crate) fn begin_item(&mut self, item: usize) {
        if item >= self.items.capacity {
            self.items.reserve((item + 1).next_power_of_two().max(64));
        }
        self.items.validity.set(item, true);
    }

    /// Item `item` is null.
    pub(crate) fn null_item(&mut self, item: usize) {
        self.items.commit_null(item);
    }
}

impl Views {
    /// Writes the string that stands in the chunk from `start` up to `end`.
    #[inline(always)]
    pub(crate) fn set_from_chunk(&mut self, row: usize, text: Padded<'_>, start: usize, end: usize) {
        let len = end - start;
        let view = if len <= 12 {
            let mask = (1_u128 << (8 * len)) - 1;
            ((text.double_word(start) & mask) << 32) | len as u128
        } else {
            self.uses_chunk = true;
            let prefix = text.word(start) as u32;
            len as u128 | (u128::from(prefix) << 32) | ((start as u128) << 96)
        };
        self.views[row] = view;
    }

    /// Writes a view that was made elsewhere, of at most 12 bytes or of the chunk.
    pub(crate) fn set_view(&mut self, row: usize, view: u128) {
        self.uses_chunk = true;
        self.views[row] = view;
    }

    /// Writes a string that stands elsewhere.
    pub(crate) fn set_copy(&mut self, row: usize, string: &[u8]) {
        let start = self.own.len();
        let view = arrow::array::make_view(string, 1, start as u32);
        if string.len() > 12 {
            self.own.extend_from_slice(string);
        }
        self.views[row] = view;
    }

    fn finish(&mut self, rows: usize, nulls: Option<NullBuffer>, chunk: &Buffer) -> StringViewArray {
        let own = std::mem::take(&mut self.own);
        let blocks = match (self.uses_chunk, own.is_empty()) {
            (false, true) => Vec::new(),
            (true, true) => vec![chunk.clone()],
            (true, false) => vec![chunk.clone(), Buffer::from_vec(own)],
            (false, false) => vec![Buffer::from_vec(Vec::<u8>::new()), Buffer::from_vec(own)],
        };
        self.uses_chunk = false;
        // SAFETY: a view is written for every row that is committed: of bytes of the chunk or of `own`, by their place
        // and length, which decoders have checked to be UTF-8.
        unsafe { StringViewArray::new_unchecked(cut(&mut self.views, rows), blocks, nulls) }
    }
}
