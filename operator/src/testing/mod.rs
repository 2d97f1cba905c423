//! A cluster in memory for tests: objects are put into it, what the operator writes is recorded and then seen by its stores, as
//! by watches, at once or late.

mod recorder;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use millrace_crds::PipelineStatus;
use millrace_plan::handover::{CheckpointSaid, NodeSaid, PlanDocument, ReportDocument, RunPhase};
use millrace_stream::{Clock, Epoch, ManualClock, Revision, Timestamp};
use serde_json::{Value, json};

use self::recorder::{Of, Recorder, Refuse, id_of};
use crate::{
    backoff::{self, Dice},
    cluster::stores::Stores,
    context::{Context, Notes},
    controller::{Outcome, reconcile},
    labels,
    metrics::Metrics,
    plans::Plans,
    queue::Queue,
    room::Room,
};

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
    is_silent: bool,
    is_frozen: bool,
}

impl World {
    /// An empty cluster but for the Window `minute` and the Sink `out`.
    pub fn new() -> Self {
        let mut world = Self::empty(START);
        let meta =
            |name: &str| json!({"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1});
        world.put("Window", json!({"metadata": meta("minute"), "spec": {"tumbling": {"size": "1m"}}}));
        world.put("Sink", json!({"metadata": meta("out"), "spec": {"parquet": {"uri": "/data/out"}}}));
        world
    }

    /// A cluster in which there is this already, at a time, with an operator that has just come to lead.
    pub fn with(objects: &BTreeMap<String, Value>, at: Timestamp) -> Self {
        let mut world = Self::empty(at);
        for (id, object) in objects {
            world.recorder().store(id.split_once(' ').unwrap().0, object.clone());
        }
        world.wake();
        world
    }

    fn empty(at: Timestamp) -> Self {
        let (stores, writers) = Stores::new();
        let clock = Arc::new(ManualClock::at(at));
        let context = Context {
            stores: stores.clone(),
            writer: Arc::new(Recorder::new(stores, writers)),
            clock: clock.clone(),
            metrics: Metrics::new(),
            runtime_image: "millrace:test".to_owned(),
            plans: Plans::default(),
            room: Room::default(),
            notes: Notes::default(),
            is_leaving: AtomicBool::default(),
        };
        Self { context, clock, queue: Queue::default(), dice: Dice::of("test"), is_silent: false, is_frozen: false }
    }

    fn recorder(&self) -> &Recorder {
        &self.context.writer
    }

    /// Somebody creates or edits an object; a Pipeline's generation goes on where its spec changes.
    pub fn put(&mut self, kind: &str, mut object: Value) {
        if let Some(before) = self.recorder().get(&id_of(kind, &object)) {
            let same = before["spec"] == object["spec"];
            // Most kinds have none.
            if let Some(generation) = before["metadata"]["generation"].as_u64() {
                object["metadata"]["generation"] = json!(if same { generation } else { generation + 1 });
            }
            if object.get("status").is_none() {
                object["status"] = before["status"].clone();
            }
        }
        self.recorder().store(kind, object);
        self.hear();
    }

    /// What the watches' events concern is to be looked at.
    fn hear(&mut self) {
        let now = self.clock.monotonic();
        for key in self.recorder().concerned() {
            self.queue.add(key, now);
        }
    }

    /// Somebody deletes an object.
    pub fn delete(&mut self, kind: &str, name: &str) {
        self.recorder().delete(&format!("{kind} {name}"));
        self.hear();
    }

    /// The garbage collector takes away what Pipelines own that are not there any more, and pods of StatefulSets that are not.
    pub fn collect(&mut self) {
        for _ in 0..2 {
            let objects = self.recorder().objects();
            let there: Vec<&Value> = objects.values().map(|object| &object["metadata"]["uid"]).collect();
            let is_left = |object: &Value| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                owners.is_some_and(|owners| owners.iter().all(|owner| !there.contains(&&owner["uid"])))
            };
            for (id, _) in objects.iter().filter(|(_, object)| is_left(object)) {
                self.recorder().delete(id);
            }
        }
        self.hear();
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
            let (again, failed) = match reconcile(&self.context, &key).await {
                Outcome::Done(again) => (again, false),
                Outcome::Failed(error, attempt) => (backoff::after(&error, attempt, &mut self.dice), true),
            };
            self.queue.done(key, now, again, failed);
            self.hear();
        }
        panic!("the operator does not come to rest: {:#?}", self.log());
    }

