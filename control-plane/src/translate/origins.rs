//! Of which objects resources are made.
//!
//! Owns the way back from what a proxy refuses to who wrote it. Most of it is in the metadata that Istio's tools read as well; for
//! listeners it is looked up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::{
    Metadata, TrafficDirection, address::Address, socket_address::PortSpecifier,
};
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use weft_proto::pb::google::protobuf::{Value, value::Kind as ValueKind};

use super::cluster::Target;
use super::view::View;
use super::{authorization, gateway, names, request_authentication};
use crate::generate::{Generator as _, Origin};
use crate::model::World;
use crate::model::config::{GatewayRef, VirtualService};
use crate::model::host;
use crate::model::kinds::{Kind, ObjectKey};
use crate::model::service::ServiceKey;
use crate::node::ProxyKind;
use crate::resource::Resource;

/// Objects, as people call them.
pub(super) type Objects = BTreeSet<Arc<str>>;

fn called(key: &ObjectKey) -> Arc<str> {
    key.to_string().into()
}

/// Those of a target: the service, and the rule for it.
pub(super) fn of_target(target: &Target<'_>) -> Objects {
    [called(&target.service.object)].into_iter().chain(target.rule.map(|rule| called(&rule.key))).collect()
}

/// Those of a cluster: by its metadata, or those of the workload.
pub(super) fn of_cluster(view: &View<'_>, cluster: &Cluster) -> Objects {
    if cluster.name.starts_with("inbound|") {
        return of_workload(view);
    }
    let mut objects = Objects::new();
    let Some(istio) = cluster.metadata.as_ref().and_then(|of| of.filter_metadata.get("istio")) else { return objects };
    objects.extend(config_of(cluster.metadata.as_ref()));
    let Some(ValueKind::ListValue(services)) = istio.fields.get("services").and_then(|value| value.kind.as_ref())
    else {
        return objects;
    };
    for service in &services.values {
        let Some(ValueKind::StructValue(service)) = &service.kind else { continue };
        let field = |name: &str| text(service.fields.get(name)).map(Arc::from);
        if let (Some(host), Some(namespace)) = (field("host"), field("namespace")) {
            let found = view.world.service(&ServiceKey { host, namespace });
            objects.extend(found.map(|service| called(&service.object)));
        }
    }
    objects
}

/// Those of a route configuration: by the metadata of its routes.
pub(super) fn of_table(table: &RouteConfiguration) -> Objects {
    table.virtual_hosts.iter().flat_map(of_host).collect()
}

fn of_host(host: &VirtualHost) -> impl Iterator<Item = Arc<str>> {
    host.routes.iter().filter_map(|route| config_of(route.metadata.as_ref()))
}

fn config_of(metadata: Option<&Metadata>) -> Option<Arc<str>> {
    let path = text(metadata?.filter_metadata.get("istio")?.fields.get("config"))?;
    names::object_of_path(path).map(Arc::from)
}

