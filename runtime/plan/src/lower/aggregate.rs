//! GROUP BY: the branch computes keys, arguments and filters; a keyed stage groups; the select list is done behind it.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, new_null_array},
    datatypes::{DataType, Field, FieldRef, SchemaRef},
};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::{
    Aggregate as LogicalAggregate, AggregateUDF, EmitTo, Expr, LogicalPlan,
    expr::{AggregateFunction, AggregateFunctionParams, Alias, NullTreatment},
};
use datafusion_physical_expr::{
    PhysicalSortExpr,
    aggregate::{AggregateExprBuilder, AggregateFunctionExpr},
    expressions::Literal,
};

use super::{
    Flow, Lowering, Physical, Stamp, as_column, column, flow,
    native::{Native, native, wide_sum},
    signature,
};
use crate::{
    columns::{event_time_field, type_name, with_marks},
    error::Fault,
    graph::{Aggregate, KeyedOp, KeyedStage, LateRows, RunningAggregate, WindowAggregate, WindowDef, WindowKind},
    nth_value::nth_value,
    pseudo,
};

/// An aggregate's call in an expression that gives one.
pub(super) struct Call<'a> {
    pub function: &'a AggregateFunction,
    pub name: String,
}

/// The columns that a stage gets beside event time, and where they are.
pub(super) struct Columns {
    exprs: Vec<(Physical, String)>,
    /// Where each expression is first.
    places: HashMap<Physical, usize>,
    first: usize,
}

impl Columns {
    pub fn new(flow: &Flow) -> Self {
        Self { exprs: Vec::new(), places: HashMap::new(), first: flow.marks() }
    }

    /// Adds a column.
    pub fn add(&mut self, expr: Physical, name: String) -> usize {
        let place = self.exprs.len() + self.first;
        self.places.entry(Arc::clone(&expr)).or_insert(place);
        self.exprs.push((expr, name));
        place
    }

    /// The column that is this expression; a new one if there is none.
    pub fn find_or_add(&mut self, expr: Physical, name: impl FnOnce() -> String) -> usize {
        if as_column(&expr) == Some(0) {
            return 0;
        }
        match self.places.get(&expr) {
            Some(place) => *place,
            None => self.add(expr, name()),
        }
    }

    pub fn into_exprs(self) -> Vec<(Physical, String)> {
        self.exprs
    }
}

/// An aggregate whose arguments have a place, before the stage's input is settled.
pub(super) struct Placed<'a> {
    call: &'a Call<'a>,
    args: Vec<Argument>,
    order_by: Vec<(usize, arrow::compute::SortOptions)>,
    filter: Option<usize>,
    native: Option<Native>,
    /// The type of the result before it was widened.
    narrow: Option<DataType>,
}

/// An argument: a column; for a literal, its value too, which the aggregate may want to know when it is made.
struct Argument {
    place: usize,
    literal: Option<Physical>,
}

