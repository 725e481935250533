//! A real Prometheus scrapes `/stats/prometheus` and is asked for what it took in.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use weft_tests::client::fetch;
use weft_tests::config::Config;
use weft_tests::locate::{Kind, NO_WEFT, skipped};
use weft_tests::ports::Reserved;
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

const REQUESTS: u64 = 25;

async fn api(port: u16, path: &str) -> Result<Value> {
    let text = format!("GET /api/v1/{path} HTTP/1.1\r\nhost: prometheus\r\nconnection: close\r\n\r\n");
    let answer = fetch(port, text.as_bytes()).await?;
    serde_json::from_slice(&answer.body).context("not JSON")
}

/// The value of the only series that a query finds.
async fn query(port: u16, query: &str) -> Option<f64> {
    let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let answer = api(port, &format!("query?query={escaped}")).await.ok()?;
    let found = answer.pointer("/data/result")?.as_array()?;
    match found.as_slice() {
        [one] => one.pointer("/value/1")?.as_str()?.parse().ok(),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_what_weft_counts() -> Result<()> {
    const NAME: &str = "prometheus";
    if Kind::Weft.binary().is_none() {
        skipped(NAME, NO_WEFT);
        return Ok(());
    }
    if Command::new("prometheus").arg("--version").output().await.is_err() {
        skipped(NAME, "prometheus is not installed (scripts/test installs it: apt-get install prometheus)");
        return Ok(());
    }
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes: [{match: {prefix: "/"}, route: {cluster: a.b}}]
            "#,
        )
        .cluster_of("a.b", &["a"], "");
    let world = World::start(Kind::Weft, &config.text()).await?;
    for _ in 0..REQUESTS {
        fetch(world.port("http")?, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    }

    let dir = tempfile::tempdir()?;
    let file = dir.path().join("prometheus.yml");
    let target = format!("127.0.0.1:{}", world.proxy.admin().port);
    std::fs::write(
        &file,
        format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}\nscrape_configs:\n- job_name: weft\n  \
             metrics_path: /stats/prometheus\n  static_configs: [{{targets: ['{target}']}}]\n"
        ),
    )?;
    let mut reserved = Reserved::new()?;
    let port = reserved.port();
    // Prometheus does not share its port.
    reserved.release();
    let log = std::fs::File::create(dir.path().join("log"))?;
    let mut prometheus = Command::new("prometheus");
    prometheus
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    let _running = prometheus.spawn()?;

    let up = eventually("a scrape", PATIENCE * 2, || query(port, "up{job=\"weft\"} == 1")).await;
    let targets = api(port, "targets").await.map(|t| t.to_string()).unwrap_or_default();
    up.with_context(|| format!("targets: {targets}"))?;
    ensure!(targets.contains("\"lastError\":\"\""), "the scrape was not clean: {targets}");

    let expected = [
        ("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a.b\"}", REQUESTS),
        ("envoy_cluster_upstream_rq_xx{envoy_cluster_name=\"a.b\",envoy_response_code_class=\"2\"}", REQUESTS),
        ("envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"http\"}", REQUESTS),
        ("envoy_cluster_membership_healthy{envoy_cluster_name=\"a.b\"}", 1),
        ("envoy_server_live", 1),
        ("envoy_cluster_manager_active_clusters", 1),
        ("envoy_listener_manager_total_listeners_active", 1),
        ("envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"http\"}", REQUESTS),
        ("envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"http\",le=\"+Inf\"}", REQUESTS),
    ];
    for (series, wanted) in expected {
        let seen = eventually(series, PATIENCE, || async move {
            query(port, series).await.filter(|value| (*value - wanted as f64).abs() < 0.5)
        });
        if let Err(error) = seen.await {
            return Err(error.context(format!("{series}: {:?}, wanted {wanted}", query(port, series).await)));
        }
    }
    // Every series has a type, and Prometheus knew them all.
    let metadata = api(port, "metadata?metric=envoy_cluster_upstream_rq_total").await?;
    let kind = metadata.pointer("/data/envoy_cluster_upstream_rq_total/0/type").and_then(Value::as_str);
    ensure!(kind == Some("counter"), "{metadata}");
    Ok(())
}
