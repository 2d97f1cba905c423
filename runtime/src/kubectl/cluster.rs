//! What is read from a cluster, and the few things that are written to it.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::ApiResource,
};
use millrace_crds::{Pipeline, PipelineStatus, Sink, Window};
use millrace_plan::handover::{Names, PLAN_KEY, PlanDocument, REPORT_KEY, ReportDocument};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cli::Target;
use crate::Failure;

/// Whose fields ours are.
const FIELD_MANAGER: &str = "kubectl-millrace";

/// A cluster, and a namespace in it.
pub struct Cluster {
    client: Client,
    /// The namespace that is meant.
    pub namespace: String,
}

/// A Pipeline with what belongs to it.
#[derive(Debug)]
pub struct Observed {
    /// As the API server has it. Not typed: it may be one that this version cannot read.
    pub object: DynamicObject,
    /// Its status, as far as it can be read.
    pub status: PipelineStatus,
    /// What the runtime says, if it has said something.
    pub report: Option<ReportDocument>,
    /// What the runtime is told to run.
    pub plan: Option<PlanDocument>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

impl Observed {
    /// The Pipeline's name.
    pub fn name(&self) -> String {
        self.object.name_any()
    }

    /// The generation that was written last.
    pub fn generation(&self) -> i64 {
        self.object.metadata.generation.unwrap_or_default()
    }

    /// Whether the status is about the spec as it is.
    pub fn is_up_to_date(&self) -> bool {
        self.status.observed_generation.is_some_and(|observed| observed >= self.generation())
    }
}

/// What could not be read, and whether it may be at the next try.
#[derive(Debug)]
pub struct Unread {
    /// Why.
    pub failure: Failure,
    /// Whether that passes: the API server is away, too busy or failing.
    pub passes: bool,
}

impl From<kube::Error> for Unread {
    fn from(error: kube::Error) -> Self {
        let passes = match &error {
            kube::Error::Api(status) => status.code == 429 || status.code >= 500,
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                // A server that is not the right one does not become it.
                !chain(&error).contains("certificate")
            }
            _ => false,
        };
        Self { failure: refused(error), passes }
    }
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        unread.failure
    }
}

impl Cluster {
    /// The cluster that is meant.
    ///
    /// # Errors
    /// There is no kubeconfig, or it cannot be used.
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        crate::install_tls();
        let unusable = |error: &dyn std::error::Error| {
            Failure::usage(format!("no cluster: {}", chain(error))).advise("see `kubectl config view`")
        };
        let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
        let config = match &target.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
            }
            None if target.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?
            }
            None => Config::infer().await.map_err(|error| unusable(&error))?,
        };
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace })
    }

    /// A namespace behind a client.
    #[cfg(test)]
    pub fn over(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// Objects of a built-in kind, in the namespace that is meant.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of a kind of ours, untyped.
    fn ours<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<K>(&()))
    }

    /// A Pipeline with what belongs to it.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub async fn observe(&self, name: &str) -> Result<Observed, Unread> {
        let object = self.ours::<Pipeline>().get_opt(name).await?;
        let missing = || Unread {
            failure: Failure::failed(format!("there is no Pipeline {name} in the namespace {}", self.namespace)),
            passes: false,
        };
        self.with_belongings(object.ok_or_else(missing)?).await
    }

    /// All Pipelines, of this namespace or of every one.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn observe_all(&self, of_all_namespaces: bool) -> Result<Vec<Observed>, Failure> {
        let api: Api<DynamicObject> = match of_all_namespaces {
            true => Api::all_with(self.client.clone(), &ApiResource::erase::<Pipeline>(&())),
            false => self.ours::<Pipeline>(),
        };
        let mut all = Vec::new();
        for object in api.list(&ListParams::default()).await.map_err(refused)? {
            let namespace = object.namespace().unwrap_or_default();
            let there = Self { client: self.client.clone(), namespace };
            all.push(there.with_belongings(object).await?);
        }
        Ok(all)
    }

    async fn with_belongings(&self, object: DynamicObject) -> Result<Observed, Unread> {
        let names = Names::of(object.name_any());
        let status = object.data.get("status").cloned().unwrap_or_default();
        let labels = format!("app.kubernetes.io/name=millrace,app.kubernetes.io/instance={}", names.pipeline);
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&labels)).await?;
        Ok(Observed {
            status: serde_json::from_value(status).unwrap_or_default(),
            report: self.document(&names.report(), REPORT_KEY).await?,
            plan: self.document(&names.plan(), PLAN_KEY).await?,
            pods: pods.items,
            object,
        })
    }

    async fn document<T: DeserializeOwned>(&self, name: &str, key: &str) -> Result<Option<T>, Unread> {
        let Some(map) = self.api::<ConfigMap>().get_opt(name).await? else { return Ok(None) };
        let text = map.data.and_then(|mut data| data.remove(key)).filter(|text| !text.trim().is_empty());
        // Another version may write what this one does not know; what else there is to tell is told all the same.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// The Windows and Sinks of the namespace, each with its kind.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn windows_and_sinks(&self) -> Result<Vec<(&'static str, DynamicObject)>, Failure> {
        let windows = self.ours::<Window>().list(&ListParams::default()).await.map_err(refused)?;
        let sinks = self.ours::<Sink>().list(&ListParams::default()).await.map_err(refused)?;
        let windows = windows.items.into_iter().map(|window| ("Window", window));
        Ok(windows.chain(sinks.items.into_iter().map(|sink| ("Sink", sink))).collect())
    }

    /// Changes fields of a Pipeline.
    ///
    /// # Errors
    /// It may not be changed so.
    pub async fn change(&self, pipeline: &str, fields: &Value) -> Result<DynamicObject, Failure> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.ours::<Pipeline>().patch(pipeline, &params, &Patch::Merge(fields)).await.map_err(refused)
    }

    /// What the API server says of an object that would be applied; `None` if it would take it.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn objection(&self, kind: &str, name: &str, body: &Value) -> Result<Option<String>, Failure> {
        let api = match kind {
            "Pipeline" => self.ours::<Pipeline>(),
            "Window" => self.ours::<Window>(),
            _ => self.ours::<Sink>(),
        };
        let params = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
        // What was set before and is no more is gone, as after `kubectl apply`: another manager's apply would leave it.
        let answer = match api.get_opt(name).await.map_err(refused)? {
            Some(mut there) => {
                there.data["spec"] = body["spec"].clone();
                api.replace(name, &params, &there).await
            }
            None => {
                let object = serde_json::from_value(body.clone());
                let object = object.map_err(|error| Failure::failed(format!("{kind} {name}: {error}")))?;
                api.create(&params, &object).await
            }
        };
        match answer {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(status.message.clone())),
            Err(error) => Err(refused(error)),
        }
    }
}

/// Why the API server did not do what was asked.
pub fn refused(error: kube::Error) -> Failure {
    match &error {
        kube::Error::Api(status) => Failure::failed(status.message.clone()),
        _ => Failure::failed(format!("the API server cannot be asked: {}", chain(&error))),
    }
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
