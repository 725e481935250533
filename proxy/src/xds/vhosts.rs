//! Virtual hosts by discovery (VHDS): added to the routes that say where their further hosts come from.
//!
//! Some come by themselves, others when a request needs them ([`super::on_demand`]). One whose clusters are on their way goes live
//! when they are there, and the version before it serves until then. They stay when their routes come again, and go with them,
//! or when routes say that hosts come from elsewhere. An update costs what it changes. Runs on: the control thread.

mod known;

pub(super) use known::Vhds;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::route::v3::VirtualHost as PbVirtualHost;

use self::known::{Host, Version};
use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Resource, Update};
use super::state::{Errors, Item, Need, State};
use crate::config::{RouteConfig, Source, VirtualHost, from_xds, pending};

/// Hosts of routes that change at once: names of resources, and what they are from now on.
type Changes = Vec<(String, Option<Arc<VirtualHost>>)>;

type Key = (Source, String);

impl State {
    /// Who delivers further hosts of these routes.
    pub(super) fn vhds_source(&self, routes: &Key) -> Option<Source> {
        Some(self.routes.all.get(routes)?.vhds.as_ref()?.source.from.clone())
    }

    /// Whether there is a discovered virtual host of exactly this host.
    pub(super) fn has_host(&self, routes: &Key, host: &str) -> bool {
        let vhds = self.routes.all.get(routes).and_then(|e| e.vhds.as_ref());
        vhds.is_some_and(|v| v.serves(host))
    }

    /// Discovered hosts that these routes go on with.
    pub(super) fn kept_hosts(&self, key: &Key, routes: &RouteConfig) -> Option<&Vhds> {
        let vhds = self.routes.all.get(key)?.vhds.as_ref()?;
        (routes.vhds.as_ref() == Some(&vhds.source)).then_some(vhds)
    }

    /// New routes are accepted: their hosts come from here from now on. What has to be waited for.
    pub(super) fn follow_hosts(
        &mut self,
        key: &Key,
        routes: &RouteConfig,
        now: Instant,
    ) -> Option<(Need, Option<Instant>)> {
        let entry = self.routes.all.entry(key.clone()).or_default();
        if let Some(vhds) = &mut entry.vhds
            && routes.vhds.as_ref() == Some(&vhds.source)
        {
            vhds.belongs_to(routes);
            return None;
        }
        if let Some(before) = entry.vhds.take() {
            self.unfollow_hosts(key, &before);
        }
        let source = routes.vhds.as_ref()?;
        let entry = self.routes.all.entry(key.clone()).or_default();
        entry.vhds = Some(Vhds::new(source.clone(), routes));
        for manager in self.parts.routes.managers(&key.0, &key.1) {
            manager.vhds_stats(&key.1).asked();
        }
        self.sources.watch_all(&source.from, Kind::VirtualHost);
        Some((Need::VirtualHosts(key.0.clone(), key.1.clone()), Self::deadline(source, now)))
    }

    /// Counts that a host of routes `name` is asked for.
    pub(super) fn host_asked(&self, from: &Source, name: &str) {
        let ours = |(key, e): (&Key, &super::routes::Entry)| {
            let found = key.1 == name && e.vhds.as_ref().is_some_and(|v| v.source.from == *from);
            found.then(|| key.clone())
        };
        for key in self.routes.all.iter().filter_map(ours) {
            self.parts.routes.managers(&key.0, &key.1).iter().for_each(|m| m.vhds_stats(name).asked());
        }
    }

    /// The stream was lost.
    pub(super) fn hosts_failed(&self) {
        for ((from, name), _) in self.routes.all.iter().filter(|(_, e)| e.vhds.is_some()) {
            self.parts.routes.managers(from, name).iter().for_each(|m| m.vhds_stats(name).failed());
        }
    }

    /// Hosts of these routes no longer come from there.
    pub(super) fn unfollow_hosts(&mut self, key: &Key, before: &Vhds) {
        for (name, _) in before.hosts.iter().filter(|(_, host)| host.waiting.is_some()) {
            self.warming.cancel(&Item::Host(key.clone(), name.clone()));
        }
        let from = &before.source.from;
        self.forget_hosts(from, &key.1);
        let others = self.routes.all.values().any(|e| e.vhds.as_ref().is_some_and(|v| v.source.from == *from));
        if !others {
            self.sources.unwatch_all(from, Kind::VirtualHost);
        }
    }

