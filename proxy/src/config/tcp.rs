//! Network (L4) filters.

use std::time::Duration;

use super::{
    AccessLog, BackOff, DataSource, ExtensionDiscovery, HashPolicy, HeaderMutations, HttpConnectionManager, IstioStats,
    Metadata, NetworkExtAuthz, NetworkRateLimit, NetworkRbac, OnDemandClusters, RuntimeFlag,
};

/// A filter of a filter chain. **Source**: `envoy.config.listener.v3.Filter`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkFilter {
    /// Name as configured.
    pub name: String,
    /// Which filter.
    pub kind: NetworkFilterKind,
}

/// The network filters.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkFilterKind {
    /// HTTP. Last in its chain.
    Http(Box<HttpConnectionManager>),
    /// TCP proxy. Last in its chain.
    TcpProxy(Box<TcpProxy>),
    /// Takes the cluster from the SNI.
    SniCluster,
    /// Bounds the connections of this filter.
    ConnectionLimit(ConnectionLimit),
    /// Counts connections for Istio's metrics.
    IstioStats(IstioStats),
    /// Judges a connection by its first bytes.
    Rbac(Box<NetworkRbac>),
    /// `ext_authz.v3.ExtAuthz`.
    ExtAuthz(Box<NetworkExtAuthz>),
    /// `ratelimit.v3.RateLimit`.
    RateLimit(Box<NetworkRateLimit>),
    /// Answers with fixed bytes and closes. Last in its chain.
    DirectResponse(DataSource),
    /// Answers with what it got. Last in its chain.
    Echo,
    /// Any of the others, by discovery.
    Discovered(Box<ExtensionDiscovery<NetworkFilterKind>>),
}

/// **Source**: `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionLimit {
    /// Stats are `connection_limit.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// At most so many at a time.
    pub max_connections: u64,
    /// How long a refused connection is held before it is closed.
    pub delay: Option<Duration>,
    /// `runtime_enabled`.
    pub enabled: RuntimeFlag,
}

/// **Source**: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpProxy {
    /// Stats are `tcp.<stat_prefix>.*`.
    pub stat_prefix: String,
    /// One or several clusters by weight.
    pub cluster: TcpCluster,
    /// Who delivers a cluster that is not there when a connection needs it; absent: nobody.
    pub on_demand: Option<OnDemandClusters>,
    /// The connection goes through a request to the upstream.
    pub tunnel: Option<Tunnel>,
    /// Endpoint metadata wanted, `envoy.lb` (subset balancing).
    pub metadata_match: Option<Metadata>,
    /// Both directions silent for so long: closed. Default 1 h; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `downstream_idle_timeout`.
    pub downstream_idle_timeout: Option<Duration>,
    /// `upstream_idle_timeout`.
    pub upstream_idle_timeout: Option<Duration>,
    /// Attempts to connect, at least 1.
    pub max_connect_attempts: u32,
    /// Pause between attempts; absent: none.
    pub backoff: Option<BackOff>,
    /// For hash balancing.
    pub hash_policy: Vec<HashPolicy>,
    /// Logged when the connection ends, or as `access_log_options` says.
    pub access_log: Vec<AccessLog>,
    /// `access_log_options.access_log_flush_interval`.
    pub access_log_flush_interval: Option<Duration>,
    /// `access_log_options.flush_access_log_on_connected`.
    pub access_log_on_connected: bool,
    /// Longest life of a downstream connection.
    pub max_downstream_connection_duration: Option<Duration>,
    /// Share (0 to 1) of random addition to it.
    pub max_downstream_connection_duration_jitter: f64,
}

/// A CONNECT in front of the bytes. **Source**:
/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TunnelingConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunnel {
    /// `host:port`, with operators.
    pub hostname: String,
    /// Headers of the request.
    pub headers_to_add: HeaderMutations,
}

/// Where a TCP connection goes.
#[derive(Debug, Clone, PartialEq)]
pub enum TcpCluster {
    /// One cluster.
    Single(String),
    /// By weight; the sum is not 0.
    Weighted(Vec<WeightedTcpCluster>),
}

/// **Source**: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedTcpCluster {
    /// Cluster.
    pub name: String,
    /// Weight.
    pub weight: u32,
    /// Endpoint metadata wanted.
    pub metadata_match: Option<Metadata>,
}
