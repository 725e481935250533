//! What one proxy sees of the world.
//!
//! Owns scoping: `exportTo`, Sidecars, namespaces; which rule counts for a host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::World;
use crate::model::config::{DestinationRule, GatewayRef, Sidecar, VirtualService};
use crate::model::host;
use crate::model::kinds::meta::Labels;
use crate::model::kinds::service_entry::{EgressListener, OutboundMode};
use crate::model::peer_authentication::{self, Mode};
use crate::model::service::{Port, Service, ServiceKey};
use crate::node::{Proxy, ProxyKind};

/// What one proxy sees.
pub(super) struct View<'w> {
    /// Everything.
    pub(super) world: &'w World,
    /// Who looks.
    pub(super) proxy: &'w Proxy,
    /// Its labels: as it says, else as its pod says.
    pub(super) labels: &'w Labels,
    /// What scopes it.
    pub(super) sidecar: Option<&'w Sidecar>,
    /// The services it sees, one for each host, sorted by host; of some only single ports.
    pub(super) services: Vec<Seen<'w>>,
    by_host: BTreeMap<&'w str, usize>,
}

/// A service, and which of its ports are seen.
#[derive(Clone)]
pub(super) struct Seen<'w> {
    /// The service.
    pub(super) service: &'w Arc<Service>,
    /// Only these ports; `None`: all.
    ports: Option<BTreeSet<u32>>,
}

impl<'w> Seen<'w> {
    /// The ports that are seen and are no datagrams.
    pub(super) fn ports(&self) -> impl Iterator<Item = &'w Port> + use<'w, '_> {
        let seen = |port: &&Port| self.ports.as_ref().is_none_or(|ports| ports.contains(&u32::from(port.number)));
        let service: &'w Service = self.service;
        service.ports.iter().filter(seen).filter(|port| port.protocol != crate::model::service::Protocol::Udp)
    }
}

impl<'w> View<'w> {
    pub(super) fn new(world: &'w World, proxy: &'w Proxy) -> Self {
        let labels = labels(world, proxy);
        let sidecar = sidecar(world, proxy, labels);
        let services = services(world, proxy, sidecar, world.services());
        Self::of(world, proxy, labels, sidecar, services)
    }

    /// Of services only those of some hosts.
    pub(super) fn of_hosts(world: &'w World, proxy: &'w Proxy, hosts: &BTreeSet<Arc<str>>) -> Self {
        let labels = labels(world, proxy);
        let sidecar = sidecar(world, proxy, labels);
        let of_hosts = hosts.iter().filter_map(|host| world.service_of_host(host, &proxy.namespace));
        let services = services(world, proxy, sidecar, of_hosts);
        Self::of(world, proxy, labels, sidecar, services)
    }

    fn of(
        world: &'w World,
        proxy: &'w Proxy,
        labels: &'w Labels,
        sidecar: Option<&'w Sidecar>,
        services: Vec<Seen<'w>>,
    ) -> Self {
        let by_host = services.iter().enumerate().map(|(index, seen)| (&*seen.service.key.host, index)).collect();
        Self { world, proxy, labels, sidecar, services, by_host }
    }

    /// What is seen through some of the Sidecar's `egress` alone, on their ports.
    pub(super) fn through(&self, egress: &[&'w EgressListener]) -> View<'w> {
        let narrowed = |seen: &Seen<'w>| {
            let named = egress.iter().filter(|of| lets_in(self.world, of, seen.service, &self.proxy.namespace));
            let ports: BTreeSet<u32> = named.filter_map(|of| Some(of.port.as_ref()?.number.into())).collect();
            (!ports.is_empty()).then_some(Seen { service: seen.service, ports: Some(ports) })
        };
        let services = self.services.iter().filter_map(narrowed).collect();
        Self::of(self.world, self.proxy, self.labels, self.sidecar, services)
    }

    /// The service of this host, if it is seen.
    pub(super) fn service(&self, host: &str) -> Option<&'w Service> {
        self.by_host.get(host).and_then(|index| self.services.get(*index)).map(|seen| &**seen.service)
    }

