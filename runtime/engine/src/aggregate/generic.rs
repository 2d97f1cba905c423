//! Any aggregate, through DataFusion's accumulators.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use crate::operator::OperatorError;

/// An accumulator of DataFusion's.
pub(super) struct Generic(Box<dyn GroupsAccumulator>);

impl Generic {
    pub(super) fn new(call: &Arc<AggregateFunctionExpr>) -> Result<Self, OperatorError> {
        if call.groups_accumulator_supported() {
            return Ok(Self(call.create_groups_accumulator()?));
        }
        let call = Arc::clone(call);
        Ok(Self(Box::new(GroupsAccumulatorAdapter::new(move || call.create_accumulator()))))
    }

    pub(super) fn update(
        &mut self,
        args: &[ArrayRef],
        filter: Option<&BooleanArray>,
        locals: &[usize],
        groups: usize,
    ) -> Result<(), OperatorError> {
        Ok(self.0.update_batch(args, locals, filter, groups)?)
    }

    pub(super) fn merge(&mut self, state: &[ArrayRef], locals: &[usize], groups: usize) -> Result<(), OperatorError> {
        Ok(self.0.merge_batch(state, locals, groups)?)
    }

    pub(super) fn into_state(mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(self.0.state(EmitTo::All)?)
    }

    pub(super) fn evaluate(mut self) -> Result<ArrayRef, OperatorError> {
        Ok(self.0.evaluate(EmitTo::All)?)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.size()
    }
}
