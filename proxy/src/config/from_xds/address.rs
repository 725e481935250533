//! Addresses, address ranges and socket options.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;

use super::ctx::{Ctx, Out};
use crate::config::{Address, Cidr, SocketOption, SocketOptionState, SocketOptionValue, TcpKeepalive};

/// An address as written: an IP, a name to resolve, or a pipe.
pub(super) fn address(c: &Ctx<'_>, a: &core::Address) -> Out<Address> {
    use core::address::Address as A;
    match &a.address {
        None => c.refuse("value is required: socket_address or pipe"),
        Some(A::SocketAddress(s)) => socket_address(&c.field("socket_address"), s),
        Some(A::Pipe(p)) => {
            let c = c.field("pipe");
            Ok(Address::Pipe { path: c.non_empty("path", &p.path)?, mode: c.bounded("mode", p.mode, 0, 0o777)? })
        }
        Some(A::EnvoyInternalAddress(_)) => c.field("envoy_internal_address").unsupported("an internal address"),
    }
}

/// An IP address or a pipe; a name is refused in Envoy's words.
pub(super) fn resolved(c: &Ctx<'_>, a: &core::Address) -> Out<Address> {
    match address(c, a)? {
        Address::Host { name, .. } => c.field("socket_address").field("address").refuse(malformed(&name)),
        resolved => Ok(resolved),
    }
}

/// An IP address with its port.
pub(super) fn ip_address(c: &Ctx<'_>, a: &core::Address) -> Out<SocketAddr> {
    match resolved(c, a)? {
        Address::Ip(ip) => Ok(ip),
        _ => c.refuse("an IP address is expected"),
    }
}

/// An IP address with its port.
pub(super) fn ip_socket_address(c: &Ctx<'_>, s: &core::SocketAddress) -> Out<SocketAddr> {
    match socket_address(c, s)? {
        Address::Ip(ip) => Ok(ip),
        _ => c.field("address").refuse(malformed(&s.address)),
    }
}

/// Envoy's refusal of what is not an IP address where one is needed.
pub(super) fn malformed(name: &str) -> String {
    format!("malformed IP address: {name}")
}

fn socket_address(c: &Ctx<'_>, s: &core::SocketAddress) -> Out<Address> {
    use core::socket_address::{PortSpecifier, Protocol};
    let protocol = c.enumeration::<Protocol>("protocol", s.protocol)?;
    if protocol == Protocol::Udp {
        return c.field("protocol").unsupported("UDP");
    }
    if !s.resolver_name.is_empty() {
        return c.field("resolver_name").unsupported("a named resolver");
    }
    if !s.network_namespace_filepath.is_empty() {
        return c.field("network_namespace_filepath").unsupported("a network namespace");
    }
    let name = c.non_empty("address", &s.address)?;
    let port = match &s.port_specifier {
        Some(PortSpecifier::PortValue(port)) => c.port("port_value", *port)?,
        Some(PortSpecifier::NamedPort(_)) => return c.field("named_port").unsupported("a named port"),
        None => return c.field("port_value").refuse("value is required"),
    };
    Ok(match name.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
        Err(_) => Address::Host { name, port },
    })
}

/// An address range; a prefix that is too long is the longest, as in Envoy.
pub(super) fn cidr(c: &Ctx<'_>, r: &core::CidrRange) -> Out<Cidr> {
    let prefix = r.prefix_len.as_ref().map_or(0, |p| p.value);
    let range = r.address_prefix.parse::<IpAddr>().ok().and_then(|ip| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        Cidr::new(ip, u8::try_from(prefix).unwrap_or(longest).min(longest))
    });
    match range {
        Some(range) => Ok(range),
        None => c.field("address_prefix").refuse(malformed(&r.address_prefix)),
    }
}

/// TCP keepalive.
pub(super) fn keepalive(_: &Ctx<'_>, k: &core::TcpKeepalive) -> Out<TcpKeepalive> {
    let seconds = |n: u32| Duration::from_secs(n.into());
    Ok(TcpKeepalive {
        probes: k.keepalive_probes.as_ref().map(|n| n.value),
        time: k.keepalive_time.as_ref().map(|n| seconds(n.value)),
        interval: k.keepalive_interval.as_ref().map(|n| seconds(n.value)),
    })
}

/// A raw socket option.
pub(super) fn socket_option(c: &Ctx<'_>, o: &core::SocketOption) -> Out<SocketOption> {
    use core::socket_option::{SocketState as S, Value as V};
    let int = |name, n: i64| match i32::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => c.field(name).refuse("value must fit 32 bits"),
    };
    Ok(SocketOption {
        level: int("level", o.level)?,
        name: int("name", o.name)?,
        value: match &o.value {
            Some(V::IntValue(n)) => SocketOptionValue::Int(int("int_value", *n)?),
            Some(V::BufValue(b)) => SocketOptionValue::Bytes(b.clone()),
            None => return c.refuse("value is required: int_value or buf_value"),
        },
        state: match c.enumeration::<S>("state", o.state)? {
            S::StatePrebind => SocketOptionState::PreBind,
            S::StateBound => SocketOptionState::Bound,
            S::StateListening => SocketOptionState::Listening,
        },
    })
}
