//! The compiled plan: a graph of sources, transforms and sinks whose every column has a type and whose every expression
//! is physical.
//!
//! ```text
//! source ── branch steps ─┬─ keyed stage ── keyed stage ── … ── sink
//! source ── branch steps ─┘   (window,       (top n)
//!                              running,
//!                              distinct)
//! ```
//!
//! Batches between nodes carry event time ([`EVENT_TIME_COLUMN`]) in column 0; a changelog's carry the operation
//! ([`OP_COLUMN`]) in column 1. Column numbers below count these.
//!
//! [`EVENT_TIME_COLUMN`]: millrace_stream::EVENT_TIME_COLUMN
//! [`OP_COLUMN`]: millrace_stream::OP_COLUMN

use std::{collections::BTreeMap, sync::Arc};

use arrow::{compute::SortOptions, datatypes::SchemaRef};
use datafusion_physical_expr::{PhysicalExpr, aggregate::AggregateFunctionExpr};
use millrace_crds::{PipelineSpec, SinkSpec, SourceSpec, WindowSpec};
use millrace_stream::{NodeName, Revision, StageId};
use serde::{Deserialize, Serialize};

/// A pipeline with the Windows and Sinks that it names: all that a plan depends on, and what a manifest stores of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSpec {
    /// The Pipeline's name.
    pub name: String,
    /// The Pipeline's spec.
    pub pipeline: PipelineSpec,
    /// The Windows that its transforms name.
    pub windows: BTreeMap<String, WindowSpec>,
    /// The Sinks that its outputs name.
    pub sinks: BTreeMap<String, SinkSpec>,
}

/// A compiled pipeline.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was compiled from.
    pub spec: ResolvedSpec,
    /// The content hash of `spec`.
    pub revision: Revision,
    /// In an order in which every node stands after its inputs.
    pub nodes: Vec<Node>,
    /// How many tasks a keyed stage has.
    pub parallelism: u32,
    /// What is odd but does not keep the pipeline from running.
    pub warnings: Vec<Warning>,
}

/// Something odd that does not keep a pipeline from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The field that it is about, such as `spec.transforms[1]`.
    pub path: String,
    /// What is odd.
    pub message: String,
}

/// A source, a transform or a sink.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the plan. A sink's is `<from>-><sink>`.
    pub name: NodeName,
    /// What it does.
    pub kind: NodeKind,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Brings rows in.
    Source(SourceNode),
    /// One SELECT.
    Transform(TransformNode),
    /// Takes rows out.
    Sink(SinkNode),
}

/// Which of a node's outputs is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutputName {
    /// The rows themselves.
    Main,
    /// `.late`: the rows that came after their window was closed for good, as the window's input had them.
    Late,
    /// `.errors`: the rows that could not be decoded, as [`errors_schema`](crate::errors_schema) says.
    Errors,
}

/// An edge: one output of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input {
    /// The node that the rows come from.
    pub node: NodeName,
    /// Which of its outputs.
    pub output: OutputName,
}

/// Brings rows in.
#[derive(Clone, Debug)]
pub struct SourceNode {
    /// The connector, the format and what to do with bad rows.
    pub spec: SourceSpec,
    /// Every declared column, in order, without event time: what the format could decode.
    pub declared: SchemaRef,
    /// The declared columns that something reads, ascending: what the format has to decode.
    pub read: Vec<usize>,
    /// The column, among `declared`, that holds event time; without one it is the time of reading. It stands in `read`
    /// only where something else than the event time needs it.
    pub event_time: Option<usize>,
    /// Keeps the rows for which it is true. Over [`Self::schema`]; the conjunction of what every reader filters by, where
    /// there is only one reader.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Event time, then the columns that `read` names.
    pub schema: SchemaRef,
}

/// One SELECT: stateless branches that meet, then any number of keyed stages.
#[derive(Clone, Debug)]
pub struct TransformNode {
    /// The inputs: one, or those of a UNION ALL. Every branch ends with the same schema.
    pub branches: Vec<Branch>,
    /// What needs rows with the same key in the same task.
    pub keyed: Vec<KeyedStage>,
    /// What the transform emits: event time, the operation if it is a changelog, then the select list.
    pub schema: SchemaRef,
    /// The key columns (by number in `schema`) if it is a changelog; `None` if it is append-only.
    pub changelog: Option<Vec<usize>>,
    /// The schema of the `.late` output, for a transform that has one.
    pub late: Option<SchemaRef>,
}

