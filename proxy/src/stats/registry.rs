//! What metrics there are: names to cells, and which cells are free.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use super::Store;
use super::cells::{CHUNK_METRICS, CellRef, Chunk};
use super::histogram::HistogramInner;
use super::metric::TextInner;
use super::scope::ScopeInner;

/// Kinds of metrics; the same name may exist once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Text,
}

/// The name of a metric and what tells it from others of its family.
pub(super) struct Meta {
    pub(super) scope: Arc<ScopeInner>,
    /// What follows the scope's prefix.
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    /// Where the name itself holds tags: the name without them, and the tags.
    pub(super) tagged: Option<Box<TaggedName>>,
}

/// A metric's own tags, beside its scope's.
pub(super) struct TaggedName {
    pub(super) metric: Arc<str>,
    pub(super) tags: Tags,
    /// They were given and not found in the name: no rule takes them away or adds any.
    pub(super) labels: bool,
}

/// Names and values; metrics that have the same share them.
pub type Tags = Arc<[(Cow<'static, str>, Box<str>)]>;

impl Meta {
    /// The full name: `cluster.foo.upstream_rq_total`.
    pub(super) fn full_name(&self) -> String {
        [&*self.scope.prefix, &*self.name].concat()
    }

    /// The order of full names.
    pub(super) fn by_name(&self, other: &Meta) -> std::cmp::Ordering {
        self.bytes().cmp(other.bytes())
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.scope.prefix.bytes().chain(self.name.bytes())
    }
}

/// A metric by its full name, wherever the line between scope and name was drawn.
struct ByName(Arc<Meta>);

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // FNV-1a first, so that the result cannot depend on how the name is split.
        let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        state.write_u64(self.0.bytes().fold(0xcbf2_9ce4_8422_2325, fnv));
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind == other.0.kind && self.0.bytes().eq(other.0.bytes())
    }
}

impl Eq for ByName {}

/// A chunk and what its cells are for.
pub(super) struct ChunkEntry {
    pub(super) chunk: Arc<Chunk>,
    pub(super) metas: Box<[Option<Arc<Meta>>; CHUNK_METRICS]>,
    /// Free cells, a bit each.
    free: u64,
}

/// All metrics of a [`Store`]; behind its lock.
#[derive(Default)]
pub(super) struct Registry {
    names: HashSet<Arc<str>>,
    cells: HashMap<ByName, (u32, u8)>,
    pub(super) chunks: Vec<Option<ChunkEntry>>,
    /// The chunk new metrics are put into.
    current: Option<u32>,
    histograms: HashMap<ByName, Weak<HistogramInner>>,
    texts: HashMap<ByName, Weak<TextInner>>,
}

