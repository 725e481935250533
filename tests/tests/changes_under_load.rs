//! Hundreds of changes of routes, weights, subsets, endpoints and secrets under a constant arrival of requests, through a gateway with
//! TLS and through a sidecar, while the control plane is killed and started again. No request fails, by either protocol.
//!
//! `WEFT_CHANGES` (150), `WEFT_LOAD_SECONDS` (15), `WEFT_LOAD_RATE` (400 a second, half of them through each proxy) and `WEFT_KILLS` (4)
//! set what happens to each protocol, `WEFT_LOAD_API` (`GRPC`: the state of the world, `DELTA_GRPC`) to which alone.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;
use weft_tests::bookinfo::apps::{Net, get};
use weft_tests::bookinfo::cluster::slice;
use weft_tests::control_plane::{ControlPlane, bootstrap};
use weft_tests::load::{Load, Target, setting, upstream};
use weft_tests::locate::{Kind, NO_WEFT, NO_WEFT_CLI, skipped, weft_cli};
use weft_tests::ports::Reserved;
use weft_tests::tls;
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

/// Pods of each version.
const PODS: usize = 2;
/// Changes that are written while the control plane is away.
const WHILE_AWAY: u64 = 5;

/// What is configured, all of it a function of the number of the last change of its kind.
struct Mesh {
    /// Name, address and port, version by version.
    pods: Vec<(String, std::net::IpAddr, u16)>,
    routes: u64,
    weights: u64,
    subsets: u64,
    endpoints: u64,
    secrets: u64,
}

impl Mesh {
    async fn new() -> Result<Self> {
        let net = Net::new();
        let mut pods = Vec::new();
        for n in 0..3 * PODS {
            let ip = net.ip(u8::try_from(n)? + 1);
            pods.push((format!("v{}-{}", n / PODS + 1, n % PODS), ip, upstream(&format!("{ip}:0")).await?));
        }
        Ok(Self { pods, routes: 0, weights: 0, subsets: 0, endpoints: 0, secrets: 0 })
    }

    /// One more change, and the file that has it.
    fn change(&mut self, n: u64) -> Result<(&'static str, String)> {
        match n % 5 {
            1 => self.weights = n,
            2 => self.subsets = n,
            3 => self.endpoints = n,
            4 => self.secrets = n,
            _ => self.routes = n,
        }
        Ok(match n % 5 {
            3 => ("slices.yaml", self.slices()),
            4 => ("secret.yaml", self.secret()?),
            _ => ("routes.yaml", self.routes(n)),
        })
    }

    fn pods(&self) -> String {
        let pod = |(name, ip, _): &(String, std::net::IpAddr, u16)| {
            let version = &name[..2];
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-0, namespace: default, labels: {{app: shop, version: {version}}}}}\n\
                 status: {{podIP: {ip}, phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n"
            )
        };
        self.pods.iter().map(pod).collect()
    }

    /// Of each version one pod, the other, or both.
    fn slices(&self) -> String {
        let serves = |at: usize| {
            let (version, pod) = (at / PODS, at % PODS);
            let one = self.endpoints as usize / 5 + version;
            one % 3 == 2 || one % 3 == pod
        };
        let all = self.pods.iter().enumerate().filter(|(at, _)| serves(*at));
        all.map(|(_, (name, ip, port))| slice("shop", "default", "http", (name, *ip, *port))).collect()
    }

    /// A subset that keeps its name, and one that gets another name, and other pods, from time to time; the share of each; a rule
    /// that comes and goes, and a header that says which change it was.
    fn routes(&self, n: u64) -> String {
        let (name, version) = (format!("s{}", self.subsets), if self.subsets.is_multiple_of(2) { "v2" } else { "v3" });
        let share = self.weights * 7 % 101;
        let rule = if self.routes.is_multiple_of(2) {
            "\n  - match: [{headers: {x-try: {exact: 'yes'}}}]\n    route: [{destination: {host: shop, subset: v1}}]"
        } else {
            ""
        };
        let timeout = self.routes % 7 + 10;
        let http = format!(
            "http:{rule}\n  - timeout: {timeout}s\n    headers: {{response: {{set: {{x-change: '{n}'}}}}}}\n    route:\n    \
             - {{destination: {{host: shop, subset: v1}}, weight: {share}}}\n    \
             - {{destination: {{host: shop, subset: {name}}}, weight: {}}}\n",
            100 - share
        );
        let routes = |own: &str, place: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {own}, namespace: default}}\nspec:\n  {place}\n  {http}---\n"
            )
        };
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: shop, namespace: default}}\nspec:\n  host: shop\n  \
             subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: {name}, labels: {{version: {version}}}}}\n---\n{}{}",
            routes("shop", "hosts: [shop]"),
            routes("entry", "hosts: [shop.example]\n  gateways: [entry]")
        )
    }

    fn secret(&self) -> Result<String> {
        let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let found = tls::material()?.pem(if self.secrets.is_multiple_of(2) { "server" } else { "other" })?;
        Ok(format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: entry-cert, namespace: default}}\ntype: kubernetes.io/tls\nstringData:\n  \
             tls.crt: |\n{}  tls.key: |\n{}",
            indent(&found.certificate),
            indent(&found.key)
        ))
    }
}

