//! Validated configuration: the intermediate representation between Envoy's protobuf and the running proxy.
//!
//! Plain data. It owns no socket, no atomic and no task, and knows nothing of how configuration arrived. Every default is
//! resolved here, so that nothing downstream asks "is it set?" of a field that has a default. `from_xds` makes it out of
//! protobuf and names the field path of what it refuses; `from_file` reads YAML and JSON into the same protobuf first.
//!
//! Runs on: the control thread (and in tests). Workers see what is built from it, never these types on a hot path.

mod access_log;
mod cluster;
mod error;
mod ext_authz;
mod fault;
pub mod from_file;
pub mod from_xds;
mod http;
mod http_filter;
mod identity;
mod jwt;
mod listener;
mod matcher;
pub mod pending;
mod rate_limit;
mod rbac;
mod retry;
mod route;
mod service;
mod source;
mod tcp;
mod telemetry;
mod tls;

pub use access_log::*;
pub use cluster::*;
pub use error::*;
pub use ext_authz::*;
pub use fault::*;
pub use http::*;
pub use http_filter::*;
pub use identity::*;
pub use jwt::*;
pub use listener::*;
pub use matcher::*;
pub use rate_limit::*;
pub use rbac::*;
pub use retry::*;
pub use route::*;
pub use service::*;
pub use source::*;
pub use tcp::*;
pub use telemetry::*;
pub use tls::*;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

/// Metadata as Envoy has it: filter name to a structure. **Source**: `envoy.config.core.v3.Metadata.filter_metadata`.
pub type Metadata = BTreeMap<String, serde_json::Value>;

/// The whole configuration a process starts with. **Source**: `envoy.config.bootstrap.v3.Bootstrap`.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: Node,
    /// The admin interface; absent: none is opened.
    pub admin: Option<Admin>,
    /// `static_resources.listeners`.
    pub listeners: Vec<Listener>,
    /// `static_resources.clusters`.
    pub clusters: Vec<Cluster>,
    /// `static_resources.secrets`.
    pub secrets: Vec<Secret>,
    /// `dynamic_resources`.
    pub dynamic: DynamicResources,
    /// `layered_runtime.layers`, lowest precedence first.
    pub runtime_layers: Vec<RuntimeLayer>,
    /// `stats_config`.
    pub stats: StatsConfig,
    /// `cluster_manager.local_cluster_name`: the cluster this proxy itself belongs to, for zone-aware routing.
    pub local_cluster_name: Option<String>,
    /// `cluster_manager.outlier_detection.event_log_path`.
    pub outlier_event_log: Option<String>,
    /// `application_log_config.log_format`.
    pub application_log_format: Option<ApplicationLogFormat>,
    /// The identity of the workload, of `bootstrap_extensions`.
    pub identity: Option<WorkloadIdentity>,
    /// The encoded `Bootstrap` as loaded, for `/config_dump`.
    pub raw: Bytes,
}

/// **Source**: `envoy.config.core.v3.Node`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// `id`, or `--service-node`.
    pub id: String,
    /// `cluster`, or `--service-cluster`.
    pub cluster: String,
    /// `metadata`.
    pub metadata: serde_json::Value,
    /// `locality`; its zone may come from `--service-zone`.
    pub locality: Locality,
}

/// **Source**: `envoy.config.core.v3.Locality`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Sub-zone.
    pub sub_zone: String,
}

/// **Source**: `envoy.config.bootstrap.v3.Admin`.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// Access logs of admin requests.
    pub access_log: Vec<AccessLog>,
    /// `ignore_global_conn_limit`.
    pub ignore_global_conn_limit: bool,
}

/// One layer of runtime values. **Source**: `envoy.config.bootstrap.v3.RuntimeLayer`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    /// Layer name, unique.
    pub name: String,
    /// What it holds.
    pub kind: RuntimeLayerKind,
}

/// Runtime values by key, nested structures flattened to dotted keys.
pub type RuntimeValues = BTreeMap<String, serde_json::Value>;

/// What a runtime layer holds.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeLayerKind {
    /// Values written in the bootstrap.
    Static(RuntimeValues),
    /// Values set through `/runtime_modify`.
    Admin,
    /// A directory tree: file names are keys.
    Disk {
        /// The directory that is swapped by symbolic link.
        symlink_root: String,
        /// Sub-directory below it.
        subdirectory: String,
        /// Append `--service-cluster` to the path.
        append_service_cluster: bool,
    },
    /// Values by discovery; none until they come. **Source**: `envoy.config.bootstrap.v3.RuntimeLayer.RtdsLayer`.
    Discovered {
        /// Name of the resource.
        resource: String,
        /// Where it comes from.
        source: ConfigSource,
    },
}

/// **Source**: `envoy.config.metrics.v3.StatsConfig`.
#[derive(Debug, Clone, Default)]
pub struct StatsConfig {
    /// `stats_tags`: a tag's name with either a regular expression over stat names or a fixed value.
    pub tags: Vec<StatTag>,
    /// `use_all_default_tags` (default true).
    pub use_default_tags: Option<bool>,
    /// `stats_matcher`: which stats exist at all.
    pub matcher: StatsMatcher,
    /// `histogram_bucket_settings`: first match wins, in milliseconds for times.
    pub buckets: Vec<(StringMatcher, Vec<f64>)>,
}

/// **Source**: `envoy.config.metrics.v3.TagSpecifier`.
#[derive(Debug, Clone)]
pub struct StatTag {
    /// Tag name.
    pub name: String,
    /// How its value is found.
    pub value: StatTagValue,
}

