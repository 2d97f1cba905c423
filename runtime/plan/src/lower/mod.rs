//! A logical plan split into what needs no memory and what does: branches of stateless steps, then keyed stages.
//!
//! The walk goes from the tables up. Each node of the logical plan adds steps or a stage to the [`Flow`] of its input; where
//! its columns are in the physical batches is kept beside it, so that event time (and a changelog's operation) can travel
//! along without being known to the SQL.

mod aggregate;
mod distinct;
mod flow;
mod native;
mod rank;
mod rolling;
mod signature;
mod union;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion_common::{
    DataFusionError, ScalarValue,
    tree_node::{Transformed, TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{Expr, Filter, Limit, LogicalPlan, Projection, TableScan, Window, expr::AggregateFunction};
use millrace_stream::{NodeName, StageId};

pub(crate) use flow::{Flow, Physical, Stamp, as_column, column};
pub(crate) use signature::expr_text;

use crate::{
    columns::{reserved, type_name},
    error::Fault,
    graph::{Branch, Input, OutputName, WindowDef},
    logical::faults_of,
    size,
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
    let common = common(plan).map_err(|fault| vec![fault])?;
    let mut lowering = Lowering { settings, common, late: None, window_used: false, within_used: false };
    let mut flow = lowering.node(plan, None).map_err(|fault| vec![fault])?;
    let names = lowering.names(plan)?;
    flow.settle(&names).map_err(|fault| vec![lowering.placed(fault, "SELECT")])?;
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
    /// What the planner computes once under a name of its own.
    common: BTreeMap<String, Expr>,
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
        let mut seen = HashSet::new();
        for name in &names {
            let place = || self.settings.sql.place_of(name);
            if !seen.insert(name) {
                faults.push(
                    Fault::new(format!("two columns of the result are called `{name}`"))
                        .offending(name)
                        .at(place())
                        .expected("an alias for one of them, such as `… AS another_name`"),
                );
            }
            if name.contains("__") {
                let text = crate::pseudo::as_users_write(name);
                if text == *name {
                    faults.extend(reserved(name).map(|fault| fault.at(place())));
                    continue;
                }
                faults.push(
                    Fault::new(format!("`{text}` needs a name")).offending(text).expected("an alias: `… AS name`"),
                );
            } else {
                faults.extend(reserved(name).map(|fault| fault.at(place())));
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
                let layout = flow.layout(filter.input.schema()).map_err(|error| self.fault(error))?;
                let predicate = flow.physical(&filter.predicate, &layout).map_err(|error| self.fault(error))?;
                flow.filter(predicate).map_err(|fault| {
                    let word = if self.settings.sql.place_of("HAVING").is_some() { "HAVING" } else { "WHERE" };
                    self.placed(fault, word)
                })?;
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

    /// An expression as users would write it.
    fn text(&self, expr: &Expr) -> String {
        signature::expr_text(&spelled_out(expr, &self.common))
    }

    /// An aggregate's call as users would write it.
    fn call_text(&self, function: &AggregateFunction) -> String {
        self.text(&Expr::AggregateFunction(function.clone()))
    }

    fn project(&self, flow: &mut Flow, projection: &Projection) -> Result<(), Fault> {
        let layout = flow.layout(projection.input.schema()).map_err(|error| self.fault(error))?;
        let mut exprs = Vec::with_capacity(projection.expr.len());
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            let physical = flow.physical(expr, &layout).map_err(|error| self.fault(error))?;
            // What is only passed on keeps the name that it has, which reads better than the planner's.
            let name = match (expr, as_column(&physical)) {
                (Expr::Column(_), Some(place)) => flow.schema.field(place).name().clone(),
                (_, Some(place)) if field.name().starts_with("__unnest") => flow.schema.field(place).name().clone(),
                _ => field.name().clone(),
            };
            exprs.push((physical, name));
        }
        flow.project(exprs).map_err(|fault| self.placed(fault, "SELECT"))
    }

    fn placed(&self, fault: Fault, word: &str) -> Fault {
        let sql = self.settings.sql;
        if fault.span.is_some() { fault } else { fault.at(sql.place_of(word).or_else(|| sql.place_of("SELECT"))) }
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
            session_start: None,
            window_columns: self
                .settings
                .window
                .and_then(|(_, def)| rank::window_of_row(def.kind, &column(&table.schema, 0))),
        })
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

/// How many parts the expressions may have that are computed once for several uses, each spelled out.
const MAX_SPELLED: usize = 100_000;

/// The expressions that the planner computes once for several uses, by the names that it gives them. The names differ from
/// plan to plan of the same SQL, so nothing that is compared may hold them.
fn common(plan: &LogicalPlan) -> Result<BTreeMap<String, Expr>, Fault> {
    let mut named = BTreeMap::new();
    let walked = plan.apply(|node| {
        if let LogicalPlan::Projection(projection) = node {
            for expr in &projection.expr {
                if let Expr::Alias(alias) = expr
                    && alias.name.starts_with("__common_expr")
                {
                    named.insert(alias.name.clone(), alias.expr.as_ref().clone());
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "looking at a plan cannot fail");
    let mut spelling = Spelling { named, done: BTreeMap::new(), sizes: BTreeMap::new(), parts: 0 };
    let names: Vec<String> = spelling.named.keys().cloned().collect();
    for name in names {
        spelling.spell(&name)?;
    }
    Ok(spelling.done)
}

/// Common expressions, of which some are made of others.
struct Spelling {
    /// Those that have not been met.
    named: BTreeMap<String, Expr>,
    done: BTreeMap<String, Expr>,
    /// How many parts each has that is done.
    sizes: BTreeMap<String, usize>,
    parts: usize,
}

impl Spelling {
    fn spell(&mut self, name: &str) -> Result<(), Fault> {
        // One that is made of itself is left with its own name in it.
        let Some(expr) = self.named.remove(name) else { return Ok(()) };
        let mut used = Vec::new();
        let mut size = 0;
        let walked = expr.apply(|part| {
            size += 1;
            if let Expr::Column(column) = part {
                used.push(column.name.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok(), "looking at an expression cannot fail");
        for other in &used {
            self.spell(other)?;
            size += self.sizes.get(other).copied().unwrap_or_default();
        }
        self.parts += size;
        if self.parts > MAX_SPELLED {
            return Err(size::too_large(self.parts, MAX_SPELLED));
        }
        let spelled = spelled_out(&expr, &self.done);
        self.sizes.insert(name.to_owned(), size);
        self.done.insert(name.to_owned(), spelled);
        Ok(())
    }
}

/// An expression with what the names in it stand for.
fn spelled_out(expr: &Expr, names: &BTreeMap<String, Expr>) -> Expr {
    let spelled = expr.clone().transform_up(|node| match &node {
        Expr::Column(column) => match names.get(column.name()) {
            Some(meant) => Ok(Transformed::yes(meant.clone())),
            None => Ok(Transformed::no(node)),
        },
        _ => Ok(Transformed::no(node)),
    });
    spelled.map_or_else(|_| expr.clone(), |done| done.data)
}
