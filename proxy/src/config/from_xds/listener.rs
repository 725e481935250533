//! Listeners.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::{access_log, address, filter_chain, filter_chain_match, listener_filter, value};
use crate::config::{
    Address, FilterChainMatch, Listener, ListenerAddress, ListenerFilter, ListenerFilterKind, ProxyProtocolIn,
    TrafficDirection,
};

/// Envoy asks the system, whose own default is this since Linux 5.4.
const DEFAULT_BACKLOG: u32 = 4096;
/// Envoy's soft limit of bytes buffered.
const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;

/// A listener.
pub(super) fn listener(c: &Ctx<'_>, l: &pb::Listener) -> Out<Listener> {
    refuse_other_kinds(c, l)?;
    let addresses = addresses(c, l);
    let socket_options = c.each("socket_options", &l.socket_options, address::socket_option);
    let tcp_keepalive = c.opt("tcp_keepalive", &l.tcp_keepalive, address::keepalive);
    let listener_filters = c.each("listener_filters", &l.listener_filters, listener_filter::listener_filter);
    let timeout = c.timeout("listener_filters_timeout", &l.listener_filters_timeout, Some(Duration::from_secs(15)));
    let filter_chains = c.each("filter_chains", &l.filter_chains, filter_chain::filter_chain);
    let default_filter_chain = c.opt("default_filter_chain", &l.default_filter_chain, filter_chain::filter_chain);
    let access_log = c.each("access_log", &l.access_log, access_log::access_log);
    let direction = c.enumeration::<core::TrafficDirection>("traffic_direction", l.traffic_direction);
    let drain_type = c.enumeration::<pb::listener::DrainType>("drain_type", l.drain_type);
    let exact_balance = c.opt("connection_balance_config", &l.connection_balance_config, balance);
    if l.max_connections_to_accept_per_socket_event.as_ref().is_some_and(|n| n.value == 0) {
        return c.field("max_connections_to_accept_per_socket_event").refuse("value must be greater than 0");
    }

    let addresses = addresses?;
    if l.enable_mptcp && addresses.iter().any(|a| !matches!(a.address, Address::Ip(_))) {
        return c.field("enable_mptcp").refuse("enable_mptcp can only be used with IP addresses");
    }
    let (filter_chains, mut default_filter_chain) = (filter_chains?, default_filter_chain?);
    let first = addresses.first().map(|a| a.address.to_string()).unwrap_or_default();
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return c.field("filter_chains").refuse(format!("error adding listener '{first}': no filter chains specified"));
    }
    filter_chain_match::no_overlap(c, &first, &filter_chains)?;
    if let Some(chain) = &mut default_filter_chain
        && chain.matches != FilterChainMatch::default()
    {
        c.field("default_filter_chain")
            .field("filter_chain_match")
            .warn(format!("filter chain match in chain '{}' is ignored", chain.name));
        chain.matches = FilterChainMatch::default();
    }

    Ok(Listener {
        name: if l.name.is_empty() { random_name() } else { l.name.clone() },
        stat_prefix: Some(l.stat_prefix.clone()).filter(|p| !p.is_empty()),
        reuse_port: value::bool_or(&l.enable_reuse_port, true),
        bind_to_port: bind_to_port(l),
        backlog: value::u32_or(&l.tcp_backlog_size, DEFAULT_BACKLOG),
        transparent: value::bool_or(&l.transparent, false),
        freebind: value::bool_or(&l.freebind, false),
        tcp_fast_open: value::u32_opt(&l.tcp_fast_open_queue_length),
        mptcp: l.enable_mptcp,
        tcp_keepalive: tcp_keepalive?,
        socket_options: socket_options?,
        per_connection_buffer_limit: value::u32_or(&l.per_connection_buffer_limit_bytes, DEFAULT_BUFFER_LIMIT) as usize,
        listener_filters: with_deprecated(l, listener_filters?),
        listener_filters_timeout: timeout?,
        continue_on_listener_filters_timeout: l.continue_on_listener_filters_timeout,
        filter_chains,
        default_filter_chain,
        access_log: access_log?,
        direction: match direction? {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        },
        drain_modify_only: drain_type? == pb::listener::DrainType::ModifyOnly,
        use_original_dst: value::bool_or(&l.use_original_dst, false),
        exact_balance: exact_balance?.unwrap_or(false),
        max_accepts_per_event: value::u32_opt(&l.max_connections_to_accept_per_socket_event),
        ignore_global_conn_limit: l.ignore_global_conn_limit,
        addresses,
    })
}

