//! What other commands ask a running mesh: a line, and a JSON document for an answer.
//!
//! Owns both sides of the socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::mesh::Pods;
use super::pod::{Phase, Pod};

/// How long an answer may take, and how long a question.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest question.
const LINE_BYTES: u64 = 1024;

/// Answers until `stop`.
pub async fn serve(listener: UnixListener, pods: Arc<Pods>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        // One at a time: its user alone can ask.
        match accepted {
            Ok((stream, _)) => {
                let _ = tokio::time::timeout(PATIENCE, answer(stream, &pods, &stop)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(mut stream: UnixStream, pods: &Pods, stop: &CancellationToken) -> std::io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    BufReader::new(reading.take(LINE_BYTES)).read_line(&mut line).await?;
    let json = match line.trim() {
        "ps" => json!({
            "pods": pods.all().iter().map(|pod| describe(pod)).collect::<Vec<_>>(),
            "open": pods.open().iter().map(|address| format!("http://{address}/")).collect::<Vec<_>>(),
        }),
        "down" => {
            stop.cancel();
            json!({ "stopping": true })
        }
        other => json!({ "error": format!("{other:?} is no command") }),
    };
    writing.write_all(json.to_string().as_bytes()).await?;
    writing.shutdown().await
}

fn describe(pod: &Pod) -> Json {
    let pids = pod.pids();
    let phase = pod.phase().borrow().clone();
    let reason = match &phase {
        Phase::Restarting(reason) | Phase::Failed(reason) | Phase::NotReady(reason) => Some(reason.clone()),
        _ => None,
    };
    json!({
        "name": pod.plan.name,
        "namespace": pod.plan.namespace,
        "workload": pod.plan.workload,
        "gateway": pod.plan.is_gateway,
        "phase": name(&phase),
        "reason": reason,
        "addresses": pod.addresses,
        "restarts": pids.restarts,
        "proxyPid": pids.proxy,
        "containers": pids.containers.iter().map(|(name, pid)| json!({"name": name, "pid": pid})).collect::<Vec<_>>(),
        "netns": pod.namespace.path(),
    })
}

/// A phase for people.
#[must_use]
pub fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::WaitingForProxy => "waiting for its proxy",
        Phase::WaitingForApplication => "waiting for its application",
        Phase::Started => "waiting for other proxies to know it",
        Phase::Ready => "ready",
        Phase::NotReady(_) => "not ready",
        Phase::Restarting(_) => "restarting",
        Phase::Failed(_) => "failed",
        Phase::Stopping => "stopping",
    }
}

/// Asks a running mesh.
///
/// # Errors
/// When none runs, or it does not answer.
pub async fn ask(directory: &Path, question: &str) -> Result<Json> {
    let path = super::state::socket(directory);
    let stream = UnixStream::connect(&path).await;
    let mut stream =
        stream.with_context(|| format!("no mesh runs ({}); start one with `weft up DIR`", path.display()))?;
    let exchange = async {
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.context("the mesh does not answer")??;
    let json: Json = serde_json::from_str(&text).context("the mesh ended while it answered")?;
    if let Some(error) = json["error"].as_str() {
        bail!("{error}");
    }
    Ok(json)
}
