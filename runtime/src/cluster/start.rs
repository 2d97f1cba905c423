//! What a worker finds before it starts a job: the plan of the newest checkpoint, and the wish that has acted.

use millrace_engine::{JobError, chain};
use millrace_plan::{
    Plan, PlanError, ResolvedSpec,
    handover::{CheckpointSaid, PlanDocument},
};
use millrace_state::{ErrorKind, Manifest, Pointer};
use millrace_stream::Revision;

use super::pointer::{Answered, ConfigMapPointer};
use crate::context::Place;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The plan that wrote the newest checkpoint.
    pub stored: Option<Stored>,
    /// The start wishes that are known to be answered.
    pub answered: Vec<Answered>,
    /// The newest checkpoint.
    pub newest: Option<CheckpointSaid>,
}

/// A plan in a checkpoint.
#[derive(Debug)]
pub struct Stored {
    /// Its revision.
    pub revision: Revision,
    manifest: Manifest,
}

impl Found {
    /// Looks for it, where the wanted plan keeps its checkpoints. A damaged checkpoint is not found: the start says what is
    /// wrong with it.
    ///
    /// # Errors
    ///
    /// The API server or the checkpoint store does not answer.
    pub async fn look(wanted: &PlanDocument, place: &Place, pointer: &ConfigMapPointer) -> Result<Self, JobError> {
        let answered = pointer.answered().await?;
        let latest = pointer.read().await?;
        let Some(newest) = latest.as_ref().and_then(|latest| latest.decided.last()) else {
            return Ok(Self { stored: None, answered, newest: None });
        };
        let said = latest.as_ref().and_then(|latest| latest.newest.as_ref()).map(|about| CheckpointSaid {
            epoch: newest.taken.epoch,
            completed_at: about.completed_at,
            duration_ms: u64::try_from(about.duration.as_millis()).unwrap_or(u64::MAX),
            size_bytes: about.size_bytes,
        });
        let id = millrace_engine::recover::manifest_of(newest);
        let storage = wanted.spec.pipeline.checkpoints.storage.as_deref();
        let store = place.store(storage, &wanted.spec.name)?;
        let stored = match store.read_manifest(&id.location()).await {
            Ok(manifest) => Some(Stored { revision: manifest.revision.clone(), manifest }),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(error = %chain(&error), "the plan of the newest checkpoint cannot be read");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { stored, answered, newest: said })
    }

    /// The revision of the stored plan.
    pub fn revision(&self) -> Option<&Revision> {
        self.stored.as_ref().map(|stored| &stored.revision)
    }
}

impl Stored {
    /// What it says; `None`: nothing that this release reads.
    pub fn spec(&self) -> Option<ResolvedSpec> {
        serde_json::from_value(self.manifest.plan.clone()).ok()
    }

    /// Compiles it.
    ///
    /// # Errors
    ///
    /// [`JobError::StoredPlan`].
    pub async fn compile(&self) -> Result<Plan, JobError> {
        let epoch = self.manifest.epoch;
        let spec = self.spec().ok_or_else(|| JobError::StoredPlan { epoch, errors: Vec::new() })?;
        compile(spec, self.revision.clone()).await.map_err(|errors| JobError::StoredPlan { epoch, errors })
    }
}

/// Compiles a plan under the revision that others know it by: another release may write the same spec in another way.
///
/// # Errors
///
/// What is wrong with it.
pub async fn compile(spec: ResolvedSpec, revision: Revision) -> Result<Plan, Vec<PlanError>> {
    let compiled = tokio::task::spawn_blocking(move || millrace_plan::compile(&spec)).await;
    match compiled {
        Ok(compiled) => compiled.map(|plan| Plan { revision, ..plan }),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// All that is wrong with a plan, on one line.
pub fn shown(errors: &[PlanError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