fn refuse_other_kinds(c: &Ctx<'_>, l: &pb::Listener) -> Out<()> {
    if l.api_listener.is_some() {
        return c.field("api_listener").unsupported("an API listener");
    }
    if l.udp_listener_config.is_some() {
        return c.field("udp_listener_config").unsupported("a UDP listener");
    }
    if l.listener_specifier.is_some() {
        return c.field("internal_listener").unsupported("an internal listener");
    }
    // Both choose filter chains: to drop them would let connections in elsewhere.
    if l.filter_chain_matcher.is_some() {
        return c.field("filter_chain_matcher").unsupported("a filter chain matcher");
    }
    if l.fcds_config.is_some() {
        return c.field("fcds_config").unsupported("filter chain discovery");
    }
    Ok(())
}

fn addresses(c: &Ctx<'_>, l: &pb::Listener) -> Out<Vec<ListenerAddress>> {
    let first = c.required("address", &l.address, listener_address);
    let more = c.each("additional_addresses", &l.additional_addresses, |c, a| {
        if a.socket_options.is_some() {
            return c.field("socket_options").unsupported("socket options of one address");
        }
        if a.tcp_keepalive.is_some() {
            return c.field("tcp_keepalive").unsupported("keepalive of one address");
        }
        c.required("address", &a.address, listener_address)
    });
    let mut all = vec![first?];
    all.extend(more?);
    Ok(all)
}

fn listener_address(c: &Ctx<'_>, a: &core::Address) -> Out<ListenerAddress> {
    let ipv4_compat = matches!(&a.address, Some(core::address::Address::SocketAddress(s)) if s.ipv4_compat);
    Ok(ListenerAddress { address: address::resolved(c, a)?, ipv4_compat })
}

fn balance(c: &Ctx<'_>, b: &pb::listener::ConnectionBalanceConfig) -> Out<bool> {
    use pb::listener::connection_balance_config::BalanceType as B;
    match &b.balance_type {
        None => c.refuse("a balance type is required"),
        Some(B::ExactBalance(_)) => Ok(true),
        Some(B::ExtendBalance(_)) => c.field("extend_balance").unsupported("a balancer extension"),
        Some(B::CpuLocalityBalance(_)) => c.field("cpu_locality_balance").unsupported("CPU locality balance"),
    }
}

fn bind_to_port(l: &pb::Listener) -> bool {
    let deprecated = l.deprecated_v1.as_ref().and_then(|d| d.bind_to_port.as_ref());
    let value = l.bind_to_port.as_ref().or(deprecated);
    value.is_none_or(|b: &wkt::BoolValue| b.value)
}

/// `use_original_dst` and the first chain's `use_proxy_proto` stand for a listener filter each, after the configured ones.
fn with_deprecated(l: &pb::Listener, mut filters: Vec<ListenerFilter>) -> Vec<ListenerFilter> {
    let mut add = |name: &str, kind: ListenerFilterKind| {
        if filters.iter().all(|f| std::mem::discriminant(&f.kind) != std::mem::discriminant(&kind)) {
            filters.push(ListenerFilter { name: name.into(), kind, disabled: None });
        }
    };
    if value::bool_or(&l.use_original_dst, false) {
        add("envoy.filters.listener.original_dst", ListenerFilterKind::OriginalDst);
    }
    if l.filter_chains.first().is_some_and(|f| value::bool_or(&f.use_proxy_proto, false)) {
        let proxy = ListenerFilterKind::ProxyProtocol(ProxyProtocolIn::default());
        add("envoy.filters.listener.proxy_protocol", proxy);
    }
    filters
}

/// Envoy names a listener without a name by a random UUID.
fn random_name() -> String {
    let bits: u128 = rand::random();
    let hex = format!("{bits:032x}");
    let (a, rest) = hex.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (d, rest) = rest.split_at(4);
    let (e, f) = rest.split_at(4);
    format!("{a}-{b}-{d}-{e}-{f}")
}
