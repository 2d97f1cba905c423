//! What happens to a task's rows after its head: the stateless links, then the exchange.
//!
//! [`Router::route`] works out which rows go where; [`Router::flush`] sends them, when there is room. Between the two the
//! rows lie in the router, so that a task can do something else while it waits, and give the wait up for a barrier
//! ([`Router::flush_over`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array},
    compute::take_record_batch,
    error::ArrowError,
};
use millrace_plan::OutputName;
use millrace_stream::{KeyGroup, Message, key_hash::hash_columns};

use crate::{
    channel::{Closed, Load, Sender},
    metrics::Counter,
    stages::{Link, Route, Target},
    steps::{self, Left, StepError},
};

/// Carries a task's rows, watermarks and barriers on.
#[derive(Debug)]
pub struct Router {
    outputs: BTreeMap<OutputName, Vec<Target>>,
    links: Vec<(Link, Arc<Counter>)>,
    edges: Vec<OutEdge>,
    hashes: Vec<u64>,
    /// What is routed and not sent, in order.
    routed: VecDeque<Routed>,
    /// What links are to make when that is sent, the last first.
    left: Vec<(usize, Vec<Left>)>,
}

/// Rows for one receiver.
#[derive(Debug)]
struct Routed {
    edge: usize,
    task: usize,
    batch: RecordBatch,
    load: Load,
}

/// An edge with the channels of this task's receivers.
#[derive(Debug)]
pub struct OutEdge {
    /// How rows are spread over `senders`.
    pub route: Route,
    /// One a receiving task, in order.
    pub senders: Vec<Sender>,
}