/// The Service and the gateway's door, at these ports.
fn fixed(service: u16, door: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: default}}\n\
         spec: {{clusterIP: 10.0.0.1, selector: {{app: shop}}, ports: [{{name: http, port: {service}}}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: entry, namespace: default}}\nspec:\n  \
         selector: {{istio: ingressgateway}}\n  servers:\n  - port: {{number: {door}, name: https, protocol: HTTPS}}\n    \
         hosts: [shop.example]\n    tls: {{mode: SIMPLE, credentialName: entry-cert}}\n"
    )
}

/// Waits until the change of this number is what requests get at a sidecar.
async fn arrived(port: u16, n: u64) -> Result<()> {
    let wanted = n.to_string();
    let look = || async {
        let answer = get(([127, 0, 0, 1], port).into(), "shop", "/", "").await.ok()?;
        (answer.header("x-change") == Some(&wanted)).then_some(())
    };
    eventually(&format!("change {n}"), PATIENCE, look).await
}

/// What a proxy has refused; and that it has followed at all.
async fn refusals(proxy: &World) -> Result<String> {
    let stats = proxy.proxy.admin().stats().await?;
    let rejected: Vec<_> = stats.iter().filter(|(name, n)| name.ends_with("update_rejected") && **n > 0).collect();
    ensure!(rejected.is_empty(), "{rejected:?}");
    let count = |end: &str| stats.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, n)| n).sum::<u64>();
    Ok(format!(
        "updates: {} clusters, {} routes, {} secrets, {} others",
        count("cds.update_success"),
        stats
            .iter()
            .filter(|(name, _)| name.contains(".rds.") && name.ends_with("update_success"))
            .map(|(_, n)| n)
            .sum::<u64>(),
        stats
            .iter()
            .filter(|(name, _)| name.starts_with("sds.") && name.ends_with("update_success"))
            .map(|(_, n)| n)
            .sum::<u64>(),
        count(".update_success"),
    ))
}

