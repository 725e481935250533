//! Everything that is known by discovery, and what becomes of an update. No input or output: time comes in, and what is to be
//! done outside (streams to open, names to resolve) is left in lists that the [`super::run`] loop takes.
//!
//! The way of an update: a response of a [`Mux`] → each resource by itself checked and converted → what needs others waits
//! ([`Warming`]) → published into stable handles. A bad resource is named in the answer and changes nothing; the good ones
//! beside it are used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;
use weft_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;

use super::cache::Cache;
use super::check::Strictness;
use super::clusters::Clusters;
use super::endpoints::Endpoints;
use super::filters::Filters;
use super::kind::Kind;
use super::listeners::Listeners;
use super::mux::{Answered, Update};
use super::on_demand::OnDemand;
use super::routes::Routes;
use super::runtime::RuntimeLayers;
use super::secrets::Secrets;
use super::sources::Sources;
use super::stale::Stale;
use super::stats::UpdateStats;
use super::warming::Warming;
use crate::app::Parts;
use crate::cluster::Cluster;
use crate::config::from_xds::Environment;
use crate::config::{ConfigSource, DynamicResources, Source};
use crate::listener::{Listener, ListenerManager, Sockets};

/// Something that waits. Clusters first: whether any waits is asked often.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// A cluster, to be used.
    Cluster(String),
    /// A listener, to be opened or replaced.
    Listener(String),
    /// A route configuration.
    Routes(Source, String),
    /// A discovered virtual host: its routes, its resource.
    Host((Source, String), String),
    /// A first answer of a kind.
    First(Kind),
    /// A cluster, to be removed.
    Removal(String),
}

/// Something that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// A load assignment.
    Endpoints(Source, String),
    /// Names of a DNS cluster.
    Names(String),
    /// A secret.
    Secret(Source, String),
    /// A route configuration.
    Routes(Source, String),
    /// A cluster that is on its way.
    Cluster(String),
    /// A layer of runtime values.
    Runtime(Source, String),
    /// The configuration of a filter.
    Filter(Source, String),
    /// First virtual hosts of routes: source and name of the routes.
    VirtualHosts(Source, String),
    /// Routes, answered since their stream came back.
    RoutesAnswer(Source, String),
    /// The newest version of a discovered virtual host, in force.
    HostInForce((Source, String), String),
    /// Listeners, answered since their stream came back.
    ListenersAnswer,
    /// A first answer of a kind.
    First(Kind),
}

/// How far a start has come. Envoy's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Discovered runtime values come.
    Runtime,
    /// Clusters of the bootstrap get their endpoints.
    StaticClusters,
    /// Discovered clusters come and get theirs.
    Clusters,
    /// Listeners come, routes and secrets with them.
    Listeners,
    /// Serving.
    Live,
}

/// A resource as it came.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) bytes: Bytes,
    pub(super) version: String,
    pub(super) at: SystemTime,
    /// It came out of the cache.
    pub(super) cached: bool,
    pub(super) ignored: Vec<String>,
}

/// A refused update of a resource.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) version: String,
    pub(super) at: SystemTime,
    pub(super) reason: String,
}

/// See the module.
pub struct State {
    pub(super) parts: Arc<Parts>,
    pub(super) environment: Environment,
    pub(super) strictness: Strictness,
    pub(super) dynamic: DynamicResources,
    pub(super) sources: Sources,
    pub(super) warming: Warming<Item, Need>,
    pub(super) phase: Phase,
    pub(super) clusters: Clusters,
    pub(super) endpoints: Endpoints,
    pub(super) listeners: Listeners,
    pub(super) routes: Routes,
    pub(super) secrets: Secrets,
    pub(super) runtime: RuntimeLayers,
    pub(super) filters: Filters,
    pub(super) on_demand: OnDemand,
    pub(super) stale: Stale,
    /// Clusters whose names are to be resolved.
    pub(super) resolve: Vec<Arc<Cluster>>,
    kinds: BTreeMap<Kind, UpdateStats>,
    /// Type of the last accepted version, for `/config_dump`.
    pub(super) versions: BTreeMap<Kind, String>,
    pub(super) cache: Cache,
}

/// What refused resources said, by resource.
pub(super) type Errors = Vec<(String, String)>;

