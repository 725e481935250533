//! Draining: no new work is invited, what is under way finishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

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
const DRAINING: u8 = 2;

impl Drain {
    /// Nothing drains yet. `period` is `--drain-time-s`.
    pub fn new(period: Duration) -> Self {
        Drain(Arc::new(State {
            phase: AtomicU8::new(SERVING),
            began: AtomicU64::new(0),
            epoch: Instant::now(),
            period,
            changed: Notify::new(),
            open: AtomicU64::new(0),
            emptied: Notify::new(),
            over: AtomicU8::new(0),
            ended: Notify::new(),
        }))
    }

    /// Begins to drain: gradually, an increasing share of answers asks the client to leave; at once, every answer does and idle
    /// connections are closed.
    pub fn begin(&self, gradual: bool) {
        let phase = if gradual { GRADUAL } else { DRAINING };
        self.0.began.store(self.0.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.phase.fetch_max(phase, Ordering::Release);
        if !gradual {
            self.0.changed.notify_waiters();
        }
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
                let since =
                    (self.0.epoch.elapsed().as_millis() as u64).saturating_sub(self.0.began.load(Ordering::Relaxed));
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