/// The stats that tell why requests are not answered.
async fn troubles(proxy: &World) -> Result<String> {
    const OF: [&str; 8] = [
        "no_cluster",
        "no_route",
        "none_healthy",
        "connect_fail",
        "_overflow",
        "upstream_rq_5",
        "downstream_rq_5",
        "warming",
    ];
    let stats = proxy.proxy.admin().stats().await?;
    let told = stats.iter().filter(|(name, n)| **n > 0 && OF.iter().any(|part| name.contains(part)));
    Ok(told.map(|(name, n)| format!("{name}: {n}\n")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_everything_changes() -> Result<()> {
    if Kind::Weft.binary().is_none() || weft_cli().is_none() {
        skipped("changes under load", if weft_cli().is_none() { NO_WEFT_CLI } else { NO_WEFT });
        return Ok(());
    }
    let apis =
        std::env::var("WEFT_LOAD_API").map_or_else(|_| vec!["GRPC".into(), "DELTA_GRPC".into()], |one| vec![one]);
    for api in apis {
        change_all_under_load(&api).await.with_context(|| api.clone())?;
    }
    Ok(())
}

async fn change_all_under_load(api: &str) -> Result<()> {
    let (changes, seconds, rate) =
        (setting("WEFT_CHANGES", 150), setting("WEFT_LOAD_SECONDS", 15), setting("WEFT_LOAD_RATE", 400));
    let kills = setting("WEFT_KILLS", 4);
    let mut mesh = Mesh::new().await?;
    let (service, door) = (Reserved::new()?, Reserved::new()?);
    let files = [
        ("fixed.yaml", fixed(service.port(), door.port())),
        ("pods.yaml", mesh.pods()),
        ("slices.yaml", mesh.slices()),
        ("secret.yaml", mesh.secret()?),
        ("routes.yaml", mesh.routes(0)),
    ];
    let mut plane = ControlPlane::start(&files.each_ref().map(|(name, text)| (*name, text.as_str()))).await?;
    let node = |id: &str, labels: &str| bootstrap(id, labels, api, plane.grpc());
    let sidecar = node("sidecar~127.0.0.99~web-1.default~default.svc.cluster.local", "app: web");
    let gateway = node("router~127.0.0.98~entry-1.default~default.svc.cluster.local", "istio: ingressgateway");
    let (sidecar, gateway) = (World::start(Kind::Weft, &sidecar).await?, World::start(Kind::Weft, &gateway).await?);
    arrived(service.port(), 0).await?;
    plane.quiet(2).await?;
    let at_gateway = Load::start(Target { port: door.port(), host: "shop.example", tls: true }, rate / 2);
    let at_sidecar = Load::start(Target { port: service.port(), host: "shop", tls: false }, rate / 2);

    let began = Instant::now();
    let between = Duration::from_secs(seconds) / u32::try_from(changes.max(1))?;
    let every = changes / (kills + 1);
    let (mut away, mut killed, mut last_route) = (false, 0, 0);
    for n in 1..=changes {
        tokio::time::sleep_until(began + between * u32::try_from(n)?).await;
        if killed < kills && n == every * (killed + 1) {
            plane.kill().await?;
            (away, killed) = (true, killed + 1);
        }
        let (file, text) = mesh.change(n)?;
        plane.write(file, &text)?;
        if file == "routes.yaml" {
            last_route = n;
        }
        if away && n == every * killed + WHILE_AWAY {
            plane.restart().await?;
            away = false;
        }
    }
    if away {
        plane.restart().await?;
    }
    arrived(service.port(), last_route).await?;
    plane.quiet(2).await?;
    let took = began.elapsed();
    let (at_gateway, at_sidecar) = (at_gateway.finish().await?, at_sidecar.finish().await?);
    eprintln!("{api}: {changes} changes and {killed} restarts in {took:?}, {rate} requests a second");
    for (name, proxy, seen) in [("gateway", &gateway, &at_gateway), ("sidecar", &sidecar, &at_sidecar)] {
        eprintln!("{name}: {}; {}", seen.summary(), refusals(proxy).await.context(name)?);
    }
    ensure!(killed == kills, "killed {killed} times only");
    for (name, proxy, seen) in [("gateway", &gateway, &at_gateway), ("sidecar", &sidecar, &at_sidecar)] {
        if let Err(error) = seen.no_failure() {
            let status = plane.weft(&["proxy-status"]).await?;
            bail!("{name}: {error:#}\n{}\n{status}\n{}", troubles(proxy).await?, proxy.proxy.log_tail());
        }
    }
    Ok(())
}
