//! Under a constant arrival of requests: certificates are rotated by file, and the process is asked to end. No request fails.
//!
//! The load is open loop: requests fall due at a fixed rate whether or not the ones before have been answered, and their time
//! is measured from when they fell due. `WEFT_LOAD_SECONDS` (10) and `WEFT_LOAD_RATE` (1000 a second) set how long and how much.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;
use weft_tests::config::{Config, connection_manager, indent};
use weft_tests::load::{Load, Target, setting, upstream};
use weft_tests::locate::{Kind, NO_WEFT, skipped};
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

/// The load that is asked for.
fn load(world: &World) -> Result<Load> {
    let to = Target { port: world.port("load")?, host: "localhost", tls: true };
    Ok(Load::start(to, setting("WEFT_LOAD_RATE", 1000)))
}

/// Replaces the secret in one step, as whoever rotates certificates does.
fn rotate(dir: &Path, identity: &str) -> Result<()> {
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: own\n  \
         tls_certificate:\n    certificate_chain: {{filename: {0}/{identity}.pem}}\n    private_key: {{filename: {0}/{identity}.key}}\n",
        dir.display()
    );
    let new = dir.join("sds.yaml.tmp");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, dir.join("sds.yaml"))?;
    Ok(())
}

fn config(dir: &Path, upstream: u16) -> String {
    let chain = format!(
        r#"filter_chains:
- transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context:
        alpn_protocols: [h2, http/1.1]
        tls_certificate_sds_secret_configs:
        - name: own
          sds_config: {{path_config_source: {{path: {}/sds.yaml, watched_directory: {{path: {}}}}}}}
  filters:
{}"#,
        dir.display(),
        dir.display(),
        indent(
            &connection_manager(
                "load",
                r#"
                access_log: []
                route_config:
                  virtual_hosts:
                  - name: all
                    domains: ["*"]
                    routes: [{match: {prefix: "/"}, route: {cluster: a}}]
                "#
            ),
            2
        )
    );
    Config::new()
        .listener("load", &chain)
        .cluster_raw(&format!(
            r#"
            name: a
            type: STATIC
            load_assignment:
              cluster_name: a
              endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]
            "#
        ))
        .text()
}

async fn begin(dir: &Path) -> Result<World> {
    weft_tests::tls::material()?.write(dir)?;
    rotate(dir, "server")?;
    World::start(Kind::Weft, &config(dir, upstream("127.0.0.1:0").await?)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_certificates_rotate() -> Result<()> {
    if Kind::Weft.binary().is_none() {
        skipped("rotation under load", NO_WEFT);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let world = begin(dir.path()).await?;
    let load = load(&world)?;
    let end = Instant::now() + Duration::from_secs(setting("WEFT_LOAD_SECONDS", 10));
    let mut rotations = 0;
    while Instant::now() < end {
        let identity = if rotations % 2 == 0 { "other" } else { "server" };
        rotate(dir.path(), identity)?;
        rotations += 1;
        // The next rotation waits until clients have been shown this one.
        let shown = || load.seen.shown(identity);
        let before = shown();
        eventually("the new certificate in a handshake", PATIENCE, || async { (shown() > before).then_some(()) })
            .await?;
    }
    let seen = load.finish().await?;
    eprintln!("{rotations} rotations: {}", seen.summary());
    ensure!(rotations >= 4, "only {rotations} rotations");
    seen.no_failure()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_asked_to_end() -> Result<()> {
    if Kind::Weft.binary().is_none() {
        skipped("SIGTERM under load", NO_WEFT);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut world = begin(dir.path()).await?;
    let load = load(&world)?;
    let before = setting("WEFT_LOAD_SECONDS", 10).div_ceil(4);
    let warm = setting("WEFT_LOAD_RATE", 1000) * before / 2;
    let seen = load.seen.clone();
    eventually("load", PATIENCE * 4, || async { (seen.answered.load(Ordering::Relaxed) >= warm).then_some(()) })
        .await?;
    seen.ending.store(true, Ordering::Release);
    world.proxy.terminate().await?;
    let status = world.proxy.end(PATIENCE * 2).await?;
    let seen = load.finish().await?;
    eprintln!("{status}: {}", seen.summary());
    ensure!(status.success(), "{status}: {}", world.proxy.log_tail());
    seen.no_failure()
}
