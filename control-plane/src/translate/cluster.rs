//! Clusters: one for each port of each service that is seen, and one for each subset of it.

use std::collections::HashMap;
use std::time::Duration;

use weft_proto::any::pack;
use weft_proto::pb::envoy::config::cluster::v3::{self as pb, cluster};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::endpoint::v3 as endpoint;
use weft_proto::pb::envoy::extensions::upstreams::http::v3 as upstreams;

use super::policy::Policy;
use super::view::View;
use super::wire::{self, duration, text, u32_value};
use super::{authorization, balancing, gateway, locality, mutual_tls, names, telemetry, upstream_tls};
use crate::model::config::DestinationRule;
use crate::model::kinds::destination_rule::{
    ConnectionPool, H2Upgrade, HttpPool, OutlierDetection, Subset, TcpKeepalive, TrafficPolicy,
};
use crate::model::service::{Port, Protocol, Resolution, Service};
use crate::node::ProxyKind;

/// How long connecting may take if nobody says (Istio's default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a name is looked up if its record does not say (Istio's default).
const DNS_REFRESH: Duration = Duration::from_secs(60);
/// The key of a cluster's HTTP options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What a cluster is made of.
#[derive(Clone, Copy)]
pub(super) struct Target<'w> {
    pub(super) service: &'w Service,
    pub(super) port: &'w Port,
    /// The rule it is of, if there is one.
    pub(super) rule: Option<&'w DestinationRule>,
    pub(super) subset: Option<&'w Subset>,
    pub(super) policy: Policy<'w>,
    /// For what a gateway passes on by its server name: mutual TLS of the mesh, as it comes.
    pub(super) passed_on: bool,
}

impl Target<'_> {
    /// The cluster's name, which is also its endpoints'.
    pub(super) fn name(&self) -> String {
        let name = if self.passed_on { names::server_name } else { names::outbound };
        name(self.port.number.into(), self.subset.map_or("", |subset| &subset.name), &self.service.key.host)
    }

    /// How its endpoints are found.
    pub(super) fn discovery(&self, kind: ProxyKind) -> Discovery {
        if balancing::is_passthrough(self.policy.load_balancer) && kind == ProxyKind::Sidecar {
            return Discovery::OriginalDst;
        }
        match &self.service.resolution {
            Resolution::Endpoints => Discovery::Endpoints,
            // Only a sidecar knows where its client wanted to go.
            Resolution::Passthrough if kind == ProxyKind::Sidecar => Discovery::OriginalDst,
            Resolution::Passthrough => Discovery::Endpoints,
            Resolution::Dns | Resolution::ExternalName(_) => Discovery::StrictDns,
            Resolution::LogicalDns => Discovery::LogicalDns,
        }
    }
}

/// How a cluster finds its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discovery {
    /// From us.
    Endpoints,
    /// From the connection.
    OriginalDst,
    /// By DNS, all addresses.
    StrictDns,
    /// By DNS, one address at a time.
    LogicalDns,
}

/// Everything that may be a cluster for this proxy.
pub(super) fn targets<'w>(view: &View<'w>) -> Vec<Target<'w>> {
    let open = gateway::passed_on(view);
    let mut targets = Vec::new();
    for seen in &view.services {
        let first = targets.len();
        targets.extend(of_service(view, seen.service, seen.ports()));
        if gateway::passes_on(&open, seen.service) {
            let again: Vec<_> = targets[first..].iter().map(|target| Target { passed_on: true, ..*target }).collect();
            targets.extend(again);
        }
    }
    for asked in authorization::services(view) {
        let is_it = |target: &Target<'_>| target.service.key == asked.service.key && target.port == asked.port;
        if !targets.iter().any(is_it) {
            targets.extend(of_service(view, asked.service, std::iter::once(asked.port)));
        }
    }
    targets
}

