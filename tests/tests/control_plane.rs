//! Proxies under the control plane, Envoy and weft-proxy: as sidecar and as gateway, state of the world and incremental, with traffic
//! through them that must not notice what changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_tests::client::fetch;
use weft_tests::control_plane::{ControlPlane, bootstrap};
use weft_tests::locate::{Kind, NO_ENVOY, NO_WEFT, NO_WEFT_CLI, skipped, weft_cli};
use weft_tests::ports::Reserved;
use weft_tests::unary::Call;
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

const RESOURCES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{name: http, port: SERVICE_PORT, targetPort: APP_PORT}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: entry, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: GATEWAY_PORT, name: http, protocol: HTTP}, hosts: [shop.example]}]
"#;

/// A pod with an address that is its own, and what it answers with.
fn pod(name: &str, version: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: reviews, version: {version}}}}}\n\
         status: {{podIP: {ip}, phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
    )
}

fn endpoints(app_port: u16, pods: &[(&str, &str)]) -> String {
    let items = pods.iter().map(|(name, ip)| {
        format!(
            "- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: default}}}}\n"
        )
    });
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: reviews, namespace: default, labels: {{kubernetes.io/service-name: reviews}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {app_port}, protocol: TCP}}]\nendpoints:\n{}",
        items.collect::<String>()
    )
}

/// Everything to this subset, for the mesh and through the gateway. Only this subset exists, so a change of it brings a cluster
/// and takes one away.
fn route(subset: &str) -> String {
    route_among(&[subset], subset)
}

/// Everything to one of these subsets.
fn route_among(subsets: &[&str], subset: &str) -> String {
    let subsets: Vec<_> = subsets.iter().map(|name| format!("{{name: {name}, labels: {{version: {name}}}}}")).collect();
    let subsets = subsets.join(", ");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews, namespace: default}}\n\
         spec: {{host: reviews, subsets: [{subsets}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: default}}\n\
         spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: entry, namespace: default}}\n\
         spec: {{hosts: [shop.example], gateways: [entry], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}\n"
    )
}

/// Answers every request with its address; ends with the set.
async fn app(tasks: &mut JoinSet<()>, address: SocketAddr) -> Result<u16> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let port = listener.local_addr()?.port();
    let body = address.ip().to_string();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer(stream, body.clone()));
        }
    });
    Ok(port)
}

