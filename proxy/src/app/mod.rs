//! From configuration to a running process: builds everything, starts the workers, waits for a signal, drains.

pub mod admin;
mod run;
mod server_stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::access_log::{AccessLogs, FlushOptions, SinkRegistry};
use crate::admin::CommandLineOptions;
use crate::cluster::{Cluster, Clusters};
use crate::config::{self, ConfigError};
use crate::drain::Drain;
use crate::http::filter::DiscoveredFilters;
use crate::http::route::DiscoveredRoutes;
use crate::listener::discovered::Discovered;
use crate::listener::filters::ListenerFilters;
use crate::listener::{Chain, Directory, GlobalLimit, Listener};
use crate::on_demand::OnDemand;
use crate::runtime::Runtime;
use crate::stats::Store;
use crate::telemetry::Telemetry;
use crate::transport::tls::SecretProvider;

pub use run::run;

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
    /// Who calls whom.
    pub telemetry: Arc<Telemetry>,
    /// Certificates and trust.
    pub secrets: Arc<SecretProvider>,
    /// Health as this process reports it of itself.
    pub healthy: Healthy,
    /// Listeners by address, once they are built.
    pub listeners: Arc<Directory>,
    /// Connections of all listeners.
    pub connections: Arc<GlobalLimit>,
    /// Routes that are discovered.
    pub routes: Arc<DiscoveredRoutes>,
    /// HTTP filters that are discovered.
    pub filters: Arc<DiscoveredFilters>,
    /// Network filters that are discovered.
    pub network_filters: Arc<Discovered<Chain>>,
    /// Listener filters that are discovered.
    pub listener_filters: Arc<Discovered<ListenerFilters>>,
    /// What requests wait for until it is discovered.
    pub on_demand: Arc<OnDemand>,
    /// Begins when the process drains.
    pub drain: Drain,
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
    /// Where the last good discovered configuration is kept.
    pub xds_cache: Option<std::path::PathBuf>,
    /// The command line, for `/server_info`.
    pub command_line: CommandLineOptions,
    /// When access logs are written.
    pub flush: FlushOptions,
    /// Changes the log's levels.
    pub apply_levels: admin::ApplyLevels,
    /// The application it is beside, and the port for those who look after both; absent: there is none.
    pub beside: Option<crate::mesh::agent::Beside>,
    /// Reads a file of secrets.
    pub load_secrets: fn(&std::path::Path) -> Result<Vec<config::Secret>, ConfigError>,
}

/// Builds what the configuration says; nothing is opened yet.
pub struct Built {
    parts: Arc<Parts>,
    listeners: Vec<Arc<Listener>>,
    dynamic: config::DynamicResources,
    /// What discovered configuration may refer to in the bootstrap.
    environment: config::from_xds::Environment,
    description: admin::Description,
    identity: Option<config::WorkloadIdentity>,
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
    let environment = config::from_xds::Environment::of(&bootstrap);
    let parts = Arc::new(Parts {
        clusters: Arc::new(Clusters::default()),
        workers: options.concurrency,
        healthy: Healthy::of(&bootstrap.node.cluster),
        listeners: Arc::default(),
        connections: GlobalLimit::new(&runtime),
        routes: Arc::default(),
        filters: Arc::default(),
        network_filters: Arc::default(),
        listener_filters: Arc::default(),
        on_demand: Arc::default(),
        drain: Drain::new(options.drain_time),
        runtime,
        secrets: SecretProvider::new(bootstrap.secrets, Box::new(options.load_secrets), root),
        sinks,
        telemetry: Telemetry::new(&bootstrap.node, &stats),
        stats,
    });
    parts.clusters.count_in(&parts.stats.root().scope("cluster_manager"));
    for (i, c) in bootstrap.clusters.into_iter().enumerate() {
        let cluster = Cluster::new(c, &parts).map_err(|e| at(&format!("static_resources.clusters[{i}]"), e))?;
        parts.clusters.set(cluster);
    }
    let mut listeners = Vec::new();
    for (i, l) in bootstrap.listeners.into_iter().enumerate() {
        let listener = Listener::new(l, &parts);
        listeners.push(listener.map_err(|e| at(&format!("static_resources.listeners[{i}]"), e))?);
    }
    if let Some(identity) = &bootstrap.identity {
        crate::xds::dial::check(&identity.ca, &parts.clusters)
            .map_err(|e| at("bootstrap_extensions.typed_config.ca", e))?;
    }
    let (dynamic, identity) = (bootstrap.dynamic, bootstrap.identity);
    Ok(Built { parts, listeners, dynamic, environment, description, identity, began })
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
