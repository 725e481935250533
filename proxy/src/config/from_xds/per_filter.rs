//! Per-route overrides of HTTP filters.

use std::collections::{BTreeMap, HashMap};

use weft_proto::pb::envoy::config::route::v3 as route;
use weft_proto::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer, header_mutation::v3 as header_mutation, on_demand::v3 as on_demand,
};
use weft_proto::pb::google::protobuf::Any;

use super::ctx::{Ctx, Out, type_name};
use super::{cors, ext_authz, fault, http_filter, jwt, rate_limit, rbac};
use crate::config::{PerFilter, PerFilterConfig};

/// Filters known here that take nothing per route.
const NOT_PER_ROUTE: [&str; 12] = [
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
];

/// `typed_per_filter_config`.
pub(super) fn per_filter(c: &Ctx<'_>, map: &HashMap<String, Any>) -> Out<BTreeMap<String, PerFilter>> {
    let entries = c.each_key("typed_per_filter_config", map, entry)?;
    Ok(entries.into_iter().filter_map(|(name, entry)| Some((name, entry?))).collect())
}

fn entry(c: &Ctx<'_>, name: &str, any: &Any) -> Out<Option<PerFilter>> {
    if type_name(any) != "envoy.config.route.v3.FilterConfig" {
        return config(c, name, any, false);
    }
    let wrapper: route::FilterConfig = c.unpack(any)?;
    if wrapper.disabled {
        // What else it says is ignored, as in Envoy.
        return Ok(Some(PerFilter { disabled: Some(true), config: None }));
    }
    match &wrapper.config {
        None => c.refuse(format!("Empty route/virtual host per filter configuration for {name} filter")),
        // Set but empty: the filter is turned on, with the settings it has.
        Some(any) if any.type_url.is_empty() => Ok(Some(PerFilter { disabled: Some(false), config: None })),
        Some(any) => config(&c.field("config"), name, any, wrapper.is_optional),
    }
}

/// Settings for some routes also turn the filter on there.
fn config(c: &Ctx<'_>, name: &str, any: &Any, optional: bool) -> Out<Option<PerFilter>> {
    let config = match &*type_name(any) {
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
            PerFilterConfig::Cors(Box::new(cors::policy(c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            let per_route: header_mutation::HeaderMutationPerRoute = c.unpack(any)?;
            PerFilterConfig::HeaderMutation(Box::new(http_filter::mutations(c, &per_route.mutations)?))
        }
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
            use buffer::buffer_per_route::Override as O;
            let per_route: buffer::BufferPerRoute = c.unpack(any)?;
            match &per_route.r#override {
                None => return c.refuse("an override is required: disabled or buffer"),
                Some(O::Disabled(true)) => return Ok(Some(PerFilter { disabled: Some(true), config: None })),
                Some(O::Disabled(false)) => return c.field("disabled").refuse("value must equal true"),
                Some(O::Buffer(b)) => PerFilterConfig::Buffer(http_filter::buffer(&c.field("buffer"), b)?),
            }
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            PerFilterConfig::Fault(Box::new(fault::fault(c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            PerFilterConfig::Rbac(Box::new(rbac::per_route(c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            PerFilterConfig::Jwt(jwt::per_route(c, &c.unpack(any)?)?)
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            PerFilterConfig::ExtAuthz(Box::new(ext_authz::per_route(c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
            PerFilterConfig::RateLimit(Box::new(rate_limit::per_route(c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig" => {
            let per_route: on_demand::PerRouteConfig = c.unpack(any)?;
            PerFilterConfig::OnDemand(c.opt("odcds", &per_route.odcds, http_filter::odcds)?.map(Box::new))
        }
        _ if optional => {
            c.skip(format!("the optional configuration of filter '{name}' is unknown and left out"));
            return Ok(None);
        }
        known if NOT_PER_ROUTE.contains(&known) => {
            return c
                .refuse(format!("The filter {name} doesn't support virtual host or route specific configurations"));
        }
        _ => return c.unknown_extension(name, Some(any)),
    };
    Ok(Some(PerFilter { disabled: Some(false), config: Some(config) }))
}
