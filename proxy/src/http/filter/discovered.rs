//! Filters by discovery: chains that are swapped as a whole while their connection manager serves.
//!
//! A connection manager whose filters are discovered is registered here by source and name. A new version is compiled for every
//! manager that wants it before any of them sees it; a request goes in and out through one version of its chain. Runs on: workers
//! read chains; the control thread registers and publishes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use http::StatusCode;
use parking_lot::Mutex;

use super::{Chain, Flow};
use crate::app::Parts;
use crate::config::from_xds::extension_fits;
use crate::config::{ConfigError, Extension, ExtensionDiscovery, HttpConnectionManager, HttpFilterKind, Source};
use crate::http::local_reply;
use crate::http::manager::Manager;
use crate::http::stream::StreamCtx;
use crate::stats::{Counter, Scope};
use crate::stream_info::ResponseFlags;
use crate::xds::UpdateStats;

/// Answers a request whose filter has no configuration.
pub(super) fn missing(mut ctx: Box<StreamCtx>) -> Flow {
    ctx.info.flags.set(ResponseFlags::NO_FILTER_CONFIG_FOUND);
    Flow::Answer(local_reply::make(ctx, StatusCode::INTERNAL_SERVER_ERROR, "", "filter_config_not_found"))
}

/// `extension_config_discovery.<kind of filter>.<name>.*`
pub struct ExtensionStats {
    /// Of the subscription.
    pub updates: UpdateStats,
    /// Versions taken into use, removals too.
    pub reload: Counter,
    /// Updates refused, and first answers that did not come in time.
    pub fail: Counter,
    /// Those that wanted it and came when the version in force did not fit them.
    pub conflict: Counter,
}

impl ExtensionStats {
    /// Stats of a filter; `kind` is Envoy's word for what it is.
    pub fn new(root: &Scope, kind: &str, name: &str) -> Self {
        let scope = root.scope("extension_config_discovery").scope(kind).scope(name);
        ExtensionStats {
            reload: scope.counter("config_reload"),
            fail: scope.counter("config_fail"),
            conflict: scope.counter("config_conflict"),
            updates: UpdateStats::new(&scope),
        }
    }
}

/// Connection managers whose filters are discovered.
#[derive(Default)]
pub struct DiscoveredFilters(Mutex<HashMap<(Source, String), Entry>>);

struct Entry {
    /// The version in force; absent: none came yet, or it was taken away.
    config: Option<Arc<Extension>>,
    managers: Vec<Weak<Manager>>,
    stats: Arc<ExtensionStats>,
}

impl Entry {
    fn new(name: &str, parts: &Parts) -> Entry {
        let stats = Arc::new(ExtensionStats::new(&parts.stats.root(), "http_filter", name));
        Entry { config: None, managers: Vec::new(), stats }
    }
}

/// The discovered filters of a connection manager: place, name, where from.
pub(in crate::http) fn of(config: &HttpConnectionManager) -> impl Iterator<Item = (usize, &str, &ExtensionDiscovery)> {
    config.filters.iter().enumerate().filter_map(|(place, f)| match &f.kind {
        HttpFilterKind::Discovered(d) => Some((place, &*f.name, &**d)),
        _ => None,
    })
}

impl Manager {
    /// Its chain with this version of a filter; `None`: there is none.
    ///
    /// # Errors
    /// The version does not fit, or cannot be compiled.
    fn next_chain(
        &self,
        from: &Source,
        name: &str,
        config: Option<&Extension>,
        parts: &Parts,
    ) -> Result<Chain, ConfigError> {
        let mut chain = self.chain_now().map_or_else(|| self.chain.clone(), |now| (*now).clone());
        for (place, _, d) in of(&self.config).filter(|(_, n, d)| *n == name && d.source.from == *from) {
            if let Some(found) = config {
                extension_fits(d, name, found)?;
            }
            let kind = config.map(|found| &found.kind).or(d.default.as_ref());
            chain = chain.with(place, kind, &self.stats.scope, parts)?;
        }
        Ok(chain)
    }
}

impl DiscoveredFilters {
    /// From now on `manager` gets its discovered filters, for as long as it lives; at once those that are there and fit.
    pub fn register(&self, manager: &Arc<Manager>, parts: &Parts) {
        let mut all = self.0.lock();
        for (_, name, d) in of(&manager.config) {
            let entry = all.entry((d.source.from.clone(), name.to_owned()));
            let entry = entry.or_insert_with(|| Entry::new(name, parts));
            entry.managers.retain(|m| m.strong_count() > 0);
            if entry.managers.iter().any(|m| m.as_ptr() == Arc::as_ptr(manager)) {
                continue;
            }
            entry.managers.push(Arc::downgrade(manager));
            let Some(config) = &entry.config else { continue };
            match manager.next_chain(&d.source.from, name, Some(config), parts) {
                Ok(chain) => manager.set_chain(chain),
                Err(error) => {
                    tracing::warn!(filter = name, %error, "what was discovered does not fit here");
                    entry.stats.conflict.inc();
                }
            }
        }
    }

    /// Counts of a name that somebody is about to want.
    pub fn stats(&self, from: &Source, name: &str, parts: &Parts) -> Arc<ExtensionStats> {
        let mut all = self.0.lock();
        let entry = all.entry((from.clone(), name.to_owned()));
        entry.or_insert_with(|| Entry::new(name, parts)).stats.clone()
    }

    /// Whether a configuration of this name is there.
    pub fn is_known(&self, from: &Source, name: &str) -> bool {
        self.0.lock().get(&(from.clone(), name.to_owned())).is_some_and(|e| e.config.is_some())
    }

    /// A new version, or none any more: every manager that wants it gets it.
    ///
    /// # Errors
    /// It does not fit one of them: all keep what they have.
    pub fn publish(
        &self,
        from: &Source,
        name: &str,
        config: Option<Extension>,
        parts: &Parts,
    ) -> Result<(), ConfigError> {
        let mut all = self.0.lock();
        let Some(entry) = all.get_mut(&(from.clone(), name.to_owned())) else { return Ok(()) };
        let mut chains = Vec::with_capacity(entry.managers.len());
        for manager in entry.managers.iter().filter_map(Weak::upgrade) {
            chains.push((manager.next_chain(from, name, config.as_ref(), parts)?, manager));
        }
        for (chain, manager) in chains {
            manager.set_chain(chain);
        }
        entry.config = config.map(Arc::new);
        entry.stats.reload.inc();
        Ok(())
    }

    /// Takes out what no manager wants any more.
    pub fn take_unused(&self) -> Vec<(Source, String)> {
        let mut all = self.0.lock();
        let unused = all.extract_if(|_, e| e.managers.iter().all(|m| m.strong_count() == 0));
        unused.map(|(key, _)| key).collect()
    }
}
