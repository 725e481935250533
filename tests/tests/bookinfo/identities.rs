//! The hop from productpage to reviews over mutual TLS.

use anyhow::{Context, Result, ensure};
use weft_tests::bookinfo::{BookInfo, SERVICES, apps};

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
    metadata: {name: reviews, namespace: default}\n\
    spec: {selector: {matchLabels: {app: reviews, version: v2}}, mtls: {mode: STRICT}}\n";

/// Versions with a sidecar are called by mutual TLS, those without in plaintext, of one service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_hop() -> Result<()> {
    let Some(mut mesh) = BookInfo::with_identities("the first hop over mutual TLS").await? else { return Ok(()) };
    mesh.plane.write("strict.yaml", STRICT)?;
    mesh.only(&[SERVICES]).await?;
    for version in ["reviews-v1", "reviews-v2", "reviews-v3"] {
        mesh.page_is(None, |page| page.contains(version)).await?;
    }
    let sidecar = mesh.sidecar("reviews-v2").context("no sidecar")?;
    let stats = sidecar.stats().await?;
    let handshakes: u64 = stats.iter().filter(|(name, _)| name.ends_with(".ssl.handshake")).map(|(_, n)| n).sum();
    ensure!(handshakes > 0, "{stats:?}");
    // Past the sidecar of productpage nobody gets in.
    let pod = mesh.pod("reviews-v2").context("no pod")?;
    ensure!(apps::get(pod, "reviews:9080", "/", "").await.is_err(), "plaintext is answered");
    let stats = sidecar.stats().await?;
    ensure!(stats.iter().any(|(name, n)| name.ends_with("no_filter_chain_match") && *n > 0), "{stats:?}");
    Ok(())
}
