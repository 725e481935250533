//! The client status discovery service of weft-proxy, asked by grpcio. Envoy does not serve it.

use anyhow::{Context, Result, ensure};
use weft_proto::pb::envoy::admin::v3::ClientResourceStatus as Status;
use weft_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use weft_proto::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest};
use weft_proto::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use weft_tests::ads::{EDS, LDS, RDS, SDS};
use weft_tests::csds::{Csds, has_grpc};
use weft_tests::locate::skipped;
use weft_tests::scene::{Scene, play_weft};

use crate::basics::{BOTH, serving};
use crate::secrets::{certificate, tls_listener};
use crate::yaml::{endpoints, rds_listener};

/// A secret whose key is in it.
fn inline() -> Result<String> {
    let identity = weft_tests::tls::material()?.pem("server")?;
    Ok(format!(
        "name: cert\ntls_certificate:\n  certificate_chain: {{inline_string: {:?}}}\n  private_key: {{inline_string: {:?}}}\n",
        identity.certificate, identity.key
    ))
}

fn find<'c>(client: &'c ClientConfig, type_url: &str, name: &str) -> Result<&'c GenericXdsConfig> {
    let found = client.generic_xds_configs.iter().find(|of| of.type_url == type_url && of.name == name);
    found.with_context(|| format!("no {type_url} {name}: {client:?}"))
}

async fn everything(scene: &mut Scene) -> Result<()> {
    scene.serve(SDS, "1", &[&inline()?])?;
    serving(scene).await?;
    scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
    certificate(scene.world.port("l2")?, "server").await?;
    // Routes that nobody sends, a listener that is refused, endpoints that are.
    let bad = tls_listener("t", "l2").replace("http_filters:", "via: \"\\n\"\n      http_filters:");
    scene.serve(LDS, "3", &[&rds_listener("l", "l1", "r"), &bad, &rds_listener("m", "l3", "missing")])?;
    ensure!(scene.answered(LDS, "3").await?.is_some());
    scene.serve(EDS, "2", &[&endpoints("a", &["a"]).replace("127.0.0.1", "no-address")])?;
    ensure!(scene.answered(EDS, "2").await?.is_some());
    Ok(())
}

#[test]
fn what_is_held_waited_for_and_refused() -> Result<()> {
    for variant in BOTH {
        play_weft("csds", variant, &[], |mut scene| async move {
            if !has_grpc().await {
                skipped("csds", "grpcio is not installed (scripts/test installs it: pip install grpcio)");
                return Ok(scene);
            }
            everything(&mut scene).await?;
            let mut csds = Csds::start(scene.world.port("admin")?)?;
            for response in csds.ask(&ClientStatusRequest::default()).await? {
                let [client] = response.config.as_slice() else { anyhow::bail!("{response:?}") };
                ensure!(client.node.as_ref().is_some_and(|node| node.id == "test-node"), "{client:?}");
                let l = find(client, LDS, "l")?;
                ensure!(l.client_status() == Status::Acked && l.last_updated.is_some(), "{l:?}");
                ensure!(l.xds_config.as_ref().is_some_and(|any| any.type_url == LDS && !any.value.is_empty()), "{l:?}");
                if !variant.is_delta() {
                    ensure!(l.version_info == "1", "later versions held the same: {l:?}");
                }
                for (type_url, name, why) in [(LDS, "t", "via"), (EDS, "a", "no-address")] {
                    let refused = find(client, type_url, name)?;
                    ensure!(refused.client_status() == Status::Nacked && refused.xds_config.is_some(), "{refused:?}");
                    let error = refused.error_state.as_ref().context("no error")?;
                    ensure!(error.details.contains(why) && error.last_update_attempt.is_some(), "{error:?}");
                    ensure!(
                        error.version_info != refused.version_info && !error.version_info.is_empty(),
                        "{refused:?}"
                    );
                }
                let missing = find(client, RDS, "missing")?;
                ensure!(missing.client_status() == Status::Requested && missing.version_info.is_empty(), "{missing:?}");
                let fixed: Vec<_> = client.generic_xds_configs.iter().filter(|of| of.is_static_resource).collect();
                ensure!(fixed.len() == 1 && fixed[0].name == "plane", "{fixed:?}");
                let secret = find(client, SDS, "cert")?;
                let shown = secret.xds_config.as_ref().context("no secret")?.value.clone();
                let has = |text: &str| shown.windows(text.len()).any(|part| part == text.as_bytes());
                ensure!(has("BEGIN CERTIFICATE") && has("[redacted]") && !has("PRIVATE KEY"));
            }
            let bare = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
            for response in csds.ask(&bare).await? {
                let all = &response.config.first().context("nobody")?.generic_xds_configs;
                ensure!(all.len() > 5 && all.iter().all(|of| of.xds_config.is_none()), "{all:?}");
            }
            let other =
                StringMatcher { match_pattern: Some(MatchPattern::Exact("other".into())), ..Default::default() };
            let node_matchers = vec![NodeMatcher { node_id: Some(other), ..Default::default() }];
            for response in csds.ask(&ClientStatusRequest { node_matchers, ..Default::default() }).await? {
                ensure!(response.config.is_empty(), "{response:?}");
            }
            Ok(scene)
        })?;
    }
    Ok(())
}
