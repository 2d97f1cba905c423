//! A Pipeline in a pod, whose outputs are known beforehand.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    compute::cast,
};
use millrace_tests::{
    Deadline, Table,
    cluster::Namespace,
    coordination::{Objects, Site},
    delta, manifest,
    oracle::{self, Oracle, Window},
    read, wait,
};
use serde_json::Value;

/// Rows a second while things go wrong.
pub const RATE: i64 = 3_000;
/// And when all that is left is to come to the end.
const RATE_IN_THE_END: i64 = 300_000;
/// 2024-01-01T00:00:00Z.
const START_MICROS: i64 = 1_704_067_200_000_000;

/// Where a Pipeline keeps what, and in what form.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The claim whose volume the outputs are on; `None`: the pod's own.
    pub outputs: Option<&'static str>,
    /// Where that is mounted.
    pub mount: &'static str,
    /// The Sink of the sums: `file`, `parquet` or `delta`.
    pub sums: &'static str,
    /// Further fields of `checkpoints`.
    pub checkpoints: &'static str,
    /// Further fields of the spec.
    pub more: &'static str,
}

impl Shape {
    /// Everything on the pod's own volume.
    pub const PLAIN: Self =
        Self { outputs: None, mount: "/data", sums: "file", checkpoints: "interval: 300ms, minPause: 20ms", more: "" };
}

/// Numbers from 0 on, a millisecond of event time each. Every tenth is passed on, with the edition of the SQL that did; all
/// are counted and summed up by what is left of them after a division by seven, and by the second.
pub struct Flow<'s> {
    pub site: &'s Site,
    pub name: String,
    /// The pod's name.
    pub pod: String,
    shape: Shape,
    rows: i64,
    rate: i64,
    edition: i64,
    outputs: PathBuf,
}

impl<'s> Flow<'s> {
    /// Applies it, and waits for its first rows.
    pub fn start(site: &'s Site, name: &str, rows: i64, shape: Shape) -> Self {
        let mut flow = Self {
            site,
            name: name.to_owned(),
            pod: format!("{name}-0"),
            shape,
            rows,
            rate: RATE,
            edition: 1,
            outputs: PathBuf::new(),
        };
        flow.apply();
        flow.namespace().wait_until(&format!("pipeline/{name}"), "Ready");
        let claim = shape.outputs.map_or_else(|| format!("data-{name}-0"), str::to_owned);
        flow.outputs = flow.namespace().volume(&claim).join("out");
        flow.expect_more(0, "the first rows");
        flow
    }

    pub fn namespace(&self) -> &'s Namespace<'static> {
        self.site.namespace()
    }

