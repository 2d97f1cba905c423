//! All writing to the API server, behind a trait, so that tests can count it, and behind the gate of the leader's Lease.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, ObjectReference},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::ApiResource,
};
use millrace_crds::{Pipeline, Sink, Window};
use millrace_stream::Clock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use super::error::{Rejection, WriteError};
use super::{
    key::{Key, Kind},
    raw::Raw,
    warning::{Regarding, Warned, last_warning},
};
use crate::leader::{Gate, MARGIN};

/// Whose fields ours are, in server-side apply and in events.
pub const FIELD_MANAGER: &str = "millrace-operator";
/// Keeps a Pipeline that is deleted until it is settled what becomes of its checkpoints.
pub const FINALIZER: &str = "millrace.dev/checkpoints";
/// The annotation with the hash of what was applied.
pub const APPLIED: &str = "millrace.dev/applied";

/// What the API server says where a JSON patch's test fails.
const FAILED_TEST: &str = "the server rejected our request due to an error in our request";

/// For how long a write is waited for: less than the margin of the gate, so that none is on its way when another leads.
pub const REQUEST: Duration = Duration::from_millis(MARGIN.as_millis() as u64 - 500);

/// An object as it is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its type.
    pub resource: ApiResource,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All of it, with the hash of the rest in the annotation [`APPLIED`].
    pub body: Value,
    /// That hash.
    pub hash: String,
}

impl Wanted {
    /// This object.
    pub fn new<K: Resource<DynamicType = ()> + serde::Serialize>(object: &K) -> Self {
        let mut body = json!(object);
        let hash = hash(&body);
        if let Value::Object(fields) = &mut body {
            fields.insert("apiVersion".to_owned(), json!(K::api_version(&())));
            fields.insert("kind".to_owned(), json!(K::kind(&())));
        }
        body["metadata"]["annotations"][APPLIED] = json!(hash);
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
            body,
            hash,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource.kind, self.name)
    }
}

