//! What can be refused of a SELECT by its form alone: clauses that the planner would pass over or that mean nothing for a
//! stream, functions that are not there, expressions without a name.
//!
//! Every field of the parser's structs is looked at here or known to be planned: what is neither would be ignored without a
//! word.

mod clauses;
mod json_operators;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use datafusion_expr::Volatility;
use datafusion_sql::sqlparser::ast::{
    BinaryOperator, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query,
    Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, TableWithJoins, Value, Visit,
    VisitMut, Visitor, VisitorMut, visit_expressions,
};

use crate::{
    error::{Fault, MAX_FAULTS, Span, place_of},
    functions::functions,
    sql::{FormFaults, TableName, function_name, normal, span_of},
};

/// How much of an expression is repeated.
const SHOWN_CHARS: usize = 60;

/// The tables that a query names, and everything in it that no pipeline can do.
pub(crate) fn check(text: &str, query: &Query) -> (Vec<TableName>, FormFaults) {
    let mut form =
        Form { text, found: FormFaults::default(), tables: Vec::new(), named: BTreeSet::new(), in_lambdas: 0 };
    let _: ControlFlow<()> = query.visit(&mut form);
    form.names(&query.body, &ctes(query));
    (form.tables, form.found)
}

/// Puts NULL in the place of every expression with a call in it that takes a lambda and that there is none of: what a lambda's
/// names mean is not known, and of what type the call would be neither.
pub(crate) fn leave_out_lambdas(query: &mut Query) {
    let _: ControlFlow<()> = VisitMut::visit(query, &mut WithoutLambdas);
}

struct WithoutLambdas;

impl VisitorMut for WithoutLambdas {
    type Break = ();

    // The outermost expression is met first.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let has_lambda = visit_expressions(expr, |part| match part {
            part if has_lambda(part) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        if has_lambda.is_break() {
            *expr = Expr::value(Value::Null);
        }
        ControlFlow::Continue(())
    }
}

/// Looks at the form of a query.
struct Form<'a> {
    text: &'a str,
    found: FormFaults,
    tables: Vec<TableName>,
    /// The names that WITH gives to subqueries.
    named: BTreeSet<String>,
    /// How many calls with a lambda are around the expression that is looked at.
    in_lambdas: usize,
}

/// The subqueries that WITH names, without those whose columns it names as well.
fn ctes(query: &Query) -> BTreeMap<String, &SetExpr> {
    let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
    let unnamed = ctes.filter(|cte| cte.alias.columns.is_empty());
    unnamed.map(|cte| (normal(&cte.alias.name), cte.query.body.as_ref())).collect()
}

