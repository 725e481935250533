//! Outlier detection by consecutive failures: sans-io; time and randomness come in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::OutlierDetection;

/// How an attempt ended, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// No response through a fault of the way: connect failure, timeout, reset.
    LocalFailure,
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

impl HostState {
    /// Whether it is out.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// Counts an attempt; a detector is returned at the very attempt that trips it.
    pub fn record(&self, config: &OutlierDetection, outcome: Outcome) -> Option<Detector> {
        let hit = |count: &AtomicU32, limit: u32| limit > 0 && count.fetch_add(1, Ordering::Relaxed) + 1 == limit;
        let status = match outcome {
            Outcome::LocalFailure if config.split_errors => {
                return hit(&self.consecutive_local, config.consecutive_local_origin_failure)
                    .then_some(Detector::ConsecutiveLocalOriginFailure);
            }
            // Without the split a local failure counts as a gateway failure.
            Outcome::LocalFailure => 503,
            Outcome::Status(s) => s,
        };
        if config.split_errors {
            self.consecutive_local.store(0, Ordering::Relaxed);
        }
        if status < 500 {
            self.consecutive_5xx.store(0, Ordering::Relaxed);
            self.consecutive_gateway.store(0, Ordering::Relaxed);
            return None;
        }
        let gateway = matches!(status, 502..=504);
        if !gateway {
            self.consecutive_gateway.store(0, Ordering::Relaxed);
        }
        let gateway = gateway && hit(&self.consecutive_gateway, config.consecutive_gateway_failure);
        if hit(&self.consecutive_5xx, config.consecutive_5xx) {
            return Some(Detector::Consecutive5xx);
        }
        gateway.then_some(Detector::ConsecutiveGatewayFailure)
    }

    /// Puts it out at `now`, for longer at each time in a row.
    pub fn eject(&self, config: &OutlierDetection, now: Duration) {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let max = config.max_ejection_time.max(config.base_ejection_time);
        let until = now + config.base_ejection_time.saturating_mul(times).min(max);
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
        self.consecutive_5xx.store(0, Ordering::Relaxed);
        self.consecutive_gateway.store(0, Ordering::Relaxed);
        self.consecutive_local.store(0, Ordering::Relaxed);
    }
}

/// Whether another of `total` hosts may go out when `ejected` already are.
pub fn may_eject(config: &OutlierDetection, total: usize, ejected: usize) -> bool {
    let share = (ejected + 1) * 100;
    share <= total * config.max_ejection_percent as usize || (ejected == 0 && config.always_eject_one)
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
