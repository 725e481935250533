//! Pods that come, go, crash, and cannot run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use weft_tests::bookinfo::apps::get;
use weft_tests::up::Up;
use weft_tests::wait::{PATIENCE, eventually};

use super::sample;

/// A Deployment of the echo application with a Service and a way in.
fn echo(replicas: u32, image: &str, note: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: echo}}\nspec: {{selector: {{app: echo}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: echo}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: echo}}}}\n  template:\n    \
         metadata: {{labels: {{app: echo}}}}\n    spec: {{containers: [{{name: echo, image: {image}, env: [{{name: NOTE, value: {note}}}], ports: [{{containerPort: 8080}}]}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: echo}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers: [{{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ['*']}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo}}\nspec: {{hosts: ['*'], gateways: [echo], http: [{{route: [{{destination: {{host: echo}}}}]}}]}}\n"
    )
}

/// The pods of a workload that serve.
async fn ready(mesh: &Up, workload: &str) -> Result<Vec<String>> {
    let pods = mesh.pods().await?;
    let of = pods.iter().filter(|pod| pod["workload"] == workload && pod["phase"] == "ready");
    Ok(of.filter_map(|pod| pod["name"].as_str().map(str::to_owned)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_and_rolling_fails_no_request() -> Result<()> {
    let files = [("echo.yaml", echo(1, "weft-echo", "first"))];
    let Some(mesh) = Up::start("scaling", &files).await? else { return Ok(()) };
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (stop, done, at) = (stop.clone(), done.clone(), (mesh.listen, 8080).into());
        async move {
            while !stop.load(Relaxed) {
                let answer = get(at, "echo", "/", "").await?;
                ensure!(answer.status() == 200, "{answer:?}");
                done.fetch_add(1, Relaxed);
            }
            Ok(())
        }
    });
    let first = ready(&mesh, "echo").await?;
    for (replicas, note) in [(3, "first"), (3, "second"), (1, "second")] {
        mesh.write("echo.yaml", &echo(replicas, "weft-echo", note))?;
        let settled = || async {
            let pods = mesh.pods().await.ok()?;
            let of: Vec<_> = pods.iter().filter(|pod| pod["workload"] == "echo").collect();
            let all = of.len() == replicas as usize && of.iter().all(|pod| pod["phase"] == "ready");
            let renewed = note == "first" || of.iter().all(|pod| !first.iter().any(|old| pod["name"] == old.as_str()));
            (all && renewed).then_some(())
        };
        if let Err(error) = eventually("the pods are as they should be", PATIENCE * 2, settled).await {
            return Err(error.context(format!("{replicas} {note}: {}", mesh.picture().await)));
        }
    }
    stop.store(true, Relaxed);
    load.await??;
    ensure!(done.load(Relaxed) > 20, "only {done:?} requests");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_crashes_is_started_again_and_what_cannot_run_is_told() -> Result<()> {
    let mut files = sample()?;
    files.push(("other.yaml", echo(1, "registry.example/unknown:3", "x")));
    let Some(mut mesh) = Up::start("crashes", &files).await? else { return Ok(()) };
    let told = mesh.weft(&["ps"]).await?;
    ensure!(
        told.contains("nothing is known to run for image \"registry.example/unknown:3\"; say it in weft.yaml"),
        "{told}"
    );

    let pods = mesh.pods().await?;
    let details = pods.iter().find(|pod| pod["workload"] == "details-v1").context("details is there")?;
    let pid = details["containers"][0]["pid"].as_i64().context("it runs")?.to_string();
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status()?;
    ensure!(killed.success());
    let again = || async {
        let pods = mesh.pods().await.ok()?;
        let details = pods.iter().find(|pod| pod["workload"] == "details-v1")?;
        (details["restarts"] == 1 && details["phase"] == "ready").then_some(())
    };
    eventually("details runs again", PATIENCE, again).await?;

    // Whoever kills the mesh itself ends everything in it, and the next one begins anew.
    let pids: Vec<i64> = mesh.pods().await?.iter().filter_map(|pod| pod["proxyPid"].as_i64()).collect();
    mesh.kill().await?;
    let gone = || async {
        let ended = |pid: &i64| {
            // One that was not waited for by anybody is no process any more.
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        };
        pids.iter().all(ended).then_some(())
    };
    eventually("its processes are gone", PATIENCE, gone).await?;
    Ok(())
}
