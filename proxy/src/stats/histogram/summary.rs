//! What a scrape tells of a histogram, computed as circllhist does: bins are half-open ranges, and the values within one are
//! taken to lie evenly in it.

use super::Counts;
use super::bins::{left, width};

/// The quantiles Envoy shows, in percent.
pub(in crate::stats) const PERCENTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// The upper bounds Envoy shows where none are configured: milliseconds from half a one to an hour.
pub(in crate::stats) const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// Bins of a histogram, and what their values are multiplied with to be shown.
pub(in crate::stats) struct Summary<'a> {
    pub(in crate::stats) counts: &'a Counts,
    /// 1, or one millionth for percentages.
    pub(in crate::stats) scale: f64,
}

impl Summary<'_> {
    /// How many values there are.
    pub(in crate::stats) fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The sum, each value taken for its bin's middle (the one that halves the relative error).
    pub(in crate::stats) fn sum(&self) -> f64 {
        let middle = |bin| {
            let (left, width) = (left(bin), width(bin));
            if left == 0.0 { 0.0 } else { left + width * (left / (left + left + width)) }
        };
        self.counts.iter().map(|(bin, n)| middle(*bin) * *n as f64).sum::<f64>() * self.scale
    }

    /// The quantiles, each in `0.0..=1.0` and in ascending order; NaN where there are no values.
    pub(in crate::stats) fn quantiles(&self, wanted: &[f64]) -> Vec<f64> {
        let total = self.count();
        let mut bins = self.counts.iter().filter(|(_, n)| **n > 0).peekable();
        let mut below = 0;
        let quantile = |q: &f64| {
            let rank = (q * total as f64).ceil().max(1.0);
            while let Some((_, n)) = bins.peek()
                && rank > (below + **n) as f64
            {
                below += **n;
                bins.next();
            }
            let Some((bin, n)) = bins.peek() else { return f64::NAN };
            let within = (rank - below as f64) / (**n as f64 + 1.0);
            (left(**bin) + width(**bin) * within) * self.scale
        };
        wanted.iter().map(quantile).collect()
    }

    /// How many values lie at or below each bound; a bin that holds the bound counts as a whole.
    pub(in crate::stats) fn cumulative(&self, bounds: &[f64]) -> Vec<u64> {
        let below = |bound: &f64| {
            let bins = self.counts.iter().take_while(|(bin, _)| left(**bin) * self.scale <= *bound);
            bins.map(|(_, n)| n).sum()
        };
        bounds.iter().map(below).collect()
    }

    /// Lower bound, width and count of each bin that has values.
    pub(in crate::stats) fn bins(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        let bins = self.counts.iter().filter(|(_, n)| **n > 0);
        bins.map(|(bin, n)| (left(*bin) * self.scale, width(*bin) * self.scale, *n))
    }
}