fn text(value: Option<&Value>) -> Option<&str> {
    match value?.kind.as_ref()? {
        ValueKind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Those of listeners. What they are looked up by is gone through once for all of them.
pub(super) struct OfListeners<'v, 'w> {
    view: &'v View<'w>,
    /// Services by their addresses and ports.
    services: HashMap<(&'w str, u32), Objects>,
    /// Routes of connections, by the ports of the services they lead to.
    routes: HashMap<u32, Objects>,
}

impl<'v, 'w> OfListeners<'v, 'w> {
    pub(super) fn new(view: &'v View<'w>) -> Self {
        let mut of = Self { view, services: HashMap::new(), routes: HashMap::new() };
        if view.proxy.kind != ProxyKind::Sidecar {
            return of;
        }
        let of_connections: Vec<_> = view.virtual_services(&[GatewayRef::Mesh]).filter(is_of_connections).collect();
        for seen in &view.services {
            let service = seen.service;
            let leads =
                |routes: &&&VirtualService| routes.hosts.iter().any(|name| host::covers(name, &service.key.host));
            let leading: Objects = of_connections.iter().filter(leads).map(|routes| called(&routes.key)).collect();
            for port in seen.ports().map(|port| u32::from(port.number)) {
                for address in &service.addresses {
                    of.services.entry((address, port)).or_default().insert(called(&service.object));
                }
                if !leading.is_empty() {
                    of.routes.entry(port).or_default().extend(leading.iter().cloned());
                }
            }
        }
        of
    }

    pub(super) fn of(&self, listener: &Listener) -> Objects {
        let view = self.view;
        if listener.traffic_direction == TrafficDirection::Inbound as i32 {
            return of_workload(view);
        }
        let Some((address, port)) = place(listener) else { return Objects::new() };
        if view.proxy.kind == ProxyKind::Gateway {
            return of_gateway(view, address, port);
        }
        let mut objects: Objects = view.sidecar.map(|sidecar| called(&sidecar.key)).into_iter().collect();
        // A listener of one address is that of a service; one of all is of too many to name.
        objects.extend(self.services.get(&(address, port)).into_iter().flatten().cloned());
        objects.extend(self.routes.get(&port).into_iter().flatten().cloned());
        objects
    }
}

/// Those of what a gateway opens at a place.
fn of_gateway(view: &View<'_>, address: &str, port: u32) -> Objects {
    let opened = gateway::servers_at(view, address, port);
    let references: Vec<GatewayRef> = opened.iter().map(|of| of.reference()).collect();
    let mut objects: Objects = opened.iter().map(|of| called(&of.gateway.key)).collect();
    objects.extend(view.virtual_services(&references).filter(is_of_connections).map(|routes| called(&routes.key)));
    objects.extend(of_policies(view));
    objects
}

fn is_of_connections(routes: &&VirtualService) -> bool {
    !(routes.tcp.is_empty() && routes.tls.is_empty())
}

fn place(listener: &Listener) -> Option<(&str, u32)> {
    match listener.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Some((&socket.address, port)),
            _ => None,
        },
        _ => None,
    }
}

/// What says what a workload accepts.
fn of_workload(view: &View<'_>) -> Objects {
    let services = view.own_services();
    let services = services.iter().filter_map(|key| view.world.service(key)).map(|service| called(&service.object));
    let sidecar = view.sidecar.map(|sidecar| called(&sidecar.key));
    let policies = &view.world.config().peer_authentications;
    let peers = policies.of_workload(&view.proxy.namespace, view.labels).map(|policy| called(&policy.key));
    services.chain(sidecar).chain(peers).chain(of_policies(view)).collect()
}

/// Who may come in, and with whose tokens.
fn of_policies(view: &View<'_>) -> impl Iterator<Item = Arc<str>> {
    let all = authorization::objects(view).into_iter().chain(request_authentication::objects(view));
    all.map(|key| called(&key))
}

/// A secret's own object, by its name in SDS.
pub(super) fn of_secret(view: &View<'_>, name: &str) -> Objects {
    let Some((scheme, rest)) = name.split_once("://") else { return Objects::new() };
    let (namespace, object) = rest.split_once('/').unwrap_or((&view.proxy.namespace, rest));
    let kind = if scheme == "configmap" { Kind::ConfigMap } else { Kind::Secret };
    let known = [object, object.trim_end_matches("-cacert")].into_iter();
    let found = known.filter_map(|object| view.world.objects().get(kind, namespace, object));
    found.take(1).map(|object| called(&object.key)).collect()
}

/// Those of a route configuration that differ from what was accepted, by the virtual hosts that do.
fn of_changed_hosts(refused: &Resource, before: &Resource) -> Option<Objects> {
    let table = |of: &Resource| RouteConfiguration::decode(of.message()).ok();
    let (refused, before) = (table(refused)?, table(before)?);
    let differs = |host: &&VirtualHost, others: &RouteConfiguration| !others.virtual_hosts.contains(host);
    let new = refused.virtual_hosts.iter().filter(|host| differs(host, &before));
    let old = before.virtual_hosts.iter().filter(|host| differs(host, &refused));
    Some(new.chain(old).flat_map(of_host).collect())
}

/// The objects that are likely why a resource was refused.
pub(super) fn of_refused(world: &World, is_table: bool, refused: &Resource, before: Option<&Resource>) -> Vec<Origin> {
    let narrowed = before.filter(|_| is_table).and_then(|before| of_changed_hosts(refused, before));
    let narrowed = narrowed.filter(|objects| !objects.is_empty());
    let patches = format!("{} ", Kind::EnvoyFilter);
    let counts = |object: &&Arc<str>| {
        narrowed.as_ref().is_none_or(|narrowed| narrowed.contains(*object) || object.starts_with(&patches))
    };
    let mut objects: Objects = refused.origins().iter().filter(counts).cloned().collect();
    // Routes that are gone may be why, too.
    objects.extend(narrowed.iter().flatten().cloned());
    objects.into_iter().map(|object| Origin { at: world.written_at(&object), object }).collect()
}
