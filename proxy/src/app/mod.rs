//! From configuration to a running process: builds everything, starts the workers, waits for a signal, drains.

pub mod admin;
mod server_stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::access_log::{AccessLogs, FlushOptions, SinkRegistry};
use crate::admin::{Command, CommandLineOptions};
use crate::cluster::dns::DnsTasks;
use crate::cluster::{Cluster, Clusters};
use crate::config::{self, ConfigError};
use crate::drain::Drain;
use crate::listener::accept::{self, Socket};
use crate::listener::bind::{self, Bound};
use crate::listener::{Directory, GlobalLimit, Listener};
use crate::runtime::Runtime;
use crate::stats::Store;
use crate::transport::tls::{self, SecretProvider};
use crate::upstream::pool;
use crate::worker;
use server_stats::ServerStats;

/// What compiling configuration needs.
pub struct Parts {
    /// Stats.
    pub stats: Arc<Store>,
    /// Clusters by name.
    pub clusters: Arc<Clusters>,
    /// Workers.
    pub workers: usize,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Where access logs go.
    pub sinks: Arc<SinkRegistry>,
    /// Certificates and trust.
    pub secrets: Arc<SecretProvider>,
    /// Health as this process reports it of itself.
    pub healthy: Healthy,
    /// Listeners by address, once they are built.
    pub listeners: Arc<Directory>,
    /// Connections of all listeners.
    pub connections: Arc<GlobalLimit>,
}

/// Whether this process calls itself healthy (`/healthcheck/fail`, `/healthcheck/ok`).
#[derive(Clone)]
pub struct Healthy {
    healthy: Arc<AtomicBool>,
    cluster: Arc<str>,
}

impl Default for Healthy {
    fn default() -> Self {
        Healthy::of("")
    }
}

impl Healthy {
    /// The health of a process that belongs to the service cluster `cluster`.
    pub fn of(cluster: &str) -> Self {
        Healthy { healthy: Arc::new(AtomicBool::new(true)), cluster: cluster.into() }
    }