/// Everything that may be a cluster of a service.
pub(super) fn of_service<'w>(
    view: &View<'w>,
    service: &'w Service,
    ports: impl Iterator<Item = &'w Port>,
) -> Vec<Target<'w>> {
    let rules = view.destination_rules(service);
    let main = rules.first().copied();
    let whole: Option<&TrafficPolicy> = main.and_then(|rule| rule.spec.traffic_policy.as_ref());
    let mut targets = Vec::new();
    for port in ports {
        let number = port.number.into();
        let policy = Policy::of(whole, None, number);
        targets.push(Target { service, port, rule: main, subset: None, policy, passed_on: false });
        let mut seen: Vec<&str> = Vec::new();
        for (rule, subset) in rules.iter().flat_map(|rule| rule.spec.subsets.iter().map(move |subset| (*rule, subset)))
        {
            if !seen.contains(&subset.name.as_str()) {
                seen.push(&subset.name);
                let policy = Policy::of(whole, Some(subset), number);
                targets.push(Target {
                    service,
                    port,
                    rule: Some(rule),
                    subset: Some(subset),
                    policy,
                    passed_on: false,
                });
            }
        }
    }
    targets
}

/// The cluster of a target.
pub(super) fn cluster(view: &View<'_>, target: &Target<'_>) -> pb::Cluster {
    let name = target.name();
    let discovery = target.discovery(view.proxy.kind);
    let policy = &target.policy;
    let mesh = &view.world.config().mesh;
    let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
    let mut cluster = pb::Cluster {
        connect_timeout: duration(
            tcp.and_then(|tcp| tcp.connect_timeout).or(mesh.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
        ),
        circuit_breakers: Some(circuit_breakers(policy)),
        outlier_detection: policy.outlier_detection.map(outlier_detection),
        common_lb_config: Some(common_lb(view, policy)),
        metadata: Some(metadata(view, target)),
        ..pb::Cluster::default()
    };
    let keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).or(mesh.tcp_keepalive.as_ref());
    if let Some(keepalive) = keepalive {
        let options =
            pb::UpstreamConnectionOptions { tcp_keepalive: Some(tcp_keepalive(keepalive)), ..Default::default() };
        cluster.upstream_connection_options = Some(options);
    }
    balancing::apply(&mut cluster, policy.load_balancer, view.proxy.kind, target.service.client_ip_affinity);
    find_endpoints(&mut cluster, view, target, discovery, &name);
    let mut http = if target.passed_on { None } else { http_options(target.port.protocol, policy.connection_pool) };
    if view.proxy.kind != ProxyKind::Grpc && !target.passed_on {
        upstream_tls::apply(&mut cluster, &mut http, target);
        mutual_tls::apply(view, &mut cluster, &mut http, target, discovery);
    }
    if let Some(http) = http {
        cluster.typed_extension_protocol_options = HashMap::from([(HTTP_OPTIONS.to_owned(), pack(&http))]);
    }
    cluster.name = name;
    cluster
}

#[expect(deprecated, reason = "the fields every version of Envoy knows")]
fn find_endpoints(cluster: &mut pb::Cluster, view: &View<'_>, target: &Target<'_>, discovery: Discovery, name: &str) {
    let kind = match discovery {
        Discovery::Endpoints => {
            cluster.eds_cluster_config =
                Some(cluster::EdsClusterConfig { eds_config: wire::ads(), service_name: name.to_owned() });
            cluster::DiscoveryType::Eds
        }
        Discovery::OriginalDst => {
            cluster.lb_policy = cluster::LbPolicy::ClusterProvided as i32;
            cluster.lb_config = None;
            cluster::DiscoveryType::OriginalDst
        }
        Discovery::StrictDns | Discovery::LogicalDns => {
            cluster.respect_dns_ttl = true;
            cluster.dns_refresh_rate = duration(DNS_REFRESH);
            cluster.dns_lookup_family = cluster::DnsLookupFamily::V4Only as i32;
            let one = discovery == Discovery::LogicalDns;
            cluster.load_assignment = Some(super::endpoints::of_dns(view, target, name, one));
            if one { cluster::DiscoveryType::LogicalDns } else { cluster::DiscoveryType::StrictDns }
        }
    };
    cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(kind as i32));
}

