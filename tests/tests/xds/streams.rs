//! Separate streams, other targets, TLS to the server.

use anyhow::{Result, ensure};
use weft_tests::ads::{CDS, ECDS, EDS, LDS, Plane, RDS, RTDS, Seen, VHDS};
use weft_tests::scene::{Scene, Variant, bootstrap, play_from};

use crate::basics::{BOTH, serving};
use crate::extensions::{filter, with_filter};
use crate::on_demand::{CLUSTERS, host, on_demand, with_hosts};
use crate::runtime::layered;
use crate::yaml::{eds, endpoints, fixed, rds_listener, routes};

/// A source with a stream of its own.
fn own_stream(variant: Variant) -> String {
    format!(
        "{{resource_api_version: V3, api_config_source: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: plane}}}}]}}}}",
        variant.api_type()
    )
}

const ADS: &str = "{ads: {}, resource_api_version: V3}";

#[test]
fn a_stream_for_each_kind() -> Result<()> {
    for variant in BOTH {
        let start = |kind| Scene::with(kind, variant, |v, port| bootstrap(v, port).replace(ADS, &own_stream(v)), &[]);
        play_from("separate streams", variant, start, |mut scene| async move {
            let own = own_stream(variant);
            scene.serve(CDS, "1", &[&eds("a", "").replace(ADS, &own)])?;
            scene.serve(EDS, "1", &[&endpoints("a", &["a"])])?;
            scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r").replace(ADS, &own)])?;
            scene.serve(RDS, "1", &[&routes("r", "a")])?;
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                scene.answered(type_url, "1").await?;
                let request = scene.plane.request("a request", |s| s.type_url == type_url).await?;
                scene.note(request.method);
            }
            scene.serve(EDS, "2", &[&endpoints("a", &[])])?;
            scene.until("l1", "/", 503).await?;
            scene.plane.reset();
            scene.serve(EDS, "3", &[&endpoints("a", &["b"])])?;
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn filters_and_runtime_values_on_streams_of_their_own() -> Result<()> {
    for variant in BOTH {
        let start = |kind| Scene::with(kind, variant, |v, port| layered(v, port, "").replace(ADS, &own_stream(v)), &[]);
        play_from("separate filters and runtime", variant, start, |mut scene| async move {
            let own = own_stream(variant);
            scene.serve(RTDS, "1", &["name: rt\nlayer: {go: 100}\n"])?;
            scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
            scene.serve(ECDS, "1", &[&filter("1")])?;
            scene.serve(LDS, "1", &[&with_filter("l", "l1", "").replace(ADS, &own)])?;
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            for type_url in [RTDS, ECDS] {
                scene.answered(type_url, "1").await?;
                let request = scene.plane.request("a request", |s| s.type_url == type_url).await?;
                scene.note(format!("{} {:?}", request.method, request.names));
            }
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn on_demand_on_streams_of_their_own() -> Result<()> {
    let variant = Variant::Delta;
    let start = |kind| Scene::with(kind, variant, |v, port| bootstrap(v, port).replace(ADS, &own_stream(v)), &[]);
    play_from("separate on demand", variant, start, |mut scene| async move {
        let own = own_stream(variant);
        scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
        scene.serve(LDS, "1", &[&on_demand(&rds_listener("l", "l1", "r"), CLUSTERS).replace(ADS, &own)])?;
        scene.serve(RDS, "1", &[&with_hosts().replace(ADS, &own)])?;
        scene.serve(VHDS, "1", &[&host("first.example.com", "a")])?;
        scene.ready().await?;
        let hosts = [host("first.example.com", "a"), host("example.com", "later")];
        let serve = async {
            let asks = |s: &Seen| s.names.iter().any(|n| n == "r/example.com");
            let asked = scene.plane.request("a host is asked for", asks).await?;
            scene.serve(VHDS, "2", &[&hosts[0], &hosts[1]])?;
            let asks = |s: &Seen| s.names.iter().any(|n| n == "later");
            let cluster = scene.plane.request("a cluster is asked for", asks).await?;
            scene.serve(CDS, "2", &[&fixed("a", "a", ""), &fixed("later", "b", "")])?;
            anyhow::Ok((asked, cluster))
        };
        let (answer, served) = tokio::join!(scene.get("l1", "/"), serve);
        let (asked, cluster) = served?;
        scene.note(format!("{} {} {:?}", asked.method, cluster.method, answer?));
        Ok(scene)
    })
}

/// The aggregated stream by address, with these fields beside it.
fn by_address(variant: Variant, port: u16, fields: &str) -> String {
    let text = bootstrap(variant, port);
    let (head, rest) = text.split_once("    - envoy_grpc:").unwrap_or_default();
    let (_, tail) = rest.split_once("  cds_config:").unwrap_or_default();
    format!(
        "{head}    - google_grpc: {{stat_prefix: plane, target_uri: '127.0.0.1:{port}'{fields}}}\n  cds_config:{tail}"
    )
}

#[test]
fn a_server_by_its_address() -> Result<()> {
    for variant in BOTH {
        let start = |kind| Scene::with(kind, variant, |v, port| by_address(v, port, ""), &[]);
        play_from("google_grpc", variant, start, |mut scene| async move {
            serving(&mut scene).await?;
            scene.answered(RDS, "1").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_server_by_its_address_over_tls() -> Result<()> {
    let credentials = ", channel_credentials: {ssl_credentials: {root_certs: {filename: '{{dir}}/ca.pem'}}}";
    let start = |kind| async move {
        let plane = Plane::start_tls().await?;
        Scene::under(plane, kind, Variant::Sotw, |v, port| by_address(v, port, credentials), &[]).await
    };
    play_from("google_grpc over TLS", Variant::Sotw, start, |mut scene| async move {
        serving(&mut scene).await?;
        Ok(scene)
    })
}

/// The cluster of the server, over TLS that trusts `ca`.
fn over_tls(variant: Variant, port: u16, ca: &str) -> String {
    let tls = format!(
        r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {{validation_context: {{trusted_ca: {{filename: '{ca}'}}}}}}
"#
    );
    bootstrap(variant, port) + &tls
}

#[test]
fn a_cluster_over_tls() -> Result<()> {
    for variant in BOTH {
        let start = |kind| async move {
            let plane = Plane::start_tls().await?;
            Scene::under(plane, kind, variant, |v, port| over_tls(v, port, "{{dir}}/ca.pem"), &[]).await
        };
        play_from("a server behind TLS", variant, start, |mut scene| async move {
            serving(&mut scene).await?;
            scene.note_stats(&["cluster.plane.ssl.handshake"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_is_not_trusted() -> Result<()> {
    let start = |kind| async move {
        let plane = Plane::start_tls().await?;
        // Some certificate, and nobody's authority.
        Scene::under(plane, kind, Variant::Sotw, |v, port| over_tls(v, port, "{{dir}}/other.pem"), &[]).await
    };
    play_from("a server that is not trusted", Variant::Sotw, start, |scene| async move {
        scene.stat("cluster.plane.ssl.fail_verify_error", 2).await?;
        ensure!(scene.plane.opened() == 0);
        Ok(scene)
    })
}
