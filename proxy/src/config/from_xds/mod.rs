//! Envoy's protobuf to validated configuration.
//!
//! Owns every rule of what a configuration may say, with Envoy's own words for a refusal where Envoy has some. Fields that
//! nothing here reads are none of its business: `weft_proto`'s table of supported fields reports them, wherever they come from.
//! What would let more in if it were dropped (matchers, trust, filters) is refused here as well.
//!
//! Runs on: the control thread. It reads files only where Envoy reads them while it loads configuration (formats, sizes of bodies).

#![allow(deprecated, reason = "configurations still use the deprecated spellings, so they are read")]

mod access_log;
mod address;
mod bootstrap;
mod cluster;
mod cors;
mod ctx;
mod discovery;
mod endpoint;
mod ext_authz;
mod extension;
mod fault;
mod filter_chain;
mod filter_chain_match;
mod hash_policy;
mod hcm;
mod hcm_extensions;
mod headers;
mod http_filter;
mod http_options;
mod identity;
mod jwt;
mod lb;
mod listener;
mod listener_filter;
mod matcher;
mod mirror;
mod network_filter;
mod per_filter;
mod rate_limit;
mod rbac;
mod resilience;
mod retry;
mod route;
mod route_action;
mod route_config;
mod route_match;
mod runtime;
mod secret;
mod service;
mod source;
mod stats;
mod tcp_proxy;
mod telemetry;
mod tls;
mod tls_validation;
mod transport;
mod upstream_http;
mod uri_template;
mod value;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as PbBootstrap;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig as PbExtension;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment as PbLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3::Listener as PbListener;
use weft_proto::pb::envoy::config::route::v3::{
    RouteConfiguration as PbRouteConfiguration, VirtualHost as PbVirtualHost,
};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret as PbSecret;
use weft_proto::pb::envoy::service::runtime::v3::Runtime as PbRuntime;

use self::ctx::{Ctx, Findings, Out, Shared};
pub use self::http_filter::fits as extension_fits;
pub use self::listener_filter::fits as listener_filter_fits;
pub use self::network_filter::fits as network_filter_fits;
use super::{
    Bootstrap, Cluster, ConfigError, Extension, Listener, ListenerFilterKind, LoadAssignment, NetworkFilterKind,
    RouteConfig, RuntimeValues, Secret, VirtualHost,
};

/// What a conversion knows of its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `node.id`, for `proxy_status_config.use_node_id`.
    pub node_id: String,
    /// `node.metadata`, for what is configured to be taken from it.
    pub node_metadata: serde_json::Value,
    /// Clusters that routes may name; absent: not known, so not checked.
    pub clusters: Option<HashSet<String>>,
    /// Static secrets that TLS contexts may name; absent: not known, so not checked.
    pub secrets: Option<HashSet<(SecretType, String)>>,
}

impl Environment {
    /// What discovered configuration finds in a bootstrap.
    pub fn of(bootstrap: &Bootstrap) -> Self {
        Environment {
            node_id: bootstrap.node.id.clone(),
            node_metadata: bootstrap.node.metadata.clone(),
            clusters: Some(bootstrap.clusters.iter().map(|c| c.name.clone()).collect()),
            secrets: Some(bootstrap.secrets.iter().map(|s| (secret::kind(&s.kind), s.name.clone())).collect()),
        }
    }
}

/// What a secret is asked for as. Two of different types may share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecretType {
    /// `tls_certificate`.
    Certificate,
    /// `validation_context`.
    Validation,
    /// `session_ticket_keys`.
    TicketKeys,
    /// `generic_secret`.
    Generic,
}

/// What the command line says about the node.
#[derive(Debug, Clone, Default)]
pub struct NodeOverrides {
    /// `--service-node`.
    pub id: Option<String>,
    /// `--service-cluster`.
    pub cluster: Option<String>,
    /// `--service-zone`.
    pub zone: Option<String>,
}

/// A converted message.
#[derive(Debug, Clone)]
pub struct Converted<T> {
    /// The configuration.
    pub value: T,
    /// What is accepted but likely not what was meant; each names its field.
    pub warnings: Vec<ConfigError>,
    /// Fields left out because they may be, though nothing here implements them: optional filters, balancers beside one that is
    /// known. What the table of supported fields says of them, and of what is below them, does not count.
    pub skipped: Vec<String>,
}

