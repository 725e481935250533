//! Who called whom, and how applications are: what a sidecar tells of its pod.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use weft_tests::locate::skipped;
use weft_tests::metrics::{Series, parse, sum};
use weft_tests::up::Up;
use weft_tests::wait::{PATIENCE, eventually};

use super::sample;

/// What a pod's sidecar has at 15020.
async fn metrics(mesh: &Up, pod: &str) -> Result<Vec<Series>> {
    parse(&mesh.weft(&["exec", pod, "--", "curl", "-s", "http://127.0.0.1:15020/stats/prometheus"]).await?)
}

/// Requests between workloads, as the sidecars on one side tell of them: `productpage-v1 -> reviews-v3`.
async fn calls(mesh: &Up, reporter: &str) -> Result<BTreeMap<String, u64>> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for pod in mesh.pods().await? {
        let name = pod["name"].as_str().context("a name")?;
        for of in metrics(mesh, name).await?.iter().filter(|of| of.name == "istio_requests_total") {
            if of.label("reporter") == reporter && of.label("response_code") == "200" {
                let edge = format!("{} -> {}", of.label("source_workload"), of.label("destination_workload"));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
                let count = of.value as u64;
                *all.entry(edge).or_default() += count;
            }
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_tell_who_called_whom() -> Result<()> {
    let Some(mesh) = Up::start("who called whom", &sample()?).await? else { return Ok(()) };
    const PAGES: u64 = 40;
    for _ in 0..PAGES {
        mesh.page(None).await?;
    }
    let jason = 10;
    for _ in 0..jason {
        mesh.page(Some("jason")).await?;
    }
    // The last answers are counted a moment after they are read.
    let settled = || async {
        let (source, destination) = (calls(&mesh, "source").await.ok()?, calls(&mesh, "destination").await.ok()?);
        let from_gateway = *source.get("istio-ingressgateway -> productpage-v1")?;
        (source == destination && from_gateway == PAGES + jason).then_some(source)
    };
    let all = match eventually("both sides say the same", PATIENCE, settled).await {
        Ok(all) => all,
        Err(error) => {
            let (source, destination) = (calls(&mesh, "source").await?, calls(&mesh, "destination").await?);
            return Err(error.context(format!("{source:#?}\n{destination:#?}")));
        }
    };
    let of = |edge: &str| all.get(edge).copied().unwrap_or_default();
    ensure!(of("productpage-v1 -> details-v1") == PAGES + jason, "{all:?}");
    // Half of the pages have reviews v1, half v3: of 40 between 8 and 32, in all but 1 of 10,000 runs; and jason's have v2.
    let (v1, v2, v3) =
        (of("productpage-v1 -> reviews-v1"), of("productpage-v1 -> reviews-v2"), of("productpage-v1 -> reviews-v3"));
    ensure!(v2 == jason && v1 + v3 == PAGES && (8..=32).contains(&v1), "{all:?}");
    // v1 asks nobody for stars.
    ensure!(of("reviews-v2 -> ratings-v1") == v2 && of("reviews-v3 -> ratings-v1") == v3, "{all:?}");
    ensure!(!all.contains_key("reviews-v1 -> ratings-v1") && all.len() == 7, "{all:?}");

    let secured = metrics(&mesh, "ratings").await?;
    let labels = [
        ("reporter", "destination"),
        ("source_principal", "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"),
        ("connection_security_policy", "mutual_tls"),
        ("destination_service", "ratings.default.svc.cluster.local"),
        ("source_app", "reviews"),
        ("source_version", "v3"),
    ];
    ensure!((sum(&secured, "istio_requests_total", &labels) - v3 as f64).abs() < 0.5, "{secured:#?}");

    // Past all services, straight to an address: a place that is none of the mesh's.
    let pods = mesh.pods().await?;
    let details = pods.iter().find(|pod| pod["workload"] == "details-v1").context("details is there")?;
    let at = format!("http://{}:9080/details/0", details["addresses"][0].as_str().context("an address")?);
    mesh.weft(&["exec", "productpage", "--", "curl", "-s", &at]).await?;
    let passed = || async {
        let all = metrics(&mesh, "productpage").await.ok()?;
        let to = [("destination_service_name", "PassthroughCluster"), ("reporter", "source")];
        let requests = sum(&all, "istio_requests_total", &to);
        (requests + sum(&all, "istio_tcp_connections_closed_total", &to) >= 1.0).then_some(())
    };
    eventually("what was passed through is told", PATIENCE, passed).await?;
    Ok(())
}

/// The value that a Prometheus in a pod has for a query.
async fn query(mesh: &Up, text: &str) -> Option<f64> {
    let escaped: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
    let url = format!("http://127.0.0.1:9090/api/v1/query?query={escaped}");
    let answer = mesh.weft(&["exec", "ratings", "--", "curl", "-s", &url]).await.ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
    answer.pointer("/data/result/0/value/1")?.as_str()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_in_the_mesh_scrapes_every_pod() -> Result<()> {
    if !std::process::Command::new("prometheus").arg("--version").output().is_ok_and(|run| run.status.success()) {
        skipped(
            "a prometheus in the mesh",
            "prometheus is not installed (scripts/test installs it: apt-get install prometheus)",
        );
        return Ok(());
    }
    let mut files = sample()?;
    // As the original has it: its page has metrics of its own.
    let annotated = "template:\n    metadata:\n      annotations: {prometheus.io/scrape: \"true\", prometheus.io/port: \"9080\"}\n      labels: {app: productpage";
    files[0].1 = files[0].1.replacen("template:\n    metadata:\n      labels: {app: productpage", annotated, 1);
    let Some(mesh) = Up::start("a prometheus in the mesh", &files).await? else { return Ok(()) };
    const PAGES: usize = 12;
    for _ in 0..PAGES {
        mesh.page(None).await?;
    }
    let pods = mesh.pods().await?;
    let targets: Vec<String> =
        pods.iter().filter_map(|pod| Some(format!("'{}:15020'", pod["addresses"][0].as_str()?))).collect();
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 3s, scrape_timeout: 3s}}\nscrape_configs:\n- job_name: mesh\n  \
             metrics_path: /stats/prometheus\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        ),
    )?;
    let log = dir.path().join("log");
    let options = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", dir.path().join("data").display()),
    ];
    let command = ["prometheus", &options[0], &options[1], "--web.listen-address=127.0.0.1:9090"];
    let _running = mesh.within("ratings", &command, &log)?;
    for (text, wanted) in [
        ("count(up == 1)", targets.len()),
        (
            "sum(istio_requests_total{reporter=\"destination\",source_workload=\"productpage-v1\",destination_workload=\"details-v1\"})",
            PAGES,
        ),
        (
            "sum(istio_requests_total{reporter=\"source\",destination_service_name=\"reviews\",connection_security_policy=\"unknown\"})",
            PAGES,
        ),
        (
            "sum(istio_request_duration_milliseconds_count{reporter=\"destination\",destination_app=\"productpage\"})",
            PAGES,
        ),
        ("sum(demo_requests_total{outcome=\"answered\"})", PAGES),
    ] {
        let look = || async { query(&mesh, text).await.filter(|value| (*value - wanted as f64).abs() < 0.5) };
        if let Err(error) = eventually(text, PATIENCE * 2, look).await {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let api = "http://127.0.0.1:9090/api/v1/targets";
            let targets = mesh.weft(&["exec", "ratings", "--", "curl", "-s", api]).await.unwrap_or_default();
            return Err(
                error.context(format!("{text}: {:?}, wanted {wanted}\n{targets}\n{said}", query(&mesh, text).await))
            );
        }
    }
    Ok(())
}

