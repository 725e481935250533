//! Filter chains, compiled: what a connection passes through and where it ends.
//!
//! Runs on: the control thread compiles; workers serve.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection_limit::ConnectionLimit;
use super::discovered::Wants;
use super::ext_authz::ExtAuthz;
use super::guard::Guard;
use super::rate_limit::RateLimit;
use super::rbac::Rbac;
use crate::app::Parts;
use crate::config::from_xds::network_filter_fits;
use crate::config::{self, ConfigError, Extension, NetworkFilterKind, Source};
use crate::drain::Drain;
use crate::http::manager::Manager;
use crate::stats::Scope;
use crate::tcp::proxy::TcpProxy;
use crate::telemetry::TcpReport;
use crate::transport::tls::ServerTls;

/// A filter chain, compiled.
pub struct Chain {
    /// Name.
    pub name: Arc<str>,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<ServerTls>>,
    /// The handshake must end within this.
    pub handshake_timeout: Option<Duration>,
    /// What it is made of; absent while a discovered filter has no configuration.
    body: ArcSwapOption<Body>,
    /// Its filters, where some of them are discovered.
    discovered: Option<Box<Filters>>,
    /// Begins when it, or the process, drains.
    pub drain: Drain,
    /// Connections that are cut off at the end of a drain; `None`: it has ended.
    open: Mutex<Option<Vec<oneshot::Sender<()>>>>,
}

/// The network filters of a chain. A connection keeps those it began with.
pub struct Body {
    /// What a connection passes before it gets to the end, in order. Empty for most chains.
    pub gates: Vec<Gate>,
    /// What judges a connection by the time its first bytes are there, in order.
    pub(super) guards: Arc<[Guard]>,
    /// What counts a connection before anything is done with it, in order.
    pub(super) limits: Limits,
    /// What counts a connection that is proxied as bytes.
    pub reports: Arc<[Arc<TcpReport>]>,
    /// What it leads to.
    pub end: End,
}

/// Filters as they stand in the configuration, and what each of them is now.
struct Filters {
    config: Vec<config::NetworkFilter>,
    now: Mutex<Vec<Option<Piece>>>,
    buffer_limit: usize,
    scope: Scope,
}

/// A network filter, compiled.
#[derive(Clone)]
enum Piece {
    Gate(Gate),
    Guard(Guard),
    Limit(Arc<RateLimit>),
    Report(Arc<TcpReport>),
    End(End),
}

/// Filters of another version, by place.
pub struct Next(Vec<(usize, Option<Piece>)>);

/// A network filter that does not end its chain.
#[derive(Clone)]
pub enum Gate {
    /// `envoy.filters.network.sni_cluster`
    SniCluster,
    /// `envoy.filters.network.connection_limit`
    ConnectionLimit(Arc<ConnectionLimit>),
}

/// `envoy.filters.network.ratelimit`, of which a chain may have several.
pub(super) type Limits = Arc<[Arc<RateLimit>]>;

