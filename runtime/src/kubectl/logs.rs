//! `kubectl millrace logs`.

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::LogParams};

use super::{
    cli::LogsArgs,
    cluster::{Cluster, refused},
};
use crate::{Failure, telemetry};

/// The runtime's container in its pods.
const CONTAINER: &str = "millrace";

/// Prints the logs of all pods of a Pipeline, each line behind its pod's name where there are several.
pub async fn show(cluster: &Cluster, args: &LogsArgs) -> Result<(), Failure> {
    let seen = cluster.observe(&args.pipeline).await?;
    if seen.pods.is_empty() {
        return Err(Failure::failed(format!("{} has no pods", args.pipeline)));
    }
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: args.follow,
        previous: args.previous,
        tail_lines: args.tail,
        ..LogParams::default()
    };
    let several = seen.pods.len() > 1;
    let mut logs = Vec::new();
    for pod in &seen.pods {
        let name = pod.name_any();
        let log = cluster.api::<Pod>().log_stream(&name, &params).await.map_err(refused)?;
        let before = if several { format!("{name}: ") } else { String::new() };
        logs.push(log.lines().map_ok(move |line| format!("{before}{line}")).boxed_local());
    }
    let mut lines = stream::select_all(logs);
    while let Some(line) = lines.next().await {
        let line = line.map_err(|error| Failure::failed(format!("the log has broken off: {error}")))?;
        telemetry::say(&line);
    }
    Ok(())
}
