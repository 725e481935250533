//! The command itself: everything started in order, told about, and ended in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_proto::pb::envoy::config::core::v3::address::Address;
use weft_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use weft_proto::pb::envoy::config::listener::v3::Listener;

use super::commands::Commands;
use super::control;
use super::fabric::{self, Fabric};
use super::local::Local;
use super::mesh::{Mesh, Pods};
use super::names::Names;
use super::plan::Desired;
use super::pod::{Phase, Pod, Surroundings};
use super::relay::Relay;
use super::state::{State, write_for_all};
use crate::ca::{self, Ca};
use crate::capture::Backend;
use crate::feed::Feed;
use crate::jwks::Fetcher;
use crate::model::World;
use crate::node::Proxy;
use crate::resource::ResourceType;
use crate::server::connections::TrustFollowers;
use crate::server::{Bound, Limits, Secure, Shared, serve_grpc, serve_http};
use crate::source::Source;
use crate::source::files::Files;
use crate::translate::generate;

/// Istio's port for xDS over TLS, and for certificates.
const DISCOVERY: u16 = 15012;
/// Changes to files and pods that come within this are served together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The longest that changes wait.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// How many changes of pods may wait for the control plane.
const CHANGES: usize = 256;

/// What is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directories and files of YAML.
    pub paths: Vec<PathBuf>,
    /// What tells this mesh from others on the machine.
    pub name: String,
    /// The address of this machine on which gateways' ports are.
    pub listen: IpAddr,
    /// Where debug pages and metrics of the control plane are.
    pub http: SocketAddr,
    /// The level of the proxies' logs.
    pub proxy_log_level: String,
    /// For how long certificates are good; `None`: a day.
    pub certificate_ttl: Option<Duration>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When anything cannot be started, with what is missing.
