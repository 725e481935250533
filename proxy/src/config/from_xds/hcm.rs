//! The HTTP connection manager.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::ctx::{Ctx, Out};
use super::tcp_proxy::at_least_1_ms;
use super::{access_log, address, hcm_extensions, headers, http_filter, http_options, route_config, source, value};
use crate::config::{
    ClientCertDetails, CodecType, EscapedSlashes, ForwardClientCert, HttpConnectionManager, InternalAddresses,
    LocalReplyConfig, ProxyStatus, Rds, ResponseMapper, RouteConfig, SchemeTransformation, ServerHeader, StripPort,
    UpgradeConfig,
};

/// **Source**: `HttpConnectionManager.stream_idle_timeout`.
const DEFAULT_STREAM_IDLE: Duration = Duration::from_secs(300);
/// A flush timeout of zero: never. Far enough for that, and far from overflowing a clock.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A connection manager.
pub(super) fn hcm(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<HttpConnectionManager> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Slashes;
    let stat_prefix = c.non_empty("stat_prefix", &m.stat_prefix);
    let codec = codec(c, m.codec_type);
    let routes = routes(c, m);
    let filters = http_filter::chain(c, "http_filters", &m.http_filters, "http");
    let http1 = c.opt("http_protocol_options", &m.http_protocol_options, http_options::http1);
    let http2 = c.opt("http2_protocol_options", &m.http2_protocol_options, http_options::http2);
    let common = c.opt("common_http_protocol_options", &m.common_http_protocol_options, http_options::common);
    let access_log = c.each("access_log", &m.access_log, access_log::access_log);
    let original_ip_detection = hcm_extensions::original_ip_detection(c, m);
    let upgrades = upgrades(c, m);
    let local_reply = c.opt("local_reply_config", &m.local_reply_config, local_reply);
    let early_header_mutations = hcm_extensions::early_header_mutations(c, m);
    let pack_trace_reason = c.opt("request_id_extension", &m.request_id_extension, hcm_extensions::request_id);
    let internal_addresses = c.opt("internal_address_config", &m.internal_address_config, |c, i| {
        let ranges = c.each("cidr_ranges", &i.cidr_ranges, address::cidr)?;
        Ok(InternalAddresses { unix_sockets: i.unix_sockets, ranges })
    });
    let scheme = c.opt("scheme_header_transformation", &m.scheme_header_transformation, hcm_extensions::scheme);
    let max_request_headers_kb = value::u32_or(&m.max_request_headers_kb, 60);
    let (flush_interval, on_new_request, on_tunnel) = access_log_options(c, m)?;
    let escaped_slashes =
        match c.enumeration::<Slashes>("path_with_escaped_slashes_action", m.path_with_escaped_slashes_action)? {
            Slashes::ImplementationSpecificDefault | Slashes::KeepUnchanged => EscapedSlashes::Keep,
            Slashes::RejectRequest => EscapedSlashes::Reject,
            Slashes::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            Slashes::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
        };
    let (routes, rds) = routes?;
    let (forward_client_cert, client_cert_details) = client_cert(c, m)?;
    let server_name = if m.server_name.is_empty() { "envoy" } else { &m.server_name };
    headers::plain_value(&c.field("server_name"), server_name)?;
    headers::plain_value(&c.field("via"), &m.via)?;
    let forward_proto = |name: &'static str, of: fn(&pb::ForwardProtoConfig) -> &Vec<u32>| {
        let ports = m.forward_proto_config.as_ref().map(of).map_or(&[][..], Vec::as_slice);
        c.field("forward_proto_config")
            .each(name, ports, |c, p| u16::try_from(*p).or_else(|_| c.refuse("value must be inside range [0, 65535]")))
    };

    Ok(HttpConnectionManager {
        stat_prefix: stat_prefix?,
        codec: codec?,
        routes,
        rds,
        filters: filters?,
        http1: http1?.unwrap_or_default(),
        http2: http2?.unwrap_or_default(),
        common: common?.unwrap_or_default(),
        max_request_headers_bytes: (c.bounded("max_request_headers_kb", max_request_headers_kb, 1, 8192)? as usize)
            << 10,
        stream_idle_timeout: c.timeout("stream_idle_timeout", &m.stream_idle_timeout, Some(DEFAULT_STREAM_IDLE))?,
        request_timeout: c.timeout("request_timeout", &m.request_timeout, None)?,
        request_headers_timeout: c.timeout("request_headers_timeout", &m.request_headers_timeout, None)?,
        stream_flush_timeout: c
            .duration("stream_flush_timeout", &m.stream_flush_timeout)?
            .map(|d| if d.is_zero() { NEVER } else { d }),
        drain_timeout: c.duration("drain_timeout", &m.drain_timeout)?.unwrap_or(Duration::from_secs(5)),
        delayed_close_timeout: c.timeout(
            "delayed_close_timeout",
            &m.delayed_close_timeout,
            Some(Duration::from_secs(1)),
        )?,
        normalize_path: value::bool_or(&m.normalize_path, false),
        merge_slashes: m.merge_slashes,
        escaped_slashes,
        use_remote_address: value::bool_or(&m.use_remote_address, false),
        xff_num_trusted_hops: m.xff_num_trusted_hops,
        skip_xff_append: m.skip_xff_append,
        append_x_forwarded_port: m.append_x_forwarded_port,
        internal_addresses: internal_addresses?.unwrap_or_default(),
        original_ip_detection: original_ip_detection?,
        forward_proto_https_ports: forward_proto("https_destination_ports", |f| &f.https_destination_ports)?,
        forward_proto_http_ports: forward_proto("http_destination_ports", |f| &f.http_destination_ports)?,
        scheme: scheme?.unwrap_or_else(SchemeTransformation::default),
        generate_request_id: value::bool_or(&m.generate_request_id, true),
        preserve_external_request_id: m.preserve_external_request_id,
        always_set_request_id_in_response: m.always_set_request_id_in_response,
        pack_trace_reason: pack_trace_reason?.unwrap_or(true),
        forward_client_cert,
        client_cert_details,
        upgrades: upgrades?,
        server_name: server_name.to_owned(),
        server_header: server_header(c, m)?,
        via: m.via.clone(),
        add_user_agent: value::bool_or(&m.add_user_agent, false),
        strip_port: strip_port(c, m)?,
        strip_trailing_host_dot: m.strip_trailing_host_dot,
        local_reply: local_reply?.unwrap_or_default(),
        proxy_100_continue: m.proxy_100_continue,
        stream_error_on_invalid_http_message: value::bool_or(&m.stream_error_on_invalid_http_message, false),
        early_header_mutations: early_header_mutations?,
        proxy_status: m.proxy_status_config.as_ref().map(|p| proxy_status(c, p, server_name)),
        append_local_overload: m.append_local_overload,
        add_proxy_protocol_connection_state: value::bool_or(&m.add_proxy_protocol_connection_state, true),
        access_log: access_log?,
        access_log_flush_interval: flush_interval,
        access_log_on_new_request: on_new_request,
        access_log_on_tunnel: on_tunnel,
    })
}

