//! Virtual hosts by discovery (VHDS): added to the routes that say where their further hosts come from.
//!
//! Some come by themselves, others when a request needs them ([`super::on_demand`]). They stay when their routes come again, and go
//! with them, or when routes say that hosts come from elsewhere. Runs on: the control thread.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use weft_proto::pb::envoy::config::route::v3::VirtualHost as PbVirtualHost;

use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Resource, Update};
use super::state::{Errors, Failure, Loaded, Need, State};
use crate::config::{ConfigSource, RouteConfig, Source, VirtualHost, from_xds, pending};

/// Discovered virtual hosts of a route configuration.
pub(super) struct Vhds {
    pub(super) source: ConfigSource,
    /// By name of the resource.
    pub(super) hosts: BTreeMap<String, Host>,
    /// What was refused since, by name.
    pub(super) errors: BTreeMap<String, Failure>,
}

/// A discovered virtual host.
pub(super) struct Host {
    pub(super) loaded: Loaded,
    config: VirtualHost,
    /// Other names that it answers for.
    pub(super) aliases: Vec<String>,
}

/// Routes with their discovered hosts.
///
/// # Errors
/// A domain leads to two hosts.
pub(super) fn whole(routes: &RouteConfig, vhds: Option<&Vhds>) -> Result<RouteConfig, String> {
    let mut whole = routes.clone();
    let hosts = vhds.into_iter().flat_map(|v| v.hosts.values()).map(|host| &host.config);
    let mut domains = Domains::of(routes, std::iter::empty());
    for host in hosts {
        domains.add(host)?;
        whole.virtual_hosts.push(host.clone());
    }
    Ok(whole)
}

/// Domains that lead to some host.
struct Domains<'a> {
    routes: &'a str,
    taken: BTreeSet<String>,
}

impl<'a> Domains<'a> {
    fn of<'h>(routes: &'a RouteConfig, hosts: impl Iterator<Item = &'h VirtualHost>) -> Self {
        let own = routes.virtual_hosts.iter().flat_map(|h| h.domains.iter().cloned());
        Domains { routes: &routes.name, taken: own.chain(hosts.flat_map(|h| h.domains.iter().cloned())).collect() }
    }

    /// # Errors
    /// One is taken, in Envoy's words.
    fn add(&mut self, host: &VirtualHost) -> Result<(), String> {
        if let Some(taken) = host.domains.iter().find(|d| self.taken.contains(*d)) {
            let routes = self.routes;
            return Err(format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {taken} in route {routes}"
            ));
        }
        self.taken.extend(host.domains.iter().cloned());
        Ok(())
    }

    fn remove(&mut self, host: &VirtualHost) {
        self.taken.retain(|d| !host.domains.contains(d));
    }
}

type Key = (Source, String);

impl State {
    /// Who delivers further hosts of these routes.
    pub(super) fn vhds_source(&self, routes: &Key) -> Option<Source> {
        Some(self.routes.all.get(routes)?.vhds.as_ref()?.source.from.clone())
    }

    /// Whether there is a discovered virtual host of exactly this host.
    pub(super) fn has_host(&self, routes: &Key, host: &str) -> bool {
        let vhds = self.routes.all.get(routes).and_then(|e| e.vhds.as_ref());
        vhds.is_some_and(|v| v.hosts.values().any(|h| h.config.domains.iter().any(|d| d == host)))
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
        source: Option<&ConfigSource>,
        now: Instant,
    ) -> Option<(Need, Option<Instant>)> {
        let entry = self.routes.all.entry(key.clone()).or_default();
        if entry.vhds.as_ref().map(|v| &v.source) == source {
            return None;
        }
        if let Some(before) = entry.vhds.take() {
            self.unfollow_hosts(&before.source.from, &key.1);
        }
        let source = source?;
        let entry = self.routes.all.entry(key.clone()).or_default();
        entry.vhds = Some(Vhds { source: source.clone(), hosts: BTreeMap::new(), errors: BTreeMap::new() });
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

    /// Hosts of routes `name` no longer come from here.
    pub(super) fn unfollow_hosts(&mut self, from: &Source, name: &str) {
        self.forget_hosts(from, name);
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
            gone.extend(hosts.flat_map(|host| host.aliases.iter().cloned()));
        }
        for key in &keys {
            self.update_hosts_of(key, update, errors);
            let ready = self.warming.met(&Need::VirtualHosts(key.0.clone(), key.1.clone()));
            self.ready(ready, now);
        }
        for name in update.resources.iter().flat_map(|r| r.aliases.iter().chain([&r.name])) {
            self.host_known(from, name);
        }
        gone.iter().for_each(|name| self.gone(from, Kind::VirtualHost, name));
    }