/// An input and what is done to its rows before they meet those of other branches.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Where the rows come from.
    pub input: Input,
    /// Applied in order.
    pub steps: Vec<Step>,
}

/// What is done to a batch without remembering anything.
#[derive(Clone, Debug)]
pub enum Step {
    /// Keeps the rows for which it is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes a column for each expression; the first is event time.
    Project {
        /// One for each column of `schema`.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// What comes out.
        schema: SchemaRef,
    },
    /// Makes a row of each element of list columns; an empty or null list makes none.
    Unnest {
        /// The list columns, which run in step; a shorter one is filled up with nulls.
        columns: Vec<usize>,
        /// What comes out: the same columns, with those lists replaced by their elements.
        schema: SchemaRef,
    },
}

/// A stage that is preceded by an exchange on its key.
#[derive(Clone, Debug)]
pub struct KeyedStage {
    /// The transform's name, with `.top`, or a number from `.2`, for stages after the first.
    pub id: StageId,
    /// The columns that the exchange hashes. Empty: all rows go to one task.
    pub exchange: Vec<usize>,
    /// What remembers.
    pub op: KeyedOp,
    /// What is done with the op's rows.
    pub tail: Vec<Step>,
    /// A digest of what must not change for stored state to be readable: key types, aggregates and their state types.
    pub state_signature: String,
}

/// What a keyed stage does.
#[derive(Clone, Debug)]
pub enum KeyedOp {
    /// Windowed GROUP BY.
    Window(WindowAggregate),
    /// The first n of each window, or of each group in it.
    Top(TopN),
    /// GROUP BY without a window.
    Running(RunningAggregate),
    /// DISTINCT ON with `within`.
    Distinct(Distinct),
}

/// Windowed GROUP BY. Its input is `[event time, keys.., arguments and filters.., pass-through..]`.
#[derive(Clone, Debug)]
pub struct WindowAggregate {
    /// The Window's name.
    pub window: String,
    /// How rows fall into windows.
    pub def: WindowDef,
    /// The schema of the input.
    pub input: SchemaRef,
    /// The input columns that make the key, in order. May be empty: one group.
    pub keys: Vec<usize>,
    /// In the order of their columns in `output`.
    pub aggregates: Vec<Aggregate>,
    /// The input columns that each result row of a rolling window carries over from its own row, in order. Empty for the
    /// other kinds of window.
    pub carried: Vec<usize>,
    /// The input columns that make a row of the `.late` output, in order, event time first: a projection of `input`
    /// to [`TransformNode::late`]. Empty where nothing takes late rows.
    pub late: Vec<usize>,
    /// `[event time, window_start, window_end, window_pane, keys.., aggregates..]`; a result's event time is its window's
    /// last millisecond. Window bounds are `Timestamp(Microsecond, "UTC")`, `window_pane` is `Int32`: 0 for the result at
    /// the window's end, then 1, 2, .. for each correction by rows within the allowed lateness. For a rolling window:
    /// one row an input row, `[event time, window_start, window_end, window_pane, keys.., carried.., aggregates..]`, whose
    /// event time and `window_end` are that row's and whose `window_start` is `range_ms` before it, with the aggregates over
    /// the trailing range.
    pub output: SchemaRef,
}

/// How rows fall into windows. Times and lengths in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowDef {
    /// The kind of window and its lengths.
    pub kind: WindowKind,
    /// How long after its end a window still takes rows, each of which corrects its result.
    pub allowed_lateness_ms: i64,
    /// What happens to rows that come later still.
    pub late_rows: LateRows,
}

/// The kinds of window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowKind {
    /// Every `size_ms`, aligned to the epoch of time (and `offset_ms` after it).
    Tumbling {
        /// Length.
        size_ms: i64,
        /// Shift of every window's start.
        offset_ms: i64,
    },
    /// `size_ms` long, one starting every `slide_ms`.
    Hopping {
        /// Length.
        size_ms: i64,
        /// Distance between starts.
        slide_ms: i64,
        /// Shift of every window's start.
        offset_ms: i64,
    },
    /// For each row, the rows of its key in `(t - range_ms, t]`.
    Rolling {
        /// Length.
        range_ms: i64,
    },
    /// Rows of a key that are less than `gap_ms` apart.
    Session {
        /// The silence that ends a session.
        gap_ms: i64,
    },
}

