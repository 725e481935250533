//! Load balancing policies.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::load_balancing_policies::{
    common::v3 as lb_common, least_request::v3 as least_request, random::v3 as random, round_robin::v3 as round_robin,
    wrr_locality::v3 as wrr_locality,
};
use weft_proto::pb::google::protobuf::Any;

use super::ctx::{Ctx, Out, type_name};
use super::value;
use crate::config::{LbCommon, LbPolicy, LocalityLb};

/// **Source**: `LeastRequest.choice_count`.
const DEFAULT_CHOICES: u32 = 2;

/// The policy's name as `lb_policy` has it.
pub(super) fn name(lb: &LbPolicy) -> &'static str {
    match lb {
        LbPolicy::RoundRobin(_) => "ROUND_ROBIN",
        LbPolicy::LeastRequest { .. } => "LEAST_REQUEST",
        LbPolicy::Random(_) => "RANDOM",
        LbPolicy::ClusterProvided => "CLUSTER_PROVIDED",
    }
}

/// The balancer: `load_balancing_policy` where it is set, else `lb_policy`.
pub(super) fn policy(c: &Ctx<'_>, p: &pb::Cluster) -> Out<LbPolicy> {
    use pb::cluster::LbPolicy as P;
    use pb::cluster::common_lb_config::LocalityConfigSpecifier as L;
    let locality = p.common_lb_config.as_ref().and_then(|l| l.locality_config_specifier.as_ref());
    if p.lb_subset_config.is_some() {
        return c.field("lb_subset_config").unsupported("subset load balancing");
    }
    if let Some(list) = &p.load_balancing_policy {
        let here = c.field("load_balancing_policy");
        let hashing = p.common_lb_config.as_ref().is_some_and(|l| l.consistent_hashing_lb_config.is_some());
        here.ensure(locality.is_none() && !hashing, || {
            "cluster: load_balancing_policy cannot be combined with partial fields (zone_aware_lb_config, locality_weighted_lb_config, consistent_hashing_lb_config) of common_lb_config".into()
        })?;
        return first_known(&here, list, &p.name);
    }
    let locality = match locality {
        Some(L::LocalityWeightedLbConfig(_)) => LocalityLb::Weighted,
        Some(L::ZoneAwareLbConfig(_)) | None => LocalityLb::None,
    };
    let here = c.field("lb_policy");
    match c.enumeration::<P>("lb_policy", p.lb_policy)? {
        P::RoundRobin => Ok(LbPolicy::RoundRobin(locality)),
        P::Random => Ok(LbPolicy::Random(locality)),
        P::LeastRequest => deprecated_least_request(c, p, locality),
        P::ClusterProvided => Ok(LbPolicy::ClusterProvided),
        P::RingHash => here.unsupported("the load balancer RING_HASH"),
        P::Maglev => here.unsupported("the load balancer MAGLEV"),
        P::LoadBalancingPolicyConfig => {
            c.field("load_balancing_policy").refuse("cluster: field load_balancing_policy need to be set")
        }
    }
}

fn deprecated_least_request(c: &Ctx<'_>, p: &pb::Cluster, locality: LocalityLb) -> Out<LbPolicy> {
    let empty = pb::cluster::LeastRequestLbConfig::default();
    let config = match &p.lb_config {
        Some(pb::cluster::LbConfig::LeastRequestLbConfig(config)) => config,
        _ => &empty,
    };
    let c = c.field("least_request_lb_config");
    let choices = value::u32_or(&config.choice_count, DEFAULT_CHOICES);
    Ok(LbPolicy::LeastRequest {
        choice_count: c.bounded("choice_count", choices, 2, u32::MAX)?,
        full_scan: false,
        active_request_bias: bias(&c, &config.active_request_bias)?,
        locality,
    })
}

fn bias(c: &Ctx<'_>, b: &Option<core::RuntimeDouble>) -> Out<f64> {
    let bias = b.as_ref().map_or(1.0, |b| b.default_value);
    if bias < 0.0 || bias.is_nan() {
        c.field("active_request_bias").warn("invalid active request bias supplied, using 1.0");
        return Ok(1.0);
    }
    Ok(bias)
}

