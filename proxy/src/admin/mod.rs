//! The admin interface: an HTTP server with Envoy's endpoints and output, and over gRPC the client status discovery service.
//!
//! Owns the listening socket, the router and the rendering. Knows the rest of the proxy only through [`Sources`]: plain data and
//! closures that whoever starts it fills in. It changes nothing itself but counters, runtime values and log levels; all else
//! is a [`Command`] to the control loop.
//!
//! Runs on: the control thread.

mod body;
mod certs;
mod client_status;
mod clusters;
mod config_dump;
mod control;
mod grpc;
mod html;
mod listeners;
mod logging;
mod router;
mod runtime;
mod server;
mod server_info;
mod sources;
mod stats;
mod status;

pub use certs::{CertificateDetails, CertificateGroup, SubjectName};
pub use client_status::{ClientStatus, Held, ResourceStatus};
pub use config_dump::{ConfigDump, DumpedListener, DumpedResource, UpdateFailure};
pub use logging::{Level, Loggers};
pub use server::AdminServer;
pub use server_info::CommandLineOptions;
pub use sources::{Command, ServerInfo, ServerState, Source, Sources, ToJson, UnreadyTargets};
pub use status::{ClusterStatus, HealthFlags, HostStatus, ListenerStatus, OutlierThresholds, Thresholds};

#[cfg(test)]
mod tests;
