//! Clusters and virtual hosts that are asked for because a request needs them, and the requests that wait.
//!
//! A name is asked for once and stays subscribed to, as in Envoy: it may come to exist. Only what the server has said not to exist,
//! or has taken away, is asked for again when a request needs it again. Names are the clients' choice, so there is an end to them.
//! Runs on: the control thread.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::kind::Kind;
use super::mux::Update;
use super::state::State;
use super::stats::UpdateStats;
use crate::config::{ConfigSource, Source};
use crate::on_demand::{Ask, Wanted};

/// Names that may be asked for on demand, of all kinds together: as many as there may be destinations of an ORIGINAL_DST cluster.
const MAX_NAMES: usize = 16_384;

/// Who waits, and what was asked for.
#[derive(Default)]
pub(super) struct OnDemand {
    /// Requests that wait for a cluster.
    clusters: BTreeMap<String, Waiting>,
    /// Requests that wait for a virtual host, by source and name of the resource.
    hosts: BTreeMap<(Source, String), Waiting>,
    /// Names that are subscribed to because somebody needed them once.
    names: BTreeMap<(Source, Kind, String), Asked>,
    /// `cluster_manager.odcds.*`, once a cluster was asked for.
    stats: Option<UpdateStats>,
}

impl OnDemand {
    /// Whether anything of these names was asked for.
    pub(super) fn asked_for<'a>(&self, from: &Source, kind: Kind, mut names: impl Iterator<Item = &'a str>) -> bool {
        !self.names.is_empty() && names.any(|name| self.names.contains_key(&(from.clone(), kind, name.to_owned())))
    }

    /// Who was asked for clusters by name.
    pub(super) fn cluster_sources(&self) -> BTreeMap<&str, &Source> {
        let asked = self.names.keys().filter(|(_, kind, _)| *kind == Kind::Cluster);
        asked.map(|(source, _, name)| (name.as_str(), source)).collect()
    }

    /// The stream was lost.
    pub(super) fn failed(&self) {
        self.stats.iter().for_each(UpdateStats::failed);
    }
}

/// What has become of a name that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It is there, or nothing was said of it yet.
    Open,
    /// The server says that there is none.
    Gone,
}

/// Dropped, those that wait go on.
type Waiting = Vec<oneshot::Sender<()>>;

/// Whether `waiting` is the first that waits.
fn join(list: &mut Waiting, waiting: oneshot::Sender<()>) -> bool {
    list.retain(|other| !other.is_closed());
    list.push(waiting);
    list.len() == 1
}

impl State {
    /// Somebody needs something. To drop the ask is to let go of who waits.
    pub(super) fn ask(&mut self, ask: Ask) {
        match ask.wanted {
            Wanted::Cluster(from, name) => {
                // It may have come meanwhile.
                if self.parts.clusters.find(&name).is_some() {
                    return;
                }
                let first = join(self.on_demand.clusters.entry(name.clone()).or_default(), ask.waiting);
                if first && !self.demand(&from, Kind::Cluster, &name) {
                    self.on_demand.clusters.remove(&name);
                }
            }
            Wanted::VirtualHost(routes, host) => {
                let Some(from) = self.vhds_source(&routes).filter(|_| !self.has_host(&routes, &host)) else { return };
                let key = (from, format!("{}/{host}", routes.1));
                let first = join(self.on_demand.hosts.entry(key.clone()).or_default(), ask.waiting);
                if first && !self.demand(&key.0, Kind::VirtualHost, &key.1) {
                    self.on_demand.hosts.remove(&key);
                }
            }
        }
    }

    /// Whether a source can be asked for something on demand.
    ///
    /// # Errors
    /// It is the aggregated stream, and that is not delta.
    pub(super) fn check_demand(&self, source: &ConfigSource) -> Result<(), String> {
        let delta = self.dynamic.ads.as_ref().is_some_and(|ads| ads.delta);
        if source.from == Source::Ads && !delta {
            return Err("ADS must use DELTA_GRPC api_type where something is asked for on demand".to_owned());
        }
        Ok(())
    }

    /// Asks for a name unless it was asked for before; whether there is anything to wait for.
    fn demand(&mut self, from: &Source, kind: Kind, name: &str) -> bool {
        let key = (from.clone(), kind, name.to_owned());
        match self.on_demand.names.insert(key.clone(), Asked::Open) {
            // It is subscribed to, and may be on its way.
            Some(Asked::Open) => return true,
            Some(Asked::Gone) => {}
            None if self.on_demand.names.len() > MAX_NAMES => {
                self.on_demand.names.remove(&key);
                tracing::warn!(?kind, name, "too many names were asked for on demand");
                return false;
            }
            None => {}
        }
        if kind == Kind::Cluster {
            let scope = || self.parts.stats.root().scope("cluster_manager").scope("odcds");
            self.on_demand.stats.get_or_insert_with(|| UpdateStats::new(&scope())).asked();
        } else if let Some((routes, _)) = name.rsplit_once('/') {
            self.host_asked(from, routes);
        }
        self.sources.demand(from, kind, name);
        true
    }

    /// A cluster is there.
    pub(super) fn cluster_known(&mut self, name: &str) {
        self.on_demand.clusters.remove(name);
    }

    /// A virtual host is there.
    pub(super) fn host_known(&mut self, from: &Source, name: &str) {
        self.on_demand.hosts.remove(&(from.clone(), name.to_owned()));
    }

    /// The server says that there is no such thing: who waits for it need not.
    pub(super) fn gone(&mut self, from: &Source, kind: Kind, name: &str) {
        if let Some(asked) = self.on_demand.names.get_mut(&(from.clone(), kind, name.to_owned())) {
            *asked = Asked::Gone;
        }
        match kind {
            Kind::Cluster => self.cluster_known(name),
            _ => self.host_known(from, name),
        }
    }

    /// Counts an update of clusters where it has to do with what was asked for.
    pub(super) fn count_demanded(&self, from: &Source, update: &Update, refused: bool) {
        let Some(stats) = &self.on_demand.stats else { return };
        let asked = |name: &String| self.on_demand.names.contains_key(&(from.clone(), Kind::Cluster, name.clone()));
        if !update.resources.iter().map(|r| &r.name).chain(&update.removed).any(asked) {
            return;
        }
        if refused {
            stats.rejected();
        } else {
            stats.accepted(&update.version, std::time::Duration::ZERO);
        }
    }

    /// Virtual hosts below `prefix` are no longer wanted.
    pub(super) fn forget_hosts(&mut self, from: &Source, prefix: &str) {
        let below = |name: &str| name.rsplit_once('/').is_some_and(|(of, _)| of == prefix);
        self.on_demand.hosts.retain(|(source, name), _| source != from || !below(name));
        let all = &mut self.on_demand.names;
        let ours =
            |(source, kind, name): &(Source, Kind, String)| source == from && *kind == Kind::VirtualHost && below(name);
        let gone: Vec<_> = all.extract_if(.., |key, _| ours(key)).collect();
        gone.iter().for_each(|((source, kind, name), _)| self.sources.unwatch(source, *kind, name));
    }
}