/// The first sixteen digits of the SHA-256 of a value.
pub fn hash(value: &impl serde::Serialize) -> String {
    let digest = Sha256::digest(json!(value).to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Something that a person who looks at an object wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// In CamelCase.
    pub reason: &'static str,
    /// In a sentence.
    pub note: String,
    /// Whether it needs attention.
    pub is_warning: bool,
}

/// Writes to the API server.
///
/// Implementers write as one field manager, and nothing once the Lease is lost. A write whose outcome is unknown is an error;
/// it is safe to repeat any of them.
pub trait Writer: Send + Sync + 'static {
    /// Makes the object as it is wanted, and answers how it is. With a version: if it is still of that.
    ///
    /// # Errors
    /// Why it may not be as it is wanted; [`WriteError::Conflict`] where it is of another version, and [`WriteError::Invalid`],
    /// which nothing else answers with, where it can be no object.
    fn apply(&self, wanted: &Wanted, on: Option<&str>) -> impl Future<Output = Result<Value, WriteError>> + Send;

    /// Makes an object that is never changed.
    ///
    /// # Errors
    /// Why it may not be there; [`WriteError::Conflict`] where there is one of its name.
    fn create(&self, wanted: &Wanted) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Whether a namespace is known to be on its way to being deleted.
    fn is_terminating(&self, namespace: &str) -> impl Future<Output = bool> + Send;

    /// Puts [`FINALIZER`] on the Pipeline of this UID, or takes it off; finalizers of others stay.
    ///
    /// # Errors
    /// Why it may not have been; [`WriteError::Conflict`] where the Pipeline is gone, or is another.
    fn hold(&self, key: &Key, uid: &str, is_held: bool) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Reads an object that is not watched.
    ///
    /// # Errors
    /// Why it could not be read.
    fn read(&self, wanted: &Wanted) -> impl Future<Output = Result<Option<Value>, WriteError>> + Send;

    /// Reads the objects of a type that have these labels, and are not watched.
    ///
    /// # Errors
    /// Why they could not be read.
    fn list(
        &self,
        resource: &ApiResource,
        namespace: &str,
        labels: &str,
    ) -> impl Future<Output = Result<Vec<Value>, WriteError>> + Send;

    /// Deletes an object if it is still the one of this UID, once all that it has made is gone. That there is none any more is
    /// no error.
    ///
    /// # Errors
    /// Why it may not be deleted; [`WriteError::Conflict`] where it is another.
    fn delete(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Makes the object that there is as it is wanted, where it cannot be applied over what others have written to it: of each
    /// list that is wanted nothing else stays. If it is still of this version.
    ///
    /// # Errors
    /// As for [`Writer::apply`].
    fn replace(&self, wanted: &Wanted, on: &str) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Has these own an object, and nobody else, if it is still of this version.
    ///
    /// # Errors
    /// Why they may not; [`WriteError::Conflict`] where it is of another version, and [`WriteError::Gone`] where there is none.
    fn own(
        &self,
        wanted: &Wanted,
        on: &str,
        owners: &[OwnerReference],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Changes these fields of a StatefulSet's spec, and nothing else of it.
    ///
    /// # Errors
    /// Why they may not have been.
    fn amend(&self, namespace: &str, name: &str, spec: &Value) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Replaces the status of the object of ours of this UID, and answers how it is stored.
    ///
    /// # Errors
    /// Why it may not be replaced; [`WriteError::Conflict`] where the object is another of its name.
    fn status(&self, key: &Key, uid: &str, status: &Value) -> impl Future<Output = Result<Value, WriteError>> + Send;

    /// Tells something about an object.
    ///
    /// # Errors
    /// Why it may not be told.
    fn tell(&self, about: &ObjectReference, what: &Happening) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Reads what the last warning about an object of somebody else's says, unless the object has come further since.
    ///
    /// # Errors
    /// Why it could not be read.
    fn warning(&self, of: &Regarding) -> impl Future<Output = Result<Option<Warned>, WriteError>> + Send;
}

/// Writes to a real API server, while the gate is open.
pub struct ApiWriter {
    client: Client,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    identity: String,
}

impl ApiWriter {
    /// A writer through this client.
    pub fn new(client: Client, gate: Arc<Gate>, clock: Arc<dyn Clock>, identity: &str) -> Self {
        Self { client, gate, clock, identity: identity.to_owned() }
    }

    fn api(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// Replaces a status. What comes back is read as watches read it: it may be anything.
    ///
    /// An applied status goes to whatever has the name: the API server looks at no UID there. So this is a JSON patch (RFC 6902),
    /// which tests it.
    async fn write_status<K>(&self, key: &Key, uid: &str, status: &Value) -> Result<Value, WriteError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + fmt::Debug + 'static,
    {
        let api: Api<Raw<K>> = Api::namespaced(self.client.clone(), &key.namespace);
        let operations = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        let patch = serde_json::from_value(operations)
            .map_err(|error| WriteError::Rejected(format!("the status of {key} is no JSON patch: {error}")))?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let written = self.guarded(api.patch_status(&key.name, &params, &Patch::Json::<()>(patch))).await;
        match written {
            Err(WriteError::Invalid(rejection)) if rejection.message.starts_with(FAILED_TEST) => {
                Err(WriteError::Conflict(format!("{key} is another than the one of UID {uid}")))
            }
            written => Ok(written?.status),
        }
    }

    /// Lays this over an object, whose lists it replaces (RFC 7396).
    async fn merge(&self, of: &Wanted, body: Value) -> Result<(), WriteError> {
        let api = self.api(&of.namespace, &of.resource);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.guarded(api.patch(&of.name, &params, &Patch::Merge(body))).await.map(drop)
    }

    /// See [`guarded`].
    async fn guarded<T>(&self, request: impl Future<Output = kube::Result<T>> + Send) -> Result<T, WriteError> {
        guarded(&self.gate, request).await
    }
}

/// Does a request while this replica leads, and does not wait for it for longer than that is certain. It is looked at the gate
/// before every step of the request: a process that was frozen in the middle of one goes no further with it.
async fn guarded<T>(gate: &Gate, request: impl Future<Output = kube::Result<T>> + Send) -> Result<T, WriteError> {
    let pass = gate.pass().ok_or(WriteError::NotLeading)?;
    let mut request = pin!(tokio::time::timeout(REQUEST, request));
    let answer = poll_fn(|context| match pass.is_good() {
        true => request.as_mut().poll(context).map(Ok),
        false => Poll::Ready(Err(WriteError::NotLeading)),
    });
    Ok(answer.await?.map_err(|_| WriteError::TimedOut)??)
}

impl Writer for ApiWriter {
    async fn apply(&self, wanted: &Wanted, on: Option<&str>) -> Result<Value, WriteError> {
        let api = self.api(&wanted.namespace, &wanted.resource);
        let mut body = Cow::Borrowed(&wanted.body);
        if let Some(version) = on {
            body.to_mut()["metadata"]["resourceVersion"] = json!(version);
        }
        let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&*body));
        Ok(json!(self.guarded(api.patch(&wanted.name, &params, &patch)).await?))
    }

    async fn create(&self, wanted: &Wanted) -> Result<(), WriteError> {
        let api = self.api(&wanted.namespace, &wanted.resource);
        let object: DynamicObject = serde_json::from_value(wanted.body.clone())
            .map_err(|error| WriteError::Rejected(format!("{wanted} is no object: {error}")))?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.guarded(api.create(&params, &object)).await.map(drop).map_err(WriteError::without_fields)
    }

    async fn is_terminating(&self, namespace: &str) -> bool {
        // Namespaces are not the operator's to read; whether one takes objects still is found out by trying.
        let metadata = ObjectMeta { name: Some(format!("{FIELD_MANAGER}-try")), ..ObjectMeta::default() };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let tried = self.guarded(api.create(&params, &ConfigMap { metadata, ..ConfigMap::default() })).await;
        matches!(tried, Err(WriteError::Terminating(_)))
    }

    async fn hold(&self, key: &Key, uid: &str, is_held: bool) -> Result<(), WriteError> {
        let api: Api<Raw<Pipeline>> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut metadata = json!({"name": key.name, "namespace": key.namespace, "uid": uid});
        if is_held {
            metadata["finalizers"] = json!([FINALIZER]);
        }
        // What is applied no more goes, as far as nobody else has applied it.
        let body = json!({"apiVersion": Pipeline::api_version(&()), "kind": "Pipeline", "metadata": metadata});
        let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&body));
        self.guarded(api.patch(&key.name, &params, &patch)).await.map(drop).map_err(WriteError::without_fields)
    }

    async fn read(&self, wanted: &Wanted) -> Result<Option<Value>, WriteError> {
        let api = self.api(&wanted.namespace, &wanted.resource);
        let object = self.guarded(api.get_opt(&wanted.name)).await?;
        Ok(object.map(|object| json!(object)))
    }

    async fn list(&self, resource: &ApiResource, namespace: &str, labels: &str) -> Result<Vec<Value>, WriteError> {
        let listed = self.guarded(self.api(namespace, resource).list(&ListParams::default().labels(labels))).await?;
        Ok(listed.into_iter().map(|object| json!(object)).collect())
    }

    async fn delete(&self, resource: &ApiResource, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::foreground()
        };
        match self.guarded(self.api(namespace, resource).delete(name, &params)).await {
            Ok(_) | Err(WriteError::Gone(_)) => Ok(()),
            Err(error) => Err(error.without_fields()),
        }
    }

    async fn replace(&self, wanted: &Wanted, on: &str) -> Result<(), WriteError> {
        let mut body = wanted.body.clone();
        body["metadata"]["resourceVersion"] = json!(on);
        self.merge(wanted, body).await
    }

    async fn own(&self, wanted: &Wanted, on: &str, owners: &[OwnerReference]) -> Result<(), WriteError> {
        let body = json!({"metadata": {"resourceVersion": on, "ownerReferences": owners}});
        self.merge(wanted, body).await.map_err(WriteError::without_fields)
    }

    async fn amend(&self, namespace: &str, name: &str, spec: &Value) -> Result<(), WriteError> {
        let stateful_set = ApiResource::erase::<k8s_openapi::api::apps::v1::StatefulSet>(&());
        let api = self.api(namespace, &stateful_set);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": spec}));
        self.guarded(api.patch(name, &params, &patch)).await.map(drop).map_err(WriteError::without_fields)
    }

    async fn status(&self, key: &Key, uid: &str, status: &Value) -> Result<Value, WriteError> {
        let written = match key.kind {
            Kind::Pipeline => self.write_status::<Pipeline>(key, uid, status).await,
            Kind::Window => self.write_status::<Window>(key, uid, status).await,
            Kind::Sink => self.write_status::<Sink>(key, uid, status).await,
        };
        written.map_err(WriteError::without_fields)
    }

    async fn tell(&self, about: &ObjectReference, what: &Happening) -> Result<(), WriteError> {
        let now = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::from_millisecond(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        // No two of one object's have a name in common: a name is made of what is told and when.
        let mark = hash(&(what.reason, &what.note, now.as_millisecond()));
        let namespace = about.namespace.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{mark}", about.name.as_deref().unwrap_or_default())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            type_: Some(if what.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(what.reason.to_owned()),
            note: Some(shorten(&what.note, 1_000)),
            action: Some("Reconcile".to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            event_time: Some(MicroTime(now)),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        self.guarded(api.create(&PostParams::default(), &event)).await.map(drop)
    }

    async fn warning(&self, of: &Regarding) -> Result<Option<Warned>, WriteError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &of.namespace);
        let fields = format!("regarding.kind={},regarding.name={}", of.kind, of.name);
        let events = self.guarded(api.list(&ListParams::default().fields(&fields))).await?;
        Ok(last_warning(events, of.uid.as_deref()))
    }
}

