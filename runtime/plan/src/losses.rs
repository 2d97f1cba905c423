//! The names in `allowStateLoss` that no node has.

use std::fmt;

use millrace_crds::PipelineSpec;

use crate::error::nearest;

/// A name in `allowStateLoss` that no source and no transform has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLoss {
    /// The field, such as `spec.allowStateLoss[0]`.
    pub path: String,
    /// The name.
    pub name: String,
    /// The name of a source or transform that is most like it, if one is like it at all.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`allowStateLoss` names `{}`, and no source or transform is called so, now or in the plan before",
            self.name
        )?;
        self.nearest.as_ref().map_or(Ok(()), |nearest| write!(f, "; did you mean `{nearest}`?"))
    }
}

/// The names in a pipeline's `allowStateLoss` that belong to no node of it, and to none of the pipeline `before` either: one
/// that the edit takes away is named there with good reason.
pub fn unknown_losses(pipeline: &PipelineSpec, before: Option<&PipelineSpec>) -> Vec<UnknownLoss> {
    let is_known = |name: &str| names(pipeline).chain(before.into_iter().flat_map(names)).any(|known| known == name);
    let unknown = pipeline.allow_state_loss.iter().enumerate().filter(|(_, name)| !is_known(name));
    unknown
        .map(|(number, name)| UnknownLoss {
            path: format!("spec.allowStateLoss[{number}]"),
            name: name.clone(),
            nearest: nearest(name, names(pipeline)),
        })
        .collect()
}

fn names(pipeline: &PipelineSpec) -> impl Iterator<Item = &str> {
    let sources = pipeline.sources.iter().map(|source| source.name.as_str());
    sources.chain(pipeline.transforms.iter().map(|transform| transform.name.as_str()))
}
