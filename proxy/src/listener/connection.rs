//! A connection from accept to its end: listener filters, the choice of a filter chain, TLS, network filters.
//!
//! Runs on: the worker that accepted it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::admission::Place as ListenerPlace;
use super::balance::Held;
use super::chain::{Body, Chain, End, Gate};
use super::chain_match::ConnFacts;
use super::connection_limit::{Place, Verdict};
use super::filters::Detected;
use super::{Listener, guard, http, rate_limit, refusal};
use crate::access_log::LogContext;
use crate::config;
use crate::drain::Drain;
use crate::stream_info::{CloseType, ConnInfo, PeerAddr, ResponseFlags, StreamInfo, TlsInfo};
use crate::transport::Stream;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Bound of a TLS handshake where none is configured: the time a client has for anything before its first byte.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// What an echo reads at once.
const ECHO: usize = 8 << 10;

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: PeerAddr,
    /// Our end, if it is known; else the socket is asked.
    pub(super) local: Option<PeerAddr>,
    /// Its place among the connections of its worker.
    pub(super) _held: Option<Held>,
    /// Its place among those of its listener.
    pub(super) place: Option<ListenerPlace>,
}

/// Serves a connection.
pub(super) async fn serve(accepted: Accepted, listener: Arc<Listener>, worker: usize, drain: Drain) {
    let _open = drain.hold();
    // Boxed: it is gone once the connection is under way, and an idle connection should cost little.
    let Some(prepared) = Box::pin(prepare(accepted, listener, worker)).await else { return };
    let Prepared { stream, info, listener, chain, body, passed, _held, _place } = prepared;
    let began = info.start;
    // Streams of an HTTP connection are its own business; the listener's log has the connection.
    let facts = (!listener.access_logs.is_empty()).then(|| stream_info(info.clone()));
    let served = match &body.end {
        End::Tcp(proxy) => {
            let ended = chain.until_end();
            let cut_off = info.clone();
            let served = proxy.clone().serve(stream, info, passed.cluster.as_deref(), worker, &body.reports);
            // Boxed: what it needs is not to be in the task of every connection.
            let served = Box::pin(async {
                tokio::select! {
                    biased;
                    facts = served => facts,
                    _ = ended => stream_info(cut_off),
                }
            });
            Some(served.await)
        }
        End::Http(manager) => {
            // Boxed: the runtime copies a task several times when it starts and when it ends.
            Box::pin(http::serve(stream, manager.clone(), info, worker, chain.drain.clone())).await;
            facts
        }
        End::Direct(data) => {
            Box::pin(direct(stream, data)).await;
            facts.map(|mut facts| {
                facts.details = Some("direct_response".into());
                facts.bytes.sent = data.len() as u64;
                facts
            })
        }
        End::Echo => {
            let n = Box::pin(echo(stream)).await;
            facts.map(|mut facts| {
                (facts.bytes.received, facts.bytes.sent) = (n, n);
                facts
            })
        }
        End::Close => facts,
    };
    drop(passed);
    closed(&listener, &chain, Some(&body), began, worker);
    if let Some(mut facts) = served {
        if let Some((flag, details)) = facts.conn.refused.get() {
            facts.flags.set(*flag);
            facts.details = Some((*details).into());
        }
        facts.times.end.get_or_insert_with(Instant::now);
        listener.access_logs.log(&LogContext::new(&facts));
        if let End::Tcp(proxy) = &body.end {
            proxy.log_end(&facts);
        }
    }
}

/// A connection that has its listener, its filter chain and its transport.
struct Prepared {
    stream: Stream,
    info: Arc<ConnInfo>,
    listener: Arc<Listener>,
    chain: Arc<Chain>,
    body: Arc<Body>,
    passed: Passed,
    _held: Option<Held>,
    _place: Option<ListenerPlace>,
}

