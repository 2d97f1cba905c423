//! What stands in for the API server: it records what is written, keeps objects, and brings them to the stores as watches do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{core::ApiResource, runtime::watcher::Event};
use millrace_crds::PipelineStatus;
use millrace_stream::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::{
    key::{Key, Kind},
    stores::{Stores, Writers},
    warning::{Regarding, Warned},
    watches,
    writer::{FINALIZER, Happening, Wanted, WriteError, Writer},
};

/// How a write fails.
pub type Refuse = fn() -> WriteError;

/// Records what is written.
pub struct Recorder {
    stores: Stores,
    inner: Mutex<Inner>,
}

struct Inner {
    objects: BTreeMap<String, Value>,
    writers: Writers,
    log: Vec<String>,
    version: u64,
    /// Objects that the watches have not brought yet, while they are held back.
    late: Option<Vec<String>>,
    /// What the watches' events concern.
    concerned: Vec<Key>,
    refuse: Option<(String, Refuse)>,
    /// The write at which an object is deleted, and that object.
    deleted_at: Option<(String, String)>,
    /// So many writes succeed still; `None`: all.
    writes_left: Option<usize>,
    warnings: BTreeMap<String, Warned>,
    is_terminating: bool,
    /// How often a Lease was read.
    looks: usize,
}

/// An object's kind and name.
pub fn id_of(kind: &str, object: &Value) -> String {
    format!("{kind} {}", object["metadata"]["name"].as_str().unwrap())
}

impl Recorder {
    /// An empty cluster, of which every watch has listed what there is.
    pub fn new(stores: Stores, mut writers: Writers) -> Self {
        watches::take(&stores, &mut writers.pipelines, &Event::InitDone, watches::of_pipeline);
        watches::take(&stores, &mut writers.windows, &Event::InitDone, watches::of_window);
        watches::take(&stores, &mut writers.sinks, &Event::InitDone, watches::of_sink);
        let inner = Inner {
            objects: BTreeMap::new(),
            writers,
            log: Vec::new(),
            version: 0,
            late: None,
            concerned: Vec::new(),
            refuse: None,
            deleted_at: None,
            writes_left: None,
            warnings: BTreeMap::new(),
            is_terminating: false,
            looks: 0,
        };
        Self { stores, inner: Mutex::new(inner) }
    }

    /// An object, by kind and name.
    pub fn get(&self, id: &str) -> Option<Value> {
        self.lock().objects.get(id).cloned()
    }

