//! From the world to xDS: what each proxy gets.
//!
//! Pure functions. Must not know: files, streams, versions.
//!
//! | | |
//! |---|---|
//! | `view` | what a proxy sees: `exportTo`, Sidecars, which rule counts |
//! | `cluster`, `policy`, `balancing`, `upstream_tls` | clusters |
//! | `secrets` | certificates and keys |
//! | `endpoints`, `locality` | their endpoints |
//! | `routes` | route configurations |
//! | `authorization` | who may reach a workload |
//! | `patch` | EnvoyFilters, over all of it |
//! | `gateway`, `downstream_tls` | listeners of gateways |
//! | `grpc` | all of it for proxyless gRPC clients |
//! | `outbound`, `inbound`, `tcp_routes`, `chains`, `http` | listeners |

mod authorization;
mod balancing;
mod chains;
mod cluster;
mod downstream_tls;
mod endpoints;
mod gateway;
mod grpc;
mod http;
mod inbound;
mod locality;
mod names;
mod outbound;
mod patch;
mod policy;
mod routes;
mod secrets;
mod tcp_routes;
mod upstream_tls;
mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::cluster::{Discovery, Target};
use self::view::View;
use crate::generate::{Changes, Generator, Update};
use crate::model::World;
use crate::model::kinds::meta::Labels;
use crate::model::service::ServiceKey;
use crate::node::{Proxy, ProxyKind, Scope};
use crate::resource::{Resource, ResourceSet, ResourceType, Resources};

/// What generation looks at of a proxy: proxies that have it in common get the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    scope: Scope,
    /// Those that the world knows, if the proxy does not say.
    labels: Labels,
    /// The services of its workload, and their ports there.
    services: Vec<(ServiceKey, BTreeMap<u16, u16>)>,
    /// Its addresses, where listeners are bound to them.
    ips: Vec<IpAddr>,
}

impl Generator for World {
    type Key = Key;

    fn key(&self, proxy: &Proxy) -> Key {
        let labels = view::labels(self, proxy);
        let ports = |key: &ServiceKey| {
            let own = self.endpoints(key).iter().find(|of| of.ip().is_some_and(|ip| proxy.ips.contains(&ip)));
            own.map(|own| own.ports.clone()).unwrap_or_default()
        };
        let services =
            view::own_services(self, proxy, labels).into_iter().map(|key| (key.clone(), ports(&key))).collect();
        // A Sidecar may name the proxy's own address, and without redirection listeners are bound to it.
        let by_address = !is_captured(proxy) || !self.config().sidecars.is_empty();
        let ips = if by_address { proxy.ips.clone() } else { Vec::new() };
        Key { scope: proxy.scope(), labels: labels.clone(), services, ips }
    }

    fn generate(&self, proxy: &Proxy, update: Option<Update<'_>>) -> Resources {
        match update {
            Some(Update { changes, previous }) if !changes.everything => updated(self, proxy, changes, previous),
            _ => generate(self, proxy),
        }
    }
}

/// Whether the proxy's connections are redirected to it. Istio's agents say so in the metadata; it is the default.
fn is_captured(proxy: &Proxy) -> bool {
    proxy.metadata_text("INTERCEPTION_MODE") != "NONE"
}

/// Everything a proxy gets.
#[must_use]
pub fn generate(world: &World, proxy: &Proxy) -> Resources {
    let view = View::new(world, proxy);
    let mut resources = Resources::default();
    let targets = cluster::targets(&view);
    let mut assignments = all_endpoints(&view, &targets, None);
    resources.set(ResourceType::Secret, all_secrets(&view, &targets));
    let mut clusters: Vec<_> = targets.iter().map(|target| cluster::cluster(&view, target)).collect();
    let mut listeners = Vec::new();
    let mut tables = Vec::new();
    match proxy.kind {
        ProxyKind::Sidecar => {
            let captured = is_captured(proxy);
            let ports = inbound::ports(&view, captured);
            clusters.extend([cluster::black_hole(), cluster::original_dst(names::PASSTHROUGH)]);
            clusters.extend(inbound::clusters(&ports));
            listeners.extend(outbound::listeners(&view, captured));
            listeners.extend(inbound::listeners(&view, &ports, captured));
            tables.extend(outbound::http_ports(&view).into_iter().map(|port| routes::port_table(&view, port)));
        }
        ProxyKind::Grpc => {
            let (nowhere, nobody) = grpc::black_hole();
            assignments.insert(Resource::new(nobody.cluster_name.as_str(), &nobody));
            clusters.push(nowhere);
            (listeners, tables) = grpc::listeners_and_tables(&view);
        }
        ProxyKind::Gateway => {
            clusters.push(cluster::black_hole());
            (listeners, tables) = gateway::listeners_and_tables(&view);
        }
    }
    resources.set(ResourceType::Endpoints, assignments);
    let mut generated = patch::Generated { clusters, listeners, tables, extensions: Vec::new() };
    patch::apply(&view, &mut generated);
    let patch::Generated { clusters, listeners, tables, extensions } = generated;
    let set = |named: Vec<Resource>| named.into_iter().collect::<ResourceSet>();
    resources.set(ResourceType::Cluster, set(clusters.iter().map(|of| Resource::new(of.name.as_str(), of)).collect()));
    resources
        .set(ResourceType::Listener, set(listeners.iter().map(|of| Resource::new(of.name.as_str(), of)).collect()));
    resources.set(ResourceType::Route, set(tables.iter().map(|of| Resource::new(of.name.as_str(), of)).collect()));
    resources
        .set(ResourceType::Extension, set(extensions.iter().map(|of| Resource::new(of.name.as_str(), of)).collect()));
    resources
}

/// The endpoints of all targets, or of those of some hosts.
fn all_endpoints(
    view: &View<'_>,
    targets: &[Target<'_>],
    hosts: Option<&BTreeSet<std::sync::Arc<str>>>,
) -> ResourceSet {
    let wanted = targets.iter().filter(|target| {
        target.discovery(view.proxy.kind) == Discovery::Endpoints
            && hosts.is_none_or(|hosts| hosts.contains(&target.service.key.host))
    });
    let made = wanted.map(|target| {
        let assignment = endpoints::assignment(view, target);
        Resource::new(assignment.cluster_name.as_str(), &assignment)
    });
    made.collect()
}

fn all_secrets(view: &View<'_>, targets: &[Target<'_>]) -> ResourceSet {
    secrets::all(view, targets).iter().map(|of| Resource::new(of.name.as_str(), of)).collect()
}

/// What was generated before, with what the changes touch.
fn updated(world: &World, proxy: &Proxy, changes: &Changes, previous: &Resources) -> Resources {
    let mut resources = previous.clone();
    let view = View::new(world, proxy);
    if !changes.secrets.is_empty() {
        resources.set(ResourceType::Secret, all_secrets(&view, &cluster::targets(&view)));
    }
    if !changes.endpoints.is_empty() {
        let seen = view.services.iter().filter(|seen| changes.endpoints.contains(&seen.service.key.host));
        let targets: Vec<Target<'_>> =
            seen.flat_map(|seen| cluster::of_service(&view, seen.service, seen.ports())).collect();
        let made = all_endpoints(&view, &targets, Some(&changes.endpoints));
        if !made.is_empty() {
            let set = resources.set_mut(ResourceType::Endpoints);
            made.iter().for_each(|resource| set.insert(resource.clone()));
        }
    }
    resources
}
