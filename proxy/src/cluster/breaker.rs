//! Circuit breakers: bounded counts shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::config;
use crate::stats::{Gauge, Scope};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way.
    Retries,
    /// Connection pools.
    Pools,
}

struct Count {
    used: AtomicU32,
    max: u32,
    open: Gauge,
    /// Whether `open` shows 1 where that does not follow from `used` alone: a limit of 0 or one that moves.
    is_open: AtomicBool,
    remaining: Option<Gauge>,
}

impl Count {
    /// One more is taken; `before` as the counter had it.
    fn taken(&self, before: u32) {
        if before + 1 == self.max {
            self.open.inc();
        }
        if let Some(g) = &self.remaining
            && before < self.max
        {
            g.dec();
        }
    }

    /// One less is taken; `before` as the counter had it.
    fn released(&self, before: u32) {
        if before == self.max {
            self.open.dec();
        }
        if let Some(g) = &self.remaining
            && before <= self.max
        {
            g.inc();
        }
    }

    fn show(&self, open: bool) {
        if self.is_open.swap(open, Ordering::Relaxed) != open {
            if open {
                self.open.inc();
            } else {
                self.open.dec();
            }
        }
    }
}

struct Counts {
    of: [Count; 5],
    budget: Option<config::RetryBudget>,
}

impl Counts {
    fn max(&self, resource: Resource) -> u32 {
        match self.moving(resource) {
            Some(b) => {
                let active = self.used(Resource::Requests).saturating_add(self.used(Resource::Pending));
                ((f64::from(active) * b.percent / 100.0) as u32).max(b.min_concurrency)
            }
            None => self.of[resource as usize].max,
        }
    }

    fn moving(&self, resource: Resource) -> Option<config::RetryBudget> {
        self.budget.filter(|_| resource == Resource::Retries)
    }

    fn used(&self, resource: Resource) -> u32 {
        self.of[resource as usize].used.load(Ordering::Relaxed)
    }

    /// A place was taken, or given back; `before` as the counter had it.
    fn changed(&self, resource: Resource, before: u32, taken: bool) {
        let c = &self.of[resource as usize];
        if self.moving(resource).is_some() || c.max == 0 {
            c.show(self.used(resource) >= self.max(resource));
        } else if taken {
            c.taken(before);
        } else {
            c.released(before);
        }
    }
}

/// The circuit breaker of one priority.
pub struct Breaker {
    counts: Arc<Counts>,
}

impl Breaker {
    /// A breaker with its `circuit_breakers.<priority>.*` gauges.
    pub fn new(limits: &config::CircuitBreaker, scope: &Scope, priority: &str) -> Self {
        let scope = scope.scope("circuit_breakers").scope(priority);
        let count = |max: u32, open: &str, remaining: &str| Count {
            used: AtomicU32::new(0),
            max,
            open: scope.gauge(open),
            is_open: AtomicBool::new(false),
            // A budget has no fixed number of places, so none that remain.
            remaining: (limits.track_remaining && (limits.retry_budget.is_none() || open != "rq_retry_open")).then(
                || {
                    let g = scope.gauge(remaining);
                    g.set(u64::from(max));
                    g
                },
            ),
        };
        Breaker {
            counts: Arc::new(Counts {
                of: [
                    count(limits.max_connections, "cx_open", "remaining_cx"),
                    count(limits.max_pending_requests, "rq_pending_open", "remaining_pending"),
                    count(limits.max_requests, "rq_open", "remaining_rq"),
                    count(limits.max_retries, "rq_retry_open", "remaining_retries"),
                    count(limits.max_connection_pools.unwrap_or(u32::MAX), "cx_pool_open", "remaining_cx_pools"),
                ],
                budget: limits.retry_budget,
            }),
        }
    }

