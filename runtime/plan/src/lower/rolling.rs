//! Rolling windows: aggregates OVER the rows of the same key in the range of time that ends with each row.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion_expr::{
    AggregateUDF, Expr, LogicalPlan, Window, WindowFrame, WindowFunctionDefinition,
    expr::{AggregateFunction, Alias, WindowFunction},
};
use datafusion_functions_aggregate::{
    first_last::{first_value_udaf, last_value_udaf},
    nth_value::nth_value_udaf,
};

use super::{
    Flow, Lowering, Stamp,
    aggregate::{Call, Columns, narrow_again, result_fields, window_schema},
    column, signature,
};
use crate::{
    columns::type_name,
    error::Fault,
    graph::{KeyedOp, KeyedStage, WindowAggregate, WindowKind},
};

impl Lowering<'_> {
    pub(super) fn is_rolling(&self) -> bool {
        self.settings.window.is_some_and(|(_, def)| matches!(def.kind, WindowKind::Rolling { .. }))
    }

    pub(super) fn rolling(&mut self, window: &Window) -> Result<Flow, Fault> {
        let nodes = Nodes::of(window);
        let mut flow = self.node(nodes.input, None)?;
        self.stateless(&flow, "OVER")?;
        let Some((name, def)) = self.settings.window else {
            return Err(Fault::new("there is no window"));
        };
        self.enter_window(&flow, def)?;
        let logical = nodes.input.schema();
        let functions = nodes
            .windows
            .iter()
            .flat_map(|window| &window.window_expr)
            .map(|expr| self.over(expr))
            .collect::<Result<Vec<(AggregateFunction, &WindowFunction)>, Fault>>()?;
        let partition_by = functions.first().map(|(_, over)| over.params.partition_by.as_slice()).unwrap_or_default();
        if functions.iter().any(|(_, over)| over.params.partition_by != partition_by) {
            if nodes.windows.len() > 1 {
                let fault =
                    Fault::new("where aggregates of a rolling window have orders of their own its keys are columns")
                        .expected("a transform before this one that computes the key");
                return Err(self.placed(fault, "GROUP"));
            }
            return Err(self.placed(
                Fault::new("all aggregates of a rolling window have the same key").expected("one PARTITION BY"),
                "PARTITION",
            ));
        }
        let calls: Vec<Call<'_>> =
            functions.iter().map(|(function, _)| Call { function, name: self.call_text(function) }).collect();

        let layout = flow.layout(logical).map_err(|error| self.fault(error))?;
        let mut columns = Columns::new(&flow);
        let mut keys = Vec::new();
        let mut key_texts = Vec::new();
        for expr in partition_by {
            let key = flow.physical(expr, &layout).map_err(|error| self.fault(error))?;
            let text = self.text(expr);
            keys.push(columns.add(key, text.clone()));
            key_texts.push(text);
        }
        let placed = calls
            .iter()
            .map(|call| self.place(&flow, &layout, call, &mut columns))
            .collect::<Result<Vec<_>, Fault>>()?;
        let mut carried = Vec::new();
        for (place, field) in flow.columns.clone().into_iter().zip(logical.fields()) {
            let at = columns.find_or_add(column(&flow.schema, place), || field.name().clone());
            carried.push(at);
        }
        let (late, late_schema) = self.late_columns(&flow, logical, &mut columns);
        flow.project(columns.into_exprs())?;
        self.check_keys(&flow.schema, &keys, "PARTITION")?;

        let input = Arc::clone(&flow.schema);
        let (aggregates, texts) = self.calls(&placed, &input)?;
        let of = |place: &usize| -> FieldRef { Arc::new(input.field(*place).clone()) };
        let fields = keys.iter().map(of).chain(carried.iter().map(of)).chain(result_fields(&aggregates)).collect();
        let output = window_schema(fields);
        let typed: Vec<(String, String)> =
            key_texts.into_iter().zip(keys.iter().map(|key| type_name(input.field(*key).data_type()))).collect();
        let state_signature = signature::of_groups(signature::family(def.kind), &typed, &texts);
        let first_carried = 4 + keys.len();
        let first_aggregate = first_carried + carried.len();
        let id = self.stage_id(&flow, "");
        flow.keyed.push(KeyedStage {
            id,
            exchange: keys.clone(),
            op: KeyedOp::Window(WindowAggregate {
                window: name.to_owned(),
                def: def.clone(),
                input,
                keys,
                aggregates,
                carried,
                late,
                output: Arc::clone(&output),
            }),
            tail: Vec::new(),
            state_signature,
        });
        self.late = late_schema;
        flow.schema = output;
        flow.columns = (first_carried..first_aggregate + placed.len()).collect();
        flow.stamp = Stamp { window: false, corrected: def.allowed_lateness_ms > 0 };
        flow.window_columns = Some([1, 2, 3].map(|number| column(&flow.schema, number)));
        narrow_again(&mut flow, first_aggregate, &placed)?;
        flow.columns = nodes.columns.iter().map(|&place| flow.columns[place]).collect();
        Ok(flow)
    }

    /// The aggregate that runs OVER the range.
    fn over<'a>(&self, expr: &'a Expr) -> Result<(AggregateFunction, &'a WindowFunction), Fault> {
        let call = match expr {
            Expr::Alias(Alias { expr, .. }) => expr.as_ref(),
            other => other,
        };
        let Expr::WindowFunction(over) = call else {
            return Err(Fault::new(format!("`{}` is no aggregate", self.text(expr))));
        };
        let function = match &over.fun {
            WindowFunctionDefinition::AggregateUDF(function) => Some(Arc::clone(function)),
            WindowFunctionDefinition::WindowUDF(function) => as_aggregate(function.name()),
        };
        let function = function.ok_or_else(|| {
            let fault = Fault::new(format!("`{}` cannot run over a rolling window", over.fun.name()));
            self.placed(fault.offending(over.fun.name()).expected("an aggregate"), "OVER")
        })?;
        let params = &over.params;
        // All rows of the range: an order of them is the aggregate's.
        if params.window_frame != WindowFrame::new(None) {
            return Err(self.placed(
                Fault::new("the order and the range of a rolling window are the Window's")
                    .expected("OVER (PARTITION BY …) and nothing else"),
                "OVER",
            ));
        }
        let aggregate = AggregateFunction::new_udf(
            function,
            params.args.clone(),
            params.distinct,
            params.filter.clone(),
            params.order_by.clone(),
            params.null_treatment,
        );
        Ok((aggregate, over))
    }
}

