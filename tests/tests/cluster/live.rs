//! A Pipeline that runs on a cluster, as its tests see it: what its status says, version by version, who its process is, and the
//! rows that it has committed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use millrace_tests::{
    Deadline, Table,
    cluster::{Namespace, Watch, version},
    read,
};
use serde_json::Value;

/// A Pipeline of a namespace.
pub struct Live<'n> {
    pub namespace: &'n Namespace<'n>,
    pub name: String,
    /// The Pipeline.
    pub object: Watch,
    /// The ConfigMap with its plan.
    pub plan: Watch,
    /// Its StatefulSet.
    pub set: Watch,
    /// The ConfigMap with the pointer to its last checkpoint.
    pub pointer: Watch,
}

/// Which process runs a Pipeline. No two that ever ran are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pod: String,
    restarts: u64,
    container: String,
    /// Its number on this machine, and when it was started, in ticks since the machine was.
    pid: u32,
    started: u64,
}

impl<'n> Live<'n> {
    /// Watches a Pipeline, which need not be there yet.
    pub fn new(namespace: &'n Namespace<'n>, name: &str) -> Self {
        Self {
            namespace,
            name: name.to_owned(),
            object: namespace.watch("pipeline", Some(name)),
            plan: namespace.watch("configmap", Some(&format!("{name}-plan"))),
            set: namespace.watch("statefulset", Some(name)),
            pointer: namespace.watch("configmap", Some(&format!("{name}-checkpoint"))),
        }
    }

    /// Waits until what was asked for last runs.
    #[track_caller]
    pub fn is_ready(&self) -> Value {
        self.object.wait_for("Ready", |object| is_seen(object) && condition(object, "Ready").0 == "True")
    }

    /// Waits for a phase.
    #[track_caller]
    pub fn is_in(&self, phase: &str) -> Value {
        self.object.wait_for(phase, |object| is_seen(object) && object["status"]["phase"] == phase)
    }

    /// Applies an edit, and waits until it is known what came of it.
    #[track_caller]
    pub fn edit(&self, manifests: &str) -> Value {
        let before = self.newest();
        self.namespace.apply(manifests);
        self.object.wait_for("the end of an edit", |object| {
            let newest = &object["status"]["history"][0];
            is_seen(object) && edit(newest) != edit(&before) && newest["result"] != "Pending"
        })
    }

    /// The same for one that is taken up.
    #[track_caller]
    pub fn takes_up(&self, manifests: &str) -> Value {
        let object = self.edit(manifests);
        let newest = &object["status"]["history"][0];
        assert_eq!(newest["result"], "TakenUp", "{newest:#}");
        self.is_ready()
    }

    /// The newest revision of the history.
    pub fn newest(&self) -> Value {
        self.object.last().map(|object| object["status"]["history"][0].clone()).unwrap_or_default()
    }

    /// Checks that the class of an edit stood in the status before its plan was written.
    #[track_caller]
    pub fn was_told_before_it_was_done(&self, revision: &str) {
        let plan = |map: &Value| -> Option<Value> { serde_json::from_str(map["data"]["plan.json"].as_str()?).ok() };
        let is_it = |map: &&Value| plan(map).is_some_and(|plan| plan["revision"] == revision);
        let (told, written) = (self.object.all(), self.plan.all());
        let told = told.iter().find(|object| object["status"]["change"]["to"] == revision);
        let told = told.unwrap_or_else(|| panic!("{revision} is not told"));
        let written = written.iter().find(is_it).unwrap_or_else(|| panic!("{revision} is not written"));
        assert!(version(told) < version(written), "the plan {revision} was written before its class was told");
    }

    /// The folder on this machine that is `/data` in the pod.
    pub fn data(&self) -> PathBuf {
        self.namespace.volume(&format!("data-{}-0", self.name))
    }

    /// The pod.
    pub fn pod(&self) -> Value {
        self.namespace.get("pod", &format!("{}-0", self.name))
    }

    /// The process that runs it now.
    pub fn process(&self) -> Process {
        let pod = self.pod();
        let runtime = &pod["status"]["containerStatuses"].as_array().unwrap();
        let runtime = runtime.iter().find(|container| container["name"] == "millrace").unwrap();
        let (pid, started) = self.on_this_machine();
        Process {
            pod: pod["metadata"]["uid"].to_string(),
            restarts: runtime["restartCount"].as_u64().unwrap(),
            container: runtime["containerID"].to_string() + &runtime["state"]["running"]["startedAt"].to_string(),
            pid,
            started,
        }
    }