    /// Whether the workload has a certificate of the mesh.
    pub(super) fn has_identity(&self) -> bool {
        has_identity(self.world, self.proxy, self.labels)
    }

    /// What connections to a port of the workload must be; `None`: to any other.
    pub(super) fn inbound_mode(&self, port: Option<u32>) -> Mode {
        self.world.config().peer_authentications.mode(&self.proxy.namespace, self.labels, port)
    }

    /// What happens to traffic to hosts that are not seen.
    pub(super) fn outbound_mode(&self) -> OutboundMode {
        let own = self.sidecar.and_then(|sidecar| sidecar.spec.outbound_traffic_policy.as_ref());
        let policy = own.or(self.world.config().mesh.outbound_traffic_policy.as_ref());
        policy.map(|policy| policy.mode).unwrap_or_default()
    }

    /// The routes that count in one of these gateways, the oldest first.
    pub(super) fn virtual_services(&self, gateways: &[GatewayRef]) -> impl Iterator<Item = &'w VirtualService> {
        let namespace = &self.proxy.namespace;
        let all = self.world.config().virtual_services.iter();
        all.map(|routes| &**routes).filter(move |routes| {
            routes.visibility.includes(namespace) && routes.gateways.iter().any(|gateway| gateways.contains(gateway))
        })
    }

    /// The rules for a service: those in the caller's namespace, else in the service's, else in the root namespace; there those
    /// for the host itself, else for the most specific wildcard. The oldest counts, and others add their subsets.
    pub(super) fn destination_rules(&self, service: &Service) -> Vec<&'w DestinationRule> {
        let root = self.world.config().mesh.root_namespace();
        for namespace in [&*self.proxy.namespace, &*service.key.namespace, root] {
            let mut found: Vec<&DestinationRule> = self.rules_in(namespace, &service.key.host).collect();
            if let Some(best) = found.iter().map(|rule| host::specificity(&rule.host)).min() {
                found.retain(|rule| host::specificity(&rule.host) == best);
                return found;
            }
        }
        Vec::new()
    }

    fn rules_in<'v>(
        &'v self,
        namespace: &'v str,
        host: &'v str,
    ) -> impl Iterator<Item = &'w DestinationRule> + use<'w, 'v> {
        let own = namespace == self.proxy.namespace;
        self.world.config().destination_rules.iter().map(|rule| &**rule).filter(move |rule| {
            let for_us =
                rule.spec.workload_selector.as_ref().is_none_or(|selector| own && selector.matches(self.labels));
            &*rule.key.namespace == namespace
                && host::covers(&rule.host, host)
                && for_us
                && (own || rule.visibility.includes(&self.proxy.namespace))
        })
    }

    /// The services whose workload the proxy is beside: by its address, else by its labels.
    pub(super) fn own_services(&self) -> Vec<ServiceKey> {
        own_services(self.world, self.proxy, self.labels)
    }
}

/// A proxy's labels: as it says, else as its pod or WorkloadEntry says.
pub(super) fn labels<'w>(world: &'w World, proxy: &'w Proxy) -> &'w Labels {
    if proxy.labels.is_empty() {
        world.labels_of(&proxy.ips, &proxy.namespace).unwrap_or(&proxy.labels)
    } else {
        &proxy.labels
    }
}

/// Whether a proxy has a certificate of the mesh: its workload's label says so, and there is somebody to make one.
pub(super) fn has_identity(world: &World, proxy: &Proxy, labels: &Labels) -> bool {
    world.trust().is_some() && proxy.kind != ProxyKind::Grpc && peer_authentication::has_identity(labels)
}

pub(super) fn own_services(world: &World, proxy: &Proxy, labels: &Labels) -> Vec<ServiceKey> {
    if proxy.kind != ProxyKind::Sidecar {
        return Vec::new();
    }
    world.services_of(&proxy.ips, &proxy.namespace, labels).into_iter().cloned().collect()
}

