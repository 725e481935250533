//! Outlier detection by consecutive failures: sans-io; time and randomness come in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::OutlierDetection;
use crate::stats::{Counter, Gauge, Scope};

/// How an attempt ended, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// A connection is there: nothing is wrong with the way to it.
    Connected,
    /// No response: connect failure, reset.
    LocalFailure,
    /// No response in time.
    Timeout,
}

/// A host's counts. All methods may be called from any worker.
#[derive(Debug, Default)]
pub struct HostState {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// Ejections in a row, for growth.
    ejections: AtomicU32,
    /// Milliseconds since the process's epoch until which it is out, plus 1; 0: not ejected.
    ejected_until: AtomicU64,
}

/// Which detector tripped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detector {
    /// 5xx in a row.
    Consecutive5xx,
    /// Gateway failures in a row.
    ConsecutiveGatewayFailure,
    /// Local failures in a row.
    ConsecutiveLocalOriginFailure,
}

/// What one attempt tripped, in the order in which Envoy acts on it.
pub type Tripped = [Option<Detector>; 2];

impl HostState {
    /// Whether it is out.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// Counts an attempt. A detector that trips begins to count anew, whatever comes of it.
    pub fn record(&self, config: &OutlierDetection, outcome: Outcome) -> Tripped {
        let status = match outcome {
            Outcome::Connected => {
                // Only the split looks at connecting by itself; else it is the response that counts.
                clear(&self.consecutive_local);
                return [None, None];
            }
            Outcome::LocalFailure | Outcome::Timeout if config.split_errors => {
                let tripped = hit(&self.consecutive_local, config.consecutive_local_origin_failure);
                return [tripped.then_some(Detector::ConsecutiveLocalOriginFailure), None];
            }
            Outcome::LocalFailure => 503,
            Outcome::Timeout => 504,
            Outcome::Status(s) => s,
        };
        if !(500..600).contains(&status) {
            clear(&self.consecutive_5xx);
            clear(&self.consecutive_gateway);
            return [None, None];
        }
        let gateway = if matches!(status, 502..=504) {
            hit(&self.consecutive_gateway, config.consecutive_gateway_failure)
        } else {
            clear(&self.consecutive_gateway);
            false
        };
        let any = hit(&self.consecutive_5xx, config.consecutive_5xx);
        [gateway.then_some(Detector::ConsecutiveGatewayFailure), any.then_some(Detector::Consecutive5xx)]
    }

    /// Puts it out at `now`, for longer at each time in a row, and for up to the configured jitter longer by `random`.
    pub fn eject(&self, config: &OutlierDetection, now: Duration, random: u64) {
        let max = config.max_ejection_time.max(config.base_ejection_time);
        // Growth ends at the ceiling, so that the way back begins there too.
        let ceiling = u32::try_from(max.as_millis().div_ceil(config.base_ejection_time.as_millis().max(1)));
        let ceiling = ceiling.unwrap_or(u32::MAX);
        let times = self.ejections.load(Ordering::Relaxed).saturating_add(1).min(ceiling);
        self.ejections.store(times, Ordering::Relaxed);
        let jitter = config.max_ejection_jitter.as_millis() as u64;
        let jitter = Duration::from_millis(if jitter == 0 { 0 } else { random % (jitter + 1) });
        let until = now + config.base_ejection_time.saturating_mul(times).min(max) + jitter;
        self.ejected_until.store(until.as_millis() as u64 + 1, Ordering::Relaxed);
        self.reset();
    }

    /// The sweep: back in when its time is over. Returns whether it came back; a host that stayed in for a sweep is forgiven one
    /// ejection.
    pub fn sweep(&self, now: Duration) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            let n = self.ejections.load(Ordering::Relaxed);
            self.ejections.store(n.saturating_sub(1), Ordering::Relaxed);
            return false;
        }
        if now.as_millis() as u64 + 1 < until {
            return false;
        }
        self.ejected_until.store(0, Ordering::Relaxed);
        self.reset();
        true
    }

    fn reset(&self) {
        clear(&self.consecutive_5xx);
        clear(&self.consecutive_gateway);
        clear(&self.consecutive_local);
    }
}

