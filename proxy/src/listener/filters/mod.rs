//! Listener filters: what is learned of a connection before a filter chain is chosen for it.
//!
//! Owns the parsers, which do no I/O and take bytes, and the one driver that reads for all of them into one buffer and puts
//! back what they did not consume. Bytes are read, not peeked at: a peek leaves the socket readable, and waiting for more
//! would spin. It knows nothing of filter chains. Runs on: workers; filters are compiled on the control thread.

pub mod client_hello;
pub mod http_inspector;
pub mod original_dst;
pub mod proxy_protocol;
mod stats;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use self::client_hello::NotTls;
use self::http_inspector::HttpInspector;
use self::proxy_protocol::HeaderError;
use self::stats::{HttpInspectorStats, ProxyProtocolStats, TlsInspectorStats};
use super::discovered::Wants;
use crate::app::Parts;
use crate::config::from_xds::listener_filter_fits;
use crate::config::{self, ConfigError, Extension, FilterChainPredicate, ListenerFilterKind, ProxyProtocolIn, Source};
use crate::stats::{Counter, Gauge, Scope};
use crate::stream_info::PeerAddr;
use crate::transport::Stream;

/// Read at once: most ClientHellos and request heads come in one piece.
const READ_SIZE: usize = 4096;

/// What the filters learned.
#[derive(Debug, Default)]
pub struct Detected {
    /// The client, as a PROXY protocol header has it.
    pub remote: Option<PeerAddr>,
    /// The destination, restored by a redirect rule or a PROXY protocol header.
    pub local: Option<PeerAddr>,
    /// `tls`, or `raw_buffer` where nothing else was found.
    pub transport_protocol: &'static str,
    /// SNI in lower case; empty: none.
    pub sni: Arc<str>,
    /// ALPN as offered, or what the HTTP inspector found.
    pub application_protocols: Vec<String>,
    /// A PROXY protocol header was read.
    pub proxy_protocol: bool,
    /// TLVs of it that are to be kept.
    pub proxy_tlvs: Vec<(u8, Vec<u8>)>,
    /// Dynamic metadata by namespace.
    pub metadata: BTreeMap<String, Value>,
    /// `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%` of a connection that was looked at for TLS and has none.
    pub transport_failure: Option<String>,
    /// Time ran out before all filters had what they need.
    pub timed_out: bool,
}

