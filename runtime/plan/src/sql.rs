//! The SQL of a transform, parsed: which tables it reads, and all that can be refused by its form alone.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion_expr::Volatility;
use datafusion_sql::sqlparser::{
    ast::{
        Expr, Function, Ident, LimitClause, ObjectName, Query, Select, SetExpr, SetOperator, SetQuantifier, Spanned,
        Statement, TableFactor, TableWithJoins, Visit, Visitor,
    },
    dialect::GenericDialect,
    parser::{Parser, ParserError},
    tokenizer,
};

use crate::{
    error::{Fault, Span, place_of},
    functions::functions,
};

/// One SELECT.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    /// As it was written.
    pub text: String,
    /// As it was parsed.
    pub query: Query,
    /// The tables that it names, in order of appearance.
    pub tables: Vec<TableName>,
}

/// A table that SQL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    pub name: String,
    pub span: Option<Span>,
}

impl Sql {
    /// Parses one SELECT, and finds everything in it that no pipeline can do.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let parsed =
            Parser::new(&GenericDialect {}).try_with_sql(text).and_then(|mut parser| parser.parse_statements());
        let mut statements = parsed.map_err(|error| vec![syntax_fault(&error, text)])?;
        let one = "one SELECT";
        let statement = match (statements.pop(), statements.is_empty()) {
            (Some(statement), true) => statement,
            (None, _) => return Err(vec![Fault::new("there is no SQL here").expected(one)]),
            (Some(second), false) => {
                return Err(vec![
                    Fault::new("a transform is one SELECT, and here are several statements")
                        .at(span_of(second.span()))
                        .expected(one),
                ]);
            }
        };
        let Statement::Query(query) = statement else {
            let first = text.split_whitespace().next().unwrap_or_default();
            return Err(vec![
                Fault::new(format!("a transform is a SELECT, not {}", first.to_uppercase()))
                    .at(place_of(text, first))
                    .offending(first)
                    .expected(one),
            ]);
        };
        let mut form = Form { text, faults: Vec::new(), tables: Vec::new(), named: BTreeSet::new() };
        let _: ControlFlow<()> = query.visit(&mut form);
        let Form { faults, tables, .. } = form;
        if faults.is_empty() { Ok(Self { text: text.to_owned(), query: *query, tables }) } else { Err(faults) }
    }

    /// Where a word first stands in the text.
    pub fn place_of(&self, word: &str) -> Option<Span> {
        place_of(&self.text, word)
    }
}

/// The place where a part begins, if the parser knows it.
pub(crate) fn span_of(span: tokenizer::Span) -> Option<Span> {
    let place = (usize::try_from(span.start.line).ok()?, usize::try_from(span.start.column).ok()?);
    (place.0 > 0 && place.1 > 0).then_some(place)
}

/// A name as the planner compares it: unquoted ones in lower case.
pub(crate) fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// A function's name, if it is a plain one.
pub(crate) fn function_name(function: &Function) -> Option<String> {
    plain_name(&function.name).map(normal)
}

fn plain_name(name: &ObjectName) -> Option<&Ident> {
    match name.0.as_slice() {
        [only] => only.as_ident(),
        _ => None,
    }
}

/// `… at Line: 1, Column: 8`, taken apart.
fn syntax_fault(error: &ParserError, sql: &str) -> Fault {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => return Fault::new("the SQL is nested too deeply"),
    };
    let (what, place) = match text.rsplit_once(" at Line: ") {
        Some((what, place)) => (what, parse_place(place)),
        None => (text, None),
    };
    let fault = match what.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: ")) {
        Some((expected, "EOF")) => {
            let line = sql.trim_end().lines().last().unwrap_or_default();
            let end = (sql.trim_end().lines().count().max(1), line.chars().count() + 1);
            return Fault::new("the SQL ends too early").at(Some(end)).expected(expected);
        }
        Some((expected, found)) => {
            Fault::new(format!("the SQL does not parse at `{found}`")).offending(found).expected(expected)
        }
        None => Fault::new(format!("the SQL does not parse: {}", lower_first(what))),
    };
    fault.at(place)
}

fn parse_place(place: &str) -> Option<Span> {
    let (line, column) = place.split_once(", Column: ")?;
    Some((line.trim().parse().ok()?, column.trim().parse().ok()?))
}

/// The text with its first letter in lower case, as our messages begin.
pub(crate) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Looks at the form of a query.
struct Form<'a> {
    text: &'a str,
    faults: Vec<Fault>,
    tables: Vec<TableName>,
    /// The names that WITH gives to subqueries.
    named: BTreeSet<String>,
}

