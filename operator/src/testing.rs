//! A cluster in memory for tests: objects are put into it, what the operator writes is recorded and then seen by its stores, as
//! by watches, at once or late.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::watcher::Event;
use millrace_crds::PipelineStatus;
use millrace_plan::handover::{CheckpointSaid, NodeSaid, PlanDocument, ReportDocument, RunPhase};
use millrace_stream::{Clock, Epoch, ManualClock, Revision, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    backoff::{self, Dice},
    cluster::{
        key::{Key, Kind},
        stores::{Stores, Writers},
        writer::{Happening, Wanted, WriteError, Writer},
    },
    context::{Context, Notes},
    controller::{Outcome, reconcile},
    metrics::Metrics,
    plans::Plans,
    queue::Queue,
};

/// How a write fails.
type Refuse = fn() -> WriteError;

/// The moment at which tests begin: 2024-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp(1_704_067_200_000);

/// A Pipeline's manifest.
pub struct PipelineBuilder(Value);

/// A Pipeline that reads a generator and writes what its transforms make of it to the Sink `out`.
pub fn pipeline(name: &str) -> PipelineBuilder {
    PipelineBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {
            "sources": [{
                "name": "bid",
                "generator": {"rate": 10, "nexmark": {"stream": "Bid", "eventsPerSecond": 10}},
                "eventTime": {"column": "date_time", "maxOutOfOrderness": "1s"},
            }],
            "transforms": [],
            "outputs": [],
        },
    }))
}

impl PipelineBuilder {
    /// With a transform whose rows go to the Sink `out`.
    pub fn transform(mut self, name: &str, sql: &str) -> Self {
        let spec = &mut self.0["spec"];
        spec["transforms"].as_array_mut().unwrap().push(json!({"name": name, "sql": sql}));
        spec["outputs"].as_array_mut().unwrap().push(json!({"from": name, "sink": "out"}));
        self
    }

    /// With the last transform over this Window.
    pub fn window(mut self, window: &str) -> Self {
        let transforms = self.0["spec"]["transforms"].as_array_mut().unwrap();
        transforms.last_mut().unwrap()["window"] = json!(window);
        self
    }

    /// With another field of the spec.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// With an annotation.
    pub fn annotate(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = json!(value);
        self
    }

    /// The manifest.
    pub fn build(self) -> Value {
        self.0
    }
}

/// The Pipeline of most tests.
pub fn web() -> PipelineBuilder {
    pipeline("web").transform("dear", "SELECT auction, price FROM bid WHERE price > 100")
}

/// The cluster, and an operator that leads in it.
pub struct World {
    /// What the operator works with.
    pub context: Context<Arc<Recorder>>,
    /// The time.
    pub clock: Arc<ManualClock>,
    queue: Queue,
    dice: Dice,
}

/// Records what is written.
pub struct Recorder {
    inner: Mutex<Inner>,
}

struct Inner {
    objects: BTreeMap<String, Value>,
    writers: Writers,
    log: Vec<String>,
    version: u64,
    /// Objects that the watches have not brought yet, while they are held back.
    late: Option<Vec<String>>,
    refuse: Option<(String, Refuse)>,
    /// So many writes succeed still; `None`: all.
    writes_left: Option<usize>,
    warnings: BTreeMap<String, String>,
}

