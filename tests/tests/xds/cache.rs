//! The last good configuration on disk (`--xds-cache`). Envoy has no such thing: these run on weft-proxy alone.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use weft_tests::ads::{CDS, EDS, LDS, RDS, SDS, Seen};
use weft_tests::client::fetch;
use weft_tests::scene::{Scene, Variant, play_weft};
use weft_tests::wait::{PATIENCE, eventually};

use crate::basics::{BOTH, serving};
use crate::on_demand::{CLUSTERS, to_cluster, with_clusters};
use crate::secrets::{certificate, secret, tls_listener};
use crate::yaml::{eds, endpoints, fixed, rds_listener, routes};

const CACHE: &[&str] = &["--xds-cache", "{{dir}}/cache"];
const NOT_USED: &str = "the cached configuration is not used";

fn file(scene: &Scene) -> PathBuf {
    scene.world.dir().join("cache/last-good.xds")
}

/// Ends the proxy in good order, and the server.
async fn both_end(scene: &mut Scene) -> Result<()> {
    scene.world.proxy.terminate().await?;
    scene.world.proxy.end(PATIENCE).await?;
    scene.plane.stop();
    Ok(())
}

/// Requests without end, a few at a time.
struct Load {
    ended: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (failed, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (ended, failed, sent) = (ended.clone(), failed.clone(), sent.clone());
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let request = b"GET / HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
                    let good = fetch(port, request).await.is_ok_and(|answer| answer.status() == 200);
                    failed.fetch_add(usize::from(!good), Ordering::Relaxed);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Load { clients: (0..3).map(client).collect(), ended, failed, sent }
    }

    async fn end(self) -> Result<()> {
        let before = self.sent.load(Ordering::Relaxed);
        eventually("some more requests", PATIENCE, || async {
            (self.sent.load(Ordering::Relaxed) > before + 30).then_some(())
        })
        .await?;
        self.ended.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await?;
        }
        let sent = self.sent.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} of {sent} requests failed");
        Ok(())
    }
}

/// The first request of a kind on a stream from `from` on.
async fn first(scene: &Scene, from: usize, type_url: &str) -> Result<Seen> {
    let wanted = |s: &Seen| s.stream >= from && s.type_url == type_url && s.nonce.is_empty();
    scene.plane.request("a first request", wanted).await
}

