//! What waits for what, and for how long.

use anyhow::{Result, ensure};
use weft_tests::ads::{CDS, EDS, LDS, RDS, SDS};
use weft_tests::scene::{Scene, Variant, bootstrap, play, play_from};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::{BOTH, serving};
use crate::secrets::{certificate, secret, tls_listener};
use crate::yaml::{direct, eds, endpoints, fixed, inline, listener, rds_listener, routes};

/// Notes that the proxy is not ready.
pub(crate) async fn not_ready(scene: &mut Scene) -> Result<()> {
    let admin = scene.world.proxy.admin();
    let up = || async { admin.request("GET", "/ready").await.ok() };
    let ready = eventually("the admin interface answers", PATIENCE, up).await?;
    scene.note(format!("ready: {} {}", ready.status(), String::from_utf8_lossy(&ready.body).trim()));
    Ok(())
}

#[test]
fn listeners_are_asked_for_when_clusters_have_endpoints() -> Result<()> {
    for variant in BOTH {
        play("endpoints withheld", variant, |mut scene| async move {
            scene.plane.withhold(EDS);
            scene.serve(CDS, "1", &[&eds("a", "")])?;
            scene.serve(EDS, "1", &[&endpoints("a", &["a"])])?;
            scene.serve(LDS, "1", &[&listener("l", "l1", &inline("a"))])?;
            scene.plane.request("endpoints are asked for", |s| s.type_url == EDS).await?;
            scene.answered(CDS, "1").await?;
            not_ready(&mut scene).await?;
            ensure!(!scene.plane.seen().iter().any(|s| s.type_url == LDS), "listeners are asked for too early");
            scene.plane.release(EDS);
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_cluster_that_gets_no_endpoints_in_time_is_empty() -> Result<()> {
    for variant in BOTH {
        play("endpoints too late", variant, |mut scene| async move {
            scene.plane.withhold(EDS);
            scene.serve(CDS, "1", &[&eds("a", "").replace("V3}}", "V3, initial_fetch_timeout: 0.3s}}")])?;
            scene.serve(EDS, "1", &[&endpoints("a", &["a"])])?;
            scene.serve(LDS, "1", &[&listener("l", "l1", &inline("a"))])?;
            scene.ready().await?;
            scene.until("l1", "/", 503).await?;
            scene.note_stats(&["cluster.a.init_fetch_timeout", "cluster.a.membership_total"]).await?;
            scene.plane.release(EDS);
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_listener_that_gets_no_routes_in_time_answers_404() -> Result<()> {
    for variant in BOTH {
        play("routes too late", variant, |mut scene| async move {
            scene.plane.withhold(RDS);
            scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
            scene.serve(
                LDS,
                "1",
                &[&rds_listener("l", "l1", "r").replace("V3}}", "V3, initial_fetch_timeout: 0.3s}}")],
            )?;
            scene.serve(RDS, "1", &[&routes("r", "a")])?;
            scene.ready().await?;
            scene.until("l1", "/", 404).await?;
            scene.note_stats(&["http.l.rds.r.init_fetch_timeout"]).await?;
            scene.plane.release(RDS);
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_listener_waits_for_its_routes() -> Result<()> {
    for variant in BOTH {
        play("a listener waits", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(RDS);
            scene.serve(RDS, "2", &[&routes("r", "a"), &routes("other", "a")])?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &rds_listener("m", "l2", "other")])?;
            scene.answered(LDS, "2").await?;
            scene.stat("listener_manager.total_listeners_warming", 1).await?;
            scene.note_get("l2", "/").await?;
            scene.note_get("l1", "/").await?;
            scene.plane.release(RDS);
            scene.until("l2", "/", 200).await?;
            scene
                .note_stats(&["listener_manager.total_listeners_warming", "listener_manager.total_listeners_active"])
                .await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_changed_cluster_waits_for_its_endpoints_to_come_again() -> Result<()> {
    for variant in BOTH {
        play("a changed cluster", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(EDS);
            scene.serve(CDS, "2", &[&eds("a", "per_connection_buffer_limit_bytes: 70000")])?;
            scene.stat("cluster_manager.warming_clusters", 1).await?;
            scene.note_get("l1", "/").await?;
            let early = scene.plane.seen().iter().any(|s| s.type_url == CDS && s.nonce.ends_with("/2"));
            scene.note(format!("answered while it warms: {early}"));
            scene.plane.release(EDS);
            scene.answered(CDS, "2").await?;
            scene.note_get("l1", "/").await?;
            scene.note_stats(&["cluster_manager.warming_clusters", "cluster_manager.cluster_modified"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_changed_cluster_without_new_endpoints_keeps_the_old_ones() -> Result<()> {
    for variant in BOTH {
        play("old endpoints", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(EDS);
            let changed = eds("a", "per_connection_buffer_limit_bytes: 70000")
                .replace("V3}}", "V3, initial_fetch_timeout: 0.4s}}");
            scene.serve(CDS, "2", &[&changed])?;
            scene.answered(CDS, "2").await?;
            scene.until("l1", "/", 200).await?;
            scene.note_stats(&["cluster.a.membership_total", "cluster.a.init_fetch_timeout"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn the_answer_waits_for_a_new_cluster() -> Result<()> {
    for variant in BOTH {
        play("a new cluster", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(EDS);
            scene.serve(CDS, "2", &[&eds("a", ""), &eds("b", "")])?;
            scene.serve(EDS, "2", &[&endpoints("a", &["a"]), &endpoints("b", &["b"])])?;
            scene.stat("cluster_manager.warming_clusters", 1).await?;
            let early = scene.plane.seen().iter().any(|s| s.type_url == CDS && s.nonce.ends_with("/2"));
            scene.note(format!("answered while it warms: {early}"));
            scene.plane.release(EDS);
            scene.answered(CDS, "2").await?;
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            scene.answered(RDS, "2").await?;
            scene.note_get("l1", "/").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_start_without_clusters_goes_on_after_its_time() -> Result<()> {
    for variant in BOTH {
        let start = |kind| {
            let write = |v, port| {
                bootstrap(v, port).replace("cds_config: {ads: {}", "cds_config: {initial_fetch_timeout: 0.3s, ads: {}")
            };
            Scene::with(kind, variant, write, &[])
        };
        play_from("no clusters", variant, start, |mut scene| async move {
            scene.serve(LDS, "1", &[&listener("l", "l1", &direct("hello"))])?;
            scene.ready().await?;
            scene.until_body("l1", "/", "hello").await?;
            scene.note_stats(&["cluster_manager.cds.init_fetch_timeout"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

/// A bootstrap with a listener of its own.
fn with_static_listener(variant: Variant, port: u16) -> String {
    let own = listener("own", "l3", &direct("own"));
    let own: String =
        own.lines().enumerate().map(|(i, l)| format!("  {} {l}\n", if i == 0 { "-" } else { " " })).collect();
    bootstrap(variant, port).replace("static_resources:\n", &format!("static_resources:\n  listeners:\n{own}"))
}

#[test]
fn static_listeners_wait_for_discovery() -> Result<()> {
    for variant in BOTH {
        let start = |kind| Scene::with(kind, variant, with_static_listener, &[]);
        play_from("a static listener", variant, start, |mut scene| async move {
            scene.plane.request("clusters are asked for", |s| s.type_url == CDS).await?;
            not_ready(&mut scene).await?;
            scene.note_get("l3", "/").await?;
            scene.serve(CDS, "1", &[])?;
            scene.plane.request("listeners are asked for", |s| s.type_url == LDS).await?;
            scene.note_get("l3", "/").await?;
            scene.serve(LDS, "1", &[])?;
            scene.ready().await?;
            scene.until_body("l3", "/", "own").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_tls_listener_waits_for_its_secret() -> Result<()> {
    for variant in BOTH {
        play("a secret", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(SDS);
            scene.serve(SDS, "1", &[&secret("cert", "server")])?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
            scene.answered(LDS, "2").await?;
            scene.plane.request("the secret is asked for", |s| s.type_url == SDS).await?;
            let closed = weft_tests::client::tcp(scene.world.port("l2")?).await.is_err();
            scene.note(format!("closed while it warms: {closed}"));
            scene.plane.release(SDS);
            scene.answered(SDS, "1").await?;
            let port = scene.world.port("l2")?;
            let name = certificate(port, "").await?;
            scene.note(format!("certificate {name}"));
            Ok(scene)
        })?;
    }
    Ok(())
}
