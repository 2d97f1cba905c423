//! Checks that need names and types, and no plan: columns that do not exist, and sinks that cannot carry a schema.

use std::{collections::BTreeSet, ops::ControlFlow};

use arrow::datatypes::{DataType, Schema};
use datafusion_sql::sqlparser::ast::{
    Expr, GroupByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor, Visit, Visitor, visit_expressions,
};
use millrace_crds::{SinkDestination, SinkFormatKind, SinkSpec};
use millrace_stream::EVENT_TIME_COLUMN;

use crate::{
    columns::type_name,
    error::{Fault, MAX_FAULTS, SinkField, nearest},
    logical::{Tables, unknown_column},
    pseudo, sink_rules,
    sql::{Sql, normal, span_of},
};

/// Every column that a SELECT over one table names and that is not there. What reads subqueries is left to the planner.
pub(crate) fn unknown_columns(sql: &Sql, tables: &Tables, windowed: bool) -> Vec<Fault> {
    let mut finder = Finder { tables, windowed, faults: Vec::new() };
    let _: ControlFlow<()> = sql.query.visit(&mut finder);
    finder.faults
}

struct Finder<'a> {
    tables: &'a Tables,
    windowed: bool,
    faults: Vec<Fault>,
}

impl Visitor for Finder<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let (SetExpr::Select(select), Some(order)) = (query.body.as_ref(), &query.order_by)
            && let OrderByKind::Expressions(exprs) = &order.kind
        {
            let exprs: Vec<&Expr> = exprs.iter().map(|order| &order.expr).collect();
            self.look(select, &exprs, true);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let list: Vec<&Expr> = select
            .projection
            .iter()
            .filter_map(|item| match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
                _ => None,
            })
            .chain(select.selection.as_ref())
            .collect();
        self.look(select, &list, false);
        let keys = match &select.group_by {
            GroupByExpr::Expressions(keys, _) => keys.as_slice(),
            GroupByExpr::All(_) => &[],
        };
        let after: Vec<&Expr> = keys.iter().chain(&select.having).chain(&select.qualify).collect();
        self.look(select, &after, true);
        ControlFlow::Continue(())
    }
}

impl Finder<'_> {
    fn look(&mut self, select: &Select, exprs: &[&Expr], aliases: bool) {
        let [from] = select.from.as_slice() else { return };
        let TableFactor::Table { name, alias: None, .. } = &from.relation else { return };
        let Some(table) = name.0.first().and_then(|part| part.as_ident()).map(normal) else { return };
        let Some(schema) = self.tables.get(&table) else { return };
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut known: BTreeSet<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        known.insert(EVENT_TIME_COLUMN.to_owned());
        if self.windowed {
            known.extend(pseudo::WINDOW_COLUMNS.map(str::to_owned));
        }
        if aliases {
            known.extend(select.projection.iter().filter_map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(normal(alias)),
                _ => None,
            }));
        }
        let mut faults = Vec::new();
        for expr in exprs {
            let _: ControlFlow<()> = visit_expressions(*expr, |expr| {
                let ident = match expr {
                    Expr::Identifier(ident) => ident,
                    Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                        [qualifier, ident] if normal(qualifier) == table => ident,
                        _ => return ControlFlow::Continue(()),
                    },
                    _ => return ControlFlow::Continue(()),
                };
                let name = normal(ident);
                let is_room = self.faults.len() + faults.len() < MAX_FAULTS;
                if is_room && !known.contains(&name) {
                    faults.push(unknown_column(&name, &columns, false).at(span_of(ident.span)));
                }
                ControlFlow::Continue(())
            });
        }
        self.faults.extend(faults);
    }
}

/// What is wrong with sending the rows of `from`, which have this schema, to a sink: the output's field, why, and the
/// field of the Sink if it is that one.
pub(crate) fn sink(
    spec: &SinkSpec,
    schema: &Schema,
    changelog: bool,
    name: &str,
    from: &str,
) -> Vec<(&'static str, Fault, Option<SinkField>)> {
    let Some(destination) = spec.destination() else {
        let fault = Fault::new(format!("the Sink `{name}` has no destination, or several"));
        return vec![("sink", fault.offending(name), None)];
    };
    let columns = || schema.fields().iter().map(|field| field.name().as_str());
    let mut faults: Vec<_> = sink_rules::problems(spec, schema, changelog)
        .into_iter()
        .map(|problem| {
            let Some(place) = problem.field else {
                let mut fault = Fault::new(problem.message).offending(problem.offending);
                fault.expected = problem.expected;
                return ("from", fault, None);
            };
            let is_column = place.contains("partitionBy[");
            let mut fault = Fault::new(format!("{place} of the Sink `{name}`: {}", problem.message));
            if is_column && columns().all(|column| column != problem.offending) {
                fault.nearest = nearest(&problem.offending, columns());
            }
            fault.offending = Some(problem.offending);
            fault.expected = problem.expected;
            let message = match place.contains("partitionBy") {
                true => format!("{} (output `{from}`)", problem.message),
                false => problem.message,
            };
            ("sink", fault, Some(SinkField { sink: name.to_owned(), path: format!("spec.{place}"), message }))
        })
        .collect();
    let is_csv = matches!(destination, SinkDestination::File(file)
        if matches!(file.format.kind(), Some(SinkFormatKind::Csv(_))));
    for field in schema.fields() {
        let of = field.data_type();
        let carried = match of {
            DataType::Map(..) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
            nested => !(is_csv && nested.is_nested()),
        };
        // Parquet and Delta have said so already.
        let said = matches!(destination, SinkDestination::Parquet(_) | SinkDestination::Delta(_));
        if !carried && !said {
            let what = if is_csv { "CSV" } else { "no sink" };
            let verb = if is_csv { "cannot carry" } else { "can carry" };
            let fault = Fault::new(format!("{what} {verb} the column `{}` of type {}", field.name(), type_name(of)))
                .offending(field.name())
                .expected(match is_csv {
                    true => "a plain column, such as array_to_string(…) makes of a list, or `format: {json: {}}`",
                    false => "text, such as `->>` gives for a part of a JSON value",
                });
            faults.push(("from", fault, None));
        }
    }
    faults
}
