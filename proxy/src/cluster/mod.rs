//! Clusters at run time: hosts, balancing, circuit breaking, outlier detection.
//!
//! A [`Cluster`] is a stable handle that routes hold; what changes while it lives (its hosts, their health) is swapped inside
//! it as one [`HostSet`]. Runs on: workers pick, the control thread and whoever ejects a host publish.

mod breaker;
pub mod dns;
#[cfg(test)]
pub(crate) mod fixture;
mod host;
pub mod lb;
mod original_dst;
pub mod outlier;
mod service;
mod stats;
mod tracked;
mod transport;

pub use breaker::{Breaker, Permit, Resource};
pub use host::{Host, HostSet, HostSetSettings, Level, LocalityHosts};
pub use service::Service;
pub use stats::ClusterStats;
pub use tracked::Tracked;
pub use transport::{Proxied, Transport, Transports};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use self::original_dst::OriginalDst;
use crate::app::Parts;
use crate::config::{self, ConfigError};
use crate::http::mirror::Mirror;
use crate::runtime::Fraction;
use crate::stats::{Counter, Gauge, Scope};

/// A cluster.
pub struct Cluster {
    /// Name.
    pub name: Arc<str>,
    /// Validated settings.
    pub config: Arc<config::Cluster>,
    /// Stats.
    pub stats: ClusterStats,
    /// Circuit breaker of default priority.
    pub breaker: Breaker,
    /// Circuit breaker of high priority.
    pub breaker_high: Breaker,
    /// What carries bytes to its hosts.
    pub transports: Transports,
    hosts: ArcSwap<HostSet>,
    /// One publisher at a time.
    publishing: Mutex<()>,
    lb: Vec<Mutex<lb::State>>,
    epoch: AtomicU64,
    started: tokio::time::Instant,
    /// Histograms that `track_cluster_stats` asks for.
    pub tracked: Option<Tracked>,
    /// What service it is, as the control plane says.
    pub service: Option<Service>,
    /// `HttpProtocolOptions.retry_policy`, for routes that have none.
    pub retry_policy: Option<Arc<config::RetryPolicy>>,
    /// `HttpProtocolOptions.request_mirror_policies`, in place of the route's.
    pub mirrors: Vec<Mirror>,
    /// Share of requests dropped by `drop_overloads`, per million.
    drop: AtomicU32,
    maintenance: Fraction,
    /// Present where outlier detection is configured.
    outlier: Option<outlier::Stats>,
    next_sweep: Mutex<tokio::time::Instant>,
    /// Present where the destination is the host.
    original_dst: Option<OriginalDst>,
}

/// Why a request is not sent to a cluster though it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// Runtime `upstream.maintenance_mode.<name>`.
    Maintenance,
    /// `ClusterLoadAssignment.policy.drop_overloads`.
    Drop,
    /// The same with a share of all.
    DropAll,
}

/// An interval of a millisecond, which Envoy takes, must not keep the control thread from everything else.
const MIN_SWEEP: std::time::Duration = std::time::Duration::from_millis(10);

impl Cluster {
    /// A cluster with the hosts its configuration names; those of a DNS cluster come with the first answer.
    ///
    /// # Errors
    /// A transport that cannot be built.
    pub fn new(config: config::Cluster, parts: &Parts) -> Result<Arc<Self>, ConfigError> {
        let scope = parts.stats.root().tagged("cluster", "envoy.cluster_name", &config.stat_name);
        let stats = ClusterStats::new(scope.clone());
        let cluster = Arc::new(Cluster {
            name: config.name.as_str().into(),
            breaker: Breaker::new(&config.breakers_default, &scope, "default"),
            breaker_high: Breaker::new(&config.breakers_high, &scope, "high"),
            stats,
            hosts: ArcSwap::from_pointee(HostSet::default()),
            publishing: Mutex::new(()),
            transports: Transports::new(&config, parts, &scope)?,
            lb: (0..parts.workers).map(|_| Mutex::new(lb::State::default())).collect(),
            epoch: AtomicU64::new(0),
            started: tokio::time::Instant::now(),
            service: Service::of(&config.metadata),
            retry_policy: config.retry_policy.clone().map(Arc::new),
            tracked: Tracked::new(&config, &scope),
            mirrors: Mirror::compile(&config.mirrors, parts)?,
            drop: AtomicU32::new(0),
            maintenance: parts.runtime.fraction(&config::RuntimeFraction {
                default: config::PerMillion(0),
                key: format!("upstream.maintenance_mode.{}", config.name),
                denominator: 100,
            }),
            original_dst: OriginalDst::new(&config)?,
            outlier: config.outlier.as_ref().map(|_| outlier::Stats::new(&scope)),
            next_sweep: Mutex::new(
                tokio::time::Instant::now() + config.outlier.as_ref().map_or(MIN_SWEEP, |o| o.interval),
            ),
            config: Arc::new(config),
        });
        cluster.set_drop(&cluster.config.assignment);
        match cluster.config.discovery {
            config::Discovery::StrictDns(_) | config::Discovery::LogicalDns(_) => {}
            // Another of its name may have hosts that are counted there.
            config::Discovery::Eds { .. } => cluster.stats.show_membership(),
            config::Discovery::Static | config::Discovery::OriginalDst { .. } => {
                cluster.assign(&cluster.config.assignment);
            }
        }
        Ok(cluster)
    }

