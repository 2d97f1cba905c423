//! Watermarks of several inputs: the least counts, and an idle input does not.

use crate::EventTime;

/// Combines the watermarks of a task's inputs.
///
/// The combined watermark never goes back. When every input is idle it stays where it is, and the task is idle itself.
#[derive(Clone, Debug)]
pub struct WatermarkTracker {
    inputs: Vec<Input>,
    combined: EventTime,
    idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Input {
    watermark: EventTime,
    idle: bool,
}

/// What changed for those downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Nothing.
    None,
    /// The combined watermark rose to this.
    To(EventTime),
    /// Every input has become idle.
    Idle,
}

impl WatermarkTracker {
    /// A tracker of `inputs` inputs that have said nothing yet.
    pub fn new(inputs: usize) -> Self {
        let input = Input { watermark: EventTime::MIN, idle: false };
        Self { inputs: vec![input; inputs], combined: EventTime::MIN, idle: false }
    }

    /// The combined watermark so far.
    pub fn current(&self) -> EventTime {
        self.combined
    }

    /// Input `index` says that its watermark is `watermark`; that also ends its idleness.
    pub fn advance(&mut self, index: usize, watermark: EventTime) -> Advance {
        let input = &mut self.inputs[index];
        input.watermark = input.watermark.max(watermark);
        input.idle = false;
        self.combine()
    }

    /// Input `index` has nothing to say for now.
    pub fn set_idle(&mut self, index: usize) -> Advance {
        self.inputs[index].idle = true;
        self.combine()
    }

    fn combine(&mut self) -> Advance {
        match self.inputs.iter().filter(|input| !input.idle).map(|input| input.watermark).min() {
            None if self.idle => Advance::None,
            None => {
                self.idle = true;
                Advance::Idle
            }
            Some(least) => {
                self.idle = false;
                if least > self.combined {
                    self.combined = least;
                    Advance::To(least)
                } else {
                    Advance::None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_watermark_counts_and_an_idle_input_does_not() {
        let mut tracker = WatermarkTracker::new(2);
        assert_eq!(tracker.advance(0, EventTime(10)), Advance::None);
        assert_eq!(tracker.advance(1, EventTime(5)), Advance::To(EventTime(5)));
        assert_eq!(tracker.set_idle(1), Advance::To(EventTime(10)));
        assert_eq!(tracker.advance(1, EventTime(7)), Advance::None, "never back");
        assert_eq!(tracker.current(), EventTime(10));
    }

    #[test]
    fn a_task_is_idle_once_when_all_its_inputs_are() {
        let mut tracker = WatermarkTracker::new(2);
        assert_eq!(tracker.set_idle(0), Advance::None);
        assert_eq!(tracker.set_idle(1), Advance::Idle);
        assert_eq!(tracker.set_idle(1), Advance::None);
        assert_eq!(tracker.advance(1, EventTime(3)), Advance::To(EventTime(3)));
    }
}
