//! Rolling windows: aggregates OVER the rows of the same key in the range of time that ends with each row.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion_expr::{
    Expr, Window, WindowFrame, WindowFunctionDefinition,
    expr::{AggregateFunction, Alias, WindowFunction},
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
        let mut flow = self.node(&window.input, None)?;
        self.stateless(&flow, "OVER")?;
        let Some((name, def)) = self.settings.window else {
            return Err(Fault::new("there is no window"));
        };
        self.enter_window(&flow, def)?;
        let logical = window.input.schema();
        let functions = window
            .window_expr
            .iter()
            .map(|expr| self.over(expr))
            .collect::<Result<Vec<(AggregateFunction, &WindowFunction)>, Fault>>()?;
        let partition_by = functions.first().map(|(_, over)| over.params.partition_by.as_slice()).unwrap_or_default();
        if functions.iter().any(|(_, over)| over.params.partition_by != partition_by) {
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
        let WindowFunctionDefinition::AggregateUDF(function) = &over.fun else {
            return Err(self.placed(
                Fault::new(format!("`{}` cannot run over a rolling window", over.fun.name()))
                    .offending(over.fun.name())
                    .expected("an aggregate"),
                "OVER",
            ));
        };
        let params = &over.params;
        if !params.order_by.is_empty() || params.window_frame != WindowFrame::new(None) {
            return Err(self.placed(
                Fault::new("the order and the range of a rolling window are the Window's")
                    .expected("OVER (PARTITION BY …) and nothing else"),
                "OVER",
            ));
        }
        let aggregate = AggregateFunction::new_udf(
            Arc::clone(function),
            params.args.clone(),
            params.distinct,
            params.filter.clone(),
            Vec::new(),
            params.null_treatment,
        );
        Ok((aggregate, over))
    }
}
