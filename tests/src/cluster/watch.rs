//! What becomes of objects, version by version.

use std::{
    io::{BufReader, Read},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::Value;

use super::{Namespace, Tool};
use crate::Deadline;

/// Every version of some objects of a kind, since it was made. A version that is followed by another at once may be missing, but
/// none comes out of turn.
#[derive(Debug)]
pub struct Watch {
    what: String,
    child: Child,
    seen: Arc<Mutex<Vec<Arc<Value>>>>,
}

impl Namespace<'_> {
    /// Watches one object, or all of a kind.
    pub fn watch(&self, kind: &str, name: Option<&str>) -> Watch {
        // One that is not there yet is waited for.
        let named = name.map(|name| format!("--field-selector=metadata.name={name}"));
        let args = ["get", kind].into_iter().chain(named.as_deref()).chain(["--watch", "-o", "json"]);
        Watch::start(format!("{kind} {}", name.unwrap_or("*")), self.kubectl(args))
    }
}

impl Watch {
    fn start(what: String, tool: Tool) -> Self {
        let Tool { mut command, .. } = tool;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("kubectl can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let seen = Arc::default();
        thread::spawn({
            let seen: Arc<Mutex<Vec<Arc<Value>>>> = Arc::clone(&seen);
            move || note(stdout, &seen)
        });
        Self { what, child, seen }
    }

    /// All versions until now.
    pub fn all(&self) -> Vec<Value> {
        self.versions().iter().map(|version| (**version).clone()).collect()
    }

    /// The same, without copies of them.
    pub fn versions(&self) -> Vec<Arc<Value>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many versions there are until now.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The newest version.
    pub fn last(&self) -> Option<Value> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last().map(|last| (**last).clone())
    }

    /// The newest version of one of several objects.
    pub fn newest(&self, name: &str) -> Option<Arc<Value>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().rfind(|object| object["metadata"]["name"] == name).cloned()
    }

    /// Waits until the newest version is like this.
    ///
    /// # Panics
    ///
    /// With the newest version, if it does not become so.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let newest = || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.last().filter(|last| is(last)).map(|last| (**last).clone())
        };
        let deadline = Deadline::secs(120);
        deadline.poll(newest).unwrap_or_else(|| {
            let last = self.last().map(|last| format!("{:#}", told(last)));
            let (waited, what) = (deadline.waited(), format!("{} to come to {what}", self.what));
            panic!("waited {waited:?} in vain for {what}; it is\n{}", last.unwrap_or_default())
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn note(stdout: impl Read, seen: &Mutex<Vec<Arc<Value>>>) {
    for object in serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter() {
        let Ok(object) = object else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(object));
    }
}

/// Without what nobody wants to read.
fn told(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
    object
}

/// An object's version. The versions of all objects of a cluster are of one order.
///
/// # Panics
///
/// If the object has none.
pub fn version(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str().expect("objects of a cluster have a version");
    version.parse().expect("a version is a number of etcd")
}

/// A condition of an object: its status, reason and message, in one line.
pub fn condition(object: &Value, of: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == of)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}
