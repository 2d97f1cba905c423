//! The definitions that a window has had: each an *era*, which begins at an instant of event time.
//!
//! When an edit changes a window's lengths, the windows that have begun end as they were defined, and those that begin
//! later are as the new definition says. So a stage may work by several definitions at a time:
//!
//! ```text
//! era 1, tumbling 2m   ├───────┼───────┤
//! era 2, tumbling 3m                   ├───────────┼───────────┤
//! era 3, hopping                                               ├── …
//!                                      B                       B'
//! ```
//!
//! An era owns the windows that begin from its own instant up to, not including, that of the next one. The instant is
//! chosen when the edit is taken up, once for all tasks of the stage, from what they left at the barrier
//! ([`take_up`]): the first one after every row that any of them has seen at which windows of both definitions begin
//! ([`Boundaries`]). So no row that has been added to a window would have belonged to another.
//!
//! An era to which neither a row nor the watermark has come is replaced by the next edit; editing back undoes it. One
//! whose last window is closed for good is forgotten.

use millrace_plan::{Boundaries, WindowDef};
use serde::{Deserialize, Serialize};

use super::facts::WindowFacts;
use crate::operator::OperatorError;

/// A window's definition and from when on it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Era {
    /// Rises from one era to the next, and is never used twice by a stage: state belongs to it.
    pub(crate) number: u32,
    /// The event time at which it begins; `None`: the beginning of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
    /// The definition.
    pub(crate) window: WindowDef,
    /// Windows that end by then are closed for good, however late rows may be by now: an edit of the lateness found them so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed: Option<i64>,
}

/// The eras of a stage, in order. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eras(Vec<Era>);

impl Era {
    /// The event time at which it begins.
    pub(crate) fn begins_ms(&self) -> i64 {
        self.from.unwrap_or(i64::MIN)
    }

    /// Windows that end by then are closed for good, whatever the lateness.
    pub(crate) fn closed_ms(&self) -> i64 {
        self.closed.unwrap_or(i64::MIN)
    }

    /// Lets another definition of the same lengths hold.
    fn becomes(&mut self, window: &WindowDef, watermark: i64) {
        if window.allowed_lateness_ms > self.window.allowed_lateness_ms && watermark > i64::MIN {
            let closed = watermark.saturating_sub(self.window.allowed_lateness_ms);
            self.closed = self.closed.max(Some(closed));
        }
        self.window.clone_from(window);
    }
}

impl Eras {
    /// One definition since ever.
    pub(crate) fn of(window: &WindowDef) -> Self {
        Self(vec![Era { number: 0, from: None, window: window.clone(), closed: None }])
    }

    /// What several tasks were working by, the last of which is `window`, the plan's.
    ///
    /// # Errors
    /// Fails if the last definition has other lengths than the plan's.
    pub(crate) fn restored(facts: &[WindowFacts], window: &WindowDef) -> Result<Self, OperatorError> {
        let mut eras = Self::known(facts).unwrap_or_else(|| Self::of(window));
        let last = eras.last_mut();
        if last.window.kind != window.kind {
            return Err(OperatorError::Damaged {
                found: format!("state of windows {:?}", last.window.kind),
                expected: "state of the windows that the plan has",
            });
        }
        last.window.clone_from(window);
        Ok(eras)
    }

    /// The longest list that a task has: the others have forgotten some of the first.
    fn known(facts: &[WindowFacts]) -> Option<Self> {
        let lists = facts.iter().map(|facts| &facts.eras).filter(|eras| !eras.is_empty());
        lists.max_by_key(|eras| eras.len()).cloned().map(Self)
    }

    /// All of them, each with the event time at which the next one begins.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Era, i64)> {
        let next = self.0.iter().skip(1).map(Era::begins_ms).chain([i64::MAX]).collect::<Vec<_>>();
        self.0.iter().zip(next)
    }

    pub(crate) fn list(&self) -> &[Era] {
        &self.0
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The one that owns an event time; the first one owns all before it too.
    pub(crate) fn at(&self, time: i64) -> &Era {
        self.0.iter().rev().find(|era| era.begins_ms() <= time).unwrap_or(&self.0[0])
    }

    /// The plan's.
    pub(crate) fn last(&self) -> &Era {
        self.0.last().expect("there is always one")
    }

    fn last_mut(&mut self) -> &mut Era {
        self.0.last_mut().expect("there is always one")
    }

    /// Forgets the first ones, as long as `is_over` says so of an era and the time at which the next one begins.
    pub(crate) fn forget(&mut self, is_over: impl Fn(&Era, i64) -> bool) {
        while let [first, next, ..] = &self.0[..]
            && is_over(first, next.begins_ms())
        {
            self.0.remove(0);
        }
    }

    /// The same eras, after which the definition is `window`. `latest` is the greatest event time that any task has seen,
    /// `watermark` the furthest that one has come to. `None`: there is no instant at which it could take over.
    fn followed_by(&self, window: &WindowDef, latest: i64, watermark: i64) -> Option<Self> {
        let number = self.0.iter().map(|era| era.number + 1).max().unwrap_or(0);
        let reached = latest.max(watermark);
        let begun = self.0.iter().take_while(|era| era.begins_ms() <= reached && reached > i64::MIN).count();
        // At the end of a stream everything has passed, and nothing follows.
        let passed = if watermark == i64::MAX { i64::MIN } else { watermark.saturating_sub(1) };
        // What has not begun gives way, if what has can be followed by the new definition.
        (begun..=self.0.len()).find_map(|kept| {
            let mut eras = self.0[..kept].to_vec();
            let from = match eras.last_mut() {
                None => None,
                Some(last) if last.window.kind == window.kind => {
                    last.becomes(window, watermark);
                    return Some(Self(eras));
                }
                Some(last) => {
                    let boundaries = Boundaries::of(last.window.kind, window.kind)?;
                    Some(boundaries.after(latest.max(passed).max(last.begins_ms()))?)
                }
            };
            eras.push(Era { number, from, window: window.clone(), closed: None });
            Some(Self(eras))
        })
    }
}