/// Either an aggregate or one of the window's columns.
enum Member<'a> {
    Window(usize),
    Call(Call<'a>),
}

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &LogicalAggregate) -> Result<Flow, Fault> {
        let mut flow = self.node(&aggregate.input, None)?;
        self.stateless(&flow, "GROUP")?;
        let logical = aggregate.input.schema();
        if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
            return Err(self.placed(
                Fault::new("grouping sets, ROLLUP and CUBE are not supported").expected("plain expressions"),
                "GROUP",
            ));
        }
        let members =
            aggregate.aggr_expr.iter().map(|expr| self.member(expr)).collect::<Result<Vec<Member<'_>>, Fault>>()?;

        let layout = flow.layout(logical).map_err(|error| self.fault(error))?;
        let mut columns = Columns::new(&flow);
        let mut keys = Vec::new();
        let mut key_texts = Vec::new();
        for (expr, field) in aggregate.group_expr.iter().zip(aggregate.schema.fields()) {
            let key = flow.physical(expr, &layout).map_err(|error| self.fault(error))?;
            let text = self.text(expr);
            let name = if matches!(expr, Expr::Column(_)) { field.name().clone() } else { text.clone() };
            keys.push(columns.add(key, name));
            key_texts.push(text);
        }
        let mut placed = Vec::new();
        for member in &members {
            if let Member::Call(call) = member {
                placed.push(self.place(&flow, &layout, call, &mut columns)?);
            }
        }
        let (late, late_schema) = self.late_columns(&flow, logical, &mut columns);
        flow.project(columns.into_exprs())?;
        self.check_keys(&flow.schema, &keys, "GROUP")?;

        let input = Arc::clone(&flow.schema);
        let (aggregates, texts) = self.calls(&placed, &input)?;
        let key_fields: Vec<FieldRef> = keys.iter().map(|key| Arc::new(input.field(*key).clone())).collect();
        let fields: Vec<FieldRef> = key_fields.iter().cloned().chain(result_fields(&aggregates)).collect();
        let typed: Vec<(String, String)> =
            key_texts.into_iter().zip(key_fields.iter().map(|field| type_name(field.data_type()))).collect();
        let id = self.stage_id(&flow, "");
        let stage = |op, family: &str| KeyedStage {
            id,
            exchange: keys.clone(),
            op,
            tail: Vec::new(),
            state_signature: signature::of_groups(family, &typed, &texts),
        };
        if let Some((window, def)) = self.settings.window {
            self.enter_window(&flow, def)?;
            let output = window_schema(fields);
            let op = WindowAggregate {
                window: window.to_owned(),
                def: def.clone(),
                input,
                keys: keys.clone(),
                aggregates,
                carried: Vec::new(),
                late,
                output: Arc::clone(&output),
            };
            self.late = late_schema;
            flow.keyed.push(stage(KeyedOp::Window(op), signature::family(def.kind)));
            flow.schema = output;
            flow.stamp = stamp_of(def);
            flow.session_start = matches!(def.kind, WindowKind::Session { .. }).then_some(1);
        } else {
            let output = with_marks(fields, true);
            let op = RunningAggregate {
                input,
                keys: keys.clone(),
                aggregates,
                emit_every_ms: self.settings.emit_every_ms,
                output: Arc::clone(&output),
            };
            flow.keyed.push(stage(KeyedOp::Running(op), "running"));
            flow.schema = output;
            flow.stamp = Stamp::default();
            flow.changelog = Some((0..keys.len()).map(|key| key + 2).collect());
        }
        self.outputs(&mut flow, keys.len(), &members, &placed)?;
        Ok(flow)
    }

    /// `SELECT DISTINCT` under a window: GROUP BY every column.
    pub(super) fn distinct_in_window(&mut self, input: &Arc<LogicalPlan>) -> Result<Flow, Fault> {
        let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
        let aggregate =
            LogicalAggregate::try_new(Arc::clone(input), columns, Vec::new()).map_err(|error| self.fault(error))?;
        self.aggregate(&aggregate)
    }

    /// Marks the transform's window as used, and refuses what it cannot take.
    pub(super) fn enter_window(&mut self, flow: &Flow, def: &WindowDef) -> Result<(), Fault> {
        if flow.stamp.corrected {
            return Err(self.placed(
                Fault::new(
                    "its input comes from a window with `allowedLateness`, whose results may be corrected later",
                )
                .expected("an input whose window has no `allowedLateness`"),
                "FROM",
            ));
        }
        if matches!(def.kind, WindowKind::Rolling { .. }) && self.window_used {
            return Err(Fault::new("a transform has one window"));
        }
        self.window_used = true;
        Ok(())
    }

    /// Where the logical columns are behind the stage.
    fn outputs(
        &self,
        flow: &mut Flow,
        keys: usize,
        members: &[Member<'_>],
        placed: &[Placed<'_>],
    ) -> Result<(), Fault> {
        let first = if self.settings.window.is_some() { 4 } else { 2 };
        let mut next = first + keys;
        let mut columns: Vec<usize> = (first..next).collect();
        for member in members {
            match member {
                Member::Window(number) => columns.push(1 + number),
                Member::Call(_) => {
                    columns.push(next);
                    next += 1;
                }
            }
        }
        flow.columns = columns;
        narrow_again(flow, first + keys, placed)
    }

    fn member<'a>(&self, expr: &'a Expr) -> Result<Member<'a>, Fault> {
        let call = match expr {
            Expr::Alias(Alias { expr, .. }) => expr.as_ref(),
            other => other,
        };
        let name = self.text(call);
        let Expr::AggregateFunction(function) = call else {
            return Err(Fault::new(format!("`{}` is no aggregate", self.text(expr))));
        };
        match pseudo::window_column_of_aggregate(function.func.name()) {
            Some(number) if self.settings.window.is_some() => Ok(Member::Window(number)),
            Some(number) => {
                let name = pseudo::WINDOW_COLUMNS[number];
                Err(Fault::new(format!("`{name}` is there only where a transform with a `window` groups"))
                    .offending(name)
                    .at(self.settings.sql.place_of(name)))
            }
            None => Ok(Member::Call(Call { function, name })),
        }
    }

    /// Gives an aggregate's arguments, order and filter columns.
    pub(super) fn place<'a>(
        &self,
        flow: &Flow,
        layout: &DFSchema,
        call: &'a Call<'a>,
        columns: &mut Columns,
    ) -> Result<Placed<'a>, Fault> {
        let AggregateFunctionParams { args, distinct: _, filter, order_by, null_treatment: _ } = &call.function.params;
        let name = call.function.func.name();
        let physical = |expr: &Expr| flow.physical(expr, layout).map_err(|error| self.fault(error));
        let typed = args
            .iter()
            .map(|arg| {
                let expr = physical(arg)?;
                let of = expr.data_type(&flow.schema).map_err(|error| self.fault(error))?;
                Ok((expr, of))
            })
            .collect::<Result<Vec<(Physical, DataType)>, Fault>>()?;
        let native = native(name, &call.function.params, &typed);
        let mut placed_args = Vec::new();
        let mut narrow = None;
        let counts_rows = native.as_ref().is_some_and(|n| n.path == crate::graph::NativeAggregate::CountRows);
        for ((expr, of), arg) in typed.into_iter().zip(args) {
            let literal = expr.is::<Literal>().then(|| Arc::clone(&expr));
            if counts_rows {
                placed_args.push(Argument { place: 0, literal });
                continue;
            }
            let widened = native.as_ref().and_then(|native| native.widened.clone()).map(|wide| (wide, of.clone()));
            let expr = match widened.or_else(|| wide_sum(name, &of)) {
                Some((wide, back)) => {
                    narrow = Some(back);
                    flow::cast(expr, &of, &wide)
                }
                None => {
                    narrow = None;
                    expr
                }
            };
            let place = columns.find_or_add(expr, || self.text(arg));
            placed_args.push(Argument { place, literal });
        }
        let mut ordered = Vec::new();
        for sort in order_by.iter().filter(|_| minds_order(&call.function.func)) {
            let place = columns.find_or_add(physical(&sort.expr)?, || self.text(&sort.expr));
            // What rows are ordered by already orders them no further, and the aggregates do not expect it twice.
            if ordered.iter().all(|(known, _)| *known != place) {
                ordered.push((place, arrow::compute::SortOptions::new(!sort.asc, sort.nulls_first)));
            }
        }
        if ordered.is_empty() && matches!(name, "first_value" | "last_value" | "nth_value") {
            // In the order of event time, so that a replay and slices in any order agree.
            ordered.push((0, arrow::compute::SortOptions::default()));
        }
        let filter = match filter {
            Some(filter) => Some(columns.find_or_add(physical(filter)?, || self.text(filter))),
            None => None,
        };
        Ok(Placed { call, args: placed_args, order_by: ordered, filter, native, narrow })
    }

    /// The calls, over the stage's input; and what the state's signature says of each.
    pub(super) fn calls(
        &self,
        placed: &[Placed<'_>],
        input: &SchemaRef,
    ) -> Result<(Vec<Aggregate>, Vec<String>), Fault> {
        let mut aggregates = Vec::with_capacity(placed.len());
        let mut texts = Vec::with_capacity(placed.len());
        for one in placed {
            let call = one.call(input).map_err(|error| self.fault(error))?;
            let name = one.call.function.func.name();
            let state = call.state_fields().and_then(|fields| {
                keeps_state(&call, &fields, &|row| one.row(input, row))?;
                Ok(fields)
            });
            let fields = state.map_err(|error| {
                let why = self.fault(error).message;
                Fault::new(format!("`{name}` cannot run over a stream: {why}"))
                    .offending(name)
                    .at(self.settings.sql.place_of(name))
                    .expected("an aggregate whose state can be kept")
            })?;
            let state: Vec<String> = fields.iter().map(|field| type_name(field.data_type())).collect();
            texts.push(format!("{} as {}", self.call_text(one.call.function), state.join(", ")));
            let counts_rows = one.args.iter().all(|arg| arg.place == 0 && arg.literal.is_some());
            let args = match counts_rows {
                true => Vec::new(),
                false => {
                    let args = one.args.iter().map(|arg| arg.place);
                    args.chain(one.order_by.iter().map(|(place, _)| *place)).collect()
                }
            };
            aggregates.push(Aggregate {
                call: Arc::new(call),
                args,
                filter: one.filter,
                native: one.native.as_ref().map(|native| native.path),
            });
        }
        Ok((aggregates, texts))
    }

    /// The columns of late rows: all that the input has.
    pub(super) fn late_columns(
        &self,
        flow: &Flow,
        logical: &DFSchema,
        columns: &mut Columns,
    ) -> (Vec<usize>, Option<SchemaRef>) {
        let wanted =
            self.settings.late && self.settings.window.is_some_and(|(_, def)| def.late_rows == LateRows::SideOutput);
        if !wanted {
            return (Vec::new(), None);
        }
        let mut places = vec![0];
        let mut fields = Vec::new();
        for (place, field) in flow.columns.iter().zip(logical.fields()) {
            let expr = flow::settled(column(&flow.schema, *place), &flow.schema);
            let of = expr.data_type(&flow.schema).unwrap_or_else(|_| field.data_type().clone());
            fields.push(Arc::new(Field::new(field.name(), of, true)));
            places.push(columns.find_or_add(expr, || field.name().clone()));
        }
        (places, Some(with_marks(fields, false)))
    }
}

