//! A running process: workers, signals, periodic work, the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::server_stats::ServerStats;
use super::{Built, Options, admin};
use crate::admin::Command;
use crate::cluster::Clusters;
use crate::cluster::dns::DnsTasks;
use crate::config;
use crate::drain::Drain;
use crate::identity::Identity;
use crate::listener::accept::{self, Socket};
use crate::listener::bind::Bound;
use crate::listener::{Assignment, DrainStyle, Listener, ListenerManager, Sockets};
use crate::mesh::agent::Agent;
use crate::transport::tls;
use crate::upstream::pool;
use crate::worker;
use crate::xds::dial::Dialer;
use crate::xds::{Start, Xds};

/// Runs until a signal ends it.
///
/// # Errors
/// A socket that cannot be opened, a worker that cannot be started.
pub fn run(built: Built, options: &Options) -> anyhow::Result<()> {
    let control = worker::runtime().context("starting the control runtime")?;
    let parts = built.parts.clone();
    // Before anything listens: the first request finds the hosts of DNS clusters. Dropped, and ended, with this function.
    let dns = control.block_on(DnsTasks::start(&parts.clusters));
    let (workers, inboxes): (Vec<_>, Vec<_>) = (0..options.concurrency).map(|_| unbounded_channel()).unzip();
    let style = DrainStyle { time: options.drain_time, gradual: options.drain_gradual };
    let listeners = ListenerManager::new(workers, parts.listeners.clone(), style, &parts.stats.root());
    let mut statics = Vec::new();
    for listener in &built.listeners {
        let sockets = listeners.bind(&listener.config);
        let sockets = sockets.map_err(|e| anyhow::anyhow!("listener '{}': {}", listener.config.name, e.reason))?;
        statics.push((listener.clone(), sockets));
    }
    let mut threads = Vec::new();
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let (drain, clusters) = (parts.drain.clone(), parts.clusters.clone());
        let thread = std::thread::Builder::new()
            .name(format!("wrk:{index}"))
            .spawn(move || work(index, inbox, drain, &clusters))
            .context("starting a worker thread")?;
        threads.push(thread);
    }
    tracing::info!(workers = options.concurrency, listeners = statics.len(), "starting main dispatch loop");
    let served = control.block_on(supervise(built, listeners, statics, dns, options));
    parts.drain.end();
    parts.sinks.flush_all();
    served?;
    for t in threads {
        if t.join().is_err() {
            bail!("a worker thread panicked; please report this with the log above");
        }
    }
    Ok(())
}

/// A worker's thread.
fn work(index: usize, mut inbox: UnboundedReceiver<Assignment>, drain: Drain, clusters: &Clusters) {
    worker::enter(index);
    let runtime = match worker::runtime() {
        Ok(r) => r,
        Err(e) => {
            tracing::error!(error = %e, "cannot start a worker's runtime");
            return;
        }
    };
    runtime.block_on(async {
        let ended = drain.ended();
        tokio::pin!(ended);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = &mut ended => return,
                Some(assignment) = inbox.recv() => listen(assignment, index, &drain),
                _ = tick.tick() => clusters.all().iter().for_each(|c| pool::sweep_idle(c, index)),
            }
        }
    });
}

/// Accepts on a socket from now on.
fn listen((bound, slot): Assignment, index: usize, drain: &Drain) {
    let socket = match bound {
        Bound::Tcp(l) => tokio::net::TcpListener::from_std(l).map(Socket::Tcp),
        Bound::Unix(l) => tokio::net::UnixListener::from_std(l).map(Socket::Unix),
    };
    match socket {
        Ok(socket) => {
            tokio::spawn(accept::run(socket, slot, index, drain.clone()));
        }
        Err(e) => {
            tracing::error!(listener = %slot.load().config.name, error = %e, "cannot use a listening socket")
        }
    }
}