/// The Sidecar that counts: one that selects the workload, else its namespace's, else the root namespace's.
pub(super) fn sidecar<'w>(world: &'w World, proxy: &Proxy, labels: &Labels) -> Option<&'w Sidecar> {
    if proxy.kind == ProxyKind::Gateway {
        return None;
    }
    let root = world.config().mesh.root_namespace();
    let all = || world.config().sidecars.iter().map(|sidecar| &**sidecar);
    let selecting = |sidecar: &&Sidecar| {
        let selector = sidecar.spec.workload_selector.as_ref().filter(|selector| !selector.is_empty());
        selector.map(|selector| selector.matches(labels))
    };
    let own = all().filter(|sidecar| *sidecar.key.namespace == *proxy.namespace);
    own.clone()
        .find(|sidecar| selecting(sidecar) == Some(true))
        .or_else(|| own.clone().find(|sidecar| selecting(sidecar).is_none()))
        .or_else(|| all().find(|sidecar| &*sidecar.key.namespace == root && selecting(sidecar).is_none()))
}

fn services<'w>(
    world: &'w World,
    proxy: &Proxy,
    sidecar: Option<&Sidecar>,
    all: impl Iterator<Item = &'w Arc<Service>>,
) -> Vec<Seen<'w>> {
    let namespace = &proxy.namespace;
    let mut seen: BTreeMap<&'w str, Seen<'w>> = BTreeMap::new();
    for service in all.filter(|service| service.visibility.includes(namespace)) {
        let chosen = world.service_of_host(&service.key.host, namespace);
        if chosen.is_none_or(|chosen| chosen.key != service.key) {
            continue;
        }
        if let Some(ports) = imported(world, service, namespace, sidecar) {
            seen.insert(&service.key.host, Seen { service, ports });
        }
    }
    seen.into_values().collect()
}

/// Whether a Sidecar's `egress` names a service, and on which ports (`Some(None)`: on all).
fn imported(
    world: &World,
    service: &Service,
    namespace: &str,
    sidecar: Option<&Sidecar>,
) -> Option<Option<BTreeSet<u32>>> {
    let Some(sidecar) = sidecar.filter(|sidecar| !sidecar.spec.egress.is_empty()) else { return Some(None) };
    let mut ports = BTreeSet::new();
    for egress in &sidecar.spec.egress {
        let named = lets_in(world, egress, service, namespace);
        match &egress.port {
            None if named => return Some(None),
            Some(port) if named => {
                ports.insert(port.number.into());
            }
            _ => {}
        }
    }
    (!ports.is_empty()).then_some(Some(ports))
}

/// Whether an `egress` names a service, or routes that lead to it.
fn lets_in(world: &World, egress: &EgressListener, service: &Service, namespace: &str) -> bool {
    egress.hosts.iter().any(|entry| {
        names(entry, namespace, &service.key.namespace, &service.key.host)
            || named_by_route(world, entry, namespace, &service.key.host)
    })
}

/// Whether `namespace/host` of a Sidecar names this host.
fn names(entry: &str, own: &str, namespace: &str, host_name: &str) -> bool {
    let (of, pattern) = entry.split_once('/').unwrap_or(("*", entry));
    let in_it = match of {
        "*" => true,
        "." => namespace == own,
        "~" => false,
        of => namespace == of,
    };
    in_it && host::covers(pattern, host_name)
}

/// Whether the entry names routes that lead to this host.
fn named_by_route(world: &World, entry: &str, own: &str, host_name: &str) -> bool {
    let routes = world.config().virtual_services.iter();
    routes.filter(|routes| routes.gateways.contains(&GatewayRef::Mesh) && routes.visibility.includes(own)).any(
        |routes| {
            let named = routes.hosts.iter().any(|host| names(entry, own, &routes.key.namespace, host));
            let leads = |destination: &str| *host::resolve(destination, &routes.key.namespace) == *host_name;
            named
                && (routes.http.iter().flat_map(|route| &route.route).any(|to| leads(&to.destination.host))
                    || routes.tcp.iter().flat_map(|route| &route.route).any(|to| leads(&to.destination.host))
                    || routes.tls.iter().flat_map(|route| &route.route).any(|to| leads(&to.destination.host)))
        },
    )
}