impl Placed<'_> {
    /// One row of arguments, as the engine hands them to the aggregate.
    fn row(&self, input: &SchemaRef, trial: Trial) -> datafusion_common::Result<Vec<ArrayRef>> {
        let of = |place: usize| {
            let of = input.field(place).data_type();
            match trial {
                Trial::Values => ScalarValue::new_default(of)?.to_array(),
                Trial::Nulls => Ok(new_null_array(of, 1)),
            }
        };
        let args = self.args.iter().map(|arg| {
            let literal = arg.literal.as_ref().and_then(|literal| literal.downcast_ref::<Literal>());
            literal.map_or_else(|| of(arg.place), |literal| literal.value().to_array())
        });
        args.chain(self.order_by.iter().map(|(place, _)| of(*place))).collect()
    }

    fn call(&self, input: &SchemaRef) -> datafusion_common::Result<AggregateFunctionExpr> {
        let params = &self.call.function.params;
        let args = self.args.iter().map(|arg| match &arg.literal {
            Some(literal) => Arc::clone(literal),
            None => column(input, arg.place),
        });
        let order = self.order_by.iter().map(|(place, options)| PhysicalSortExpr::new(column(input, *place), *options));
        let function = &self.call.function.func;
        let function = if function.name() == "nth_value" { nth_value() } else { function };
        AggregateExprBuilder::new(Arc::clone(function), args.collect())
            .schema(Arc::clone(input))
            .alias(self.call.name.clone())
            .order_by(order.collect())
            .with_distinct(params.distinct)
            .with_ignore_nulls(params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()
    }
}

