//! HTTP connection management.

use std::time::Duration;

use super::{
    AccessLog, AccessLogFilter, Cidr, HeaderMutations, HttpFilter, LogFormat, Rds, RouteConfig, StringMatcher,
};

/// **Source**: `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConnectionManager {
    /// Stats are `http.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// Which protocols.
    pub codec: CodecType,
    /// `route_config`.
    pub routes: RouteConfig,
    /// `rds`: routes by discovery; until they are there, `routes` is empty.
    pub rds: Option<Rds>,
    /// In order; the router is last.
    pub filters: Vec<HttpFilter>,
    /// HTTP/1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// `common_http_protocol_options`.
    pub common: HttpCommonOptions,
    /// `max_request_headers_kb` in bytes; default 60 KiB.
    pub max_request_headers_bytes: usize,
    /// No activity on a stream for so long ends it; default 5 min, `None`: never.
    pub stream_idle_timeout: Option<Duration>,
    /// The whole request must have arrived within this; `None` (default): no limit.
    pub request_timeout: Option<Duration>,
    /// Its head must have arrived within this; `None` (default): no limit.
    pub request_headers_timeout: Option<Duration>,
    /// `stream_flush_timeout`; absent: `stream_idle_timeout`.
    pub stream_flush_timeout: Option<Duration>,
    /// Between GOAWAY (shutdown notice) and the last GOAWAY; default 5 s.
    pub drain_timeout: Duration,
    /// How long a closed connection lingers for the peer to read; default 1 s, `None`: close at once.
    pub delayed_close_timeout: Option<Duration>,
    /// `normalize_path` (default false here; runtime may turn it on).
    pub normalize_path: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
    /// `use_remote_address`.
    pub use_remote_address: bool,
    /// `xff_num_trusted_hops`.
    pub xff_num_trusted_hops: u32,
    /// `skip_xff_append`.
    pub skip_xff_append: bool,
    /// `append_x_forwarded_port`.
    pub append_x_forwarded_port: bool,
    /// `internal_address_config`; absent: no address is internal but with `unix_sockets`.
    pub internal_addresses: InternalAddresses,
    /// `original_ip_detection_extensions`.
    pub original_ip_detection: Vec<OriginalIpDetection>,
    /// `forward_proto_config`, destination ports.
    pub forward_proto_https_ports: Vec<u16>,
    /// `forward_proto_config`, destination ports.
    pub forward_proto_http_ports: Vec<u16>,
    /// `scheme_header_transformation`.
    pub scheme: SchemeTransformation,
    /// `generate_request_id` (default true).
    pub generate_request_id: bool,
    /// `preserve_external_request_id`.
    pub preserve_external_request_id: bool,
    /// `always_set_request_id_in_response`.
    pub always_set_request_id_in_response: bool,
    /// `request_id_extension` UUID: `pack_trace_reason` (default true).
    pub pack_trace_reason: bool,
    /// `forward_client_cert_details`.
    pub forward_client_cert: ForwardClientCert,
    /// `set_current_client_cert_details`.
    pub client_cert_details: ClientCertDetails,
    /// `upgrade_configs`.
    pub upgrades: Vec<UpgradeConfig>,
    /// `server_name` (default `envoy`).
    pub server_name: String,
    /// `server_header_transformation`.
    pub server_header: ServerHeader,
    /// `via`; empty: none.
    pub via: String,
    /// `add_user_agent`.
    pub add_user_agent: bool,
    /// Host port stripping.
    pub strip_port: StripPort,
    /// `strip_trailing_host_dot`.
    pub strip_trailing_host_dot: bool,
    /// `local_reply_config`.
    pub local_reply: LocalReplyConfig,
    /// `proxy_100_continue`.
    pub proxy_100_continue: bool,
    /// `stream_error_on_invalid_http_message`.
    pub stream_error_on_invalid_http_message: bool,
    /// `early_header_mutation_extensions` of `header_mutation`.
    pub early_header_mutations: HeaderMutations,
    /// `proxy_status_config`.
    pub proxy_status: Option<ProxyStatus>,
    /// `append_local_overload`.
    pub append_local_overload: bool,
    /// `add_proxy_protocol_connection_state` (default true).
    pub add_proxy_protocol_connection_state: bool,
    /// Access logs.
    pub access_log: Vec<AccessLog>,
    /// `access_log_options.access_log_flush_interval`.
    pub access_log_flush_interval: Option<Duration>,
    /// `access_log_options.flush_access_log_on_new_request`.
    pub access_log_on_new_request: bool,
    /// `access_log_options.flush_log_on_tunnel_successfully_established`.
    pub access_log_on_tunnel: bool,
}

