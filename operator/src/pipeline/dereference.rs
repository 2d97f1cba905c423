//! The first step: everything that the stores have of a Pipeline and of what belongs to it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Pod, PodTemplateSpec, ServiceAccount},
};
use kube::{Resource, api::ObjectMeta};
use millrace_crds::{Pipeline, Sink, Window};
use millrace_plan::handover::{Names, PLAN_KEY, PlanDocument, REPORT_KEY, ReportDocument, SAVEPOINT_TOKEN_KEY};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    hearsay::{Hearsay, is_left, owned_by_another},
    silence::Silence,
};
use crate::cluster::{
    key::{Key, Kind},
    raw::Raw,
    stores::{Stores, get, named},
    warning::Warned,
    writer::hash,
};

/// The key of the plan that ran before, in the plan's ConfigMap.
pub const PREVIOUS_KEY: &str = "previous.json";
/// The key of the last template of pods that has proved itself, there too.
pub const GOOD_PODS_KEY: &str = "good-pods.json";
/// The annotation of a pod with the UID of the ServiceAccount for whose sake it was made anew.
pub const ACCOUNT: &str = "millrace.dev/service-account";
/// With `"true"`, an edit is classed in status, and nothing else is done. So it is with whatever does not say no.
pub const DRY_RUN: &str = "millrace.dev/dry-run";

/// What there is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Pipeline.
    pub pipeline: Arc<Raw<Pipeline>>,
    /// The Windows that it names; all of its namespace, where one that it names is not there.
    pub windows: Vec<Arc<Raw<Window>>>,
    /// The Sinks likewise.
    pub sinks: Vec<Arc<Raw<Sink>>>,
    /// The plan that is to run.
    pub plan: Option<PlanDocument>,
    /// The plan before it, of which it is known that it ran.
    pub previous: Option<PlanDocument>,
    /// The last template of pods that has proved itself.
    pub good_pods: Option<PodTemplateSpec>,
    /// What the runtime says.
    pub report: Option<ReportDocument>,
    /// The token of the last savepoint that was wished for and of which the runtime says what came.
    pub savepoint_token: Option<String>,
    /// The StatefulSet.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// Its pod.
    pub pod: Option<Arc<Pod>>,
    /// The pod's ServiceAccount, where it is the operator's.
    pub service_account: Option<Arc<ServiceAccount>>,
    /// What the last warning about its pod, or about the StatefulSet that has none, says. Read when it is wanted.
    pub warning: Option<Warned>,
    /// The runtime's, where it should have said something by now.
    pub silence: Option<Silence>,
    /// What is there of its names, and is owned by a Pipeline of its name that was deleted.
    pub left: Vec<String>,
    /// All that it owns and that is watched, by kind and name.
    pub stored: BTreeMap<String, Stored>,
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What changes when it does; of a report, only what the operator writes of it.
    pub version: String,
    object: Arc<dyn AsValue>,
}

impl Stored {
    fn new<K: Resource + Serialize + fmt::Debug + Send + Sync + 'static>(object: Arc<K>) -> Self {
        let version = object.meta().resource_version.clone().unwrap_or_default();
        Self { version, object }
    }

    /// All of it.
    pub fn value(&self) -> Value {
        self.object.value()
    }
}

trait AsValue: fmt::Debug + Send + Sync {
    fn value(&self) -> Value;
    fn metadata(&self) -> &ObjectMeta;
}

impl<K: Resource + Serialize + fmt::Debug + Send + Sync> AsValue for K {
    fn value(&self) -> Value {
        json!(self)
    }

    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

impl Observed {
    /// The Pipeline's namespace.
    pub fn namespace(&self) -> &str {
        self.pipeline.namespace()
    }

    /// The Pipeline's name.
    pub fn name(&self) -> &str {
        self.pipeline.name()
    }

    /// The Pipeline's name and generation, for fault points.
    pub fn at(&self) -> (&str, i64) {
        (self.name(), self.pipeline.generation())
    }

    /// Whether it is being deleted: what it owns goes with it.
    pub fn is_going(&self) -> bool {
        self.pipeline.metadata.deletion_timestamp.is_some()
    }

