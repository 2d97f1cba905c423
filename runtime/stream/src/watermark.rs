//! Watermarks of several inputs: the least counts, and an idle input does not.
//!
//! Tasks that hold rows back until a watermark passes them, as those of a window do, all read the same senders, but not at
//! the same pace. So one of them may be idle still, or idle already, while another has gone further; rows that the first
//! holds come out only when it goes as far. Their inputs are therefore of one group: they are idle together, when all of
//! them are and have come equally far, or not at all. A source's task is a group of its own.

use std::collections::BTreeMap;

use crate::EventTime;

/// Combines the watermarks of a task's inputs.
///
/// The combined watermark never goes back. When all groups are idle it is the greatest that any input has come to, in
/// whatever order they became so, and the task is idle itself. An input that has ended holds nothing back; that all has
/// ended ([`EventTime::MAX`]) is only known when every input has, as idle ones may have rows later.
#[derive(Clone, Debug)]
pub struct WatermarkTracker {
    inputs: Vec<Input>,
    groups: Vec<Vec<usize>>,
    combined: EventTime,
    idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Input {
    watermark: EventTime,
    /// How far it had come when it had not ended.
    reached: EventTime,
    idle: bool,
}

/// What changed for those downstream, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// The task is no longer idle.
    pub active: bool,
    /// The combined watermark rose to this.
    pub to: Option<EventTime>,
    /// Every input has become idle.
    pub idle: bool,
}

impl WatermarkTracker {
    /// A tracker of inputs of these groups, which have said nothing yet.
    pub fn new<G: Ord>(inputs: impl IntoIterator<Item = G>) -> Self {
        let mut groups: BTreeMap<G, Vec<usize>> = BTreeMap::new();
        let mut count = 0;
        for group in inputs {
            groups.entry(group).or_default().push(count);
            count += 1;
        }
        let input = Input { watermark: EventTime::MIN, reached: EventTime::MIN, idle: false };
        Self {
            inputs: vec![input; count],
            groups: groups.into_values().collect(),
            combined: EventTime::MIN,
            idle: false,
        }
    }

    /// The combined watermark so far.
    pub fn current(&self) -> EventTime {
        self.combined
    }

    /// Input `index` says that its watermark is `watermark`; that also ends its idleness.
    pub fn advance(&mut self, index: usize, watermark: EventTime) -> Advance {
        let input = &mut self.inputs[index];
        input.watermark = input.watermark.max(watermark);
        if watermark < EventTime::MAX {
            input.reached = input.reached.max(watermark);
        }
        input.idle = false;
        self.combine()
    }

    /// Input `index` has nothing to say for now.
    pub fn set_idle(&mut self, index: usize) -> Advance {
        self.inputs[index].idle = true;
        self.combine()
    }

    fn combine(&mut self) -> Advance {
        let (mut least, mut some_idle) = (None, false);
        for group in &self.groups {
            if self.is_idle(group) {
                some_idle = true;
            } else {
                least = group.iter().map(|input| self.inputs[*input].watermark).chain(least).min();
            }
        }
        let (to, idle) = match least {
            Some(least) if least < EventTime::MAX || !some_idle => (Some(least), false),
            _ => (self.inputs.iter().map(|input| input.reached).max(), true),
        };
        let to = to.filter(|to| *to > self.combined);
        let advance = Advance { active: self.idle && !idle, to, idle: idle && !self.idle };
        self.combined = to.unwrap_or(self.combined);
        self.idle = idle;
        advance
    }

    fn is_idle(&self, group: &[usize]) -> bool {
        let first = self.inputs[group[0]].watermark;
        group.iter().map(|input| &self.inputs[*input]).all(|input| input.idle && input.watermark == first)
    }
}

#[cfg(test)]
mod tests;
