//! Stats: counters, gauges, histograms and text readouts under Envoy's names, and their output formats.
//!
//! Owns the process-wide registry ([`Store`]) and the cells that workers write. A handle ([`Counter`], [`Gauge`],
//! [`Histogram`]) is resolved once, when configuration is built; using it costs a thread-local read and a relaxed load and
//! store to a cell no other thread writes: no lock prefix, no look-up, no allocation. A metric lives as long as a handle to
//! it: stats of a removed cluster leave the output with the cluster.
//!
//! Stats are for people and scrapers: a stat that `stats_matcher` rejects is a handle that does nothing, so no decision of
//! the data path may be made by reading one.
//!
//! Runs on: workers write, each in its own slot (see [`set_slot`]); the control thread creates, sums and prints.

mod cells;
mod codes;
mod histogram;
mod lazy;
mod metric;
mod output;
mod registry;
mod scope;
mod store;

pub use cells::set_slot;
pub use codes::CodeStats;
pub use histogram::{Histogram, Unit};
pub use lazy::LazyCounters;
pub use metric::{Counter, Gauge, TextReadout};
pub use output::{HistogramView, Query, StatType};
pub use registry::Tags;
pub use scope::Scope;
pub use store::Store;
