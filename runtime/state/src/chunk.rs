//! The stored form of a batch of state: columns as they lie in memory, without the schema, which both sides know.
//!
//! ```text
//! chunk   version u8 = 1 | xxh3 u64 of all that follows | types u32 | rows u32 | columns u16 | column..
//! column  rows u32 | nulls u8 | [validity] | buffer.. | child column..
//! buffer  bytes u32 | bytes..                (validity is a buffer too, one bit a row, low bit first)
//! ```
//!
//! Integers are little-endian. How many buffers and children a column has follows from its type; a view column says first,
//! in a u32, how many buffers it has. `types` is a digest of the column types, so that a chunk is never read as something
//! else of the same shape. Columns are cut to the rows that they show: a slice of a large batch makes a small chunk.
//!
//! Nothing is compressed here: RocksDB does that, a block at a time. Encoding copies each buffer once; decoding checks
//! lengths before it allocates, so it never takes more memory than the chunk has bytes, and lets Arrow validate what came
//! out.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayData, BinaryViewArray, BufferSpec, MutableArrayData, RecordBatch, RecordBatchOptions,
        StringViewArray, layout, make_array,
    },
    buffer::Buffer,
    datatypes::{ArrowNativeType, DataType, IntervalUnit, SchemaRef, TimeUnit},
    error::ArrowError,
};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::StateError;

/// The version that is written.
pub const VERSION: u8 = 1;

const PLACE: &str = "a chunk of state";
/// Version and checksum.
const HEAD_BYTES: usize = 9;

