//! Circuit breakers: bounded counts shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
}

struct Count {
    used: AtomicU32,
    max: u32,
    open: Gauge,
    remaining: Option<Gauge>,
}

/// The circuit breaker of one priority.
pub struct Breaker {
    counts: Arc<[Count; 4]>,
    budget: Option<config::RetryBudget>,
}

impl Breaker {
    /// A breaker with its `circuit_breakers.<priority>.*` gauges.
    pub fn new(limits: &config::CircuitBreaker, scope: &Scope, priority: &str) -> Self {
        let scope = scope.scope("circuit_breakers").scope(priority);
        let count = |max: u32, open: &str, remaining: &str| Count {
            used: AtomicU32::new(0),
            max,
            open: scope.gauge(open),
            remaining: limits.track_remaining.then(|| {
                let g = scope.gauge(remaining);
                g.set(u64::from(max));
                g
            }),
        };
        Breaker {
            counts: Arc::new([
                count(limits.max_connections, "cx_open", "remaining_cx"),
                count(limits.max_pending_requests, "rq_pending_open", "remaining_pending"),
                count(limits.max_requests, "rq_open", "remaining_rq"),
                count(limits.max_retries, "rq_retry_open", "remaining_retries"),
            ]),
            budget: limits.retry_budget,
        }
    }

    /// Takes a place, held until the permit is dropped; `None` where there is none left.
    pub fn acquire(&self, resource: Resource) -> Option<Permit> {
        let max = self.max(resource);
        let c = &self.counts[resource as usize];
        let before = c.used.fetch_add(1, Ordering::Relaxed);
        if before >= max {
            c.used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(self.taken(resource, before))
    }

    /// Takes a place even beyond the limit: a pool may always have one connection.
    pub fn force(&self, resource: Resource) -> Permit {
        let before = self.counts[resource as usize].used.fetch_add(1, Ordering::Relaxed);
        self.taken(resource, before)
    }

    fn taken(&self, resource: Resource, before: u32) -> Permit {
        let c = &self.counts[resource as usize];
        if before + 1 == c.max {
            c.open.add(1);
        }
        if let Some(g) = &c.remaining {
            g.sub(1);
        }
        Permit { counts: self.counts.clone(), resource }
    }

    /// How many are taken.
    pub fn used(&self, resource: Resource) -> u32 {
        self.counts[resource as usize].used.load(Ordering::Relaxed)
    }

    fn max(&self, resource: Resource) -> u32 {
        match self.budget {
            Some(b) if resource == Resource::Retries => {
                let active = self.used(Resource::Requests) + self.used(Resource::Pending);
                let share = f64::from(active) * b.percent / 100.0;
                (share as u32).max(b.min_concurrency)
            }
            _ => self.counts[resource as usize].max,
        }
    }
}

/// A place taken in a circuit breaker.
pub struct Permit {
    counts: Arc<[Count; 4]>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let c = &self.counts[self.resource as usize];
        if c.used.fetch_sub(1, Ordering::Relaxed) == c.max {
            c.open.sub(1);
        }
        if let Some(g) = &c.remaining {
            g.add(1);
        }
    }
}
