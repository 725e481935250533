//! Global rate limits. Whatever is not understood is refused: left out, it would let more in.

use std::time::Duration;

use weft_proto::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use weft_proto::pb::envoy::config::route::v3 as route;
use weft_proto::pb::envoy::config::route::v3::rate_limit::{Action, HitsAddend, Override, action};
use weft_proto::pb::envoy::extensions::filters::http::ratelimit::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::network::ratelimit::v3 as network;
use weft_proto::pb::envoy::r#type::metadata::v3::MetadataKey;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::{ext_authz, headers, matcher, service, value};
use crate::config::{
    Cidr, GlobalRateLimit, GrpcService, Hits, HitsNumber, HostLimits, LimitAction, LimitMetadata, LimitOverride,
    LimitPerRoute, LimitRule, LimitedRequests, MetadataPath, NetworkRateLimit,
};

/// Envoy's default for the time a service has.
const TIMEOUT: Duration = Duration::from_millis(20);
/// Envoy's default namespace of what a service says of a request.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";
/// Stages there are.
const MAX_STAGE: u32 = 10;

/// The HTTP filter.
pub(super) fn http(c: &Ctx<'_>, f: &pb::RateLimit) -> Out<GlobalRateLimit> {
    let requests = match &*f.request_type {
        "" | "both" => LimitedRequests::Both,
        "internal" => LimitedRequests::Internal,
        "external" => LimitedRequests::External,
        _ => {
            return c.field("request_type").refuse("value must be in list [internal external both ]");
        }
    };
    c.field("response_headers_to_add")
        .ensure(f.response_headers_to_add.len() <= 10, || "value must contain no more than 10 item(s)".into())?;
    use pb::rate_limit::XRateLimitHeadersRfcVersion as V;
    let version = c.enumeration::<V>("enable_x_ratelimit_headers", f.enable_x_ratelimit_headers)?;
    let some = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    // Below 400 a refusal would be none.
    let limited = ext_authz::status(c, "rate_limited_status", &f.rate_limited_status, 429)?;
    Ok(GlobalRateLimit {
        domain: c.non_empty("domain", &f.domain)?,
        stage: c.bounded("stage", f.stage, 0, MAX_STAGE)?,
        requests,
        service: Box::new(limit_service(c, &f.rate_limit_service, &f.timeout)?),
        failure_mode_deny: f.failure_mode_deny,
        deny_share: c.opt("failure_mode_deny_percent", &f.failure_mode_deny_percent, value::runtime_fraction)?,
        as_resource_exhausted: f.rate_limited_as_resource_exhausted,
        limit_headers: version == V::DraftVersion03,
        retry_after: f.enable_retry_after_header,
        envoy_header: !f.disable_x_envoy_ratelimited_header,
        limited_status: if limited < 400 { 429 } else { limited },
        status_on_error: ext_authz::status(c, "status_on_error", &f.status_on_error, 500)?,
        headers: headers::to_add(c, "response_headers_to_add", &f.response_headers_to_add)?,
        stat_prefix: f.stat_prefix.clone(),
        enabled: c.opt("filter_enabled", &f.filter_enabled, value::runtime_fraction)?,
        enforced: c.opt("filter_enforced", &f.filter_enforced, value::runtime_fraction)?,
        rules: embedded(c, &f.rate_limits)?,
        metadata_namespace: some(&f.metadata_namespace, NAMESPACE),
    })
}

/// The filter for some routes.
pub(super) fn per_route(c: &Ctx<'_>, p: &pb::RateLimitPerRoute) -> Out<LimitPerRoute> {
    use pb::rate_limit_per_route::VhRateLimitsOptions as O;
    c.field("override_option").ensure(p.override_option == 0, || "is not implemented, neither in Envoy".into())?;
    Ok(LimitPerRoute {
        of_host: match c.enumeration::<O>("vh_rate_limits", p.vh_rate_limits)? {
            O::Override => HostLimits::Override,
            O::Include => HostLimits::Include,
            O::Ignore => HostLimits::Ignore,
        },
        rules: embedded(c, &p.rate_limits)?,
        domain: p.domain.clone(),
    })
}