/// **Source**: `HttpConnectionManager.CodecType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    /// By ALPN, or by the first bytes.
    Auto,
    /// HTTP/1.x only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// **Source**: `HttpConnectionManager.PathWithEscapedSlashesAction`. `%2F`, `%2f`, `%5C`, `%5c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left as they are.
    Keep,
    /// 400.
    Reject,
    /// Unescaped, and the client redirected there (307, gRPC: as `Reject`).
    UnescapeAndRedirect,
    /// Unescaped.
    UnescapeAndForward,
}

/// **Source**: `HttpConnectionManager.InternalAddressConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InternalAddresses {
    /// Unix socket peers are internal.
    pub unix_sockets: bool,
    /// Ranges that are internal.
    pub ranges: Vec<Cidr>,
}

/// **Source**: `envoy.extensions.http.original_ip_detection.*`.
#[derive(Debug, Clone, PartialEq)]
pub enum OriginalIpDetection {
    /// `xff.v3.XffConfig`.
    Xff {
        /// Hops to trust from the right.
        num_trusted_hops: u32,
        /// Trust by address instead.
        trusted_cidrs: Vec<Cidr>,
        /// `skip_xff_append` (default true here).
        skip_xff_append: bool,
    },
    /// `custom_header.v3.CustomHeaderConfig`.
    CustomHeader {
        /// Header that holds the address.
        name: String,
        /// Trust it as `use_remote_address` would.
        allow_extension_to_set_address_as_trusted: bool,
        /// Answered with this status where the header is missing or bad; `None`: goes on.
        reject_with_status: Option<u16>,
    },
}

/// **Source**: `envoy.config.core.v3.SchemeHeaderTransformation`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SchemeTransformation {
    /// `scheme_to_overwrite`.
    pub overwrite: Option<String>,
    /// `match_upstream`.
    pub match_upstream: bool,
}

/// **Source**: `HttpConnectionManager.ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Remove the header.
    Sanitize,
    /// Pass it on over mutual TLS.
    ForwardOnly,
    /// Append over mutual TLS.
    AppendForward,
    /// Replace over mutual TLS.
    SanitizeSet,
    /// Pass it on always.
    AlwaysForwardOnly,
}

/// **Source**: `HttpConnectionManager.SetCurrentClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// Subject.
    pub subject: bool,
    /// Leaf, URL-encoded PEM.
    pub cert: bool,
    /// Chain, URL-encoded PEM.
    pub chain: bool,
    /// DNS names.
    pub dns: bool,
    /// URI names.
    pub uri: bool,
}

/// **Source**: `HttpConnectionManager.UpgradeConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpgradeConfig {
    /// `websocket`, `CONNECT`, any other; compared without case.
    pub upgrade_type: String,
    /// Allowed at all (default true).
    pub enabled: bool,
    /// A filter chain for these requests; empty: the usual one.
    pub filters: Vec<HttpFilter>,
}

/// **Source**: `HttpConnectionManager.ServerHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    /// Always ours.
    Overwrite,
    /// Ours where there is none.
    AppendIfAbsent,
    /// Never touched.
    PassThrough,
}

/// Which port of the host header is taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    No,
    /// The listener's own (`strip_matching_host_port`).
    Matching,
    /// Any (`strip_any_host_port`).
    Any,
}

/// **Source**: `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Debug, Clone, PartialEq)]
pub struct Http1Options {
    /// Absolute request targets (default true).
    pub allow_absolute_url: bool,
    /// HTTP/1.0.
    pub accept_http_10: bool,
    /// Host of an HTTP/1.0 request without one.
    pub default_host_for_http_10: String,
    /// Case of header names written.
    pub header_key_format: HeaderKeyFormat,
    /// Trailers.
    pub enable_trailers: bool,
    /// Content-Length beside chunked is dropped instead of refused.
    pub allow_chunked_length: bool,
    /// Overrides `stream_error_on_invalid_http_message`.
    pub override_stream_error: Option<bool>,
    /// Absolute request targets upstream.
    pub send_fully_qualified_url: bool,
    /// Methods beyond the registered ones.
    pub allow_custom_methods: bool,
    /// Upgrade headers removed instead of acted on.
    pub ignore_upgrade: Vec<StringMatcher>,
}

