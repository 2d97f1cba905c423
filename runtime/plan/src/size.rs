//! How large a SELECT may be. What a text of 64 KiB can say is planned in time that grows with the square of its columns
//! and keys, and names that stand for other expressions make a short text mean a very long one; the operator plans
//! what anybody writes, and has other things to do.
//!
//! | bound | |
//! |---|---|
//! | columns of a SELECT | [`MAX_COLUMNS`] |
//! | keys of GROUP BY, PARTITION BY, ORDER BY, DISTINCT ON | [`MAX_KEYS`] each |
//! | calls of aggregates and window functions in a SELECT | [`MAX_CALLS`] |
//! | the weight of a transform's SQL | [`MAX_WEIGHT`] |
//! | the weight of all SQL of a pipeline | [`MAX_WEIGHT_TOGETHER`] |
//!
//! The weight is reckoned before anything is planned: each part of an expression weighs as much as it is deep in it, each
//! column of each SELECT [`COLUMN_WEIGHT`] and something for the columns beside it; a subquery of WITH weighs again for each
//! use; and in WHERE, HAVING, QUALIFY, the keys and what is aggregated, a column of a subquery weighs what it stands for, since
//! the planner puts it there. In a build without optimisation 400,000 take between one second and two.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    rc::Rc,
};

use datafusion_sql::sqlparser::ast::{
    Distinct, ExcludeSelectItem, Expr, Function, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, Spanned,
    TableAlias, TableFactor, Visit, Visitor, WildcardAdditionalOptions, WindowType,
};

use crate::{
    error::Fault,
    functions::functions,
    logical::Tables,
    rewrite::{has_aggregate, resolve},
    sql::{function_name, normal, span_of},
};

/// How many columns a SELECT may give.
pub(crate) const MAX_COLUMNS: usize = 1_000;
/// How many keys each list of keys may have.
pub(crate) const MAX_KEYS: usize = 100;
/// How many aggregates and window functions a SELECT may call.
pub(crate) const MAX_CALLS: usize = 500;
/// How much the SQL of a transform may weigh.
pub(crate) const MAX_WEIGHT: u64 = 400_000;
/// How much all SQL of a pipeline may weigh.
pub(crate) const MAX_WEIGHT_TOGETHER: u64 = 2_000_000;
/// What a SELECT weighs, and what is around it.
const QUERY_WEIGHT: u64 = 10;
/// What a column of a SELECT weighs.
const COLUMN_WEIGHT: u64 = 30;
/// One in so many of the pairs of a SELECT's columns weighs as well: the planner looks at all.
const PAIRS: u64 = 10;
/// What a member of a UNION weighs for each member before it: the planner asks where those stand.
const MEMBER_WEIGHT: u64 = 3;
/// What a column of a UNION weighs for each member.
const UNITED_WEIGHT: u64 = 10;
/// What a key that a call runs OVER weighs, beside its own parts.
const OVER_WEIGHT: u64 = 48;

const SEVERAL: &str = "several transforms, each of a part";

/// What is said of SQL that is too large once it is spelled out.
pub(crate) fn too_large(parts: impl std::fmt::Display, most: impl std::fmt::Display) -> Fault {
    let message =
        format!("the SELECT is too large: it weighs {parts} with `*` and every name spelled out, and may weigh {most}");
    Fault::new(message).expected("fewer columns, shorter expressions, or fewer subqueries in each other")
}

/// What is said of the first SQL that is too much together with that of transforms before it.
pub(crate) fn too_large_together() -> Fault {
    let message = format!(
        "the transforms of this pipeline are too large together: with this one they weigh more than {MAX_WEIGHT_TOGETHER}, with \
         `*` and every name spelled out"
    );
    Fault::new(message).expected("fewer columns, or several pipelines")
}

