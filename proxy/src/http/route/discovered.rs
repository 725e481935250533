//! Routes by discovery: a table that is swapped while its connection manager serves.
//!
//! A connection manager holds [`Routes`]; those that are discovered are registered by source and name in [`DiscoveredRoutes`], which
//! compiles each new version for every manager that wants it before any of them sees it. Runs on: workers find; the control
//! thread registers and publishes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::table::HostChange;
use super::{Found, RouteTable};
use crate::app::Parts;
use crate::config::{ConfigError, Rds, RouteConfig, Source, VirtualHost};
use crate::http::manager::Manager;
use crate::http::stream::StreamCtx;

/// The routes of a connection manager.
pub enum Routes {
    /// Written in its configuration.
    Fixed(Box<RouteTable>),
    /// Discovered; a request reads one version.
    Discovered(ArcSwap<RouteTable>),
}

impl Routes {
    /// Finds the route of a request.
    pub fn find(&self, ctx: &StreamCtx) -> Found {
        match self {
            Routes::Fixed(table) => table.find(ctx),
            Routes::Discovered(current) => current.load().find(ctx),
        }
    }

    /// Looks at the table of this moment.
    pub fn with<T>(&self, look: impl FnOnce(&RouteTable) -> T) -> T {
        match self {
            Routes::Fixed(table) => look(table),
            Routes::Discovered(current) => look(&current.load()),
        }
    }
}

/// Discovered virtual hosts, by name of the resource.
pub type Hosts = BTreeMap<String, Arc<VirtualHost>>;

/// Connection managers whose routes are discovered.
#[derive(Default)]
pub struct DiscoveredRoutes(Mutex<HashMap<(Source, String), Entry>>);

#[derive(Default)]
struct Entry {
    /// The version in force; absent: none came yet.
    config: Option<Arc<RouteConfig>>,
    /// Discovered hosts in force, which `config` is without.
    hosts: Hosts,
    managers: Vec<Weak<Manager>>,
}

impl DiscoveredRoutes {
    /// From now on `manager` gets these routes, for as long as it lives; at once if they are there.
    ///
    /// # Errors
    /// They cannot be compiled for it.
    pub fn register(&self, rds: &Rds, manager: &Arc<Manager>, parts: &Parts) -> Result<(), ConfigError> {
        let mut all = self.0.lock();
        let entry = all.entry((rds.source.from.clone(), rds.name.clone())).or_default();
        if let Some(config) = &entry.config {
            manager.set_routes(compile(config, &entry.hosts, manager, parts)?);
        }
        entry.managers.retain(|m| m.strong_count() > 0);
        entry.managers.push(Arc::downgrade(manager));
        Ok(())
    }

    /// Whether routes of this name are there.
    pub fn is_known(&self, from: &Source, name: &str) -> bool {
        self.0.lock().get(&(from.clone(), name.to_owned())).is_some_and(|e| e.config.is_some())
    }

    /// The version in force, without discovered hosts.
    pub fn config(&self, from: &Source, name: &str) -> Option<Arc<RouteConfig>> {
        self.0.lock().get(&(from.clone(), name.to_owned())).and_then(|e| e.config.clone())
    }

    /// Discovered hosts in force.
    #[cfg(test)]
    pub fn hosts(&self, from: &Source, name: &str) -> Hosts {
        let all = self.0.lock();
        all.get(&(from.clone(), name.to_owned())).map(|e| e.hosts.clone()).unwrap_or_default()
    }

    /// Whether a version can be compiled for every manager that wants it.
    ///
    /// # Errors
    /// What cannot be compiled.
    pub fn check(&self, from: &Source, config: &RouteConfig, hosts: &Hosts, parts: &Parts) -> Result<(), ConfigError> {
        for manager in self.managers(from, &config.name) {
            compile(config, hosts, &manager, parts)?;
        }
        Ok(())
    }

