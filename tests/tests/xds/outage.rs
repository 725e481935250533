//! Servers that go away, come back, and send what they should not.

use anyhow::{Result, ensure};
use prost::Message as _;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use weft_tests::ads::{CDS, EDS, LDS, RDS};
use weft_tests::locate::Kind;
use weft_tests::scene::{Scene, play};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::{BOTH, serving};
use crate::yaml::{eds, endpoints, fixed, rds_listener, routes};

/// Waits until the proxy has come back with all it asks for.
async fn back(scene: &Scene, streams: usize) -> Result<()> {
    eventually("another stream", PATIENCE, || async { (scene.plane.opened() > streams).then_some(()) }).await?;
    let again = |s: &weft_tests::ads::Seen| s.stream >= streams && s.type_url == RDS;
    scene.plane.request("routes are asked for again", again).await?;
    Ok(())
}

#[test]
fn after_a_reset_the_proxy_says_what_it_has() -> Result<()> {
    for variant in BOTH {
        play("a reset", variant, |mut scene| async move {
            serving(&mut scene).await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                scene.answered(type_url, "1").await?;
            }
            let before = scene.plane.opened();
            scene.plane.reset();
            back(&scene, before).await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                let first =
                    |s: &weft_tests::ads::Seen| s.stream >= before && s.type_url == type_url && s.nonce.is_empty();
                let first = scene.plane.request("a first request", first).await?;
                scene.note(format!(
                    "names {:?} version {:?} holds {:?}",
                    first.names,
                    first.version,
                    first.initial.keys().collect::<Vec<_>>()
                ));
            }
            let nodes = scene.plane.seen().iter().filter(|s| s.stream >= before && s.node.is_some()).count();
            scene.note(format!("requests with a node: {nodes}"));
            scene.note_get("l1", "/").await?;
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.answered(EDS, "2").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn traffic_goes_on_without_a_server() -> Result<()> {
    for variant in BOTH {
        play("an outage", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.answered(RDS, "1").await?;
            scene.stat("control_plane.connected_state", 1).await?;
            scene.plane.stop();
            eventually("the stream is lost", PATIENCE, || async {
                let stats = scene.world.proxy.admin().stats().await.ok()?;
                (stats.get("control_plane.connected_state") == Some(&0)).then_some(())
            })
            .await?;
            for _ in 0..3 {
                scene.note_get("l1", "/").await?;
            }
            scene.stat("cluster_manager.cds.update_failure", 1).await?;
            scene.serve(RDS, "2", &[&routes("r", "nowhere")])?;
            scene.plane.restart().await?;
            scene.until("l1", "/", 503).await?;
            scene.answered(RDS, "2").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn garbage_costs_the_stream_at_most() -> Result<()> {
    for variant in BOTH {
        play("garbage", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.answered(RDS, "1").await?;
            // No message of the protocol; a frame that says more than there is and then ends; a compressed one.
            for (frame, bytes) in [(true, &b"\xff\xff\xff\xff"[..]), (false, b"\x01\x00\x00\x00\x02ab")] {
                let before = scene.plane.opened();
                if frame {
                    scene.plane.message(bytes)
                } else {
                    scene.plane.bytes(bytes)
                }
                back(&scene, before).await?;
                scene.note_get("l1", "/").await?;
            }
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.answered(EDS, "2").await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn an_unknown_type_is_ignored() -> Result<()> {
    for variant in BOTH {
        play("an unknown type", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.answered(RDS, "1").await?;
            let before = scene.plane.opened();
            let type_url = "type.googleapis.com/no.such.Type".to_owned();
            let message = if variant.is_delta() {
                DeltaDiscoveryResponse { type_url, nonce: "x".into(), ..Default::default() }.encode_to_vec()
            } else {
                DiscoveryResponse { type_url, nonce: "x".into(), ..Default::default() }.encode_to_vec()
            };
            scene.plane.message(&message);
            scene.serve(EDS, "2", &[&endpoints("a", &["b"])])?;
            scene.answered(EDS, "2").await?;
            let answered = scene.plane.seen().iter().any(|s| s.nonce == "x");
            let same = scene.plane.opened() == before;
            scene.note(format!("answered: {answered}; same stream: {same}"));
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn large_messages_are_taken() -> Result<()> {
    for variant in BOTH {
        play("twelve mebibytes", variant, |mut scene| async move {
            let metadata = format!("metadata: {{filter_metadata: {{large: {{text: {}}}}}}}", "x".repeat(12 << 20));
            scene.serve(CDS, "1", &[&fixed("a", "a", &metadata)])?;
            scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r")])?;
            scene.serve(RDS, "1", &[&routes("r", "a")])?;
            scene.ready().await?;
            scene.answered(CDS, "1").await?;
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn many_clusters_come_at_once() -> Result<()> {
    for variant in BOTH {
        play("many clusters", variant, |mut scene| async move {
            let names: Vec<_> = (0..300).map(|n| format!("c{n}")).collect();
            let clusters: Vec<_> = names.iter().map(|n| eds(n, "")).collect();
            let all: Vec<_> = names.iter().map(|n| endpoints(n, &["a"])).collect();
            scene.serve(CDS, "1", &clusters.iter().map(String::as_str).collect::<Vec<_>>())?;
            scene.serve(EDS, "1", &all.iter().map(String::as_str).collect::<Vec<_>>())?;
            scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r")])?;
            scene.serve(RDS, "1", &[&routes("r", "c299")])?;
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            scene.note_stats(&["cluster_manager.active_clusters", "cluster_manager.warming_clusters"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn clusters_and_listeners_die_at_the_end_of_their_time() -> Result<()> {
    for variant in BOTH {
        play("time to live", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let lasting = scene.resource(CDS, &eds("a", ""))?;
            let mortal = scene.resource(CDS, &fixed("b", "b", ""))?.living(600);
            scene.plane.set(CDS, "2", vec![lasting, mortal]);
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            scene.answered(RDS, "2").await?;
            scene.until("l1", "/", 200).await?;
            scene.until("l1", "/", 503).await?;
            scene.note_stats(&["cluster_manager.cluster_removed", "cluster_manager.active_clusters"]).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_server_killed_five_times_loses_no_request() -> Result<()> {
    for variant in BOTH {
        play("restarts", variant, |mut scene| async move {
            serving(&mut scene).await?;
            let mut failed = 0;
            for round in 0..5 {
                scene.plane.stop();
                let to = if round % 2 == 0 { "b" } else { "a" };
                scene.serve(EDS, &format!("r{round}"), &[&endpoints("a", &[to])])?;
                for _ in 0..10 {
                    failed += usize::from(scene.get("l1", "/").await?.0 != 200);
                }
                scene.plane.restart().await?;
                scene.answered(EDS, &format!("r{round}")).await?;
                for _ in 0..10 {
                    failed += usize::from(scene.get("l1", "/").await?.0 != 200);
                }
            }
            ensure!(failed == 0, "{failed} requests failed");
            Ok(scene)
        })?;
    }
    Ok(())
}

/// A cluster went, and routes lead elsewhere, while the server was away: routes come later than clusters.
#[test]
fn a_cluster_that_went_meanwhile_costs_no_request() -> Result<()> {
    for variant in BOTH {
        play("gone meanwhile", variant, |mut scene| async move {
            serving(&mut scene).await?;
            scene.answered(RDS, "1").await?;
            scene.plane.stop();
            scene.plane.withhold(EDS);
            scene.serve(CDS, "2", &[&eds("b", "")])?;
            scene.serve(EDS, "2", &[&endpoints("b", &["b"])])?;
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            scene.plane.restart().await?;
            scene.stat("cluster_manager.warming_clusters", 1).await?;
            let mut failed = 0;
            for _ in 0..20 {
                failed += usize::from(scene.get("l1", "/").await?.0 != 200);
            }
            scene.plane.release(EDS);
            eventually("requests go to the other cluster", PATIENCE, || async {
                drop(scene.world.journal.take());
                let _counted = scene.get("l1", "/").await.ok()?;
                scene.world.journal.take().iter().all(|entry| entry.starts_with("[b]")).then_some(())
            })
            .await?;
            eventually("the old cluster is gone", PATIENCE, || async {
                let stats = scene.world.proxy.admin().stats().await.ok()?;
                (stats.get("cluster_manager.active_clusters") == Some(&2)).then_some(())
            })
            .await?;
            scene.until("l1", "/", 200).await?;
            if scene.world.kind == Kind::Weft {
                ensure!(failed == 0, "{failed} requests failed");
            } else {
                eprintln!("{variant:?}: Envoy failed {failed} of 20 requests");
            }
            Ok(scene)
        })?;
    }
    Ok(())
}
