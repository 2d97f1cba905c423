//! Conditions: their types, every reason that one may have, and how one is kept from one status to the next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::cluster::writer::shorten;

/// The longest message, in characters.
const MESSAGE: usize = 2_000;

macro_rules! names {
    ($(#[$of:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type { $($(#[$doc])* $name,)* }

        impl $type {
            /// All of them.
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is written.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

names! {
    /// The types of conditions.
    Type {
        /// What the object asks for is there.
        Ready,
        /// The operator, or a pod, is on the way to it.
        Reconciling,
        /// It will not come by itself.
        Stalled,
        /// The spec can be understood, and may be taken up.
        ConfigValid,
        /// Checkpoints complete.
        CheckpointHealthy,
        /// Sources can be read.
        SourcesHealthy,
        /// Sinks can be written.
        SinksHealthy,
    }
}

names! {
    /// The reasons of conditions.
    Reason {
        /// Rows flow.
        Running,
        /// Every row is read and committed.
        Finished,
        /// It is stopped because `suspend` says so.
        Suspended,
        /// It is on its way to the savepoint of a suspension.
        Suspending,
        /// Its pod does not run yet.
        Starting,
        /// Its pod takes up the last checkpoint.
        Restoring,
        /// Something failed that may pass; it starts again from the last checkpoint.
        Restarting,
        /// Nothing was heard of the runtime for so long that what it has said last is not believed.
        NotReporting,
        /// An edit is being taken up.
        Changing,
        /// No node takes its pod.
        Unschedulable,
        /// Its pod's image cannot be pulled.
        ImagePull,
        /// Its container cannot be made.
        ContainerConfig,
        /// Its container ends again and again.
        Crashing,
        /// Its container had more memory than it may.
        OutOfMemory,
        /// A source cannot be read.
        SourceFailed,
        /// A sink cannot be written or committed.
        SinkFailed,
        /// A checkpoint cannot be written or read.
        CheckpointFailed,
        /// The plan cannot run.
        PlanFailed,
        /// The runtime failed otherwise.
        RuntimeFailed,
        /// The spec cannot be understood.
        InvalidSpec,
        /// The spec names a Window or a Sink that is not there.
        UnknownReference,
        /// More than one pod is asked for.
        ReplicasUnsupported,
        /// The edit would lose state that it does not say it may lose, or changes what cannot change.
        EditRefused,
        /// The edit failed, and the revision before it runs again.
        RolledBack,
        /// An object that the Pipeline needs could not be written.
        ApplyFailed,
        /// It is deleted once its checkpoints are.
        Deleting,
        /// Nothing is done because of the annotation `millrace.dev/dry-run`.
        DryRun,
        /// The spec can be understood.
        Valid,
        /// Nothing is on its way.
        Settled,
        /// Nothing is in the way.
        NotStalled,
        /// All is well.
        Healthy,
        /// Nothing runs of which it could be said.
        NotRunning,
        /// No checkpoint has completed yet.
        NoCheckpointYet,
    }
}

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Say {
    /// Of what.
    pub of: Type,
    /// `None` for `Unknown`.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

impl Say {
    /// A condition.
    pub fn new(of: Type, status: impl Into<Option<bool>>, reason: Reason, message: impl Into<String>) -> Self {
        Self { of, status: status.into(), reason, message: message.into() }
    }
}

/// The conditions that say this; each keeps the time of its last transition from those before.
pub fn conditions(before: &[Condition], says: Vec<Say>, generation: i64, now: &Time) -> Vec<Condition> {
    let condition = |say: Say| {
        let status = say.status.map_or("Unknown", |status| if status { "True" } else { "False" });
        let old = before.iter().find(|condition| condition.type_ == say.of.name());
        let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
        Condition {
            type_: say.of.name().to_owned(),
            status: status.to_owned(),
            reason: say.reason.name().to_owned(),
            message: shorten(&say.message, MESSAGE),
            observed_generation: Some(generation),
            last_transition_time: since.unwrap_or_else(|| now.clone()),
        }
    };
    says.into_iter().map(condition).collect()
}

/// The condition of a type.
pub fn find(conditions: &[Condition], of: Type) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == of.name())
}

#[cfg(test)]
mod tests {
    use millrace_stream::Timestamp;

    use super::*;
    use crate::clock::time;

    #[test]
    fn a_condition_keeps_its_transition_time_while_its_status_stands() {
        let (t1, t2) = (time(Timestamp(1_000)), time(Timestamp(2_000)));
        let first = conditions(&[], vec![Say::new(Type::Ready, false, Reason::Starting, "a")], 1, &t1);
        let second = conditions(&first, vec![Say::new(Type::Ready, false, Reason::Crashing, "b")], 2, &t2);
        assert_eq!((second[0].last_transition_time.clone(), second[0].reason.as_str()), (t1, "Crashing"));
        let third = conditions(&second, vec![Say::new(Type::Ready, true, Reason::Running, "")], 2, &t2);
        assert_eq!(third[0].last_transition_time, t2);
    }

    #[test]
    fn every_reason_and_type_stands_in_the_docs() {
        let page = include_str!("../../docs/status.md");
        for name in Reason::ALL.iter().map(|reason| reason.name()).chain(Type::ALL.iter().map(|of| of.name())) {
            assert!(page.contains(&format!("`{name}`")), "docs/status.md lacks {name}");
        }
    }
}
