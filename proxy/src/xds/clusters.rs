//! Clusters by discovery: added, changed, removed, each by itself.
//!
//! A changed cluster is built beside the one in use and takes its place in the cluster's handle once it has its endpoints and
//! secrets; the connections of the old one end when they are idle. Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;

use super::kind::Kind;
use super::mux::{Answered, Resource, Update};
use super::needs;
use super::state::{Errors, Failure, Item, Loaded, Need, State};
use crate::cluster::Cluster;
use crate::config::from_xds;
use crate::config::{Discovery, Source, pending};

/// How long the first answers to a cluster's names are waited for, as for those of the bootstrap.
const NAMES: std::time::Duration = std::time::Duration::from_secs(5);

/// Discovered clusters by name.
#[derive(Default)]
pub(super) struct Clusters {
    pub(super) all: BTreeMap<String, Entry>,
    /// How many of them are on their way.
    warming: usize,
}

/// A discovered cluster, in each state it is in.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    pub(super) warming: Option<(Loaded, Arc<Cluster>)>,
    pub(super) error: Option<Failure>,
}

impl Entry {
    /// The version that was accepted last.
    pub(super) fn newest(&self) -> Option<&Loaded> {
        self.warming.as_ref().map(|(loaded, _)| loaded).or(self.active.as_ref())
    }
}

impl State {
    /// A cluster of the bootstrap asks for what it needs.
    pub(super) fn static_cluster(&mut self, cluster: &Arc<Cluster>, now: Instant) {
        let needs = self.needs_of(cluster, false, now);
        self.warming.begin(&Item::Cluster(cluster.name.to_string()), needs);
    }

    pub(super) fn update_clusters(
        &mut self,
        from: &Source,
        update: Update,
        answered: &mut Answered,
        errors: &mut Errors,
        now: Instant,
    ) {
        let mut gone: BTreeSet<String> = update.removed.iter().cloned().collect();
        if update.complete {
            let named: BTreeSet<_> = update.resources.iter().map(|r| r.name.as_str()).collect();
            gone.extend(self.clusters.all.keys().filter(|known| !named.contains(known.as_str())).cloned());
            answered.removed.extend(gone.iter().cloned());
        }
        for resource in &update.resources {
            if let Err(reason) = self.update_cluster(resource, now) {
                errors.push((resource.name.clone(), reason));
            }
        }
        self.count_demanded(from, &update, !errors.is_empty());
        for name in &gone {
            self.take_away(name, now);
            self.gone(from, Kind::Cluster, name);
        }
        self.clusters_answered(from, now);
    }

    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_cluster(&mut self, resource: &Resource, now: Instant) -> Result<(), String> {
        let name = &resource.name;
        if self.environment.clusters.as_ref().is_some_and(|statics| statics.contains(name)) {
            tracing::warn!(cluster = %name, "a cluster of the bootstrap is not replaced");
            return Ok(());
        }
        if self.warming.is_waiting(&Item::Removal(name.clone())) {
            self.stays(name);
        }
        let entry = self.clusters.all.get_mut(name);
        if let Some(entry) = entry
            && entry.newest().is_some_and(|l| l.bytes == resource.body.value)
        {
            entry.error = None;
            return Ok(());
        }
        let result = self.build_cluster(resource, now);
        let entry = self.clusters.all.entry(name.clone()).or_default();
        match result {
            Ok(()) => entry.error = None,
            Err(ref reason) => entry.error = Some(failure(resource, reason)),
        }
        result
    }

    fn build_cluster(&mut self, resource: &Resource, now: Instant) -> Result<(), String> {
        let environment = &self.environment;
        let checked =
            self.strictness.check(resource, |p: &PbCluster| from_xds::cluster(p, environment), pending::cluster)?;
        needs::check_cluster(&checked.value).map_err(|e| format!("{}: {}", e.field_path, e.reason))?;
        let loaded = loaded(resource, checked.ignored);
        let name = resource.name.clone();
        let item = Item::Cluster(name.clone());
        let current = self.parts.clusters.find(&name);
        let entry = self.clusters.all.entry(name.clone()).or_default();
        if let (None, Some(active), Some(current)) = (&entry.warming, &mut entry.active, &current)
            && *current.config == checked.value
        {
            // Written differently, and the same.
            *active = loaded;
            return Ok(());
        }
        let cluster = Cluster::new(checked.value, &self.parts).map_err(|e| e.to_string())?;
        match entry.warming.replace((loaded, cluster.clone())) {
            Some((_, never_used)) => self.forget_endpoints(&never_used, Some(&cluster)),
            None => self.clusters.warming += 1,
        }
        let needs = self.needs_of(&cluster, current.is_some(), now);
        if self.warming.begin(&item, needs) {
            self.activate_cluster(&name, now);
        }
        self.count_warming();
        Ok(())
    }