impl World {
    /// An empty cluster but for the Window `minute` and the Sink `out`.
    pub fn new() -> Self {
        let (stores, writers) = Stores::new();
        let clock = Arc::new(ManualClock::at(START));
        let inner = Inner {
            objects: BTreeMap::new(),
            writers,
            log: Vec::new(),
            version: 0,
            late: None,
            refuse: None,
            writes_left: None,
            warnings: BTreeMap::new(),
        };
        let recorder = Arc::new(Recorder { inner: Mutex::new(inner) });
        recorder.lock().fill();
        let context = Context {
            stores,
            writer: recorder,
            clock: clock.clone(),
            metrics: Metrics::new(),
            runtime_image: "millrace:test".to_owned(),
            plans: Plans::default(),
            notes: Notes::default(),
        };
        let mut world = Self { context, clock, queue: Queue::default(), dice: Dice::of("test") };
        let meta =
            |name: &str| json!({"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1});
        world.put("Window", json!({"metadata": meta("minute"), "spec": {"tumbling": {"size": "1m"}}}));
        world.put("Sink", json!({"metadata": meta("out"), "spec": {"parquet": {"uri": "/data/out"}}}));
        world
    }

    /// Somebody creates or edits an object; a Pipeline's generation goes on where its spec changes.
    pub fn put(&mut self, kind: &str, mut object: Value) {
        {
            let mut inner = self.context.writer.lock();
            let id = id_of(kind, &object);
            if let Some(before) = inner.objects.get(&id) {
                let same = before["spec"] == object["spec"];
                let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
                object["metadata"]["generation"] = json!(if same { generation } else { generation + 1 });
                if object.get("status").is_none() {
                    object["status"] = before["status"].clone();
                }
            }
            inner.store(kind, object);
        }
        self.wake();
    }

    /// Every object of ours is to be looked at, as after a new list of all watches.
    pub fn wake(&mut self) {
        let now = self.clock.monotonic();
        for key in self.context.stores.keys() {
            self.queue.add(key, now);
        }
    }

    /// Reconciles whatever is due, with events of all that is written, until nothing is due.
    pub async fn settle(&mut self) {
        for _ in 0..200 {
            let now = self.clock.monotonic();
            let Some(key) = self.queue.take(now) else { return };
            let before = self.context.writer.lock().version;
            let (again, failed) = match reconcile(&self.context, &key).await {
                Outcome::Done(again) => (again, false),
                Outcome::Failed(error, attempt) => (backoff::after(&error, attempt, &mut self.dice), true),
            };
            self.queue.done(key, now, again, failed);
            if self.context.writer.lock().version != before {
                self.wake();
            }
        }
        panic!("the operator does not come to rest: {:#?}", self.log());
    }

    /// Time goes on, second by second.
    pub async fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            self.settle().await;
        }
    }