/// Listener filters, the listener it was meant for, the filter chain, TLS. `None`: it was closed, and all is booked.
async fn prepare(accepted: Accepted, listener: Arc<Listener>, worker: usize) -> Option<Prepared> {
    let Accepted { stream, peer, local, _held, place } = accepted;
    let mut conn = Conn {
        began: crate::clock::now(),
        began_wall: crate::clock::wall(),
        local: local.or_else(|| stream.local_addr()).unwrap_or_else(|| PeerAddr::Pipe(Arc::default())),
        peer,
        detected: Detected { transport_protocol: "raw_buffer", ..Detected::default() },
    };
    let stream = conn.inspect(stream, &listener).await?;
    let (listener, stream, _place) = match conn.meant_for(&listener) {
        None => (listener, stream, place),
        Some(meant) => {
            let place = place.map(|p| p.hand_over(&meant));
            // It looks for itself, and does not hand on.
            let stream = conn.inspect(stream, &meant).await?;
            (meant, stream, place)
        }
    };
    let Entered { stream, info, chain, body, passed } = conn.enter(stream, &listener, worker).await?;
    Some(Prepared { stream, info, listener, chain, body, passed, _held, _place })
}

/// A connection that has its filter chain and its transport.
struct Entered {
    stream: Stream,
    info: Arc<ConnInfo>,
    chain: Arc<Chain>,
    body: Arc<Body>,
    passed: Passed,
}

/// What is known of a connection before that.
struct Conn {
    began: Instant,
    began_wall: SystemTime,
    /// As the socket has them.
    peer: PeerAddr,
    local: PeerAddr,
    detected: Detected,
}

impl Conn {
    /// Listener filters. `None`: it was closed, and all is booked.
    async fn inspect(&mut self, stream: Stream, listener: &Listener) -> Option<Stream> {
        if listener.filters.is_empty() {
            return Some(stream);
        }
        match listener.filters.run(stream).await {
            Ok((stream, detected)) => {
                // What an earlier listener restored stays.
                let before = std::mem::replace(&mut self.detected, detected);
                self.detected.local = self.detected.local.take().or(before.local);
                self.detected.remote = self.detected.remote.take().or(before.remote);
                Some(stream)
            }
            Err(error) => {
                tracing::debug!(listener = %listener.config.name, %error, "connection closed");
                if !listener.access_logs.is_empty() {
                    let info = self.info(listener, Arc::default(), None, None);
                    let _facts = log(listener, info, ResponseFlags::NONE, None, None);
                }
                None
            }
        }
    }

    /// The listener of its original destination, where `listener` hands on and there is another.
    fn meant_for(&self, listener: &Arc<Listener>) -> Option<Arc<Listener>> {
        let found = listener.directory.as_ref()?.find(self.detected.local.as_ref()?)?;
        (!Arc::ptr_eq(&found, listener)).then_some(found)
    }

    /// The choice of the filter chain, network filters, TLS. `None`: it was closed, and all is booked.
    async fn enter(mut self, stream: Stream, listener: &Listener, worker: usize) -> Option<Entered> {
        let Some(chain) = listener.chain_for(&self.facts()) else {
            self.unmatched(stream, listener);
            return None;
        };
        listener.stats.opened(worker);
        let Some(body) = chain.body() else {
            listener.stats.network_extension_config_missing.inc();
            stream.reset_if_unread();
            drop(stream);
            closed(listener, chain, None, self.began, worker);
            self.failed(listener, chain, None, None, None);
            return None;
        };
        chain.opened(&body);
        let passed = match self.pass(&body) {
            Ok(passed) => passed,
            Err((place, delay)) => {
                stream.reset_if_unread();
                if let Some(delay) = delay {
                    // Nothing is read meanwhile: what the client sends stays with the system, and is bounded there.
                    tokio::time::sleep(delay).await;
                }
                drop(stream);
                drop(place);
                closed(listener, chain, Some(&body), self.began, worker);
                self.failed(listener, chain, Some(&body), None, Some("over_connection_limit"));
                return None;
            }
        };
        match secure(stream, listener, chain, &self.peer).await {
            Ok((stream, tls)) => {
                let info = self.info(listener, chain.name.clone(), tls, None);
                if !body.limits.is_empty() && !Box::pin(rate_limit::admit(&body.limits, &info)).await {
                    take_unread(stream);
                    closed(listener, chain, Some(&body), self.began, worker);
                    refused(listener, &body, info);
                    return None;
                }
                let stream = guard::guard(stream, &body.guards, &info);
                Some(Entered { stream, info, chain: chain.clone(), body, passed })
            }
            Err(failed) => {
                closed(listener, chain, Some(&body), self.began, worker);
                let (transport, local) = match failed {
                    HandshakeFailed::Tls(reason) => (Some(reason), None),
                    HandshakeFailed::TooSlow => (None, Some("transport_socket_timeout")),
                };
                self.failed(listener, chain, Some(&body), transport, local);
                None
            }
        }
    }

