//! The hash that decides which key group a key belongs to.
//!
//! Key groups are persisted: stored keys begin with them, and manifests say which task holds which. So this hash is part
//! of the stored format. It must give the same number for the same key on every machine and in every release; the golden
//! values in the tests hold it still. A different hash would be a new [`KEY_HASH_VERSION`] and a migration of state.
//!
//! # What is hashed
//!
//! Each value of each column becomes one 64-bit *word*, and a row's words are chained in column order.
//!
//! | values | word |
//! |---|---|
//! | null, of any type | a constant |
//! | booleans | 0 or 1 |
//! | integers, dates, times, timestamps, durations, decimals of up to 64 bits | the value, extended to 64 bits |
//! | floats | the bits of the value as a `f64`; -0.0 as 0.0, every NaN as one |
//! | strings and binaries, of any layout | the bytes and their count, mixed |
//! | wider decimals, intervals, fixed binaries | the bytes, mixed |
//! | lists, fixed-size lists and maps | the count and the elements' words, chained |
//! | structs | the fields' words, chained |
//! | dictionaries | the word of the value that the index points to |
//!
//! What follows from it: a column that is widened (`INT` to `BIGINT`, `FLOAT` to `DOUBLE`) or that changes its layout
//! (`Utf8View`, `Utf8`, dictionary) keeps its keys' groups, and equal keys hash equally whichever way they are held.
//!
//! # How
//!
//! Two 64-bit words are mixed by multiplying them to 128 bits and folding the halves together by exclusive or, the idea
//! behind wyhash and its relatives. Every row gets one more such mix at the end, so that its high bits
//! ([`KeyGroup::of_hash`](crate::KeyGroup::of_hash)) and its low bits (hash tables) are equally good. The hash is not keyed,
//! hence no defence against keys that were chosen to collide: those make a hash table slow, never wrong.

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, GenericByteViewArray, PrimitiveArray},
    buffer::NullBuffer,
    datatypes::{self as types, ByteViewType, DataType, IntervalUnit, TimeUnit},
};

/// The version of the hash. Persisted key groups were made by it.
pub const KEY_HASH_VERSION: u8 = 1;

// The first 64 bits of the fractional parts of the square roots of 2, 3, 5, 7, 11, 13 and 17.
const SEED: u64 = 0x6a09_e667_f3bc_c908;
const STEP_WORD: u64 = 0xbb67_ae85_84ca_a73b;
const STEP_HASH: u64 = 0x3c6e_f372_fe94_f82b;
const BYTES_LOW: u64 = 0xa54f_f53a_5f1d_36f1;
const BYTES_HIGH: u64 = 0x510e_527f_ade6_82d1;
const FINISH: u64 = 0x9b05_688c_2b3e_6c1f;
const NULL: u64 = 0x1f83_d9ab_fb41_bd6b;

/// Hashes the rows of key columns of equal length: `hashes[i]` becomes the hash of row `i`. What `hashes` held before is
/// gone; its memory is used again.
///
/// Without columns there are no rows to speak of, and `hashes` is left empty.
///
/// Values of a type that [`can_hash`] refuses all count as one: the result is still a hash, but the worst one.
pub fn hash_columns(columns: &[ArrayRef], hashes: &mut Vec<u64>) {
    hashes.clear();
    let Some(first) = columns.first() else { return };
    hashes.resize(first.len(), SEED);
    for column in columns {
        debug_assert_eq!(column.len(), hashes.len(), "key columns are equally long");
        let hashes = hashes.as_mut_slice();
        for_each_word(column.as_ref(), &mut |row, word| {
            if let Some(hash) = hashes.get_mut(row) {
                *hash = step(*hash, word);
            }
        });
    }
    for hash in hashes.iter_mut() {
        *hash = finish(*hash);
    }
}

/// Whether keys of this type are spread over the key groups.
pub fn can_hash(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) | DataType::RunEndEncoded(..) | DataType::ListView(_) | DataType::LargeListView(_) => false,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => can_hash(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| can_hash(field.data_type())),
        DataType::Dictionary(_, values) => can_hash(values),
        _ => true,
    }
}

/// The 128-bit product of two words, folded to 64 bits.
#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// Chains one more word to a hash.
#[inline(always)]
fn step(hash: u64, word: u64) -> u64 {
    fold(word ^ STEP_WORD, hash ^ STEP_HASH)
}

#[inline(always)]
fn finish(hash: u64) -> u64 {
    fold(hash ^ FINISH, BYTES_HIGH)
}

