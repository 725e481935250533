//! Configurations of HTTP filters by discovery (ECDS): swapped inside the connection managers that use them.
//!
//! A listener waits for them unless it has a default that will do. One that is taken away leaves the default, or a filter that
//! answers 500. Runs on: the control thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig;

use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Resource, Update};
use super::state::{Errors, Failure, Loaded, Need, State};
use crate::config::{HttpFilterKind, Source, from_xds, pending};
use crate::http::filter::ExtensionStats;

/// Configurations of filters, by source and name.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) all: BTreeMap<(Source, String), Entry>,
    /// Any was ever wanted.
    pub(super) any: bool,
}

/// A configuration that connection managers want.
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    pub(super) error: Option<Failure>,
    stats: Arc<ExtensionStats>,
}

impl Filters {
    /// No answer came in time.
    pub(super) fn timed_out(&self, from: &Source, name: &str) {
        if let Some(entry) = self.all.get(&(from.clone(), name.to_owned())) {
            entry.stats.updates.timed_out();
            entry.stats.fail.inc();
        }
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.all.values().for_each(|e| e.stats.updates.failed());
    }
}

impl State {
    /// A listener needs the configuration of a filter; whether it has to be waited for.
    pub(super) fn want_filter(&mut self, name: &str, from: &Source) -> bool {
        let key = (from.clone(), name.to_owned());
        self.filters.any = true;
        if !self.filters.all.contains_key(&key) {
            let stats = self.parts.filters.stats(from, name, &self.parts);
            stats.updates.asked();
            self.filters.all.insert(key, Entry { active: None, error: None, stats });
            self.sources.watch(from, Kind::Extension, name);
        }
        !self.parts.filters.is_known(from, name)
    }

    pub(super) fn update_filters(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let began = Instant::now();
            let key = (from.clone(), resource.name.clone());
            if !self.filters.all.contains_key(&key) {
                tracing::debug!(name = %resource.name, "a filter's configuration nobody asked for");
                continue;
            }
            let result = self.update_filter(&key, resource);
            if let Some(entry) = self.filters.all.get_mut(&key) {
                entry.error = result.as_ref().err().map(|reason| failure(resource, reason));
                match &result {
                    Ok(()) => entry.stats.updates.accepted(&update.version, began.elapsed()),
                    Err(_) => {
                        entry.stats.updates.rejected();
                        entry.stats.fail.inc();
                    }
                }
            }
            if let Err(reason) = result {
                errors.push((resource.name.clone(), reason));
            }
            // A bad configuration does not hold a listener up.
            let ready = self.warming.met(&Need::Filter(key.0, key.1));
            self.ready(ready, now);
        }
        for name in &update.removed {
            let key = (from.clone(), name.clone());
            self.remove_filter(&key);
            self.filters.all.get(&key).iter().for_each(|e| e.stats.updates.accepted(&update.version, Duration::ZERO));
        }
    }

    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_filter(&mut self, key: &(Source, String), resource: &Resource) -> Result<(), String> {
        let active = self.filters.all.get(key).and_then(|e| e.active.as_ref());
        if active.is_some_and(|l| l.bytes == resource.body.value) {
            return Ok(());
        }
        let environment = &self.environment;
        let convert = |t: &TypedExtensionConfig| from_xds::extension(t, environment);
        let checked = self.strictness.check(resource, convert, pending::filter)?;
        if let HttpFilterKind::OnDemand(Some(clusters)) = &checked.value.kind {
            self.check_demand(&clusters.source)?;
        }
        let published = self.parts.filters.publish(&key.0, &key.1, Some(checked.value), &self.parts);
        published
            .map_err(|e| if e.field_path.is_empty() { e.reason } else { format!("{}: {}", e.field_path, e.reason) })?;
        if let Some(entry) = self.filters.all.get_mut(key) {
            entry.active = Some(loaded(resource, checked.ignored));
        }
        Ok(())
    }

    /// A configuration is taken away: defaults are in force, or nothing is.
    fn remove_filter(&mut self, key: &(Source, String)) {
        let Some(entry) = self.filters.all.get_mut(key) else { return };
        if entry.active.take().is_some()
            && let Err(error) = self.parts.filters.publish(&key.0, &key.1, None, &self.parts)
        {
            tracing::error!(filter = key.1, %error, "a default configuration cannot be used");
        }
    }

    /// Its time to live is over.
    pub(super) fn filter_expired(&mut self, name: &str) {
        let keys: Vec<_> = self.filters.all.keys().filter(|(_, n)| n == name).cloned().collect();
        keys.iter().for_each(|key| self.remove_filter(key));
    }

    /// What no connection manager wants any more is no longer asked for.
    pub(super) fn forget_filters(&mut self) {
        for key in self.parts.filters.take_unused() {
            self.filters.all.remove(&key);
            self.sources.unwatch(&key.0, Kind::Extension, &key.1);
        }
    }
}
