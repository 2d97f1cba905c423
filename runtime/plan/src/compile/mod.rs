//! A resolved spec to a plan, in three passes over its transforms: parse and put in order; plan each over its inputs'
//! columns and split it, so that every error is known; then, from the outputs back, drop the columns that nothing reads, and
//! split again what became narrower.

mod destinations;
mod finish;
mod outputs;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{Field, Schema};
use datafusion_expr::LogicalPlan;
use millrace_crds::{PipelineSpec, SideOutput, SinkSpec, SourceSpec, TransformSpec, WindowSpec};

use crate::{
    checks,
    columns::{declared_columns, is_timestamp, type_name},
    depth::with_stack,
    doubts::{ColumnDoubt, Doubts},
    error::{Fault, PlanError},
    graph::{KeyedOp, LateRows, Plan, ResolvedSpec, Warning, WindowDef, WindowKind},
    keys, logical,
    lower::{self, Lowered, Settings, Stamp, Table},
    resolve::{resolve_what_is_there, window_def},
    rewrite::rewrite,
    size,
    sql::Sql,
};

/// How many errors are told of a pipeline. What is wrong with the transforms after them is told when these are mended.
const MAX_ERRORS: usize = 200;
/// How often a running aggregate emits what changed, unless its transform says.
const EMIT_EVERY_MS: u64 = 1_000;

/// Compiles a pipeline.
///
/// # Errors
///
/// All that is wrong with it, in the order of its fields.
pub fn compile(spec: &ResolvedSpec) -> Result<Plan, Vec<PlanError>> {
    with_stack(|| Compiler::new(spec, &Doubts::default(), &as_written).compile())
}

/// Where a path leads on a machine that is not known.
fn as_written(path: &str) -> String {
    path.to_owned()
}

/// Resolves and compiles at once, so that unknown Windows and Sinks stand beside the errors in SQL.
///
/// # Errors
///
/// All that is wrong with it.
pub fn resolve_and_compile(
    name: &str,
    pipeline: PipelineSpec,
    windows: &BTreeMap<String, WindowSpec>,
    sinks: &BTreeMap<String, SinkSpec>,
) -> Result<Plan, Vec<PlanError>> {
    resolve_and_compile_despite(&Doubts::default(), name, pipeline, windows, sinks)
}

/// The same for a pipeline of which some could not be read: all that is wrong with the rest. There is no plan for it.
///
/// # Errors
///
/// All that is wrong with it; nothing, if that is in what could not be read.
pub fn resolve_and_compile_despite(
    doubts: &Doubts,
    name: &str,
    pipeline: PipelineSpec,
    windows: &BTreeMap<String, WindowSpec>,
    sinks: &BTreeMap<String, SinkSpec>,
) -> Result<Plan, Vec<PlanError>> {
    resolve_and_compile_here(&as_written, doubts, name, pipeline, windows, sinks)
}

/// The same on the machine that the pipeline is to run on. `here` says where a path of it leads, from the working directory and
/// through symbolic links, so that two ways of writing one place are known as one.
///
/// # Errors
///
/// As before.
pub fn resolve_and_compile_here(
    here: &(dyn Fn(&str) -> String + Sync),
    doubts: &Doubts,
    name: &str,
    pipeline: PipelineSpec,
    windows: &BTreeMap<String, WindowSpec>,
    sinks: &BTreeMap<String, SinkSpec>,
) -> Result<Plan, Vec<PlanError>> {
    let (spec, mut errors) = resolve_what_is_there(name, pipeline, windows, sinks);
    match with_stack(|| Compiler::new(&spec, doubts, here).compile()) {
        Ok(plan) if errors.is_empty() => Ok(plan),
        Ok(_) => Err(errors),
        Err(found) => {
            errors.extend(found);
            errors.sort_by_key(|error| field_order(&error.path));
            Err(errors)
        }
    }
}

