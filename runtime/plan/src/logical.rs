//! One transform's SQL to a logical plan: planned by DataFusion over the schemas of the tables that it names, with types
//! coerced, expressions simplified, filters pushed down and unused columns dropped.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::{
    DataFusionError, Diagnostic, Result, SchemaError, TableReference, config::ConfigOptions, plan_err,
};
use datafusion_expr::{
    AggregateUDF, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF,
};
use datafusion_expr::{col, planner::ContextProvider, planner::ExprPlanner};
use datafusion_optimizer::{
    Analyzer, Optimizer, OptimizerContext, OptimizerRule, analyzer::type_coercion::TypeCoercion,
    common_subexpr_eliminate::CommonSubexprEliminate, eliminate_duplicated_expr::EliminateDuplicatedExpr,
    optimize_projections::OptimizeProjections, push_down_filter::PushDownFilter,
    simplify_expressions::SimplifyExpressions,
};
use datafusion_sql::{
    planner::{ParserOptions, SqlToRel},
    sqlparser::ast::{Query, Statement},
};

use crate::{
    blame, bounded, comparisons, constants,
    error::Fault,
    far_moments::FarMoments,
    functions::functions,
    pseudo, size,
    sql::{Sql, lower_first},
};

/// The columns of a table, without event time and operation.
pub(crate) type Tables = BTreeMap<String, SchemaRef>;

/// Plans a query. `keep_columns`: no column is dropped before the first aggregate, for transforms whose late rows are read.
pub(crate) fn plan(sql: &Sql, query: Query, tables: &Tables, keep_columns: bool) -> Result<LogicalPlan, Vec<Fault>> {
    let analyzed = analyzed(sql, query.clone(), tables)
        .map_err(|faults| blame::parts(&query, faults, sql, &plans(sql, tables), &weighs(tables)))?;
    optimize(analyzed, keep_columns).map_err(|error| faults_of(&error, sql))
}

/// What is wrong with the expressions of a query, each by itself, where it is not known how they are grouped.
pub(crate) fn wrong_parts(sql: &Sql, query: &Query, tables: &Tables) -> Vec<Fault> {
    let found = blame::parts(query, Vec::new(), sql, &plans(sql, tables), &weighs(tables));
    found.into_iter().filter(|fault| !fault.message.contains("GROUP BY")).collect()
}

/// What is wrong with a part of a query.
fn plans<'a>(sql: &'a Sql, tables: &'a Tables) -> impl Fn(Query) -> Option<Vec<Fault>> + 'a {
    |part| analyzed(sql, part, tables).err()
}

/// What a part of a query weighs.
fn weighs(tables: &Tables) -> impl Fn(&Query) -> u64 {
    |part| size::weigh(part, tables, false).unwrap_or(u64::MAX)
}

/// A query's plan with types coerced, once it is known that nothing surprising is compared and no constants are beyond what there is room
/// for.
fn analyzed(sql: &Sql, query: Query, tables: &Tables) -> Result<LogicalPlan, Vec<Fault>> {
    let options = Arc::new(options());
    let context = Context { tables, options: &options };
    let parser = ParserOptions { collect_spans: true, ..ParserOptions::new() };
    let planned = SqlToRel::new_with_options(&context, parser)
        .sql_statement_to_plan(Statement::Query(Box::new(query)))
        .map_err(|error| faults_of(&error, sql))?;
    let unlike = comparisons::unlike(&planned);
    if !unlike.is_empty() {
        return Err(unlike);
    }
    let mut analyzer = Analyzer::with_rules(vec![Arc::new(TypeCoercion::new())]);
    analyzer.add_function_rewrite(Arc::new(FarMoments));
    for rewrite in functions().rewrites() {
        analyzer.add_function_rewrite(Arc::clone(rewrite));
    }
    let typed = analyzer.execute_and_check(planned, &options, |_, _| {}).map_err(|error| faults_of(&error, sql))?;
    let vain = [bounded::excesses(&typed), constants::overflows(&typed), constants::failures(&typed)].concat();
    if vain.is_empty() { Ok(typed) } else { Err(vain) }
}

