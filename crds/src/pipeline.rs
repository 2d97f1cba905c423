//! The Pipeline resource: sources, transforms and outputs, and how they run.

use std::fmt;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{
    CredentialsSpec, DurationStr, PipelineStatus, Quantity, SourceSpec,
    duration::POSITIVE_PATTERN,
    quantity,
    schema::{FROM_PATTERN, NODE_NAME_PATTERN, OBJECT_NAME_PATTERN, URI_PATTERN, exactly_one, rule},
};

/// Sources, transforms and outputs, and how they run.
// Every printer column has a type.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    namespaced,
    status = "PipelineStatus",
    scale(
        spec_replicas_path = ".spec.deployment.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    derive = "PartialEq",
    shortname = "pl",
    category = "millrace",
    doc = "A stream of rows from sources through SQL transforms to Sinks.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Checkpoint", type_ = "integer", json_path = ".status.checkpoint.epoch"),
    printcolumn(name = "Checkpoint age", type_ = "date", json_path = ".status.checkpoint.completedAt"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.unread"),
    printcolumn(name = "In", type_ = "string", json_path = ".status.throughput.in"),
    printcolumn(name = "Change", type_ = "string", json_path = ".status.change.class"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas", priority = 1),
    printcolumn(name = "Out", type_ = "string", json_path = ".status.throughput.out", priority = 1),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "!has(self.transforms) || self.transforms.all(t, !self.sources.exists(s, s.name == t.name))",
    "a source and a transform may not have the same name"
))]
#[schemars(transform = rule(
    "self.outputs.all(o, self.sources.exists(s, o.from == s.name || o.from.startsWith(s.name + '.')) || \
     (has(self.transforms) && self.transforms.exists(t, o.from == t.name || o.from.startsWith(t.name + '.'))))",
    "an output's from has to name a source or transform of the pipeline"
))]
#[schemars(transform = rule(
    "self.outputs.all(o, !o.from.endsWith('.errors') || \
     self.sources.exists(s, o.from == s.name + '.errors' && has(s.onError) && s.onError == 'DeadLetter'))",
    "an output from <source>.errors needs `onError: DeadLetter` in that source"
))]
#[schemars(transform = rule(
    "self.outputs.all(o, !o.from.endsWith('.late') || \
     (has(self.transforms) && self.transforms.exists(t, o.from == t.name + '.late' && (has(t.window) || has(t.within)))))",
    "an output from <transform>.late needs a window or within in that transform"
))]
pub struct PipelineSpec {
    /// Where rows come from.
    #[schemars(length(min = 1, max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sources: Vec<SourceSpec>,
    /// What is done with them: SQL SELECTs over sources and other transforms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub transforms: Vec<TransformSpec>,
    /// Where they go.
    #[schemars(length(min = 1, max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["from", "sink"]))]
    pub outputs: Vec<OutputSpec>,
    /// How many tasks a keyed stage has, spread over the pods.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 128))]
    pub parallelism: u32,
    /// When checkpoints are taken and where they are kept.
    #[serde(default)]
    pub checkpoints: CheckpointsSpec,
    /// How the pipeline's pods look. Without meaning for `millrace run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentSpec>,
    /// The sources and transforms whose state an edit may drop. An edit that would drop the state of another is refused.
    /// Example: `[by_tenant]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 320), inner(regex(pattern = NODE_NAME_PATTERN), length(max = 63)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub allow_state_loss: Vec<String>,
    /// Whether the pipeline is stopped, at a last checkpoint, until this is false again.
    #[serde(default)]
    pub suspend: bool,
    /// A savepoint that is asked for in a cluster: one is taken for each new token. `status.savepoint` says what came of it.
    /// Without meaning for `millrace run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointSpec>,
    /// Where the pipeline starts from in place of its last checkpoint, in a cluster: done once for each new token.
    /// `status.startedFrom` says what came of it. Without meaning for `millrace run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_from: Option<StartFromSpec>,
}

impl PipelineSpec {
    /// What of the spec the dataflow depends on, without how its pods look and without wishes: two Pipelines that have the
    /// same dataflow have the same revision in a cluster.
    pub fn dataflow(&self) -> Self {
        Self { deployment: None, suspend: false, savepoint: None, start_from: None, ..self.clone() }
    }
}

