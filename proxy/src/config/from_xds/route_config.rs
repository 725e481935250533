//! Route configurations and virtual hosts.

use std::collections::BTreeSet;

use weft_proto::pb::envoy::config::route::v3 as pb;

use super::ctx::{Ctx, Out};
use super::{cors, headers, matcher, mirror, per_filter, rate_limit, retry, route, source, value};
use crate::config::{RequireTls, RouteConfig, VirtualHost};

/// **Source**: `RouteConfiguration.max_direct_response_body_size_bytes`.
const DEFAULT_MAX_BODY: u32 = 4096;

/// Where a route configuration comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Written in its connection manager: clusters are checked unless it says not to.
    Static,
    /// Discovered: clusters are checked only if it says so.
    Discovered,
}

/// A route configuration.
pub(super) fn route_config(c: &Ctx<'_>, r: &pb::RouteConfiguration, origin: Source) -> Out<RouteConfig> {
    let vhds = c.opt("vhds", &r.vhds, |c, v| {
        c.ensure(origin == Source::Discovered, || "only discovered routes can have discovered virtual hosts".into())?;
        c.required("config_source", &v.config_source, source::delta)
    });
    if !r.cluster_specifier_plugins.is_empty() {
        return c.field("cluster_specifier_plugins").unsupported("a cluster specifier plugin");
    }
    let validate_clusters = value::bool_or(&r.validate_clusters, origin == Source::Static);
    let c = &c.checking_clusters(validate_clusters);
    let max_body = value::u32_or(&r.max_direct_response_body_size_bytes, DEFAULT_MAX_BODY) as usize;
    let virtual_hosts = c.each("virtual_hosts", &r.virtual_hosts, |c, v| virtual_host(c, v, max_body));
    let unique = unique_domains(c, r);
    let headers = headers::level(
        c,
        (&r.request_headers_to_add, &r.request_headers_to_remove),
        (&r.response_headers_to_add, &r.response_headers_to_remove),
    );
    let internal = c.each("internal_only_headers", &r.internal_only_headers, |c, h| headers::element(c, h));
    let per_filter = per_filter::per_filter(c, &r.typed_per_filter_config);
    let mirrors = c.each("request_mirror_policies", &r.request_mirror_policies, mirror::mirror);
    unique?;
    Ok(RouteConfig {
        name: r.name.clone(),
        virtual_hosts: virtual_hosts?,
        vhds: vhds?,
        internal_only_headers: internal?,
        headers: headers?,
        most_specific_header_mutations_wins: r.most_specific_header_mutations_wins,
        ignore_port_in_host_matching: r.ignore_port_in_host_matching,
        ignore_path_parameters: r.ignore_path_parameters_in_path_matching,
        vhost_header: r.vhost_header.to_ascii_lowercase(),
        validate_clusters,
        max_direct_response_body: max_body,
        per_filter: per_filter?,
        mirrors: mirrors?,
    })
}

/// No host may lead to two virtual hosts, in Envoy's words.
fn unique_domains(c: &Ctx<'_>, r: &pb::RouteConfiguration) -> Out<()> {
    let mut seen = BTreeSet::new();
    let mut all = Ok(());
    for (v, host) in r.virtual_hosts.iter().enumerate() {
        let here = c.index("virtual_hosts", v);
        for (d, domain) in host.domains.iter().enumerate() {
            let domain = domain.to_ascii_lowercase();
            if seen.contains(&domain) {
                let reason = if domain == "*" {
                    format!("Only a single wildcard domain is permitted in route {}", r.name)
                } else {
                    format!(
                        "Only unique values for domains are permitted. Duplicate entry of domain {domain} in route {}",
                        r.name
                    )
                };
                all = here.index("domains", d).refuse(reason);
            }
            seen.insert(domain);
        }
    }
    all
}

/// A virtual host.
pub(super) fn virtual_host(c: &Ctx<'_>, v: &pb::VirtualHost, max_body: usize) -> Out<VirtualHost> {
    use pb::virtual_host::TlsRequirementType as T;
    if v.matcher.is_some() {
        return c.field("matcher").unsupported("a route matcher tree");
    }
    if v.retry_policy_typed_config.is_some() {
        return c.field("retry_policy_typed_config").unsupported("a retry policy extension");
    }
    let name = c.non_empty("name", &v.name);
    if v.domains.is_empty() {
        return c.field("domains").refuse("value must contain at least 1 item(s)");
    }
    let domains = c.each("domains", &v.domains, |c, d| {
        headers::plain_value(c, d)?;
        Ok(d.to_ascii_lowercase())
    });
    let routes = c.each("routes", &v.routes, |c, r| route::route(c, r, max_body));
    let require_tls = c.enumeration::<T>("require_tls", v.require_tls);
    let headers = headers::level(
        c,
        (&v.request_headers_to_add, &v.request_headers_to_remove),
        (&v.response_headers_to_add, &v.response_headers_to_remove),
    );
    let retry_policy = c.opt("retry_policy", &v.retry_policy, retry::retry_policy);
    let cors = c.opt("cors", &v.cors, cors::deprecated);
    let per_filter = per_filter::per_filter(c, &v.typed_per_filter_config);
    let mirrors = c.each("request_mirror_policies", &v.request_mirror_policies, mirror::mirror);
    let rate_limits = rate_limit::rules(c, &v.rate_limits);
    let virtual_clusters = c.each("virtual_clusters", &v.virtual_clusters, |c, v| {
        c.field("headers").ensure(!v.headers.is_empty(), || "virtual clusters must define 'headers'".into())?;
        Ok((c.non_empty("name", &v.name)?, c.each("headers", &v.headers, matcher::header)?))
    });
    Ok(VirtualHost {
        name: name?,
        domains: domains?,
        routes: routes?,
        require_tls: match require_tls? {
            T::None => RequireTls::None,
            T::ExternalOnly => RequireTls::ExternalOnly,
            T::All => RequireTls::All,
        },
        headers: headers?,
        retry_policy: retry_policy?,
        include_request_attempt_count: v.include_request_attempt_count,
        include_attempt_count_in_response: v.include_attempt_count_in_response,
        include_is_timeout_retry_header: v.include_is_timeout_retry_header,
        request_body_buffer_limit: route::body_limit(&v.request_body_buffer_limit, &v.per_request_buffer_limit_bytes),
        cors: cors?,
        per_filter: per_filter?,
        mirrors: mirrors?,
        rate_limits: rate_limits?,
        virtual_clusters: virtual_clusters?,
    })
}