    /// The service cluster that this process belongs to; empty: none was named.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether it does.
    pub fn get(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Says so.
    pub fn set(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }
}

impl Parts {
    /// Compiles access logs.
    ///
    /// # Errors
    /// A bad format, or a file that cannot be opened.
    pub fn access_logs(&self, logs: &[config::AccessLog]) -> Result<AccessLogs, ConfigError> {
        AccessLogs::compile(logs, &self.sinks, &self.runtime)
    }
}

/// How a process is to run.
pub struct Options {
    /// Workers.
    pub concurrency: usize,
    /// Longest drain.
    pub drain_time: Duration,
    /// Drain gradually (default) or at once.
    pub drain_gradual: bool,
    /// Where the admin address is written.
    pub admin_address_path: Option<std::path::PathBuf>,
    /// The command line, for `/server_info`.
    pub command_line: CommandLineOptions,
    /// When access logs are written.
    pub flush: FlushOptions,
    /// Changes the log's levels.
    pub apply_levels: admin::ApplyLevels,
    /// Reads a file of secrets.
    pub load_secrets: fn(&std::path::Path) -> Result<Vec<config::Secret>, ConfigError>,
}

/// Builds what the configuration says; nothing is opened yet.
pub struct Built {
    parts: Parts,
    listeners: Vec<Arc<Listener>>,
    description: admin::Description,
    began: tokio::time::Instant,
}

/// Compiles a whole configuration.
///
/// # Errors
/// What is wrong, with its path.
pub fn build(bootstrap: config::Bootstrap, options: &Options) -> Result<Built, ConfigError> {
    let began = tokio::time::Instant::now();
    let description = admin::Description {
        options: options.command_line.clone(),
        node: bootstrap.node.clone(),
        admin: bootstrap.admin.clone(),
        bootstrap: bootstrap.raw.clone(),
        draining: Arc::default(),
    };
    let stats = Store::new(options.concurrency + 1, &bootstrap.stats);
    let root = stats.root();
    let sinks = SinkRegistry::new(&root, options.flush)
        .map_err(|e| ConfigError::at("", format!("cannot start the thread that writes access logs: {e}")))?;
    let runtime = Runtime::new(&bootstrap.runtime_layers, &bootstrap.node.cluster, &root);
    let parts = Parts {
        clusters: Arc::new(Clusters::default()),
        workers: options.concurrency,
        healthy: Healthy::of(&bootstrap.node.cluster),
        listeners: Arc::default(),
        connections: GlobalLimit::new(&runtime),
        runtime,
        secrets: SecretProvider::new(bootstrap.secrets, Box::new(options.load_secrets), root),
        sinks,
        stats,
    };
    parts.clusters.count_in(&parts.stats.root().scope("cluster_manager"));
    for (i, c) in bootstrap.clusters.into_iter().enumerate() {
        let cluster = Cluster::new(c, &parts).map_err(|e| at(&format!("static_resources.clusters[{i}]"), e))?;
        parts.clusters.set(cluster);
    }
    let mut listeners = Vec::new();
    for (i, l) in bootstrap.listeners.into_iter().enumerate() {
        let listener = Listener::new(l, &parts, options.drain_time);
        listeners.push(listener.map_err(|e| at(&format!("static_resources.listeners[{i}]"), e))?);
    }
    parts.listeners.publish(&listeners);
    Ok(Built { parts, listeners, description, began })
}

impl Built {
    /// What everything was built from.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
}

fn at(prefix: &str, e: ConfigError) -> ConfigError {
    ConfigError { field_path: format!("{prefix}.{}", e.field_path), ..e }
}

/// Runs until a signal ends it.
///
/// # Errors
/// A socket that cannot be opened, a worker that cannot be started.
pub fn run(built: Built, options: &Options) -> anyhow::Result<()> {
    let workers = options.concurrency;
    let control = worker::runtime().context("starting the control runtime")?;
    // Before anything listens: the first request finds the hosts of DNS clusters. Dropped, and ended, with this function.
    let _dns = control.block_on(DnsTasks::start(&built.parts.clusters));
    let mut sockets: Vec<Vec<(Bound, Arc<Listener>)>> = (0..workers).map(|_| Vec::new()).collect();
    for listener in &built.listeners {
        open(listener, &mut sockets)?;
    }
    let drain = Drain::new(options.drain_time);
    let clusters = built.parts.clusters.clone();
    let mut threads = Vec::new();
    for (index, own) in sockets.into_iter().enumerate() {
        let (drain, clusters) = (drain.clone(), clusters.clone());
        let thread = std::thread::Builder::new()
            .name(format!("wrk:{index}"))
            .spawn(move || work(index, own, drain, &clusters))
            .context("starting a worker thread")?;
        threads.push(thread);
    }
    tracing::info!(workers, listeners = built.listeners.len(), "starting main dispatch loop");
    let served = control.block_on(supervise(&built, &drain, options));
    built.parts.sinks.flush_all();
    served?;
    for t in threads {
        if t.join().is_err() {
            bail!("a worker thread panicked; please report this with the log above");
        }
    }
    Ok(())
}

/// Opens a listener's sockets: one per worker, or one for all.
fn open(listener: &Arc<Listener>, sockets: &mut [Vec<(Bound, Arc<Listener>)>]) -> anyhow::Result<()> {
    if !listener.config.bind_to_port {
        return Ok(());
    }
    for address in &listener.config.addresses {
        let mut first: Option<Bound> = None;
        for own in sockets.iter_mut() {
            let bound = match &first {
                Some(f) if !listener.config.reuse_port || matches!(address.address, config::Address::Pipe { .. }) => {
                    f.try_clone()
                }
                Some(f) => {
                    // A port the system chose is shared by all workers.
                    let mut address = address.clone();
                    if let Some(a) = f.local_addr() {
                        address.address = config::Address::Ip(a);
                    }
                    bind::bind(&listener.config, &address)
                }
                None => bind::bind(&listener.config, address),
            };
            let bound = bound.map_err(|e| {
                anyhow::anyhow!("listener '{}': cannot bind '{}': {e}", listener.config.name, address.address)
            })?;
            if first.is_none() {
                listener.opened(bound.local_addr());
                first = Some(bound.try_clone()?);
            }
            own.push((bound, listener.clone()));
        }
    }
    Ok(())
}

/// A worker's thread.
fn work(index: usize, sockets: Vec<(Bound, Arc<Listener>)>, drain: Drain, clusters: &Clusters) {
    worker::enter(index);
    let runtime = match worker::runtime() {
        Ok(r) => r,
        Err(e) => {
            tracing::error!(error = %e, "cannot start a worker's runtime");
            return;
        }
    };
    runtime.block_on(async {
        for (bound, listener) in sockets {
            let socket = match bound {
                Bound::Tcp(l) => tokio::net::TcpListener::from_std(l).map(Socket::Tcp),
                Bound::Unix(l) => tokio::net::UnixListener::from_std(l).map(Socket::Unix),
            };
            match socket {
                Ok(s) => {
                    tokio::spawn(accept::run(s, listener, index, drain.clone()));
                }
                Err(e) => {
                    tracing::error!(listener = %listener.config.name, error = %e, "cannot use a listening socket")
                }
            }
        }
        let ended = drain.ended();
        tokio::pin!(ended);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = &mut ended => return,
                _ = tick.tick() => clusters.all().iter().for_each(|c| pool::sweep_idle(c, index)),
            }
        }
    });
}

