//! A logical plan split into what needs no memory and what does: branches of stateless steps, then keyed stages.
//!
//! The walk goes from the tables up. Each node of the logical plan adds steps or a stage to the [`Flow`] of its input; where
//! its columns are in the physical batches is kept beside it, so that event time (and a changelog's operation) can travel
//! along without being known to the SQL.

mod aggregate;
mod flow;
mod native;
mod rank;
mod rolling;
mod signature;

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion_common::{
    DataFusionError, ScalarValue,
    tree_node::{Transformed, TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{
    Distinct as LogicalDistinct, Expr, Filter, Limit, LogicalPlan, Projection, TableScan, Union, Unnest, Window,
};
use millrace_stream::{NodeName, StageId};

pub(crate) use flow::{Flow, Physical, Stamp, as_column, column};

use crate::{
    columns::{reserved, type_name},
    error::Fault,
    graph::{Branch, Distinct, Input, KeyedOp, KeyedStage, OutputName, WindowDef},
    logical::faults_of,
    sql::Sql,
};

/// A source or transform as those that read it see it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Event time, the operation of a changelog, then the columns that are there.
    pub schema: SchemaRef,
    /// The key columns of a changelog.
    pub changelog: Option<Vec<usize>>,
    pub stamp: Stamp,
}

/// What a transform is beside its SQL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    pub name: &'a str,
    pub sql: &'a Sql,
    pub tables: &'a BTreeMap<String, Table>,
    /// The Window's name and what it says.
    pub window: Option<(&'a str, &'a WindowDef)>,
    pub emit_every_ms: u64,
    pub within_ms: Option<i64>,
    /// Whether something reads the late rows.
    pub late: bool,
}

/// A transform, split.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    pub flow: Flow,
    pub late: Option<SchemaRef>,
}

/// Splits a plan.
pub(crate) fn lower(plan: &LogicalPlan, settings: Settings<'_>) -> Result<Lowered, Vec<Fault>> {
    let mut lowering = Lowering { settings, late: None, window_used: false, within_used: false };
    let mut flow = lowering.node(plan, None).map_err(|fault| vec![fault])?;
    let names = lowering.names(plan)?;
    flow.settle(&names).map_err(|fault| vec![fault])?;
    let sql = settings.sql;
    if let Some((window, _)) = settings.window
        && !lowering.window_used
    {
        return Err(vec![
            Fault::new(format!("`window: {window}` is named, and nothing in the SELECT is windowed"))
                .at(sql.place_of("SELECT"))
                .expected("an aggregate, GROUP BY, or ORDER BY with LIMIT; or no `window`"),
        ]);
    }
    if settings.within_ms.is_some() && !lowering.within_used {
        return Err(vec![
            Fault::new("`within` is set, and nothing in the SELECT drops repeats")
                .at(sql.place_of("SELECT"))
                .expected("SELECT DISTINCT ON (…), or no `within`"),
        ]);
    }
    Ok(Lowered { flow, late: lowering.late })
}

struct Lowering<'a> {
    settings: Settings<'a>,
    late: Option<SchemaRef>,
    window_used: bool,
    within_used: bool,
}