    /// Takes what an update says of the hosts of some routes.
    fn update_hosts_of(&mut self, key: &Key, update: &Update, errors: &mut Errors) {
        let began = Instant::now();
        let below = |name: &String| name.rsplit_once('/').is_some_and(|(routes, _)| routes == key.1);
        let resources: Vec<_> = update.resources.iter().filter(|r| below(&r.name)).collect();
        let removed: Vec<_> = update.removed.iter().filter(|name| below(name)).collect();
        if resources.is_empty() && removed.is_empty() {
            return;
        }
        let before = errors.len();
        let changed = self.change_hosts(key, &resources, &removed, errors);
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

    /// Whether anything changed.
    fn change_hosts(&mut self, key: &Key, new: &[&Resource], gone: &[&String], errors: &mut Errors) -> bool {
        let Some(entry) = self.routes.all.get_mut(key) else { return false };
        let Some(mut vhds) = entry.vhds.take() else { return false };
        let changed = match entry.base.clone() {
            Some(base) => self.apply_hosts(key, &base, &mut vhds, (new, gone), errors),
            None => false,
        };
        if let Some(entry) = self.routes.all.get_mut(key) {
            entry.vhds = Some(vhds);
        }
        changed
    }

    fn apply_hosts(
        &mut self,
        key: &Key,
        base: &RouteConfig,
        vhds: &mut Vhds,
        (new, gone): (&[&Resource], &[&String]),
        errors: &mut Errors,
    ) -> bool {
        let mut domains = Domains::of(base, vhds.hosts.values().map(|host| &host.config));
        // What to go back to.
        let mut before = Vec::new();
        for name in gone {
            if let Some(host) = vhds.hosts.remove(*name) {
                domains.remove(&host.config);
                before.push(((*name).clone(), Some(host)));
            }
        }
        for resource in new {
            vhds.errors.remove(&resource.name);
            let old = vhds.hosts.get(&resource.name);
            if old.is_some_and(|old| old.loaded.bytes == resource.body.value && old.aliases == resource.aliases) {
                continue;
            }
            if let Some(old) = old {
                domains.remove(&old.config);
            }
            match self.convert_host(resource, base).and_then(|new| domains.add(&new.config).map(|()| new)) {
                Ok(host) => {
                    let old = vhds.hosts.insert(resource.name.clone(), host);
                    before.push((resource.name.clone(), old));
                }
                Err(reason) => {
                    if let Some(old) = vhds.hosts.get(&resource.name) {
                        domains.taken.extend(old.config.domains.iter().cloned());
                    }
                    vhds.errors.insert(resource.name.clone(), failure(resource, &reason));
                    errors.push((resource.name.clone(), reason));
                }
            }
        }
        if before.is_empty() {
            return false;
        }
        let active = self.routes.all.get(key).is_some_and(|e| e.active.is_some());
        let published = match whole(base, Some(vhds)) {
            // Routes that are not in force yet take them along when they are.
            Ok(routes) if active => self.parts.routes.publish(&key.0, routes, &self.parts).map_err(|e| e.to_string()),
            Ok(routes) => {
                self.parts.routes.check(&key.0, &routes, &self.parts).map(|()| true).map_err(|e| e.to_string())
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = published {
            for (name, host) in before.into_iter().rev() {
                match host {
                    Some(host) => drop(vhds.hosts.insert(name, host)),
                    None => drop(vhds.hosts.remove(&name)),
                }
            }
            errors.push((key.1.clone(), reason));
            return false;
        }
        true
    }

    /// # Errors
    /// Why it is refused.
    fn convert_host(&self, resource: &Resource, routes: &RouteConfig) -> Result<Host, String> {
        let environment = self.route_environment(routes.validate_clusters);
        let convert = |v: &PbVirtualHost| from_xds::virtual_host(v, routes, &environment);
        let checked = self.strictness.check(resource, convert, pending::virtual_host)?;
        let loaded = loaded(resource, checked.ignored);
        Ok(Host { loaded, config: checked.value, aliases: resource.aliases.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, domains: &[&str]) -> VirtualHost {
        VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| (*d).into()).collect(),
            ..VirtualHost::default()
        }
    }

    #[test]
    fn a_domain_leads_to_one_host() {
        let routes =
            RouteConfig { name: "r".into(), virtual_hosts: vec![host("own", &["own"])], ..RouteConfig::default() };
        let mut domains = Domains::of(&routes, [host("a", &["a"])].iter());
        assert!(
            domains.add(&host("b", &["b", "own"])).unwrap_err().contains("Duplicate entry of domain own in route r")
        );
        assert!(domains.add(&host("b", &["b"])).is_ok(), "what was refused took nothing");
        assert!(domains.add(&host("c", &["a"])).is_err());
        domains.remove(&host("a", &["a"]));
        assert!(domains.add(&host("c", &["a"])).is_ok());
        assert_eq!(whole(&routes, None), Ok(routes));
    }
}
