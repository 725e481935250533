//! What is known of a connection and of a request on it: filled in as it goes, read by access logs, header formatters,
//! matchers and the admin interface.
//!
//! Owns nothing but facts: no socket, no task. A [`ConnInfo`] is shared by the streams of a connection and does not change
//! once its filter chain is chosen, but for the fields behind a lock; a [`StreamInfo`] belongs to one request, or to the whole
//! connection of a TCP proxy. Runs on: workers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::TrafficDirection;

/// An address of a connection's end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// IPv4 or IPv6 with port.
    Ip(SocketAddr),
    /// A Unix socket; empty: unnamed.
    Pipe(Arc<str>),
}

impl PeerAddr {
    /// The IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            PeerAddr::Ip(a) => Some(a.ip()),
            PeerAddr::Pipe(_) => None,
        }
    }

    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            PeerAddr::Ip(a) => Some(a.port()),
            PeerAddr::Pipe(_) => None,
        }
    }
}

impl std::fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerAddr::Ip(a) => a.fmt(f),
            PeerAddr::Pipe(p) => f.write_str(p),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    /// An IPv4 address mapped into IPv6 becomes the IPv4 address it is.
    fn from(a: SocketAddr) -> Self {
        PeerAddr::Ip(SocketAddr::new(a.ip().to_canonical(), a.port()))
    }
}

/// What a TLS handshake established.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// `TLSv1.2`, `TLSv1.3`.
    pub version: &'static str,
    /// OpenSSL name of the cipher suite.
    pub cipher: Cow<'static, str>,
    /// Negotiated ALPN; empty: none.
    pub alpn: Arc<str>,
    /// SNI sent (server side: received); empty: none.
    pub sni: Arc<str>,
    /// Hex session id (TLS 1.2), empty otherwise.
    pub session_id: String,
    /// The peer's certificate, if it presented one.
    pub peer: Option<Arc<PeerCertificate>>,
    /// Whether the peer's certificate was validated.
    pub peer_validated: bool,
    /// Our own certificate.
    pub local: Option<Arc<PeerCertificate>>,
}

/// The facts of a certificate that headers, logs and policy use.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate {
    /// RFC 2253 subject.
    pub subject: String,
    /// RFC 2253 issuer.
    pub issuer: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// SHA-256 of the DER, lower-case hex.
    pub sha256: String,
    /// SHA-1 of the DER, lower-case hex.
    pub sha1: String,
    /// URI names.
    pub uri_sans: Vec<String>,
    /// DNS names.
    pub dns_sans: Vec<String>,
    /// IP names, in text.
    pub ip_sans: Vec<String>,
    /// E-mail names.
    pub email_sans: Vec<String>,
    /// Start of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
    /// DER chain, leaf first.
    pub chain_der: Vec<Vec<u8>>,
}

/// The listener a connection came in by.
#[derive(Debug, Default)]
pub struct ListenerInfo {
    /// Name.
    pub name: String,
    /// Direction.
    pub direction: TrafficDirection,
}

/// A downstream connection.
#[derive(Debug)]
pub struct ConnInfo {
    /// Unique in the process.
    pub id: u64,
    /// Accepted at.
    pub start: Instant,
    /// Accepted at, wall clock.
    pub start_wall: SystemTime,
    /// Client, as PROXY protocol or the socket has it.
    pub remote: PeerAddr,
    /// Client as the socket has it.
    pub direct_remote: PeerAddr,
    /// Our end, restored by original destination or PROXY protocol.
    pub local: PeerAddr,
    /// Our end as the socket has it.
    pub direct_local: PeerAddr,
    /// Whether `local` was restored (`original_dst`, PROXY protocol).
    pub local_restored: bool,
    /// Listener.
    pub listener: Arc<ListenerInfo>,
    /// Name of the filter chain.
    pub filter_chain: Arc<str>,
    /// `tls` or `raw_buffer` as detected; empty: not looked at.
    pub transport_protocol: &'static str,
    /// SNI as the TLS inspector saw it; empty: none.
    pub sni: Arc<str>,
    /// TLS, once the handshake is done.
    pub tls: Option<Arc<TlsInfo>>,
    /// TLVs of a PROXY protocol header that are to be kept.
    pub proxy_tlvs: Vec<(u8, Vec<u8>)>,
    /// A PROXY protocol header was read.
    pub proxy_protocol: bool,
    /// Dynamic metadata set by listener filters.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// What the network filter RBAC said of its shadow rules, once it has: its dynamic metadata.
    pub rbac: OnceLock<Arc<serde_json::Value>>,
    /// What a network filter's authorization service said, once it has: its dynamic metadata.
    pub authz: OnceLock<Arc<serde_json::Value>>,
    /// A network filter refused the connection: the flag and the details that the log has.
    pub refused: OnceLock<(ResponseFlags, &'static str)>,
    /// Why the connection was ended by us, for `%CONNECTION_TERMINATION_DETAILS%`.
    pub termination_details: Mutex<Option<Cow<'static, str>>>,
    /// Why we closed the connection, for `%DOWNSTREAM_LOCAL_CLOSE_REASON%`.
    pub local_close: Mutex<Option<Cow<'static, str>>>,
    /// Why the transport failed, for `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Mutex<Option<Cow<'static, str>>>,
    /// Round trip time of the handshake, if measured.
    pub handshake: Option<Duration>,
}

/// How a connection was closed. **Source**: `%DOWNSTREAM_DETECTED_CLOSE_TYPE%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloseType {
    /// In the ordinary way.
    #[default]
    Normal,
    /// Reset by us.
    LocalReset,
    /// Reset by the peer.
    RemoteReset,
}

