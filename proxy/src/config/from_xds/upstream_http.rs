//! Which protocols a cluster speaks, by the extension and by the deprecated fields.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::upstreams::http::v3 as http;
use weft_proto::pb::envoy::extensions::upstreams::tcp::v3 as tcp;

use super::ctx::{Ctx, Out};
use super::{hash_policy, headers, http_options, mirror, retry};
use crate::config::{
    HashPolicy, Http1Options, Http2Options, HttpCommonOptions, Mirror, RetryPolicy, UpstreamProtocol, UpstreamTransport,
};

/// **Source**: `tcp.v3.TcpProtocolOptions.idle_timeout`.
const DEFAULT_TCP_IDLE: Duration = Duration::from_secs(600);

const MAP: &str = "typed_extension_protocol_options";
const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TCP: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";

/// What a cluster says about protocols.
pub(super) struct UpstreamHttp {
    pub(super) protocol: UpstreamProtocol,
    pub(super) http1: Http1Options,
    pub(super) http2: Http2Options,
    pub(super) common: HttpCommonOptions,
    pub(super) auto_sni: bool,
    pub(super) auto_sni_header: Option<String>,
    pub(super) auto_san_validation: bool,
    pub(super) retry_policy: Option<RetryPolicy>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) hash_policy: Vec<HashPolicy>,
    pub(super) tcp_idle_timeout: Option<Duration>,
}

impl Default for UpstreamHttp {
    fn default() -> Self {
        UpstreamHttp {
            protocol: UpstreamProtocol::Http1,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            common: HttpCommonOptions::default(),
            auto_sni: false,
            auto_sni_header: None,
            auto_san_validation: false,
            retry_policy: None,
            mirrors: Vec::new(),
            hash_policy: Vec::new(),
            tcp_idle_timeout: Some(DEFAULT_TCP_IDLE),
        }
    }
}

/// All protocol options of a cluster. The extension wins over the deprecated fields.
pub(super) fn options(c: &Ctx<'_>, p: &pb::Cluster) -> Out<UpstreamHttp> {
    let unknown = c.each_key(MAP, &p.typed_extension_protocol_options, |c, key, _| {
        c.ensure(matches!(key, HTTP | TCP), || {
            format!(
                "Didn't find a registered network or http filter or protocol options implementation for name: '{key}'"
            )
        })
    });
    let mut out = match p.typed_extension_protocol_options.get(HTTP) {
        Some(any) => {
            let here = c.key(MAP, HTTP);
            extension(&here, &here.unpack(any)?)
        }
        None => deprecated(c, p),
    }?;
    if let Some(n) = &p.max_requests_per_connection {
        c.field("max_requests_per_connection").ensure(out.common.max_requests_per_connection.is_none(), || {
            "Only one of max_requests_per_connection from Cluster or HttpProtocolOptions can be specified".into()
        })?;
        out.common.max_requests_per_connection = Some(n.value).filter(|n| *n > 0);
    }
    if let Some(any) = p.typed_extension_protocol_options.get(TCP) {
        let here = c.key(MAP, TCP);
        let tcp: tcp::TcpProtocolOptions = here.unpack(any)?;
        out.tcp_idle_timeout = here.timeout("idle_timeout", &tcp.idle_timeout, Some(DEFAULT_TCP_IDLE))?;
    }
    unknown?;
    Ok(out)
}