/// Counts one more; at the limit the count begins anew. A limit of 0 is never reached.
fn hit(count: &AtomicU32, limit: u32) -> bool {
    let n = count.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if limit == 0 || n < limit {
        return false;
    }
    clear(count);
    // Of several workers that count past the limit at once, one trips.
    n == limit
}

/// A load spares the write in the common case: hosts are shared by all workers.
fn clear(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// Whether another of `total` hosts may go out when `ejected` already are.
pub fn may_eject(config: &OutlierDetection, total: usize, ejected: usize) -> bool {
    let share = (ejected + 1) * 100;
    share <= total * config.max_ejection_percent as usize || (ejected == 0 && config.always_eject_one)
}

/// `cluster.<name>.outlier_detection.*`, made with the cluster. Those of detectors that Weft has not are there and stay 0.
pub struct Stats {
    detected: [Counter; 3],
    enforced: [Counter; 3],
    /// `ejections_consecutive_5xx`: what Envoy counted before the detectors had counters of their own.
    legacy_5xx: Counter,
    total: Counter,
    enforced_total: Counter,
    overflow: Counter,
    active: Gauge,
}

impl Stats {
    /// Stats below a cluster's scope.
    pub fn new(cluster: &Scope) -> Self {
        let scope = cluster.scope("outlier_detection");
        for absent in
            ["success_rate", "local_origin_success_rate", "failure_percentage", "local_origin_failure_percentage"]
        {
            scope.counter(&format!("ejections_detected_{absent}"));
            scope.counter(&format!("ejections_enforced_{absent}"));
        }
        scope.counter("ejections_success_rate");
        let by_detector = |kind: &str| DETECTORS.map(|d| scope.counter(&format!("ejections_{kind}_{}", d.name())));
        Stats {
            detected: by_detector("detected"),
            enforced: by_detector("enforced"),
            legacy_5xx: scope.counter("ejections_consecutive_5xx"),
            total: scope.counter("ejections_total"),
            enforced_total: scope.counter("ejections_enforced_total"),
            overflow: scope.counter("ejections_overflow"),
            active: scope.gauge("ejections_active"),
        }
    }

    /// A detector tripped.
    pub fn detected(&self, detector: Detector) {
        self.detected[detector as usize].inc();
        if detector == Detector::Consecutive5xx {
            self.legacy_5xx.inc();
        }
    }

    /// It tripped while too many were out already.
    pub fn overflow(&self) {
        self.overflow.inc();
    }

    /// The host could go out, whether or not it is made to.
    pub fn ejectable(&self, detector: Detector) {
        if detector == Detector::Consecutive5xx {
            self.total.inc();
        }
    }

    /// The host went out.
    pub fn ejected(&self, detector: Detector) {
        self.enforced[detector as usize].inc();
        self.enforced_total.inc();
        self.active.inc();
    }

    /// So many hosts that were out are in again, or gone.
    pub fn returned(&self, hosts: usize) {
        self.active.sub(hosts as i64);
    }
}

const DETECTORS: [Detector; 3] =
    [Detector::Consecutive5xx, Detector::ConsecutiveGatewayFailure, Detector::ConsecutiveLocalOriginFailure];

impl Detector {
    fn name(self) -> &'static str {
        match self {
            Detector::Consecutive5xx => "consecutive_5xx",
            Detector::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Detector::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
        }
    }
}

/// The share of detections acted on.
pub fn enforced(config: &OutlierDetection, detector: Detector, random: u64) -> bool {
    let percent = match detector {
        Detector::Consecutive5xx => config.enforcing_consecutive_5xx,
        Detector::ConsecutiveGatewayFailure => config.enforcing_consecutive_gateway_failure,
        Detector::ConsecutiveLocalOriginFailure => config.enforcing_consecutive_local_origin_failure,
    };
    random % 100 < u64::from(percent)
}