pub async fn run(options: Options) -> Result<()> {
    let state = State::take(&options.name)?;
    let of_path = |path: &PathBuf| if path.is_dir() { path.clone() } else { path.parent().unwrap_or(path).to_owned() };
    let directories: BTreeSet<_> = options.paths.iter().map(of_path).collect();
    let commands = Commands::load(directories.iter().map(PathBuf::as_path))?;
    let backend = Backend::find()?;
    let files = Files::watch_all(&options.paths).context("what to run")?;
    let fabric = Fabric::new().await?;
    let host = SocketAddr::from((fabric::HOST, DISCOVERY));
    let grpc = {
        let runtime = tokio::runtime::Handle::current();
        let bound = fabric.namespace().run(move || {
            let _within = runtime.enter();
            std::net::TcpListener::bind(host).and_then(Bound::of)
        });
        bound?.context("the control plane in the pods' network")?
    };
    let http = Bound::open("--http-addr", options.http).await?;
    let pages = http.address();

    let (changes, pods_changed) = mpsc::channel(CHANGES);
    let (desired, wanted) = watch::channel(Desired::new());
    let local = Local::new(files, commands, pods_changed, desired);
    let feed = Feed::open(local, DEBOUNCE, DEBOUNCE_MAX).await.context("nothing was read; see the log")?;
    let authority = authority(&state, &feed, &options)?;
    let feed = feed.trusting(authority.bundle());
    let root = Root::write(state.etc("root-cert.pem"), authority.bundle()).context("the root certificate")?;
    let stop = CancellationToken::new();
    let servers = stop.child_token();
    let (fetcher, keys) = Fetcher::new(None);
    let key_status = fetcher.status();
    // Who has keys may be a pod, and no pod runs yet.
    let feed = feed.fetching(keys, Duration::ZERO).await;
    let shared = feed.serve(Limits::default(), stop.child_token());
    shared.show_keys(key_status);
    let around = Surroundings {
        discovery: host.to_string(),
        authority: authority.clone(),
        tokens: state.tokens(),
        root: root.path.clone(),
        certificate_ttl: options.certificate_ttl,
        logs: state.logs(),
        proxy_log_level: options.proxy_log_level.clone(),
        etc: state.etc(""),
        backend,
        is_root: nix::unistd::geteuid().is_root(),
    };
    let pods = Arc::new(Pods::default());
    let relay = Relay::new(options.listen, fabric.namespace().clone());
    let mesh = Mesh::new(fabric, around, pods.clone(), changes, shared.clone());
    let socket = UnixListener::bind(state.socket()).context("the socket for other commands")?;

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(fetcher.run(servers.clone()));
    let serving = shared.clone();
    let secure = Secure { files: None, ca: Some(authority.clone()), any_client: false };
    shared.show(authority.clone());
    tasks.spawn(authority.tend(TrustFollowers::new(shared.connections.clone()), servers.clone()));
    tasks.spawn(root.follow(servers.clone()));
    tasks.spawn(async move {
        if let Err(error) = serve_grpc(serving, grpc, Some(secure)).await {
            tracing::error!("{error}");
        }
    });
    tasks.spawn(serve_http(shared.clone(), http));
    tasks.spawn(feed.follow(shared.clone(), servers.clone()));
    tasks.spawn(control::serve(socket, pods.clone(), stop.clone()));
    let front = Front { state: &state, options: &options, pages, pods: &pods, shared: &shared };
    let pods_end = tokio::spawn(mesh.follow(wanted, stop.clone()));
    tokio::select! {
        told = front.follow(relay) => told?,
        told = told_to_stop() => told?,
        () = stop.cancelled() => {}
    }
    eprintln!("ending the mesh");
    stop.cancel();
    pods_end.await?;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// The mesh's own authority: it goes with the mesh.
fn authority<S: Source>(state: &State, feed: &Feed<S>, options: &Options) -> Result<Arc<Ca>> {
    let mut of = ca::Options::new(state.authority());
    of.trust_domain = feed.world().config().mesh.trust_domain().to_owned();
    of.server_names.push(fabric::HOST.to_string());
    if let Some(ttl) = options.certificate_ttl {
        // Roots of short-lived certificates are replaced as fast.
        (of.ttl, of.settle) = (ttl, of.settle.min(ttl / 10));
    }
    Ca::open(of).context("the certificate authority")
}

/// The file with the roots that pods trust the control plane by.
struct Root {
    path: PathBuf,
    bundle: watch::Receiver<Arc<str>>,
}

impl Root {
    fn write(path: PathBuf, mut bundle: watch::Receiver<Arc<str>>) -> std::io::Result<Self> {
        write_for_all(&path, &bundle.borrow_and_update())?;
        Ok(Self { path, bundle })
    }

    /// Writes the newest until `stop`.
    async fn follow(mut self, stop: CancellationToken) {
        while let Some(Ok(())) = stop.run_until_cancelled(self.bundle.changed()).await {
            let text = self.bundle.borrow_and_update().clone();
            let fresh = self.path.with_extension("fresh");
            let written = write_for_all(&fresh, &text).and_then(|()| std::fs::rename(&fresh, &self.path));
            if let Err(error) = written {
                tracing::error!("{}: {error}; pods do not learn of the new root", self.path.display());
            }
        }
    }
}

/// What the person before it sees, and what follows from the newest configuration.
struct Front<'r> {
    state: &'r State,
    options: &'r Options,
    pages: SocketAddr,
    pods: &'r Pods,
    shared: &'r Shared<World>,
}

