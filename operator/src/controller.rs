//! Takes objects from the queue and reconciles them, several at a time, each by one at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
};

use crate::{
    backoff::{self, Dice},
    cluster::{
        key::{Key, Kind},
        writer::{WriteError, Writer},
    },
    context::Context,
    pipeline,
    queue::Queue,
    sink,
    telemetry::chain,
    window,
};

/// Works for as long as it is polled. What is under way when it is dropped is dropped at its next wait.
pub async fn run<W: Writer>(
    context: Arc<Context<W>>,
    mut asked: mpsc::Receiver<Vec<Key>>,
    concurrency: usize,
    mut dice: Dice,
) {
    let mut queue = Queue::default();
    let mut tasks: JoinSet<(Key, Outcome)> = JoinSet::new();
    let mut running: HashMap<Id, Key> = HashMap::new();
    loop {
        let now = context.clock.monotonic();
        while tasks.len() < concurrency
            && let Some(key) = queue.take(now)
        {
            let (context, of) = (Arc::clone(&context), key.clone());
            let task = tasks.spawn(async move {
                let outcome = reconcile(&context, &of).await;
                (of, outcome)
            });
            running.insert(task.id(), key);
        }
        observe(&context, &queue, now, tasks.len());
        let wait = queue.next_due().map(|due| due.saturating_sub(now)).filter(|_| tasks.len() < concurrency);
        tokio::select! {
            keys = asked.recv() => {
                let Some(keys) = keys else { return };
                let now = context.clock.monotonic();
                keys.into_iter().for_each(|key| queue.add(key, now));
            }
            Some(done) = tasks.join_next_with_id() => {
                let now = context.clock.monotonic();
                match done {
                    Ok((id, (key, outcome))) => {
                        running.remove(&id);
                        let (again, failed) = match outcome {
                            Outcome::Done(again) => (again, false),
                            Outcome::Failed(error, attempt) => (backoff::after(&error, attempt, &mut dice), true),
                        };
                        queue.done(key, now, again, failed);
                    }
                    // One object that makes us panic is no reason to leave the others alone.
                    Err(error) => if let Some(key) = running.remove(&error.id()) {
                        tracing::error!(object = %key, %error, "a reconcile has panicked");
                        context.metrics.reconciled(key.kind.name(), Duration::ZERO, Some("panicked"));
                        queue.done(key, now, Some(AFTER_PANIC), true);
                    }
                }
            }
            () = tokio::time::sleep(wait.unwrap_or(IDLE)), if wait.is_some() => {}
        }
    }
}

/// How long an object waits whose reconcile has panicked.
const AFTER_PANIC: Duration = Duration::from_secs(300);
/// Without anything due, events wake the loop.
const IDLE: Duration = Duration::from_secs(3_600);

fn observe<W: Writer>(context: &Context<W>, queue: &Queue, now: Duration, running: usize) {
    let objects = [
        ("Pipeline", context.stores.pipelines.len()),
        ("Window", context.stores.windows.len()),
        ("Sink", context.stores.sinks.len()),
    ];
    context.metrics.queue(queue.waiting(now), running, objects);
}

/// What came of a reconcile.
#[derive(Debug)]
pub enum Outcome {
    /// It is done; it is to be looked at again after this long.
    Done(Option<Duration>),
    /// The so-many-th error in a row.
    Failed(WriteError, u32),
}

/// Reconciles one object, and remembers what there is to remember.
pub async fn reconcile<W: Writer>(context: &Context<W>, key: &Key) -> Outcome {
    let started = context.clock.monotonic();
    let Some(uid) = uid(context, key) else {
        context.notes.forget(key);
        return Outcome::Done(None);
    };
    let mut note = context.notes.take(key, &uid);
    let result = match key.kind {
        Kind::Pipeline => pipeline::reconcile(context, key, &mut note).await,
        Kind::Window => window::reconcile(context, key, &mut note).await,
        Kind::Sink => sink::reconcile(context, key, &mut note).await,
    };
    let took = context.clock.monotonic().saturating_sub(started);
    let outcome = match result {
        Ok(again) => {
            note.errors = 0;
            context.metrics.reconciled(key.kind.name(), took, None);
            Outcome::Done(again)
        }
        Err(error) => {
            note.errors += 1;
            context.metrics.reconciled(key.kind.name(), took, Some(error.kind()));
            match error {
                // What was deleted meanwhile, or is another's to write now, is no news.
                WriteError::Gone(_) | WriteError::NotLeading => tracing::debug!(object = %key, error = %chain(&error)),
                _ => {
                    tracing::warn!(object = %key, attempt = note.errors, error = %chain(&error), "could not be reconciled")
                }
            }
            Outcome::Failed(error, note.errors)
        }
    };
    context.notes.put(key, note);
    outcome
}