impl CloseType {
    /// As access logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseType::Normal => "Normal",
            CloseType::LocalReset => "LocalReset",
            CloseType::RemoteReset => "RemoteReset",
        }
    }
}

impl ConnInfo {
    /// A plain connection that begins now; nothing else is known of it yet.
    pub fn new(id: u64, remote: PeerAddr, local: PeerAddr, listener: Arc<ListenerInfo>) -> Self {
        ConnInfo {
            id,
            start: crate::clock::now(),
            start_wall: crate::clock::wall(),
            direct_remote: remote.clone(),
            remote,
            direct_local: local.clone(),
            local,
            local_restored: false,
            listener,
            filter_chain: "".into(),
            transport_protocol: "",
            sni: "".into(),
            tls: None,
            proxy_tlvs: Vec::new(),
            proxy_protocol: false,
            metadata: BTreeMap::new(),
            rbac: OnceLock::new(),
            authz: OnceLock::new(),
            refused: OnceLock::new(),
            termination_details: Mutex::default(),
            local_close: Default::default(),
            transport_failure: Mutex::default(),
            handshake: None,
        }
    }

    /// Dynamic metadata of the connection, by filter name.
    pub fn dynamic_metadata(&self, namespace: &str) -> Option<&serde_json::Value> {
        let said = match namespace {
            crate::rbac::NETWORK_NAMESPACE => self.rbac.get(),
            crate::ext_authz::NETWORK_NAMESPACE => self.authz.get(),
            _ => None,
        };
        said.map(|said| &**said).or_else(|| self.metadata.get(namespace))
    }
}

/// HTTP versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As access logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// Envoy's response flags: a set that remembers in which order they were set, since that is how Envoy prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags {
    set: u32,
    /// The numbers of the flags plus 1, five bits each, the first one lowest; more than twelve are in the set alone.
    order: u64,
}

/// Bits of a flag's place in [`ResponseFlags`].
const FLAG_BITS: u32 = 5;

macro_rules! response_flags {
    ($($bit:literal $name:ident $short:literal $long:literal;)*) => {
        #[allow(missing_docs, reason = "each is the flag it is named for")]
        impl ResponseFlags {
            $(pub const $name: ResponseFlags = ResponseFlags { set: 1 << $bit, order: $bit + 1 };)*
            /// Every flag: the flag, its short and its long name.
            pub const ALL: &'static [(ResponseFlags, &'static str, &'static str)] =
                &[$((ResponseFlags::$name, $short, $long),)*];
        }
    };
}

