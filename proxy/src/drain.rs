//! Draining: no new work is invited, what is under way finishes.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// Shared state of a drain: of the process, or of one listener.
#[derive(Clone)]
pub struct Drain(Arc<State>);

struct State {
    phase: AtomicU8,
    /// Milliseconds since `epoch` at which a gradual drain began.
    began: AtomicU64,
    epoch: Instant,
    /// Length of a gradual drain.
    period: Duration,
    changed: Notify,
    /// Connections open.
    open: AtomicU64,
    emptied: Notify,
    over: AtomicU8,
    ended: Notify,
    /// Drains of parts: they begin with this one at the latest.
    parts: Mutex<Vec<Weak<State>>>,
}

impl State {
    fn new(period: Duration) -> Self {
        State {
            phase: AtomicU8::new(SERVING),
            began: AtomicU64::new(0),
            epoch: Instant::now(),
            period,
            changed: Notify::new(),
            open: AtomicU64::new(0),
            emptied: Notify::new(),
            over: AtomicU8::new(0),
            ended: Notify::new(),
            parts: Mutex::default(),
        }
    }

    /// Milliseconds since the epoch.
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// A connection that a drain waits for.
pub struct Held(Drain);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.emptied.notify_waiters();
        }
    }
}

const SERVING: u8 = 0;
const GRADUAL: u8 = 1;
const ASKING: u8 = 2;
const DRAINING: u8 = 3;

impl Drain {
    /// Nothing drains yet. `period` is `--drain-time-s`.
    pub fn new(period: Duration) -> Self {
        Drain(Arc::new(State::new(period)))
    }

    /// The drain of a part: it may begin by itself, and begins when this one does.
    pub fn part(&self) -> Self {
        let part = Drain::new(self.0.period);
        let mut parts = self.0.parts.lock();
        if parts.len() == parts.capacity() {
            parts.retain(|p| p.strong_count() > 0);
        }
        parts.push(Arc::downgrade(&part.0));
        // Under the lock: a drain that begins now finds the part in the list.
        part.0.began.store(part.0.now(), Ordering::Relaxed);
        part.0.phase.store(self.0.phase.load(Ordering::Acquire), Ordering::Release);
        drop(parts);
        part
    }

    /// A drain of the same period that begins by itself only.
    pub fn detached(&self) -> Self {
        Drain::new(self.0.period)
    }

    fn advance(&self, phase: u8) {
        self.0.began.store(self.0.now(), Ordering::Relaxed);
        let parts = self.0.parts.lock();
        self.0.phase.fetch_max(phase, Ordering::Release);
        let live: Vec<_> = parts.iter().filter_map(Weak::upgrade).collect();
        drop(parts);
        live.into_iter().for_each(|part| Drain(part).advance(phase));
        if phase == DRAINING {
            self.0.changed.notify_waiters();
        }
    }

    /// Begins to drain: gradually, an increasing share of answers asks the client to leave; at once, every answer does and idle
    /// connections are closed.
    pub fn begin(&self, gradual: bool) {
        self.advance(if gradual { GRADUAL } else { DRAINING });
    }

    /// From now on every answer asks its client to leave; idle connections stay.
    pub fn ask(&self) {
        self.advance(ASKING);
    }

    /// Whether idle connections are to be closed.
    pub fn is_draining(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) == DRAINING
    }

    /// Whether a drain of either kind has begun.
    pub fn has_begun(&self) -> bool {
        self.0.phase.load(Ordering::Acquire) != SERVING
    }

    /// Whether this answer should ask its client to leave.
    pub fn should_close(&self) -> bool {
        match self.0.phase.load(Ordering::Acquire) {
            SERVING => false,
            GRADUAL => {
                let since = self.0.now().saturating_sub(self.0.began.load(Ordering::Relaxed));
                let period = (self.0.period.as_millis() as u64).max(1);
                crate::worker::random() % period < since
            }
            _ => true,
        }
    }

    /// Resolves when idle connections are to be closed.
    pub fn notified(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Counts a connection while the value lives.
    pub fn hold(&self) -> Held {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Held(self.clone())
    }

    /// Resolves when no connection is open.
    pub async fn idle(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            if self.0.open.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Ends everything.
    pub fn end(&self) {
        self.0.over.store(1, Ordering::Release);
        self.0.ended.notify_waiters();
    }

    /// Resolves at the end.
    pub async fn ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            if self.0.over.load(Ordering::Acquire) == 1 {
                return;
            }
            ended.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_drains_alone_or_with_the_whole() {
        let whole = Drain::new(Duration::from_secs(600));
        let (a, b) = (whole.part(), whole.part());
        a.ask();
        assert!(a.should_close() && !a.is_draining());
        assert!(!b.has_begun() && !whole.has_begun());
        whole.begin(false);
        assert!(a.is_draining() && b.is_draining());
        assert!(whole.part().is_draining(), "one that comes later");
    }
}