/// Why a connection is closed before it gets a filter chain.
#[derive(Debug, thiserror::Error)]
pub enum ListenerFilterError {
    /// The client closed first.
    #[error("closed by the client before it could be inspected")]
    RemoteClosed,
    /// The socket failed.
    #[error("failed before it could be inspected: {0}")]
    Io(std::io::Error),
    /// Time ran out, and the listener does not go on then.
    #[error("the listener filters timed out")]
    Timeout,
    /// A discovered filter has no configuration.
    #[error("a listener filter has no configuration")]
    Missing,
    /// A filter refused it.
    #[error("refused by the listener filter {0}")]
    Refused(&'static str),
}

/// The filters of a listener, compiled.
#[derive(Debug)]
pub struct ListenerFilters {
    /// Absent while a discovered one has no configuration. A connection keeps those it began with.
    filters: ArcSwapOption<Vec<Arc<Filter>>>,
    /// The same as they stand in the configuration, where some are discovered.
    discovered: Option<Box<Slots>>,
    missing: Counter,
    timeout: Option<Duration>,
    continue_on_timeout: bool,
    timeouts: Counter,
    remote_closed: Counter,
    errors: Counter,
    active: Gauge,
}

/// Filters as they stand in the configuration, and what each of them is now.
#[derive(Debug)]
struct Slots {
    config: Vec<config::ListenerFilter>,
    now: Mutex<Vec<Option<Arc<Filter>>>>,
    /// Of the server's stats.
    root: Scope,
}

/// Filters of another version, by place.
pub struct Next(Vec<(usize, Option<Arc<Filter>>)>);

#[derive(Debug)]
struct Filter {
    kind: Kind,
    disabled: Option<FilterChainPredicate>,
}

#[derive(Debug)]
enum Kind {
    Tls { max: usize, close_on_error: bool, stats: TlsInspectorStats },
    Http(HttpInspectorStats),
    OriginalDst,
    Proxy { config: ProxyProtocolIn, stats: ProxyProtocolStats },
}

/// What a filter says of the bytes so far.
enum Step {
    /// Call again with at least so many bytes in all.
    NeedMore(usize),
    /// The next filter, without so many bytes.
    Done(usize),
}

impl ListenerFilters {
    /// Compiles a listener's filters. `listener` is the scope of the listener's stats, `root` that of the server: inspectors
    /// count for all listeners together, as in Envoy.
    pub fn new(config: &config::Listener, listener: &Scope, root: &Scope) -> Self {
        let filters: Vec<_> = config.listener_filters.iter().map(|f| Filter::of(f, None, root)).collect();
        let is_discovered = |f: &config::ListenerFilter| matches!(f.kind, ListenerFilterKind::Discovered(_));
        let current = filters.iter().cloned().collect::<Option<Vec<_>>>().map(Arc::new);
        let discovered = config.listener_filters.iter().any(is_discovered).then(|| {
            let config = config.listener_filters.clone();
            Box::new(Slots { config, now: Mutex::new(filters), root: root.clone() })
        });
        ListenerFilters {
            filters: ArcSwapOption::from(current),
            discovered,
            missing: listener.counter("extension_config_missing"),
            timeout: config.listener_filters_timeout,
            continue_on_timeout: config.continue_on_listener_filters_timeout,
            timeouts: listener.counter("downstream_pre_cx_timeout"),
            remote_closed: listener.counter("downstream_listener_filter_remote_close"),
            errors: listener.counter("downstream_listener_filter_error"),
            active: listener.gauge("downstream_pre_cx_active"),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filters.load().as_ref().is_some_and(|filters| filters.is_empty())
    }

    /// Runs the filters in order. What they read and did not consume is in front of the stream returned.
    ///
    /// # Errors
    /// The connection is to be closed, and is closed when this returns: with a reset if it had sent something.
    ///
    /// # Cancel safety
    /// None: the stream is dropped.
    pub async fn run(&self, mut stream: Stream) -> Result<(Stream, Detected), ListenerFilterError> {
        let Some(filters) = self.filters.load_full() else {
            self.missing.inc();
            stream.reset_if_unread();
            return Err(ListenerFilterError::Missing);
        };
        let mut run = Run {
            buffer: BytesMut::new(),
            at: 0,
            need: 0,
            detected: Detected { transport_protocol: "raw_buffer", ..Detected::default() },
            http: HttpInspector::default(),
        };
        self.active.inc();
        let result = match self.timeout {
            Some(limit) => tokio::time::timeout(limit, run.advance(&filters, &mut stream)).await,
            None => Ok(run.advance(&filters, &mut stream).await),
        };
        self.active.dec();
        let result = result.unwrap_or_else(|_| {
            self.timeouts.inc();
            run.detected.timed_out = true;
            if self.continue_on_timeout { Ok(()) } else { Err(ListenerFilterError::Timeout) }
        });
        match result {
            Ok(()) => Ok((Stream::prefixed(run.buffer.freeze(), stream), run.detected)),
            Err(error) => {
                match &error {
                    ListenerFilterError::RemoteClosed => self.remote_closed.inc(),
                    ListenerFilterError::Io(_) => self.errors.inc(),
                    ListenerFilterError::Timeout | ListenerFilterError::Refused(_) | ListenerFilterError::Missing => {}
                }
                // Envoy only peeked, and closes a socket with unread bytes.
                if !run.buffer.is_empty() {
                    stream.set_reset_on_close();
                }
                Err(error)
            }
        }
    }
}

impl Filter {
    /// A filter, `found` in place of a discovered one; `None`: there is none.
    fn of(f: &config::ListenerFilter, found: Option<&ListenerFilterKind>, root: &Scope) -> Option<Arc<Filter>> {
        let kind = match &f.kind {
            ListenerFilterKind::Discovered(d) => found.or(d.default.as_ref())?,
            kind => kind,
        };
        let kind = match kind {
            ListenerFilterKind::TlsInspector { max_client_hello_size, close_on_error } => Kind::Tls {
                max: *max_client_hello_size,
                close_on_error: *close_on_error,
                stats: TlsInspectorStats::new(root),
            },
            ListenerFilterKind::HttpInspector => Kind::Http(HttpInspectorStats::new(root)),
            ListenerFilterKind::OriginalDst => Kind::OriginalDst,
            ListenerFilterKind::ProxyProtocol(p) => {
                Kind::Proxy { config: p.clone(), stats: ProxyProtocolStats::new(root, &p.stat_prefix) }
            }
            // None is within another.
            ListenerFilterKind::Discovered(_) => return None,
        };
        Some(Arc::new(Filter { kind, disabled: f.disabled.clone() }))
    }
}

impl Wants for ListenerFilters {
    type Kind = ListenerFilterKind;
    type Next = Next;
    const STATS: &'static str = "tcp_listener_filter";

