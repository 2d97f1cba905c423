//! An API server for tests, of objects with a resourceVersion, that can be told to fail.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::api::Cluster;

/// What the server does instead of what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Says that it is not available.
    Refuse,
    /// Does it, and says that it failed.
    DoAndFail,
    /// Lets somebody else write first.
    Overtake,
}

#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    version: u64,
    mischief: VecDeque<Mischief>,
    writes: u64,
    reads: u64,
}

/// The server.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<Server>>);

impl FakeApi {
    /// A server that has a Pipeline's objects, as the operator makes them, and the way to it.
    pub async fn start(pipeline: &str) -> (Self, Cluster) {
        let api = Self::default();
        for name in ["checkpoint", "report"] {
            api.put(&format!("configmaps/{pipeline}-{name}"), json!({"apiVersion": "v1", "kind": "ConfigMap"}));
        }
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {}});
        api.put(&format!("leases/{pipeline}-coordinator"), lease);
        let one = get(read).put(replace).patch(merge);
        let app = Router::new()
            .route("/api/v1/namespaces/{namespace}/{kind}/{name}", one.clone())
            .route("/apis/coordination.k8s.io/v1/namespaces/{namespace}/{kind}/{name}", one)
            .with_state(api.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        (api, Cluster::over(Client::try_from(config).unwrap(), "here", pipeline))
    }

    /// The next requests that write meet these.
    pub fn next(&self, mischief: impl IntoIterator<Item = Mischief>) {
        self.0.lock().unwrap().mischief.extend(mischief);
    }

    /// A value in an object, `configmaps/web-report` say.
    pub fn value(&self, object: &str, pointer: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(object)?.pointer(pointer).cloned()
    }

    /// Requests so far: those that read, those that write.
    pub fn requests(&self) -> (u64, u64) {
        let server = self.0.lock().unwrap();
        (server.reads, server.writes)
    }

    /// Takes an object away.
    pub fn remove(&self, object: &str) {
        self.0.lock().unwrap().objects.remove(object);
    }

    fn put(&self, object: &str, value: Value) {
        self.0.lock().unwrap().write(object, value);
    }
}

impl Server {
    fn write(&mut self, object: &str, mut value: Value) -> Value {
        self.version += 1;
        value["metadata"]["name"] = json!(object.rsplit('/').next());
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(object.to_owned(), value.clone());
        value
    }

    fn touch(&mut self, object: &str) {
        if let Some(mut value) = self.objects.get(object).cloned() {
            value["metadata"]["annotations"]["touched"] = json!(self.version.to_string());
            self.write(object, value);
        }
    }
}

type Address = Path<(String, String, String)>;

fn failed(code: StatusCode, reason: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": reason,
    });
    (code, Json(status)).into_response()
}

async fn read(State(api): State<FakeApi>, Path((_, kind, name)): Address) -> Response {
    let mut server = api.0.lock().unwrap();
    server.reads += 1;
    match server.objects.get(&format!("{kind}/{name}")) {
        Some(value) => Json(value.clone()).into_response(),
        None => failed(StatusCode::NOT_FOUND, "NotFound"),
    }
}

async fn replace(State(api): State<FakeApi>, Path((_, kind, name)): Address, Json(value): Json<Value>) -> Response {
    write(&api, &format!("{kind}/{name}"), |_| value)
}

async fn merge(State(api): State<FakeApi>, Path((_, kind, name)): Address, Json(patch): Json<Value>) -> Response {
    write(&api, &format!("{kind}/{name}"), |mut value| {
        // Only what reports do: keys of `data`, of which a null takes one away.
        for (key, text) in patch["data"].as_object().into_iter().flatten() {
            if !text.is_null() {
                value["data"][key] = text.clone();
            } else if let Some(data) = value["data"].as_object_mut() {
                data.remove(key);
            }
        }
        value["metadata"]["resourceVersion"] = patch["metadata"]["resourceVersion"].clone();
        value
    })
}

fn write(api: &FakeApi, object: &str, change: impl FnOnce(Value) -> Value) -> Response {
    let mut server = api.0.lock().unwrap();
    server.writes += 1;
    let mischief = server.mischief.pop_front();
    match mischief {
        Some(Mischief::Refuse) => return failed(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        Some(Mischief::Overtake) => server.touch(object),
        Some(Mischief::DoAndFail) | None => {}
    }
    let Some(current) = server.objects.get(object).cloned() else {
        return failed(StatusCode::NOT_FOUND, "NotFound");
    };
    let value = change(current.clone());
    let given = &value["metadata"]["resourceVersion"];
    if !given.is_null() && *given != current["metadata"]["resourceVersion"] {
        return failed(StatusCode::CONFLICT, "Conflict");
    }
    let written = server.write(object, value);
    match mischief {
        Some(Mischief::DoAndFail) => failed(StatusCode::GATEWAY_TIMEOUT, "Timeout"),
        _ => Json(written).into_response(),
    }
}