    /// Time goes on, second by second, and every ten seconds runtimes renew their Leases, and those in which rows flow report.
    pub async fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            if (self.clock.now().0 / 1_000).is_multiple_of(10) {
                self.renew();
                if !self.is_silent {
                    self.speak();
                }
            }
            self.settle().await;
        }
    }

    /// Runtimes report nothing from here on, whatever they do.
    pub fn silence(&mut self) {
        self.is_silent = true;
    }

    /// Runtimes do nothing from here on, or go on.
    pub fn freeze(&mut self, is_frozen: bool) {
        (self.is_silent, self.is_frozen) = (is_frozen, is_frozen);
    }

    /// Runtimes renew their Leases, as far as there are any.
    fn renew(&mut self) {
        let leases =
            self.recorder().objects().into_iter().filter(|(id, _)| id.starts_with("Lease ") && !self.is_frozen);
        for (_, mut lease) in leases.collect::<Vec<_>>() {
            lease["spec"] = json!({"holderIdentity": "web-0", "renewTime": self.clock.now().0});
            self.recorder().store("Lease", lease);
        }
    }

    /// What runtimes have said last they say again, now.
    pub fn speak(&mut self) {
        for (id, mut map) in self.recorder().objects() {
            let text = map["data"]["report.json"].as_str().filter(|_| id.ends_with("-report"));
            let report = text.and_then(|text| serde_json::from_str::<ReportDocument>(text).ok());
            if let Some(report) = report.filter(|report| report.phase == RunPhase::Running) {
                map["data"]["report.json"] =
                    json!(json!(ReportDocument { at: self.clock.now(), ..report }).to_string());
                self.put("ConfigMap", map);
            }
        }
    }

    /// What has been written since the last call.
    pub fn log(&self) -> Vec<String> {
        self.recorder().log()
    }

    /// An object as it is stored.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.recorder().get(&format!("{kind} {name}"))
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
        match status {
            Some(status) => {
                let mut labels = json!(labels::of(name));
                let set = self.get("StatefulSet", name).unwrap_or_default();
                if let Some(revision) = set["status"]["updateRevision"].as_str() {
                    labels["controller-revision-hash"] = json!(revision);
                }
                self.put(
                    "Pod",
                    json!({
                        "metadata": {
                            "name": format!("{name}-0"), "namespace": "default", "labels": labels,
                            "creationTimestamp": "2024-01-01T00:00:00Z",
                            "ownerReferences": [{
                                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "controller": true,
                                "uid": set["metadata"]["uid"].as_str().unwrap_or_default(),
                            }],
                        },
                        "status": status,
                    }),
                );
            }
            None => self.delete("Pod", &format!("{name}-0")),
        }
    }

    /// The runtime says something, in the pod that is there if it names none.
    pub fn report(&mut self, name: &str, report: &ReportDocument) {
        let pod = self.get("Pod", &format!("{name}-0")).unwrap_or_default();
        let own = || pod["metadata"]["uid"].as_str().map(str::to_owned);
        let report = ReportDocument { pod_uid: report.pod_uid.clone().or_else(own), ..report.clone() };
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
        self.recorder().store("StatefulSet", set);
        self.hear();
    }

    /// The StatefulSet's controller makes the claim of a Pipeline's volume, if there is none.
    pub fn claim(&mut self, name: &str) {
        let set = self.get("StatefulSet", name).unwrap();
        let mut claim = set["spec"]["volumeClaimTemplates"][0].clone();
        let claim_name = format!("data-{name}-0");
        if self.get("PersistentVolumeClaim", &claim_name).is_none() {
            claim["metadata"]["name"] = json!(claim_name);
            claim["metadata"]["namespace"] = json!("default");
            self.put("PersistentVolumeClaim", claim);
        }
    }

    /// What an operator before this one has made: the claim goes with the StatefulSet, and the pointer with the Pipeline.
    pub fn as_made_before(&mut self, name: &str) {
        let mut set = self.get("StatefulSet", name).unwrap();
        set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = json!("Delete");
        set["metadata"]["annotations"]["millrace.dev/applied"] = json!("before");
        self.put("StatefulSet", set.clone());
        let owner = |kind: &str, uid: &Value| json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}]);
        let mut claim = self.get("PersistentVolumeClaim", &format!("data-{name}-0")).unwrap();
        claim["metadata"]["ownerReferences"] = owner("StatefulSet", &set["metadata"]["uid"]);
        self.put("PersistentVolumeClaim", claim);
        let mut pointer = self.get("ConfigMap", &format!("{name}-checkpoint")).unwrap();
        let uid = self.get("Pipeline", name).unwrap()["metadata"]["uid"].clone();
        pointer["metadata"]["ownerReferences"] = owner("Pipeline", &uid);
        pointer["metadata"]["annotations"]["millrace.dev/applied"] = json!("before");
        self.put("ConfigMap", pointer);
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
        self.recorder().hold();
    }

    /// Watches bring everything that they have held back.
    pub fn release_watches(&mut self) {
        self.recorder().release();
        self.hear();
    }

    /// The watch brings an object, though watches are held back.
    pub fn show(&mut self, id: &str) {
        self.recorder().bring(id, Of::Apply);
        self.hear();
    }

    /// Writes of an object fail from here on; `None`: they succeed.
    pub fn refuse(&mut self, refuse: Option<(&str, Refuse)>) {
        self.recorder().refuse(refuse);
    }

    /// An object is deleted while that is being written.
    pub fn deletes_at(&mut self, write: &str, id: &str) {
        self.recorder().deletes_at(write, id);
    }

    /// The operator dies after so many writes; `None`: it lives.
    pub fn dies_after(&mut self, writes: Option<usize>) {
        self.recorder().dies_after(writes);
    }

    /// No watch selects an object.
    pub fn hide(&mut self, id: &str) {
        self.recorder().bring(id, Of::Delete);
    }

    /// How often a Lease was read since the last call.
    pub fn looks(&self) -> usize {
        self.recorder().looks()
    }

    /// The namespace is being deleted.
    pub fn terminate(&mut self) {
        self.recorder().terminate();
    }

    /// The StatefulSet is as old as the world, and no pod of it can be made, as somebody warns.
    pub fn makes_no_pod(&mut self, name: &str, message: &str) {
        let mut set = self.get("StatefulSet", name).unwrap();
        set["metadata"]["creationTimestamp"] = json!("2024-01-01T00:00:00Z");
        self.put("StatefulSet", set);
        self.warn(&format!("StatefulSet {name}"), message);
    }

    /// Somebody warns about an object.
    pub fn warn(&mut self, id: &str, message: &str) {
        self.recorder().warn(id, message, self.clock.now());
    }

    /// All objects, as they are stored, without what tells one write of the same from another.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = self.recorder().objects();
        for object in objects.values_mut() {
            object["metadata"]["resourceVersion"] = Value::Null;
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.retain(|field, value| field != "uid" || !value.as_str().unwrap().starts_with("uid of"));
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

/// The status of a pod whose image is not there.
pub fn no_image() -> Value {
    json!({
        "phase": "Pending",
        "containerStatuses": [{"name": "millrace", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}],
    })
}

/// What a runtime says in which rows flow.
pub fn running(revision: &Revision) -> ReportDocument {
    ReportDocument {
        version: ReportDocument::VERSION,
        pod: "web-0".to_owned(),
        pod_uid: None,
        pipeline_uid: None,
        generation: None,
        phase: RunPhase::Running,
        revision: Some(revision.clone()),
        runs: None,
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
                lag_rows: Some(812),
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
