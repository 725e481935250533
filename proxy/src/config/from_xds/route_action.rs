//! What forwards a request.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3 as pb;
use weft_proto::pb::envoy::extensions::path::rewrite::uri_template::v3 as template;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out, type_name};
use super::route_match::Template;
use super::{
    cors, hash_policy, headers, matcher, mirror, per_filter, rate_limit, retry, transport, uri_template, value,
};
use crate::config::{
    ClusterSpecifier, HostRewrite, PathRewrite, RouteAction, RouteUpgrade, WeightedCluster, WeightedClusters,
};

/// **Source**: `RouteAction.timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// A route action.
pub(super) fn route_action(c: &Ctx<'_>, a: &pb::RouteAction, matched_by: Template<'_>) -> Out<RouteAction> {
    use pb::route_action::ClusterNotFoundResponseCode as Code;
    // Each of these sends a request elsewhere, or again.
    if a.retry_policy_typed_config.is_some() {
        return c.field("retry_policy_typed_config").unsupported("a retry policy extension");
    }
    if a.internal_redirect_policy.is_some() {
        return c.field("internal_redirect_policy").unsupported("following redirects");
    }
    if a.internal_redirect_action != 0 {
        return c.field("internal_redirect_action").unsupported("following redirects");
    }
    let cluster = cluster(c, a);
    let path_rewrite = path_rewrite(c, a, matched_by);
    let host_rewrite = host_rewrite(c, a);
    let retry_policy = c.opt("retry_policy", &a.retry_policy, retry::retry_policy);
    let mirrors = c.each("request_mirror_policies", &a.request_mirror_policies, mirror::mirror);
    let hash_policy = hash_policy::hash_policies(c, "hash_policy", &a.hash_policy);
    let cors = c.opt("cors", &a.cors, cors::deprecated);
    let upgrades = upgrades(c, a);
    let stream = a.max_stream_duration.unwrap_or_default();
    let s = c.field("max_stream_duration");
    Ok(RouteAction {
        cluster: cluster?,
        cluster_not_found_status: match c
            .enumeration::<Code>("cluster_not_found_response_code", a.cluster_not_found_response_code)?
        {
            Code::ServiceUnavailable => 503,
            Code::NotFound => 404,
            Code::InternalServerError => 500,
        },
        metadata_match: a.metadata_match.as_ref().map(value::metadata),
        path_rewrite: path_rewrite?,
        host_rewrite: host_rewrite?,
        append_x_forwarded_host: a.append_x_forwarded_host,
        timeout: c.timeout("timeout", &a.timeout, Some(DEFAULT_TIMEOUT))?,
        idle_timeout: set_or_off(c, "idle_timeout", &a.idle_timeout)?,
        flush_timeout: set_or_off(c, "flush_timeout", &a.flush_timeout)?,
        max_stream_duration: set_or_off(&s, "max_stream_duration", &stream.max_stream_duration)?,
        stream_timeouts: a.max_stream_duration.is_some(),
        grpc_timeout_header_max: set_or_off(&s, "grpc_timeout_header_max", &stream.grpc_timeout_header_max)?,
        grpc_timeout_header_offset: s.duration("grpc_timeout_header_offset", &stream.grpc_timeout_header_offset)?,
        max_grpc_timeout: set_or_off(c, "max_grpc_timeout", &a.max_grpc_timeout)?,
        grpc_timeout_offset: c.duration("grpc_timeout_offset", &a.grpc_timeout_offset)?,
        retry_policy: retry_policy?,
        mirrors: mirrors?,
        hash_policy: hash_policy?,
        cors: cors?,
        high_priority: c.enumeration::<core::RoutingPriority>("priority", a.priority)? == core::RoutingPriority::High,
        upgrades: upgrades?,
        include_vh_rate_limits: value::bool_or(&a.include_vh_rate_limits, false),
        rate_limits: rate_limit::rules(c, &a.rate_limits)?,
    })
}

/// Outer `None`: not said. Inner `None`: zero, so off.
fn set_or_off(c: &Ctx<'_>, name: &'static str, d: &Option<wkt::Duration>) -> Out<Option<Option<Duration>>> {
    c.opt(name, d, value::duration_or_off)
}