    /// Takes a place, held until the permit is dropped; `None` where there is none left.
    pub fn acquire(&self, resource: Resource) -> Option<Permit> {
        let max = self.counts.max(resource);
        let used = &self.counts.of[resource as usize].used;
        // In one step: a place taken for a moment and given back would be missed by whoever gives back another meanwhile.
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1));
        taken.ok().map(|before| self.permit(resource, before))
    }

    /// Takes a place even beyond the limit: a pool may always have one connection.
    pub fn force(&self, resource: Resource) -> Permit {
        let before = self.counts.of[resource as usize].used.fetch_add(1, Ordering::Relaxed);
        self.permit(resource, before)
    }

    fn permit(&self, resource: Resource, before: u32) -> Permit {
        self.counts.changed(resource, before, true);
        Permit { counts: self.counts.clone(), resource }
    }

    /// Whether there is a limit at all.
    pub fn is_limited(&self, resource: Resource) -> bool {
        self.counts.of[resource as usize].max < u32::MAX
    }

    /// How many are taken.
    pub fn used(&self, resource: Resource) -> u32 {
        self.counts.used(resource)
    }
}

/// A place taken in a circuit breaker.
pub struct Permit {
    counts: Arc<Counts>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.counts.of[self.resource as usize].used.fetch_sub(1, Ordering::Relaxed);
        self.counts.changed(self.resource, before, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::lb::mix;
    use crate::stats::Store;

    const ALL: [Resource; 4] = [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Retries];

    /// Takes and gives back at random, and after each step compares with the plain arithmetic.
    #[test]
    fn never_beyond_the_limit_and_gauges_follow() {
        for seed in 0..50 {
            let limits = config::CircuitBreaker {
                max_connections: (seed % 4) as u32,
                max_pending_requests: 1,
                max_requests: 5,
                max_retries: 2,
                retry_budget: (seed % 2 == 0)
                    .then_some(config::RetryBudget { percent: 50.0, min_concurrency: (seed % 3) as u32 }),
                track_remaining: true,
                max_connection_pools: None,
            };
            let store = Store::new(1, &Default::default());
            let breaker = Breaker::new(&limits, &store.root(), "default");
            let gauge = |name: &str| store.root().scope("circuit_breakers.default").gauge(name).value();
            let mut held: [Vec<Permit>; 4] = Default::default();
            let mut random = mix(seed);
            for _ in 0..300 {
                random = mix(random);
                let resource = ALL[(random % 4) as usize];
                let mine = &mut held[resource as usize];
                let before = mine.len() as u32;
                if random & 16 == 0 {
                    mine.pop();
                } else if resource == Resource::Connections && random & 96 == 0 {
                    mine.push(breaker.force(resource));
                } else {
                    let max = breaker.counts.max(resource);
                    let got = breaker.acquire(resource);
                    assert_eq!(got.is_some(), before < max);
                    mine.extend(got);
                }
                for r in ALL {
                    assert_eq!(breaker.used(r) as usize, held[r as usize].len());
                }
                let cx = held[0].len() as u32;
                if limits.max_connections > 0 {
                    assert_eq!(gauge("cx_open"), u64::from(cx >= limits.max_connections));
                }
                assert_eq!(gauge("remaining_cx"), u64::from(limits.max_connections.saturating_sub(cx)));
                assert_eq!(gauge("rq_open"), u64::from(held[2].len() >= 5));
                assert_eq!(gauge("remaining_rq"), 5 - held[2].len() as u64);
            }
            drop(held);
            assert!(ALL.iter().all(|r| breaker.used(*r) == 0));
            assert_eq!(gauge("rq_open"), 0);
        }
    }

    #[test]
    fn a_limit_of_nothing_is_open_once_it_was_met() {
        let store = Store::new(1, &Default::default());
        let limits = config::CircuitBreaker { max_connections: 0, ..Default::default() };
        let breaker = Breaker::new(&limits, &store.root(), "default");
        let open = || store.root().scope("circuit_breakers.default").gauge("cx_open").value();
        assert!(breaker.acquire(Resource::Connections).is_none());
        assert_eq!(open(), 0);
        drop(breaker.force(Resource::Connections));
        assert_eq!(open(), 1);
    }
}
