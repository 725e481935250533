//! gRPC without a proxy: Python's grpcio and Node's @grpc/grpc-js-xds, each by itself, resolve a service by the control plane, split by weight and
//! follow an endpoint; and CSDS shows what the control plane knows of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use weft_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use weft_proto::pb::envoy::service::status::v3::{ClientStatusRequest, ConfigStatus};
use weft_proto::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use weft_tests::control_plane::ControlPlane;
use weft_tests::csds::{Csds, has_grpc};
use weft_tests::locate::{NO_WEFT_CLI, skipped, weft_cli};
use weft_tests::wait::{PATIENCE, eventually};

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: who, namespace: default}
spec: {clusterIP: 10.0.0.1, selector: {app: who}, ports: [{name: grpc, port: 7070, targetPort: APP_PORT}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: who, namespace: default}
spec: {host: who, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"#;

fn script(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
    let mut command = Command::new("python3");
    command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// A Python process that is asked and answers by lines.
struct Peer {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("no input")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { _child: child, stdin, lines })
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(PATIENCE * 4, self.lines.next_line()).await.context("no line in time")??;
        line.context("it has ended")
    }

    /// Makes calls; how often who answered, by the last part of the address.
    async fn calls(&mut self, count: u32) -> Result<BTreeMap<String, u32>> {
        self.stdin.write_all(format!("{count}\n").as_bytes()).await?;
        Ok(serde_json::from_str(&self.line().await?)?)
    }
}

/// Splits calls between the subsets.
fn split(v1: u32, v2: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: who, namespace: default}}\n\
         spec: {{hosts: [who], http: [{{route: [\n\
         {{destination: {{host: who, subset: v1}}, weight: {v1}}}, {{destination: {{host: who, subset: v2}}, weight: {v2}}}]}}]}}\n"
    )
}

fn pods(port: u16, pods: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (version, ip) in pods {
        text += &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: who-{version}, namespace: default, labels: {{app: who, version: {version}}}}}\n\
             status: {{podIP: {ip}, phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
        );
    }
    text += &format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: who, namespace: default, labels: {{kubernetes.io/service-name: who}}}}\naddressType: IPv4\n\
         ports: [{{name: grpc, port: {port}, protocol: TCP}}]\nendpoints:\n"
    );
    for (version, ip) in pods {
        text += &format!(
            "- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: who-{version}, namespace: default}}}}\n"
        );
    }
    text
}

/// Servers at these addresses on one port.
async fn servers(ips: &[&str]) -> Result<(Vec<Peer>, u16)> {
    let (mut peers, mut port) = (Vec::new(), 0);
    for ip in ips {
        let mut peer = Peer::start(script("grpc_who.py").arg(format!("{ip}:{port}")))?;
        port = peer.line().await?.trim().parse()?;
        peers.push(peer);
    }
    Ok((peers, port))
}

fn share(seen: &BTreeMap<String, u32>, ip: &str) -> u32 {
    seen.iter().filter(|(address, _)| address.starts_with(ip)).map(|(_, count)| count).sum()
}

/// What the client has is shown by CSDS, unary and as a stream: all of it accepted.
async fn shows_its_status(plane: &ControlPlane, id: &str) -> Result<()> {
    let mut peer = Csds::start(plane.grpc())?;
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(id.to_owned())), ..Default::default() };
    let node_matchers = vec![NodeMatcher { node_id: Some(exact), ..Default::default() }];
    let answers = peer.ask(&ClientStatusRequest { node_matchers, ..Default::default() }).await?;
    for (method, response) in ["FetchClientStatus", "StreamClientStatus"].into_iter().zip(answers) {
        let [client] = response.config.as_slice() else { anyhow::bail!("{method}: {response:?}") };
        ensure!(client.node.as_ref().is_some_and(|node| node.id == id), "{method}: {client:?}");
        let all = &client.generic_xds_configs;
        let clusters = all.iter().filter(|of| of.type_url.ends_with(".Cluster")).count();
        ensure!(clusters == 2, "{method}: the two subsets: {all:?}");
        let accepted = |of: &&GenericXdsConfig| {
            of.config_status() == ConfigStatus::Synced && !of.version_info.is_empty() && of.xds_config.is_some()
        };
        ensure!(all.iter().all(|of| accepted(&of)), "{method}: {all:?}");
    }
    Ok(())
}