/// Appends the stored form of `batch` to `out`.
///
/// # Errors
///
/// [`StateError::Unstorable`] for unions and run-end encoded columns, and for batches or buffers of 4 GiB and more.
pub fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), StateError> {
    let start = out.len();
    let types = types_digest(batch.schema_ref())?;
    out.reserve(HEAD_BYTES + 10 + batch.columns().iter().map(|column| column.len() * 8 + 32).sum::<usize>());
    out.push(VERSION);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&types.to_le_bytes());
    put_length(out, batch.num_rows(), &DataType::Null)?;
    let columns = u16::try_from(batch.num_columns())
        .map_err(|_| StateError::Unstorable { data_type: format!("{} columns", batch.num_columns()) })?;
    out.extend_from_slice(&columns.to_le_bytes());
    for column in batch.columns() {
        put_column(out, &column.to_data())?;
    }
    let checksum = xxh3_64(&out[start + HEAD_BYTES..]);
    out[start + 1..start + HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Reads a chunk that holds a batch of this schema.
///
/// # Errors
///
/// [`StateError::Damaged`], [`StateError::TooNew`].
pub fn decode(chunk: &[u8], schema: &SchemaRef) -> Result<RecordBatch, StateError> {
    let mut bytes = Bytes(chunk);
    let version = bytes.take::<1>()?[0];
    if version > VERSION {
        return Err(StateError::TooNew { place: PLACE.into(), found: version.into(), known: VERSION.into() });
    }
    if version != VERSION {
        return Err(StateError::damaged(PLACE, format!("version {version}"), format!("version {VERSION}")));
    }
    let expected = u64::from_le_bytes(bytes.take()?);
    let found = xxh3_64(bytes.0);
    if found != expected {
        return Err(StateError::damaged(PLACE, format!("checksum {found:016x}"), format!("{expected:016x}")));
    }
    let (found, expected) = (bytes.u32()?, types_digest(schema)?);
    if found != expected {
        let expected = format!("{expected:08x}, of {}", type_names(schema));
        return Err(StateError::damaged(PLACE, format!("columns of other types (digest {found:08x})"), expected));
    }
    let rows = bytes.u32()? as usize;
    let columns = u16::from_le_bytes(bytes.take()?) as usize;
    if columns != schema.fields().len() {
        return Err(StateError::damaged(PLACE, format!("{columns} columns"), schema.fields().len()));
    }
    let mut arrays = Vec::with_capacity(columns);
    for field in schema.fields() {
        let array = make_array(take_column(&mut bytes, field.data_type(), 0)?);
        if array.len() != rows {
            return Err(StateError::damaged(PLACE, format!("{} rows of {}", array.len(), field.name()), rows));
        }
        arrays.push(array);
    }
    if !bytes.0.is_empty() {
        return Err(StateError::damaged(PLACE, format!("{} bytes more", bytes.0.len()), "the end"));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(|error| invalid(&error))
}

fn invalid(error: &ArrowError) -> StateError {
    StateError::damaged(PLACE, error, "valid columns")
}

fn type_names(schema: &SchemaRef) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
    names.join(", ")
}

/// A length, of which the form has room for 32 bits.
fn put_length(out: &mut Vec<u8>, length: usize, of: &DataType) -> Result<(), StateError> {
    let length = u32::try_from(length)
        .map_err(|_| StateError::Unstorable { data_type: format!("{of} with {length} rows or bytes") })?;
    out.extend_from_slice(&length.to_le_bytes());
    Ok(())
}

fn put_buffer(out: &mut Vec<u8>, bytes: &[u8], of: &DataType) -> Result<(), StateError> {
    put_length(out, bytes.len(), of)?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_column(out: &mut Vec<u8>, data: &ArrayData) -> Result<(), StateError> {
    let compacted = compact(data)?;
    let data = compacted.as_ref().unwrap_or(data);
    let (data_type, rows, offset) = (data.data_type(), data.len(), data.offset());
    put_length(out, rows, data_type)?;
    match data.nulls().filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => {
            out.push(1);
            let bits = nulls.inner().sliced();
            put_buffer(out, &bits[..rows.div_ceil(8)], data_type)?;
        }
        None => out.push(0),
    }
    let layout = layout(data_type);
    if layout.variadic {
        put_length(out, data.buffers().len(), data_type)?;
    }
    for (at, buffer) in data.buffers().iter().enumerate() {
        let bytes = match layout.buffers.get(at) {
            // List, map and string offsets have one more entry than there are rows.
            Some(BufferSpec::FixedWidth { byte_width, .. }) if has_offsets(data_type) => {
                if buffer.is_empty() {
                    buffer
                } else {
                    &buffer[..(rows + 1) * byte_width]
                }
            }
            Some(BufferSpec::FixedWidth { byte_width, .. }) => {
                &buffer[offset * byte_width..(offset + rows) * byte_width]
            }
            Some(BufferSpec::BitMap) => &buffer[offset / 8..(offset + rows).div_ceil(8)],
            _ => buffer.as_slice(),
        };
        put_buffer(out, bytes, data_type)?;
    }
    data.child_data().iter().try_for_each(|child| put_column(out, child))
}

fn has_offsets(data_type: &DataType) -> bool {
    use DataType::{Binary, LargeBinary, LargeList, LargeUtf8, List, Map, Utf8};
    matches!(data_type, Binary | LargeBinary | Utf8 | LargeUtf8 | List(_) | LargeList(_) | Map(..))
}

/// The same rows in buffers of their own, where [`put_column`] could not cut them out of the buffers that they are in.
fn compact(data: &ArrayData) -> Result<Option<ArrayData>, StateError> {
    let (rows, offset) = (data.len(), data.offset());
    let copied = || {
        let mut copy = MutableArrayData::new(vec![data], false, rows);
        let extended = copy.try_extend(0, 0, rows);
        extended
            .map(|()| Some(copy.freeze()))
            .map_err(|_| StateError::Unstorable { data_type: data.data_type().to_string() })
    };
    match data.data_type() {
        DataType::Utf8View if holds_more_than_it_shows(data) => {
            Ok(Some(StringViewArray::from(data.clone()).gc().into_data()))
        }
        DataType::BinaryView if holds_more_than_it_shows(data) => {
            Ok(Some(BinaryViewArray::from(data.clone()).gc().into_data()))
        }
        DataType::Boolean if offset % 8 != 0 => copied(),
        DataType::Utf8 | DataType::Binary | DataType::List(_) | DataType::Map(..)
            if !offsets_are_whole::<i32>(data) =>
        {
            copied()
        }
        DataType::LargeUtf8 | DataType::LargeBinary | DataType::LargeList(_) if !offsets_are_whole::<i64>(data) => {
            copied()
        }
        DataType::Struct(_) if offset != 0 || data.child_data().iter().any(|child| child.len() != rows) => copied(),
        DataType::FixedSizeList(_, size)
            if offset != 0 || data.child_data().iter().any(|child| child.len() != rows * *size as usize) =>
        {
            copied()
        }
        DataType::Dictionary(..) | DataType::ListView(_) | DataType::LargeListView(_) if offset != 0 => copied(),
        _ => Ok(None),
    }
}

/// Whether offsets begin at 0 and end where the values end.
fn offsets_are_whole<T: ArrowNativeType>(data: &ArrayData) -> bool {
    if data.offset() != 0 {
        return false;
    }
    let Some(offsets) = data.buffers().first().filter(|offsets| !offsets.is_empty()) else { return true };
    let offsets = &offsets.typed_data::<T>()[..=data.len()];
    let held = data.buffers().get(1).map_or_else(|| data.child_data().first().map_or(0, ArrayData::len), Buffer::len);
    offsets[0].as_usize() == 0 && offsets[data.len()].as_usize() == held
}

/// Whether a view column's buffers are much larger than what its views need.
fn holds_more_than_it_shows(data: &ArrayData) -> bool {
    let Some((views, buffers)) = data.buffers().split_first() else { return false };
    let held: usize = buffers.iter().map(Buffer::len).sum();
    if held == 0 {
        return false;
    }
    let views = &views.typed_data::<u128>()[data.offset()..data.offset() + data.len()];
    // A view's low 32 bits are its length; up to 12 bytes lie in the view itself.
    let shown: usize = views.iter().map(|view| *view as u32 as usize).filter(|length| *length > 12).sum();
    held > shown + shown / 4 || buffers.len() > 16
}

/// What of a chunk is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(&mut self, length: usize) -> Result<&'a [u8], StateError> {
        match self.0.split_at_checked(length) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(StateError::damaged(PLACE, format!("{} bytes", self.0.len()), format!("{length} more bytes"))),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        self.slice(N).map(|taken| taken.try_into().expect("a slice of N bytes"))
    }

    fn u32(&mut self) -> Result<u32, StateError> {
        self.take().map(u32::from_le_bytes)
    }

    /// Copied, so that it is aligned and outlives the chunk.
    fn buffer(&mut self) -> Result<Buffer, StateError> {
        let length = self.u32()? as usize;
        self.slice(length).map(Buffer::from)
    }
}

