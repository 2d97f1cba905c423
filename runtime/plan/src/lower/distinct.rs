//! DISTINCT: the first row of each key within a span of event time.

use std::sync::Arc;

use datafusion_expr::Distinct as LogicalDistinct;

use super::{Flow, Lowering, Physical, column, signature};
use crate::{
    error::Fault,
    graph::{Distinct, KeyedOp, KeyedStage},
};

impl Lowering<'_> {
    /// DISTINCT, in either form: with `within` the first row of each key, under a `window` GROUP BY all columns.
    pub(super) fn distinct(&mut self, distinct: &LogicalDistinct) -> Result<Flow, Fault> {
        let (input, on, select, sorted) = match distinct {
            LogicalDistinct::All(input) => {
                if self.settings.within_ms.is_none() && self.settings.window.is_some() {
                    return self.distinct_in_window(input);
                }
                (input, None, None, false)
            }
            LogicalDistinct::On(on) => (&on.input, Some(&on.on_expr), Some(&on.select_expr), on.sort_expr.is_some()),
        };
        let Some(within_ms) = self.settings.within_ms else {
            return Err(self.placed(
                Fault::new("DISTINCT would have to remember every row forever")
                    .offending("DISTINCT")
                    .expected("`within: 10m` (or another time) beside the SQL, or a `window`"),
                "DISTINCT",
            ));
        };
        if sorted {
            return Err(self.placed(
                Fault::new("DISTINCT ON keeps the row that comes first").offending("ORDER BY").expected("no ORDER BY"),
                "ORDER",
            ));
        }
        let mut flow = self.node(input, None)?;
        self.stateless(&flow, "DISTINCT")?;
        let logical = input.schema();
        let layout = flow.layout(logical).map_err(|error| self.fault(error))?;
        let mut exprs: Vec<(Physical, String)> = Vec::new();
        if let (Some(select), LogicalDistinct::On(on)) = (select, distinct) {
            for (expr, field) in select.iter().zip(on.schema.fields()) {
                exprs.push((flow.physical(expr, &layout).map_err(|e| self.fault(e))?, field.name().clone()));
            }
        } else {
            let plain = flow.columns.iter().zip(logical.fields());
            exprs.extend(plain.map(|(place, field)| (column(&flow.schema, *place), field.name().clone())));
        }
        let selected = exprs.len();
        let mut keys = Vec::new();
        for expr in on.into_iter().flatten() {
            let key = flow.physical(expr, &layout).map_err(|error| self.fault(error))?;
            let at = exprs.iter().position(|(known, _)| known.as_ref() == key.as_ref()).unwrap_or_else(|| {
                exprs.push((key, self.text(expr)));
                exprs.len() - 1
            });
            keys.push(at + flow.marks());
        }
        if on.is_none() {
            keys = (0..selected).map(|at| at + flow.marks()).collect();
        }
        flow.project(exprs)?;
        flow.columns.truncate(selected);
        self.check_keys(&flow.schema, &keys, "DISTINCT")?;
        self.within_used = true;
        // What comes too late has the columns of what comes out.
        let late: Vec<usize> = if self.settings.late { (0..flow.marks() + selected).collect() } else { Vec::new() };
        if !late.is_empty() {
            self.late = Some(Arc::new(flow.schema.project(&late).map_err(|error| self.fault(error.into()))?));
        }
        let op = Distinct { input: Arc::clone(&flow.schema), keys: keys.clone(), within_ms, late };
        let state_signature = signature::of_distinct(&op);
        let id = self.stage_id(&flow, "");
        flow.keyed.push(KeyedStage {
            id,
            exchange: keys,
            op: KeyedOp::Distinct(op),
            tail: Vec::new(),
            state_signature,
        });
        Ok(flow)
    }
}
