//! What a sidecar's workload sends: its outbound listeners.
//!
//! As in Istio, one listener takes all redirected connections (`virtualOutbound`) and hands them to the one of their address:
//! `0.0.0.0_PORT` for HTTP, told apart by host, and `ADDRESS_PORT` for TCP.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::pb::envoy::config::core::v3::TrafficDirection;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

use super::chains::{self, chain};
use super::egress::{self, ANY, Group};
use super::http::{self, Options, Routes};
use super::routes;
use super::view::View;
use super::wire::{self, bool_value};
use super::{names, tcp_routes, telemetry};
use crate::model::kinds::service_entry::OutboundMode;
use crate::model::service::{Port, Protocol, Service};

/// Where redirected outbound connections arrive (Istio's port).
const PORT: u32 = 15001;

/// What listens on one port.
#[derive(Default)]
struct OnPort<'w> {
    http: bool,
    grpc_web: bool,
    /// Services of bytes, TLS, or of what is not told.
    tcp: Vec<(&'w Service, &'w Port)>,
}

/// The route configurations of all outbound listeners.
pub(super) fn tables(view: &View<'_>, captured: bool) -> Vec<RouteConfiguration> {
    let groups = egress::shared_ports(view, captured);
    let ports = http_ports(view).into_iter().filter(|port| !groups.contains_key(port));
    let mut tables: Vec<_> = ports.map(|port| routes::port_table(view, port, &port.to_string())).collect();
    for (port, group) in groups.iter().flat_map(|(port, groups)| groups.iter().map(|group| (*port, group))) {
        let narrowed = view.through(&group.egress);
        if http_ports(&narrowed).contains(&port) {
            tables.push(routes::port_table(&narrowed, port, &group.table(port)));
        }
    }
    tables
}

/// The ports that have route configurations.
fn http_ports(view: &View<'_>) -> BTreeSet<u32> {
    let ports = view.services.iter().flat_map(|seen| seen.ports().collect::<Vec<_>>());
    ports.filter(|port| has_routes(port.protocol)).map(|port| port.number.into()).collect()
}

fn has_routes(protocol: Protocol) -> bool {
    protocol.is_http() || protocol == Protocol::Auto
}

/// All outbound listeners. `captured`: connections are redirected; else clients connect to them.
pub(super) fn listeners(view: &View<'_>, captured: bool) -> Vec<pb::Listener> {
    let groups = egress::shared_ports(view, captured);
    let by_port = by_port(view).into_iter().filter(|(port, _)| !groups.contains_key(port));
    let mut listeners: Vec<pb::Listener> =
        by_port.flat_map(|(port, on_port)| on_one_port(view, port, &on_port, &port.to_string())).collect();
    listeners.iter_mut().for_each(|listener| as_captured(listener, captured));
    bind(view, captured, &groups, &mut listeners);
    for (port, group) in groups.iter().flat_map(|(port, groups)| groups.iter().map(|group| (*port, group))) {
        listeners.extend(of_group(view, captured, port, group));
    }
    if captured {
        listeners.push(virtual_outbound(view));
    }
    listeners
}

/// What listens on which port.
fn by_port<'w>(view: &View<'w>) -> BTreeMap<u32, OnPort<'w>> {
    let mut by_port: BTreeMap<u32, OnPort<'w>> = BTreeMap::new();
    for seen in &view.services {
        for port in seen.ports() {
            let on_port = by_port.entry(port.number.into()).or_default();
            on_port.http |= has_routes(port.protocol);
            on_port.grpc_web |= port.protocol == Protocol::GrpcWeb;
            if !port.protocol.is_http() {
                on_port.tcp.push((seen.service, port));
            }
        }
    }
    by_port
}

/// Those who are redirected find a listener by its address; others connect to it, on the loopback.
fn as_captured(listener: &mut pb::Listener, captured: bool) {
    listener.bind_to_port = if captured { bool_value(false) } else { None };
    if !captured {
        on_loopback(listener);
    }
}

/// The listeners of some `egress` of a port that has several places.
fn of_group(view: &View<'_>, captured: bool, port: u32, group: &Group<'_>) -> Vec<pb::Listener> {
    let narrowed = view.through(&group.egress);
    let Some(on_port) = by_port(&narrowed).remove(&port) else { return Vec::new() };
    let mut made = on_one_port(&narrowed, port, &on_port, &group.table(port));
    let Some(place) = &group.place else {
        made.iter_mut().for_each(|listener| as_captured(listener, captured));
        return made;
    };
    let found = first_of(&made, port).cloned();
    found.into_iter().map(|found| moved(found, place, port)).collect()
}

/// That of HTTP and of all else without an address, or else the first of a service.
fn first_of(listeners: &[pb::Listener], port: u32) -> Option<&pb::Listener> {
    let shared = format!("{ANY}_{port}");
    let place = listeners.iter().find(|listener| listener.name == shared);
    place.or_else(|| listeners.iter().find(|listener| listener.name.ends_with(&format!("_{port}"))))
}

/// The same listener in another place.
fn moved(found: pb::Listener, place: &egress::Place<'_>, port: u32) -> pb::Listener {
    let bind_to_port = if place.captured { bool_value(false) } else { None };
    let address = Some(wire::endpoint_address(place.host, port));
    pb::Listener { name: place.listener(port), address, bind_to_port, ..found }
}

