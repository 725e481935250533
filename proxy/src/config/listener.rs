//! Listeners, listener filters and filter chains.

use std::time::Duration;

use super::{
    AccessLog, Address, Cidr, DownstreamTransport, ExtensionDiscovery, NetworkFilter, SocketOption, TcpKeepalive,
};

/// **Source**: `envoy.config.listener.v3.Listener`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique name; generated where none is given.
    pub name: String,
    /// `address` and `additional_addresses`, IPs and pipes.
    pub addresses: Vec<ListenerAddress>,
    /// Stats are `listener.<stat_prefix>.*`; absent: the first address, `:` turned into `_`.
    pub stat_prefix: Option<String>,
    /// One socket per worker (default), or one for all.
    pub reuse_port: bool,
    /// `false`: no socket; reached from another listener by original destination.
    pub bind_to_port: bool,
    /// `listen()` backlog; default 4096 (bounded by the system).
    pub backlog: u32,
    /// `IP_TRANSPARENT`.
    pub transparent: bool,
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// Queue length of TCP fast open; absent: off.
    pub tcp_fast_open: Option<u32>,
    /// `enable_mptcp`.
    pub mptcp: bool,
    /// Keepalive of accepted connections.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Raw socket options of the listening socket.
    pub socket_options: Vec<SocketOption>,
    /// Soft limit on bytes buffered per connection and direction; default 1 MiB.
    pub per_connection_buffer_limit: usize,
    /// Run in order before a filter chain is chosen.
    pub listener_filters: Vec<ListenerFilter>,
    /// They must finish within this; default 15 s, `None`: no limit.
    pub listener_filters_timeout: Option<Duration>,
    /// On that timeout go on with what is known, instead of closing.
    pub continue_on_listener_filters_timeout: bool,
    /// Chains to choose from.
    pub filter_chains: Vec<FilterChain>,
    /// Taken where none matches.
    pub default_filter_chain: Option<FilterChain>,
    /// Logged per connection, refused ones too.
    pub access_log: Vec<AccessLog>,
    /// `traffic_direction`.
    pub direction: TrafficDirection,
    /// `drain_type: MODIFY_ONLY`: not drained by `/healthcheck/fail`.
    pub drain_modify_only: bool,
    /// `use_original_dst`: hand the connection to the listener of its original destination.
    pub use_original_dst: bool,
    /// `connection_balance_config.exact_balance`.
    pub exact_balance: bool,
    /// `max_connections_to_accept_per_socket_event`; absent: all there are.
    pub max_accepts_per_event: Option<u32>,
    /// `ignore_global_conn_limit`.
    pub ignore_global_conn_limit: bool,
}

/// One address of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerAddress {
    /// Where.
    pub address: Address,
    /// An IPv6 wildcard socket takes IPv4 too (`ipv4_compat`).
    pub ipv4_compat: bool,
}

/// **Source**: `envoy.config.core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// **Source**: `envoy.config.listener.v3.ListenerFilter`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerFilter {
    /// Name as configured.
    pub name: String,
    /// Which one.
    pub kind: ListenerFilterKind,
    /// Connections for which it is skipped.
    pub disabled: Option<FilterChainPredicate>,
}

/// The listener filters.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenerFilterKind {
    /// Peeks at the ClientHello for SNI and ALPN.
    TlsInspector {
        /// Largest ClientHello; default 16 KiB.
        max_client_hello_size: usize,
        /// `close_connection_on_client_hello_parsing_errors`.
        close_on_error: bool,
    },
    /// Peeks at the first bytes for HTTP.
    HttpInspector,
    /// Takes the destination that a redirect rule changed.
    OriginalDst,
    /// PROXY protocol v1 and v2.
    ProxyProtocol(ProxyProtocolIn),
    /// Any of the others, by discovery.
    Discovered(Box<ExtensionDiscovery<ListenerFilterKind>>),
}

/// **Source**: `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProxyProtocolIn {
    /// A connection without a header is served as it is.
    pub allow_requests_without_proxy_protocol: bool,
    /// Versions refused.
    pub disallowed_versions: Vec<u8>,
    /// TLVs kept for the upstream's header; `None`: none, `Some(empty)`: all.
    pub pass_through_tlvs: Option<Vec<u8>>,
    /// TLV type to (metadata namespace, key).
    pub rules: Vec<ProxyProtocolRule>,
    /// Stats are `downstream_proxy_proto.<stat_prefix>.*`.
    pub stat_prefix: String,
}

/// Stores a TLV as dynamic metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyProtocolRule {
    /// TLV type.
    pub tlv_type: u8,
    /// Metadata namespace.
    pub namespace: String,
    /// Key.
    pub key: String,
}

/// **Source**: `envoy.config.listener.v3.ListenerFilterChainMatchPredicate`.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterChainPredicate {
    /// Any of them.
    Or(Vec<FilterChainPredicate>),
    /// All of them.
    And(Vec<FilterChainPredicate>),
    /// Not this.
    Not(Box<FilterChainPredicate>),
    /// Always.
    Any,
    /// Destination port within `start..end`.
    DestinationPort(u16, u16),
}

/// **Source**: `envoy.config.listener.v3.FilterChain`.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// Name; may be empty.
    pub name: String,
    /// Which connections it takes.
    pub matches: FilterChainMatch,
    /// Network filters in order; the last one ends the chain. Empty: the connection is closed.
    pub filters: Vec<NetworkFilter>,
    /// Plain or TLS.
    pub transport: DownstreamTransport,
    /// `transport_socket_connect_timeout`: the handshake must end within this.
    pub handshake_timeout: Option<Duration>,
}

/// **Source**: `envoy.config.listener.v3.FilterChainMatch`. An empty list matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FilterChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination addresses.
    pub prefix_ranges: Vec<Cidr>,
    /// SNI names in lower case; `*.example.com` is a suffix.
    pub server_names: Vec<String>,
    /// `tls` or `raw_buffer`; empty: any.
    pub transport_protocol: String,
    /// ALPN as offered, or as the HTTP inspector found it.
    pub application_protocols: Vec<String>,
    /// The connection's own source, before PROXY protocol.
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// Where from.
    pub source_type: SourceType,
    /// Source addresses.
    pub source_prefix_ranges: Vec<Cidr>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// **Source**: `envoy.config.listener.v3.FilterChainMatch.ConnectionSourceType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum SourceType {
    /// Any.
    #[default]
    Any,
    /// Loopback, or the same address as the destination.
    SameIpOrLoopback,
    /// Neither of these.
    External,
}
