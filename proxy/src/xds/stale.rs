//! What has not been answered since its stream came back.
//!
//! After a reconnect the server says everything anew, clusters first. A cluster that went while nobody was connected is named by
//! routes and listeners in force until these are answered, too: it stays until then, or no request would find a cluster. As
//! long as a stream is open nothing is stale, and removals act at once. Runs on: the control thread.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::endpoints::PATIENCE;
use super::needs;
use super::state::{Item, Need, State};
use crate::config::{Discovery, Source};

/// See the module.
#[derive(Default)]
pub(super) struct Stale {
    routes: BTreeSet<(Source, String)>,
    listeners: bool,
}

impl State {
    /// A stream is open (again).
    pub(super) fn connected(&mut self, from: &Source) {
        let routes = self.routes.all.iter().filter(|((source, _), e)| source == from && e.active.is_some());
        self.stale.routes.extend(routes.map(|(key, _)| key.clone()));
        let listeners = self.dynamic.listeners.as_ref().is_some_and(|source| source.from == *from);
        self.stale.listeners |= listeners && self.listeners.all.values().any(|e| e.active.is_some());
    }

    /// The server has taken a cluster away: it goes at once, or when everything stale that names it was answered.
    pub(super) fn take_away(&mut self, name: &str, now: Instant) {
        let item = Item::Removal(name.to_owned());
        if self.warming.is_waiting(&item) {
            return;
        }
        let needs = self.stale_users(name);
        if self.warming.begin(&item, needs.into_iter().map(|need| (need, Some(now + PATIENCE)))) {
            self.remove_cluster(name, now);
        }
    }

    /// A cluster that was to go is there again, with the endpoints that are known by now.
    pub(super) fn stays(&mut self, name: &str) {
        self.warming.cancel(&Item::Removal(name.to_owned()));
        if let Some(cluster) = self.parts.clusters.find(name)
            && let Discovery::Eds { service_name, source } = &cluster.config.discovery
        {
            self.endpoints.give(&cluster, &source.from, service_name);
        }
    }

    /// What is stale and names a cluster that is in use.
    fn stale_users(&self, cluster: &str) -> Vec<Need> {
        if self.parts.clusters.find(cluster).is_none() {
            return Vec::new();
        }
        let routes = self.stale.routes.iter().filter(|(from, name)| {
            let config = self.parts.routes.config(from, name);
            config.is_some_and(|config| needs::route_clusters(&config).contains(cluster))
        });
        let mut users: Vec<_> = routes.map(|(from, name)| Need::RoutesAnswer(from.clone(), name.clone())).collect();
        let names = |listener: &String| {
            let found = self.listeners.manager.find(listener);
            found.is_some_and(|(l, _)| needs::listener_clusters(&l.config).contains(cluster))
        };
        if self.stale.listeners && self.listeners.all.keys().any(names) {
            users.push(Need::ListenersAnswer);
        }
        users
    }

    /// Routes were answered, and what was answered is in force.
    pub(super) fn routes_answered(&mut self, from: &Source, name: &str, now: Instant) {
        let key = (from.clone(), name.to_owned());
        if self.stale.routes.remove(&key) {
            let ready = self.warming.met(&Need::RoutesAnswer(key.0, key.1));
            self.ready(ready, now);
        }
    }

    /// Listeners were answered.
    pub(super) fn listeners_answered(&mut self, now: Instant) {
        if std::mem::take(&mut self.stale.listeners) {
            let ready = self.warming.met(&Need::ListenersAnswer);
            self.ready(ready, now);
        }
    }
}
