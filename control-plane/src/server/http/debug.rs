//! What is known of connections and their configuration, as JSON.
//!
//! Must not know: HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_proto::pb::envoy::config::core::v3::{address, socket_address};
use weft_proto::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint};
use weft_proto::to_json::{Options, encoded};

use crate::cache::Cache;
use crate::generate::Generator;
use crate::resource::{Resource, ResourceSet, ResourceType};
use crate::server::connections::{Connection, Status, TypeState, wall};
use crate::server::provenance::{culprits, refusals};
use crate::server::session::Variant;

/// Each stream: who, and how it stands with each type.
pub(super) fn syncz<G: Generator>(world: &G, connections: &[Arc<Connection>]) -> Json {
    connections.iter().map(|connection| stream(world, connection)).collect()
}

fn stream<G: Generator>(world: &G, connection: &Connection) -> Json {
    let state = connection.state();
    let types = state.types.iter().map(|ty| {
        let mut shown = type_state(ty);
        if ty.nack.is_some() {
            let objects = culprits(world, &connection.session(), ty.ty);
            shown["refused"]["objects"] = objects.iter().map(ToString::to_string).collect();
        }
        (ty.ty.short_name().to_owned(), shown)
    });
    json!({
        "proxy": connection.proxy.id,
        "name": connection.proxy.name,
        "namespace": connection.proxy.namespace,
        "kind": connection.proxy.kind.to_string(),
        "service": connection.service,
        "protocol": protocol(connection.variant),
        "peer": connection.peer.map(|peer| peer.to_string()),
        "connectedAt": timestamp(connection.connected_at),
        "synced": state.synced == state.current && state.current > 0,
        "sequence": state.current,
        "syncedSequence": state.synced,
        "types": types.collect::<serde_json::Map<_, _>>(),
    })
}

fn type_state(state: &TypeState) -> Json {
    let nack = state.nack.as_ref().map(
        |nack| json!({ "version": nack.version.to_string(), "at": timestamp(wall(nack.at)), "reason": nack.reason }),
    );
    json!({
        "status": state.status.as_str(),
        "wildcard": state.wildcard,
        "names": state.names,
        "sent": state.sent.map(|version| version.to_string()),
        "accepted": state.ack.map(|ack| ack.version.to_string()),
        "refused": nack,
    })
}

/// The objects of a world as `described`, each with who refuses what was made of it.
pub(super) fn objects<G: Generator>(world: &G, mut described: Json, connections: &[Arc<Connection>]) -> Json {
    let mut refusals = refusals(world, connections);
    for object in described.as_array_mut().into_iter().flatten() {
        let by = object["object"].as_str().and_then(|called| refusals.remove(called));
        object["refusedBy"] = by.unwrap_or_default().into();
    }
    described
}

/// Who is connected.
pub(super) fn connections(connections: &[Arc<Connection>]) -> Json {
    let clients = connections.iter().map(|connection| {
        json!({
            "connectionId": connection.id,
            "proxy": connection.proxy.id,
            "address": connection.peer.map(|peer| peer.to_string()),
            "connectedAt": timestamp(connection.connected_at),
            "service": connection.service,
            "protocol": protocol(connection.variant),
            "userAgent": connection.proxy.user_agent,
            "locality": connection.proxy.locality.to_string(),
        })
    });
    json!({ "totalClients": connections.len(), "clients": clients.collect::<Vec<_>>() })
}

/// Which configuration is served, and how many follow.
pub(super) fn push_status<G: Generator>(cache: &Cache<G>, connections: &[Arc<Connection>]) -> Json {
    let sequence = cache.current().sequence;
    let mut counts = BTreeMap::from([("synced", 0), ("stale", 0), ("nacked", 0)]);
    for connection in connections {
        let state = connection.state();
        let refuses = state.types.iter().any(|ty| ty.status == Status::Nacked);
        let place = match state.synced {
            _ if refuses => "nacked",
            synced if synced >= sequence => "synced",
            _ => "stale",
        };
        *counts.entry(place).or_default() += 1;
    }
    json!({ "sequence": sequence, "streams": connections.len(), "byState": counts, "differentResults": cache.len() })
}

/// The streams of a proxy, by its id, `name.namespace` or name; of all if none is named.
pub(super) fn find(connections: &[Arc<Connection>], wanted: Option<&str>) -> Result<Vec<Arc<Connection>>, String> {
    let Some(wanted) = wanted else { return Ok(connections.to_vec()) };
    let by = |is: &dyn Fn(&Connection) -> bool| -> Vec<_> { connections.iter().filter(|c| is(c)).cloned().collect() };
    let of_id = by(&|connection| connection.proxy.id == wanted);
    let of_pod = || by(&|connection| format!("{}.{}", connection.proxy.name, connection.proxy.namespace) == wanted);
    let of_name = || by(&|connection| connection.proxy.name == wanted);
    let found = [of_id].into_iter().chain([of_pod(), of_name()]).find(|found| !found.is_empty()).unwrap_or_default();
    let mut ids: Vec<&str> = found.iter().map(|connection| connection.proxy.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [] => Err(format!("no proxy {wanted} is connected; /debug/connections shows which are\n")),
        [_] => Ok(found),
        several => Err(format!("{wanted} is several proxies: {}; give the whole id\n", several.join(", "))),
    }
}