    /// All objects.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.lock().objects.clone()
    }

    /// Stores an object; the watches bring it.
    pub fn store(&self, kind: &str, object: Value) {
        self.lock().store(&self.stores, kind, object);
    }

    /// Deletes an object; the watches say so.
    pub fn delete(&self, id: &str) {
        self.lock().delete(&self.stores, id);
    }

    /// A watch brings an event of an object.
    pub fn bring(&self, id: &str, of: Of) {
        self.lock().bring(&self.stores, id, of);
    }

    /// What the watches' events have concerned since the last call.
    pub fn concerned(&self) -> Vec<Key> {
        std::mem::take(&mut self.lock().concerned)
    }

    /// What has been written since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    /// Watches bring nothing from here on.
    pub fn hold(&self) {
        self.lock().late = Some(Vec::new());
    }

    /// Watches bring everything that they have held back.
    pub fn release(&self) {
        let mut inner = self.lock();
        for id in inner.late.take().unwrap_or_default() {
            inner.bring(&self.stores, &id, Of::Apply);
        }
    }

    /// Writes of an object fail from here on; `None`: they succeed.
    pub fn refuse(&self, refuse: Option<(&str, Refuse)>) {
        self.lock().refuse = refuse.map(|(id, error)| (id.to_owned(), error));
    }

    /// An object is deleted while that is being written.
    pub fn deletes_at(&self, write: &str, id: &str) {
        self.lock().deleted_at = Some((write.to_owned(), id.to_owned()));
    }

    /// So many writes succeed still; `None`: all.
    pub fn dies_after(&self, writes: Option<usize>) {
        self.lock().writes_left = writes;
    }

    /// Somebody warns about an object.
    pub fn warn(&self, id: &str, message: &str, at: Timestamp) {
        self.lock().warnings.insert(id.to_owned(), Warned { message: message.to_owned(), at });
    }

    /// How often a Lease was read since the last call.
    pub fn looks(&self) -> usize {
        std::mem::take(&mut self.lock().looks)
    }

    /// The namespace is being deleted.
    pub fn terminate(&self) {
        self.lock().is_terminating = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn attempt(&self, what: &str) -> Result<(), WriteError> {
        let mut inner = self.lock();
        match &mut inner.writes_left {
            Some(0) => return Err(WriteError::NotLeading),
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some((_, id)) = inner.deleted_at.take_if(|(write, _)| what == write) {
            inner.delete(&self.stores, &id);
        }
        match &inner.refuse {
            Some((id, error)) if what.contains(id.as_str()) => {
                let error = error();
                inner.log.push(format!("{what} FAILED"));
                Err(error)
            }
            _ => {
                inner.log.push(what.to_owned());
                Ok(())
            }
        }
    }
}

impl Inner {
    /// The object as it is, if it is of this version.
    fn at_version(&self, wanted: &Wanted, on: &str) -> Result<Value, WriteError> {
        let there = self.objects.get(&wanted.to_string());
        let there = there.ok_or_else(|| WriteError::Gone(format!("there is no {wanted}")))?;
        match there["metadata"]["resourceVersion"] == on {
            true => Ok(there.clone()),
            false => Err(WriteError::Conflict("the object has been modified".to_owned())),
        }
    }

    fn store(&mut self, stores: &Stores, kind: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let id = id_of(kind, &object);
        if matches!(kind, "StatefulSet" | "Pod") && object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid of {id}"));
        }
        self.objects.insert(id.clone(), object);
        match &mut self.late {
            Some(late) => late.push(id),
            None => self.bring(stores, &id, Of::Apply),
        }
    }

    /// Deletes an object, or, where it has finalizers, says of it that it is to be deleted.
    fn delete(&mut self, stores: &Stores, id: &str) {
        let Some(mut object) = self.objects.get(id).cloned() else { return };
        let is_held = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if is_held {
            object["metadata"]["deletionTimestamp"] = json!("2024-01-01T01:00:00Z");
            let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
            return self.store(stores, id.split_once(' ').unwrap().0, object);
        }
        self.bring(stores, id, Of::Delete);
        self.objects.remove(id);
    }

    /// A watch brings an event of an object as it is stored, as the operator's own do.
    fn bring(&mut self, stores: &Stores, id: &str, of: Of) {
        let Some(object) = self.objects.get(id) else { return };
        let to = &mut self.writers;
        let concerned = match id.split_once(' ').unwrap().0 {
            "Pipeline" => watches::take(stores, &mut to.pipelines, &of.event(object), watches::of_pipeline),
            "Window" => watches::take(stores, &mut to.windows, &of.event(object), watches::of_window),
            "Sink" => watches::take(stores, &mut to.sinks, &of.event(object), watches::of_sink),
            "ConfigMap" => watches::take(stores, &mut to.config_maps, &of.event(object), watches::of_document),
            "StatefulSet" => watches::take(stores, &mut to.stateful_sets, &of.event(object), watches::of_owned),
            "Pod" => watches::take(stores, &mut to.pods, &of.event(object), watches::of_owned),
            "Service" => watches::take(stores, &mut to.services, &of.event(object), watches::of_owned),
            "ServiceAccount" => watches::take(stores, &mut to.service_accounts, &of.event(object), watches::of_owned),
            "Role" => watches::take(stores, &mut to.roles, &of.event(object), watches::of_owned),
            "RoleBinding" => watches::take(stores, &mut to.role_bindings, &of.event(object), watches::of_owned),
            "PodDisruptionBudget" => {
                watches::take(stores, &mut to.disruption_budgets, &of.event(object), watches::of_owned)
            }
            "Lease" | "Job" | "PersistentVolumeClaim" => Vec::new(),
            other => panic!("no store for {other}"),
        };
        self.concerned.extend(concerned);
    }
}

