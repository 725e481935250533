//! Transport sockets.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;

use super::ctx::{Ctx, Out, type_name};
use super::tls;
use crate::config::{DownstreamTransport, UpstreamTransport};

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Of a filter chain.
pub(super) fn downstream(c: &Ctx<'_>, t: &core::TransportSocket) -> Out<DownstreamTransport> {
    use core::transport_socket::ConfigType::TypedConfig;
    let Some(TypedConfig(any)) = &t.config_type else {
        return c.unknown_extension(&t.name, None);
    };
    let c = c.field("typed_config");
    match &*type_name(any) {
        RAW_BUFFER => Ok(DownstreamTransport::Plaintext),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            Ok(DownstreamTransport::Tls(Box::new(tls::downstream(&c, &c.unpack(any)?)?)))
        }
        "envoy.extensions.transport_sockets.starttls.v3.StartTlsConfig" => c.unsupported("STARTTLS"),
        _ => c.unknown_extension(&t.name, Some(any)),
    }
}

/// Of a cluster.
pub(super) fn upstream(c: &Ctx<'_>, t: &core::TransportSocket) -> Out<UpstreamTransport> {
    use core::transport_socket::ConfigType::TypedConfig;
    let Some(TypedConfig(any)) = &t.config_type else {
        return c.unknown_extension(&t.name, None);
    };
    let c = c.field("typed_config");
    match &*type_name(any) {
        RAW_BUFFER => Ok(UpstreamTransport::Plaintext),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            Ok(UpstreamTransport::Tls(Box::new(tls::upstream(&c, &c.unpack(any)?)?)))
        }
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
            proxied(&c, &c.unpack(any)?)
        }
        "envoy.extensions.transport_sockets.starttls.v3.UpstreamStartTlsConfig" => c.unsupported("STARTTLS"),
        _ => c.unknown_extension(&t.name, Some(any)),
    }
}

fn proxied(c: &Ctx<'_>, p: &proxy_protocol::ProxyProtocolUpstreamTransport) -> Out<UpstreamTransport> {
    let inner = c.required("transport_socket", &p.transport_socket, upstream);
    let c = c.field("config");
    let empty = core::ProxyProtocolConfig::default();
    let config = p.config.as_ref().unwrap_or(&empty);
    let pass_through_tlvs = c.opt("pass_through_tlvs", &config.pass_through_tlvs, pass_through_tlvs)?.flatten();
    let added_tlvs = c.each("added_tlvs", &config.added_tlvs, |c, tlv| {
        if tlv.format_string.is_some() {
            return c.field("format_string").unsupported("a TLV with a format");
        }
        c.field("value").ensure(!tlv.value.is_empty(), || "value length must be at least 1 bytes".into())?;
        Ok((tlv_type(&c.field("type"), tlv.r#type)?, tlv.value.clone()))
    })?;
    Ok(UpstreamTransport::ProxyProtocol {
        version: version(&c, config.version)?,
        pass_through_tlvs,
        added_tlvs,
        inner: Box::new(inner?),
    })
}

/// The version of a PROXY protocol header to send.
pub(super) fn version(c: &Ctx<'_>, version: i32) -> Out<u8> {
    use core::proxy_protocol_config::Version as V;
    Ok(match c.enumeration::<V>("version", version)? {
        V::V1 => 1,
        V::V2 => 2,
    })
}

/// TLV types that pass. `Some(empty)`: all of them; `None`: none.
pub(super) fn pass_through_tlvs(c: &Ctx<'_>, p: &core::ProxyProtocolPassThroughTlVs) -> Out<Option<Vec<u8>>> {
    use core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType as M;
    match c.enumeration::<M>("match_type", p.match_type)? {
        M::IncludeAll => Ok(Some(Vec::new())),
        M::Include if p.tlv_type.is_empty() => Ok(None),
        M::Include => c.each("tlv_type", &p.tlv_type, |c, n| tlv_type(c, *n)).map(Some),
    }
}

/// A TLV type is one byte.
pub(super) fn tlv_type(c: &Ctx<'_>, n: u32) -> Out<u8> {
    match u8::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => c.refuse("value must be less than 256"),
    }
}
