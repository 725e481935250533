//! Load balancing: sans-io. Randomness and the hosts come in, a host goes out; no pick allocates.

mod edf;
#[cfg(test)]
mod tests;

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
    /// Priorities that other attempts went to already; those that are left share the traffic, or all where none is.
    pub avoid_levels: &'a [u32],
    /// The host itself, where the cluster leaves the choice to the request (ORIGINAL_DST).
    pub destination: Option<std::net::SocketAddr>,
}

/// A balancer's memory, one per worker and cluster.
#[derive(Default)]
pub struct State {
    epoch: u64,
    levels: Vec<LevelState>,
}

#[derive(Default)]
struct LevelState {
    /// Healthy, degraded, all.
    round_robin: [Edf; 3],
    /// Localities, of healthy hosts and of degraded ones.
    localities: [Edf; 2],
    /// By locality: healthy, degraded.
    in_locality: Vec<[Edf; 2]>,
}

/// Picks a host.
pub fn pick(
    policy: &LbPolicy,
    set: &HostSet,
    state: &mut State,
    request: &Request<'_>,
    stats: &ClusterStats,
) -> Option<Arc<Host>> {
    if state.epoch != set.epoch {
        state.epoch = set.epoch;
        state.levels.clear();
    }
    let mut random = request.random;
    let mut host = pick_once(policy, set, state, request.avoid_levels, random, stats)?;
    if let Some(avoid) = request.avoid {
        for _ in 0..request.avoid_attempts {
            if !avoid(&host) {
                break;
            }
            random = mix(random);
            host = pick_once(policy, set, state, request.avoid_levels, random, stats)?;
        }
    }
    Some(host)
}

fn pick_once(
    policy: &LbPolicy,
    set: &HostSet,
    state: &mut State,
    avoid_levels: &[u32],
    random: u64,
    stats: &ClusterStats,
) -> Option<Arc<Host>> {
    let chosen = if avoid_levels.is_empty() { None } else { choose_other_level(set, avoid_levels, random) };
    let (at, degraded) = chosen.or_else(|| choose_level(set, random))?;
    let level = &set.levels[at];
    if state.levels.len() <= at {
        state.levels.resize_with(at + 1, LevelState::default);
    }
    let state = &mut state.levels[at];
    let kind = usize::from(degraded);
    let (hosts, edf) = if level.panic {
        stats.lb_healthy_panic.inc();
        (&level.all, &mut state.round_robin[2])
    } else if level.localities.iter().any(|l| l.weight[kind] > 0.0) {
        let localities = &level.localities;
        let i = state.localities[kind].next(localities.len(), |i| localities[i].weight[kind], mix(random ^ 0x6c6f));
        if state.in_locality.len() <= i {
            state.in_locality.resize_with(localities.len(), Default::default);
        }
        let hosts = if degraded { &localities[i].degraded } else { &localities[i].healthy };
        (hosts, &mut state.in_locality[i][kind])
    } else if degraded {
        (&level.degraded, &mut state.round_robin[1])
    } else {
        (&level.healthy, &mut state.round_robin[0])
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
        LbPolicy::RoundRobin(_) => edf.next(hosts.len(), |i| f64::from(hosts[i].weight), random),
    };
    Some(hosts[at].clone())
}

/// A level by its share of traffic, and whether it is its degraded hosts that are to be used.
fn choose_level(set: &HostSet, random: u64) -> Option<(usize, bool)> {
    let roll = (random % 100) as u32;
    let mut sum = 0;
    for (degraded, loads) in [(false, &set.healthy_load), (true, &set.degraded_load)] {
        for (level, load) in loads.iter().enumerate() {
            sum += load;
            if roll < sum {
                return Some((level, degraded));
            }
        }
    }
    None
}

/// The same among the levels not in `avoid`, by their health; `None` where none of them has any.
///
/// **Source**: `envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig`.
fn choose_other_level(set: &HostSet, avoid: &[u32], random: u64) -> Option<(usize, bool)> {
    let left = |degraded: bool| {
        let health = if degraded { &set.degraded_health } else { &set.healthy_health };
        health.iter().enumerate().filter(|(i, _)| !avoid.contains(&(*i as u32))).map(move |(i, h)| (i, degraded, *h))
    };
    let total = left(false).chain(left(true)).map(|(_, _, h)| h).sum::<u32>().min(100);
    if total == 0 {
        return None;
    }
    let mut roll = (random % 100) as u32 * total / 100;
    for (level, degraded, health) in left(false).chain(left(true)) {
        if roll < health {
            return Some((level, degraded));
        }
        roll -= health;
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
