//! From a source to the server: batches of objects become worlds, and worlds are served.
//!
//! Owns the order: apply at once, serve after a pause. Must not know: files, streams. It runs as one task.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_proto::problem::Problem;

use crate::generate::Changes;
use crate::jwks::Keys;
use crate::model::World;
use crate::model::key_sets::KeySets;
use crate::model::kinds::Object;
use crate::server::{Debounce, Limits, Shared};
use crate::source::{Batch, Source};
use crate::translate::TRUST_BUNDLE;

/// A source, and the world it has told of so far.
pub struct Feed<S> {
    source: S,
    world: World,
    /// Problems that were said already.
    said: BTreeSet<String>,
    waiting: Changes,
    debounce: Debounce,
    /// Whom workloads are to trust.
    trust: Option<watch::Receiver<Arc<str>>>,
    /// Who fetches keys of tokens.
    keys: Option<Keys>,
    /// What was wrong with documents that are no objects.
    of_documents: Arc<[Problem]>,
}

impl<S: Source> Feed<S> {
    /// Waits for everything there is. `None`: the source has ended.
    pub async fn open(mut source: S, after: Duration, max: Duration) -> Option<Self> {
        let batch = source.next().await?;
        let debounce = Debounce::new(after, max);
        let mut feed = Self {
            source,
            world: World::default(),
            said: BTreeSet::new(),
            waiting: Changes::default(),
            debounce,
            trust: None,
            keys: None,
            of_documents: Arc::default(),
        };
        feed.apply(batch);
        feed.debounce.take();
        feed.waiting = Changes::default();
        Some(feed)
    }

    /// The world as it is now.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Serves these roots as well, whatever they are at the time.
    #[must_use]
    pub fn trusting(mut self, mut roots: watch::Receiver<Arc<str>>) -> Self {
        self.world = self.world.trusting(roots.borrow_and_update().clone());
        self.trust = Some(roots);
        self
    }

    /// Has keys of tokens fetched, and serves them. What is served first has them, if they come within `limit`.
    pub async fn fetching(mut self, mut keys: Keys, limit: Duration) -> Self {
        keys.want(self.world.wanted_keys());
        let known = keys.tried(limit).await;
        self.keys = Some(keys);
        self.learn(known);
        self
    }

    /// A server of the world as it is now.
    #[must_use]
    pub fn serve(&self, limits: Limits, stop: CancellationToken) -> Arc<Shared<World>> {
        Shared::new(Arc::new(self.world.clone()), describe, limits, stop)
    }

    /// Serves each later world, until the source ends or `stop`.
    pub async fn follow(mut self, shared: Arc<Shared<World>>, stop: CancellationToken) {
        loop {
            let deadline = self.debounce.deadline();
            tokio::select! {
                () = stop.cancelled() => return,
                batch = self.source.next() => {
                    let Some(batch) = batch else {
                        tracing::warn!("the source has ended; what it said last is served on");
                        return;
                    };
                    shared.connections.metrics().changes.add(batch.changes.len() as u64);
                    self.apply(batch);
                    shared.set_waiting(self.debounce.deadline().is_some());
                }
                roots = next_roots(&mut self.trust) => {
                    self.world = self.world.trusting(roots);
                    self.waiting.merge(Changes { secrets: [TRUST_BUNDLE.into()].into(), ..Changes::default() });
                    self.debounce.changed(Instant::now());
                    shared.set_waiting(true);
                }
                known = next_keys(&mut self.keys) => {
                    if self.learn(known) {
                        self.waiting.merge(Changes::everything());
                    }
                    self.debounce.changed(Instant::now());
                    shared.set_waiting(true);
                }
                () = at(deadline) => {
                    self.publish(&shared);
                    shared.set_waiting(false);
                }
            }
        }
    }

    fn apply(&mut self, batch: Batch) {
        let objects = batch.changes.len();
        let (world, changes) = self.world.apply(batch.changes);
        self.world = world;
        if let Some(keys) = &self.keys {
            keys.want(self.world.wanted_keys());
        }
        self.of_documents = batch.problems;
        self.report();
        tracing::debug!(objects, everything = changes.everything, endpoints = changes.endpoints.len(), "changed");
        // What changes nothing for proxies is published as well, for those who look at objects.
        if objects > 0 {
            self.waiting.merge(changes);
            self.debounce.changed(Instant::now());
        }
    }

    /// Takes over what is known of keys. Whether proxies get something else by it.
    fn learn(&mut self, known: KeySets) -> bool {
        let differs = !self.world.key_sets().same_keys(&known);
        self.world = self.world.with_keys(known);
        self.report();
        differs
    }

    fn publish(&mut self, shared: &Shared<World>) {
        let Some(seen_at) = self.debounce.take() else { return };
        let changes = std::mem::take(&mut self.waiting);
        let everything = changes.everything;
        let sequence = shared.publish(Arc::new(self.world.clone()), changes, seen_at);
        tracing::info!(sequence, everything, "configuration published");
    }

    /// Says what is wrong now and was not before.
    fn report(&mut self) {
        let all = self.world.problems().into_iter().chain(self.of_documents.iter().cloned());
        let texts: BTreeSet<String> = all.map(|problem| problem.to_string()).collect();
        texts.difference(&self.said).for_each(|text| tracing::warn!("{text}"));
        self.said = texts;
    }
}

/// The objects of a world: where each was written, and what is wrong with it.
#[must_use]
pub fn describe(world: &World) -> Json {
    let object = |object: &Arc<Object>| {
        let problems: Vec<_> = world.problems_of(&object.key).iter().map(ToString::to_string).collect();
        json!({
            "object": object.key.to_string(),
            "kind": object.key.kind.to_string(),
            "namespace": *object.key.namespace,
            "name": *object.key.name,
            "at": format!("{}:{}", object.source, object.at.line),
            "problems": problems,
        })
    };
    world.objects().iter().map(object).collect()
}

/// Other roots than before, when there are some.
async fn next_roots(trust: &mut Option<watch::Receiver<Arc<str>>>) -> Arc<str> {
    if let Some(roots) = trust
        && roots.changed().await.is_ok()
    {
        return roots.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// What is known of keys, when that changes.
async fn next_keys(keys: &mut Option<Keys>) -> KeySets {
    match keys {
        Some(keys) => keys.changed().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