    /// Whether the annotation says that nothing is to be done.
    pub fn is_dry_run(&self) -> bool {
        let said = self.pipeline.annotation(DRY_RUN).map(str::to_ascii_lowercase);
        said.is_some_and(|said| !["", "false", "no", "off", "0"].contains(&said.trim()))
    }

    /// How many pods the StatefulSet is to have.
    pub fn replicas(&self) -> Option<i32> {
        self.stateful_set.as_ref()?.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1))
    }

    /// The UID of the pod's ServiceAccount, where it was made anew after the pod: the token that the pod has is of the one
    /// before, and the API server answers it nothing but 401. Both moments are the API server's own.
    pub fn account_made_anew(&self) -> Option<&str> {
        let (account, pod) = (self.service_account.as_deref()?, self.pod.as_deref()?);
        let its_account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let is_its = its_account.is_none_or(|its| Some(its) == account.metadata.name.as_deref());
        let is_newer = account.metadata.creation_timestamp.as_ref()?.0 > pod.metadata.creation_timestamp.as_ref()?.0;
        let is_there = pod.metadata.deletion_timestamp.is_none();
        account.metadata.uid.as_deref().filter(|_| is_its && is_newer && is_there)
    }

    /// The ServiceAccount for which pods were made anew.
    pub fn account_noted(&self) -> Option<&str> {
        let template = &self.stateful_set.as_ref()?.spec.as_ref()?.template;
        template.metadata.as_ref()?.annotations.as_ref()?.get(ACCOUNT).map(String::as_str)
    }

    /// The versions of all that it owns and that is watched.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.stored.iter().map(|(id, object)| (id.clone(), object.version.clone())).collect()
    }

    /// Of which objects, and which version of each, what is found of the spec holds.
    pub fn identities(&self) -> Vec<(String, i64)> {
        let mut identities = vec![self.pipeline.identity()];
        identities.extend(self.windows.iter().map(|window| window.identity()));
        identities.extend(self.sinks.iter().map(|sink| sink.identity()));
        identities
    }
}

/// Gathers it; `None` if there is no such Pipeline.
pub fn dereference(stores: &Stores, key: &Key) -> Option<Observed> {
    let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
    let pipeline = get(&stores.pipelines, namespace, name)?;
    let names = Names::of(name);
    let plan_map = get(&stores.config_maps, namespace, &names.plan());
    let report_map = get(&stores.config_maps, namespace, &names.report());
    let stateful_set = get(&stores.stateful_sets, namespace, name);
    let set_before = stateful_set.as_ref().and_then(|set| set.metadata.uid.clone());
    let service_account = get(&stores.service_accounts, namespace, name);
    let mut stored = BTreeMap::new();
    let is_anothers = |metadata: &ObjectMeta| owned_by_another(metadata, pipeline.uid());
    let mut left = Vec::new();
    let mut keep = |kind: &str, name: &str, object: Option<Stored>| {
        if let Some(object) = object {
            let id = format!("{kind} {name}");
            if is_anothers(object.object.metadata()) {
                left.push(id.clone());
            }
            stored.insert(id, object);
        }
    };
    keep("ConfigMap", &names.plan(), plan_map.clone().map(Stored::new));
    keep(
        "ConfigMap",
        &names.report(),
        report_map.clone().map(|map| Stored { version: marks(&map), ..Stored::new(map) }),
    );
    keep("StatefulSet", name, stateful_set.clone().map(Stored::new));
    keep("Service", name, get(&stores.services, namespace, name).map(Stored::new));
    keep("ServiceAccount", name, service_account.clone().map(Stored::new));
    keep("Role", name, get(&stores.roles, namespace, name).map(Stored::new));
    keep("RoleBinding", name, get(&stores.role_bindings, namespace, name).map(Stored::new));
    keep("PodDisruptionBudget", name, get(&stores.disruption_budgets, namespace, name).map(Stored::new));
    // What is left of a Pipeline that was deleted tells nothing of the one of its name: the garbage collector takes it away.
    let stateful_set = stateful_set.filter(|set| !is_anothers(&set.metadata));
    let pod = get(&stores.pods, namespace, &format!("{name}-0"))
        .filter(|pod| !is_left(&pod.metadata, stateful_set.as_deref(), set_before.as_deref()));
    let plan_map = plan_map.filter(|map| !is_anothers(&map.metadata));
    let plan: Option<PlanDocument> = document(plan_map.as_deref(), PLAN_KEY);
    let report = report_of(report_map.as_deref(), &pipeline);
    let sinks = named_objects(&stores.sinks, &pipeline, Kind::Sink);
    let hearsay =
        Hearsay { pipeline: &pipeline, sinks: &sinks, plan: plan.as_ref(), stateful_set: stateful_set.as_deref() };
    let found = report.as_ref().and_then(|report| hearsay.running(report, pod.as_deref()));
    let (plan, found) = if plan.is_some() { (plan, found) } else { (found, None) };
    Some(Observed {
        left,
        windows: named_objects(&stores.windows, &pipeline, Kind::Window),
        sinks,
        previous: found.or_else(|| document(plan_map.as_deref(), PREVIOUS_KEY)),
        plan,
        good_pods: good_pods(plan_map.as_deref()),
        savepoint_token: report.as_ref().and(report_map.as_deref()).and_then(savepoint_token),
        report,
        stateful_set,
        service_account,
        pod,
        warning: None,
        silence: None,
        stored,
        pipeline,
    })
}