/// No limits, but those that are set: Envoy's own defaults are for a single caller, not for a mesh.
fn circuit_breakers(policy: &Policy<'_>) -> pb::CircuitBreakers {
    let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
    let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let limit = |value: Option<u32>| u32_value(value.filter(|value| *value > 0).unwrap_or(u32::MAX));
    let retry_budget = policy.retry_budget.map(|budget| {
        let percent = budget.percent.as_ref().map_or(20.0, |percent| percent.value);
        pb::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(weft_proto::pb::envoy::r#type::v3::Percent { value: percent }),
            min_retry_concurrency: u32_value(budget.min_retry_concurrency.unwrap_or(3)),
            budget_interval: budget.budget_interval.and_then(duration),
        }
    });
    let thresholds = pb::circuit_breakers::Thresholds {
        max_connections: limit(tcp.and_then(|tcp| tcp.max_connections)),
        max_pending_requests: limit(http.and_then(|http| http.http1_max_pending_requests)),
        max_requests: limit(http.and_then(|http| http.http2_max_requests)),
        max_retries: limit(http.and_then(|http| http.max_retries)),
        track_remaining: true,
        retry_budget,
        ..Default::default()
    };
    pb::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn outlier_detection(of: &OutlierDetection) -> pb::OutlierDetection {
    let mut made = pb::OutlierDetection {
        interval: of.interval.and_then(duration),
        base_ejection_time: of.base_ejection_time.and_then(duration),
        max_ejection_percent: of.max_ejection_percent.filter(|percent| *percent > 0).and_then(u32_value),
        split_external_local_origin_errors: of.split_external_local_origin_errors,
        // Istio leaves statistics of success alone.
        enforcing_success_rate: u32_value(0),
        ..Default::default()
    };
    if let Some(errors) = of.consecutive_5xx_errors.or(of.consecutive_errors) {
        made.consecutive_5xx = u32_value(errors);
        made.enforcing_consecutive_5xx = u32_value(if errors > 0 { 100 } else { 0 });
    }
    if let Some(errors) = of.consecutive_gateway_errors {
        made.consecutive_gateway_failure = u32_value(errors);
        made.enforcing_consecutive_gateway_failure = u32_value(if errors > 0 { 100 } else { 0 });
    }
    if of.split_external_local_origin_errors
        && let Some(errors) = of.consecutive_local_origin_failures
    {
        made.consecutive_local_origin_failure = u32_value(errors);
        made.enforcing_consecutive_local_origin_failure = u32_value(if errors > 0 { 100 } else { 0 });
    }
    made
}

fn common_lb(view: &View<'_>, policy: &Policy<'_>) -> cluster::CommonLbConfig {
    // Without this Envoy sends to unhealthy endpoints when half are; Istio's default is not to.
    let healthy = policy.outlier_detection.map(|of| f64::from(of.min_health_percent.unwrap_or(0)));
    cluster::CommonLbConfig {
        healthy_panic_threshold: healthy.map(|value| weft_proto::pb::envoy::r#type::v3::Percent { value }),
        locality_config_specifier: locality::zone_aware(view, policy).map(balancing::zones),
        ..Default::default()
    }
}

/// Keepalive of upstream connections.
pub(super) fn tcp_keepalive(of: &TcpKeepalive) -> core::TcpKeepalive {
    let seconds =
        |value: Option<Duration>| value.and_then(|value| u32_value(u32::try_from(value.as_secs()).unwrap_or(u32::MAX)));
    core::TcpKeepalive {
        keepalive_probes: of.probes.and_then(u32_value),
        keepalive_time: seconds(of.time),
        keepalive_interval: seconds(of.interval),
    }
}

/// How the upstream speaks HTTP; `None` for what is no HTTP.
fn http_options(protocol: Protocol, pool: Option<&ConnectionPool>) -> Option<upstreams::HttpProtocolOptions> {
    use upstreams::http_protocol_options as http;
    let settings = pool.and_then(|pool| pool.http.as_ref());
    if !protocol.is_http() && protocol != Protocol::Auto && settings.is_none() {
        return None;
    }
    let http2 = http2_options(settings);
    let upgrade = settings.map(|of| of.h2_upgrade_policy).unwrap_or_default();
    let as_client = protocol == Protocol::Auto || settings.and_then(|of| of.use_client_protocol) == Some(true);
    let options = if as_client {
        let config = http::UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2),
            ..Default::default()
        };
        http::UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)
    } else if protocol.is_http2() || upgrade == H2Upgrade::Upgrade {
        explicit(http::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2))
    } else {
        let http1 = core::Http1ProtocolOptions::default();
        explicit(http::explicit_http_config::ProtocolConfig::HttpProtocolOptions(http1))
    };
    let common = settings.map(|of| core::HttpProtocolOptions {
        idle_timeout: of.idle_timeout.and_then(duration),
        max_requests_per_connection: of.max_requests_per_connection.filter(|n| *n > 0).and_then(u32_value),
        ..Default::default()
    });
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let common = match tcp.and_then(|tcp| tcp.max_connection_duration) {
        Some(longest) => {
            Some(core::HttpProtocolOptions { max_connection_duration: duration(longest), ..common.unwrap_or_default() })
        }
        None => common,
    };
    Some(upstreams::HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(options),
        ..Default::default()
    })
}

