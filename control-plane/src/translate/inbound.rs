//! What a sidecar's workload receives: its inbound listener and clusters.
//!
//! As in Istio, one listener takes all redirected connections (`virtualInbound`), with a chain for each port that a service
//! of the workload has. Where the workload has an identity, a chain becomes one for each of mutual TLS and plaintext, with the
//! same filters; a PeerAuthentication may leave out either.

use std::collections::BTreeMap;

use weft_proto::pb::envoy::config::cluster::v3 as cluster_pb;
use weft_proto::pb::envoy::config::core::v3::{self as core, TrafficDirection};
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::config::route::v3 as route_pb;

use super::chains::{self, chain};
use super::http::{self, Options, Routes};
use super::mutual_tls::{self, MESH_HTTP_PROTOCOLS, MESH_PROTOCOLS};
use super::view::View;
use super::wire::{self, bool_value, duration};
use super::{authorization, cluster, downstream_tls, names, telemetry};
use crate::model::kinds::destination_rule::ConnectionPool;
use crate::model::kinds::gateway::ServerTls;
use crate::model::kinds::service_entry::IngressListener;
use crate::model::peer_authentication::Mode;
use crate::model::service::{Protocol, ServiceKey};

/// Where redirected inbound connections arrive (Istio's port).
const PORT: u32 = 15006;
/// The source of connections to the workload, which redirection leaves alone (Istio's address).
const SOURCE: &str = "127.0.0.6";
/// All addresses.
const ANY: &str = "0.0.0.0";

/// A port of the workload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InboundPort<'w> {
    /// The number clients connect to.
    number: u32,
    protocol: Protocol,
    /// Where the workload listens; `None`: where the client wanted to go.
    endpoint: Option<(String, u32)>,
    /// The address of a listener of its own; `None`: connections to it are redirected.
    bind: Option<String>,
    /// What clients call.
    service: Option<ServiceKey>,
    pool: Option<&'w ConnectionPool>,
    /// TLS of its own, where the mesh's is disabled.
    tls: Option<&'w ServerTls>,
}

/// What the workload accepts: what its Sidecar says, else the ports its services have at it.
pub(super) fn ports<'w>(view: &View<'w>, captured: bool) -> Vec<InboundPort<'w>> {
    let scope = view.sidecar.map(|sidecar| &sidecar.spec);
    if let Some(scope) = scope.filter(|scope| !scope.ingress.is_empty()) {
        let pool = scope.inbound_connection_pool.as_ref();
        return scope.ingress.iter().map(|of| of_ingress(of, view, captured, pool)).collect();
    }
    let pool = scope.and_then(|scope| scope.inbound_connection_pool.as_ref());
    let mut found: BTreeMap<u32, InboundPort<'w>> = BTreeMap::new();
    for key in view.own_services() {
        let Some(service) = view.world.service(&key) else { continue };
        let own = view.world.endpoints(&key).iter().find(|of| of.ip().is_some_and(|ip| view.proxy.ips.contains(&ip)));
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
            let target = match (own.and_then(|own| own.ports.get(&port.number)), &port.target) {
                (Some(target), _) => *target,
                (None, crate::model::kinds::service::PortRef::Number(target)) => *target,
                (None, crate::model::kinds::service::PortRef::Name(_)) => continue,
            };
            let number = u32::from(target);
            let endpoint = (!captured).then(|| ("127.0.0.1".to_owned(), number));
            let bind = (!captured).then(|| own_address(view));
            let service = Some(key.clone());
            let of = InboundPort { number, protocol: port.protocol, endpoint, bind, service, pool, tls: None };
            // Of two services on one port the first one's protocol counts.
            found.entry(number).or_insert(of);
        }
    }
    found.into_values().collect()
}

/// The proxy's own address, if it says one.
fn own_address(view: &View<'_>) -> String {
    view.proxy.ips.first().map_or_else(|| ANY.to_owned(), ToString::to_string)
}

fn of_ingress<'w>(
    of: &'w IngressListener,
    view: &View<'_>,
    captured: bool,
    pool: Option<&'w ConnectionPool>,
) -> InboundPort<'w> {
    let protocol = of.port.protocol.as_deref().or(of.port.name.as_deref()).and_then(Protocol::parse);
    let endpoint = of.default_endpoint.as_deref().and_then(|endpoint| {
        if endpoint.starts_with("unix://") {
            return Some((endpoint.to_owned(), 0));
        }
        let (host, port) = endpoint.rsplit_once(':')?;
        let port: u32 = port.parse().ok()?;
        // Istio's way to name the workload's own address.
        let itself = matches!(host, ANY | "[::]" | "::");
        let own = itself.then(|| view.proxy.ips.first().map(ToString::to_string)).flatten();
        Some((own.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned()), port))
    });
    let number = u32::from(of.port.number);
    let captured = of.capture_mode.is_captured(captured);
    let told = of.bind.clone().filter(|bind| bind.parse::<std::net::IpAddr>().is_ok());
    // Where it wanted to go is the listener itself, if it was not redirected.
    let endpoint = endpoint.or_else(|| (!captured).then(|| ("127.0.0.1".to_owned(), number)));
    InboundPort {
        number,
        bind: (!captured).then(|| told.unwrap_or_else(|| own_address(view))),
        protocol: protocol.unwrap_or(Protocol::Auto),
        endpoint,
        service: view.own_services().into_iter().next(),
        pool: of.connection_pool.as_ref().or(pool),
        tls: of.tls.as_ref(),
    }
}