/// Why rows could not be carried on.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// An expression failed on the data.
    #[error("an expression failed in {node}")]
    Expression {
        /// The transform.
        node: String,
        /// Why.
        #[source]
        source: StepError,
    },
    /// The rows could not be parted by key.
    #[error("rows could not be parted by key")]
    Exchange(#[from] ArrowError),
    /// A receiver is gone.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Router {
    /// Routes by these links and edges; `counter` gives each transform its counter.
    pub fn new(
        outputs: BTreeMap<OutputName, Vec<Target>>,
        links: Vec<Link>,
        edges: Vec<OutEdge>,
        counter: impl Fn(&str) -> Arc<Counter>,
    ) -> Self {
        let counted = |link: Link| {
            let rows = counter(&link.node.0);
            (link, rows)
        };
        let links = links.into_iter().map(counted).collect();
        Self { outputs, links, edges, hashes: Vec::new(), routed: VecDeque::new(), left: Vec::new() }
    }

    /// Carries rows of one of the head's outputs through the links, up to the channels.
    pub fn route(&mut self, output: OutputName, batch: RecordBatch) -> Result<(), RouteError> {
        let Some(targets) = self.outputs.get(&output) else { return Ok(()) };
        let pending = targets.iter().rev().map(|target| (*target, batch.clone())).collect();
        drop(batch);
        self.carry(pending)
    }

    fn carry(&mut self, mut pending: Vec<(Target, RecordBatch)>) -> Result<(), RouteError> {
        while let Some((target, batch)) = pending.pop() {
            match target {
                Target::Edge(edge) => self.route_over(edge, batch)?,
                Target::Link(index) => {
                    let mut left = Vec::new();
                    let applied = steps::apply(&self.links[index].0.steps, batch, &mut left);
                    pending.extend(self.beyond(index, applied, left)?);
                }
            }
        }
        Ok(())
    }

    /// Makes more of what was left for later. Whether there was anything.
    fn go_on(&mut self) -> Result<bool, RouteError> {
        let Some((index, mut left)) = self.left.pop() else { return Ok(false) };
        let applied = steps::go_on(&self.links[index].0.steps, &mut left);
        let pending = self.beyond(index, applied, left)?;
        self.carry(pending)?;
        Ok(true)
    }

    /// Where the rows of a link go on, the last first.
    fn beyond(
        &mut self,
        index: usize,
        applied: Result<Option<RecordBatch>, StepError>,
        left: Vec<Left>,
    ) -> Result<Vec<(Target, RecordBatch)>, RouteError> {
        let (link, counter) = &self.links[index];
        let applied = applied.map_err(|source| RouteError::Expression { node: link.node.0.clone(), source })?;
        if !left.is_empty() {
            self.left.push((index, left));
        }
        let Some(rows) = applied else { return Ok(Vec::new()) };
        if link.is_output {
            counter.add(rows.num_rows() as u64);
        }
        Ok(link.then.iter().rev().map(|next| (*next, rows.clone())).collect())
    }

    /// Whether there are rows that are made only when others have been sent.
    pub fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Sends what is routed, each batch when its channel has room. Cancel-safe: what was not sent stays routed.
    pub async fn flush(&mut self) -> Result<(), RouteError> {
        loop {
            while let Some(Routed { edge, task, load, .. }) = self.routed.front() {
                self.edges[*edge].senders[*task].room_for(*load).await?;
                self.send_first()?;
            }
            if !self.go_on()? {
                return Ok(());
            }
        }
    }

    /// Sends what is routed, whether there is room or not.
    pub fn flush_over(&mut self) -> Result<(), RouteError> {
        loop {
            while !self.routed.is_empty() {
                self.send_first()?;
            }
            if !self.go_on()? {
                return Ok(());
            }
        }
    }

    /// Whether more is under way to some receiver than may be, after [`Self::flush_over`].
    pub fn is_over_budget(&self) -> bool {
        self.senders().any(Sender::is_over_budget)
    }

    /// Waits until every receiver is within its budget again. Cancel-safe.
    pub async fn within_budget(&self) -> Result<(), Closed> {
        for sender in self.senders() {
            sender.within_budget().await?;
        }
        Ok(())
    }

    /// Sends what carries no rows to every receiver, once.
    pub fn send_control(&self, message: &Message) -> Result<(), Closed> {
        self.senders().try_for_each(|sender| sender.send_control(message.clone()))
    }

    /// For how long this task has waited for room downstream, in nanoseconds.
    pub fn waited_ns(&self) -> u64 {
        self.senders().map(Sender::waited_ns).sum()
    }

    fn senders(&self) -> impl Iterator<Item = &Sender> {
        self.edges.iter().flat_map(|edge| &edge.senders)
    }

    fn send_first(&mut self) -> Result<(), Closed> {
        let Some(Routed { edge, task, batch, load }) = self.routed.pop_front() else { return Ok(()) };
        self.edges[edge].senders[task].send_over(batch, load)
    }

    fn route_over(&mut self, number: usize, batch: RecordBatch) -> Result<(), RouteError> {
        let edge = &self.edges[number];
        let mut push = |task: usize, batch: RecordBatch| {
            let load = Load::of(&batch);
            self.routed.push_back(Routed { edge: number, task, batch, load });
        };
        match (&edge.route, edge.senders.len()) {
            (Route::Forward, 0) => {}
            (_, 1) | (Route::Forward, _) => push(0, batch),
            (Route::Hash(columns), senders) => {
                let keys: Vec<ArrayRef> = columns.iter().map(|column| batch.column(*column).clone()).collect();
                for (task, rows) in part(&keys, &mut self.hashes, senders).into_iter().enumerate() {
                    if !rows.is_empty() {
                        push(task, take_record_batch(&batch, &UInt32Array::from(rows))?);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The row numbers that go to each of `tasks` tasks.
fn part(keys: &[ArrayRef], hashes: &mut Vec<u64>, tasks: usize) -> Vec<Vec<u32>> {
    hash_columns(keys, hashes);
    let mut parts = vec![Vec::with_capacity(hashes.len() / tasks + 16); tasks];
    for (row, hash) in hashes.iter().enumerate() {
        parts[KeyGroup::of_hash(*hash).task(tasks as u32) as usize].push(row as u32);
    }
    parts
}
