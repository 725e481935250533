//! Clusters that go, and routes in force that name them.
//!
//! A server takes a cluster away when no routes it has sent name it any more. Those in force may: the newer ones wait for a cluster
//! that warms, or are yet to come, since after a reconnect the server says everything anew, clusters first. So a cluster stays until
//! routes and listeners that name it were answered, and what was answered is in force. And while clusters were not answered anew,
//! routes that name unknown ones wait for that: servers, and streams of their own, may bring routes first. Where nothing is
//! stale and nothing waits, removals act at once. Runs on: the control thread.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::endpoints::PATIENCE;
use super::needs;
use super::state::{Item, Need, State};
use crate::config::{Discovery, Source};

/// What has not been answered since its stream was lost.
#[derive(Default)]
pub(super) struct Stale {
    routes: BTreeSet<(Source, String)>,
    /// Routes whose discovered hosts were not.
    hosts: BTreeSet<(Source, String)>,
    listeners: bool,
    clusters: bool,
    /// Clusters that routes wait for though nobody has announced them yet.
    unannounced: BTreeSet<String>,
}

impl State {
    /// A stream is lost, or open again: what it brought was not answered yet.
    pub(super) fn unanswered(&mut self, from: &Source) {
        // Those that wait, too: what they wait for may come before the server says what is in their place.
        let routes = self.routes.all.iter().filter(|((source, _), e)| source == from && e.newest().is_some());
        self.stale.routes.extend(routes.map(|(key, _)| key.clone()));
        let followed = self.routes.all.iter().filter(|(_, e)| e.vhds.as_ref().is_some_and(|v| v.source.from == *from));
        self.stale.hosts.extend(followed.map(|(key, _)| key.clone()));
        let listeners = self.dynamic.listeners.as_ref().is_some_and(|source| source.from == *from);
        self.stale.listeners |= listeners && self.listeners.all.values().any(|e| e.active.is_some());
        if self.dynamic.clusters.as_ref().is_some_and(|source| source.from == *from) {
            self.stale.clusters = true;
            // Routes that wait for one of these were said by a server that is gone: what it meant may have another name by now.
            self.stale.unannounced.clear();
        }
    }

