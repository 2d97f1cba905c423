//! A Pipeline with the Windows and Sinks that it names, and the content hash of that.

use std::{collections::BTreeMap, fmt::Write};

use millrace_crds::{LateRows as SpecLateRows, PipelineSpec, SinkSpec, WindowForm, WindowSpec};
use millrace_stream::Revision;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::{Fault, PlanError},
    graph::{LateRows, ResolvedSpec, WindowDef, WindowKind},
};

/// Takes the Windows and Sinks that a pipeline names from those that there are.
///
/// # Errors
///
/// Every name that none has.
pub fn resolve(
    name: &str,
    pipeline: PipelineSpec,
    windows: &BTreeMap<String, WindowSpec>,
    sinks: &BTreeMap<String, SinkSpec>,
) -> Result<ResolvedSpec, Vec<PlanError>> {
    let (spec, errors) = resolve_what_is_there(name, pipeline, windows, sinks);
    if errors.is_empty() { Ok(spec) } else { Err(errors) }
}

/// The same; with errors, a spec that lacks what is not there.
pub(crate) fn resolve_what_is_there(
    name: &str,
    pipeline: PipelineSpec,
    windows: &BTreeMap<String, WindowSpec>,
    sinks: &BTreeMap<String, SinkSpec>,
) -> (ResolvedSpec, Vec<PlanError>) {
    let mut errors = Vec::new();
    let mut used_windows = BTreeMap::new();
    for (number, transform) in pipeline.transforms.iter().enumerate() {
        if let Some(name) = &transform.window {
            match windows.get(name) {
                Some(window) => {
                    used_windows.insert(name.clone(), window.clone());
                }
                None => errors.push(
                    Fault::new(format!("there is no Window `{name}`"))
                        .offending(name)
                        .among("the name of a Window", name, windows.keys().map(String::as_str))
                        .in_field(format!("spec.transforms[{number}].window")),
                ),
            }
        }
    }
    let mut used_sinks = BTreeMap::new();
    for (number, output) in pipeline.outputs.iter().enumerate() {
        match sinks.get(&output.sink) {
            Some(sink) => {
                used_sinks.insert(output.sink.clone(), sink.clone());
            }
            None => errors.push(
                Fault::new(format!("there is no Sink `{}`", output.sink))
                    .offending(&output.sink)
                    .among("the name of a Sink", &output.sink, sinks.keys().map(String::as_str))
                    .in_field(format!("spec.outputs[{number}].sink")),
            ),
        }
    }
    let spec = ResolvedSpec { name: name.to_owned(), pipeline, windows: used_windows, sinks: used_sinks };
    (spec, errors)
}

/// The content hash of all that a plan depends on: SHA-256 over its JSON with sorted keys.
pub fn revision(spec: &ResolvedSpec) -> Revision {
    let value = serde_json::to_value(spec).unwrap_or(Value::Null);
    let mut canonical = String::new();
    write_canonical(&value, &mut canonical);
    let digest = Sha256::digest(canonical.as_bytes());
    let mut hex = String::with_capacity(64);
    for byte in digest {
        let _ = write!(hex, "{byte:02x}");
    }
    Revision(hex)
}

/// JSON without white space and with every object's keys in order.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|one, other| one.0.cmp(other.0));
            out.push('{');
            for (number, (name, item)) in fields.into_iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_canonical(&Value::String(name.clone()), out);
                out.push(':');
                write_canonical(item, out);
            }
            out.push('}');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

/// What a Window says, in milliseconds.
pub(crate) fn window_def(spec: &WindowSpec) -> Result<WindowDef, Fault> {
    let ms = |length: millrace_crds::DurationStr| length.as_millis_i64();
    let offset = |offset: Option<millrace_crds::DurationStr>| offset.map_or(0, ms);
    let kind = match spec.form() {
        Some(WindowForm::Tumbling(window)) => {
            WindowKind::Tumbling { size_ms: ms(window.size), offset_ms: offset(window.offset) }
        }
        Some(WindowForm::Hopping(window)) => WindowKind::Hopping {
            size_ms: ms(window.size),
            slide_ms: ms(window.slide),
            offset_ms: offset(window.offset),
        },
        Some(WindowForm::Rolling(window)) => WindowKind::Rolling { range_ms: ms(window.range) },
        Some(WindowForm::Session(window)) => WindowKind::Session { gap_ms: ms(window.gap) },
        None => {
            return Err(Fault::new("a Window has one form").expected("one of tumbling, hopping, rolling, session"));
        }
    };
    let lengths = match kind {
        WindowKind::Tumbling { size_ms, .. } => [size_ms, size_ms],
        WindowKind::Hopping { size_ms, slide_ms, .. } => [size_ms, slide_ms],
        WindowKind::Rolling { range_ms } => [range_ms, range_ms],
        WindowKind::Session { gap_ms } => [gap_ms, gap_ms],
    };
    if lengths.iter().any(|length| *length <= 0) {
        return Err(Fault::new("a window has a length").expected("a duration above 0"));
    }
    if let WindowKind::Hopping { size_ms, slide_ms, .. } = kind
        && slide_ms > size_ms
    {
        return Err(Fault::new("with a slide longer than its size, a hopping window would miss rows")
            .expected("a slide of at most the size"));
    }
    let late_rows = match spec.late_rows {
        SpecLateRows::Drop => LateRows::Drop,
        SpecLateRows::SideOutput => LateRows::SideOutput,
    };
    Ok(WindowDef { kind, allowed_lateness_ms: ms(spec.allowed_lateness), late_rows })
}