    fn set_drop(&self, assignment: &config::LoadAssignment) {
        // More than one category is refused with the configuration.
        let share = assignment.drop_overloads.first().map_or(0, |(_, share)| share.0);
        self.drop.store(share.min(config::PerMillion::ALL.0), Ordering::Relaxed);
    }

    /// Whether a request is turned away before it is looked at closer; `random` is uniform.
    pub fn sheds(&self, random: u64) -> Option<Shed> {
        if self.maintenance.admits(lb::mix(random ^ 0x6d61_696e)) {
            return Some(Shed::Maintenance);
        }
        let drop = self.drop.load(Ordering::Relaxed);
        match drop {
            0 => None,
            1_000_000 => Some(Shed::DropAll),
            _ => config::PerMillion(drop).admits(lb::mix(random ^ 0x6472_6f70)).then_some(Shed::Drop),
        }
    }

    /// Replaces the hosts by those of `assignment` that are addresses; hosts that stay keep their state and connections.
    pub fn assign(&self, assignment: &config::LoadAssignment) {
        let workers = self.lb.len();
        let _one = self.publishing.lock();
        let old = self.hosts.load();
        let known: HashMap<_, _> = old.all().map(|h| (h.key(), h.clone())).collect();
        let mut kept = 0;
        let mut levels: Vec<Vec<Arc<Host>>> = Vec::new();
        for locality in &assignment.localities {
            let place = Arc::new(locality.locality.clone());
            let level = locality.priority as usize;
            if levels.len() <= level {
                levels.resize_with(level + 1, Vec::new);
            }
            for endpoint in &locality.endpoints {
                let Some(fresh) = Host::new(endpoint, &place, locality, workers) else { continue };
                let host = match known.get(&fresh.key()) {
                    Some(h) if h.same_config(&fresh) => {
                        kept += 1;
                        h.update(&fresh);
                        h.clone()
                    }
                    _ => {
                        self.transports.count(&fresh.metadata);
                        Arc::new(fresh)
                    }
                };
                levels[level].push(host);
            }
        }
        let settings = HostSetSettings {
            overprovisioning: assignment.overprovisioning_factor,
            panic_threshold: self.config.lb_common.panic_threshold,
            by_locality: self.config.lb.locality() == config::LocalityLb::Weighted,
        };
        let set = HostSet::new(levels, settings, self.next_epoch());
        if kept < known.len() {
            let stay: std::collections::HashSet<_> = set.all().map(|h| Arc::as_ptr(h) as usize).collect();
            let gone: Vec<_> = known.values().filter(|h| !stay.contains(&(Arc::as_ptr(h) as usize))).collect();
            self.let_go(gone.into_iter());
        }
        let changed = kept < known.len() || kept < set.counts().0;
        self.publish(set);
        if changed && self.config.lb_common.close_on_host_set_change {
            self.hosts().all().for_each(|h| h.drain());
        }
        self.stats.membership_change.inc();
    }

    /// Takes new endpoints from discovery into use, and what is dropped with them.
    pub fn update_assignment(&self, assignment: &config::LoadAssignment) {
        self.set_drop(assignment);
        self.assign(assignment);
    }

    /// It is no longer used: connections end when they are idle.
    pub fn retire(&self) {
        let _one = self.publishing.lock();
        self.hosts().all().for_each(|h| h.remove());
    }

    /// Computes health anew after a host's state changed.
    pub fn refresh_health(&self) {
        let _one = self.publishing.lock();
        let set = self.hosts.load().with_health(self.next_epoch());
        self.publish(set);
    }

