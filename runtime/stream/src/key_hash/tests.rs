#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
        Int32Array, Int64Array, LargeStringArray, ListArray, NullArray, StringArray, StringViewArray, StructArray,
        TimestampMicrosecondArray, UInt64Array,
    },
    datatypes::{Field, Int8Type, Int32Type, Int64Type},
};
use proptest::prelude::*;

use super::*;
use crate::{KEY_GROUPS, KeyGroup};

fn hash(columns: &[ArrayRef]) -> Vec<u64> {
    let mut hashes = vec![7; 3];
    hash_columns(columns, &mut hashes);
    hashes
}

fn hash_one(column: impl Array + 'static) -> Vec<u64> {
    hash(&[Arc::new(column)])
}

/// If this test fails, stored state would be looked for in the wrong key groups: the values must never be changed.
#[test]
fn the_hashes_of_version_1_are_these_for_ever() {
    assert_eq!(KEY_HASH_VERSION, 1);
    let golden = [
        ("integers", hash_one(Int64Array::from(vec![0, 1, -1, i64::MAX, i64::MIN]))),
        ("booleans", hash_one(BooleanArray::from(vec![Some(false), Some(true), None]))),
        ("floats", hash_one(Float64Array::from(vec![0.0, 1.5, f64::NAN, f64::NEG_INFINITY]))),
        ("decimals", hash_one(Decimal128Array::from(vec![0, 12_345, -1, i128::MAX]))),
        (
            "strings",
            hash_one(StringViewArray::from(vec![
                "",
                "a",
                "ab",
                "abc",
                "abcd",
                "abcdefg",
                "abcdefgh",
                "abcdefghijkl",
                "abcdefghijklm",
                "abcdefghijklmnop",
                "abcdefghijklmnopq",
                "abcdefghijklmnopqrstuvwxyz012345",
                "https://example.com/a/rather/long/path?with=a&query=string",
            ])),
        ),
        ("null", hash_one(NullArray::new(1))),
        (
            "two columns",
            hash(&[
                Arc::new(Int64Array::from(vec![1, 2])),
                Arc::new(StringViewArray::from(vec![Some("tenant"), None])),
            ]),
        ),
        (
            "list",
            hash_one(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), Some(vec![])])),
        ),
    ];
    let text: String = golden
        .iter()
        .flat_map(|(name, hashes)| hashes.iter().map(move |hash| format!("{name} {hash:016x}\n")))
        .collect();
    assert_eq!(text, include_str!("golden-v1.txt"));
}

#[test]
fn equal_strings_hash_equally_in_every_layout() {
    let long: String = ('a'..='z').cycle().take(200).collect();
    let texts: Vec<Option<&str>> = (0..=200).map(|length| Some(&long[..length])).chain([None]).collect();
    let views = hash_one(StringViewArray::from(texts.clone()));
    assert_eq!(views, hash_one(StringArray::from(texts.clone())));
    assert_eq!(views, hash_one(LargeStringArray::from(texts.clone())));
    assert_eq!(views, hash_one(texts.iter().copied().collect::<DictionaryArray<Int32Type>>()));
    let bytes: Vec<Option<&[u8]>> = texts.iter().map(|text| text.map(str::as_bytes)).collect();
    assert_eq!(views, hash_one(BinaryArray::from(bytes)));
    assert_eq!(views.iter().collect::<HashSet<_>>().len(), texts.len());
}

#[test]
fn a_widened_column_keeps_its_hashes() {
    let narrow = [0, 1, -1, 77, i32::MIN];
    let wide = hash_one(Int64Array::from_iter_values(narrow.map(i64::from)));
    assert_eq!(hash_one(Int32Array::from(narrow.to_vec())), wide);
    assert_eq!(hash_one(Date32Array::from(narrow.to_vec())), wide);
    assert_eq!(hash_one(TimestampMicrosecondArray::from_iter_values(narrow.map(i64::from)).with_timezone("UTC")), wide);
    assert_eq!(hash_one(UInt64Array::from(vec![77])), wide[3..4]);
    let floats = [0.25, -3.0, f32::MAX];
    assert_eq!(
        hash_one(Float32Array::from(floats.to_vec())),
        hash_one(Float64Array::from_iter_values(floats.map(f64::from)))
    );
}

