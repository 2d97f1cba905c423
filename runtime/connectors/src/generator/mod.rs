//! Rows made up: from ranges of values, or Nexmark's persons, auctions and bids.
//!
//! Row `n` depends on the seed and on `n` alone, so any replay point gives the same rows again, and the rows are the same
//! whatever the parallelism. Rows are dealt out to [`LANES`] lanes, row `n` to lane `n % LANES`; a task has the lanes whose
//! number leaves its index when divided by the parallelism, and a lane's replay point is its next row. A task takes the
//! lanes that are furthest behind first, so one task alone makes all rows in order.
//!
//! Exactly once.

mod nexmark;
mod plain;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{array::ArrayRef, datatypes::SchemaRef};
use futures::future::BoxFuture;
use millrace_crds::{GeneratorSource as GeneratorSpec, MoveSourceSpec, SourceSpec};

use crate::{
    Lag, Read, ReplayPoint, Source, SourceContext, SourceError, SourceReader, SplitId,
    format::{batch, unusable},
};

/// Into how many lanes rows are dealt out: also the greatest parallelism.
pub const LANES: u32 = 64;

/// The form of a lane's replay point.
const VERSION: u64 = 1;

/// The generator as a source.
pub struct GeneratorSource {
    name: String,
    spec: GeneratorSpec,
}

impl GeneratorSource {
    /// The source of this spec.
    pub fn new(spec: &SourceSpec, generator: &GeneratorSpec) -> Self {
        Self { name: spec.name.clone(), spec: generator.clone() }
    }
}

impl Source for GeneratorSource {
    fn max_parallelism(&self) -> Option<u32> {
        Some(LANES)
    }

    fn is_bounded(&self) -> bool {
        self.spec.rows.is_some()
    }

    /// Each lane goes on with its first row that is not before the one that is asked for.
    fn moved(
        &self,
        to: &MoveSourceSpec,
        _restored: BTreeMap<SplitId, ReplayPoint>,
    ) -> Result<BTreeMap<SplitId, ReplayPoint>, SourceError> {
        let Some(row) = to.row else {
            return Err(unusable(format!("source {} is a generator: it goes on from a `row`", self.name)));
        };
        let lanes = u64::from(LANES);
        let next = |lane: u64| row.saturating_add((lane + lanes - row % lanes) % lanes);
        Ok((0..LANES).map(|lane| (lane_id(lane), point(next(u64::from(lane))))).collect())
    }

    fn open(&self, cx: SourceContext) -> BoxFuture<'_, Result<Box<dyn SourceReader>, SourceError>> {
        Box::pin(
            async move { Ok(Box::new(GeneratorReader::open(&self.name, &self.spec, cx)?) as Box<dyn SourceReader>) },
        )
    }
}

/// Makes the values of one column for rows by number.
trait Values: Send {
    fn values(&self, rows: &[u64]) -> ArrayRef;
}

struct GeneratorReader {
    split: SplitId,
    /// Number and next row.
    lanes: Vec<(u32, u64)>,
    /// How many rows there are in all.
    end: u64,
    schema: SchemaRef,
    columns: Vec<Box<dyn Values>>,
    cx: SourceContext,
    /// This task's share of the rate, in rows a second.
    rate: Option<f64>,
    opened_at: Duration,
    made: u64,
    ended: bool,
}

impl GeneratorReader {
    fn open(name: &str, spec: &GeneratorSpec, cx: SourceContext) -> Result<Self, SourceError> {
        let mut lanes = Vec::new();
        for lane in (0..LANES).filter(|lane| lane % cx.parallelism.max(1) == cx.index) {
            let next = match cx.restored.get(&lane_id(lane)) {
                None => u64::from(lane),
                Some(point) => {
                    let next = (point.0["version"] == VERSION).then(|| point.0["next"].as_u64()).flatten();
                    let next = next.filter(|next| next % u64::from(LANES) == u64::from(lane));
                    next.ok_or_else(|| unusable(format!("the replay point {} of source {name} is damaged", point.0)))?
                }
            };
            lanes.push((lane, next));
        }
        let columns = cx.schema.fields().iter().map(|field| {
            let column = match &spec.nexmark {
                Some(nexmark) => nexmark::column(nexmark, spec.seed, field.name()),
                None => plain::column(&spec.fields, spec.seed, field.name()),
            };
            column.ok_or_else(|| unusable(format!("the generator of source {name} makes no {}", field.name())))
        });
        Ok(Self {
            split: SplitId(format!("rows-{}", cx.index).into()),
            columns: columns.collect::<Result<_, _>>()?,
            rate: spec.rate.map(|rate| rate as f64 * lanes.len() as f64 / f64::from(LANES)),
            lanes,
            end: spec.rows.unwrap_or(u64::MAX),
            schema: Arc::clone(&cx.schema),
            opened_at: cx.clock.monotonic(),
            cx,
            made: 0,
            ended: false,
        })
    }

