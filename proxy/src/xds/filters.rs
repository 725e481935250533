//! Configurations of filters by discovery (ECDS): swapped inside the connection managers, filter chains and listeners that use them.
//!
//! A listener waits for them unless it has a default that will do. One that is taken away leaves the default, or a filter that
//! answers 500, or no connection. Who wants a name as filters of several layers gets it for each of them. Runs on: the control
//! thread.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
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

/// What a filter filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// Requests.
    Http,
    /// Connections that have their filter chain.
    Network,
    /// Connections before that.
    Listener,
}

/// A configuration that is wanted.
type Key = (Source, String, Layer);

/// Configurations of filters.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) all: BTreeMap<Key, Entry>,
    /// Any was ever wanted.
    pub(super) any: bool,
}

/// Such a configuration.
pub(super) struct Entry {
    pub(super) active: Option<Loaded>,
    pub(super) error: Option<Failure>,
    stats: Arc<ExtensionStats>,
}

impl Filters {
    /// No answer came in time.
    pub(super) fn timed_out(&self, from: &Source, name: &str) {
        for (_, entry) in self.named(from, name) {
            entry.stats.updates.timed_out();
            entry.stats.fail.inc();
        }
    }

    /// Those of a name, of any layer.
    fn named(&self, from: &Source, name: &str) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = (from.clone(), name.to_owned(), Layer::Http);
        let last = (from.clone(), name.to_owned(), Layer::Listener);
        self.all.range(first..=last)
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.all.values().for_each(|e| e.stats.updates.failed());
    }
}

impl State {
    /// A listener needs the configuration of a filter; whether it has to be waited for.
    pub(super) fn want_filter(&mut self, layer: Layer, name: &str, from: &Source) -> bool {
        let key = (from.clone(), name.to_owned(), layer);
        self.filters.any = true;
        let parts = self.parts.clone();
        let (stats, known) = match layer {
            Layer::Http => (parts.filters.stats(from, name, &parts), parts.filters.is_known(from, name)),
            Layer::Network => {
                (parts.network_filters.stats(from, name, &parts), parts.network_filters.is_known(from, name))
            }
            Layer::Listener => {
                (parts.listener_filters.stats(from, name, &parts), parts.listener_filters.is_known(from, name))
            }
        };
        if let Vacant(new) = self.filters.all.entry(key) {
            stats.updates.asked();
            new.insert(Entry { active: None, error: None, stats });
            self.sources.watch(from, Kind::Extension, name);
        }
        !known
    }

    pub(super) fn update_filters(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let keys: Vec<_> = self.filters.named(from, &resource.name).map(|(key, _)| key.clone()).collect();
            if keys.is_empty() {
                tracing::debug!(name = %resource.name, "a filter's configuration nobody asked for");
                continue;
            }
            for key in &keys {
                let began = Instant::now();
                let result = self.update_filter(key, resource);
                if let Some(entry) = self.filters.all.get_mut(key) {
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
            }
            // A bad configuration does not hold a listener up.
            let ready = self.warming.met(&Need::Filter(from.clone(), resource.name.clone()));
            self.ready(ready, now);
        }
        for name in &update.removed {
            let keys: Vec<_> = self.filters.named(from, name).map(|(key, _)| key.clone()).collect();
            for key in &keys {
                self.remove_filter(key);
                let entry = self.filters.all.get(key);
                entry.iter().for_each(|e| e.stats.updates.accepted(&update.version, Duration::ZERO));
            }
        }
    }

    /// # Errors
    /// Why it is refused; what was there stays.
    fn update_filter(&mut self, key: &Key, resource: &Resource) -> Result<(), String> {
        let active = self.filters.all.get(key).and_then(|e| e.active.as_ref());
        if active.is_some_and(|l| l.bytes == resource.body.value) {
            return Ok(());
        }
        let (from, name, layer) = key;
        let (environment, parts) = (&self.environment, &self.parts);
        let (published, ignored) = match layer {
            Layer::Http => {
                let convert = |t: &TypedExtensionConfig| from_xds::extension(t, environment);
                let checked = self.strictness.check(resource, convert, pending::filter)?;
                if let HttpFilterKind::OnDemand(Some(clusters)) = &checked.value.kind {
                    self.check_demand(&clusters.source)?;
                }
                (parts.filters.publish(from, name, Some(checked.value), parts), checked.ignored)
            }
            Layer::Network => {
                let convert = |t: &TypedExtensionConfig| from_xds::network_extension(t, environment);
                let checked = self.strictness.check(resource, convert, pending::network_filter)?;
                (parts.network_filters.publish(from, name, Some(checked.value), parts), checked.ignored)
            }
            Layer::Listener => {
                let convert = |t: &TypedExtensionConfig| from_xds::listener_extension(t, environment);
                let checked = self.strictness.check(resource, convert, |_| Vec::new())?;
                (parts.listener_filters.publish(from, name, Some(checked.value), parts), checked.ignored)
            }
        };
        published
            .map_err(|e| if e.field_path.is_empty() { e.reason } else { format!("{}: {}", e.field_path, e.reason) })?;
        if let Some(entry) = self.filters.all.get_mut(key) {
            entry.active = Some(loaded(resource, ignored));
        }
        Ok(())
    }

    /// A configuration is taken away: defaults are in force, or nothing is.
    fn remove_filter(&mut self, key: &Key) {
        let Some(entry) = self.filters.all.get_mut(key) else { return };
        if entry.active.take().is_none() {
            return;
        }
        let ((from, name, layer), parts) = (key, &self.parts);
        let published = match layer {
            Layer::Http => parts.filters.publish(from, name, None, parts),
            Layer::Network => parts.network_filters.publish(from, name, None, parts),
            Layer::Listener => parts.listener_filters.publish(from, name, None, parts),
        };
        if let Err(error) = published {
            tracing::error!(filter = name, %error, "a default configuration cannot be used");
        }
    }

    /// Its time to live is over.
    pub(super) fn filter_expired(&mut self, name: &str) {
        let keys: Vec<_> = self.filters.all.keys().filter(|(_, n, _)| n == name).cloned().collect();
        keys.iter().for_each(|key| self.remove_filter(key));
    }

    /// What nobody wants any more is no longer asked for.
    pub(super) fn forget_filters(&mut self) {
        let unused = [
            (Layer::Http, self.parts.filters.take_unused()),
            (Layer::Network, self.parts.network_filters.take_unused()),
            (Layer::Listener, self.parts.listener_filters.take_unused()),
        ];
        for (layer, keys) in unused {
            for (from, name) in keys {
                self.filters.all.remove(&(from.clone(), name.clone(), layer));
                if self.filters.named(&from, &name).next().is_none() {
                    self.sources.unwatch(&from, Kind::Extension, &name);
                }
            }
        }
    }
}
