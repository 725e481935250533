//! Changes that come together are served together.
//!
//! Owns when it is time. Must not know: what changes.

use std::time::Duration;

use tokio::time::Instant;

/// Waits for a pause in the changes, but not for ever.
#[derive(Clone, Debug)]
pub struct Debounce {
    after: Duration,
    max: Duration,
    /// The first and the last change that wait.
    waiting: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Changes are served `after` the last of them, at the latest `max` after the first.
    #[must_use]
    pub fn new(after: Duration, max: Duration) -> Self {
        Self { after, max, waiting: None }
    }

    /// Something has changed.
    pub fn changed(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    /// When to serve what waits, if something does.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.map(|(first, last)| (last + self.after).min(first + self.max))
    }

    /// What waits is served; when the first of it changed.
    pub fn take(&mut self) -> Option<Instant> {
        self.waiting.take().map(|(first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_the_wait_and_so_does_the_limit() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut debounce = Debounce::new(ms(100), ms(1000));
        assert_eq!((debounce.deadline(), debounce.take()), (None, None));
        debounce.changed(start);
        assert_eq!(debounce.deadline(), Some(start + ms(100)));
        debounce.changed(start + ms(90));
        assert_eq!(debounce.deadline(), Some(start + ms(190)));
        (2..100).for_each(|n| debounce.changed(start + ms(n * 90)));
        assert_eq!(debounce.deadline(), Some(start + ms(1000)));
        assert_eq!(debounce.take(), Some(start));
        assert_eq!(debounce.deadline(), None);
    }
}
