//! The SQL of a transform, parsed: one SELECT, the tables that it reads, and where things stand in it.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::{
    ast::{Function, Ident, ObjectName, Query, Spanned, Statement, Visit, Visitor},
    dialect::GenericDialect,
    parser::{Parser, ParserError},
    tokenizer,
};

use crate::{
    depth,
    error::{Fault, Span, place_of},
    form, size,
};

/// One SELECT.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    /// As it was written.
    pub text: String,
    /// As it was parsed, but for expressions with refused calls that take lambdas, in whose place stands NULL.
    pub query: Query,
    /// The tables that it names, in order of appearance.
    pub tables: Vec<TableName>,
    /// What can be refused by its form alone.
    pub form: FormFaults,
}

/// What is wrong with the form of a SELECT.
#[derive(Clone, Debug, Default)]
pub(crate) struct FormFaults {
    pub faults: Vec<Fault>,
    /// Whether they leave open what the SELECT means, so that nothing can be said of its columns.
    pub unclear: bool,
    /// The places of calls that are among the faults.
    pub calls: Vec<Span>,
}

/// A table that SQL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    pub name: String,
    pub span: Option<Span>,
}

impl Sql {
    /// Parses one SELECT, and finds everything in it that no pipeline can do.
    ///
    /// # Errors
    ///
    /// What keeps it from being read as one SELECT.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        depth::check(text).map_err(|fault| vec![fault])?;
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
        size::check_lists(&query).map_err(|fault| vec![fault])?;
        let (tables, form) = form::check(text, &query);
        let mut query = *query;
        if !form.calls.is_empty() {
            form::leave_out_lambdas(&mut query);
        }
        Ok(Self { text: text.to_owned(), query, tables, form })
    }

    /// Whether there is a query within the query.
    pub fn has_subqueries(&self) -> bool {
        let mut queries = Queries(0);
        let _: ControlFlow<()> = self.query.visit(&mut queries);
        queries.0 > 1
    }

    /// Where a word first stands in the text.
    pub fn place_of(&self, word: &str) -> Option<Span> {
        place_of(&self.text, word)
    }
}

/// Counts queries.
struct Queries(usize);

impl Visitor for Queries {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
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
            let last = sql.trim_end().lines().last().unwrap_or_default();
            let word = last.rfind(char::is_whitespace).map_or(0, |space| last[..space].chars().count() + 1);
            let end = (sql.trim_end().lines().count().max(1), word + 1);
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

/// The text with its first letter in lower case, as our messages begin; keywords and names in capitals stay as they are.
pub(crate) fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !letters.clone().next().is_some_and(|second| second.is_uppercase() || second == '_') => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