    /// Tells outlier detection how an attempt on `host` went. A host that trips it is out at once.
    pub fn observe(&self, host: &Arc<Host>, outcome: outlier::Outcome) {
        let (Some(config), Some(stats)) = (&self.config.outlier, &self.outlier) else { return };
        for detector in host.outlier.record(config, outcome).into_iter().flatten() {
            self.trip(config, stats, host, detector);
        }
    }

    /// A detector found `host` at fault: out it goes, if it may.
    fn trip(
        &self,
        config: &config::OutlierDetection,
        stats: &outlier::Stats,
        host: &Arc<Host>,
        detector: outlier::Detector,
    ) {
        let random = crate::worker::random();
        // Workers that trip at once must not eject more hosts than may go.
        let _one = self.publishing.lock();
        if host.outlier.is_ejected() || host.is_removed() {
            return;
        }
        stats.detected(detector);
        let set = self.hosts();
        let ejected = set.all().filter(|h| h.outlier.is_ejected()).count();
        if !outlier::may_eject(config, set.all().count(), ejected) {
            stats.overflow();
            return;
        }
        stats.ejectable(detector);
        if !outlier::enforced(config, detector, random) {
            return;
        }
        host.outlier.eject(config, self.since_start(), lb::mix(random));
        stats.ejected(detector);
        self.publish(set.with_health(self.next_epoch()));
        host.drain();
    }

    /// Lets ejected hosts back in when their time is over, if an interval has passed. Called by the control thread, which is
    /// told when to call again; `None`: this cluster has no outlier detection.
    pub fn sweep_outliers(&self) -> Option<tokio::time::Instant> {
        let (config, stats) = (self.config.outlier.as_ref()?, self.outlier.as_ref()?);
        let mut next = self.next_sweep.lock();
        let now = tokio::time::Instant::now();
        if now < *next {
            return Some(*next);
        }
        *next = now + config.interval.max(MIN_SWEEP);
        let since = self.since_start();
        let back = self.hosts().all().filter(|h| h.outlier.sweep(since)).count();
        if back > 0 {
            stats.returned(back);
            self.refresh_health();
        }
        let set = self.hosts();
        let hosts: Vec<_> = set.all().collect();
        // The interval's counts begin anew for all, but those of hosts that are out say nothing.
        let rates: Vec<_> = hosts.iter().map(|h| (h.outlier.take_rates(), h.outlier.is_ejected())).collect();
        for (kind, local) in [(0, false), (1, true)] {
            let rates: Vec<_> = rates.iter().map(|(r, out)| r[kind].filter(|_| !out)).collect();
            for (at, detector) in outlier::statistics(config, &rates, local) {
                self.trip(config, stats, hosts[at], detector);
            }
        }
        Some(*next)
    }

    fn since_start(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hosts that are no longer part of the cluster.
    fn let_go<'a>(&self, gone: impl Iterator<Item = &'a Arc<Host>> + Clone) {
        if let Some(stats) = &self.outlier {
            stats.returned(gone.clone().filter(|h| h.outlier.is_ejected()).count());
        }
        gone.for_each(|h| h.remove());
    }

    /// Publishes hosts that are all of one priority. The caller holds the lock of publishers.
    fn publish_hosts(&self, hosts: Vec<Arc<Host>>) {
        let settings = HostSetSettings {
            overprovisioning: self.config.assignment.overprovisioning_factor,
            panic_threshold: self.config.lb_common.panic_threshold,
            by_locality: false,
        };
        self.publish(HostSet::new(vec![hosts], settings, self.next_epoch()));
        self.stats.membership_change.inc();
    }

    fn publish(&self, set: HostSet) {
        let (total, healthy, degraded) = set.counts();
        self.hosts.store(Arc::new(set));
        self.stats.set_membership(total, healthy, degraded);
    }

    /// The hosts of this moment.
    pub fn hosts(&self) -> Arc<HostSet> {
        self.hosts.load_full()
    }

    /// Picks a host for worker `worker`, or none where no host is usable.
    pub fn pick(&self, worker: usize, request: &lb::Request<'_>) -> Option<Arc<Host>> {
        if let Some(original) = &self.original_dst {
            return self.host_at(original, request.destination?);
        }
        let set = self.hosts.load();
        let mut state = self.lb[worker].lock();
        lb::pick(&self.config.lb, &set, &mut state, request, &self.stats)
    }

