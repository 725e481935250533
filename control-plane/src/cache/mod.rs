//! What each proxy gets, generated once for all that get the same.
//!
//! Owns the current world, the results by scope and by key, and their sharing. Must not know: streams and what they were sent.
//! Generating runs on blocking threads, as many at a time as there are processors, so that it delays neither streams nor probes.

mod share;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::generate::{Changes, Generator, Part, Update};
use crate::metrics::Metrics;
use crate::node::Proxy;
use crate::resource::Resources;

use share::Shared;
use slot::{Computed as _, Slot};

/// How many changes back a result may be to be brought up to date by them; an older one is generated anew.
const HISTORY: usize = 64;

/// The worlds and what came of them.
pub struct Cache<G: Generator> {
    published: watch::Sender<Arc<Published<G>>>,
    results: Mutex<Results<G>>,
    shared: Arc<Shared>,
    permits: Semaphore,
    metrics: Arc<Metrics>,
}

/// What proxies have in common by their scope, and all that one gets by its scope and key.
struct Results<G: Generator> {
    scopes: HashMap<G::Scope, Arc<Slot<Common>>>,
    whole: HashMap<Place<G>, Arc<Slot<Whole>>>,
}

/// What tells results apart.
type Place<G> = (<G as Generator>::Scope, <G as Generator>::Key);

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

/// What a proxy gets in a world.
#[derive(Clone, Debug)]
pub struct Computed {
    /// The world.
    pub sequence: u64,
    /// What it gets.
    pub resources: Resources,
}

/// What all proxies of a scope have in common.
type Common = Computed;

/// What a proxy gets, and what it was put together of.
#[derive(Clone)]
struct Whole {
    all: Computed,
    common: Resources,
    own: Resources,
}

/// Keeps a result in the cache while somebody may ask for it again.
pub struct Lease<G: Generator> {
    cache: Arc<Cache<G>>,
    key: Place<G>,
    whole: Arc<Slot<Whole>>,
    common: Arc<Slot<Common>>,
}

impl<G: Generator> Cache<G> {
    /// A cache that starts with `world`.
    #[must_use]
    pub fn new(world: Arc<G>, metrics: Arc<Metrics>) -> Arc<Self> {
        let first = Published { world, sequence: 1, seen_at: Instant::now(), history: VecDeque::new() };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            published: watch::Sender::new(Arc::new(first)),
            results: Mutex::new(Results { scopes: HashMap::new(), whole: HashMap::new() }),
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
        self.results.lock().whole.len()
    }

    /// How many scopes there are: for each, what its proxies have in common is generated once.
    #[must_use]
    pub fn scopes(&self) -> usize {
        self.results.lock().scopes.len()
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
        let lease = self.lease(&published.world, proxy);
        let fresh = |whole: Whole| whole.all;
        if let Some(whole) = lease.whole.at(published.sequence) {
            return Some((fresh(whole), lease));
        }
        let held = lease.whole.lock().await;
        if held.get().is_none_or(|whole| whole.sequence() < published.sequence) {
            let common = self.common(&published, proxy, &lease.common).await;
            let previous = held.get();
            let made = match common {
                Some(common) => self.whole(&published, proxy, &lease.key.1, common, previous).await,
                None => None,
            };
            if let Some(made) = made {
                held.set(made);
            }
        }
        let whole = held.get();
        drop(held);
        Some((fresh(whole?), lease))
    }

    fn lease(self: &Arc<Self>, world: &G, proxy: &Proxy) -> Lease<G> {
        let (scope, key) = (world.scope(proxy), world.key(proxy));
        let mut results = self.results.lock();
        let common = results.scopes.entry(scope.clone()).or_default().clone();
        let key = (scope, key);
        let whole = results.whole.entry(key.clone()).or_default().clone();
        drop(results);
        Lease { cache: self.clone(), key, whole, common }
    }

    /// What all of a proxy's scope have in common; `None` if generating it fails and never worked.
    async fn common(&self, published: &Arc<Published<G>>, proxy: &Arc<Proxy>, slot: &Slot<Common>) -> Option<Common> {
        if let Some(common) = slot.at(published.sequence) {
            return Some(common);
        }
        let held = slot.lock().await;
        let previous = held.get().filter(|common| common.sequence < published.sequence);
        if held.get().is_none_or(|common| common.sequence < published.sequence) {
            let resources = self.generate(Part::Shared, published, proxy, previous.as_ref()).await;
            if let Some(resources) = resources {
                held.set(Computed { sequence: published.sequence, resources });
            }
        }
        held.get()
    }

    /// What a proxy gets, from what its scope has in common.
    async fn whole(
        &self,
        published: &Arc<Published<G>>,
        proxy: &Arc<Proxy>,
        key: &G::Key,
        common: Common,
        previous: Option<Whole>,
    ) -> Option<Whole> {
        let changes = previous.as_ref().and_then(|previous| published.changes_since(previous.sequence()));
        let untouched = changes.is_some_and(|changes| !published.world.touches_own(key, &changes));
        let own = match &previous {
            Some(previous) if untouched => previous.own.clone(),
            _ => {
                let held = previous
                    .as_ref()
                    .map(|previous| Computed { resources: previous.own.clone(), ..previous.all.clone() });
                match self.generate(Part::Own, published, proxy, held.as_ref()).await {
                    Some(own) => own,
                    // What it had goes on.
                    None => return None,
                }
            }
        };
        let resources = match &previous {
            Some(previous) if previous.own == own && previous.common == common.resources => {
                previous.all.resources.clone()
            }
            _ => {
                let all = previous.as_ref().map(|previous| &previous.all.resources);
                self.shared.share(common.resources.with(&own), all)
            }
        };
        // Generating what is common may have failed, and then it is of an earlier world.
        let all = Computed { sequence: common.sequence, resources };
        Some(Whole { all, common: common.resources, own })
    }

    /// Generates a part; `None` if that fails.
    async fn generate(
        &self,
        part: Part,
        published: &Arc<Published<G>>,
        proxy: &Arc<Proxy>,
        previous: Option<&Computed>,
    ) -> Option<Resources> {
        let _permit = self.permits.acquire().await.ok()?;
        let shared = self.shared.clone();
        let started = Instant::now();
        let (published, proxy, previous) = (published.clone(), proxy.clone(), previous.cloned());
        let id = proxy.id.clone();
        let work = move || {
            let changes = previous.as_ref().and_then(|previous| published.changes_since(previous.sequence));
            let update = previous.as_ref().zip(changes.as_ref());
            let update = update.map(|(previous, changes)| Update { changes, previous: &previous.resources });
            let resources = published.world.generate(part, &proxy, update);
            shared.share(resources, previous.as_ref().map(|previous| &previous.resources))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(resources) => {
                self.metrics.generation_seconds.observe(started.elapsed().as_secs_f64());
                Some(resources)
            }
            // A panic is a bug of ours; proxies go on with what they have.
            Err(error) => {
                self.metrics.generation_failures.add(1);
                tracing::error!(proxy = id, "generating its configuration failed, it keeps what it has: {error}");
                None
            }
        }
    }
}

impl slot::Computed for Computed {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl slot::Computed for Whole {
    fn sequence(&self) -> u64 {
        self.all.sequence
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
        let mut results = self.cache.results.lock();
        // One is the map's, one is this. New ones are made under the lock.
        if Arc::strong_count(&self.whole) <= 2 {
            results.whole.remove(&self.key);
        }
        if Arc::strong_count(&self.common) <= 2 {
            results.scopes.remove(&self.key.0);
        }
    }
}