/// A savepoint that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavepointSpec {
    /// Any text. Another one is another wish. Example: `before-upgrade`.
    #[schemars(length(min = 1, max = 128))]
    pub token: String,
}

/// Where a pipeline starts from in place of its last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "!has(self.resetSources) || !has(self.moveSources) || self.moveSources.all(m, !(m.name in self.resetSources))",
    "a source is either reset or moved"
))]
pub struct StartFromSpec {
    /// Any text. Another one is another wish. Example: `2024-01-31-replay`.
    #[schemars(length(min = 1, max = 128))]
    pub token: String,
    /// The savepoint's name. Without it the last checkpoint. Example: `savepoint-42`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub savepoint: Option<String>,
    /// The sources that forget how far they have read, and begin as their spec says. Example: `[requests]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = NODE_NAME_PATTERN), length(max = 63)))]
    pub reset_sources: Vec<String>,
    /// The sources that go on from another place than they have read to, forwards or backwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub move_sources: Vec<MoveSourceSpec>,
}

/// Where a source goes on: exactly one of `row`, for a generator, and `files`, for files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["row", "files"]))]
pub struct MoveSourceSpec {
    /// The source's name. Example: `requests`.
    #[schemars(regex(pattern = NODE_NAME_PATTERN), length(max = 63))]
    pub name: String,
    /// The row that a generator makes next; its first is 0. Example: `120000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub row: Option<u64>,
    /// The files that are read on from another place. The other ones of the source are read on from where they were read to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub files: Vec<FilePositionSpec>,
}

/// Where a file is read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilePositionSpec {
    /// The file, one of those that the source reads. Example: `/logs/a.ndjson`.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// The first byte of the row that is read next, uncompressed; of a Parquet file the row's number. The first is 0. Dead
    /// letters tell it. Example: `4096`.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub offset: u64,
}

fn one() -> u32 {
    1
}

/// One SQL SELECT over the sources and transforms that its FROM names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rule(
    "!(has(self.window) && has(self.emitEvery))",
    "emitEvery is for running aggregates, and this transform has a window"
))]
pub struct TransformSpec {
    /// What SQL calls the transform. Unique among the pipeline's sources and transforms; state follows it.
    /// Example: `by_tenant`.
    #[schemars(regex(pattern = NODE_NAME_PATTERN), length(max = 63))]
    pub name: String,
    /// The SELECT. Example: `SELECT tenant, count(*) AS errors FROM requests WHERE status >= 500 GROUP BY tenant`.
    #[schemars(length(min = 1, max = 65536))]
    pub sql: String,
    /// The Window that GROUP BY is over. Without one GROUP BY is a running aggregate, which emits the groups that changed.
    /// Example: `one-minute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = OBJECT_NAME_PATTERN), length(max = 253))]
    pub window: Option<String>,
    /// The least time between two emissions of a running aggregate. Without it `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emit_every: Option<DurationStr>,
    /// For how long, in event time, DISTINCT ON drops the repeats of a row. Rows come out when the watermark has passed them;
    /// one that comes behind it is late: it is counted, and goes to `<transform>.late` if an output takes that. Example: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub within: Option<DurationStr>,
}

/// Which rows go to which Sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutputSpec {
    /// A transform or a source, or one of its side outputs: `<transform>.late` has the rows that came too late for their
    /// window, where that Window says `lateRows: SideOutput`, or for DISTINCT ON with `within`; `<source>.errors` has the rows
    /// that could not be decoded, where that source says `onError: DeadLetter`. Example: `by_tenant.late`.
    #[schemars(regex(pattern = FROM_PATTERN), length(max = 70))]
    pub from: String,
    /// A Sink's name. Example: `tenant-errors`.
    #[schemars(regex(pattern = OBJECT_NAME_PATTERN), length(max = 253))]
    pub sink: String,
}

/// A node's output besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SideOutput {
    /// `.late`: the rows that came too late for their window, or for DISTINCT ON.
    Late,
    /// `.errors`: the rows that could not be decoded.
    Errors,
}

impl SideOutput {
    /// What stands after the dot.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Errors => "errors",
        }
    }
}