    fn wants(&self) -> Vec<(String, Source)> {
        let filters = self.discovered.iter().flat_map(|slots| &slots.config);
        let wanted = filters.filter_map(|f| match &f.kind {
            ListenerFilterKind::Discovered(d) => Some((f.name.clone(), d.source.from.clone())),
            _ => None,
        });
        wanted.collect()
    }

    fn next(
        &self,
        from: &Source,
        name: &str,
        config: Option<&Extension<ListenerFilterKind>>,
        _parts: &Parts,
    ) -> Result<Self::Next, ConfigError> {
        let mut next = Vec::new();
        let Some(slots) = &self.discovered else { return Ok(Next(next)) };
        for (place, f) in slots.config.iter().enumerate() {
            let ListenerFilterKind::Discovered(d) = &f.kind else { continue };
            if f.name != name || d.source.from != *from {
                continue;
            }
            if let Some(found) = config {
                listener_filter_fits(d, name, found)?;
            }
            next.push((place, Filter::of(f, config.map(|found| &found.kind), &slots.root)));
        }
        Ok(Next(next))
    }

    fn set(&self, next: Self::Next) {
        let Some(slots) = &self.discovered else { return };
        let mut now = slots.now.lock();
        for (place, filter) in next.0 {
            if let Some(slot) = now.get_mut(place) {
                *slot = filter;
            }
        }
        self.filters.store(now.iter().cloned().collect::<Option<Vec<_>>>().map(Arc::new));
    }
}

/// One connection on its way through the filters.
struct Run {
    buffer: BytesMut,
    /// Filter under way.
    at: usize,
    /// Bytes it waits for.
    need: usize,
    detected: Detected,
    http: HttpInspector,
}

impl Run {
    async fn advance(&mut self, filters: &[Arc<Filter>], stream: &mut Stream) -> Result<(), ListenerFilterError> {
        while let Some(filter) = filters.get(self.at) {
            if self.buffer.len() >= self.need {
                match self.step(filter, stream)? {
                    Step::Done(consumed) => {
                        self.buffer.advance(consumed.min(self.buffer.len()));
                        self.need = 0;
                        self.at += 1;
                        continue;
                    }
                    Step::NeedMore(n) => self.need = n.max(self.buffer.len() + 1),
                }
            }
            // Nothing is held for a client that does not speak.
            stream.readable().await.map_err(ListenerFilterError::Io)?;
            self.buffer.reserve(READ_SIZE);
            match stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(ListenerFilterError::RemoteClosed),
                Ok(_) => {}
                Err(e) => return Err(ListenerFilterError::Io(e)),
            }
        }
        Ok(())
    }

    fn step(&mut self, filter: &Filter, stream: &Stream) -> Result<Step, ListenerFilterError> {
        if filter.disabled.as_ref().is_some_and(|p| holds(p, self.local_port(stream))) {
            return Ok(Step::Done(0));
        }
        match &filter.kind {
            Kind::OriginalDst => {
                if let Some(address) = original_dst::lookup(stream) {
                    self.detected.local = Some(address.into());
                }
                Ok(Step::Done(0))
            }
            Kind::Tls { max, close_on_error, stats } => self.tls(*max, *close_on_error, stats),
            Kind::Http(stats) => self.http(stats),
            Kind::Proxy { config, stats } => self.proxy(config, stats),
        }
    }

