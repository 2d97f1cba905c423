//! The API server as a worker meets it: three ConfigMaps and a Lease of one Pipeline, and requests that end in time.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::ConfigMap};
use kube::{Api, Client};
use millrace_plan::handover::Names;

/// Who a worker is to the API server, in `managedFields`.
pub const FIELD_MANAGER: &str = "millrace-runtime";
/// How long a request may take. The coordinator of checkpoints waits for the pointer, so not long.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The API server, and what it has of a Pipeline.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    names: Names,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There was no answer. What was asked for may or may not have been done.
    #[error("the API server has not answered within {0:?}")]
    TimedOut(Duration),
    /// The API server refused, or could not be reached.
    #[error("{}", shown(.0))]
    Kube(Box<kube::Error>),
}

impl Cluster {
    /// Finds the API server as kubectl does, or by the pod's service account.
    ///
    /// # Errors
    ///
    /// There is neither. That the server answers is not tried.
    pub async fn find(namespace: &str, pipeline: &str) -> Result<Self, Box<kube::Error>> {
        let mut config = kube::Config::infer().await.map_err(kube::Error::InferConfig)?;
        config.connect_timeout = Some(REQUEST_LIMIT);
        // Whoever asks tries again by its own rules, and wants to know meanwhile.
        config.default_retry = false;
        Ok(Self::over(Client::try_from(config)?, namespace, pipeline))
    }

    /// The same over a client.
    pub fn over(client: Client, namespace: &str, pipeline: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), names: Names::of(pipeline) }
    }

    /// What the Pipeline's objects are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// For people: where an object is.
    pub fn place(&self, kind: &str, name: &str) -> String {
        format!("{kind} {}/{name}", self.namespace)
    }

    /// The namespace's ConfigMaps.
    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace's Leases.
    pub fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Waits for a request for [`REQUEST_LIMIT`] at the most.
///
/// # Errors
///
/// As the request, or [`ApiError::TimedOut`].
pub async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| ApiError::Kube(Box::new(error))),
        Err(_) => Err(ApiError::TimedOut(REQUEST_LIMIT)),
    }
}

impl ApiError {
    /// Whether somebody else has changed the object since it was read.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether there is no such object.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the API server does not know who asks.
    pub fn is_unauthorized(&self) -> bool {
        self.code() == Some(401)
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::TimedOut(_) => None,
        }
    }
}

/// What the server said, without the form of its answer; of other errors the last cause, which names the address or says
/// what is wrong with it.
fn shown(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    format!("the API server cannot be reached: {last}")
}
