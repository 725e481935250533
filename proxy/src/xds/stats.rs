//! Stats of subscriptions and streams, under Envoy's names.

use std::time::SystemTime;

use crate::stats::{Counter, Gauge, Histogram, Scope, TextReadout, Unit};

/// What counts the updates of one subscription: `cluster_manager.cds.*`, `cluster.<name>.*` and so on.
pub struct UpdateStats {
    /// Subscriptions that began, and everything that the others count, as in Envoy.
    update_attempt: Counter,
    update_success: Counter,
    update_failure: Counter,
    update_rejected: Counter,
    init_fetch_timeout: Counter,
    version: Gauge,
    version_text: TextReadout,
    update_time: Gauge,
    update_duration: Histogram,
    /// Of routes and virtual hosts only.
    config_reload: Option<Counter>,
    config_reload_time_ms: Option<Gauge>,
}

impl UpdateStats {
    /// Stats below `scope`.
    pub fn new(scope: &Scope) -> Self {
        UpdateStats {
            update_attempt: scope.counter("update_attempt"),
            update_success: scope.counter("update_success"),
            update_failure: scope.counter("update_failure"),
            update_rejected: scope.counter("update_rejected"),
            init_fetch_timeout: scope.counter("init_fetch_timeout"),
            version: scope.gauge("version"),
            version_text: scope.text_readout("version_text"),
            update_time: scope.gauge("update_time"),
            update_duration: scope.histogram("update_duration", Unit::Milliseconds),
            config_reload: None,
            config_reload_time_ms: None,
        }
    }

    /// The same for virtual hosts.
    pub fn of_hosts(scope: &Scope) -> Self {
        UpdateStats { config_reload: Some(scope.counter("config_reload")), ..UpdateStats::new(scope) }
    }

    /// The same for route configurations.
    pub fn of_routes(scope: &Scope) -> Self {
        let config_reload_time_ms = Some(scope.gauge("config_reload_time_ms"));
        UpdateStats { config_reload_time_ms, ..UpdateStats::of_hosts(scope) }
    }

    /// A subscription begins.
    pub fn asked(&self) {
        self.update_attempt.inc();
    }

    /// An update was refused.
    pub fn rejected(&self) {
        self.update_attempt.inc();
        self.update_rejected.inc();
    }

    /// The stream was lost.
    pub fn failed(&self) {
        self.update_attempt.inc();
        self.update_failure.inc();
    }

    /// The first answer did not come in time.
    pub fn timed_out(&self) {
        self.update_attempt.inc();
        self.init_fetch_timeout.inc();
    }

    /// An update is in force.
    pub fn accepted(&self, version: &str, took: std::time::Duration) {
        self.update_attempt.inc();
        self.update_success.inc();
        self.update_time.set(now_ms());
        self.version.set(version_hash(version));
        self.version_text.set(version);
        self.update_duration.record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// New routes are in force.
    pub fn reloaded(&self) {
        self.config_reload.iter().for_each(Counter::inc);
        self.config_reload_time_ms.iter().for_each(|time| time.set(now_ms()));
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number that differs where versions differ. Not Envoy's xxHash64: dashboards compare it with itself.
fn version_hash(version: &str) -> u64 {
    version.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// `control_plane.*`: the stream to a management server.
pub struct ControlPlaneStats {
    /// 1 while there is a stream.
    pub connected_state: Gauge,
    /// Requests that wait for `rate_limit_settings`.
    pub pending_requests: Gauge,
    /// Times that limit held one back.
    pub rate_limit_enforced: Counter,
    /// Who the server says it is.
    pub identifier: TextReadout,
}

impl ControlPlaneStats {
    /// Stats below `control_plane.`.
    pub fn new(root: &Scope) -> Self {
        let scope = root.scope("control_plane");
        ControlPlaneStats {
            connected_state: scope.gauge("connected_state"),
            pending_requests: scope.gauge("pending_requests"),
            rate_limit_enforced: scope.counter("rate_limit_enforced"),
            identifier: scope.text_readout("identifier"),
        }
    }
}