    /// The server has taken a cluster away: it goes at once, or when nothing that is about to be replaced names it.
    pub(super) fn take_away(&mut self, name: &str, now: Instant) {
        let item = Item::Removal(name.to_owned());
        if self.warming.is_waiting(&item) {
            return;
        }
        let users = self.passing_users(name, now);
        tracing::debug!(cluster = name, named_by = ?users, "is to go");
        if self.warming.begin(&item, users.into_iter().map(|(need, until)| (need, Some(until)))) {
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

    /// What is in force, about to be replaced and names a cluster that is in use; and until when at the latest.
    fn passing_users(&self, cluster: &str, now: Instant) -> Vec<(Need, Instant)> {
        if self.parts.clusters.find(cluster).is_none() {
            return Vec::new();
        }
        let waiting = |key: &(Source, String)| Item::Routes(key.0.clone(), key.1.clone());
        let passing =
            |key: &&(Source, String)| self.stale.routes.contains(*key) || self.warming.is_waiting(&waiting(key));
        let names = |key: &&(Source, String)| {
            let config = self.parts.routes.config(&key.0, &key.1);
            config.is_some_and(|config| needs::route_clusters(&config).contains(cluster))
                || self.host_names(key, cluster)
        };
        let routes = self.routes.all.keys().filter(passing).filter(names);
        let until = |key| self.warming.deadline(&waiting(key)).map_or(now + PATIENCE, |at| at.max(now + PATIENCE));
        let mut users: Vec<_> =
            routes.map(|key| (Need::RoutesAnswer(key.0.clone(), key.1.clone()), until(key))).collect();
        users.extend(self.passing_hosts(cluster).map(|(key, name)| {
            let until = self.warming.deadline(&Item::Host(key.clone(), name.clone())).unwrap_or(now + PATIENCE);
            (Need::HostInForce(key.clone(), name.clone()), until)
        }));
        let stale = self.stale.hosts.iter().filter(|key| self.host_names(key, cluster));
        users.extend(stale.map(|key| (Need::VirtualHosts(key.0.clone(), key.1.clone()), now + PATIENCE)));
        let names = |listener: &String| {
            let found = self.listeners.manager.find(listener);
            found.is_some_and(|(l, _)| needs::listener_clusters(&l.config).contains(cluster))
        };
        if self.stale.listeners && self.listeners.all.keys().any(names) {
            users.push((Need::ListenersAnswer, now + PATIENCE));
        }
        users
    }

    /// What of these clusters is on its way, and until when it is waited for. `in_force`: something serves meanwhile, so that
    /// there is time to hear of clusters that nobody has announced.
    pub(super) fn coming<'a>(
        &mut self,
        clusters: impl IntoIterator<Item = &'a str>,
        in_force: bool,
        now: Instant,
    ) -> Vec<(Need, Option<Instant>)> {
        let mut coming = Vec::new();
        for name in clusters {
            if self.parts.clusters.find(name).is_some() {
                continue;
            }
            let item = Item::Cluster(name.to_owned());
            let until = self.warming.deadline(&item).unwrap_or(now + PATIENCE);
            if !self.warming.is_waiting(&item) {
                if !(in_force && self.stale.clusters) {
                    continue;
                }
                self.stale.unannounced.insert(name.to_owned());
            }
            coming.push((Need::Cluster(name.to_owned()), Some(until)));
        }
        coming
    }

    /// Clusters were answered: who waits for one that was not announced need not.
    pub(super) fn clusters_answered(&mut self, from: &Source, now: Instant) {
        if self.dynamic.clusters.as_ref().is_none_or(|source| source.from != *from) {
            return;
        }
        self.stale.clusters = false;
        for name in std::mem::take(&mut self.stale.unannounced) {
            if !self.warming.is_waiting(&Item::Cluster(name.clone())) {
                let ready = self.warming.met(&Need::Cluster(name));
                self.ready(ready, now);
            }
        }
    }

    /// A cluster went before it was ever used. Who has nothing in force goes on without; others keep what they have until the
    /// server says what is in its place, or the time for it is over. So does a virtual host that is new, where it was said by a
    /// server that is gone: the one that took the cluster away is yet to say where the host leads.
    pub(super) fn never_came(&mut self, name: &str, now: Instant) {
        let (all, unanswered) = (&self.routes.all, &self.stale.hosts);
        let waits = |item: &Item| match item {
            Item::Routes(from, name) => {
                all.get(&(from.clone(), name.clone())).is_some_and(|entry| entry.active.is_some())
            }
            Item::Host(routes, name) => {
                let hosts = all.get(routes).and_then(|entry| entry.vhds.as_ref()).map(|vhds| &vhds.hosts);
                unanswered.contains(routes)
                    || hosts.and_then(|hosts| hosts.get(name)).is_some_and(|host| host.active.is_some())
            }
            _ => false,
        };
        let ready = self.warming.met_if(&Need::Cluster(name.to_owned()), |item| !waits(item));
        self.ready(ready, now);
    }

    /// Routes were answered; what was answered is in force, or waits.
    pub(super) fn routes_answered(&mut self, from: &Source, name: &str, now: Instant) {
        self.stale.routes.remove(&(from.clone(), name.to_owned()));
        if !self.warming.is_waiting(&Item::Routes(from.clone(), name.to_owned())) {
            self.routes_settled(from, name, now);
        }
    }

    /// Nothing of routes waits any more. That is no answer: what waited may have been said before the stream was lost.
    pub(super) fn routes_settled(&mut self, from: &Source, name: &str, now: Instant) {
        let ready = self.warming.met(&Need::RoutesAnswer(from.clone(), name.to_owned()));
        self.ready(ready, now);
    }

    /// Discovered hosts of routes were answered.
    pub(super) fn hosts_answered(&mut self, routes: &(Source, String), now: Instant) {
        self.stale.hosts.remove(routes);
        let ready = self.warming.met(&Need::VirtualHosts(routes.0.clone(), routes.1.clone()));
        self.ready(ready, now);
    }

    /// Something was not answered in time: it is not waited for any longer.
    pub(super) fn never_answered(&mut self, need: &Need) {
        match need {
            Need::RoutesAnswer(from, name) => {
                self.stale.routes.remove(&(from.clone(), name.clone()));
            }
            Need::VirtualHosts(from, name) => {
                self.stale.hosts.remove(&(from.clone(), name.clone()));
            }
            Need::ListenersAnswer => self.stale.listeners = false,
            _ => {}
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
