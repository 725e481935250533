//! What was discovered, for `/config_dump`.

use bytes::Bytes;
use prost::Message;
use weft_proto::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

use super::kind::Kind;
use super::state::{Failure, Loaded, State};
use super::vhosts::Vhds;
use crate::admin::{ConfigDump, DumpedListener, DumpedResource, UpdateFailure};

/// Adds it.
pub(super) fn add(state: &State, dump: &mut ConfigDump) {
    let version = |kind| state.versions.get(&kind).cloned().unwrap_or_default();
    dump.clusters_version = version(Kind::Cluster);
    dump.listeners_version = version(Kind::Listener);
    for (name, entry) in &state.clusters.all {
        if let Some(active) = &entry.active {
            let error = if entry.warming.is_none() { entry.error.as_ref() } else { None };
            dump.dynamic_active_clusters.push(resource(state, name, Kind::Cluster, active, error));
        }
        if let Some((warming, _)) = &entry.warming {
            dump.dynamic_warming_clusters.push(resource(state, name, Kind::Cluster, warming, entry.error.as_ref()));
        }
        if let (None, None, Some(error)) = (&entry.active, &entry.warming, &entry.error) {
            dump.dynamic_warming_clusters.push(refused(name, Kind::Cluster, error));
        }
    }
    for ((_, name), entry) in &state.endpoints.all {
        if let Some((loaded, _)) = &entry.current {
            dump.dynamic_endpoint_configs.push(resource(state, name, Kind::Endpoints, loaded, None));
        }
    }
    if state.filters.any {
        let all = state.filters.all.iter().filter_map(|((_, name, _), entry)| match (&entry.active, &entry.error) {
            (Some(active), error) => Some(resource(state, name, Kind::Extension, active, error.as_ref())),
            (None, Some(error)) => Some(refused(name, Kind::Extension, error)),
            (None, None) => None,
        });
        dump.ecds_filters = Some(all.collect());
    }
    for (name, entry) in &state.listeners.all {
        dump.dynamic_listeners.push(DumpedListener {
            name: name.clone(),
            active: entry.active.as_ref().map(|l| resource(state, name, Kind::Listener, l, None)),
            warming: entry.warming.as_ref().map(|w| resource(state, name, Kind::Listener, &w.loaded, None)),
            draining: draining(state, name),
            error: entry.error.as_ref().map(failure),
        });
    }
    for (listener, loaded) in &state.listeners.draining {
        let Some(listener) = listener.upgrade() else { continue };
        let name = &listener.config.name;
        if !state.listeners.all.contains_key(name) {
            dump.dynamic_listeners.push(DumpedListener {
                name: name.clone(),
                draining: Some(resource(state, name, Kind::Listener, loaded, None)),
                ..DumpedListener::default()
            });
        }
    }
    for ((_, name), entry) in &state.routes.all {
        match (&entry.active, &entry.error) {
            (Some(active), error) => {
                let mut dumped = resource(state, name, Kind::Routes, active, error.as_ref());
                if let Some(vhds) = &entry.vhds {
                    dumped.encoded = with_hosts(&dumped.encoded, vhds);
                }
                dump.dynamic_route_configs.push(dumped);
            }
            (None, Some(error)) => dump.dynamic_route_configs.push(refused(name, Kind::Routes, error)),
            (None, None) => {}
        }
    }
    for ((_, name), entry) in &state.secrets.all {
        match (&entry.active, &entry.error) {
            (Some(active), error) => {
                dump.dynamic_active_secrets.push(resource(state, name, Kind::Secret, active, error.as_ref()));
            }
            (None, Some(error)) => dump.dynamic_warming_secrets.push(refused(name, Kind::Secret, error)),
            (None, None) => {}
        }
    }
}

/// Encoded routes with their discovered hosts: a message is continued by appending fields.
fn with_hosts(routes: &[u8], vhds: &Vhds) -> Bytes {
    let hosts = vhds.hosts.values().filter_map(|host| host.active.as_ref());
    let hosts = hosts.filter_map(|version| VirtualHost::decode(&*version.loaded.bytes).ok());
    let more = RouteConfiguration { virtual_hosts: hosts.collect(), ..RouteConfiguration::default() };
    let mut whole = routes.to_vec();
    whole.extend(more.encode_to_vec());
    whole.into()
}

fn draining(state: &State, name: &str) -> Option<DumpedResource> {
    let (_, loaded) = state
        .listeners
        .draining
        .iter()
        .rev()
        .find(|(listener, _)| listener.upgrade().is_some_and(|l| l.config.name == name && l.stop.is_draining()))?;
    Some(resource(state, name, Kind::Listener, loaded, None))
}

fn resource(state: &State, name: &str, kind: Kind, loaded: &Loaded, error: Option<&Failure>) -> DumpedResource {
    DumpedResource {
        name: name.to_owned(),
        type_url: kind.type_url(),
        encoded: loaded.bytes.clone(),
        version_info: loaded.version.clone(),
        last_updated: Some(loaded.at),
        error: error.map(failure),
        ignored_fields: loaded.ignored.clone(),
        cached: if loaded.cached { state.cache.serves(kind) } else { None },
    }
}

fn refused(name: &str, kind: Kind, error: &Failure) -> DumpedResource {
    DumpedResource {
        name: name.to_owned(),
        type_url: kind.type_url(),
        error: Some(failure(error)),
        ..DumpedResource::default()
    }
}

fn failure(f: &Failure) -> UpdateFailure {
    UpdateFailure { last_update_attempt: f.at, details: f.reason.clone(), version_info: f.version.clone() }
}