/// What came of an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The event time from which the new definition holds; `None`: for every row.
    pub(crate) from_ms: Option<i64>,
}

/// Takes up a changed definition: rewrites what the tasks of a stage left at the barrier, so that whatever starts from it
/// agrees. Starting from the same barrier again gives the same. `None`: there is nothing to take up.
///
/// # Errors
/// Fails if what they left cannot be read or does not say what is needed, and if no instant is left at which the new
/// definition could take over.
pub(crate) fn take_up(
    was: &WindowDef,
    window: &WindowDef,
    left: &mut [&mut serde_json::Value],
) -> Result<Option<Taken>, OperatorError> {
    let values: Vec<serde_json::Value> = left.iter().map(|value| (**value).clone()).collect();
    let mut facts = WindowFacts::read_all(&values)?;
    if facts.is_empty() {
        return Ok(None);
    }
    let Some(eras) = Eras::known(&facts) else {
        return if was.kind == window.kind { Ok(None) } else { Err(OperatorError::Unnoted) };
    };
    let latest = facts.iter().filter_map(|facts| facts.latest).max().unwrap_or(i64::MIN);
    let watermark = facts.iter().map(|facts| facts.watermark).max().unwrap_or(i64::MIN);
    let eras = eras.followed_by(window, latest, watermark).ok_or(OperatorError::NoBoundary)?;
    for (facts, value) in facts.iter_mut().zip(left) {
        facts.eras.clone_from(&eras.0);
        **value = facts.to_value();
    }
    Ok(eras.0.last().map(|era| Taken { from_ms: era.from }))
}

/// An event time as people write it.
pub(crate) fn instant(ms: i64) -> String {
    arrow::temporal_conversions::timestamp_ms_to_datetime(ms).map_or_else(|| ms.to_string(), |at| format!("{at:?}Z"))
}

#[cfg(test)]
mod tests {
    use millrace_plan::{LateRows, WindowKind};

    use super::*;

    fn def(kind: WindowKind) -> WindowDef {
        WindowDef { kind, allowed_lateness_ms: 0, late_rows: LateRows::Drop }
    }

    fn tumbling(size_ms: i64, offset_ms: i64) -> WindowDef {
        def(WindowKind::Tumbling { size_ms, offset_ms })
    }

    fn froms(eras: &Eras) -> Vec<(u32, Option<i64>, WindowDef)> {
        eras.0.iter().map(|era| (era.number, era.from, era.window.clone())).collect()
    }

    #[test]
    fn a_definition_takes_over_at_the_first_boundary_after_every_row() {
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&tumbling(100, 0), 299, 250).unwrap();
        assert_eq!(froms(&eras), [(0, None, tumbling(60, 0)), (1, Some(300), tumbling(100, 0))]);
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&tumbling(100, 0), 300, 250).unwrap();
        assert_eq!(eras.0[1].from, Some(600));
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&tumbling(100, 0), 10, 700).unwrap();
        assert_eq!(eras.0[1].from, Some(900), "what has passed is not taken over");
    }

    #[test]
    fn before_the_first_row_the_new_definition_holds_from_the_beginning() {
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&tumbling(100, 0), i64::MIN, i64::MIN).unwrap();
        assert_eq!(froms(&eras), [(1, None, tumbling(100, 0))]);
    }

    #[test]
    fn a_definition_to_which_nothing_has_come_gives_way_and_one_that_has_begun_stays() {
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&tumbling(100, 0), 10, 0).unwrap();
        let replaced = eras.followed_by(&tumbling(40, 0), 20, 0).unwrap();
        assert_eq!(froms(&replaced), [(0, None, tumbling(60, 0)), (2, Some(120), tumbling(40, 0))]);
        let undone = eras.followed_by(&tumbling(60, 0), 20, 0).unwrap();
        assert_eq!(froms(&undone), [(0, None, tumbling(60, 0))]);
        let longer = eras.followed_by(&tumbling(60, 0), 301, 0).unwrap();
        assert_eq!(longer.0.iter().map(|era| era.from).collect::<Vec<_>>(), [None, Some(300), Some(600)]);
        let passed = eras.followed_by(&tumbling(60, 0), 20, 300).unwrap();
        assert_eq!(passed.0.iter().map(|era| era.from).collect::<Vec<_>>(), [None, Some(300), Some(600)]);
    }

    #[test]
    fn a_definition_that_gave_way_to_none_is_followed_instead() {
        // Windows of 10 and of 10 shifted by 5 never begin together; by way of 5 the one can follow the other.
        let eras = Eras::of(&tumbling(10, 0)).followed_by(&tumbling(5, 0), 12, 0).unwrap();
        assert_eq!(Eras::of(&tumbling(10, 0)).followed_by(&tumbling(10, 5), 12, 0), None);
        let eras = eras.followed_by(&tumbling(10, 5), 12, 0).unwrap();
        assert_eq!(eras.0.iter().map(|era| era.from).collect::<Vec<_>>(), [None, Some(20), Some(25)]);
    }

    #[test]
    fn another_lateness_is_no_era_of_its_own() {
        let patient = WindowDef { allowed_lateness_ms: 5, ..tumbling(60, 0) };
        let eras = Eras::of(&tumbling(60, 0)).followed_by(&patient, 10, 7).unwrap();
        assert_eq!(froms(&eras), [(0, None, patient)]);
        assert_eq!(eras.last().closed_ms(), 7, "what was closed for good is not opened again");
    }
}