/// A merge patch, as far as it only sets fields.
fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(name, patch)| merge(&mut object[name], patch)),
        patch => *object = patch.clone(),
    }
}

/// What happens to an object.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// It is as it is stored.
    Apply,
    /// It is gone.
    Delete,
}

impl Of {
    fn event<K: DeserializeOwned>(self, object: &Value) -> Event<K> {
        let object = serde_json::from_value(object.clone()).unwrap();
        match self {
            Self::Apply => Event::Apply(object),
            Self::Delete => Event::Delete(object),
        }
    }
}

impl Writer for Arc<Recorder> {
    async fn apply(&self, wanted: &Wanted, on: Option<&str>) -> Result<Value, WriteError> {
        self.attempt(&format!("apply {wanted}"))?;
        let mut inner = self.lock();
        let mut body = wanted.body.clone();
        let there = inner.objects.get(&wanted.to_string()).map(|there| there["metadata"]["resourceVersion"].clone());
        if let Some(on) = on
            && there.as_ref().and_then(Value::as_str) != Some(on)
        {
            inner.log.push(format!("apply {wanted} CONFLICT"));
            return Err(WriteError::Conflict("the object has been modified".to_owned()));
        }
        // Data of which we own none stays as it is.
        let before = inner.objects.get(&wanted.to_string());
        if let Some(data) = before.and_then(|before| before.get("data")).filter(|_| body.get("data").is_none()) {
            body["data"] = data.clone();
        }
        if wanted.resource.kind == "StatefulSet" {
            let generation = before.map_or(0, |before| before["metadata"]["generation"].as_u64().unwrap_or(0));
            let is_same = before.is_some_and(|before| before["spec"] == body["spec"]);
            body["metadata"]["generation"] = json!(if is_same { generation } else { generation + 1 });
            body["status"] = before.map_or_else(|| json!({"replicas": 0}), |before| before["status"].clone());
        }
        inner.store(&self.stores, &wanted.resource.kind, body.clone());
        Ok(body)
    }

    async fn create(&self, wanted: &Wanted) -> Result<(), WriteError> {
        self.attempt(&format!("create {wanted}"))?;
        let mut inner = self.lock();
        if inner.objects.contains_key(&wanted.to_string()) {
            return Err(WriteError::Conflict(format!("{wanted} is there already")));
        }
        inner.store(&self.stores, &wanted.resource.kind, wanted.body.clone());
        Ok(())
    }

    async fn is_terminating(&self, _: &str) -> bool {
        self.lock().is_terminating
    }

    async fn hold(&self, key: &Key, uid: &str, is_held: bool) -> Result<(), WriteError> {
        let done = if is_held { "hold" } else { "let go" };
        self.attempt(&format!("{done} {} {}", key.kind.name(), key.name))?;
        let mut inner = self.lock();
        let id = format!("{} {}", key.kind.name(), key.name);
        let there = inner.objects.get(&id).filter(|there| there["metadata"]["uid"] == uid).cloned();
        let mut object = there.ok_or_else(|| WriteError::Conflict(format!("there is no {key} of this UID")))?;
        let others = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let mut finalizers: Vec<Value> = others.into_iter().filter(|it| it != FINALIZER).collect();
        finalizers.extend(is_held.then(|| json!(FINALIZER)));
        object["metadata"]["finalizers"] = json!(finalizers);
        let is_gone = finalizers.is_empty() && !object["metadata"]["deletionTimestamp"].is_null();
        inner.store(&self.stores, key.kind.name(), object);
        if is_gone {
            inner.delete(&self.stores, &id);
        }
        Ok(())
    }

    async fn read(&self, wanted: &Wanted) -> Result<Option<Value>, WriteError> {
        let mut inner = self.lock();
        if let Some((id, error)) = &inner.refuse
            && format!("read {wanted}").contains(id.as_str())
        {
            return Err(error());
        }
        inner.looks += usize::from(wanted.resource.kind == "Lease");
        let object = inner.objects.get(&wanted.to_string()).cloned();
        Ok(object.map(|mut object| {
            object["kind"] = json!(wanted.resource.kind);
            object
        }))
    }

