//! The HTTP connection manager: compiled configuration, stats, and what it does to every request and answer around the route:
//! client address, request id, forwarding headers, paths, and the headers of an answer.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode};

use super::codec_stats::{CodecStats, Http2Stats};
use super::connection::Reply;
use super::filter::Chain;
use super::head::{ResponseHead, Scheme};
use super::headers::Mutations;
use super::local_reply;
use super::normalize::{self, PathOutcome};
use super::original_ip;
use super::proxy_status;
use super::reply_config::ReplyConfig;
use super::route::{RouteTable, Routes};
use super::stream::StreamCtx;
use super::xfcc;
use crate::access_log::AccessLogs;
use crate::config::{self, ConfigError, ServerHeader, StripPort};
use crate::http::HeaderMap;
use crate::stats::{CodeStats, Counter, Gauge, Histogram, Scope, Unit};
use crate::stream_info::PeerAddr;
use crate::xds::UpdateStats;

macro_rules! http_stats {
    ($($name:ident)*; gauges: $($gauge:ident)*) => {
        /// `http.<stat_prefix>.*`, under Envoy's names.
        #[allow(missing_docs, reason = "each is the Envoy stat it is named for")]
        pub struct HttpStats {
            $(pub $name: Counter,)*
            $(pub $gauge: Gauge,)*
            pub downstream_rq_time: Histogram,
            pub downstream_cx_length_ms: Histogram,
            pub codes: CodeStats,
            /// `http1.*`, of the whole process.
            pub http1: CodecStats,
            /// `http2.*`, of the whole process.
            pub http2: Http2Stats,
            /// The scope, for filters' stats.
            pub scope: Scope,
        }
        impl HttpStats {
            fn new(scope: Scope, root: &Scope) -> Self {
                HttpStats {
                    http1: CodecStats::new(&root.scope("http1")),
                    http2: Http2Stats::new(&root.scope("http2")),
                    $($name: scope.counter(stringify!($name)),)*
                    $($gauge: scope.gauge(stringify!($gauge)),)*
                    downstream_rq_time: scope.histogram("downstream_rq_time", Unit::Milliseconds),
                    downstream_cx_length_ms: scope.histogram("downstream_cx_length_ms", Unit::Milliseconds),
                    codes: CodeStats::classes(&scope, "downstream_rq_"),
                    scope,
                }
            }
        }
    };
}

http_stats! {
    downstream_cx_total downstream_cx_http1_total downstream_cx_http2_total downstream_cx_ssl_total downstream_cx_destroy
    downstream_cx_destroy_remote downstream_cx_destroy_local downstream_cx_destroy_active_rq
    downstream_cx_destroy_remote_active_rq downstream_cx_destroy_local_active_rq downstream_cx_drain_close
    downstream_cx_idle_timeout downstream_cx_max_duration_reached downstream_cx_max_requests_reached
    downstream_cx_overload_disable_keepalive downstream_cx_protocol_error downstream_cx_upgrades_total
    downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total downstream_cx_delayed_close_timeout
    downstream_flow_control_paused_reading_total downstream_flow_control_resumed_reading_total
    downstream_rq_total downstream_rq_http1_total downstream_rq_http2_total
    downstream_rq_failed_path_normalization downstream_rq_header_timeout downstream_rq_idle_timeout
    downstream_rq_max_duration_reached downstream_rq_non_relative_path downstream_rq_overload_close
    downstream_rq_redirected_with_normalized_path downstream_rq_rejected_via_ip_detection downstream_rq_response_before_rq_complete
    downstream_rq_rx_reset downstream_rq_too_large downstream_rq_too_many_premature_resets downstream_rq_timeout
    downstream_rq_tx_reset downstream_rq_ws_on_non_ws_route rs_too_large
    no_route no_cluster rq_direct_response rq_redirect rq_reset_after_downstream_response_started rq_retry_skipped_request_not_complete
    rq_total passthrough_internal_redirect_bad_location;
    gauges: downstream_cx_active downstream_cx_http1_active downstream_cx_http2_active downstream_cx_ssl_active
    downstream_cx_upgrades_active downstream_rq_active
}

impl HttpStats {
    /// A connection was closed, by the client or by us.
    pub fn destroyed(&self, by_client: bool) {
        if by_client {
            self.downstream_cx_destroy_remote.inc();
        } else {
            self.downstream_cx_destroy_local.inc();
        }
    }
}