/// What happens to rows that come after their window is closed for good. They are counted in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LateRows {
    /// They are dropped.
    Drop,
    /// They go to the `.late` output.
    SideOutput,
}

/// One aggregate of a GROUP BY, over columns that the branch has already computed.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// DataFusion's aggregate: makes the accumulator, knows the state's fields.
    pub call: Arc<AggregateFunctionExpr>,
    /// The input columns that are handed to the accumulator: the arguments (literal ones too, as columns of that value),
    /// then what the call is ordered by, as DataFusion's accumulators expect. Empty for [`NativeAggregate::CountRows`].
    pub args: Vec<usize>,
    /// The Boolean input column that says which rows count (FILTER).
    pub filter: Option<usize>,
    /// Set where the engine has a path of its own for it.
    pub native: Option<NativeAggregate>,
}

/// The aggregates for which the engine has a path of its own, on 64-bit integers and floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NativeAggregate {
    /// Counts rows: `count(*)`.
    CountRows,
    /// Counts rows whose argument is not null.
    Count,
    /// Sum; `Int64`, `UInt64` or `Float64`.
    Sum,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Mean; the argument has been cast to `Float64`.
    Avg,
}

/// The first `limit` rows, in order, of each window and partition. Its input's event time is the windows' last millisecond
/// (equal event times: the same window).
#[derive(Clone, Debug)]
pub struct TopN {
    /// The schema of input and output, but for the row number that may be added at the end of the output.
    pub input: SchemaRef,
    /// The columns that part a window's rows. Empty: the whole window.
    pub partition_by: Vec<usize>,
    /// The order. Ties are broken by the remaining columns, so that a replay gives the same rows.
    pub order_by: Vec<(usize, SortOptions)>,
    /// How many rows are kept.
    pub limit: usize,
    /// Whether a `UInt64` column with the row number, from 1, is added at the end.
    pub row_number: bool,
    /// What comes out.
    pub output: SchemaRef,
}

/// GROUP BY without a window: emits the rows that changed. Its input is like a [`WindowAggregate`]'s.
#[derive(Clone, Debug)]
pub struct RunningAggregate {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The input columns that make the key.
    pub keys: Vec<usize>,
    /// In the order of their columns in `output`.
    pub aggregates: Vec<Aggregate>,
    /// The least time between two emissions, in milliseconds.
    pub emit_every_ms: u64,
    /// `[event time, operation, keys.., aggregates..]`.
    pub output: SchemaRef,
}

/// DISTINCT ON: the first row of each key within a span of event time.
#[derive(Clone, Debug)]
pub struct Distinct {
    /// The schema of input and output.
    pub input: SchemaRef,
    /// The columns that make the key.
    pub keys: Vec<usize>,
    /// For how long after a row its repeats are dropped, in milliseconds.
    pub within_ms: i64,
    /// The columns that late rows take along to the side output; empty if nothing reads it.
    pub late: Vec<usize>,
}

/// Takes rows out.
#[derive(Clone, Debug)]
pub struct SinkNode {
    /// Where the rows come from.
    pub input: Input,
    /// The Sink's name.
    pub sink: String,
    /// The Sink's spec.
    pub spec: SinkSpec,
    /// The columns that the sink writes: the input's, without event time and operation.
    pub schema: SchemaRef,
    /// The key columns (by number in `schema`) of a changelog.
    pub changelog: Option<Vec<usize>>,
}

impl Plan {
    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == *name)
    }
}

impl KeyedOp {
    /// The schema of what goes in.
    pub fn input(&self) -> &SchemaRef {
        match self {
            Self::Window(op) => &op.input,
            Self::Top(op) => &op.input,
            Self::Running(op) => &op.input,
            Self::Distinct(op) => &op.input,
        }
    }

    /// The schema of what comes out, before the stage's tail.
    pub fn output(&self) -> &SchemaRef {
        match self {
            Self::Window(op) => &op.output,
            Self::Top(op) => &op.output,
            Self::Running(op) => &op.output,
            Self::Distinct(op) => &op.input,
        }
    }
}
