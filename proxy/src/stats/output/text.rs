//! `/stats` as text.

use std::fmt::Write;

use super::number::{general, shortest};
use super::{Collected, HistogramView};
use crate::stats::histogram::{HistogramInner, PERCENTILES, Summary};

pub(super) fn render(stats: &Collected, view: HistogramView) -> String {
    let mut out = String::with_capacity(64 * stats.numbers.len());
    for (meta, text) in &stats.texts {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}{}: \"{}\"", meta.scope.prefix, meta.name, html_escape(text));
    }
    for number in &stats.numbers {
        let _ = writeln!(out, "{}{}: {}", number.meta.scope.prefix, number.meta.name, number.value);
    }
    for histogram in &stats.histograms {
        let _ = write!(out, "{}{}:", histogram.meta.scope.prefix, histogram.meta.name);
        histogram_line(&mut out, histogram, view);
    }
    out
}

/// As Envoy does to texts it did not write itself.
fn html_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn histogram_line(out: &mut String, histogram: &HistogramInner, view: HistogramView) {
    let (interval, cumulative) = (histogram.interval(), histogram.cumulative());
    if cumulative.is_empty() {
        out.push_str(" No recorded values\n");
        return;
    }
    let interval = Summary { counts: &interval, scale: histogram.scale() };
    let cumulative = Summary { counts: &cumulative, scale: histogram.scale() };
    match view {
        HistogramView::Default | HistogramView::Summary => quantiles(out, " ", &interval, &cumulative),
        HistogramView::Cumulative | HistogramView::Disjoint => {
            buckets(out, histogram.bounds(), &interval, &cumulative, view)
        }
        HistogramView::Detailed => {
            let bins = |s: &Summary| {
                let bin = |(left, width, n)| format!("{},{}:{n}", shortest(left), shortest(width));
                s.bins().map(bin).collect::<Vec<_>>().join(", ")
            };
            let _ = write!(out, "\n  totals={}\n  intervals={}\n  summary=", bins(&cumulative), bins(&interval));
            quantiles(out, "", &interval, &cumulative);
        }
    }
    out.push('\n');
}

fn quantiles(out: &mut String, before: &str, interval: &Summary<'_>, cumulative: &Summary<'_>) {
    let wanted = PERCENTILES.map(|p| p / 100.0);
    let values = interval.quantiles(&wanted).into_iter().zip(cumulative.quantiles(&wanted));
    for (i, (p, (now, ever))) in PERCENTILES.iter().zip(values).enumerate() {
        let space = if i == 0 { before } else { " " };
        let _ = write!(out, "{space}P{p}({},{})", shortest(now), shortest(ever));
    }
}

fn buckets(out: &mut String, bounds: &[f64], interval: &Summary<'_>, cumulative: &Summary<'_>, view: HistogramView) {
    let counts = interval.buckets(bounds, view).into_iter().zip(cumulative.buckets(bounds, view));
    for (bound, (now, ever)) in bounds.iter().zip(counts) {
        let _ = write!(out, " B{}({now},{ever})", general(*bound, 6));
    }
}

impl Summary<'_> {
    /// Counts up to each bound, or between two bounds.
    pub(super) fn buckets(&self, bounds: &[f64], view: HistogramView) -> Vec<u64> {
        let mut counts = self.cumulative(bounds);
        if view == HistogramView::Disjoint {
            for i in (1..counts.len()).rev() {
                counts[i] -= counts[i - 1];
            }
        }
        counts
    }
}
