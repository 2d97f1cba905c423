//! Which slices there are and which windows they make, as arithmetic on event time.
//!
//! Windows begin every `slide` and are `size` long. A slice is `gcd(size, slide)` long, so that every window is a whole
//! number of slices and every row lies in exactly one slice.
//!
//! ```text
//! size 4, slide 2            0   2   4   6   8  10
//! slices                     ├───┼───┼───┼───┼───┤
//! windows                    ├───────┤
//!                                ├───────┤
//!                                    ├───────┤
//! ```
//!
//! A grid may be bounded: then it has only the windows that begin in a span of time ([`Grid::between`]).
//!
//! All arithmetic saturates: a row at the end of time falls in a window that ends there.

/// Aligned windows: tumbling ones are hopping ones whose slide is their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    size_ms: i64,
    slide_ms: i64,
    offset_ms: i64,
    slice_ms: i64,
    /// The start of the first window; the least number: there is none.
    first_ms: i64,
    /// The start of the last window; the greatest number: there is none.
    last_ms: i64,
}

impl Grid {
    /// Windows of `size_ms`, one starting every `slide_ms`, shifted by `offset_ms`. Lengths are at least 1.
    pub fn new(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Self {
        let (size_ms, slide_ms) = (size_ms.max(1), slide_ms.max(1));
        let slice_ms = gcd(size_ms, slide_ms);
        let offset_ms = offset_ms.rem_euclid(slide_ms);
        Self { size_ms, slide_ms, offset_ms, slice_ms, first_ms: i64::MIN, last_ms: i64::MAX }
    }

    /// The same windows, of which only those are there that begin from `from` up to, not including, `until`. Windows begin
    /// at both, unless they are the ends of time.
    pub fn between(self, from: i64, until: i64) -> Self {
        let last_ms = if until == i64::MAX { i64::MAX } else { until.saturating_sub(self.slide_ms) };
        Self { first_ms: from, last_ms, ..self }
    }

    /// The event times that fall in a window: from the first up to, not including, the second. There may be gaps between.
    pub fn span(&self) -> (i64, i64) {
        (self.first_ms, self.last_ms.saturating_add(self.size_ms))
    }

    /// The length of a window.
    pub fn size_ms(&self) -> i64 {
        self.size_ms
    }

    /// How many slices a window has.
    pub fn slices_per_window(&self) -> i64 {
        self.size_ms / self.slice_ms
    }

    /// The length of a slice.
    pub fn slice_ms(&self) -> i64 {
        self.slice_ms
    }

    /// The start of the slice that `time` lies in.
    #[inline]
    pub fn slice_of(&self, time: i64) -> i64 {
        floor(time, self.slice_ms, self.offset_ms)
    }

    /// The time after the slice that starts at `slice`.
    #[inline]
    pub fn slice_end(&self, slice: i64) -> i64 {
        slice.saturating_add(self.slice_ms)
    }

    /// The start of the last window that holds the slice; `None` if it falls between windows.
    fn last_window(&self, slice: i64) -> Option<i64> {
        let start = floor(slice, self.slide_ms, self.offset_ms).min(self.last_ms);
        (start >= self.first_ms && slice < start.saturating_add(self.size_ms)).then_some(start)
    }

    /// The end of the first window that holds the slice; `None` if it falls between windows.
    pub fn first_window_end(&self, slice: i64) -> Option<i64> {
        let last = self.last_window(slice)?;
        // Going back by whole slides, for as long as the slice is still inside.
        let back = (last.saturating_add(self.size_ms) - 1).saturating_sub(slice) / self.slide_ms * self.slide_ms;
        Some(last.saturating_sub(back).max(self.first_ms).saturating_add(self.size_ms))
    }

    /// The end of the last window that holds the slice; `None` if it falls between windows.
    pub fn last_window_end(&self, slice: i64) -> Option<i64> {
        Some(self.last_window(slice)?.saturating_add(self.size_ms))
    }

    /// The first window end that is greater than `time`.
    pub fn next_window_end(&self, time: i64) -> i64 {
        self.last_window_end_by(time).saturating_add(self.slide_ms)
    }

    /// The last window end that is not greater than `time`.
    pub fn last_window_end_by(&self, time: i64) -> i64 {
        let over = self.size_ms % self.slide_ms;
        let phase = self.offset_ms.checked_sub(self.slide_ms - over).filter(|phase| *phase >= 0);
        floor(time, self.slide_ms, phase.unwrap_or_else(|| self.offset_ms.saturating_add(over)))
    }

    /// The distance between two windows.
    pub fn slide_ms(&self) -> i64 {
        self.slide_ms
    }
}

/// The greatest `offset + k * step` that is not greater than `time`.
#[inline]
fn floor(time: i64, step: i64, offset: i64) -> i64 {
    time.saturating_sub(time.saturating_sub(offset).rem_euclid(step))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_of_a_slice_are_those_that_hold_its_rows() {
        for (size, slide, offset) in
            [(1, 1, 0), (10, 10, 3), (12, 4, -5), (10, 4, 1), (7, 5, 60), (3, 5, 2), (6, 9, -1)]
        {
            let grid = Grid::new(size, slide, offset);
            let starts: Vec<i64> = (-200..200).map(|k| k * slide + offset).collect();
            for time in -100..100 {
                let holding = starts.iter().filter(|start| (**start..**start + size).contains(&time));
                let ends: Vec<i64> = holding.map(|start| start + size).collect();
                let slice = grid.slice_of(time);
                assert!(slice <= time && time < grid.slice_end(slice), "{grid:?} at {time}");
                assert_eq!(grid.first_window_end(slice), ends.first().copied(), "{grid:?} at {time}");
                assert_eq!(grid.last_window_end(slice), ends.last().copied(), "{grid:?} at {time}");
                let next = starts.iter().map(|start| start + size).find(|end| *end > time);
                assert_eq!(Some(grid.next_window_end(time)), next, "{grid:?} at {time}");
                assert_eq!(grid.last_window_end_by(time), grid.next_window_end(time) - slide, "{grid:?} at {time}");
            }
        }
    }

    #[test]
    fn a_bounded_grid_has_the_windows_that_begin_in_its_span() {
        for (size, slide, offset) in [(10, 10, 3), (12, 4, -5), (10, 4, 1), (7, 5, 60), (3, 5, 2)] {
            let (from, until) = (2 * slide + offset, 9 * slide + offset);
            for (from, until) in [(from, i64::MAX), (i64::MIN, until), (from, until), (from, from + slide)] {
                let grid = Grid::new(size, slide, offset).between(from, until);
                let starts = (-200..200).map(|k| k * slide + offset).filter(|start| (from..until).contains(start));
                let starts: Vec<i64> = starts.collect();
                for time in -100..200 {
                    let holding = starts.iter().filter(|start| (**start..**start + size).contains(&time));
                    let ends: Vec<i64> = holding.map(|start| start + size).collect();
                    let slice = grid.slice_of(time);
                    assert_eq!(grid.first_window_end(slice), ends.first().copied(), "{grid:?} at {time}");
                    assert_eq!(grid.last_window_end(slice), ends.last().copied(), "{grid:?} at {time}");
                    let (first, after) = grid.span();
                    assert!(ends.is_empty() || (first..after).contains(&time), "{grid:?} at {time}");
                }
            }
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for time in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
            for grid in [Grid::new(10_000, 10_000, 3), Grid::new(60_000, 1_000, 0), Grid::new(i64::MAX, i64::MAX, -1)] {
                let slice = grid.slice_of(time);
                let _ = (grid.first_window_end(slice), grid.last_window_end(slice), grid.next_window_end(time));
            }
        }
    }
}
