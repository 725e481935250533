//! One request: everything that lives as long as it does.

use std::sync::Arc;

use http::Method;

use super::body::BodyError;
use super::connection::{EndReason, HttpConn};
use super::filter::Chain;
use super::head::{RequestHead, ResponseHead, Scheme};
use super::limits::{Expiry, Shared};
use super::route::{Matched, VirtualCluster};
use crate::access_log::{LogContext, LogType};
use crate::http::HeaderMap;
use crate::stream_info::{Protocol, ResponseFlags, StreamInfo};
use crate::upstream::attempt::Books;

/// A request's context.
pub struct StreamCtx {
    /// Its connection.
    pub conn: Arc<HttpConn>,
    /// Facts.
    pub info: StreamInfo,
    /// The request's head as it goes on (and is logged).
    pub request: RequestHead,
    /// The answer's head, kept where a log needs it.
    pub response: Option<ResponseHead>,
    /// The answer's trailers.
    pub trailers: Option<HeaderMap>,
    /// The route, once found.
    pub route: Option<Matched>,
    /// The filters it goes through, where any of them is discovered.
    live_chain: Option<Arc<Chain>>,
    /// The client is internal (`x-envoy-internal`).
    pub internal: bool,
    /// Uniformly random, one per request: all of its random choices derive from it.
    pub random: u64,
    /// The `grpc_web` filter took it: whether the answer is base64.
    pub grpc_web: Option<bool>,
    /// What its two sides have told of themselves.
    pub peers: super::filter::Peers,
    /// Messages of gRPC, by the place of the filter that counts them.
    pub messages: Vec<(usize, Arc<crate::telemetry::Messages>)>,
    /// Faults it was given.
    pub faults: Option<Box<super::filter::ActiveFaults>>,
    /// What filters add to its answer.
    pub edits: Vec<super::filter::Edits>,
    /// Its attempt's place among the requests under way.
    pub books: Option<Books>,
    /// Time limits, shared with the codec.
    pub limits: Arc<Shared>,
    /// Body of a local reply, for logs.
    pub local_body: String,
    /// The virtual cluster it belongs to.
    pub virtual_cluster: Option<Arc<VirtualCluster>>,
    /// It is a tunnel that was opened.
    tunnel: bool,
    has_request: bool,
    /// The books are closed.
    closed: bool,
}

impl StreamCtx {
    /// The context of a request.
    pub fn new(conn: Arc<HttpConn>, request: RequestHead) -> Self {
        Self::count(&conn, request.protocol);
        Self::make(conn, request, true)
    }