fn cluster(c: &Ctx<'_>, a: &pb::RouteAction) -> Out<ClusterSpecifier> {
    use pb::route_action::ClusterSpecifier as S;
    match &a.cluster_specifier {
        None => c.refuse("a cluster is required: cluster, cluster_header or weighted_clusters"),
        Some(S::Cluster(name)) => {
            let name = c.non_empty("cluster", name)?;
            c.field("cluster").known_cluster("cluster", &name)?;
            Ok(ClusterSpecifier::Name(name))
        }
        Some(S::ClusterHeader(header)) => Ok(ClusterSpecifier::Header(headers::name(c, "cluster_header", header)?)),
        Some(S::WeightedClusters(w)) => weighted(&c.field("weighted_clusters"), w).map(ClusterSpecifier::Weighted),
        Some(S::ClusterSpecifierPlugin(_)) => {
            c.field("cluster_specifier_plugin").unsupported("a cluster specifier plugin")
        }
        Some(S::InlineClusterSpecifierPlugin(_)) => {
            c.field("inline_cluster_specifier_plugin").unsupported("a cluster specifier plugin")
        }
    }
}

fn weighted(c: &Ctx<'_>, w: &pb::WeightedCluster) -> Out<WeightedClusters> {
    use pb::weighted_cluster::RandomValueSpecifier as R;
    c.field("clusters").ensure(!w.clusters.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let clusters = c.each("clusters", &w.clusters, weighted_cluster)?;
    let sum: u64 = clusters.iter().map(|w| u64::from(w.weight)).sum();
    c.ensure(sum > 0, || "Sum of weights in the weighted_cluster must be greater than 0.".into())?;
    c.ensure(u32::try_from(sum).is_ok(), || {
        format!("The sum of weights of all weighted clusters of route exceeds {}", u32::MAX)
    })?;
    let (header_name, use_hash_policy) = match &w.random_value_specifier {
        None => (String::new(), false),
        Some(R::HeaderName(name)) if name.is_empty() => (String::new(), false),
        Some(R::HeaderName(name)) => (headers::name(c, "header_name", name)?, false),
        Some(R::UseHashPolicy(on)) => (String::new(), on.value),
    };
    Ok(WeightedClusters { clusters, header_name, use_hash_policy, runtime_key_prefix: w.runtime_key_prefix.clone() })
}

fn weighted_cluster(c: &Ctx<'_>, w: &pb::weighted_cluster::ClusterWeight) -> Out<WeightedCluster> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral;
    let cluster = match (w.name.is_empty(), w.cluster_header.is_empty()) {
        (true, true) => c.refuse("At least one of name or cluster_header need to be specified"),
        (false, false) => c.refuse("Only one of name or cluster_header can be specified"),
        (false, true) => {
            c.field("name").known_cluster("weighted cluster", &w.name).map(|()| ClusterSpecifier::Name(w.name.clone()))
        }
        (true, false) => headers::name(c, "cluster_header", &w.cluster_header).map(ClusterSpecifier::Header),
    };
    let headers = headers::level(
        c,
        (&w.request_headers_to_add, &w.request_headers_to_remove),
        (&w.response_headers_to_add, &w.response_headers_to_remove),
    );
    let per_filter = per_filter::per_filter(c, &w.typed_per_filter_config);
    let weight = c.required("weight", &w.weight, |_, n| Ok(n.value));
    let host_rewrite = w.host_rewrite_specifier.as_ref().map(|HostRewriteLiteral(host)| host);
    if let Some(host) = host_rewrite {
        headers::plain_value(&c.field("host_rewrite_literal"), host)?;
    }
    Ok(WeightedCluster {
        cluster: Box::new(cluster?),
        weight: weight?,
        metadata_match: w.metadata_match.as_ref().map(value::metadata),
        headers: headers?,
        per_filter: per_filter?,
        host_rewrite: host_rewrite.filter(|h| !h.is_empty()).cloned(),
    })
}

fn path_rewrite(c: &Ctx<'_>, a: &pb::RouteAction, matched_by: Template<'_>) -> Out<PathRewrite> {
    let given = [
        !a.prefix_rewrite.is_empty(),
        a.regex_rewrite.is_some(),
        a.path_rewrite_policy.is_some(),
        !a.path_rewrite.is_empty(),
    ];
    c.ensure(given.into_iter().filter(|g| *g).count() <= 1, || {
        "Specify only one of prefix_rewrite, regex_rewrite, path_rewrite or path_rewrite_policy".into()
    })?;
    if let Some(r) = &a.regex_rewrite {
        let (pattern, substitution) = matcher::substitute(&c.field("regex_rewrite"), r)?;
        return Ok(PathRewrite::Regex(pattern, substitution));
    }
    if let Some(ext) = &a.path_rewrite_policy {
        return template(&c.field("path_rewrite_policy"), ext, matched_by).map(PathRewrite::Template);
    }
    if !a.path_rewrite.is_empty() {
        return Ok(PathRewrite::Format(a.path_rewrite.clone()));
    }
    headers::plain_value(&c.field("prefix_rewrite"), &a.prefix_rewrite)?;
    Ok(match a.prefix_rewrite.as_str() {
        "" => PathRewrite::Keep,
        prefix => PathRewrite::Prefix(prefix.to_owned()),
    })
}

fn template(c: &Ctx<'_>, ext: &core::TypedExtensionConfig, matched_by: Template<'_>) -> Out<String> {
    match &ext.typed_config {
        Some(any) if type_name(any) == "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig" => {
            let variables = match matched_by {
                Template::Refused => None,
                Template::Absent => {
                    return c.refuse("unable to use path_rewrite_policy without a path_match_policy of URI template");
                }
                Template::Variables(v) => Some(v),
            };
            let c = c.field("typed_config");
            let config: template::UriTemplateRewriteConfig = c.unpack(any)?;
            let rewrite = c.non_empty("path_template_rewrite", &config.path_template_rewrite)?;
            uri_template::check_rewrite(&c.field("path_template_rewrite"), &rewrite, variables)?;
            Ok(rewrite)
        }
        any => c.unknown_extension(&ext.name, any.as_ref()),
    }
}

fn host_rewrite(c: &Ctx<'_>, a: &pb::RouteAction) -> Out<HostRewrite> {
    use pb::route_action::HostRewriteSpecifier as H;
    Ok(match &a.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(H::HostRewriteLiteral(host)) if host.is_empty() => HostRewrite::Keep,
        Some(H::HostRewriteLiteral(host)) => {
            headers::plain_value(&c.field("host_rewrite_literal"), host)?;
            HostRewrite::Literal(host.clone())
        }
        Some(H::AutoHostRewrite(on)) if on.value => HostRewrite::Auto,
        Some(H::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(H::HostRewriteHeader(header)) if header.is_empty() => HostRewrite::Keep,
        Some(H::HostRewriteHeader(header)) => HostRewrite::Header(headers::name(c, "host_rewrite_header", header)?),
        Some(H::HostRewritePathRegex(r)) => {
            let (pattern, substitution) = matcher::substitute(&c.field("host_rewrite_path_regex"), r)?;
            HostRewrite::PathRegex(pattern, substitution)
        }
        Some(H::HostRewrite(_)) => return c.field("host_rewrite").unsupported("a formatted host"),
    })
}

fn upgrades(c: &Ctx<'_>, a: &pb::RouteAction) -> Out<Vec<RouteUpgrade>> {
    let upgrades = c.each("upgrade_configs", &a.upgrade_configs, |c, u| {
        let upgrade_type = c.non_empty("upgrade_type", &u.upgrade_type)?.to_ascii_lowercase();
        let connect = u.connect_config.as_ref();
        c.ensure(connect.is_none() || upgrade_type == "connect", || {
            format!("Non-CONNECT upgrade type {} has ConnectConfig", u.upgrade_type)
        })?;
        let proxy_protocol = match connect.and_then(|k| k.proxy_protocol_config.as_ref()) {
            Some(p) => {
                let c = c.field("connect_config");
                Some(transport::version(&c.field("proxy_protocol_config"), p.version)?)
            }
            None => None,
        };
        Ok(RouteUpgrade {
            upgrade_type,
            enabled: value::bool_or(&u.enabled, true),
            terminate_connect: connect.is_some(),
            allow_post: connect.is_some_and(|k| k.allow_post),
            proxy_protocol,
        })
    })?;
    let mut seen = BTreeSet::new();
    for (i, u) in upgrades.iter().enumerate() {
        c.index("upgrade_configs", i)
            .ensure(seen.insert(&u.upgrade_type), || format!("Duplicate upgrade {}", u.upgrade_type))?;
    }
    Ok(upgrades)
}
