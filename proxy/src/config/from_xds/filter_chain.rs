//! Filter chains.

use weft_proto::pb::envoy::config::listener::v3 as pb;

use super::ctx::{Ctx, Out};
use super::{filter_chain_match, network_filter, transport, value};
use crate::config::{DownstreamTransport, FilterChain};

/// A filter chain.
pub(super) fn filter_chain(c: &Ctx<'_>, f: &pb::FilterChain) -> Out<FilterChain> {
    let matches = c
        .opt("filter_chain_match", &f.filter_chain_match, |c, m| filter_chain_match::filter_chain_match(c, m, &f.name));
    let filters = network_filter::chain(c, &f.filters);
    let transport = c.opt("transport_socket", &f.transport_socket, transport::downstream);
    let handshake_timeout =
        c.opt("transport_socket_connect_timeout", &f.transport_socket_connect_timeout, value::duration_or_off);
    Ok(FilterChain {
        name: f.name.clone(),
        matches: matches?.unwrap_or_default(),
        filters: filters?,
        transport: transport?.unwrap_or(DownstreamTransport::Plaintext),
        handshake_timeout: handshake_timeout?.flatten(),
    })
}