/// Types nest only as deep as the schema, but its depth is bounded all the same.
const DEPTH: usize = 32;

fn take_column(bytes: &mut Bytes<'_>, data_type: &DataType, depth: usize) -> Result<ArrayData, StateError> {
    if depth > DEPTH {
        return Err(StateError::Unstorable { data_type: format!("{data_type}, nested over {DEPTH} deep") });
    }
    let rows = bytes.u32()? as usize;
    let validity = match bytes.take::<1>()?[0] {
        0 => None,
        1 => Some(bytes.buffer()?),
        other => return Err(StateError::damaged(PLACE, format!("{other} for a column's nulls"), "0 or 1")),
    };
    let layout = layout(data_type);
    let count = if layout.variadic { bytes.u32()? as usize } else { layout.buffers.len() };
    // Each buffer takes four bytes at least, so a damaged count cannot make this large.
    if count > bytes.0.len() / 4 {
        return Err(StateError::damaged(PLACE, format!("{count} buffers"), format!("at most {}", bytes.0.len() / 4)));
    }
    let buffers = (0..count).map(|_| bytes.buffer()).collect::<Result<Vec<_>, _>>()?;
    let mut children = Vec::new();
    for_each_child(data_type, &mut |child| {
        children.push(take_column(bytes, child, depth + 1)?);
        Ok(())
    })?;
    // Arrow takes for granted that a buffer holds whole elements.
    for (spec, buffer) in layout.buffers.iter().zip(&buffers) {
        if let BufferSpec::FixedWidth { byte_width, .. } = spec
            && !buffer.len().is_multiple_of(*byte_width)
        {
            let (found, expected) =
                (format!("a buffer of {} bytes", buffer.len()), format!("a multiple of {byte_width}"));
            return Err(StateError::damaged(PLACE, found, expected));
        }
    }
    // A struct or null column has no buffer whose length bounds its rows; its children and siblings do.
    ArrayData::try_new(data_type.clone(), rows, validity, 0, buffers, children).map_err(|error| invalid(&error))
}