fn codec(c: &Ctx<'_>, codec: i32) -> Out<CodecType> {
    use pb::http_connection_manager::CodecType as T;
    match c.enumeration::<T>("codec_type", codec)? {
        T::Auto => Ok(CodecType::Auto),
        T::Http1 => Ok(CodecType::Http1),
        T::Http2 => Ok(CodecType::Http2),
        T::Http3 => c.field("codec_type").refuse("HTTP/3 codec configured on non-QUIC listener."),
    }
}

/// The routes of the connection manager itself, or where they are discovered.
fn routes(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<(RouteConfig, Option<Rds>)> {
    use pb::http_connection_manager::RouteSpecifier as R;
    match &m.route_specifier {
        None => c.refuse("a route specifier is required: route_config"),
        Some(R::RouteConfig(r)) => {
            Ok((route_config::route_config(&c.field("route_config"), r, route_config::Source::Static)?, None))
        }
        Some(R::Rds(r)) => {
            let c = c.field("rds");
            let name = c.non_empty("route_config_name", &r.route_config_name)?;
            let source = c.required("config_source", &r.config_source, source::config_source)?;
            Ok((RouteConfig::default(), Some(Rds { name, source })))
        }
        Some(R::ScopedRoutes(_)) => c.field("scoped_routes").unsupported("scoped routing"),
    }
}

fn server_header(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<ServerHeader> {
    use pb::http_connection_manager::ServerHeaderTransformation as T;
    Ok(match c.enumeration::<T>("server_header_transformation", m.server_header_transformation)? {
        T::Overwrite => ServerHeader::Overwrite,
        T::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        T::PassThrough => ServerHeader::PassThrough,
    })
}

fn strip_port(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<StripPort> {
    use pb::http_connection_manager::StripPortMode::StripAnyHostPort;
    let any = matches!(m.strip_port_mode, Some(StripAnyHostPort(true)));
    match (m.strip_matching_host_port, any) {
        (true, true) => c
            .field("strip_any_host_port")
            .refuse("Error: Only one of `strip_matching_host_port` or `strip_any_host_port` can be set."),
        (true, false) => Ok(StripPort::Matching),
        (false, true) => Ok(StripPort::Any),
        (false, false) => Ok(StripPort::No),
    }
}

fn client_cert(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<(ForwardClientCert, ClientCertDetails)> {
    use pb::http_connection_manager::ForwardClientCertDetails as F;
    if m.forward_client_cert_matcher.is_some() {
        return c.field("forward_client_cert_matcher").unsupported("a matcher");
    }
    let forward = match c.enumeration::<F>("forward_client_cert_details", m.forward_client_cert_details)? {
        F::Sanitize => ForwardClientCert::Sanitize,
        F::ForwardOnly => ForwardClientCert::ForwardOnly,
        F::AppendForward => ForwardClientCert::AppendForward,
        F::SanitizeSet => ForwardClientCert::SanitizeSet,
        F::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    };
    let sets = matches!(forward, ForwardClientCert::AppendForward | ForwardClientCert::SanitizeSet);
    let details = match &m.set_current_client_cert_details {
        Some(s) if sets => ClientCertDetails {
            subject: value::bool_or(&s.subject, false),
            cert: s.cert,
            chain: s.chain,
            dns: s.dns,
            uri: s.uri,
        },
        _ => ClientCertDetails::default(),
    };
    Ok((forward, details))
}

fn upgrades(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<Vec<UpgradeConfig>> {
    let upgrades = c.each("upgrade_configs", &m.upgrade_configs, |c, u| {
        Ok(UpgradeConfig {
            upgrade_type: u.upgrade_type.clone(),
            enabled: value::bool_or(&u.enabled, true),
            filters: http_filter::chain(c, "filters", &u.filters, "http upgrade")?,
        })
    })?;
    let mut seen = BTreeSet::new();
    for (i, u) in upgrades.iter().enumerate() {
        c.index("upgrade_configs", i)
            .field("upgrade_type")
            .ensure(seen.insert(u.upgrade_type.to_ascii_lowercase()), || {
                format!("Error: multiple upgrade configs with the same name: '{}'", u.upgrade_type)
            })?;
    }
    Ok(upgrades)
}

fn local_reply(c: &Ctx<'_>, l: &pb::LocalReplyConfig) -> Out<LocalReplyConfig> {
    let mappers = c.each("mappers", &l.mappers, |c, m| {
        let status = match value::u32_opt(&m.status_code) {
            None => None,
            Some(n) => u16::try_from(c.bounded("status_code", n, 200, 599)?).ok(),
        };
        Ok(ResponseMapper {
            filter: c.required("filter", &m.filter, access_log::filter)?,
            status,
            body: c.opt("body", &m.body, value::data_source)?,
            body_format: c.opt("body_format_override", &m.body_format_override, access_log::format)?,
            headers_to_add: headers::to_add(c, "headers_to_add", &m.headers_to_add)?,
        })
    });
    let body_format = c.opt("body_format", &l.body_format, access_log::format);
    Ok(LocalReplyConfig { mappers: mappers?, body_format: body_format? })
}

fn proxy_status(c: &Ctx<'_>, p: &pb::http_connection_manager::ProxyStatusConfig, server_name: &str) -> ProxyStatus {
    use pb::http_connection_manager::proxy_status_config::ProxyName as N;
    let proxy_name = match &p.proxy_name {
        Some(N::UseNodeId(true)) => c.env().node_id.clone(),
        Some(N::LiteralProxyName(name)) => name.clone(),
        Some(N::UseNodeId(false)) | None => server_name.to_owned(),
    };
    ProxyStatus {
        remove_details: p.remove_details,
        remove_connection_termination_details: p.remove_connection_termination_details,
        remove_response_flags: p.remove_response_flags,
        set_recommended_response_code: p.set_recommended_response_code,
        proxy_name,
    }
}

fn access_log_options(c: &Ctx<'_>, m: &pb::HttpConnectionManager) -> Out<(Option<Duration>, bool, bool)> {
    let Some(options) = &m.access_log_options else {
        let interval = c.opt("access_log_flush_interval", &m.access_log_flush_interval, at_least_1_ms)?;
        return Ok((interval, m.flush_access_log_on_new_request, false));
    };
    let c = c.field("access_log_options");
    c.ensure(m.access_log_flush_interval.is_none(), || {
        "Only one of access_log_flush_interval or access_log_options can be specified.".into()
    })?;
    c.ensure(!m.flush_access_log_on_new_request, || {
        "Only one of flush_access_log_on_new_request or access_log_options can be specified.".into()
    })?;
    let interval = c.opt("access_log_flush_interval", &options.access_log_flush_interval, at_least_1_ms)?;
    Ok((interval, options.flush_access_log_on_new_request, options.flush_log_on_tunnel_successfully_established))
}
