//! When to ask for a name again. No clock and no dice of its own.

use std::time::Duration;

use crate::config::DnsOptions;

/// A refresh at once after a failure would be a busy loop where the dice say zero.
const SHORTEST: Duration = Duration::from_millis(1);

/// The back-off of one name.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    /// What the next failure's wait is drawn from; `None`: the base.
    ceiling: Option<Duration>,
}

impl Schedule {
    /// The wait after an answer: its `ttl` where that is respected and not zero, else the refresh rate; plus jitter.
    pub fn after_success(&mut self, options: &DnsOptions, ttl: Option<Duration>, random: u64) -> Duration {
        self.ceiling = None;
        let ttl = ttl.filter(|t| options.respect_ttl && !t.is_zero());
        ttl.unwrap_or(options.refresh) + below(options.jitter, random)
    }

    /// The wait after a failure: the refresh rate, or with a failure refresh rate anything up to a ceiling that starts at its
    /// base and doubles up to its maximum, as Envoy draws it.
    pub fn after_failure(&mut self, options: &DnsOptions, random: u64) -> Duration {
        let Some(range) = options.failure_refresh else { return options.refresh };
        let ceiling = self.ceiling.unwrap_or(range.base);
        self.ceiling = Some(ceiling.saturating_mul(2).min(range.max));
        below(ceiling, random).min(range.max).max(SHORTEST)
    }
}

/// A duration below `limit`, by whole milliseconds; zero of zero.
fn below(limit: Duration, random: u64) -> Duration {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.checked_rem(limit).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::dns::tests::options;
    use crate::config::BackOffRange;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn refreshes_at_the_rate_plus_jitter() {
        let mut o = options();
        let mut s = Schedule::default();
        assert_eq!(s.after_success(&o, Some(60 * SECOND), 7), 5 * SECOND);
        o.jitter = SECOND;
        assert_eq!(s.after_success(&o, None, 1_999), 5 * SECOND + Duration::from_millis(999));
    }

    #[test]
    fn respects_a_ttl_but_not_zero() {
        let o = DnsOptions { respect_ttl: true, ..options() };
        let mut s = Schedule::default();
        assert_eq!(s.after_success(&o, Some(60 * SECOND), 0), 60 * SECOND);
        assert_eq!(s.after_success(&o, Some(Duration::ZERO), 0), 5 * SECOND);
        assert_eq!(s.after_success(&o, None, 0), 5 * SECOND);
    }

    #[test]
    fn backs_off_to_the_maximum_and_starts_anew_after_success() {
        let range = BackOffRange { base: SECOND, max: 3 * SECOND };
        let o = DnsOptions { failure_refresh: Some(range), ..options() };
        let mut s = Schedule::default();
        let most = |s: &mut Schedule, ceiling: Duration| {
            let random = u64::try_from(ceiling.as_millis()).unwrap() - 1;
            assert_eq!(s.after_failure(&o, random), ceiling - SHORTEST);
        };
        most(&mut s, SECOND);
        most(&mut s, 2 * SECOND);
        most(&mut s, 3 * SECOND);
        most(&mut s, 3 * SECOND);
        s.after_success(&o, None, 0);
        most(&mut s, SECOND);
        assert_eq!(s.after_failure(&o, 0), SHORTEST);
    }

    #[test]
    fn without_a_failure_rate_failures_wait_for_the_refresh() {
        let mut s = Schedule::default();
        assert_eq!(s.after_failure(&options(), 9), 5 * SECOND);
    }
}
