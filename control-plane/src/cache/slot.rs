//! A result that is computed by one and waited for by others.
//!
//! Owns that nobody computes what somebody computes already. Must not know: how.

use parking_lot::Mutex;
use tokio::sync::MutexGuard;

/// Something that was computed for a world.
pub(super) trait Computed: Clone {
    /// The world's number.
    fn sequence(&self) -> u64;
}

/// A place for a result.
pub(super) struct Slot<T> {
    value: Mutex<Option<T>>,
    /// Who computes.
    turn: tokio::sync::Mutex<()>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { value: Mutex::new(None), turn: tokio::sync::Mutex::default() }
    }
}

/// The right to compute.
pub(super) struct Turn<'s, T> {
    slot: &'s Slot<T>,
    _turn: MutexGuard<'s, ()>,
}

impl<T: Computed> Slot<T> {
    /// The result, if it is of this world or a later one. Never waits.
    pub(super) fn at(&self, sequence: u64) -> Option<T> {
        self.value.lock().clone().filter(|value| value.sequence() >= sequence)
    }

    /// Waits until nobody else computes.
    pub(super) async fn lock(&self) -> Turn<'_, T> {
        Turn { slot: self, _turn: self.turn.lock().await }
    }
}

impl<T: Clone> Turn<'_, T> {
    /// What was computed last.
    pub(super) fn get(&self) -> Option<T> {
        self.slot.value.lock().clone()
    }

    /// It is computed.
    pub(super) fn set(&self, value: T) {
        *self.slot.value.lock() = Some(value);
    }
}
