//! What a gateway gets: a listener for each port that Gateways open at it.
//!
//! Several Gateways may share a port: HTTP is told apart by host, TLS by server name. On a port the oldest Gateway says what is
//! spoken; what does not fit is left out.

use std::collections::BTreeMap;

use weft_proto::pb::envoy::config::core::v3::TrafficDirection;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::config::route::v3 as route_pb;

use super::chains::{self, chain};
use super::cluster::{self, Target};
use super::http::{self, Options, Routes};
use super::mutual_tls::MESH_PROTOCOLS;
use super::routes::gateway_table;
use super::tcp_routes::Place;
use super::view::View;
use super::{authorization, downstream_tls, telemetry, upstream_tls, wire};
use crate::model::config::{Gateway, GatewayRef, VirtualService};
use crate::model::host;
use crate::model::kinds::gateway::{Server, ServerTlsMode};
use crate::model::kinds::meta::contains_all;
use crate::model::kinds::service::PortRef;
use crate::model::service::{Protocol, Resolution, Service};
use crate::node::ProxyKind;

/// All addresses.
const ANY: &str = "0.0.0.0";

/// A server of a Gateway that is for this proxy.
#[derive(Clone, Copy)]
pub(super) struct Opened<'w> {
    pub(super) gateway: &'w Gateway,
    pub(super) server: &'w Server,
    how: How,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// HTTP in plaintext.
    Http,
    /// HTTP in TLS that ends here.
    Https,
    /// TLS that ends here, with bytes in it.
    TlsTermination,
    /// TLS that is passed on.
    Passthrough,
    /// Mutual TLS of the mesh, passed on to the service that its server name says.
    ByServerName,
    /// Bytes.
    Tcp,
}

impl How {
    fn of(server: &Server) -> Option<Self> {
        let protocol = Protocol::parse(&server.port.protocol)?;
        let mode = server.tls.as_ref().map(|tls| tls.mode);
        let passed_on = mode == Some(ServerTlsMode::Passthrough);
        let by_name = mode == Some(ServerTlsMode::AutoPassthrough);
        match protocol {
            protocol if protocol.is_http() => Some(Self::Http),
            Protocol::Https | Protocol::Tls if passed_on => Some(Self::Passthrough),
            Protocol::Https | Protocol::Tls if by_name => Some(Self::ByServerName),
            Protocol::Https => Some(Self::Https),
            Protocol::Tls => Some(Self::TlsTermination),
            Protocol::Tcp => Some(Self::Tcp),
            _ => None,
        }
    }

    /// Whether chains of both can be told apart on one port.
    fn fits(self, other: Self) -> bool {
        let in_tls = |how| matches!(how, Self::Https | Self::TlsTermination | Self::Passthrough | Self::ByServerName);
        self == other || (in_tls(self) && in_tls(other))
    }
}

/// The Gateways that are for this proxy, the oldest first.
fn gateways<'w>(view: &View<'w>) -> impl Iterator<Item = &'w Gateway> {
    view.world.config().gateways.iter().map(|gateway| &**gateway).filter(|gateway| {
        contains_all(view.labels, &gateway.spec.selector)
            && (!gateway.own_namespace_only || *gateway.key.namespace == *view.proxy.namespace)
    })
}

/// What is opened, by address and port.
fn opened<'w>(view: &View<'w>) -> BTreeMap<(&'w str, u32), Vec<Opened<'w>>> {
    let mut ports: BTreeMap<(&'w str, u32), Vec<Opened<'w>>> = BTreeMap::new();
    for gateway in gateways(view) {
        for server in &gateway.spec.servers {
            let Some(how) = How::of(server) else { continue };
            let bind = server.bind.as_deref().filter(|bind| !bind.is_empty()).unwrap_or(ANY);
            let on_port = ports.entry((bind, target_port(view, server.port.number))).or_default();
            if on_port.first().is_none_or(|first| first.how.fits(how)) {
                on_port.push(Opened { gateway, server, how });
            }
        }
    }
    ports
}

/// Every server that is opened.
pub(super) fn servers<'w>(view: &View<'w>) -> impl Iterator<Item = Opened<'w>> {
    opened(view).into_values().flatten()
}

