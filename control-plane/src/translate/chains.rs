//! Filter chains and listeners: what is common to all directions.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3::TrafficDirection;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use weft_proto::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use weft_proto::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use super::wire::{self, bool_value, duration, u32_value};
use crate::model::kinds::mesh_config::MeshConfig;

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";
/// What HTTP in plaintext shows as application protocols.
const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];

/// How long is looked whether a caller speaks TLS, where both are taken: callers that wait for the server to speak wait for this.
const DETECTION: Duration = Duration::from_secs(1);

/// A chain of these filters for everything.
pub(super) fn chain(name: &str, filters: Vec<pb::Filter>) -> pb::FilterChain {
    pb::FilterChain { name: name.to_owned(), filters, ..Default::default() }
}

/// Narrows a chain to plaintext HTTP.
pub(super) fn only_http(chain: pb::FilterChain) -> pb::FilterChain {
    let mut of = chain.filter_chain_match.unwrap_or_default();
    of.application_protocols = PLAINTEXT_HTTP.map(str::to_owned).to_vec();
    "raw_buffer".clone_into(&mut of.transport_protocol);
    pb::FilterChain { filter_chain_match: Some(of), ..chain }
}

/// Puts a chain behind mutual TLS, for callers that offer one of these protocols; without any: for all that speak TLS.
pub(super) fn secured(chain: pb::FilterChain, context: &DownstreamTlsContext, offered: &[&str]) -> pb::FilterChain {
    let mut of = chain.filter_chain_match.unwrap_or_default();
    of.application_protocols = offered.iter().map(|name| (*name).to_owned()).collect();
    "tls".clone_into(&mut of.transport_protocol);
    let socket = wire::transport_socket(super::upstream_tls::TLS, context);
    pb::FilterChain { filter_chain_match: Some(of), transport_socket: Some(socket), ..chain }
}

/// Narrows a chain to a destination port.
pub(super) fn only_port(chain: pb::FilterChain, port: u32) -> pb::FilterChain {
    let mut of = chain.filter_chain_match.unwrap_or_default();
    of.destination_port = u32_value(port);
    pb::FilterChain { filter_chain_match: Some(of), ..chain }
}

/// Narrows a chain to server names.
pub(super) fn only_names(chain: pb::FilterChain, names: Vec<String>) -> pb::FilterChain {
    let mut of = chain.filter_chain_match.unwrap_or_default();
    if names.iter().any(|name| name == "*") {
        // Every name there is; Envoy has no wildcard for that.
        "tls".clone_into(&mut of.transport_protocol);
    } else {
        of.server_names = names;
    }
    pb::FilterChain { filter_chain_match: Some(of), ..chain }
}

/// Narrows a chain to destinations.
pub(super) fn only_networks(chain: pb::FilterChain, networks: &[String]) -> pb::FilterChain {
    let mut of = chain.filter_chain_match.unwrap_or_default();
    of.prefix_ranges = networks.iter().filter_map(|network| wire::cidr(network)).collect();
    pb::FilterChain { filter_chain_match: Some(of), ..chain }
}

/// A listener with the inspectors that its chains need.
pub(super) fn listener(
    name: &str,
    host: &str,
    port: u32,
    direction: TrafficDirection,
    chains: Vec<pb::FilterChain>,
    default: Option<pb::FilterChain>,
    mesh: &MeshConfig,
) -> pb::Listener {
    let mut listener = pb::Listener {
        name: name.to_owned(),
        address: Some(wire::address(host, port)),
        traffic_direction: direction as i32,
        filter_chains: chains,
        default_filter_chain: default,
        ..Default::default()
    };
    inspect(&mut listener, mesh);
    listener
}

/// Adds the listener filters that the chains of a listener need to be told apart.
fn inspect(listener: &mut pb::Listener, mesh: &MeshConfig) {
    let matches = || listener.filter_chains.iter().filter_map(|chain| chain.filter_chain_match.as_ref());
    let tls = matches().any(|of| !of.server_names.is_empty() || !of.transport_protocol.is_empty());
    let http =
        matches().any(|of| of.application_protocols.iter().any(|protocol| PLAINTEXT_HTTP.contains(&protocol.as_str())));
    if tls {
        let inspector = wire::listener_filter(TLS_INSPECTOR, &TlsInspector::default());
        listener.listener_filters.push(inspector);
    }
    if http {
        listener.listener_filters.push(wire::listener_filter(HTTP_INSPECTOR, &HttpInspector {}));
    }
    if tls || http {
        // A server that speaks first gets its connection after this time; without one, its client waits for ever.
        let inbound = listener.traffic_direction == TrafficDirection::Inbound as i32;
        let secured = inbound && listener.filter_chains.iter().any(|chain| chain.transport_socket.is_some());
        let usual = if secured { DETECTION } else { Duration::ZERO };
        listener.listener_filters_timeout = duration(mesh.protocol_detection_timeout.unwrap_or(usual));
        listener.continue_on_listener_filters_timeout = true;
    }
}

/// Spares ports the inspectors that none of their chains needs: nobody waits there for a caller to speak.
pub(super) fn spare(listener: &mut pb::Listener, ports: &[u32]) {
    let chains = listener.filter_chains.clone();
    let of_port = |port: u32| {
        let matches = chains.iter().filter_map(|chain| chain.filter_chain_match.as_ref());
        matches.filter(move |of| of.destination_port.is_some_and(|of| of.value == port))
    };
    let untouched = |needs: &dyn Fn(&pb::FilterChainMatch) -> bool| {
        let spared = ports.iter().copied().filter(|port| !of_port(*port).any(needs));
        any_port(spared.collect())
    };
    for filter in &mut listener.listener_filters {
        filter.filter_disabled = match filter.name.as_str() {
            TLS_INSPECTOR => untouched(&|of| !of.transport_protocol.is_empty() || !of.server_names.is_empty()),
            HTTP_INSPECTOR => {
                untouched(&|of| of.application_protocols.iter().any(|name| PLAINTEXT_HTTP.contains(&name.as_str())))
            }
            _ => None,
        };
    }
}

/// Holds for connections to any of these ports.
fn any_port(ports: Vec<u32>) -> Option<pb::ListenerFilterChainMatchPredicate> {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let one = |port: u32| pb::ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(weft_proto::pb::envoy::r#type::v3::Int32Range {
            start: i32::try_from(port).unwrap_or_default(),
            end: i32::try_from(port + 1).unwrap_or_default(),
        })),
    };
    match ports[..] {
        [] => None,
        [port] => Some(one(port)),
        _ => {
            let rules = ports.into_iter().map(one).collect();
            Some(pb::ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) })
        }
    }
}

/// Makes a listener take over connections that were redirected to it.
pub(super) fn redirected(mut listener: pb::Listener) -> pb::Listener {
    listener.use_original_dst = bool_value(true);
    with_original_dst(&mut listener);
    listener
}

/// Lets a listener look up where redirected connections were going to.
pub(super) fn with_original_dst(listener: &mut pb::Listener) {
    let filter = wire::listener_filter("envoy.filters.listener.original_dst", &OriginalDst {});
    listener.listener_filters.insert(0, filter);
}
