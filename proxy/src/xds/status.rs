//! What is held, pending and refused of each resource, for the client status discovery service.

use std::collections::BTreeSet;

use super::kind::Kind;
use super::state::{Failure, Loaded, State};
use crate::admin::{ClientStatus, Held, ResourceStatus, UpdateFailure};

/// All of it. Resources that are waited for and not there come after those that are.
pub(super) fn of(state: &State) -> ClientStatus {
    let mut all = Vec::new();
    let mut add = |kind: Kind, name: &str, loaded: Option<&Loaded>, error: Option<&Failure>| {
        if loaded.is_some() || error.is_some() {
            all.push(status(kind, name, loaded, error));
        }
    };
    for (name, e) in &state.clusters.all {
        add(Kind::Cluster, name, e.newest(), e.error.as_ref());
    }
    for ((_, name), e) in &state.endpoints.all {
        add(Kind::Endpoints, name, e.current.as_ref().map(|(loaded, _)| loaded), e.error.as_ref());
    }
    for (name, e) in &state.listeners.all {
        add(Kind::Listener, name, e.newest(), e.error.as_ref());
    }
    for ((_, name), e) in &state.routes.all {
        add(Kind::Routes, name, e.newest(), e.error.as_ref());
        if let Some(vhds) = &e.vhds {
            let names: BTreeSet<_> = vhds.hosts.keys().chain(vhds.errors.keys()).collect();
            for name in names {
                let newest = vhds.hosts.get(name).and_then(|host| host.newest());
                add(Kind::VirtualHost, name, newest.map(|version| &version.loaded), vhds.errors.get(name));
            }
        }
    }
    for ((_, name), e) in &state.secrets.all {
        add(Kind::Secret, name, e.active.as_ref(), e.error.as_ref());
    }
    let runtime = &state.runtime;
    let layers: BTreeSet<_> = runtime.loaded.keys().chain(runtime.errors.keys()).collect();
    for layer in layers {
        add(Kind::Runtime, &layer.1, runtime.loaded.get(layer), runtime.errors.get(layer));
    }
    for ((_, name, _), e) in &state.filters.all {
        add(Kind::Extension, name, e.active.as_ref(), e.error.as_ref());
    }
    let known: BTreeSet<_> = all.iter().map(|r| (r.type_url, r.name.clone())).collect();
    for mux in state.sources.streams.values() {
        for kind in Kind::ALL {
            let wanted = mux.names(kind).filter(|name| !known.contains(&(kind.type_url(), (*name).to_owned())));
            all.extend(wanted.map(|name| ResourceStatus {
                held: if mux.is_absent(kind, name) { Held::DoesNotExist } else { Held::Requested },
                ..status(kind, name, None, None)
            }));
        }
    }
    ClientStatus { node: state.sources.node().clone(), resources: all }
}

fn status(kind: Kind, name: &str, loaded: Option<&Loaded>, error: Option<&Failure>) -> ResourceStatus {
    ResourceStatus {
        type_url: kind.type_url(),
        name: name.to_owned(),
        version_info: loaded.map(|l| l.version.clone()).unwrap_or_default(),
        encoded: loaded.map(|l| l.bytes.clone()),
        last_updated: loaded.map(|l| l.at),
        held: if error.is_some() { Held::Nacked } else { Held::Acked },
        error: error.map(|f| UpdateFailure {
            last_update_attempt: f.at,
            details: f.reason.clone(),
            version_info: f.version.clone(),
        }),
    }
}
