//! What is changed in the SQL before it is planned: `_event_time` and the window's columns become calls that the planner
//! takes for what they are, and the GROUP BY of a rolling window becomes what it means, an aggregate OVER each row's range.
//!
//! In a SELECT that aggregates under a `window`, the unqualified names `window_start`, `window_end` and `window_pane` mean
//! that window's columns in the select list, HAVING, ORDER BY and GROUP BY; inside an aggregate's arguments, in WHERE, and
//! qualified by a table, they mean the input's columns of that name.
//!
//! A rolling window gives a row for each input row. Two forms of SQL say it, and mean the same:
//!
//! ```sql
//! SELECT tenant, latency, avg(latency) AS usual FROM requests GROUP BY tenant
//! SELECT tenant, latency, avg(latency) OVER (PARTITION BY tenant) AS usual FROM requests
//! ```
//!
//! Columns outside of aggregates are the row's own; the aggregates run over the rows of the same key in the Window's range
//! that ends with the row.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, ObjectName, OrderByExpr, OrderByKind, OrderByOptions, Query, Select,
    SelectItem, SetExpr, TableFactor, Value, VisitMut, VisitorMut, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowSpec, WindowType,
};
use millrace_stream::EVENT_TIME_COLUMN;

use crate::{
    functions::functions,
    graph::WindowKind,
    pseudo,
    sql::{function_name, normal},
};

/// Makes the query what the planner can take.
pub(crate) fn rewrite(query: &mut Query, window: Option<WindowKind>) {
    let _: ControlFlow<()> = query.visit(&mut Rewriter { window });
}

struct Rewriter {
    window: Option<WindowKind>,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let mut order_by: Vec<&mut Expr> = match query.order_by.as_mut().map(|order| &mut order.kind) {
            Some(OrderByKind::Expressions(exprs)) => exprs.iter_mut().map(|order| &mut order.expr).collect(),
            _ => Vec::new(),
        };
        if let SetExpr::Select(select) = query.body.as_mut() {
            self.select(select, &mut order_by);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        // The members of a UNION have no ORDER BY of their own. Those that were met above have no mark left.
        self.select(select, &mut []);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let named = match expr {
            Expr::Identifier(ident) => Some(ident),
            Expr::CompoundIdentifier(parts) => parts.last_mut(),
            _ => None,
        };
        if named.is_some_and(|ident| normal(ident) == EVENT_TIME_COLUMN) {
            *expr = call(pseudo::EVENT_TIME);
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter {
    fn select(&self, select: &mut Select, order_by: &mut [&mut Expr]) {
        name_marks(select);
        let Some(window) = self.window else { return };
        let aggregated = aggregates(select, order_by);
        if let WindowKind::Rolling { .. } = window {
            if aggregated {
                roll(select, order_by);
            }
            if aggregated || reads_tables(select) {
                mark(select, order_by, false);
            }
        } else if aggregated {
            if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
                keys.retain(|key| !only_window_columns(key));
            }
            mark(select, order_by, true);
        } else if reads_tables(select) {
            mark(select, order_by, false);
        }
    }
}

/// Whether a SELECT reads tables, and not a subquery that may have the window's columns already.
fn reads_tables(select: &Select) -> bool {
    select.from.iter().all(|from| matches!(from.relation, TableFactor::Table { .. }))
}

/// `SELECT _event_time` keeps its name when it becomes a call.
fn name_marks(select: &mut Select) {
    for item in &mut select.projection {
        let name = match item {
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => ident.clone(),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => match parts.last() {
                Some(last) => last.clone(),
                None => continue,
            },
            _ => continue,
        };
        let normal = normal(&name);
        if (normal == EVENT_TIME_COLUMN || pseudo::WINDOW_COLUMNS.contains(&normal.as_str()))
            && let SelectItem::UnnamedExpr(expr) = item
        {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: name };
        }
    }
}

/// Replaces the window's columns by calls.
fn mark(select: &mut Select, order_by: &mut [&mut Expr], aggregated: bool) {
    let mut marker = Marker { aggregated, depth: 0 };
    for expr in outer_exprs(select) {
        let _: ControlFlow<()> = expr.visit(&mut marker);
    }
    for expr in order_by {
        let _: ControlFlow<()> = expr.visit(&mut marker);
    }
}

/// The expressions of a SELECT that stand after its GROUP BY.
fn outer_exprs(select: &mut Select) -> impl Iterator<Item = &mut Expr> {
    select
        .projection
        .iter_mut()
        .filter_map(|item| match item {
            SelectItem::UnnamedExpr(expr)
            | SelectItem::ExprWithAlias { expr, .. }
            | SelectItem::ExprWithAliases { expr, .. } => Some(expr),
            SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => None,
        })
        .chain(select.having.as_mut())
        .chain(select.qualify.as_mut())
}

struct Marker {
    aggregated: bool,
    /// How many aggregates' arguments this is inside of.
    depth: usize,
}

impl VisitorMut for Marker {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.depth += usize::from(is_aggregate(expr));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.depth -= usize::from(is_aggregate(expr));
        if self.depth == 0
            && let Some(number) = window_column(expr)
        {
            *expr = call(&pseudo::window_function(number, self.aggregated));
        }
        ControlFlow::Continue(())
    }
}

