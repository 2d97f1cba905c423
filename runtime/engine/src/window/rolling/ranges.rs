//! Aggregates over ranges of rows that overlap.
//!
//! Rows are cut into blocks, whose states, then the merged states of aligned pairs, of pairs of pairs and so on make a
//! tree. A range is the rows before its first whole block, at most two nodes a level, and the rows after its last whole
//! block. All of it is a few calls of the accumulators a level, whatever the aggregate. (Segment trees over blocks, as in
//! Tangwongsan et al., *General Incremental Sliding-Window Aggregation*, VLDB 2015, where they are kept; here one is made
//! of the rows at hand.)
//!
//! ```text
//! level 1   [0             1] [2             3]          the range 3..29, in blocks of 8, is
//! level 0   [0..8]    [8..16] [16..24] [24..32]          rows 3..8 + [8..16] + [16..24] + rows 24..29
//! ```
//!
//! What there is in memory at once is bounded by three things. A block is the longer the more its state takes beside one
//! row; where the engine's own accumulators take no more for a state than for a row, it is one row. Levels are made only
//! while all of them take no more than the rows do, or than [`BYTES_AT_ONCE`]: a state such as that of `array_agg` holds on
//! each level all that there is. And ranges are taken one part after another, so many at a time as their states are expected
//! to take [`BYTES_AT_ONCE`], by what those before took.

use std::ops::Range;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array},
    compute,
};

use crate::{
    aggregate::{Accumulators, Aggregates},
    channel::{Load, column_bytes},
    group::NO_GROUP,
    operator::{EMITTED_AT_ONCE, OperatorError},
};

/// What the states of a part of the ranges, or the rows that are gathered for one call, may take.
pub(in crate::window) const BYTES_AT_ONCE: usize = 1 << 25;
/// Rows of the shortest block of other than native aggregates, and of the longest.
const BLOCK_ROWS: Range<usize> = 8..1024;
/// So many bytes of state cost about as much to merge as one row to take.
const BYTES_A_ROW: usize = 16;
/// How much less one more row of a range may be expected to take than in the part before.
const SHRINK: usize = 4;

/// The aggregates over ranges of rows, given in parts.
pub(in crate::window) struct Ranges {
    aggregates: Aggregates,
    /// The columns that the aggregates read.
    rows: RecordBatch,
    /// What they take.
    rows_bytes: usize,
    ranges: Vec<Range<usize>>,
    block_rows: usize,
    levels: Vec<Level>,
    /// The first range whose aggregates have not been given.
    next: usize,
    bytes_at_once: usize,
    /// What the accumulators of one range of one row take.
    bytes_a_range: usize,
    /// What each row of a range is expected to add to that.
    bytes_a_row: f64,
}

/// The states of aligned nodes of equally many rows, as far as ranges need them.
struct Level {
    /// Where each node's state is; [`NO_GROUP`] if no range needs it.
    places: Vec<u32>,
    states: Vec<ArrayRef>,
}

/// What a range is made of.
enum Piece {
    Rows(Range<usize>),
    Node { level: usize, node: usize },
}

/// The aggregates over some ranges.
pub(in crate::window) struct Totals {
    pub(in crate::window) ranges: Range<usize>,
    /// One column an aggregate, one row a range.
    pub(in crate::window) results: Vec<ArrayRef>,
}

impl Ranges {
    /// The aggregates over each of `ranges`, none of which is empty, of the rows that `order` picks from `rows`.
    pub(in crate::window) fn new(
        aggregates: &Aggregates,
        rows: &RecordBatch,
        order: &[u32],
        ranges: Vec<Range<usize>>,
        bytes_at_once: usize,
    ) -> Result<Self, OperatorError> {
        let columns = aggregates.columns_read();
        let aggregates = aggregates.reading(&columns);
        let rows = take(&rows.project(&columns)?, order)?;
        let bytes_a_range = match rows.num_rows() {
            0 => 0,
            _ => {
                let mut one = aggregates.accumulators()?;
                one.update(&rows.slice(0, 1), &[0], 1)?;
                one.memory_bytes()
            }
        };
        let block_rows = match aggregates.all_native() {
            true => 1,
            false => (bytes_a_range / BYTES_A_ROW).clamp(BLOCK_ROWS.start, BLOCK_ROWS.end),
        };
        let mut made = Self {
            aggregates,
            rows_bytes: Load::of(&rows).bytes,
            rows,
            ranges,
            block_rows,
            levels: Vec::new(),
            next: 0,
            bytes_at_once,
            bytes_a_range,
            bytes_a_row: bytes_a_range as f64,
        };
        made.build()?;
        Ok(made)
    }

