//! Endpoints.

use std::collections::BTreeMap;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::endpoint::v3 as pb;

use super::ctx::{Ctx, Out};
use super::{address, value};
use crate::config::{Address, Discovery, Endpoint, HealthStatus, LoadAssignment, Locality, LocalityEndpoints};

/// **Source**: `ClusterLoadAssignment.Policy.overprovisioning_factor`.
pub(super) const OVERPROVISIONING: u32 = 140;

/// A load assignment.
pub(super) fn load_assignment(c: &Ctx<'_>, a: &pb::ClusterLoadAssignment) -> Out<LoadAssignment> {
    c.non_empty("cluster_name", &a.cluster_name)?;
    let localities = c.each("endpoints", &a.endpoints, locality_endpoints);
    let policy = c.opt("policy", &a.policy, |c, p| {
        let factor = c.bounded(
            "overprovisioning_factor",
            value::u32_or(&p.overprovisioning_factor, OVERPROVISIONING),
            1,
            u32::MAX,
        )?;
        c.field("drop_overloads").ensure(p.drop_overloads.len() <= 1, || {
            format!("Cluster drop_overloads config has {} categories. Envoy only support one.", p.drop_overloads.len())
        })?;
        let drops = c.each("drop_overloads", &p.drop_overloads, |c, d| {
            let category = c.non_empty("category", &d.category)?;
            Ok((category, c.required("drop_percentage", &d.drop_percentage, value::fractional_percent)?.0))
        })?;
        Ok((factor, drops))
    });
    let localities = localities?;
    weights_fit(c, &localities)?;
    let (overprovisioning_factor, drop_overloads) = policy?.unwrap_or((OVERPROVISIONING, Vec::new()));
    Ok(LoadAssignment { localities, overprovisioning_factor, drop_overloads })
}

fn locality_endpoints(c: &Ctx<'_>, l: &pb::LocalityLbEndpoints) -> Out<LocalityEndpoints> {
    use pb::locality_lb_endpoints::LbConfig as L;
    let listed = match &l.lb_config {
        None => Ok(Vec::new()),
        Some(L::LoadBalancerEndpoints(list)) => {
            c.field("load_balancer_endpoints").each("lb_endpoints", &list.lb_endpoints, lb_endpoint)
        }
        Some(L::LedsClusterLocalityConfig(_)) => {
            c.field("leds_cluster_locality_config").unsupported("endpoint discovery by locality")
        }
    };
    let mut endpoints = c.each("lb_endpoints", &l.lb_endpoints, lb_endpoint)?;
    endpoints.extend(listed?);
    let sum: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
    c.ensure(u32::try_from(sum).is_ok(), || {
        format!("The sum of weights of all upstream hosts in a locality exceeds {}", u32::MAX)
    })?;
    let weight = match value::u32_opt(&l.load_balancing_weight) {
        None => None,
        Some(n) => Some(c.bounded("load_balancing_weight", n, 1, u32::MAX)?),
    };
    Ok(LocalityEndpoints {
        locality: l.locality.as_ref().map(locality).unwrap_or_default(),
        weight,
        priority: c.bounded("priority", l.priority, 0, 128)?,
        endpoints,
    })
}

/// A locality.
pub(super) fn locality(l: &core::Locality) -> Locality {
    Locality { region: l.region.clone(), zone: l.zone.clone(), sub_zone: l.sub_zone.clone() }
}

fn weights_fit(c: &Ctx<'_>, localities: &[LocalityEndpoints]) -> Out<()> {
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for (i, l) in localities.iter().enumerate() {
        let sum = sums.entry(l.priority).or_default();
        *sum += u64::from(l.weight.unwrap_or(0));
        c.index("endpoints", i).field("load_balancing_weight").ensure(u32::try_from(*sum).is_ok(), || {
            format!("The sum of weights of all localities at the same priority exceeds {}", u32::MAX)
        })?;
    }
    Ok(())
}

fn lb_endpoint(c: &Ctx<'_>, e: &pb::LbEndpoint) -> Out<Endpoint> {
    use core::HealthStatus as H;
    use pb::lb_endpoint::HostIdentifier as I;
    let inner = match &e.host_identifier {
        None => return c.field("endpoint").refuse("value is required"),
        Some(I::EndpointName(_)) => return c.field("endpoint_name").unsupported("a named endpoint"),
        Some(I::Endpoint(inner)) => inner,
    };
    let here = c.field("endpoint");
    let address = here.required("address", &inner.address, address::address);
    let additional = here.each("additional_addresses", &inner.additional_addresses, |c, a| {
        c.required("address", &a.address, address::address)
    });
    let weight = value::u32_or(&e.load_balancing_weight, 1);
    Ok(Endpoint {
        address: address?,
        additional_addresses: additional?,
        hostname: inner.hostname.clone(),
        weight: c.bounded("load_balancing_weight", weight, 1, u32::MAX)?,
        health: match c.enumeration::<H>("health_status", e.health_status)? {
            H::Unknown => HealthStatus::Unknown,
            H::Healthy => HealthStatus::Healthy,
            H::Unhealthy => HealthStatus::Unhealthy,
            H::Draining => HealthStatus::Draining,
            H::Timeout => HealthStatus::Timeout,
            H::Degraded => HealthStatus::Degraded,
        },
        metadata: value::metadata_or_empty(&e.metadata),
    })
}

/// Which addresses a kind of cluster may have. `c` is the load assignment.
pub(super) fn fits(c: &Ctx<'_>, discovery: &Discovery, assignment: &LoadAssignment) -> Out<()> {
    if let Discovery::LogicalDns(_) = discovery {
        let one = matches!(assignment.localities.as_slice(), [only] if only.endpoints.len() == 1);
        c.ensure(one, || {
            "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint".into()
        })?;
    }
    let mut all = Ok(());
    for (l, locality) in assignment.localities.iter().enumerate() {
        let c = c.index("endpoints", l);
        for (e, endpoint) in locality.endpoints.iter().enumerate() {
            let c = c.index("lb_endpoints", e);
            if let Err(refused) = endpoint_fits(&c.field("endpoint"), discovery, endpoint) {
                all = Err(refused);
            }
        }
    }
    all
}

fn endpoint_fits(c: &Ctx<'_>, discovery: &Discovery, e: &Endpoint) -> Out<()> {
    let by_name = matches!(discovery, Discovery::StrictDns(_) | Discovery::LogicalDns(_));
    let fits = |c: &Ctx<'_>, address: &Address| match address {
        Address::Host { name, .. } if !by_name => {
            let c = c.field("socket_address");
            c.field("address").refuse(format!(
                "{}. Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'",
                address::malformed(name)
            ))
        }
        Address::Pipe { .. } if by_name => {
            c.field("pipe").refuse("a DNS cluster resolves names: a socket_address is expected")
        }
        _ => Ok(()),
    };
    fits(&c.field("address"), &e.address)?;
    for (i, address) in e.additional_addresses.iter().enumerate() {
        fits(&c.index("additional_addresses", i).field("address"), address)?;
    }
    Ok(())
}
