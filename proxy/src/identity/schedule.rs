//! When to ask for a certificate: without input or output.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::BackOff;

/// See the module.
pub(super) struct Schedule {
    back_off: BackOff,
    failures: u32,
    /// When the certificate ends.
    ends: Option<Instant>,
    /// From when on a failure is a warning: half of what was left when the renewal began.
    urgent: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(base: Duration, max: Duration) -> Self {
        Schedule { back_off: BackOff { base, max }, failures: 0, ends: None, urgent: None }
    }

    /// A certificate came that is good for `left`. How long to wait before it is renewed: 50 to 80 % of that, so that many
    /// that began together do not ask together.
    pub(super) fn succeeded(&mut self, left: Duration, now: Instant, random: u64) -> Duration {
        self.failures = 0;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = 0.5 + 0.3 * ((random % 1000) as f64 / 1000.0);
        let pause = left.mul_f64(share);
        self.ends = Some(now + left);
        self.urgent = Some(now + pause + (left - pause) / 2);
        // One that comes expired, or nearly so, is no reason to ask without end.
        pause.max(self.back_off.base)
    }

    /// None came. How long to wait before the next attempt.
    pub(super) fn failed(&mut self, random: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        // Not at once: an authority that refuses is not to be asked in a circle.
        self.back_off.interval(self.failures, random) + self.back_off.base / 2
    }

    /// How long the certificate is good; `None`: there is none.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.ends.map(|ends| ends.saturating_duration_since(now))
    }

    /// Whether it is time to worry.
    pub(super) fn is_urgent(&self, now: Instant) -> bool {
        self.urgent.is_some_and(|urgent| now >= urgent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn renewal_comes_between_half_and_four_fifths() {
        let now = Instant::now();
        let life = Duration::from_secs(1000);
        for random in 0..2000 {
            let mut schedule = Schedule::new(Duration::from_millis(500), Duration::from_secs(30));
            let pause = schedule.succeeded(life, now, random);
            assert!((500..800).contains(&pause.as_secs()), "{pause:?}");
            assert!(!schedule.is_urgent(now + pause));
            assert!(schedule.is_urgent(now + pause + (life - pause) / 2));
            assert_eq!(schedule.left(now + life * 2), Some(Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_come_ever_more_rarely_but_go_on() {
        let mut schedule = Schedule::new(Duration::from_millis(500), Duration::from_secs(30));
        let now = Instant::now();
        assert_eq!(schedule.left(now), None);
        for _ in 0..100 {
            let pause = schedule.failed(u64::MAX);
            assert!(pause >= Duration::from_millis(250) && pause <= Duration::from_secs(31), "{pause:?}");
        }
        // One that is over when it comes is not asked for again at once.
        assert!(schedule.succeeded(Duration::ZERO, now, 0) >= Duration::from_millis(500));
    }
}
