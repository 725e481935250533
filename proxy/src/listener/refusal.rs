//! Why connections are refused, in the log.
//!
//! Who is refused decides how often: so there are some lines a second, and how many were left out. Runs on: workers.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines each second, of the whole process.
const PER_SECOND: u64 = 10;

/// The second of the count, and how many there were in it.
static SECOND: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Says that a connection of `peer` to a listener was refused.
pub(super) fn tell(listener: &str, peer: impl Display, reason: impl Display) {
    let now = crate::clock::wall();
    let second = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut left_out = 0;
    if SECOND.swap(second, Relaxed) != second {
        // Two threads may both begin a second; then a line more is written.
        left_out = COUNT.swap(0, Relaxed).saturating_sub(PER_SECOND);
    }
    if COUNT.fetch_add(1, Relaxed) >= PER_SECOND {
        return;
    }
    if left_out > 0 {
        tracing::info!("{left_out} more connections were refused before this");
    }
    tracing::info!(listener, %peer, "connection refused: {reason}");
}