impl Form<'_> {
    /// Refuses what makes it unclear what the SELECT means.
    fn refuse(&mut self, fault: Fault) {
        self.found.faults.push(fault);
        self.found.unclear = true;
    }

    /// Refuses a call, whose own type is not known then.
    fn refuse_call(&mut self, fault: Fault) {
        self.found.calls.extend(fault.span);
        self.found.faults.push(fault);
    }

    /// Refuses a name, or that there is none, which changes nothing for the rest.
    fn refuse_name(&mut self, fault: Fault) {
        self.found.faults.push(fault);
    }

    fn refuse_word(&mut self, word: &str, message: &str, expected: &str) {
        let fault = Fault::new(message).at(place_of(self.text, word)).offending(word).expected(expected);
        self.refuse(fault);
    }

    /// A clause that is not planned, by its name; its first word says where it stands.
    fn refuse_clause(&mut self, clause: &str, expected: &str) {
        let word = clause.split(' ').next().unwrap_or_default();
        let place = place_of(self.text, clause).or_else(|| place_of(self.text, word));
        self.refuse(
            Fault::new(format!("{clause} is not supported"))
                .at(place.or_else(|| symbol(self.text, word)))
                .offending(clause)
                .expected(expected),
        );
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
                } else if *set_quantifier == SetQuantifier::AllByName {
                    self.refuse_clause("UNION ALL BY NAME", "UNION ALL, with the columns in one order");
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
            self.join(place);
        }
    }

    fn join(&mut self, place: Option<Span>) {
        self.refuse(
            Fault::new("joins are not yet supported")
                .at(place.or_else(|| place_of(self.text, "JOIN")))
                .offending("JOIN")
                .expected("one input, or a UNION ALL of several"),
        );
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
            self.refuse_call(fault);
        } else if known.scalar(&name).is_some_and(|f| f.signature().volatility != Volatility::Immutable) {
            self.refuse_call(
                Fault::new(format!(
                    "`{name}()` gives something else each time, so a replay after a crash would not agree"
                ))
                .at(span)
                .offending(&name)
                .expected("what follows from the row alone; for its time, use `_event_time`"),
            );
        } else if function.over.is_none() && known.is_window_only(&name) {
            self.refuse_call(
                Fault::new(format!("`{name}` is a window function, and nothing says what it goes OVER"))
                    .at(span)
                    .offending(&name)
                    .expected("an aggregate, or ROW_NUMBER() OVER (PARTITION BY …) with `<= n` around it"),
            );
        } else {
            self.call(&name, function, span);
        }
    }

    /// What a call says besides its arguments.
    fn call(&mut self, name: &str, function: &Function, span: Option<Span>) {
        let mut said = Vec::new();
        if function.parameters != FunctionArguments::None {
            said.push("a second list of parameters");
        }
        let is_plain = functions().aggregate(name).is_none() && functions().window(name).is_none();
        if is_plain {
            if let FunctionArguments::List(list) = &function.args {
                if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
                    said.push("DISTINCT");
                }
                if !list.clauses.is_empty() {
                    said.push("a clause after its arguments");
                }
            }
            let besides = [
                (function.filter.is_some(), "FILTER"),
                (function.null_treatment.is_some(), "IGNORE NULLS or RESPECT NULLS"),
                (!function.within_group.is_empty(), "WITHIN GROUP"),
                (function.over.is_some(), "OVER"),
            ];
            said.extend(besides.into_iter().filter(|(is_set, _)| *is_set).map(|(_, what)| what));
        }
        for what in said {
            self.refuse_call(
                Fault::new(format!("`{name}` cannot be called with {what}"))
                    .at(span)
                    .offending(name)
                    .expected("its arguments alone"),
            );
        }
    }

    /// Refuses a name without letters.
    fn name(&mut self, name: &Ident, near: Option<Span>) {
        if name.value.is_empty() {
            let place = span_of(name.span).or(near);
            let fault = Fault::new("this name is empty").at(place).offending(name.to_string());
            self.refuse_name(fault.expected("a name of at least one character"));
        }
    }

    /// Refuses what comes out of a SELECT without a name. A UNION takes the names of its first member.
    fn names(&mut self, body: &SetExpr, ctes: &BTreeMap<String, &SetExpr>) {
        let select = match body {
            SetExpr::Select(select) => select,
            SetExpr::Query(query) => return self.names(&query.body, ctes),
            SetExpr::SetOperation { left, .. } => return self.names(left, ctes),
            _ => return,
        };
        for item in &select.projection {
            if self.found.faults.len() < MAX_FAULTS
                && let SelectItem::UnnamedExpr(expr) = item
                && !has_name(expr)
            {
                let text = shown(expr);
                let fault = Fault::new(format!("`{text}` has no name"));
                let fault = fault.at(span_of(expr.span())).expected(format!("a name: `{text} AS …`"));
                self.refuse_name(fault.offending(text));
            }
        }
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if !select.projection.iter().any(is_wildcard) {
            return;
        }
        match select.from.first().map(|from| &from.relation) {
            Some(TableFactor::Derived { subquery, alias, .. })
                if alias.as_ref().is_none_or(|alias| alias.columns.is_empty()) =>
            {
                self.names(&subquery.body, ctes);
            }
            Some(TableFactor::Table { name, .. }) => {
                let name = name.0.first().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
                if let Some(body) = ctes.get(&name) {
                    // One that names itself is not named again.
                    let others = ctes.iter().filter(|(other, _)| **other != name);
                    self.names(body, &others.map(|(name, body)| (name.clone(), *body)).collect());
                }
            }
            _ => {}
        }
    }
}

