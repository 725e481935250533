//! Istio's metrics, and how the two sides of a request learn of each other.

/// **Source**: `stats.PluginConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IstioStats {
    /// The host that a request names stands for the service where nothing better is known
    /// (`disable_host_header_fallback` is off).
    pub host_fallback: bool,
    /// What differs from the standard metrics, in order.
    pub overrides: Vec<MetricOverride>,
}

/// **Source**: `stats.MetricConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricOverride {
    /// Which; `None`: all.
    pub metric: Option<Metric>,
    /// It is not counted.
    pub drop: bool,
    /// Labels that it has not.
    pub remove: Vec<String>,
    /// Labels that it has besides, or of another value.
    pub set: Vec<(String, Attribute)>,
}

/// Istio's standard metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `istio_requests_total`
    Requests,
    /// `istio_request_duration_milliseconds`
    Duration,
    /// `istio_request_bytes`
    RequestBytes,
    /// `istio_response_bytes`
    ResponseBytes,
    /// `istio_request_messages_total`
    RequestMessages,
    /// `istio_response_messages_total`
    ResponseMessages,
    /// `istio_tcp_connections_opened_total`
    TcpOpened,
    /// `istio_tcp_connections_closed_total`
    TcpClosed,
    /// `istio_tcp_sent_bytes_total`
    TcpSent,
    /// `istio_tcp_received_bytes_total`
    TcpReceived,
}

impl Metric {
    /// All of them, each at the place of its number.
    pub const ALL: [Metric; 10] = [
        Metric::Requests,
        Metric::Duration,
        Metric::RequestBytes,
        Metric::ResponseBytes,
        Metric::RequestMessages,
        Metric::ResponseMessages,
        Metric::TcpOpened,
        Metric::TcpClosed,
        Metric::TcpSent,
        Metric::TcpReceived,
    ];

    /// Its name, without `istio_`.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Requests => "requests_total",
            Metric::Duration => "request_duration_milliseconds",
            Metric::RequestBytes => "request_bytes",
            Metric::ResponseBytes => "response_bytes",
            Metric::RequestMessages => "request_messages_total",
            Metric::ResponseMessages => "response_messages_total",
            Metric::TcpOpened => "tcp_connections_opened_total",
            Metric::TcpClosed => "tcp_connections_closed_total",
            Metric::TcpSent => "tcp_sent_bytes_total",
            Metric::TcpReceived => "tcp_received_bytes_total",
        }
    }
}

/// What a label may be made of: the expressions of CEL that are understood.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `'text'`
    Text(String),
    /// `request.method`
    Method,
    /// `request.host`
    Host,
    /// `request.path`
    Path,
    /// `request.url_path`: without the query.
    UrlPath,
    /// `request.headers['name']`
    Header(http::HeaderName),
    /// `response.code`
    Code,
    /// `destination.port`
    Port,
}

/// **Source**: `io.istio.http.peer_metadata.Config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerMetadata {
    /// Callers say who they are in headers, which go no further.
    pub from_downstream: bool,
    /// Those that were called say so.
    pub from_upstream: bool,
    /// Callers that have said it are told who we are.
    pub to_downstream: bool,
    /// Those that are called are told who we are.
    pub to_upstream: bool,
    /// But not what is outside the mesh.
    pub skip_external: bool,
}
