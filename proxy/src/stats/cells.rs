//! The cells behind counters and gauges: chunks of 64 metrics with a row of cells for each slot.
//!
//! A slot is one writing thread's place: slot 0 belongs to the control thread and to every thread that never said otherwise,
//! slots 1.. to the workers. Rows are aligned so that two slots never share a cache line, and metrics created one after the
//! other lie one after the other in each row.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use super::Store;

/// Metrics in a chunk: a row is 512 bytes, eight cache lines.
pub(super) const CHUNK_METRICS: usize = 64;

thread_local! {
    // The row this thread writes: its slot + 1, for row 0 holds what `/reset_counters` has taken off.
    static ROW: Cell<usize> = const { Cell::new(1) };
}

/// Says which slot the calling thread writes to; each worker calls it once, before it touches a stat, with a number of its
/// own from `1..slots`. Threads that never call it share slot 0, which is written with atomic additions.
pub fn set_slot(slot: usize) {
    ROW.set(slot + 1);
}

/// The slot of the calling thread.
#[inline]
pub(super) fn slot() -> usize {
    ROW.get() - 1
}

#[repr(align(64))]
struct Row([AtomicU64; CHUNK_METRICS]);

impl Row {
    fn new() -> Self {
        Row([const { AtomicU64::new(0) }; CHUNK_METRICS])
    }
}

/// Cells of up to 64 metrics in every slot.
pub(super) struct Chunk {
    /// Row 0 is subtracted from the sum of the others.
    rows: Box<[Row]>,
    /// Gauges that were ever touched, a bit each.
    touched: AtomicU64,
    /// Handles to each metric.
    refs: [AtomicU32; CHUNK_METRICS],
    /// Place in the registry.
    pub(super) id: u32,
    store: Weak<Store>,
}

impl Chunk {
    pub(super) fn new(id: u32, slots: usize, store: Weak<Store>) -> Self {
        Chunk {
            rows: (0..=slots).map(|_| Row::new()).collect(),
            touched: AtomicU64::new(0),
            refs: [const { AtomicU32::new(0) }; CHUNK_METRICS],
            id,
            store,
        }
    }

    #[inline]
    fn add(&self, index: usize, n: u64) {
        let row = ROW.get();
        if row > 1
            && let Some(row) = self.rows.get(row)
        {
            // The only writer of this cell: a plain load and store, which other threads may read at any moment.
            let cell = &row.0[index];
            cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
        } else if let Some(row) = self.rows.get(1) {
            row.0[index].fetch_add(n, Relaxed);
        }
    }

    /// The sum over all slots, without what was reset.
    pub(super) fn total(&self, index: usize) -> u64 {
        self.raw(index).wrapping_sub(self.rows.first().map_or(0, |base| base.0[index].load(Relaxed)))
    }

    fn raw(&self, index: usize) -> u64 {
        self.rows.iter().skip(1).fold(0, |sum, row| sum.wrapping_add(row.0[index].load(Relaxed)))
    }

    /// Makes the total zero without writing to any worker's cell.
    pub(super) fn reset(&self, index: usize) {
        if let Some(base) = self.rows.first() {
            base.0[index].store(self.raw(index), Relaxed);
        }
    }

    /// Whether a counter was ever incremented, or a gauge ever touched.
    pub(super) fn used(&self, index: usize) -> bool {
        self.touched.load(Relaxed) & (1 << index) != 0 || self.raw(index) != 0
    }

    /// Prepares a place for a new metric; under the registry's lock, while there is no handle to it.
    pub(super) fn clear(&self, index: usize) {
        self.rows.iter().for_each(|row| row.0[index].store(0, Relaxed));
        self.touched.fetch_and(!(1 << index), Relaxed);
    }

    /// Whether no handle to the metric is left.
    pub(super) fn unreferenced(&self, index: usize) -> bool {
        self.refs[index].load(std::sync::atomic::Ordering::Acquire) == 0
    }
}

/// A counted reference to one metric's cells.
pub(super) struct CellRef {
    chunk: Arc<Chunk>,
    index: u32,
}

impl CellRef {
    /// A first or further reference; under the registry's lock.
    pub(super) fn new(chunk: Arc<Chunk>, index: usize) -> Self {
        chunk.refs[index].fetch_add(1, Relaxed);
        CellRef { chunk, index: index as u32 }
    }

    #[inline]
    fn index(&self) -> usize {
        // The mask tells the compiler what `new` has shown.
        self.index as usize % CHUNK_METRICS
    }

    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.chunk.add(self.index(), n);
    }

    /// Marks a gauge as used.
    #[inline]
    pub(super) fn touch(&self) {
        let bit = 1 << self.index();
        if self.chunk.touched.load(Relaxed) & bit == 0 {
            self.chunk.touched.fetch_or(bit, Relaxed);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.chunk.total(self.index())
    }
}

impl Clone for CellRef {
    fn clone(&self) -> Self {
        CellRef::new(self.chunk.clone(), self.index())
    }
}

impl Drop for CellRef {
    fn drop(&mut self) {
        // Release: what this thread wrote happens before the registry clears the cells for another metric.
        let before = self.chunk.refs[self.index()].fetch_sub(1, std::sync::atomic::Ordering::Release);
        if before == 1
            && let Some(store) = self.chunk.store.upgrade()
        {
            store.release(&self.chunk, self.index());
        }
    }
}