/// Refuses lists that are written out and too long.
pub(crate) fn check_lists(query: &Query) -> Result<(), Fault> {
    match query.visit(&mut Lists { calls: Vec::new() }) {
        ControlFlow::Break(fault) => Err(fault),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Measures lists that are written out.
struct Lists {
    /// The calls in each SELECT that is around, from the outermost.
    calls: Vec<usize>,
}

fn keys<'a, K: Spanned + 'a>(what: &str, keys: impl ExactSizeIterator<Item = &'a K>) -> ControlFlow<Fault> {
    let count = keys.len();
    if count <= MAX_KEYS {
        return ControlFlow::Continue(());
    }
    let place = keys.into_iter().nth(MAX_KEYS).and_then(|key| span_of(key.span()));
    let fault = Fault::new(format!("{what} has {count} keys")).offending(what).at(place);
    ControlFlow::Break(fault.expected(format!("at most {MAX_KEYS} keys")))
}

fn order(kind: &OrderByKind) -> ControlFlow<Fault> {
    match kind {
        OrderByKind::Expressions(exprs) => keys("ORDER BY", exprs.iter().map(|order| &order.expr)),
        OrderByKind::All(_) => ControlFlow::Continue(()),
    }
}

fn columns(count: usize, select: &Select) -> Result<(), Fault> {
    if count <= MAX_COLUMNS {
        return Ok(());
    }
    let place = select.projection.get(MAX_COLUMNS).or(select.projection.first()).and_then(|item| span_of(item.span()));
    let fault = Fault::new(format!("the SELECT has {count} columns")).at(place);
    Err(fault.expected(format!("at most {MAX_COLUMNS} columns")))
}

/// Whether a call is one of an aggregate or of a window function.
fn is_counted(function: &Function) -> bool {
    function.over.is_some() || function_name(function).is_some_and(|name| functions().aggregate(&name).is_some())
}

impl Visitor for Lists {
    type Break = Fault;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Fault> {
        query.order_by.as_ref().map_or(ControlFlow::Continue(()), |by| order(&by.kind))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Fault> {
        self.calls.push(0);
        if let Err(fault) = columns(select.projection.len(), select) {
            return ControlFlow::Break(fault);
        }
        if let Some(Distinct::On(exprs)) = &select.distinct {
            keys("DISTINCT ON", exprs.iter())?;
        }
        match &select.group_by {
            GroupByExpr::Expressions(exprs, _) => keys("GROUP BY", exprs.iter()),
            GroupByExpr::All(_) => {
                let is_key = |item: &&SelectItem| !matches!(item, SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } if has_aggregate(expr));
                let all: Vec<&SelectItem> = select.projection.iter().filter(is_key).collect();
                keys("GROUP BY ALL", all.into_iter())
            }
        }
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<Fault> {
        self.calls.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Fault> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        if let Some(WindowType::WindowSpec(over)) = &function.over {
            keys("PARTITION BY", over.partition_by.iter())?;
            keys("ORDER BY", over.order_by.iter().map(|order| &order.expr))?;
        }
        keys("WITHIN GROUP", function.within_group.iter().map(|order| &order.expr))?;
        if is_counted(function)
            && let Some(calls) = self.calls.last_mut()
        {
            *calls += 1;
            if *calls > MAX_CALLS {
                let fault =
                    Fault::new(format!("the SELECT calls more than {MAX_CALLS} aggregates and window functions"))
                        .at(span_of(function.name.span()))
                        .expected(format!("at most {MAX_CALLS} of them; {SEVERAL}"));
                return ControlFlow::Break(fault);
            }
        }
        ControlFlow::Continue(())
    }
}

/// What a query weighs once every name and `*` in it is spelled out. `rolling`: aggregates run over the keys, each with a copy of
/// them.
///
/// # Errors
///
/// A SELECT in it with too many columns, or a weight that is too large.
pub(crate) fn weigh(query: &Query, tables: &Tables, rolling: bool) -> Result<u64, Fault> {
    let mut scale = Scale { tables, rolling, selects: 0, weight: 0 };
    scale.query(query, &Ctes::new())?;
    match scale.weight {
        weight if weight > MAX_WEIGHT => Err(too_large(about(weight), MAX_WEIGHT)),
        weight => Ok(weight),
    }
}

/// A weight, or that it is beyond all reckoning.
fn about(weight: u64) -> String {
    const SHOWN: u64 = 1_000_000_000;
    if weight > SHOWN { format!("more than {SHOWN}") } else { weight.to_string() }
}

/// What a column stands for.
#[derive(Clone, Debug)]
struct Meaning {
    name: String,
    spelled: Spelled,
}

/// How large an expression is with its names spelled out.
#[derive(Clone, Copy, Debug)]
struct Spelled {
    parts: u64,
    /// Of each part how deep it is, together.
    depths: u64,
}

impl Spelled {
    const PLAIN: Self = Self { parts: 1, depths: 1 };

    fn and(self, other: Self) -> Self {
        Self { parts: self.parts.saturating_add(other.parts), depths: self.depths.saturating_add(other.depths) }
    }
}

type Columns = Rc<Vec<Meaning>>;
/// What WITH names: its columns, and what it weighs.
type Ctes = BTreeMap<String, (Columns, u64)>;

struct Scale<'a> {
    tables: &'a Tables,
    rolling: bool,
    /// How many SELECTs have been weighed.
    selects: u64,
    weight: u64,
}

impl Scale<'_> {
    fn add(&mut self, weight: u64) {
        self.weight = self.weight.saturating_add(weight);
    }

    fn query(&mut self, query: &Query, outer: &Ctes) -> Result<Columns, Fault> {
        let mut own = Ctes::new();
        if let Some(with) = &query.with {
            own.clone_from(outer);
            for cte in &with.cte_tables {
                let before = self.weight;
                let columns = named(self.query(&cte.query, &own)?, Some(&cte.alias));
                own.insert(normal(&cte.alias.name), (columns, self.weight - before));
            }
        }
        let ctes = if query.with.is_some() { &own } else { outer };
        // Planning a query goes over all names that it could use.
        self.add(QUERY_WEIGHT + ctes.len() as u64 / 4);
        let columns = self.body(&query.body, ctes)?;
        if let Some(OrderByKind::Expressions(exprs)) = query.order_by.as_ref().map(|order| &order.kind) {
            let names = Names::of(&columns);
            exprs.iter().for_each(|order| self.add(names.spell(&order.expr).depths));
        }
        Ok(columns)
    }

    fn body(&mut self, body: &SetExpr, ctes: &Ctes) -> Result<Columns, Fault> {
        match body {
            SetExpr::Select(select) => self.select(select, ctes),
            SetExpr::Query(query) => self.query(query, ctes),
            SetExpr::SetOperation { left, right, .. } => {
                let before = self.selects;
                let left = self.body(left, ctes)?;
                let members = self.selects - before;
                let right = self.body(right, ctes)?;
                self.add(UNITED_WEIGHT * left.len() as u64 + MEMBER_WEIGHT * members);
                // A filter around it is done in each member.
                let both = left
                    .iter()
                    .zip(right.iter())
                    .map(|(one, other)| Meaning { name: one.name.clone(), spelled: one.spelled.and(other.spelled) });
                Ok(Rc::new(both.collect()))
            }
            _ => Ok(Columns::default()),
        }
    }

    fn select(&mut self, select: &Select, ctes: &Ctes) -> Result<Columns, Fault> {
        let mut input = Columns::default();
        for from in &select.from {
            input = self.factor(&from.relation, ctes)?;
        }
        let names = Names::of(&input);
        let grouped = crate::rewrite::aggregates(select, &[]);
        let mut result: Vec<Meaning> = Vec::new();
        let (mut without, mut calls) = (0, 0_u64);
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr)
                | SelectItem::ExprWithAlias { expr, .. }
                | SelectItem::ExprWithAliases { expr, .. } => {
                    let spelled = names.spell(expr);
                    let counted = calls_in(expr);
                    calls += counted;
                    let is_spelled = grouped || counted > 0;
                    self.add(if is_spelled { spelled.depths } else { Names::default().spell(expr).depths });
                    let name = match item {
                        SelectItem::ExprWithAlias { alias, .. } => normal(alias),
                        _ => name_of(expr),
                    };
                    result.push(Meaning { name, spelled });
                }
                SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                    without += left_out(options);
                    result.extend(input.iter().cloned());
                }
            }
            // Before a list of stars takes all memory.
            columns(result.len().saturating_sub(without), select)?;
        }
        let count = result.len() as u64;
        self.add(QUERY_WEIGHT + COLUMN_WEIGHT * count + count * count / PAIRS);
        self.selects += 1;
        let filters = select.selection.iter().chain(&select.having).chain(&select.qualify);
        for filter in filters {
            calls += calls_in(filter);
            self.add(names.spell(filter).depths);
        }
        let exprs = match &select.group_by {
            GroupByExpr::Expressions(keys, _) => keys.as_slice(),
            GroupByExpr::All(_) => &[],
        };
        let keys: u64 = exprs.iter().map(|key| names.spell(&resolve(key, select)).depths).fold(0, u64::saturating_add);
        self.add(keys);
        if self.rolling {
            // Each call runs over a copy of them.
            self.add(keys.saturating_add(OVER_WEIGHT * exprs.len() as u64).saturating_mul(calls));
        }
        Ok(Rc::new(result))
    }

    fn factor(&mut self, factor: &TableFactor, ctes: &Ctes) -> Result<Columns, Fault> {
        match factor {
            TableFactor::Table { name, alias, .. } => {
                let name = name.0.first().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
                if let Some((columns, weight)) = ctes.get(&name) {
                    self.add(*weight);
                    return Ok(named(Rc::clone(columns), alias.as_ref()));
                }
                let Some(schema) = self.tables.get(&name) else { return Ok(Columns::default()) };
                let plain = |name: &String| Meaning { name: name.clone(), spelled: Spelled::PLAIN };
                let columns = schema.fields().iter().map(|field| plain(field.name()));
                Ok(named(Rc::new(columns.collect()), alias.as_ref()))
            }
            TableFactor::Derived { subquery, alias, .. } => Ok(named(self.query(subquery, ctes)?, alias.as_ref())),
            _ => Ok(Columns::default()),
        }
    }
}