/// The control thread: the admin interface, periodic work, signals, the end.
async fn supervise(built: &Built, drain: &Drain, options: &Options) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let (commands, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let admin = match admin::start(built, options, commands).await {
        Ok(a) => a,
        Err(e) => {
            drain.end();
            return Err(e);
        }
    };
    let watching = tokio::spawn(tls::watch_secrets(built.parts.secrets.clone()));
    let mut sweep = built.parts.clusters.sweep();
    let root = built.parts.stats.root();
    let server = ServerStats::new(&root, options.concurrency, &built.listeners, built.began.elapsed());
    // Envoy's `stats_flush_interval`: the interval view of histograms.
    let mut flush = tokio::time::interval(Duration::from_secs(5));
    let gradual = loop {
        tokio::select! {
            _ = term.recv() => break options.drain_gradual,
            _ = flush.tick() => {
                let draining = built.description.draining.load(Ordering::Relaxed);
                server.update(&built.listeners, &built.parts.secrets, draining);
                built.parts.stats.flush();
            }
            // Somebody sits at the keyboard: not the time for a drain that spreads over minutes.
            _ = int.recv() => break false,
            _ = reopen.recv() => built.parts.sinks.reopen(),
            Some(command) = asked.recv() => {
                if command == Command::Quit {
                    drain.end();
                    return Ok(());
                }
                obey(built, drain, command);
            }
            () = tokio::time::sleep_until(sweep) => sweep = built.parts.clusters.sweep(),
        }
    };
    tracing::info!("caught a signal; draining");
    built.description.draining.store(true, Ordering::Relaxed);
    for l in &built.listeners {
        l.stop.begin(false);
    }
    drain.begin(gradual);
    tokio::select! {
        () = drain.idle() => {}
        () = tokio::time::sleep(options.drain_time) => tracing::info!("drain time is over"),
        _ = term.recv() => tracing::info!("second signal; ending at once"),
        _ = int.recv() => tracing::info!("second signal; ending at once"),
    }
    watching.abort();
    if let Some(a) = admin {
        a.abort();
    }
    drain.end();
    Ok(())
}

/// Does what the admin interface asks for.
fn obey(built: &Built, drain: &Drain, command: Command) {
    match command {
        Command::FailHealthChecks => built.parts.healthy.set(false),
        Command::PassHealthChecks => built.parts.healthy.set(true),
        Command::DrainListeners { graceful, skip_exit, inbound_only } => {
            let inbound = |l: &&Arc<Listener>| !inbound_only || l.config.direction == config::TrafficDirection::Inbound;
            if graceful {
                drain.begin(true);
            }
            if !skip_exit {
                built.listeners.iter().filter(inbound).for_each(|l| l.stop.begin(false));
            }
        }
        Command::Quit => {}
    }
    // Drained listeners make no process unhealthy.
    built.description.draining.store(!built.parts.healthy.get(), Ordering::Relaxed);
}
