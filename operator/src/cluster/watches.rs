//! Watches: one a kind. Each fills its store and says which of our objects an event concerns.
//!
//! An event of a Window or a Sink concerns the Pipelines that name it, before or after the event; an event of what a Pipeline
//! owns concerns that Pipeline, which its label names; a report concerns the Sinks of its Pipeline too.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::{StreamExt, pin_mut};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::ConfigMap};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use millrace_crds::Pipeline;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::{
    key::{Key, Kind},
    raw::Raw,
    stores::{Stores, Writers, key, named},
};
use crate::{labels, metrics::Metrics, queue::Trigger};

/// How many of our objects a store may page in at a time.
const PAGE: u32 = 500;

/// Starts all watches. They end when the set is dropped.
pub fn start(
    client: &Client,
    namespace: Option<&str>,
    stores: &Stores,
    writers: Writers,
    trigger: &Trigger,
    metrics: &Arc<Metrics>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let watching = Watching {
        client: client.clone(),
        namespace: namespace.map(str::to_owned),
        stores: stores.clone(),
        trigger: trigger.clone(),
        metrics: Arc::clone(metrics),
    };
    let ours = watcher::Config::default().page_size(PAGE);
    let owned = || watcher::Config::default().page_size(PAGE).labels(labels::OWNED);
    let documents = watcher::Config::default().page_size(PAGE).labels(labels::DOCUMENTS);
    let Writers {
        pipelines,
        windows,
        sinks,
        config_maps,
        stateful_sets,
        pods,
        services,
        service_accounts,
        roles,
        role_bindings,
        disruption_budgets,
    } = writers;
    tasks.spawn(watching.clone().run(pipelines, ours.clone(), |_, pipeline| of_pipeline(pipeline)));
    tasks.spawn(
        watching.clone().run(windows, ours.clone(), |stores, window| of_named(stores, key(Kind::Window, window))),
    );
    tasks.spawn(watching.clone().run(sinks, ours, |stores, sink| of_named(stores, key(Kind::Sink, sink))));
    tasks.spawn(watching.clone().run(config_maps, documents, of_document));
    tasks.spawn(watching.clone().run(stateful_sets, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.clone().run(pods, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.clone().run(services, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.clone().run(service_accounts, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.clone().run(roles, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.clone().run(role_bindings, owned(), |_, object| of_owned(object)));
    tasks.spawn(watching.run(disruption_budgets, owned(), |_, object| of_owned(object)));
    tasks
}

#[derive(Clone)]
struct Watching {
    client: Client,
    namespace: Option<String>,
    stores: Stores,
    trigger: Trigger,
    metrics: Arc<Metrics>,
}

impl Watching {
    async fn run<K, F>(self, mut store: Writer<K>, config: watcher::Config, concerns: F)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        K::DynamicType: Eq + Hash + Clone,
        F: Fn(&Stores, &K) -> Vec<Key>,
    {
        let api: Api<K> = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let kind = K::kind(&()).into_owned();
        let events = watcher(api, config).default_backoff().modify(|object| object.managed_fields_mut().clear());
        pin_mut!(events);
        let reader = store.as_reader();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let mut keys = Vec::new();
                    if let Event::Apply(object) | Event::Delete(object) = &event {
                        let before = reader.get(&ObjectRef::from_obj(object));
                        keys.extend(before.into_iter().flat_map(|before| concerns(&self.stores, &before)));
                        keys.extend(concerns(&self.stores, object));
                    }
                    let is_whole = matches!(event, Event::InitDone);
                    store.apply_watcher_event(&event);
                    if is_whole {
                        keys.extend(self.stores.keys());
                    }
                    self.trigger.send(keys).await;
                }
                Err(error) => {
                    self.metrics.watch_failed(&kind);
                    tracing::warn!(%kind, %error, "a watch has failed and is tried again");
                }
            }
        }
    }
}

/// The Pipeline, and the Windows and Sinks that it names, whose status says so.
fn of_pipeline(pipeline: &Raw<Pipeline>) -> Vec<Key> {
    let namespace = pipeline.namespace();
    let mut keys = vec![key(Kind::Pipeline, pipeline)];
    for kind in [Kind::Window, Kind::Sink] {
        keys.extend(named(pipeline, kind).into_iter().map(|name| Key::new(kind, namespace, name)));
    }
    keys
}

/// A Window or Sink, and the Pipelines that name it.
fn of_named(stores: &Stores, named: Key) -> Vec<Key> {
    let users = stores.users(named.kind, &named.namespace, &named.name);
    let mut keys: Vec<Key> = users.iter().map(|user| key(Kind::Pipeline, user)).collect();
    keys.push(named);
    keys
}

/// The Pipeline that an object belongs to.
fn of_owned<K: Resource>(object: &K) -> Vec<Key> {
    let meta = object.meta();
    let pipeline = meta.labels.as_ref().and_then(|labels| labels.get(labels::PIPELINE));
    let key = |pipeline: &String| Key::new(Kind::Pipeline, meta.namespace.clone().unwrap_or_default(), pipeline);
    pipeline.map(key).into_iter().collect()
}

/// The same for a plan or a report, and the Sinks of which a report says what they have committed.
fn of_document(stores: &Stores, object: &ConfigMap) -> Vec<Key> {
    let mut keys = of_owned(object);
    let of_report = object.labels().get(labels::PART).is_some_and(|part| part == labels::REPORT);
    if let Some(owner) = keys.first().filter(|_| of_report)
        && let Some(pipeline) = super::stores::get(&stores.pipelines, &owner.namespace, &owner.name)
    {
        let sinks = named(&pipeline, Kind::Sink);
        keys.extend(sinks.into_iter().map(|name| Key::new(Kind::Sink, pipeline.namespace(), name)));
    }
    keys
}