    fn local_port(&self, stream: &Stream) -> Option<u16> {
        match &self.detected.local {
            Some(restored) => restored.port(),
            None => stream.local_addr()?.port(),
        }
    }

    fn tls(
        &mut self,
        max: usize,
        close_on_error: bool,
        stats: &TlsInspectorStats,
    ) -> Result<Step, ListenerFilterError> {
        const NAME: &str = "envoy.filters.listener.tls_inspector";
        // More than allowed may have come in one read.
        let failed = match client_hello::parse(&self.buffer[..self.buffer.len().min(max)], max) {
            Ok(client_hello::Step::NeedMore(n)) => return Ok(Step::NeedMore(n)),
            Ok(client_hello::Step::Hello(hello)) => {
                stats.found(&hello);
                self.detected.transport_protocol = "tls";
                self.detected.sni = hello.sni.into();
                self.detected.application_protocols = hello.alpn;
                return Ok(Step::Done(0));
            }
            Err(failed) => failed,
        };
        let too_large = failed == NotTls::TooLarge;
        let reason = if too_large { "ClientHelloTooLarge" } else { "ClientHelloNotDetected" };
        self.detected.metadata.insert(NAME.to_owned(), serde_json::json!({ "failure_reason": reason }));
        if too_large {
            stats.too_large();
            return Err(ListenerFilterError::Refused(NAME));
        }
        if close_on_error {
            return Err(ListenerFilterError::Refused(NAME));
        }
        stats.not_found();
        self.detected.transport_failure = Some(failed.reason());
        Ok(Step::Done(0))
    }

    fn http(&mut self, stats: &HttpInspectorStats) -> Result<Step, ListenerFilterError> {
        if self.detected.transport_protocol == "tls" {
            return Ok(Step::Done(0));
        }
        if self.buffer.is_empty() {
            return Ok(Step::NeedMore(1));
        }
        match self.http.parse(&self.buffer) {
            http_inspector::Step::NeedMore => Ok(Step::NeedMore(self.buffer.len() + 1)),
            http_inspector::Step::Http(version) => {
                stats.found(version);
                self.detected.application_protocols = vec![version.as_alpn().to_owned()];
                Ok(Step::Done(0))
            }
            http_inspector::Step::NotHttp => {
                stats.not_found();
                Ok(Step::Done(0))
            }
            http_inspector::Step::TooLarge => {
                stats.read_error();
                Err(ListenerFilterError::Refused("envoy.filters.listener.http_inspector"))
            }
        }
    }

    fn proxy(&mut self, config: &ProxyProtocolIn, stats: &ProxyProtocolStats) -> Result<Step, ListenerFilterError> {
        match proxy_protocol::parse(&self.buffer, config) {
            Ok(proxy_protocol::Step::NeedMore(n)) => Ok(Step::NeedMore(n)),
            Ok(proxy_protocol::Step::Absent) => {
                stats.absent();
                Ok(Step::Done(0))
            }
            Ok(proxy_protocol::Step::Header(header)) => {
                stats.found(header.version);
                let consumed = header.len;
                proxy_protocol::apply(&header, config, &mut self.detected);
                Ok(Step::Done(consumed))
            }
            Err(error) => {
                stats.failed(error);
                if let HeaderError::Malformed(version) | HeaderError::Disallowed(version) = error {
                    tracing::debug!(version, "PROXY protocol header refused");
                }
                Err(ListenerFilterError::Refused("envoy.filters.listener.proxy_protocol"))
            }
        }
    }
}

fn holds(predicate: &FilterChainPredicate, local_port: Option<u16>) -> bool {
    match predicate {
        FilterChainPredicate::Or(list) => list.iter().any(|p| holds(p, local_port)),
        FilterChainPredicate::And(list) => list.iter().all(|p| holds(p, local_port)),
        FilterChainPredicate::Not(p) => !holds(p, local_port),
        FilterChainPredicate::Any => true,
        FilterChainPredicate::DestinationPort(start, end) => local_port.is_some_and(|p| (*start..*end).contains(&p)),
    }
}
