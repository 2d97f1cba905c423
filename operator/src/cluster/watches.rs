//! Watches: one a kind. Each fills its store and says which of our objects an event concerns.
//!
//! An event of a Window or a Sink concerns the Pipelines that name it, before or after the event; an event of what a Pipeline
//! owns concerns that Pipeline, which its label names; a report concerns the Sinks of its Pipeline too. All of that is looked up
//! in the stores; nothing is listed for it.

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
use millrace_crds::{Pipeline, Sink, Window};
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
    tasks.spawn(watching.clone().run(pipelines, ours.clone(), of_pipeline));
    tasks.spawn(watching.clone().run(windows, ours.clone(), of_window));
    tasks.spawn(watching.clone().run(sinks, ours, of_sink));
    tasks.spawn(watching.clone().run(config_maps, documents, of_document));
    tasks.spawn(watching.clone().run(stateful_sets, owned(), of_owned));
    tasks.spawn(watching.clone().run(pods, owned(), of_owned));
    tasks.spawn(watching.clone().run(services, owned(), of_owned));
    tasks.spawn(watching.clone().run(service_accounts, owned(), of_owned));
    tasks.spawn(watching.clone().run(roles, owned(), of_owned));
    tasks.spawn(watching.clone().run(role_bindings, owned(), of_owned));
    tasks.spawn(watching.run(disruption_budgets, owned(), of_owned));
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
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let keys = take(&self.stores, &mut store, &event, &concerns);
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

/// Takes an event into its store, and answers which of our objects it concerns.
pub fn take<K>(
    stores: &Stores,
    store: &mut Writer<K>,
    event: &Event<K>,
    concerns: impl Fn(&Stores, &K) -> Vec<Key>,
) -> Vec<Key>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let mut keys = Vec::new();
    if let Event::Apply(object) | Event::Delete(object) = event {
        let before = store.as_reader().get(&ObjectRef::from_obj(object));
        keys.extend(before.into_iter().flat_map(|before| concerns(stores, &before)));
    }
    store.apply_watcher_event(event);
    match event {
        // Looked up when the store has the object: a Pipeline that comes to name it at this moment is either found here, or
        // finds it.
        Event::Apply(object) | Event::Delete(object) => keys.extend(concerns(stores, object)),
        Event::InitDone => keys.extend(stores.keys()),
        Event::Init | Event::InitApply(_) => {}
    }
    keys
}

/// The Pipeline, and the Windows and Sinks that it names, whose status says so.
pub fn of_pipeline(_: &Stores, pipeline: &Raw<Pipeline>) -> Vec<Key> {
    let namespace = pipeline.namespace();
    let mut keys = vec![key(Kind::Pipeline, pipeline)];
    for kind in [Kind::Window, Kind::Sink] {
        keys.extend(named(pipeline, kind).into_iter().map(|name| Key::new(kind, namespace, name)));
    }
    keys
}

/// The Window, and the Pipelines that name it.
pub fn of_window(stores: &Stores, window: &Raw<Window>) -> Vec<Key> {
    of_named(stores, key(Kind::Window, window))
}

/// The Sink, and the Pipelines that name it.
pub fn of_sink(stores: &Stores, sink: &Raw<Sink>) -> Vec<Key> {
    of_named(stores, key(Kind::Sink, sink))
}

fn of_named(stores: &Stores, named: Key) -> Vec<Key> {
    let users = stores.users(named.kind, &named.namespace, &named.name);
    let mut keys: Vec<Key> = users.iter().map(|user| key(Kind::Pipeline, user)).collect();
    keys.push(named);
    keys
}

/// The Pipeline that an object belongs to.
pub fn of_owned<K: Resource>(_: &Stores, object: &K) -> Vec<Key> {
    let meta = object.meta();
    let pipeline = meta.labels.as_ref().and_then(|labels| labels.get(labels::PIPELINE));
    let key = |pipeline: &String| Key::new(Kind::Pipeline, meta.namespace.clone().unwrap_or_default(), pipeline);
    pipeline.map(key).into_iter().collect()
}