/// A plan for the columns of `plan` that `wanted` numbers, in that order.
pub(crate) fn narrow(plan: LogicalPlan, wanted: &[usize]) -> Result<LogicalPlan> {
    let columns: Vec<_> = wanted.iter().map(|number| col(plan.schema().columns()[*number].clone())).collect();
    let narrowed = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
    optimize(narrowed, false)
}

fn optimize(plan: LogicalPlan, keep_columns: bool) -> Result<LogicalPlan> {
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(PushDownFilter::new()),
    ];
    if !keep_columns {
        rules.push(Arc::new(CommonSubexprEliminate::new()));
        rules.push(Arc::new(OptimizeProjections::new()));
    }
    let context = OptimizerContext::new_with_config_options(Arc::new(options()))
        .without_query_execution_start_time()
        .with_skip_failing_rules(false)
        .with_max_passes(8);
    Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})
}

/// How SQL is read: text is `Utf8View`, and moments are in UTC.
pub(crate) fn options() -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.sql_parser.map_string_types_to_utf8view = true;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".to_owned());
    options
}

/// A table that has columns and nothing else.
struct Table(SchemaRef);

impl TableSource for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }
}

struct Context<'a> {
    tables: &'a Tables,
    options: &'a ConfigOptions,
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.tables.get(name.table()) {
            Some(schema) => Ok(Arc::new(Table(Arc::clone(schema)))),
            None => plan_err!("there is no source or transform `{}`", name.table()),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        functions().planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions().scalar(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions().aggregate(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        functions().window(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions().names().map(str::to_owned).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What DataFusion found, in our words where it is about names, in its own otherwise.
pub(crate) fn faults_of(error: &DataFusionError, sql: &Sql) -> Vec<Fault> {
    if let DataFusionError::Collection(errors) = error {
        return errors.iter().flat_map(|error| faults_of(error, sql)).collect();
    }
    let mut diagnostic = None;
    let root = root_of(error, &mut diagnostic);
    let span = diagnostic.and_then(|found| found.span).and_then(|span| {
        let place = (usize::try_from(span.start.line).ok()?, usize::try_from(span.start.column).ok()?);
        (place.0 > 0).then_some(place)
    });
    let fault = match root {
        DataFusionError::SchemaError(schema, _) => schema_fault(schema, sql),
        other => {
            let helps =
                diagnostic.map(|found| found.helps.iter().map(|help| help.message.as_str()).collect::<Vec<_>>());
            match (diagnostic, helps) {
                (Some(found), Some(helps)) if !helps.is_empty() => {
                    let message = pseudo::as_users_write(&found.message);
                    Fault::new(lower_first(&message)).expected(lower_first(&helps.join("; ")))
                }
                _ => planner_fault(&message_of(other), sql),
            }
        }
    };
    let placed = fault.span.or(span);
    vec![fault.at(placed)]
}

fn root_of<'a>(error: &'a DataFusionError, diagnostic: &mut Option<&'a Diagnostic>) -> &'a DataFusionError {
    match error {
        DataFusionError::Diagnostic(found, inner) => {
            diagnostic.get_or_insert(found);
            root_of(inner, diagnostic)
        }
        DataFusionError::Context(_, inner) => root_of(inner, diagnostic),
        DataFusionError::Shared(inner) => root_of(inner, diagnostic),
        other => other,
    }
}

/// A message without what DataFusion puts around it.
fn message_of(error: &DataFusionError) -> String {
    const PREFIXES: [&str; 5] = [
        "Error during planning: ",
        "Internal error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "Arrow error: ",
    ];
    let text = error.strip_backtrace();
    let text = PREFIXES.iter().fold(text.as_str(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    pseudo::as_users_write(text.trim())
}

/// What the planner says about types and functions, with users' names for types and a place.
fn planner_fault(text: &str, sql: &Sql) -> Fault {
    const NO_MATCH: &str = "No function matches the given name and argument types '";
    if let Some((_, rest)) = text.split_once(NO_MATCH)
        && let Some((call, rest)) = rest.split_once('\'')
    {
        let call = in_users_types(call);
        let name = call.split('(').next().unwrap_or_default().to_owned();
        let forms: Vec<String> = rest
            .split_once("Candidate functions:")
            .map(|(_, forms)| {
                forms.lines().map(str::trim).filter(|form| !form.is_empty()).map(in_users_types).collect()
            })
            .unwrap_or_default();
        let fault = Fault::new(format!("there is no `{call}`")).at(sql.place_of(&name)).offending(call);
        return if forms.is_empty() { fault } else { fault.expected(forms.join(", ")) };
    }
    let first = text.split("\nThis issue was likely caused by a bug").next().unwrap_or(text);
    let quoted = first.split('\'').nth(1).and_then(|quoted| quoted.rsplit('.').next());
    // Some begin with the clause that they are about.
    let clause = first.split(' ').next().filter(|word| word.chars().all(|c| c.is_ascii_uppercase()));
    let named = clause.and_then(|word| sql.place_of(word)).or_else(|| quoted.and_then(|name| sql.place_of(name)));
    let span = named.or_else(|| sql.place_of("SELECT"));
    Fault::new(lower_first(&in_users_types(first))).at(span)
}

/// A text with users' names for Arrow's types.
fn in_users_types(text: &str) -> String {
    const NAMES: [(&str, &str); 12] = [
        ("Utf8View", "VARCHAR"),
        ("LargeUtf8", "VARCHAR"),
        ("Utf8", "VARCHAR"),
        ("String", "VARCHAR"),
        ("UInt64", "BIGINT UNSIGNED"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Float64", "DOUBLE"),
        ("Float32", "FLOAT"),
        ("Boolean", "BOOLEAN"),
        ("Date32", "DATE"),
        ("Timestamp(µs, \"UTC\")", "TIMESTAMP"),
    ];
    NAMES.iter().fold(text.to_owned(), |text, (arrow, users)| text.replace(arrow, users))
}

fn schema_fault(error: &SchemaError, sql: &Sql) -> Fault {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let name = field.name();
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name()).collect();
            let span = field.spans.first().and_then(|span| {
                let place = (usize::try_from(span.start.line).ok()?, usize::try_from(span.start.column).ok()?);
                (place.0 > 0).then_some(place)
            });
            unknown_column(name, &names, sql.has_subqueries()).at(span.or_else(|| sql.place_of(name)))
        }
        SchemaError::AmbiguousReference { field } => Fault::new(format!("two columns are called `{}`", field.name()))
            .offending(field.name())
            .at(sql.place_of(field.name()))
            .expected("an alias for one of them, such as `… AS another_name`"),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Fault::new(format!("two columns are called `{name}`"))
                .offending(name)
                .at(sql.place_of(name))
                .expected("an alias for one of them, such as `… AS another_name`")
        }
    }
}

/// A column that is not there; `nested`: in SQL with subqueries.
pub(crate) fn unknown_column(name: &str, names: &[&str], nested: bool) -> Fault {
    let is_of_window = pseudo::WINDOW_COLUMNS.contains(&name);
    let mut what = "one of the columns".to_owned();
    let fault = if is_of_window && nested {
        what = format!("GROUP BY in this SELECT, `{name}` in the select list of the subquery that groups, or {what}");
        Fault::new(format!(
            "`{name}` is there only in a SELECT that groups under the transform's `window`, and in one that reads it from \
             such a subquery"
        ))
    } else if is_of_window {
        Fault::new(format!("`{name}` is there only where a transform with a `window` groups"))
    } else {
        Fault::new(format!("there is no column `{name}`"))
    };
    let fault = fault.offending(name).among(&what, name, names.iter().copied());
    if is_of_window { fault } else { fault.or_near(name, pseudo::WINDOW_COLUMNS) }
}