fn extension(c: &Ctx<'_>, h: &http::HttpProtocolOptions) -> Out<UpstreamHttp> {
    use http::http_protocol_options::UpstreamProtocolOptions as U;
    use http::http_protocol_options::explicit_http_config::ProtocolConfig as P;
    if !h.http_filters.is_empty() {
        return c.field("http_filters").unsupported("a chain of upstream filters");
    }
    let mut out = UpstreamHttp::default();
    let common = c.opt("common_http_protocol_options", &h.common_http_protocol_options, http_options::common);
    let mirrors = c.each("request_mirror_policies", &h.request_mirror_policies, mirror::mirror);
    let hash_policy = hash_policy::hash_policies(c, "hash_policy", &h.hash_policy);
    let retry_policy = c.opt("retry_policy", &h.retry_policy, retry::retry_policy);
    match &h.upstream_protocol_options {
        None => {
            return c
                .refuse("a protocol is required: explicit_http_config, use_downstream_protocol_config or auto_config");
        }
        Some(U::ExplicitHttpConfig(e)) => {
            let c = c.field("explicit_http_config");
            match &e.protocol_config {
                None => return c.refuse("a protocol is required: http_protocol_options or http2_protocol_options"),
                Some(P::HttpProtocolOptions(o)) => {
                    out.http1 = http_options::http1(&c.field("http_protocol_options"), o)?;
                }
                Some(P::Http2ProtocolOptions(o)) => {
                    out.protocol = UpstreamProtocol::Http2;
                    out.http2 = http_options::http2(&c.field("http2_protocol_options"), o)?;
                }
                Some(P::Http3ProtocolOptions(_)) => return c.field("http3_protocol_options").unsupported("HTTP/3"),
            }
        }
        Some(U::UseDownstreamProtocolConfig(d)) => {
            let c = c.field("use_downstream_protocol_config");
            out.protocol = UpstreamProtocol::Downstream;
            both(&c, &mut out, &d.http_protocol_options, &d.http2_protocol_options)?;
            if d.http3_protocol_options.is_some() {
                return c.field("http3_protocol_options").unsupported("HTTP/3");
            }
        }
        Some(U::AutoConfig(a)) => {
            let c = c.field("auto_config");
            out.protocol = UpstreamProtocol::Auto;
            both(&c, &mut out, &a.http_protocol_options, &a.http2_protocol_options)?;
            if a.http3_protocol_options.is_some() {
                return c.field("http3_protocol_options").unsupported("HTTP/3");
            }
        }
    }
    out.common = common?.unwrap_or_default();
    (out.mirrors, out.hash_policy, out.retry_policy) = (mirrors?, hash_policy?, retry_policy?);
    names(c, &mut out, &h.upstream_http_protocol_options)?;
    Ok(out)
}

fn both(
    c: &Ctx<'_>,
    out: &mut UpstreamHttp,
    h1: &Option<core::Http1ProtocolOptions>,
    h2: &Option<core::Http2ProtocolOptions>,
) -> Out<()> {
    out.http1 = c.opt("http_protocol_options", h1, http_options::http1)?.unwrap_or_default();
    out.http2 = c.opt("http2_protocol_options", h2, http_options::http2)?.unwrap_or_default();
    Ok(())
}

fn deprecated(c: &Ctx<'_>, p: &pb::Cluster) -> Out<UpstreamHttp> {
    use pb::cluster::ClusterProtocolSelection as S;
    let mut out = UpstreamHttp::default();
    both(c, &mut out, &p.http_protocol_options, &p.http2_protocol_options)?;
    out.protocol = match c.enumeration::<S>("protocol_selection", p.protocol_selection)? {
        S::UseDownstreamProtocol => UpstreamProtocol::Downstream,
        S::UseConfiguredProtocol if p.http2_protocol_options.is_some() => UpstreamProtocol::Http2,
        S::UseConfiguredProtocol => UpstreamProtocol::Http1,
    };
    out.common = c
        .opt("common_http_protocol_options", &p.common_http_protocol_options, http_options::common)?
        .unwrap_or_default();
    names(c, &mut out, &p.upstream_http_protocol_options)?;
    Ok(out)
}

/// `upstream_http_protocol_options`.
fn names(c: &Ctx<'_>, out: &mut UpstreamHttp, o: &Option<core::UpstreamHttpProtocolOptions>) -> Out<()> {
    let Some(o) = o else { return Ok(()) };
    out.auto_sni = o.auto_sni;
    out.auto_san_validation = o.auto_san_validation;
    if !o.override_auto_sni_header.is_empty() {
        let c = c.field("upstream_http_protocol_options");
        out.auto_sni_header = Some(headers::name(&c, "override_auto_sni_header", &o.override_auto_sni_header)?);
    }
    Ok(())
}

/// Only TLS can say which protocol it is.
pub(super) fn alpn_possible(c: &Ctx<'_>, h: &UpstreamHttp, cluster: &str, transport: &UpstreamTransport) -> Out<()> {
    let mut socket = transport;
    while let UpstreamTransport::ProxyProtocol { inner, .. } = socket {
        socket = inner;
    }
    let possible = h.protocol != UpstreamProtocol::Auto || matches!(socket, UpstreamTransport::Tls(_));
    c.field("transport_socket")
        .ensure(possible, || format!("ALPN configured for cluster {cluster} which has a non-ALPN transport socket"))
}
