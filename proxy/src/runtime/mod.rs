//! Runtime values: numbers and switches that override configured defaults while the process runs.
//!
//! Layers (of the bootstrap, of directories, of `/runtime_modify`, discovered) are merged into one snapshot whenever one changes. What a request asks is a handle ([`Fraction`], [`Flag`],
//! [`Integer`], [`Double`]) resolved when configuration is built: one relaxed load, or none where no key is configured.
//!
//! Runs on: the control thread changes layers; workers read handles.

mod disk;
mod entry;
mod handle;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::json;

use crate::config::{
    ConfigSource, PerMillion, RuntimeFlag, RuntimeFraction, RuntimeLayer, RuntimeLayerKind, RuntimeValues,
};
use crate::stats::{Counter, Gauge, Scope};

use self::entry::Entry;
pub use self::handle::{Double, Flag, Fraction, Integer};
use self::handle::{Kind, Slots};
pub use self::watch::Watch;

/// The runtime values of a process.
pub struct Runtime {
    layers: Vec<RuntimeLayer>,
    service_cluster: String,
    /// Values of the admin layer.
    overrides: Mutex<BTreeMap<String, Entry>>,
    /// Values of discovered layers, by layer.
    discovered: Mutex<BTreeMap<String, BTreeMap<String, Entry>>>,
    snapshot: ArcSwap<Snapshot>,
    /// Held while layers are merged: the watcher's thread may do so, too.
    merging: Mutex<()>,
    slots: Slots,
    stats: Stats,
}

/// All layers at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Lowest precedence first.
    layers: Vec<(String, BTreeMap<String, Entry>)>,
}

/// There is no layer that `/runtime_modify` could set. Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("No admin layer specified")]
pub struct NoAdminLayer;

#[derive(Default)]
struct Stats {
    load_success: Counter,
    load_error: Counter,
    override_dir_exists: Counter,
    override_dir_not_exists: Counter,
    admin_overrides_active: Gauge,
    num_keys: Gauge,
    num_layers: Gauge,
    /// Shown as Envoy shows them; we have no features that are going away.
    _deprecated: (Counter, Gauge),
}

impl Stats {
    fn new(scope: &Scope) -> Self {
        let scope = scope.scope("runtime");
        Stats {
            load_success: scope.counter("load_success"),
            load_error: scope.counter("load_error"),
            override_dir_exists: scope.counter("override_dir_exists"),
            override_dir_not_exists: scope.counter("override_dir_not_exists"),
            admin_overrides_active: scope.gauge("admin_overrides_active"),
            num_keys: scope.gauge("num_keys"),
            num_layers: scope.gauge("num_layers"),
            _deprecated: (
                scope.counter("deprecated_feature_use"),
                scope.gauge("deprecated_feature_seen_since_process_start"),
            ),
        }
    }
}

impl Runtime {
    /// Loads the layers, lowest precedence first. `service_cluster`: the node's cluster, for disk layers that append it;
    /// `scope`: the root of stats.
    pub fn new(layers: &[RuntimeLayer], service_cluster: &str, scope: &Scope) -> Arc<Runtime> {
        Self::with(layers, service_cluster, Stats::new(scope))
    }

    /// No layers at all, for tests and tools.
    pub fn none() -> Arc<Runtime> {
        Self::with(&[], "", Stats::default())
    }

    fn with(layers: &[RuntimeLayer], service_cluster: &str, stats: Stats) -> Arc<Runtime> {
        // Every configured layer has a name: one without stands for no configuration, and Envoy has no layer then.
        let layers = layers.iter().filter(|layer| !layer.name.is_empty()).cloned().collect();
        let runtime = Runtime {
            layers,
            service_cluster: service_cluster.to_owned(),
            overrides: Mutex::default(),
            discovered: Mutex::default(),
            snapshot: ArcSwap::default(),
            merging: Mutex::default(),
            slots: Slots::default(),
            stats,
        };
        runtime.reload();
        Arc::new(runtime)
    }

    /// Merges the layers again, disk layers read anew.
    pub fn reload(&self) {
        let _merging = self.merging.lock();
        let (mut disk_layers, mut errors) = (0, 0);
        let mut layers = Vec::new();
        for layer in &self.layers {
            let values = match &layer.kind {
                RuntimeLayerKind::Static(values) => Some(entries(values)),
                RuntimeLayerKind::Admin => Some(self.overrides.lock().clone()),
                RuntimeLayerKind::Discovered { .. } => {
                    Some(self.discovered.lock().get(&layer.name).cloned().unwrap_or_default())
                }
                RuntimeLayerKind::Disk { .. } => match self.disk_path(layer).map(|path| disk::read(&path)) {
                    None => None,
                    Some(Ok(values)) => {
                        disk_layers += 1;
                        Some(values)
                    }
                    Some(Err(error)) => {
                        tracing::error!("error loading runtime values for layer {} from disk: {error}", layer.name);
                        errors += 1;
                        None
                    }
                },
            };
            layers.extend(values.map(|values| (layer.name.clone(), values)));
        }
        self.publish(Snapshot { layers });
        let stats = &self.stats;
        if errors == 0 {
            stats.load_success.inc()
        } else {
            stats.load_error.inc()
        }
        // Envoy's count: a second disk layer is an override of the first.
        if disk_layers > 1 { stats.override_dir_exists.inc() } else { stats.override_dir_not_exists.inc() }
    }

