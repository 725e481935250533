//! What is kept: the resources in force, and what was read before and nobody has asked for or answered since.

use std::collections::BTreeMap;

use super::file::{Entry, Section};
use super::{label, milliseconds};
use crate::config::Source;
use crate::xds::kind::Kind;
use crate::xds::mux::Mux;
use crate::xds::state::{Loaded, State};

/// A resource in force.
struct InForce<'a> {
    source: &'a Source,
    kind: Kind,
    name: &'a str,
    aliases: &'a [String],
    loaded: &'a Loaded,
}

impl State {
    /// Everything that is to be kept.
    pub(super) fn snapshot(&self) -> Vec<Section> {
        let mut sections: BTreeMap<(String, Kind), BTreeMap<String, Entry>> = BTreeMap::new();
        for (source, kind) in &self.cache.answered {
            // That there is nothing of a kind is worth knowing, too.
            if let Some(label) = label(source, self.sources.ads()) {
                sections.entry((label, *kind)).or_default();
            }
        }
        for r in self.in_force() {
            let Some(label) = label(r.source, self.sources.ads()) else { continue };
            let mux = self.sources.of(r.source, r.kind);
            // What is to end by itself must not come back with a restart.
            if mux.is_some_and(|mux| mux.is_mortal(r.kind, r.name)) {
                continue;
            }
            let entries = sections.entry((label, r.kind)).or_default();
            entries.insert(r.name.to_owned(), self.entry(&r, mux));
        }
        for (key, held) in &self.cache.held {
            let entries = sections.entry(key.clone()).or_default();
            for (name, entry) in &held.entries {
                entries.entry(name.clone()).or_insert_with(|| entry.clone());
            }
        }
        let version = |kind: &Kind| self.versions.get(kind).cloned().unwrap_or_default();
        let whole = sections.into_iter().map(|((source, kind), entries)| Section {
            source,
            type_url: kind.type_url().to_owned(),
            version: version(&kind),
            resources: entries.into_values().collect(),
        });
        whole.collect()
    }

    fn entry(&self, r: &InForce<'_>, mux: Option<&Mux>) -> Entry {
        let names = r.aliases.iter().map(String::as_str).chain([r.name]);
        Entry {
            name: r.name.to_owned(),
            version: r.loaded.version.clone(),
            aliases: r.aliases.to_vec(),
            body: r.loaded.bytes.clone(),
            at: milliseconds(r.loaded.at),
            held: mux.and_then(|mux| mux.version(r.kind, r.name)) == Some(&r.loaded.version),
            on_demand: self.on_demand.asked_for(r.source, r.kind, names),
        }
    }

    fn in_force(&self) -> Vec<InForce<'_>> {
        let mut all = Vec::new();
        let mut add = |source, kind, name, loaded| all.push(InForce { source, kind, name, aliases: &[], loaded });
        let by_name = self.on_demand.cluster_sources();
        let all_from = self.dynamic.clusters.as_ref().map(|source| &source.from);
        for (name, entry) in &self.clusters.all {
            // Who was asked for it by name, or who delivers all.
            let from = by_name.get(name.as_str()).copied().or(all_from);
            if let (Some(loaded), Some(source)) = (&entry.active, from) {
                add(source, Kind::Cluster, name, loaded);
            }
        }
        for ((source, name), entry) in &self.endpoints.all {
            entry.current.iter().for_each(|(loaded, _)| add(source, Kind::Endpoints, name, loaded));
        }
        if let Some(source) = &self.dynamic.listeners {
            for (name, entry) in &self.listeners.all {
                entry.active.iter().for_each(|loaded| add(&source.from, Kind::Listener, name, loaded));
            }
        }
        for ((source, name), entry) in &self.routes.all {
            entry.active.iter().for_each(|loaded| add(source, Kind::Routes, name, loaded));
        }
        // The workload's own key is never on a disk, nor what is shown in its place.
        for ((source, name), entry) in self.secrets.all.iter().filter(|((source, _), _)| !self.secrets.is_own(source)) {
            entry.active.iter().for_each(|loaded| add(source, Kind::Secret, name, loaded));
        }
        for ((source, name), loaded) in &self.runtime.loaded {
            add(source, Kind::Runtime, name, loaded);
        }
        for ((source, name, _), entry) in &self.filters.all {
            entry.active.iter().for_each(|loaded| add(source, Kind::Extension, name, loaded));
        }
        for vhds in self.routes.all.values().filter_map(|entry| entry.vhds.as_ref()) {
            let hosts = vhds.hosts.iter().filter_map(|(name, host)| Some((name, host.active.as_ref()?)));
            let hosts = hosts.map(|(name, version)| InForce {
                source: &vhds.source.from,
                kind: Kind::VirtualHost,
                name,
                aliases: &version.aliases,
                loaded: &version.loaded,
            });
            all.extend(hosts);
        }
        all
    }
}