/// The objects that a Pipeline names, by name; where one is not there, all of the namespace, to say which was probably meant.
fn named_objects<K>(
    store: &kube::runtime::reflector::Store<Raw<K>>,
    pipeline: &Raw<Pipeline>,
    kind: Kind,
) -> Vec<Arc<Raw<K>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + 'static,
{
    let namespace = pipeline.namespace();
    let names = named(pipeline, kind);
    let found: Vec<_> = names.iter().filter_map(|name| get(store, namespace, name)).collect();
    if found.len() == names.len() {
        return found;
    }
    let mut all = store.state_filter(|object| object.namespace() == namespace);
    all.sort_by(|one, other| one.name().cmp(other.name()));
    all
}

/// What the operator writes of a report: all but the report.
fn marks(map: &ConfigMap) -> String {
    let metadata = &map.metadata;
    hash(&(&metadata.uid, &metadata.annotations, &metadata.labels, &metadata.owner_references))
}

/// What the runtime of a Pipeline says, and not that of another of its name.
pub fn report_of(map: Option<&ConfigMap>, pipeline: &Raw<Pipeline>) -> Option<ReportDocument> {
    let report: ReportDocument = document(map, REPORT_KEY)?;
    report.pipeline_uid.as_deref().is_none_or(|uid| uid == pipeline.uid()).then_some(report)
}

/// What the runtime of a Pipeline is to run.
pub fn plan_of(stores: &Stores, pipeline: &Raw<Pipeline>) -> Option<PlanDocument> {
    let map = get(&stores.config_maps, pipeline.namespace(), &Names::of(pipeline.name()).plan());
    document(map.as_deref(), PLAN_KEY)
}

/// A document in a ConfigMap; `None` too if it is none of a version that is known.
fn document<D: DeserializeOwned + Versioned>(map: Option<&ConfigMap>, key: &str) -> Option<D> {
    let text = map?.data.as_ref()?.get(key)?;
    let document: D = serde_json::from_str(text).ok()?;
    (document.version() == D::KNOWN).then_some(document)
}

fn savepoint_token(report: &ConfigMap) -> Option<String> {
    report.data.as_ref()?.get(SAVEPOINT_TOKEN_KEY).cloned()
}

fn good_pods(map: Option<&ConfigMap>) -> Option<PodTemplateSpec> {
    serde_json::from_str(map?.data.as_ref()?.get(GOOD_PODS_KEY)?).ok()
}

trait Versioned {
    const KNOWN: u32;
    fn version(&self) -> u32;
}

impl Versioned for PlanDocument {
    const KNOWN: u32 = Self::VERSION;
    fn version(&self) -> u32 {
        self.version
    }
}

impl Versioned for ReportDocument {
    const KNOWN: u32 = Self::VERSION;
    fn version(&self) -> u32 {
        self.version
    }
}