/// The nodes that are one rolling window: the planner makes one for each order of rows that an aggregate wants, and drops columns
/// between them that nothing reads any more.
struct Nodes<'a> {
    /// What all of them read.
    input: &'a Arc<LogicalPlan>,
    /// The innermost first.
    windows: Vec<&'a Window>,
    /// Of the columns of `input` and all aggregates behind them, those that the outermost gives, by number.
    columns: Vec<usize>,
}

impl<'a> Nodes<'a> {
    fn of(window: &'a Window) -> Self {
        let mut nodes = Self::below(&window.input).filter(|nodes| nodes.know(window)).unwrap_or_else(|| Self {
            input: &window.input,
            windows: Vec::new(),
            columns: (0..window.input.schema().fields().len()).collect(),
        });
        let aggregates = nodes.windows.iter().map(|window| window.window_expr.len()).sum::<usize>();
        let first = nodes.input.schema().fields().len() + aggregates;
        nodes.columns.extend(first..first + window.window_expr.len());
        nodes.windows.push(window);
        nodes
    }

    fn below(plan: &'a LogicalPlan) -> Option<Self> {
        let projection = match plan {
            LogicalPlan::Window(inner) => return Some(Self::of(inner)),
            LogicalPlan::Projection(projection) => projection,
            _ => return None,
        };
        let LogicalPlan::Window(inner) = projection.input.as_ref() else { return None };
        let schema = projection.input.schema();
        let place = |expr: &Expr| match expr {
            Expr::Column(column) => schema.maybe_index_of_column(column),
            _ => None,
        };
        let kept = projection.expr.iter().map(place).collect::<Option<Vec<usize>>>()?;
        let nodes = Self::of(inner);
        let columns = kept.iter().map(|&place| nodes.columns[place]).collect();
        Some(Self { columns, ..nodes })
    }

    /// Whether all that a window reads is in the input, and nothing of it another's result.
    fn know(&self, window: &Window) -> bool {
        let schema = self.input.schema();
        let read = window.window_expr.iter().flat_map(Expr::column_refs);
        read.into_iter().all(|column| schema.maybe_index_of_column(column).is_some())
    }
}

/// The aggregate of the name of a window function: OVER, the planner takes these for functions that look at the rows beside.
fn as_aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    match name {
        "first_value" => Some(first_value_udaf()),
        "last_value" => Some(last_value_udaf()),
        "nth_value" => Some(nth_value_udaf()),
        _ => None,
    }
}
