//! The Prometheus exposition format.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::number::general;
use super::tags::{Extracted, Extractor};
use super::{Collected, HistogramView, Query};
use crate::stats::histogram::{HistogramInner, PERCENTILES, Summary};
use crate::stats::registry::{Kind, Meta};

pub(super) fn render(stats: &Collected, extractor: &Extractor, query: &Query, view: HistogramView) -> String {
    let mut out = String::with_capacity(128 * stats.numbers.len());
    for (kind, name) in [(Kind::Counter, "counter"), (Kind::Gauge, "gauge")] {
        let numbers = stats.numbers.iter().filter(|n| n.meta.kind == kind);
        families(&mut out, extractor, name, numbers.map(|n| (&*n.meta, n)), |out, family, labels, number| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{family}{{{labels}}} {}", number.value);
        });
    }
    if query.text_readouts {
        families(
            &mut out,
            extractor,
            "gauge",
            stats.texts.iter().map(|t| (&*t.0, t)),
            |out, family, labels, (_, text)| {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = writeln!(out, "{family}{{{labels}{comma}text_value=\"{}\"}} 0", escape(text));
            },
        );
    }
    let summary = view == HistogramView::Summary;
    let (name, write) =
        if summary { ("summary", write_summary as WriteHistogram) } else { ("histogram", write_buckets as _) };
    let histograms = stats.histograms.iter().map(|h| (&*h.meta, &**h));
    families(&mut out, extractor, name, histograms, write);
    out
}

/// What metrics begin with whose name is not Envoy's (Istio's name for it).
const CUSTOM: &str = "istiocustom.";

type WriteHistogram = fn(&mut String, &str, &str, &HistogramInner);

/// Writes metrics in groups of the same name without tags, each under its `# TYPE` line.
fn families<'a, T: 'a>(
    out: &mut String,
    extractor: &Extractor,
    type_name: &str,
    metrics: impl Iterator<Item = (&'a Meta, T)>,
    write: impl Fn(&mut String, &str, &str, T),
) {
    let mut groups: BTreeMap<String, Vec<(String, T)>> = BTreeMap::new();
    for (meta, metric) in metrics {
        let Extracted { name, tags } = extractor.extract(meta);
        let labels = tags.iter().map(|(tag, value)| format!("{}=\"{}\"", sanitize(tag), escape(value)));
        groups.entry(name).or_default().push((labels.collect::<Vec<_>>().join(","), metric));
    }
    for (name, metrics) in groups {
        // What is not Envoy's has its own name, as in Envoy's custom namespaces.
        let family = match name.strip_prefix(CUSTOM) {
            Some(own) => sanitize(own),
            None => ["envoy_", &sanitize(&name)].concat(),
        };
        let _ = writeln!(out, "# TYPE {family} {type_name}");
        metrics.into_iter().for_each(|(labels, metric)| write(out, &family, &labels, metric));
    }
}

/// Everything but letters, digits and underscores becomes an underscore.
fn sanitize(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write_buckets(out: &mut String, family: &str, labels: &str, histogram: &HistogramInner) {
    let comma = if labels.is_empty() { "" } else { "," };
    let counts = histogram.cumulative();
    let summary = Summary { counts: &counts, scale: histogram.scale() };
    let bounds = histogram.bounds();
    for (bound, n) in bounds.iter().zip(summary.cumulative(bounds)) {
        let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"{}\"}} {n}", general(*bound, 32));
    }
    let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", summary.count());
    write_totals(out, family, labels, &summary);
}

/// The last interval's quantiles.
fn write_summary(out: &mut String, family: &str, labels: &str, histogram: &HistogramInner) {
    let comma = if labels.is_empty() { "" } else { "," };
    let counts = histogram.interval();
    let summary = Summary { counts: &counts, scale: histogram.scale() };
    let wanted = PERCENTILES.map(|p| p / 100.0);
    for (q, value) in wanted.iter().zip(summary.quantiles(&wanted)) {
        let (q, value) = (general(*q, 6), general(value, 32));
        let _ = writeln!(out, "{family}{{{labels}{comma}quantile=\"{q}\"}} {value}");
    }
    write_totals(out, family, labels, &summary);
}

fn write_totals(out: &mut String, family: &str, labels: &str, summary: &Summary<'_>) {
    let _ = writeln!(out, "{family}_sum{{{labels}}} {}", general(summary.sum(), 32));
    let _ = writeln!(out, "{family}_count{{{labels}}} {}", summary.count());
}