/// The text, cut where it has more characters than that, and without those that a terminal would act on.
pub fn shorten(text: &str, chars: usize) -> String {
    let is_printed = |c: char| !c.is_control() || c == '\n';
    let mut short: String = text.chars().take(chars).map(|c| if is_printed(c) { c } else { '\u{fffd}' }).collect();
    if text.char_indices().nth(chars).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use millrace_stream::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn a_text_is_cut_and_does_nothing_to_a_terminal() {
        assert_eq!(shorten("née", 3), "née");
        assert_eq!(shorten("née!", 3), "née…");
        assert_eq!(shorten("a\u{1b}[31m\u{7}\nb", 99), "a\u{fffd}[31m\u{fffd}\nb");
    }

    #[tokio::test]
    async fn a_request_goes_no_further_once_another_may_lead() {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let gate = Gate::new(clock.clone());
        let steps = std::sync::atomic::AtomicU32::new(0);
        let request = || {
            poll_fn(|_| {
                steps.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Poll::<kube::Result<()>>::Pending
            })
        };
        assert!(matches!(guarded(&gate, request()).await, Err(WriteError::NotLeading)));
        gate.open_until(Duration::from_secs(3));
        let mut writing = Box::pin(guarded(&gate, request()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(writing.as_mut().poll(&mut context).is_pending());
        // Here the process is frozen.
        clock.advance(Duration::from_secs(3));
        let woken = writing.as_mut().poll(&mut context);
        assert!(matches!(woken, Poll::Ready(Err(WriteError::NotLeading))));
        assert_eq!(steps.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}