/// Why a message was not converted.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// Every problem found, each with its field path.
    pub errors: Vec<ConfigError>,
    /// As in [`Converted`].
    pub skipped: Vec<String>,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

/// Converts a whole bootstrap.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn bootstrap(b: &PbBootstrap, overrides: &NodeOverrides) -> Result<Converted<Bootstrap>, Rejected> {
    let node = bootstrap::node(b, overrides);
    let resources = b.static_resources.as_ref();
    let env = Environment {
        node_id: node.id.clone(),
        node_metadata: node.metadata.clone(),
        clusters: Some(resources.iter().flat_map(|r| &r.clusters).map(|c| c.name.clone()).collect()),
        secrets: Some(resources.iter().flat_map(|r| &r.secrets).filter_map(secret::key).collect()),
    };
    run(&env, "", |c| bootstrap::bootstrap(c, b, node))
}

/// Converts a listener.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn listener(l: &PbListener, env: &Environment) -> Result<Converted<Listener>, Rejected> {
    run(env, &l.name, |c| listener::listener(c, l))
}

/// Converts a cluster.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn cluster(p: &PbCluster, env: &Environment) -> Result<Converted<Cluster>, Rejected> {
    run(env, &p.name, |c| cluster::cluster(c, p))
}

/// Converts a discovered route configuration: clusters are checked only if it says so.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn route_config(r: &PbRouteConfiguration, env: &Environment) -> Result<Converted<RouteConfig>, Rejected> {
    run(env, &r.name, |c| route_config::route_config(c, r, route_config::Source::Discovered))
}

/// Converts a discovered virtual host of the routes `of`.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn virtual_host(
    v: &PbVirtualHost,
    of: &RouteConfig,
    env: &Environment,
) -> Result<Converted<VirtualHost>, Rejected> {
    run(env, &v.name, |c| {
        let c = c.checking_clusters(of.validate_clusters);
        route_config::virtual_host(&c, v, of.max_direct_response_body)
    })
}

/// Converts the endpoints of an EDS cluster.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn load_assignment(a: &PbLoadAssignment, env: &Environment) -> Result<Converted<LoadAssignment>, Rejected> {
    run(env, &a.cluster_name, |c| {
        let assignment = endpoint::load_assignment(c, a)?;
        endpoint::fits(c, &super::Discovery::Static, &assignment)?;
        Ok(assignment)
    })
}

/// Converts a secret.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn secret(s: &PbSecret, env: &Environment) -> Result<Converted<Secret>, Rejected> {
    run(env, &s.name, |c| secret::secret(c, s))
}

/// Converts a discovered runtime layer.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn runtime(r: &PbRuntime, env: &Environment) -> Result<Converted<RuntimeValues>, Rejected> {
    run(env, &r.name, |c| runtime::discovered(c, r))
}

/// Converts a discovered configuration of a filter.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn extension(t: &PbExtension, env: &Environment) -> Result<Converted<Extension>, Rejected> {
    run(env, &t.name, |c| http_filter::discovered(c, t))
}

/// Converts a discovered configuration of a network filter.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn network_extension(
    t: &PbExtension,
    env: &Environment,
) -> Result<Converted<Extension<NetworkFilterKind>>, Rejected> {
    run(env, &t.name, |c| network_filter::discovered(c, t))
}

/// Converts a discovered configuration of a listener filter.
///
/// # Errors
/// Every problem found, each with its field path.
pub fn listener_extension(
    t: &PbExtension,
    env: &Environment,
) -> Result<Converted<Extension<ListenerFilterKind>>, Rejected> {
    run(env, &t.name, |c| listener_filter::discovered(c, t))
}

fn run<T>(
    env: &Environment,
    resource: &str,
    convert: impl FnOnce(&Ctx<'_>) -> Out<T>,
) -> Result<Converted<T>, Rejected> {
    let shared = Shared::new(env);
    let out = convert(&Ctx::root(&shared));
    let Findings { mut errors, mut warnings, skipped } = shared.into_findings();
    for problem in errors.iter_mut().chain(&mut warnings) {
        resource.clone_into(&mut problem.resource);
    }
    match out {
        Ok(value) if errors.is_empty() => Ok(Converted { value, warnings, skipped }),
        _ => Err(Rejected { errors, skipped }),
    }
}
