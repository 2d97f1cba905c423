use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const NOTHING: Advance = Advance { active: false, to: None, idle: false };

fn to(watermark: i64) -> Advance {
    Advance { to: Some(EventTime(watermark)), ..NOTHING }
}

#[test]
fn the_least_watermark_counts_and_an_idle_input_does_not() {
    let mut tracker = WatermarkTracker::new([0, 1]);
    assert_eq!(tracker.advance(0, EventTime(10)), NOTHING);
    assert_eq!(tracker.advance(1, EventTime(5)), to(5));
    assert_eq!(tracker.set_idle(1), to(10));
    assert_eq!(tracker.advance(1, EventTime(7)), NOTHING, "never back");
    assert_eq!(tracker.current(), EventTime(10));
}

#[test]
fn a_task_is_idle_once_when_all_its_inputs_are_and_tells_when_it_no_longer_is() {
    let mut tracker = WatermarkTracker::new([0, 1]);
    tracker.advance(0, EventTime(3));
    assert_eq!(tracker.set_idle(0), NOTHING);
    assert_eq!(tracker.set_idle(1), Advance { idle: true, ..to(3) });
    assert_eq!(tracker.set_idle(1), NOTHING);
    assert_eq!(tracker.advance(1, EventTime(3)), Advance { active: true, ..NOTHING });
    assert_eq!(tracker.set_idle(1), Advance { idle: true, ..NOTHING });
    assert_eq!(tracker.advance(1, EventTime(5)), Advance { active: true, ..to(5) });
}

#[test]
fn when_all_are_idle_the_greatest_counts_in_whatever_order_they_became_so() {
    for order in [[0, 1], [1, 0]] {
        let mut tracker = WatermarkTracker::new([0, 1]);
        tracker.advance(0, EventTime(10));
        tracker.advance(1, EventTime(5));
        for input in order {
            tracker.set_idle(input);
        }
        assert_eq!(tracker.current(), EventTime(10));
    }
}

#[test]
fn what_has_ended_does_not_end_what_is_idle() {
    for order in [[0, 1], [1, 0]] {
        let mut tracker = WatermarkTracker::new([0, 1]);
        tracker.advance(0, EventTime(10));
        tracker.advance(1, EventTime(5));
        for input in order {
            match input {
                0 => tracker.advance(0, EventTime::MAX),
                _ => tracker.set_idle(1),
            };
        }
        assert_eq!(tracker.current(), EventTime(10));
        assert_eq!(tracker.advance(1, EventTime(12)), Advance { active: true, ..to(12) });
        assert_eq!(tracker.advance(1, EventTime::MAX), to(i64::MAX));
    }
}

#[test]
fn inputs_of_a_group_are_idle_together_and_equally_far_or_not_at_all() {
    let mut tracker = WatermarkTracker::new(["window", "window", "other"]);
    tracker.advance(0, EventTime(5));
    tracker.advance(1, EventTime(5));
    assert_eq!(tracker.advance(2, EventTime(90)), to(5));
    assert_eq!(tracker.set_idle(0), NOTHING);
    assert_eq!(tracker.advance(1, EventTime(9)), NOTHING, "0 has rows up to 9 yet to give out");
    assert_eq!(tracker.set_idle(1), NOTHING, "still");
    assert_eq!(tracker.advance(0, EventTime(9)), to(9));
    assert_eq!(tracker.set_idle(0), to(90));
}

/// What goes over a channel.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Row(i64),
    Watermark(i64),
    Idle,
}

/// A task of a window of one instant: it has a row of each instant, and gives it out when the watermark passes it.
struct Windowed {
    tracker: WatermarkTracker,
    from: Vec<VecDeque<Sent>>,
    to: VecDeque<Sent>,
    at: i64,
}

impl Windowed {
    fn take(&mut self, input: usize) {
        let advance = match self.from[input].pop_front() {
            Some(Sent::Watermark(watermark)) => self.tracker.advance(input, EventTime(watermark)),
            Some(Sent::Idle) => self.tracker.set_idle(input),
            Some(Sent::Row(_)) | None => return,
        };
        if advance.active {
            self.to.push_back(Sent::Watermark(self.at));
        }
        if let Some(EventTime(to)) = advance.to {
            self.to.extend((self.at.max(0) + 1..=to).map(Sent::Row));
            self.at = to;
            self.to.push_back(Sent::Watermark(to));
        }
        if advance.idle {
            self.to.push_back(Sent::Idle);
        }
    }
}

proptest! {
    /// Two sources, which come and go, before two tasks of a window, before one of another; each reads at its own pace.
    #[test]
    fn no_row_of_a_window_is_late_for_the_next(
        steps in prop::collection::vec((0..2_usize, prop::option::of(0..5_i64)), 1..30),
        paces in prop::collection::vec(0..6_usize, 0..300),
    ) {
        let mut sources = [0; 2];
        let windowed = || Windowed {
            tracker: WatermarkTracker::new([0, 1]),
            from: vec![VecDeque::new(); 2],
            to: VecDeque::new(),
            at: i64::MIN,
        };
        let mut tasks = [windowed(), windowed()];
        for (source, rise) in steps {
            sources[source] += rise.unwrap_or(0);
            let sent = if rise.is_some() { Sent::Watermark(sources[source]) } else { Sent::Idle };
            tasks.iter_mut().for_each(|task| task.from[source].push_back(sent));
        }
        let mut next = WatermarkTracker::new(["window", "window"]);
        // At the drawn pace, then all that is left.
        for turn in paces.into_iter().chain((0..6).cycle().take(6 * 400)) {
            match (turn / 2, turn % 2) {
                (2, task) => match tasks[task].to.pop_front() {
                    Some(Sent::Row(time)) => {
                        prop_assert!(EventTime(time) > next.current(), "{} behind {:?}", time, next.current());
                    }
                    Some(Sent::Watermark(watermark)) => _ = next.advance(task, EventTime(watermark)),
                    Some(Sent::Idle) => _ = next.set_idle(task),
                    None => {}
                },
                (source, task) => tasks[task].take(source),
            }
        }
        prop_assert!(tasks.iter().all(|task| task.to.is_empty() && task.from.iter().all(VecDeque::is_empty)));
        prop_assert_eq!(tasks[0].tracker.idle, tasks[1].tracker.idle);
        if tasks[0].tracker.idle {
            prop_assert_eq!(tasks[0].at, tasks[1].at, "however they were read");
        }
        prop_assert_eq!(next.current(), EventTime(tasks[0].at.min(tasks[1].at)));
    }
}