/// Whether an aggregate's result depends on the order of its rows, or WITHIN GROUP (ORDER BY …) is how it gets its argument.
/// The order of others, as of a count, is passed over: they expect no columns for it.
fn minds_order(function: &AggregateUDF) -> bool {
    matches!(function.name(), "array_agg" | "string_agg" | "first_value" | "last_value" | "nth_value")
        || function.supports_within_group_clause()
}

/// A row to try an aggregate with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trial {
    Values,
    Nulls,
}

/// Whether an aggregate can be made at all, and stores what it says it would: with other columns, its state could be neither
/// spilled nor checkpointed. `row` makes its arguments.
fn keeps_state(
    call: &AggregateFunctionExpr,
    declared: &[FieldRef],
    row: &dyn Fn(Trial) -> datafusion_common::Result<Vec<ArrayRef>>,
) -> datafusion_common::Result<()> {
    for trial in [Trial::Values, Trial::Nulls] {
        let args = row(trial)?;
        let state: Vec<DataType> = if call.groups_accumulator_supported() {
            let mut accumulator = call.create_groups_accumulator()?;
            // An aggregate may refuse the row, which says nothing of others.
            if accumulator.update_batch(&args, &[0], None, 1).is_err() {
                continue;
            }
            accumulator.state(EmitTo::All)?.iter().map(|column| column.data_type().clone()).collect()
        } else {
            let mut accumulator = call.create_accumulator()?;
            if accumulator.update_batch(&args).is_err() {
                continue;
            }
            accumulator.state()?.iter().map(ScalarValue::data_type).collect()
        };
        if !state.iter().eq(declared.iter().map(|field| field.data_type())) {
            let types = |types: Vec<&DataType>| types.into_iter().map(type_name).collect::<Vec<_>>().join(", ");
            let declared = declared.iter().map(|field| field.data_type()).collect();
            return datafusion_common::plan_err!(
                "it declares a state of {}, and has one of {}",
                types(declared),
                types(state.iter().collect())
            );
        }
    }
    Ok(())
}

