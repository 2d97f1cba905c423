#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, sync::Arc};

use arrow::array::{Array, ArrayRef, Date32Array, Float64Array, Int64Array, StringViewArray};

use super::*;

/// The rows of columns, as text.
fn rows_of(columns: &[ArrayRef]) -> Vec<String> {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let options = FormatOptions::default().with_null("null");
    let formatters: Vec<_> = columns.iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    (0..columns[0].len())
        .map(|row| formatters.iter().map(|column| format!("<{}>", column.value(row))).collect())
        .collect()
}

fn ints(rows: usize, step: i64) -> ArrayRef {
    Arc::new((0..rows as i64).map(|row| (row % 13 != 4).then_some(row * step % 5003 - 20)).collect::<Int64Array>())
}

fn strings(rows: usize, step: usize) -> ArrayRef {
    let name = |row: usize| match row * step % 997 {
        at if at % 17 == 0 => None,
        at if at % 3 == 0 => Some(format!("{at}")),
        at if at % 3 == 1 => Some(format!("twelve-{at:05}")),
        at => Some(format!("one that does not fit inline {at}")),
    };
    Arc::new((0..rows).map(name).collect::<StringViewArray>())
}

fn check(make: impl Fn(usize) -> Vec<ArrayRef>) {
    let types: Vec<DataType> = make(1).iter().map(|column| column.data_type().clone()).collect();
    let mut groups = Groups::new(&types).unwrap();
    let mut known: HashMap<String, u32> = HashMap::new();
    let mut numbers = Vec::new();
    let mut snapshots = Vec::new();
    for step in 1..6 {
        let columns = make(step);
        let rows = rows_of(&columns);
        groups.intern(&columns, rows.len(), &mut numbers).unwrap();
        for (row, number) in rows.iter().zip(&numbers) {
            assert_eq!(*known.entry(row.clone()).or_insert(*number), *number, "{row}");
        }
        assert_eq!(known.len(), groups.len());
        snapshots.push((groups.keys().clone(), rows, numbers.clone()));
        if step == 3 {
            // Every third group is kept.
            let live: Vec<bool> = (0..groups.len()).map(|group| group % 3 == 0).collect();
            let renumbered = groups.retain(&live).unwrap();
            known.retain(|_, group| {
                *group = renumbered[*group as usize];
                *group != NO_GROUP
            });
            assert_eq!(known.len(), groups.len());
        }
    }
    for (keys, rows, numbers) in snapshots {
        assert_eq!(rows_of(&keys.gather(&numbers).unwrap()), rows, "a snapshot stays as it was");
    }
}

#[test]
fn keys_of_one_integer_column_get_a_group_each() {
    check(|step| vec![ints(40_000, step as i64)]);
    check(|step| {
        vec![Arc::new((0..3000).map(|row| (row % 7 != 0).then_some(row * step as i32 % 501)).collect::<Date32Array>())]
    });
}

#[test]
fn keys_of_one_string_column_get_a_group_each() {
    check(|step| vec![strings(20_000, step)]);
}

#[test]
fn keys_of_several_columns_get_a_group_each() {
    check(|step| vec![strings(5000, step), ints(5000, step as i64)]);
    check(|step| {
        vec![Arc::new((0..900).map(|row| (row % 5 != 0).then_some((row * step % 77) as f64)).collect::<Float64Array>())]
    });
}

#[test]
fn keys_without_columns_are_one_group() {
    let mut groups = Groups::new(&[]).unwrap();
    let mut numbers = Vec::new();
    groups.intern(&[], 3, &mut numbers).unwrap();
    assert_eq!((numbers, groups.len()), (vec![0, 0, 0], 1));
    assert!(groups.keys().gather(&[0]).unwrap().is_empty());
}

#[test]
fn keys_whose_hashes_collide_stay_apart() {
    let mut keys = GroupKeys::new(&[DataType::Int64]).unwrap();
    let mut slots = Slots::default();
    let values: Vec<i64> = (0..500).map(|row| row % 50).collect();
    // All of one tag, some of one hash.
    let hashes: Vec<u64> = values.iter().map(|value| (7 << 32) | (*value as u64 % 5)).collect();
    slots.reserve(values.len(), &keys);
    let mut groups = vec![NO_GROUP; values.len()];
    keys.ints_mut(|store, shared| slots::intern(&mut slots, shared, store, &&values[..], None, &hashes, &mut groups));
    assert_eq!(keys.len(), 50);
    for (value, group) in values.iter().zip(&groups) {
        let column = keys.gather(&[*group]).unwrap();
        assert_eq!(rows_of(&column), [format!("<{value}>")]);
    }
}

#[test]
fn portions_have_all_groups_and_their_names_are_one_order() {
    use crate::stored_keys::{KeyRows, Names, Portion, key_group_of, portions};
    for rows in [0, 1, 10, 3000] {
        let mut groups = Groups::new(&[DataType::Utf8View]).unwrap();
        groups.intern(&[strings(rows, 7)], rows, &mut Vec::new()).unwrap();
        let all: Vec<u32> = (0..groups.len() as u32).rev().filter(|group| group % 5 != 3).collect();
        let portions = portions(groups.keys(), &all);
        assert!(portions.len() > 1 || rows < 3000, "{rows} rows: {} portions", portions.len());
        let (mut next, mut places, mut names) = (Some(0), Vec::new(), Vec::new());
        for Portion { groups: some, places: at, key_groups } in portions {
            assert_eq!((Some(*key_groups.start()), some.len()), (next, at.len()));
            assert!(some.iter().zip(&at).all(|(group, at)| all[*at] == *group));
            let rows = KeyRows::new(groups.keys(), &[DataType::Utf8View], &some).unwrap();
            let mut of_portion = Names::default();
            (0..some.len()).for_each(|at| rows.name(at, 3, &[], &mut of_portion));
            names.extend(of_portion.sorted().into_iter().map(|at| of_portion.get(at).to_vec()));
            assert!(names.iter().rev().take(some.len()).all(|name| key_groups.contains(&key_group_of(name))));
            (next, _) = (key_groups.end().checked_add(1), places.extend(at));
        }
        assert_eq!(next, None, "the last portion has all key groups that are left");
        assert!(names.is_sorted());
        places.sort_unstable();
        assert_eq!(places, (0..all.len()).collect::<Vec<_>>());
    }
}