/// The servers that are opened at an address and port.
pub(super) fn servers_at<'w>(view: &View<'w>, address: &str, port: u32) -> Vec<Opened<'w>> {
    let at = opened(view).into_iter().find(|((bind, of), _)| *bind == address && *of == port);
    at.map(|(_, servers)| servers).unwrap_or_default()
}

/// The proxy's port behind a port of its Service, else the port itself.
fn target_port(view: &View<'_>, number: u32) -> u32 {
    let own = |service: &&std::sync::Arc<crate::model::service::Service>| {
        *service.key.namespace == *view.proxy.namespace
            && service.selector.as_ref().is_some_and(|selector| contains_all(view.labels, selector))
    };
    let port = view.world.services().filter(own).find_map(|service| service.port(number));
    match port.map(|port| &port.target) {
        Some(PortRef::Number(target)) => (*target).into(),
        _ => number,
    }
}

/// All listeners and the route configurations they name.
pub(super) fn listeners_and_tables(view: &View<'_>) -> (Vec<pb::Listener>, Vec<route_pb::RouteConfiguration>) {
    let mesh = &view.world.config().mesh;
    let mut listeners = Vec::new();
    let mut tables = Vec::new();
    for ((bind, port), servers) in opened(view) {
        let mut made: Vec<pb::FilterChain> = Vec::new();
        if servers.first().is_some_and(|first| first.how == How::Http) {
            let table = format!("http.{port}");
            made.push(chain("", vec![manager(view, bind, port, &table)]));
            tables.push(gateway_table(view, &table, port, &servers));
        } else {
            for of in &servers {
                for chain in of_server(view, bind, port, of, &mut tables) {
                    // Envoy refuses two chains with one match: the older one counts.
                    if made.iter().all(|other| other.filter_chain_match != chain.filter_chain_match) {
                        made.push(chain);
                    }
                }
            }
        }
        if !made.is_empty() {
            let name = format!("{bind}_{port}");
            listeners.push(chains::listener(&name, bind, port, TrafficDirection::Outbound, made, None, mesh));
        }
    }
    (listeners, tables)
}

fn manager(view: &View<'_>, bind: &str, port: u32, table: &str) -> pb::Filter {
    let options = Options {
        stat_prefix: format!("outbound_{bind}_{port}"),
        routes: Routes::Named(table.to_owned()),
        edge: true,
        grpc_web: false,
        certificates: false,
        telemetry: telemetry::http_filters(view, telemetry::Side::Gateway),
        authorization: authorization::http_filters(view),
    };
    http::manager(&view.world.config().mesh, options)
}

/// The chains of a server that is not HTTP in plaintext.
fn of_server(
    view: &View<'_>,
    bind: &str,
    port: u32,
    of: &Opened<'_>,
    tables: &mut Vec<route_pb::RouteConfiguration>,
) -> Vec<pb::FilterChain> {
    let names: Vec<String> = of.hosts().map(|(_, host)| host.to_owned()).collect();
    match of.how {
        How::Http => Vec::new(),
        How::Https => {
            let Some(context) = of.server.tls.as_ref().and_then(|tls| downstream_tls::context(view, tls, true)) else {
                return Vec::new();
            };
            let name = of.server.port.name.as_deref().unwrap_or("https");
            let key = &of.gateway.key;
            let table = format!("https.{port}.{name}.{}.{}", key.name, key.namespace);
            let mut made = chain("", vec![manager(view, bind, port, &table)]);
            made.transport_socket = Some(wire::transport_socket(upstream_tls::TLS, &context));
            tables.push(gateway_table(view, &table, port, std::slice::from_ref(of)));
            vec![chains::only_names(made, names)]
        }
        How::TlsTermination | How::Passthrough | How::Tcp => connections(view, of, &names),
        How::ByServerName => by_server_name(view, &names),
    }
}

/// Hosts of services that connections are passed on to by the server name they show.
pub(super) fn passed_on<'w>(view: &View<'w>) -> Vec<&'w str> {
    if view.proxy.kind != ProxyKind::Gateway {
        return Vec::new();
    }
    let of = servers(view).filter(|of| of.how == How::ByServerName);
    of.flat_map(|of| of.hosts().map(|(_, host)| host).collect::<Vec<_>>()).collect()
}

