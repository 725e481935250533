//! Listeners at run time.

use std::sync::Arc;

use super::admission::Admission;
use super::balance::Balancer;
use super::chain::Chain;
use super::chain_match::{ConnFacts, FilterChainTable};
use super::directory::Directory;
use super::filters::ListenerFilters;
use crate::access_log::AccessLogs;
use crate::app::Parts;
use crate::config::{self, ConfigError};
use crate::drain::Drain;
use crate::stats::{Counter, Gauge, Histogram, Scope, Unit};
use crate::stream_info::ListenerInfo;

/// A listener.
pub struct Listener {
    /// Validated settings.
    pub config: config::Listener,
    /// Facts for connections.
    pub info: Arc<ListenerInfo>,
    /// Run before a filter chain is chosen.
    pub filters: Arc<ListenerFilters>,
    /// Logs each connection, refused ones too.
    pub access_logs: AccessLogs,
    /// Stats.
    pub stats: ListenerStats,
    /// Told to stop accepting.
    pub stop: Drain,
    /// Bounds its connections.
    pub(super) admission: Admission,
    /// Shares connections among workers, where that is asked for.
    pub(super) balancer: Option<Arc<Balancer>>,
    /// Where to look for the listener a connection was meant for, where that is asked for.
    pub(super) directory: Option<Arc<Directory>>,
    chains: Vec<Arc<Chain>>,
    /// Finds one of `chains`.
    table: FilterChainTable,
    /// Taken where none of them matches.
    default_chain: Option<Arc<Chain>>,
    bound: parking_lot::Mutex<Vec<std::net::SocketAddr>>,
}

/// `listener.<address>.*`.
#[allow(missing_docs, reason = "each is the Envoy stat it is named for")]
pub struct ListenerStats {
    pub downstream_cx_total: Counter,
    pub downstream_cx_destroy: Counter,
    pub downstream_cx_active: Gauge,
    pub downstream_cx_length_ms: Histogram,
    pub downstream_cx_overflow: Counter,
    pub downstream_cx_overload_reject: Counter,
    pub downstream_global_cx_overflow: Counter,
    pub downstream_pre_cx_timeout: Counter,
    pub downstream_pre_cx_active: Gauge,
    pub downstream_cx_transport_socket_connect_timeout: Counter,
    pub no_filter_chain_match: Counter,
    pub network_extension_config_missing: Counter,
    pub scope: Scope,
    /// `worker_<n>.downstream_cx_total` and `_active`.
    workers: Vec<(Counter, Gauge)>,
}

impl ListenerStats {
    /// A connection has its filter chain.
    pub(super) fn opened(&self, worker: usize) {
        self.downstream_cx_total.inc();
        self.downstream_cx_active.inc();
        if let Some((total, active)) = self.workers.get(worker) {
            total.inc();
            active.inc();
        }
    }

    /// Such a connection is closed.
    pub(super) fn closed(&self, worker: usize) {
        self.downstream_cx_active.dec();
        self.downstream_cx_destroy.inc();
        if let Some((_, active)) = self.workers.get(worker) {
            active.dec();
        }
    }

    fn new(scope: Scope, workers: usize) -> Self {
        let worker = |n: usize| {
            let scope = scope.scope(&format!("worker_{n}"));
            (scope.counter("downstream_cx_total"), scope.gauge("downstream_cx_active"))
        };
        ListenerStats {
            downstream_cx_total: scope.counter("downstream_cx_total"),
            downstream_cx_destroy: scope.counter("downstream_cx_destroy"),
            downstream_cx_active: scope.gauge("downstream_cx_active"),
            downstream_cx_length_ms: scope.histogram("downstream_cx_length_ms", Unit::Milliseconds),
            downstream_cx_overflow: scope.counter("downstream_cx_overflow"),
            downstream_cx_overload_reject: scope.counter("downstream_cx_overload_reject"),
            downstream_global_cx_overflow: scope.counter("downstream_global_cx_overflow"),
            downstream_pre_cx_timeout: scope.counter("downstream_pre_cx_timeout"),
            downstream_pre_cx_active: scope.gauge("downstream_pre_cx_active"),
            downstream_cx_transport_socket_connect_timeout: scope
                .counter("downstream_cx_transport_socket_connect_timeout"),
            no_filter_chain_match: scope.counter("no_filter_chain_match"),
            network_extension_config_missing: scope.counter("network_extension_config_missing"),
            workers: (0..workers).map(worker).collect(),
            scope,
        }
    }
}

impl Listener {
    /// An address was opened.
    pub fn opened(&self, address: Option<std::net::SocketAddr>) {
        self.bound.lock().extend(address);
    }

    /// The addresses it is open on, ports chosen by the system included.
    pub fn bound(&self) -> Vec<std::net::SocketAddr> {
        self.bound.lock().clone()
    }

