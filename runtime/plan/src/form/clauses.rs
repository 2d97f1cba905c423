//! Clauses that other databases have, each refused by its name. The parser reads them all; the planner would answer some
//! with an error that has no place, and pass over the others.

use datafusion_sql::sqlparser::ast::{
    Expr, ForClause, GroupByExpr, LimitClause, OrderByKind, Query, Select, SelectItem, Spanned, TableAlias,
    TableFactor, WildcardAdditionalOptions,
};

use super::Form;
use crate::{
    error::Fault,
    rewrite::{has_aggregate, resolve},
    sql::span_of,
};

/// What stands in the place of several groupings at once.
pub(super) const ONE_GROUPING: &str = "GROUP BY with plain expressions, and a transform for each other grouping";

/// What is right in the place of a clause that has no other form.
const WITHOUT: &str = "the SELECT without it";

impl Form<'_> {
    /// The clauses around a SELECT.
    pub(super) fn query_clauses(&mut self, query: &Query) {
        if let Some(LimitClause::LimitOffset { offset: Some(_), .. } | LimitClause::OffsetCommaLimit { .. }) =
            query.limit_clause
        {
            let word = if self.has_word("OFFSET") { "OFFSET" } else { "LIMIT" };
            self.refuse_word(word, "OFFSET makes no sense for a stream", "LIMIT alone");
        }
        if matches!(&query.limit_clause, Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty()) {
            self.refuse_clause("LIMIT BY", "ROW_NUMBER() OVER (PARTITION BY …), and `<= n` around it");
        }
        if query.fetch.is_some() {
            self.refuse_clause("FETCH", "LIMIT");
        }
        for lock in &query.locks {
            self.refuse_clause(&format!("FOR {}", lock.lock_type), WITHOUT);
        }
        match &query.for_clause {
            Some(ForClause::Browse) => self.refuse_clause("FOR BROWSE", WITHOUT),
            Some(ForClause::Json { .. }) => self.refuse_clause("FOR JSON", "a Sink with `format: {json: {}}`"),
            Some(ForClause::Xml { .. }) => self.refuse_clause("FOR XML", WITHOUT),
            None => {}
        }
        if query.settings.is_some() {
            self.refuse_clause("SETTINGS", WITHOUT);
        }
        if query.format_clause.is_some() {
            self.refuse_clause("FORMAT", "the `format` of a Sink");
        }
        if !query.pipe_operators.is_empty() {
            self.refuse_clause("|>", "SELECT … FROM …");
        }
        if let Some(order) = &query.order_by {
            if order.interpolate.is_some() {
                self.refuse_clause("INTERPOLATE", WITHOUT);
            }
            if let OrderByKind::Expressions(exprs) = &order.kind
                && exprs.iter().any(|order| order.with_fill.is_some())
            {
                self.refuse_clause("WITH FILL", WITHOUT);
            }
        }
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            if cte.materialized.is_some() {
                self.refuse_clause("MATERIALIZED", "WITH … AS (SELECT …)");
            }
            if cte.from.is_some() {
                self.refuse_clause("FROM after a WITH query", "FROM inside of the query");
            }
            self.alias(Some(&cte.alias));
        }
    }

    /// The clauses of a SELECT.
    pub(super) fn select_clauses(&mut self, select: &Select) {
        if select.into.is_some() {
            self.refuse_word("INTO", "SELECT INTO writes a table", "an output that names a Sink");
        }
        for hint in &select.optimizer_hints {
            let start = hint.to_string();
            let start: String = start.chars().take_while(|c| !c.is_alphanumeric() && !c.is_whitespace()).collect();
            self.refuse_clause(&format!("{start} (an optimizer hint)"), WITHOUT);
        }
        if let Some(modifiers) = &select.select_modifiers {
            let text = modifiers.to_string();
            for word in text.split_whitespace() {
                self.refuse_clause(word, WITHOUT);
            }
        }
        if let Some(mode) = &select.value_table_mode {
            self.refuse_clause(&mode.to_string(), "a list of columns");
        }
        let (all, modifiers) = match &select.group_by {
            GroupByExpr::All(modifiers) => (true, modifiers),
            GroupByExpr::Expressions(_, modifiers) => (false, modifiers),
        };
        for modifier in modifiers {
            let expected = if all { "GROUP BY ALL" } else { ONE_GROUPING };
            self.refuse_clause(&modifier.to_string(), expected);
        }
        let first = "ORDER BY … LIMIT n, which gives the first rows of each window";
        let clauses = [
            (select.top.is_some(), "TOP", first),
            (select.exclude.is_some(), "EXCLUDE", "* EXCLUDE (…) at the place of the *"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW", "unnest(column) in the select list"),
            (select.prewhere.is_some(), "PREWHERE", "WHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY", WITHOUT),
            (!select.cluster_by.is_empty(), "CLUSTER BY", WITHOUT),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY", "GROUP BY, by which rows are dealt out to tasks"),
            (!select.sort_by.is_empty(), "SORT BY", first),
        ];
        for (_, clause, expected) in clauses.into_iter().filter(|(is_set, ..)| *is_set) {
            self.refuse_clause(clause, expected);
        }
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => self.wildcard(options),
                SelectItem::ExprWithAliases { .. } => {
                    self.refuse_clause("AS (several names)", "one name for each expression");
                }
                SelectItem::ExprWithAlias { expr, alias } => self.name(alias, span_of(expr.span())),
                SelectItem::UnnamedExpr(_) => {}
            }
        }
        if let GroupByExpr::Expressions(keys, _) = &select.group_by {
            // What a name means depends on the columns that there are: `keys` looks at those.
            let is_name = |key: &&Expr| matches!(key, Expr::Identifier(_));
            for key in keys.iter().filter(|key| !is_name(key) && has_aggregate(&resolve(key, select))) {
                let fault = Fault::new("an aggregate cannot be a key: its value is known only when its group is");
                let fault = fault.at(span_of(key.span())).offending(key.to_string());
                self.refuse(fault.expected("columns, or expressions of them"));
            }
        }
    }

    fn wildcard(&mut self, options: &WildcardAdditionalOptions) {
        if options.opt_rename.is_some() {
            self.refuse_clause("RENAME", "the columns one by one, with AS");
        }
        if options.opt_alias.is_some() {
            self.refuse_clause("AS after *", "the columns one by one, with AS");
        }
    }

    /// The clauses of something that FROM names.
    pub(super) fn table_clauses(&mut self, factor: &TableFactor) {
        let sampled = match factor {
            TableFactor::Table {
                alias,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                self.alias(alias.as_ref());
                let version = version.as_ref().map(ToString::to_string).unwrap_or_default();
                let version = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
                let hint = index_hints.first().map(ToString::to_string).unwrap_or_default();
                let hint = hint.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
                let clauses = [
                    (!with_hints.is_empty(), "WITH (hints)"),
                    (!version.is_empty(), version.as_str()),
                    (*with_ordinality, "WITH ORDINALITY"),
                    (!partitions.is_empty(), "PARTITION"),
                    (json_path.is_some(), "[ (a path after a table)"),
                    (!hint.is_empty(), hint.as_str()),
                ];
                for (_, clause) in clauses.into_iter().filter(|(is_set, _)| *is_set) {
                    self.refuse_clause(clause, "the table's name, and an alias or none");
                }
                sample.is_some()
            }
            TableFactor::Derived { alias, sample, .. } => {
                self.alias(alias.as_ref());
                sample.is_some()
            }
            TableFactor::NestedJoin { alias, .. } => {
                self.alias(alias.as_ref());
                false
            }
            _ => false,
        };
        if sampled {
            let word = ["TABLESAMPLE", "SAMPLE"].into_iter().find(|word| self.has_word(word)).unwrap_or("TABLESAMPLE");
            self.refuse_clause(word, "a filter that follows from the row, such as `WHERE id % 10 = 0`");
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        let Some(alias) = alias else { return };
        if alias.at.is_some() {
            self.refuse_clause("AT", "an alias alone");
        }
        alias.columns.iter().for_each(|column| self.name(&column.name, span_of(alias.name.span)));
    }

    fn has_word(&self, word: &str) -> bool {
        crate::error::place_of(self.text, word).is_some()
    }
}
