//! What the admin interface tells of discovery.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::ads::{CDS, EDS, LDS, RDS};
use weft_tests::scene::{Scene, play};

use crate::basics::{BOTH, serving};
use crate::secrets::{secret, tls_listener};
use crate::yaml::{eds, endpoints, fixed, rds_listener, routes};

/// The names and versions in a list of a section, and the keys of each entry.
fn list(section: &Value, field: &str, inner: &str) -> Vec<String> {
    let all = section.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out: Vec<_> = all
        .iter()
        .map(|entry| {
            let own = entry.get(inner).unwrap_or(&Value::Null);
            let name = own.get("name").or_else(|| own.get("cluster_name")).or_else(|| entry.get("name"));
            let keys: Vec<_> = entry.as_object().into_iter().flat_map(|o| o.keys().cloned()).collect();
            format!("{name:?} {:?} {keys:?}", entry.get("version_info"))
        })
        .collect();
    out.sort();
    out
}

#[test]
fn what_is_in_use() -> Result<()> {
    for variant in BOTH {
        play("what is in use", variant, |mut scene| async move {
            scene.serve(weft_tests::ads::SDS, "1", &[&secret("cert", "server")])?;
            serving(&mut scene).await?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
            crate::secrets::certificate(scene.world.port("l2")?, "").await?;
            let sotw = !variant.is_delta();
            for (section, field, inner) in [
                ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
                ("RoutesConfigDump", "dynamic_route_configs", "route_config"),
                ("SecretsConfigDump", "dynamic_active_secrets", "secret"),
            ] {
                let dump = scene.dump(section).await?;
                let seen = list(&dump, field, inner);
                // A version of delta is the server's name of one resource; both have it, and it says nothing here.
                scene.note(format!(
                    "{section} {:?} {}",
                    dump.get("version_info"),
                    if sotw { format!("{seen:?}") } else { seen.len().to_string() }
                ));
            }
            let listeners = scene.dump("ListenersConfigDump").await?;
            let all = listeners.get("dynamic_listeners").and_then(Value::as_array).context("dynamic_listeners")?;
            let mut states: Vec<_> = all
                .iter()
                .map(|l| {
                    format!("{:?} {:?}", l.get("name"), l.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()))
                })
                .collect();
            states.sort();
            scene.note(format!("{states:?}"));
            let text = scene.world.proxy.admin().text("/clusters").await?;
            let mut added: Vec<_> = text.lines().filter(|l| l.contains("added_via_api")).map(str::to_owned).collect();
            added.sort();
            scene.note(format!("{added:?}"));
            let text = scene.world.proxy.admin().text("/listeners").await?;
            let mut open: Vec<_> = text.lines().map(|l| l.split("::").next().unwrap_or("").to_owned()).collect();
            open.sort();
            scene.note(format!("{open:?}"));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn what_was_refused() -> Result<()> {
    for variant in BOTH {
        play("what was refused", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let bad = rds_listener("l", "l1", "r").replace("http_filters:", "via: \"\\n\"\n      http_filters:");
            scene.serve(LDS, "2", &[&bad])?;
            let refused = scene.answered(LDS, "2").await?;
            ensure!(refused.is_some());
            let listeners = scene.dump("ListenersConfigDump").await?;
            let l = listeners.pointer("/dynamic_listeners/0").context("a listener")?;
            scene.note(format!("active {}, error {}", l.get("active_state").is_some(), l.get("error_state").is_some()));
            scene.note(format!("version {:?}", listeners.get("version_info")));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn what_waits() -> Result<()> {
    for variant in BOTH {
        play("what waits", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.plane.withhold(EDS);
            scene.serve(CDS, "2", &[&eds("a", ""), &eds("b", "")])?;
            scene.stat("cluster_manager.warming_clusters", 1).await?;
            let dump = scene.dump("ClustersConfigDump").await?;
            let warming: Vec<_> =
                dump.get("dynamic_warming_clusters").and_then(Value::as_array).into_iter().flatten().collect();
            scene.note(format!(
                "{} warm, first {:?}",
                warming.len(),
                warming.first().and_then(|w| w.pointer("/cluster/name"))
            ));
            scene.plane.release(EDS);
            scene.serve(EDS, "2", &[&endpoints("a", &["a"]), &endpoints("b", &["b"])])?;
            scene.answered(CDS, "2").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

async fn updates(scene: &mut Scene) -> Result<()> {
    scene
        .note_stats(&[
            "cluster_manager.cds.update_success",
            "cluster_manager.cds.update_rejected",
            "cluster_manager.cluster_added",
            "cluster_manager.cluster_modified",
            "cluster_manager.cluster_removed",
            "listener_manager.lds.update_success",
            "listener_manager.listener_added",
            "listener_manager.listener_modified",
            "listener_manager.listener_removed",
            "http.l.rds.r.update_success",
            "http.l.rds.r.config_reload",
            "cluster.a.update_success",
            "cluster.a.membership_change",
            "control_plane.connected_state",
        ])
        .await
}

#[test]
fn updates_are_counted() -> Result<()> {
    for variant in BOTH {
        play("counters", variant, |mut scene| async move {
            serving(&mut scene).await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                scene.answered(type_url, "1").await?;
            }
            updates(&mut scene).await?;
            scene.serve(CDS, "2", &[&eds("a", ""), &fixed("b", "b", "")])?;
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            for type_url in [CDS, EDS, RDS] {
                scene.answered(type_url, "2").await?;
            }
            scene.serve(CDS, "3", &[&eds("a", "")])?;
            scene.answered(CDS, "3").await?;
            updates(&mut scene).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}
