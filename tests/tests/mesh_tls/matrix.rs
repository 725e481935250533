//! Who is let in.

use anyhow::{Context, Result, ensure};
use weft_tests::locate::Kind;
use weft_tests::mesh::Root;

use super::scene::{Caller, Mesh, Protocol, skipped};

fn policy(mode: &str, ports: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: echo, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: echo}}}}, mtls: {{mode: {mode}}}{ports}}}\n"
    )
}

/// Every caller on every protocol, under every policy.
async fn matrix(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let mesh = Mesh::start(kind, 3600, true, "").await?;
    let stranger = Root::new("Stranger")?;
    let web = "spiffe://cluster.local/ns/default/sa/client";
    let refused = [
        ("another trust domain", Some(mesh.root.identity("spiffe://other.domain/ns/default/sa/client", false)?)),
        ("expired", Some(mesh.root.identity(web, true)?)),
        ("of an authority nobody knows", Some(stranger.identity(web, false)?)),
        ("no certificate", None),
    ];
    let of_port = format!(", portLevelMtls: {{{}: {{mode: DISABLE}}}}", mesh.prober.target(Protocol::Tcp));
    for (mode, ports, plaintext_at) in [
        ("PERMISSIVE", "", &Protocol::ALL[..]),
        ("STRICT", "", &[]),
        ("DISABLE", "", &Protocol::ALL[..]),
        ("STRICT", of_port.as_str(), &[Protocol::Tcp]),
    ] {
        mesh.policy(&policy(mode, ports)).await?;
        for protocol in Protocol::ALL {
            let of = |who: &str| format!("{} {mode}{ports} {protocol:?}: {who}", kind.name());
            mesh.reached(&Caller::Sidecar, protocol).await.with_context(|| of("a sidecar"))?;
            let plaintext = mesh.answers(&Caller::Plaintext, protocol).await;
            ensure!(plaintext == plaintext_at.contains(&protocol), "{}", of("plaintext"));
            for (what, identity) in &refused {
                let answered = mesh.answers(&Caller::Tls(identity.clone()), protocol).await;
                ensure!(!answered, "{}", of(what));
            }
        }
        // Whoever has a certificate of the mesh is let in without a sidecar, too.
        let good = Caller::Tls(Some(mesh.root.identity(web, false)?));
        for protocol in Protocol::ALL.into_iter().filter(|_| ports.is_empty()) {
            let answered = mesh.answers(&good, protocol).await;
            ensure!(answered == (mode != "DISABLE"), "{mode} {protocol:?}: mutual TLS without a sidecar");
        }
    }

    // Between sidecars it is HTTP/2, over mutual TLS.
    mesh.policy(&policy("STRICT", "")).await?;
    let name = |what: &str| {
        format!("cluster.outbound|{}||echo.shop.svc.cluster.local.{what}", mesh.prober.service(Protocol::Http1))
    };
    let before = mesh.client.proxy.admin().stats().await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let stats = mesh.client.proxy.admin().stats().await?;
    let value = |what: &str| stats.get(&name(what)).copied().unwrap_or_default();
    ensure!(value("ssl.handshake") > 0, "{stats:?}");
    ensure!(value("upstream_cx_http2_total") > 0 && before.len() > 1, "{}", value("upstream_cx_http2_total"));
    if kind == Kind::Weft {
        said_why(&mesh).await?;
    }
    Ok(())
}

/// A refusal is counted, and the log says why and of whom.
async fn said_why(mesh: &Mesh) -> Result<()> {
    let stats = mesh.server.proxy.admin().stats().await?;
    let sum = |end: &str| stats.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, value)| value).sum::<u64>();
    ensure!(sum(".no_filter_chain_match") > 0, "{stats:?}");
    ensure!(sum(".ssl.fail_verify_error") > 0 && sum(".ssl.fail_verify_no_cert") > 0, "{stats:?}");
    let log = std::fs::read_to_string(mesh.server.dir().join("bootstrap.log"))?;
    let told = |what: &str| log.lines().any(|line| line.contains(what) && line.contains("127.0.0.1:"));
    ensure!(told("it is plaintext"), "{log}");
    ensure!(told("TLS handshake failed"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_lets_in_who_may_come() -> Result<()> {
    matrix(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_lets_in_who_may_come() -> Result<()> {
    matrix(Kind::Envoy).await
}

/// A server whose certificate is not that of the service's account is not spoken to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_must_be_who_the_service_is() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let mesh = Mesh::start(Kind::Weft, 3600, false, "").await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    mesh.policy(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo, namespace: shop}\n\
         spec: {host: echo, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: [\"spiffe://cluster.local/ns/shop/sa/other\"]}}}\n",
    )
    .await?;
    ensure!(!mesh.answers(&Caller::Sidecar, Protocol::Http1).await, "somebody else is spoken to");
    let stats = mesh.client.proxy.admin().stats().await?;
    let failed: u64 = stats.iter().filter(|(name, _)| name.ends_with(".ssl.fail_verify_san")).map(|(_, n)| n).sum();
    ensure!(failed > 0, "{stats:?}");
    Ok(())
}
