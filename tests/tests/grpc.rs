//! gRPC through the proxy with gRPC's own client and server: every kind of call, errors, deadlines, cancellation, large and
//! compressed messages, and many calls at once. The same on Envoy, so that what a check takes for granted is known to hold.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use weft_tests::config::Config;
use weft_tests::csds::has_grpc;
use weft_tests::locate::{Kind, NO_ENVOY, NO_WEFT, skipped};
use weft_tests::wait::PATIENCE;
use weft_tests::world::World;

/// How many checks the client makes: a script that ends early is no success.
const CHECKS: usize = 13;

fn script(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
    let mut command = Command::new("python3");
    command.arg(path).kill_on_drop(true);
    command
}

/// The server and its port. It ends when its standard input does.
async fn server() -> Result<(Child, u16)> {
    let mut child = script("grpc_server.py").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.context("the server does not start")??;
    Ok((child, line.context("the server ended")?.trim().parse()?))
}

async fn through(kind: Kind) -> Result<()> {
    let (_server, port) = server().await?;
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes: [{match: {prefix: "/"}, route: {cluster: grpc, timeout: 0s}}]
            "#,
        )
        .cluster_raw(&format!(
            r#"
            name: grpc
            type: STATIC
            typed_extension_protocol_options:
              envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
                "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
                explicit_http_config: {{http2_protocol_options: {{}}}}
            load_assignment:
              cluster_name: grpc
              endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
            "#
        ));
    let world = World::start(kind, &config.text()).await?;
    let run = script("grpc_client.py").arg(format!("127.0.0.1:{}", world.port("http")?)).output();
    let run = tokio::time::timeout(PATIENCE * 8, run).await.context("the client does not end")??;
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    ensure!(run.status.success(), "through {}:\n{out}{err}{}", kind.name(), world.proxy.log_tail());
    let passed = out.lines().filter(|line| line.starts_with("ok ")).count();
    ensure!(passed == CHECKS, "through {}: {passed} checks of {CHECKS}:\n{out}", kind.name());
    Ok(())
}

async fn suite(kind: Kind, missing: &str) -> Result<()> {
    let name = format!("grpc through {}", kind.name());
    if kind.binary().is_none() {
        skipped(&name, missing);
        return Ok(());
    }
    if !has_grpc().await {
        skipped(&name, "Python's grpcio is not installed (scripts/test installs it: pip install grpcio)");
        return Ok(());
    }
    through(kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_through_weft() -> Result<()> {
    suite(Kind::Weft, NO_WEFT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_through_envoy() -> Result<()> {
    suite(Kind::Envoy, NO_ENVOY).await
}
