//! The small facts that an operator leaves in the manifest beside its store.

use millrace_plan::WindowKind;
use millrace_stream::KeyGroupRange;
use serde::{Deserialize, Serialize};

use super::eras::Era;
use crate::operator::OperatorError;

const VERSION: u32 = 1;

/// Where an operator stood at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Facts {
    version: u32,
    /// The key groups that it owned.
    pub(crate) key_groups: KeyGroupRange,
    /// Its watermark.
    pub(crate) watermark: i64,
    /// The greatest event time that it had seen.
    pub(crate) latest: i64,
    /// Above every part number that it had used.
    pub(crate) next_part: u64,
}

impl Facts {
    pub(crate) fn new(key_groups: KeyGroupRange, watermark: i64, latest: i64, next_part: u64) -> Self {
        Self { version: VERSION, key_groups, watermark, latest, next_part }
    }

    pub(crate) fn to_value(self) -> serde_json::Value {
        serde_json::to_value(self).expect("numbers are always JSON")
    }

    /// What each task left.
    ///
    /// # Errors
    /// Fails if they are not facts of this version.
    pub(crate) fn read_all(restored: &[serde_json::Value]) -> Result<Vec<Self>, OperatorError> {
        let damaged = |found: String| OperatorError::Damaged { found, expected: "facts of an operator, version 1" };
        let read = |value: &serde_json::Value| -> Result<Self, OperatorError> {
            let mut facts: Self = serde_json::from_value(value.clone()).map_err(|error| damaged(error.to_string()))?;
            if facts.watermark == i64::MAX {
                // The end of the input, in words of an older release, which kept nothing of what had come.
                (facts.watermark, facts.latest) = (i64::MIN, i64::MIN);
            }
            if facts.version == VERSION { Ok(facts) } else { Err(damaged(format!("version {}", facts.version))) }
        };
        restored.iter().map(read).collect()
    }

    /// What several tasks left, as one: the greatest numbers. At the end of its input a task has come no further than its own
    /// rows; what another has closed stays closed, and what this one keeps comes out with the next watermark, also behind it.
    /// `None`: the first start.
    ///
    /// # Errors
    /// Fails if they are not facts of this version.
    pub(crate) fn join(restored: &[serde_json::Value]) -> Result<Option<Self>, OperatorError> {
        let joined = Self::read_all(restored)?.into_iter().reduce(|before, facts| Self {
            version: VERSION,
            key_groups: facts.key_groups,
            watermark: before.watermark.max(facts.watermark),
            latest: before.latest.max(facts.latest),
            next_part: before.next_part.max(facts.next_part),
        });
        Ok(joined)
    }
}

/// How far event time has come with a watermark, after `before`. At the end of the input as far as the last row, and no further:
/// there may be more of it one day.
pub(crate) fn come_to(watermark: i64, before: i64, latest: i64) -> i64 {
    match watermark {
        i64::MAX if latest == i64::MIN => before,
        i64::MAX => before.max(latest.saturating_add(1)),
        watermark => before.max(watermark),
    }
}

const WINDOW_VERSION: u32 = 2;

/// Where a window's operator stood at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WindowFacts {
    version: u32,
    /// The key groups that it owned.
    pub(crate) key_groups: KeyGroupRange,
    /// Its watermark.
    pub(crate) watermark: i64,
    /// The greatest event time that it had seen; the least number if none. `None`: written by a release that did not note it.
    pub(crate) latest: Option<i64>,
    /// Above every part number that it had used.
    pub(crate) next_part: u64,
    /// The definitions that it worked by. None: the plan's alone.
    pub(crate) eras: Vec<Era>,
}

/// Version 1, of all kinds of window.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WindowFacts1 {
    key_groups: KeyGroupRange,
    watermark: i64,
    next_part: u64,
}

