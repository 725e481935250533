//! Outlier detection by consecutive failures and by comparison with other hosts: sans-io; time and randomness come in.

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
    /// Responses of this interval.
    external: Bucket,
    /// With split errors: whether there was a way to the host.
    local: Bucket,
}

/// Attempts of one interval.
#[derive(Debug, Default)]
struct Bucket {
    total: AtomicU32,
    good: AtomicU32,
}

impl Bucket {
    fn count(&self, good: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if good {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the interval.
    fn take(&self) -> Option<Rate> {
        let (total, good) = (self.total.swap(0, Ordering::Relaxed), self.good.swap(0, Ordering::Relaxed));
        (total > 0).then(|| Rate { percent: f64::from(good.min(total)) * 100.0 / f64::from(total), volume: total })
    }
}

/// How an interval went for a host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Successes in percent.
    pub percent: f64,
    /// Attempts.
    pub volume: u32,
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
    /// Fewer responses succeed than from the other hosts.
    SuccessRate,
    /// It is reached less often than the other hosts.
    LocalOriginSuccessRate,
    /// Too few responses succeed.
    FailurePercentage,
    /// It is reached too seldom.
    FailurePercentageLocalOrigin,
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
                if config.split_errors {
                    self.local.count(true);
                    clear(&self.consecutive_local);
                }
                return [None, None];
            }
            Outcome::LocalFailure | Outcome::Timeout if config.split_errors => {
                self.local.count(false);
                let tripped = hit(&self.consecutive_local, config.consecutive_local_origin_failure);
                return [tripped.then_some(Detector::ConsecutiveLocalOriginFailure), None];
            }
            Outcome::LocalFailure => 503,
            Outcome::Timeout => 504,
            Outcome::Status(s) => s,
        };
        let good = !(500..600).contains(&status);
        self.external.count(good);
        if good {
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

    /// Ends an interval: responses, and the way to the host.
    pub fn take_rates(&self) -> [Option<Rate>; 2] {
        [self.external.take(), self.local.take()]
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

/// Hosts (by place) that an interval shows to be worse than they may be, with what shows it; those without a rate had no
/// attempts or are out already. `local`: the rates are of the way to the hosts.
///
/// **Source**: `OutlierDetection.success_rate_*`, `failure_percentage_*`.
pub fn statistics(config: &OutlierDetection, rates: &[Option<Rate>], local: bool) -> Vec<(usize, Detector)> {
    let enough = |volume: u32, hosts: u32| {
        let valid = rates.iter().enumerate().filter_map(move |(i, r)| Some((i, r.filter(|r| r.volume >= volume)?)));
        let valid: Vec<(usize, Rate)> = valid.collect();
        if valid.len() >= hosts as usize { valid } else { Vec::new() }
    };
    let mut out = Vec::new();
    let valid = enough(config.success_rate_request_volume, config.success_rate_minimum_hosts);
    let n = valid.len().max(1) as f64;
    let mean = valid.iter().map(|(_, r)| r.percent).sum::<f64>() / n;
    let variance = valid.iter().map(|(_, r)| (r.percent - mean).powi(2)).sum::<f64>() / n;
    let least = mean - variance.sqrt() * f64::from(config.success_rate_stdev_factor) / 1000.0;
    let detector = if local { Detector::LocalOriginSuccessRate } else { Detector::SuccessRate };
    out.extend(valid.iter().filter(|(_, r)| r.percent < least).map(|(i, _)| (*i, detector)));
    let valid = enough(config.failure_percentage_request_volume, config.failure_percentage_minimum_hosts);
    let most = f64::from(config.failure_percentage_threshold);
    let detector = if local { Detector::FailurePercentageLocalOrigin } else { Detector::FailurePercentage };
    out.extend(valid.iter().filter(|(_, r)| 100.0 - r.percent >= most).map(|(i, _)| (*i, detector)));
    out
}

/// `cluster.<name>.outlier_detection.*`, made with the cluster.
pub struct Stats {
    detected: [Counter; 7],
    enforced: [Counter; 7],
    /// `ejections_consecutive_5xx` and `ejections_success_rate`: what Envoy counted before the detectors had counters of their
    /// own.
    legacy_5xx: Counter,
    legacy_success_rate: Counter,
    total: Counter,
    enforced_total: Counter,
    overflow: Counter,
    active: Gauge,
}

impl Stats {
    /// Stats below a cluster's scope.
    pub fn new(cluster: &Scope) -> Self {
        let scope = cluster.scope("outlier_detection");
        let by_detector = |kind: &str| DETECTORS.map(|d| scope.counter(&format!("ejections_{kind}_{}", d.name())));
        Stats {
            detected: by_detector("detected"),
            enforced: by_detector("enforced"),
            legacy_5xx: scope.counter("ejections_consecutive_5xx"),
            legacy_success_rate: scope.counter("ejections_success_rate"),
            total: scope.counter("ejections_total"),
            enforced_total: scope.counter("ejections_enforced_total"),
            overflow: scope.counter("ejections_overflow"),
            active: scope.gauge("ejections_active"),
        }
    }

    /// A detector tripped.
    pub fn detected(&self, detector: Detector) {
        self.detected[detector as usize].inc();
        match detector {
            Detector::Consecutive5xx => self.legacy_5xx.inc(),
            Detector::SuccessRate | Detector::LocalOriginSuccessRate => self.legacy_success_rate.inc(),
            _ => {}
        }
    }

    /// It tripped while too many were out already.
    pub fn overflow(&self) {
        self.overflow.inc();
    }

    /// The host could go out, whether or not it is made to.
    pub fn ejectable(&self, detector: Detector) {
        if matches!(detector, Detector::Consecutive5xx | Detector::SuccessRate) {
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

const DETECTORS: [Detector; 7] = [
    Detector::Consecutive5xx,
    Detector::ConsecutiveGatewayFailure,
    Detector::ConsecutiveLocalOriginFailure,
    Detector::SuccessRate,
    Detector::LocalOriginSuccessRate,
    Detector::FailurePercentage,
    Detector::FailurePercentageLocalOrigin,
];

impl Detector {
    fn name(self) -> &'static str {
        match self {
            Detector::Consecutive5xx => "consecutive_5xx",
            Detector::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Detector::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Detector::SuccessRate => "success_rate",
            Detector::LocalOriginSuccessRate => "local_origin_success_rate",
            Detector::FailurePercentage => "failure_percentage",
            Detector::FailurePercentageLocalOrigin => "local_origin_failure_percentage",
        }
    }
}

/// The share of detections acted on.
pub fn enforced(config: &OutlierDetection, detector: Detector, random: u64) -> bool {
    let percent = match detector {
        Detector::Consecutive5xx => config.enforcing_consecutive_5xx,
        Detector::ConsecutiveGatewayFailure => config.enforcing_consecutive_gateway_failure,
        Detector::ConsecutiveLocalOriginFailure => config.enforcing_consecutive_local_origin_failure,
        Detector::SuccessRate => config.enforcing_success_rate,
        Detector::LocalOriginSuccessRate => config.enforcing_local_origin_success_rate,
        Detector::FailurePercentage => config.enforcing_failure_percentage,
        Detector::FailurePercentageLocalOrigin => config.enforcing_failure_percentage_local_origin,
    };
    random % 100 < u64::from(percent)
}

#[cfg(test)]
mod tests;
