//! What workers hold of a runtime value: the value itself, resolved, and a place where it is written when it changes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Snapshot;
use super::entry::Entry;
use crate::config::PerMillion;

/// What a value is without an override.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Fraction(PerMillion),
    Flag(bool),
    Integer(u64),
    Double(f64),
}

/// One handle's value.
#[derive(Debug)]
pub(super) struct Slot {
    key: Box<str>,
    kind: Kind,
    /// The value that counts, whatever its kind in 64 bits.
    bits: AtomicU64,
}

impl Slot {
    fn resolve(&self, snapshot: &Snapshot) {
        let entry = snapshot.entry(&self.key).filter(|_| !self.key.is_empty());
        let bits = match self.kind {
            Kind::Fraction(default) => pack(entry.and_then(Entry::share).unwrap_or((default.0, 1_000_000))),
            Kind::Flag(default) => entry.and_then(|e| e.flag).unwrap_or(default).into(),
            Kind::Integer(default) => entry.and_then(|e| e.integer).unwrap_or(default),
            Kind::Double(default) => entry.and_then(|e| e.double).unwrap_or(default).to_bits(),
        };
        self.bits.store(bits, Relaxed);
    }
}

fn pack((numerator, denominator): (u32, u32)) -> u64 {
    u64::from(numerator) << 32 | u64::from(denominator)
}

/// Every handle there is, to be told of changes.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<Vec<Weak<Slot>>>);

impl Slots {
    pub(super) fn add(&self, snapshot: &ArcSwap<Snapshot>, key: &str, kind: Kind) -> Arc<Slot> {
        let slot = Arc::new(Slot { key: key.into(), kind, bits: AtomicU64::new(0) });
        let mut slots = self.0.lock();
        // Resolved under the lock: a snapshot that is published now finds the slot in the list, or was published before.
        slot.resolve(&snapshot.load());
        if !key.is_empty() {
            if slots.len() == slots.capacity() {
                slots.retain(|slot| slot.strong_count() > 0);
            }
            slots.push(Arc::downgrade(&slot));
        }
        slot
    }

    /// Room in the list, to see that it does not grow without bound.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.lock().capacity()
    }

    /// Tells every handle of a snapshot that is already published.
    pub(super) fn resolve(&self, snapshot: &Snapshot) {
        let mut slots = self.0.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.iter().filter_map(Weak::upgrade).for_each(|slot| slot.resolve(snapshot));
    }
}

/// A share of requests.
#[derive(Debug, Clone)]
pub struct Fraction {
    default: PerMillion,
    /// Absent where no key can change it.
    slot: Option<Arc<Slot>>,
}

impl Fraction {
    pub(super) fn new(slots: &Slots, snapshot: &ArcSwap<Snapshot>, key: &str, default: PerMillion) -> Self {
        let slot = (!key.is_empty()).then(|| slots.add(snapshot, key, Kind::Fraction(default)));
        Fraction { default, slot }
    }

    /// A share that nothing changes.
    pub fn fixed(default: PerMillion) -> Self {
        Fraction { default, slot: None }
    }

    /// Whether a uniformly random `roll` falls within the share.
    #[inline]
    pub fn admits(&self, roll: u64) -> bool {
        let Some(slot) = &self.slot else { return self.default.admits(roll) };
        let bits = slot.bits.load(Relaxed);
        let (numerator, denominator) = (bits >> 32, (bits & 0xffff_ffff).max(1));
        roll % denominator < numerator
    }

    /// Whether every request, or none, is within the share: then no roll is needed.
    pub fn certain(&self) -> Option<bool> {
        let bits = self.slot.as_ref().map_or(pack((self.default.0, 1_000_000)), |slot| slot.bits.load(Relaxed));
        let (numerator, denominator) = (bits >> 32, bits & 0xffff_ffff);
        if numerator == 0 { Some(false) } else { (numerator >= denominator).then_some(true) }
    }
}

/// A switch.
#[derive(Debug, Clone)]
pub struct Flag(pub(super) Arc<Slot>);

impl Flag {
    /// Whether it is on.
    #[inline]
    pub fn enabled(&self) -> bool {
        self.0.bits.load(Relaxed) != 0
    }
}

/// A whole number.
#[derive(Debug, Clone)]
pub struct Integer(pub(super) Arc<Slot>);

impl Integer {
    /// The number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.bits.load(Relaxed)
    }
}

/// A number.
#[derive(Debug, Clone)]
pub struct Double(pub(super) Arc<Slot>);

impl Double {
    /// The number.
    #[inline]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.bits.load(Relaxed))
    }
}
