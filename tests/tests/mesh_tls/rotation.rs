//! Certificates and roots are replaced under load, and no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::locate::Kind;
use weft_tests::wait::{PATIENCE, eventually};

use super::scene::{Caller, Mesh, Protocol, skipped};

/// A connection for each request, so that each has a handshake between the sidecars.
const ONE_REQUEST: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
    metadata: {name: echo, namespace: shop}\n\
    spec: {host: echo, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}\n---\n\
    apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: all, namespace: shop}\n\
    spec: {mtls: {mode: STRICT}}\n";

/// How long certificates live; `WEFT_TEST_CERT_TTL` for another time, in seconds.
fn ttl() -> u32 {
    std::env::var("WEFT_TEST_CERT_TTL").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_are_replaced_twice_and_no_request_fails() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Arc::new(Mesh::start(Kind::Weft, ttl(), false, ONE_REQUEST).await?);
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for protocol in [Protocol::Http1, Protocol::Tcp] {
        let (mesh, stop, done, failed) = (mesh.clone(), stop.clone(), done.clone(), failed.clone());
        load.spawn(async move {
            while !stop.load(Relaxed) {
                let answered = mesh.answers(&Caller::Sidecar, protocol).await;
                done.fetch_add(1, Relaxed);
                failed.fetch_add(usize::from(!answered), Relaxed);
            }
        });
    }
    let dir = mesh.plane.ca_dir();
    let dir = dir.to_string_lossy();
    let roots = || std::fs::read_to_string(mesh.plane.ca_dir().join("root-cert.pem")).unwrap_or_default();
    for round in 1..=2 {
        let before = roots();
        mesh.plane.weft(&["ca", "rotate-root", "--ca-dir", &dir]).await?;
        let complete = || async {
            let rotations = mesh.plane.metric("weft_ca_rotations_total").await.ok()?;
            (rotations >= f64::from(round)).then_some(())
        };
        let outcome =
            eventually("the root is replaced", PATIENCE + Duration::from_secs(u64::from(ttl()) * 3), complete).await;
        if let Err(error) = outcome {
            return Err(error.context(mesh.plane.weft(&["ca", "status"]).await?).context(mesh.plane.log()));
        }
        let now = roots();
        ensure!(now.matches("BEGIN CERTIFICATE").count() == 1 && now != before, "{now}");
    }
    stop.store(true, Relaxed);
    while load.join_next().await.is_some() {}
    let (done, failed) = (done.load(Relaxed), failed.load(Relaxed));
    println!("{done} requests over two replacements of the root");
    ensure!(failed == 0 && done > 50, "{failed} of {done} requests failed\n{}", mesh.plane.log());
    let renewed = mesh.plane.metric("weft_ca_certificates_total").await?;
    ensure!(renewed >= 6.0, "{renewed} certificates");
    Ok(())
}
