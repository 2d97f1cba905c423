//! What events warn of, while it holds. They stay for an hour, and what they warn of need not: the last event decides, of those that
//! warn and those that show that the object has come further.

use k8s_openapi::api::events::v1::Event;
use millrace_stream::Timestamp;

/// Of which object warnings are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regarding {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: one of that name before it is another.
    pub uid: Option<String>,
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warned {
    /// What it says.
    pub message: String,
    /// When it was given last, by the clock of who gave it.
    pub at: Timestamp,
}

/// What says that an object has come further than where the warnings before were given.
const PROGRESS: [&str; 6] = ["SuccessfulCreate", "SuccessfulDelete", "Pulling", "Pulled", "Created", "Started"];

/// The warning that holds, of an object's events: the last, unless one that shows progress came after it.
pub fn last_warning(events: impl IntoIterator<Item = Event>, uid: Option<&str>) -> Option<Warned> {
    let of_it = events.into_iter().filter(|event| {
        let of = event.regarding.as_ref().and_then(|regarding| regarding.uid.as_deref());
        of.zip(uid).is_none_or(|(of, uid)| of == uid)
    });
    let is_warning = |event: &Event| event.type_.as_deref() == Some("Warning");
    let told = of_it
        .filter(|event| is_warning(event) || event.reason.as_deref().is_some_and(|reason| PROGRESS.contains(&reason)));
    let at = |event: &Event| {
        let last = event.deprecated_last_timestamp.as_ref().map(|at| at.0);
        let series = event.series.as_ref().map(|series| series.last_observed_time.0);
        let at = last.max(series).max(event.event_time.as_ref().map(|at| at.0));
        at.map_or(0, |at| u64::try_from(at.as_second()).unwrap_or_default())
    };
    // Most clocks here have whole seconds; what is deleted and cannot be made anew is warned of within one.
    let last = told.max_by_key(|event| (at(event), is_warning(event))).filter(|event| is_warning(event))?;
    Some(Warned { at: Timestamp(at(&last).saturating_mul(1_000)), message: last.note? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, reason: &str, at: &str, uid: &str) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e"}, "type": kind, "reason": reason, "note": format!("{reason} at {at}"),
            "regarding": {"kind": "StatefulSet", "name": "web", "uid": uid},
            "deprecatedLastTimestamp": format!("2024-01-01T{at}Z"), "eventTime": null,
        }))
        .unwrap()
    }

    #[test]
    fn a_warning_holds_until_there_is_progress_and_only_for_the_object_that_it_is_about() {
        let failed = |at| event("Warning", "FailedCreate", at, "new");
        let created = |at| event("Normal", "SuccessfulCreate", at, "new");
        let deleted = |at| event("Normal", "SuccessfulDelete", at, "new");
        let held = |events: &[Event]| last_warning(events.to_vec(), Some("new")).map(|warned| warned.message);
        let some = |at| Some(format!("FailedCreate at {at}"));
        assert_eq!(held(&[failed("07:29:00"), failed("07:29:30")]), some("07:29:30"));
        assert_eq!(held(&[failed("07:29:00"), created("07:29:40"), deleted("07:45:20")]), None, "it is past");
        assert_eq!(held(&[created("07:29:40"), deleted("07:45:20"), failed("07:45:20")]), some("07:45:20"));
        assert_eq!(held(&[failed("07:45:20"), deleted("07:45:20")]), some("07:45:20"), "in whatever order");
        assert_eq!(held(&[failed("07:29:00"), event("Normal", "Nominated", "07:30:00", "new")]), some("07:29:00"));
        assert_eq!(held(&[event("Warning", "FailedCreate", "07:29:00", "old")]), None, "one of that name before it");
        let warned = last_warning([failed("00:00:30")], None).unwrap();
        assert_eq!(warned.at, Timestamp(crate::testing::START.0 + 30_000));
    }
}