response_flags! {
    0 FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout";
    3 LOCAL_RESET "LR" "LocalReset";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow";
    8 NO_ROUTE_FOUND "NR" "NoRouteFound";
    9 DELAY_INJECTED "DI" "DelayInjected";
    10 FAULT_INJECTED "FI" "FaultInjected";
    11 RATE_LIMITED "RL" "RateLimited";
    12 UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination";
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout";
    17 INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError";
    19 UPSTREAM_MAX_STREAM_DURATION_REACHED "UMSDR" "UpstreamMaxStreamDurationReached";
    20 RESPONSE_FROM_CACHE_FILTER "RFCF" "ResponseFromCacheFilter";
    21 NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound";
    22 DURATION_TIMEOUT "DT" "DurationTimeout";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError";
    24 NO_CLUSTER_FOUND "NC" "NoClusterFound";
    25 OVERLOAD_MANAGER "OM" "OverloadManagerTerminated";
    26 DNS_RESOLUTION_FAILED "DF" "DnsResolutionFailed";
    27 DROP_OVERLOAD "DO" "DropOverload";
    28 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset";
    29 UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: ResponseFlags = ResponseFlags { set: 0, order: 0 };

    /// Adds flags, after those that are set already.
    pub fn set(&mut self, flags: ResponseFlags) {
        for at in flags.places() {
            if self.set & (1 << at) == 0 {
                let used = (u64::BITS - self.order.leading_zeros()).next_multiple_of(FLAG_BITS);
                if used + FLAG_BITS <= u64::BITS {
                    self.order |= (u64::from(at) + 1) << used;
                }
                self.set |= 1 << at;
            }
        }
        self.set |= flags.set;
    }

    /// Whether any of `flags` is set.
    pub fn any_of(self, flags: ResponseFlags) -> bool {
        self.set & flags.set != 0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.set == 0
    }

    /// By short name.
    pub fn by_name(short: &str) -> Option<ResponseFlags> {
        Self::ALL.iter().find(|(_, s, _)| *s == short).map(|(f, _, _)| *f)
    }

    /// Short and long names in the order in which they were set, as Envoy prints them.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.places().filter_map(|at| Self::ALL.get(at as usize)).map(|(_, short, long)| (*short, *long))
    }

    fn places(self) -> impl Iterator<Item = u32> {
        const MASK: u64 = (1 << FLAG_BITS) - 1;
        let mut left = self.order;
        std::iter::from_fn(move || {
            let at = (left & MASK) as u32;
            left >>= FLAG_BITS;
            at.checked_sub(1)
        })
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;
    fn bitor(mut self, other: Self) -> Self {
        self.set(other);
        self
    }
}

/// The upstream side of a request, of its last attempt.
#[derive(Debug, Clone, Default)]
pub struct UpstreamInfo {
    /// Cluster name.
    pub cluster: Option<Arc<str>>,
    /// The host's address.
    pub host: Option<PeerAddr>,
    /// The host's name; empty: none.
    pub hostname: Arc<str>,
    /// Address the connection comes from.
    pub local: Option<PeerAddr>,
    /// Connection id; 0: none.
    pub connection_id: u64,
    /// HTTP version spoken.
    pub protocol: Option<Protocol>,
    /// TLS.
    pub tls: Option<Arc<TlsInfo>>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Why the transport failed.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Time waited for a connection of the pool.
    pub pool_ready: Option<Duration>,
    /// Endpoint metadata.
    pub metadata: Option<Arc<crate::config::Metadata>>,
    /// Locality of the host.
    pub locality: Option<Arc<crate::config::Locality>>,
    /// Requests this connection has carried, this one included.
    pub requests_on_connection: u64,
}

/// Byte counts of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteCounts {
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
    /// Wire bytes from the client, heads and framing included.
    pub wire_received: u64,
    /// Wire bytes to the client.
    pub wire_sent: u64,
    /// Header bytes from the client.
    pub headers_received: u64,
    /// Header bytes to the client.
    pub headers_sent: u64,
    /// Wire bytes to the upstream.
    pub upstream_wire_sent: u64,
    /// Wire bytes from the upstream.
    pub upstream_wire_received: u64,
    /// Header bytes to the upstream.
    pub upstream_headers_sent: u64,
    /// Header bytes from the upstream.
    pub upstream_headers_received: u64,
}

/// When things happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Last byte of the request.
    pub last_downstream_rx: Option<Instant>,
    /// First byte to the upstream.
    pub first_upstream_tx: Option<Instant>,
    /// Last byte to the upstream.
    pub last_upstream_tx: Option<Instant>,
    /// First byte from the upstream.
    pub first_upstream_rx: Option<Instant>,
    /// Last byte from the upstream.
    pub last_upstream_rx: Option<Instant>,
    /// First byte to the client.
    pub first_downstream_tx: Option<Instant>,
    /// Last byte to the client.
    pub last_downstream_tx: Option<Instant>,
    /// Upstream connect began.
    pub upstream_connect_start: Option<Instant>,
    /// Upstream connect was done.
    pub upstream_connect_complete: Option<Instant>,
    /// Upstream TLS handshake was done.
    pub upstream_handshake_complete: Option<Instant>,
    /// End of the stream.
    pub end: Option<Instant>,
}