/// The same for a plan or a report, and the Sinks of which a report says what they have committed.
pub fn of_document(stores: &Stores, object: &ConfigMap) -> Vec<Key> {
    let mut keys = of_owned(stores, object);
    let of_report = object.labels().get(labels::PART).is_some_and(|part| part == labels::REPORT);
    if let Some(owner) = keys.first().filter(|_| of_report)
        && let Some(pipeline) = super::stores::get(&stores.pipelines, &owner.namespace, &owner.name)
    {
        let sinks = named(&pipeline, Kind::Sink);
        keys.extend(sinks.into_iter().map(|name| Key::new(Kind::Sink, pipeline.namespace(), name)));
    }
    keys
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// What the watches of Pipelines, Windows and Sinks have brought.
    struct World(Stores, Writers);

    fn object<K: DeserializeOwned>(name: &str, namespace: &str, spec: Value) -> K {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})).unwrap()
    }

    fn names(window: &str, sink: &str) -> Value {
        json!({"transforms": [{"window": window}, {}], "outputs": [{"sink": sink}]})
    }

    impl World {
        fn pipeline(&mut self, event: Event<Raw<Pipeline>>) -> Vec<String> {
            told(take(&self.0, &mut self.1.pipelines, &event, of_pipeline))
        }

        fn window(&mut self, event: Event<Raw<Window>>) -> Vec<String> {
            told(take(&self.0, &mut self.1.windows, &event, of_window))
        }

        fn sink(&mut self, event: Event<Raw<Sink>>) -> Vec<String> {
            told(take(&self.0, &mut self.1.sinks, &event, of_sink))
        }

        fn new() -> Self {
            let (stores, writers) = Stores::new();
            let mut world = Self(stores, writers);
            world.pipeline(Event::InitDone);
            world.window(Event::InitDone);
            world.sink(Event::InitDone);
            world.pipeline(Event::Apply(object("one", "here", names("minute", "lake"))));
            world.pipeline(Event::Apply(object("two", "here", names("minute", "pond"))));
            world.pipeline(Event::Apply(object("three", "there", names("minute", "lake"))));
            world.pipeline(Event::Apply(object(
                "odd",
                "here",
                json!({"transforms": 7, "outputs": [[], {"sink": {}}]}),
            )));
            world
        }
    }

    fn told(keys: Vec<Key>) -> Vec<String> {
        let mut told: Vec<String> = keys.iter().map(Key::to_string).collect();
        told.sort();
        told.dedup();
        told
    }

    #[test]
    fn an_edit_of_a_window_or_sink_concerns_just_the_pipelines_that_name_it_by_the_stores() {
        let mut world = World::new();
        let one_and_two = ["Pipeline here/one", "Pipeline here/two", "Window here/minute"];
        assert_eq!(world.window(Event::Apply(object("minute", "here", json!({})))), one_and_two);
        assert_eq!(world.window(Event::Delete(object("minute", "here", json!({})))), one_and_two);
        assert_eq!(world.window(Event::Apply(object("hour", "here", json!("nonsense")))), ["Window here/hour"]);
        let of_lake = world.sink(Event::Apply(object("lake", "there", json!(null))));
        assert_eq!(of_lake, ["Pipeline there/three", "Sink there/lake"]);
    }

    #[test]
    fn an_edit_of_a_pipeline_concerns_what_it_names_and_what_it_has_named() {
        let mut world = World::new();
        let told = world.pipeline(Event::Apply(object("one", "here", names("hour", "lake"))));
        assert_eq!(told, ["Pipeline here/one", "Sink here/lake", "Window here/hour", "Window here/minute"]);
        let told = world.window(Event::Apply(object("minute", "here", json!({}))));
        assert_eq!(told, ["Pipeline here/two", "Window here/minute"]);
    }

    #[test]
    fn a_report_concerns_its_pipeline_and_its_sinks_and_a_new_list_concerns_all() {
        let mut world = World::new();
        let report = |part: &str| {
            let labels = json!({labels::PIPELINE: "one", labels::PART: part});
            serde_json::from_value(json!({"metadata": {"name": part, "namespace": "here", "labels": labels}})).unwrap()
        };
        let mut take = |map| told(take(&world.0, &mut world.1.config_maps, &Event::Apply(map), of_document));
        assert_eq!(take(report(labels::REPORT)), ["Pipeline here/one", "Sink here/lake"]);
        assert_eq!(take(report(labels::PLAN)), ["Pipeline here/one"]);
        assert_eq!(world.sink(Event::InitDone).len(), 4);
    }
}
