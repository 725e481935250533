//! CORS policies, by the filter's message and by the deprecated one of routes and virtual hosts.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3 as route;
use weft_proto::pb::envoy::extensions::filters::http::cors::v3 as cors;
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::{matcher, value};
use crate::config::{Cors, PerMillion, RuntimeFraction};

/// The fields both messages have.
struct Fields<'a> {
    allow_origin: &'a [matcher_pb::StringMatcher],
    allow_methods: &'a str,
    allow_headers: &'a str,
    expose_headers: &'a str,
    max_age: &'a str,
    allow_credentials: &'a Option<wkt::BoolValue>,
    enabled: Option<&'a core::RuntimeFractionalPercent>,
    shadow: &'a Option<core::RuntimeFractionalPercent>,
    allow_private_network_access: &'a Option<wkt::BoolValue>,
    forward_not_matching_preflights: &'a Option<wkt::BoolValue>,
}

/// The filter's own message.
pub(super) fn policy(c: &Ctx<'_>, p: &cors::CorsPolicy) -> Out<Cors> {
    let fields = Fields {
        allow_origin: &p.allow_origin_string_match,
        allow_methods: &p.allow_methods,
        allow_headers: &p.allow_headers,
        expose_headers: &p.expose_headers,
        max_age: &p.max_age,
        allow_credentials: &p.allow_credentials,
        enabled: p.filter_enabled.as_ref(),
        shadow: &p.shadow_enabled,
        allow_private_network_access: &p.allow_private_network_access,
        forward_not_matching_preflights: &p.forward_not_matching_preflights,
    };
    convert(c, &fields)
}

/// The deprecated field of routes and virtual hosts.
pub(super) fn deprecated(c: &Ctx<'_>, p: &route::CorsPolicy) -> Out<Cors> {
    use route::cors_policy::EnabledSpecifier::FilterEnabled;
    let fields = Fields {
        allow_origin: &p.allow_origin_string_match,
        allow_methods: &p.allow_methods,
        allow_headers: &p.allow_headers,
        expose_headers: &p.expose_headers,
        max_age: &p.max_age,
        allow_credentials: &p.allow_credentials,
        enabled: p.enabled_specifier.as_ref().map(|FilterEnabled(f)| f),
        shadow: &p.shadow_enabled,
        allow_private_network_access: &p.allow_private_network_access,
        forward_not_matching_preflights: &p.forward_not_matching_preflights,
    };
    convert(c, &fields)
}

fn convert(c: &Ctx<'_>, p: &Fields<'_>) -> Out<Cors> {
    let allow_origins = c.each("allow_origin_string_match", p.allow_origin, matcher::string);
    let enabled = match p.enabled {
        Some(f) => value::runtime_fraction(&c.field("filter_enabled"), f),
        None => Ok(RuntimeFraction::fixed(PerMillion::ALL)),
    };
    let shadow = c.opt("shadow_enabled", p.shadow, value::runtime_fraction);
    Ok(Cors {
        allow_origins: allow_origins?,
        allow_methods: p.allow_methods.to_owned(),
        allow_headers: p.allow_headers.to_owned(),
        expose_headers: p.expose_headers.to_owned(),
        max_age: p.max_age.to_owned(),
        allow_credentials: value::bool_or(p.allow_credentials, false),
        allow_private_network: value::bool_or(p.allow_private_network_access, false),
        forward_not_matching_preflights: value::bool_or(p.forward_not_matching_preflights, true),
        enabled: enabled?,
        shadow: shadow?,
    })
}
