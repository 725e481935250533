//! The TCP proxy filter.

use std::time::Duration;

use weft_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use weft_proto::pb::envoy::r#type::v3 as types;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::{access_log, headers, source, value};
use crate::config::{HashPolicy, HashPolicyKind, OnDemandClusters, TcpCluster, TcpProxy, Tunnel, WeightedTcpCluster};

/// Envoy's `idle_timeout`.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
/// Envoy's `on_demand.timeout`.
const DEFAULT_ODCDS_TIMEOUT: Duration = Duration::from_secs(60);

/// A TCP proxy. That its clusters exist is not checked, as Envoy does not.
pub(super) fn tcp_proxy(c: &Ctx<'_>, p: &pb::TcpProxy) -> Out<TcpProxy> {
    refuse_other_modes(c, p)?;
    let stat_prefix = c.non_empty("stat_prefix", &p.stat_prefix);
    let cluster = cluster(c, p);
    let on_demand = c.opt("on_demand", &p.on_demand, on_demand);
    let tunnel = c.opt("tunneling_config", &p.tunneling_config, tunnel);
    let access_log = c.each("access_log", &p.access_log, access_log::access_log);
    let backoff =
        c.opt("backoff_options", &p.backoff_options, |c, b| value::back_off(c, &b.base_interval, &b.max_interval));
    c.field("hash_policy").ensure(p.hash_policy.len() <= 1, || "value must contain no more than 1 item(s)".into())?;
    let hash_policy = c.each("hash_policy", &p.hash_policy, hash_policy);
    let attempts = value::u32_or(&p.max_connect_attempts, 1);
    let duration = c.opt("max_downstream_connection_duration", &p.max_downstream_connection_duration, at_least_1_ms);
    let jitter = c.opt(
        "max_downstream_connection_duration_jitter_percentage",
        &p.max_downstream_connection_duration_jitter_percentage,
        value::percent,
    );
    let (flush_interval, on_connected) = access_log_options(c, p)?;
    Ok(TcpProxy {
        stat_prefix: stat_prefix?,
        cluster: cluster?,
        on_demand: on_demand?.flatten(),
        tunnel: tunnel?,
        metadata_match: p.metadata_match.as_ref().map(value::metadata),
        idle_timeout: c.timeout("idle_timeout", &p.idle_timeout, Some(DEFAULT_IDLE))?,
        downstream_idle_timeout: c.timeout("downstream_idle_timeout", &p.downstream_idle_timeout, None)?,
        upstream_idle_timeout: c.timeout("upstream_idle_timeout", &p.upstream_idle_timeout, None)?,
        max_connect_attempts: c.bounded("max_connect_attempts", attempts, 1, u32::MAX)?,
        backoff: backoff?,
        hash_policy: hash_policy?,
        access_log: access_log?,
        access_log_flush_interval: flush_interval,
        access_log_on_connected: on_connected,
        max_downstream_connection_duration: duration?,
        max_downstream_connection_duration_jitter: jitter?.unwrap_or(0.0) / 100.0,
    })
}

/// Each of these changes where bytes go or what stands before them.
fn refuse_other_modes(c: &Ctx<'_>, p: &pb::TcpProxy) -> Out<()> {
    if !p.proxy_protocol_tlvs.is_empty() {
        return c.field("proxy_protocol_tlvs").unsupported("adding PROXY protocol TLVs");
    }
    if p.upstream_connect_mode != 0 {
        return c.field("upstream_connect_mode").unsupported("any mode but IMMEDIATE");
    }
    Ok(())
}

fn tunnel(c: &Ctx<'_>, t: &pb::tcp_proxy::TunnelingConfig) -> Out<Tunnel> {
    let unsupported = [
        ("use_post", t.use_post),
        ("propagate_response_headers", t.propagate_response_headers),
        ("propagate_response_trailers", t.propagate_response_trailers),
    ];
    if let Some((field, _)) = unsupported.into_iter().find(|(_, set)| *set) {
        return c.field(field).unsupported("anything but CONNECT with an answer that is not kept");
    }
    c.field("post_path")
        .ensure(t.post_path.is_empty(), || "Can't set a post path when POST method isn't used".into())?;
    Ok(Tunnel {
        hostname: c.non_empty("hostname", &t.hostname)?,
        headers_to_add: headers::to_add(c, "headers_to_add", &t.headers_to_add)?,
    })
}

