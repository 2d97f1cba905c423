//! Whether a source that was edited can go on from where it had read to.
//!
//! | edit | where it was read to |
//! |---|---|
//! | another connector | means nothing to it |
//! | `file`: `paths`, `follow`, `columns`, a format of lines for another | stands: it is a byte offset in each file |
//! | `file`: `compression`, Parquet for lines or the other way round | means something else |
//! | `generator`: `rows`, `rate`, fields added or removed at the end | stands: row n is the same row |
//! | `generator`: `seed`, `nexmark`, other fields | row n is another row |
//! | `onError`, `eventTime` | stands |

use millrace_crds::{FormatKind, FormatSpec, GeneratorSource, SourceConnector, SourceSpec};

use crate::graph::SourceNode;

/// Whether a source can go on from where its namesake in an older plan had read to.
pub fn keeps_replay_point(old: &SourceNode, new: &SourceNode) -> bool {
    lost(&old.spec, &new.spec).is_none()
}

/// Why it cannot.
pub(crate) fn lost(old: &SourceSpec, new: &SourceSpec) -> Option<String> {
    match (old.connector(), new.connector()) {
        (Some(SourceConnector::Generator(old)), Some(SourceConnector::Generator(new))) => {
            let changed = other_rows(old, new)?;
            Some(format!(
                "`{changed}` changes, and with it every row that the generator makes, the ones before included"
            ))
        }
        (Some(SourceConnector::File(before)), Some(SourceConnector::File(after))) => {
            if before.compression != after.compression {
                return Some("`compression` changes, and offsets are counted in what is unpacked".to_owned());
            }
            (is_parquet(old) != is_parquet(new)).then(|| {
                "Parquet files are read by rows and others by bytes, so an offset means something else".to_owned()
            })
        }
        (Some(SourceConnector::Stdin(_)), Some(SourceConnector::Stdin(_))) => None,
        (before, after) => {
            let (before, after) = (name(before.as_ref()), name(after.as_ref()));
            Some(format!(
                "the connector changes from {before} to {after}, and where the one was read to means nothing to the other"
            ))
        }
    }
}

fn name(connector: Option<&SourceConnector<'_>>) -> &'static str {
    match connector {
        Some(SourceConnector::Generator(_)) => "generator",
        Some(SourceConnector::File(_)) => "file",
        Some(SourceConnector::Stdin(_)) => "stdin",
        None => "no connector",
    }
}

fn is_parquet(spec: &SourceSpec) -> bool {
    matches!(spec.format.as_ref().and_then(FormatSpec::kind), Some(FormatKind::Parquet))
}

/// The field that makes other rows. A value follows from the seed, its field's number and its row's.
fn other_rows(old: &GeneratorSource, new: &GeneratorSource) -> Option<&'static str> {
    if old.seed != new.seed {
        return Some("seed");
    }
    if old.nexmark != new.nexmark {
        return Some("nexmark");
    }
    let is_other = old.fields.iter().zip(&new.fields).any(|(before, after)| before != after);
    is_other.then_some("fields")
}