/// A connection manager.
pub struct Manager {
    /// Validated settings.
    pub config: config::HttpConnectionManager,
    /// Stats.
    pub stats: HttpStats,
    /// Routes.
    pub routes: Routes,
    /// `http.<stat_prefix>.rds.<name>.*`, where routes are discovered.
    pub rds_stats: Option<UpdateStats>,
    /// `http.<stat_prefix>.rds.vhds.<name>.*`, once virtual hosts are discovered.
    vhds_stats: OnceLock<UpdateStats>,
    /// Filters; those that are discovered are not in it.
    pub chain: Chain,
    /// Filters with those that are discovered, where any is.
    live: Option<arc_swap::ArcSwap<Chain>>,
    /// Access logs.
    pub access_logs: AccessLogs,
    /// What becomes of local replies.
    pub replies: ReplyConfig,
    /// `listener.<address>.http.<stat_prefix>.*`.
    of_listener: OnceLock<CodeStats>,
    /// `early_header_mutation_extensions`.
    early: Mutations,
    server_name: HeaderValue,
    via: Option<HeaderValue>,
}

impl Manager {
    /// Compiles a connection manager.
    ///
    /// # Errors
    /// What cannot be compiled, with its path below the connection manager.
    pub fn new(config: config::HttpConnectionManager, parts: &crate::app::Parts) -> Result<Arc<Self>, ConfigError> {
        let scope = parts.stats.root().tagged("http", "envoy.http_conn_manager_prefix", &config.stat_prefix);
        let value = |text: &str, field: &str| {
            HeaderValue::from_str(text).map_err(|_| ConfigError::at(field, format!("invalid header value {text:?}")))
        };
        let chain = Chain::new(&config.filters, &scope, parts)?;
        let table = RouteTable::new(&config.routes, &chain, parts)?;
        let routes = match &config.rds {
            None => Routes::Fixed(Box::new(table)),
            Some(_) => Routes::Discovered(arc_swap::ArcSwap::from_pointee(table)),
        };
        let discovered = super::filter::of(&config).next().is_some();
        let manager = Arc::new(Manager {
            routes,
            live: discovered.then(|| arc_swap::ArcSwap::from_pointee(chain.clone())),
            rds_stats: config.rds.as_ref().map(|rds| UpdateStats::of_routes(&scope.scope("rds").scope(&rds.name))),
            chain,
            access_logs: parts.access_logs(&config.access_log)?,
            replies: ReplyConfig::new(&config.local_reply, &parts.runtime)?,
            server_name: value(
                if config.server_name.is_empty() { "envoy" } else { &config.server_name },
                "server_name",
            )?,
            via: (!config.via.is_empty()).then(|| value(&config.via, "via")).transpose()?,
            stats: HttpStats::new(scope, &parts.stats.root()),
            of_listener: OnceLock::new(),
            vhds_stats: OnceLock::new(),
            early: Mutations::new(&config.early_header_mutations)
                .map_err(|e| below("early_header_mutation_extensions", e))?,
            config,
        });
        if let Some(rds) = &manager.config.rds {
            manager.rds_stats.iter().for_each(UpdateStats::asked);
            parts.routes.register(rds, &manager, parts)?;
        }
        parts.filters.register(&manager, parts);
        Ok(manager)
    }

    /// Takes discovered routes into use.
    pub(super) fn set_routes(&self, table: RouteTable) {
        if let Routes::Discovered(current) = &self.routes {
            current.store(Arc::new(table));
        }
    }

    /// Counts of the discovered virtual hosts of routes `name`.
    pub fn vhds_stats(&self, name: &str) -> &UpdateStats {
        self.vhds_stats.get_or_init(|| UpdateStats::of_hosts(&self.stats.scope.scope("rds").scope("vhds").scope(name)))
    }

    /// The filters of this moment, where any of them is discovered.
    pub(super) fn chain_now(&self) -> Option<Arc<Chain>> {
        self.live.as_ref().map(arc_swap::ArcSwap::load_full)
    }

    /// The filters of a request that began when `live` were those of the moment.
    pub(super) fn chain_of<'a>(&'a self, live: &'a Option<Arc<Chain>>) -> &'a Chain {
        live.as_deref().unwrap_or(&self.chain)
    }