impl WindowFacts {
    pub(crate) fn new(key_groups: KeyGroupRange, watermark: i64, latest: i64, next_part: u64, eras: &[Era]) -> Self {
        let (latest, eras) = (Some(latest), eras.to_vec());
        Self { version: WINDOW_VERSION, key_groups, watermark, latest, next_part, eras }
    }

    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("numbers and names are always JSON")
    }

    /// What each task left.
    ///
    /// # Errors
    /// Fails if they are not facts of a version that is known.
    pub(crate) fn read_all(restored: &[serde_json::Value]) -> Result<Vec<Self>, OperatorError> {
        restored.iter().map(|value| Ok(Self::read(value)?.without_the_end())).collect()
    }

    /// Where an older release left the end of the input as the watermark: how far event time had to come for all to come out.
    fn without_the_end(mut self) -> Self {
        if self.watermark == i64::MAX {
            let latest = self.latest.unwrap_or(i64::MIN);
            let length = self.eras.iter().map(|era| match era.window.kind {
                WindowKind::Tumbling { size_ms, .. } | WindowKind::Hopping { size_ms, .. } => size_ms,
                WindowKind::Session { gap_ms } => gap_ms,
                WindowKind::Rolling { .. } => 1,
            });
            self.watermark = latest.saturating_add(length.max().unwrap_or(1));
        }
        self
    }

    fn read(value: &serde_json::Value) -> Result<Self, OperatorError> {
        let damaged = |found: String| OperatorError::Damaged { found, expected: "facts of a window, version 1 or 2" };
        let unread = |error: serde_json::Error| damaged(error.to_string());
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(1) => {
                let WindowFacts1 { key_groups, watermark, next_part } =
                    serde_json::from_value(value.clone()).map_err(unread)?;
                let (version, latest, eras) = (WINDOW_VERSION, None, Vec::new());
                Ok(Self { version, key_groups, watermark, latest, next_part, eras })
            }
            Some(2) => {
                let facts: Self = serde_json::from_value(value.clone()).map_err(unread)?;
                if facts.eras.is_empty() { Err(damaged("no definition".into())) } else { Ok(facts) }
            }
            version => Err(damaged(format!("version {version:?}"))),
        }
    }

    /// The greatest event time that any of them had seen, as far as they noted it.
    pub(crate) fn latest(facts: &[Self]) -> i64 {
        facts.iter().filter_map(|facts| facts.latest).max().unwrap_or(i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use millrace_plan::{LateRows, WindowDef, WindowKind};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::window::{
        eras::{Eras, take_up},
        tests::damage::{any_json, damaged},
    };

    fn hopping() -> WindowDef {
        WindowDef {
            kind: WindowKind::Hopping { size_ms: 60_000, slide_ms: 10_000, offset_ms: 0 },
            allowed_lateness_ms: 5000,
            late_rows: LateRows::Drop,
        }
    }

    /// The version that a value says.
    fn version_of(value: &Value) -> Option<u64> {
        value.get("version")?.as_u64()
    }

    /// Facts of an operator, of a window in both versions, and of a window that was edited, each with damage.
    fn any_facts() -> impl Strategy<Value = Value> {
        let operator = Facts::new(KeyGroupRange::ALL, 1000, 2000, 7).to_value();
        let window = WindowFacts::new(KeyGroupRange::ALL, 1000, 2000, 7, Eras::of(&hopping()).list()).to_value();
        let older = json!({"version": 1, "keyGroups": {"start": 0, "end": 128}, "watermark": 5, "nextPart": 3});
        let mut edited = window.clone();
        let longer = WindowDef { kind: WindowKind::Tumbling { size_ms: 90_000, offset_ms: 0 }, ..hopping() };
        take_up(&hopping(), &longer, &mut [&mut edited]).unwrap();
        prop_oneof![any_json(), damaged(&operator), damaged(&window), damaged(&older), damaged(&edited), Just(edited),]
    }

    proptest! {
        #[test]
        fn facts_that_were_written_are_read(
            (start, end) in any::<(u16, u16)>(), watermark: i64, latest: i64, next_part: u64,
        ) {
            let range = KeyGroupRange { start, end };
            let facts = Facts::new(range, watermark, latest, next_part);
            let read = Facts::read_all(&[facts.to_value()]).unwrap();
            prop_assert!(read == [facts] || watermark == i64::MAX, "{read:?}");
            let facts = WindowFacts::new(range, watermark, latest, next_part, Eras::of(&hopping()).list());
            let read = WindowFacts::read_all(&[facts.to_value()]).unwrap();
            prop_assert!(read == [facts] || watermark == i64::MAX, "{read:?}");
        }

        #[test]
        fn any_facts_are_read_or_refused(values in prop::collection::vec(any_facts(), 0..4)) {
            if let Ok(read) = Facts::read_all(&values) {
                prop_assert!(values.iter().all(|value| version_of(value) == Some(1)));
                let again: Vec<Value> = read.iter().map(|facts| facts.to_value()).collect();
                prop_assert_eq!(Facts::read_all(&again).unwrap(), read);
                prop_assert_eq!(Facts::join(&values).unwrap().is_some(), !values.is_empty());
            } else {
                prop_assert!(Facts::join(&values).is_err());
            }
            if let Ok(read) = WindowFacts::read_all(&values) {
                for (facts, value) in read.iter().zip(&values) {
                    prop_assert!(matches!(version_of(value), Some(1 | 2)));
                    // The first version says nothing of definitions, and is never written again.
                    if version_of(value) == Some(2) {
                        let again = WindowFacts::read_all(&[facts.to_value()]).unwrap();
                        prop_assert_eq!(&again[..], std::slice::from_ref(facts));
                    }
                }
            }
        }

        #[test]
        fn an_edit_is_taken_up_from_any_facts_or_refused_and_then_leaves_them_as_they_are(
            mut values in prop::collection::vec(any_facts(), 1..3),
            size_ms in 1_i64..100_000,
        ) {
            let before = values.clone();
            let edited = WindowDef { kind: WindowKind::Tumbling { size_ms, offset_ms: 0 }, ..hopping() };
            let taken = take_up(&hopping(), &edited, &mut values.iter_mut().collect::<Vec<_>>());
            match taken {
                Ok(Some(_)) => {
                    let read = WindowFacts::read_all(&values).unwrap();
                    let last = |facts: &WindowFacts| facts.eras.last().unwrap().window.kind;
                    prop_assert!(read.iter().all(|facts| last(facts) == edited.kind));
                }
                Ok(None) | Err(_) => prop_assert_eq!(values, before),
            }
        }
    }

    #[test]
    fn the_facts_of_a_window_are_stored_like_this() {
        let facts = WindowFacts::new(KeyGroupRange::ALL, 1000, 2000, 7, Eras::of(&hopping()).list());
        let stored = r#"{"eras":[{"number":0,"window":{"allowed_lateness_ms":5000,"kind":{"Hopping":{"offset_ms":0,"size_ms":60000,"slide_ms":10000}},"late_rows":"Drop"}}],"keyGroups":{"end":128,"start":0},"latest":2000,"nextPart":7,"version":2,"watermark":1000}"#;
        assert_eq!(facts.to_value().to_string(), stored);
        assert_eq!(WindowFacts::read_all(&[facts.to_value()]).unwrap(), [facts]);
    }

    #[test]
    fn facts_of_the_first_version_say_nothing_of_eras() {
        let range = json!({"start": 0, "end": 128});
        let window = json!({"kind": {"Tumbling": {"size_ms": 10, "offset_ms": 0}}, "allowed_lateness_ms": 0, "late_rows": "Drop"});
        let aligned = json!({"version": 1, "keyGroups": range, "window": window, "watermark": 5, "closedUntil": 0, "nextPart": 3});
        let other = json!({"version": 1, "keyGroups": range, "watermark": 5, "latest": 5, "nextPart": 3});
        for value in [aligned, other] {
            let facts = WindowFacts::read_all(&[value]).unwrap();
            assert_eq!((facts[0].watermark, facts[0].latest, facts[0].next_part), (5, None, 3));
            assert!(facts[0].eras.is_empty());
        }
        assert!(WindowFacts::read_all(&[json!({"version": 3})]).is_err());
    }
}