#[test]
fn zeros_are_one_value_and_so_are_nans() {
    let other_nan = f64::from_bits(f64::NAN.to_bits() ^ (1 << 63) ^ 1);
    let hashes = hash_one(Float64Array::from(vec![0.0, -0.0, f64::NAN, other_nan, 1.0]));
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[2], hashes[3]);
    assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn null_empty_and_zero_differ() {
    let strings = hash_one(StringViewArray::from(vec![Some(""), None, Some("\0"), Some("\0\0")]));
    assert_eq!(strings.iter().collect::<HashSet<_>>().len(), 4);
    let integers = hash_one(Int64Array::from(vec![Some(0), None]));
    assert_ne!(integers[0], integers[1]);
    assert_eq!(integers[1], strings[1], "a null is a null, of whatever type");
    assert_eq!(integers[1], hash_one(NullArray::new(1))[0]);
    let lists = hash_one(ListArray::from_iter_primitive::<Int64Type, _, _>([
        None,
        Some(vec![]),
        Some(vec![None]),
        Some(vec![Some(0)]),
        Some(vec![None, None]),
    ]));
    assert_eq!(lists.iter().collect::<HashSet<_>>().len(), 5);
}

#[test]
fn the_place_of_a_value_counts() {
    let column = |values: [&str; 3]| -> ArrayRef { Arc::new(StringViewArray::from(values.to_vec())) };
    let hashes = hash(&[column(["a", "", "ab"]), column(["b", "ab", ""])]);
    let swapped = hash(&[column(["b", "ab", ""]), column(["a", "", "ab"])]);
    assert_eq!(hashes.iter().chain(&swapped[..1]).collect::<HashSet<_>>().len(), 4);
    assert_eq!((hashes[1], hashes[2]), (swapped[2], swapped[1]));
}

#[test]
fn slices_hash_like_what_they_show() {
    let list =
        ListArray::from_iter_primitive::<Int64Type, _, _>((0..20).map(|row| Some(vec![Some(row); row as usize])));
    let whole = hash_one(list.clone());
    assert_eq!(hash_one(list.slice(5, 7)), whole[5..12]);
    let dictionary: DictionaryArray<Int8Type> = [Some("x"), None, Some("y"), Some("x")].into_iter().collect();
    let whole = hash_one(dictionary.clone());
    assert_eq!(hash_one(dictionary.slice(1, 3)), whole[1..]);
    let flags = BooleanArray::from_iter((0..100).map(|row| (row % 5 > 0).then_some(row % 3 == 0)));
    let whole = hash_one(flags.clone());
    assert_eq!(hash_one(flags.slice(13, 50)), whole[13..63]);
}