/// Which of the window's columns an expression names.
fn window_column(expr: &Expr) -> Option<usize> {
    let Expr::Identifier(ident) = expr else { return None };
    let name = normal(ident);
    pseudo::WINDOW_COLUMNS.iter().position(|known| *known == name)
}

/// Whether an expression names the window's columns and no others: as a key it adds nothing.
fn only_window_columns(expr: &Expr) -> bool {
    let (mut of_window, mut others) = (0, 0);
    let _ = datafusion_sql::sqlparser::ast::visit_expressions(expr, |expr| {
        match expr {
            _ if window_column(expr).is_some() => of_window += 1,
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => others += 1,
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    of_window > 0 && others == 0
}

/// A call of an aggregate that groups, not one OVER a window.
fn is_aggregate(expr: &Expr) -> bool {
    let Expr::Function(function) = expr else { return false };
    function.over.is_none() && function_name(function).is_some_and(|name| functions().aggregate(&name).is_some())
}

/// Whether an expression has an aggregate in it.
pub(crate) fn has_aggregate(expr: &Expr) -> bool {
    datafusion_sql::sqlparser::ast::visit_expressions(expr, |expr| {
        if is_aggregate(expr) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .is_break()
}

/// Whether a SELECT groups.
pub(crate) fn aggregates(select: &Select, order_by: &[&mut Expr]) -> bool {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(keys, _) => !keys.is_empty(),
    };
    let in_list = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => has_aggregate(expr),
        _ => false,
    });
    grouped
        || in_list
        || select.having.as_ref().is_some_and(has_aggregate)
        || order_by.iter().any(|expr| has_aggregate(expr))
}

/// GROUP BY under a rolling window: every aggregate runs OVER the rows of the same key.
fn roll(select: &mut Select, order_by: &mut [&mut Expr]) {
    let keys = match std::mem::replace(&mut select.group_by, GroupByExpr::Expressions(Vec::new(), Vec::new())) {
        GroupByExpr::Expressions(keys, _) => keys,
        GroupByExpr::All(_) => Vec::new(),
    };
    let keys: Vec<Expr> = keys.iter().filter(|key| !only_window_columns(key)).map(|key| resolve(key, select)).collect();
    let mut over = Over { keys };
    for expr in outer_exprs(select) {
        let _: ControlFlow<()> = expr.visit(&mut over);
    }
    for expr in order_by {
        let _: ControlFlow<()> = expr.visit(&mut over);
    }
    if let Some(having) = select.having.take() {
        select.qualify = Some(match select.qualify.take() {
            None => having,
            Some(qualify) => Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(having))),
                op: BinaryOperator::And,
                right: Box::new(Expr::Nested(Box::new(qualify))),
            },
        });
    }
}

/// What a key means that is a number or an alias of the select list.
pub(crate) fn resolve(key: &Expr, select: &Select) -> Expr {
    let item = |expr: &SelectItem| match expr {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr.clone()),
        _ => None,
    };
    let meant = match key {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => {
                let place = number.to_string().parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                place.and_then(|n| select.projection.get(n)).and_then(item)
            }
            _ => None,
        },
        Expr::Identifier(ident) => select.projection.iter().find_map(|projected| match projected {
            SelectItem::ExprWithAlias { expr, alias } if normal(alias) == normal(ident) => Some(expr.clone()),
            _ => None,
        }),
        _ => None,
    };
    meant.unwrap_or_else(|| key.clone())
}

struct Over {
    keys: Vec<Expr>,
}

impl VisitorMut for Over {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if is_aggregate(expr)
            && let Expr::Function(function) = expr
        {
            name_ordered(function);
            // An aggregate's own order is that of its window, as long as that has all rows: the planner takes it in no other place.
            let order_by = take_order(&mut function.args);
            let all_rows = || WindowFrame {
                units: WindowFrameUnits::Rows,
                start_bound: WindowFrameBound::Preceding(None),
                end_bound: Some(WindowFrameBound::Following(None)),
            };
            function.over = Some(WindowType::WindowSpec(WindowSpec {
                window_name: None,
                partition_by: self.keys.clone(),
                window_frame: (!order_by.is_empty()).then(all_rows),
                order_by,
            }));
        }
        ControlFlow::Continue(())
    }
}

/// `percentile_cont(0.5) WITHIN GROUP (ORDER BY x)` becomes `percentile_cont(x, 0.5)`: the planner takes no WITHIN GROUP with
/// OVER. A descending order means another percentile, and stays.
fn name_ordered(function: &mut Function) {
    let [OrderByExpr { expr, options: OrderByOptions { asc: None | Some(true), nulls_first: None }, with_fill: None }] =
        function.within_group.as_slice()
    else {
        return;
    };
    if let FunctionArguments::List(list) = &mut function.args {
        list.args.insert(0, FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone())));
        function.within_group.clear();
    }
}

/// Takes the ORDER BY out of an aggregate's arguments.
fn take_order(args: &mut FunctionArguments) -> Vec<OrderByExpr> {
    let FunctionArguments::List(list) = args else { return Vec::new() };
    let is_order = |clause: &FunctionArgumentClause| matches!(clause, FunctionArgumentClause::OrderBy(_));
    let Some(at) = list.clauses.iter().position(is_order) else { return Vec::new() };
    match list.clauses.remove(at) {
        FunctionArgumentClause::OrderBy(order) => order,
        _ => Vec::new(),
    }
}

/// `function()`
fn call(function: &str) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
