//! The first n rows of each window, or of each group in it: ORDER BY … LIMIT n, and ROW_NUMBER() with a bound.
//!
//! Rows are of the same window if they have the same event time. A windowed aggregate's results come like that; rows that
//! are ranked under a tumbling `window` of their transform get their window's last millisecond as event time first. Sessions
//! that end at the same instant may begin at others, so their rows are partitioned by the start too.

use std::sync::Arc;

use arrow::{
    compute::SortOptions,
    datatypes::{DataType, Field, FieldRef, Schema},
};
use datafusion_common::{ScalarValue, config::ConfigOptions};
use datafusion_expr::{
    BinaryExpr, Expr, LogicalPlan, Operator, ScalarUDF, Sort, SortExpr, Window, WindowFunctionDefinition,
    expr::{Alias, WindowFunction},
    utils::{conjunction, split_conjunction},
};
use datafusion_physical_expr::{ScalarFunctionExpr, expressions::Literal};

use super::{Flow, Lowering, Physical, Stamp, as_column, column, signature};
use crate::{
    error::Fault,
    graph::{KeyedOp, KeyedStage, TopN, WindowKind},
    pseudo::{Bound, TumblingBound, event_time_type, timestamp_type},
};

impl Lowering<'_> {
    /// ORDER BY … LIMIT n.
    pub(super) fn top(&mut self, sort: &Sort, limit: usize) -> Result<Flow, Fault> {
        let mut flow = self.node(&sort.input, None)?;
        let cut = self.ranked_input(&mut flow, "ORDER")?;
        let (_, order_by) = self.rank_columns(&mut flow, &sort.input, &[], &sort.expr)?;
        self.push_top(&mut flow, cut, Vec::new(), order_by, limit, false)?;
        Ok(flow)
    }

    /// ROW_NUMBER() OVER (…), under the filter that bounds it.
    pub(super) fn rank(&mut self, window: &Window, predicate: Option<&Expr>) -> Result<Flow, Fault> {
        let [expr] = window.window_expr.as_slice() else {
            return Err(self.placed(
                Fault::new("one ROW_NUMBER() a transform").expected("a transform of its own for the others"),
                "OVER",
            ));
        };
        let call = match expr {
            Expr::Alias(Alias { expr, .. }) => expr.as_ref(),
            other => other,
        };
        let Expr::WindowFunction(function) = call else {
            return Err(Fault::new(format!("`{}` is no window function", self.text(expr))));
        };
        self.check_row_number(function)?;
        let mut flow = self.node(&window.input, None)?;
        let cut = self.ranked_input(&mut flow, "OVER")?;

        // The row number is the last logical column of the window's output.
        let number = window.schema.columns().into_iter().next_back();
        let terms = predicate.map(split_conjunction).unwrap_or_default();
        let bound = terms.iter().find_map(|term| number.as_ref().and_then(|number| bound_of(term, number)));
        let Some((limit, exact)) = bound else {
            return Err(self.placed(
                Fault::new("ROW_NUMBER() without a bound would have to remember every row")
                    .offending("ROW_NUMBER")
                    .expected("`WHERE` that name `<= n` in the SELECT around it"),
                "ROW_NUMBER",
            ));
        };
        let params = &function.params;
        let (partition_by, order_by) =
            self.rank_columns(&mut flow, &window.input, &params.partition_by, &params.order_by)?;
        if order_by.is_empty() {
            return Err(self.placed(
                Fault::new("ROW_NUMBER() without ORDER BY would number the rows anyhow")
                    .offending("ROW_NUMBER")
                    .expected("ORDER BY inside OVER (…)"),
                "ROW_NUMBER",
            ));
        }
        self.push_top(&mut flow, cut, partition_by, order_by, limit, true)?;
        flow.columns.push(flow.schema.fields().len() - 1);
        let rest: Vec<Expr> = terms
            .into_iter()
            .filter(|term| {
                let this = number.as_ref().and_then(|number| bound_of(term, number));
                this != Some((limit, true)) || !exact
            })
            .cloned()
            .collect();
        if let Some(rest) = conjunction(rest) {
            let layout = flow.layout(&window.schema).map_err(|error| self.fault(error))?;
            let predicate = flow.physical(&rest, &layout).map_err(|error| self.fault(error))?;
            flow.filter(predicate)?;
        }
        Ok(flow)
    }

    fn check_row_number(&self, function: &WindowFunction) -> Result<(), Fault> {
        let name = match &function.fun {
            WindowFunctionDefinition::WindowUDF(udf) if udf.name() == "row_number" => return Ok(()),
            WindowFunctionDefinition::WindowUDF(udf) => udf.name(),
            WindowFunctionDefinition::AggregateUDF(udf) => udf.name(),
        };
        let fault = Fault::new(format!("`{name}` OVER (…) is not supported here"))
            .offending(name)
            .at(self.settings.sql.place_of(name));
        Err(match function.fun {
            WindowFunctionDefinition::AggregateUDF(_) => {
                fault.expected("a `window` that is `rolling`, or GROUP BY under a `window`")
            }
            WindowFunctionDefinition::WindowUDF(_) => fault.expected("ROW_NUMBER()"),
        })
    }

    /// Makes sure that equal event times mean the same window. Gives the window that rows have been cut into for that.
    fn ranked_input(&mut self, flow: &mut Flow, word: &str) -> Result<Option<WindowKind>, Fault> {
        if flow.changelog.is_some() {
            return Err(self.placed(
                Fault::new("the rows of a running aggregate change, and cannot be ranked")
                    .expected("a `window`, which gives the first rows of each window"),
                word,
            ));
        }
        if flow.stamp.corrected {
            return Err(self.placed(
                Fault::new("rows of a window with `allowedLateness` may be corrected after they were ranked")
                    .expected("a window without `allowedLateness`"),
                word,
            ));
        }
        if flow.keyed.len() > 1 {
            return Err(self.placed(
                Fault::new("a transform ranks once").expected("a transform of its own for the inner SELECT"),
                word,
            ));
        }
        if let Some((_, def)) = self.settings.window
            && !self.window_used
        {
            let WindowKind::Tumbling { size_ms, offset_ms } = def.kind else {
                return Err(self.placed(
                    Fault::new("rows can be ranked under a tumbling window only")
                        .expected("a `window` that is `tumbling`, or GROUP BY before the ranking"),
                    word,
                ));
            };
            self.window_used = true;
            let event_time = tumbling(size_ms, offset_ms, Bound::LastMs, column(&flow.schema, 0));
            let exprs = flow
                .columns
                .iter()
                .map(|place| (column(&flow.schema, *place), flow.schema.field(*place).name().clone()))
                .collect();
            flow.project_at(event_time, exprs)?;
            flow.stamp = Stamp { window: true, corrected: false };
            return Ok(Some(def.kind));
        }
        if !flow.stamp.window && flow.session_start.is_none() {
            return Err(self.placed(
                Fault::new("the first rows of a stream are known only where it is cut into windows")
                    .offending(if word == "ORDER" { "ORDER BY" } else { "ROW_NUMBER" })
                    .expected(
                        "a `window` (tumbling, or with GROUP BY), or the output of a tumbling or hopping one as the input",
                    ),
                word,
            ));
        }
        Ok(None)
    }

    /// Gives what is partitioned and ordered by columns.
    #[allow(clippy::type_complexity)]
    fn rank_columns(
        &self,
        flow: &mut Flow,
        input: &LogicalPlan,
        partition_by: &[Expr],
        order_by: &[SortExpr],
    ) -> Result<(Vec<usize>, Vec<(usize, SortOptions)>), Fault> {
        let layout = flow.layout(input.schema()).map_err(|error| self.fault(error))?;
        let physical = |flow: &Flow, expr: &Expr| flow.physical(expr, &layout).map_err(|error| self.fault(error));
        let partitions = partition_by.iter().map(|expr| physical(flow, expr)).collect::<Result<Vec<_>, _>>()?;
        let orders = order_by.iter().map(|sort| physical(flow, &sort.expr)).collect::<Result<Vec<_>, _>>()?;
        let names = partition_by.iter().chain(order_by.iter().map(|sort| &sort.expr)).map(|expr| self.text(expr));
        let computed: Vec<(Physical, String)> = partitions
            .iter()
            .chain(&orders)
            .cloned()
            .zip(names)
            .filter(|(expr, _)| as_column(expr).is_none())
            .collect();
        let (mut partition_places, mut order_places): (Vec<_>, Vec<_>) =
            (partitions.iter().map(as_column).collect(), orders.iter().map(as_column).collect());
        if !computed.is_empty() {
            let before = flow.columns.clone();
            let plain =
                before.iter().map(|place| (column(&flow.schema, *place), flow.schema.field(*place).name().clone()));
            let exprs = plain.chain(computed.iter().cloned()).collect();
            flow.project(exprs)?;
            let moved = |old: Option<usize>, expr: &Physical| match old {
                Some(0) => Some(0),
                Some(old) => before.iter().position(|place| *place == old).map(|at| flow.columns[at]),
                None => {
                    let at = computed.iter().position(|(known, _)| known == expr)?;
                    Some(flow.columns[before.len() + at])
                }
            };
            partition_places = partition_places.iter().zip(&partitions).map(|(old, expr)| moved(*old, expr)).collect();
            order_places = order_places.iter().zip(&orders).map(|(old, expr)| moved(*old, expr)).collect();
            flow.columns.truncate(before.len());
        }
        let placed = |place: Option<usize>| place.ok_or_else(|| Fault::new("what is ranked by has no column"));
        let partition_places = partition_places.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        let order_places = order_places.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        let options = order_by.iter().map(|sort| SortOptions::new(!sort.asc, sort.nulls_first));
        Ok((partition_places, order_places.into_iter().zip(options).collect()))
    }

    fn push_top(
        &mut self,
        flow: &mut Flow,
        cut: Option<WindowKind>,
        mut partition_by: Vec<usize>,
        order_by: Vec<(usize, SortOptions)>,
        limit: usize,
        row_number: bool,
    ) -> Result<(), Fault> {
        if let Some(start) = flow.session_start
            && !partition_by.contains(&start)
        {
            partition_by.insert(0, start);
        }
        self.check_keys(&flow.schema, &partition_by, "PARTITION")?;
        let number = row_number.then(|| Arc::new(Field::new("row_number", DataType::UInt64, false)));
        let fields: Vec<FieldRef> = flow.schema.fields().iter().cloned().chain(number).collect();
        let output = Arc::new(Schema::new(fields));
        let id = self.stage_id(flow, "top");
        let op = TopN {
            input: Arc::clone(&flow.schema),
            partition_by: partition_by.clone(),
            order_by,
            limit,
            row_number,
            output: Arc::clone(&output),
        };
        let state_signature = signature::of_top(&op, cut);
        flow.keyed.push(KeyedStage {
            id,
            exchange: partition_by,
            op: KeyedOp::Top(op),
            tail: Vec::new(),
            state_signature,
        });
        flow.schema = output;
        Ok(())
    }
}

