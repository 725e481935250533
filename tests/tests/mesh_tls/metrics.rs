//! Istio's standard metrics, from both sides of a call.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use weft_tests::locate::Kind;
use weft_tests::metrics::{Series, parse, sum};
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

use super::scene::{Caller, Mesh, Protocol, skipped};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const ECHO: &str = "spiffe://cluster.local/ns/shop/sa/echo";

async fn metrics(of: &World) -> Result<Vec<Series>> {
    parse(&of.proxy.admin().text("/stats/prometheus").await?)
}

/// The only series of a name with these labels, once it is there.
async fn one(of: &World, name: &str, labels: &[(&str, &str)]) -> Result<Series> {
    let look = || async {
        let all = metrics(of).await.ok()?;
        let mut found = all.into_iter().filter(|series| series.name == name && series.has(labels));
        found.next().filter(|_| found.next().is_none())
    };
    let found = eventually(name, PATIENCE, look).await;
    match found {
        Ok(series) => Ok(series),
        Err(error) => {
            let all: Vec<_> = metrics(of).await?.into_iter().filter(|of| of.name.starts_with("istio_")).collect();
            Err(error.context(format!("{name} {labels:?} in {all:#?}")))
        }
    }
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// Labels of both workloads and of the service, as both sides know them.
const WHO: &str = "
    source_workload=client-v1 source_canonical_service=client source_canonical_revision=latest
    source_workload_namespace=default source_principal=spiffe://cluster.local/ns/default/sa/client
    source_cluster=Kubernetes source_version=unknown
    destination_workload=echo-v1 destination_workload_namespace=shop
    destination_principal=spiffe://cluster.local/ns/shop/sa/echo
    destination_canonical_service=echo destination_canonical_revision=latest destination_cluster=Kubernetes
    destination_version=unknown destination_service=echo.shop.svc.cluster.local destination_service_name=echo
    destination_service_namespace=shop";

fn wanted(reporter: &str, rest: &str) -> BTreeMap<String, String> {
    labels(&format!("reporter={reporter} {WHO} {rest}"))
}

fn same(found: &Series, wanted: &BTreeMap<String, String>) -> Result<()> {
    let differs: Vec<_> = found.labels.iter().filter(|(name, value)| wanted.get(*name) != Some(value)).collect();
    let missing: Vec<_> = wanted.keys().filter(|name| !found.labels.contains_key(*name)).collect();
    ensure!(differs.is_empty() && missing.is_empty(), "{}: {differs:?}, without {missing:?}", found.name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_call_say_the_same() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Mesh::start(Kind::Weft, 3600, true, "").await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let _before = mesh.journal.take();
    for protocol in [Protocol::Http1, Protocol::Grpc, Protocol::Tcp] {
        ensure!(mesh.answers(&Caller::Sidecar, protocol).await, "{protocol:?} is not answered");
    }
    // Each side tells what it knows of the other, and neither the application nor its caller sees any of that.
    let journal = mesh.journal.take().join("\n");
    ensure!(!journal.is_empty() && !journal.contains("x-envoy-peer-metadata"), "{journal}");

    let apps = "source_app=client destination_app=echo";
    // The control plane tells callers of labels that headers do not: those of bytes know less.
    let no_app = "source_app=client destination_app=unknown";
    for (world, reporter, security) in
        [(&mesh.client, "source", "unknown"), (&mesh.server, "destination", "mutual_tls")]
    {
        let ends = format!("response_flags=- connection_security_policy={security}");
        let of = [("request_protocol", "http")];
        let http = one(world, "istio_requests_total", &of).await?;
        same(
            &http,
            &wanted(reporter, &format!("{apps} request_protocol=http response_code=200 grpc_response_status= {ends}")),
        )?;
        for name in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
            let count = one(world, &format!("{name}_count"), &of).await?;
            ensure!(count.labels == http.labels && (count.value - http.value).abs() < 0.5, "{count:?} {http:?}");
        }
        let bytes = one(world, "istio_response_bytes_sum", &of).await?;
        ensure!(bytes.value > 2.0, "{bytes:?}");

        let of = [("request_protocol", "grpc")];
        let grpc = one(world, "istio_requests_total", &of).await?;
        same(
            &grpc,
            &wanted(reporter, &format!("{apps} request_protocol=grpc response_code=200 grpc_response_status= {ends}")),
        )?;
        let messages = one(world, "istio_request_messages_total", &[]).await?;
        same(&messages, &wanted(reporter, apps))?;
        ensure!((messages.value - 1.0).abs() < 0.5, "{messages:?}");

        let tcp = one(world, "istio_tcp_connections_closed_total", &[]).await?;
        let (from, apps) = match reporter {
            "source" => ("", no_app),
            // Bytes carry no names: of the caller there is its identity.
            _ => (
                "source_workload=unknown source_canonical_service=unknown source_cluster=unknown",
                "source_app=unknown destination_app=echo",
            ),
        };
        let mut all = wanted(reporter, &format!("{apps} request_protocol=tcp {ends}"));
        all.extend(labels(from));
        same(&tcp, &all)?;
        for (name, value) in [("opened_total", 1.0), ("closed_total", 1.0)] {
            let found = one(world, &format!("istio_tcp_connections_{name}"), &[]).await?;
            ensure!((found.value - value).abs() < 0.5 && found.labels == tcp.labels, "{found:?}");
        }
        // `hi`, `echo:hi`.
        for (name, value) in [("received", 2.0), ("sent", 7.0)] {
            let found = one(world, &format!("istio_tcp_{name}_bytes_total"), &[]).await?;
            ensure!((found.value - value).abs() < 0.5 && found.labels == tcp.labels, "{found:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_failures_and_places_that_are_none() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let closed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
                  data:\n  mesh: |\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n---\n";
    let mesh = Mesh::start(Kind::Weft, 3600, true, closed).await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    mesh.reached(&Caller::Plaintext, Protocol::Http1).await?;

    // Nobody knows who calls in plaintext, whatever he says of the service.
    let status = mesh.prober.status(&Caller::Plaintext, "GET", "/", "host: evil.example\r\n").await?;
    ensure!(status == 200, "{status}");
    let none = [("connection_security_policy", "none"), ("response_code", "200")];
    let found = one(&mesh.server, "istio_requests_total", &none).await?;
    let unknown = ["source_workload", "source_workload_namespace", "source_principal", "source_app", "source_cluster"];
    ensure!(unknown.iter().all(|label| found.label(label) == "unknown"), "{found:?}");
    ensure!(
        found.has(&[("destination_service", "echo.shop.svc.cluster.local"), ("destination_workload", "echo-v1")]),
        "{found:?}"
    );

    // A certificate of the mesh tells the namespace, and a header what it says.
    let own = Caller::Tls(Some(mesh.root.identity("spiffe://cluster.local/ns/foo/sa/other", false)?));
    mesh.prober.status(&own, "GET", "/certificate", "").await?;
    let other = [("source_principal", "spiffe://cluster.local/ns/foo/sa/other")];
    let found = one(&mesh.server, "istio_requests_total", &other).await?;
    let facts = [
        ("source_workload", "unknown"),
        ("source_workload_namespace", "foo"),
        ("connection_security_policy", "mutual_tls"),
    ];
    ensure!(found.has(&facts), "{found:?}");

    // The application fails, and both sides say so.
    let script = "x-script: 503\r\n";
    ensure!(mesh.prober.status(&Caller::Sidecar, "GET", "/fails", script).await? == 503);
    for world in [&mesh.client, &mesh.server] {
        let found = one(world, "istio_requests_total", &[("response_code", "503"), ("response_flags", "-")]).await?;
        ensure!(found.has(&[("source_workload", "client-v1"), ("destination_workload", "echo-v1")]), "{found:?}");
    }

    // Nothing of the name is known.
    let nowhere = mesh.prober.status(&Caller::Sidecar, "GET", "/", "host: nowhere.example\r\n").await?;
    ensure!(nowhere == 502, "{nowhere}");
    let found = one(&mesh.client, "istio_requests_total", &[("destination_service_name", "BlackHoleCluster")]).await?;
    ensure!(
        found.has(&[
            ("destination_service", "nowhere.example"),
            ("destination_workload", "unknown"),
            ("response_code", "502")
        ]),
        "{found:?}"
    );
    Ok(())
}

/// What Telemetries say of metrics: the mesh's for both sides, the namespace's of one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetries_change_what_is_counted() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Mesh::start(Kind::Weft, 3600, true, "").await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    mesh.policy(
        "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_SIZE, mode: CLIENT}
      disabled: true
    - tagOverrides:
        method: {value: request.method}
        destination_version: {operation: REMOVE}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: shop, namespace: shop}
spec:
  selector: {matchLabels: {app: echo}}
  metrics:
  - overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides:
        team: {operation: UPSERT, value: \"'blue'\"}
        kind: {value: \"request.headers['x-kind']\"}
",
    )
    .await?;
    let put = [("method", "PUT")];
    let headers = "x-kind: large\r\ncontent-length: 0\r\n";
    // Connections between the proxies go on as they began until they are drained.
    let followed = || async {
        mesh.prober.status(&Caller::Sidecar, "PUT", "/", headers).await.ok()?;
        let counted = |all: Vec<Series>| sum(&all, "istio_requests_total", &put) >= 1.0;
        (counted(metrics(&mesh.server).await.ok()?) && counted(metrics(&mesh.client).await.ok()?)).then_some(())
    };
    if let Err(error) = eventually("both sides follow", PATIENCE, followed).await {
        return Err(error.context(mesh.plane.log()));
    }
    let server = one(&mesh.server, "istio_requests_total", &put).await?;
    ensure!(server.has(&[("team", "blue"), ("kind", "large")]), "{server:?}");
    ensure!(!server.labels.contains_key("destination_version"), "{server:?}");
    let bytes = one(&mesh.server, "istio_request_bytes_count", &put).await?;
    ensure!(!bytes.labels.contains_key("team"), "{bytes:?}");
    let client = one(&mesh.client, "istio_requests_total", &put).await?;
    ensure!(!client.labels.contains_key("team") && !client.labels.contains_key("destination_version"), "{client:?}");
    // It is counted with the others, or not at all.
    one(&mesh.client, "istio_response_bytes_count", &put).await?;
    let all = metrics(&mesh.client).await?;
    ensure!(sum(&all, "istio_request_bytes_count", &put) == 0.0, "it is disabled");
    Ok(())
}

/// A caller's proxy that exchanges nothing is known by its certificate, and an endpoint by what the control plane says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_envoy_less_is_known() -> Result<()> {
    if skipped(Kind::Envoy) || skipped(Kind::Weft) {
        return Ok(());
    }
    for kinds in [[Kind::Weft, Kind::Envoy], [Kind::Envoy, Kind::Weft]] {
        let mesh = Mesh::of(kinds, 3600, true, "").await?;
        mesh.reached(&Caller::Sidecar, Protocol::Http1).await.context("through both")?;
        let (world, reporter) =
            if kinds[0] == Kind::Weft { (&mesh.server, "destination") } else { (&mesh.client, "source") };
        let found = one(world, "istio_requests_total", &[("response_code", "200")]).await?;
        let mut facts = vec![
            ("reporter", reporter),
            ("source_principal", CLIENT),
            ("destination_principal", ECHO),
            ("destination_workload", "echo-v1"),
            ("destination_service", "echo.shop.svc.cluster.local"),
            ("source_workload_namespace", "default"),
        ];
        // What an endpoint is, callers are told; of a caller nobody tells.
        facts.push(("source_workload", if reporter == "source" { "client-v1" } else { "unknown" }));
        facts.push(("destination_app", if reporter == "source" { "unknown" } else { "echo" }));
        ensure!(found.has(&facts), "{facts:?}: {found:?}");
        let other = if reporter == "source" { &mesh.server } else { &mesh.client };
        ensure!(sum(&metrics(other).await?, "istio_requests_total", &[]) == 0.0, "Envoy has no such metrics");
    }
    Ok(())
}