impl State {
    /// Nothing is known yet.
    pub(super) fn new(
        parts: Arc<Parts>,
        environment: Environment,
        reject: bool,
        dynamic: DynamicResources,
        sources: Sources,
        manager: Arc<ListenerManager>,
        statics: Vec<(Arc<Listener>, Sockets)>,
    ) -> State {
        let root = parts.stats.root();
        let unknown = root.scope("server").counter("dynamic_unknown_fields");
        let mut kinds = BTreeMap::new();
        if dynamic.clusters.is_some() {
            kinds.insert(Kind::Cluster, UpdateStats::new(&root.scope("cluster_manager").scope("cds")));
        }
        if dynamic.listeners.is_some() {
            kinds.insert(Kind::Listener, UpdateStats::new(&root.scope("listener_manager").scope("lds")));
        }
        let warming = root.scope("listener_manager").gauge("total_listeners_warming");
        State {
            strictness: Strictness { reject, unknown },
            environment,
            dynamic,
            sources,
            warming: Warming::default(),
            phase: Phase::Runtime,
            clusters: Clusters::default(),
            endpoints: Endpoints::default(),
            listeners: Listeners::new(manager, statics, warming),
            routes: Routes::default(),
            secrets: Secrets::default(),
            runtime: RuntimeLayers::new(&parts.runtime, &root),
            filters: Filters::default(),
            on_demand: OnDemand::default(),
            stale: Stale::default(),
            resolve: Vec::new(),
            kinds,
            versions: BTreeMap::new(),
            cache: Cache::default(),
            parts,
        }
    }

    /// Begins: runtime values first, for everything may depend on them.
    pub(super) fn start(&mut self, now: Instant) {
        self.runtime_layers(now);
        self.progress(now);
    }

    /// When the time limit of a source that begins to be waited for is over.
    pub(super) fn deadline(source: &ConfigSource, now: Instant) -> Option<Instant> {
        source.initial_fetch_timeout.map(|limit| now + limit)
    }

    /// An update from a source. The answer for the server.
    pub(super) fn update(&mut self, from: &Source, update: Update, now: Instant) -> (Answered, Result<(), String>) {
        let began = Instant::now();
        let mut answered = Answered::from(&update);
        let (kind, version) = (update.kind, update.version.clone());
        tracing::debug!(?kind, version, resources = update.resources.len(), removed = ?update.removed, "update");
        let mut errors: Errors = update.problems.iter().map(|p| (String::new(), p.clone())).collect();
        match kind {
            Kind::Cluster => self.update_clusters(from, update, &mut answered, &mut errors, now),
            Kind::Endpoints => self.update_endpoints(from, &update, &mut errors, now),
            Kind::Listener => self.update_listeners(update, &mut answered, &mut errors, now),
            Kind::Routes => self.update_routes(from, &update, &mut errors, now),
            Kind::Secret => self.update_secrets(from, &update, &mut errors, now),
            Kind::Runtime => self.update_runtime(from, &update, &mut errors, now),
            Kind::Extension => self.update_filters(from, &update, &mut errors, now),
            Kind::VirtualHost => self.update_hosts(from, &update, &mut errors, now),
        }
        let ready = self.warming.met(&Need::First(kind));
        self.ready(ready, now);
        self.progress(now);
        let stats = self.kinds.get(&kind);
        if errors.is_empty() {
            if let Some(stats) = stats {
                stats.accepted(&version, began.elapsed());
            }
            self.versions.insert(kind, version);
            return (answered, Ok(()));
        }
        if let Some(stats) = stats {
            stats.rejected();
        }
        let text = describe(kind, &errors);
        tracing::warn!(kind = ?kind, version, "update refused: {text}");
        (answered, Err(text))
    }

    /// A file was read.
    pub(super) fn file_read(
        &mut self,
        source: &Source,
        kind: Kind,
        content: Result<DiscoveryResponse, String>,
        now: Instant,
    ) {
        match content {
            // What it refuses is logged and counted: there is nobody to answer.
            Ok(response) => drop(self.update(source, Update::of_file(kind, &response), now)),
            Err(reason) => {
                tracing::warn!(reason, "a file of resources is not used");
                self.lost(&[kind]);
            }
        }
    }

    /// Things that wait for nothing any more.
    pub(super) fn ready(&mut self, items: Vec<Item>, now: Instant) {
        for item in items {
            match item {
                Item::Cluster(name) => self.activate_cluster(&name, now),
                Item::Listener(name) => self.activate_listener(&name),
                Item::Routes(from, name) => self.activate_routes(&from, &name, now),
                Item::Host(routes, name) => self.activate_host(&routes, &name, now),
                // What was answered may name it, too, and wait.
                Item::Removal(name) => self.take_away(&name, now),
                Item::First(_) => {}
            }
        }
    }