/// The clusters of the workload itself.
pub(super) fn clusters(view: &View<'_>, ports: &[InboundPort<'_>]) -> Vec<cluster_pb::Cluster> {
    let mut clusters = vec![with_source(cluster::original_dst(names::INBOUND_PASSTHROUGH))];
    for port in ports {
        let name = names::inbound(port.number);
        let mut made = match &port.endpoint {
            Some((host, number)) => cluster::fixed(&name, host, *number),
            None => with_source(cluster::original_dst(&name)),
        };
        made.typed_extension_protocol_options.clear();
        made.metadata = port.service.as_ref().filter(|_| telemetry::is_counting(view.proxy)).map(telemetry::of_service);
        cluster::apply_inbound(&mut made, port.protocol, port.pool);
        clusters.push(made);
    }
    clusters
}

fn with_source(mut made: cluster_pb::Cluster) -> cluster_pb::Cluster {
    use core::address::Address::SocketAddress;
    let address = wire::address(SOURCE, 0).address;
    if let Some(SocketAddress(source_address)) = address {
        made.upstream_bind_config =
            Some(core::BindConfig { source_address: Some(source_address), ..Default::default() });
    }
    made
}

/// The inbound listeners: one for all ports to which connections are redirected, and one for each of the others.
pub(super) fn listeners(view: &View<'_>, ports: &[InboundPort<'_>], captured: bool) -> Vec<pb::Listener> {
    let mesh = &view.world.config().mesh;
    let own = |port: &InboundPort<'_>| {
        let host = port.bind.as_deref()?;
        let (name, number) = (format!("{host}_{}", port.number), port.number);
        let chains = port_chains(view, port);
        Some(chains::listener(&name, host, number, TrafficDirection::Inbound, chains, None, mesh))
    };
    let mut made: Vec<pb::Listener> = ports.iter().filter_map(own).collect();
    let redirected: Vec<_> = ports.iter().filter(|port| port.bind.is_none()).cloned().collect();
    if captured || !redirected.is_empty() {
        made.push(virtual_inbound(view, &redirected));
    }
    made
}

fn virtual_inbound(view: &View<'_>, ports: &[InboundPort<'_>]) -> pb::Listener {
    let mesh = &view.world.config().mesh;
    let tcp = |name: &str| {
        let mut filters = authorization::network_filters(view);
        filters.extend(counted(view, http::tcp_proxy(mesh, name, &[(name.to_owned(), 0)], None)));
        filters
    };
    // Whoever connects to this port itself would be sent back here for ever.
    let mut made = vec![chains::only_port(chain("virtualInbound-blackhole", tcp(names::BLACK_HOLE)), PORT)];
    for port in ports {
        let own = port_chains(view, port);
        made.extend(own.into_iter().map(|chain| chains::only_port(chain, port.number)));
    }
    made.extend(catch_all(view));
    let name = names::VIRTUAL_INBOUND;
    let mut listener = chains::listener(name, ANY, PORT, TrafficDirection::Inbound, made, None, mesh);
    if view.has_identity() {
        let numbers: Vec<u32> = ports.iter().map(|port| port.number).collect();
        chains::spare(&mut listener, &numbers);
    }
    chains::with_original_dst(&mut listener);
    listener
}

/// The chains for ports that no service speaks of.
fn catch_all(view: &View<'_>) -> Vec<pb::FilterChain> {
    let cluster = names::INBOUND_PASSTHROUGH;
    let make = |kind: Kind| match kind {
        Kind::Http { certificates } => manager(view, "InboundPassthroughCluster", cluster, 0, false, certificates),
        Kind::Tcp => {
            let mesh = &view.world.config().mesh;
            http::tcp_proxy(mesh, cluster, &[(cluster.to_owned(), 0)], None)
        }
    };
    let http = "virtualInbound-catchall-http";
    by_mode(view, None, Protocol::Auto, [http, "virtualInbound"], make)
}

fn counted(view: &View<'_>, proxy: pb::Filter) -> Vec<pb::Filter> {
    telemetry::counted(view, telemetry::Side::Inbound, proxy)
}

/// What a chain ends in.
enum Kind {
    Http { certificates: bool },
    Tcp,
}