/// The word of at most 16 bytes: `low` holds the first eight and `high` the rest, little-endian, zeros behind the end.
#[inline(always)]
fn short_bytes_word(low: u64, high: u64, length: usize) -> u64 {
    fold(low ^ BYTES_LOW, high ^ BYTES_HIGH ^ (length as u64).rotate_right(8))
}

#[inline]
fn bytes_word(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    if length > 16 {
        return long_bytes_word(bytes);
    }
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        // The tail overlaps the head; what the head has already is shifted out.
        let high = u64::from_le_bytes(*tail).checked_shr(8 * (16 - length as u32)).unwrap_or(0);
        return short_bytes_word(u64::from_le_bytes(*head), high, length);
    }
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let high = u64::from(u32::from_le_bytes(*tail)) >> (8 * (8 - length));
        return short_bytes_word(u64::from(u32::from_le_bytes(*head)) | high << 32, 0, length);
    }
    let low = bytes.iter().rev().fold(0, |low, byte| low << 8 | u64::from(*byte));
    short_bytes_word(low, 0, length)
}

/// More than 16 bytes: blocks of 16, the last of which may overlap the one before it.
fn long_bytes_word(bytes: &[u8]) -> u64 {
    let words = |block: &[u8; 16]| {
        let block = u128::from_le_bytes(*block);
        (block as u64, (block >> 64) as u64)
    };
    let mut hash = (bytes.len() as u64).rotate_right(8);
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let (low, high) = words(block);
        hash = fold(low ^ BYTES_LOW ^ hash, high ^ BYTES_HIGH);
    }
    if !rest.is_empty()
        && let Some(tail) = bytes.last_chunk::<16>()
    {
        let (low, high) = words(tail);
        hash = fold(low ^ BYTES_LOW ^ hash, high ^ BYTES_HIGH);
    }
    hash
}

#[inline(always)]
fn float_word(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        0x7ff8_0000_0000_0000
    } else {
        value.to_bits()
    }
}

