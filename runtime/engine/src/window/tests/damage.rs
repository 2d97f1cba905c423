//! JSON that is not what was written: what a decoder may find under a right checksum.
//!
//! Among the numbers are some so great that memory for as much is not to be had, and steps of that length do not end.

use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};

/// A value of any form.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let numbers = [0, 1, 2, 127, 128, 65_535, 1 << 40, -1, i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(numbers.to_vec()).prop_map(Value::from),
        Just(json!(u64::MAX)),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let names = vec!["version", "keyGroups", "start", "end", "watermark", "eras", "window", "name", "spec", "x"];
        let object = prop::collection::btree_map(prop::sample::select(names), inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|object| object.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// What is done to a place.
#[derive(Clone, Debug)]
enum Damage {
    Replace(Value),
    Remove,
    Add(Value),
}

/// The value with something else in one or a few places, without it, or with more; or what its text says with other
/// bytes in it.
pub(crate) fn damaged(whole: &Value) -> impl Strategy<Value = Value> + use<> {
    let text = damaged_bytes(whole.to_string().into_bytes());
    // What is no JSON is refused before anyone looks at it.
    let text = text.prop_map(|text| match serde_json::from_slice(&text) {
        Ok(value) => value,
        Err(_) => String::from_utf8_lossy(&text).into(),
    });
    prop_oneof![3 => with_other_values(whole.clone()), 1 => text]
}

/// The bytes with some flipped, cut off at the end, or followed by others.
pub(crate) fn damaged_bytes(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let flips = prop::collection::vec((any::<Index>(), 1_u8..), 0..4);
    let more = prop::collection::vec(any::<u8>(), 0..8);
    (flips, prop::option::of(any::<Index>()), more).prop_map(move |(flips, cut, more)| {
        let mut bytes = whole.clone();
        for (at, bits) in flips {
            *at.get_mut(&mut bytes) ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(more);
        bytes
    })
}

fn with_other_values(whole: Value) -> impl Strategy<Value = Value> {
    let damage = prop_oneof![
        4 => any_json().prop_map(Damage::Replace),
        1 => Just(Damage::Remove),
        1 => any_json().prop_map(Damage::Add),
    ];
    prop::collection::vec((any::<Index>(), damage), 1..4).prop_map(move |damages| {
        let mut value = whole.clone();
        for (at, damage) in damages {
            let mut places = Vec::new();
            list_places(&value, String::new(), &mut places);
            apply(damage, &mut value, at.get::<String>(&places));
        }
        value
    })
}

/// The paths of all values in a value, its own among them.
fn list_places(value: &Value, path: String, places: &mut Vec<String>) {
    let below = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| list_places(value, below(&at.to_string()), places));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, value)| list_places(value, below(name), places)),
        _ => {}
    }
    places.push(path);
}

fn apply(damage: Damage, value: &mut Value, place: &str) {
    let Some(found) = value.pointer_mut(place) else { return };
    match damage {
        Damage::Replace(other) => *found = other,
        Damage::Add(more) => match found {
            Value::Array(values) => values.push(more),
            Value::Object(fields) => drop(fields.insert("more".into(), more)),
            other => *other = Value::Array(vec![other.take(), more]),
        },
        Damage::Remove => remove(value, place),
    }
}

fn remove(value: &mut Value, place: &str) {
    let Some((above, name)) = place.rsplit_once('/') else {
        *value = Value::Object(Map::new());
        return;
    };
    match (value.pointer_mut(above), name.parse::<usize>()) {
        (Some(Value::Array(values)), Ok(at)) if at < values.len() => drop(values.remove(at)),
        (Some(Value::Object(fields)), _) => drop(fields.remove(&name.replace("~1", "/").replace("~0", "~"))),
        _ => {}
    }
}

#[test]
fn every_place_can_be_damaged() {
    let whole = json!({"a": {"b": [1, 2]}, "c": null});
    let mut places = Vec::new();
    list_places(&whole, String::new(), &mut places);
    assert_eq!(places, ["/a/b/0", "/a/b/1", "/a/b", "/a", "/c", ""]);
    let with = |damage: Damage, place: &str| {
        let mut value = whole.clone();
        apply(damage, &mut value, place);
        value
    };
    assert_eq!(with(Damage::Replace(json!("x")), "/a/b/1"), json!({"a": {"b": [1, "x"]}, "c": null}));
    assert_eq!(with(Damage::Remove, "/a/b/0"), json!({"a": {"b": [2]}, "c": null}));
    assert_eq!(with(Damage::Remove, "/a"), json!({"c": null}));
    assert_eq!(with(Damage::Add(json!(3)), "/a/b"), json!({"a": {"b": [1, 2, 3]}, "c": null}));
    assert_eq!(with(Damage::Add(json!(3)), ""), json!({"a": {"b": [1, 2]}, "c": null, "more": 3}));
}