    pub fn objects(&self) -> Objects<'s> {
        self.site.objects(&self.name)
    }

    /// Where an output is.
    pub fn output(&self, of: &str) -> PathBuf {
        self.outputs.join(of)
    }

    /// `kubectl apply` of all of it.
    pub fn apply(&self) {
        self.namespace().apply(&self.manifests());
    }

    /// An edit that can be told by its rows.
    pub fn edit(&mut self) {
        self.edition += 1;
        self.apply();
    }

    /// Waits until readers see rows of the last edit.
    pub fn expect_edition(&self) {
        let newest = || self.passed().last().filter(|(_, edition)| *edition == self.edition).copied();
        let found = Deadline::secs(90).poll(|| slowly(newest));
        assert!(found.is_some(), "{}: the edit is not taken up\n{}", self.name, self.evidence());
    }

    fn manifests(&self) -> String {
        let Self { name, rows, rate, edition, shape, .. } = self;
        let Shape { mount, sums, checkpoints, more, .. } = shape;
        let (second, some, of) = (format!("{name}-second"), format!("{name}-some"), format!("{name}-sums"));
        let passed = format!("SELECT id, {edition} AS edition FROM events WHERE id % 10 = 0");
        let summed = "SELECT k, window_start, count(*) AS n, sum(id) AS ids, min(id) AS first FROM keyed GROUP BY k";
        let pipeline = manifest::Pipeline {
            name,
            checkpoints,
            more: &format!("  parallelism: 2\n{more}"),
            events: &manifest::numbers(rows, rate),
            transforms: &[
                ("some", "", &passed),
                ("keyed", "", "SELECT id, id % 7 AS k FROM events"),
                ("sums", &second, summed),
            ],
            outputs: &[("some", &some), ("sums", &of)],
        };
        let of_sums = match *sums {
            "file" => format!("file: {{path: {mount}/out/sums, format: {{json: {{}}}}}}"),
            form => format!("{form}: {{uri: \"file://{mount}/out/sums\"}}"),
        };
        let manifests = [
            pipeline.to_string(),
            manifest::window(&second, "tumbling: {size: 1s}"),
            manifest::sink(&some, &format!("file: {{path: {mount}/out/some, format: {{json: {{}}}}}}")),
            manifest::sink(&of, &of_sums),
        ];
        manifests.concat()
    }

    /// How many files of passed rows readers see.
    pub fn files(&self) -> usize {
        read::visible_files(&self.output("some")).len()
    }

    /// Waits until readers see more files than there were, and says how long that took.
    #[track_caller]
    pub fn expect_more(&self, before: usize, what: &str) -> Duration {
        let deadline = Deadline::secs(150);
        match deadline.poll(|| (self.files() > before).then(|| deadline.waited())) {
            Some(waited) => waited,
            None => panic!("{}: waited {:?} in vain for {what}\n{}", self.name, deadline.waited(), self.evidence()),
        }
    }

    /// What the API server has of the pod, and what it has logged.
    fn evidence(&self) -> String {
        let said = |args: &[&str]| self.namespace().kubectl(args.iter().copied()).attempt().unwrap_or_else(|why| why);
        let status = said(&["get", "pipeline", &self.name, "-o", "yaml"]);
        format!("{status}\n{}", said(&["logs", &self.pod, "--tail=40"]))
    }

    /// The pod's uid, and how often its container was started again; `None`: there is no pod, or nobody answers.
    pub fn life(&self) -> Option<(String, i32)> {
        let pod = self.site.pod(&self.pod)?;
        let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        Some((pod.metadata.uid?, containers.iter().map(|container| container.restart_count).sum()))
    }

    /// Waits until the API server has it that the pod is this one, and that its container was started again this often: the
    /// kubelet may tell that later than rows are seen.
    #[track_caller]
    pub fn expect_life(&self, life: &(String, i32)) {
        let found = Deadline::secs(120).poll(|| slowly(|| self.life().filter(|now| now == life)));
        assert!(found.is_some(), "{}: {:?} is not {life:?}", self.name, self.life());
    }

    /// Waits until the pod is another one.
    pub fn expect_another_pod(&self, than: &str) {
        let another = || self.life().filter(|(uid, _)| uid != than);
        let found = Deadline::secs(120).poll(|| slowly(another));
        assert!(found.is_some(), "{}: no other pod comes\n{}", self.name, self.evidence());
    }

    /// Waits until the object's status is like this.
    #[track_caller]
    pub fn expect_status(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let status = || {
            let object = self.namespace().kubectl(["get", "pipeline", &self.name, "-o", "json"]).attempt().ok()?;
            let object: Value = serde_json::from_str(&object).ok()?;
            Some(object["status"].clone()).filter(|status| is(status))
        };
        // After two minutes without an API server a kubelet takes another to say that its pods are ready.
        let found = Deadline::secs(180).poll(|| slowly(status));
        found.unwrap_or_else(|| panic!("{}: no status with {what}\n{}", self.name, self.evidence()))
    }

    /// Lets it come to its end, with a last edit, and checks that each row is there once, in the order of the editions, and
    /// that every window is right.
    pub fn expect_exactly_once(mut self) {
        self.rate = RATE_IN_THE_END;
        self.edit();
        self.namespace().wait_for(&format!("pipeline/{}", self.name), ".status.phase", "Finished");
        let some = self.passed();
        let last = some.last().map(|(_, edition)| *edition);
        assert_eq!(last, Some(self.edition), "{}: the last edit came before the last row", self.name);
        let ids: Vec<i64> = some.iter().map(|(id, _)| *id).collect();
        let expected: Vec<i64> = (0..self.rows).step_by(10).collect();
        assert_eq!(ids.len(), expected.len(), "{}: each row is there once", self.name);
        assert!(ids == expected, "{}: each row is there once", self.name);
        let sums = match self.shape.sums {
            "delta" => delta::table(&self.output("sums")),
            _ => read::folder(&self.output("sums")),
        };
        sums.expect_same(&self.expected_sums(), &format!("the sums of {}", self.name));
    }

    /// The numbers that were passed on, with their editions, in their order.
    ///
    /// # Panics
    ///
    /// If an older edition has passed on a row that comes after one of a newer.
    pub fn passed(&self) -> Vec<(i64, i64)> {
        let columns = ["id", "edition"].map(str::to_owned);
        let files = read::visible_files(&self.output("some"));
        let rows = files.iter().flat_map(|(path, _)| read::identities(path, &columns));
        let row = |text: String| {
            text.split_once(' ').and_then(|(id, edition)| Some((id.parse().ok()?, edition.parse().ok()?)))
        };
        let mut rows: Vec<(i64, i64)> = rows.map(|text| row(text).expect("two numbers")).collect();
        rows.sort_unstable();
        let turned = rows.windows(2).find(|pair| pair[0].1 > pair[1].1);
        assert!(
            turned.is_none(),
            "{}: an older edition came after a newer: {turned:?}\n{}",
            self.name,
            self.evidence()
        );
        rows
    }

    fn expected_sums(&self) -> Table {
        let numbers =
            |of: fn(i64) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..self.rows).map(of))) };
        let times = cast(&numbers(|id| START_MICROS + id * 1000), &oracle::timestamp()).unwrap();
        let columns = [("id", numbers(|id| id)), ("k", numbers(|id| id % 7)), ("ts", times)];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let windows = oracle::in_windows(&rows, "ts", &["k"], Window::Tumbling(Duration::from_secs(1)));
        Oracle::new().with("events", windows).table(
            "SELECT k, window_start, count(*) AS n, sum(id) AS ids, min(id) AS first FROM events GROUP BY k, window_start",
        )
    }
}

/// Whether a condition is `True` or not, and what it says; nothing if it is not there.
pub fn condition<'s>(status: &'s Value, kind: &str) -> (&'s str, &'s str) {
    let all = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|condition| condition["type"] == kind);
    let text = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    (text("status"), text("message"))
}

/// Whether it is not ready, for a reason with these words.
pub fn is_unready(status: &Value, words: &str) -> bool {
    let (is, message) = condition(status, "Ready");
    is == "False" && message.contains(words)
}

/// Asks, and waits a little after an answer that does not do: each costs the API server something.
pub fn slowly<T>(probe: impl FnOnce() -> Option<T>) -> Option<T> {
    let found = probe();
    if found.is_none() {
        wait::pass(Duration::from_millis(100));
    }
    found
}