fn on_demand(c: &Ctx<'_>, o: &pb::tcp_proxy::OnDemand) -> Out<Option<OnDemandClusters>> {
    if !o.resources_locator.is_empty() {
        return c.field("resources_locator").unsupported("a resource locator");
    }
    let timeout = c.duration("timeout", &o.timeout)?.unwrap_or(DEFAULT_ODCDS_TIMEOUT);
    let source = c.opt("odcds_config", &o.odcds_config, source::delta)?;
    Ok(source.map(|source| OnDemandClusters { source, timeout }))
}

fn cluster(c: &Ctx<'_>, p: &pb::TcpProxy) -> Out<TcpCluster> {
    use pb::tcp_proxy::ClusterSpecifier as S;
    match &p.cluster_specifier {
        None => c.refuse("a cluster is required: cluster or weighted_clusters"),
        Some(S::Cluster(name)) => Ok(TcpCluster::Single(name.clone())),
        Some(S::WeightedClusters(w)) => {
            let c = c.field("weighted_clusters");
            c.field("clusters").ensure(!w.clusters.is_empty(), || "value must contain at least 1 item(s)".into())?;
            let clusters = c.each("clusters", &w.clusters, |c, w| {
                Ok(WeightedTcpCluster {
                    name: c.non_empty("name", &w.name)?,
                    weight: c.bounded("weight", w.weight, 1, u32::MAX)?,
                    metadata_match: w.metadata_match.as_ref().map(value::metadata),
                })
            })?;
            let sum: u64 = clusters.iter().map(|w| u64::from(w.weight)).sum();
            c.ensure(u32::try_from(sum).is_ok(), || sum_too_large(sum))?;
            Ok(TcpCluster::Weighted(clusters))
        }
    }
}

/// Envoy's refusal of weights whose sum does not fit 32 bits.
pub(super) fn sum_too_large(sum: u64) -> String {
    format!("The sum of weights of all weighted clusters exceeds {}: {sum}", u32::MAX)
}

fn hash_policy(c: &Ctx<'_>, h: &types::HashPolicy) -> Out<HashPolicy> {
    use types::hash_policy::PolicySpecifier as S;
    let kind = match &h.policy_specifier {
        None => return c.refuse("a policy is required: source_ip or filter_state"),
        Some(S::SourceIp(_)) => HashPolicyKind::SourceIp,
        Some(S::FilterState(f)) => HashPolicyKind::FilterState(c.field("filter_state").non_empty("key", &f.key)?),
    };
    Ok(HashPolicy { kind, terminal: false })
}

fn access_log_options(c: &Ctx<'_>, p: &pb::TcpProxy) -> Out<(Option<Duration>, bool)> {
    let Some(options) = &p.access_log_options else {
        let interval = c.opt("access_log_flush_interval", &p.access_log_flush_interval, at_least_1_ms)?;
        return Ok((interval, p.flush_access_log_on_connected));
    };
    let c = c.field("access_log_options");
    c.ensure(p.access_log_flush_interval.is_none(), || {
        "Only one of access_log_flush_interval or access_log_options can be specified.".into()
    })?;
    c.ensure(!p.flush_access_log_on_connected, || {
        "Only one of flush_access_log_on_connected or access_log_options can be specified.".into()
    })?;
    let interval = c.opt("access_log_flush_interval", &options.access_log_flush_interval, at_least_1_ms)?;
    Ok((interval, options.flush_access_log_on_connected))
}

/// Timers run in milliseconds.
pub(super) fn at_least_1_ms(c: &Ctx<'_>, d: &wkt::Duration) -> Out<Duration> {
    let d = value::duration(c, d)?;
    c.ensure(d >= Duration::from_millis(1), || "value must be greater than or equal to 1ms".into())?;
    Ok(d)
}
