//! Routes by discovery: a table that is swapped while its connection manager serves.
//!
//! A connection manager holds [`Routes`]; those that are discovered are registered by source and name in [`DiscoveredRoutes`], which
//! compiles each new version for every manager that wants it before any of them sees it. Runs on: workers find; the control
//! thread registers and publishes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Found, RouteTable};
use crate::app::Parts;
use crate::config::{ConfigError, Rds, RouteConfig, Source};
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

/// Connection managers whose routes are discovered.
#[derive(Default)]
pub struct DiscoveredRoutes(Mutex<HashMap<(Source, String), Entry>>);

#[derive(Default)]
struct Entry {
    /// The version in force; absent: none came yet.
    config: Option<Arc<RouteConfig>>,
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
            manager.set_routes(RouteTable::new(config, &manager.chain, parts)?);
        }
        entry.managers.retain(|m| m.strong_count() > 0);
        entry.managers.push(Arc::downgrade(manager));
        Ok(())
    }

    /// Whether routes of this name are there.
    pub fn is_known(&self, from: &Source, name: &str) -> bool {
        self.0.lock().get(&(from.clone(), name.to_owned())).is_some_and(|e| e.config.is_some())
    }

    /// The version in force.
    pub fn config(&self, from: &Source, name: &str) -> Option<Arc<RouteConfig>> {
        self.0.lock().get(&(from.clone(), name.to_owned())).and_then(|e| e.config.clone())
    }

    /// Whether a version can be compiled for every manager that wants it.
    ///
    /// # Errors
    /// What cannot be compiled.
    pub fn check(&self, from: &Source, config: &RouteConfig, parts: &Parts) -> Result<(), ConfigError> {
        for manager in self.managers(from, &config.name) {
            RouteTable::new(config, &manager.chain, parts)?;
        }
        Ok(())
    }

    /// A new version: every manager that wants it gets it. Whether anything changed.
    ///
    /// # Errors
    /// It cannot be compiled for one of them: all keep what they have.
    pub fn publish(&self, from: &Source, config: RouteConfig, parts: &Parts) -> Result<bool, ConfigError> {
        let key = (from.clone(), config.name.clone());
        let managers: Vec<_> = match self.0.lock().get(&key) {
            Some(e) if e.config.as_deref() == Some(&config) => return Ok(false),
            Some(e) => e.managers.iter().filter_map(Weak::upgrade).collect(),
            None => Vec::new(),
        };
        let mut tables = Vec::with_capacity(managers.len());
        for manager in managers {
            tables.push((RouteTable::new(&config, &manager.chain, parts)?, manager));
        }
        for (table, manager) in tables {
            manager.set_routes(table);
        }
        self.0.lock().entry(key).or_default().config = Some(Arc::new(config));
        Ok(true)
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