/// What a window's results mean.
pub(super) fn stamp_of(def: &WindowDef) -> Stamp {
    Stamp {
        window: matches!(def.kind, WindowKind::Tumbling { .. } | WindowKind::Hopping { .. }),
        corrected: def.allowed_lateness_ms > 0,
    }
}

/// `[event time, window_start, window_end, window_pane, fields..]`
pub(super) fn window_schema(fields: Vec<FieldRef>) -> SchemaRef {
    let bounds = pseudo::WINDOW_COLUMNS
        .iter()
        .enumerate()
        .map(|(number, name)| Arc::new(Field::new(*name, pseudo::window_column_type(number), false)));
    let all: Vec<FieldRef> = std::iter::once(event_time_field()).chain(bounds).chain(fields).collect();
    Arc::new(arrow::datatypes::Schema::new(all))
}

/// The columns that aggregates give.
pub(super) fn result_fields(aggregates: &[Aggregate]) -> Vec<FieldRef> {
    let field = |aggregate: &Aggregate| {
        let field = aggregate.call.field();
        Arc::new(Field::new(aggregate.call.name(), field.data_type().clone(), true))
    };
    aggregates.iter().map(field).collect()
}

/// Brings results that were computed on wider types back to their own.
pub(super) fn narrow_again(flow: &mut Flow, first: usize, placed: &[Placed<'_>]) -> Result<(), Fault> {
    if placed.iter().all(|one| one.narrow.is_none()) {
        return Ok(());
    }
    let exprs = flow.columns.iter().map(|place| {
        let plain = column(&flow.schema, *place);
        let name = flow.schema.field(*place).name().clone();
        match place.checked_sub(first).and_then(|at| placed.get(at)).and_then(|one| one.narrow.clone()) {
            Some(narrow) => (flow::cast(plain, flow.schema.field(*place).data_type(), &narrow), name),
            None => (plain, name),
        }
    });
    let mut exprs: Vec<(Physical, String)> = exprs.collect();
    let (users, window_columns) = (exprs.len(), flow.window_columns.take());
    for (expr, name) in window_columns.iter().flatten().zip(pseudo::WINDOW_COLUMNS) {
        exprs.push((Arc::clone(expr), name.to_owned()));
    }
    flow.project(exprs)?;
    if window_columns.is_some() {
        flow.window_columns = Some([0, 1, 2].map(|at| column(&flow.schema, flow.columns[users + at])));
        flow.columns.truncate(users);
    }
    Ok(())
}