struct Compiler<'a> {
    spec: &'a ResolvedSpec,
    doubts: &'a Doubts,
    here: &'a (dyn Fn(&str) -> String + Sync),
    errors: Vec<PlanError>,
    warnings: Vec<Warning>,
    /// Sources and transforms that could be understood, with all their columns.
    tables: BTreeMap<String, Table>,
    /// Their users' columns, as SQL sees them.
    columns: logical::Tables,
    /// Those of which the columns' types, or more, are guessed.
    unsure: BTreeSet<String>,
    /// What the SQL of all transforms weighs so far.
    weight: u64,
}

/// A transform on its way.
struct Work<'a> {
    number: usize,
    spec: &'a TransformSpec,
    sql: Sql,
    window: Option<WindowDef>,
    late: bool,
    /// Whether what it says beside its SQL is known.
    sure: bool,
    planned: Option<LogicalPlan>,
    lowered: Option<Lowered>,
}

impl<'a> Compiler<'a> {
    fn new(spec: &'a ResolvedSpec, doubts: &'a Doubts, here: &'a (dyn Fn(&str) -> String + Sync)) -> Self {
        Self {
            spec,
            doubts,
            here,
            errors: Vec::new(),
            warnings: Vec::new(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            unsure: BTreeSet::new(),
            weight: 0,
        }
    }

    fn refuse(&mut self, path: impl Into<String>, fault: Fault) {
        self.errors.push(fault.in_field(path));
    }

    fn compile(mut self) -> Result<Plan, Vec<PlanError>> {
        let pipeline = &self.spec.pipeline;
        self.check_names();
        for (number, source) in pipeline.sources.iter().enumerate() {
            self.source(number, source);
        }
        let mut works = self.parse();
        let order = self.order(&works);
        for place in &order {
            self.plan(&mut works[*place]);
        }
        let sinks = self.outputs(&works);
        self.storage();
        if !self.errors.is_empty() || !self.doubts.is_empty() {
            self.errors.sort_by_key(|error| field_order(&error.path));
            self.errors.dedup();
            return Err(self.errors);
        }
        self.warn_unread(&works);
        self.prune(&mut works, &order);
        Ok(self.assemble(works, &order, sinks))
    }

    /// Sources and transforms share one space of names.
    fn check_names(&mut self) {
        let pipeline = &self.spec.pipeline;
        let sources =
            pipeline.sources.iter().map(|source| source.name.as_str()).zip(0..).map(|(n, i)| (n, "sources", i));
        let transforms =
            pipeline.transforms.iter().map(|t| t.name.as_str()).zip(0..).map(|(n, i)| (n, "transforms", i));
        let mut taken = BTreeSet::new();
        for (name, kind, number) in sources.chain(transforms) {
            if !name.is_empty() && !taken.insert(name) {
                self.errors.push(
                    Fault::new(format!("another source or transform is called `{name}`"))
                        .offending(name)
                        .expected("a name of its own")
                        .in_field(format!("spec.{kind}[{number}].name")),
                );
            }
        }
    }

    fn source(&mut self, number: usize, spec: &'a SourceSpec) {
        let path = format!("spec.sources[{number}]");
        let doubt = self.doubts.of_columns(number, spec);
        if doubt == Some(ColumnDoubt::Names) {
            return;
        }
        let (declared, faults) = declared_columns(spec);
        for (column, fault) in faults {
            self.refuse(format!("{path}.columns[{column}].name"), fault);
        }
        if declared.fields().is_empty() {
            self.refuse(
                format!("{path}.columns"),
                Fault::new(format!("the source `{}` has no columns", spec.name)).expected("at least one column"),
            );
        }
        if let Some(event_time) = spec.event_time.as_ref().filter(|_| !self.doubts.is_event_time_of(number)) {
            let field = format!("{path}.eventTime.column");
            let names: Vec<&str> = declared.fields().iter().map(|field| field.name().as_str()).collect();
            match declared.index_of(&event_time.column) {
                Err(_) => self.refuse(
                    field,
                    Fault::new(format!("there is no column `{}`", event_time.column))
                        .offending(&event_time.column)
                        .among("one of the columns", &event_time.column, names),
                ),
                Ok(at) if self.doubts.is_type_of(number, at) => {}
                Ok(at) if !is_timestamp(declared.field(at).data_type()) => self.refuse(
                    field,
                    Fault::new(format!(
                        "event time is a TIMESTAMP, and `{}` is {}",
                        event_time.column,
                        type_name(declared.field(at).data_type())
                    ))
                    .offending(&event_time.column)
                    .expected("a column of type TIMESTAMP"),
                ),
                Ok(_) => {}
            }
        }
        if doubt.is_some() {
            self.unsure.insert(spec.name.clone());
        }
        let schema = crate::columns::with_marks(declared.fields().iter().cloned(), false);
        self.tables.insert(spec.name.clone(), Table { schema, changelog: None, stamp: Stamp::default() });
        self.columns.insert(spec.name.clone(), declared);
    }

    /// Parses every transform; those that do not parse, or of which it is not clear what they mean, are left out from here on.
    fn parse(&mut self) -> Vec<Work<'a>> {
        let pipeline = &self.spec.pipeline;
        let names: Vec<&str> = pipeline
            .sources
            .iter()
            .map(|source| source.name.as_str())
            .chain(pipeline.transforms.iter().map(|transform| transform.name.as_str()))
            .collect();
        let knows_names = self.doubts.knows_names(pipeline);
        let mut works = Vec::new();
        for (number, spec) in pipeline.transforms.iter().enumerate().filter(|(n, _)| !self.doubts.is_sql(*n)) {
            let path = format!("spec.transforms[{number}]");
            let mut window = None;
            let mut sure = !self.doubts.is_beside_sql(number);
            if let Some(name) = &spec.window {
                match self.spec.windows.get(name).map(window_def) {
                    _ if self.doubts.windows.contains(name) => sure = false,
                    Some(Ok(def)) => window = Some(def),
                    Some(Err(fault)) => {
                        sure = false;
                        self.refuse(format!("{path}.window"), fault);
                    }
                    // Said when the spec was resolved.
                    None => sure = false,
                }
            }
            if self.errors.len() >= MAX_ERRORS {
                continue;
            }
            let sql = match Sql::parse(&spec.sql) {
                Ok(sql) => sql,
                Err(faults) => {
                    self.errors.extend(faults.into_iter().map(|fault| fault.in_field(format!("{path}.sql"))));
                    continue;
                }
            };
            self.errors.extend(sql.form.faults.iter().map(|fault| fault.clone().in_field(format!("{path}.sql"))));
            for table in &sql.tables {
                let is_room = self.errors.len() < MAX_ERRORS;
                if is_room && knows_names && !names.contains(&table.name.as_str()) {
                    let fault = Fault::new(format!("there is no source or transform `{}`", table.name))
                        .offending(&table.name)
                        .at(table.span)
                        .among("one of", &table.name, names.iter().copied().filter(|name| *name != spec.name));
                    self.refuse(format!("{path}.sql"), fault);
                }
            }
            if sql.form.unclear {
                continue;
            }
            let late = self.takes(&spec.name, SideOutput::Late);
            works.push(Work { number, spec, sql, window, late, sure, planned: None, lowered: None });
        }
        works
    }