    pub(super) fn update_hosts(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        let ours = |e: &super::routes::Entry| e.vhds.as_ref().is_some_and(|v| v.source.from == *from);
        let keys: Vec<_> = self.routes.all.iter().filter(|(_, e)| ours(e)).map(|(key, _)| key.clone()).collect();
        let mut gone: BTreeSet<String> = update.absent.iter().chain(&update.removed).cloned().collect();
        for entry in keys.iter().filter_map(|key| self.routes.all.get(key)) {
            let hosts = entry.vhds.iter().flat_map(|v| update.removed.iter().filter_map(|name| v.hosts.get(name)));
            let versions = hosts.flat_map(|host| host.active.iter().chain(&host.waiting));
            gone.extend(versions.flat_map(|version| version.aliases.iter().cloned()));
        }
        for key in &keys {
            self.update_hosts_of(key, update, errors, now);
            self.hosts_answered(key, now);
        }
        let waits = |name: &String| keys.iter().any(|k| self.warming.is_waiting(&Item::Host(k.clone(), name.clone())));
        let known: Vec<_> = update.resources.iter().filter(|r| !waits(&r.name)).collect();
        for name in known.into_iter().flat_map(|r| r.aliases.iter().chain([&r.name])) {
            self.host_known(from, name);
        }
        gone.iter().for_each(|name| self.gone(from, Kind::VirtualHost, name));
    }

    /// Takes what an update says of the hosts of some routes.
    fn update_hosts_of(&mut self, key: &Key, update: &Update, errors: &mut Errors, now: Instant) {
        let began = Instant::now();
        let below = |name: &String| name.rsplit_once('/').is_some_and(|(routes, _)| routes == key.1);
        let resources: Vec<_> = update.resources.iter().filter(|r| below(&r.name)).collect();
        let removed: Vec<_> = update.removed.iter().filter(|name| below(name)).collect();
        if resources.is_empty() && removed.is_empty() {
            return;
        }
        let before = errors.len();
        let mut changes = self.remove_hosts(key, &removed, now);
        for resource in resources {
            let result = self.update_host(key, resource, now);
            let refused = result.as_ref().err().map(|reason| failure(resource, reason));
            if let Some(vhds) = self.routes.all.get_mut(key).and_then(|entry| entry.vhds.as_mut()) {
                match refused {
                    Some(refused) => drop(vhds.errors.insert(resource.name.clone(), refused)),
                    None => drop(vhds.errors.remove(&resource.name)),
                }
            }
            match result {
                Ok(Some(config)) => changes.push((resource.name.clone(), Some(config))),
                Ok(None) => {}
                Err(reason) => errors.push((resource.name.clone(), reason)),
            }
        }
        let changed = self.publish_hosts(key, changes, now);
        for manager in self.parts.routes.managers(&key.0, &key.1) {
            let stats = manager.vhds_stats(&key.1);
            if errors.len() > before {
                stats.rejected();
            } else {
                stats.accepted(&update.version, began.elapsed());
            }
            if changed {
                stats.reloaded();
            }
        }
    }

    fn remove_hosts(&mut self, key: &Key, gone: &[&String], now: Instant) -> Changes {
        let mut changes = Vec::new();
        for name in gone {
            let vhds = self.routes.all.get_mut(key).and_then(|entry| entry.vhds.as_mut());
            let Some(host) = vhds.and_then(|vhds| vhds.remove(name)) else { continue };
            if self.warming.cancel(&Item::Host(key.clone(), (*name).clone())) {
                self.host_settled(key, name, now);
            }
            if host.active.is_some() {
                changes.push(((*name).clone(), None));
            }
        }
        changes
    }

    /// A host as it came; what is to be in force at once, if anything.
    ///
    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_host(
        &mut self,
        key: &Key,
        resource: &Resource,
        now: Instant,
    ) -> Result<Option<Arc<VirtualHost>>, String> {
        let Some((entry, vhds)) = self.routes.all.get(key).and_then(|e| Some((e, e.vhds.as_ref()?))) else {
            return Ok(None);
        };
        let Some(base) = entry.base.as_ref().filter(|_| !vhds.has(resource)) else { return Ok(None) };
        let version = self.convert_host(resource, base)?;
        if let Some(domain) = vhds.conflict(&resource.name, &version.config) {
            return Err(taken(domain, &key.1));
        }
        let compiled = self.parts.routes.check_host(&key.0, base, &version.config, &self.parts);
        compiled.map_err(|e| format!("{}: {}", e.field_path, e.reason))?;
        let in_force = entry.active.is_some();
        let serves = vhds.hosts.get(&resource.name).is_some_and(|host| host.active.is_some());
        let clusters = version.clusters.clone();
        if let Some(vhds) = self.routes.all.get_mut(key).and_then(|entry| entry.vhds.as_mut()) {
            vhds.accept(&resource.name, version);
        }
        let coming = self.coming(clusters.iter().map(String::as_str), serves, now);
        if !in_force {
            // It comes with its routes, and these wait for what it needs.
            self.warming.extend(&Item::Routes(key.0.clone(), key.1.clone()), coming);
        } else if !self.warming.begin(&Item::Host(key.clone(), resource.name.clone()), coming) {
            return Ok(None);
        }
        Ok(self.activate_in_vhds(key, &resource.name))
    }

