//! How many connections a listener, and the whole process, may have.
//!
//! Runs on: workers, once for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Listener;
use crate::runtime::{Integer, Runtime};

/// Connections of the process. **Source**: runtime key `overload.global_downstream_max_connections`; absent: no limit.
#[derive(Debug)]
pub struct GlobalLimit(Limit);

#[derive(Debug)]
struct Limit {
    max: Integer,
    open: AtomicU64,
}

impl Limit {
    fn new(runtime: &Runtime, key: &str) -> Self {
        Limit { max: runtime.integer(key, u64::MAX), open: AtomicU64::new(0) }
    }

    fn enter(&self) -> bool {
        let admitted = self.open.fetch_add(1, Ordering::Relaxed) < self.max.get();
        if !admitted {
            self.leave();
        }
        admitted
    }

    fn force(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl GlobalLimit {
    /// The limit, with nothing open.
    pub fn new(runtime: &Runtime) -> Arc<Self> {
        Arc::new(GlobalLimit(Limit::new(runtime, "overload.global_downstream_max_connections")))
    }
}

/// Connections of a listener. **Source**: runtime key `envoy.resource_limits.listener.<name>.connection_limit`; absent: no
/// limit.
#[derive(Debug)]
pub(super) struct Admission {
    own: Limit,
    global: Arc<GlobalLimit>,
    /// `ignore_global_conn_limit`
    ignore_global: bool,
}

/// A connection's place in both counts.
pub(super) struct Place(Arc<Listener>);

impl Drop for Place {
    fn drop(&mut self) {
        let admission = &self.0.admission;
        admission.own.leave();
        admission.global.0.leave();
    }
}

impl Place {
    /// Moves on to another listener, which does not refuse what it is handed.
    pub(super) fn hand_over(self, to: &Arc<Listener>) -> Place {
        to.admission.own.force();
        to.admission.global.0.force();
        Place(to.clone())
    }
}

impl Admission {
    pub(super) fn new(listener: &str, ignore_global: bool, global: &Arc<GlobalLimit>, runtime: &Runtime) -> Self {
        let key = format!("envoy.resource_limits.listener.{listener}.connection_limit");
        Admission { own: Limit::new(runtime, &key), global: global.clone(), ignore_global }
    }
}

/// A place for a connection that was accepted; `None`: a limit is reached, and that is counted.
pub(super) fn admit(listener: &Arc<Listener>) -> Option<Place> {
    let admission = &listener.admission;
    if admission.ignore_global {
        // Not bounded, but part of what bounds others.
        admission.global.0.force();
    } else if !admission.global.0.enter() {
        listener.stats.downstream_global_cx_overflow.inc();
        return None;
    }
    if !admission.own.enter() {
        admission.global.0.leave();
        listener.stats.downstream_cx_overflow.inc();
        return None;
    }
    Some(Place(listener.clone()))
}