    /// Whether an output takes a side output of a node.
    fn takes(&self, name: &str, side: SideOutput) -> bool {
        let outputs = &self.spec.pipeline.outputs;
        outputs.iter().any(|output| output.node_and_output() == Some((name, Some(side))))
    }

    /// An order in which every transform stands after those that it reads. Those of a cycle are left out.
    fn order(&mut self, works: &[Work<'a>]) -> Vec<usize> {
        let places: BTreeMap<&str, usize> =
            works.iter().enumerate().map(|(at, work)| (work.spec.name.as_str(), at)).collect();
        let inputs: Vec<Vec<usize>> = works
            .iter()
            .map(|work| work.sql.tables.iter().filter_map(|table| places.get(table.name.as_str()).copied()).collect())
            .collect();
        let mut order = Vec::new();
        let mut done = vec![false; works.len()];
        let mut in_cycle = vec![false; works.len()];
        for start in 0..works.len() {
            let mut path = Vec::new();
            visit(start, &inputs, &mut done, &mut path, &mut order, &mut |cycle| {
                if cycle.iter().any(|at| in_cycle[*at]) {
                    return;
                }
                cycle.iter().for_each(|at| in_cycle[*at] = true);
                let first = cycle.iter().copied().min().unwrap_or(start);
                let from = cycle.iter().position(|at| *at == first).unwrap_or(0);
                let turned = cycle[from..].iter().chain(&cycle[..from]).chain(std::iter::once(&first));
                let names: Vec<&str> = turned.map(|at| works[*at].spec.name.as_str()).collect();
                let work = &works[first];
                let next = names.get(1).copied().unwrap_or_default();
                let fault = Fault::new(format!("transforms read each other in a circle: {}", names.join(" reads ")))
                    .offending(next)
                    .at(work.sql.place_of(next))
                    .expected("inputs that come, in the end, from sources");
                self.errors.push(fault.in_field(format!("spec.transforms[{}].sql", work.number)));
            });
        }
        order.retain(|at| !in_cycle[*at]);
        order
    }

    /// Plans and splits one transform over all columns of its inputs.
    fn plan(&mut self, work: &mut Work<'a>) {
        // What reads something that could not be understood cannot be judged; the reason is said already.
        let is_told = self.errors.len() >= MAX_ERRORS;
        if is_told || work.sql.tables.iter().any(|table| !self.tables.contains_key(&table.name)) {
            return;
        }
        let path = format!("spec.transforms[{}]", work.number);
        let field = format!("{path}.sql");
        let rolling = work.window.as_ref().is_some_and(|window| matches!(window.kind, WindowKind::Rolling { .. }));
        match size::weigh(&work.sql.query, &self.columns, rolling) {
            Ok(weight) => self.weight += weight,
            Err(fault) => return self.refuse(field, fault),
        }
        if self.weight > size::MAX_WEIGHT_TOGETHER {
            return self.refuse(field, size::too_large_together());
        }
        let pseudo_columns = work.window.is_some() || !work.sure;
        let mut query = work.sql.query.clone();
        keys::prefer_columns(&mut query, &self.columns);
        let mut unknown = checks::unknown_columns(&work.sql, &self.columns, pseudo_columns);
        unknown.extend(keys::refuse_aggregates(&mut query));
        let knows_types = !work.sql.tables.iter().any(|table| self.unsure.contains(&table.name));
        if !unknown.is_empty() || !work.sure || !work.sql.form.faults.is_empty() {
            // Any window will do to look at the expressions one by one.
            let any = WindowKind::Tumbling { size_ms: 1, offset_ms: 0 };
            rewrite(&mut query, work.window.as_ref().map(|window| window.kind).or((!work.sure).then_some(any)));
            let calls = work.sql.form.calls.iter().map(|call| Some(*call));
            let said: Vec<_> = unknown.iter().map(|fault| fault.span).chain(calls).collect();
            let mut wrong =
                if knows_types { logical::wrong_parts(&work.sql, &query, &self.columns) } else { Vec::new() };
            wrong.retain(|fault| !said.contains(&fault.span));
            wrong.extend(unknown);
            wrong.sort_by_key(|fault| fault.span);
            self.errors.extend(wrong.into_iter().map(|fault| fault.in_field(&field)));
            return;
        }
        rewrite(&mut query, work.window.as_ref().map(|window| window.kind));
        let lowered =
            logical::plan(&work.sql, query, &self.columns, work.late && work.window.is_some()).and_then(|plan| {
                let lowered = lower::lower(&plan, settings(work, &self.tables))?;
                Ok((plan, lowered))
            });
        let (plan, lowered) = match lowered {
            Ok(done) => done,
            // It may be wrong only with the types that are guessed.
            Err(_) if !knows_types => return,
            Err(faults) => {
                self.errors.extend(faults.into_iter().map(|fault| fault.in_field(&field)));
                return;
            }
        };
        if !knows_types {
            self.unsure.insert(work.spec.name.clone());
        }
        if work.spec.emit_every.is_some() && !runs(&lowered) {
            self.warnings.push(Warning {
                path: format!("{path}.emitEvery"),
                message: "`emitEvery` has no effect: the transform has no GROUP BY without a window".to_owned(),
            });
        }
        let marks = lowered.flow.marks();
        let columns: Vec<Arc<Field>> = lowered.flow.schema.fields().iter().skip(marks).cloned().collect();
        self.columns.insert(work.spec.name.clone(), Arc::new(Schema::new(columns)));
        self.tables.insert(work.spec.name.clone(), table(&lowered));
        work.planned = Some(plan);
        work.lowered = Some(lowered);
    }

    fn warn_unread(&mut self, works: &[Work<'a>]) {
        let read = |name: &str| {
            works.iter().any(|work| work.sql.tables.iter().any(|table| table.name == name))
                || self.spec.pipeline.outputs.iter().any(|o| o.node_and_output().is_some_and(|(node, _)| node == name))
        };
        let sources = self.spec.pipeline.sources.iter().enumerate().map(|(n, s)| ("sources", n, s.name.as_str()));
        let transforms = works.iter().map(|work| ("transforms", work.number, work.spec.name.as_str()));
        let unread: Vec<Warning> = sources
            .chain(transforms)
            .filter(|(_, _, name)| !read(name))
            .map(|(kind, number, name)| Warning {
                path: format!("spec.{kind}[{number}]"),
                message: format!("nothing reads `{name}`"),
            })
            .collect();
        self.warnings.extend(unread);
    }
}

fn settings<'w>(work: &'w Work<'_>, tables: &'w BTreeMap<String, Table>) -> Settings<'w> {
    Settings {
        name: &work.spec.name,
        sql: &work.sql,
        tables,
        window: work.spec.window.as_deref().zip(work.window.as_ref()),
        emit_every_ms: work.spec.emit_every.map_or(EMIT_EVERY_MS, |every| every.as_millis()),
        within_ms: work.spec.within.map(|within| within.as_millis_i64()),
        late: work.late && work.window.as_ref().is_none_or(|window| window.late_rows == LateRows::SideOutput),
    }
}