    fn publish(&self, snapshot: Snapshot) {
        self.stats.num_layers.set(snapshot.layers.len() as u64);
        self.stats.num_keys.set(snapshot.keys().len() as u64);
        self.stats.admin_overrides_active.set(u64::from(!self.overrides.lock().is_empty()));
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(snapshot.clone());
        self.slots.resolve(&snapshot);
    }

    /// Where a disk layer is, if it is there.
    fn disk_path(&self, layer: &RuntimeLayer) -> Option<PathBuf> {
        let RuntimeLayerKind::Disk { symlink_root, subdirectory, append_service_cluster } = &layer.kind else {
            return None;
        };
        let mut path = PathBuf::from(symlink_root).join(subdirectory);
        if *append_service_cluster {
            path.push(&self.service_cluster);
        }
        path.is_dir().then_some(path)
    }

    /// Sets values of the admin layer; an empty one takes an earlier one away.
    ///
    /// # Errors
    /// No admin layer is configured.
    pub fn modify(&self, values: &[(String, String)]) -> Result<(), NoAdminLayer> {
        if !self.layers.iter().any(|layer| layer.kind == RuntimeLayerKind::Admin) {
            return Err(NoAdminLayer);
        }
        {
            let mut overrides = self.overrides.lock();
            for (key, value) in values {
                if value.is_empty() {
                    overrides.remove(key);
                } else {
                    overrides.insert(key.clone(), Entry::parse(value));
                }
            }
        }
        self.reload();
        Ok(())
    }

    /// Discovered layers: layer, resource, and where it comes from.
    pub fn discovered(&self) -> impl Iterator<Item = (&str, &str, &ConfigSource)> {
        self.layers.iter().filter_map(|layer| match &layer.kind {
            RuntimeLayerKind::Discovered { resource, source } => Some((&*layer.name, &**resource, source)),
            _ => None,
        })
    }

    /// Replaces the values of a discovered layer.
    pub fn deliver(&self, layer: &str, values: &RuntimeValues) {
        self.discovered.lock().insert(layer.to_owned(), entries(values));
        self.reload();
    }

    /// The values as they are now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// A share of requests that a key may override.
    pub fn fraction(&self, configured: &RuntimeFraction) -> Fraction {
        Fraction::new(&self.slots, &self.snapshot, &configured.key, configured.default)
    }

    /// A switch that a key may override.
    pub fn flag(&self, configured: &RuntimeFlag) -> Flag {
        Flag(self.slots.add(&self.snapshot, &configured.key, Kind::Flag(configured.default)))
    }

    /// A whole number that a key may override; without a key it is `default`.
    pub fn integer(&self, key: &str, default: u64) -> Integer {
        Integer(self.slots.add(&self.snapshot, key, Kind::Integer(default)))
    }

    /// A number that a key may override; without a key it is `default`.
    pub fn double(&self, key: &str, default: f64) -> Double {
        Double(self.slots.add(&self.snapshot, key, Kind::Double(default)))
    }

    /// What `/runtime` shows.
    pub fn to_json(&self) -> serde_json::Value {
        let snapshot = self.snapshot.load();
        let entry = |key: &&String| {
            let raw = |(_, values): &(String, BTreeMap<String, Entry>)| {
                values.get(*key).map_or_else(String::new, |entry| entry.raw.clone())
            };
            let values: Vec<String> = snapshot.layers.iter().map(raw).collect();
            let last = values.iter().rev().find(|v| !v.is_empty()).cloned().unwrap_or_default();
            ((*key).clone(), json!({ "layer_values": values, "final_value": last }))
        };
        let entries: serde_json::Map<_, _> = snapshot.keys().iter().map(entry).collect();
        let names: Vec<&String> = snapshot.layers.iter().map(|(name, _)| name).collect();
        json!({ "layers": names, "entries": entries })
    }
}

fn entries(values: &RuntimeValues) -> BTreeMap<String, Entry> {
    values.iter().map(|(key, value)| (key.clone(), Entry::from_json(value))).collect()
}

impl Snapshot {
    /// The value that counts for a key, as it was written.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.raw.as_str())
    }

    /// The whole number of a key that is not known before it is asked for; else [`Runtime::integer`] is faster.
    pub fn integer(&self, key: &str) -> Option<u64> {
        self.entry(key).and_then(|entry| entry.integer)
    }

    /// The share of requests of a key that is not known before it is asked for; else [`Runtime::fraction`] is faster.
    pub fn share(&self, key: &str) -> Option<PerMillion> {
        let (numerator, denominator) = self.entry(key)?.share()?;
        let parts = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
        Some(PerMillion(u32::try_from(parts).unwrap_or(u32::MAX)))
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.layers.iter().rev().find_map(|(_, values)| values.get(key))
    }

    fn keys(&self) -> std::collections::BTreeSet<&String> {
        self.layers.iter().flat_map(|(_, values)| values.keys()).collect()
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("layers", &self.layers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