    /// The numbers of the next rows, at most `most`, in order as far as the lanes are level.
    fn take(&mut self, most: usize) -> Vec<u64> {
        let mut rows = Vec::with_capacity(most);
        let round = |next: u64| next / u64::from(LANES);
        while rows.len() < most {
            let Some(behind) = self.lanes.iter().map(|(_, next)| round(*next)).min() else { break };
            let before = rows.len();
            for (_, next) in &mut self.lanes {
                if round(*next) == behind && *next < self.end && rows.len() < most {
                    rows.push(*next);
                    *next = next.saturating_add(u64::from(LANES));
                }
            }
            if rows.len() == before {
                break;
            }
        }
        rows
    }

    /// How many rows may be made now, or how long to wait.
    fn allowed(&self) -> Result<usize, Duration> {
        let most = self.cx.batch_rows.max(1);
        let Some(rate) = self.rate else { return Ok(most) };
        let elapsed = self.cx.clock.monotonic().saturating_sub(self.opened_at).as_secs_f64();
        let due = (elapsed * rate) as u64;
        // Some twenty batches a second, where the rate is not lower than that.
        let least = ((rate / 20.0) as u64).clamp(1, most as u64);
        let ready = due.saturating_sub(self.made);
        if ready >= least {
            return Ok(ready.min(most as u64) as usize);
        }
        let wait = ((self.made + least) as f64 / rate.max(f64::MIN_POSITIVE) - elapsed).clamp(0.001, 1.0);
        Err(Duration::from_secs_f64(wait))
    }

    fn read(&mut self) -> Result<Read, SourceError> {
        if self.ended {
            return Ok(Read::Ended);
        }
        let most = match self.allowed() {
            Ok(most) => most,
            Err(wait) if self.lanes.iter().any(|(_, next)| *next < self.end) => return Ok(Read::Pending(wait)),
            Err(_) => 1,
        };
        let rows = self.take(most);
        if rows.is_empty() {
            self.ended = true;
            return Ok(Read::SplitEnded(self.split.clone()));
        }
        self.made += rows.len() as u64;
        let arrays = self.columns.iter().map(|column| column.values(&rows)).collect();
        let rows = batch(&self.schema, arrays, rows.len())?;
        let bytes = rows.get_array_memory_size() as u64;
        Ok(Read::Rows { split: self.split.clone(), rows, errors: None, bytes })
    }
}

impl SourceReader for GeneratorReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, SourceError>> {
        Box::pin(async move { self.read() })
    }

    fn replay_points(&self) -> Vec<(SplitId, ReplayPoint)> {
        self.lanes.iter().map(|(lane, next)| (lane_id(*lane), point(*next))).collect()
    }

    fn lag(&self) -> Option<Lag> {
        (self.end != u64::MAX).then(|| {
            let left = |next: u64| self.end.saturating_sub(next).div_ceil(u64::from(LANES));
            Lag::Rows(self.lanes.iter().map(|(_, next)| left(*next)).sum())
        })
    }
}

fn point(next: u64) -> ReplayPoint {
    ReplayPoint(serde_json::json!({"version": VERSION, "next": next}))
}

fn lane_id(lane: u32) -> SplitId {
    SplitId(format!("lane-{lane}").into())
}

/// Numbers that look random, of a seed, a purpose and a row.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn new(seed: u64, purpose: u64, row: u64) -> Self {
        Self(mix(seed ^ mix(purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mix(row))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 up to, not including, `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 up to, not including, 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Spreads every bit over all bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
