//! UNION ALL and UNNEST: what changes how many rows there are, and remembers none.

use datafusion_expr::{Union, Unnest};

use super::{Flow, Lowering, column, flow};
use crate::error::Fault;

impl Lowering<'_> {
    pub(super) fn union(&mut self, union: &Union) -> Result<Flow, Fault> {
        let names: Vec<String> = union.schema.fields().iter().map(|field| field.name().clone()).collect();
        let mut united: Option<Flow> = None;
        for input in &union.inputs {
            let mut flow = self.node(input, None)?;
            if !flow.keyed.is_empty() {
                return Err(self.placed(
                    Fault::new("a member of a UNION ALL can only project and filter")
                        .expected("a transform of its own for what groups"),
                    "UNION",
                ));
            }
            if flow.changelog.is_some() {
                return Err(
                    self.placed(Fault::new("the rows of a running aggregate cannot be united with others"), "UNION")
                );
            }
            let exprs = flow.columns.iter().zip(union.schema.fields()).zip(&names).map(|((place, field), name)| {
                let from = flow.schema.field(*place).data_type();
                (flow::cast(column(&flow.schema, *place), from, field.data_type()), name.clone())
            });
            let exprs = exprs.collect();
            flow.project(exprs)?;
            match &mut united {
                None => united = Some(flow),
                Some(first) => {
                    first.stamp = first.stamp.and(flow.stamp);
                    first.branches.extend(flow.branches);
                }
            }
        }
        united.ok_or_else(|| Fault::new("a UNION ALL has no members"))
    }

    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<Flow, Fault> {
        let mut flow = self.node(&unnest.input, None)?;
        if !unnest.struct_type_columns.is_empty() {
            return Err(self.placed(
                Fault::new("unnest of a struct is not supported").expected("its fields by name: `column['field']`"),
                "UNNEST",
            ));
        }
        if unnest.list_type_columns.iter().any(|(_, list)| list.depth != 1) {
            return Err(self.placed(
                Fault::new("unnest goes one level deep").expected("unnest of a list, one after another in a subquery"),
                "UNNEST",
            ));
        }
        let lists: Vec<usize> = unnest.list_type_columns.iter().map(|(number, _)| *number).collect();
        let exprs = unnest
            .dependency_indices
            .iter()
            .map(|number| flow.columns[*number])
            .map(|place| (column(&flow.schema, place), flow.schema.field(place).name().clone()));
        let exprs = exprs.collect();
        flow.project(exprs)?;
        let places = unnest.dependency_indices.iter().zip(&flow.columns);
        let columns = places.filter(|(number, _)| lists.contains(number)).map(|(_, place)| *place).collect();
        flow.unnest(columns)?;
        Ok(flow)
    }
}