/// Where a stat tag's value comes from.
#[derive(Debug, Clone)]
pub enum StatTagValue {
    /// The second capture group is the value, the first is cut from the name (or one group for both).
    Regex(Pattern),
    /// The same for every stat.
    Fixed(String),
}

/// **Source**: `envoy.config.metrics.v3.StatsMatcher`.
#[derive(Debug, Clone, Default)]
pub enum StatsMatcher {
    /// Every stat exists.
    #[default]
    All,
    /// No stat exists.
    None,
    /// Only stats that match one of these.
    Inclusion(Vec<StringMatcher>),
    /// All but these.
    Exclusion(Vec<StringMatcher>),
}

/// **Source**: `envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig.LogFormat`.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplicationLogFormat {
    /// spdlog-style pattern.
    Text(String),
    /// Keys with patterns.
    Json(serde_json::Value),
}

/// A fraction of requests, in parts per million. **Source**: `envoy.type.v3.FractionalPercent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMillion(pub u32);

impl PerMillion {
    /// Every one.
    pub const ALL: PerMillion = PerMillion(1_000_000);

    /// Whether a uniformly random `roll` (any 64-bit value) falls within the fraction.
    pub fn admits(self, roll: u64) -> bool {
        self.0 >= 1_000_000 || roll % 1_000_000 < u64::from(self.0)
    }
}

/// A fraction with the runtime key that overrides it. **Source**: `envoy.config.core.v3.RuntimeFractionalPercent`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeFraction {
    /// The value where the key is not set.
    pub default: PerMillion,
    /// Runtime key; empty: none. A runtime value is an integer numerator over `denominator`.
    pub key: String,
    /// The configured denominator (100, 10,000 or 1,000,000), over which a runtime value counts.
    pub denominator: u32,
}

impl RuntimeFraction {
    /// The share that is `numerator` over the configured denominator, but no more than the default.
    pub fn at_most(&self, numerator: u64) -> PerMillion {
        let parts = numerator.saturating_mul(u64::from(1_000_000 / self.denominator.max(1)));
        PerMillion(u32::try_from(parts).unwrap_or(u32::MAX).min(self.default.0))
    }

    /// A fraction without a runtime key.
    pub fn fixed(default: PerMillion) -> Self {
        RuntimeFraction { default, key: String::new(), denominator: 1_000_000 }
    }
}

/// A switch with the runtime key that overrides it. **Source**: `envoy.config.core.v3.RuntimeFeatureFlag`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeFlag {
    /// The value where the key is not set.
    pub default: bool,
    /// Runtime key; empty: none.
    pub key: String,
}

/// Exponential back-off with full jitter. **Source**: `envoy.config.core.v3.BackoffStrategy`, `RetryPolicy.RetryBackOff`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackOff {
    /// First interval.
    pub base: Duration,
    /// Ceiling (default ten times the base).
    pub max: Duration,
}

impl BackOff {
    /// The pause before attempt `n`, counted from 1: anything below an interval that doubles up to the ceiling.
    pub fn interval(&self, n: u32, random: u64) -> Duration {
        let doubled = (self.base.as_millis() as u64).saturating_mul(1 << n.saturating_sub(1).min(20));
        Duration::from_millis(random % doubled.clamp(1, (self.max.as_millis() as u64).max(1)))
    }
}

/// Where something listens or is reached. **Source**: `envoy.config.core.v3.Address`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(std::net::SocketAddr),
    /// A Unix domain socket; a leading `@` is an abstract one.
    Pipe {
        /// Path.
        path: String,
        /// File mode; 0: as the umask has it.
        mode: u32,
    },
    /// A host name that DNS resolves (clusters only).
    Host {
        /// Name.
        name: String,
        /// Port.
        port: u16,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(a) => a.fmt(f),
            Address::Pipe { path, .. } => f.write_str(path),
            Address::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// **Source**: `envoy.config.core.v3.TcpKeepalive`; absent values are the system's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TcpKeepalive {
    /// Probes before giving up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// A raw `setsockopt`. **Source**: `envoy.config.core.v3.SocketOption`.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketOption {
    /// Level, for instance 6 for TCP.
    pub level: i32,
    /// Option number.
    pub name: i32,
    /// Value.
    pub value: SocketOptionValue,
    /// When it is applied.
    pub state: SocketOptionState,
}

/// A socket option's value.
#[derive(Debug, Clone, PartialEq)]
pub enum SocketOptionValue {
    /// Passed as a C `int`.
    Int(i32),
    /// Passed as bytes.
    Bytes(Vec<u8>),
}

/// When a socket option is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOptionState {
    /// After `socket()`.
    PreBind,
    /// After `bind()`.
    Bound,
    /// After `listen()`.
    Listening,
}

/// Text or bytes from a file, inline, or an environment variable. **Source**: `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataSource {
    /// Read from a file.
    File {
        /// Path.
        path: String,
        /// Read again when this directory is swapped.
        watched_directory: Option<String>,
    },
    /// Given in the configuration, or taken from the environment when it was loaded.
    Inline(Bytes),
}

impl std::fmt::Debug for DataSource {
    // Inline data may be a private key: it is never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataSource::File { path, .. } => write!(f, "File({path:?})"),
            DataSource::Inline(b) => write!(f, "Inline({} bytes)", b.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_ceiling() {
        let b = BackOff { base: Duration::from_millis(100), max: Duration::from_millis(350) };
        let most = |n| (0..5000u64).map(|random| b.interval(n, random).as_millis()).max();
        assert_eq!([1, 2, 3, 60].map(most), [Some(99), Some(199), Some(349), Some(349)]);
        let none = BackOff { base: Duration::ZERO, max: Duration::ZERO };
        assert_eq!(none.interval(1, 12345), Duration::ZERO);
    }
}
