//! Which parts of a SELECT are wrong. The planner gives up at the first fault, mostly without a place; so what it refuses is
//! planned again part by part: each subquery, each item of the select list, WHERE, HAVING and the keys, and inside
//! of one that is wrong the innermost expression that is wrong by itself.

use std::{cell::Cell, ops::ControlFlow};

use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, LimitClause, OrderByKind, Query, Select, SelectItem, SetExpr, Spanned, TableFactor,
    Value, Visit, VisitMut, Visitor, VisitorMut, With,
};

use crate::{
    error::{Fault, MAX_FAULTS},
    rewrite::resolve,
    sql::{Sql, normal, span_of},
};

/// What is wrong with a query, or `None`.
type Plans<'a> = dyn Fn(Query) -> Option<Vec<Fault>> + 'a;
/// How much there is to plan in a query.
type Weighs<'a> = dyn Fn(&Query) -> u64 + 'a;

/// How much all that is tried may weigh. Beyond it nothing more is found.
const MAX_TRIES_WEIGHT: u64 = 400_000;
/// What trying something weighs, however little it is.
const TRY_WEIGHT: u64 = 100;

/// The faults of a query's parts, in the order of the text; `whole`, what was said of all of it, if its parts are right.
pub(crate) fn parts(query: &Query, whole: Vec<Fault>, sql: &Sql, plans: &Plans<'_>, weighs: &Weighs<'_>) -> Vec<Fault> {
    let mut blame = Blame { sql, plans, weighs, left: Cell::new(MAX_TRIES_WEIGHT), faults: Vec::new() };
    blame.query(query, None);
    let mut faults = blame.faults;
    if faults.is_empty() {
        return whole;
    }
    faults.sort_by_key(|fault| fault.span);
    let mut told: Vec<Fault> = Vec::new();
    for fault in faults {
        if told.len() < MAX_FAULTS && !told.contains(&fault) {
            told.push(fault);
        }
    }
    told
}

struct Blame<'a> {
    sql: &'a Sql,
    plans: &'a Plans<'a>,
    weighs: &'a Weighs<'a>,
    /// What may still be tried.
    left: Cell<u64>,
    faults: Vec<Fault>,
}