/// The control thread: the admin interface, discovery, periodic work, signals, the end.
async fn supervise(
    built: Built,
    listeners: Arc<ListenerManager>,
    statics: Vec<(Arc<Listener>, Sockets)>,
    dns: DnsTasks,
    options: &Options,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let (commands, mut asked) = unbounded_channel();
    let parts = built.parts.clone();
    let (identity, keeper) = match &built.identity {
        None => (None, None),
        Some(config) => {
            let root = parts.stats.root();
            let dialer = Dialer::new(&config.ca, &parts.clusters, &parts.secrets, &root)?;
            let (identity, keeper) = Identity::new(config.clone(), dialer, &root);
            (Some(identity), Some(tokio::spawn(keeper.run())))
        }
    };
    let (xds, discovery) = Xds::new(Start {
        parts: parts.clone(),
        dynamic: built.dynamic.clone(),
        environment: built.environment.clone(),
        bootstrap: built.description.bootstrap.clone(),
        node: built.description.node.clone(),
        reject_unknown_fields: options.command_line.reject_unknown_dynamic_fields,
        listeners: listeners.clone(),
        statics,
        dns,
        cache: options.xds_cache.clone(),
        identity: identity.clone(),
    })?;
    let ready = admin::readiness(&built, &xds, identity.clone());
    let agent = match options.beside.clone() {
        None => None,
        Some(beside) => {
            let port = beside.port;
            let agent = Agent::bind(beside).await.with_context(|| format!("--agent-port: cannot bind {port}"))?;
            Some(tokio::spawn(agent.serve(parts.stats.clone(), ready, commands.clone())))
        }
    };
    let admin = admin::start(&built, options, &listeners, &xds, identity, commands).await?;
    let discovery = tokio::spawn(discovery.run());
    let watching = tokio::spawn(tls::watch_secrets(parts.secrets.clone()));
    let mut sweep = parts.clusters.sweep();
    let server = ServerStats::new(&parts.stats.root(), options.concurrency, built.began.elapsed());
    // Envoy's `stats_flush_interval`: the interval view of histograms.
    let mut flush = tokio::time::interval(Duration::from_secs(5));
    let draining = built.description.draining.clone();
    let gradual = loop {
        tokio::select! {
            _ = term.recv() => break options.drain_gradual,
            _ = flush.tick() => {
                server.update(&listeners.all(), &parts.secrets, draining.load(Ordering::Relaxed));
                parts.stats.flush();
            }
            // Somebody sits at the keyboard: not the time for a drain that spreads over minutes.
            _ = int.recv() => break false,
            _ = reopen.recv() => parts.sinks.reopen(),
            Some(command) = asked.recv() => {
                if command == Command::Quit {
                    discovery.abort();
                    xds.keep().await;
                    return Ok(());
                }
                obey(&built, &listeners, command);
            }
            () = tokio::time::sleep_until(sweep) => {
                sweep = parts.clusters.sweep();
                if listeners.sweep() {
                    xds.listeners_let_go();
                }
            }
        }
    };
    tracing::info!("caught a signal; draining");
    draining.store(true, Ordering::Relaxed);
    discovery.abort();
    keeper.into_iter().for_each(|keeper| keeper.abort());
    for l in listeners.all() {
        l.stop.begin(false);
    }
    parts.drain.begin(gradual);
    xds.keep().await;
    tokio::select! {
        () = parts.drain.idle() => {}
        () = tokio::time::sleep(options.drain_time) => tracing::info!("drain time is over"),
        _ = term.recv() => tracing::info!("second signal; ending at once"),
        _ = int.recv() => tracing::info!("second signal; ending at once"),
    }
    watching.abort();
    if let Some(a) = agent {
        a.abort();
    }
    if let Some(a) = admin {
        a.abort();
    }
    Ok(())
}

/// Does what the admin interface asks for.
fn obey(built: &Built, listeners: &ListenerManager, command: Command) {
    let parts = &built.parts;
    match command {
        Command::FailHealthChecks => parts.healthy.set(false),
        Command::PassHealthChecks => parts.healthy.set(true),
        Command::DrainListeners { graceful, skip_exit, inbound_only } => {
            let inbound = |l: &&Arc<Listener>| !inbound_only || l.config.direction == config::TrafficDirection::Inbound;
            if graceful {
                parts.drain.begin(true);
            }
            if !skip_exit {
                listeners.all().iter().filter(inbound).for_each(|l| l.stop.begin(false));
            }
        }
        Command::Quit => {}
    }
    // Drained listeners make no process unhealthy.
    built.description.draining.store(!parts.healthy.get(), Ordering::Relaxed);
}