/// The chains of a port by what connections to it must be. `called`: the names of the chain for HTTP and of the other one.
fn by_mode(
    view: &View<'_>,
    port: Option<u32>,
    protocol: Protocol,
    called: [&str; 2],
    make: impl Fn(Kind) -> pb::Filter,
) -> Vec<pb::FilterChain> {
    let tcp = || {
        let mut filters = authorization::network_filters(view);
        filters.extend(counted(view, make(Kind::Tcp)));
        filters
    };
    let http = |certificates| vec![make(Kind::Http { certificates })];
    let plaintext = || match protocol {
        protocol if protocol.is_http() => vec![chain(called[0], http(false))],
        Protocol::Auto => vec![chains::only_http(chain(called[0], http(false))), chain(called[1], tcp())],
        _ => vec![chain(called[1], tcp())],
    };
    // Where both are taken, what is offered tells the mesh's own connections from TLS that the workload itself ends.
    let secured = |all: &'static [&'static str], rest: &'static [&'static str]| {
        let name = |of: &str| format!("{of}-mtls");
        let context = |is_http| mutual_tls::downstream(view, is_http);
        match protocol {
            protocol if protocol.is_http() => {
                vec![chains::secured(chain(&name(called[0]), http(true)), &context(true), all)]
            }
            Protocol::Auto => vec![
                chains::secured(chain(&name(called[0]), http(true)), &context(true), &MESH_HTTP_PROTOCOLS),
                chains::secured(chain(&name(called[1]), tcp()), &context(false), rest),
            ],
            _ => vec![chains::secured(chain(&name(called[1]), tcp()), &context(false), all)],
        }
    };
    match (view.inbound_mode(port), view.has_identity()) {
        (Mode::Disable, _) | (Mode::Permissive, false) => plaintext(),
        (Mode::Permissive, true) => {
            let mut both = secured(&MESH_PROTOCOLS, &MESH_PROTOCOLS[..2]);
            both.append(&mut plaintext());
            if !protocol.is_http() {
                // TLS that the workload itself ends: a match of TLS is not given up for one of anything.
                both.push(chains::only_names(chain(&format!("{}-tls", called[1]), tcp()), vec!["*".to_owned()]));
            }
            both
        }
        (Mode::Strict, true) => secured(&[], &[]),
        // Nobody can prove anything to a workload that has no identity, so nobody is let in.
        (Mode::Strict, false) => {
            let mesh = &view.world.config().mesh;
            let nowhere = http::tcp_proxy(mesh, names::BLACK_HOLE, &[(names::BLACK_HOLE.to_owned(), 0)], None);
            vec![chain(&format!("{}-no-identity", called[1]), vec![nowhere])]
        }
    }
}

fn port_chains(view: &View<'_>, port: &InboundPort<'_>) -> Vec<pb::FilterChain> {
    let mesh = &view.world.config().mesh;
    let cluster = names::inbound(port.number);
    let name = format!("0.0.0.0_{}", port.number);
    let make = |kind: Kind| match kind {
        Kind::Http { certificates } => {
            let grpc_web = port.protocol == Protocol::GrpcWeb;
            manager(view, &format!("inbound_{name};"), &cluster, port.number, grpc_web, certificates)
        }
        Kind::Tcp => http::tcp_proxy(mesh, &cluster, &[(cluster.clone(), 0)], None),
    };
    if let Some(tls) = port.tls.filter(|_| view.inbound_mode(Some(port.number)) == Mode::Disable) {
        return ended_here(view, port, tls, &name, make);
    }
    by_mode(view, Some(port.number), port.protocol, [&name, &name], make)
}

/// The chain of a port whose TLS a Sidecar ends; with settings that end none, it takes nobody.
fn ended_here(
    view: &View<'_>,
    port: &InboundPort<'_>,
    tls: &ServerTls,
    name: &str,
    make: impl Fn(Kind) -> pb::Filter,
) -> Vec<pb::FilterChain> {
    let is_http = port.protocol.is_http();
    let Some(context) = downstream_tls::context(view, tls, is_http) else { return Vec::new() };
    let filters = if is_http {
        vec![make(Kind::Http { certificates: true })]
    } else {
        let mut filters = authorization::network_filters(view);
        filters.push(make(Kind::Tcp));
        filters
    };
    vec![chains::secured(chain(&format!("{name}-tls"), filters), &context, &[])]
}

fn manager(
    view: &View<'_>,
    stat_prefix: &str,
    cluster: &str,
    port: u32,
    grpc_web: bool,
    certificates: bool,
) -> pb::Filter {
    let action = route_pb::RouteAction {
        cluster_specifier: Some(route_pb::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: duration(std::time::Duration::ZERO),
        ..Default::default()
    };
    let everything = route_pb::RouteMatch {
        path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let route = route_pb::Route {
        name: "default".to_owned(),
        r#match: Some(everything),
        action: Some(route_pb::route::Action::Route(action)),
        ..Default::default()
    };
    let host = route_pb::VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    };
    let table = route_pb::RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![host],
        validate_clusters: bool_value(false),
        ..Default::default()
    };
    let options = Options {
        stat_prefix: stat_prefix.to_owned(),
        routes: Routes::Inline(Box::new(table)),
        edge: false,
        grpc_web,
        certificates,
        telemetry: telemetry::http_filters(view, telemetry::Side::Inbound),
        authorization: authorization::http_filters(view),
    };
    http::manager(&view.world.config().mesh, options)
}
