//! Checks that need names and types, and no plan: columns that do not exist, and sinks that cannot carry a schema.

use std::{collections::BTreeSet, ops::ControlFlow};

use arrow::datatypes::{DataType, Schema};
use datafusion_sql::sqlparser::ast::{
    Expr, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor, Visit, Visitor, visit_expressions,
};
use millrace_crds::{SinkDestination, SinkFormatKind, SinkSpec};
use millrace_stream::EVENT_TIME_COLUMN;

use crate::{
    columns::type_name,
    error::Fault,
    logical::{Tables, unknown_column},
    pseudo,
    sql::{Sql, normal, span_of},
};

/// Every column that a SELECT over one table names and that is not there. What reads subqueries is left to the planner.
pub(crate) fn unknown_columns(sql: &Sql, tables: &Tables, windowed: bool) -> Vec<Fault> {
    let mut finder = Finder { tables, windowed, faults: Vec::new(), lambdas: false };
    let _: ControlFlow<()> = sql.query.visit(&mut finder);
    if finder.lambdas { Vec::new() } else { finder.faults }
}

struct Finder<'a> {
    tables: &'a Tables,
    windowed: bool,
    faults: Vec<Fault>,
    lambdas: bool,
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
        let after: Vec<&Expr> = select.having.iter().chain(select.qualify.as_ref()).collect();
        self.look(select, &after, true);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.lambdas |= matches!(expr, Expr::Lambda(_));
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
                if !known.contains(&name) {
                    faults.push(unknown_column(&name, &columns).at(span_of(ident.span)));
                }
                ControlFlow::Continue(())
            });
        }
        self.faults.extend(faults);
    }
}

/// What is wrong with sending rows of this schema to a sink: the output's field, and why.
pub(crate) fn sink(
    spec: &SinkSpec,
    schema: &Schema,
    changelog: Option<&[usize]>,
    name: &str,
) -> Vec<(&'static str, Fault)> {
    let mut faults = Vec::new();
    let Some(destination) = spec.destination() else {
        return vec![("sink", Fault::new(format!("the Sink `{name}` has no destination, or several")).offending(name))];
    };
    let (what, partition_by): (&str, &[String]) = match destination {
        SinkDestination::Stdout(_) => ("stdout", &[]),
        SinkDestination::File(file) => match file.format.kind() {
            Some(SinkFormatKind::Csv(_)) => ("CSV", &[]),
            _ => ("JSON", &[]),
        },
        SinkDestination::Parquet(parquet) => ("Parquet", &parquet.partition_by),
        SinkDestination::Delta(delta) => ("Delta", &delta.partition_by),
    };
    if changelog.is_some() && !matches!(destination, SinkDestination::Stdout(_)) {
        faults.push((
            "from",
            Fault::new(format!(
                "GROUP BY without a `window` changes rows that it has put out, and {what} only takes new ones"
            ))
            .expected("a `window` at the transform, or a Sink that takes changes: stdout"),
        ));
    }
    for field in schema.fields() {
        if !carries(what, field.data_type()) {
            let of = type_name(field.data_type());
            let fault = Fault::new(format!("{what} cannot carry the column `{}` of type {of}", field.name()))
                .offending(field.name())
                .expected(match what {
                    "CSV" => "plain columns, such as array_to_string(…) gives, or JSON",
                    _ => "a cast to a type that it can carry",
                });
            faults.push(("from", fault));
        }
    }
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for (number, column) in partition_by.iter().enumerate() {
        match schema.field_with_name(column) {
            Err(_) => faults.push((
                "sink",
                Fault::new(format!("the Sink `{name}` is partitioned by `{column}`, and there is no such column"))
                    .offending(column)
                    .among("one of the columns", column, columns.iter().copied()),
            )),
            Ok(field) if field.data_type().is_nested() || field.data_type() == &DataType::Binary => faults.push((
                "sink",
                Fault::new(format!(
                    "the Sink `{name}` is partitioned by `{column}`, which is {}",
                    type_name(field.data_type())
                ))
                .offending(column)
                .expected("a plain column"),
            )),
            Ok(_) => {}
        }
        if partition_by[..number].contains(column) {
            faults.push(("sink", Fault::new(format!("`{column}` stands in partitionBy twice")).offending(column)));
        }
    }
    if !partition_by.is_empty() && partition_by.len() >= columns.len() && faults.is_empty() {
        faults.push((
            "sink",
            Fault::new(format!("the Sink `{name}` is partitioned by every column, so that its files would be empty"))
                .expected("at least one column beside those of partitionBy"),
        ));
    }
    faults
}

/// Whether a form of output can carry a type.
fn carries(what: &str, of: &DataType) -> bool {
    match of {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8View
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(..)
        | DataType::Decimal128(..) => true,
        // Delta has no unsigned types; the sink writes the signed one, and a greater value fails.
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => true,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Interval(_) | DataType::Duration(_) => {
            matches!(what, "stdout")
        }
        DataType::List(item) => what != "CSV" && carries(what, item.data_type()),
        DataType::Struct(fields) => what != "CSV" && fields.iter().all(|field| carries(what, field.data_type())),
        _ => false,
    }
}
