//! `millrace checkpoints delete --all` without a data folder: what a pipeline has in an object store. In a cluster it is what
//! `checkpoints.onDelete: Delete` comes to, when the Pipeline is gone.
//!
//! Nothing here can know whether the pipeline runs: there is no lock in a bucket.

use millrace_crds::is_object_store;
use millrace_plan::handover::ClearedDocument;
use millrace_state::{CheckpointStore, Cleared, StateError};
use serde_json::json;

use crate::{Failure, checkpoints, cli::DeleteArgs, telemetry};

/// Deletes it.
pub async fn clear(args: &DeleteArgs) -> Result<(), Failure> {
    let Some(storage) = args.storage.as_deref().filter(|storage| is_object_store(storage)) else {
        return Err(Failure::usage("--data-dir is missing")
            .advise("only what is in an object store, as --storage s3://lake/checkpoints, is deleted without one"));
    };
    let Some(named) = &args.pipeline else {
        return Err(Failure::usage("--pipeline is missing")
            .advise("name the pipeline whose checkpoints are deleted; one of a cluster as NAMESPACE/NAME"));
    };
    let (place, name) = place(storage, named)
        .ok_or_else(|| Failure::usage(format!("--pipeline {named}: this is no NAME, and no NAMESPACE/NAME")))?;
    let store = CheckpointStore::open(&place, name).map_err(failed)?;
    let cleared = match args.keep_savepoints {
        true => store.delete_checkpoints().await.map_err(failed)?,
        false => {
            let checkpoints = store.list().await.map_err(failed)?.len() as u64;
            store.delete_all().await.map_err(failed)?;
            Cleared { checkpoints, savepoints: Vec::new() }
        }
    };
    if let Some(path) = &args.result {
        let said = ClearedDocument { checkpoints: cleared.checkpoints, savepoints: cleared.savepoints.len() as u64 };
        std::fs::write(path, json!(said).to_string())
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    let kept = match cleared.savepoints.as_slice() {
        [] => String::new(),
        kept => format!("; kept {}", kept.join(", ")),
    };
    telemetry::say(&format!("deleted {} checkpoints of {named} in {storage}{kept}", cleared.checkpoints));
    Ok(())
}

/// On one line: stores answer with pages of XML, of which a pod's last words would be the last lines.
fn failed(error: StateError) -> Failure {
    let failure = checkpoints::failed(error);
    Failure { text: failure.text.split_whitespace().collect::<Vec<_>>().join(" "), ..failure }
}

/// The URL below which a pipeline's folder is, and the folder's name; `None` if that would be a folder of several pipelines,
/// or of none.
fn place<'a>(storage: &str, named: &'a str) -> Option<(String, &'a str)> {
    let storage = storage.trim_end_matches('/');
    let (place, name) = match named.split_once('/') {
        Some((namespace, name)) if is_name(namespace) => (format!("{storage}/{namespace}"), name),
        Some(_) => return None,
        None => (storage.to_owned(), named),
    };
    is_name(name).then_some((place, name))
}

/// Whether it can be the name of a pipeline or a namespace, and so of one folder.
fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes().all(is_good) && name.bytes().any(|byte| byte != b'.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pipeline_of_a_cluster_has_a_folder_in_that_of_its_namespace() {
        assert_eq!(place("s3://lake/all/", "web"), Some(("s3://lake/all".to_owned(), "web")));
        assert_eq!(place("s3://lake", "shop/web"), Some(("s3://lake/shop".to_owned(), "web")));
    }

    #[test]
    fn nothing_but_a_pipelines_own_folder_can_be_named() {
        for bad in ["", "/", "shop/", "/web", "..", "../web", "shop/..", "a/b/c", "web?x", "we b", "%2e%2e/web"] {
            assert_eq!(place("s3://lake/all", bad), None, "{bad:?}");
        }
        assert!(!is_object_store("/data") && !is_object_store("file:///data") && is_object_store("s3://lake"));
    }
}