#[test]
fn a_struct_hashes_its_fields_in_order() {
    let field = |name: &str, values: [i64; 2]| {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        (Arc::new(Field::new(name, DataType::Int64, true)), column)
    };
    let hashes = hash_one(StructArray::from(vec![field("a", [1, 2]), field("b", [2, 1])]));
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn what_cannot_be_hashed_is_said_and_counts_as_one_value() {
    assert!(can_hash(&DataType::Utf8View));
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    assert!(can_hash(&DataType::List(item.clone())));
    assert!(!can_hash(&DataType::ListView(item)));
}

#[test]
fn no_columns_give_no_hashes() {
    assert!(hash(&[]).is_empty());
}

/// Chi-squared of 128 groups has a mean of 127 and a standard deviation of about 16.
fn chi_squared(buckets: &[usize]) -> f64 {
    let expected = buckets.iter().sum::<usize>() as f64 / buckets.len() as f64;
    buckets.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

#[test]
fn keys_of_every_shape_spread_evenly_by_their_high_and_their_low_bits() {
    const KEYS: i64 = 100_000;
    let shapes: [(&str, ArrayRef); 9] = [
        ("1, 2, 3", Arc::new(Int64Array::from_iter_values(0..KEYS))),
        ("-1, -2, -3", Arc::new(Int64Array::from_iter_values((0..KEYS).map(|key| -key)))),
        ("seconds in microseconds", Arc::new(Int64Array::from_iter_values((0..KEYS).map(|key| key * 1_000_000)))),
        ("multiples of 2^16", Arc::new(Int64Array::from_iter_values((0..KEYS).map(|key| key << 16)))),
        ("multiples of 2^40", Arc::new(Int64Array::from_iter_values((0..KEYS).map(|key| key << 40)))),
        ("whole floats", Arc::new(Float64Array::from_iter_values((0..KEYS).map(|key| key as f64)))),
        ("numbers as text", Arc::new(StringViewArray::from_iter_values((0..KEYS).map(|key| key.to_string())))),
        ("tenant-n", Arc::new(StringViewArray::from_iter_values((0..KEYS).map(|key| format!("tenant-{key}"))))),
        (
            "long text",
            Arc::new(StringArray::from_iter_values(
                (0..KEYS).map(|key| format!("https://example.com/users/{key}/cart")),
            )),
        ),
    ];
    for (shape, column) in shapes {
        let columns = [column.clone(), column];
        for columns in [&columns[..1], &columns[..]] {
            let hashes = hash(columns);
            assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), KEYS as usize, "{shape}: no two are equal");
            let mut groups = vec![0; usize::from(KEY_GROUPS)];
            let mut slots = vec![0; 128];
            let mut tags = vec![0; 128];
            for hash in hashes {
                groups[usize::from(KeyGroup::of_hash(hash).0)] += 1;
                slots[(hash & 127) as usize] += 1;
                tags[(hash >> 57) as usize] += 1;
            }
            for (bits, buckets) in [("group", groups), ("low bits", slots), ("high bits", tags)] {
                let chi = chi_squared(&buckets);
                assert!((50.0..230.0).contains(&chi), "{shape} by {bits}: chi-squared {chi}");
            }
        }
    }
}

#[test]
fn one_flipped_bit_of_an_integer_flips_half_of_the_hash() {
    for bit in 0..64 {
        let keys: Vec<i64> = (0..1000_i64).map(|key| key.wrapping_mul(0x9e37_79b9)).collect();
        let flipped = keys.iter().map(|key| key ^ (1 << bit)).collect::<Vec<_>>();
        let hashes = hash_one(Int64Array::from(keys));
        let others = hash_one(Int64Array::from(flipped));
        for low in [0, 16, 32, 48] {
            let flips: u32 = hashes.iter().zip(&others).map(|(a, b)| ((a ^ b) >> low & 0xffff).count_ones()).sum();
            let mean = f64::from(flips) / 1000.0;
            assert!((7.5..8.5).contains(&mean), "bit {bit} flips {mean} of bits {low}..{}", low + 16);
        }
    }
}

proptest! {
    #[test]
    fn a_row_hashes_alone_as_it_does_among_others(
        rows in prop::collection::vec((any::<Option<i64>>(), prop::option::of(".{0,24}")), 1..40),
        at in any::<prop::sample::Index>(),
    ) {
        let columns = |rows: &[(Option<i64>, Option<String>)]| -> Vec<ArrayRef> {
            vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|row| row.1.as_deref()).collect::<StringViewArray>()),
            ]
        };
        let at = at.index(rows.len());
        prop_assert_eq!(hash(&columns(&rows))[at], hash(&columns(&rows[at..=at]))[0]);
    }
}
