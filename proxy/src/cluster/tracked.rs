//! Optional histograms of a cluster: how much of their timeouts requests use, and how large requests and responses are.
//!
//! **Source**: `envoy.config.cluster.v3.TrackClusterStats`.

use std::time::Duration;

use crate::config;
use crate::http::HeaderMap;
use crate::stats::{Histogram, Scope, Unit};

/// Those that are configured.
pub struct Tracked {
    budgets: Option<Budgets>,
    sizes: Option<Sizes>,
}

struct Budgets {
    whole: Histogram,
    per_try: Histogram,
}

struct Sizes {
    request: Sides,
    response: Sides,
}

struct Sides {
    headers_size: Histogram,
    headers_count: Histogram,
    body_size: Histogram,
}

impl Sides {
    fn new(scope: &Scope, prefix: &str) -> Self {
        let histogram = |name: &str, unit| scope.histogram(&format!("{prefix}_{name}"), unit);
        Sides {
            headers_size: histogram("headers_size", Unit::Bytes),
            headers_count: histogram("headers_count", Unit::Unspecified),
            body_size: histogram("body_size", Unit::Bytes),
        }
    }

    /// Counts a head; pseudo-headers count as headers do, by name and value.
    fn head(&self, headers: &HeaderMap, pseudo: &[usize]) {
        let plain = headers.iter().map(|(n, v)| n.as_str().len() + v.len());
        self.headers_size.record(plain.chain(pseudo.iter().copied()).sum::<usize>() as u64);
        self.headers_count.record((headers.len() + pseudo.len()) as u64);
    }
}

impl Tracked {
    /// `None` where nothing is tracked.
    pub fn new(config: &config::Cluster, scope: &Scope) -> Option<Self> {
        let budget = |name: &str| scope.histogram(&format!("upstream_rq_timeout_budget_{name}"), Unit::Unspecified);
        let budgets = config
            .track_timeout_budgets
            .then(|| Budgets { whole: budget("percent_used"), per_try: budget("per_try_percent_used") });
        let sizes = config
            .track_request_response_sizes
            .then(|| Sizes { request: Sides::new(scope, "upstream_rq"), response: Sides::new(scope, "upstream_rs") });
        (budgets.is_some() || sizes.is_some()).then_some(Tracked { budgets, sizes })
    }

    /// A request was answered or ran out of time after `took` of its `timeout`.
    pub fn request(&self, took: Duration, timeout: Option<Duration>) {
        if let Some(b) = &self.budgets {
            b.whole.record(share(took, timeout));
        }
    }

    /// An attempt ended after `took` of its own timeout.
    pub fn attempt(&self, took: Duration, timeout: Option<Duration>) {
        if let Some(b) = &self.budgets {
            b.per_try.record(share(took, timeout));
        }
    }

    /// An attempt's head went out; `pseudo`: the sizes of what stands for HTTP/2's pseudo-headers.
    pub fn request_head(&self, headers: &HeaderMap, pseudo: &[usize]) {
        if let Some(s) = &self.sizes {
            s.request.head(headers, pseudo);
        }
    }

    /// An attempt was answered.
    pub fn response_head(&self, headers: &HeaderMap) {
        if let Some(s) = &self.sizes {
            s.response.head(headers, &[":status200".len()]);
        }
    }

    /// An attempt's bodies.
    pub fn bodies(&self, request: u64, response: u64) {
        if let Some(s) = &self.sizes {
            s.request.body_size.record(request);
            s.response.body_size.record(response);
        }
    }
}

/// Percent; without a timeout nothing of it is used.
fn share(took: Duration, timeout: Option<Duration>) -> u64 {
    let Some(timeout) = timeout.filter(|t| !t.is_zero()) else { return 0 };
    u64::try_from(took.as_micros().saturating_mul(100) / timeout.as_micros().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_timeout() {
        let s = Duration::from_secs;
        assert_eq!(share(s(1), Some(s(4))), 25);
        assert_eq!(share(s(8), Some(s(4))), 200);
        assert_eq!((share(s(1), None), share(s(1), Some(s(0)))), (0, 0));
    }
}
