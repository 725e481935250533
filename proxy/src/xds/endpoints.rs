//! Endpoints by discovery: swapped inside the clusters that use them.
//!
//! A load assignment is kept while any cluster uses its name: a changed cluster that gets no new one goes on with it. Absence
//! removes nothing. Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Resource, Update};
use super::state::{Errors, Failure, Item, Loaded, Need, State};
use super::stats::UpdateStats;
use crate::cluster::Cluster;
use crate::config::from_xds::{self, Environment};
use crate::config::{Discovery, LoadAssignment, Source};

/// Load assignments by source and name.
#[derive(Default)]
pub(super) struct Endpoints {
    pub(super) all: BTreeMap<(Source, String), Entry>,
    /// By cluster.
    stats: BTreeMap<String, UpdateStats>,
}

/// A load assignment that clusters use.
#[derive(Default)]
pub(super) struct Entry {
    /// Names of those clusters.
    users: BTreeSet<String>,
    /// What is in force.
    pub(super) current: Option<(Loaded, Arc<LoadAssignment>)>,
    pub(super) error: Option<Failure>,
}

impl Endpoints {
    /// Gives a cluster what is known.
    pub(super) fn give(&self, cluster: &Cluster, from: &Source, service: &str) {
        let known = self.all.get(&(from.clone(), service.to_owned())).and_then(|e| e.current.as_ref());
        if let Some((_, assignment)) = known {
            cluster.update_assignment(assignment);
        }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&self, cluster: &str) {
        if let Some(stats) = self.stats.get(cluster) {
            stats.timed_out();
        }
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.stats.values().for_each(|s| s.failed());
    }
}

impl State {
    /// A cluster needs endpoints; whether it has to wait for them. One that changed waits for them to come again, as in Envoy:
    /// the server knows that it does.
    pub(super) fn want_endpoints(&mut self, cluster: &Cluster, service: &str, from: &Source, changed: bool) -> bool {
        let entry = self.endpoints.all.entry((from.clone(), service.to_owned())).or_default();
        entry.users.insert(cluster.name.to_string());
        let known = entry.current.is_some();
        let stats = self.endpoints.stats.entry(cluster.name.to_string());
        let stats = stats.or_insert_with(|| UpdateStats::new(&cluster.stats.scope));
        stats.asked();
        self.sources.watch(from, Kind::Endpoints, service);
        if changed {
            self.sources.ask_again(from, Kind::Endpoints, service);
        }
        changed || !known
    }

    /// `cluster` is gone, `next` in its place: its endpoints are no longer asked for if nobody else uses them.
    pub(super) fn forget_endpoints(&mut self, cluster: &Arc<Cluster>, next: Option<&Arc<Cluster>>) {
        let Some(key) = key_of(cluster) else { return };
        let active = self.parts.clusters.find(&cluster.name).filter(|c| !Arc::ptr_eq(c, cluster));
        let same = |c: &Arc<Cluster>| key_of(c).as_ref() == Some(&key);
        if next.is_some_and(same) || active.as_ref().is_some_and(same) {
            return;
        }
        if next.is_none() && active.is_none() {
            self.endpoints.stats.remove(&*cluster.name);
        }
        let Some(entry) = self.endpoints.all.get_mut(&key) else { return };
        entry.users.remove(&*cluster.name);
        if entry.users.is_empty() {
            self.endpoints.all.remove(&key);
            self.sources.unwatch(&key.0, Kind::Endpoints, &key.1);
        }
    }

    pub(super) fn update_endpoints(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let began = Instant::now();
            let key = (from.clone(), resource.name.clone());
            let Some(users) = self.endpoints.all.get(&key).map(|e| e.users.clone()) else {
                tracing::debug!(name = %resource.name, "endpoints nobody asked for");
                continue;
            };
            let result = self.update_assignment(&key, resource, &users);
            if let Some(entry) = self.endpoints.all.get_mut(&key) {
                entry.error = result.as_ref().err().map(|reason| failure(resource, reason));
            }
            let stats = users.iter().filter_map(|u| self.endpoints.stats.get(u));
            match result {
                Ok(()) => stats.for_each(|s| s.accepted(&update.version, began.elapsed())),
                Err(reason) => {
                    stats.for_each(|s| s.rejected());
                    errors.push((resource.name.clone(), reason));
                    continue;
                }
            }
            let ready = self.warming.met(&Need::Endpoints(key.0, key.1));
            self.ready(ready, now);
        }
        // The server has none: who waits for some goes on without, as in Envoy. Who has some keeps them.
        for name in &update.removed {
            let ready = self.warming.met(&Need::Endpoints(from.clone(), name.clone()));
            self.ready(ready, now);
        }
    }

    /// # Errors
    /// Why it is refused.
    fn update_assignment(
        &mut self,
        key: &(Source, String),
        resource: &Resource,
        users: &BTreeSet<String>,
    ) -> Result<(), String> {
        let Some(entry) = self.endpoints.all.get_mut(key) else { return Ok(()) };
        let find = |user: &String| self.parts.clusters.find(user).filter(|c| key_of(c).as_ref() == Some(key));
        if entry.current.as_ref().is_some_and(|(l, _)| l.bytes == resource.body.value) {
            users.iter().filter_map(find).for_each(|c| c.stats.update_no_rebuild.inc());
            return Ok(());
        }
        let convert = |a: &ClusterLoadAssignment| from_xds::load_assignment(a, &Environment::default());
        let checked = self.strictness.check(resource, convert, |_| Vec::new())?;
        let assignment = Arc::new(checked.value);
        let same = entry.current.as_ref().is_some_and(|(_, a)| *a == assignment);
        entry.current = Some((loaded(resource, checked.ignored), assignment.clone()));
        // A cluster that is about to go has none any more: those it had serve what still names it.
        let goes = |user: &&String| self.warming.is_waiting(&Item::Removal((*user).clone()));
        let keeps = |user: &&String| assignment.localities.is_empty() && goes(user);
        for cluster in users.iter().filter(|user| !keeps(user)).filter_map(find) {
            if same {
                cluster.stats.update_no_rebuild.inc();
            } else {
                cluster.update_assignment(&assignment);
            }
        }
        Ok(())
    }
}

/// Where a cluster's endpoints come from.
fn key_of(cluster: &Arc<Cluster>) -> Option<(Source, String)> {
    match &cluster.config.discovery {
        Discovery::Eds { service_name, source } => Some((source.from.clone(), service_name.clone())),
        _ => None,
    }
}

/// Nothing is waited for longer than this where no limit is known.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
