//! Filter chains and listeners: what is common to all directions.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3::TrafficDirection;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use weft_proto::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use weft_proto::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::wire::{self, bool_value, duration, u32_value};
use crate::model::kinds::mesh_config::MeshConfig;

/// What HTTP in plaintext shows as application protocols.
const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];

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
        let inspector = wire::listener_filter("envoy.filters.listener.tls_inspector", &TlsInspector::default());
        listener.listener_filters.push(inspector);
    }
    if http {
        listener
            .listener_filters
            .push(wire::listener_filter("envoy.filters.listener.http_inspector", &HttpInspector {}));
    }
    if tls || http {
        // A server that speaks first gets its connection after this time; without one, its client waits for ever.
        listener.listener_filters_timeout = duration(mesh.protocol_detection_timeout.unwrap_or(Duration::ZERO));
        listener.continue_on_listener_filters_timeout = true;
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
