//! Listener filters.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::listener::proxy_protocol::v3::{
    self as proxy_protocol, proxy_protocol as inner,
};
use weft_proto::pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
use weft_proto::pb::google::protobuf::Any;

use super::ctx::{Ctx, Out, type_name};
use super::extension::{self, Family};
use super::{transport, value};
use crate::config::{
    ConfigError, Extension, ExtensionDiscovery, FilterChainPredicate, ListenerFilter, ListenerFilterKind,
    ProxyProtocolIn, ProxyProtocolRule,
};

/// Envoy's largest ClientHello, and BoringSSL's.
const MAX_CLIENT_HELLO: u32 = 16 << 10;

/// A listener filter.
pub(super) fn listener_filter(c: &Ctx<'_>, f: &pb::ListenerFilter) -> Out<ListenerFilter> {
    let name = c.non_empty("name", &f.name)?;
    let disabled = c.opt("filter_disabled", &f.filter_disabled, predicate);
    let kind = kind(c, f);
    Ok(ListenerFilter { name, kind: kind?, disabled: disabled? })
}

fn kind(c: &Ctx<'_>, f: &pb::ListenerFilter) -> Out<ListenerFilterKind> {
    use pb::listener_filter::ConfigType as T;
    let any = match &f.config_type {
        None => return c.unknown_extension(&f.name, None),
        Some(T::ConfigDiscovery(d)) => {
            let d = extension::discovery(&c.field("config_discovery"), &f.name, d, &FAMILY)?;
            return Ok(ListenerFilterKind::Discovered(Box::new(d)));
        }
        Some(T::TypedConfig(any)) => any,
    };
    let c = c.field("typed_config");
    convert(&c, any).unwrap_or_else(|| c.unknown_extension(&f.name, Some(any)))
}

/// Listener filters, for what is discovered.
const FAMILY: Family<ListenerFilterKind> = Family { known: &KNOWN, convert };

/// Filters that there are, by the full name of their message.
const KNOWN: [&str; 4] = [
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
];

/// `None`: nobody here implements it.
fn convert(c: &Ctx<'_>, any: &Any) -> Option<Out<ListenerFilterKind>> {
    let [tls, http, original, proxy] = KNOWN;
    let name = type_name(any);
    Some(if name == tls {
        c.unpack(any).and_then(|t| tls_inspector(c, &t))
    } else if name == http {
        Ok(ListenerFilterKind::HttpInspector)
    } else if name == original {
        Ok(ListenerFilterKind::OriginalDst)
    } else if name == proxy {
        c.unpack(any).and_then(|p| proxy_protocol(c, &p)).map(ListenerFilterKind::ProxyProtocol)
    } else {
        return None;
    })
}

/// A discovered configuration.
pub(super) fn discovered(c: &Ctx<'_>, t: &core::TypedExtensionConfig) -> Out<Extension<ListenerFilterKind>> {
    extension::discovered(c, t, &FAMILY)
}

/// Whether a filter may stand where its configuration is discovered for, in Envoy's words.
///
/// # Errors
/// Why it may not.
pub fn fits(
    d: &ExtensionDiscovery<ListenerFilterKind>,
    name: &str,
    found: &Extension<ListenerFilterKind>,
) -> Result<(), ConfigError> {
    extension::fits(d, name, found, None)
}

fn tls_inspector(c: &Ctx<'_>, t: &tls_inspector::TlsInspector) -> Out<ListenerFilterKind> {
    let max = value::u32_or(&t.max_client_hello_size, MAX_CLIENT_HELLO);
    let max = c.bounded("max_client_hello_size", max, 256, MAX_CLIENT_HELLO)?;
    Ok(ListenerFilterKind::TlsInspector {
        max_client_hello_size: max as usize,
        close_on_error: t.close_connection_on_client_hello_parsing_errors,
    })
}

