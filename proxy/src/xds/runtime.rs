//! Runtime values by discovery: layers of the runtime that are replaced as a whole.
//!
//! The start waits for them before anything else, as in Envoy: what comes later may depend on them. A refused first answer ends
//! the waiting, too. Runs on: the control thread.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::pb::envoy::service::runtime::v3::Runtime as PbRuntime;

use super::clusters::{failure, loaded};
use super::kind::Kind;
use super::mux::{Resource, Update};
use super::state::{Errors, Failure, Item, Loaded, Need, State};
use super::stats::UpdateStats;
use crate::config::from_xds::{self, Environment};
use crate::config::{RuntimeValues, Source};
use crate::runtime::Runtime;
use crate::stats::Scope;

/// Discovered layers of the runtime.
pub(super) struct RuntimeLayers {
    /// Names of the layers that a resource fills, by source and name of the resource.
    layers: BTreeMap<(Source, String), Vec<String>>,
    /// `runtime.*`, for all layers together as in Envoy; absent where no layer is discovered.
    stats: Option<UpdateStats>,
    /// What was accepted, by source and name.
    pub(super) loaded: BTreeMap<(Source, String), Loaded>,
    /// What was refused since.
    pub(super) errors: BTreeMap<(Source, String), Failure>,
}

impl RuntimeLayers {
    /// Those of `runtime`; `root`: the root of stats.
    pub(super) fn new(runtime: &Runtime, root: &Scope) -> Self {
        let mut layers: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for (layer, resource, source) in runtime.discovered() {
            layers.entry((source.from.clone(), resource.to_owned())).or_default().push(layer.to_owned());
        }
        let stats = (!layers.is_empty()).then(|| UpdateStats::new(&root.scope("runtime")));
        RuntimeLayers { layers, stats, loaded: BTreeMap::new(), errors: BTreeMap::new() }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&self) {
        self.stats.iter().for_each(|s| s.timed_out());
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.stats.iter().for_each(|s| s.failed());
    }
}

impl State {
    /// Asks for the discovered layers, and waits for them.
    pub(super) fn runtime_layers(&mut self, now: Instant) {
        let runtime = self.parts.runtime.clone();
        let mut needs = Vec::new();
        for (_, resource, source) in runtime.discovered() {
            self.runtime.stats.iter().for_each(|s| s.asked());
            self.sources.watch(&source.from, Kind::Runtime, resource);
            needs.push((Need::Runtime(source.from.clone(), resource.to_owned()), Self::deadline(source, now)));
        }
        self.warming.begin(&Item::First(Kind::Runtime), needs);
    }

    pub(super) fn update_runtime(&mut self, from: &Source, update: &Update, errors: &mut Errors, now: Instant) {
        for resource in &update.resources {
            let began = Instant::now();
            let key = (from.clone(), resource.name.clone());
            let Some(layers) = self.runtime.layers.get(&key) else {
                tracing::debug!(name = %resource.name, "a runtime layer nobody asked for");
                continue;
            };
            match self.convert_runtime(resource) {
                Ok((values, ignored)) => {
                    layers.iter().for_each(|layer| self.parts.runtime.deliver(layer, &values));
                    self.runtime.stats.iter().for_each(|s| s.accepted(&update.version, began.elapsed()));
                    self.runtime.errors.remove(&key);
                    self.runtime.loaded.insert(key.clone(), loaded(resource, ignored));
                }
                Err(reason) => {
                    self.runtime.stats.iter().for_each(|s| s.rejected());
                    self.runtime.errors.insert(key.clone(), failure(resource, &reason));
                    errors.push((resource.name.clone(), reason));
                }
            }
            let ready = self.warming.met(&Need::Runtime(key.0, key.1));
            self.ready(ready, now);
        }
        for name in &update.removed {
            self.remove_runtime(name);
            self.runtime.stats.iter().for_each(|s| s.accepted(&update.version, Duration::ZERO));
            let ready = self.warming.met(&Need::Runtime(from.clone(), name.clone()));
            self.ready(ready, now);
        }
    }

    /// # Errors
    /// Why it is refused.
    fn convert_runtime(&self, resource: &Resource) -> Result<(RuntimeValues, Vec<String>), String> {
        let convert = |r: &PbRuntime| from_xds::runtime(r, &Environment::default());
        self.strictness.check(resource, convert, |_| Vec::new()).map(|checked| (checked.value, checked.ignored))
    }

    /// A layer is gone: it holds nothing any more.
    pub(super) fn remove_runtime(&mut self, name: &str) {
        self.runtime.loaded.retain(|(_, resource), _| resource != name);
        let layers = self.runtime.layers.iter().filter(|((_, resource), _)| resource == name);
        layers
            .flat_map(|(_, layers)| layers)
            .for_each(|layer| self.parts.runtime.deliver(layer, &RuntimeValues::new()));
    }
}