impl Form<'_> {
    fn refuse(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn refuse_word(&mut self, word: &str, message: &str, expected: &str) {
        let fault = Fault::new(message).at(place_of(self.text, word)).offending(word).expected(expected);
        self.refuse(fault);
    }

    fn body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(_) | SetExpr::Query(_) => {}
            SetExpr::SetOperation { op, set_quantifier, left, right } => {
                if *op != SetOperator::Union {
                    self.refuse_word(
                        &op.to_string(),
                        &format!("{op} of streams would never be complete"),
                        "UNION ALL, or a filter",
                    );
                } else if *set_quantifier != SetQuantifier::All {
                    self.refuse_word("UNION", "UNION without ALL would have to remember every row", "UNION ALL");
                }
                self.body(left);
                self.body(right);
            }
            other => {
                let found = other.to_string();
                let word = found.split_whitespace().next().unwrap_or_default().to_owned();
                self.refuse_word(&word, &format!("{word} cannot stand in a transform"), "a SELECT");
            }
        }
    }

    fn from(&mut self, from: &[TableWithJoins]) {
        let Some((_, others)) = from.split_first() else {
            self.refuse(
                Fault::new("a SELECT without FROM has no rows")
                    .at(place_of(self.text, "SELECT"))
                    .expected("FROM and the name of a source or transform"),
            );
            return;
        };
        let joined =
            others.iter().map(|table| table.span()).chain(from.iter().flat_map(|t| &t.joins).map(|join| join.span()));
        let places: Vec<_> = joined.map(span_of).collect();
        for place in places {
            self.refuse(
                Fault::new("joins are not yet supported")
                    .at(place.or_else(|| place_of(self.text, "JOIN")))
                    .offending("JOIN")
                    .expected("one input, or a UNION ALL of several"),
            );
        }
    }

    fn function(&mut self, function: &Function) {
        let Some(name) = function_name(function) else { return };
        let span = span_of(function.name.span());
        let known = functions();
        // UNNEST is part of the planner.
        if name == "unnest" {
            return;
        }
        if !known.has(&name) || crate::pseudo::is_pseudo(&name) {
            let mut fault = Fault::new(format!("there is no function `{name}`")).at(span).offending(&name);
            fault.nearest = crate::error::nearest(&name, known.names());
            fault.expected = Some("one of DataFusion's functions or its JSON functions".to_owned());
            self.refuse(fault);
        } else if known.scalar(&name).is_some_and(|f| f.signature().volatility != Volatility::Immutable) {
            self.refuse(
                Fault::new(format!(
                    "`{name}()` gives something else each time, so a replay after a crash would not agree"
                ))
                .at(span)
                .offending(&name)
                .expected("what follows from the row alone; for its time, use `_event_time`"),
            );
        }
    }
}

impl Visitor for Form<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            if with.recursive {
                self.refuse_word("RECURSIVE", "a recursive query of a stream has no end", "WITH without RECURSIVE");
            }
            self.named.extend(with.cte_tables.iter().map(|cte| normal(&cte.alias.name)));
        }
        if let Some(LimitClause::LimitOffset { offset: Some(_), .. } | LimitClause::OffsetCommaLimit { .. }) =
            query.limit_clause
        {
            self.refuse_word("OFFSET", "OFFSET makes no sense for a stream", "LIMIT alone");
        }
        if query.fetch.is_some() {
            self.refuse_word("FETCH", "FETCH is not supported", "LIMIT");
        }
        self.body(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.from(&select.from);
        if select.into.is_some() {
            self.refuse_word("INTO", "SELECT INTO writes a table", "an output that names a Sink");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: None, .. } => match name.0.as_slice() {
                [only] if only.as_ident().is_some_and(|ident| self.named.contains(&normal(ident))) => {}
                [only] => {
                    let name = only.as_ident().map(normal).unwrap_or_default();
                    self.tables.push(TableName { name, span: span_of(factor.span()) });
                }
                _ => {
                    let text = name.to_string();
                    let fault = Fault::new(format!("`{text}` is no table: sources and transforms have plain names"))
                        .at(span_of(name.span()))
                        .offending(&text);
                    let fault = if text.ends_with(".late") || text.ends_with(".errors") {
                        fault.expected("a plain name; only `outputs` can take `.late` and `.errors`")
                    } else {
                        fault.expected("a plain name")
                    };
                    self.refuse(fault);
                }
            },
            TableFactor::Derived { lateral: false, .. } | TableFactor::NestedJoin { .. } => {}
            TableFactor::UNNEST { .. } => self.refuse(
                Fault::new("UNNEST in FROM is a join, which is not yet supported")
                    .at(place_of(self.text, "UNNEST"))
                    .offending("UNNEST")
                    .expected("unnest(column) in the select list"),
            ),
            other => {
                let text = other.to_string();
                self.refuse(
                    Fault::new(format!("`{text}` cannot stand in FROM"))
                        .at(span_of(other.span()))
                        .offending(text)
                        .expected("a source, a transform or a subquery"),
                );
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => self.refuse(
                Fault::new("a subquery in an expression is a join, which is not yet supported")
                    .at(span_of(expr.span()))
                    .offending(expr.to_string())
                    .expected("a subquery in FROM"),
            ),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