    fn facts(&self) -> ConnFacts<'_> {
        ConnFacts {
            destination: self.detected.local.as_ref().unwrap_or(&self.local),
            server_name: &self.detected.sni,
            transport_protocol: self.detected.transport_protocol,
            application_protocols: &self.detected.application_protocols,
            direct_source: &self.peer,
            source: self.detected.remote.as_ref().unwrap_or(&self.peer),
        }
    }

    /// What network filters say of a new connection, before any byte of it is looked at.
    fn pass(&self, body: &Body) -> Result<Passed, (Place, Option<Duration>)> {
        let mut passed = Passed::default();
        for gate in &body.gates {
            match gate {
                // Only what the TLS inspector saw: the handshake is still to come, here as in Envoy.
                Gate::SniCluster if self.detected.sni.is_empty() => {}
                Gate::SniCluster => passed.cluster = Some(self.detected.sni.clone()),
                Gate::ConnectionLimit(limit) => match limit.enter() {
                    Verdict::Admitted(place) => passed.places.extend(place),
                    Verdict::Refused(place, delay) => return Err((place, delay)),
                },
            }
        }
        Ok(passed)
    }

    /// The connection's facts. Takes what the listener filters found: called once.
    fn info(
        &mut self,
        listener: &Listener,
        chain: Arc<str>,
        tls: Option<Arc<TlsInfo>>,
        failure: Option<Cow<'static, str>>,
    ) -> Arc<ConnInfo> {
        let detected = std::mem::take(&mut self.detected);
        let failure = failure.or(detected.transport_failure.map(Cow::Owned));
        Arc::new(ConnInfo {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            start: self.began,
            start_wall: self.began_wall,
            remote: detected.remote.unwrap_or_else(|| self.peer.clone()),
            direct_remote: self.peer.clone(),
            local_restored: detected.local.is_some(),
            local: detected.local.unwrap_or_else(|| self.local.clone()),
            direct_local: self.local.clone(),
            listener: listener.info.clone(),
            filter_chain: chain,
            transport_protocol: detected.transport_protocol,
            // What the handshake had is in `tls`; Envoy's requested server name is what the inspector saw.
            sni: detected.sni,
            tls,
            proxy_tlvs: detected.proxy_tlvs,
            proxy_protocol: detected.proxy_protocol,
            metadata: detected.metadata,
            rbac: std::sync::OnceLock::new(),
            authz: std::sync::OnceLock::new(),
            refused: std::sync::OnceLock::new(),
            termination_details: parking_lot::Mutex::default(),
            local_close: parking_lot::Mutex::default(),
            transport_failure: parking_lot::Mutex::new(failure),
            handshake: None,
        })
    }

    /// No filter chain takes it.
    fn unmatched(mut self, stream: Stream, listener: &Listener) {
        listener.stats.no_filter_chain_match.inc();
        let plaintext = self.detected.transport_protocol == "raw_buffer";
        let reason = if plaintext && listener.config.filter_chains.iter().any(is_tls) {
            "it is plaintext, and no filter chain takes that from here; there are some for TLS"
        } else {
            "no filter chain takes it"
        };
        refusal::tell(&listener.config.name, &self.peer, reason);
        stream.reset_if_unread();
        drop(stream);
        if !listener.access_logs.is_empty() {
            let info = self.info(listener, Arc::default(), None, None);
            let _facts = log(listener, info, ResponseFlags::NO_ROUTE_FOUND, Some("filter_chain_not_found"), None);
        }
    }

    /// It got its filter chain and no further.
    fn failed(
        mut self,
        listener: &Listener,
        chain: &Chain,
        body: Option<&Body>,
        transport: Option<Cow<'static, str>>,
        closed: Option<&'static str>,
    ) {
        let info = self.info(listener, chain.name.clone(), None, transport);
        *info.local_close.lock() = closed.map(Cow::Borrowed);
        let proxy = body.and_then(|body| if let End::Tcp(proxy) = &body.end { Some(proxy) } else { None });
        let upstream = proxy.is_some().then_some(CloseType::Normal);
        let facts = log(listener, info, ResponseFlags::NONE, None, upstream);
        if let Some(proxy) = proxy {
            proxy.log_end(&facts);
        }
    }
}

