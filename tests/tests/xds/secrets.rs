//! Secrets by discovery.

use anyhow::{Result, ensure};
use weft_tests::ads::{CDS, LDS, RDS, SDS};
use weft_tests::scene::play;
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::{BOTH, serving};
use crate::yaml::{direct, eds, fixed, listener, rds_listener, routes};

/// A certificate with its key, from files of the world.
pub(crate) fn secret(name: &str, file: &str) -> String {
    format!(
        "name: {name}\ntls_certificate:\n  certificate_chain: {{filename: '{{{{dir}}}}/{file}.pem'}}\n  private_key: {{filename: '{{{{dir}}}}/{file}.key'}}\n"
    )
}

/// A listener that shows the secret `cert`.
pub(crate) fn tls_listener(name: &str, port: &str) -> String {
    let tls = r#"  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context:
        tls_certificate_sds_secret_configs: [{name: cert, sds_config: {ads: {}, resource_api_version: V3}}]
"#;
    listener(name, port, &direct("secure")) + tls
}

/// Waits until a listener shows the certificate of a name; an empty one: any.
pub(crate) async fn certificate(port: u16, wanted: &str) -> Result<&'static str> {
    eventually(&format!("certificate {wanted:?}"), PATIENCE, || async {
        let stream = weft_tests::client::tcp(port).await.ok()?;
        let config = weft_tests::tls::client(None, &[]).ok()?;
        let name = rustls::pki_types::ServerName::try_from("example.com").ok()?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.ok()?;
        let certificate = stream.get_ref().1.peer_certificates()?.first().cloned()?;
        Some(weft_tests::tls::common_name(&certificate)).filter(|n| wanted.is_empty() || *n == wanted)
    })
    .await
}

#[test]
fn a_certificate_is_rotated() -> Result<()> {
    for variant in BOTH {
        play("rotation", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(SDS, "1", &[&secret("cert", "server")])?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
            let port = scene.world.port("l2")?;
            let first = certificate(port, "").await?;
            scene.serve(SDS, "2", &[&secret("cert", "other")])?;
            scene.answered(SDS, "2").await?;
            let second = certificate(port, "other").await?;
            scene.note(format!("{first}, then {second}"));
            // One that cannot be used: refused, and what was there stays.
            scene.serve(SDS, "3", &["name: cert\ntls_certificate: {certificate_chain: {inline_string: nonsense}, private_key: {inline_string: nonsense}}\n"])?;
            let error = scene.answered(SDS, "3").await?;
            ensure!(error.is_some());
            let third = certificate(port, "").await?;
            scene.note(format!("then {third}"));
            scene.note_stats(&["sds.cert.update_rejected"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_cluster_waits_for_its_trust() -> Result<()> {
    let tls = r#"transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    common_tls_context:
      validation_context_sds_secret_config: {name: trust, sds_config: {ads: {}, resource_api_version: V3}}
"#;
    for variant in BOTH {
        play("trust", variant, |mut scene| async move {
            scene.plane.withhold(SDS);
            scene.serve(
                SDS,
                "1",
                &["name: trust\nvalidation_context: {trusted_ca: {filename: '{{dir}}/ca.pem'}}\n"],
            )?;
            scene.serve(CDS, "1", &[&fixed("s", "tls", tls)])?;
            scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r")])?;
            scene.serve(RDS, "1", &[&routes("r", "s")])?;
            scene.plane.request("the trust is asked for", |s| s.type_url == SDS).await?;
            ensure!(!scene.plane.seen().iter().any(|s| s.type_url == LDS), "listeners are asked for too early");
            scene.plane.release(SDS);
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            // Another authority: connections to come are refused.
            scene.serve(
                SDS,
                "2",
                &["name: trust\nvalidation_context: {trusted_ca: {filename: '{{dir}}/other.pem'}}\n"],
            )?;
            scene.answered(SDS, "2").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_secret_stays_subscribed_after_its_listener() -> Result<()> {
    for variant in BOTH {
        play("a secret that is left", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(SDS, "1", &[&secret("cert", "server")])?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
            certificate(scene.world.port("l2")?, "").await?;
            scene.serve(LDS, "3", &[&rds_listener("l", "l1", "r")])?;
            scene.answered(LDS, "3").await?;
            scene.serve(CDS, "2", &[&eds("a", ""), &fixed("b", "b", "")])?;
            scene.answered(CDS, "2").await?;
            let dropped = scene.plane.seen().iter().any(|s| {
                s.type_url == SDS && (!s.unsubscribed.is_empty() || (!variant.is_delta() && s.names.is_empty()))
            });
            scene.note(format!("given up: {dropped}"));
            Ok(scene)
        })?;
    }
    Ok(())
}