fn for_each_child(
    data_type: &DataType,
    each: &mut dyn FnMut(&DataType) -> Result<(), StateError>,
) -> Result<(), StateError> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => each(item.data_type()),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| each(field.data_type())),
        DataType::Dictionary(_, values) => each(values),
        _ => Ok(()),
    }
}

/// A digest of the column types: part of the stored form, so these codes never change.
fn types_digest(schema: &SchemaRef) -> Result<u32, StateError> {
    let mut hasher = Xxh3Default::new();
    schema.fields().iter().try_for_each(|field| put_type(&mut hasher, field.data_type(), 0))?;
    Ok(hasher.digest() as u32)
}

fn put_type(hasher: &mut Xxh3Default, data_type: &DataType, depth: usize) -> Result<(), StateError> {
    use DataType as T;
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    let code: [u8; 3] = match data_type {
        T::Null => [1, 0, 0],
        T::Boolean => [2, 0, 0],
        T::Int8 => [3, 0, 0],
        T::Int16 => [4, 0, 0],
        T::Int32 => [5, 0, 0],
        T::Int64 => [6, 0, 0],
        T::UInt8 => [7, 0, 0],
        T::UInt16 => [8, 0, 0],
        T::UInt32 => [9, 0, 0],
        T::UInt64 => [10, 0, 0],
        T::Float16 => [11, 0, 0],
        T::Float32 => [12, 0, 0],
        T::Float64 => [13, 0, 0],
        T::Timestamp(of, zone) => [14, unit(of), u8::from(zone.is_some())],
        T::Date32 => [15, 0, 0],
        T::Date64 => [16, 0, 0],
        T::Time32(of) => [17, unit(of), 0],
        T::Time64(of) => [18, unit(of), 0],
        T::Duration(of) => [19, unit(of), 0],
        T::Interval(IntervalUnit::YearMonth) => [20, 0, 0],
        T::Interval(IntervalUnit::DayTime) => [20, 1, 0],
        T::Interval(IntervalUnit::MonthDayNano) => [20, 2, 0],
        T::Binary => [21, 0, 0],
        T::FixedSizeBinary(_) => [22, 0, 0],
        T::LargeBinary => [23, 0, 0],
        T::BinaryView => [24, 0, 0],
        T::Utf8 => [25, 0, 0],
        T::LargeUtf8 => [26, 0, 0],
        T::Utf8View => [27, 0, 0],
        T::List(_) => [28, 0, 0],
        T::LargeList(_) => [29, 0, 0],
        T::ListView(_) => [30, 0, 0],
        T::LargeListView(_) => [31, 0, 0],
        T::FixedSizeList(..) => [32, 0, 0],
        T::Struct(_) => [33, 0, 0],
        T::Dictionary(..) => [34, 0, 0],
        T::Decimal32(precision, scale) => [35, *precision, *scale as u8],
        T::Decimal64(precision, scale) => [36, *precision, *scale as u8],
        T::Decimal128(precision, scale) => [37, *precision, *scale as u8],
        T::Decimal256(precision, scale) => [38, *precision, *scale as u8],
        T::Map(..) => [39, 0, 0],
        T::Union(..) | T::RunEndEncoded(..) => {
            return Err(StateError::Unstorable { data_type: data_type.to_string() });
        }
    };
    if depth > DEPTH {
        return Err(StateError::Unstorable { data_type: format!("{data_type}, nested over {DEPTH} deep") });
    }
    hasher.update(&code);
    match data_type {
        T::Timestamp(_, Some(zone)) => hasher.update(zone.as_bytes()),
        T::FixedSizeBinary(size) | T::FixedSizeList(_, size) => hasher.update(&size.to_le_bytes()),
        T::Struct(fields) => hasher.update(&(fields.len() as u32).to_le_bytes()),
        T::Dictionary(key, _) => put_type(hasher, key, depth + 1)?,
        _ => {}
    }
    for_each_child(data_type, &mut |child| put_type(hasher, child, depth + 1))
}

#[cfg(test)]
mod tests;
