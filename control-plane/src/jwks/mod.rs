//! Fetching the keys of those who make tokens of end users.
//!
//! Owns one task: it fetches what the world wants (`World::wanted_keys`), some at a time, keeps it fresh, and keeps the last good
//! keys. Must not know: policies, proxies.
//!
//! | | |
//! |---|---|
//! | `plan` | when which is fetched (without input or output) |
//! | `http` | one document |

mod http;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::http::Client;
use self::plan::Plan;
use crate::metrics::Counter;
use crate::model::key_sets::{self, KeySets, KeySource};

/// How many are fetched at the same time.
const AT_ONCE: usize = 8;

type Wanted = BTreeMap<KeySource, Duration>;

/// Says what is wanted, and learns what there is.
#[derive(Debug)]
pub struct Keys {
    wanted: watch::Sender<Wanted>,
    known: watch::Receiver<KeySets>,
}

impl Keys {
    /// From now on these are wanted, each with how long fetching it may take.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = *before != wanted;
            *before = wanted;
            differs
        });
    }

    /// What is known now.
    pub fn known(&mut self) -> KeySets {
        self.known.borrow_and_update().clone()
    }

    /// Waits until something else is known.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn changed(&mut self) -> KeySets {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.known()
    }

    /// Waits until each that is wanted was tried, at most for `limit`.
    pub async fn tried(&mut self, limit: Duration) -> KeySets {
        let wanted = self.wanted.borrow().clone();
        let all = self.known.wait_for(|known| known.have_tried(wanted.keys()));
        let _ = tokio::time::timeout(limit, all).await;
        self.known()
    }
}

/// How fetching goes, for the page and the metrics.
#[derive(Debug, Default)]
pub struct KeyStatus {
    /// Key sets that were fetched.
    pub fetched: Counter,
    /// Attempts that failed.
    pub failed: Counter,
    sets: Mutex<Json>,
}

impl KeyStatus {
    /// Each key set: where it is, and how it stands.
    #[must_use]
    pub fn sets(&self) -> Json {
        self.sets.lock().clone()
    }

    /// How many key sets are wanted, and how many of them are there.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let sets = self.sets.lock();
        let all = sets.as_array().map_or(&[][..], Vec::as_slice);
        (all.len(), all.iter().filter(|set| set["available"] == true).count())
    }
}

/// The task that fetches.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    wanted: watch::Receiver<Wanted>,
    known: watch::Sender<KeySets>,
    status: Arc<KeyStatus>,
    plan: Plan,
}

impl Fetcher {
    /// One that is still to [`run`](Self::run). `trusted`: authorities besides the system's, as PEM.
    #[must_use]
    pub fn new(trusted: Option<PathBuf>) -> (Self, Keys) {
        let (want, wanted) = watch::channel(Wanted::new());
        let (tell, known) = watch::channel(KeySets::default());
        let client = Client { trusted };
        let fetcher = Self { client, wanted, known: tell, status: Arc::default(), plan: Plan::default() };
        (fetcher, Keys { wanted: want, known })
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> Arc<KeyStatus> {
        self.status.clone()
    }

    /// Fetches until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut running: JoinSet<(KeySource, Result<Arc<str>, String>)> = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((source, timeout)) = self.plan.start(Instant::now())
            {
                let client = self.client.clone();
                running.spawn(async move {
                    let outcome = tokio::time::timeout(timeout, fetch(&client, &source)).await;
                    let slow = || Err(format!("no answer within {timeout:?}"));
                    (source, outcome.unwrap_or_else(|_| slow()))
                });
            }
            let next = self.plan.next().filter(|_| running.len() < AT_ONCE);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = self.wanted.borrow_and_update().clone();
                    self.plan.want(&wanted, Instant::now());
                }
                Some(done) = running.join_next(), if !running.is_empty() => match done {
                    Ok((source, outcome)) => self.done(&source, outcome),
                    Err(error) => tracing::error!("fetching a key set failed: {error}"),
                },
                () = at(next) => continue,
            }
            self.tell();
        }
    }

    fn done(&mut self, source: &KeySource, outcome: Result<Arc<str>, String>) {
        match &outcome {
            Ok(_) => {
                self.status.fetched.add(1);
                tracing::debug!("key set {source}: fetched");
            }
            Err(why) => {
                self.status.failed.add(1);
                tracing::debug!("key set {source}: {why}");
            }
        }
        self.plan.done(source, outcome, Instant::now());
    }

    fn tell(&self) {
        let now = Instant::now();
        let age = |at: Instant| now.saturating_duration_since(at).as_secs();
        let sets = self.plan.entries().map(|(source, entry)| {
            json!({
                "uri": source.uri(),
                "available": entry.known.keys.is_some(),
                "bytes": entry.known.keys.as_ref().map(|keys| keys.len()),
                "fetchedSecondsAgo": entry.fetched.map(age),
                "failures": entry.failures,
                "error": entry.known.error.as_deref(),
                "nextInSeconds": entry.due.map(|due| due.saturating_duration_since(now).as_secs()),
            })
        });
        *self.status.sets.lock() = sets.collect();
        let known = self.plan.known();
        self.known.send_if_modified(|before| {
            let differs = *before != known;
            *before = known;
            differs
        });
    }
}

/// Fetches the keys at a place.
async fn fetch(client: &Client, source: &KeySource) -> Result<Arc<str>, String> {
    let text = match source {
        KeySource::Uri(uri) => client.get(uri).await?,
        KeySource::Issuer(_) => {
            let found = client.get(&source.uri()).await?;
            let json: Json = serde_json::from_slice(&found).map_err(|error| format!("it is no JSON: {error}"))?;
            let uri = json["jwks_uri"].as_str().ok_or("it has no jwks_uri")?;
            client.get(uri).await.map_err(|why| format!("{uri}: {why}"))?
        }
    };
    key_sets::check(&text)?;
    let text = std::str::from_utf8(&text).map_err(|_| "it is not UTF-8")?;
    Ok(text.into())
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