/// Columns with the names that an alias gives them.
fn named(columns: Columns, alias: Option<&TableAlias>) -> Columns {
    let Some(alias) = alias.filter(|alias| !alias.columns.is_empty()) else { return columns };
    let renamed = columns.iter().enumerate().map(|(number, column)| Meaning {
        name: alias.columns.get(number).map_or_else(|| column.name.clone(), |name| normal(&name.name)),
        spelled: column.spelled,
    });
    Rc::new(renamed.collect())
}

fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => normal(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(normal).unwrap_or_default(),
        Expr::Nested(inner) => name_of(inner),
        _ => String::new(),
    }
}

/// How many columns a `*` leaves out.
fn left_out(options: &WildcardAdditionalOptions) -> usize {
    let excluded = match &options.opt_exclude {
        Some(ExcludeSelectItem::Multiple(names)) => names.len(),
        Some(ExcludeSelectItem::Single(_)) => 1,
        None => 0,
    };
    excluded + options.opt_except.as_ref().map_or(0, |except| 1 + except.additional_elements.len())
}

/// How many aggregates and window functions an expression calls.
fn calls_in(expr: &Expr) -> u64 {
    let mut calls = 0;
    let _: ControlFlow<()> = datafusion_sql::sqlparser::ast::visit_expressions(expr, |part| {
        calls += u64::from(matches!(part, Expr::Function(function) if is_counted(function)));
        ControlFlow::Continue(())
    });
    calls
}