impl Registry {
    /// The shared copy of a name: a thousand clusters have the same few hundred.
    pub(super) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        self.names.insert(new.clone());
        new
    }

    /// The cells of a counter or gauge, made if there are none.
    pub(super) fn cell(&mut self, meta: Arc<Meta>, slots: usize, store: &Weak<Store>) -> Option<CellRef> {
        let key = ByName(meta.clone());
        if let Some(&(id, index)) = self.cells.get(&key) {
            let entry = self.chunks.get(id as usize)?.as_ref()?;
            return Some(CellRef::new(entry.chunk.clone(), usize::from(index)));
        }
        let id = self.chunk_with_room(slots, store);
        let entry = self.chunks.get_mut(id as usize)?.as_mut()?;
        let index = entry.free.trailing_zeros() as usize % CHUNK_METRICS;
        entry.free &= !(1 << index);
        entry.chunk.clear(index);
        entry.metas[index] = Some(meta);
        let cell = CellRef::new(entry.chunk.clone(), index);
        self.cells.insert(key, (id, index as u8));
        Some(cell)
    }

    fn chunk_with_room(&mut self, slots: usize, store: &Weak<Store>) -> u32 {
        let free = |entry: &Option<ChunkEntry>| entry.as_ref().map_or(0, |e| e.free.count_ones());
        if let Some(id) = self.current
            && self.chunks.get(id as usize).is_some_and(|e| free(e) > 0)
        {
            return id;
        }
        // A chunk that is half empty is filled again before memory is asked for.
        let reusable = self.chunks.iter().position(|e| free(e) as usize >= CHUNK_METRICS / 2);
        let id = reusable.unwrap_or_else(|| {
            let id = self.chunks.iter().position(Option::is_none).unwrap_or(self.chunks.len());
            let chunk = Arc::new(Chunk::new(id as u32, slots, store.clone()));
            let entry = ChunkEntry { chunk, metas: Box::new([const { None }; CHUNK_METRICS]), free: u64::MAX };
            if id == self.chunks.len() {
                self.chunks.push(Some(entry));
            } else {
                self.chunks[id] = Some(entry);
            }
            id
        }) as u32;
        self.current = Some(id);
        id
    }

    /// Frees a metric's cells if there is still no handle to it: one may have been made since the last was dropped, and two
    /// droppers may come for the same metric.
    pub(super) fn release(&mut self, chunk: &Arc<Chunk>, index: usize) {
        let Some(place) = self.chunks.get_mut(chunk.id as usize) else { return };
        let Some(entry) = place.as_mut().filter(|e| Arc::ptr_eq(&e.chunk, chunk)) else { return };
        if !chunk.unreferenced(index) {
            return;
        }
        let Some(meta) = entry.metas[index].take() else { return };
        entry.free |= 1 << index;
        if entry.free == u64::MAX && self.current != Some(chunk.id) {
            *place = None;
        }
        self.forget_name(&meta);
        self.cells.remove(&ByName(meta));
    }

    fn forget_name(&mut self, meta: &Meta) {
        for name in [Some(&meta.name), meta.tagged.as_ref().map(|t| &t.metric)].into_iter().flatten() {
            // Ours, the set's.
            if Arc::strong_count(name) <= 2 {
                self.names.remove(&**name);
            }
        }
    }

    /// A histogram by name, or the one that `make` makes. The result must not be dropped under the registry's lock.
    pub(super) fn histogram(
        &mut self,
        meta: Arc<Meta>,
        make: impl FnOnce(Arc<Meta>) -> HistogramInner,
    ) -> Arc<HistogramInner> {
        let key = ByName(meta.clone());
        if let Some(known) = self.histograms.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(make(meta));
        self.histograms.insert(key, Arc::downgrade(&new));
        new
    }

    /// Forgets a histogram that was dropped, unless another has taken its name meanwhile.
    pub(super) fn release_histogram(&mut self, meta: &Arc<Meta>) {
        let key = ByName(meta.clone());
        if self.histograms.get(&key).is_some_and(|h| h.strong_count() == 0) {
            self.histograms.remove(&key);
            self.forget_name(meta);
        }
    }

    /// A text readout by name, or the one that `make` makes. The result must not be dropped under the registry's lock.
    pub(super) fn text(&mut self, meta: Arc<Meta>, make: impl FnOnce(Arc<Meta>) -> TextInner) -> Arc<TextInner> {
        let key = ByName(meta.clone());
        if let Some(known) = self.texts.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(make(meta));
        self.texts.insert(key, Arc::downgrade(&new));
        new
    }

    /// Forgets a text readout that was dropped, unless another has taken its name meanwhile.
    pub(super) fn release_text(&mut self, meta: &Arc<Meta>) {
        let key = ByName(meta.clone());
        if self.texts.get(&key).is_some_and(|t| t.strong_count() == 0) {
            self.texts.remove(&key);
            self.forget_name(meta);
        }
    }

    /// Every histogram. The results must not be dropped under the registry's lock.
    pub(super) fn histograms(&self) -> Vec<Arc<HistogramInner>> {
        self.histograms.values().filter_map(Weak::upgrade).collect()
    }

    /// Every text readout. The results must not be dropped under the registry's lock.
    pub(super) fn texts(&self) -> Vec<Arc<TextInner>> {
        self.texts.values().filter_map(Weak::upgrade).collect()
    }
}
