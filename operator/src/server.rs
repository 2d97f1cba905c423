//! The HTTP server: metrics and health.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Serves on an address, and answers which one it is.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let app = Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"))
        .with_state(metrics);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::warn!(%error, "the HTTP server has ended");
        }
    });
    Ok(bound)
}

async fn page(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, form)], metrics.page())
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> (StatusCode, &'static str) {
    match metrics.is_ready() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    use super::*;

    /// The status and the body of a page.
    async fn get(address: SocketAddr, path: &'static str) -> (u16, String) {
        let asked = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = asked.await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn a_replica_is_healthy_from_the_start_and_ready_while_it_leads_or_could() {
        let metrics = Metrics::new();
        let address = listen("127.0.0.1:0".parse().unwrap(), Arc::clone(&metrics)).await.unwrap();
        assert_eq!(get(address, "/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(get(address, "/readyz").await.0, 503);
        metrics.follows();
        assert_eq!(get(address, "/readyz").await.0, 200);
        metrics.leads(false);
        assert_eq!(get(address, "/readyz").await.0, 503, "its stores are not filled yet");
        metrics.leads(true);
        assert_eq!(get(address, "/readyz").await.0, 200);
        metrics.rests();
        assert_eq!(get(address, "/readyz").await.0, 503);
        let (status, page) = get(address, "/metrics").await;
        assert!(status == 200 && page.contains("\nmillrace_operator_leader 0\n"), "{page}");
        assert_eq!(get(address, "/").await.0, 404);
    }
}