async fn answer(mut stream: TcpStream, body: String) {
    let mut seen = Vec::new();
    loop {
        match stream.read_buf(&mut seen).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The control plane, the apps behind it, and the ports the mesh is about.
struct Mesh {
    plane: ControlPlane,
    app_port: u16,
    service: Reserved,
    gateway: Reserved,
    _apps: JoinSet<()>,
}

impl Mesh {
    async fn start() -> Result<Self> {
        let mut apps = JoinSet::new();
        let app_port = app(&mut apps, ([127, 0, 0, 11], 0).into()).await?;
        for last in [12, 13] {
            app(&mut apps, ([127, 0, 0, last], app_port).into()).await?;
        }
        let (service, gateway) = (Reserved::new()?, Reserved::new()?);
        let resources = RESOURCES
            .replace("SERVICE_PORT", &service.port().to_string())
            .replace("GATEWAY_PORT", &gateway.port().to_string())
            .replace("APP_PORT", &app_port.to_string());
        let pods = [pod("a", "v1", "127.0.0.11"), pod("b", "v2", "127.0.0.12"), pod("c", "v2", "127.0.0.13")].concat();
        let slices = endpoints(app_port, &[("a", "127.0.0.11"), ("b", "127.0.0.12")]);
        let files = [
            ("mesh.yaml", resources.as_str()),
            ("pods.yaml", &pods),
            ("slices.yaml", &slices),
            ("routes.yaml", &route("v1")),
        ];
        Ok(Self { plane: ControlPlane::start(&files).await?, app_port, service, gateway, _apps: apps })
    }
}

async fn get(port: u16, host: &str) -> Result<(u16, String)> {
    let text = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let response = fetch(port, text.as_bytes()).await?;
    Ok((response.status(), String::from_utf8_lossy(&response.body).into_owned()))
}

/// Waits for the answer of one of these addresses.
async fn answers(port: u16, host: &str, from: &[&str]) -> Result<()> {
    let look = || async {
        get(port, host).await.ok().filter(|(status, body)| *status == 200 && from.contains(&body.as_str()))
    };
    eventually(&format!("an answer of {from:?}"), PATIENCE, look).await.map(drop)
}

/// Requests one after the other until it is stopped; every one has to succeed.
fn load(
    port: u16,
    host: &'static str,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> tokio::task::JoinHandle<Result<()>> {
    tokio::spawn(async move {
        while !stop.load(Relaxed) {
            let (status, body) = get(port, host).await?;
            ensure!(status == 200, "{status} {body}");
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

/// Follows routes, endpoints and a restart of the control plane without losing a request or refusing anything.
async fn follows(mesh: &mut Mesh, proxy: &World, port: u16, host: &'static str, incremental: bool) -> Result<()> {
    answers(port, host, &["127.0.0.11"]).await?;
    mesh.plane.settled(1).await?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let requests = load(port, host, stop.clone(), count.clone());

    for (subset, address) in [("v2", "127.0.0.12"), ("v1", "127.0.0.11"), ("v2", "127.0.0.12")] {
        mesh.plane.write("routes.yaml", &route(subset))?;
        answers(port, host, &[address]).await?;
    }
    mesh.plane.settled(1).await?;
    mesh.plane.write("slices.yaml", &endpoints(mesh.app_port, &[("a", "127.0.0.11"), ("c", "127.0.0.13")]))?;
    answers(port, host, &["127.0.0.13"]).await?;
    mesh.plane.settled(1).await?;

    // While the control plane is away, and after it has come back, the last configuration serves. A client of the state of the
    // world does not say which clusters it has, so those that went meanwhile cannot wait for its routes: there, none goes.
    let subsets: &[&str] = if incremental { &["v1"] } else { &["v1", "v2"] };
    if !incremental {
        mesh.plane.write("routes.yaml", &route_among(subsets, "v2"))?;
        mesh.plane.settled(1).await?;
    }
    mesh.plane.kill().await?;
    answers(port, host, &["127.0.0.13"]).await?;
    mesh.plane.write("routes.yaml", &route_among(subsets, "v1"))?;
    mesh.plane.restart().await?;
    answers(port, host, &["127.0.0.11"]).await?;
    mesh.plane.settled(1).await?;

    stop.store(true, Relaxed);
    requests.await?.context("a request during the changes")?;
    ensure!(count.load(Relaxed) > 0, "no request was made");
    let stats = proxy.proxy.admin().stats().await?;
    let rejected: Vec<_> = stats.iter().filter(|(name, n)| name.contains("update_rejected") && **n > 0).collect();
    ensure!(rejected.is_empty(), "{rejected:?}");
    Ok(())
}

async fn runs(kind: Kind, test: &str) -> Option<Mesh> {
    if kind.binary().is_none() {
        skipped(test, if kind == Kind::Envoy { NO_ENVOY } else { NO_WEFT });
        return None;
    }
    if weft_cli().is_none() {
        skipped(test, NO_WEFT_CLI);
        return None;
    }
    Some(Mesh::start().await.expect("the mesh starts"))
}

async fn sidecar(kind: Kind, api_type: &str) -> Result<()> {
    let Some(mut mesh) = runs(kind, &format!("{} as sidecar, {api_type}", kind.name())).await else { return Ok(()) };
    let id = "sidecar~127.0.0.99~web-1.default~default.svc.cluster.local";
    let proxy = World::start(kind, &bootstrap(id, "app: web", api_type, mesh.plane.grpc())).await?;
    let port = mesh.service.port();
    follows(&mut mesh, &proxy, port, "reviews", api_type == "DELTA_GRPC").await?;

    // What the proxy says it has is what the control plane says it gave.
    let admin = format!("127.0.0.1:{}", proxy.proxy.admin().port);
    for part in ["cluster", "endpoint"] {
        let given = rows(&mesh.plane.weft(&["proxy-config", part, "web-1"]).await?);
        let held = rows(&mesh.plane.weft(&["proxy-config", part, "--admin", &admin]).await?);
        let missing: Vec<_> = given.difference(&held).collect();
        ensure!(missing.is_empty() && given.len() > 2, "{part}: given but not held: {missing:?}\n{held:?}");
    }
    let status = mesh.plane.weft(&["proxy-status", "web-1", "-o", "json"]).await?;
    let protocol = if api_type == "GRPC" { "sotw" } else { "delta" };
    ensure!(status.contains(&format!("\"protocol\": \"{protocol}\"")), "{status}");
    mesh.plane.weft(&["wait", "--timeout", "10s"]).await.map(drop)
}

/// What a cluster needs to speak TLS and show a certificate.
const TLS: &str = r#"
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates: [{certificate_chain: {filename: "{{dir}}/web.pem"}, private_key: {filename: "{{dir}}/web.key"}}]
          validation_context: {trusted_ca: {filename: "{{dir}}/ca.pem"}}
"#;

/// A proxy with a certificate is served over TLS; who has none, or a stranger's, is not.
async fn over_tls(kind: Kind) -> Result<()> {
    let Some(mesh) = runs(kind, &format!("{} over TLS", kind.name())).await else { return Ok(()) };
    let id = "sidecar~127.0.0.99~web-1.default~default.svc.cluster.local";
    let text = bootstrap(id, "app: web", "DELTA_GRPC", mesh.plane.secure_grpc()) + TLS;
    let _proxy = World::start(kind, &text).await?;
    answers(mesh.service.port(), "reviews", &["127.0.0.11"]).await?;
    mesh.plane.settled(1).await?;
    // Who has proven who it is, has not, or shows what nobody here has signed.
    for (identity, allowed) in [(Some("web"), true), (Some("client"), false), (None, false)] {
        let call = Call { identity, ..Call::to(mesh.plane.secure_grpc(), CSDS) };
        let answer = call.send(&[]).await?;
        ensure!((answer.status == 0) == allowed && (allowed || answer.status == 16), "{identity:?}: {answer:?}");
    }
    let stranger = Call { identity: Some("stranger"), ..Call::to(mesh.plane.secure_grpc(), CSDS) };
    ensure!(stranger.send(&[]).await.is_err(), "a stranger is let in");
    Ok(())
}

const CSDS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

/// The rows of a table. Envoy takes endpoints of unknown health for healthy ones.
fn rows(table: &str) -> BTreeSet<String> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replace("UNKNOWN", "HEALTHY"))
        .collect()
}

async fn gateway(kind: Kind, api_type: &str) -> Result<()> {
    let Some(mut mesh) = runs(kind, &format!("{} as gateway, {api_type}", kind.name())).await else { return Ok(()) };
    let id = "router~127.0.0.98~entry-1.default~default.svc.cluster.local";
    let proxy = World::start(kind, &bootstrap(id, "istio: ingressgateway", api_type, mesh.plane.grpc())).await?;
    let port = mesh.gateway.port();
    follows(&mut mesh, &proxy, port, "shop.example", api_type == "DELTA_GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_sidecar_state_of_the_world() -> Result<()> {
    sidecar(Kind::Envoy, "GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_sidecar_incremental() -> Result<()> {
    sidecar(Kind::Envoy, "DELTA_GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_gateway_state_of_the_world() -> Result<()> {
    gateway(Kind::Envoy, "GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_gateway_incremental() -> Result<()> {
    gateway(Kind::Envoy, "DELTA_GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_as_sidecar_state_of_the_world() -> Result<()> {
    sidecar(Kind::Weft, "GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_as_sidecar_incremental() -> Result<()> {
    sidecar(Kind::Weft, "DELTA_GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_as_gateway_state_of_the_world() -> Result<()> {
    gateway(Kind::Weft, "GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_as_gateway_incremental() -> Result<()> {
    gateway(Kind::Weft, "DELTA_GRPC").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_over_mutual_tls() -> Result<()> {
    over_tls(Kind::Envoy).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_over_mutual_tls() -> Result<()> {
    over_tls(Kind::Weft).await
}
