//! `/stats?format=json`. Written by hand, for Envoy's order of fields and form of numbers.

use std::fmt::Write;

use super::number::json as number;
use super::{Collected, HistogramView};
use crate::stats::histogram::{HistogramInner, PERCENTILES, Summary};
use crate::stats::registry::Meta;

pub(super) fn render(stats: &Collected, view: HistogramView) -> String {
    let texts =
        stats.texts.iter().map(|(meta, text)| format!("{{\"name\":{},\"value\":{}}}", name(meta), quoted(text)));
    let numbers = stats.numbers.iter().map(|n| format!("{{\"name\":{},\"value\":{}}}", name(&n.meta), n.value));
    let mut all: Vec<String> = texts.chain(numbers).collect();
    if !stats.histograms.is_empty() {
        all.push(histograms(stats, view));
    }
    format!("{{\"stats\":[{}]}}", all.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn name(meta: &Meta) -> String {
    quoted(&meta.full_name())
}

fn histograms(stats: &Collected, view: HistogramView) -> String {
    let each = |f: &dyn Fn(&HistogramInner) -> String| join(stats.histograms.iter().map(|h| f(h)));
    let percentiles = join(PERCENTILES.iter().map(|p| number(*p)));
    match view {
        HistogramView::Default | HistogramView::Summary => {
            let all = each(&|h| format!("{{\"name\":{},\"values\":[{}]}}", name(&h.meta), quantiles(h)));
            format!("{{\"histograms\":{{\"supported_quantiles\":[{percentiles}],\"computed_quantiles\":[{all}]}}}}")
        }
        HistogramView::Cumulative | HistogramView::Disjoint => {
            let all = each(&|h| format!("{{\"name\":{},\"buckets\":[{}]}}", name(&h.meta), buckets(h, view)));
            format!("{{\"histograms\":[{all}]}}")
        }
        HistogramView::Detailed => {
            let all = each(&detailed);
            format!("{{\"histograms\":{{\"supported_percentiles\":[{percentiles}],\"details\":[{all}]}}}}")
        }
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn quantiles(histogram: &HistogramInner) -> String {
    let wanted = PERCENTILES.map(|p| p / 100.0);
    let (interval, cumulative) = (histogram.interval(), histogram.cumulative());
    let interval = Summary { counts: &interval, scale: histogram.scale() }.quantiles(&wanted);
    let cumulative = Summary { counts: &cumulative, scale: histogram.scale() }.quantiles(&wanted);
    let value = |(now, ever)| format!("{{\"cumulative\":{},\"interval\":{}}}", number(ever), number(now));
    join(interval.into_iter().zip(cumulative).map(value))
}

fn buckets(histogram: &HistogramInner, view: HistogramView) -> String {
    let (interval, cumulative) = (histogram.interval(), histogram.cumulative());
    let bounds = histogram.bounds();
    let interval = Summary { counts: &interval, scale: histogram.scale() }.buckets(bounds, view);
    let cumulative = Summary { counts: &cumulative, scale: histogram.scale() }.buckets(bounds, view);
    let mut out = String::new();
    for (bound, (now, ever)) in bounds.iter().zip(interval.into_iter().zip(cumulative)) {
        let comma = if out.is_empty() { "" } else { "," };
        let bound = number(*bound);
        // Writing to a string cannot fail.
        let _ = write!(out, "{comma}{{\"upper_bound\":{bound},\"interval\":{now},\"cumulative\":{ever}}}");
    }
    out
}

fn detailed(histogram: &HistogramInner) -> String {
    let bins = |counts| {
        let bin = |(left, width, n)| {
            format!("{{\"lower_bound\":{},\"width\":{},\"count\":{n}}}", number(left), number(width))
        };
        join(Summary { counts, scale: histogram.scale() }.bins().map(bin))
    };
    let (totals, intervals) = (bins(&histogram.cumulative()), bins(&histogram.interval()));
    let (name, percentiles) = (name(&histogram.meta), quantiles(histogram));
    format!("{{\"name\":{name},\"totals\":[{totals}],\"intervals\":[{intervals}],\"percentiles\":[{percentiles}]}}")
}