    /// A new version: every manager that wants it gets it. Whether anything changed.
    ///
    /// # Errors
    /// It cannot be compiled for one of them: all keep what they have.
    pub fn publish(
        &self,
        from: &Source,
        config: RouteConfig,
        hosts: Hosts,
        parts: &Parts,
    ) -> Result<bool, ConfigError> {
        let key = (from.clone(), config.name.clone());
        let managers: Vec<_> = match self.0.lock().get(&key) {
            Some(e) if e.config.as_deref() == Some(&config) && e.hosts == hosts => return Ok(false),
            Some(e) => e.managers.iter().filter_map(Weak::upgrade).collect(),
            None => Vec::new(),
        };
        let mut tables = Vec::with_capacity(managers.len());
        for manager in managers {
            tables.push((compile(&config, &hosts, &manager, parts)?, manager));
        }
        for (table, manager) in tables {
            manager.set_routes(table);
        }
        let mut all = self.0.lock();
        let entry = all.entry(key).or_default();
        (entry.config, entry.hosts) = (Some(Arc::new(config)), hosts);
        Ok(true)
    }

    /// Whether a discovered host of routes `config` can be compiled for every manager that wants these.
    ///
    /// # Errors
    /// What cannot be compiled.
    pub fn check_host(
        &self,
        from: &Source,
        config: &RouteConfig,
        host: &Arc<VirtualHost>,
        parts: &Parts,
    ) -> Result<(), ConfigError> {
        let change = (None, Some(host.clone()));
        for manager in self.managers(from, &config.name) {
            let change = std::iter::once(&change);
            manager.routes.with(|table| table.with_hosts(config, change, &manager.chain, parts).map(drop))?;
        }
        Ok(())
    }

    /// Discovered hosts of routes in force change; what does not is neither compiled nor copied.
    ///
    /// # Errors
    /// One cannot be compiled: all stay as they are.
    pub fn publish_hosts(
        &self,
        from: &Source,
        name: &str,
        changes: Vec<(String, Option<Arc<VirtualHost>>)>,
        parts: &Parts,
    ) -> Result<(), ConfigError> {
        let key = (from.clone(), name.to_owned());
        let (config, changes, managers) = {
            let all = self.0.lock();
            let Some(entry) = all.get(&key) else { return Ok(()) };
            let Some(config) = entry.config.clone() else { return Ok(()) };
            let with_before = changes.into_iter().map(|(resource, now)| {
                let before = entry.hosts.get(&resource).cloned();
                (resource, (before, now))
            });
            let changes: Vec<(String, HostChange)> = with_before.collect();
            (config, changes, entry.managers.iter().filter_map(Weak::upgrade).collect::<Vec<_>>())
        };
        let mut tables = Vec::with_capacity(managers.len());
        for manager in managers {
            let changes = changes.iter().map(|(_, change)| change);
            let table = manager.routes.with(|table| table.with_hosts(&config, changes, &manager.chain, parts))?;
            tables.push((table, manager));
        }
        for (table, manager) in tables {
            manager.set_routes(table);
        }
        if let Some(entry) = self.0.lock().get_mut(&key) {
            for (resource, (_, now)) in changes {
                match now {
                    Some(host) => drop(entry.hosts.insert(resource, host)),
                    None => drop(entry.hosts.remove(&resource)),
                }
            }
        }
        Ok(())
    }

    /// Connection managers that want these routes.
    pub fn managers(&self, from: &Source, name: &str) -> Vec<Arc<Manager>> {
        let all = self.0.lock();
        let entry = all.get(&(from.clone(), name.to_owned()));
        entry.into_iter().flat_map(|e| &e.managers).filter_map(Weak::upgrade).collect()
    }

    /// Takes out what no manager wants any more.
    pub fn take_unused(&self) -> Vec<(Source, String)> {
        let mut all = self.0.lock();
        let unused = all.extract_if(|_, e| e.managers.iter().all(|m| m.strong_count() == 0));
        unused.map(|(key, _)| key).collect()
    }
}

/// A table for a manager.
fn compile(config: &RouteConfig, hosts: &Hosts, manager: &Manager, parts: &Parts) -> Result<RouteTable, ConfigError> {
    let table = RouteTable::new(config, &manager.chain, parts)?;
    if hosts.is_empty() {
        return Ok(table);
    }
    let changes: Vec<HostChange> = hosts.values().map(|host| (None, Some(host.clone()))).collect();
    table.with_hosts(config, changes.iter(), &manager.chain, parts)
}