#[test]
fn a_start_without_a_server_serves_and_the_server_takes_over() -> Result<()> {
    for variant in BOTH {
        play_weft("from the cache", variant, CACHE, |mut scene| async move {
            scene.serve(SDS, "1", &[&secret("cert", "expired")])?;
            serving(&mut scene).await?;
            scene.serve(LDS, "2", &[&rds_listener("l", "l1", "r"), &tls_listener("t", "l2")])?;
            certificate(scene.world.port("l2")?, "expired").await?;
            both_end(&mut scene).await?;
            let mode = |path: PathBuf| std::fs::metadata(path).map(|m| m.permissions().mode() & 0o777);
            ensure!(mode(file(&scene))? == 0o600 && mode(scene.world.dir().join("cache"))? == 0o700);

            let before = scene.plane.opened();
            scene.world.again()?;
            scene.ready().await?;
            ensure!(scene.get("l1", "/").await?.0 == 200, "{}", scene.world.proxy.log_tail());
            certificate(scene.world.port("l2")?, "expired").await?;
            let log = scene.world.proxy.log();
            ensure!(log.contains("a certificate of the cached configuration has expired"), "{log}");
            scene.stat("xds_cache.serving", 5).await?;
            let dump = scene.dump("ClustersConfigDump").await?;
            let cached = |dump: &serde_json::Value| dump.pointer("/dynamic_active_clusters/0/weft_cached").cloned();
            ensure!(cached(&dump).is_some_and(|c| c["saved"].is_string()), "{dump}");
            let waiting = scene.world.proxy.admin().text("/init_dump").await?;
            ensure!(waiting.contains("xds cache"), "{waiting}");

            // The cluster goes, and routes lead elsewhere.
            scene.serve(CDS, "3", &[&eds("b", "")])?;
            scene.serve(EDS, "3", &[&endpoints("b", &["b"])])?;
            scene.serve(RDS, "3", &[&routes("r", "b")])?;
            let load = Load::start(scene.world.port("l1")?);
            scene.plane.restart().await?;
            let clusters = first(&scene, before, CDS).await?;
            ensure!(clusters.version.is_empty(), "{clusters:?}");
            let held: Vec<_> = clusters.initial.keys().map(String::as_str).collect();
            ensure!(held == if variant.is_delta() { vec!["a"] } else { vec![] }, "{clusters:?}");
            scene.answered(RDS, "3").await?;
            drop(scene.world.journal.take());
            eventually("requests go to the other cluster", PATIENCE, || async {
                let all = scene.world.journal.take();
                (!all.is_empty() && all.iter().all(|entry| entry.starts_with("[b]"))).then_some(())
            })
            .await?;
            eventually("the old cluster is gone", PATIENCE, || async {
                let stats = scene.world.proxy.admin().stats().await.ok()?;
                let none = |name: &str, n: u64| stats.get(name) == Some(&n);
                (none("cluster_manager.active_clusters", 2) && none("xds_cache.serving", 0)).then_some(())
            })
            .await?;
            load.end().await?;
            let dump = scene.dump("ClustersConfigDump").await?;
            ensure!(cached(&dump).is_none(), "{dump}");
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_silent_server_is_answered_for() -> Result<()> {
    for variant in BOTH {
        play_weft("a silent server", variant, CACHE, |mut scene| async move {
            serving(&mut scene).await?;
            // A crash: what was written by then is there.
            scene.stat("xds_cache.written", 1).await?;
            scene.world.proxy.kill().await?;
            for type_url in [CDS, EDS, LDS, RDS] {
                scene.plane.withhold(type_url);
            }
            let before = scene.plane.opened();
            scene.world.again()?;
            scene.ready().await?;
            ensure!(scene.get("l1", "/").await?.0 == 200, "{}", scene.world.proxy.log_tail());
            let load = Load::start(scene.world.port("l1")?);
            eventually("the stream is opened anew", PATIENCE, || async {
                (scene.plane.opened() > before + 1).then_some(())
            })
            .await?;
            let clusters = first(&scene, before + 1, CDS).await?;
            ensure!(clusters.initial.len() == usize::from(variant.is_delta()), "{clusters:?}");
            scene.serve(CDS, "2", &[&eds("b", "")])?;
            scene.serve(EDS, "2", &[&endpoints("b", &["b"])])?;
            scene.serve(RDS, "2", &[&routes("r", "b")])?;
            for type_url in [CDS, EDS, LDS, RDS] {
                scene.plane.release(type_url);
            }
            scene.answered(RDS, "2").await?;
            eventually("the old cluster is gone", PATIENCE, || async {
                let stats = scene.world.proxy.admin().stats().await.ok()?;
                (stats.get("cluster_manager.active_clusters") == Some(&2)).then_some(())
            })
            .await?;
            load.end().await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn what_came_on_demand_is_there_when_it_is_demanded_again() -> Result<()> {
    play_weft("on demand from the cache", Variant::Delta, CACHE, |mut scene| async move {
        with_clusters(&mut scene, CLUSTERS).await?;
        scene.serve(CDS, "2", &[&fixed("c", "c", ""), &fixed("b", "b", "")])?;
        ensure!(to_cluster(&scene, "c").await?.starts_with("200"));
        both_end(&mut scene).await?;
        let before = scene.plane.opened();
        scene.world.again()?;
        scene.ready().await?;
        for cluster in ["c", "b"] {
            let answer = to_cluster(&scene, cluster).await?;
            ensure!(answer.starts_with("200"), "{cluster}: {answer}; {}", scene.world.proxy.log_tail());
        }
        scene.plane.restart().await?;
        let clusters = first(&scene, before, CDS).await?;
        let held: Vec<_> = clusters.initial.keys().map(String::as_str).collect();
        ensure!(held == ["b", "c"], "{clusters:?}");
        Ok(scene)
    })
}

#[test]
fn a_server_that_answers_is_not_answered_for() -> Result<()> {
    for variant in BOTH {
        play_weft("a server that is there", variant, CACHE, |mut scene| async move {
            serving(&mut scene).await?;
            scene.world.proxy.terminate().await?;
            scene.world.proxy.end(PATIENCE).await?;
            scene.world.again()?;
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            let stats = scene.world.proxy.admin().stats().await?;
            ensure!(stats.get("xds_cache.used") == Some(&0), "{stats:?}");
            ensure!(stats.get("xds_cache.saved_time").is_some_and(|at| *at > 0), "{stats:?}");
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_damaged_cache_is_told_of_and_not_used() -> Result<()> {
    for variant in BOTH {
        play_weft("a damaged cache", variant, CACHE, |mut scene| async move {
            serving(&mut scene).await?;
            both_end(&mut scene).await?;
            let mut bytes = std::fs::read(file(&scene)).context("the cache")?;
            bytes.truncate(bytes.len() / 2);
            std::fs::write(file(&scene), bytes)?;
            scene.world.again()?;
            scene.stat("xds_cache.read_failed", 1).await?;
            scene.stat("cluster_manager.cds.update_failure", 2).await?;
            ensure!(scene.world.proxy.admin().request("GET", "/ready").await?.status() == 503);
            let log = scene.world.proxy.log();
            ensure!(log.matches(NOT_USED).count() == 1 && log.contains("checksum"), "{log}");
            scene.plane.restart().await?;
            scene.ready().await?;
            scene.until("l1", "/", 200).await?;
            Ok(scene)
        })?;
    }
    Ok(())
}

#[test]
fn a_directory_that_others_may_read_ends_the_start() -> Result<()> {
    play_weft("an open directory", BOTH[0], CACHE, |mut scene| async move {
        serving(&mut scene).await?;
        scene.world.proxy.terminate().await?;
        scene.world.proxy.end(PATIENCE).await?;
        let directory = scene.world.dir().join("cache");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
        scene.world.again()?;
        let status = scene.world.proxy.end(PATIENCE).await?;
        let log = scene.world.proxy.log();
        ensure!(!status.success() && log.contains("--xds-cache") && log.contains("0755"), "{log}");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700))?;
        scene.world.again()?;
        scene.ready().await?;
        Ok(scene)
    })
}
