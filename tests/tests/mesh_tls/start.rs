//! A proxy and its certificate: at the start, without an authority, and on the admin interface.

use anyhow::{Result, ensure};
use weft_tests::control_plane::ControlPlane;
use weft_tests::locate::Kind;
use weft_tests::mesh::Workload;
use weft_tests::ports::Reserved;
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

use super::scene::{Caller, Mesh, Protocol, skipped};

/// Without an authority a proxy is not ready, says why, and goes on trying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_authority_no_readiness() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let port = Reserved::new()?;
    let web = Workload::new("web", "default", port.port());
    let mut plane = ControlPlane::secured(&[("mesh.yaml", &web.pod())], &[]).await?;
    let bootstrap = web.weft(&plane).await?;
    plane.kill().await?;
    let proxy = World::begin(Kind::Weft, &bootstrap, &[]).await?;
    let admin = proxy.proxy.admin();
    let look = || async {
        let answer = admin.request("GET", "/ready").await.ok()?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.status() == 503 && body.contains("no certificate for spiffe://cluster.local/ns/default/sa/web"))
            .then_some(())
    };
    eventually("not ready, and why", PATIENCE, look).await?;
    let log = || std::fs::read_to_string(proxy.dir().join("bootstrap.log")).unwrap_or_default();
    eventually("the log says so", PATIENCE, || async {
        log().contains("not ready, there is no certificate").then_some(())
    })
    .await?;
    plane.restart().await?;
    let ready = || async { (admin.request("GET", "/ready").await.ok()?.status() == 200).then_some(()) };
    eventually("ready", PATIENCE * 2, ready).await?;
    ensure!(plane.metric("weft_ca_certificates_total").await? >= 1.0);
    Ok(())
}

/// What a proxy has is on its pages, but for the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_shown_and_keys_are_not() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Mesh::start(Kind::Weft, 3600, false, "").await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let admin = mesh.server.proxy.admin();
    let certs = admin.text("/certs").await?;
    ensure!(certs.contains("spiffe://cluster.local/ns/shop/sa/echo"), "{certs}");
    let dump = admin.text("/config_dump").await?;
    ensure!(dump.contains("\"name\": \"default\"") && dump.contains("\"name\": \"ROOTCA\""), "{dump}");
    // `[redacted]`, as bytes are shown.
    ensure!(dump.contains("W3JlZGFjdGVkXQ=="), "{dump}");
    let key = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t";
    ensure!(!dump.contains("PRIVATE KEY") && !dump.contains(key), "{dump}");
    let stats = admin.stats().await?;
    ensure!(stats.get("identity.update_success") == Some(&1), "{stats:?}");
    ensure!(stats.get("sds.default.update_success").is_some_and(|n| *n > 0), "{stats:?}");
    // Nothing of the key is in a file of the proxy.
    for entry in std::fs::read_dir(mesh.server.dir())? {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bootstrap"));
        if ours {
            ensure!(!std::fs::read_to_string(&path)?.contains("PRIVATE KEY"), "{}", path.display());
        }
    }
    Ok(())
}

/// Without its authority a proxy serves on, warns, and has another certificate when the authority is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_goes_and_comes_back() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mut mesh = Mesh::start(Kind::Weft, 10, false, "").await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    mesh.plane.kill().await?;
    let log = |mesh: &Mesh| std::fs::read_to_string(mesh.server.dir().join("bootstrap.log")).unwrap_or_default();
    // While the certificate is good, requests are answered, and by the end the log warns.
    let warned = || async { log(&mesh).contains("s and is not renewed").then_some(()) };
    eventually("a warning", PATIENCE * 2, warned).await?;
    let over = || async { log(&mesh).contains("the certificate has ended and is not renewed").then_some(()) };
    eventually("the end of the certificate", PATIENCE * 2, over).await?;
    ensure!(log(&mesh).contains("renewal failed"), "{}", log(&mesh));
    mesh.plane.restart().await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await
}

/// Configuration comes to who shows the certificate that the token got; to nobody else of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_proves_who_asks_for_configuration() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let port = Reserved::new()?;
    let web = Workload::new("web", "default", port.port());
    let plane = ControlPlane::secured(&[("mesh.yaml", &web.pod())], &[]).await?;
    let bootstrap = web.weft_by_certificate(&plane).await?;
    let _proxy = World::start(Kind::Weft, &bootstrap).await?;
    plane.settled(1).await?;
    let _stranger = World::begin(Kind::Weft, &bootstrap.replace("web-0.default", "web-0.bank"), &[]).await?;
    let refused = || async {
        plane.log().lines().any(|line| line.contains("stream refused") && line.contains("\"bank\"")).then_some(())
    };
    eventually("another one's stream is refused", PATIENCE, refused).await?;
    ensure!(plane.metric("weft_refused_callers_total").await? >= 1.0);
    Ok(())
}