/// A request, or the whole connection of a TCP proxy.
#[derive(Debug)]
pub struct StreamInfo {
    /// Its connection.
    pub conn: Arc<ConnInfo>,
    /// Began at.
    pub start: Instant,
    /// Began at, wall clock.
    pub start_wall: SystemTime,
    /// Client address as X-Forwarded-For or PROXY protocol has it.
    pub remote: PeerAddr,
    /// HTTP version; `None`: not HTTP.
    pub protocol: Option<Protocol>,
    /// Status sent to the client; 0: none.
    pub response_code: u16,
    /// Told when the upstream answers 100 Continue (`proxy_100_continue`).
    pub interim: Option<Arc<crate::http::limits::Shared>>,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Option<Cow<'static, str>>,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Bytes.
    pub bytes: ByteCounts,
    /// Times.
    pub times: Timings,
    /// Route name.
    pub route: Option<Arc<str>>,
    /// Virtual host name.
    pub vhost: Option<Arc<str>>,
    /// Upstream.
    pub upstream: UpstreamInfo,
    /// `x-request-id` of the stream, where there is one.
    pub request_id: Option<http::HeaderValue>,
    /// Dynamic metadata by filter name.
    pub metadata: Option<Box<BTreeMap<String, serde_json::Value>>>,
    /// What RBAC filters said: their dynamic metadata, which is made before there is a request.
    pub rbac: Option<Arc<serde_json::Value>>,
    /// Filter state by key.
    pub filter_state: Option<Box<BTreeMap<String, serde_json::Value>>>,
    /// The `health_check` filter took it for a health check.
    pub health_check: bool,
    /// Sampled for tracing.
    pub traced: bool,
    /// gRPC status of the response: header, trailer or local reply.
    pub grpc_status: Option<u32>,
    /// How the downstream connection was closed, where that is known.
    pub downstream_close: CloseType,
    /// How the upstream connection was closed, where that is known.
    pub upstream_close: Option<CloseType>,
    /// Unique stream id (for `%STREAM_ID%` and reproducible random choices).
    pub stream_id: u64,
}

impl StreamInfo {
    /// A stream that begins now.
    pub fn new(conn: Arc<ConnInfo>, stream_id: u64, protocol: Option<Protocol>) -> Self {
        StreamInfo {
            start: crate::clock::now(),
            start_wall: crate::clock::wall(),
            remote: conn.remote.clone(),
            conn,
            protocol,
            response_code: 0,
            interim: None,
            details: None,
            flags: ResponseFlags::NONE,
            bytes: ByteCounts::default(),
            times: Timings::default(),
            route: None,
            vhost: None,
            upstream: UpstreamInfo::default(),
            request_id: None,
            metadata: None,
            rbac: None,
            filter_state: None,
            health_check: false,
            traced: false,
            grpc_status: None,
            downstream_close: CloseType::Normal,
            upstream_close: None,
            stream_id,
        }
    }

    /// Dynamic metadata of the stream by filter name. A connection without streams is its own stream.
    pub fn dynamic_metadata(&self, namespace: &str) -> Option<&serde_json::Value> {
        match (&self.rbac, &self.metadata, self.protocol) {
            (Some(said), ..) if namespace == crate::rbac::HTTP_NAMESPACE => Some(said),
            (_, Some(metadata), _) => metadata.get(namespace),
            (_, None, None) => self.conn.dynamic_metadata(namespace),
            (_, None, Some(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ResponseFlags;

    #[test]
    fn flags_keep_their_order() {
        let mut flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.set(ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD);
        let short: Vec<_> = flags.names().map(|n| n.0).collect();
        assert_eq!(short, ["URX", "UF", "UDO"]);
        assert!(flags.any_of(ResponseFlags::UPSTREAM_CONNECTION_FAILURE) && !flags.is_empty());
        for (at, (flag, name, _)) in ResponseFlags::ALL.iter().enumerate() {
            assert_eq!(flag.places().collect::<Vec<_>>(), [at as u32], "{name} is at the place of its bit");
        }
        let mut all = ResponseFlags::NONE;
        for (flag, ..) in ResponseFlags::ALL {
            all.set(*flag);
        }
        assert!(ResponseFlags::ALL.iter().all(|(f, ..)| all.any_of(*f)));
        assert_eq!(all.names().count(), 12);
    }
}
