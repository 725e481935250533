//! The authority of a control plane, by its wire: who gets which certificate, and who may have whose configuration.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use prost::Message;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weft_proto::own::istio_auth::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use weft_tests::control_plane::ControlPlane;
use weft_tests::locate;
use weft_tests::tls;
use weft_tests::unary::{Answer, Call};

const FETCH: &str = "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters";
const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

fn skipped() -> bool {
    let missing = locate::weft_cli().is_none();
    if missing {
        eprintln!("SKIPPED: {}", locate::NO_WEFT_CLI);
    }
    missing
}

fn csr(key: &KeyPair, uri: Option<&str>) -> Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uri.map(|uri| Ok(SanType::URI(uri.try_into()?))).into_iter().collect::<Result<_>>()?;
    let request = IstioCertificateRequest {
        csr: params.serialize_request(key)?.pem()?,
        validity_duration: 60,
        ..IstioCertificateRequest::default()
    };
    Ok(request.encode_to_vec())
}

/// A client that shows a certificate that was made.
fn showing(answer: &Answer, key: &KeyPair) -> Result<Arc<ClientConfig>> {
    let given = IstioCertificateResponse::decode(answer.body.clone())?.cert_chain;
    let leaf = CertificateDer::from_pem_slice(given.first().context("no certificate")?.as_bytes())?;
    tls::client_with(vec![leaf], PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?, &["h2"])
}

fn fetch(id: &str) -> Vec<u8> {
    let node = Node { id: id.to_owned(), ..Node::default() };
    DiscoveryRequest { node: Some(node), ..DiscoveryRequest::default() }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_who_proves_who_it_is() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let plane = ControlPlane::secured(&[], &[]).await?;
    let token = std::fs::read_to_string(plane.token("default", "web").await?)?.trim().to_owned();
    let port = plane.secure_grpc();
    let key = KeyPair::generate()?;
    let nobody = Call::to(port, CREATE_CERTIFICATE);
    let with = |token: &str| Call { token: Some(token.to_owned()), ..nobody.clone() };

    let made = with(&token).send(&csr(&key, Some(WEB))?).await?;
    ensure!(made.status == 0, "{made:?}");
    let chain = IstioCertificateResponse::decode(made.body.clone())?.cert_chain;
    let roots = std::fs::read_to_string(plane.ca_dir().join("root-cert.pem"))?;
    ensure!(chain.last() == Some(&roots), "the last is whom to trust");

    // The certificate proves it as well: this is how one is renewed without a token.
    let shown = Some(showing(&made, &key)?);
    let renewed = Call { tls: shown.clone(), ..nobody.clone() }.send(&csr(&KeyPair::generate()?, None)?).await?;
    ensure!(renewed.status == 0, "{renewed:?}");

    let other = "spiffe://cluster.local/ns/default/sa/admin";
    let forged = format!("{}x", &token[..token.len() - 1]);
    for (call, message, status, says) in [
        (&nobody, csr(&key, None)?, 16, "neither a certificate of the mesh nor a token"),
        (&with(&forged), csr(&key, None)?, 16, "the token"),
        (&with(&token), csr(&key, Some(other))?, 7, "sa/admin"),
        (&with(&token), IstioCertificateRequest::default().encode_to_vec(), 3, "CERTIFICATE REQUEST"),
    ] {
        let answer = call.send(&message).await?;
        ensure!(answer.status == status && answer.message.contains(says), "{says}: {answer:?}");
        let log = plane.log();
        let line = log.lines().find(|line| line.contains("certificate refused") && line.contains(says));
        ensure!(line.is_some_and(|line| line.contains("127.0.0.1:")), "{says}: {log}");
    }
    ensure!(plane.metric("weft_ca_certificates_total").await? == 2.0);
    ensure!(plane.metric("weft_ca_refused_total{reason=\"unauthenticated\"}").await? == 2.0);
    ensure!(plane.metric("weft_ca_refused_total{reason=\"request\"}").await? == 2.0);
    ensure!(!plane.log().contains(&token[..40]), "a token is in the log");
    let status = plane.weft(&["ca", "status"]).await?;
    ensure!(status.contains("cluster.local, steady, 2 certificates made"), "{status}");

    // Who is proven to be web has what web gets, and nobody else's.
    let own = "sidecar~10.0.0.1~web-1.default~default.svc.cluster.local";
    let others = "sidecar~10.0.0.1~web-1.bank~bank.svc.cluster.local";
    for call in [Call { tls: shown, ..Call::to(port, FETCH) }, Call { token: Some(token), ..Call::to(port, FETCH) }] {
        let answer = call.send(&fetch(own)).await?;
        ensure!(answer.status == 0, "{answer:?}");
        let answer = call.send(&fetch(others)).await?;
        ensure!(answer.status == 7 && answer.message.contains("namespace"), "{answer:?}");
    }
    ensure!(Call::to(port, FETCH).send(&fetch(own)).await?.status == 16);
    ensure!(plane.metric("weft_refused_callers_total").await? == 3.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_others_may_read_is_not_used() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    use std::os::unix::fs::PermissionsExt;
    let mut plane = ControlPlane::secured(&[], &[]).await?;
    plane.kill().await?;
    std::fs::set_permissions(plane.ca_dir(), std::fs::Permissions::from_mode(0o755))?;
    let error = format!("{:#}", plane.restart().await.err().context("it starts")?);
    ensure!(error.contains("mode is 755") && error.contains("chmod go="), "{error}");
    Ok(())
}
