//! Hosts and the sets of them that balancers pick from.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::outlier;
use crate::config::{self, HealthStatus};
use crate::upstream::pool::HostPool;

/// An upstream host. Shared by all sets it is in; its pools are per worker.
pub struct Host {
    /// Where it is reached.
    pub address: config::Address,
    /// Name; empty: none.
    pub hostname: Arc<str>,
    /// Weight, at least 1.
    pub weight: u32,
    /// Locality.
    pub locality: Arc<config::Locality>,
    /// Weight of its locality.
    pub locality_weight: Option<u32>,
    /// Priority.
    pub priority: u32,
    /// Metadata.
    pub metadata: Arc<config::Metadata>,
    /// Health as configured or told.
    pub told: HealthStatus,
    /// Outlier detection's state.
    pub outlier: outlier::HostState,
    /// Failed active health checks.
    pub failed_check: AtomicBool,
    /// Requests under way, for least request.
    pub active: AtomicU32,
    /// Connections open.
    pub cx_active: AtomicU32,
    /// Connections ever.
    pub cx_total: AtomicU64,
    /// Connects failed.
    pub cx_connect_fail: AtomicU64,
    /// Requests ever.
    pub rq_total: AtomicU64,
    /// Requests that failed (5xx or no response).
    pub rq_error: AtomicU64,
    /// Requests that did not.
    pub rq_success: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
    /// More addresses of it. They may change while it stays what it is.
    additional_addresses: ArcSwap<Vec<config::Address>>,
    pools: Vec<Mutex<HostPool>>,
    /// Connections opened in an earlier one are not used for further requests.
    generation: AtomicU32,
    removed: AtomicBool,
}

impl Host {
    /// A host of an endpoint; `None` where its address is a name that is still to be resolved.
    pub fn new(
        endpoint: &config::Endpoint,
        place: &Arc<config::Locality>,
        group: &config::LocalityEndpoints,
        workers: usize,
    ) -> Option<Host> {
        if matches!(endpoint.address, config::Address::Host { .. }) {
            return None;
        }
        Some(Host {
            locality_weight: group.weight,
            priority: group.priority,
            ..Host::at_address(endpoint, place, workers)
        })
    }

    /// A host of an endpoint whose address is one, of the highest priority.
    pub(super) fn at_address(endpoint: &config::Endpoint, place: &Arc<config::Locality>, workers: usize) -> Host {
        Host {
            address: endpoint.address.clone(),
            additional_addresses: ArcSwap::from_pointee(endpoint.additional_addresses.clone()),
            hostname: endpoint.hostname.as_str().into(),
            weight: endpoint.weight.max(1),
            locality: place.clone(),
            locality_weight: None,
            priority: 0,
            metadata: Arc::new(endpoint.metadata.clone()),
            told: endpoint.health,
            outlier: outlier::HostState::default(),
            failed_check: AtomicBool::new(false),
            active: AtomicU32::new(0),
            cx_active: AtomicU32::new(0),
            cx_total: AtomicU64::new(0),
            cx_connect_fail: AtomicU64::new(0),
            rq_total: AtomicU64::new(0),
            rq_error: AtomicU64::new(0),
            rq_success: AtomicU64::new(0),
            rq_timeout: AtomicU64::new(0),
            pools: (0..workers).map(|_| Mutex::new(HostPool::default())).collect(),
            generation: AtomicU32::new(0),
            removed: AtomicBool::new(false),
        }
    }

    /// What makes it the same host in another assignment.
    pub fn key(&self) -> u64 {
        let mut h = std::collections::hash_map::DefaultHasher::new();
        (&self.address, &self.hostname).hash(&mut h);
        h.finish()
    }

    /// Whether nothing that a set depends on differs.
    pub fn same_config(&self, other: &Host) -> bool {
        self.address == other.address
            && self.weight == other.weight
            && self.priority == other.priority
            && self.locality == other.locality
            && self.locality_weight == other.locality_weight
            && self.metadata == other.metadata
            && self.told == other.told
    }

    /// More addresses of it, for connections to come.
    pub fn additional_addresses(&self) -> Arc<Vec<config::Address>> {
        self.additional_addresses.load_full()
    }