    /// What has been written since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.context.writer.lock().log)
    }

    /// An object as it is stored.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.context.writer.lock().objects.get(&format!("{kind} {name}")).cloned()
    }

    /// A Pipeline's status.
    pub fn status(&self, name: &str) -> PipelineStatus {
        serde_json::from_value(self.get("Pipeline", name).unwrap()["status"].clone()).unwrap()
    }

    /// A condition, as `status reason: message`.
    pub fn says(&self, name: &str, of: &str) -> String {
        let status = self.status(name);
        let condition = status.conditions.iter().find(|condition| condition.type_ == of).unwrap();
        format!("{} {}: {}", condition.status, condition.reason, condition.message)
    }

    /// The plan that is to run.
    pub fn plan(&self, name: &str) -> PlanDocument {
        let map = self.get("ConfigMap", &format!("{name}-plan")).unwrap();
        serde_json::from_str(map["data"]["plan.json"].as_str().unwrap()).unwrap()
    }

    /// The pods of a Pipeline's StatefulSet come to be like this; `None`: there is none.
    pub fn pod(&mut self, name: &str, status: Option<Value>) {
        let id = format!("Pod {name}-0");
        match status {
            Some(status) => self.put(
                "Pod",
                json!({
                    "metadata": {"name": format!("{name}-0"), "namespace": "default", "creationTimestamp": "2024-01-01T00:00:00Z"},
                    "status": status,
                }),
            ),
            None => {
                let mut inner = self.context.writer.lock();
                if let Some(pod) = inner.objects.remove(&id) {
                    inner.writers.pods.apply_watcher_event(&Event::Delete(serde_json::from_value(pod).unwrap()));
                }
            }
        }
        self.wake();
    }

    /// The runtime says something.
    pub fn report(&mut self, name: &str, report: &ReportDocument) {
        let mut map = self.get("ConfigMap", &format!("{name}-report")).unwrap();
        map["data"]["report.json"] = json!(json!(report).to_string());
        self.put("ConfigMap", map);
    }

    /// The StatefulSet's controller has done what there was to do.
    pub fn rolled(&mut self, name: &str) {
        let mut set = self.get("StatefulSet", name).unwrap();
        let revision = format!("{name}-{}", set["metadata"]["generation"]);
        set["status"] = json!({"observedGeneration": set["metadata"]["generation"], "replicas": 1,
            "currentRevision": revision, "updateRevision": revision});
        self.context.writer.lock().store("StatefulSet", set);
        self.wake();
    }

    /// A runtime starts, and runs the plan as it is now.
    pub fn run(&mut self, name: &str) -> ReportDocument {
        self.rolled(name);
        let report = running(&self.plan(name).revision);
        self.pod(name, Some(ready()));
        self.report(name, &report);
        report
    }

    /// Watches bring nothing from here on.
    pub fn hold_watches(&mut self) {
        self.context.writer.lock().late = Some(Vec::new());
    }

    /// Watches bring everything that they have held back.
    pub fn release_watches(&mut self) {
        {
            let mut inner = self.context.writer.lock();
            for id in inner.late.take().unwrap_or_default() {
                inner.show(&id);
            }
        }
        self.wake();
    }

    /// Writes of an object fail from here on; `None`: they succeed.
    pub fn refuse(&mut self, refuse: Option<(&str, Refuse)>) {
        self.context.writer.lock().refuse = refuse.map(|(id, error)| (id.to_owned(), error));
    }

    /// The operator dies after so many writes; `None`: it lives.
    pub fn dies_after(&mut self, writes: Option<usize>) {
        self.context.writer.lock().writes_left = writes;
    }

    /// No watch selects a Service.
    pub fn hide(&mut self, id: &str) {
        let mut inner = self.context.writer.lock();
        let service = inner.objects[id].clone();
        inner.writers.services.apply_watcher_event(&Event::Delete(serde_json::from_value(service).unwrap()));
    }

    /// Somebody warns about an object.
    pub fn warn(&mut self, id: &str, message: &str) {
        self.context.writer.lock().warnings.insert(id.to_owned(), message.to_owned());
    }

    /// All objects, as they are stored, without what tells one write of the same from another.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = self.context.writer.lock().objects.clone();
        for object in objects.values_mut() {
            object["metadata"]["resourceVersion"] = Value::Null;
        }
        objects
    }

    /// Another replica leads: it knows nothing but what is in the cluster.
    pub fn new_leader(&mut self) {
        self.context.notes = Notes::default();
        self.context.plans = Plans::default();
        self.queue = Queue::default();
        self.wake();
    }
}

/// The status of a pod whose runtime is ready.
pub fn ready() -> Value {
    json!({
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "millrace", "image": "millrace:test", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"running": {}}}],
    })
}

/// The status of a pod whose runtime is up and not ready.
pub fn unready() -> Value {
    let mut status = ready();
    status["conditions"] = json!([]);
    status
}

/// What a runtime says in which rows flow.
pub fn running(revision: &Revision) -> ReportDocument {
    ReportDocument {
        version: ReportDocument::VERSION,
        pod: "web-0".to_owned(),
        generation: None,
        phase: RunPhase::Running,
        revision: Some(revision.clone()),
        restored_from: None,
        checkpoint: Some(checkpoint(1)),
        checkpoint_failures: 0,
        checkpoint_error: None,
        problem: None,
        edit: None,
        savepoint: None,
        started: None,
        restarts: 0,
        nodes: vec![
            NodeSaid {
                name: "bid".to_owned(),
                kind: "source".to_owned(),
                rows_out_per_second: 51_000.0,
                lag: Some(812),
                ..NodeSaid::default()
            },
            NodeSaid {
                name: "dear->out".to_owned(),
                kind: "sink".to_owned(),
                rows_in_per_second: 1_200.0,
                committed: Some(Epoch(1)),
                ..NodeSaid::default()
            },
        ],
        at: START,
    }
}