/// Whether connections to a service are passed on, where those to `open` are.
pub(super) fn passes_on(open: &[&str], service: &Service) -> bool {
    let in_mesh = !service.external && matches!(service.resolution, Resolution::Endpoints);
    in_mesh && open.iter().any(|open| host::covers(open, &service.key.host))
}

/// A chain for each service and subset. Policies cannot look into what is passed on; who is called does that.
fn by_server_name(view: &View<'_>, names: &[String]) -> Vec<pb::FilterChain> {
    let open: Vec<&str> = names.iter().map(String::as_str).collect();
    let targets = cluster::targets(view).into_iter();
    let targets = targets.filter(|target| target.passed_on && passes_on(&open, target.service));
    let chain = |target: Target<'_>| {
        let name = target.name();
        let idle = target.policy.connection_pool.and_then(|pool| pool.tcp.as_ref()?.idle_timeout);
        let filter = http::tcp_proxy(&view.world.config().mesh, &name, &[(name.clone(), 0)], idle);
        let filters = telemetry::counted(view, telemetry::Side::Gateway, filter);
        let mut made = chains::only_names(chain("", filters), vec![name]);
        // What offers none of these is no mutual TLS of the mesh.
        made.filter_chain_match.get_or_insert_default().application_protocols =
            MESH_PROTOCOLS.map(str::to_owned).to_vec();
        made
    };
    targets.map(chain).collect()
}

/// Chains of connections: the `tls` rules for what is passed on, the `tcp` rules for the rest.
fn connections(view: &View<'_>, of: &Opened<'_>, names: &[String]) -> Vec<pb::FilterChain> {
    let gateways = [of.gateway.reference.clone()];
    let place = Place { view, gateways: &gateways, port: of.server.port.number };
    let context = match (of.how, &of.server.tls) {
        (How::TlsTermination, Some(tls)) => match downstream_tls::context(view, tls, false) {
            Some(context) => Some(context),
            None => return Vec::new(),
        },
        _ => None,
    };
    let judges = authorization::network_filters(view);
    let mut made = Vec::new();
    for routes in view.virtual_services(&gateways).filter(|routes| of.takes(routes)) {
        if of.how == How::Passthrough {
            let fits = |name: &String| names.iter().any(|open| host::covers(open, name));
            let chains = place.tls(routes).into_iter();
            made.extend(
                chains.filter(|chain| {
                    chain.filter_chain_match.as_ref().is_some_and(|of| of.server_names.iter().all(fits))
                }),
            );
            continue;
        }
        for mut chain in place.tcp(routes) {
            if let Some(context) = &context {
                chain.transport_socket = Some(wire::transport_socket(upstream_tls::TLS, context));
                chain = chains::only_names(chain, names.to_vec());
            }
            made.push(chain);
        }
    }
    for chain in &mut made {
        chain.filters.splice(0..0, judges.iter().cloned());
    }
    made
}

impl<'w> Opened<'w> {
    /// Its hosts, with the namespaces whose routes may use them (`*`: all).
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&'w str, &'w str)> {
        let own: &'w str = &self.gateway.key.namespace;
        self.server.hosts.iter().map(move |entry| match entry.split_once('/') {
            Some((".", host)) => (own, host),
            Some((namespace, host)) => (namespace, host),
            None => ("*", entry.as_str()),
        })
    }

    /// The hosts that routes have here: those of both, in the narrower form.
    pub(super) fn common_hosts(&self, routes: &'w VirtualService) -> Vec<&'w str> {
        let mut common = Vec::new();
        for of_route in &routes.hosts {
            for (_, open) in self.hosts().filter(|(namespace, _)| allows(namespace, routes)) {
                let narrower = if host::covers(open, of_route) {
                    &**of_route
                } else if host::covers(of_route, open) {
                    open
                } else {
                    continue;
                };
                if !common.contains(&narrower) {
                    common.push(narrower);
                }
            }
        }
        common
    }

    fn takes(&self, routes: &'w VirtualService) -> bool {
        !self.common_hosts(routes).is_empty()
    }

    /// What routes call its Gateway.
    pub(super) fn reference(&self) -> GatewayRef {
        self.gateway.reference.clone()
    }
}

fn allows(namespace: &str, routes: &VirtualService) -> bool {
    namespace == "*" || *namespace == *routes.key.namespace
}
