//! Filter chains, compiled: what a connection passes through and where it ends.
//!
//! Runs on: the control thread compiles; workers serve.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection_limit::ConnectionLimit;
use crate::app::Parts;
use crate::config::{self, ConfigError, NetworkFilterKind};
use crate::drain::Drain;
use crate::http::manager::Manager;
use crate::stats::Scope;
use crate::tcp::proxy::TcpProxy;
use crate::transport::tls::ServerTls;

/// A filter chain, compiled.
pub struct Chain {
    /// Name.
    pub name: Arc<str>,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<ServerTls>>,
    /// The handshake must end within this.
    pub handshake_timeout: Option<Duration>,
    /// What a connection passes before it gets to the end, in order. Empty for most chains.
    pub gates: Vec<Gate>,
    /// What it leads to.
    pub end: End,
    /// Begins when it, or the process, drains.
    pub drain: Drain,
    /// Connections that are cut off at the end of a drain; `None`: it has ended.
    open: Mutex<Option<Vec<oneshot::Sender<()>>>>,
}

/// A network filter that does not end its chain.
pub enum Gate {
    /// `envoy.filters.network.sni_cluster`
    SniCluster,
    /// `envoy.filters.network.connection_limit`
    ConnectionLimit(Arc<ConnectionLimit>),
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

impl Chain {
    /// Compiles a chain. `scope` and `buffer_limit` are the listener's.
    ///
    /// # Errors
    /// What cannot be compiled, with its path below the chain.
    pub fn new(
        c: &config::FilterChain,
        buffer_limit: usize,
        parts: &Parts,
        scope: &Scope,
    ) -> Result<Chain, ConfigError> {
        let mut end = End::Close;
        let mut gates = Vec::new();
        for (i, f) in c.filters.iter().enumerate() {
            let at =
                |e: ConfigError| ConfigError { field_path: format!("filters[{i}].typed_config.{}", e.field_path), ..e };
            match &f.kind {
                NetworkFilterKind::Http(h) => {
                    let manager = Manager::new((**h).clone(), parts).map_err(at)?;
                    manager.count_for(scope);
                    end = End::Http(manager);
                }
                NetworkFilterKind::TcpProxy(t) => {
                    end = End::Tcp(TcpProxy::new((**t).clone(), buffer_limit, parts).map_err(at)?)
                }
                NetworkFilterKind::DirectResponse(config::DataSource::Inline(b)) => end = End::Direct(b.clone()),
                NetworkFilterKind::DirectResponse(config::DataSource::File { path, .. }) => {
                    let data = std::fs::read(path)
                        .map_err(|e| at(ConfigError::at("response", format!("cannot read {path}: {e}"))))?;
                    end = End::Direct(data.into());
                }
                NetworkFilterKind::Echo => end = End::Echo,
                NetworkFilterKind::SniCluster => gates.push(Gate::SniCluster),
                NetworkFilterKind::ConnectionLimit(l) => {
                    gates.push(Gate::ConnectionLimit(ConnectionLimit::new(l, parts)));
                }
            }
        }
        let tls = match &c.transport {
            config::DownstreamTransport::Plaintext => None,
            config::DownstreamTransport::Tls(t) => Some(ServerTls::build(t, &parts.secrets, scope).map_err(|e| {
                ConfigError { field_path: format!("transport_socket.typed_config.{}", e.field_path), ..e }
            })?),
        };
        let drain = parts.drain.part();
        Ok(Chain {
            name: c.name.as_str().into(),
            tls,
            handshake_timeout: c.handshake_timeout,
            gates,
            end,
            drain,
            open: Mutex::new(Some(Vec::new())),
        })
    }

    /// Resolves, in one way or the other, when a connection is to be cut off. Polling it costs no lock.
    pub(super) fn until_end(&self) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        if let Some(open) = &mut *self.open.lock() {
            if open.len() == open.capacity() {
                open.retain(|other| !other.is_closed());
            }
            open.push(end);
        }
        ended
    }

    /// Its drain is over: connections that do not end by themselves are cut off.
    pub(super) fn end(&self) {
        self.drain.begin(false);
        let open = self.open.lock().take();
        drop(open);
    }

    /// A connection was given to it. What it leads to counts connections from here on, as Envoy's filters are made then:
    /// those that fail their handshake are among them.
    pub(super) fn opened(&self) {
        match &self.end {
            End::Http(manager) => {
                manager.stats.downstream_cx_total.inc();
                manager.stats.downstream_cx_active.inc();
                if self.tls.is_some() {
                    manager.stats.downstream_cx_ssl_total.inc();
                    manager.stats.downstream_cx_ssl_active.inc();
                }
            }
            End::Tcp(proxy) => proxy.opened(),
            End::Direct(_) | End::Echo | End::Close => {}
        }
    }

    /// Such a connection is closed.
    pub(super) fn closed(&self, length_ms: u64) {
        if let End::Http(manager) = &self.end {
            manager.stats.downstream_cx_active.dec();
            manager.stats.downstream_cx_destroy.inc();
            manager.stats.downstream_cx_length_ms.record(length_ms);
            if self.tls.is_some() {
                manager.stats.downstream_cx_ssl_active.dec();
            }
        }
    }
}
