//! Keyed operators: windowed GROUP BY and its relatives, behind [`KeyedOperator`].
//!
//! | module | what |
//! |---|---|
//! | [`aligned`] | tumbling and hopping windows |
//! | [`rolling`] | for each row, the trailing range |
//! | [`session`] | rows of a key with no long silence between them |
//! | [`eras`] | what happens when a window's lengths change |
//! | [`crate::topn`] | the first n of each window |
//! | [`crate::running`] | GROUP BY without a window |
//! | [`crate::distinct`] | DISTINCT ON with `within` |

pub mod aligned;
pub(crate) mod chunks;
pub(crate) mod delta_log;
pub(crate) mod eras;
pub(crate) mod facts;
pub mod grid;
pub mod rolling;
pub(crate) mod row_log;
pub mod session;
mod slice;
pub(crate) mod table;
pub(crate) mod waiting;

use millrace_plan::{KeyedOp, WindowKind};

use self::{aligned::AlignedWindows, rolling::RollingWindows, session::SessionWindows};
use crate::{
    distinct::{self, DistinctWithin},
    operator::{KeyedOperator, OperatorContext, OperatorError},
    running::{self, Running},
    topn::{self, Top},
};

/// The states that an operator keeps in its task's store.
pub fn states(op: &KeyedOp) -> &'static [&'static str] {
    match op {
        KeyedOp::Window(window) => match window.def.kind {
            WindowKind::Tumbling { .. } | WindowKind::Hopping { .. } => &aligned::STATES,
            WindowKind::Rolling { .. } => &[rolling::STATE],
            WindowKind::Session { .. } => &session::STATES,
        },
        KeyedOp::Top(_) => &[topn::STATE],
        KeyedOp::Running(_) => &running::STATES,
        KeyedOp::Distinct(_) => &distinct::STATES,
    }
}

/// The operator that does what the plan says, with the state that the context restores.
///
/// # Errors
/// Fails if an aggregate cannot be made, or stored state cannot be read.
pub fn make_operator(op: &KeyedOp, cx: OperatorContext) -> Result<Box<dyn KeyedOperator>, OperatorError> {
    Ok(match op {
        KeyedOp::Window(window) => match window.def.kind {
            WindowKind::Tumbling { .. } | WindowKind::Hopping { .. } => Box::new(AlignedWindows::new(window, cx)?),
            WindowKind::Rolling { .. } => Box::new(RollingWindows::new(window, cx)?),
            WindowKind::Session { .. } => Box::new(SessionWindows::new(window, cx)?),
        },
        KeyedOp::Top(top) => Box::new(Top::new(top, cx)?),
        KeyedOp::Distinct(distinct) => Box::new(DistinctWithin::new(distinct, cx)?),
        KeyedOp::Running(running) => Box::new(Running::new(running, cx)?),
    })
}

#[cfg(test)]
pub(crate) mod tests;