fn proxy_protocol(c: &Ctx<'_>, p: &proxy_protocol::ProxyProtocol) -> Out<ProxyProtocolIn> {
    use inner::key_value_pair::ValueStringEncoding as E;
    if p.tlv_location != 0 {
        return c.field("tlv_location").unsupported("any place but DYNAMIC_METADATA");
    }
    let rules = c.each("rules", &p.rules, |c, r| {
        let tlv_type = transport::tlv_type(&c.field("tlv_type"), r.tlv_type)?;
        let (namespace, key) = c.required("on_tlv_present", &r.on_tlv_present, |c, kv| {
            if c.enumeration::<E>("value_string_encoding", kv.value_string_encoding)? == E::Base64 {
                return c.field("value_string_encoding").unsupported("BASE64");
            }
            let namespace = match kv.metadata_namespace.as_str() {
                "" => "envoy.filters.listener.proxy_protocol",
                named => named,
            };
            Ok((namespace.to_owned(), c.non_empty("key", &kv.key)?))
        })?;
        Ok(ProxyProtocolRule { tlv_type, namespace, key })
    });
    let disallowed_versions = c.each("disallowed_versions", &p.disallowed_versions, |c, v| match v {
        0 => Ok(1),
        1 => Ok(2),
        _ => c.refuse("value must be one of the defined enum values"),
    });
    let pass_through_tlvs = c.opt("pass_through_tlvs", &p.pass_through_tlvs, transport::pass_through_tlvs);
    Ok(ProxyProtocolIn {
        allow_requests_without_proxy_protocol: p.allow_requests_without_proxy_protocol,
        disallowed_versions: disallowed_versions?,
        pass_through_tlvs: pass_through_tlvs?.flatten(),
        rules: rules?,
        stat_prefix: p.stat_prefix.clone(),
    })
}

/// Which connections skip a listener filter.
fn predicate(c: &Ctx<'_>, p: &pb::ListenerFilterChainMatchPredicate) -> Out<FilterChainPredicate> {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule as R};
    let set = |field, set: &MatchSet| {
        let c = c.field(field);
        c.field("rules").ensure(set.rules.len() >= 2, || "value must contain at least 2 item(s)".into())?;
        c.each("rules", &set.rules, predicate)
    };
    Ok(match &p.rule {
        None => return c.refuse("a rule is required"),
        Some(R::OrMatch(s)) => FilterChainPredicate::Or(set("or_match", s)?),
        Some(R::AndMatch(s)) => FilterChainPredicate::And(set("and_match", s)?),
        Some(R::NotMatch(p)) => FilterChainPredicate::Not(Box::new(predicate(&c.field("not_match"), p)?)),
        Some(R::AnyMatch(true)) => FilterChainPredicate::Any,
        Some(R::AnyMatch(false)) => return c.field("any_match").refuse("value must equal true"),
        Some(R::DestinationPortRange(r)) => port_range(r.start, r.end),
    })
}

/// Ports within `start..end`, either of which may lie beyond what a port can be.
fn port_range(start: i32, end: i32) -> FilterChainPredicate {
    use FilterChainPredicate as P;
    let from = u16::try_from(start.max(0));
    match (from, u16::try_from(end.max(0))) {
        (Ok(from), Ok(end)) if from < end => P::DestinationPort(from, end),
        // The end is exclusive: beyond 65535 it takes the last port in, which 16 bits cannot say.
        (Ok(from), Err(_)) if from > 0 => P::Not(Box::new(P::DestinationPort(0, from))),
        (Ok(_), Err(_)) => P::Any,
        _ => P::Not(Box::new(P::Any)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_xds::Environment;
    use crate::config::from_xds::ctx::Shared;

    #[test]
    fn every_known_filter_is_converted() {
        let environment = Environment::default();
        let shared = Shared::new(&environment);
        let c = Ctx::root(&shared);
        for name in KNOWN {
            let any = Any { type_url: format!("type.googleapis.com/{name}"), value: Vec::new() };
            assert!(convert(&c, &any).is_some(), "{name}");
        }
    }
}
