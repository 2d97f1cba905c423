//! The HTTP server: metrics, health, the overview, and savepoints.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
    serve::Listener,
};
use millrace_engine::Command;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::{connections::Connections, exposition, overview::Overview};

/// Whether the process does what it is there for, and what it does, in a word.
pub type Readiness = Arc<dyn Fn() -> (bool, String) + Send + Sync>;

#[derive(Clone)]
struct App {
    overview: Arc<Overview>,
    readiness: Readiness,
}

/// Serves on an address, and answers which one it is.
pub async fn listen(address: SocketAddr, overview: Arc<Overview>, readiness: Readiness) -> std::io::Result<SocketAddr> {
    let listener = Connections::listen(address).await?;
    let bound = listener.local_addr()?;
    // Savepoints are asked for over the control socket, which only the folder's owner can reach.
    let app = readers(overview, readiness);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the HTTP server has ended");
        }
    });
    Ok(bound)
}

/// Everything that can be asked over the control socket.
pub fn control(overview: Arc<Overview>, readiness: Readiness, commands: mpsc::Sender<Command>) -> Router {
    let writers = Router::new().route("/api/v1/savepoints", post(savepoint)).with_state(commands);
    readers(overview, readiness).merge(writers)
}

fn readers(overview: Arc<Overview>, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/api/v1/pipeline", get(pipeline))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz and /api/v1/pipeline\n"))
        .with_state(App { overview, readiness })
}

/// OpenMetrics for those who ask for it, Prometheus' own text form for everybody else.
async fn metrics(State(app): State<App>, headers: HeaderMap) -> impl IntoResponse {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accepted| accepted.to_str().ok());
    let is_open = accepted.into_iter().any(|accepted| accepted.contains("application/openmetrics-text"));
    let page = app.overview.metrics_page();
    if is_open {
        ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page)
    } else {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition::as_prometheus(&page))
    }
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    let (is_ready, word) = (app.readiness)();
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{word}\n"))
}

async fn pipeline(State(app): State<App>) -> impl IntoResponse {
    Json(app.overview.report())
}

async fn savepoint(State(commands): State<mpsc::Sender<Command>>) -> (StatusCode, Json<serde_json::Value>) {
    let (reply, answer) = oneshot::channel();
    let gone = || (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": "the pipeline is ending"})));
    if commands.send(Command::Savepoint(reply)).await.is_err() {
        return gone();
    }
    match answer.await {
        Ok(Ok(epoch)) => {
            let name = millrace_engine::recover::savepoint_name(epoch);
            (StatusCode::CREATED, Json(json!({"savepoint": name, "epoch": epoch})))
        }
        Ok(Err(why)) => (StatusCode::CONFLICT, Json(json!({"error": why}))),
        Err(_) => gone(),
    }
}