    /// Takes discovered filters into use.
    pub(super) fn set_chain(&self, chain: Chain) {
        if let Some(live) = &self.live {
            live.store(Arc::new(chain));
        }
    }

    /// Counts answers for a listener too, below its scope.
    pub fn count_for(&self, listener: &Scope) {
        let scope = listener.tagged("http", "envoy.http_conn_manager_prefix", &self.config.stat_prefix);
        self.of_listener.get_or_init(|| CodeStats::classes(&scope, "downstream_rq_"));
    }

    /// Counts an answer.
    pub(super) fn answered(&self, status: u16) {
        self.stats.codes.record(status);
        if let Some(codes) = self.of_listener.get() {
            codes.record(status);
        }
    }

    /// Whether `ip` is internal.
    fn is_internal(&self, address: &PeerAddr) -> bool {
        match address {
            PeerAddr::Ip(a) => self.config.internal_addresses.ranges.iter().any(|r| r.contains(a.ip())),
            PeerAddr::Pipe(_) => self.config.internal_addresses.unix_sockets,
        }
    }
}

fn below(parent: &str, e: ConfigError) -> ConfigError {
    ConfigError { field_path: format!("{parent}.{}", e.field_path), ..e }
}

/// Prepares a request: rejects what is not acceptable, and sets the headers that say where it came from.
///
/// # Errors
/// The answer, where the request goes no further.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub fn prepare(mut ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    let manager = ctx.conn.manager.clone();
    let m = &manager.config;
    manager.early.apply_request(&mut ctx);
    if ctx.request.authority.is_none() && ctx.request.protocol != crate::stream_info::Protocol::Http10 {
        return Err(local_reply::make(ctx, StatusCode::BAD_REQUEST, "", "missing_host_header"));
    }
    if ctx.request.authority.is_none() && !m.http1.default_host_for_http_10.is_empty() {
        ctx.request.authority = HeaderValue::from_str(&m.http1.default_host_for_http_10).ok();
    }
    if ctx.request.method != Method::CONNECT && !ctx.request.path.starts_with('/') {
        manager.stats.downstream_rq_non_relative_path.inc();
        return Err(local_reply::make(ctx, StatusCode::NOT_FOUND, "", "absolute_path_rejected"));
    }
    if ctx.request.path.contains('#') {
        return Err(local_reply::make(ctx, StatusCode::BAD_REQUEST, "", "path_normalization_failed"));
    }
    strip_host(&mut ctx);
    match normalize::path(&ctx.request.path, m) {
        PathOutcome::Same => {}
        PathOutcome::Changed(p) => ctx.request.path = p,
        PathOutcome::Redirect(p) => {
            manager.stats.downstream_rq_redirected_with_normalized_path.inc();
            let location = HeaderValue::from_str(&p).ok();
            return Err(local_reply::with_headers(
                ctx,
                StatusCode::TEMPORARY_REDIRECT,
                bytes::Bytes::new(),
                "path_normalization_failed",
                |h| {
                    if let Some(l) = location {
                        h.insert(header::LOCATION, l);
                    }
                },
            ));
        }
        PathOutcome::Reject => {
            manager.stats.downstream_rq_failed_path_normalization.inc();
            return Err(local_reply::make(ctx, StatusCode::BAD_REQUEST, "", "path_normalization_failed"));
        }
    }
    if let Some(status) = client_address(&mut ctx) {
        manager.stats.downstream_rq_rejected_via_ip_detection.inc();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        return Err(local_reply::make(ctx, status, "", "rejected_because_detection_failed"));
    }
    envoy_headers(&mut ctx);
    request_id(&mut ctx);
    let tls = ctx.conn.info.tls.as_deref();
    xfcc::apply(&mut ctx.request.headers, m.forward_client_cert, &m.client_cert_details, tls);
    if let Some(via) = &manager.via {
        append(&mut ctx.request.headers, header::VIA, via.as_bytes());
    }
    if m.add_user_agent && !ctx.request.headers.contains_key(header::USER_AGENT) {
        // Envoy names the cluster it was started with; without one there is nothing to say.
        ctx.request.headers.insert(header::USER_AGENT, HeaderValue::from_static("weft"));
    }
    Ok(ctx)
}