    /// What a cluster waits for; all of it is asked for.
    fn needs_of(&mut self, cluster: &Arc<Cluster>, changed: bool, now: Instant) -> Vec<(Need, Option<Instant>)> {
        let mut needs = Vec::new();
        match &cluster.config.discovery {
            Discovery::Eds { service_name, source } => {
                let wait = self.want_endpoints(cluster, service_name, &source.from, changed);
                let need = Need::Endpoints(source.from.clone(), service_name.clone());
                needs.extend(wait.then(|| (need, Self::deadline(source, now))));
            }
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) if self.clusters.all.contains_key(&*cluster.name) => {
                self.resolve.push(cluster.clone());
                if cluster.config.wait_for_warm_on_init {
                    needs.push((Need::Names(cluster.name.to_string()), Some(now + NAMES)));
                }
            }
            _ => {}
        }
        for (name, source) in needs::cluster_secrets(&cluster.config) {
            if self.want_secret(name, source) {
                needs.push((Need::Secret(source.from.clone(), name.to_owned()), Self::deadline(source, now)));
            }
        }
        needs
    }

    /// A cluster has what it needs, or has waited for long enough: it takes requests from now on.
    pub(super) fn activate_cluster(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.clusters.all.get_mut(name)
            && let Some((loaded, cluster)) = entry.warming.take()
        {
            entry.active = Some(loaded);
            self.clusters.warming -= 1;
            if let Discovery::Eds { service_name, source } = &cluster.config.discovery {
                self.endpoints.give(&cluster, &source.from, service_name);
            }
            tracing::debug!(cluster = name, "in use");
            let before = self.parts.clusters.find(name);
            self.parts.clusters.set(cluster.clone());
            if let Some(before) = before {
                before.retire();
                self.forget_endpoints(&before, Some(&cluster));
            }
            self.count_warming();
        }
        self.cluster_known(name);
        let waited = self.warming.met(&Need::Cluster(name.to_owned()));
        self.ready(waited, now);
    }

    pub(super) fn remove_cluster(&mut self, name: &str, now: Instant) {
        let Some(entry) = self.clusters.all.remove(name) else { return };
        self.warming.cancel(&Item::Cluster(name.to_owned()));
        self.warming.cancel(&Item::Removal(name.to_owned()));
        if let Some((_, cluster)) = &entry.warming {
            self.clusters.warming -= 1;
            self.forget_endpoints(cluster, None);
        }
        if entry.active.is_some()
            && let Some(cluster) = self.parts.clusters.remove(name)
        {
            tracing::debug!(cluster = name, "removed");
            cluster.retire();
            self.forget_endpoints(&cluster, None);
        }
        self.count_warming();
        self.never_came(name, now);
    }

    /// Names of a DNS cluster were answered.
    pub(super) fn resolved(&mut self, cluster: &str, now: Instant) {
        let ready = self.warming.met(&Need::Names(cluster.to_owned()));
        self.ready(ready, now);
        self.progress(now);
    }

    fn count_warming(&self) {
        self.parts.clusters.set_warming(self.clusters.warming);
    }
}

/// A resource as it came.
pub(super) fn loaded(resource: &Resource, ignored: Vec<String>) -> Loaded {
    Loaded {
        bytes: bytes::Bytes::copy_from_slice(&resource.body.value),
        version: resource.version.clone(),
        at: resource.said.unwrap_or_else(SystemTime::now),
        cached: resource.said.is_some(),
        ignored,
    }
}

/// A resource that was refused.
pub(super) fn failure(resource: &Resource, reason: &str) -> Failure {
    Failure { version: resource.version.clone(), at: SystemTime::now(), reason: reason.to_owned() }
}