    /// Takes over what may change of a host that stays: the addresses of `fresh`.
    pub fn update(&self, fresh: &Host) {
        let new = fresh.additional_addresses();
        if *self.additional_addresses.load_full() != *new {
            self.additional_addresses.store(new);
        }
    }

    /// The pool of a worker.
    pub fn pool(&self, worker: usize) -> &Mutex<HostPool> {
        &self.pools[worker]
    }

    /// Usable without reservation.
    pub fn is_healthy(&self) -> bool {
        !self.is_unhealthy() && self.told != HealthStatus::Degraded
    }

    /// Not to be used outside panic.
    pub fn is_unhealthy(&self) -> bool {
        matches!(self.told, HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout)
            || self.outlier.is_ejected()
            || self.failed_check.load(Ordering::Relaxed)
    }

    /// No longer part of its cluster: idle connections are closed, others once they are idle.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.drain();
    }

    /// Pooled connections carry no further request: idle ones are closed, others once they are idle. Those to a host that fails
    /// may fail for a reason that new ones do not have.
    pub fn drain(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for pool in &self.pools {
            let idle = pool.lock().close_idle();
            drop(idle);
        }
    }

    /// Grows when connections are drained.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it left its cluster.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

/// The hosts of one priority.
#[derive(Default, Clone)]
pub struct Level {
    /// Every host.
    pub all: Vec<Arc<Host>>,
    /// Healthy ones.
    pub healthy: Vec<Arc<Host>>,
    /// Degraded ones.
    pub degraded: Vec<Arc<Host>>,
    /// The same by locality, where localities have weights and the balancer goes by them.
    pub localities: Vec<LocalityHosts>,
    /// Too few are healthy: all are used.
    pub panic: bool,
}

/// The hosts of one locality of a priority.
#[derive(Default, Clone)]
pub struct LocalityHosts {
    /// Every host.
    all: Vec<Arc<Host>>,
    /// Healthy ones.
    pub healthy: Vec<Arc<Host>>,
    /// Degraded ones.
    pub degraded: Vec<Arc<Host>>,
    /// Its share of its priority's traffic for healthy hosts, and for degraded ones.
    pub weight: [f64; 2],
}

/// The hosts of a cluster at one moment, with the share of traffic each priority gets.
#[derive(Default, Clone)]
pub struct HostSet {
    /// Priorities, 0 first.
    pub levels: Vec<Level>,
    /// Percent of traffic for the healthy hosts of each level; sums to 100 together with `degraded_load`, or all are 0.
    pub healthy_load: Vec<u32>,
    /// Percent of traffic for the degraded hosts of each level.
    pub degraded_load: Vec<u32>,
    /// Health of each level in percent, overprovisioned, of its healthy hosts alone.
    pub healthy_health: Vec<u32>,
    /// The same of its degraded hosts.
    pub degraded_health: Vec<u32>,
    /// Grows with each change.
    pub epoch: u64,
    settings: HostSetSettings,
}

/// How traffic is shared among hosts.
#[derive(Default, Clone, Copy)]
pub struct HostSetSettings {
    /// `overprovisioning_factor` in percent; 0: the default.
    pub overprovisioning: u32,
    /// `healthy_panic_threshold` in percent.
    pub panic_threshold: f64,
    /// `locality_weighted_lb_config`.
    pub by_locality: bool,
}

impl HostSet {
    /// A set of hosts by priority.
    pub fn new(levels: Vec<Vec<Arc<Host>>>, settings: HostSetSettings, epoch: u64) -> Self {
        let overprovisioning = if settings.overprovisioning == 0 { 140 } else { settings.overprovisioning };
        let level = |all: Vec<Arc<Host>>| Level {
            localities: if settings.by_locality { by_locality(&all) } else { Vec::new() },
            all,
            ..Level::default()
        };
        let levels = levels.into_iter().map(level).collect();
        let settings = HostSetSettings { overprovisioning, ..settings };
        let mut set = HostSet { levels, settings, epoch, ..HostSet::default() };
        set.compute();
        set
    }

    /// The same hosts with their health looked at again.
    pub fn with_health(&self, epoch: u64) -> Self {
        let mut set = HostSet { epoch, ..self.clone() };
        set.compute();
        set
    }

