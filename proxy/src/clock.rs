//! The time a worker goes by: read once for several uses.
//!
//! A request is timed at a dozen points, and reading the clock a dozen times costs more than finding its route. A worker keeps
//! the last reading instead. It reads anew after each time it waited for events, and after [`READS`] uses at the latest, so that
//! what it says is behind by what a few requests take, and never by time spent asleep. Timestamps, durations and deadlines
//! that lie in the future may come from here; whether a deadline *has passed* is asked of the real clock.
//!
//! Other threads, tests with paused time among them, always get the real clock.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Uses of one reading: about two requests.
const READS: u32 = 16;

/// How long the wall clock may be carried on by the monotonic one before it is read anew: somebody may set it.
const WALL: Duration = Duration::from_millis(500);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    static LEFT: Cell<u32> = const { Cell::new(0) };
    static ENABLED: Cell<bool> = const { Cell::new(false) };
    static BASE: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// From here on the calling thread keeps readings. Its runtime calls [`woken`].
pub(crate) fn enable() {
    ENABLED.set(true);
}

/// The thread may have slept: the next use reads the clock.
pub(crate) fn woken() {
    LEFT.set(0);
}

/// Now, or a few requests ago.
pub(crate) fn now() -> Instant {
    let left = LEFT.get();
    match LAST.get() {
        Some(last) if left > 0 => {
            LEFT.set(left - 1);
            last
        }
        _ => read(),
    }
}

#[cold]
fn read() -> Instant {
    let now = Instant::now();
    if ENABLED.get() {
        LAST.set(Some(now));
        LEFT.set(READS);
    }
    now
}

/// [`now`] as wall time.
pub(crate) fn wall() -> SystemTime {
    if !ENABLED.get() {
        return SystemTime::now();
    }
    let now = now();
    if let Some((base, wall)) = BASE.get() {
        let since = now.saturating_duration_since(base);
        if since < WALL {
            return wall + since;
        }
    }
    let wall = SystemTime::now();
    BASE.set(Some((now, wall)));
    wall
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `f` on a thread of its own: what it enables ends with it.
    fn on_a_worker(f: impl FnOnce() + Send + 'static) {
        std::thread::spawn(move || {
            enable();
            f();
        })
        .join()
        .unwrap();
    }

    fn after(moment: Instant) {
        while Instant::now() <= moment {}
    }

    #[test]
    fn a_reading_serves_until_the_thread_slept() {
        on_a_worker(|| {
            let first = now();
            after(first);
            assert_eq!(now(), first);
            woken();
            assert!(now() > first);
        });
    }

    #[test]
    fn a_reading_is_used_up() {
        on_a_worker(|| {
            let first = now();
            after(first);
            assert!((0..=READS).any(|_| now() > first));
        });
    }

    #[test]
    fn without_a_worker_time_is_exact() {
        let first = now();
        after(first);
        assert!(now() > first);
    }

    #[test]
    fn the_wall_clock_goes_along() {
        on_a_worker(|| {
            let first = wall();
            woken();
            let second = wall();
            assert!(second >= first);
            let off = SystemTime::now().duration_since(second).unwrap_or_default();
            assert!(off < WALL, "{off:?}");
        });
    }
}
