//! The physical stream that a logical plan's node has become so far.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion_common::{
    DFSchema, Result, TableReference,
    config::ConfigOptions,
    tree_node::{Transformed, TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{
    Expr, Operator, execution_props::ExecutionProps, physical_planning_context::PhysicalPlanningContext,
};
use datafusion_physical_expr::{
    PhysicalExpr, ScalarFunctionExpr, create_physical_expr,
    expressions::{BinaryExpr, CastExpr, Column, Literal},
};

use crate::{
    columns::{settled_type, with_marks},
    error::Fault,
    graph::{Branch, KeyedStage, Step},
    pseudo,
};

/// A physical expression.
pub(crate) type Physical = Arc<dyn PhysicalExpr>;

/// What the event times of a stream mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// They are windows' last milliseconds, so that rows with the same one are of the same window.
    pub window: bool,
    /// Rows may be corrected by later ones.
    pub corrected: bool,
}

impl Stamp {
    /// What holds for the rows of two streams together.
    pub fn and(self, other: Self) -> Self {
        Self { window: self.window && other.window, corrected: self.corrected || other.corrected }
    }
}

/// Steps and stages, the schema in which they end, and where the columns of the logical plan are in it.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub branches: Vec<Branch>,
    pub keyed: Vec<KeyedStage>,
    pub schema: SchemaRef,
    /// The physical column of each logical one.
    pub columns: Vec<usize>,
    /// The physical key columns of a changelog.
    pub changelog: Option<Vec<usize>>,
    pub stamp: Stamp,
    /// The physical column of the start of each row's session, for as long as sessions may have to be told apart: of those
    /// that end at the same instant, only those that begin at the same one are the same window.
    pub session_start: Option<usize>,
    /// What `window_start`, `window_end` and `window_pane` of a row are, where rows have them.
    pub window_columns: Option<[Physical; 3]>,
}

/// A reference to a column.
pub(crate) fn column(schema: &SchemaRef, number: usize) -> Physical {
    Arc::new(Column::new(schema.field(number).name(), number))
}

