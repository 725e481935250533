//! What each proxy gets, generated once for all that get the same.
//!
//! Owns the current world, the results by key, and their sharing. Must not know: streams and what they were sent.
//! Generating runs on blocking threads, as many at a time as there are processors, so that it delays neither streams nor probes.

mod share;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::generate::{Changes, Generator, Update};
use crate::metrics::Metrics;
use crate::node::Proxy;
use crate::resource::Resources;

use share::Shared;

/// How many changes back a result may be to be brought up to date by them; an older one is generated anew.
const HISTORY: usize = 64;

/// The worlds and what came of them.
pub struct Cache<G: Generator> {
    published: watch::Sender<Arc<Published<G>>>,
    entries: Mutex<HashMap<G::Key, Arc<Entry>>>,
    shared: Arc<Shared>,
    permits: Semaphore,
    metrics: Arc<Metrics>,
}

/// A world, numbered.
pub struct Published<G> {
    /// The world.
    pub world: Arc<G>,
    /// Counts worlds from 1.
    pub sequence: u64,
    /// When the first of the changes it brings was seen.
    pub seen_at: Instant,
    /// The last changes, oldest first, each with the sequence it led to.
    history: VecDeque<(u64, Arc<Changes>)>,
}

/// The result for one key.
#[derive(Default)]
struct Entry {
    computed: tokio::sync::Mutex<Option<Computed>>,
}

/// What a proxy gets in a world.
#[derive(Clone, Debug)]
pub struct Computed {
    /// The world.
    pub sequence: u64,
    /// What it gets.
    pub resources: Resources,
}

/// Keeps a result in the cache while somebody may ask for it again.
pub struct Lease<G: Generator> {
    cache: Arc<Cache<G>>,
    key: G::Key,
    entry: Arc<Entry>,
}

impl<G: Generator> Cache<G> {
    /// A cache that starts with `world`.
    #[must_use]
    pub fn new(world: Arc<G>, metrics: Arc<Metrics>) -> Arc<Self> {
        let first = Published { world, sequence: 1, seen_at: Instant::now(), history: VecDeque::new() };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            published: watch::Sender::new(Arc::new(first)),
            entries: Mutex::default(),
            shared: Arc::default(),
            permits: Semaphore::new(processors),
            metrics,
        })
    }

    /// Replaces the world; `changes` is all that differs from the one before. Returns its sequence.
    pub fn publish(&self, world: Arc<G>, changes: Changes, seen_at: Instant) -> u64 {
        let mut sequence = 0;
        self.published.send_modify(|published| {
            sequence = published.sequence + 1;
            let mut history = published.history.clone();
            history.push_back((sequence, Arc::new(changes)));
            if history.len() > HISTORY {
                history.pop_front();
            }
            *published = Arc::new(Published { world, sequence, seen_at, history });
        });
        sequence
    }

    /// The current world.
    #[must_use]
    pub fn current(&self) -> Arc<Published<G>> {
        self.published.borrow().clone()
    }

    /// Tells of each new world.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published<G>>> {
        self.published.subscribe()
    }

    /// How many different results there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether nobody has asked for anything that is still needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a proxy gets in the current world. `None`: generating failed, and there is no earlier result.
    ///
    /// # Cancel safety
    /// Dropped half-way, what was generated so far is lost to the cache and nothing else.
    pub async fn resources(self: &Arc<Self>, proxy: &Arc<Proxy>) -> Option<(Computed, Lease<G>)> {
        let published = self.current();
        let key = published.world.key(proxy);
        let entry = self.entries.lock().entry(key.clone()).or_default().clone();
        let lease = Lease { cache: self.clone(), key, entry: entry.clone() };
        let mut computed = entry.computed.lock().await;
        if computed.as_ref().is_none_or(|computed| computed.sequence < published.sequence) {
            let previous = computed.clone();
            match self.generate(published, proxy.clone(), previous).await {
                Some(fresh) => *computed = Some(fresh),
                None => self.metrics.generation_failures.add(1),
            }
        }
        computed.clone().map(|computed| (computed, lease))
    }

    async fn generate(
        &self,
        published: Arc<Published<G>>,
        proxy: Arc<Proxy>,
        previous: Option<Computed>,
    ) -> Option<Computed> {
        let _permit = self.permits.acquire().await.ok()?;
        let shared = self.shared.clone();
        let started = Instant::now();
        let id = proxy.id.clone();
        let work = move || {
            let changes = previous.as_ref().and_then(|previous| published.changes_since(previous.sequence));
            let update = previous.as_ref().zip(changes.as_ref());
            let update = update.map(|(previous, changes)| Update { changes, previous: &previous.resources });
            let resources = published.world.generate(&proxy, update);
            let previous = previous.as_ref().map(|previous| &previous.resources);
            Computed { sequence: published.sequence, resources: shared.share(resources, previous) }
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(computed) => {
                self.metrics.generation_seconds.observe(started.elapsed().as_secs_f64());
                Some(computed)
            }
            // A panic is a bug of ours; proxies go on with what they have.
            Err(error) => {
                tracing::error!(proxy = id, "generating its configuration failed, it keeps what it has: {error}");
                None
            }
        }
    }
}

impl<G> Published<G> {
    /// All that has changed since a world; `None` if that is too long ago.
    fn changes_since(&self, sequence: u64) -> Option<Changes> {
        let mut merged = Changes::default();
        let mut expected = sequence + 1;
        for (number, changes) in self.history.iter().filter(|(number, _)| *number > sequence) {
            if *number != expected {
                return None;
            }
            expected += 1;
            merged.merge(Changes::clone(changes));
        }
        (expected == self.sequence + 1).then_some(merged)
    }
}

impl<G: Generator> Drop for Lease<G> {
    fn drop(&mut self) {
        let mut entries = self.cache.entries.lock();
        // One is the map's, one is this. New ones are made under the lock.
        if Arc::strong_count(&self.entry) <= 2 {
            entries.remove(&self.key);
        }
    }
}
