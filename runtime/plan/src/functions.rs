//! The functions that SQL may call: DataFusion's scalar, nested, aggregate and window functions, and the JSON ones.
//! Functions that take lambdas are left out: `->` is JSON's here.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, OnceLock},
};

use datafusion_common::{Result, plan_datafusion_err};
use datafusion_expr::{
    AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF, expr_rewriter::FunctionRewrite, planner::ExprPlanner,
    registry::FunctionRegistry,
};

use crate::{bounded::bounded, pseudo};

/// Every function by every name that it has.
#[derive(Debug, Default)]
pub struct Functions {
    scalar: BTreeMap<String, Arc<ScalarUDF>>,
    aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    window: BTreeMap<String, Arc<WindowUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    rewrites: Vec<Arc<dyn FunctionRewrite + Send + Sync>>,
}

/// The functions that every pipeline's SQL may call.
pub fn functions() -> &'static Functions {
    static ALL: OnceLock<Functions> = OnceLock::new();
    ALL.get_or_init(Functions::all)
}

impl Functions {
    fn all() -> Self {
        let mut all = Self::default();
        for function in datafusion_functions::all_default_functions()
            .into_iter()
            .chain(datafusion_functions_nested::all_default_nested_functions())
            .chain(pseudo::scalars())
        {
            all.add_scalar(bounded(function));
        }
        for function in
            datafusion_functions_aggregate::all_default_aggregate_functions().into_iter().chain(pseudo::aggregates())
        {
            all.add_aggregate(function);
        }
        for function in datafusion_functions_window::all_default_window_functions() {
            all.window.insert(function.name().to_owned(), function);
        }
        // In DataFusion's own order: array literals and field accesses before the generic ones.
        all.planners = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
            Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
        ];
        datafusion_functions_json::register_all(&mut all).expect("this registry takes whatever is registered");
        all
    }

    fn add_scalar(&mut self, function: Arc<ScalarUDF>) -> Option<Arc<ScalarUDF>> {
        for alias in function.aliases() {
            self.scalar.insert(alias.clone(), Arc::clone(&function));
        }
        self.scalar.insert(function.name().to_owned(), function)
    }

    fn add_aggregate(&mut self, function: Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
        for alias in function.aliases() {
            self.aggregate.insert(alias.clone(), Arc::clone(&function));
        }
        self.aggregate.insert(function.name().to_owned(), function)
    }

    /// The scalar function of this name.
    pub fn scalar(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalar.get(name)
    }

    /// The aggregate of this name.
    pub fn aggregate(&self, name: &str) -> Option<&Arc<AggregateUDF>> {
        self.aggregate.get(name)
    }

    /// The window function of this name.
    pub fn window(&self, name: &str) -> Option<&Arc<WindowUDF>> {
        self.window.get(name)
    }

    /// Whether a function of this name goes over the rows of a window and is nothing else.
    pub(crate) fn is_window_only(&self, name: &str) -> bool {
        self.window.contains_key(name) && !self.scalar.contains_key(name) && !self.aggregate.contains_key(name)
    }

    /// Whether a function of any sort has this name.
    pub fn has(&self, name: &str) -> bool {
        self.scalar.contains_key(name) || self.aggregate.contains_key(name) || self.window.contains_key(name)
    }

    /// The names that users may use, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.scalar
            .keys()
            .chain(self.aggregate.keys())
            .chain(self.window.keys())
            .map(String::as_str)
            .filter(|name| !pseudo::is_pseudo(name))
    }

    pub(crate) fn planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    pub(crate) fn rewrites(&self) -> &[Arc<dyn FunctionRewrite + Send + Sync>] {
        &self.rewrites
    }
}

fn found<T>(function: Option<&Arc<T>>, name: &str) -> Result<Arc<T>> {
    function.cloned().ok_or_else(|| plan_datafusion_err!("there is no function `{name}`"))
}

impl FunctionRegistry for Functions {
    fn udfs(&self) -> HashSet<String> {
        self.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> HashSet<String> {
        HashSet::new()
    }

    fn udafs(&self) -> HashSet<String> {
        self.aggregate.keys().cloned().collect()
    }

    fn udwfs(&self) -> HashSet<String> {
        self.window.keys().cloned().collect()
    }

    fn udf(&self, name: &str) -> Result<Arc<ScalarUDF>> {
        found(self.scalar(name), name)
    }

    fn higher_order_function(&self, name: &str) -> Result<Arc<HigherOrderUDF>> {
        found(None, name)
    }

    fn udaf(&self, name: &str) -> Result<Arc<AggregateUDF>> {
        found(self.aggregate(name), name)
    }

    fn udwf(&self, name: &str) -> Result<Arc<WindowUDF>> {
        found(self.window(name), name)
    }

    fn register_udf(&mut self, function: Arc<ScalarUDF>) -> Result<Option<Arc<ScalarUDF>>> {
        Ok(self.add_scalar(function))
    }

    fn register_udaf(&mut self, function: Arc<AggregateUDF>) -> Result<Option<Arc<AggregateUDF>>> {
        Ok(self.add_aggregate(function))
    }

    fn register_function_rewrite(&mut self, rewrite: Arc<dyn FunctionRewrite + Send + Sync>) -> Result<()> {
        self.rewrites.push(rewrite);
        Ok(())
    }

    fn expr_planners(&self) -> Vec<Arc<dyn ExprPlanner>> {
        self.planners.clone()
    }

    fn register_expr_planner(&mut self, planner: Arc<dyn ExprPlanner>) -> Result<()> {
        // The last one registered is asked first.
        self.planners.insert(0, planner);
        Ok(())
    }
}