    /// What waited is what is in force.
    fn activate_in_vhds(&mut self, key: &Key, name: &str) -> Option<Arc<VirtualHost>> {
        let vhds = self.routes.all.get_mut(key)?.vhds.as_mut()?;
        Some(vhds.activate(name)?.config.clone())
    }

    /// A host waits for nothing any more: it takes requests from now on.
    pub(super) fn activate_host(&mut self, key: &Key, name: &str, now: Instant) {
        let Some(config) = self.activate_in_vhds(key, name) else { return };
        if self.publish_hosts(key, vec![(name.to_owned(), Some(config))], now) {
            self.parts.routes.managers(&key.0, &key.1).iter().for_each(|m| m.vhds_stats(&key.1).reloaded());
        }
        let vhds = self.routes.all.get(key).and_then(|entry| entry.vhds.as_ref());
        let Some((from, active)) =
            vhds.and_then(|v| Some((v.source.from.clone(), v.hosts.get(name)?.active.as_ref()?)))
        else {
            return;
        };
        let names: Vec<_> = active.aliases.iter().cloned().chain([name.to_owned()]).collect();
        names.iter().for_each(|name| self.host_known(&from, name));
    }

    /// Puts hosts in force, if their routes are. Whether anything changed.
    fn publish_hosts(&mut self, key: &Key, changes: Changes, now: Instant) -> bool {
        if changes.is_empty() {
            return false;
        }
        if self.routes.all.get(key).is_none_or(|entry| entry.active.is_none()) {
            // They come with their routes.
            return true;
        }
        let names: Vec<_> = changes.iter().map(|(name, _)| name.clone()).collect();
        tracing::debug!(routes = %key.1, hosts = ?names, "in use");
        if let Err(e) = self.parts.routes.publish_hosts(&key.0, &key.1, changes, &self.parts) {
            tracing::error!(routes = %key.1, hosts = ?names, error = %e, "virtual hosts are not used");
            return false;
        }
        names.iter().for_each(|name| self.host_settled(key, name, now));
        true
    }

    /// Nothing of a host waits any more.
    fn host_settled(&mut self, key: &Key, name: &str, now: Instant) {
        let ready = self.warming.met(&Need::HostInForce(key.clone(), name.to_owned()));
        self.ready(ready, now);
    }

    /// Hosts in force that name a cluster and are about to be replaced.
    pub(super) fn passing_hosts<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = (&'a Key, &'a String)> {
        let passing = move |(_, host): &(&String, &Host)| {
            host.waiting.is_some() && host.active.as_ref().is_some_and(|active| active.clusters.contains(cluster))
        };
        let all = self.routes.all.iter().filter_map(|(key, entry)| Some((key, entry.vhds.as_ref()?)));
        all.flat_map(move |(key, vhds)| vhds.hosts.iter().filter(passing).map(move |(name, _)| (key, name)))
    }

    /// Whether a discovered host of these routes that is in force names a cluster.
    pub(super) fn host_names(&self, routes: &Key, cluster: &str) -> bool {
        let vhds = self.routes.all.get(routes).and_then(|entry| entry.vhds.as_ref());
        let mut active = vhds.into_iter().flat_map(|v| v.hosts.values()).filter_map(|host| host.active.as_ref());
        active.any(|version| version.clusters.contains(cluster))
    }

    /// # Errors
    /// Why it is refused.
    fn convert_host(&self, resource: &Resource, routes: &RouteConfig) -> Result<Version, String> {
        let environment = self.route_environment(routes.validate_clusters);
        let convert = |v: &PbVirtualHost| from_xds::virtual_host(v, routes, &environment);
        let checked = self.strictness.check(resource, convert, pending::virtual_host)?;
        let loaded = loaded(resource, checked.ignored);
        Ok(Version::new(checked.value, loaded, resource.aliases.clone()))
    }
}

/// Why a domain is refused, in Envoy's words.
pub(super) fn taken(domain: &str, routes: &str) -> String {
    format!("Only unique values for domains are permitted. Duplicate entry of domain {domain} in route {routes}")
}