/// The columns that are more than a plain one, by their names.
#[derive(Default)]
struct Names<'a>(HashMap<&'a str, Spelled>);

impl<'a> Names<'a> {
    fn of(columns: &'a Columns) -> Self {
        let large = columns.iter().filter(|column| column.spelled.parts > 1);
        Self(large.map(|column| (column.name.as_str(), column.spelled)).collect())
    }

    fn spell(&self, expr: &Expr) -> Spelled {
        let mut speller = Speller { names: self, depth: 0, spelled: Spelled { parts: 0, depths: 0 } };
        let _: ControlFlow<()> = expr.visit(&mut speller);
        speller.spelled
    }
}

struct Speller<'a> {
    names: &'a Names<'a>,
    depth: u64,
    spelled: Spelled,
}

impl Visitor for Speller<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        let ident = match expr {
            _ if self.names.0.is_empty() => None,
            Expr::Identifier(ident) => Some(ident),
            Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        let meant = ident.and_then(|ident| self.names.0.get(normal(ident).as_str()).copied());
        if let Expr::Function(Function { over: Some(WindowType::WindowSpec(over)), .. }) = expr {
            let depths = OVER_WEIGHT * over.partition_by.len() as u64;
            self.spelled = self.spelled.and(Spelled { parts: 0, depths });
        }
        let part = meant.unwrap_or(Spelled::PLAIN);
        // What a name stands for is deeper by where the name stands.
        let depths = part.depths.saturating_add(part.parts.saturating_mul(self.depth - 1));
        self.spelled = self.spelled.and(Spelled { parts: part.parts, depths });
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}
