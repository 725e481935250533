//! Where configuration that is not in the bootstrap comes from: management servers and files.

use std::time::Duration;

use super::DataSource;

/// Where resources come from, and how long to wait for the first of them. **Source**: `envoy.config.core.v3.ConfigSource`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigSource {
    /// Who delivers them.
    pub from: Source,
    /// Waiting for a first answer ends after this, and what waits goes on without (default 15 s); `None`: never.
    pub initial_fetch_timeout: Option<Duration>,
}

/// Who delivers resources. Equal sources share their stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The aggregated stream of `dynamic_resources.ads_config`.
    Ads,
    /// A file holding a `DiscoveryResponse`. Only a rename is a change.
    File {
        /// Path.
        path: String,
        /// Directory whose swap is the signal, in place of the file's own.
        watched_directory: Option<String>,
    },
    /// A stream of its own for each kind of resource.
    Api(Box<ApiConfigSource>),
}

/// A management server and how it is spoken to. **Source**: `envoy.config.core.v3.ApiConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiConfigSource {
    /// Delta rather than state of the world.
    pub delta: bool,
    /// The server.
    pub target: GrpcTarget,
    /// Only the first request of a stream says who asks.
    pub set_node_on_first_message_only: bool,
    /// Pause before a first reconnect (default 500 ms).
    pub back_off_base: Duration,
    /// Longest pause (default 30 s).
    pub back_off_max: Duration,
    /// `rate_limit_settings`: requests in a burst, and per second in thousandths; absent: no limit.
    pub rate_limit: Option<RateLimit>,
    /// `initial_metadata`: headers of the stream.
    pub metadata: Vec<(String, String)>,
}

/// **Source**: `envoy.config.core.v3.RateLimitSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RateLimit {
    /// `max_tokens` (default 100).
    pub max_tokens: u32,
    /// `fill_rate` in thousandths of a token per second (default 10 tokens).
    pub fill_per_mille: u64,
}

/// A gRPC server. **Source**: `envoy.config.core.v3.GrpcService`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrpcTarget {
    /// A host of one of this proxy's clusters, over its transport.
    Envoy {
        /// Cluster.
        cluster: String,
        /// `:authority` in place of the cluster's name.
        authority: Option<String>,
    },
    /// A server by its address.
    Google {
        /// `host:port`, with an optional scheme as gRPC has it.
        uri: String,
        /// TLS; absent: plaintext.
        ssl: Option<SslCredentials>,
        /// For stats.
        stat_prefix: String,
    },
}

/// **Source**: `GoogleGrpc.SslCredentials`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SslCredentials {
    /// PEM of trusted authorities; absent: the system's.
    pub root_certs: Option<DataSource>,
    /// PEM key of the client.
    pub private_key: Option<DataSource>,
    /// PEM chain of the client.
    pub cert_chain: Option<DataSource>,
}

/// **Source**: `envoy.config.bootstrap.v3.Bootstrap.DynamicResources`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DynamicResources {
    /// Listeners.
    pub listeners: Option<ConfigSource>,
    /// Clusters.
    pub clusters: Option<ConfigSource>,
    /// The server that [`Source::Ads`] means.
    pub ads: Option<ApiConfigSource>,
}

/// Routes by discovery. **Source**: `envoy.extensions.filters.network.http_connection_manager.v3.Rds`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rds {
    /// Name of the route configuration.
    pub name: String,
    /// Where it comes from.
    pub source: ConfigSource,
}
