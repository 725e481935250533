//! What is refused, and what is let pass though it looks wrong.

use anyhow::{Result, ensure};
use weft_tests::ads::{CDS, EDS, LDS, RDS};
use weft_tests::scene::{Scene, Variant, play, play_from};

use crate::basics::{BOTH, serving};
use crate::yaml::{direct, eds, endpoints, fixed, inline, listener, rds_listener, routes};

/// Serves `yaml` beside what is there and notes the answer; the error must name `named`.
async fn refused(scene: &mut Scene, type_url: &str, version: &str, yaml: &[&str], named: &str) -> Result<()> {
    scene.serve(type_url, version, yaml)?;
    let error = scene.answered(type_url, version).await?;
    ensure!(error.as_ref().is_some_and(|e| e.contains(named)), "{version}: {error:?} does not name {named}");
    scene.note_get("l1", "/").await
}

async fn accepted(scene: &mut Scene, type_url: &str, version: &str, yaml: &[&str]) -> Result<()> {
    scene.serve(type_url, version, yaml)?;
    let error = scene.answered(type_url, version).await?;
    ensure!(error.is_none(), "{version}: {error:?}");
    scene.note_get("l1", "/").await
}

#[test]
fn listeners() -> Result<()> {
    for variant in BOTH {
        play("refused listeners", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let good = rds_listener("l", "l1", "r");
            let unknown = listener("m", "l2", &inline("nowhere"));
            refused(&mut scene, LDS, "unknown-cluster", &[&good, &unknown], "nowhere").await?;
            let duplicate = listener("dup", "l1", &direct("dup"));
            refused(&mut scene, LDS, "address-in-use", &[&good, &duplicate], "dup").await?;
            let no_chains = "name: e\naddress: {socket_address: {address: 127.0.0.1, port_value: {{port:l3}}}}\n";
            refused(&mut scene, LDS, "no-chains", &[&good, no_chains], "e").await?;
            let half = listener("h", "l2", &direct("half"));
            let other = no_chains.replace("name: e", "name: other");
            refused(&mut scene, LDS, "half", &[&good, &half, &other], "other").await?;
            scene.until_body("l2", "/", "half").await?;
            scene
                .note_stats(&["listener_manager.lds.update_rejected", "listener_manager.total_listeners_active"])
                .await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_taken_port() -> Result<()> {
    for variant in BOTH {
        play("a taken port", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let other = std::net::TcpListener::bind("127.0.0.1:0")?;
            let port = other.local_addr()?.port().to_string();
            let good = rds_listener("l", "l1", "r");
            let taken = listener("m", "l2", &direct("m")).replace("{{port:l2}}", &port);
            refused(&mut scene, LDS, "taken", &[&good, &taken], "m").await?;
            drop(other);
            accepted(&mut scene, LDS, "free", &[&good, &taken.replace("stat_prefix: m", "stat_prefix: m2")]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn route_tables() -> Result<()> {
    for variant in BOTH {
        play("refused routes", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let validated = format!("{}validate_clusters: true\n", routes("r", "nowhere"));
            refused(&mut scene, RDS, "validated", &[&validated], "nowhere").await?;
            let twice = "name: r\nvirtual_hosts: [{name: a, domains: [x, x], routes: []}]\n";
            refused(&mut scene, RDS, "domain-twice", &[twice], "x").await?;
            let weightless = "name: r\nvirtual_hosts: [{name: a, domains: ['*'], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}]}]\n";
            refused(&mut scene, RDS, "weight-0", &[weightless], "").await?;
            scene.note_stats(&["http.l.rds.r.update_rejected", "http.l.rds.r.config_reload"]).await?;
            let same_name = "name: r\nvirtual_hosts: [{name: v, domains: [x], routes: []}, {name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: a}}]}]\n";
            accepted(&mut scene, RDS, "same-name", &[same_name]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn names_twice() -> Result<()> {
    for variant in BOTH {
        play("names twice", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let one = scene.resource(CDS, &eds("a", ""))?;
            let two = scene.resource(CDS, &fixed("twin", "b", ""))?;
            scene.plane.set(CDS, "twins", vec![one, two.clone(), two.again()]);
            let error = scene.answered(CDS, "twins").await?.unwrap_or_default();
            ensure!(error.contains("duplicate") && error.contains("twin"), "{error}");
            scene.note_get("l1", "/").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn endpoints_by_name() -> Result<()> {
    for variant in BOTH {
        play("endpoints by name", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let named = endpoints("a", &["a"]).replace("127.0.0.1", "some.name");
            refused(&mut scene, EDS, "by-name", &[&named], "some.name").await?;
            scene.note_stats(&["cluster.a.update_rejected", "cluster.a.membership_total"]).await?;
            // The server corrects itself.
            accepted(&mut scene, EDS, "corrected", &[&endpoints("a", &["b"])]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_cluster_named_like_one_of_the_bootstrap() -> Result<()> {
    for variant in BOTH {
        play("a cluster of the bootstrap", variant, |mut scene| async move {
            serving(&mut scene).await?;
            accepted(&mut scene, CDS, "same-name", &[&eds("a", ""), &fixed("plane", "b", "")]).await?;
            scene.note_stats(&["cluster_manager.active_clusters"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_body_that_is_none() -> Result<()> {
    for variant in BOTH {
        play("an undecodable resource", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let good = scene.resource(CDS, &eds("a", ""))?;
            let bad = scene.resource(CDS, &fixed("bad", "b", ""))?.holding(b"\x0a\x03bad\xff\xff\xff");
            scene.plane.set(CDS, "undecodable", vec![good, bad]);
            let error = scene.answered(CDS, "undecodable").await?;
            ensure!(error.is_some(), "it was accepted");
            scene.note_get("l1", "/").await?;
            scene.note_stats(&["cluster_manager.cds.update_rejected"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

/// A cluster with a field that nothing acts on, known to Envoy and not to weft.
fn unsupported() -> String {
    fixed("odd", "b", "preconnect_policy: {per_upstream_preconnect_ratio: 1.5}")
}

#[test]
fn unsupported_fields_are_told() -> Result<()> {
    // Only weft has any: Envoy acts on this one.
    let start = |strict: bool| {
        move |kind| async move {
            let arguments: &[&str] = if strict { &["--reject-unknown-dynamic-fields"] } else { &[] };
            Scene::with(kind, Variant::Sotw, weft_tests::scene::bootstrap, arguments).await
        }
    };
    for strict in [false, true] {
        play_from("unsupported fields", Variant::Sotw, start(strict), |mut scene| async move {
            serving(&mut scene).await?;
            let weft = scene.world.kind == weft_tests::locate::Kind::Weft;
            scene.serve(CDS, "odd", &[&eds("a", ""), &unsupported()])?;
            let answer = scene.plane.answer(CDS, "odd").await?;
            ensure!(answer.error.is_some() == (strict && weft), "{:?}", answer.error);
            if weft && strict {
                ensure!(answer.error.is_some_and(|e| e.contains("preconnect_policy")));
            } else if weft {
                scene.stat("server.dynamic_unknown_fields", 1).await?;
                let dump = scene.dump("ClustersConfigDump").await?.to_string();
                ensure!(dump.contains("weft_ignored_fields") && dump.contains("preconnect_policy:"), "{dump}");
            }
            Ok(scene)
        })?;
    }
    Ok(())
}
