//! The handles the rest of the proxy holds.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Store;
use super::cells::CellRef;
use super::registry::Meta;

/// A number that only grows. Cheap to keep, 16 bytes; a rejected stat's counter does nothing and reads 0.
#[derive(Clone, Default)]
pub struct Counter(pub(super) Option<CellRef>);

impl Counter {
    /// A counter that counts nothing, for tests and absent features.
    pub fn noop() -> Self {
        Counter(None)
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        if let Some(cell) = &self.0 {
            cell.add(n);
        }
    }

    /// The sum over all threads since start or `/reset_counters`.
    pub fn value(&self) -> u64 {
        self.0.as_ref().map_or(0, CellRef::total)
    }
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counter({})", self.value())
    }
}

/// A number that goes up and down. Any thread may add and take away: what one worker adds another may take away.
#[derive(Clone, Default)]
pub struct Gauge(pub(super) Option<CellRef>);

impl Gauge {
    /// A gauge that shows nothing, for tests and absent features.
    pub fn noop() -> Self {
        Gauge(None)
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, which may be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        if let Some(cell) = &self.0 {
            cell.touch();
            cell.add(n.cast_unsigned());
        }
    }

    /// Takes `n` away.
    #[inline]
    pub fn sub(&self, n: i64) {
        self.add(n.wrapping_neg());
    }

    /// Makes the value `value`. Only for gauges with one owner (as a rule the control thread): what another thread adds at the
    /// same moment may be lost or counted on top.
    pub fn set(&self, value: u64) {
        if let Some(cell) = &self.0 {
            cell.touch();
            cell.add(value.wrapping_sub(cell.total()));
        }
    }

    /// The value; one that is negative for a moment, since threads are read one after the other, reads 0.
    pub fn value(&self) -> u64 {
        self.0.as_ref().map_or(0, |cell| gauge_value(cell.total()))
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gauge({})", self.value())
    }
}

/// A gauge's sum as shown.
pub(super) fn gauge_value(total: u64) -> u64 {
    u64::try_from(total.cast_signed()).unwrap_or(0)
}

/// A text shown among the stats, for instance a configuration version. Written by its owner, seldom.
#[derive(Clone, Default)]
pub struct TextReadout(pub(super) Option<Arc<TextInner>>);

pub(super) struct TextInner {
    pub(super) meta: Arc<Meta>,
    pub(super) store: Weak<Store>,
    pub(super) text: Mutex<Option<Arc<str>>>,
}

impl TextReadout {
    /// Replaces the text.
    pub fn set(&self, text: &str) {
        if let Some(inner) = &self.0 {
            *inner.text.lock() = Some(text.into());
        }
    }

    /// The text; empty if none was set.
    pub fn value(&self) -> Arc<str> {
        self.0.as_ref().and_then(|inner| inner.text.lock().clone()).unwrap_or_default()
    }
}

impl Drop for TextInner {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.release_text(&self.meta);
        }
    }
}
