//! h2spec, the conformance suite of RFC 9113, RFC 7541 and their predecessors, on weft-proxy's HTTP/2: cleartext and TLS. All of its
//! cases must pass.
//!
//! h2spec is found through `$H2SPEC`, on the path, or in `target/peers/bin`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::config::{Config, connection_manager, indent};
use weft_tests::locate::{Kind, NO_WEFT, skipped};
use weft_tests::world::World;

const NOT_INSTALLED: &str = "h2spec is not installed (go install github.com/summerwind/h2spec/cmd/h2spec@latest)";
/// A case that waits for an answer in vain gives up after this many seconds; a healthy run takes less than one in all.
const PATIENCE_OF_A_CASE: &str = "2";
/// Every case may time out, and the run still ends.
const PATIENCE: Duration = Duration::from_secs(400);
/// Fewer cases than this were not the whole suite.
const CASES: u32 = 140;

fn h2spec() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("H2SPEC") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let peers =
        std::env::current_exe().ok().and_then(|this| Some(this.parent()?.parent()?.parent()?.join("peers/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(peers).map(|folder| folder.join("h2spec")).find(|candidate| candidate.is_file())
}

/// Bodies of ten bytes: cases about flow control need more than a few.
fn config() -> String {
    let manager = connection_manager(
        "h2",
        "codec_type: HTTP2\nhttp2_protocol_options: {max_concurrent_streams: 100}\nroute_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - match: {prefix: \"/\"}\n      request_headers_to_add: [{header: {key: x-script, value: \"200,body=0123456789\"}}]\n      route: {cluster: a}\n",
    );
    let filters = format!("filters:\n{manager}");
    let tls = "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n    common_tls_context:\n      alpn_protocols: [h2]\n      tls_certificates: [{certificate_chain: {filename: \"{{dir}}/server.pem\"}, private_key: {filename: \"{{dir}}/server.key\"}}]\n";
    let chain = |fields: &str| format!("filter_chains:\n- name: only\n{}", indent(fields, 2));
    Config::new()
        .listener("plain", &chain(&filters))
        .listener("tls", &chain(&format!("{tls}{filters}")))
        .cluster("a", "")
        .text()
}

/// Runs h2spec on a listener; its report.
async fn run(world: &World, listener: &str, flags: &[&str]) -> Result<String> {
    let binary = h2spec().context(NOT_INSTALLED)?;
    let port = world.port(listener)?.to_string();
    let mut command = tokio::process::Command::new(binary);
    command.args(["--host", "127.0.0.1", "--port", &port, "--strict", "--timeout", PATIENCE_OF_A_CASE]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("h2spec does not end")?;
    let output = output.context("run h2spec")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// The numbers of "145 tests, 143 passed, 1 skipped, 1 failed".
fn summary(report: &str) -> Result<[u32; 4]> {
    let line = report.lines().rev().find(|line| line.contains(" tests, ") && line.contains(" failed"));
    let line = line.with_context(|| format!("h2spec gives no summary: {report}"))?;
    let numbers: Vec<u32> = line.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect();
    <[u32; 4]>::try_from(numbers).ok().with_context(|| format!("h2spec's summary is not understood: {line}"))
}

#[test]
fn all_cases_pass() -> Result<()> {
    if h2spec().is_none() {
        skipped("h2spec", NOT_INSTALLED);
        return Ok(());
    }
    if Kind::Weft.binary().is_none() {
        skipped("h2spec", NO_WEFT);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut world = World::start(Kind::Weft, &config()).await?;
        for (listener, flags) in [("plain", &[][..]), ("tls", &["--tls", "--insecure"][..])] {
            let report = run(&world, listener, flags).await?;
            let [tests, passed, skipped, failed] = summary(&report)?;
            eprintln!("h2spec {listener}: {tests} tests, {passed} passed, {skipped} skipped, {failed} failed");
            let failures = report.find("Failures:").map_or("", |at| &report[at..]);
            ensure!(failed == 0 && skipped == 0, "h2spec on the {listener} listener:\n{failures}");
            ensure!(
                tests >= CASES && passed == tests,
                "h2spec on the {listener} listener ran {passed} of {tests} cases"
            );
            ensure!(world.proxy.ended().is_none(), "the proxy ended: {}", world.proxy.log_tail());
        }
        Ok(())
    })
}

#[test]
fn summaries_are_read() -> Result<()> {
    ensure!(summary("x\n145 tests, 143 passed, 1 skipped, 1 failed\n")? == [145, 143, 1, 1]);
    ensure!(summary("nothing").is_err());
    Ok(())
}