impl Blame<'_> {
    /// What is wrong with a query. Nothing, once too much was tried.
    fn wrong(&self, query: Query) -> Option<Vec<Fault>> {
        let weight = (self.weighs)(&query).saturating_add(TRY_WEIGHT);
        let left = self.left.get();
        self.left.set(left.saturating_sub(weight));
        if weight > left { None } else { (self.plans)(query) }
    }

    /// Whether nothing more is tried.
    fn is_done(&self) -> bool {
        self.left.get() == 0 || self.faults.len() >= MAX_FAULTS
    }

    fn query(&mut self, query: &Query, outer: Option<&With>) {
        let mut with = outer.cloned();
        if let Some(own) = &query.with {
            for cte in &own.cte_tables {
                let inner = Query { with: joined(with.as_ref(), cte.query.with.as_ref()), ..(*cte.query).clone() };
                if self.wrong(inner).is_some() {
                    self.query(&cte.query, with.as_ref());
                    return;
                }
                let one = With { cte_tables: vec![cte.clone()], ..own.clone() };
                with = joined(with.as_ref(), Some(&one));
            }
        }
        let order: Vec<&Expr> = match query.order_by.as_ref().map(|order| &order.kind) {
            Some(OrderByKind::Expressions(exprs)) => exprs.iter().map(|order| &order.expr).collect(),
            _ => Vec::new(),
        };
        self.body(&query.body, with.as_ref(), &order);
    }

    fn body(&mut self, body: &SetExpr, with: Option<&With>, order: &[&Expr]) {
        match body {
            SetExpr::Select(select) => self.select(select, with, order),
            SetExpr::Query(query) => self.query(query, with),
            SetExpr::SetOperation { .. } => {
                for member in members(body) {
                    if !self.is_done() && self.wrong(bare(member.clone(), with)).is_some() {
                        self.body(member, with, &[]);
                    }
                }
            }
            _ => {}
        }
    }

    fn select(&mut self, select: &Select, with: Option<&With>, order: &[&Expr]) {
        let count = self.faults.len();
        for from in &select.from {
            if let TableFactor::Derived { subquery, .. } = &from.relation {
                let inner = Query { with: joined(with, subquery.with.as_ref()), ..(**subquery).clone() };
                if self.wrong(inner).is_some() {
                    self.query(subquery, with);
                }
            }
        }
        // What reads something wrong cannot be judged.
        if self.faults.len() > count {
            return;
        }
        let mut parts = Parts::of(select, with);
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            keys.iter().for_each(|key| self.key(key, &parts));
        }
        // With a wrong key everything beside it would seem wrong, so each is tried without keys.
        if self.faults.len() > count {
            parts.grouped = None;
        }
        for item in &select.projection {
            if let SelectItem::UnnamedExpr(expr)
            | SelectItem::ExprWithAlias { expr, .. }
            | SelectItem::ExprWithAliases { expr, .. } = item
            {
                self.part(expr, &parts, Place::List);
            }
        }
        if let Some(filter) = &select.selection {
            self.part(filter, &parts, Place::Where);
        }
        for expr in select.having.iter().chain(&select.qualify) {
            self.part(expr, &parts, Place::After);
        }
        for expr in order {
            self.part(expr, &parts, Place::After);
        }
    }

    /// Tries a key by itself.
    fn key(&mut self, key: &Expr, parts: &Parts<'_>) {
        if self.is_done() {
            return;
        }
        if let Some(fault) = parts.beyond(key) {
            self.faults.push(fault.at(span_of(key.span())));
            return;
        }
        let meant = resolve(key, parts.select);
        let Some(faults) = self.wrong(parts.with(&meant, Place::List, false)) else { return };
        let found = self.innermost(&meant, parts);
        let faults = if found.is_empty() { faults } else { found };
        // An aggregate as a key is told of when the whole is planned.
        self.faults.extend(faults.into_iter().filter(|fault| !is_about_keys(fault)));
    }

    /// What is wrong by itself in an expression.
    fn innermost(&mut self, expr: &Expr, parts: &Parts<'_>) -> Vec<Fault> {
        let mut inner = Inner { blame: self, parts, failed: vec![false], faults: Vec::new() };
        let _: ControlFlow<()> = expr.visit(&mut inner);
        inner.faults
    }

    /// Tries one expression in its place.
    fn part(&mut self, expr: &Expr, parts: &Parts<'_>, place: Place) {
        if self.is_done() {
            return;
        }
        let (meant, faults) = match self.wrong(parts.with(expr, place, true)) {
            None => return,
            Some(faults) if place == Place::After => {
                // It may name what the select list has named.
                let meant = parts.spelled_out(expr);
                match self.wrong(parts.with(&meant, place, true)) {
                    None => return,
                    Some(_) if meant == *expr => (meant, faults),
                    Some(faults) => (meant, faults),
                }
            }
            Some(faults) => (expr.clone(), faults),
        };
        let found = self.innermost(&meant, parts);
        let own = span_of(expr.span());
        if !found.is_empty() {
            // What a name stands for stands elsewhere; it is the use of it that is wrong.
            let is_before = |fault: &Fault| meant != *expr && fault.span < own;
            self.faults.extend(found.into_iter().map(|fault| if is_before(&fault) { fault.at(own) } else { fault }));
            return;
        }
        let start = self.sql.place_of("SELECT");
        let is_told = |fault: &Fault| parts.grouped.is_some() || !is_about_keys(fault);
        self.faults.extend(faults.into_iter().filter(is_told).map(|fault| {
            let known = fault.span.filter(|span| Some(*span) != start);
            let span = known.or(own).or(fault.span);
            fault.at(span)
        }));
    }
}

/// The members of a UNION, of which the parser makes a chain to the left.
fn members(body: &SetExpr) -> Vec<&SetExpr> {
    let mut members = Vec::new();
    let mut first = body;
    while let SetExpr::SetOperation { left, right, .. } = first {
        members.push(right.as_ref());
        first = left;
    }
    members.push(first);
    members.reverse();
    members
}

/// Where an expression stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the select list, or as good as there.
    List,
    Where,
    /// Where the names of the select list are known.
    After,
}

/// A SELECT of which one expression at a time is tried.
struct Parts<'a> {
    select: &'a Select,
    /// The SELECT without its expressions.
    empty: Select,
    with: Option<&'a With>,
    /// With keys as expressions, so that they mean the same whatever the select list is. `None`: some are wrong.
    grouped: Option<GroupByExpr>,
}

