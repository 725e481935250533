//! What `/stats` and `/stats/prometheus` print, in Envoy's formats.
//!
//! Runs on: the control thread. The registry is locked only while values are collected, not while they are sorted and printed.

mod json;
mod number;
mod prometheus;
mod tags;
mod text;

use std::sync::Arc;

use super::Store;
use super::histogram::HistogramInner;
use super::metric::gauge_value;
use super::registry::{Kind, Meta};

pub(super) use tags::Extractor;

/// Which stats are wanted, and how histograms are shown.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only stats that were ever written.
    pub used_only: bool,
    /// Only stats whose name matches somewhere.
    pub filter: Option<regex::Regex>,
    /// Only stats that `filter` does not match.
    pub invert_filter: bool,
    /// Only this type.
    pub stat_type: StatType,
    /// How histograms are shown.
    pub histograms: HistogramView,
    /// Prometheus: text readouts too.
    pub text_readouts: bool,
}

/// Types of stats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatType {
    /// Every type.
    #[default]
    All,
    /// Counters.
    Counters,
    /// Gauges.
    Gauges,
    /// Histograms.
    Histograms,
    /// Text readouts.
    TextReadouts,
}

/// How histograms are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HistogramView {
    /// Nothing said: quantiles in text and JSON, cumulative buckets for Prometheus.
    #[default]
    Default,
    /// Quantiles.
    Summary,
    /// Values up to each bound.
    Cumulative,
    /// Values between two bounds.
    Disjoint,
    /// Every bin, and quantiles.
    Detailed,
}

/// A counter's or gauge's value.
struct Number {
    meta: Arc<Meta>,
    value: u64,
}

/// What matched a query, each list sorted by name.
struct Collected {
    texts: Vec<(Arc<Meta>, Arc<str>)>,
    numbers: Vec<Number>,
    histograms: Vec<Arc<HistogramInner>>,
}

impl Query {
    fn wants(&self, kind: Kind) -> bool {
        match self.stat_type {
            StatType::All => true,
            StatType::Counters => kind == Kind::Counter,
            StatType::Gauges => kind == Kind::Gauge,
            StatType::Histograms => kind == Kind::Histogram,
            StatType::TextReadouts => kind == Kind::Text,
        }
    }

    fn passes(&self, meta: &Meta) -> bool {
        let matches = |filter: &regex::Regex| filter.is_match(&meta.full_name()) != self.invert_filter;
        self.filter.as_ref().is_none_or(matches)
    }

    fn collect(&self, store: &Store) -> Collected {
        let (mut numbers, histograms, texts) = {
            let registry = store.registry();
            (self.numbers(&registry.chunks), registry.histograms(), registry.texts())
        };
        numbers.retain(|n| self.passes(&n.meta));
        numbers.sort_by(|a, b| a.meta.by_name(&b.meta));
        let wanted = |h: &Arc<HistogramInner>| {
            self.wants(Kind::Histogram) && (!self.used_only || h.used()) && self.passes(&h.meta)
        };
        let mut histograms: Vec<_> = histograms.into_iter().filter(wanted).collect();
        histograms.sort_by(|a, b| a.meta.by_name(&b.meta));
        let texts = texts.into_iter().filter(|t| self.wants(Kind::Text) && self.passes(&t.meta));
        let texts = texts.map(|t| (t.meta.clone(), t.text.lock().clone()));
        let texts = texts.filter(|(_, text)| !self.used_only || text.is_some());
        let mut texts: Vec<_> = texts.map(|(meta, text)| (meta, text.unwrap_or_default())).collect();
        texts.sort_by(|(a, _), (b, _)| a.by_name(b));
        Collected { texts, numbers, histograms }
    }

    fn numbers(&self, chunks: &[Option<super::registry::ChunkEntry>]) -> Vec<Number> {
        let mut numbers = Vec::new();
        for entry in chunks.iter().flatten() {
            for (index, meta) in entry.metas.iter().enumerate() {
                let Some(meta) = meta.as_ref().filter(|m| self.wants(m.kind)) else { continue };
                if self.used_only && !entry.chunk.used(index) {
                    continue;
                }
                let total = entry.chunk.total(index);
                let value = if meta.kind == Kind::Gauge { gauge_value(total) } else { total };
                numbers.push(Number { meta: meta.clone(), value });
            }
        }
        numbers
    }
}

impl Store {
    /// `name: value` lines, sorted: text readouts, then counters and gauges, then histograms.
    pub fn text(&self, query: &Query) -> String {
        text::render(&query.collect(self), query.histograms)
    }

    /// The same as JSON.
    pub fn json(&self, query: &Query) -> String {
        json::render(&query.collect(self), query.histograms)
    }

    /// The Prometheus exposition format.
    ///
    /// # Errors
    /// Envoy's message where Prometheus has no form of the histogram view asked for.
    pub fn prometheus(&self, query: &Query) -> Result<String, &'static str> {
        match query.histograms {
            HistogramView::Disjoint | HistogramView::Detailed => Err("unsupported prometheus histogram bucket mode"),
            view => Ok(prometheus::render(&query.collect(self), self.extractor(), query, view)),
        }
    }

    /// The value of a counter or gauge by its full name, if there is one; for tests and the dashboard.
    pub fn value(&self, name: &str) -> Option<u64> {
        let all = Query::default().numbers(&self.registry().chunks);
        all.into_iter().find(|n| n.meta.full_name() == name).map(|n| n.value)
    }
}

#[cfg(test)]
mod tests;
