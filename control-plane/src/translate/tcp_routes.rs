//! Connections of bytes and of TLS that is passed on: `tcp` and `tls` of VirtualServices, else the service itself.

use std::time::Duration;

use weft_proto::pb::envoy::config::listener::v3 as pb;

use super::chains::{self, chain};
use super::policy::Policy;
use super::telemetry::{self, Side};
use super::view::View;
use super::{http, names};
use crate::model::config::{GatewayRef, VirtualService};
use crate::model::host;
use crate::model::kinds::destination_rule::Tunnel;
use crate::model::kinds::meta::{Labels, contains_all};
use crate::model::kinds::virtual_service::{L4Match, RouteDestination, TlsMatch};
use crate::model::service::{Port, Service};

/// The chains for connections to a port of a service; the last one takes what the others do not.
pub(super) fn chains<'w>(view: &View<'w>, service: &'w Service, port: &'w Port) -> Vec<pb::FilterChain> {
    let mut made = Vec::new();
    let number = u32::from(port.number);
    let covers = |routes: &&VirtualService| routes.hosts.iter().any(|pattern| host::covers(pattern, &service.key.host));
    let routes = view.virtual_services(&[GatewayRef::Mesh]).find(|routes| {
        covers(routes) && if port.protocol.is_tls() { !routes.tls.is_empty() } else { !routes.tcp.is_empty() }
    });
    let place = Place { view, gateways: &[GatewayRef::Mesh], port: number };
    if let Some(routes) = routes {
        made = if port.protocol.is_tls() { place.tls(routes) } else { place.tcp(routes) };
    }
    let ends = made.iter().any(|chain| chain.filter_chain_match.is_none());
    if !ends {
        let to = [(names::outbound(number, "", &service.key.host), 0)];
        let idle = idle_timeout(view, service, number);
        let tunnel = tunnel(view, service, None);
        let filter = http::tunnelled(&view.world.config().mesh, &to[0].0, &to, idle, tunnel);
        let own = chain("", place.counted(filter));
        // Services without addresses share a listener, and TLS tells them apart.
        let by_name = port.protocol.is_tls() && service.addresses.is_empty();
        made.push(if by_name { chains::only_names(own, vec![service.key.host.to_string()]) } else { own });
    }
    made
}

fn idle_timeout(view: &View<'_>, service: &Service, port: u32) -> Option<Duration> {
    let rules = view.destination_rules(service);
    let whole = rules.first().and_then(|rule| rule.spec.traffic_policy.as_ref());
    Policy::of(whole, None, port).connection_pool?.tcp.as_ref()?.idle_timeout
}

/// The tunnel of a subset or of the whole. As in Istio a subset does not inherit it.
fn tunnel<'w>(view: &View<'w>, service: &Service, subset: Option<&str>) -> Option<&'w Tunnel> {
    let rules = view.destination_rules(service);
    let policy = match subset {
        Some(name) => {
            let mut subsets = rules.iter().flat_map(|rule| &rule.spec.subsets);
            subsets.find(|subset| subset.name == name)?.traffic_policy.as_ref()
        }
        None => rules.first()?.spec.traffic_policy.as_ref(),
    };
    policy?.tunnel.as_ref()
}

/// Where connections arrive.
pub(super) struct Place<'v, 'w> {
    pub(super) view: &'v View<'w>,
    /// The gateways that are served, or the mesh.
    pub(super) gateways: &'v [GatewayRef],
    pub(super) port: u32,
}