/// Gives `emit` the word of every value, in order.
fn for_each_word(array: &dyn Array, emit: &mut impl FnMut(usize, u64)) {
    macro_rules! extended {
        ($type:ident) => {
            primitive_words::<types::$type>(array, |value| value as i64 as u64, emit)
        };
    }
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean().values();
            words(values.len(), array.nulls(), |row| u64::from(values.value(row)), emit);
        }
        DataType::Int8 => extended!(Int8Type),
        DataType::Int16 => extended!(Int16Type),
        DataType::Int32 => extended!(Int32Type),
        DataType::Int64 => extended!(Int64Type),
        DataType::UInt8 => extended!(UInt8Type),
        DataType::UInt16 => extended!(UInt16Type),
        DataType::UInt32 => extended!(UInt32Type),
        DataType::UInt64 => extended!(UInt64Type),
        DataType::Date32 => extended!(Date32Type),
        DataType::Date64 => extended!(Date64Type),
        DataType::Time32(TimeUnit::Second) => extended!(Time32SecondType),
        DataType::Time32(_) => extended!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => extended!(Time64MicrosecondType),
        DataType::Time64(_) => extended!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => extended!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => extended!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => extended!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => extended!(TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => extended!(DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => extended!(DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => extended!(DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => extended!(DurationNanosecondType),
        DataType::Decimal32(..) => extended!(Decimal32Type),
        DataType::Decimal64(..) => extended!(Decimal64Type),
        DataType::Interval(IntervalUnit::YearMonth) => extended!(IntervalYearMonthType),
        DataType::Float16 => primitive_words::<types::Float16Type>(array, |value| float_word(value.to_f64()), emit),
        DataType::Float32 => primitive_words::<types::Float32Type>(array, |value| float_word(f64::from(value)), emit),
        DataType::Float64 => primitive_words::<types::Float64Type>(array, float_word, emit),
        DataType::Decimal128(..) => primitive_words::<types::Decimal128Type>(
            array,
            |value| short_bytes_word(value as u64, (value >> 64) as u64, 16),
            emit,
        ),
        DataType::Decimal256(..) => {
            primitive_words::<types::Decimal256Type>(array, |value| bytes_word(&value.to_le_bytes()), emit)
        }
        DataType::Interval(IntervalUnit::DayTime) => primitive_words::<types::IntervalDayTimeType>(
            array,
            |value| short_bytes_word(value.days as u64, value.milliseconds as u64, 16),
            emit,
        ),
        DataType::Interval(IntervalUnit::MonthDayNano) => primitive_words::<types::IntervalMonthDayNanoType>(
            array,
            |value| {
                let days = u64::from(value.months as u32) << 32 | u64::from(value.days as u32);
                short_bytes_word(days, value.nanoseconds as u64, 16)
            },
            emit,
        ),
        DataType::Utf8View => view_words(array.as_string_view(), emit),
        DataType::BinaryView => view_words(array.as_binary_view(), emit),
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            words(values.len(), values.nulls(), |row| bytes_word(values.value(row).as_bytes()), emit);
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            words(values.len(), values.nulls(), |row| bytes_word(values.value(row).as_bytes()), emit);
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            words(values.len(), values.nulls(), |row| bytes_word(values.value(row)), emit);
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            words(values.len(), values.nulls(), |row| bytes_word(values.value(row)), emit);
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            words(values.len(), values.nulls(), |row| bytes_word(values.value(row)), emit);
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let ends = list.value_offsets();
            list_words(list.values(), array, |row| (ends[row] as usize, ends[row + 1] as usize), emit);
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let ends = list.value_offsets();
            list_words(list.values(), array, |row| (ends[row] as usize, ends[row + 1] as usize), emit);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let ends = map.value_offsets();
            list_words(map.entries(), array, |row| (ends[row] as usize, ends[row + 1] as usize), emit);
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let length = list.value_length() as usize;
            list_words(list.values(), array, |row| (row * length, (row + 1) * length), emit);
        }
        DataType::Struct(_) => {
            let mut row_words = vec![SEED; array.len()];
            for column in array.as_struct().columns() {
                for (row_word, word) in row_words.iter_mut().zip(words_of(column.as_ref())) {
                    *row_word = step(*row_word, word);
                }
            }
            words(array.len(), array.nulls(), |row| row_words[row], emit);
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let value_words = words_of(dictionary.values().as_ref());
            if value_words.is_empty() {
                return words(array.len(), None, |_| NULL, emit);
            }
            let keys = dictionary.normalized_keys();
            words(array.len(), array.nulls(), |row| value_words[keys[row]], emit);
        }
        // `Null`, and what `can_hash` refuses.
        _ => words(array.len(), None, |_| NULL, emit),
    }
}

#[inline(always)]
fn words(rows: usize, nulls: Option<&NullBuffer>, word: impl Fn(usize) -> u64, emit: &mut impl FnMut(usize, u64)) {
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        None => (0..rows).for_each(|row| emit(row, word(row))),
        Some(nulls) => (0..rows).for_each(|row| emit(row, if nulls.is_valid(row) { word(row) } else { NULL })),
    }
}

fn primitive_words<T: ArrowPrimitiveType>(
    array: &dyn Array,
    word: impl Fn(T::Native) -> u64,
    emit: &mut impl FnMut(usize, u64),
) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    let values = array.values();
    words(values.len(), array.nulls(), |row| word(values[row]), emit);
}

/// A view of at most 12 bytes holds them itself, zeros behind their end: just what [`short_bytes_word`] takes.
fn view_words<T: ByteViewType>(array: &GenericByteViewArray<T>, emit: &mut impl FnMut(usize, u64)) {
    let views = array.views();
    let word = |row: usize| {
        let view = views[row];
        match view as u32 as usize {
            length @ ..=12 => short_bytes_word((view >> 32) as u64, (view >> 96) as u64, length),
            _ => {
                let value: &[u8] = array.value(row).as_ref();
                bytes_word(value)
            }
        }
    };
    words(views.len(), array.nulls(), word, emit);
}

fn list_words(
    values: &dyn Array,
    array: &dyn Array,
    ends: impl Fn(usize) -> (usize, usize),
    emit: &mut impl FnMut(usize, u64),
) {
    let rows = array.len();
    if rows == 0 {
        return;
    }
    // A slice of a list keeps all values: only those that it names are hashed.
    let (first, last) = (ends(0).0, ends(rows - 1).1);
    let value_words = words_of(values.slice(first, last - first).as_ref());
    let word = |row: usize| {
        let (start, end) = ends(row);
        let elements = &value_words[start - first..end - first];
        elements.iter().fold(step(SEED, elements.len() as u64), |hash, word| step(hash, *word))
    };
    words(rows, array.nulls(), word, emit);
}

fn words_of(array: &dyn Array) -> Vec<u64> {
    let mut words = Vec::with_capacity(array.len());
    for_each_word(array, &mut |_, word| words.push(word));
    words
}

#[cfg(test)]
mod tests;