    /// The context of an answer to something that is no request.
    pub fn without_request(conn: Arc<HttpConn>, protocol: Protocol) -> Self {
        Self::count(&conn, protocol);
        let request = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: None,
            path: String::new(),
            headers: HeaderMap::new(),
            protocol,
            upgrade: None,
            spelling: None,
        };
        Self::make(conn, request, false)
    }

    fn count(conn: &HttpConn, protocol: Protocol) {
        let stats = &conn.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match protocol {
            Protocol::Http2 => stats.downstream_rq_http2_total.inc(),
            _ => stats.downstream_rq_http1_total.inc(),
        }
    }

    fn make(conn: Arc<HttpConn>, request: RequestHead, has_request: bool) -> Self {
        let random = crate::worker::random();
        StreamCtx {
            info: StreamInfo::new(conn.info.clone(), random, Some(request.protocol)),
            request,
            response: None,
            trailers: None,
            route: None,
            live_chain: conn.manager.chain_now(),
            internal: false,
            random,
            grpc_web: None,
            peers: Default::default(),
            messages: Vec::new(),
            faults: None,
            edits: Vec::new(),
            books: None,
            limits: Arc::default(),
            local_body: String::new(),
            virtual_cluster: None,
            tunnel: false,
            has_request,
            closed: false,
            conn,
        }
    }

    /// The filters it goes through.
    pub fn chain(&self) -> &Chain {
        self.conn.manager.chain_of(&self.live_chain)
    }

    /// What [`Manager::chain_of`](super::manager::Manager::chain_of) makes of it stays while the request changes.
    pub(super) fn live_chain(&self) -> Option<Arc<Chain>> {
        self.live_chain.clone()
    }

    /// Finds the virtual cluster of a request that is about to be forwarded.
    pub fn choose_virtual_cluster(&mut self) {
        self.virtual_cluster = self.route.as_ref().and_then(|m| m.entry.vhost.virtual_cluster(self));
    }

    /// An upgrade or CONNECT was answered: its bytes flow.
    pub fn tunnel_opened(&mut self) {
        let manager = self.conn.manager.clone();
        self.tunnel = true;
        manager.stats.downstream_cx_upgrades_total.inc();
        manager.stats.downstream_cx_upgrades_active.inc();
        if manager.config.access_log_on_tunnel {
            manager.access_logs.log(&self.log_context(LogType::DownstreamTunnelSuccessfullyEstablished));
        }
    }

    /// Counts what was forwarded for its virtual cluster and its route.
    fn count_route(&self, took: std::time::Duration) {
        let route = self.route.as_ref().and_then(|m| m.entry.stats.as_ref());
        for stats in route.into_iter().chain(self.virtual_cluster.as_ref().map(|v| &v.stats)) {
            stats.record(&self.info, took);
        }
    }

    /// What log formats and header formatters read.
    pub fn log_context(&self, log_type: LogType) -> LogContext<'_> {
        LogContext {
            request: self.has_request.then_some(&self.request),
            response: self.response.as_ref(),
            trailers: self.trailers.as_ref(),
            local_reply_body: &self.local_body,
            log_type,
            virtual_cluster: self.virtual_cluster.as_ref().map(|v| &*v.name),
            route_metadata: self.route.as_ref().map(|m| &m.entry.metadata),
            ..LogContext::new(&self.info)
        }
    }

    /// The cluster the route would forward to.
    pub fn routed_cluster(&self) -> Option<Arc<crate::cluster::Cluster>> {
        let route = self.route.as_ref()?;
        match &route.entry.kind {
            super::route::Kind::Forward(f) => f.target(route.choice)?.resolve(self, &f.clusters),
            _ => None,
        }
    }

    /// The cluster it was sent to, or would be.
    pub fn cluster(&self) -> Option<Arc<crate::cluster::Cluster>> {
        self.books.as_ref().map(|books| books.cluster.clone()).or_else(|| self.routed_cluster())
    }

    /// All clusters, where the route forwards.
    pub fn forward_clusters(&self) -> Option<Arc<crate::cluster::Clusters>> {
        match &self.route.as_ref()?.entry.kind {
            super::route::Kind::Forward(f) => Some(f.clusters.clone()),
            _ => None,
        }
    }

    /// Closes the books of a stream that we reset, and why.
    pub fn refused(mut self: Box<Self>, details: &'static str) {
        self.conn.manager.stats.downstream_rq_tx_reset.inc();
        self.info.details = Some(details.into());
        self.finish(EndReason::Complete);
    }

    /// Closes the books: stats and logs.
    pub fn finish(mut self: Box<Self>, reason: EndReason) {
        self.close(reason);
    }

    fn close(&mut self, reason: EndReason) {
        self.closed = true;
        let now = crate::clock::now();
        self.info.times.end = Some(now);
        self.info.bytes.received = self.limits.received();
        self.info.times.last_downstream_tx.get_or_insert(now);
        let conn = self.conn.clone();
        let stats = &conn.manager.stats;
        match reason {
            EndReason::Complete => {}
            EndReason::DownstreamClosed => {
                self.info.flags.set(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                self.info.details = Some("downstream_remote_disconnect".into());
                stats.downstream_rq_rx_reset.inc();
                stats.downstream_cx_destroy_remote_active_rq.inc();
                stats.downstream_cx_destroy_active_rq.inc();
            }
            EndReason::DownstreamReset(_) => {
                self.info.flags.set(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
                self.info.details = Some("downstream_remote_reset".into());
                stats.downstream_rq_rx_reset.inc();
            }
            EndReason::Expired(limit) => {
                limit.record(self);
                if limit != Expiry::Flush {
                    self.info.details = Some(limit.details().into());
                }
            }
            EndReason::Upstream(BodyError::IdleTimeout) => {
                self.info.flags.set(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
                self.info.details = Some("upstream_per_try_idle_timeout".into());
                if let Some(b) = &self.books {
                    b.idle();
                }
            }
            EndReason::Upstream(BodyError::Timeout) => {
                self.info.flags.set(ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED);
                self.info.details = Some("upstream_max_stream_duration_reached".into());
                if let Some(b) = &self.books {
                    b.cluster.stats.upstream_rq_max_duration_reached.inc();
                }
            }
            EndReason::Upstream(e) => {
                if let Some(b) = &self.books {
                    b.cluster.observe(&b.host, crate::cluster::outlier::Outcome::LocalFailure);
                }
                let h1 = self.info.upstream.protocol != Some(Protocol::Http2);
                let (flag, details) = match e {
                    BodyError::GoneAway | BodyError::Reset(crate::http::h2::Reason::REFUSED_STREAM) => (
                        ResponseFlags::UPSTREAM_REMOTE_RESET,
                        "upstream_reset_after_response_started{remote_refused_stream_reset}",
                    ),
                    BodyError::Reset(_) => {
                        (ResponseFlags::UPSTREAM_REMOTE_RESET, "upstream_reset_after_response_started{remote_reset}")
                    }
                    // To an HTTP/1 codec a close in the middle of a body is a violation of its framing.
                    BodyError::Closed if !h1 => (
                        ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                        "upstream_reset_after_response_started{connection_termination}",
                    ),
                    _ => (
                        ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
                        "upstream_reset_after_response_started{protocol_error}",
                    ),
                };
                self.info.flags.set(flag);
                self.info.details = Some(details.into());
            }
        }
        // Before the books are given back: they know the cluster.
        if self.has_request && self.chain().is_counting() {
            let cluster = self.cluster();
            self.chain().ended(self, cluster.as_deref());
        }
        if let Some(books) = self.books.take()
            && reason == EndReason::Complete
        {
            books.complete(self.internal);
            if let Some(t) = &books.cluster.tracked {
                let since = self.info.times.last_downstream_rx.unwrap_or(self.info.start);
                t.request(now.duration_since(since), books.timeouts[0]);
                t.bodies(self.info.bytes.received, self.info.bytes.sent);
            }
        }
        if self.info.response_code != 0 {
            conn.manager.answered(self.info.response_code);
        }
        if self.info.upstream.attempts > 0 {
            self.count_route(now.duration_since(self.info.start));
        }
        stats.downstream_rq_time.record(now.duration_since(self.info.start).as_millis() as u64);
        let logs = &self.conn.manager.access_logs;
        if !logs.is_empty() {
            logs.log(&self.log_context(LogType::DownstreamEnd));
        }
    }
}

impl Drop for StreamCtx {
    fn drop(&mut self) {
        if !self.closed {
            // Given up before there was an answer: the client left, or reset the stream.
            self.close(match self.limits.reset() {
                Some(reason) => EndReason::DownstreamReset(reason),
                None => EndReason::DownstreamClosed,
            });
        }
        if self.tunnel {
            self.conn.manager.stats.downstream_cx_upgrades_active.dec();
        }
        self.conn.manager.stats.downstream_rq_active.dec();
    }
}
