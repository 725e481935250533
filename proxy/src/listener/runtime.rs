//! Listeners at run time.

use std::sync::Arc;

use crate::app::Parts;
use crate::config::{self, ConfigError, NetworkFilterKind};
use crate::drain::Drain;
use crate::http::manager::Manager;
use crate::stats::{Counter, Gauge, Histogram, Scope, Unit};
use crate::stream_info::ListenerInfo;
use crate::tcp::proxy::TcpProxy;
use crate::transport::tls::ServerTls;

/// A listener.
pub struct Listener {
    /// Validated settings.
    pub config: config::Listener,
    /// Facts for connections.
    pub info: Arc<ListenerInfo>,
    /// Filter chains; the default chain, if there is one, comes last.
    pub chains: Vec<Chain>,
    /// Stats.
    pub stats: ListenerStats,
    /// Told to stop accepting.
    pub stop: Drain,
    bound: parking_lot::Mutex<Vec<std::net::SocketAddr>>,
}

/// A filter chain, compiled.
pub struct Chain {
    /// Name.
    pub name: Arc<str>,
    /// Which connections.
    pub matches: config::FilterChainMatch,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<ServerTls>>,
    /// The handshake must end within this.
    pub handshake_timeout: Option<std::time::Duration>,
    /// What it leads to.
    pub end: End,
}

/// The last filter of a chain.
pub enum End {
    /// HTTP.
    Http(Arc<Manager>),
    /// TCP.
    Tcp(Arc<TcpProxy>),
    /// Fixed bytes.
    Direct(bytes::Bytes),
    /// Echo.
    Echo,
    /// No filters: closed.
    Close,
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
    pub no_filter_chain_match: Counter,
    pub scope: Scope,
}

impl ListenerStats {
    fn new(scope: Scope) -> Self {
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
            no_filter_chain_match: scope.counter("no_filter_chain_match"),
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
    pub fn new(config: config::Listener, parts: &Parts, drain: std::time::Duration) -> Result<Arc<Self>, ConfigError> {
        let name = config.stat_prefix.clone().unwrap_or_else(|| {
            config.addresses.first().map_or_else(String::new, |a| a.address.to_string().replace(':', "_"))
        });
        let stats = ListenerStats::new(parts.stats.root().tagged("listener", "envoy.listener_address", &name));
        let mut chains = Vec::new();
        for (i, c) in config.filter_chains.iter().enumerate() {
            chains.push(chain(c, parts, &stats.scope).map_err(|e| ConfigError {
                resource: config.name.clone(),
                field_path: format!("filter_chains[{i}].{}", e.field_path),
                ..e
            })?);
        }
        if let Some(c) = &config.default_filter_chain {
            chains.push(chain(c, parts, &stats.scope).map_err(|e| ConfigError {
                resource: config.name.clone(),
                field_path: format!("default_filter_chain.{}", e.field_path),
                ..e
            })?);
        }
        Ok(Arc::new(Listener {
            info: Arc::new(ListenerInfo { name: config.name.clone(), direction: config.direction }),
            chains,
            stats,
            stop: Drain::new(drain),
            bound: parking_lot::Mutex::default(),
            config,
        }))
    }
}

fn chain(c: &config::FilterChain, parts: &Parts, scope: &Scope) -> Result<Chain, ConfigError> {
    let mut end = End::Close;
    for (i, f) in c.filters.iter().enumerate() {
        let at =
            |e: ConfigError| ConfigError { field_path: format!("filters[{i}].typed_config.{}", e.field_path), ..e };
        match &f.kind {
            NetworkFilterKind::Http(h) => end = End::Http(Manager::new((**h).clone(), parts).map_err(at)?),
            NetworkFilterKind::TcpProxy(t) => end = End::Tcp(TcpProxy::new((**t).clone(), parts).map_err(at)?),
            NetworkFilterKind::DirectResponse(config::DataSource::Inline(b)) => end = End::Direct(b.clone()),
            NetworkFilterKind::DirectResponse(config::DataSource::File { path, .. }) => {
                let data = std::fs::read(path)
                    .map_err(|e| at(ConfigError::at("response", format!("cannot read {path}: {e}"))))?;
                end = End::Direct(data.into());
            }
            NetworkFilterKind::Echo => end = End::Echo,
            NetworkFilterKind::SniCluster | NetworkFilterKind::ConnectionLimit(_) => {
                return Err(at(ConfigError::at(
                    "@type",
                    format!("the network filter {:?} is not supported yet", f.name),
                )));
            }
        }
    }
    let tls =
        match &c.transport {
            config::DownstreamTransport::Plaintext => None,
            config::DownstreamTransport::Tls(t) => Some(ServerTls::build(t, &parts.secrets, scope).map_err(|e| {
                ConfigError { field_path: format!("transport_socket.typed_config.{}", e.field_path), ..e }
            })?),
        };
    Ok(Chain {
        name: c.name.as_str().into(),
        matches: c.matches.clone(),
        tls,
        handshake_timeout: c.handshake_timeout,
        end,
    })
}