fn strip_host(ctx: &mut StreamCtx) {
    let m = &ctx.conn.manager.config;
    let Some(host) = ctx.request.authority.as_ref().and_then(|a| a.to_str().ok()) else { return };
    let mut new = host;
    if m.strip_trailing_host_dot {
        let (name, port) = split_port(new);
        if let Some(n) = name.strip_suffix('.') {
            let joined = port.map_or_else(|| n.to_owned(), |p| format!("{n}:{p}"));
            ctx.request.authority = HeaderValue::from_str(&joined).ok();
            return strip_host_port(ctx);
        }
    }
    if let (name, Some(port)) = split_port(new) {
        let strip = match m.strip_port {
            StripPort::No => false,
            StripPort::Any => true,
            StripPort::Matching => ctx.conn.info.local.port().is_some_and(|p| p.to_string() == port),
        };
        if strip && ctx.request.method != Method::CONNECT {
            new = name;
        }
    }
    if new.len() != host.len() {
        ctx.request.authority = HeaderValue::from_str(new).ok();
    }
}

fn strip_host_port(ctx: &mut StreamCtx) {
    // The dot is gone, so this does not come back here.
    strip_host(ctx);
}

/// Splits `host:port`; brackets of IPv6 stay with the host.
pub fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

const XFF: HeaderName = HeaderName::from_static("x-forwarded-for");
const XFP: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Finds the client's address and maintains X-Forwarded-For and -Proto. `Some`: the status to refuse the request with.
fn client_address(ctx: &mut StreamCtx) -> Option<u16> {
    let manager = ctx.conn.manager.clone();
    let m = &manager.config;
    let direct = ctx.conn.info.remote.clone();
    let secure = ctx.conn.info.tls.is_some();
    let hops = m.xff_num_trusted_hops as usize;
    let mut trusted = false;
    let mut keep_proto = true;
    if m.use_remote_address {
        trusted = !ctx.request.headers.contains_key(XFF);
        if hops > 0
            && let Some(ip) = original_ip::by_hops(&ctx.request.headers, hops - 1).ip
        {
            ctx.info.remote = PeerAddr::Ip(SocketAddr::new(ip, 0));
        }
        if !m.skip_xff_append
            && let Some(ip) = direct.ip()
        {
            // A neighbour on this machine is told of by the machine's own address.
            let ip = if ip.to_canonical().is_loopback() { original_ip::local_address() } else { ip };
            append(&mut ctx.request.headers, XFF, ip.to_string().as_bytes());
        }
        keep_proto = hops > 0;
    } else if m.original_ip_detection.is_empty() {
        let found = original_ip::by_hops(&ctx.request.headers, hops);
        trusted = found.trusted;
        if let Some(ip) = found.ip {
            ctx.info.remote = PeerAddr::Ip(SocketAddr::new(ip, 0));
        }
    }
    for extension in &m.original_ip_detection {
        let found = original_ip::detect(extension, &ctx.request.headers, direct.ip());
        if let Some(status) = found.reject {
            return Some(status);
        }
        if let Some(ip) = direct.ip().filter(|_| found.append) {
            append(&mut ctx.request.headers, XFF, ip.to_string().as_bytes());
        }
        if let Some(ip) = found.ip {
            ctx.info.remote = PeerAddr::Ip(SocketAddr::new(ip, 0));
            trusted = found.trusted;
            break;
        }
    }
    ctx.internal = trusted && manager.is_internal(&ctx.info.remote);
    if !(keep_proto && ctx.request.headers.contains_key(XFP)) {
        ctx.request.headers.insert(XFP, forwarded_proto(ctx, secure));
    }
    if let Some(scheme) = m.scheme.overwrite.as_deref() {
        ctx.request.headers.insert(XFP, HeaderValue::from_static(if scheme == "https" { "https" } else { "http" }));
    }
    ctx.request.scheme = match ctx.request.headers.get(XFP).map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::Https,
        _ => Scheme::Http,
    };
    if m.append_x_forwarded_port
        && !ctx.request.headers.contains_key("x-forwarded-port")
        && let Some(port) = ctx.conn.info.local.port()
    {
        ctx.request.headers.insert("x-forwarded-port", HeaderValue::from(port));
    }
    None
}

