//! Certificates and roots are replaced under load, and no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use weft_tests::locate::Kind;
use weft_tests::wait::{PATIENCE, eventually};

use super::scene::{Caller, Mesh, Protocol, skipped};

/// A connection for each request, so that each has a handshake between the sidecars.
pub(crate) const ONE_REQUEST: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
    metadata: {name: echo, namespace: shop}\n\
    spec: {host: echo, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}\n---\n\
    apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: all, namespace: shop}\n\
    spec: {mtls: {mode: STRICT}}\n";

/// How long certificates live; `WEFT_TEST_CERT_TTL` for another time, in seconds.
fn ttl() -> u32 {
    std::env::var("WEFT_TEST_CERT_TTL").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// What was asked while something happened.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    done: AtomicUsize,
    failed: AtomicUsize,
}

impl Load {
    /// Asks without pause until it is told to stop.
    fn start(mesh: &Mesh) -> (Arc<Self>, JoinSet<()>) {
        let load = Arc::new(Self::default());
        let mut tasks = JoinSet::new();
        for protocol in [Protocol::Http1, Protocol::Tcp] {
            let (prober, load) = (mesh.prober.clone(), load.clone());
            tasks.spawn(async move {
                while !load.stop.load(Relaxed) {
                    let answered = prober.answers(&Caller::Sidecar, protocol).await;
                    load.done.fetch_add(1, Relaxed);
                    load.failed.fetch_add(usize::from(!answered), Relaxed);
                }
            });
        }
        (load, tasks)
    }

    /// Ends it. None of the requests may have failed.
    async fn end(&self, mut tasks: JoinSet<()>, mesh: &Mesh) -> Result<()> {
        self.stop.store(true, Relaxed);
        while tasks.join_next().await.is_some() {}
        let (done, failed) = (self.done.load(Relaxed), self.failed.load(Relaxed));
        println!("{done} requests");
        ensure!(failed == 0 && done > 50, "{failed} of {done} requests failed\n{}", mesh.plane.log());
        Ok(())
    }
}

pub(crate) fn roots(mesh: &Mesh) -> String {
    std::fs::read_to_string(mesh.plane.ca_dir().join("root-cert.pem")).unwrap_or_default()
}

pub(crate) async fn ask_for_another(mesh: &Mesh) -> Result<()> {
    let dir = mesh.plane.ca_dir();
    mesh.plane.weft(&["ca", "rotate-root", "--ca-dir", &dir.to_string_lossy()]).await.map(drop)
}

/// Waits until there is one root, and it is another than these were.
pub(crate) async fn replaced(mesh: &Mesh, before: &str, ttl: u32) -> Result<()> {
    let complete = || async {
        let now = roots(mesh);
        let status = mesh.plane.weft(&["ca", "status"]).await.ok()?;
        let one = now.matches("BEGIN CERTIFICATE").count() == 1;
        (one && now != before && status.contains(" steady,")).then_some(())
    };
    let patience = PATIENCE * 2 + Duration::from_secs(u64::from(ttl) * 3);
    if let Err(error) = eventually("the root is replaced", patience, complete).await {
        return Err(error.context(mesh.plane.weft(&["ca", "status"]).await?).context(mesh.plane.log()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_are_replaced_twice_and_no_request_fails() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Mesh::start(Kind::Weft, ttl(), false, ONE_REQUEST).await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let (load, tasks) = Load::start(&mesh);
    for _ in 0..2 {
        let before = roots(&mesh);
        ask_for_another(&mesh).await?;
        replaced(&mesh, &before, ttl()).await?;
    }
    load.end(tasks, &mesh).await?;
    let gone = || async { (mesh.plane.metric("weft_ca_rotations_total").await.ok()? == 2.0).then_some(()) };
    eventually("both are counted", PATIENCE, gone).await?;
    let made = mesh.plane.metric("weft_ca_certificates_total").await?;
    ensure!(made >= 6.0, "{made} certificates");
    Ok(())
}

/// The control plane is killed and started in each phase of a replacement, and goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_outlives_the_control_plane() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mut mesh = Mesh::start(Kind::Weft, ttl(), false, ONE_REQUEST).await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let (load, tasks) = Load::start(&mesh);
    let before = roots(&mesh);
    ask_for_another(&mesh).await?;
    for phase in ["distributing", "retiring"] {
        let reached = || async { mesh.plane.weft(&["ca", "status"]).await.ok()?.contains(phase).then_some(()) };
        eventually(phase, PATIENCE * 2, reached).await?;
        mesh.plane.restart().await?;
    }
    replaced(&mesh, &before, ttl()).await?;
    load.end(tasks, &mesh).await
}
