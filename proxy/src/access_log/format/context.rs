//! What a format is rendered from.

use crate::config::Metadata;
use crate::http::HeaderMap;
use crate::http::{RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

/// When an entry is made. **Source**: `envoy.data.accesslog.v3.AccessLogType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogType {
    /// None of the others; also what header formatters pass.
    #[default]
    NotSet,
    /// A TCP proxy connection has its upstream.
    TcpUpstreamConnected,
    /// A TCP proxy connection, from time to time.
    TcpPeriodic,
    /// A TCP proxy connection ended.
    TcpConnectionEnd,
    /// A TCP proxy connection was accepted.
    TcpConnectionStart,
    /// A request came in.
    DownstreamStart,
    /// A request, from time to time.
    DownstreamPeriodic,
    /// A request ended.
    DownstreamEnd,
    /// The router has a connection for a request.
    UpstreamPoolReady,
    /// The router's side of a request, from time to time.
    UpstreamPeriodic,
    /// The router's side of a request ended.
    UpstreamEnd,
    /// An upgrade or CONNECT was answered.
    DownstreamTunnelSuccessfullyEstablished,
}

impl LogType {
    /// The name in configuration and output.
    pub fn as_str(self) -> &'static str {
        match self {
            LogType::NotSet => "NotSet",
            LogType::TcpUpstreamConnected => "TcpUpstreamConnected",
            LogType::TcpPeriodic => "TcpPeriodic",
            LogType::TcpConnectionEnd => "TcpConnectionEnd",
            LogType::TcpConnectionStart => "TcpConnectionStart",
            LogType::DownstreamStart => "DownstreamStart",
            LogType::DownstreamPeriodic => "DownstreamPeriodic",
            LogType::DownstreamEnd => "DownstreamEnd",
            LogType::UpstreamPoolReady => "UpstreamPoolReady",
            LogType::UpstreamPeriodic => "UpstreamPeriodic",
            LogType::UpstreamEnd => "UpstreamEnd",
            LogType::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
        }
    }
}

/// Everything a format can name. [`LogContext::new`] and then the fields that are known: what is absent renders as missing.
#[derive(Debug, Clone, Copy)]
pub struct LogContext<'a> {
    /// The request's or connection's facts.
    pub info: &'a StreamInfo,
    /// Request head as sent upstream (or as far as it got).
    pub request: Option<&'a RequestHead>,
    /// Response head as sent to the client.
    pub response: Option<&'a ResponseHead>,
    /// Response trailers.
    pub trailers: Option<&'a HeaderMap>,
    /// Body of a local reply; empty: there was none.
    pub local_reply_body: &'a str,
    /// Why the entry is made.
    pub log_type: LogType,
    /// Metadata of the route.
    pub route_metadata: Option<&'a Metadata>,
    /// Metadata of the virtual host.
    pub vhost_metadata: Option<&'a Metadata>,
    /// Metadata of the cluster.
    pub cluster_metadata: Option<&'a Metadata>,
    /// Metadata of the listener.
    pub listener_metadata: Option<&'a Metadata>,
    /// The virtual cluster that matched.
    pub virtual_cluster: Option<&'a str>,
    /// `alt_stat_name` of the cluster, where it has one.
    pub cluster_stat_name: Option<&'a str>,
    /// Trace id, in hex.
    pub trace_id: Option<&'a str>,
    /// Id of the downstream span, in hex.
    pub span_id: Option<&'a str>,
}

impl<'a> LogContext<'a> {
    /// A context with nothing but the stream's facts.
    pub fn new(info: &'a StreamInfo) -> Self {
        LogContext {
            info,
            request: None,
            response: None,
            trailers: None,
            local_reply_body: "",
            log_type: LogType::NotSet,
            route_metadata: None,
            vhost_metadata: None,
            cluster_metadata: None,
            listener_metadata: None,
            virtual_cluster: None,
            cluster_stat_name: None,
            trace_id: None,
            span_id: None,
        }
    }
}
