//! What is asked of a Pipeline by a field of its spec, or by ending its pods, and the waiting for what comes of it.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{ResourceExt, api::DeleteParams};
use millrace_crds::{Phase, RETRY};
use serde_json::json;

use super::{
    cli::AskArgs,
    cluster::{Cluster, Observed, Unread, refused},
    problems,
};
use crate::{Failure, telemetry};

/// How often a Pipeline that is waited for is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// For so long an answer of the API server is waited for.
const ANSWER: Duration = Duration::from_secs(15);

/// Asks for a savepoint.
pub async fn savepoint(cluster: &Cluster, args: &AskArgs) -> Result<(), Failure> {
    let seen = cluster.observe(&args.pipeline).await?;
    if matches!(seen.status.phase, Some(Phase::Suspended | Phase::Finished)) {
        let phase = seen.status.phase.map(|phase| format!("{phase:?}").to_lowercase()).unwrap_or_default();
        let advice = "its last checkpoint stands; `kubectl millrace resume` lets a suspended one go on";
        return Err(Failure::failed(format!("{} is {phase} and takes no savepoint", args.pipeline)).advise(advice));
    }
    if let Some(why) = cannot_begin(&seen) {
        let nothing = format!("{} has never run: there is nothing that a savepoint could be taken of", args.pipeline);
        return Err(Failure::failed(nothing).advise(why));
    }
    // A name that nobody has used; nothing is read out of it.
    let token = format!("kubectl-{}", seen.object.metadata.resource_version.unwrap_or_default());
    cluster.change(&args.pipeline, &json!({"spec": {"savepoint": {"token": token}}})).await?;
    if args.no_wait {
        telemetry::say(&format!("asked {} for a savepoint, with the token {token}", args.pipeline));
        return Ok(());
    }
    let said = wait(cluster, args, "the savepoint", |seen| {
        let said = seen.report.as_ref().and_then(|report| report.savepoint.as_ref());
        said.filter(|said| said.token == token).cloned()
    })
    .await?;
    match (said.name, said.error) {
        (Some(name), None) => {
            telemetry::say(&name);
            Ok(())
        }
        (_, error) => Err(Failure::failed(format!("no savepoint: {}", error.unwrap_or_default()))),
    }
}

/// What comes of asking a Pipeline to stop or to go on.
enum Ended {
    Done,
    /// Nothing is left that could be stopped, or go on.
    Finished,
    /// It cannot begin, for this reason.
    NeverRan(String),
}

/// Stops a Pipeline at a savepoint, or lets it go on.
pub async fn suspend(cluster: &Cluster, args: &AskArgs, suspend: bool) -> Result<(), Failure> {
    let changed = cluster.change(&args.pipeline, &json!({"spec": {"suspend": suspend}})).await?;
    let generation = changed.metadata.generation.unwrap_or_default();
    let (done, doing) = if suspend { ("is suspended", "its suspension") } else { ("runs", "it to run") };
    if !args.no_wait {
        let ended = wait(cluster, args, doing, |seen| {
            if let Some(why) = cannot_begin(seen).filter(|_| seen.generation() >= generation) {
                return Some(Ended::NeverRan(why.to_owned()));
            }
            let is_seen = seen.status.observed_generation.is_some_and(|observed| observed >= generation);
            let ended = match seen.status.phase {
                Some(Phase::Suspended) if suspend => Ended::Done,
                Some(Phase::Running) if !suspend => Ended::Done,
                Some(Phase::Finished) => Ended::Finished,
                _ => return None,
            };
            is_seen.then_some(ended)
        })
        .await?;
        match ended {
            Ended::Done => {}
            Ended::NeverRan(why) if !suspend => {
                return Err(Failure::failed(format!("{} cannot run", args.pipeline)).advise(why));
            }
            Ended::NeverRan(_) => {
                telemetry::say(&format!("{} has never run, and is not started", args.pipeline));
                return Ok(());
            }
            Ended::Finished => {
                telemetry::say(&format!("{} has finished: nothing is left to be done", args.pipeline));
                return Ok(());
            }
        }
    }
    let said = if args.no_wait { if suspend { "is asked to stop" } else { "is asked to go on" } } else { done };
    telemetry::say(&format!("{} {said}", args.pipeline));
    Ok(())
}