    /// Compiles a listener.
    ///
    /// # Errors
    /// What cannot be compiled, with its path below the listener.
    pub fn new(config: config::Listener, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        Listener::build(config, parts, None)
    }

    /// Compiles a new version of `before` that takes over its sockets: where only filter chains differ, those that are the same
    /// are taken over with their connections.
    ///
    /// # Errors
    /// What cannot be compiled, with its path below the listener.
    pub fn next(before: &Listener, config: config::Listener, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        Listener::build(config, parts, Some(before))
    }

    /// Whether a listener of this configuration can accept on the sockets of `before`.
    pub fn keeps_sockets_of(config: &config::Listener, before: &config::Listener) -> bool {
        config.addresses == before.addresses
            && config.bind_to_port == before.bind_to_port
            && config.reuse_port == before.reuse_port
            && config.transparent == before.transparent
            && config.freebind == before.freebind
            && config.mptcp == before.mptcp
            && config.socket_options == before.socket_options
            && config.exact_balance == before.exact_balance
    }

    /// Whether nothing but filter chains differs from `before`.
    pub fn differs_in_chains_only(&self, before: &config::Listener) -> bool {
        chains_only(&self.config, before)
    }

    /// Every filter chain, the default one last.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// The filter chain of this configuration.
    fn chain_of(&self, config: &config::FilterChain) -> Option<Arc<Chain>> {
        let at = self.config.filter_chains.iter().position(|c| c == config);
        let default = self.config.default_filter_chain.as_ref().filter(|c| *c == config);
        at.and_then(|at| self.chains.get(at)).or(default.and(self.default_chain.as_ref())).cloned()
    }

    fn build(config: config::Listener, parts: &Parts, before: Option<&Listener>) -> Result<Arc<Self>, ConfigError> {
        let reused = before.filter(|b| chains_only(&config, &b.config));
        let name = config.stat_prefix.clone().unwrap_or_else(|| {
            config.addresses.first().map_or_else(String::new, |a| a.address.to_string().replace(':', "_"))
        });
        let stats =
            ListenerStats::new(parts.stats.root().tagged("listener", "envoy.listener_address", &name), parts.workers);
        let at = |place: String, e: ConfigError| ConfigError {
            resource: config.name.clone(),
            field_path: if e.field_path.is_empty() { place } else { format!("{place}.{}", e.field_path) },
            ..e
        };
        let chain = |c: &config::FilterChain| match reused.and_then(|b| b.chain_of(c)) {
            Some(same) => Ok(same),
            None => {
                let chain = Arc::new(Chain::new(c, config.per_connection_buffer_limit, parts, &stats.scope)?);
                parts.network_filters.register(&chain, parts);
                Ok(chain)
            }
        };
        let mut chains = Vec::new();
        for (i, c) in config.filter_chains.iter().enumerate() {
            chains.push(chain(c).map_err(|e| at(format!("filter_chains[{i}]"), e))?);
        }
        let default_chain = config.default_filter_chain.as_ref().map(chain);
        let default_chain = default_chain.transpose().map_err(|e| at("default_filter_chain".into(), e))?;
        let table = FilterChainTable::build(&config.filter_chains)
            .map_err(|e| ConfigError { resource: config.name.clone(), ..e })?;
        let filters = Arc::new(ListenerFilters::new(&config, &stats.scope, &parts.stats.root()));
        parts.listener_filters.register(&filters, parts);
        Ok(Arc::new(Listener {
            info: Arc::new(ListenerInfo { name: config.name.clone(), direction: config.direction }),
            filters,
            access_logs: parts.access_logs(&config.access_log)?,
            admission: Admission::new(
                &config.name,
                config.ignore_global_conn_limit,
                &parts.connections,
                &parts.runtime,
            ),
            balancer: match before {
                Some(before) => before.balancer.clone(),
                None => config.exact_balance.then(|| Balancer::new(parts.workers)),
            },
            directory: config.use_original_dst.then(|| parts.listeners.clone()),
            chains,
            table,
            default_chain,
            stats,
            stop: before.map_or_else(|| parts.drain.detached(), |b| b.stop.clone()),
            bound: parking_lot::Mutex::new(before.map(Listener::bound).unwrap_or_default()),
            config,
        }))
    }

    /// The filter chain of a connection, if one takes it.
    pub fn chain_for(&self, facts: &ConnFacts<'_>) -> Option<&Arc<Chain>> {
        match self.table.find(facts) {
            Some(at) => self.chains.get(at),
            None => self.default_chain.as_ref(),
        }
    }
}

/// Whether two listeners differ in filter chains only.
fn chains_only(a: &config::Listener, b: &config::Listener) -> bool {
    let without =
        |l: &config::Listener| config::Listener { filter_chains: Vec::new(), default_filter_chain: None, ..l.clone() };
    without(a) == without(b)
}