fn forwarded_proto(ctx: &StreamCtx, secure: bool) -> HeaderValue {
    let m = &ctx.conn.manager.config;
    let port = ctx.conn.info.local.port();
    let https = port.is_some_and(|p| m.forward_proto_https_ports.contains(&p));
    let http = port.is_some_and(|p| m.forward_proto_http_ports.contains(&p));
    HeaderValue::from_static(if https || (secure && !http) { "https" } else { "http" })
}

/// Adds a value to a comma-separated header.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    let joined: Cow<'_, [u8]> = match headers.get(&name) {
        Some(old) => {
            let sep: &[u8] = if name == header::VIA { b", " } else { b"," };
            Cow::Owned([old.as_bytes(), sep, value].concat())
        }
        None => Cow::Borrowed(value),
    };
    if let Ok(v) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, v);
    }
}

/// Headers that only an internal client may set.
const EXTERNAL_REMOVED: &[&str] = &[
    "x-envoy-internal",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

/// Headers that name who sent a request, which at the edge nobody can know but us.
const EDGE_REMOVED: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
];

fn envoy_headers(ctx: &mut StreamCtx) {
    let manager = ctx.conn.manager.clone();
    let headers = &mut ctx.request.headers;
    if ctx.internal {
        headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
        return;
    }
    // At the edge the sender's address is ours to tell.
    if super::timeout::steered(headers) {
        for name in EXTERNAL_REMOVED {
            headers.remove(*name);
        }
    }
    manager.routes.with(|table| {
        for name in &table.internal_only_headers {
            headers.remove(name.as_str());
        }
    });
    if manager.config.use_remote_address {
        for name in EDGE_REMOVED {
            headers.remove(*name);
        }
        headers.insert(
            "x-envoy-external-address",
            HeaderValue::from_str(&ctx.info.remote.ip().map_or_else(String::new, |i| i.to_string()))
                .unwrap_or_else(|_| HeaderValue::from_static("")),
        );
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn request_id(ctx: &mut StreamCtx) {
    let m = &ctx.conn.manager.config;
    let edge = m.use_remote_address && !ctx.internal;
    let keep = ctx.request.headers.contains_key(REQUEST_ID) && (!edge || m.preserve_external_request_id);
    if !keep && m.generate_request_id {
        ctx.request.headers.insert(REQUEST_ID, uuid(ctx.random, m.pack_trace_reason));
    }
    ctx.info.request_id = ctx.request.headers.get(REQUEST_ID).cloned();
}

/// A random UUID; `packed` marks it "not traced" in the version digit as Envoy's extension does.
fn uuid(random: u64, packed: bool) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let (a, b) = (crate::cluster::lb::mix(random), crate::cluster::lb::mix(random ^ 0x5bd1_e995));
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&a.to_be_bytes());
    bytes[8..].copy_from_slice(&b.to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let _ = packed;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Finishes an answer's head: what every answer of this connection manager carries.
pub fn finish_response(ctx: &mut StreamCtx, head: &mut ResponseHead, local: bool) {
    let manager = ctx.conn.manager.clone();
    let m = &manager.config;
    if let Some(config) = &m.proxy_status {
        proxy_status::apply(config, ctx, head);
    }
    // Formats see the status the answer has.
    ctx.info.response_code = head.status.as_u16();
    if let Some(route) = &ctx.route {
        route.response_headers(ctx, head);
    }
    if !head.headers.contains_key(header::DATE) {
        head.headers.insert(header::DATE, crate::worker::date());
    }
    let server = head.headers.contains_key(header::SERVER);
    match m.server_header {
        ServerHeader::Overwrite => {
            head.headers.insert(header::SERVER, manager.server_name.clone());
        }
        ServerHeader::AppendIfAbsent if !server => {
            head.headers.insert(header::SERVER, manager.server_name.clone());
        }
        ServerHeader::PassThrough if local => {}
        _ => {}
    }
    if let Some(via) = &manager.via {
        append(&mut head.headers, header::VIA, via.as_bytes());
    }
    if m.always_set_request_id_in_response
        && let Some(id) = &ctx.info.request_id
    {
        head.headers.insert(REQUEST_ID, id.clone());
    }
    if ctx.info.grpc_status.is_none() {
        ctx.info.grpc_status = head.headers.get(super::names::GRPC_STATUS).and_then(|v| v.to_str().ok()?.parse().ok());
    }
    if manager.access_logs.needs_response_headers() {
        ctx.response = Some(head.clone());
    }
}