/// What a proxy may have, as Envoy shows what it has. Secrets are redacted.
pub(super) fn config_dump(of_proxy: &[Arc<Connection>]) -> Json {
    let resources = of_proxy.first().map(|connection| connection.state().resources).unwrap_or_default();
    let entries = |ty, entry: fn(&Resource) -> Json| resources.get(ty).iter().map(|resource| entry(resource)).collect();
    let clusters: Vec<Json> =
        entries(ResourceType::Cluster, |of| json!({ "version_info": version(of), "cluster": any(of) }));
    let endpoints: Vec<Json> =
        entries(ResourceType::Endpoints, |of| json!({ "version_info": version(of), "endpoint_config": any(of) }));
    let listeners: Vec<Json> = entries(
        ResourceType::Listener,
        |of| json!({ "name": **of.name(), "active_state": { "version_info": version(of), "listener": any(of) } }),
    );
    let routes: Vec<Json> =
        entries(ResourceType::Route, |of| json!({ "version_info": version(of), "route_config": any(of) }));
    let secrets: Vec<Json> = entries(
        ResourceType::Secret,
        |of| json!({ "name": **of.name(), "version_info": version(of), "secret": any(of) }),
    );
    let dump = |name: &str, field: &str, entries: Vec<Json>| json!({ "@type": format!("type.googleapis.com/envoy.admin.v3.{name}"), field: entries });
    json!({ "configs": [
        dump("ClustersConfigDump", "dynamic_active_clusters", clusters),
        dump("EndpointsConfigDump", "dynamic_endpoint_configs", endpoints),
        dump("ListenersConfigDump", "dynamic_listeners", listeners),
        dump("RoutesConfigDump", "dynamic_route_configs", routes),
        dump("SecretsConfigDump", "dynamic_active_secrets", secrets),
    ] })
}

/// The endpoints of each cluster that some of these proxies may have.
pub(super) fn endpointz(connections: &[Arc<Connection>]) -> Json {
    let mut sets: Vec<Arc<ResourceSet>> = Vec::new();
    for connection in connections {
        let set = connection.state().resources.get(ResourceType::Endpoints).clone();
        if !sets.iter().any(|known| Arc::ptr_eq(known, &set)) {
            sets.push(set);
        }
    }
    let assignments: BTreeMap<_, _> =
        sets.iter().flat_map(|set| set.iter()).map(|of| ((of.name().clone(), of.version().to_string()), of)).collect();
    assignments.values().filter_map(|resource| assignment(resource)).collect()
}

fn assignment(resource: &Resource) -> Option<Json> {
    let assignment: ClusterLoadAssignment = prost::Message::decode(resource.message()).ok()?;
    let mut endpoints = Vec::new();
    for group in &assignment.endpoints {
        let locality = group.locality.as_ref().map(|of| crate::node::Locality::from(of).to_string());
        for endpoint in &group.lb_endpoints {
            endpoints.push(json!({
                "address": socket(endpoint),
                "weight": endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value),
                "health": endpoint.health_status().as_str_name(),
                "priority": group.priority,
                "locality": locality,
            }));
        }
    }
    Some(json!({ "cluster": **resource.name(), "version": version(resource), "endpoints": endpoints }))
}

fn socket(endpoint: &LbEndpoint) -> Option<String> {
    let lb_endpoint::HostIdentifier::Endpoint(endpoint) = endpoint.host_identifier.as_ref()? else { return None };
    match endpoint.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            socket_address::PortSpecifier::PortValue(port) => Some(format!("{}:{port}", socket.address)),
            socket_address::PortSpecifier::NamedPort(name) => Some(format!("{}:{name}", socket.address)),
        },
        address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        address::Address::EnvoyInternalAddress(_) => None,
    }
}

fn any(resource: &Resource) -> Json {
    encoded("google.protobuf.Any", resource.any(), Options::default())
        .unwrap_or_else(|error| json!({ "error": error.to_string() }))
}

fn version(resource: &Resource) -> String {
    resource.version().to_string()
}

fn protocol(variant: Variant) -> &'static str {
    match variant {
        Variant::Sotw => "sotw",
        Variant::Delta => "delta",
    }
}

pub(in crate::server) fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}