    async fn list(&self, resource: &ApiResource, _: &str, labels: &str) -> Result<Vec<Value>, WriteError> {
        let inner = self.lock();
        let is_meant = |object: &Value| {
            labels.split(',').filter_map(|label| label.split_once('=')).all(|(of, value)| {
                let labels = object["metadata"]["labels"].as_object();
                labels.and_then(|labels| labels.get(of)).and_then(Value::as_str) == Some(value)
            })
        };
        let all = inner.objects.iter().filter(|(id, _)| id.starts_with(&format!("{} ", resource.kind)));
        Ok(all.filter(|(_, object)| is_meant(object)).map(|(_, object)| object.clone()).collect())
    }

    async fn delete(&self, resource: &ApiResource, _: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        let id = format!("{} {name}", resource.kind);
        self.attempt(&format!("delete {id}"))?;
        let mut inner = self.lock();
        let Some(mut object) = inner.objects.get(&id).cloned() else { return Ok(()) };
        if object["metadata"]["uid"].as_str().unwrap_or_default() != uid {
            return Err(WriteError::Conflict(format!("{id} is another")));
        }
        // Its pods are to end first.
        object["metadata"]["deletionTimestamp"] = json!("2024-01-01T01:00:00Z");
        inner.store(&self.stores, &resource.kind, object);
        Ok(())
    }

    async fn replace(&self, wanted: &Wanted, on: &str) -> Result<(), WriteError> {
        self.attempt(&format!("replace {wanted}"))?;
        let mut inner = self.lock();
        let mut object = inner.at_version(wanted, on)?;
        merge(&mut object, &wanted.body);
        inner.store(&self.stores, &wanted.resource.kind, object);
        Ok(())
    }

    async fn own(&self, wanted: &Wanted, on: &str, owners: &[OwnerReference]) -> Result<(), WriteError> {
        self.attempt(&format!("own {wanted}: {}", owners.len()))?;
        let mut inner = self.lock();
        let mut object = inner.at_version(wanted, on)?;
        object["metadata"]["ownerReferences"] = if owners.is_empty() { Value::Null } else { json!(owners) };
        inner.store(&self.stores, &wanted.resource.kind, object);
        Ok(())
    }

    async fn amend(&self, _: &str, name: &str, spec: &Value) -> Result<(), WriteError> {
        self.attempt(&format!("amend {name}: {spec}"))?;
        let mut inner = self.lock();
        let mut object = inner.objects.get(&format!("StatefulSet {name}")).cloned().unwrap();
        merge(&mut object["spec"], spec);
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
        inner.store(&self.stores, "StatefulSet", object);
        Ok(())
    }

    async fn status(&self, key: &Key, uid: &str, status: &Value) -> Result<Value, WriteError> {
        let said = match key.kind {
            Kind::Pipeline => {
                let status: PipelineStatus = serde_json::from_value(status.clone()).unwrap();
                let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
                let change = status.change.map(|change| format!("{:?}", change.class)).unwrap_or_default();
                format!(": {:?}, {}, change {change}", status.phase.unwrap(), ready.reason)
            }
            Kind::Window | Kind::Sink => String::new(),
        };
        self.attempt(&format!("status {} {}{said}", key.kind.name(), key.name))?;
        let mut inner = self.lock();
        let there = inner.objects.get(&format!("{} {}", key.kind.name(), key.name)).cloned();
        let mut object = there.ok_or_else(|| WriteError::Gone(format!("there is no {key}")))?;
        if object["metadata"]["uid"] != uid {
            return Err(WriteError::Conflict(format!("{key} is another")));
        }
        object["status"] = status.clone();
        inner.store(&self.stores, key.kind.name(), object);
        Ok(status.clone())
    }

    async fn tell(&self, _: &ObjectReference, what: &Happening) -> Result<(), WriteError> {
        self.attempt(&format!("event {}", what.reason))
    }

    async fn warning(&self, of: &Regarding) -> Result<Option<Warned>, WriteError> {
        Ok(self.lock().warnings.get(&format!("{} {}", of.kind, of.name)).cloned())
    }
}
