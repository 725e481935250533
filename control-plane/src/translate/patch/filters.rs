//! Patches of filter chains and filters.

use prost::Message;
use weft_proto::any::pack;
use weft_proto::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
use weft_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, ListenerFilter, filter};
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
};
use weft_proto::pb::google::protobuf::Any;

use super::super::http::{MANAGER, ROUTER};
use super::{in_list, merged};
use crate::model::kinds::envoy_filter::{ApplyTo, FilterChainMatch, FilterMatch, Operation};
use crate::model::patches::Patch;

/// Whether a listener is meant.
pub(super) fn names(patch: &Patch, listener: &Listener) -> bool {
    let Some(of) = &patch.of.listener else { return true };
    let port = match listener.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some(port),
            _ => None,
        },
        _ => None,
    };
    of.name.as_deref().is_none_or(|name| name == listener.name)
        && of.port_number.is_none_or(|wanted| port == Some(wanted) || has_port(listener, wanted))
}

/// Whether a listener of all inbound connections has a chain for this port.
fn has_port(listener: &Listener, port: u32) -> bool {
    listener.filter_chains.iter().any(|chain| destination_port(chain) == Some(port))
}

fn destination_port(chain: &FilterChain) -> Option<u32> {
    chain.filter_chain_match.as_ref()?.destination_port.as_ref().map(|port| port.value)
}

/// Applies a patch of what is in a listener.
pub(super) fn apply(patch: &Patch, listener: &mut Listener) {
    let of = patch.of.listener.as_ref();
    let of_chain = of.and_then(|of| of.filter_chain.as_ref());
    if patch.apply_to == ApplyTo::ListenerFilter {
        let wanted = of.and_then(|of| of.listener_filter.as_deref());
        let fits = |filter: &ListenerFilter| wanted.is_none_or(|name| filter.name == name);
        in_list(&mut listener.listener_filters, patch, fits, merged);
        return;
    }
    if patch.apply_to == ApplyTo::FilterChain {
        in_list(&mut listener.filter_chains, patch, |chain| chain_fits(of_chain, chain), merged);
        return;
    }
    let port = of.and_then(|of| of.port_number);
    let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
    for chain in chains.filter(|chain| chain_fits(of_chain, chain)) {
        // In the listener of all inbound connections the port is that of the chain.
        if destination_port(chain).is_some() && port.is_some_and(|port| destination_port(chain) != Some(port)) {
            continue;
        }
        let of_filter = of_chain.and_then(|of| of.filter.as_ref());
        if patch.apply_to == ApplyTo::NetworkFilter {
            let fits = |filter: &Filter| named(of_filter, &filter.name);
            in_list(&mut chain.filters, patch, fits, merge_filter);
        } else {
            for_managers(chain, |manager| http_filters(patch, of_filter, manager));
        }
    }
}

fn chain_fits(of: Option<&FilterChainMatch>, chain: &FilterChain) -> bool {
    let Some(of) = of else { return true };
    let matched = chain.filter_chain_match.clone().unwrap_or_default();
    let protocols = |wanted: &str| {
        wanted.split(',').all(|wanted| matched.application_protocols.iter().any(|is| is == wanted.trim()))
    };
    of.name.as_deref().is_none_or(|name| name == chain.name)
        && of.sni.as_ref().is_none_or(|sni| matched.server_names.contains(sni))
        && of.transport_protocol.as_deref().is_none_or(|wanted| wanted == matched.transport_protocol)
        && of.application_protocols.as_deref().is_none_or(protocols)
        && of.destination_port.is_none_or(|port| destination_port(chain) == Some(port))
}

fn named(of: Option<&FilterMatch>, name: &str) -> bool {
    of.and_then(|of| of.name.as_deref()).is_none_or(|wanted| wanted == name)
}

fn http_filters(patch: &Patch, of: Option<&FilterMatch>, manager: &mut HttpConnectionManager) {
    let wanted = of.and_then(|of| of.sub_filter.as_ref()).and_then(|of| of.name.as_deref());
    let fits = |filter: &HttpFilter| wanted.is_none_or(|name| filter.name == name);
    if patch.operation == Operation::Add {
        // The router is always the last one.
        let at =
            manager.http_filters.iter().position(|filter| filter.name == ROUTER).unwrap_or(manager.http_filters.len());
        super::insert(&mut manager.http_filters, at, HttpFilter::decode(patch.value.as_slice()).ok());
        return;
    }
    in_list(&mut manager.http_filters, patch, fits, |base: &HttpFilter, over| {
        let mut made = merged(base, over)?;
        if let (Some(http_filter::ConfigType::TypedConfig(before)), Some(http_filter::ConfigType::TypedConfig(after))) =
            (&base.config_type, &made.config_type)
        {
            made.config_type = Some(http_filter::ConfigType::TypedConfig(merge_any(before, after)));
        }
        Some(made)
    });
}

fn merge_filter(base: &Filter, over: &[u8]) -> Option<Filter> {
    let mut made = merged(base, over)?;
    if let (Some(filter::ConfigType::TypedConfig(before)), Some(filter::ConfigType::TypedConfig(after))) =
        (&base.config_type, &made.config_type)
    {
        made.config_type = Some(filter::ConfigType::TypedConfig(merge_any(before, after)));
    }
    Some(made)
}

/// Two encodings of one type in a row are the one merged over the other. Of another type, or if the base has not changed,
/// the later one counts.
pub(super) fn merge_any(before: &Any, after: &Any) -> Any {
    if before == after || before.type_url != after.type_url {
        return after.clone();
    }
    Any { type_url: after.type_url.clone(), value: [before.value.as_slice(), after.value.as_slice()].concat() }
}

/// Changes every connection manager of a chain.
fn for_managers(chain: &mut FilterChain, mut change: impl FnMut(&mut HttpConnectionManager)) {
    for filter in chain.filters.iter_mut().filter(|filter| filter.name == MANAGER) {
        let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
        if let Ok(mut manager) = HttpConnectionManager::decode(config.value.as_slice()) {
            change(&mut manager);
            *config = pack(&manager);
        }
    }
}

/// Changes every route configuration that is in a listener.
pub(super) fn for_inline_tables(listener: &mut Listener, mut change: impl FnMut(&mut RouteConfiguration)) {
    for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
        for_managers(chain, |manager| {
            if let Some(RouteSpecifier::RouteConfig(table)) = &mut manager.route_specifier {
                change(table);
            }
        });
    }
}