/// Why there is no TLS.
enum HandshakeFailed {
    /// For `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
    Tls(Cow<'static, str>),
    /// Its time was up.
    TooSlow,
}

fn is_tls(chain: &config::FilterChain) -> bool {
    matches!(chain.transport, config::DownstreamTransport::Tls(_))
}

/// The TLS handshake, where the chain has one.
async fn secure(
    stream: Stream,
    listener: &Listener,
    chain: &Chain,
    peer: &PeerAddr,
) -> Result<(Stream, Option<Arc<TlsInfo>>), HandshakeFailed> {
    let Some(tls) = &chain.tls else { return Ok((stream, None)) };
    let limit = chain.handshake_timeout.unwrap_or(HANDSHAKE);
    match tokio::time::timeout(limit, Box::pin(tls.accept(stream))).await {
        Ok(Ok((stream, info))) => Ok((stream, Some(info))),
        Ok(Err(error)) => {
            refusal::tell(&listener.config.name, peer, format_args!("TLS handshake failed: {error}"));
            Err(HandshakeFailed::Tls(error.reason))
        }
        Err(_) => {
            listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
            Err(HandshakeFailed::TooSlow)
        }
    }
}

/// Books the end of a connection that had a filter chain.
fn closed(listener: &Listener, chain: &Chain, body: Option<&Body>, began: Instant, worker: usize) {
    let length_ms = began.elapsed().as_millis() as u64;
    listener.stats.closed(worker);
    listener.stats.downstream_cx_length_ms.record(length_ms);
    if let Some(body) = body {
        chain.closed(body, length_ms);
    }
}

fn stream_info(info: Arc<ConnInfo>) -> Box<StreamInfo> {
    Box::new(StreamInfo { start: info.start, start_wall: info.start_wall, ..StreamInfo::new(info, 0, None) })
}

/// Closes a connection whose client may have said something already: what is unread would make it a reset.
fn take_unread(mut stream: Stream) {
    /// What a client says in the time of a question, as a rule.
    const ROUNDS: usize = 16;
    let mut said = [0; 4096];
    for _ in 0..ROUNDS {
        if !matches!(stream.read(&mut said).now_or_never(), Some(Ok(n)) if n > 0) {
            return;
        }
    }
}

/// Logs a connection that a network filter refused before it was served; as in Envoy the log has no reason.
fn refused(listener: &Listener, body: &Body, info: Arc<ConnInfo>) {
    let proxy = if let End::Tcp(proxy) = &body.end { Some(proxy) } else { None };
    let facts = log(listener, info, ResponseFlags::NONE, None, proxy.map(|_| CloseType::Normal));
    if let Some(proxy) = proxy {
        proxy.log_end(&facts);
    }
}

/// A line for a connection that was not served.
fn log(
    listener: &Listener,
    info: Arc<ConnInfo>,
    flags: ResponseFlags,
    details: Option<&'static str>,
    upstream: Option<CloseType>,
) -> Box<StreamInfo> {
    let mut facts = stream_info(info);
    facts.upstream_close = upstream;
    facts.times.end = Some(crate::clock::now());
    facts.flags.set(flags);
    facts.details = details.map(Cow::Borrowed);
    listener.access_logs.log(&LogContext::new(&facts));
    facts
}

/// What gates give a connection that may go on.
#[derive(Default)]
struct Passed {
    /// The cluster to use, in place of the one configured.
    cluster: Option<Arc<str>>,
    /// Its places at connection limits, kept until it ends.
    places: Vec<Place>,
}

async fn direct(mut stream: Stream, data: &[u8]) {
    let _ = stream.write_all(data).await;
    let _ = stream.shutdown().await;
}

/// Sends back what comes, and says how much that was.
async fn echo(mut stream: Stream) -> u64 {
    let (mut buffer, mut total) = (BytesMut::new(), 0);
    loop {
        buffer.reserve(ECHO);
        match stream.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => total += n as u64,
            _ => break,
        }
        let written = async { stream.write_all_buf(&mut buffer).await.and(stream.flush().await) };
        if written.await.is_err() {
            break;
        }
    }
    let _ = stream.shutdown().await;
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs besides its socket and its codec, which is boxed: the future of its task.
    #[test]
    fn is_small() {
        fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let own = size(serve);
        assert!(own <= 512, "{own}");
    }
}
