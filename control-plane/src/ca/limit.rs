//! How often an address may ask: a bucket for each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Requests at once.
const BURST: f64 = 200.0;
/// Requests each second after that.
const PER_SECOND: f64 = 50.0;
/// Addresses that are remembered; beyond it those that asked longest ago are forgotten.
const MAX_ADDRESSES: usize = 10_000;

/// Who has asked.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    buckets: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    /// Whether one more request of an address is taken.
    pub(super) fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ADDRESSES && !self.buckets.contains_key(&address) {
            let full = Duration::from_secs_f64(BURST / PER_SECOND);
            self.buckets.retain(|_, bucket| now.duration_since(bucket.at) < full);
            if self.buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = self.buckets.entry(address).or_insert(Bucket { tokens: BURST, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * PER_SECOND).min(BURST);
        bucket.at = now;
        let taken = bucket.tokens >= 1.0;
        if taken {
            bucket.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_bucket() {
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut limiter = Limiter::default();
        let now = Instant::now();
        assert_eq!((0..300).filter(|_| limiter.take(one, now)).count(), 200);
        assert!(limiter.take(other, now));
        assert_eq!((0..300).filter(|_| limiter.take(one, now + Duration::from_secs(1))).count(), 50);
    }
}
