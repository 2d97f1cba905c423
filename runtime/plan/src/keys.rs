//! What a name in GROUP BY means: a column of the input, if there is one that is called so, else the result of the select
//! list that has this alias, as in PostgreSQL.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Spanned, TableFactor, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::{
    error::Fault,
    logical::Tables,
    rewrite::{has_aggregate, resolve},
    sql::{normal, span_of},
};

/// Puts each key that names a column in parentheses, if a result has its name as well: what stands in them is never taken for
/// the result.
pub(crate) fn prefer_columns(query: &mut Query, tables: &Tables) {
    let mut ctes = Ctes(BTreeSet::new());
    let _: ControlFlow<()> = Visit::visit(query, &mut ctes);
    let _: ControlFlow<()> = VisitMut::visit(query, &mut Preferring { tables, ctes: ctes.0 });
}

/// Takes every key out that is the alias of an aggregate, once [`prefer_columns`] has been through, and says what is wrong with
/// it.
pub(crate) fn refuse_aggregates(query: &mut Query) -> Vec<Fault> {
    let mut refusing = Refusing(Vec::new());
    let _: ControlFlow<()> = VisitMut::visit(query, &mut refusing);
    refusing.0
}

struct Refusing(Vec<Fault>);

impl VisitorMut for Refusing {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let none = GroupByExpr::Expressions(Vec::new(), Vec::new());
        let mut group_by = std::mem::replace(&mut select.group_by, none);
        if let GroupByExpr::Expressions(keys, _) = &mut group_by {
            keys.retain(|key| {
                let meant = resolve(key, select);
                let is_refused = matches!(key, Expr::Identifier(_)) && has_aggregate(&meant);
                if is_refused {
                    let fault = Fault::new(format!(
                        "`{key}` is the alias of `{meant}` here, and an aggregate cannot be a key: its value is known only \
                         when its group is"
                    ));
                    let fault = fault.at(span_of(key.span())).offending(key.to_string());
                    self.0.push(fault.expected("columns, or expressions of them"));
                }
                !is_refused
            });
        }
        select.group_by = group_by;
        ControlFlow::Continue(())
    }
}

/// The names that WITH gives to subqueries, at any depth.
struct Ctes(BTreeSet<String>);

impl Visitor for Ctes {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.0.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name)));
        ControlFlow::Continue(())
    }
}

struct Preferring<'a> {
    tables: &'a Tables,
    ctes: BTreeSet<String>,
}

impl VisitorMut for Preferring<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let Some(columns) = self.input(select) else { return ControlFlow::Continue(()) };
        let aliases: BTreeSet<String> = select
            .projection
            .iter()
            .filter_map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(normal(alias)),
                _ => None,
            })
            .collect();
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            for key in keys {
                if let Expr::Identifier(ident) = key
                    && let name = normal(ident)
                    && columns.contains(&name)
                    && aliases.contains(&name)
                {
                    *key = Expr::Nested(Box::new(key.clone()));
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Preferring<'_> {
    /// The columns that a SELECT reads from; `None`: it is not known which.
    fn input(&self, select: &Select) -> Option<BTreeSet<String>> {
        let [from] = select.from.as_slice() else { return None };
        if !from.joins.is_empty() {
            return None;
        }
        let (TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. }) = &from.relation else {
            return None;
        };
        if let Some(alias) = alias.as_ref().filter(|alias| !alias.columns.is_empty()) {
            return Some(alias.columns.iter().map(|column| normal(&column.name)).collect());
        }
        match &from.relation {
            TableFactor::Table { name, .. } => {
                let table = name.0.first().and_then(|part| part.as_ident()).map(normal)?;
                let schema = self.tables.get(&table).filter(|_| !self.ctes.contains(&table))?;
                Some(schema.fields().iter().map(|field| field.name().clone()).collect())
            }
            TableFactor::Derived { subquery, .. } => self.results(&subquery.body),
            _ => None,
        }
    }

    /// The columns that come out of a query.
    fn results(&self, body: &SetExpr) -> Option<BTreeSet<String>> {
        let select = match body {
            SetExpr::Select(select) => select,
            SetExpr::Query(query) => return self.results(&query.body),
            SetExpr::SetOperation { left, .. } => return self.results(left),
            _ => return None,
        };
        let mut names = BTreeSet::new();
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => {
                    names.insert(normal(alias));
                }
                SelectItem::UnnamedExpr(expr) => {
                    names.insert(name_of(expr)?);
                }
                SelectItem::Wildcard(options) if options.to_string().is_empty() => names.extend(self.input(select)?),
                _ => return None,
            }
        }
        Some(names)
    }
}

/// What a result without an alias is called.
fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normal(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(normal),
        Expr::Nested(inner) => name_of(inner),
        _ => None,
    }
}
