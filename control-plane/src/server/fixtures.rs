//! Resources for tests.

use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

use crate::resource::{Resource, ResourceSet, ResourceType as Type, Resources};

pub(crate) fn cluster(name: &str, revision: u32) -> Resource {
    let eds = EdsClusterConfig { service_name: format!("eds-{name}"), ..EdsClusterConfig::default() };
    let message = Cluster {
        name: name.to_owned(),
        alt_stat_name: revision.to_string(),
        eds_cluster_config: Some(eds),
        ..Cluster::default()
    };
    Resource::new(name, &message)
}

pub(crate) fn endpoints(cluster: &str) -> Resource {
    let name = format!("eds-{cluster}");
    Resource::new(name.clone(), &ClusterLoadAssignment { cluster_name: name, ..ClusterLoadAssignment::default() })
}

pub(crate) fn listener(name: &str, revision: u32) -> Resource {
    let stat_prefix = revision.to_string();
    Resource::new(name, &Listener { name: name.to_owned(), stat_prefix, ..Listener::default() })
}

pub(crate) fn route(name: &str, revision: u32) -> Resource {
    let internal_only_headers = vec![revision.to_string()];
    let message = RouteConfiguration { name: name.to_owned(), internal_only_headers, ..RouteConfiguration::default() };
    Resource::new(name, &message)
}

/// Clusters with their endpoints; `name` or `name:revision`.
pub(crate) fn state(clusters: &[(&str, u32)], listeners: &[(&str, u32)], routes: &[(&str, u32)]) -> Resources {
    let mut resources = Resources::default();
    resources.set(Type::Cluster, clusters.iter().map(|(name, n)| cluster(name, *n)).collect::<ResourceSet>());
    resources.set(Type::Endpoints, clusters.iter().map(|(name, _)| endpoints(name)).collect::<ResourceSet>());
    resources.set(Type::Listener, listeners.iter().map(|(name, n)| listener(name, *n)).collect::<ResourceSet>());
    resources.set(Type::Route, routes.iter().map(|(name, n)| route(name, *n)).collect::<ResourceSet>());
    resources
}
