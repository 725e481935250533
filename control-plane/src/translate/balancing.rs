//! Which endpoint: `loadBalancer` of a DestinationRule.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3::{self as pb, cluster};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::r#type::v3 as types;
use weft_proto::pb::google::protobuf as wkt;

use super::wire::duration;
use crate::model::kinds::destination_rule::{ConsistentHash, LoadBalancer, SimpleLb, ZoneAwareLb};
use crate::node::ProxyKind;

/// The least size of a ring if nobody says (Istio's default).
const RING_SIZE: u64 = 1024;

/// Whether the client has chosen.
pub(super) fn is_passthrough(load_balancer: Option<&LoadBalancer>) -> bool {
    load_balancer.is_some_and(|of| of.simple == Some(SimpleLb::Passthrough))
}

/// Sets a cluster's algorithm.
pub(super) fn apply(cluster: &mut pb::Cluster, of: Option<&LoadBalancer>, kind: ProxyKind, client_ip_affinity: bool) {
    if let Some(hash) = of.and_then(|of| of.consistent_hash.as_ref()) {
        hashed(cluster, hash, kind);
        return;
    }
    let simple = of.and_then(|of| of.simple).unwrap_or_default();
    if simple == SimpleLb::Unspecified && client_ip_affinity && kind != ProxyKind::Grpc {
        cluster.lb_policy = cluster::LbPolicy::RingHash as i32;
        return;
    }
    let slow_start = of.and_then(slow_start);
    // gRPC knows in turn and by ring only.
    let in_turn = simple == SimpleLb::RoundRobin || kind == ProxyKind::Grpc;
    if in_turn {
        cluster.lb_policy = cluster::LbPolicy::RoundRobin as i32;
        if slow_start.is_some() {
            let config = cluster::RoundRobinLbConfig { slow_start_config: slow_start };
            cluster.lb_config = Some(cluster::LbConfig::RoundRobinLbConfig(config));
        }
    } else if simple == SimpleLb::Random {
        cluster.lb_policy = cluster::LbPolicy::Random as i32;
    } else {
        cluster.lb_policy = cluster::LbPolicy::LeastRequest as i32;
        if slow_start.is_some() {
            let config = cluster::LeastRequestLbConfig { slow_start_config: slow_start, ..Default::default() };
            cluster.lb_config = Some(cluster::LbConfig::LeastRequestLbConfig(config));
        }
    }
}

fn hashed(cluster: &mut pb::Cluster, hash: &ConsistentHash, kind: ProxyKind) {
    if let (Some(maglev), true) = (&hash.maglev, kind != ProxyKind::Grpc) {
        cluster.lb_policy = cluster::LbPolicy::Maglev as i32;
        let table_size = maglev.table_size.map(|value| wkt::UInt64Value { value });
        cluster.lb_config = Some(cluster::LbConfig::MaglevLbConfig(cluster::MaglevLbConfig { table_size }));
        return;
    }
    let size = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
    let config = cluster::RingHashLbConfig {
        minimum_ring_size: Some(wkt::UInt64Value { value: size.unwrap_or(RING_SIZE) }),
        ..Default::default()
    };
    cluster.lb_policy = cluster::LbPolicy::RingHash as i32;
    cluster.lb_config = Some(cluster::LbConfig::RingHashLbConfig(config));
}

/// The caller's own zone first, among its region.
pub(super) fn zones(of: &ZoneAwareLb) -> cluster::common_lb_config::LocalityConfigSpecifier {
    use cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    let off = of.enabled == Some(false);
    LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
        routing_enabled: off.then_some(types::Percent { value: 0.0 }),
        min_cluster_size: of.min_cluster_size.map(|value| wkt::UInt64Value { value }),
        ..Default::default()
    })
}

fn slow_start(of: &LoadBalancer) -> Option<cluster::SlowStartConfig> {
    let window: Duration = of.warmup.as_ref().and_then(|warmup| warmup.duration).or(of.warmup_duration_secs)?;
    let warmup = of.warmup.as_ref();
    let aggression = warmup
        .and_then(|warmup| warmup.aggression)
        .map(|default_value| core::RuntimeDouble { default_value, runtime_key: "aggression".to_owned() });
    let minimum = warmup.and_then(|warmup| warmup.minimum_percent).unwrap_or(10.0);
    Some(cluster::SlowStartConfig {
        slow_start_window: duration(window),
        aggression,
        min_weight_percent: Some(types::Percent { value: minimum }),
    })
}