/// Puts the listeners of ports where the Sidecar wants them: each `egress` that says where gets one of its own.
fn bind(view: &View<'_>, captured: bool, groups: &BTreeMap<u32, Vec<Group<'_>>>, listeners: &mut Vec<pb::Listener>) {
    let egress = view.sidecar.into_iter().flat_map(|sidecar| &sidecar.spec.egress);
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut made = Vec::new();
    for of in egress {
        let Some(port) = of.port.as_ref().map(|port| u32::from(port.number)) else { continue };
        let Some(place) = egress::place(of, captured).filter(|_| !groups.contains_key(&port)) else { continue };
        let Some(found) = first_of(listeners, port) else { continue };
        taken.insert(found.name.clone());
        made.push(moved(found.clone(), &place, port));
    }
    listeners.retain(|listener| !taken.contains(&listener.name));
    for listener in made {
        // Two that are in one place are one.
        if listeners.iter().all(|other| other.name != listener.name) {
            listeners.push(listener);
        }
    }
}

/// `table`: the name of its route configuration.
fn on_one_port<'w>(view: &View<'w>, port: u32, on_port: &OnPort<'w>, table: &str) -> Vec<pb::Listener> {
    let mesh = &view.world.config().mesh;
    let mut listeners = Vec::new();
    let mut shared = Vec::new();
    for &(service, of) in &on_port.tcp {
        let addresses: Vec<&String> = service.addresses.iter().filter(|address| !address.contains('/')).collect();
        let mut chains = tcp_routes::chains(view, service, of);
        if on_port.http && of.protocol == Protocol::Auto && addresses.is_empty() {
            // Its HTTP is told apart by host; the rest goes where it was going to.
            continue;
        }
        for address in &addresses {
            let mut own = chains.clone();
            if of.protocol == Protocol::Auto {
                own.insert(
                    0,
                    chains::only_http(chain(
                        &port.to_string(),
                        vec![http_manager(view, address, (port, table), false)],
                    )),
                );
            }
            let name = format!("{address}_{port}");
            listeners.push(chains::listener(&name, address, port, TrafficDirection::Outbound, own, None, mesh));
        }
        if addresses.is_empty() {
            let networks: Vec<String> =
                service.addresses.iter().filter(|address| address.contains('/')).cloned().collect();
            if !networks.is_empty() {
                chains = chains.into_iter().map(|chain| chains::only_networks(chain, &networks)).collect();
            }
            shared.append(&mut chains);
        }
    }
    if on_port.http || !shared.is_empty() {
        listeners.push(shared_listener(view, (port, table), on_port, shared));
    }
    listeners
}

/// The listener of all services on a port that have no address of their own, or speak HTTP.
fn shared_listener(
    view: &View<'_>,
    (port, table): (u32, &str),
    on_port: &OnPort<'_>,
    tcp: Vec<pb::FilterChain>,
) -> pb::Listener {
    let mut made = Vec::new();
    if on_port.http {
        let manager = http_manager(view, ANY, (port, table), on_port.grpc_web);
        made.push(chains::only_http(chain(&port.to_string(), vec![manager])));
    }
    let mut default = None;
    for chain in tcp {
        // Two services of bytes without addresses cannot be told apart: the first one gets the port.
        match chain.filter_chain_match {
            None if default.is_none() => default = Some(chain),
            None => {}
            Some(_)
                if made.iter().any(|other: &pb::FilterChain| other.filter_chain_match == chain.filter_chain_match) => {}
            Some(_) => made.push(chain),
        }
    }
    let default = default.unwrap_or_else(|| unknown(view, "PassthroughFilterChain"));
    let mesh = &view.world.config().mesh;
    chains::listener(&format!("{ANY}_{port}"), ANY, port, TrafficDirection::Outbound, made, Some(default), mesh)
}

fn http_manager(view: &View<'_>, address: &str, (port, table): (u32, &str), grpc_web: bool) -> pb::Filter {
    let options = Options {
        stat_prefix: format!("outbound_{address}_{port};"),
        routes: Routes::Named(table.to_owned()),
        edge: false,
        grpc_web,
        certificates: false,
        telemetry: telemetry::http_filters(view, telemetry::Side::Outbound),
        // Callers are judged where they arrive.
        authorization: Vec::new(),
    };
    http::manager(&view.world.config().mesh, options)
}

/// Where connections go that the mesh does not know.
fn unknown(view: &View<'_>, name: &str) -> pb::FilterChain {
    let cluster = match view.outbound_mode() {
        OutboundMode::AllowAny => names::PASSTHROUGH,
        OutboundMode::RegistryOnly => names::BLACK_HOLE,
    };
    let filter = http::tcp_proxy(&view.world.config().mesh, cluster, &[(cluster.to_owned(), 0)], None);
    chain(name, telemetry::counted(view, telemetry::Side::Outbound, filter))
}

fn virtual_outbound(view: &View<'_>) -> pb::Listener {
    let mesh = &view.world.config().mesh;
    // Whoever connects to this port itself would be sent back here for ever.
    let black_hole = http::tcp_proxy(mesh, names::BLACK_HOLE, &[(names::BLACK_HOLE.to_owned(), 0)], None);
    let own = chains::only_port(chain("virtualOutbound-blackhole", vec![black_hole]), PORT);
    let rest = unknown(view, "virtualOutbound-catchall-tcp");
    let name = names::VIRTUAL_OUTBOUND;
    chains::redirected(chains::listener(name, ANY, PORT, TrafficDirection::Outbound, vec![own, rest], None, mesh))
}

/// Without redirection, clients are told to connect to the proxy on the loopback.
fn on_loopback(listener: &mut pb::Listener) {
    use weft_proto::pb::envoy::config::core::v3::address::Address::SocketAddress;
    let address = listener.address.as_mut().and_then(|address| address.address.as_mut());
    if let Some(SocketAddress(socket)) = address
        && socket.address == ANY
    {
        "127.0.0.1".clone_into(&mut socket.address);
    }
}