    /// The pieces of a range, of which nodes are of the first `levels` levels.
    fn pieces(&self, range: &Range<usize>, levels: usize, mut found: impl FnMut(Piece)) {
        let (mut from, mut to) = (range.start.div_ceil(self.block_rows), range.end / self.block_rows);
        if from >= to || levels == 0 {
            return found(Piece::Rows(range.clone()));
        }
        found(Piece::Rows(range.start..from * self.block_rows));
        found(Piece::Rows(to * self.block_rows..range.end));
        for level in 0..levels {
            if level + 1 == levels {
                (from..to).for_each(|node| found(Piece::Node { level, node }));
                return;
            }
            if from % 2 == 1 && from < to {
                found(Piece::Node { level, node: from });
                from += 1;
            }
            if from < to && to % 2 == 1 {
                to -= 1;
                found(Piece::Node { level, node: to });
            }
            (from, to) = (from / 2, to / 2);
        }
    }

    /// Makes the levels.
    fn build(&mut self) -> Result<(), OperatorError> {
        let blocks = self.rows.num_rows() / self.block_rows;
        let sizes: Vec<usize> =
            std::iter::successors(Some(blocks), |nodes| Some(nodes / 2)).take_while(|n| *n > 0).collect();
        let mut needed: Vec<Vec<bool>> = sizes.iter().map(|nodes| vec![false; *nodes]).collect();
        for range in &self.ranges {
            self.pieces(range, sizes.len(), |piece| {
                if let Piece::Node { level, node } = piece {
                    needed[level][node] = true;
                }
            });
        }
        for level in (1..needed.len()).rev() {
            let (below, above) = needed.split_at_mut(level);
            let above = above[0].iter().enumerate().filter(|(_, needed)| **needed);
            above.for_each(|(node, _)| below[level - 1][2 * node..2 * node + 2].fill(true));
        }
        let most_bytes = self.rows_bytes.max(self.bytes_at_once);
        let mut bytes = 0;
        for needed in &needed {
            let nodes: Vec<usize> = (0..needed.len()).filter(|node| needed[*node]).collect();
            if nodes.is_empty() || bytes > most_bytes {
                return Ok(());
            }
            let mut accumulators = self.aggregates.accumulators()?;
            match self.levels.last() {
                None => {
                    let rows = |node: usize| node * self.block_rows..(node + 1) * self.block_rows;
                    let rows =
                        nodes.iter().enumerate().flat_map(|(place, node)| rows(*node).map(move |row| (row, place)));
                    self.update(&mut accumulators, rows)?;
                }
                Some(below) => {
                    let pairs = nodes.iter().flat_map(|node| [2 * node, 2 * node + 1]);
                    let pairs: UInt32Array = pairs.map(|node| Some(below.places[node])).collect();
                    let into: Vec<u32> = (0..nodes.len() as u32).flat_map(|place| [place, place]).collect();
                    let states = compute::take_arrays(&below.states, &pairs, None)?;
                    accumulators.merge(&states, &into, nodes.len())?;
                }
            }
            let mut places = vec![NO_GROUP; needed.len()];
            nodes.iter().zip(0..).for_each(|(node, place)| places[*node] = place);
            let states = accumulators.into_state()?;
            bytes += states.iter().map(|column| column_bytes(column)).sum::<usize>();
            self.levels.push(Level { places, states });
        }
        Ok(())
    }