impl fmt::Display for SideOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl OutputSpec {
    /// The node, and which of its side outputs; `None` if what stands after the dot names none.
    pub fn node_and_output(&self) -> Option<(&str, Option<SideOutput>)> {
        match self.from.split_once('.') {
            None => Some((&self.from, None)),
            Some((node, "late")) => Some((node, Some(SideOutput::Late))),
            Some((node, "errors")) => Some((node, Some(SideOutput::Errors))),
            Some(_) => None,
        }
    }
}

/// When checkpoints are taken and where they are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = rule(
    "!has(self.credentials) || (has(self.storage) && self.storage.startsWith('s3://'))",
    "credentials are for a storage that is an object store, as s3://lake/checkpoints"
))]
pub struct CheckpointsSpec {
    /// The time from one checkpoint's start to the next one's. After a start, a restart and an edit the first one comes after a
    /// fifth of it, though not within a second unless it is shorter.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub interval: DurationStr,
    /// A checkpoint that takes longer than this is given up; the one before it stands.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub timeout: DurationStr,
    /// The least time between one checkpoint's end and the next one's start.
    pub min_pause: DurationStr,
    /// How many checkpoints are kept.
    #[schemars(range(min = 1, max = 1000))]
    pub retain: u32,
    /// Where they are kept: a URL, or a path. Without it the folder `checkpoints` in the data folder.
    /// Example: `s3://lake/_millrace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = URI_PATTERN), length(max = 4096))]
    pub storage: Option<String>,
    /// What an object store asks for before it lets in. The Secret's keys are named as the variables of the environment are:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, and, if they are to be there too, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL` and the like. A key that is replaced in the Secret is taken up while the pipeline runs. Without
    /// meaning for `millrace run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
    /// What happens to them when the Pipeline is deleted from a cluster.
    pub on_delete: OnDelete,
    /// How much state the pipeline's tasks of one process may hold in memory, all together. What is beyond it is kept on
    /// disk.
    #[schemars(extend("pattern" = quantity::POSITIVE_PATTERN))]
    pub memory_budget: Quantity,
}

impl Default for CheckpointsSpec {
    fn default() -> Self {
        Self {
            interval: DurationStr::from_secs(5),
            timeout: DurationStr::from_secs(300),
            min_pause: DurationStr::from_millis(500),
            retain: 3,
            storage: None,
            credentials: None,
            on_delete: OnDelete::Retain,
            memory_budget: Quantity::from_bytes(256 << 20),
        }
    }
}

/// The annotation of a Pipeline that has pods tried again that were taken back: once for each other text.
pub const RETRY: &str = "millrace.dev/retry";

/// Whether a `checkpoints.storage` is an object store, and no folder.
pub fn is_object_store(storage: &str) -> bool {
    storage.contains("://") && !storage.starts_with("file:")
}

/// What happens to checkpoints when the Pipeline is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// They are kept.
    #[default]
    Retain,
    /// They are deleted too. Those on the Pipeline's volume go with that, and so do savepoints on it. Those in an object store
    /// are deleted by a Job before the Pipeline is gone, and savepoints there stay. A `storage` that is a folder stays as it is.
    Delete,
}

/// How the pipeline's pods look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentSpec {
    /// How many pods there are. Without it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub replicas: Option<u32>,
    /// The runtime's image. Without it the one that belongs to the operator's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// What the runtime's container asks for and is limited to, as in any pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// For how long a pod of another template may take until its container runs, before the last template that ran well is
    /// put back. Without it `5m`. Example: `20m`, where nodes are made when they are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub start_within: Option<DurationStr>,
    /// The volume that each pod keeps state on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeSpec>,
    /// A pod template that is laid over the one that Millrace makes: labels, tolerations, affinity, more containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub template: Option<serde_json::Value>,
}

/// When a pod's image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// The volume that a pod keeps state on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its size. Example: `10Gi`.
    #[schemars(extend("pattern" = quantity::POSITIVE_PATTERN))]
    pub size: Quantity,
    /// Its StorageClass. Without it the cluster's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = OBJECT_NAME_PATTERN), length(max = 253))]
    pub storage_class_name: Option<String>,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
