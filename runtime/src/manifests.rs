//! Manifests from files, folders and standard input, to the plan of one pipeline, with everything that is wrong with them
//! on standard error.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use millrace_connectors::file_source::unmatched;
use millrace_crds::{
    Pipeline,
    manifest::{Complaint, Located, Manifests, Problem, read},
};
use millrace_plan::{Doubts, Plan, PlanError, UnknownLoss, resolve_and_compile_here, unknown_losses};

use crate::{Failure, cli::ManifestArgs, telemetry};

/// What was read: for taking notice of edits.
pub type Texts = Vec<(String, Vec<u8>)>;

/// The files that the arguments name, with their content, in the order of the arguments and of names in a folder.
///
/// # Errors
/// Names every path that cannot be read.
pub fn read_files(paths: &[PathBuf]) -> Result<Texts, Failure> {
    let mut texts = Texts::new();
    let mut unreadable = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = Vec::new();
            match io::stdin().lock().read_to_end(&mut text) {
                Ok(_) => texts.push(("<stdin>".to_owned(), text)),
                Err(error) => unreadable.push(format!("cannot read standard input: {error}")),
            }
            continue;
        }
        let mut cannot = |path: &Path, error: io::Error| {
            unreadable.push(format!("cannot read {}: {error}", path.display()));
        };
        let files = files_in(path).unwrap_or_else(|error| {
            cannot(path, error);
            Vec::new()
        });
        for file in files {
            match fs::read(&file) {
                Ok(text) => texts.push((file.display().to_string(), text)),
                Err(error) => cannot(&file, error),
            }
        }
    }
    match unreadable.as_slice() {
        [] => Ok(texts),
        _ => Err(Failure::usage(unreadable.join(&format!("\n{} ", telemetry::paint("error:", telemetry::RED))))),
    }
}

/// Whether a path stands for the standard input.
pub fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|name| path == Path::new(name))
}

fn files_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let is_manifest = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && matches!(extension, Some("yaml" | "yml" | "json"))
    };
    let entries = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().filter(is_manifest).collect();
    files.sort();
    if files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no *.yaml, *.yml or *.json in this folder"));
    }
    Ok(files)
}

/// What came of compiling manifests.
pub struct Compiled {
    /// The plan, if nothing is wrong.
    pub plan: Option<Plan>,
    /// Everything that is wrong or odd, and what was passed over, ready to be shown.
    pub messages: Vec<String>,
}

/// Compiles the pipeline that is meant.
pub fn compile(texts: &Texts, wanted: Option<&str>) -> Compiled {
    compile_and_look(texts, wanted, |_| Vec::new())
}

/// The same; `look` tells what is odd about the pipeline on this machine.
fn compile_and_look(
    texts: &Texts,
    wanted: Option<&str>,
    look: impl FnOnce(&Located<Pipeline>) -> Vec<Problem>,
) -> Compiled {
    let (manifests, mut problems) = read(texts);
    let mut messages: Vec<String> = manifests.skipped.iter().map(|notice| format!("note: {notice}")).collect();
    let pipeline = match choose(&manifests, wanted) {
        Ok(pipeline) => pipeline,
        Err(message) => {
            messages.extend(problems.iter().map(render));
            // A pipeline that could not be read is no missing pipeline.
            if !problems.iter().any(Problem::is_error) {
                messages.push(format!("{} {message}", telemetry::paint("error:", telemetry::RED)));
            }
            return Compiled { plan: None, messages };
        }
    };
    problems.extend(look(pipeline));
    let mut plan = None;
    match compile_one(&manifests, pipeline) {
        Ok(compiled) => {
            let warn = |warning: &millrace_plan::Warning| {
                pipeline.problem(&warning.path, Complaint::new(warning.message.as_str()).warning())
            };
            problems.extend(compiled.warnings.iter().map(warn));
            plan = Some(compiled);
        }
        Err(errors) => {
            // What the manifest reader has said already is not said again by the plan.
            let place_of = |problem: &Problem| (problem.file.clone(), problem.line, problem.column);
            let said: BTreeSet<_> = problems.iter().filter(|problem| problem.is_error()).map(place_of).collect();
            let found = errors.iter().map(|error| place(&manifests, pipeline, error));
            problems.extend(found.filter(|problem| !said.contains(&place_of(problem))));
        }
    }
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    // What is wrong with a Sink may be found once for each output that goes to it.
    problems.dedup();
    let wrong = problems.iter().any(Problem::is_error);
    messages.extend(problems.iter().map(render));
    Compiled { plan: plan.filter(|_| !wrong), messages }
}

fn compile_one(manifests: &Manifests, pipeline: &Located<Pipeline>) -> Result<Plan, Vec<PlanError>> {
    let namespace = pipeline.namespace();
    let windows = manifests.windows_in(namespace);
    let sinks = manifests.sinks_in(namespace);
    let doubts = Doubts {
        fields: pipeline.unread_fields().clone(),
        windows: manifests.unread_windows_in(namespace),
        sinks: manifests.unread_sinks_in(namespace),
    };
    resolve_and_compile_here(&leads_to, &doubts, pipeline.name(), pipeline.value.spec.clone(), &windows, &sinks)
}

