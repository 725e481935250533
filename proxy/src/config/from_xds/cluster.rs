//! Clusters.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3 as core;

use super::ctx::{Ctx, Out};
use super::{address, discovery, endpoint, lb, resilience, transport, upstream_http, value};
use crate::config::{Cluster, Discovery, LbPolicy, LoadAssignment, SocketOption, TransportMatch, UpstreamTransport};

/// **Source**: `Cluster.connect_timeout`.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// **Source**: `Cluster.cleanup_interval`.
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(5);
/// Envoy's soft limit of bytes buffered.
const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;

/// A cluster.
pub(super) fn cluster(c: &Ctx<'_>, p: &pb::Cluster) -> Out<Cluster> {
    // Dropped in silence this would choose another transport.
    if p.transport_socket_matcher.is_some() {
        return c.field("transport_socket_matcher").unsupported("a transport socket matcher");
    }
    let name = c.non_empty("name", &p.name);
    let connect_timeout = c.opt("connect_timeout", &p.connect_timeout, value::positive_duration);
    let discovery = discovery::discovery(c, p);
    let assignment = assignment(c, p, discovery.as_ref().ok());
    let lb = lb::policy(c, p);
    let lb_common = lb::common(c, p);
    let breakers = c.opt("circuit_breakers", &p.circuit_breakers, resilience::circuit_breakers);
    let outlier = c.opt("outlier_detection", &p.outlier_detection, resilience::outlier_detection);
    let http = upstream_http::options(c, p);
    let transport = c.opt("transport_socket", &p.transport_socket, transport::upstream);
    let transport_matches = transport_matches(c, p);
    let bind = c.opt("upstream_bind_config", &p.upstream_bind_config, bind);
    let tcp_keepalive = match p.upstream_connection_options.as_ref() {
        Some(o) => c.field("upstream_connection_options").opt("tcp_keepalive", &o.tcp_keepalive, address::keepalive),
        None => Ok(None),
    };
    let cleanup_interval = c.opt("cleanup_interval", &p.cleanup_interval, value::positive_duration);

    let (name, discovery, lb, http) = (name?, discovery?, lb?, http?);
    fits(c, &discovery, &lb)?;
    let transport = transport?.unwrap_or(UpstreamTransport::Plaintext);
    upstream_http::alpn_possible(c, &http, &p.name, &transport)?;
    let breakers = breakers?.unwrap_or_default();
    let (bind_address, socket_options) = bind?.unwrap_or_default();
    let track = p.track_cluster_stats.as_ref();
    Ok(Cluster {
        stat_name: if p.alt_stat_name.is_empty() { &name } else { &p.alt_stat_name }.replace(':', "_"),
        name,
        discovery,
        assignment: assignment?,
        connect_timeout: connect_timeout?.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        lb,
        lb_common: lb_common?,
        breakers_default: breakers.default,
        breakers_high: breakers.high,
        per_host_max_connections: breakers.per_host_max_connections,
        outlier: outlier?,
        protocol: http.protocol,
        http1: http.http1,
        http2: http.http2,
        common: http.common,
        auto_sni: http.auto_sni,
        auto_sni_header: http.auto_sni_header,
        auto_san_validation: http.auto_san_validation,
        retry_policy: http.retry_policy,
        mirrors: http.mirrors,
        hash_policy: http.hash_policy,
        transport,
        transport_matches: transport_matches?,
        per_connection_buffer_limit: value::u32_or(&p.per_connection_buffer_limit_bytes, DEFAULT_BUFFER_LIMIT) as usize,
        tcp_keepalive: tcp_keepalive?,
        bind_address,
        socket_options,
        tcp_idle_timeout: http.tcp_idle_timeout,
        cleanup_interval: cleanup_interval?.unwrap_or(DEFAULT_CLEANUP_INTERVAL),
        ignore_health_on_host_removal: p.ignore_health_on_host_removal,
        close_connections_on_host_health_failure: p.close_connections_on_host_health_failure,
        pool_per_downstream: p.connection_pool_per_downstream_connection,
        metadata: value::metadata_or_empty(&p.metadata),
        track_timeout_budgets: track.map_or(p.track_timeout_budgets, |t| t.timeout_budgets),
        track_request_response_sizes: track.is_some_and(|t| t.request_response_sizes),
        wait_for_warm_on_init: value::bool_or(&p.wait_for_warm_on_init, true),
    })
}

/// The endpoints, by the rules of the cluster's kind.
fn assignment(c: &Ctx<'_>, p: &pb::Cluster, discovery: Option<&Discovery>) -> Out<LoadAssignment> {
    let Some(discovery) = discovery else {
        // Whatever they are, what is wrong with the discovery is what counts.
        return Ok(LoadAssignment::default());
    };
    let here = c.field("load_assignment");
    if let Discovery::OriginalDst { .. } = discovery {
        here.ensure(p.load_assignment.is_none(), || {
            "ORIGINAL_DST clusters must have no load assignment configured".into()
        })?;
    }
    let Some(assignment) = &p.load_assignment else {
        let assignment = LoadAssignment { overprovisioning_factor: endpoint::OVERPROVISIONING, ..Default::default() };
        endpoint::fits(&here, discovery, &assignment)?;
        return Ok(assignment);
    };
    let assignment = endpoint::load_assignment(&here, assignment)?;
    endpoint::fits(&here, discovery, &assignment)?;
    Ok(assignment)
}

/// The address decides in an ORIGINAL_DST cluster, and nowhere else.
fn fits(c: &Ctx<'_>, discovery: &Discovery, lb: &LbPolicy) -> Out<()> {
    let here = c.field("lb_policy");
    let decides = matches!(lb, LbPolicy::ClusterProvided);
    match discovery {
        Discovery::OriginalDst { .. } => here.ensure(decides, || {
            format!(
                "cluster: LB policy {} is not valid for Cluster type ORIGINAL_DST. Only 'CLUSTER_PROVIDED' is allowed with cluster type 'ORIGINAL_DST'",
                lb::name(lb)
            )
        }),
        Discovery::Static | Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::Eds { .. } => {
            here.ensure(!decides, || {
                "cluster: LB policy CLUSTER_PROVIDED is not valid for a cluster that provides no balancer of its own".into()
            })
        }
    }
}

fn transport_matches(c: &Ctx<'_>, p: &pb::Cluster) -> Out<Vec<TransportMatch>> {
    c.each("transport_socket_matches", &p.transport_socket_matches, |c, m| {
        let name = c.non_empty("name", &m.name);
        let transport = c.required("transport_socket", &m.transport_socket, transport::upstream);
        let labels = m.r#match.as_ref().map(value::object).unwrap_or_default();
        Ok(TransportMatch { name: name?, labels: labels.into_iter().collect(), transport: transport? })
    })
}

/// Where connections come from, and with which socket options.
pub(super) fn bind(c: &Ctx<'_>, b: &core::BindConfig) -> Out<(Option<std::net::SocketAddr>, Vec<SocketOption>)> {
    if !b.extra_source_addresses.is_empty() {
        return c.field("extra_source_addresses").unsupported("a choice of source addresses");
    }
    if !b.additional_source_addresses.is_empty() {
        return c.field("additional_source_addresses").unsupported("a choice of source addresses");
    }
    if b.local_address_selector.is_some() {
        return c.field("local_address_selector").unsupported("a choice of source addresses");
    }
    let address = c.opt("source_address", &b.source_address, address::ip_socket_address);
    let options = c.each("socket_options", &b.socket_options, address::socket_option);
    Ok((address?, options?))
}