/// Where the packages of Node are: `target/peers/node`, beside what else scripts/test installs, or `$WEFT_NODE_MODULES`.
fn node_modules() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/peers/node/node_modules");
    std::env::var_os("WEFT_NODE_MODULES").map_or(own, PathBuf::from)
}

/// A client in JavaScript; `Err`: why there is none.
async fn node_client() -> Result<Command, &'static str> {
    const NO_NODE: &str =
        "node is not installed (scripts/test installs what the client needs if node and npm are there)";
    const NO_PACKAGE: &str =
        "@grpc/grpc-js-xds is not installed (scripts/test installs it: npm install @grpc/grpc-js-xds)";
    let node = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", node_modules()).kill_on_drop(true);
        command
    };
    let runs = |mut command: Command| async move {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
    };
    let with = |argument: &str, value: &str| {
        let mut command = node();
        command.args([argument, value]);
        command
    };
    if !runs(with("-e", "0")).await {
        return Err(NO_NODE);
    }
    if !runs(with("-e", "require('@grpc/grpc-js-xds')")).await {
        return Err(NO_PACKAGE);
    }
    let mut command = node();
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/xds_client.js"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_resolves_splits_and_follows() -> Result<()> {
    resolves_splits_and_follows("gRPC of Python without a proxy", 20, Ok(script("xds_client.py"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_js_resolves_splits_and_follows() -> Result<()> {
    resolves_splits_and_follows("gRPC of Node without a proxy", 30, node_client().await).await
}

/// Plays it with this client, and servers at `127.0.0.<block + 1>` to `<block + 3>`.
async fn resolves_splits_and_follows(test: &str, block: u8, command: Result<Command, &str>) -> Result<()> {
    const CALLS: u32 = 400;
    let mut command = match command {
        Ok(command) => command,
        Err(why) => {
            skipped(test, why);
            return Ok(());
        }
    };
    let [a, b, c] = [1, 2, 3].map(|n| format!("127.0.0.{}", block + n));
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    if weft_cli().is_none() {
        skipped(test, NO_WEFT_CLI);
        return Ok(());
    }
    if !has_grpc().await {
        skipped(test, "Python's grpcio is not installed (scripts/test installs it: pip install grpcio)");
        return Ok(());
    }
    let (_servers, port) = servers(&[a, b, c]).await?;
    let first = pods(port, &[("v1", a), ("v2", b)]);
    let service = SERVICE.replace("APP_PORT", &port.to_string());
    let files = [("who.yaml", service.as_str()), ("pods.yaml", &first), ("split.yaml", &split(80, 20))];
    let plane = ControlPlane::start(&files).await?;

    let bootstrap = plane.dir().join("bootstrap.json");
    let server = json!({
        "server_uri": format!("127.0.0.1:{}", plane.grpc()),
        "channel_creds": [{ "type": "insecure" }],
        "server_features": ["xds_v3"],
    });
    let id = "sidecar~127.0.0.97~client-1.default~default.svc.cluster.local";
    let node = json!({ "id": id, "metadata": { "GENERATOR": "grpc" }, "locality": {} });
    std::fs::write(&bootstrap, json!({ "xds_servers": [server], "node": node }).to_string())?;
    command.arg("xds:///who.default.svc.cluster.local:7070").env("GRPC_XDS_BOOTSTRAP", &bootstrap);
    let mut client = Peer::start(&mut command)?;

    let seen = client.calls(CALLS).await?;
    let (v1, v2) = (share(&seen, a), share(&seen, b));
    ensure!(v1 + v2 == CALLS, "{seen:?}\n{}", plane.log());
    // 80 of 400 is four standard deviations of 8 either way.
    ensure!((48..=112).contains(&v2), "not 80 to 20: {seen:?}");
    plane.settled(1).await?;
    shows_its_status(&plane, id).await?;

    plane.write("split.yaml", &split(0, 100))?;
    plane.write("pods.yaml", &pods(port, &[("v1", a), ("v2", c)]))?;
    let client = tokio::sync::Mutex::new(client);
    let look = || async {
        let seen = client.lock().await.calls(10).await.ok()?;
        (share(&seen, c) == 10).then_some(())
    };
    eventually("all calls go to the new endpoint", PATIENCE, look).await.with_context(|| plane.log())?;
    plane.settled(1).await?;
    let status = plane.weft(&["proxy-status"]).await?;
    ensure!(status.contains("grpc") && status.contains("SYNCED") && !status.contains("NACKED"), "{status}");
    Ok(())
}