/// An application that is as files in a directory say: `ready`, `alive`.
const APP: &str = r#"
import http.server, os, socketserver, sys
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/metrics":
            status, body = 200, b"app_answers 42\n"
        else:
            status, body = (200 if os.path.exists(sys.argv[1] + self.path) else 503), b""
        self.send_response(status); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
# HTTPServer looks up its own name, and there is nobody to ask.
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", 8080), App).serve_forever()
"#;

fn probed(dir: &str) -> String {
    let script = serde_json::Value::from(APP).to_string();
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: probed}}\nspec:\n  selector: {{matchLabels: {{app: probed}}}}\n  template:\n    \
         metadata: {{labels: {{app: probed}}, annotations: {{prometheus.io/scrape: 'true', prometheus.io/port: '8080', prometheus.io/path: /metrics}}}}\n    \
         spec:\n      containers:\n      - name: app\n        image: none\n        command: [python3, -c, {script}, {dir}]\n        ports: [{{name: http, containerPort: 8080}}]\n        \
         readinessProbe: {{httpGet: {{path: /ready, port: http}}, periodSeconds: 1, failureThreshold: 1}}\n        \
         livenessProbe: {{httpGet: {{path: /alive, port: 8080}}, periodSeconds: 1, failureThreshold: 2, initialDelaySeconds: 1}}\n        \
         startupProbe: {{exec: {{command: [test, -e, {dir}/alive]}}, periodSeconds: 1}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: probed}}\nspec: {{selector: {{app: probed}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: probed}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers: [{{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ['*']}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: probed}}\nspec: {{hosts: ['*'], gateways: [probed], http: [{{route: [{{destination: {{host: probed}}}}]}}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_who_is_asked_and_who_begins_anew() -> Result<()> {
    let python = std::process::Command::new("python3").args(["-c", ""]).status();
    if !python.is_ok_and(|status| status.success()) {
        skipped("probes", "python3 is not installed");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    // The application is nobody.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let set = |name: &str, is: bool| {
        let path = dir.path().join(name);
        if is { std::fs::write(path, "") } else { std::fs::remove_file(path) }
    };
    set("alive", true)?;
    set("ready", true)?;
    let files = [("probed.yaml", probed(&dir.path().display().to_string()))];
    let Some(mesh) = Up::start("probes", &files).await? else { return Ok(()) };
    let status = || async { mesh.get(8080, "/ready", "").await.map(|answer| answer.status()).unwrap_or_default() };
    ensure!(status().await == 200);

    // The application's metrics are beside the proxy's own.
    let pod = async |key: &str| {
        let pods = mesh.pods().await.ok()?;
        pods.iter().find(|pod| pod["workload"] == "probed").map(|pod| pod[key].clone())
    };
    let all = metrics(&mesh, "probed").await?;
    ensure!((sum(&all, "app_answers", &[]) - 42.0).abs() < 0.5, "{all:#?}");
    ensure!(sum(&all, "envoy_agent_app_probe", &[]) >= 2.0 && sum(&all, "envoy_agent_app_scrape_failure", &[]) < 0.5);

    // What is not ready is not asked, and people see why.
    set("ready", false)?;
    let unready = || async { (pod("phase").await? == "not ready").then_some(()) };
    eventually("it is not ready", PATIENCE, unready).await?;
    let reason = pod("reason").await.unwrap_or_default();
    ensure!(reason == "the readiness probe of app fails: status 503", "{reason}");
    ensure!(mesh.weft(&["ps"]).await?.contains("the readiness probe of app fails: status 503"));
    // Its endpoint is gone: nobody gets the application's own 503, but the gateway's.
    let gone = || async {
        let answer = mesh.get(8080, "/ready", "").await.ok()?;
        (answer.status() == 503 && String::from_utf8_lossy(&answer.body).contains("no healthy upstream")).then_some(())
    };
    eventually("it is not asked", PATIENCE, gone).await?;
    set("ready", true)?;
    let again = || async { (status().await == 200 && pod("phase").await? == "ready").then_some(()) };
    eventually("it is asked again", PATIENCE, again).await?;
    ensure!(pod("restarts").await == Some(0.into()));

    // What is not alive begins anew, and waits until it has started.
    set("alive", false)?;
    let restarted = || async { (pod("restarts").await? == 1).then_some(()) };
    eventually("it is started again", PATIENCE * 2, restarted).await?;
    ensure!(mesh.said().contains("the liveness probe of app fails: status 503; starting it again"), "{}", mesh.said());
    set("alive", true)?;
    eventually("it serves again", PATIENCE * 2, again).await?;
    Ok(())
}
