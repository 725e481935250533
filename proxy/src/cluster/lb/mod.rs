//! Load balancing: sans-io. Randomness and the hosts come in, a host goes out; no pick allocates.

mod edf;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ClusterStats, Host, HostSet};
use crate::config::LbPolicy;
use edf::Edf;

/// What a pick depends on.
#[derive(Default)]
pub struct Request<'a> {
    /// Uniformly random.
    pub random: u64,
    /// Hosts not wanted (already tried); ignored where none else is left.
    pub avoid: Option<&'a (dyn Fn(&Host) -> bool + Sync)>,
    /// How often another host is tried for `avoid`.
    pub avoid_attempts: u32,
}

/// A balancer's memory, one per worker and cluster.
#[derive(Default)]
pub struct State {
    epoch: u64,
    /// Per level: healthy, degraded, all.
    round_robin: Vec<[Edf; 3]>,
}

/// Picks a host.
pub fn pick(
    policy: &LbPolicy,
    set: &HostSet,
    state: &mut State,
    request: &Request<'_>,
    stats: &ClusterStats,
) -> Option<Arc<Host>> {
    let mut random = request.random;
    let mut host = pick_once(policy, set, state, random, stats)?;
    if let Some(avoid) = request.avoid {
        for _ in 0..request.avoid_attempts {
            if !avoid(&host) {
                break;
            }
            random = mix(random);
            host = pick_once(policy, set, state, random, stats)?;
        }
    }
    Some(host)
}

fn pick_once(
    policy: &LbPolicy,
    set: &HostSet,
    state: &mut State,
    random: u64,
    stats: &ClusterStats,
) -> Option<Arc<Host>> {
    let (level, kind) = choose_level(set, random)?;
    let l = &set.levels[level];
    let (hosts, kind) = if l.panic {
        stats.lb_healthy_panic.inc();
        (&l.all, 2)
    } else if kind == 0 {
        (&l.healthy, 0)
    } else {
        (&l.degraded, 1)
    };
    if hosts.is_empty() {
        return None;
    }
    let random = mix(random);
    let at = match policy {
        LbPolicy::Random(_) | LbPolicy::ClusterProvided => (random % hosts.len() as u64) as usize,
        LbPolicy::LeastRequest { choice_count, full_scan, active_request_bias, .. } => {
            if weights_differ(hosts) {
                weighted_least_request(hosts, random, *active_request_bias)
            } else {
                least_request(hosts, random, *choice_count, *full_scan)
            }
        }
        LbPolicy::RoundRobin(_) => {
            if state.epoch != set.epoch {
                state.epoch = set.epoch;
                state.round_robin.clear();
            }
            if state.round_robin.len() <= level {
                state.round_robin.resize_with(level + 1, Default::default);
            }
            state.round_robin[level][kind].next(hosts, random)
        }
    };
    Some(hosts[at].clone())
}

/// A level by its share of traffic: 0 for its healthy hosts, 1 for its degraded ones.
fn choose_level(set: &HostSet, random: u64) -> Option<(usize, usize)> {
    let roll = (random % 100) as u32;
    let mut sum = 0;
    for (kind, loads) in [&set.healthy_load, &set.degraded_load].into_iter().enumerate() {
        for (level, load) in loads.iter().enumerate() {
            sum += load;
            if roll < sum {
                return Some((level, kind));
            }
        }
    }
    None
}

fn weights_differ(hosts: &[Arc<Host>]) -> bool {
    hosts.windows(2).any(|w| w[0].weight != w[1].weight)
}

/// The least loaded of some random choices, or of all.
fn least_request(hosts: &[Arc<Host>], mut random: u64, choices: u32, full: bool) -> usize {
    let load = |i: usize| hosts[i].active.load(Ordering::Relaxed);
    if full {
        // Start anywhere, so that equals share.
        let start = (random % hosts.len() as u64) as usize;
        return (0..hosts.len()).map(|i| (start + i) % hosts.len()).min_by_key(|i| load(*i)).unwrap_or(start);
    }
    let mut best = (random % hosts.len() as u64) as usize;
    for _ in 1..choices {
        random = mix(random);
        let other = (random % hosts.len() as u64) as usize;
        if load(other) < load(best) {
            best = other;
        }
    }
    best
}

/// Weighted choice by weight / (active + 1)^bias.
fn weighted_least_request(hosts: &[Arc<Host>], random: u64, bias: f64) -> usize {
    let weight = |h: &Host| f64::from(h.weight) / f64::from(h.active.load(Ordering::Relaxed) + 1).powf(bias);
    let total: f64 = hosts.iter().map(|h| weight(h)).sum();
    let mut at = (random >> 11) as f64 / (1u64 << 53) as f64 * total;
    for (i, h) in hosts.iter().enumerate() {
        at -= weight(h);
        if at <= 0.0 {
            return i;
        }
    }
    hosts.len() - 1
}

/// Another random number out of one (splitmix64).
pub fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