/// What `window_start`, `window_end` and `window_pane` are for a row that falls into one tumbling window. The event time
/// may have become the window's last millisecond already.
pub(super) fn window_of_row(kind: WindowKind, event_time: &Physical) -> Option<[Physical; 3]> {
    let WindowKind::Tumbling { size_ms, offset_ms } = kind else { return None };
    let bound = |bound| tumbling(size_ms, offset_ms, bound, Arc::clone(event_time));
    Some([bound(Bound::Start), bound(Bound::End), Arc::new(Literal::new(ScalarValue::Int32(Some(0))))])
}

/// A moment of the tumbling window that a row falls into.
fn tumbling(size_ms: i64, offset_ms: i64, bound: Bound, event_time: Physical) -> Physical {
    let function = ScalarUDF::from(TumblingBound::new(size_ms, offset_ms, bound));
    let of = if bound == Bound::LastMs { event_time_type() } else { timestamp_type() };
    let name = function.name().to_owned();
    Arc::new(ScalarFunctionExpr::new(
        &name,
        Arc::new(function),
        vec![event_time],
        Arc::new(Field::new(&name, of, false)),
        Arc::new(ConfigOptions::default()),
    ))
}

/// How many rows a condition on the row number keeps at most, and whether it says just that.
fn bound_of(term: &Expr, number: &datafusion_common::Column) -> Option<(usize, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = term else { return None };
    let (op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) if column == number => (*op, value),
        (Expr::Literal(value, _), Expr::Column(column)) if column == number => (op.swap()?, value),
        _ => return None,
    };
    let value = match value {
        ScalarValue::UInt64(Some(value)) => usize::try_from(*value).ok()?,
        ScalarValue::Int64(Some(value)) => usize::try_from(*value).ok()?,
        _ => return None,
    };
    let (limit, exact) = match op {
        Operator::LtEq => (value, true),
        Operator::Lt => (value.checked_sub(1)?, true),
        Operator::Eq => (value, value == 1),
        _ => return None,
    };
    (limit > 0).then_some((limit, exact))
}
