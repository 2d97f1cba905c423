//! What the watches have seen: every object that reconciling reads.

use std::{collections::BTreeSet, hash::Hash, sync::Arc};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Resource,
    runtime::reflector::{ObjectRef, Store, store::Writer},
};
use millrace_crds::{Pipeline, Sink, Window};
use serde_json::Value;

use super::{
    key::{Key, Kind},
    raw::Raw,
};

/// The stores.
#[derive(Clone)]
pub struct Stores {
    /// All Pipelines.
    pub pipelines: Store<Raw<Pipeline>>,
    /// All Windows.
    pub windows: Store<Raw<Window>>,
    /// All Sinks.
    pub sinks: Store<Raw<Sink>>,
    /// Plans and reports.
    pub config_maps: Store<ConfigMap>,
    /// Those of our Pipelines; so are the rest.
    pub stateful_sets: Store<StatefulSet>,
    /// Runtime pods.
    pub pods: Store<Pod>,
    /// Headless Services.
    pub services: Store<Service>,
    /// The pods' accounts.
    pub service_accounts: Store<ServiceAccount>,
    /// What these may do.
    pub roles: Store<Role>,
    /// That they may.
    pub role_bindings: Store<RoleBinding>,
    /// How many pods may be evicted.
    pub disruption_budgets: Store<PodDisruptionBudget>,
}

/// What fills [`Stores`].
pub struct Writers {
    /// For [`Stores::pipelines`]; the others likewise.
    pub pipelines: Writer<Raw<Pipeline>>,
    /// See [`Stores::windows`].
    pub windows: Writer<Raw<Window>>,
    /// See [`Stores::sinks`].
    pub sinks: Writer<Raw<Sink>>,
    /// See [`Stores::config_maps`].
    pub config_maps: Writer<ConfigMap>,
    /// See [`Stores::stateful_sets`].
    pub stateful_sets: Writer<StatefulSet>,
    /// See [`Stores::pods`].
    pub pods: Writer<Pod>,
    /// See [`Stores::services`].
    pub services: Writer<Service>,
    /// See [`Stores::service_accounts`].
    pub service_accounts: Writer<ServiceAccount>,
    /// See [`Stores::roles`].
    pub roles: Writer<Role>,
    /// See [`Stores::role_bindings`].
    pub role_bindings: Writer<RoleBinding>,
    /// See [`Stores::disruption_budgets`].
    pub disruption_budgets: Writer<PodDisruptionBudget>,
}

impl Stores {
    /// Empty stores, and what fills them.
    pub fn new() -> (Self, Writers) {
        let writers = Writers {
            pipelines: Writer::new(()),
            windows: Writer::new(()),
            sinks: Writer::new(()),
            config_maps: Writer::new(()),
            stateful_sets: Writer::new(()),
            pods: Writer::new(()),
            services: Writer::new(()),
            service_accounts: Writer::new(()),
            roles: Writer::new(()),
            role_bindings: Writer::new(()),
            disruption_budgets: Writer::new(()),
        };
        let stores = Self {
            pipelines: writers.pipelines.as_reader(),
            windows: writers.windows.as_reader(),
            sinks: writers.sinks.as_reader(),
            config_maps: writers.config_maps.as_reader(),
            stateful_sets: writers.stateful_sets.as_reader(),
            pods: writers.pods.as_reader(),
            services: writers.services.as_reader(),
            service_accounts: writers.service_accounts.as_reader(),
            roles: writers.roles.as_reader(),
            role_bindings: writers.role_bindings.as_reader(),
            disruption_budgets: writers.disruption_budgets.as_reader(),
        };
        (stores, writers)
    }

    /// Waits until each watch has listed all that there is. Answers whether they have; if not, one has ended.
    pub async fn wait_until_filled(&self) -> bool {
        let ready = [
            self.pipelines.wait_until_ready().await,
            self.windows.wait_until_ready().await,
            self.sinks.wait_until_ready().await,
            self.config_maps.wait_until_ready().await,
            self.stateful_sets.wait_until_ready().await,
            self.pods.wait_until_ready().await,
            self.services.wait_until_ready().await,
            self.service_accounts.wait_until_ready().await,
            self.roles.wait_until_ready().await,
            self.role_bindings.wait_until_ready().await,
            self.disruption_budgets.wait_until_ready().await,
        ];
        ready.iter().all(Result::is_ok)
    }

    /// Every object of ours.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        keys.extend(self.pipelines.state().iter().map(|object| key(Kind::Pipeline, object)));
        keys.extend(self.windows.state().iter().map(|object| key(Kind::Window, object)));
        keys.extend(self.sinks.state().iter().map(|object| key(Kind::Sink, object)));
        keys
    }

    /// The Pipelines of a namespace that name this Window or Sink, by name.
    pub fn users(&self, kind: Kind, namespace: &str, name: &str) -> Vec<Arc<Raw<Pipeline>>> {
        let names = |pipeline: &Raw<Pipeline>| {
            pipeline.metadata.namespace.as_deref() == Some(namespace) && named(pipeline, kind).contains(name)
        };
        let mut users = self.pipelines.state_filter(names);
        users.sort_by(|one, other| one.name().cmp(other.name()));
        users
    }
}

/// An object of a store.
pub fn get<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

/// The key of an object of ours.
pub fn key<K>(kind: Kind, object: &Raw<K>) -> Key {
    Key::new(kind, object.namespace(), object.name())
}

/// The Windows or Sinks that a Pipeline names, whatever else its spec says.
pub fn named(pipeline: &Raw<Pipeline>, kind: Kind) -> BTreeSet<&str> {
    let (list, field) = match kind {
        Kind::Window => ("transforms", "window"),
        Kind::Sink => ("outputs", "sink"),
        Kind::Pipeline => return BTreeSet::new(),
    };
    let entries = pipeline.spec.get(list).and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| entry.get(field)?.as_str()).collect()
}