    /// Every host.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.levels.iter().flat_map(|l| l.all.iter())
    }

    /// Total, healthy, degraded.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.levels.iter().fold((0, 0, 0), |(t, h, d), l| (t + l.all.len(), h + l.healthy.len(), d + l.degraded.len()))
    }

    /// Sorts hosts by health and shares traffic among priorities, as Envoy documents it: a level's health is its healthy share
    /// times the overprovisioning factor, and what one level cannot take spills to the next.
    fn compute(&mut self) {
        for level in &mut self.levels {
            level.healthy = level.all.iter().filter(|h| h.is_healthy()).cloned().collect();
            level.degraded = level.all.iter().filter(|h| !h.is_healthy() && !h.is_unhealthy()).cloned().collect();
            level.localities.iter_mut().for_each(|l| l.compute(self.settings.overprovisioning));
        }
        let health = |part: usize, all: usize, factor: u32| {
            if all == 0 { 0 } else { (part as u64 * u64::from(factor) / all as u64).min(100) as u32 }
        };
        let healthy: Vec<u32> =
            self.levels.iter().map(|l| health(l.healthy.len(), l.all.len(), self.settings.overprovisioning)).collect();
        let degraded: Vec<u32> =
            self.levels.iter().map(|l| health(l.degraded.len(), l.all.len(), self.settings.overprovisioning)).collect();
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        let mut left = 100;
        let mut share = |list: &[u32]| -> Vec<u32> {
            list.iter()
                .map(|h| {
                    let part = (h * 100).checked_div(total).unwrap_or(0).min(left);
                    left -= part;
                    part
                })
                .collect()
        };
        let mut healthy_load = share(&healthy);
        let mut degraded_load = share(&degraded);
        if total > 0 && left > 0 {
            // Rounding: the first level that gets anything takes the rest.
            if let Some(l) = healthy_load.iter_mut().chain(degraded_load.iter_mut()).find(|l| **l > 0) {
                *l += left;
            }
        }
        for level in &mut self.levels {
            let share =
                if level.all.is_empty() { 0.0 } else { level.healthy.len() as f64 * 100.0 / level.all.len() as f64 };
            level.panic = total < 100 && share < self.settings.panic_threshold;
        }
        if total == 0 && self.levels.iter().any(|l| l.panic && !l.all.is_empty()) {
            // Nothing is healthy anywhere: levels in panic share by size.
            let hosts: usize = self.levels.iter().map(|l| l.all.len()).sum();
            let mut left = 100;
            for (load, l) in healthy_load.iter_mut().zip(&self.levels) {
                *load = ((l.all.len() * 100).div_ceil(hosts.max(1)) as u32).min(left);
                left -= *load;
            }
        }
        (self.healthy_load, self.degraded_load) = (healthy_load, degraded_load);
        (self.healthy_health, self.degraded_health) = (healthy, degraded);
    }
}

fn by_locality(all: &[Arc<Host>]) -> Vec<LocalityHosts> {
    let mut out: Vec<LocalityHosts> = Vec::new();
    for host in all {
        match out.iter_mut().find(|l| l.all.first().is_some_and(|h| h.locality == host.locality)) {
            Some(l) => l.all.push(host.clone()),
            None => out.push(LocalityHosts { all: vec![host.clone()], ..LocalityHosts::default() }),
        }
    }
    out
}

impl LocalityHosts {
    /// A locality's weight counts in full while enough of its hosts are usable; one without a weight gets nothing.
    fn compute(&mut self, overprovisioning: u32) {
        self.healthy = self.all.iter().filter(|h| h.is_healthy()).cloned().collect();
        self.degraded = self.all.iter().filter(|h| !h.is_healthy() && !h.is_unhealthy()).cloned().collect();
        let weight = f64::from(self.all.first().and_then(|h| h.locality_weight).unwrap_or(0));
        let share = |usable: usize| {
            let available = usable as f64 / self.all.len().max(1) as f64 * f64::from(overprovisioning) / 100.0;
            weight * available.min(1.0)
        };
        self.weight = [share(self.healthy.len()), share(self.degraded.len())];
    }
}

#[cfg(test)]
mod tests;