/// The first policy of the list that exists here. The others may be anything.
fn first_known(c: &Ctx<'_>, list: &pb::LoadBalancingPolicy, cluster: &str) -> Out<LbPolicy> {
    let (mut chosen, mut names, mut unknown) = (None, Vec::new(), Vec::new());
    for (i, p) in list.policies.iter().enumerate() {
        let here = c.index("policies", i);
        let here = here.field("typed_extension_config");
        let Some(ext) = &p.typed_extension_config else {
            return here.refuse("value is required");
        };
        names.push(ext.name.as_str());
        let exists = ext.typed_config.as_ref().is_some_and(|any| KNOWN.contains(&&*type_name(any)));
        match &ext.typed_config {
            Some(any) if exists && chosen.is_none() => chosen = Some(known(&here.field("typed_config"), any, cluster)?),
            _ if exists => {}
            _ => unknown.push((i, ext.name.as_str())),
        }
    }
    let Some(chosen) = chosen else {
        return c.refuse(format!(
            "cluster: didn't find a registered load balancer factory implementation for cluster: '{cluster}' with names from [{}]",
            names.join(", ")
        ));
    };
    for (i, name) in unknown {
        let here = c.index("policies", i);
        let here = here.field("typed_extension_config");
        here.field("typed_config").skip(format!("the load balancer '{name}' is unknown and passed over"));
    }
    Ok(chosen)
}

const ROUND_ROBIN: &str = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
const RANDOM: &str = "envoy.extensions.load_balancing_policies.random.v3.Random";
const LEAST_REQUEST: &str = "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
const CLUSTER_PROVIDED: &str = "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided";
const WRR_LOCALITY: &str = "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
const KNOWN: [&str; 5] = [ROUND_ROBIN, RANDOM, LEAST_REQUEST, CLUSTER_PROVIDED, WRR_LOCALITY];

fn known(c: &Ctx<'_>, any: &Any, cluster: &str) -> Out<LbPolicy> {
    match &*type_name(any) {
        ROUND_ROBIN => {
            c.unpack(any).map(|p: round_robin::RoundRobin| LbPolicy::RoundRobin(locality(&p.locality_lb_config)))
        }
        RANDOM => c.unpack(any).map(|p: random::Random| LbPolicy::Random(locality(&p.locality_lb_config))),
        LEAST_REQUEST => c.unpack(any).and_then(|p| least_request(c, &p)),
        WRR_LOCALITY => c.unpack(any).and_then(|p| wrr_locality(c, &p, cluster)),
        _ => Ok(LbPolicy::ClusterProvided),
    }
}

fn least_request(c: &Ctx<'_>, p: &least_request::LeastRequest) -> Out<LbPolicy> {
    use least_request::least_request::SelectionMethod;
    let choices = value::u32_or(&p.choice_count, DEFAULT_CHOICES);
    let method = c.enumeration::<SelectionMethod>("selection_method", p.selection_method)?;
    Ok(LbPolicy::LeastRequest {
        choice_count: c.bounded("choice_count", choices, 2, u32::MAX)?,
        full_scan: method == SelectionMethod::FullScan || value::bool_or(&p.enable_full_scan, false),
        active_request_bias: bias(c, &p.active_request_bias)?,
        locality: locality(&p.locality_lb_config),
    })
}

/// A policy within each locality, and localities by their weight.
fn wrr_locality(c: &Ctx<'_>, p: &wrr_locality::WrrLocality, cluster: &str) -> Out<LbPolicy> {
    let inner =
        c.required("endpoint_picking_policy", &p.endpoint_picking_policy, |c, list| first_known(c, list, cluster))?;
    Ok(match inner {
        LbPolicy::RoundRobin(_) => LbPolicy::RoundRobin(LocalityLb::Weighted),
        LbPolicy::Random(_) => LbPolicy::Random(LocalityLb::Weighted),
        LbPolicy::LeastRequest { choice_count, full_scan, active_request_bias, .. } => {
            LbPolicy::LeastRequest { choice_count, full_scan, active_request_bias, locality: LocalityLb::Weighted }
        }
        LbPolicy::ClusterProvided => {
            return c.field("endpoint_picking_policy").unsupported("CLUSTER_PROVIDED within localities");
        }
    })
}

fn locality(l: &Option<lb_common::LocalityLbConfig>) -> LocalityLb {
    use lb_common::locality_lb_config::LocalityConfigSpecifier as L;
    match l.as_ref().and_then(|l| l.locality_config_specifier.as_ref()) {
        Some(L::LocalityWeightedLbConfig(_)) => LocalityLb::Weighted,
        Some(L::ZoneAwareLbConfig(_)) | None => LocalityLb::None,
    }
}

/// What all balancers share.
pub(super) fn common(c: &Ctx<'_>, p: &pb::Cluster) -> Out<LbCommon> {
    let empty = pb::cluster::CommonLbConfig::default();
    let config = p.common_lb_config.as_ref().unwrap_or(&empty);
    let c = c.field("common_lb_config");
    Ok(LbCommon {
        panic_threshold: c
            .opt("healthy_panic_threshold", &config.healthy_panic_threshold, value::percent)?
            .unwrap_or(50.0),
        update_merge_window: c
            .duration("update_merge_window", &config.update_merge_window)?
            .unwrap_or(Duration::from_secs(1)),
        close_on_host_set_change: config.close_connections_on_host_set_change,
    })
}