impl Front<'_> {
    async fn follow(&self, mut relay: Relay) -> Result<()> {
        let mut worlds = self.shared.cache.subscribe();
        let mut changed = self.pods.changed();
        let mut names = Names::new(self.state.etc(""));
        let mut said = Said::default();
        loop {
            let world = worlds.borrow_and_update().world.clone();
            let pods = self.pods.all();
            let namespaces: BTreeSet<_> = pods.iter().map(|pod| pod.plan.namespace.clone()).collect();
            names.write(&world, &namespaces).context("names of services")?;
            let (open, problems) = relay.set(&gateway_ports(&world, &pods)).await;
            self.pods.set_open(open.values().copied());
            said.tell(self, &pods, &open, &problems);
            tokio::select! {
                told = worlds.changed() => told?,
                _ = changed.changed() => {}
            }
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Said {
    phases: BTreeMap<String, Phase>,
    open: BTreeMap<SocketAddr, SocketAddr>,
    problems: Vec<String>,
    all: bool,
}

impl Said {
    fn tell(
        &mut self,
        front: &Front<'_>,
        pods: &[Arc<Pod>],
        open: &BTreeMap<SocketAddr, SocketAddr>,
        problems: &[String],
    ) {
        let phases: BTreeMap<_, _> =
            pods.iter().map(|pod| (pod.plan.full_name(), pod.phase().borrow().clone())).collect();
        for (name, phase) in &phases {
            let before = self.phases.get(name);
            let ready = pods.len();
            match phase {
                Phase::Ready if before != Some(phase) => {
                    let up = phases.values().filter(|phase| **phase == Phase::Ready).count();
                    eprintln!("  {name} is ready ({up} of {ready})");
                }
                Phase::Failed(reason) | Phase::Restarting(reason) | Phase::NotReady(reason)
                    if before != Some(phase) =>
                {
                    eprintln!("  {name}: {}: {reason}", control::name(phase));
                }
                _ => {}
            }
        }
        for name in self.phases.keys().filter(|name| !phases.contains_key(*name)) {
            eprintln!("  {name} is gone");
        }
        self.phases = phases;
        if problems != self.problems {
            problems.iter().for_each(|problem| eprintln!("  {problem}"));
            self.problems = problems.to_vec();
        }
        let settled = |phase: &Phase| matches!(phase, Phase::Ready | Phase::Failed(_));
        let all = !self.phases.is_empty() && self.phases.values().all(settled);
        if all && (!self.all || *open != self.open) {
            self.open.clone_from(open);
            self.all = true;
            front.banner(open);
        }
    }
}

impl Front<'_> {
    fn banner(&self, open: &BTreeMap<SocketAddr, SocketAddr>) {
        let addresses: BTreeSet<String> = open.values().map(|address| format!("http://{address}/")).collect();
        println!("\nThe mesh is up.");
        match addresses.is_empty() {
            true => println!("  open      nothing: there is no Gateway or Ingress in it"),
            false => addresses.iter().for_each(|address| println!("  open      {address}")),
        }
        println!("  try       weft ps                       what runs");
        println!("            weft logs NAME                what a pod says; -c weft-proxy: its proxy");
        println!("            weft exec NAME -- COMMAND     a command in a pod's network");
        println!("            weft proxy-status             what proxies have");
        println!("  pages     http://{}/debug/", self.pages);
        let paths: Vec<_> = self.options.paths.iter().map(|path| path.display().to_string()).collect();
        println!("  changes   to {} are applied when files are saved", paths.join(" "));
        println!("  Ctrl-C    ends it and leaves nothing behind");
    }
}

/// The ports of gateways, at their pods' addresses.
fn gateway_ports(world: &World, pods: &[Arc<Pod>]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| pod.plan.is_gateway) {
        let Some(&ip) = pod.addresses.first() else { continue };
        let plan = &pod.plan;
        let proxy = Proxy::gateway(ip, &plan.name, &plan.namespace, plan.labels.clone());
        let resources = generate(world, &proxy);
        let listeners = resources.get(ResourceType::Listener);
        found.extend(
            listeners.iter().filter_map(|of| Some(SocketAddr::new(ip, port(&Listener::decode(of.message()).ok()?)?))),
        );
    }
    found.sort();
    found.dedup();
    found
}

fn port(listener: &Listener) -> Option<u16> {
    match listener.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => u16::try_from(*port).ok().filter(|port| *port > 0),
            PortSpecifier::NamedPort(_) => None,
        },
        _ => None,
    }
}

/// The default address for gateways: only this machine.
#[must_use]
pub fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

async fn told_to_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
    }
}