/// The last filter of a chain.
#[derive(Clone)]
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
        let mut pieces = Vec::with_capacity(c.filters.len());
        for (i, f) in c.filters.iter().enumerate() {
            let (kind, field) = match &f.kind {
                NetworkFilterKind::Discovered(d) => (d.default.as_ref(), "config_discovery.default_config"),
                kind => (Some(kind), "typed_config"),
            };
            let piece = kind.map(|kind| Piece::new(kind, buffer_limit, parts, scope)).transpose();
            pieces.push(
                piece.map_err(|e| ConfigError { field_path: format!("filters[{i}].{field}.{}", e.field_path), ..e })?,
            );
        }
        let body = Body::of(&pieces);
        let is_discovered = |f: &config::NetworkFilter| matches!(f.kind, NetworkFilterKind::Discovered(_));
        let discovered = c.filters.iter().any(is_discovered).then(|| {
            let config = c.filters.clone();
            Box::new(Filters { config, now: Mutex::new(pieces), buffer_limit, scope: scope.clone() })
        });
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
            body: ArcSwapOption::from(body.map(Arc::new)),
            discovered,
            drain,
            open: Mutex::new(Some(Vec::new())),
        })
    }

    /// Its filters of this moment; `None`: a discovered one has no configuration.
    pub fn body(&self) -> Option<Arc<Body>> {
        self.body.load_full()
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
    pub(super) fn opened(&self, body: &Body) {
        match &body.end {
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
    pub(super) fn closed(&self, body: &Body, length_ms: u64) {
        if let End::Http(manager) = &body.end {
            manager.stats.downstream_cx_active.dec();
            manager.stats.downstream_cx_destroy.inc();
            manager.stats.downstream_cx_length_ms.record(length_ms);
            if self.tls.is_some() {
                manager.stats.downstream_cx_ssl_active.dec();
            }
        }
    }
}

impl Piece {
    /// # Errors
    /// What cannot be compiled, with its path below the filter.
    fn new(kind: &NetworkFilterKind, buffer_limit: usize, parts: &Parts, scope: &Scope) -> Result<Piece, ConfigError> {
        Ok(match kind {
            NetworkFilterKind::Http(h) => {
                let manager = Manager::new((**h).clone(), parts)?;
                manager.count_for(scope);
                Piece::End(End::Http(manager))
            }
            NetworkFilterKind::TcpProxy(t) => Piece::End(End::Tcp(TcpProxy::new((**t).clone(), buffer_limit, parts)?)),
            NetworkFilterKind::DirectResponse(config::DataSource::Inline(b)) => Piece::End(End::Direct(b.clone())),
            NetworkFilterKind::DirectResponse(config::DataSource::File { path, .. }) => {
                let data =
                    std::fs::read(path).map_err(|e| ConfigError::at("response", format!("cannot read {path}: {e}")))?;
                Piece::End(End::Direct(data.into()))
            }
            NetworkFilterKind::Echo => Piece::End(End::Echo),
            NetworkFilterKind::SniCluster => Piece::Gate(Gate::SniCluster),
            NetworkFilterKind::ConnectionLimit(l) => Piece::Gate(Gate::ConnectionLimit(ConnectionLimit::new(l, parts))),
            NetworkFilterKind::IstioStats(s) => Piece::Report(TcpReport::new(s, &parts.telemetry)),
            NetworkFilterKind::Rbac(r) => Piece::Guard(Guard::Rbac(Rbac::new(r, parts))),
            NetworkFilterKind::ExtAuthz(a) => Piece::Guard(Guard::ExtAuthz(ExtAuthz::new(a, parts)?)),
            NetworkFilterKind::RateLimit(r) => Piece::Limit(RateLimit::new(r, parts)?),
            NetworkFilterKind::Discovered(_) => {
                return Err(ConfigError::at("", "discovery within discovery"));
            }
        })
    }
}

impl Body {
    /// `None`: one is missing.
    fn of(pieces: &[Option<Piece>]) -> Option<Body> {
        let (mut gates, mut guards, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        let (mut reports, mut last) = (Vec::new(), End::Close);
        for piece in pieces {
            match piece.as_ref()? {
                Piece::Gate(gate) => gates.push(gate.clone()),
                Piece::Guard(guard) => guards.push(guard.clone()),
                Piece::Limit(limit) => limits.push(limit.clone()),
                Piece::Report(report) => reports.push(report.clone()),
                Piece::End(end) => last = end.clone(),
            }
        }
        Some(Body { gates, guards: guards.into(), limits: limits.into(), reports: reports.into(), end: last })
    }
}

impl Wants for Chain {
    type Kind = NetworkFilterKind;
    type Next = Next;
    const STATS: &'static str = "network_filter";

    fn wants(&self) -> Vec<(String, Source)> {
        let filters = self.discovered.iter().flat_map(|f| &f.config);
        let wanted = filters.filter_map(|f| match &f.kind {
            NetworkFilterKind::Discovered(d) => Some((f.name.clone(), d.source.from.clone())),
            _ => None,
        });
        wanted.collect()
    }

    fn next(
        &self,
        from: &Source,
        name: &str,
        config: Option<&Extension<NetworkFilterKind>>,
        parts: &Parts,
    ) -> Result<Self::Next, ConfigError> {
        let mut next = Vec::new();
        let Some(filters) = &self.discovered else { return Ok(Next(next)) };
        for (place, f) in filters.config.iter().enumerate() {
            let NetworkFilterKind::Discovered(d) = &f.kind else { continue };
            if f.name != name || d.source.from != *from {
                continue;
            }
            if let Some(found) = config {
                network_filter_fits(d, name, found)?;
            }
            let kind = config.map(|found| &found.kind).or(d.default.as_ref());
            let piece = kind.map(|kind| Piece::new(kind, filters.buffer_limit, parts, &filters.scope));
            next.push((place, piece.transpose()?));
        }
        Ok(Next(next))
    }

    fn set(&self, next: Self::Next) {
        let Some(filters) = &self.discovered else { return };
        let mut now = filters.now.lock();
        for (place, piece) in next.0 {
            if let Some(slot) = now.get_mut(place) {
                *slot = piece;
            }
        }
        self.body.store(Body::of(&now).map(Arc::new));
    }
}