/// Makes a Pipeline's pods anew.
pub async fn restart(cluster: &Cluster, args: &AskArgs) -> Result<(), Failure> {
    let seen = cluster.observe(&args.pipeline).await?;
    let old: Vec<String> = seen.pods.iter().filter_map(ResourceExt::uid).collect();
    let rejected = seen.status.rejected.as_ref().filter(|rejected| rejected.pods.is_some());
    if let Some(rejected) = rejected.map(|rejected| rejected.at.clone()) {
        return try_again(cluster, args, &seen, &old, rejected).await;
    }
    if seen.pods.is_empty() {
        return Err(Failure::failed(format!("{} has no pods to make anew", args.pipeline)));
    }
    for pod in &seen.pods {
        // With its grace period: it stops at a final checkpoint.
        let deleted = cluster.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await;
        deleted.map_err(refused)?;
    }
    if !args.no_wait {
        wait(cluster, args, "its new pods", |seen| {
            (seen.pods.len() >= old.len() && seen.pods.iter().all(|pod| is_new(pod, &old) && is_ready(pod)))
                .then_some(())
        })
        .await?;
    }
    let said = if args.no_wait { "is asked to restart" } else { "has restarted" };
    telemetry::say(&format!("{} {said}", args.pipeline));
    Ok(())
}

/// Has pods tried again that were taken back at this time.
async fn try_again(
    cluster: &Cluster,
    args: &AskArgs,
    seen: &Observed,
    old: &[String],
    rejected: Time,
) -> Result<(), Failure> {
    // A text that nobody has used; nothing is read out of it.
    let token = format!("kubectl-{}", seen.object.metadata.resource_version.clone().unwrap_or_default());
    cluster.change(&args.pipeline, &json!({"metadata": {"annotations": {RETRY: token}}})).await?;
    if args.no_wait {
        telemetry::say(&format!("asked {} to try the pods again that were taken back", args.pipeline));
        return Ok(());
    }
    let failed = wait(cluster, args, "the pods that were taken back", |seen| match &seen.status.rejected {
        Some(again) => (again.at != rejected).then(|| Some(again.message.clone())),
        None => seen.pods.iter().any(|pod| is_new(pod, old) && is_ready(pod)).then_some(None),
    })
    .await?;
    match failed {
        Some(why) => Err(Failure::failed(format!("the pods of {} have failed again: {why}", args.pipeline))),
        None => {
            telemetry::say(&format!("{} has restarted, with the pods that were taken back before", args.pipeline));
            Ok(())
        }
    }
}

/// Why a Pipeline that has never run does not begin either, if nothing but an edit helps: there is nothing to wait for.
fn cannot_begin(seen: &Observed) -> Option<&str> {
    let has_run = seen.report.is_some() || seen.plan.is_some() || !seen.pods.is_empty();
    let stalled = seen.status.conditions.iter().find(|it| it.type_ == "Stalled" && it.status == "True");
    stalled.filter(|_| seen.is_up_to_date() && !has_run).map(|stalled| stalled.message.as_str())
}