impl Place<'_, '_> {
    /// The chains of `tls` rules: one for each match that can hold here.
    pub(super) fn tls(&self, routes: &VirtualService) -> Vec<pb::FilterChain> {
        let mut made = Vec::new();
        for rule in &routes.tls {
            for of in rule.r#match.iter().filter(|of| self.tls_applies(routes, of)) {
                let own = chains::only_names(self.chain(routes, &rule.route), of.sni_hosts.clone());
                made.push(narrowed(own, &of.destination_subnets));
            }
        }
        made
    }

    /// The chains of `tcp` rules.
    pub(super) fn tcp(&self, routes: &VirtualService) -> Vec<pb::FilterChain> {
        let mut made = Vec::new();
        for rule in &routes.tcp {
            if rule.r#match.is_empty() {
                made.push(self.chain(routes, &rule.route));
                break;
            }
            for of in rule.r#match.iter().filter(|of| self.l4_applies(routes, of)) {
                let mut own = narrowed(self.chain(routes, &rule.route), &of.destination_subnets);
                if let Some(range) = of.source_subnet.as_deref().and_then(super::wire::cidr) {
                    own.filter_chain_match.get_or_insert_default().source_prefix_ranges = vec![range];
                }
                made.push(own);
            }
        }
        made
    }

    fn chain(&self, routes: &VirtualService, to: &[RouteDestination]) -> pb::FilterChain {
        let namespace = &routes.key.namespace;
        let name = |to: &RouteDestination| self.view.destination_cluster(&to.destination, namespace, self.port);
        let clusters: Vec<(String, u32)> = match to {
            [only] => vec![(name(only), 0)],
            several => {
                several.iter().map(|to| (name(to), to.weight.unwrap_or(0))).filter(|(_, weight)| *weight > 0).collect()
            }
        };
        let mesh = &self.view.world.config().mesh;
        let stat_prefix = clusters.first().map_or(names::BLACK_HOLE, |(name, _)| name);
        let filter = if clusters.is_empty() {
            http::tcp_proxy(mesh, names::BLACK_HOLE, &[(names::BLACK_HOLE.to_owned(), 0)], None)
        } else {
            http::tunnelled(mesh, stat_prefix, &clusters, None, self.tunnel(namespace, to))
        };
        chain("", self.counted(filter))
    }

    fn counted(&self, filter: pb::Filter) -> Vec<pb::Filter> {
        let side = if self.gateways.contains(&GatewayRef::Mesh) { Side::Outbound } else { Side::Gateway };
        telemetry::counted(self.view, side, filter)
    }

    /// The tunnel of the first destination; of one among several its subset's does not count.
    fn tunnel(&self, namespace: &str, to: &[RouteDestination]) -> Option<&Tunnel> {
        let destination = &to.first()?.destination;
        let resolved = host::resolve(&destination.host, namespace);
        let service = self.view.world.service_of_host(&resolved, &self.view.proxy.namespace)?;
        let subset = destination.subset.as_deref().filter(|subset| to.len() == 1 && !subset.is_empty());
        tunnel(self.view, service, subset)
    }

    fn tls_applies(&self, routes: &VirtualService, of: &TlsMatch) -> bool {
        self.holds(routes, of.port, &of.gateways, &of.source_labels, of.source_namespace.as_deref())
    }

    fn l4_applies(&self, routes: &VirtualService, of: &L4Match) -> bool {
        self.holds(routes, of.port, &of.gateways, &of.source_labels, of.source_namespace.as_deref())
    }

    fn holds(
        &self,
        routes: &VirtualService,
        port: Option<u32>,
        gateways: &[String],
        labels: &Labels,
        namespace: Option<&str>,
    ) -> bool {
        let own = &routes.key.namespace;
        let in_gateway =
            gateways.is_empty() || gateways.iter().any(|name| self.gateways.contains(&GatewayRef::parse(name, own)));
        let from_source = !self.gateways.contains(&GatewayRef::Mesh)
            || (contains_all(self.view.labels, labels)
                && namespace.is_none_or(|from| *from == *self.view.proxy.namespace));
        port.is_none_or(|port| port == self.port) && in_gateway && from_source
    }
}

fn narrowed(chain: pb::FilterChain, networks: &[String]) -> pb::FilterChain {
    if networks.is_empty() { chain } else { chains::only_networks(chain, networks) }
}
