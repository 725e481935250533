//! Routes by discovery: swapped inside the connection managers that use them.
//!
//! A new version goes live once every cluster it names that is on its way is there ([`super::stale`]). Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

use super::clusters::{failure, loaded};
use super::mux::{Resource, Update};
use super::needs;
use super::state::{Errors, Failure, Item, Loaded, Need, State};
use super::stats::UpdateStats;
use super::vhosts::{self, Vhds};
use crate::config::from_xds::{self, Environment};
use crate::config::{RouteConfig, Source, pending};

/// Route configurations by source and name.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) all: BTreeMap<(Source, String), Entry>,
}

/// A discovered route configuration.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    waiting: Option<(Loaded, RouteConfig)>,
    /// The newest version that was accepted, without discovered hosts.
    pub(super) base: Option<RouteConfig>,
    /// Where further hosts come from, and those that came.
    pub(super) vhds: Option<Vhds>,
    pub(super) error: Option<Failure>,
}

impl Entry {
    /// The version that was accepted last.
    pub(super) fn newest(&self) -> Option<&Loaded> {
        self.waiting.as_ref().map(|(loaded, _)| loaded).or(self.active.as_ref())
    }
}

impl State {
    pub(super) fn update_routes(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let began = Instant::now();
            let managers = self.parts.routes.managers(from, &resource.name);
            if managers.is_empty() {
                tracing::debug!(name = %resource.name, "routes nobody asked for");
                continue;
            }
            let result = self.update_route(from, resource, now);
            let entry = self.routes.all.entry((from.clone(), resource.name.clone())).or_default();
            entry.error = result.as_ref().err().map(|reason| failure(resource, reason));
            for stats in managers.iter().filter_map(|m| m.rds_stats.as_ref()) {
                match &result {
                    Ok(()) => stats.accepted(&update.version, began.elapsed()),
                    Err(_) => stats.rejected(),
                }
            }
            if let Err(reason) = result {
                errors.push((resource.name.clone(), reason));
            }
            self.routes_answered(from, &resource.name, now);
        }
    }

    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_route(&mut self, from: &Source, resource: &Resource, now: Instant) -> Result<(), String> {
        let key = (from.clone(), resource.name.clone());
        let newest = self.routes.all.get(&key).and_then(Entry::newest);
        if newest.is_some_and(|l| l.bytes == resource.body.value) {
            return Ok(());
        }
        let convert = |r: &RouteConfiguration| {
            from_xds::route_config(r, &self.route_environment(r.validate_clusters.is_some_and(|v| v.value)))
        };
        let checked = self.strictness.check(resource, convert, pending::routes)?;
        for source in needs::route_demands(&checked.value) {
            self.check_demand(source)?;
        }
        let kept = self.kept_hosts(&key, &checked.value);
        if let Some(domain) = kept.and_then(|vhds| vhds.conflict_with(&checked.value)) {
            return Err(vhosts::taken(&domain, &key.1));
        }
        let hosts = kept.map(Vhds::active).unwrap_or_default();
        let compiled = self.parts.routes.check(from, &checked.value, &hosts, &self.parts);
        compiled.map_err(|e| format!("{}: {}", e.field_path, e.reason))?;
        let in_force = self.routes.all.get(&key).is_some_and(|e| e.active.is_some());
        let clusters = hosts.values().flat_map(|host| needs::host_clusters(host));
        let clusters: BTreeSet<_> = needs::route_clusters(&checked.value).into_iter().chain(clusters).collect();
        let mut coming = self.coming(clusters, in_force, now);
        coming.extend(self.follow_hosts(&key, &checked.value, now));
        let entry = self.routes.all.entry(key.clone()).or_default();
        entry.base = Some(checked.value.clone());
        entry.waiting = Some((loaded(resource, checked.ignored), checked.value));
        tracing::debug!(routes = %key.1, waits_for = ?coming, "accepted");
        if self.warming.begin(&Item::Routes(key.0.clone(), key.1.clone()), coming) {
            self.activate_routes(&key.0, &key.1, now);
        }
        Ok(())
    }

    /// Routes take requests from now on.
    pub(super) fn activate_routes(&mut self, from: &Source, name: &str, now: Instant) {
        let Some(entry) = self.routes.all.get_mut(&(from.clone(), name.to_owned())) else { return };
        let Some((loaded, config)) = entry.waiting.take() else { return };
        let hosts = entry.vhds.as_ref().map(Vhds::active).unwrap_or_default();
        let published = self.parts.routes.publish(from, config, hosts, &self.parts).map_err(|e| e.to_string());
        match published {
            Ok(changed) => {
                entry.active = Some(loaded);
                tracing::debug!(routes = name, changed, "in use");
                if changed {
                    let managers = self.parts.routes.managers(from, name);
                    managers.iter().filter_map(|m| m.rds_stats.as_ref()).for_each(UpdateStats::reloaded);
                }
            }
            Err(reason) => tracing::error!(routes = name, reason, "routes are not used"),
        }
        let ready = self.warming.met(&Need::Routes(from.clone(), name.to_owned()));
        self.ready(ready, now);
        self.routes_settled(from, name, now);
    }

    /// The stream was lost.
    pub(super) fn routes_failed(&self) {
        for (from, name) in self.routes.all.keys() {
            let managers = self.parts.routes.managers(from, name);
            managers.iter().filter_map(|m| m.rds_stats.as_ref()).for_each(UpdateStats::failed);
        }
    }

    /// What routes may refer to.
    pub(super) fn route_environment(&self, validate_clusters: bool) -> Environment {
        let known = self.environment.clusters.iter().flatten().chain(self.clusters.all.keys());
        Environment {
            clusters: validate_clusters.then(|| known.cloned().collect()),
            node_id: self.environment.node_id.clone(),
            node_metadata: self.environment.node_metadata.clone(),
            secrets: self.environment.secrets.clone(),
        }
    }
}
