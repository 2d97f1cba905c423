//! When a window of other lengths may take over from one whose windows are open.
//!
//! Tumbling and hopping windows of one definition begin every so often. Those of another take over at an instant at which
//! windows of both begin: what began before it ends as it was defined, and no stretch of time is in no window, or in two
//! tumbling ones.
//!
//! ```text
//! 2m       ├───────┼───────┼───────┼───────
//! 3m       ├───────────┼───────────┼───────
//! both     ↑                       ↑            every 6m
//! ```
//!
//! Rolling windows and sessions begin with a row, so that one definition can take over from another at any millisecond.

use crate::graph::WindowKind;

/// The instants, in milliseconds, at which windows of two definitions begin: one every so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundaries {
    every_ms: i128,
    /// One of them.
    at_ms: i128,
}

impl Boundaries {
    /// Those of two kinds of window; `None` if there are none, or if the one remembers nothing that the other could go
    /// on with.
    pub fn of(old: WindowKind, new: WindowKind) -> Option<Self> {
        use WindowKind::{Rolling, Session};
        match (starts(old), starts(new)) {
            (Some(old), Some(new)) => meet(old, new),
            _ => match (old, new) {
                (Rolling { .. }, Rolling { .. }) | (Session { .. }, Session { .. }) => {
                    Some(Self { every_ms: 1, at_ms: 0 })
                }
                _ => None,
            },
        }
    }

    /// How far apart they are; `None` if that is longer than time.
    pub fn every_ms(&self) -> Option<i64> {
        i64::try_from(self.every_ms).ok()
    }

    /// The first one after `time`; `None` if it is after the end of time.
    pub fn after(&self, time: i64) -> Option<i64> {
        let time = i128::from(time);
        let back = (time - self.at_ms).rem_euclid(self.every_ms);
        i64::try_from(time - back + self.every_ms).ok()
    }
}

/// How far apart windows begin, and when one of them does.
fn starts(kind: WindowKind) -> Option<(i128, i128)> {
    let (slide, offset) = match kind {
        WindowKind::Tumbling { size_ms, offset_ms } => (size_ms, offset_ms),
        WindowKind::Hopping { slide_ms, offset_ms, .. } => (slide_ms, offset_ms),
        WindowKind::Rolling { .. } | WindowKind::Session { .. } => return None,
    };
    Some((i128::from(slide.max(1)), i128::from(offset)))
}

/// The instants that are a whole number of steps from both offsets.
fn meet((step, offset): (i128, i128), (other, other_offset): (i128, i128)) -> Option<Boundaries> {
    let (gcd, factor) = bezout(step, other);
    let apart = other_offset - offset;
    if apart % gcd != 0 {
        return None;
    }
    let every_ms = step / gcd * other;
    // `offset + k * step`, where `k * step` is `apart` modulo `other`.
    let k = (apart / gcd % (other / gcd) * factor).rem_euclid(other / gcd);
    Some(Boundaries { every_ms, at_ms: offset + k * step })
}

/// The greatest common divisor, and what times `a` leaves it, modulo `b`.
fn bezout(a: i128, b: i128) -> (i128, i128) {
    let (mut rest, mut factor) = ((a, b), (1, 0));
    while rest.1 != 0 {
        let times = rest.0 / rest.1;
        rest = (rest.1, rest.0 - times * rest.1);
        factor = (factor.1, factor.0 - times * factor.1);
    }
    (rest.0, factor.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hopping(slide_ms: i64, offset_ms: i64) -> WindowKind {
        WindowKind::Hopping { size_ms: 3 * slide_ms, slide_ms, offset_ms }
    }

    #[test]
    fn the_next_boundary_is_the_first_instant_at_which_windows_of_both_begin() {
        for (slide, offset) in [(1, 0), (2, 1), (6, 4), (10, -3), (9, 100)] {
            for (other, other_offset) in [(1, 0), (4, 1), (6, 0), (15, 7), (10, 2)] {
                let found = Boundaries::of(hopping(slide, offset), hopping(other, other_offset));
                for time in -40..40 {
                    let begin =
                        |at: i64| (at - offset).rem_euclid(slide) == 0 && (at - other_offset).rem_euclid(other) == 0;
                    let naive = (time + 1..time + 400).find(|at| begin(*at));
                    let found = found.and_then(|boundaries| boundaries.after(time));
                    assert_eq!(found, naive, "{slide}+{offset} and {other}+{other_offset} after {time}");
                }
            }
        }
    }

    #[test]
    fn lengths_without_a_common_divisor_meet_where_their_offsets_let_them() {
        let tumbling = |size_ms, offset_ms| WindowKind::Tumbling { size_ms, offset_ms };
        assert_eq!(Boundaries::of(tumbling(10, 0), tumbling(10, 5)), None);
        assert_eq!(Boundaries::of(tumbling(10, 0), tumbling(4, 1)), None);
        let both = Boundaries::of(tumbling(7, 2), tumbling(11, 5)).unwrap();
        assert_eq!((both.every_ms(), both.after(0)), (Some(77), Some(16)));
        assert_eq!(Boundaries::of(tumbling(10, 0), WindowKind::Session { gap_ms: 5 }), None);
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let kinds = [hopping(i64::MAX / 4, i64::MAX), hopping(i64::MAX / 4 - 1, i64::MIN), hopping(1, 0)];
        for (old, new) in kinds.into_iter().flat_map(|old| kinds.map(|new| (old, new))) {
            for time in [i64::MIN, -1, 0, i64::MAX] {
                let _ = Boundaries::of(old, new).map(|boundaries| (boundaries.after(time), boundaries.every_ms()));
            }
        }
    }
}