/// The network filter.
pub(super) fn network(c: &Ctx<'_>, f: &network::RateLimit) -> Out<NetworkRateLimit> {
    c.field("descriptors").ensure(!f.descriptors.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let descriptors = c.each("descriptors", &f.descriptors, |c, d| {
        for (field, set) in [("limit", d.limit.is_some()), ("hits_addend", d.hits_addend.is_some())] {
            if set {
                return c.field(field).unsupported("this setting of a connection's descriptor");
            }
        }
        c.field("entries").ensure(!d.entries.is_empty(), || "value must contain at least 1 item(s)".into())?;
        c.each("entries", &d.entries, |c, e| Ok((c.non_empty("key", &e.key)?, e.value.clone())))
    });
    Ok(NetworkRateLimit {
        stat_prefix: c.non_empty("stat_prefix", &f.stat_prefix)?,
        domain: c.non_empty("domain", &f.domain)?,
        descriptors: descriptors?,
        service: Box::new(limit_service(c, &f.rate_limit_service, &f.timeout)?),
        failure_mode_deny: f.failure_mode_deny,
    })
}

/// The service that counts.
fn limit_service(c: &Ctx<'_>, s: &Option<RateLimitServiceConfig>, timeout: &Option<wkt::Duration>) -> Out<GrpcService> {
    let timeout = c.timeout("timeout", timeout, Some(TIMEOUT));
    let mut service = c.required("rate_limit_service", s, |c, s| {
        service::version(c, s.transport_api_version)?;
        c.required("grpc_service", &s.grpc_service, |c, g| {
            if g.timeout.is_some() {
                c.field("timeout").warn("has no effect: the filter's own timeout counts");
            }
            service::grpc(c, g, None)
        })
    })?;
    // Only the filter's own counts, as in Envoy.
    service.timeout = timeout?;
    Ok(service)
}

/// Rules within a filter's configuration: some of what a rule may say is not for them, as in Envoy.
fn embedded(c: &Ctx<'_>, list: &[route::RateLimit]) -> Out<Vec<LimitRule>> {
    c.each("rate_limits", list, |c, r| {
        let no = |set: bool, what: &str| c.ensure(!set, || format!("{what} cannot be set in per filter config"));
        no(r.stage.is_some() || !r.disable_key.is_empty(), "'stage' field and 'disable_key' field")?;
        rule(c, r)
    })
}

/// `rate_limits` of a route or virtual host.
pub(super) fn rules(c: &Ctx<'_>, list: &[route::RateLimit]) -> Out<Vec<LimitRule>> {
    c.each("rate_limits", list, rule)
}

fn rule(c: &Ctx<'_>, r: &route::RateLimit) -> Out<LimitRule> {
    if r.apply_on_stream_done {
        return c.field("apply_on_stream_done").unsupported("counting at the end of a request");
    }
    if r.x_ratelimit_option != 0 {
        return c.field("x_ratelimit_option").unsupported("a choice of headers for each descriptor");
    }
    c.field("actions").ensure(!r.actions.is_empty(), || "value must contain at least 1 item(s)".into())?;
    Ok(LimitRule {
        stage: c.bounded("stage", value::u32_or(&r.stage, 0), 0, MAX_STAGE)?,
        disable_key: r.disable_key.clone(),
        actions: c.each("actions", &r.actions, action)?,
        limit: c.opt("limit", &r.limit, limit)?,
        hits: c.opt("hits_addend", &r.hits_addend, hits)?,
    })
}

#[allow(deprecated, reason = "dynamic_metadata is still used")]
fn action(c: &Ctx<'_>, a: &Action) -> Out<LimitAction> {
    use action::ActionSpecifier as A;
    let key = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    Ok(match &a.action_specifier {
        None => return c.refuse("an action is required"),
        Some(A::SourceCluster(_)) => LimitAction::SourceCluster,
        Some(A::DestinationCluster(_)) => LimitAction::DestinationCluster,
        Some(A::RemoteAddress(_)) => LimitAction::RemoteAddress,
        Some(A::RequestHeaders(h)) => {
            let c = c.field("request_headers");
            LimitAction::RequestHeader {
                name: headers::name(&c, "header_name", &h.header_name)?,
                key: c.non_empty("descriptor_key", &h.descriptor_key)?,
                skip: h.skip_if_absent,
            }
        }
        Some(A::QueryParameters(q)) => {
            let c = c.field("query_parameters");
            LimitAction::QueryParameter {
                name: c.non_empty("query_parameter_name", &q.query_parameter_name)?,
                key: c.non_empty("descriptor_key", &q.descriptor_key)?,
                skip: q.skip_if_absent,
            }
        }
        Some(A::MaskedRemoteAddress(m)) => {
            let c = c.field("masked_remote_address");
            let bits = |field, n: &Option<wkt::UInt32Value>, max| {
                Ok(u8::try_from(c.bounded(field, value::u32_or(n, max), 0, max)?).unwrap_or(u8::MAX))
            };
            let v4 = bits("v4_prefix_mask_len", &m.v4_prefix_mask_len, 32)?;
            LimitAction::MaskedRemoteAddress(v4, bits("v6_prefix_mask_len", &m.v6_prefix_mask_len, 128)?)
        }
        Some(A::GenericKey(g)) => {
            let value = c.field("generic_key").non_empty("descriptor_value", &g.descriptor_value)?;
            LimitAction::Generic(key(&g.descriptor_key, "generic_key"), value)
        }
        Some(A::HeaderValueMatch(m)) => {
            let c = c.field("header_value_match");
            c.field("headers").ensure(!m.headers.is_empty(), || "value must contain at least 1 item(s)".into())?;
            LimitAction::HeaderMatch {
                key: key(&m.descriptor_key, "header_match"),
                value: c.non_empty("descriptor_value", &m.descriptor_value)?,
                headers: c.each("headers", &m.headers, matcher::header)?,
                expect: value::bool_or(&m.expect_match, true),
            }
        }
        Some(A::QueryParameterValueMatch(m)) => {
            let c = c.field("query_parameter_value_match");
            c.field("query_parameters")
                .ensure(!m.query_parameters.is_empty(), || "value must contain at least 1 item(s)".into())?;
            LimitAction::QueryMatch {
                key: key(&m.descriptor_key, "query_match"),
                value: c.non_empty("descriptor_value", &m.descriptor_value)?,
                params: c.each("query_parameters", &m.query_parameters, matcher::query)?,
                expect: value::bool_or(&m.expect_match, true),
            }
        }
        Some(A::RemoteAddressMatch(m)) => address_match(&c.field("remote_address_match"), m)?,
        Some(A::DynamicMetadata(m)) => {
            let c = c.field("dynamic_metadata");
            LimitAction::Metadata {
                key: c.non_empty("descriptor_key", &m.descriptor_key)?,
                source: LimitMetadata::Dynamic,
                path: c.required("metadata_key", &m.metadata_key, metadata_key)?,
                default: m.default_value.clone(),
                skip: false,
            }
        }
        Some(A::Metadata(m)) => metadata(&c.field("metadata"), m)?,
        Some(A::Extension(_)) => return c.field("extension").unsupported("a descriptor by extension"),
    })
}

fn metadata(c: &Ctx<'_>, m: &action::MetaData) -> Out<LimitAction> {
    use action::meta_data::Source as S;
    Ok(LimitAction::Metadata {
        key: c.non_empty("descriptor_key", &m.descriptor_key)?,
        source: match c.enumeration::<S>("source", m.source)? {
            S::Dynamic => LimitMetadata::Dynamic,
            S::RouteEntry => LimitMetadata::Route,
            S::ClusterEntry | S::ClusterLocalityEntry => {
                return c.field("source").unsupported("metadata of a cluster or locality");
            }
        },
        path: c.required("metadata_key", &m.metadata_key, metadata_key)?,
        default: m.default_value.clone(),
        skip: m.skip_if_absent,
    })
}

fn address_match(c: &Ctx<'_>, m: &action::RemoteAddressMatch) -> Out<LimitAction> {
    let (ranges, invert) = c.required("address_matcher", &m.address_matcher, |c, a| {
        let ranges = c.each("ranges", &a.ranges, |c, r| {
            let prefix = u8::try_from(value::u32_or(&r.prefix_len, 0)).ok();
            let range = r.address_prefix.parse().ok().and_then(|ip| Cidr::new(ip, prefix?));
            range.map_or_else(|| c.refuse("malformed IP address or prefix"), Ok)
        })?;
        Ok((ranges, a.invert_match))
    })?;
    Ok(LimitAction::AddressMatch {
        key: if m.descriptor_key.is_empty() { "remote_address_match".to_owned() } else { m.descriptor_key.clone() },
        value: c.non_empty("descriptor_value", &m.descriptor_value)?,
        default: m.default_value.clone(),
        ranges,
        invert,
    })
}

fn metadata_key(c: &Ctx<'_>, k: &MetadataKey) -> Out<MetadataPath> {
    use weft_proto::pb::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    c.field("path").ensure(!k.path.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let keys = c.each("path", &k.path, |c, s| match &s.segment {
        Some(Segment::Key(key)) => c.non_empty("key", key),
        Some(Segment::Index(_)) => c.field("index").unsupported("an index into a list"),
        None => c.field("key").refuse("value is required"),
    })?;
    Ok(MetadataPath { namespace: c.non_empty("key", &k.key)?, keys })
}

fn limit(c: &Ctx<'_>, o: &Override) -> Out<LimitOverride> {
    use route::rate_limit::r#override::OverrideSpecifier as S;
    match &o.override_specifier {
        None => c.refuse("an override is required: dynamic_metadata or rate_limit"),
        Some(S::DynamicMetadata(d)) => {
            let c = c.field("dynamic_metadata");
            Ok(LimitOverride::Dynamic(c.required("metadata_key", &d.metadata_key, metadata_key)?))
        }
        Some(S::RateLimit(r)) => Ok(LimitOverride::Fixed(r.requests_per_unit, r.unit)),
    }
}

fn hits(c: &Ctx<'_>, h: &HitsAddend) -> Out<Hits> {
    let number = match (&h.number, &*h.format) {
        (Some(_), format) if !format.is_empty() => {
            return c.refuse("hits_addend: number and format cannot be set together");
        }
        (Some(n), _) => {
            c.field("number")
                .ensure(n.value <= 1_000_000_000, || "value must be less than or equal to 1000000000".into())?;
            HitsNumber::Fixed(n.value)
        }
        (None, "") => return c.refuse("a number or a format is required"),
        (None, format) => HitsNumber::Format(format.to_owned()),
    };
    Ok(Hits { number, negative: h.is_negative_hits })
}
