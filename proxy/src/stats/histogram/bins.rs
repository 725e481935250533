//! Bins: which one a value falls into, what a bin stands for, and one slot's counts.
//!
//! Bin 0 is zero, bins 1..=99 are the integers themselves, and each further decade has 90 bins: values that agree in their
//! two leading digits share one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Counts;

/// Bins below 100.
const UNITS: usize = 100;
/// Bins of each further decade.
const DECADE: usize = 90;
/// Decades from 100 to 2^64.
const DECADES: usize = 18;

/// The bin of a value.
#[inline]
pub(super) fn bin_of(value: u64) -> u16 {
    let (mut value, mut decade) = (value, 0);
    while value >= 100 {
        value /= 10;
        decade += 1;
    }
    if decade == 0 { value as u16 } else { (UNITS + (decade - 1) * DECADE + value as usize - 10) as u16 }
}

/// A bin's leading digits (10..=99) and the decimal exponent of the first of them; `None`: the bin of zero.
fn digits(bin: u16) -> Option<(u16, i32)> {
    let above = usize::from(bin).checked_sub(UNITS);
    match (bin, above) {
        (0, _) => None,
        (1..10, _) => Some((bin * 10, 0)),
        (_, None) => Some((bin, 1)),
        (_, Some(above)) => Some(((above % DECADE + 10) as u16, (above / DECADE) as i32 + 2)),
    }
}

/// A bin's lower bound.
pub(super) fn left(bin: u16) -> f64 {
    digits(bin).map_or(0.0, |(digits, exponent)| f64::from(digits) / 10.0 * 10f64.powi(exponent))
}

/// How wide a bin is.
pub(super) fn width(bin: u16) -> f64 {
    digits(bin).map_or(0.0, |(_, exponent)| 10f64.powi(exponent) / 10.0)
}

/// Counts of one slot: the first hundred bins, and further decades.
#[derive(Default)]
pub(super) struct SlotBins {
    units: OnceLock<Box<[AtomicU64; UNITS]>>,
    decades: [OnceLock<Box<[AtomicU64; DECADE]>>; DECADES],
}

impl SlotBins {
    /// Counts a value; `shared`: other threads write here too.
    pub(super) fn record(&self, value: u64, shared: bool) {
        let bin = usize::from(bin_of(value));
        let cell = match bin.checked_sub(UNITS) {
            None => self.units.get_or_init(|| Box::new([const { AtomicU64::new(0) }; UNITS])).get(bin),
            Some(above) => self.decades.get(above / DECADE).and_then(|decade| {
                decade.get_or_init(|| Box::new([const { AtomicU64::new(0) }; DECADE])).get(above % DECADE)
            }),
        };
        match cell {
            Some(cell) if shared => drop(cell.fetch_add(1, Relaxed)),
            Some(cell) => cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed),
            None => {}
        }
    }

    /// Adds this slot's counts to `counts`.
    pub(super) fn add_to(&self, counts: &mut Counts) {
        let mut add = |first: usize, cells: &[AtomicU64]| {
            for (i, cell) in cells.iter().enumerate() {
                let n = cell.load(Relaxed);
                if n > 0 {
                    *counts.entry((first + i) as u16).or_default() += n;
                }
            }
        };
        if let Some(units) = self.units.get() {
            add(0, &units[..]);
        }
        for (i, decade) in self.decades.iter().enumerate() {
            if let Some(decade) = decade.get() {
                add(UNITS + i * DECADE, &decade[..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        for (value, bin, lower, wide) in [
            (0, 0, 0.0, 0.0),
            (1, 1, 1.0, 0.1),
            (9, 9, 9.0, 0.1),
            (10, 10, 10.0, 1.0),
            (99, 99, 99.0, 1.0),
            (100, 100, 100.0, 10.0),
            (109, 100, 100.0, 10.0),
            (999, 189, 990.0, 10.0),
            (1000, 190, 1000.0, 100.0),
        ] {
            assert_eq!((bin_of(value), left(bin), width(bin)), (bin, lower, wide), "{value}");
        }
        let last = bin_of(u64::MAX);
        assert_eq!(usize::from(last), UNITS + (DECADES - 1) * DECADE + 8, "18 of the last decade's 90");
        assert_eq!(left(last), 1.8e19);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bin(digits in 0..64u32, value: u64) {
            let value = value >> digits;
            let bin = bin_of(value);
            let (left, width) = (left(bin), width(bin));
            // One part in 2^50 for the conversion of large numbers.
            let slack = value as f64 * 1e-15;
            prop_assert!(left - slack <= value as f64 && (value as f64) <= left + width + slack);
            prop_assert!(value < 10 || width <= left / 10.0 + slack);
        }

        #[test]
        fn bins_are_in_order(a: u64, b: u64, shift in 0..64u32) {
            let (a, b) = (a >> shift, b >> shift);
            prop_assert_eq!(bin_of(a.min(b)).max(bin_of(a.max(b))), bin_of(a.max(b)));
        }
    }
}