impl Default for Http1Options {
    fn default() -> Self {
        Http1Options {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: String::new(),
            header_key_format: HeaderKeyFormat::Lower,
            enable_trailers: false,
            allow_chunked_length: false,
            override_stream_error: None,
            send_fully_qualified_url: false,
            allow_custom_methods: false,
            ignore_upgrade: Vec::new(),
        }
    }
}

/// Case of HTTP/1 header names on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderKeyFormat {
    /// Lower case.
    Lower,
    /// `Content-Type`.
    Proper,
    /// As the other side sent it (`preserve_case`).
    Preserve,
}

/// **Source**: `envoy.config.core.v3.Http2ProtocolOptions`; Envoy 1.40's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Options {
    /// HPACK table (default 4096).
    pub hpack_table_size: u32,
    /// Default 1024.
    pub max_concurrent_streams: u32,
    /// Default 16 MiB.
    pub initial_stream_window: u32,
    /// Default 24 MiB.
    pub initial_connection_window: u32,
    /// Extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// Outbound frames queued (default 10,000).
    pub max_outbound_frames: u32,
    /// Outbound control frames queued (default 1,000).
    pub max_outbound_control_frames: u32,
    /// Consecutive empty DATA/HEADERS/CONTINUATION frames without END_STREAM (default 1).
    pub max_empty_frames: u32,
    /// PRIORITY frames per stream opened (default 100).
    pub max_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames per DATA frame sent (default 10).
    pub max_window_updates_per_data: u32,
    /// Reset streams per second allowed; absent: no rate.
    pub stream_reset_rate: Option<f64>,
    /// Burst of them.
    pub stream_reset_burst: u64,
    /// Overrides `stream_error_on_invalid_http_message`.
    pub override_stream_error: Option<bool>,
    /// `connection_keepalive`.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Http2Options {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window: 16 << 20,
            initial_connection_window: 24 << 20,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1_000,
            max_empty_frames: 1,
            max_priority_frames_per_stream: 100,
            max_window_updates_per_data: 10,
            stream_reset_rate: None,
            stream_reset_burst: 0,
            override_stream_error: None,
            keepalive: None,
        }
    }
}

/// **Source**: `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Http2Keepalive {
    /// PING every so often; absent: only by `idle_interval`.
    pub interval: Option<Duration>,
    /// The answer must come within this.
    pub timeout: Duration,
    /// Random share (0 to 1) added to the interval.
    pub jitter: f64,
    /// PING before a request after so long without traffic.
    pub idle_interval: Option<Duration>,
}

/// **Source**: `envoy.config.core.v3.HttpProtocolOptions`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpCommonOptions {
    /// No active stream for so long closes the connection; default 1 h, `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Age at which a connection is drained.
    pub max_connection_duration: Option<Duration>,
    /// Longest life of a stream.
    pub max_stream_duration: Option<Duration>,
    /// Requests per connection; `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Headers per message (default 100).
    pub max_headers_count: u32,
    /// `max_response_headers_kb` in bytes (upstream; default 60 KiB).
    pub max_response_headers_bytes: usize,
    /// Names with underscores.
    pub underscores: UnderscoresAction,
}

impl Default for HttpCommonOptions {
    fn default() -> Self {
        HttpCommonOptions {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: None,
            max_headers_count: 100,
            max_response_headers_bytes: 60 << 10,
            underscores: UnderscoresAction::Allow,
        }
    }
}

/// **Source**: `HttpProtocolOptions.HeadersWithUnderscoresAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderscoresAction {
    /// Passed on.
    Allow,
    /// 400.
    Reject,
    /// The header is dropped.
    Drop,
}

/// **Source**: `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalReplyConfig {
    /// The first whose filter matches rewrites the reply.
    pub mappers: Vec<ResponseMapper>,
    /// Format of the body; absent: the body as it is.
    pub body_format: Option<LogFormat>,
}

/// **Source**: `ResponseMapper`.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseMapper {
    /// Which replies.
    pub filter: AccessLogFilter,
    /// New status.
    pub status: Option<u16>,
    /// New body.
    pub body: Option<super::DataSource>,
    /// Format in place of the common one.
    pub body_format: Option<LogFormat>,
    /// Headers to add.
    pub headers_to_add: HeaderMutations,
}

/// **Source**: `HttpConnectionManager.ProxyStatusConfig` (RFC 9209).
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyStatus {
    /// Leave out the details.
    pub remove_details: bool,
    /// Leave out connection termination details.
    pub remove_connection_termination_details: bool,
    /// Leave out the response flags.
    pub remove_response_flags: bool,
    /// Set the recommended status code.
    pub set_recommended_response_code: bool,
    /// Proxy's name.
    pub proxy_name: String,
}