    /// The breaker of a priority.
    pub fn breaker(&self, high: bool) -> &Breaker {
        if high { &self.breaker_high } else { &self.breaker }
    }
}

/// A stable name for a cluster that may come, change and go.
pub struct ClusterHandle {
    /// Name.
    pub name: Arc<str>,
    current: ArcSwapOption<Cluster>,
}

impl ClusterHandle {
    /// The cluster of this moment, if there is one.
    pub fn get(&self) -> Option<Arc<Cluster>> {
        self.current.load_full()
    }
}

/// All clusters by name. A handle is made at the first mention and stays the same, whatever becomes of its cluster.
#[derive(Default)]
pub struct Clusters {
    handles: Mutex<HashMap<Arc<str>, Arc<ClusterHandle>>>,
    /// Those that are there, by name: made when it is asked for after a change, for it is asked for every second by every worker.
    list: ArcSwap<Vec<Arc<Cluster>>>,
    stale: AtomicBool,
    stats: OnceLock<ManagerStats>,
}

/// `cluster_manager.*`.
struct ManagerStats {
    active: Gauge,
    added: Counter,
    modified: Counter,
    removed: Counter,
    warming: Gauge,
    /// Those that stay 0; a stat lives as long as somebody holds it.
    _none: [Counter; 4],
}

impl Clusters {
    /// The handle of a name.
    pub fn handle(&self, name: &str) -> Arc<ClusterHandle> {
        let mut handles = self.handles.lock();
        if let Some(h) = handles.get(name) {
            return h.clone();
        }
        let name: Arc<str> = name.into();
        let handle = Arc::new(ClusterHandle { name: name.clone(), current: ArcSwapOption::empty() });
        handles.insert(name, handle.clone());
        handle
    }

    /// The cluster of a name that comes off the wire: no handle is made for it.
    pub fn find(&self, name: &str) -> Option<Arc<Cluster>> {
        self.handles.lock().get(name).and_then(|h| h.get())
    }

    /// Counts clusters below `cluster_manager.` from now on.
    pub fn count_in(&self, scope: &Scope) {
        let warming = scope.gauge("warming_clusters");
        warming.set(0);
        self.stats.get_or_init(|| ManagerStats {
            warming,
            removed: scope.counter("cluster_removed"),
            _none: [
                "cluster_updated",
                "cluster_updated_via_merge",
                "update_merge_cancelled",
                "update_out_of_merge_window",
            ]
            .map(|none| scope.counter(none)),
            active: scope.gauge("active_clusters"),
            added: scope.counter("cluster_added"),
            modified: scope.counter("cluster_modified"),
        });
    }

    /// Puts a cluster in place.
    pub fn set(&self, cluster: Arc<Cluster>) {
        let before = self.handle(&cluster.name).current.swap(Some(cluster));
        self.stale.store(true, Ordering::Release);
        if let Some(s) = self.stats.get() {
            if before.is_some() {
                s.modified.inc();
            } else {
                s.added.inc();
                s.active.inc();
            }
        }
    }

    /// Takes a cluster out; its handle stays while anybody holds it, for one that may come.
    pub fn remove(&self, name: &str) -> Option<Arc<Cluster>> {
        let mut handles = self.handles.lock();
        let handle = handles.get(name)?;
        let before = handle.current.swap(None)?;
        if Arc::strong_count(handle) == 1 {
            // Nobody can ask for it any more.
            handles.remove(name);
        }
        drop(handles);
        self.stale.store(true, Ordering::Release);
        if let Some(s) = self.stats.get() {
            s.removed.inc();
            s.active.dec();
        }
        Some(before)
    }

    /// So many are on their way.
    pub fn set_warming(&self, count: usize) {
        if let Some(s) = self.stats.get() {
            s.warming.set(count as u64);
        }
    }

    /// Sweeps every cluster's outliers and unused hosts that are due, and says when to call again.
    pub fn sweep(&self) -> tokio::time::Instant {
        let idle = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        let due = |c: &Arc<Cluster>| c.sweep_outliers().into_iter().chain(c.sweep_original_dst()).min();
        self.all().iter().filter_map(due).min().unwrap_or(idle).min(idle)
    }

    /// Every cluster there is, by name.
    pub fn all(&self) -> Arc<Vec<Arc<Cluster>>> {
        if self.stale.swap(false, Ordering::AcqRel) {
            let mut all: Vec<_> = self.handles.lock().values().filter_map(|h| h.get()).collect();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            self.list.store(Arc::new(all));
        }
        self.list.load_full()
    }
}