/// The UID of an object that is there.
fn uid<W: Writer>(context: &Context<W>, key: &Key) -> Option<String> {
    use crate::cluster::stores::get;
    let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
    let stores = &context.stores;
    let metadata = match key.kind {
        Kind::Pipeline => get(&stores.pipelines, namespace, name)?.metadata.clone(),
        Kind::Window => get(&stores.windows, namespace, name)?.metadata.clone(),
        Kind::Sink => get(&stores.sinks, namespace, name)?.metadata.clone(),
    };
    Some(metadata.uid.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
    use kube::core::ApiResource;
    use serde_json::Value;

    use super::*;
    use crate::{
        cluster::{
            warning::{Regarding, Warned},
            writer::{Happening, Wanted},
        },
        context::Notes,
        metrics::Metrics,
        plans::Plans,
        queue::Trigger,
        room::Room,
        testing::{World, pipeline},
    };

    /// Writes as another does, but panics over one object.
    struct Panics<W>(W);

    impl<W: Writer> Writer for Panics<W> {
        async fn apply(&self, wanted: &Wanted, on: Option<&str>) -> Result<Value, WriteError> {
            assert_ne!(wanted.name, "bad", "as a mistake of ours would");
            self.0.apply(wanted, on).await
        }

        async fn create(&self, wanted: &Wanted) -> Result<(), WriteError> {
            self.0.create(wanted).await
        }

        async fn is_terminating(&self, namespace: &str) -> bool {
            self.0.is_terminating(namespace).await
        }

        async fn hold(&self, key: &Key, uid: &str, is_held: bool) -> Result<(), WriteError> {
            self.0.hold(key, uid, is_held).await
        }

        async fn read(&self, wanted: &Wanted) -> Result<Option<Value>, WriteError> {
            self.0.read(wanted).await
        }

        async fn list(&self, resource: &ApiResource, namespace: &str, labels: &str) -> Result<Vec<Value>, WriteError> {
            self.0.list(resource, namespace, labels).await
        }

        async fn delete(
            &self,
            resource: &ApiResource,
            namespace: &str,
            name: &str,
            uid: &str,
        ) -> Result<(), WriteError> {
            self.0.delete(resource, namespace, name, uid).await
        }

        async fn replace(&self, wanted: &Wanted, on: &str) -> Result<(), WriteError> {
            self.0.replace(wanted, on).await
        }

        async fn own(&self, wanted: &Wanted, on: &str, owners: &[OwnerReference]) -> Result<(), WriteError> {
            self.0.own(wanted, on, owners).await
        }

        async fn amend(&self, namespace: &str, name: &str, spec: &Value) -> Result<(), WriteError> {
            self.0.amend(namespace, name, spec).await
        }

        async fn status(&self, key: &Key, uid: &str, status: &Value) -> Result<Value, WriteError> {
            self.0.status(key, uid, status).await
        }

        async fn tell(&self, about: &ObjectReference, what: &Happening) -> Result<(), WriteError> {
            self.0.tell(about, what).await
        }

        async fn warning(&self, of: &Regarding) -> Result<Option<Warned>, WriteError> {
            self.0.warning(of).await
        }
    }

    #[tokio::test]
    async fn a_reconcile_that_panics_leaves_the_others_alone() {
        let mut world = World::new();
        for name in ["bad", "good"] {
            world.put("Pipeline", pipeline(name).transform("t", "SELECT auction FROM bid").build());
        }
        let context = Arc::new(Context {
            stores: world.context.stores.clone(),
            writer: Panics(Arc::clone(&world.context.writer)),
            clock: world.clock.clone(),
            metrics: Metrics::new(),
            runtime_image: "millrace:test".to_owned(),
            plans: Plans::default(),
            room: Room::default(),
            notes: Notes::default(),
            is_leaving: std::sync::atomic::AtomicBool::default(),
        });
        let (trigger, asked) = Trigger::new();
        trigger.send(context.stores.keys()).await;
        let metrics = Arc::clone(&context.metrics);
        let done = async {
            while world.get("StatefulSet", "good").is_none() || !metrics.page().contains("error=\"panicked\"} 1") {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = run(context, asked, 1, Dice::of("test")) => panic!("it has ended"),
            done = tokio::time::timeout(Duration::from_secs(60), done) => done.unwrap(),
        }
        assert!(world.get("StatefulSet", "bad").is_none());
    }
}
