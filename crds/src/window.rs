//! The Window resource: how rows fall into windows of event time.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DurationStr, WindowStatus,
    duration::POSITIVE_PATTERN,
    schema::{durations, exactly_one},
};

/// How rows fall into windows of event time: exactly one of `tumbling`, `hopping`, `rolling` and `session`, and what
/// happens to rows that come late.
// Every printer column has a type.
#[allow(clippy::duplicated_attributes)]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "Window",
    namespaced,
    status = "WindowStatus",
    derive = "PartialEq",
    shortname = "win",
    category = "millrace",
    doc = "How rows fall into windows of event time. Transforms name it in `window`.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Tumbling", type_ = "string", json_path = ".spec.tumbling.size"),
    printcolumn(name = "Hopping", type_ = "string", json_path = ".spec.hopping.size"),
    printcolumn(name = "Slide", type_ = "string", json_path = ".spec.hopping.slide"),
    printcolumn(name = "Rolling", type_ = "string", json_path = ".spec.rolling.range"),
    printcolumn(name = "Session", type_ = "string", json_path = ".spec.session.gap"),
    printcolumn(name = "Lateness", type_ = "string", json_path = ".spec.allowedLateness"),
    printcolumn(name = "Late rows", type_ = "string", json_path = ".spec.lateRows", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = exactly_one(&["tumbling", "hopping", "rolling", "session"]))]
pub struct WindowSpec {
    /// Windows of one length, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tumbling: Option<TumblingWindow>,
    /// Windows of one length that overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hopping: Option<HoppingWindow>,
    /// For each row, what its key had over the time before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingWindow>,
    /// Rows of a key that follow each other closely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionWindow>,
    /// How long after its end a window still takes rows, each of which corrects its result. Example: `30s`.
    #[serde(default)]
    pub allowed_lateness: DurationStr,
    /// What happens to rows that come later still. They are counted in any case.
    #[serde(default)]
    pub late_rows: LateRows,
}

/// A window's form, with its lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WindowForm<'a> {
    /// Windows of one length, one after the other.
    Tumbling(&'a TumblingWindow),
    /// Windows of one length that overlap.
    Hopping(&'a HoppingWindow),
    /// For each row, the time before it.
    Rolling(&'a RollingWindow),
    /// Rows that follow each other closely.
    Session(&'a SessionWindow),
}

impl WindowSpec {
    /// The form that is set; `None` if none is, or more than one.
    pub fn form(&self) -> Option<WindowForm<'_>> {
        crate::only([
            self.tumbling.as_ref().map(WindowForm::Tumbling),
            self.hopping.as_ref().map(WindowForm::Hopping),
            self.rolling.as_ref().map(WindowForm::Rolling),
            self.session.as_ref().map(WindowForm::Session),
        ])
    }
}

/// Windows of one length, one after the other, aligned to 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = durations("offset", "<", "size", "offset must be less than size"))]
pub struct TumblingWindow {
    /// The length. Example: `1m`.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub size: DurationStr,
    /// By how much each window begins later than the alignment says; less than `size`. Example: `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<DurationStr>,
}

/// Windows of one length, of which one begins every `slide`, aligned to 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = durations("slide", "<=", "size", "slide must not be greater than size: rows between windows would be in none"))]
#[schemars(transform = durations("offset", "<", "slide", "offset must be less than slide"))]
pub struct HoppingWindow {
    /// The length. Example: `10m`.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub size: DurationStr,
    /// How far apart windows begin; not more than `size`. What a window costs grows with `size` divided by the greatest
    /// common divisor of both, so choose a `slide` that divides `size`. Example: `1m`.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub slide: DurationStr,
    /// By how much each window begins later than the alignment says; less than `slide`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<DurationStr>,
}

/// For each row, the rows of its key in the time that ends with it: `(t - range, t]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollingWindow {
    /// The length. Example: `1h`.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub range: DurationStr,
}

/// Rows of a key of which none is `gap` or more after the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionWindow {
    /// The silence that ends a session. Example: `30m`.
    #[schemars(extend("pattern" = POSITIVE_PATTERN))]
    pub gap: DurationStr,
}

/// What happens to rows that come after their window is closed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LateRows {
    /// They are dropped.
    #[default]
    Drop,
    /// They go to the side output `<transform>.late`.
    SideOutput,
}
