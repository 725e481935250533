//! `envoy.filters.network.connection_limit`: bounds the connections of a filter chain, over all workers.
//!
//! Runs on: workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::app::Parts;
use crate::config;
use crate::runtime::Flag;
use crate::stats::{Counter, Gauge};

/// The limit of one filter chain.
pub struct ConnectionLimit {
    max: u64,
    delay: Option<Duration>,
    enabled: Flag,
    /// Connections open, those included that wait to be refused: they cost as much, and Envoy counts them.
    open: AtomicU64,
    limited: Counter,
    active: Gauge,
}

/// What the filter says of a connection.
pub enum Verdict {
    /// It may go on; it counts while the value lives.
    Admitted(Option<Place>),
    /// It is to be closed after so long; it counts until then.
    Refused(Place, Option<Duration>),
}

/// A connection's place, given back when dropped.
pub struct Place(Arc<ConnectionLimit>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.active.dec();
    }
}

impl ConnectionLimit {
    /// Compiles.
    pub fn new(config: &config::ConnectionLimit, parts: &Parts) -> Arc<Self> {
        let scope = parts.stats.root().tagged("connection_limit", "envoy.connection_limit_prefix", &config.stat_prefix);
        Arc::new(ConnectionLimit {
            max: config.max_connections,
            delay: config.delay,
            enabled: parts.runtime.flag(&config.enabled),
            open: AtomicU64::new(0),
            limited: scope.counter("limited_connections"),
            active: scope.gauge("active_connections"),
        })
    }

    /// Counts a new connection, and says whether it may stay.
    pub fn enter(self: &Arc<Self>) -> Verdict {
        if !self.enabled.enabled() {
            return Verdict::Admitted(None);
        }
        self.active.inc();
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        if before < self.max {
            return Verdict::Admitted(Some(place));
        }
        self.limited.inc();
        Verdict::Refused(place, self.delay.filter(|d| !d.is_zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn limit(max: u64, enabled: bool) -> Arc<ConnectionLimit> {
        let flag = config::RuntimeFlag { default: enabled, key: String::new() };
        Arc::new(ConnectionLimit {
            max,
            delay: Some(Duration::ZERO),
            enabled: Runtime::none().flag(&flag),
            open: AtomicU64::new(0),
            limited: Counter::default(),
            active: Gauge::default(),
        })
    }

    #[test]
    fn admits_up_to_the_limit_and_again_when_one_leaves() {
        let limit = limit(2, true);
        let first = limit.enter();
        assert!(matches!(first, Verdict::Admitted(Some(_))));
        let _second = limit.enter();
        let refused = limit.enter();
        assert!(matches!(refused, Verdict::Refused(_, None)), "a delay of 0 is none");
        drop(first);
        // The refused one still counts.
        let also = limit.enter();
        assert!(matches!(also, Verdict::Refused(..)));
        drop((refused, also));
        assert!(matches!(limit.enter(), Verdict::Admitted(Some(_))));
    }

    #[test]
    fn disabled_it_counts_nothing() {
        let limit = limit(1, false);
        assert!(matches!((limit.enter(), limit.enter()), (Verdict::Admitted(None), Verdict::Admitted(None))));
    }
}
