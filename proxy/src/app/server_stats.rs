//! What the process says of itself: `server.*`, `listener_manager.*`.
//!
//! Gauges that follow time are set at each stats flush, as in Envoy. Those that count what Weft has not (hot restarts, unknown
//! fields that were let pass) are there and 0, so that dashboards find them. Runs on: the control thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::listener::Listener;
use crate::stats::{Counter, Gauge, Histogram, Scope, Unit};
use crate::transport::tls::SecretProvider;

/// Shown where no certificate is loaded, as Envoy shows it.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// The gauges that are kept up to date.
pub(super) struct ServerStats {
    began: Instant,
    live: Gauge,
    state: Gauge,
    uptime: Gauge,
    total_connections: Gauge,
    days_until_first_cert_expiring: Gauge,
    memory_physical_size: Gauge,
    /// Those that do not change from here; a stat lives as long as somebody holds it.
    _gauges: Vec<Gauge>,
    _counters: Vec<Counter>,
    _initialization: Histogram,
}

impl ServerStats {
    /// The process begins to serve with so many workers, `initialized` after its start.
    pub(super) fn new(root: &Scope, workers: usize, initialized: Duration) -> Self {
        let (server, manager) = (root.scope("server"), root.scope("listener_manager"));
        let workers = workers as u64;
        let gauge = |scope: &Scope, name: &str, value: u64| {
            let gauge = scope.gauge(name);
            gauge.set(value);
            gauge
        };
        let mut gauges = vec![gauge(&server, "concurrency", workers), gauge(&manager, "workers_started", 1)];
        for none in ["hot_restart_epoch", "hot_restart_generation", "parent_connections", "stats_recent_lookups"] {
            gauges.push(gauge(&server, none, 0));
        }
        let mut counters = Vec::new();
        for none in ["debug_assertion_failures", "envoy_bug_failures", "static_unknown_fields", "wip_protos"] {
            counters.push(server.counter(none));
        }
        let initialization = server.histogram("initialization_time_ms", Unit::Milliseconds);
        initialization.record(u64::try_from(initialized.as_millis()).unwrap_or(u64::MAX));
        ServerStats {
            began: Instant::now(),
            live: server.gauge("live"),
            state: server.gauge("state"),
            uptime: server.gauge("uptime"),
            total_connections: server.gauge("total_connections"),
            days_until_first_cert_expiring: server.gauge("days_until_first_cert_expiring"),
            memory_physical_size: server.gauge("memory_physical_size"),
            _gauges: gauges,
            _counters: counters,
            _initialization: initialization,
        }
    }

    /// Looks at everything once more; `draining`: the process takes no further work, or says that it is unhealthy.
    pub(super) fn update(&self, listeners: &[Arc<Listener>], secrets: &SecretProvider, draining: bool) {
        self.live.set(u64::from(!draining));
        self.state.set(u64::from(draining));
        self.uptime.set(self.began.elapsed().as_secs());
        self.total_connections.set(listeners.iter().map(|l| l.stats.downstream_cx_active.value()).sum());
        let days = secrets.days_until_first_expiry(SystemTime::now());
        self.days_until_first_cert_expiring.set(days.unwrap_or(NO_CERTIFICATE));
        if let Some(bytes) = resident() {
            self.memory_physical_size.set(bytes);
        }
    }
}

/// Bytes of memory the process occupies, as the kernel has it.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_tells_of_itself() {
        let parts = crate::cluster::fixture::parts(2);
        let root = parts.stats.root();
        let stats = ServerStats::new(&root, 2, Duration::from_millis(5));
        stats.update(&[], &parts.secrets, false);
        let gauge = |name: &str| root.scope("server").gauge(name).value();
        assert_eq!((gauge("live"), gauge("state"), gauge("concurrency")), (1, 0, 2));
        assert_eq!(gauge("days_until_first_cert_expiring"), NO_CERTIFICATE);
        assert!(gauge("memory_physical_size") > 1 << 20);
        stats.update(&[], &parts.secrets, true);
        assert_eq!((gauge("live"), gauge("state")), (0, 1));
    }
}