/// Whether what an expression gives is called by a name that its user has written: that of a column, or of the one whose
/// elements it gives.
fn has_name(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Nested(inner) => has_name(inner),
        _ => false,
    }
}

/// An expression, cut to what can be taken in.
fn shown(expr: &Expr) -> String {
    let text = expr.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether this is a call that takes a lambda and that there is none of.
fn has_lambda(expr: &Expr) -> bool {
    let Expr::Function(function) = expr else { return false };
    takes_lambda(function) && function_name(function).is_some_and(|name| !functions().has(&name))
}

/// Whether one of a call's arguments is a lambda, or what the parser takes for a JSON operator in its place.
fn takes_lambda(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.args.iter().any(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Lambda(_))) => true,
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, op, .. })) => {
            *op == BinaryOperator::Arrow && matches!(&**left, Expr::Identifier(_) | Expr::Tuple(_))
        }
        _ => false,
    })
}

/// Whether an operator holds its sides together no better than IS does.
fn is_looser(op: &BinaryOperator) -> bool {
    use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or, Xor};
    matches!(op, And | Or | Xor | Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

/// Where something that is no word first stands.
fn symbol(text: &str, symbol: &str) -> Option<Span> {
    let start = text.find(symbol).filter(|_| !symbol.is_empty())?;
    let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
    Some((text[..start].matches('\n').count() + 1, text[line..start].chars().count() + 1))
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
        self.query_clauses(query);
        self.body(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.from(&select.from);
        self.select_clauses(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.table_clauses(factor);
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
            TableFactor::Derived { lateral: false, .. } => {}
            TableFactor::NestedJoin { table_with_joins, .. } => {
                for join in &table_with_joins.joins {
                    self.join(span_of(join.span()));
                }
            }
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

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.in_lambdas -= usize::from(has_lambda(expr));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.in_lambdas += usize::from(has_lambda(expr));
        if self.found.faults.len() >= MAX_FAULTS {
            // What is wrong with the rest is not known.
            self.found.unclear = true;
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => self.refuse(
                Fault::new("a subquery in an expression is a join, which is not yet supported")
                    .at(span_of(expr.span()))
                    .offending(expr.to_string())
                    .expected("a subquery in FROM"),
            ),
            // The parser takes all that follows for the right side, where SQL ends it before AND and OR.
            Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) if matches!(&**right, Expr::BinaryOp { op, .. } if is_looser(op)) =>
            {
                self.refuse(
                    Fault::new("where IS DISTINCT FROM ends is not clear here")
                        .at(span_of(expr.span()))
                        .offending(shown(expr))
                        .expected(
                            "parentheses around it, as in `(a IS DISTINCT FROM b) AND c`, or around its right side",
                        ),
                );
            }
            // In a lambda `->` is none of JSON's.
            Expr::BinaryOp { op, .. } if self.in_lambdas == 0 => {
                if let Some(meant) = json_operators::meant(expr) {
                    self.refuse(
                        Fault::new(format!("`{op}` binds weaker than the operator beside it"))
                            .at(span_of(expr.span()))
                            .offending(shown(expr))
                            .expected(format!("parentheses, as in `{meant}`")),
                    );
                }
            }
            Expr::Substring { substring_from: None, substring_for: None, .. } => self.refuse(
                Fault::new("a part of a text needs a place to begin at")
                    .at(span_of(expr.span()))
                    .offending(shown(expr))
                    .expected("substr(text, from) or substr(text, from, count)"),
            ),
            Expr::Rollup(_) => self.refuse_clause("ROLLUP", clauses::ONE_GROUPING),
            Expr::Cube(_) => self.refuse_clause("CUBE", clauses::ONE_GROUPING),
            Expr::GroupingSets(_) => self.refuse_clause("GROUPING SETS", clauses::ONE_GROUPING),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