fn table(lowered: &Lowered) -> Table {
    Table {
        schema: Arc::clone(&lowered.flow.schema),
        changelog: lowered.flow.changelog.clone(),
        stamp: lowered.flow.stamp,
    }
}

fn runs(lowered: &Lowered) -> bool {
    lowered.flow.keyed.iter().any(|stage| matches!(stage.op, KeyedOp::Running(_)))
}

/// Walks depth first; says each cycle that it meets.
fn visit(
    at: usize,
    inputs: &[Vec<usize>],
    done: &mut [bool],
    path: &mut Vec<usize>,
    order: &mut Vec<usize>,
    cycle: &mut dyn FnMut(&[usize]),
) {
    if let Some(from) = path.iter().position(|before| *before == at) {
        cycle(&path[from..]);
        return;
    }
    if done[at] {
        return;
    }
    path.push(at);
    for input in &inputs[at] {
        visit(*input, inputs, done, path, order, cycle);
    }
    path.pop();
    done[at] = true;
    order.push(at);
}

/// Sorts by section, then number: `spec.transforms[2]` before `spec.transforms[10]`.
fn field_order(path: &str) -> (usize, usize, String) {
    let section = ["spec.sources", "spec.transforms", "spec.outputs"].iter().position(|known| path.starts_with(known));
    let number = path.split_once('[').and_then(|(_, rest)| rest.split_once(']')).and_then(|(n, _)| n.parse().ok());
    (section.unwrap_or(3), number.unwrap_or(0), path.to_owned())
}
