//! Rates of what is counted, over the last seconds.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Over how long a rate is taken.
const SPAN: Duration = Duration::from_secs(10);

/// What a node has counted since the process started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows given out.
    pub rows_out: u64,
    /// For how long its tasks waited for room downstream.
    pub waited_ns: u64,
}

/// What came in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Rows taken in.
    pub rows_in: f64,
    /// Rows given out.
    pub rows_out: f64,
    /// Seconds of waiting, of all tasks together.
    pub waited: f64,
}

/// The counts of the last seconds, by node.
#[derive(Debug, Default)]
pub struct Rates {
    noted: VecDeque<(Duration, BTreeMap<String, Counts>)>,
}

impl Rates {
    /// Notes what has been counted at `now`, of a clock that never goes back.
    pub fn note(&mut self, now: Duration, counts: BTreeMap<String, Counts>) {
        while self.noted.front().is_some_and(|(at, _)| now.saturating_sub(*at) > SPAN) {
            self.noted.pop_front();
        }
        self.noted.push_back((now, counts));
    }

    /// The rates at `now`, at which `counts` have been counted. A node that was not there before, or whose counts began
    /// anew, has none.
    pub fn at(&self, now: Duration, counts: &BTreeMap<String, Counts>) -> BTreeMap<String, Rate> {
        let rate = |(name, counted): (&String, &Counts)| {
            let noted = |(at, noted): &(Duration, BTreeMap<String, Counts>)| Some((*at, *noted.get(name)?));
            let (at, before) = self.noted.iter().find_map(noted)?;
            let seconds = now.saturating_sub(at).as_secs_f64();
            if seconds < 0.1 {
                return None;
            }
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rate = Rate {
                rows_in: rate(counted.rows_in, before.rows_in),
                rows_out: rate(counted.rows_out, before.rows_out),
                waited: rate(counted.waited_ns, before.waited_ns) / 1e9,
            };
            Some((name.clone(), rate))
        };
        counts.iter().filter_map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rows_in: u64) -> BTreeMap<String, Counts> {
        BTreeMap::from([("n".to_owned(), Counts { rows_in, rows_out: rows_in / 2, waited_ns: 1_000_000 * rows_in })])
    }

    #[test]
    fn a_rate_is_over_the_last_seconds_only() {
        let mut rates = Rates::default();
        assert!(rates.at(Duration::ZERO, &counted(5)).is_empty());
        for second in 0..=100 {
            rates.note(Duration::from_secs(second), counted(if second < 50 { 0 } else { (second - 50) * 100 }));
        }
        let rate = rates.at(Duration::from_secs(101), &counted(5_100))["n"];
        assert_eq!(rate, Rate { rows_in: 100.0, rows_out: 50.0, waited: 0.1 });
        assert!(rates.noted.len() <= 12);
    }

    #[test]
    fn a_node_that_has_just_come_has_a_rate_of_its_own() {
        let mut rates = Rates::default();
        rates.note(Duration::ZERO, BTreeMap::new());
        rates.note(Duration::from_secs(1), counted(0));
        assert_eq!(rates.at(Duration::from_secs(3), &counted(100))["n"].rows_in, 50.0);
    }
}
