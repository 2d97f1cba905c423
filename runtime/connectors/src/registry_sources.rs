//! Which source connector a spec means.

use millrace_crds::SourceConnector;
use millrace_plan::SourceNode;

use crate::{
    Source, SourceError, file_source::FileSource, format::unusable, generator::GeneratorSource, stdin::StdinSource,
};

/// The source that a plan's node describes. Opens nothing.
///
/// # Errors
///
/// When the spec names no connector, or several, which the manifest reader lets through to nobody.
pub fn make_source(node: &SourceNode) -> Result<Box<dyn Source>, SourceError> {
    let spec = &node.spec;
    Ok(match spec.connector() {
        Some(SourceConnector::Generator(generator)) => Box::new(GeneratorSource::new(spec, generator)),
        Some(SourceConnector::File(files)) => Box::new(FileSource::new(spec, files)),
        Some(SourceConnector::Stdin(_)) => Box::new(StdinSource::new(spec)),
        None => {
            return Err(unusable(format!("source {} must have exactly one of generator, file and stdin", spec.name)));
        }
    })
}
