//! Histograms: log-linear bins with two significant digits, as circllhist (Envoy's library) has them.
//!
//! Each slot has bins of its own, allocated a decade at a time when first hit; a scrape adds them up.

mod bins;
mod summary;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use self::bins::SlotBins;
use super::Store;
use super::cells::slot;
use super::registry::Meta;

pub(super) use self::summary::{BUCKETS, PERCENTILES, Summary};

/// What a histogram's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Unspecified,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// A share, recorded in parts per million.
    Percent,
}

/// A distribution of values.
#[derive(Clone, Default)]
pub struct Histogram(pub(super) Option<Arc<HistogramInner>>);

impl Histogram {
    /// A histogram that records nothing.
    pub fn noop() -> Self {
        Histogram(None)
    }

    /// Records a value, in the histogram's unit.
    #[inline]
    pub fn record(&self, value: u64) {
        if let Some(inner) = &self.0 {
            inner.record(value);
        }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count: u64 = self.0.iter().map(|h| h.cumulative().values().sum::<u64>()).sum();
        write!(f, "Histogram({count} values)")
    }
}

/// Bins, by index, with their counts.
pub(super) type Counts = BTreeMap<u16, u64>;

pub(super) struct HistogramInner {
    pub(super) meta: Arc<Meta>,
    unit: Unit,
    /// Upper bounds configured; `None`: [`BUCKETS`].
    buckets: Option<Arc<[f64]>>,
    store: Weak<Store>,
    slots: Box<[OnceLock<Box<SlotBins>>]>,
    merged: Mutex<Merged>,
}

/// What the last flush saw.
#[derive(Default)]
struct Merged {
    cumulative: Counts,
    interval: Counts,
}

impl HistogramInner {
    pub(super) fn new(
        meta: Arc<Meta>,
        unit: Unit,
        buckets: Option<Arc<[f64]>>,
        slots: usize,
        store: Weak<Store>,
    ) -> Self {
        HistogramInner {
            meta,
            unit,
            buckets,
            store,
            slots: (0..slots).map(|_| OnceLock::new()).collect(),
            merged: Mutex::default(),
        }
    }

    /// The upper bounds shown.
    pub(super) fn bounds(&self) -> &[f64] {
        self.buckets.as_deref().unwrap_or(&BUCKETS)
    }

    /// What values are multiplied with to be shown.
    pub(super) fn scale(&self) -> f64 {
        if self.unit == Unit::Percent { 1e-6 } else { 1.0 }
    }

    fn record(&self, value: u64) {
        let own = slot();
        let shared = own == 0 || own >= self.slots.len();
        if let Some(slot) = self.slots.get(if shared { 0 } else { own }) {
            slot.get_or_init(Box::default).record(value, shared);
        }
    }

    /// Whether anything was ever recorded.
    pub(super) fn used(&self) -> bool {
        self.slots.iter().any(|slot| slot.get().is_some())
    }

    /// Everything recorded so far.
    pub(super) fn cumulative(&self) -> Counts {
        let mut counts = Counts::new();
        self.slots.iter().filter_map(OnceLock::get).for_each(|slot| slot.add_to(&mut counts));
        counts
    }

    /// What was recorded in the last whole interval.
    pub(super) fn interval(&self) -> Counts {
        self.merged.lock().interval.clone()
    }

    pub(super) fn flush(&self) {
        let now = self.cumulative();
        let mut merged = self.merged.lock();
        let before = |bin: &u16| merged.cumulative.get(bin).copied().unwrap_or(0);
        let interval = now.iter().map(|(bin, n)| (*bin, n.wrapping_sub(before(bin)))).filter(|(_, n)| *n > 0).collect();
        *merged = Merged { cumulative: now, interval };
    }
}

impl Drop for HistogramInner {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            store.release_histogram(&self.meta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::set_slot;
    use proptest::prelude::*;

    fn histogram(store: &Arc<Store>) -> Arc<HistogramInner> {
        store.root().histogram("h", Unit::Milliseconds).0.unwrap()
    }

    fn counts(values: &[u64]) -> Counts {
        let mut counts = Counts::new();
        values.iter().for_each(|v| *counts.entry(bins::bin_of(*v)).or_default() += 1);
        counts
    }

    #[test]
    fn intervals_are_what_came_since_the_last_flush() {
        let store = Store::new(2, &Default::default());
        let h = histogram(&store);
        assert!(!h.used());
        h.record(5);
        store.flush();
        assert_eq!((h.interval(), h.cumulative()), (counts(&[5]), counts(&[5])));
        h.record(5);
        h.record(7_000);
        store.flush();
        assert_eq!((h.interval(), h.cumulative()), (counts(&[5, 7_000]), counts(&[5, 5, 7_000])));
        store.flush();
        assert_eq!(h.interval(), Counts::new());
    }

    #[test]
    fn quantiles_as_envoy_shows_them() {
        // Seen on Envoy 1.40: connections of 1, 1, 1, 5 and 45 ms.
        let counts = counts(&[1, 1, 1, 5, 45]);
        let summary = Summary { counts: &counts, scale: 1.0 };
        assert_eq!(summary.quantiles(&[0.0, 0.25, 0.5, 0.75, 0.9, 1.0]), [1.025, 1.05, 1.075, 5.05, 45.5, 45.5]);
        assert_eq!(summary.cumulative(&[0.5, 1.0, 4.9, 5.0, 44.9, 45.0]), [0, 3, 3, 4, 4, 5]);
        // 2 and 44 ms.
        let counts = super::tests::counts(&[2, 44]);
        let summary = Summary { counts: &counts, scale: 1.0 };
        assert_eq!(summary.sum(), 46.543_162_510_276_79);
        let none = Counts::new();
        assert!(Summary { counts: &none, scale: 1.0 }.quantiles(&[0.5])[0].is_nan());
    }

    proptest! {
        #[test]
        fn slots_merge_to_the_same_as_one(values in prop::collection::vec((1..4usize, any::<u64>(), 0..64u32), 0..200)) {
            let store = Store::new(4, &Default::default());
            let h = histogram(&store);
            let values: Vec<_> = values.into_iter().map(|(slot, v, shift)| (slot, v >> shift)).collect();
            std::thread::scope(|s| {
                for slot in 1..4 {
                    let (h, values) = (&h, &values);
                    s.spawn(move || {
                        set_slot(slot);
                        values.iter().filter(|(s, _)| *s == slot).for_each(|(_, v)| h.record(*v));
                    });
                }
            });
            let all: Vec<u64> = values.iter().map(|(_, v)| *v).collect();
            prop_assert_eq!(h.cumulative(), counts(&all));
        }

        #[test]
        fn quantiles_are_near_the_true_ones(mut values in prop::collection::vec(1..1_000_000u64, 1..300), q in 0.0..=1.0f64) {
            let counts = counts(&values);
            let shown = Summary { counts: &counts, scale: 1.0 }.quantiles(&[q])[0];
            values.sort_unstable();
            let rank = (q * values.len() as f64).ceil().max(1.0) as usize;
            let truth = values[rank - 1] as f64;
            prop_assert!((shown - truth).abs() <= truth / 10.0 + 0.1, "{} for {}", shown, truth);
        }

        #[test]
        fn the_sum_is_within_five_percent(values in prop::collection::vec(0..1_000_000u64, 0..300)) {
            let counts = counts(&values);
            let summary = Summary { counts: &counts, scale: 1.0 };
            let truth = values.iter().sum::<u64>() as f64;
            prop_assert!((summary.sum() - truth).abs() <= truth * 0.05 + 1e-9);
            prop_assert_eq!(summary.count(), values.len() as u64);
        }
    }
}