    /// Gives rows to groups, which are numbered as they come; a few at a time, so that copies of wide rows are not many.
    fn update(
        &self,
        accumulators: &mut Accumulators,
        rows: impl Iterator<Item = (usize, usize)>,
    ) -> Result<(), OperatorError> {
        let bytes_a_row = self.rows_bytes / self.rows.num_rows().max(1) + 1;
        let at_once = (self.bytes_at_once / bytes_a_row).clamp(1, EMITTED_AT_ONCE);
        let (mut taken, mut into): (Vec<u32>, Vec<u32>) = Default::default();
        let mut groups = 0;
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            taken.clear();
            into.clear();
            for (row, group) in rows.by_ref().take(at_once) {
                taken.push(row as u32);
                into.push(group as u32);
                groups = groups.max(group + 1);
            }
            accumulators.update(&take(&self.rows, &taken)?, &into, groups)?;
        }
        Ok(())
    }

    /// How many of the ranges that are left are taken at once.
    fn part(&self) -> Range<usize> {
        let mut bytes = 0.0;
        let left = self.ranges[self.next..].iter().take(EMITTED_AT_ONCE);
        let fit = left.take_while(|range| {
            bytes += self.bytes_a_range as f64 + self.bytes_a_row * range.len() as f64;
            bytes <= self.bytes_at_once as f64
        });
        let fit = fit.count().max(1).min(self.ranges.len() - self.next);
        self.next..self.next + fit
    }

    /// The aggregates of the next ranges; none if all have been given.
    pub(in crate::window) fn next_part(&mut self) -> Result<Option<Totals>, OperatorError> {
        let part = self.part();
        if part.is_empty() {
            return Ok(None);
        }
        let ranges = &self.ranges[part.clone()];
        let mut totals = self.aggregates.accumulators()?;
        let mut rows: Vec<(Range<usize>, usize)> = Vec::new();
        let mut nodes: Vec<(Vec<u32>, Vec<u32>)> = vec![Default::default(); self.levels.len()];
        // Accumulators want groups to be numbered as they come: first those that have rows of their own, then the others by
        // the level of their lowest node.
        let mut places = vec![NO_GROUP; ranges.len()];
        let mut lowest = vec![0; ranges.len()];
        for (at, range) in ranges.iter().enumerate() {
            let mut first = usize::MAX;
            self.pieces(range, self.levels.len(), |piece| match piece {
                Piece::Rows(of_range) if of_range.is_empty() => {}
                Piece::Rows(of_range) => {
                    first = 0;
                    rows.push((of_range, at));
                }
                Piece::Node { level, node } => {
                    first = first.min(level + 1);
                    nodes[level].0.push(self.levels[level].places[node]);
                    nodes[level].1.push(at as u32);
                }
            });
            lowest[at] = first;
        }
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_by_key(|at| lowest[*at]);
        order.iter().zip(0..).for_each(|(at, place)| places[*at] = place);
        let known_after = |level: usize| lowest.iter().filter(|lowest| **lowest <= level).count();
        let rows = rows.into_iter().flat_map(|(rows, at)| {
            let place = places[at] as usize;
            rows.map(move |row| (row, place))
        });
        self.update(&mut totals, rows)?;
        for (level, (nodes, mut into)) in nodes.into_iter().enumerate().filter(|(_, (nodes, _))| !nodes.is_empty()) {
            into.iter_mut().for_each(|at| *at = places[*at as usize]);
            let states = compute::take_arrays(&self.levels[level].states, &UInt32Array::from(nodes), None)?;
            totals.merge(&states, &into, known_after(level + 1))?;
        }
        let beyond = totals.memory_bytes().saturating_sub(self.bytes_a_range * ranges.len());
        let of_rows = ranges.iter().map(|range| range.len()).sum::<usize>().max(1);
        self.bytes_a_row = (beyond as f64 / of_rows as f64).max(self.bytes_a_row / SHRINK as f64);
        let results = compute::take_arrays(&totals.evaluate()?, &UInt32Array::from(places), None)?;
        self.next = part.end;
        Ok(Some(Totals { ranges: part, results }))
    }
}

/// The rows that `order` picks, of as many columns as there are.
fn take(rows: &RecordBatch, order: &[u32]) -> Result<RecordBatch, OperatorError> {
    let columns = compute::take_arrays(rows.columns(), &UInt32Array::from(order.to_vec()), None)?;
    let options = RecordBatchOptions::new().with_row_count(Some(order.len()));
    Ok(RecordBatch::try_new_with_options(rows.schema(), columns, &options)?)
}
