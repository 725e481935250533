//! What a proxyless gRPC client gets: a listener for each name it may call, by `xds:///name:port`.
//!
//! It checks more than Envoy does and refuses a table for one route it does not know, so only what it knows is sent.

use weft_proto::any::pack;
use weft_proto::pb::envoy::config::cluster::v3::{self as cluster_pb, cluster};
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::config::route::v3 as route_pb;

use super::http::{self, Routes};
use super::routes::{self, Rules};
use super::view::View;
use super::{names, wire};
use crate::model::config::GatewayRef;
use crate::model::host;
use crate::model::service::{Port, Protocol, Service};

/// A listener for each name of each port, and the route configurations they share.
pub(super) fn listeners_and_tables(view: &View<'_>) -> (Vec<pb::Listener>, Vec<route_pb::RouteConfiguration>) {
    let mut listeners = Vec::new();
    let mut tables = Vec::new();
    for seen in &view.services {
        for port in seen.ports().filter(|port| !port.protocol.is_tls() && port.protocol != Protocol::Udp) {
            let table = table(view, seen.service, port);
            for name in names_of(view, seen.service) {
                let manager = http::grpc_manager(Routes::Named(table.name.clone()));
                listeners.push(pb::Listener {
                    name: format!("{name}:{}", port.number),
                    api_listener: Some(pb::ApiListener { api_listener: Some(pack(&manager)) }),
                    ..Default::default()
                });
            }
            tables.push(table);
        }
    }
    (listeners, tables)
}

/// What a service may be called by.
fn names_of(view: &View<'_>, service: &Service) -> Vec<String> {
    let mut names = vec![service.key.host.to_string()];
    if let Some(name) = service.kubernetes_name() {
        let namespace = &service.key.namespace;
        names.extend([format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")]);
        if **namespace == *view.proxy.namespace {
            names.push(name.to_owned());
        }
    }
    names
}

fn table(view: &View<'_>, service: &Service, port: &Port) -> route_pb::RouteConfiguration {
    let number = u32::from(port.number);
    let covers = |pattern: &std::sync::Arc<str>| host::covers(pattern, &service.key.host);
    let of_host = view
        .virtual_services(&[GatewayRef::Mesh])
        .find(|routes| !routes.http.is_empty() && routes.hosts.iter().any(covers));
    let made = of_host
        .map(|routes| Rules { view, routes, port: number, gateways: &[GatewayRef::Mesh], is_grpc: true }.routes());
    let made = made.filter(|made| !made.is_empty()).unwrap_or_else(|| vec![routes::default_route(view, service, port)]);
    let name = names::outbound(number, "", &service.key.host);
    let host = route_pb::VirtualHost {
        name: format!("{}:{number}", service.key.host),
        // There is one host in this table, whatever name it was called by.
        domains: vec!["*".to_owned()],
        routes: made,
        ..Default::default()
    };
    route_pb::RouteConfiguration { name, virtual_hosts: vec![host], ..Default::default() }
}

/// A cluster without endpoints, in the only form a client takes: calls to it fail at once.
pub(super) fn black_hole() -> (cluster_pb::Cluster, ClusterLoadAssignment) {
    let name = names::BLACK_HOLE.to_owned();
    let cluster = cluster_pb::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: wire::ads(), service_name: name.clone() }),
        ..Default::default()
    };
    (cluster, ClusterLoadAssignment { cluster_name: name, ..Default::default() })
}
