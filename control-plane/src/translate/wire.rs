//! Small pieces of Envoy's types.

use std::time::Duration;

use prost::Name;
use weft_proto::any::pack;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3::{self as listener, filter, listener_filter};
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;
use weft_proto::pb::envoy::r#type::v3 as types;
use weft_proto::pb::google::protobuf as wkt;

pub(super) fn u32_value(value: u32) -> Option<wkt::UInt32Value> {
    Some(wkt::UInt32Value { value })
}

pub(super) fn bool_value(value: bool) -> Option<wkt::BoolValue> {
    Some(wkt::BoolValue { value })
}

pub(super) fn duration(value: Duration) -> Option<wkt::Duration> {
    Some(weft_proto::wkt::to_duration(value))
}

/// A TCP address.
pub(super) fn address(host: &str, port: u32) -> core::Address {
    let socket = core::SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

/// A path of a Unix socket, or a TCP address.
pub(super) fn endpoint_address(host: &str, port: u32) -> core::Address {
    match host.strip_prefix("unix://") {
        Some(path) => {
            let pipe = core::Pipe { path: path.to_owned(), mode: 0 };
            core::Address { address: Some(core::address::Address::Pipe(pipe)) }
        }
        None => address(host, port),
    }
}

/// From the stream the subscription itself came by.
pub(super) fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        resource_api_version: core::ApiVersion::V3 as i32,
        // Istio's: waiting for ever is better than serving half a configuration.
        initial_fetch_timeout: duration(Duration::ZERO),
        ..Default::default()
    })
}

/// A network filter.
pub(super) fn network_filter<M: prost::Message + Name>(name: &str, config: &M) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(pack(config))) }
}

/// A listener filter.
pub(super) fn listener_filter<M: prost::Message + Name>(name: &str, config: &M) -> listener::ListenerFilter {
    let config_type = Some(listener_filter::ConfigType::TypedConfig(pack(config)));
    listener::ListenerFilter { name: name.to_owned(), config_type, ..Default::default() }
}

/// A transport socket.
pub(super) fn transport_socket<M: prost::Message + Name>(name: &str, config: &M) -> core::TransportSocket {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(pack(config)));
    core::TransportSocket { name: name.to_owned(), config_type }
}

/// A percentage with four places, as Istio sends it.
pub(super) fn percent(value: f64) -> types::FractionalPercent {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let numerator = (value.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    types::FractionalPercent { numerator, denominator: types::fractional_percent::DenominatorType::Million as i32 }
}

/// An RE2 expression.
pub(super) fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.to_owned(), ..Default::default() }
}

/// A comparison of texts.
pub(super) fn string_matcher(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

/// A network (`10.0.0.0/8`) or a single address.
pub(super) fn cidr(text: &str) -> Option<core::CidrRange> {
    let (host, length) = text.split_once('/').map_or((text, None), |(host, length)| (host, Some(length)));
    let ip: std::net::IpAddr = host.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.parse().ok().filter(|length| *length <= most)?,
        None => most,
    };
    Some(core::CidrRange { address_prefix: ip.to_string(), prefix_len: u32_value(length) })
}

/// A text as a value of a Struct.
pub(super) fn text(value: &str) -> wkt::Value {
    wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.to_owned())) }
}

/// A Struct.
pub(super) fn object<const N: usize>(fields: [(&str, wkt::Value); N]) -> wkt::Struct {
    wkt::Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}
