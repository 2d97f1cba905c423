//! Any aggregate, through DataFusion's accumulators.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, new_empty_array},
    datatypes::{DataType, FieldRef},
};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use crate::operator::OperatorError;

/// An accumulator of DataFusion's.
pub(super) struct Generic {
    call: Arc<AggregateFunctionExpr>,
    groups: usize,
    accumulator: Box<dyn GroupsAccumulator>,
}

impl Generic {
    pub(super) fn new(call: &Arc<AggregateFunctionExpr>) -> Result<Self, OperatorError> {
        let accumulator = if call.groups_accumulator_supported() {
            call.create_groups_accumulator()?
        } else {
            let call = Arc::clone(call);
            Box::new(GroupsAccumulatorAdapter::new(move || call.create_accumulator()))
        };
        Ok(Self { call: Arc::clone(call), groups: 0, accumulator })
    }

    pub(super) fn update(
        &mut self,
        args: &[ArrayRef],
        filter: Option<&BooleanArray>,
        locals: &[usize],
        groups: usize,
    ) -> Result<(), OperatorError> {
        self.groups = groups;
        Ok(self.accumulator.update_batch(args, locals, filter, groups)?)
    }

    pub(super) fn merge(&mut self, state: &[ArrayRef], locals: &[usize], groups: usize) -> Result<(), OperatorError> {
        self.groups = groups;
        Ok(self.accumulator.merge_batch(state, locals, groups)?)
    }

    /// The states of all groups, of the types that `fields` say.
    pub(super) fn into_state(mut self, fields: &[FieldRef]) -> Result<Vec<ArrayRef>, OperatorError> {
        // DataFusion's adapter has no answer for no groups.
        if self.groups == 0 {
            return Ok(fields.iter().map(|field| new_empty_array(field.data_type())).collect());
        }
        let state = self.accumulator.state(EmitTo::All)?;
        let found = || state.iter().map(|column| column.data_type());
        if found().eq(fields.iter().map(|field| field.data_type())) {
            return Ok(state);
        }
        let types = |types: Vec<&DataType>| format!("{types:?}");
        Err(OperatorError::Damaged {
            found: format!("a state of {} with columns {}", self.call.name(), types(found().collect())),
            expected: "the columns that the aggregate says its state has",
        })
    }

    pub(super) fn evaluate(mut self) -> Result<ArrayRef, OperatorError> {
        if self.groups == 0 {
            return Ok(new_empty_array(self.call.field().data_type()));
        }
        Ok(self.accumulator.evaluate(EmitTo::All)?)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.accumulator.size()
    }
}