/// A completed checkpoint.
pub fn checkpoint(epoch: u64) -> CheckpointSaid {
    CheckpointSaid {
        epoch: Epoch(epoch),
        completed_at: Timestamp(START.0 + epoch * 5_000),
        duration_ms: 38,
        size_bytes: 1_200_000,
    }
}

fn id_of(kind: &str, object: &Value) -> String {
    format!("{kind} {}", object["metadata"]["name"].as_str().unwrap())
}

impl Recorder {
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
    /// Every watch has listed what there is.
    fn fill(&mut self) {
        let writers = &mut self.writers;
        writers.pipelines.apply_watcher_event(&Event::InitDone);
        writers.windows.apply_watcher_event(&Event::InitDone);
        writers.sinks.apply_watcher_event(&Event::InitDone);
    }

    fn store(&mut self, kind: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let id = id_of(kind, &object);
        self.objects.insert(id.clone(), object);
        match &mut self.late {
            Some(late) => late.push(id),
            None => self.show(&id),
        }
    }

    /// A watch brings an object.
    fn show(&mut self, id: &str) {
        fn event<K: DeserializeOwned>(object: &Value) -> Event<K> {
            Event::Apply(serde_json::from_value(object.clone()).unwrap())
        }
        let Some(object) = self.objects.get(id) else { return };
        let writers = &mut self.writers;
        match id.split_once(' ').unwrap().0 {
            "Pipeline" => writers.pipelines.apply_watcher_event(&event(object)),
            "Window" => writers.windows.apply_watcher_event(&event(object)),
            "Sink" => writers.sinks.apply_watcher_event(&event(object)),
            "ConfigMap" => writers.config_maps.apply_watcher_event(&event(object)),
            "StatefulSet" => writers.stateful_sets.apply_watcher_event(&event(object)),
            "Pod" => writers.pods.apply_watcher_event(&event(object)),
            "Service" => writers.services.apply_watcher_event(&event(object)),
            "ServiceAccount" => writers.service_accounts.apply_watcher_event(&event(object)),
            "Role" => writers.roles.apply_watcher_event(&event(object)),
            "RoleBinding" => writers.role_bindings.apply_watcher_event(&event(object)),
            "PodDisruptionBudget" => writers.disruption_budgets.apply_watcher_event(&event(object)),
            "Lease" => {}
            other => panic!("no store for {other}"),
        }
    }
}

impl Writer for Arc<Recorder> {
    async fn apply(&self, wanted: &Wanted) -> Result<Value, WriteError> {
        self.attempt(&format!("apply {wanted}"))?;
        let mut inner = self.lock();
        let mut body = wanted.body.clone();
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
        inner.store(&wanted.resource.kind, body.clone());
        Ok(body)
    }

    async fn read(&self, wanted: &Wanted) -> Result<Option<Value>, WriteError> {
        let object = self.lock().objects.get(&wanted.to_string()).cloned();
        Ok(object.map(|mut object| {
            object["kind"] = json!(wanted.resource.kind);
            object
        }))
    }

    async fn scale(&self, _: &str, name: &str, replicas: i32) -> Result<(), WriteError> {
        self.attempt(&format!("scale {name} to {replicas}"))?;
        let mut inner = self.lock();
        let mut object = inner.objects.get(&format!("StatefulSet {name}")).cloned().unwrap();
        object["spec"]["replicas"] = json!(replicas);
        inner.store("StatefulSet", object);
        Ok(())
    }

    async fn status(&self, key: &Key, status: &Value) -> Result<(), WriteError> {
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
        let mut object = inner.objects.get(&format!("{} {}", key.kind.name(), key.name)).cloned().unwrap();
        object["status"] = status.clone();
        inner.store(key.kind.name(), object);
        Ok(())
    }

    async fn tell(&self, _: &ObjectReference, what: &Happening) -> Result<(), WriteError> {
        self.attempt(&format!("event {}", what.reason))
    }

    async fn warning(&self, _: &str, kind: &str, name: &str) -> Result<Option<String>, WriteError> {
        Ok(self.lock().warnings.get(&format!("{kind} {name}")).cloned())
    }
}
