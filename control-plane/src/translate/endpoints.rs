//! Endpoints of clusters, in localities and priorities.
//!
//! Every group has a locality and a weight: a gRPC client ignores those without.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::endpoint::v3 as pb;

use super::cluster::Target;
use super::locality::{self, Shares};
use super::view::View;
use super::wire::{self, u32_value};
use super::{mutual_tls, telemetry};
use crate::model::endpoint::Endpoint;
use crate::model::kinds::meta::contains_all;
use crate::model::service::Resolution;
use crate::node::Locality;

/// The endpoints of a target, as EDS sends them.
pub(super) fn assignment(view: &View<'_>, target: &Target<'_>) -> pb::ClusterLoadAssignment {
    let found = view.world.endpoints(&target.service.key).iter().filter(|endpoint| is_in_subset(endpoint, target));
    // EDS takes addresses only.
    let found = found.filter(|endpoint| endpoint.ip().is_some() || endpoint.address.starts_with("unix://"));
    let found = found.filter_map(|endpoint| Some((endpoint, u32::from(*endpoint.ports.get(&target.port.number)?))));
    // What is passed on is mutual TLS: who does not end that is not reached.
    let found = found
        .filter(|(endpoint, port)| !target.passed_on || mutual_tls::is_in_mesh(view, target.service, endpoint, *port));
    let mut assignment = groups(view, target, found.collect());
    assignment.cluster_name = target.name();
    assignment
}

/// The names a DNS cluster looks up: the listed endpoints, else the host itself.
pub(super) fn of_dns(view: &View<'_>, target: &Target<'_>, name: &str, one: bool) -> pb::ClusterLoadAssignment {
    let service = target.service;
    let listed = view.world.endpoints(&service.key).iter().filter(|endpoint| is_in_subset(endpoint, target));
    let mut found: Vec<(&Endpoint, u32)> =
        listed.filter_map(|endpoint| Some((endpoint, (*endpoint.ports.get(&target.port.number)?).into()))).collect();
    if one {
        found.truncate(1);
    }
    let itself = match &service.resolution {
        Resolution::ExternalName(other) => other.as_str(),
        _ => &service.key.host,
    };
    let port = match &target.port.target {
        crate::model::kinds::service::PortRef::Number(number) => *number,
        crate::model::kinds::service::PortRef::Name(_) => target.port.number,
    };
    let own = Endpoint {
        address: itself.to_owned(),
        ports: BTreeMap::new(),
        labels: BTreeMap::new(),
        locality: Locality::default(),
        weight: 1,
        service_account: String::new(),
        workload: None,
        workload_name: Arc::default(),
    };
    // A wildcard is no name that can be looked up.
    if found.is_empty() && target.subset.is_none() && !itself.starts_with('*') {
        found.push((&own, port.into()));
    }
    let mut assignment = groups(view, target, found);
    assignment.cluster_name = name.to_owned();
    assignment
}

fn is_in_subset(endpoint: &Endpoint, target: &Target<'_>) -> bool {
    target.subset.is_none_or(|subset| contains_all(&endpoint.labels, &subset.labels))
}

fn groups(view: &View<'_>, target: &Target<'_>, found: Vec<(&Endpoint, u32)>) -> pb::ClusterLoadAssignment {
    let shares = Shares::of(view, target);
    let mut groups: BTreeMap<(u32, &Locality), Vec<(&Endpoint, u32)>> = BTreeMap::new();
    for (endpoint, port) in found {
        groups.entry((shares.priority(endpoint), &endpoint.locality)).or_default().push((endpoint, port));
    }
    let weights: Vec<(&Locality, u32)> = groups
        .iter()
        .map(|((_, locality), of)| {
            (*locality, of.iter().fold(0, |sum: u32, (endpoint, _)| sum.saturating_add(endpoint.weight)))
        })
        .collect();
    let weights = shares.weights(&weights);
    let priorities = locality::dense(groups.keys().map(|(priority, _)| *priority));
    let mut endpoints = Vec::new();
    for (((priority, locality), of), weight) in groups.into_iter().zip(weights) {
        // A group that gets nothing is left out: no client knows a weight of zero.
        if weight == 0 {
            continue;
        }
        endpoints.push(pb::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            lb_endpoints: of.into_iter().map(|(endpoint, port)| lb_endpoint(view, target, endpoint, port)).collect(),
            load_balancing_weight: u32_value(weight),
            priority: priorities.get(&priority).copied().unwrap_or_default(),
            ..Default::default()
        });
    }
    pb::ClusterLoadAssignment { endpoints, ..Default::default() }
}

fn lb_endpoint(view: &View<'_>, target: &Target<'_>, endpoint: &Endpoint, port: u32) -> pb::LbEndpoint {
    let of_tls = mutual_tls::metadata(view, target.service, endpoint, port);
    let of = pb::Endpoint { address: Some(wire::endpoint_address(&endpoint.address, port)), ..Default::default() };
    pb::LbEndpoint {
        host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(of)),
        load_balancing_weight: u32_value(endpoint.weight),
        metadata: telemetry::with_workload(view, target.service, endpoint, of_tls),
        ..Default::default()
    }
}
