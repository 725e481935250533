//! What the admin interface is told by the rest of the proxy.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::certs::CertificateGroup;
use super::client_status::ClientStatus;
use super::config_dump::ConfigDump;
use super::logging::Loggers;
use super::server_info::CommandLineOptions;
use super::status::{ClusterStatus, ListenerStatus};
use crate::access_log::SinkRegistry;
use crate::config::Node;
use crate::runtime::Runtime;
use crate::stats::Store;

/// Asked anew for every request; it must not block.
pub type Source<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// From a type URL and an encoded message to JSON, or what is wrong with the message.
pub type ToJson = dyn Fn(&str, &[u8]) -> Result<Value, String> + Send + Sync;

/// Everything the admin interface shows or does.
#[derive(Clone)]
pub struct Sources {
    /// Stats.
    pub stats: Arc<Store>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Access log files, for `/reopen_logs`.
    pub sinks: Arc<SinkRegistry>,
    /// Log levels.
    pub loggers: Arc<Loggers>,
    /// State and options of the process.
    pub server: Source<ServerInfo>,
    /// Clusters and their hosts, in any order.
    pub clusters: Source<Vec<ClusterStatus>>,
    /// Listeners that are open, in the order of configuration.
    pub listeners: Source<Vec<ListenerStatus>>,
    /// Certificates in use.
    pub certificates: Source<Vec<CertificateGroup>>,
    /// The configuration as it was given.
    pub config: Source<ConfigDump>,
    /// What was discovered, for the client status discovery service.
    pub status: Source<ClientStatus>,
    /// What start-up or a configuration change still waits for.
    pub unready: Source<Vec<UnreadyTargets>>,
    /// Turns an encoded message of a type URL into JSON, with proto field names, well-known types as protobuf's JSON mapping has
    /// them, `Any`s opened, and fields marked `udpa.annotations.sensitive` redacted.
    pub to_json: Arc<ToJson>,
    /// What is to be done. The control loop reads it.
    pub commands: UnboundedSender<Command>,
}

/// What `/server_info`, `/ready` and log lines say of the process.
#[derive(Debug, Clone)]
pub struct ServerInfo {
    /// Revision, version, source state, build type and TLS library, by slashes, as Envoy's version string has them.
    pub version: String,
    /// State.
    pub state: ServerState,
    /// Time since start.
    pub uptime: Duration,
    /// Options.
    pub options: CommandLineOptions,
    /// Node.
    pub node: Node,
    /// What it waits for besides its configuration.
    pub waits: Option<String>,
}

/// What a process is doing. **Source**: `envoy.admin.v3.ServerInfo.State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live,
    /// Told to fail health checks, or draining.
    Draining,
    /// Waiting for the configuration that clusters need.
    PreInitializing,
    /// Waiting for clusters and listeners.
    Initializing,
}

impl ServerState {
    /// The name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            ServerState::Live => "LIVE",
            ServerState::Draining => "DRAINING",
            ServerState::PreInitializing => "PRE_INITIALIZING",
            ServerState::Initializing => "INITIALIZING",
        }
    }
}

/// What an init manager waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadyTargets {
    /// Whose targets they are, for instance `init manager Server`.
    pub name: String,
    /// The targets.
    pub targets: Vec<String>,
}

/// What the admin interface asks of the control loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `/healthcheck/fail`: health checks fail from now on.
    FailHealthChecks,
    /// `/healthcheck/ok`: they succeed again.
    PassHealthChecks,
    /// `/drain_listeners`.
    DrainListeners {
        /// Only after the drain period are listeners closed.
        graceful: bool,
        /// Listeners stay open.
        skip_exit: bool,
        /// Only listeners whose traffic direction is inbound.
        inbound_only: bool,
    },
    /// `/quitquitquit`: the process ends.
    Quit,
}
