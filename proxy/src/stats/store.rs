//! The process-wide registry of stats.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::cells::{CellRef, Chunk};
use super::histogram::{HistogramInner, Unit};
use super::metric::TextInner;
use super::output::Extractor;
use super::registry::{Kind, Meta, Registry};
use super::scope::Scope;
use crate::config;

/// All stats of a process (or of one test).
pub struct Store {
    slots: usize,
    config: config::StatsConfig,
    extractor: Extractor,
    registry: Mutex<Registry>,
    this: Weak<Store>,
}

impl Store {
    /// A registry for `slots` writing threads: the workers and one for the control thread.
    pub fn new(slots: usize, config: &config::StatsConfig) -> Arc<Store> {
        Arc::new_cyclic(|this| Store {
            slots: slots.max(1),
            config: config.clone(),
            extractor: Extractor::new(config),
            registry: Mutex::default(),
            this: this.clone(),
        })
    }

    /// The scope without a prefix.
    pub fn root(self: &Arc<Self>) -> Scope {
        Scope::root(self.clone())
    }

    /// Whether `stats_matcher` rejects a stat.
    pub(super) fn rejects(&self, prefix: &str, name: &str) -> bool {
        let any = |list: &[config::StringMatcher]| {
            let name = [prefix, name].concat();
            list.iter().any(|m| m.matches(&name))
        };
        match &self.config.matcher {
            config::StatsMatcher::All => false,
            config::StatsMatcher::None => true,
            config::StatsMatcher::Inclusion(list) => !any(list),
            config::StatsMatcher::Exclusion(list) => any(list),
        }
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    pub(super) fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    pub(super) fn intern(&self, name: &str) -> Arc<str> {
        self.registry.lock().intern(name)
    }

    pub(super) fn cell(&self, meta: Meta) -> Option<CellRef> {
        self.registry.lock().cell(Arc::new(meta), self.slots, &self.this)
    }

    pub(super) fn histogram(&self, meta: Meta, unit: Unit) -> Arc<HistogramInner> {
        let name = if self.config.buckets.is_empty() { String::new() } else { meta.full_name() };
        let buckets = self.config.buckets.iter().find(|(matcher, _)| matcher.matches(&name));
        let buckets = buckets.map(|(_, bounds)| bounds.as_slice().into());
        let make = |meta| HistogramInner::new(meta, unit, buckets, self.slots, self.this.clone());
        self.registry.lock().histogram(Arc::new(meta), make)
    }

    pub(super) fn text_cell(&self, meta: Meta) -> Arc<TextInner> {
        let make = |meta| TextInner { meta, store: self.this.clone(), text: Mutex::default() };
        self.registry.lock().text(Arc::new(meta), make)
    }

    pub(super) fn release(&self, chunk: &Arc<Chunk>, index: usize) {
        self.registry.lock().release(chunk, index);
    }

    pub(super) fn release_histogram(&self, meta: &Arc<Meta>) {
        self.registry.lock().release_histogram(meta);
    }

    pub(super) fn release_text(&self, meta: &Arc<Meta>) {
        self.registry.lock().release_text(meta);
    }

    /// Ends an interval of every histogram: what was recorded since the last call becomes the interval view. The control
    /// thread calls it every `stats_flush_interval` (5 s).
    pub fn flush(&self) {
        let histograms = self.registry.lock().histograms();
        histograms.iter().for_each(|h| h.flush());
    }

    /// Makes every counter zero. Histograms and gauges stay, as Envoy has it.
    pub fn reset_counters(&self) {
        let registry = self.registry.lock();
        for entry in registry.chunks.iter().flatten() {
            let counters = entry.metas.iter().enumerate();
            let counters = counters.filter(|(_, m)| m.as_ref().is_some_and(|m| m.kind == Kind::Counter));
            counters.for_each(|(index, _)| entry.chunk.reset(index));
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("slots", &self.slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Counter, set_slot};

    fn metrics(store: &Store) -> usize {
        let registry = store.registry.lock();
        registry.chunks.iter().flatten().map(|e| e.metas.iter().flatten().count()).sum()
    }

    #[test]
    fn the_same_name_is_the_same_cell_however_it_is_split() {
        let store = Store::new(2, &config::StatsConfig::default());
        let a = store.root().scope("http.in").counter("rbac.allowed");
        let b = store.root().scope("http").scope("in.rbac").counter("allowed");
        a.inc();
        b.add(2);
        assert_eq!((a.value(), b.value()), (3, 3));
        assert_eq!(store.root().gauge("http.in.rbac.allowed").value(), 0, "another kind, another metric");
    }

    #[test]
    fn slots_are_summed_and_reset_leaves_them_alone() {
        let store = Store::new(3, &config::StatsConfig::default());
        let (counter, gauge) = (store.root().counter("c"), store.root().gauge("g"));
        std::thread::scope(|s| {
            // One more than there are slots: it shares slot 0.
            for slot in 0..4 {
                let (counter, gauge) = (&counter, &gauge);
                s.spawn(move || {
                    set_slot(slot);
                    (0..1000).for_each(|_| counter.inc());
                    gauge.add(if slot % 2 == 0 { 10 } else { -4 });
                });
            }
        });
        assert_eq!((counter.value(), gauge.value()), (4000, 12));
        store.reset_counters();
        counter.inc();
        assert_eq!((counter.value(), gauge.value()), (1, 12));
        gauge.set(7);
        gauge.sub(8);
        assert_eq!(gauge.value(), 0, "never shown below zero");
    }

    #[test]
    fn metrics_go_with_their_last_handle_and_cells_are_used_again() {
        let store = Store::new(1, &config::StatsConfig::default());
        let keep = store.root().counter("keep");
        for round in 0..10 {
            let scope = store.root().tagged("cluster", "envoy.cluster_name", &round.to_string());
            let handles: Vec<Counter> = (0..200).map(|i| scope.counter(&format!("c{i}"))).collect();
            handles.iter().for_each(|c| assert_eq!(c.value(), 0));
            handles.iter().for_each(Counter::inc);
            let copy = handles[3].clone();
            drop(handles);
            assert_eq!(metrics(&store), 2, "keep and the copy");
            assert_eq!(scope.counter("c3").value(), 1);
            drop(copy);
        }
        assert_eq!(metrics(&store), 1);
        assert!(store.registry.lock().chunks.len() <= 5, "chunks are reused");
        assert_eq!(keep.value(), 0);
    }

    #[test]
    fn rejected_stats_do_nothing() {
        let exclude = vec![config::StringMatcher::exact("a.x")];
        let config = config::StatsConfig { matcher: config::StatsMatcher::Exclusion(exclude), ..Default::default() };
        let store = Store::new(1, &config);
        let (x, y) = (store.root().scope("a").counter("x"), store.root().scope("a").counter("y"));
        x.inc();
        y.inc();
        assert_eq!((x.value(), y.value(), metrics(&store)), (0, 1, 1));
    }
}
