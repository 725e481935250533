//! A gateway that passes mutual TLS on by its server name, and ends none of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_tests::locate::Kind;
use weft_tests::mesh::Workload;
use weft_tests::ports::Reserved;
use weft_tests::wait::eventually;
use weft_tests::world::World;

use super::scene::{Caller, Mesh, Protocol, sds_of, skipped};

async fn passed_on(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let open = Reserved::new()?;
    let objects = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: east-west, namespace: edge}}\n\
         spec: {{selector: {{app: east-west}}, servers: [{{port: {{number: {}, name: tls, protocol: TLS}}, tls: {{mode: AUTO_PASSTHROUGH}}, hosts: [\"*.local\"]}}]}}\n",
        open.port()
    );
    let mesh = Mesh::start(kind, 3600, true, &objects).await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let gateway = Workload { role: "router", ..Workload::new("east-west", "edge", open.port()) };
    let sds = sds_of(&mesh.root, &gateway).await?;
    let bootstrap = match kind {
        Kind::Weft => gateway.weft(&mesh.plane).await?,
        Kind::Envoy => gateway.envoy(&mesh.plane, sds.port()),
    };
    let proxy = World::start(kind, &bootstrap).await?;
    mesh.plane.quiet(3).await?;

    let identity = mesh.root.identity("spiffe://cluster.local/ns/default/sa/client", false)?;
    let port = mesh.prober.service(Protocol::Http1);
    let name = format!("outbound_.{port}_._.echo.shop.svc.cluster.local");
    let call = || async {
        let mut stream = mesh.handshake(&identity, (&name, &["istio", "http/1.1"]), open.port()).await.ok()?;
        let (_, tls) = stream.get_ref();
        let certificate = tls.peer_certificates()?.first()?.to_vec();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(certificate)
    };
    let certificate = eventually("the gateway passes on", Duration::from_secs(20), call)
        .await
        .with_context(|| std::fs::read_to_string(proxy.dir().join("bootstrap.log")).unwrap_or_default())?;
    let who = b"spiffe://cluster.local/ns/shop/sa/echo";
    ensure!(certificate.windows(who.len()).any(|part| part == who), "TLS ends elsewhere");

    // Neither what is no mutual TLS of the mesh, nor what is not there.
    let unknown = name.replace("echo", "nobody");
    for (what, name, offered) in
        [("another protocol", &name, &["http/1.1"][..]), ("another service", &unknown, &["istio"][..])]
    {
        ensure!(mesh.handshake(&identity, (name, offered), open.port()).await.is_err(), "{what} is passed on");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_passes_on_by_server_name() -> Result<()> {
    passed_on(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_passes_on_by_server_name() -> Result<()> {
    passed_on(Kind::Envoy).await
}