impl Lowering<'_> {
    fn fault(&self, error: DataFusionError) -> Fault {
        faults_of(&error, self.settings.sql).into_iter().next().unwrap_or_else(|| Fault::new(error.strip_backtrace()))
    }

    /// The names of what a plan puts out, each once and free to be taken.
    fn names(&self, plan: &LogicalPlan) -> Result<Vec<String>, Vec<Fault>> {
        let names: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        let mut faults = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let place = self.settings.sql.place_of(name);
            if names[..number].contains(name) {
                faults.push(
                    Fault::new(format!("two columns of the result are called `{name}`"))
                        .offending(name)
                        .at(place)
                        .expected("an alias for one of them, such as `… AS another_name`"),
                );
            }
            if name.contains("__") {
                let text = crate::pseudo::as_users_write(name);
                if text == *name {
                    faults.extend(reserved(name).map(|fault| fault.at(place)));
                    continue;
                }
                faults.push(
                    Fault::new(format!("`{text}` needs a name")).offending(text).expected("an alias: `… AS name`"),
                );
            } else {
                faults.extend(reserved(name).map(|fault| fault.at(place)));
            }
        }
        if faults.is_empty() { Ok(names) } else { Err(faults) }
    }

    /// `limit`: how many rows of each window the node above keeps.
    fn node(&mut self, plan: &LogicalPlan, limit: Option<usize>) -> Result<Flow, Fault> {
        match plan {
            LogicalPlan::Projection(projection) => {
                let mut flow = self.node(&projection.input, limit)?;
                self.project(&mut flow, projection)?;
                Ok(flow)
            }
            LogicalPlan::SubqueryAlias(alias) => self.node(&alias.input, limit),
            LogicalPlan::Sort(sort) => {
                let Some(limit) = limit.or(sort.fetch) else {
                    return Err(self.placed(
                        Fault::new("a stream has no end at which it could be sorted")
                            .offending("ORDER BY")
                            .expected("ORDER BY with LIMIT, which gives the first rows of each window"),
                        "ORDER",
                    ));
                };
                self.top(sort, limit)
            }
            LogicalPlan::Limit(inner) => {
                let limit = self.limit(inner)?;
                self.node(&inner.input, Some(limit))
            }
            _ if limit.is_some() => Err(self.placed(
                Fault::new("LIMIT without ORDER BY would keep any rows")
                    .offending("LIMIT")
                    .expected("ORDER BY … LIMIT, which gives the first rows of each window"),
                "LIMIT",
            )),
            LogicalPlan::Filter(filter) => {
                if let Some((window, predicate, between)) = bounded(filter).map_err(|error| self.fault(error))?
                    && !self.is_rolling()
                {
                    let mut flow = self.rank(window, Some(&predicate))?;
                    for projection in between.into_iter().rev() {
                        self.project(&mut flow, projection)?;
                    }
                    return Ok(flow);
                }
                let mut flow = self.node(&filter.input, None)?;
                let predicate =
                    flow.physical(&filter.predicate, filter.input.schema()).map_err(|error| self.fault(error))?;
                flow.filter(predicate).map_err(|fault| self.placed(fault, "HAVING"))?;
                Ok(flow)
            }
            LogicalPlan::Window(window) if self.is_rolling() => self.rolling(window),
            LogicalPlan::Window(window) => self.rank(window, None),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(distinct) => self.distinct(distinct),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::TableScan(scan) => self.scan(scan),
            other => {
                let what = other.display().to_string();
                Err(Fault::new("this form of SELECT is not supported").offending(what))
            }
        }
    }

    fn project(&self, flow: &mut Flow, projection: &Projection) -> Result<(), Fault> {
        let logical = projection.input.schema();
        let mut exprs = Vec::with_capacity(projection.expr.len());
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            let physical = flow.physical(expr, logical).map_err(|error| self.fault(error))?;
            // What is only passed on keeps the name that it has, which reads better than the planner's.
            let name = match (expr, as_column(&physical)) {
                (Expr::Column(_), Some(place)) => flow.schema.field(place).name().clone(),
                _ => field.name().clone(),
            };
            exprs.push((physical, name));
        }
        flow.project(exprs).map_err(|fault| self.placed(fault, "SELECT"))
    }

    fn placed(&self, fault: Fault, word: &str) -> Fault {
        if fault.span.is_some() { fault } else { fault.at(self.settings.sql.place_of(word)) }
    }

    fn limit(&self, limit: &Limit) -> Result<usize, Fault> {
        let fetch = match limit.fetch.as_deref() {
            Some(Expr::Literal(ScalarValue::Int64(Some(rows)), _)) => usize::try_from(*rows).ok(),
            Some(Expr::Literal(ScalarValue::UInt64(Some(rows)), _)) => usize::try_from(*rows).ok(),
            _ => None,
        };
        fetch.filter(|rows| *rows > 0).ok_or_else(|| {
            self.placed(
                Fault::new("LIMIT must be a number").offending("LIMIT").expected("a whole number from 1"),
                "LIMIT",
            )
        })
    }

    fn scan(&self, scan: &TableScan) -> Result<Flow, Fault> {
        let name = scan.table_name.table();
        let table = self
            .settings
            .tables
            .get(name)
            .ok_or_else(|| Fault::new(format!("there is no source or transform `{name}`")))?;
        let columns = scan
            .projected_schema
            .fields()
            .iter()
            .map(|field| table.schema.index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.fault(error.into()))?;
        let input = Input { node: NodeName::from(name), output: OutputName::Main };
        Ok(Flow {
            branches: vec![Branch { input, steps: Vec::new() }],
            keyed: Vec::new(),
            schema: Arc::clone(&table.schema),
            columns,
            changelog: table.changelog.clone(),
            stamp: table.stamp,
            window_columns: None,
        })
    }

    fn union(&mut self, union: &Union) -> Result<Flow, Fault> {
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

    fn unnest(&mut self, unnest: &Unnest) -> Result<Flow, Fault> {
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
            .zip(unnest.schema.fields())
            .map(|(number, field)| (column(&flow.schema, flow.columns[*number]), field.name().clone()));
        let exprs = exprs.collect();
        flow.project(exprs)?;
        let places = unnest.dependency_indices.iter().zip(&flow.columns);
        let columns = places.filter(|(number, _)| lists.contains(number)).map(|(_, place)| *place).collect();
        flow.unnest(columns)?;
        Ok(flow)
    }

    /// DISTINCT, in either form: with `within` the first row of each key, under a `window` GROUP BY all columns.
    fn distinct(&mut self, distinct: &LogicalDistinct) -> Result<Flow, Fault> {
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
        let mut exprs: Vec<(Physical, String)> = Vec::new();
        if let (Some(select), LogicalDistinct::On(on)) = (select, distinct) {
            for (expr, field) in select.iter().zip(on.schema.fields()) {
                exprs.push((flow.physical(expr, logical).map_err(|e| self.fault(e))?, field.name().clone()));
            }
        } else {
            let plain = flow.columns.iter().zip(logical.fields());
            exprs.extend(plain.map(|(place, field)| (column(&flow.schema, *place), field.name().clone())));
        }
        let selected = exprs.len();
        let mut keys = Vec::new();
        for expr in on.into_iter().flatten() {
            let key = flow.physical(expr, logical).map_err(|error| self.fault(error))?;
            let at = exprs.iter().position(|(known, _)| known.as_ref() == key.as_ref()).unwrap_or_else(|| {
                exprs.push((key, signature::expr_text(expr)));
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
        let op = Distinct { input: Arc::clone(&flow.schema), keys: keys.clone(), within_ms };
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

    /// Refuses what cannot stand before a stage of a given kind.
    fn stateless(&self, flow: &Flow, word: &str) -> Result<(), Fault> {
        if flow.changelog.is_some() {
            return Err(self.placed(
                Fault::new("the rows of a running aggregate change, and cannot be grouped, ranked or joined again")
                    .expected("a windowed aggregate as the input"),
                word,
            ));
        }
        if !flow.keyed.is_empty() {
            return Err(self.placed(
                Fault::new("a transform groups once").expected("a transform of its own for the inner SELECT"),
                word,
            ));
        }
        Ok(())
    }

    fn check_keys(&self, schema: &SchemaRef, keys: &[usize], word: &str) -> Result<(), Fault> {
        for key in keys {
            let field = schema.field(*key);
            if field.data_type().is_nested() {
                let of = type_name(field.data_type());
                return Err(self.placed(
                    Fault::new(format!("`{}` is of type {of}, which cannot be a key", field.name()))
                        .offending(field.name())
                        .expected("a key that is no list or struct"),
                    word,
                ));
            }
        }
        Ok(())
    }

    /// The name of the next stage.
    fn stage_id(&self, flow: &Flow, suffix: &str) -> StageId {
        let name = self.settings.name;
        match flow.keyed.len() {
            0 => StageId(name.to_owned()),
            _ if !suffix.is_empty() => StageId(format!("{name}.{suffix}")),
            before => StageId(format!("{name}.{}", before + 1)),
        }
    }
}

/// The window function that a filter bounds, if one is below it with nothing but projections between: the filter's condition
/// over the window's columns, and those projections from the top down.
#[allow(clippy::type_complexity)]
fn bounded(filter: &Filter) -> Result<Option<(&Window, Expr, Vec<&Projection>)>, DataFusionError> {
    let mut predicate = filter.predicate.clone();
    let mut between = Vec::new();
    let mut schema = filter.input.schema();
    let mut plan = filter.input.as_ref();
    loop {
        let inner: Vec<Expr> = match plan {
            LogicalPlan::SubqueryAlias(alias) => alias.input.schema().columns().into_iter().map(Expr::Column).collect(),
            LogicalPlan::Projection(projection) => projection.expr.iter().map(|expr| expr.clone().unalias()).collect(),
            LogicalPlan::Window(window) => return Ok(Some((window, predicate, between))),
            _ => return Ok(None),
        };
        predicate = predicate
            .transform(|node| match &node {
                Expr::Column(column) => {
                    let at = schema.index_of_column(column)?;
                    Ok(Transformed::new(inner[at].clone(), true, TreeNodeRecursion::Jump))
                }
                _ => Ok(Transformed::no(node)),
            })?
            .data;
        plan = match plan {
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Projection(projection) => {
                between.push(projection);
                &projection.input
            }
            other => other,
        };
        schema = plan.schema();
    }
}