    /// Time has passed: what waited for too long goes on, what lived for too long is gone.
    pub(super) fn elapsed(&mut self, now: Instant) {
        self.cache_elapsed(now);
        let (late, ready) = self.warming.expired(now);
        for (item, need) in late {
            self.count_timeout(&item, &need);
            if matches!(item, Item::Removal(_)) {
                self.never_answered(&need);
            }
            tracing::warn!(waiting = ?item, "not waiting any longer for {need:?}");
        }
        self.ready(ready, now);
        for (kind, name) in self.sources.expired(now) {
            match kind {
                Kind::Cluster => self.remove_cluster(&name, now),
                Kind::Listener => self.remove_listener(&name),
                Kind::Runtime => self.remove_runtime(&name),
                Kind::Extension => self.filter_expired(&name),
                // What is in use is better than nothing.
                Kind::Endpoints | Kind::Routes | Kind::Secret | Kind::VirtualHost => {}
            }
        }
        self.progress(now);
    }

    fn count_timeout(&self, item: &Item, need: &Need) {
        match (item, need) {
            (Item::First(Kind::Runtime), _) => self.runtime.timed_out(),
            (Item::First(kind), _) => {
                if let Some(stats) = self.kinds.get(kind) {
                    stats.timed_out();
                }
            }
            (Item::Cluster(name), Need::Endpoints(..)) => self.endpoints.timed_out(name),
            (Item::Listener(_), Need::Routes(from, name)) => {
                for manager in self.parts.routes.managers(from, name) {
                    manager.rds_stats.iter().for_each(|s| s.timed_out());
                }
            }
            (_, Need::Secret(_, name)) => self.secrets.timed_out(name),
            (_, Need::Filter(from, name)) => self.filters.timed_out(from, name),
            (_, Need::VirtualHosts(from, name)) => {
                for manager in self.parts.routes.managers(from, name) {
                    manager.vhds_stats(name).timed_out();
                }
            }
            _ => {}
        }
    }

    /// When [`State::elapsed`] is to be called.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.warming.next_deadline(), self.sources.next_expiry(), self.cache.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A stream was lost or could not be opened.
    pub(super) fn lost(&self, kinds: &[Kind]) {
        for kind in kinds {
            match kind {
                Kind::Cluster | Kind::Listener => {
                    if let Some(stats) = self.kinds.get(kind) {
                        stats.failed();
                    }
                    if *kind == Kind::Cluster {
                        self.on_demand.failed();
                    }
                }
                Kind::Endpoints => self.endpoints.failed(),
                Kind::Runtime => self.runtime.failed(),
                Kind::Extension => self.filters.failed(),
                Kind::Routes => self.routes_failed(),
                Kind::VirtualHost => self.hosts_failed(),
                Kind::Secret => self.secrets.failed(),
            }
        }
    }

    /// Counts that something is asked for.
    fn attempt(&self, kind: Kind) {
        if let Some(stats) = self.kinds.get(&kind) {
            stats.asked();
        }
    }

    /// Goes on with the start as far as it can, and holds back what is to be held back.
    pub(super) fn progress(&mut self, now: Instant) {
        loop {
            let next = match self.phase {
                Phase::Runtime if !self.waits_for(Kind::Runtime) => Phase::StaticClusters,
                Phase::StaticClusters if !self.cluster_waits() => Phase::Clusters,
                Phase::Clusters if !self.cluster_waits() && !self.waits_for(Kind::Cluster) => Phase::Listeners,
                Phase::Listeners if !self.listener_waits() && !self.waits_for(Kind::Listener) => Phase::Live,
                _ => break,
            };
            self.phase = next;
            match next {
                Phase::StaticClusters => {
                    let all = self.parts.clusters.all();
                    // What came on demand by now waits, or does not, as any discovered one.
                    for cluster in all.iter() {
                        if !self.clusters.all.contains_key(&*cluster.name) {
                            self.static_cluster(cluster, now);
                        }
                    }
                }
                Phase::Clusters => self.first(Kind::Cluster, self.dynamic.clusters.clone(), now),
                Phase::Listeners => {
                    self.static_listeners(now);
                    self.first(Kind::Listener, self.dynamic.listeners.clone(), now);
                }
                Phase::Live | Phase::Runtime => {
                    self.open_listeners();
                    tracing::info!("all clusters and listeners initialized");
                }
            }
        }
        self.cache_touched(now);
        // While a changed cluster is on its way, the server is to send no further ones.
        let held = self.phase > Phase::Clusters && self.cluster_waits();
        if let Some(source) = &self.dynamic.clusters {
            self.sources.hold(&source.from, Kind::Cluster, held);
        }
    }