impl<'a> Parts<'a> {
    fn of(select: &'a Select, with: Option<&'a With>) -> Self {
        let grouped = match &select.group_by {
            GroupByExpr::All(_) => nothing(),
            GroupByExpr::Expressions(keys, _) => {
                GroupByExpr::Expressions(keys.iter().map(|key| resolve(key, select)).collect(), Vec::new())
            }
        };
        let mut empty = select.clone();
        empty.projection = Vec::new();
        empty.selection = None;
        empty.distinct = None;
        empty.having = None;
        empty.qualify = None;
        empty.group_by = nothing();
        Self { select, empty, with, grouped: Some(grouped) }
    }

    /// What is wrong with a key that is the number of a result, and there is no such result.
    fn beyond(&self, key: &Expr) -> Option<Fault> {
        let Expr::Value(value) = key else { return None };
        let Value::Number(number, _) = &value.value else { return None };
        let results = &self.select.projection;
        let is_one = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
        let is_there = number.to_string().parse().is_ok_and(|number| (1..=results.len()).contains(&number));
        (!is_there && results.iter().all(is_one)).then(|| {
            Fault::new(format!("there is no result number {number} to group by"))
                .offending(number.to_string())
                .expected(format!("a number from 1 to {}, or a column", results.len()))
        })
    }

    /// A query with this expression and no other.
    fn with(&self, expr: &Expr, place: Place, grouped: bool) -> Query {
        let (item, selection) = match place {
            Place::Where => (Expr::value(number()), Some(expr.clone())),
            Place::List | Place::After => (expr.clone(), None),
        };
        let mut select = self.empty.clone();
        select.projection = vec![SelectItem::ExprWithAlias { expr: item, alias: Ident::new("__part") }];
        select.selection = selection;
        let keys = self.grouped.as_ref().filter(|_| grouped && place != Place::Where);
        select.group_by = keys.cloned().unwrap_or_else(nothing);
        bare(SetExpr::Select(Box::new(select)), self.with)
    }

    /// An expression with what the names of the select list stand for.
    fn spelled_out(&self, expr: &Expr) -> Expr {
        let mut names = Names(self.select);
        let mut spelled = expr.clone();
        let _: ControlFlow<()> = VisitMut::visit(&mut spelled, &mut names);
        spelled
    }
}

struct Names<'a>(&'a Select);

impl VisitorMut for Names<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr {
            let meant = self.0.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if normal(alias) == normal(ident) => Some(expr.clone()),
                _ => None,
            });
            if let Some(meant) = meant {
                *expr = Expr::Nested(Box::new(meant));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Finds the innermost expressions that are wrong by themselves.
struct Inner<'a, 'b> {
    blame: &'a Blame<'b>,
    parts: &'a Parts<'a>,
    /// For each expression that is being looked at, whether a part of it is wrong.
    failed: Vec<bool>,
    faults: Vec<Fault>,
}

impl Visitor for Inner<'_, '_> {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.failed.push(false);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let mut failed = self.failed.pop().unwrap_or_default();
        let is_done = self.blame.is_done() || self.faults.len() >= MAX_FAULTS;
        if !failed && !is_done && !matches!(expr, Expr::Value(_)) {
            let faults = self.blame.wrong(self.parts.with(expr, Place::List, false)).unwrap_or_default();
            let wrong = faults.into_iter().filter(|fault| !is_about_keys(fault));
            let place = span_of(expr.span());
            for fault in wrong {
                failed = true;
                let span = place.or(fault.span);
                self.faults.push(fault.at(span));
            }
        }
        if let Some(outer) = self.failed.last_mut() {
            *outer |= failed;
        }
        ControlFlow::Continue(())
    }
}

/// Whether a fault says that a column is no key: beside an aggregate it has to be one, and only the whole has the keys.
fn is_about_keys(fault: &Fault) -> bool {
    fault.message.contains("GROUP BY")
}

fn number() -> Value {
    Value::Number("1".into(), false)
}

fn nothing() -> GroupByExpr {
    GroupByExpr::Expressions(Vec::new(), Vec::new())
}

/// The WITH of a query inside of another's.
fn joined(outer: Option<&With>, own: Option<&With>) -> Option<With> {
    match (outer, own) {
        (Some(outer), Some(own)) => {
            let tables = outer.cte_tables.iter().chain(&own.cte_tables).cloned().collect();
            Some(With { cte_tables: tables, ..own.clone() })
        }
        (outer, own) => outer.or(own).cloned(),
    }
}

/// A query that is this and nothing else.
fn bare(body: SetExpr, with: Option<&With>) -> Query {
    Query {
        with: with.cloned(),
        body: Box::new(body),
        order_by: None,
        limit_clause: None::<LimitClause>,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}