/// Where a path leads: absolute, and through symbolic links as far as it is there yet.
fn leads_to(path: &str) -> String {
    let Ok(absolute) = std::path::absolute(path) else { return path.to_owned() };
    let real = absolute.ancestors().find_map(|above| {
        let real = fs::canonicalize(above).ok()?;
        Some(real.join(absolute.strip_prefix(above).ok()?))
    });
    real.unwrap_or(absolute).to_string_lossy().into_owned()
}

fn choose<'a>(manifests: &'a Manifests, wanted: Option<&str>) -> Result<&'a Located<Pipeline>, String> {
    let names: Vec<&str> = manifests.pipelines.iter().map(Located::name).collect();
    match (wanted, manifests.pipelines.as_slice()) {
        (None, [only]) => Ok(only),
        (_, []) => Err("the manifests hold no Pipeline".to_owned()),
        (None, _) => {
            Err(format!("the manifests hold several Pipelines ({}): name one with --pipeline", names.join(", ")))
        }
        (Some(wanted), several) => several
            .iter()
            .find(|pipeline| pipeline.name() == wanted)
            .ok_or_else(|| format!("there is no Pipeline {wanted}; there are: {}", names.join(", "))),
    }
}

/// A problem where it stands: in a Sink's manifest, if that is where something has to change.
fn place(manifests: &Manifests, pipeline: &Located<Pipeline>, error: &PlanError) -> Problem {
    let sink = error.sink.as_ref().and_then(|field| {
        let namespace = pipeline.namespace();
        let mut sinks = manifests.sinks.iter().filter(|sink| sink.namespace() == namespace);
        Some((sinks.find(|sink| sink.name() == field.sink)?, field))
    });
    let message = sink.map_or(&error.message, |(_, field)| &field.message);
    let mut complaint = Complaint::new(message.as_str());
    if let Some(expected) = &error.expected {
        complaint = complaint.expected(expected.as_str());
    }
    if let Some(nearest) = &error.nearest {
        complaint = complaint.nearest(Some(nearest.clone()));
    }
    if let Some(offending) = &error.offending {
        complaint = complaint.offending(offending.as_str());
    }
    match (sink, error.span) {
        (Some((sink, field)), _) => sink.problem(&field.path, complaint),
        (None, Some((line, column))) => pipeline.problem_in(&error.path, line, column, complaint),
        (None, None) => pipeline.problem(&error.path, complaint),
    }
}

fn render(problem: &Problem) -> String {
    if !telemetry::colours() {
        return problem.to_string();
    }
    use millrace_crds::manifest::Part;
    problem.render(&|part, text| match part {
        Part::Message | Part::Caret => telemetry::paint(text, telemetry::RED),
        Part::Note => telemetry::paint(text, telemetry::GREEN),
        _ => text.to_owned(),
    })
}

/// The files of a source that are not there, or not yet, or on another machine.
fn missing_files(pipeline: &Located<Pipeline>) -> Vec<Problem> {
    let sources = pipeline.value.spec.sources.iter().enumerate();
    let files = sources.filter_map(|(number, source)| Some((number, source.file.as_ref()?)));
    let missing = files.flat_map(|(source, files)| {
        let ends = if files.follow { "yet" } else { "here; a source that does not follow fails without one" };
        unmatched(files).into_iter().map(move |path| (format!("spec.sources[{source}].file.paths[{path}]"), ends))
    });
    let problem = |(path, ends): (String, &str)| {
        pipeline.problem(&path, Complaint::new(format!("no file matches this {ends}")).warning())
    };
    missing.map(problem).collect()
}

/// The names in `allowStateLoss` that no node has and that are like the name of one. Others may be those of nodes that the edit
/// takes away.
fn misspelled_losses(pipeline: &Located<Pipeline>) -> Vec<Problem> {
    let unknown = unknown_losses(&pipeline.value.spec, None).into_iter().filter(|loss| loss.nearest.is_some());
    let problem = |loss: UnknownLoss| {
        let complaint = Complaint::new(format!("no source or transform is called `{}`", loss.name)).warning();
        let complaint = complaint.expected("the name of one, or of one that the edit takes away");
        pipeline.problem(&loss.path, complaint.nearest(loss.nearest))
    };
    unknown.map(problem).collect()
}

/// The plan of the arguments' manifests. What is wrong goes to standard error.
///
/// # Errors
/// Something is wrong, and has been said.
pub fn load(args: &ManifestArgs) -> Result<Plan, Failure> {
    told(compile(&read_files(&args.files)?, args.pipeline.as_deref()))
}

/// The same, with a warning of each path of a source that no file matches on this machine, and of what is probably misspelled.
///
/// # Errors
/// Something is wrong, and has been said.
pub fn load_and_look(args: &ManifestArgs) -> Result<Plan, Failure> {
    let look = |pipeline: &Located<Pipeline>| [missing_files(pipeline), misspelled_losses(pipeline)].concat();
    told(compile_and_look(&read_files(&args.files)?, args.pipeline.as_deref(), look))
}

fn told(compiled: Compiled) -> Result<Plan, Failure> {
    for message in &compiled.messages {
        eprintln!("{message}");
    }
    compiled.plan.ok_or_else(Failure::told)
}