    /// Subscribes to all of a kind, and waits for the first answer.
    fn first(&mut self, kind: Kind, source: Option<ConfigSource>, now: Instant) {
        let Some(source) = source else { return };
        self.warming.begin(&Item::First(kind), [(Need::First(kind), Self::deadline(&source, now))]);
        self.attempt(kind);
        self.sources.watch_all(&source.from, kind);
    }

    fn cluster_waits(&self) -> bool {
        matches!(self.warming.waiting().next(), Some((Item::Cluster(_), _)))
    }

    fn listener_waits(&self) -> bool {
        self.warming.waiting().any(|(item, _)| matches!(item, Item::Listener(_)))
    }

    fn waits_for(&self, kind: Kind) -> bool {
        self.warming.is_waiting(&Item::First(kind))
    }

    /// Asks for a secret unless it is there; whether it has to be waited for.
    pub(super) fn want_secret(&mut self, name: &str, source: &ConfigSource) -> bool {
        self.secrets.wanted(name, &self.parts.stats.root());
        if self.secrets.is_own(&source.from) {
            self.want_own_secret(name, &source.from);
        } else {
            self.sources.watch(&source.from, Kind::Secret, name);
        }
        self.parts.secrets.discovered(&source.from, name).is_none()
    }

    /// What waits, by what it waits for, for `/init_dump`.
    pub fn unready(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (item, needs) in self.warming.waiting() {
            let owner = match item {
                Item::Cluster(name) => format!("init manager Cluster {name}"),
                Item::Listener(name) => format!("init manager Listener-local-init-manager {name}"),
                Item::Routes(_, name) => format!("init manager RDS local-init-manager {name}"),
                Item::Host(_, name) => format!("init manager VHDS {name}"),
                Item::First(Kind::Runtime) => "init manager RTDS".to_owned(),
                Item::First(_) => "init manager Server".to_owned(),
                // It works as it is.
                Item::Removal(_) => continue,
            };
            out.entry(owner).or_default().extend(needs.map(target));
        }
        if let Some((owner, kinds)) = self.cache.describe() {
            out.insert(owner, kinds.into_iter().collect());
        }
        out
    }
}

fn target(need: &Need) -> String {
    match need {
        Need::Endpoints(_, name) => format!("target EDS {name}"),
        Need::Names(name) => format!("target DNS {name}"),
        Need::Secret(_, name) => format!("target SdsApi {name}"),
        Need::Routes(_, name) => format!("target RdsRouteConfigSubscription RDS init {name}"),
        Need::Cluster(name) => format!("target Cluster {name}"),
        Need::Runtime(_, name) => format!("target RTDS {name}"),
        Need::VirtualHosts(_, name) => format!("target VhdsConfigSubscription {name}"),
        Need::Filter(_, name) => format!("target FilterConfigSubscription init {name}"),
        Need::HostInForce(_, name) => format!("target VHDS {name}"),
        Need::RoutesAnswer(_, name) => format!("target RDS {name}"),
        Need::ListenersAnswer => "target LDS".to_owned(),
        Need::First(Kind::Cluster) => "target CDS".to_owned(),
        Need::First(_) => "target LDS".to_owned(),
    }
}

/// Every problem of an update, as Envoy words them.
fn describe(kind: Kind, errors: &Errors) -> String {
    let all: Vec<_> = errors
        .iter()
        .map(|(name, reason)| if name.is_empty() { reason.clone() } else { format!("{name}: {reason}") })
        .collect();
    let prefix = match kind {
        Kind::Cluster => "Error adding/updating cluster(s) ",
        Kind::Listener => "Error adding/updating listener(s) ",
        Kind::Endpoints | Kind::Routes | Kind::Secret | Kind::Runtime | Kind::Extension | Kind::VirtualHost => "",
    };
    format!("{prefix}{}", all.join(if prefix.is_empty() { "; " } else { ", " }))
}