/// Which column an expression is, if it is just one.
pub(crate) fn as_column(expr: &Physical) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// The columns that an expression reads.
pub(crate) fn columns_read(expr: &Physical) -> Vec<usize> {
    let mut read = Vec::new();
    let found = expr.apply(|node| {
        read.extend(node.downcast_ref::<Column>().map(Column::index));
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(found.is_ok(), "looking at an expression cannot fail");
    read
}

impl Flow {
    /// How many physical columns stand before the users'.
    pub fn marks(&self) -> usize {
        1 + usize::from(self.changelog.is_some())
    }

    /// A logical expression over the physical columns, whose [`Self::layout`] is made once for all expressions.
    pub fn physical(&self, expr: &Expr, layout: &DFSchema) -> Result<Physical> {
        let expr = create_physical_expr(expr, layout, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
        let replaced = expr.transform(|node| {
            if let Some(number) = as_column(&node) {
                // From the leaves up, so what was put in is not looked into, and what it stands in still is.
                return Ok(Transformed::yes(column(&self.schema, number)));
            }
            if let Some(arithmetic) = node.downcast_ref::<BinaryExpr>()
                && matches!(arithmetic.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
            {
                // What leaves its type is an error.
                return Ok(Transformed::yes(Arc::new(arithmetic.clone().with_fail_on_overflow(true))));
            }
            let Some(function) = node.downcast_ref::<ScalarFunctionExpr>() else {
                return Ok(Transformed::no(node));
            };
            let name = function.fun().name();
            if name == pseudo::EVENT_TIME {
                return Ok(Transformed::yes(column(&self.schema, 0)));
            }
            match (pseudo::window_column_of_scalar(name), &self.window_columns) {
                (None, _) => Ok(Transformed::no(node)),
                (Some(number), Some(columns)) => Ok(Transformed::yes(Arc::clone(&columns[number]))),
                (Some(number), None) => datafusion_common::plan_err!(
                    "`{}` is there only where a transform with a `window` groups",
                    pseudo::WINDOW_COLUMNS[number]
                ),
            }
        })?;
        Ok(replaced.data)
    }

    /// The physical schema, with the logical names at the columns that have one.
    pub fn layout(&self, logical: &DFSchema) -> Result<DFSchema> {
        let mut fields: Vec<(Option<TableReference>, FieldRef)> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(number, field)| {
                let unnamed = Field::new(format!("__column_{number}"), field.data_type().clone(), field.is_nullable());
                (None, Arc::new(unnamed))
            })
            .collect();
        for (number, (qualifier, field)) in logical.iter().enumerate() {
            let place = self.columns[number];
            let physical = self.schema.field(place);
            let named = Field::new(field.name(), physical.data_type().clone(), physical.is_nullable());
            fields[place] = (qualifier.cloned(), Arc::new(named));
        }
        DFSchema::new_with_metadata(fields, HashMap::new())
    }

    /// Does something to every row from here on.
    fn push(&mut self, step: Step) {
        let lists: Vec<&mut Vec<Step>> = match self.keyed.last_mut() {
            Some(stage) => vec![&mut stage.tail],
            None => self.branches.iter_mut().map(|branch| &mut branch.steps).collect(),
        };
        for steps in lists {
            append(steps, step.clone());
        }
    }

    /// Keeps the rows for which `predicate` is true.
    pub fn filter(&mut self, predicate: Physical) -> Result<(), Fault> {
        if let Some(keys) = &self.changelog
            && columns_read(&predicate).iter().any(|column| *column != 0 && !keys.contains(column))
        {
            return Err(Fault::new(
                "a filter on a value that a running aggregate changes would lose what becomes of a row",
            )
            .expected("a filter on the columns of its key, or a `window`"));
        }
        self.push(Step::Filter(predicate));
        Ok(())
    }

    /// Computes columns; they become the logical ones. Event time and operation are carried over.
    pub fn project(&mut self, exprs: Vec<(Physical, String)>) -> Result<(), Fault> {
        let event_time = column(&self.schema, 0);
        self.project_at(event_time, exprs)
    }

    /// The same, with another event time.
    pub fn project_at(&mut self, event_time: Physical, mut exprs: Vec<(Physical, String)>) -> Result<(), Fault> {
        let marks = self.marks();
        let users = exprs.len();
        if let Some(start) = self.session_start {
            let kept = exprs.iter().position(|(expr, _)| as_column(expr) == Some(start)).unwrap_or(users);
            if kept == users {
                exprs.push((column(&self.schema, start), self.schema.field(start).name().clone()));
            }
            self.session_start = Some(marks + kept);
        }
        let changelog = match &self.changelog {
            None => None,
            Some(keys) => Some(kept_keys(keys, &exprs, marks, &self.schema)?),
        };
        let mut fields = Vec::with_capacity(exprs.len());
        for (expr, name) in &exprs {
            let of = expr.data_type(&self.schema).map_err(|error| Fault::new(error.strip_backtrace()))?;
            fields.push(Arc::new(Field::new(name, of, true)));
        }
        let schema = with_marks(fields, changelog.is_some());
        let op = changelog.is_some().then(|| column(&self.schema, 1));
        let all: Vec<Physical> =
            std::iter::once(event_time).chain(op).chain(exprs.into_iter().map(|(expr, _)| expr)).collect();
        self.columns = (marks..marks + users).collect();
        self.changelog = changelog;
        // What follows from the event time alone stays true; columns are gone.
        self.window_columns = self
            .window_columns
            .take()
            .filter(|columns| columns.iter().flat_map(columns_read).all(|column| column == 0));
        let idle = schema == self.schema && all.iter().enumerate().all(|(at, expr)| as_column(expr) == Some(at));
        if !idle {
            self.push(Step::Project { exprs: all, schema: Arc::clone(&schema) });
        }
        self.schema = schema;
        Ok(())
    }

    /// Makes a row of each element of these physical list columns.
    pub fn unnest(&mut self, columns: Vec<usize>) -> Result<(), Fault> {
        if self.changelog.is_some() {
            return Err(Fault::new("the rows of a running aggregate cannot be unnested"));
        }
        let fields: Vec<FieldRef> = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(number, field)| match field.data_type() {
                DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
                    if columns.contains(&number) =>
                {
                    Arc::new(Field::new(field.name(), item.data_type().clone(), true))
                }
                _ => Arc::clone(field),
            })
            .collect();
        self.schema = Arc::new(arrow::datatypes::Schema::new(fields));
        self.push(Step::Unnest { columns, schema: Arc::clone(&self.schema) });
        Ok(())
    }

    /// Ends with just these columns, in the types that columns have between transforms.
    pub fn settle(&mut self, names: &[String]) -> Result<(), Fault> {
        self.session_start = None;
        let mut exprs = Vec::with_capacity(names.len());
        for (name, place) in names.iter().zip(&self.columns) {
            exprs.push((settled(column(&self.schema, *place), &self.schema), name.clone()));
        }
        self.project(exprs)
    }
}

/// Casts to the type that a column has between transforms. A JSON value becomes its text.
pub(crate) fn settled(expr: Physical, schema: &SchemaRef) -> Physical {
    let Ok(of) = expr.data_type(schema) else { return expr };
    if matches!(of, DataType::Union(..)) {
        let to_text = datafusion_functions_json::udfs::json_union_to_text_udf();
        let options = Arc::new(ConfigOptions::default());
        return match ScalarFunctionExpr::try_new(to_text, vec![Arc::clone(&expr)], schema, options) {
            Ok(text) => settled(Arc::new(text), schema),
            // Not a JSON value: what cannot carry it says so.
            Err(_) => expr,
        };
    }
    cast(expr, &of, &settled_type(&of))
}

/// Casts, if there is anything to cast.
pub(crate) fn cast(expr: Physical, from: &DataType, to: &DataType) -> Physical {
    if from == to { expr } else { Arc::new(CastExpr::new(expr, to.clone(), None)) }
}

/// Where the keys of a changelog are after a projection.
fn kept_keys(
    keys: &[usize],
    exprs: &[(Physical, String)],
    marks: usize,
    schema: &SchemaRef,
) -> Result<Vec<usize>, Fault> {
    keys.iter()
        .map(|key| {
            let kept = exprs.iter().position(|(expr, _)| kept_column(expr, schema) == Some(*key)).map(|at| at + marks);
            kept.ok_or_else(|| {
                let name = schema.field(*key).name();
                Fault::new(format!("without its key `{name}`, a changed row cannot be found again"))
                    .expected(format!("`{name}` in the select list, as it is"))
            })
        })
        .collect()
}

/// The column that an expression is, as it is or in the type that it has between transforms.
fn kept_column(expr: &Physical, schema: &SchemaRef) -> Option<usize> {
    let Some(cast) = expr.downcast_ref::<CastExpr>() else { return as_column(expr) };
    let column = as_column(cast.expr())?;
    (cast.cast_type() == &settled_type(schema.field(column).data_type())).then_some(column)
}

/// Adds a step; two projections in a row become one where that computes nothing twice.
fn append(steps: &mut Vec<Step>, step: Step) {
    if let Step::Project { exprs: outer, schema } = &step
        && let Some(Step::Project { exprs: inner, .. }) = steps.last()
        && let Some(fused) = fuse(inner, outer)
    {
        steps.pop();
        steps.push(Step::Project { exprs: fused, schema: Arc::clone(schema) });
        return;
    }
    steps.push(step);
}

fn fuse(inner: &[Physical], outer: &[Physical]) -> Option<Vec<Physical>> {
    let mut uses = vec![0_usize; inner.len()];
    for expr in outer {
        for column in columns_read(expr) {
            *uses.get_mut(column)? += 1;
        }
    }
    let trivial = |expr: &Physical| expr.is::<Column>() || expr.is::<Literal>();
    if inner.iter().zip(&uses).any(|(expr, uses)| *uses > 1 && !trivial(expr)) {
        return None;
    }
    let substituted = outer.iter().map(|expr| {
        Arc::clone(expr).transform(|node| match as_column(&node) {
            Some(number) => Ok(Transformed::yes_skip(Arc::clone(&inner[number]))),
            None => Ok(Transformed::no(node)),
        })
    });
    substituted.map(|result| result.ok().map(|done| done.data)).collect()
}

trait Skip<T> {
    fn yes_skip(data: T) -> Transformed<T>;
}

impl<T> Skip<T> for Transformed<T> {
    /// Replaced, and what replaces it is not looked into.
    fn yes_skip(data: T) -> Transformed<T> {
        Transformed::new(data, true, TreeNodeRecursion::Jump)
    }
}