fn is_new(pod: &Pod, old: &[String]) -> bool {
    pod.uid().is_some_and(|uid| !old.contains(&uid))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Looks at the Pipeline until something has come of it. That the API server is away for a while is said once, and sat out.
async fn wait<T>(
    cluster: &Cluster,
    args: &AskArgs,
    what: &str,
    mut done: impl FnMut(&Observed) -> Option<T>,
) -> Result<T, Failure> {
    let limit = Duration::from_secs(args.timeout_seconds);
    let mut trouble = None;
    let mut has_said = false;
    let looking = async {
        loop {
            match look(cluster, args).await {
                Ok(seen) => {
                    trouble = None;
                    if let Some(found) = done(&seen) {
                        return Ok(found);
                    }
                }
                Err(unread) if unread.passes => {
                    if !has_said {
                        telemetry::tell(&format!("{}; going on to wait for {what}", unread.failure.text));
                        has_said = true;
                    }
                    trouble = Some(unread.failure.text);
                }
                Err(unread) => return Err(unread.failure),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    if let Ok(found) = tokio::time::timeout(limit, looking).await {
        return found;
    }
    let failure = Failure::failed(format!("waited {} s in vain for {what}; it stays asked for", args.timeout_seconds));
    let advice = match trouble {
        Some(trouble) => Some(trouble),
        None => look(cluster, args).await.ok().and_then(|seen| problems::of(&seen).first().cloned()),
    };
    Err(advice.into_iter().fold(failure, Failure::advise))
}

/// Looks at the Pipeline, and does not wait for an answer for long.
async fn look(cluster: &Cluster, args: &AskArgs) -> Result<Observed, Unread> {
    match tokio::time::timeout(ANSWER, cluster.observe(&args.pipeline)).await {
        Ok(seen) => seen,
        Err(_) => {
            let text = format!("the API server has not answered within {} s", ANSWER.as_secs());
            Err(Unread { failure: Failure::failed(text), passes: true })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A Pipeline of the second generation, of which the operator has seen this one, and says that it is stalled, or not.
    fn seen(observed: i64, stalled: &str) -> Observed {
        let condition = json!({"type": "Stalled", "status": stalled, "reason": "InvalidSpec", "message": "no such scheme",
            "lastTransitionTime": "2024-01-01T00:00:00Z"});
        let status = json!({"observedGeneration": observed, "conditions": [condition]});
        let object: Value = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "web", "generation": 2}, "spec": {}, "status": status});
        Observed {
            status: serde_json::from_value(status).unwrap(),
            object: serde_json::from_value(object).unwrap(),
            report: None,
            plan: None,
            pods: Vec::new(),
        }
    }

    #[test]
    fn nobody_waits_for_what_has_never_run_and_cannot() {
        assert_eq!(cannot_begin(&seen(2, "True")), Some("no such scheme"));
        assert_eq!(cannot_begin(&seen(1, "True")), None, "the operator may think better of the edit");
        assert_eq!(cannot_begin(&seen(2, "False")), None);
        let runs = Observed { pods: vec![Pod::default()], ..seen(2, "True") };
        assert_eq!(cannot_begin(&runs), None, "what ran before goes on");
    }

    /// An API server that gives these answers to whoever asks for a Pipeline, the last one again and again; `None`: it hangs up.
    async fn server(answers: Vec<Option<(u16, Value)>>) -> (Cluster, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.default_retry = false;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let is_of_pipeline = String::from_utf8_lossy(&request[..read]).contains("/pipelines/web");
                let answer = match is_of_pipeline {
                    true => answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone(),
                    false => Some((404, json!({"code": 404, "message": "no", "reason": "NotFound"}))),
                };
                let Some((code, body)) = answer else { continue };
                let body = body.to_string();
                let head = format!("HTTP/1.1 {code} x\r\ncontent-type: application/json\r\nconnection: close");
                let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        (Cluster::over(kube::Client::try_from(config).unwrap(), "here"), asked)
    }

    fn args(timeout_seconds: u64) -> AskArgs {
        AskArgs { pipeline: "web".to_owned(), no_wait: false, timeout_seconds }
    }

    fn status(code: u16, message: &str) -> Option<(u16, Value)> {
        let reason = if code == 404 { "NotFound" } else { "" };
        Some((code, json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": reason})))
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_for_a_while_ends_no_waiting() {
        let refused = None;
        let troubles =
            vec![refused, status(503, "away"), status(429, "busy"), status(500, "etcd"), status(403, "no right")];
        let (cluster, asked) = server(troubles).await;
        // The last answer ends it: it is no trouble that passes.
        let ended = wait(&cluster, &args(300), "nothing", |_| None::<()>).await.unwrap_err();
        assert_eq!((ended.text.as_str(), asked.load(Ordering::SeqCst)), ("no right", 5));
    }

    #[tokio::test]
    async fn a_pipeline_that_is_gone_ends_the_waiting_at_once_and_a_server_that_stays_away_when_its_time_is_up() {
        let (cluster, asked) = server(vec![status(404, "gone")]).await;
        let ended = wait(&cluster, &args(300), "nothing", |_| None::<()>).await.unwrap_err();
        assert_eq!(
            (ended.text.as_str(), asked.load(Ordering::SeqCst)),
            ("there is no Pipeline web in the namespace here", 1)
        );
        let (cluster, _) = server(vec![status(503, "away")]).await;
        let ended = wait(&cluster, &args(2), "its new pods", |_| None::<()>).await.unwrap_err();
        assert_eq!(ended.text, "waited 2 s in vain for its new pods; it stays asked for");
        assert_eq!(ended.advice.as_deref(), Some("away"));
    }
}
