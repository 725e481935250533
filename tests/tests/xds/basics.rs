//! Starting, adding, changing, removing.

use anyhow::{Result, ensure};
use weft_tests::ads::{CDS, EDS, LDS, RDS};
use weft_tests::scene::{Scene, Variant, play};

use crate::yaml::{direct, eds, endpoints, fixed, inline, listener, rds_listener, routes};

pub(crate) const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// Cluster `a` with its endpoints, a listener with its routes: all by discovery.
pub(crate) async fn serving(scene: &mut Scene) -> Result<()> {
    scene.serve(CDS, "1", &[&eds("a", "")])?;
    scene.serve(EDS, "1", &[&endpoints("a", &["a"])])?;
    scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r")])?;
    scene.serve(RDS, "1", &[&routes("r", "a")])?;
    scene.ready().await?;
    scene.until("l1", "/", 200).await?;
    Ok(())
}

#[test]
fn starts() -> Result<()> {
    for variant in BOTH {
        play("starts", variant, |mut scene| async move {
            serving(&mut scene).await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                ensure!(scene.answered(type_url, "1").await?.is_none());
            }
            let order: Vec<_> =
                scene.plane.seen().iter().filter(|s| s.nonce.is_empty()).map(|s| s.type_url.clone()).collect();
            let mut order: Vec<_> = order.iter().map(|t| t.rsplit('.').next().unwrap_or("").to_owned()).collect();
            order.dedup();
            scene.note(format!("asked for {order:?}"));
            let first = scene.plane.request("a first request", |_| true).await?;
            scene.note(format!("first: names {:?} version {:?} node {:?}", first.names, first.version, first.node));
            let later = scene.plane.seen().iter().skip(1).filter(|s| s.node.is_some()).count();
            scene.note(format!("later requests with a node: {later}"));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn endpoints_change() -> Result<()> {
    for variant in BOTH {
        play("endpoints change", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.answered(EDS, "2").await?;
            scene.until("l1", "/", 200).await?;
            let seen = || scene.world.journal.take();
            drop(seen());
            for _ in 0..5 {
                scene.get("l1", "/").await?;
            }
            let to: Vec<_> = scene.world.journal.take();
            ensure!(to.iter().all(|entry| entry.starts_with("[b]")), "{to:?}");
            // None: the cluster is there and empty.
            scene.serve(EDS, "3", &["cluster_name: a\n"])?;
            scene.until("l1", "/", 503).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn routes_change() -> Result<()> {
    for variant in BOTH {
        play("routes change", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(CDS, "2", &[&eds("a", ""), &fixed("b", "b", "")])?;
            scene.answered(CDS, "2").await?;
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            scene.answered(RDS, "2").await?;
            scene.until("l1", "/", 200).await?;
            drop(scene.world.journal.take());
            scene.get("l1", "/").await?;
            let to = scene.world.journal.take();
            ensure!(to.iter().all(|entry| entry.starts_with("[b]")), "{to:?}");
            scene.serve(RDS, "3", &[&routes("r", "nowhere")])?;
            scene.answered(RDS, "3").await?;
            scene.until("l1", "/", 503).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn clusters_go() -> Result<()> {
    for variant in BOTH {
        play("clusters go", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(CDS, "2", &[])?;
            scene.until("l1", "/", 503).await?;
            scene.answered(CDS, "2").await?;
            scene.serve(CDS, "3", &[&eds("a", "")])?;
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn listeners_come_and_go() -> Result<()> {
    for variant in BOTH {
        play("listeners come and go", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &listener("m", "l2", &inline("a"))])?;
            scene.until("l2", "/", 200).await?;
            scene.until("l1", "/", 200).await?;
            scene.serve(LDS, "3", &[&listener("m", "l2", &inline("a"))])?;
            scene.answered(LDS, "3").await?;
            scene.until("l1", "/", 0).await?;
            scene.until("l2", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_bad_cluster_is_named_and_the_good_one_used() -> Result<()> {
    for variant in BOTH {
        play("a bad cluster", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let bad = fixed("bad", "b", "").replace("address: 127.0.0.1", "address: some.name");
            scene.serve(CDS, "2", &[&eds("a", ""), &bad, &fixed("b", "b", "")])?;
            let error = scene.answered(CDS, "2").await?.unwrap_or_default();
            ensure!(error.contains("bad"), "{error}");
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            scene.answered(RDS, "2").await?;
            scene.until("l1", "/", 200).await?;
            scene.note_stats(&["cluster_manager.cds.update_rejected", "cluster_manager.active_clusters"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_listener_is_updated_in_place() -> Result<()> {
    for variant in BOTH {
        play("a listener is updated in place", variant, |mut scene| async move {
            serving(&mut scene).await?;
            // A connection that is open meanwhile is still served.
            let mut open = weft_tests::client::Client::connect(scene.world.port("l1")?).await?;
            let request = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";
            for version in ["2", "3"] {
                scene.serve(LDS, version, &[&listener("l", "l1", &direct(&format!("v{version}")))])?;
                scene.answered(LDS, version).await?;
                scene.until_body("l1", "/", &format!("v{version}")).await?;
            }
            open.send(request).await;
            let answer = open.responses("GET", weft_tests::wait::PATIENCE).await?;
            scene.note(format!("on the old connection: {:?}", answer.iter().map(|a| a.status()).collect::<Vec<_>>()));
            scene
                .note_stats(&["listener_manager.listener_modified", "listener_manager.listener_in_place_updated"])
                .await?;
            Ok(scene)
        })?;
    }
    Ok(())
}