/// How HTTP/2 is spoken.
pub(super) fn http2_options(settings: Option<&HttpPool>) -> core::Http2ProtocolOptions {
    let streams = settings.and_then(|of| of.max_concurrent_streams).filter(|n| *n > 0);
    let pings = settings.and_then(|of| of.http2_keep_alive.as_ref());
    let connection_keepalive =
        pings.filter(|of| of.timeout.is_some() && of.interval.is_some()).map(|of| core::KeepaliveSettings {
            interval: of.interval.and_then(duration),
            timeout: of.timeout.and_then(duration),
            ..Default::default()
        });
    core::Http2ProtocolOptions {
        max_concurrent_streams: streams.and_then(u32_value),
        connection_keepalive,
        ..Default::default()
    }
}

fn explicit(
    config: upstreams::http_protocol_options::explicit_http_config::ProtocolConfig,
) -> upstreams::http_protocol_options::UpstreamProtocolOptions {
    let config = upstreams::http_protocol_options::ExplicitHttpConfig { protocol_config: Some(config) };
    upstreams::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(config)
}

/// What Istio's tools show of a cluster: the service, the rule, the subset.
fn metadata(view: &View<'_>, target: &Target<'_>) -> core::Metadata {
    let mut istio = telemetry::services(&target.service.key);
    if target.service.external && telemetry::is_counting(view.proxy) {
        telemetry::mark_external(&mut istio);
    }
    if let Some(rule) = target.rule {
        istio.fields.insert("config".to_owned(), text(&names::config_path(&rule.key)));
    }
    if let Some(subset) = target.subset {
        istio.fields.insert("subset".to_owned(), text(&subset.name));
    }
    core::Metadata { filter_metadata: HashMap::from([("istio".to_owned(), istio)]), ..Default::default() }
}

/// A cluster without endpoints: what is sent to it gets 503, or is closed.
pub(super) fn black_hole() -> pb::Cluster {
    pb::Cluster {
        name: names::BLACK_HOLE.to_owned(),
        connect_timeout: duration(CONNECT_TIMEOUT),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32)),
        ..Default::default()
    }
}

/// A cluster of wherever the connection was going to.
pub(super) fn original_dst(name: &str) -> pb::Cluster {
    pb::Cluster {
        name: name.to_owned(),
        connect_timeout: duration(CONNECT_TIMEOUT),
        lb_policy: cluster::LbPolicy::ClusterProvided as i32,
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::OriginalDst as i32)),
        circuit_breakers: Some(circuit_breakers(&Policy::default())),
        typed_extension_protocol_options: http_options(Protocol::Auto, None)
            .map(|options| HashMap::from([(HTTP_OPTIONS.to_owned(), pack(&options))]))
            .unwrap_or_default(),
        ..Default::default()
    }
}

/// A cluster of one fixed address.
pub(super) fn fixed(name: &str, host: &str, port: u32) -> pb::Cluster {
    let of = endpoint::Endpoint { address: Some(wire::endpoint_address(host, port)), ..Default::default() };
    let of = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(of)),
        ..Default::default()
    };
    let endpoints = vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![of], ..Default::default() }];
    pb::Cluster {
        name: name.to_owned(),
        connect_timeout: duration(CONNECT_TIMEOUT),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32)),
        circuit_breakers: Some(circuit_breakers(&Policy::default())),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Sets how a cluster of the workload itself speaks HTTP and how many connections it takes.
pub(super) fn apply_inbound(cluster: &mut pb::Cluster, protocol: Protocol, pool: Option<&ConnectionPool>) {
    if let Some(options) = http_options(protocol, pool) {
        cluster.typed_extension_protocol_options = HashMap::from([(HTTP_OPTIONS.to_owned(), pack(&options))]);
    }
    let policy = Policy { connection_pool: pool, ..Policy::default() };
    cluster.circuit_breakers = Some(circuit_breakers(&policy));
}