    /// The number of the worker's process, and when it was started.
    fn on_this_machine(&self) -> (u32, u64) {
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let follows = |name: &str, value: &str| {
                words.windows(2).any(|pair| pair[0] == name.as_bytes() && pair[1] == value.as_bytes())
            };
            follows("--namespace", &self.namespace.name) && follows("--pipeline", &self.name)
        };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pid = pids.find(is_it).expect("the worker runs on this machine");
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Behind the name, which may hold spaces, comes the third field. The start is the 22nd.
        let (_, fields) = line.rsplit_once(") ").unwrap();
        (pid, fields.split(' ').nth(19).unwrap().parse().unwrap())
    }

    /// The environment of the process.
    pub fn environment(&self) -> Vec<String> {
        let (pid, _) = self.on_this_machine();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        environment.split(|byte| *byte == 0).map(|set| String::from_utf8_lossy(set).into_owned()).collect()
    }

    /// What the runtime has reported last.
    pub fn report(&self) -> Value {
        let map = self.namespace.get("configmap", &format!("{}-report", self.name));
        serde_json::from_str(map["data"]["report.json"].as_str().unwrap_or("{}")).unwrap()
    }

    /// The last decided checkpoint.
    pub fn epoch(&self) -> u64 {
        let map = self.pointer.last().unwrap_or_default();
        map["data"]["epoch"].as_str().and_then(|epoch| epoch.parse().ok()).unwrap_or_default()
    }

    /// The last epoch that was decided before a process claimed the pointer.
    pub fn last_epoch_before(&self, process: &Process) -> u64 {
        let uid = process.pod.trim_matches('"');
        let claimed = |map: &&Value| map["data"]["claimedBy"].as_str().is_some_and(|by| by.contains(uid));
        let maps = self.pointer.all();
        let before = maps.iter().rev().skip_while(claimed).find_map(|map| map["data"]["epoch"].as_str()?.parse().ok());
        before.expect("a pod has decided an epoch before")
    }

    /// Waits until so many more checkpoints are decided.
    #[track_caller]
    pub fn completes(&self, checkpoints: u64) {
        let before = self.epoch();
        Deadline::secs(120).wait_for("checkpoints", || (self.epoch() >= before + checkpoints).then_some(()));
    }

    /// The events about it: reason and note.
    pub fn events(&self) -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.namespace.kubectl(["get", "events.events.k8s.io", "-o", "json"]).run();
        let events: Value = serde_json::from_str(&events).unwrap();
        let events = events["items"].as_array().unwrap().iter();
        let mine = events.filter(|event| {
            event["regarding"]["kind"] == "Pipeline" && event["regarding"]["name"] == self.name.as_str()
        });
        mine.map(|event| (text(&event["reason"]), text(&event["note"]))).collect()
    }
}

/// Whether a status is about the newest generation.
fn is_seen(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

/// What tells one edit in a history from another.
fn edit(entry: &Value) -> [String; 4] {
    ["revision", "class", "reason", "at"].map(|field| entry[field].to_string())
}

/// A condition's status, reason and message.
pub fn condition(object: &Value, of: &str) -> (String, String, String) {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == of);
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// The rows of a folder of files that never change, of which each is read once.
#[derive(Debug)]
pub struct Rows {
    folder: PathBuf,
    seen: BTreeSet<PathBuf>,
    /// What was read.
    pub table: Table,
    /// How many rows each file has, in the order in which they were seen.
    pub files: Vec<usize>,
}

impl Rows {
    /// Those of this folder, which may come later.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), seen: BTreeSet::new(), table: Table::default(), files: Vec::new() }
    }

    /// Reads what has come.
    pub fn more(&mut self) -> &Self {
        for (path, _) in read::visible_files(&self.folder) {
            if !self.seen.contains(&path) {
                let rows = read::file(&path, &self.folder).rows;
                self.files.push(rows.len());
                self.table.rows.extend(rows);
                self.seen.insert(path);
            }
        }
        self
    }

    /// Waits until there is a row like this, or more.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let deadline = Deadline::secs(60);
        deadline.wait_for(what, || is(self.more()).then_some(()));
    }

    /// A column of whole numbers, sorted.
    pub fn numbers(&self, column: &str) -> Vec<i64> {
        let mut numbers: Vec<i64> = self.table.column(column).map(millrace_tests::Cell::int).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The greatest of them; -1 without any.
    pub fn last(&self, column: &str) -> i64 {
        self.numbers(column).last().copied().unwrap_or(-1)
    }
}

/// Checks that numbers are all those of 0, 1, 2, … up to the greatest of them that are wanted, each once.
#[track_caller]
pub fn expect_each_once(numbers: &[i64], is_wanted: impl Fn(&i64) -> bool, what: &str) {
    let last = numbers.last().copied().unwrap_or(-1);
    let expected: Vec<i64> = (0..=last).filter(is_wanted).collect();
    if numbers != expected {
        let there: BTreeSet<i64> = numbers.iter().copied().collect();
        let wanted: BTreeSet<i64> = expected.iter().copied().collect();
        let lost: Vec<_> = wanted.difference(&there).take(5).collect();
        let strange: Vec<_> = there.difference(&wanted).take(5).collect();
        let repeated = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(5);
        let repeated: Vec<_> = repeated.collect();
        panic!("{what}: of 0 to {last} are lost {lost:?}, repeated {repeated:?}, not wanted {strange:?}, …");
    }
}
