//! The loop that joins streams, files, names and time with the [`State`].
//!
//! Runs on: the control thread. Dropped, it ends every task it started.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Client, Event, RESPONSES};
use super::dial::{self, Dialer};
use super::files::Files;
use super::kind::{AGGREGATED, Kind};
use super::mux::Received;
use super::sources::Key;
use super::state::State;
use super::stats::ControlPlaneStats;
use crate::app::Parts;
use crate::cluster::dns::DnsTasks;
use crate::config::ApiConfigSource;
use crate::identity::Identity;
use crate::on_demand::Ask;

/// Discovery at work.
pub struct Discovery {
    state: Arc<Mutex<State>>,
    parts: Arc<Parts>,
    dns: DnsTasks,
    streams: JoinSet<()>,
    /// Where requests of open streams go.
    requests: BTreeMap<Key, mpsc::Sender<Vec<u8>>>,
    tell: mpsc::Sender<(Key, Event)>,
    events: mpsc::Receiver<(Key, Event)>,
    /// Files of resources.
    files: Files,
    /// Clusters whose names are being resolved.
    names: FuturesUnordered<BoxFuture<'static, String>>,
    /// What requests need.
    asks: Option<mpsc::Receiver<Ask>>,
    /// The identity of the workload.
    identity: Option<Identity>,
    stats: ControlPlaneStats,
    /// The cache being written.
    writing: JoinSet<()>,
}

impl Discovery {
    pub(super) fn new(state: Arc<Mutex<State>>, parts: Arc<Parts>, dns: DnsTasks, identity: Option<Identity>) -> Self {
        let stats = ControlPlaneStats::new(&parts.stats.root());
        stats.connected_state.set(0);
        let (tell, events) = mpsc::channel(RESPONSES);
        Discovery {
            state,
            dns,
            streams: JoinSet::new(),
            requests: BTreeMap::new(),
            tell,
            events,
            files: Files::new(),
            names: FuturesUnordered::new(),
            asks: parts.on_demand.take_inbox(),
            identity,
            stats,
            writing: JoinSet::new(),
            parts,
        }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        loop {
            self.begin_what_is_new();
            let full = self.send();
            let (deadline, save) = {
                let state = self.state.lock();
                (state.next_deadline(), state.cache.save_at())
            };
            let writable = wait_for_room(full);
            tokio::select! {
                Some((key, event)) = self.events.recv() => self.happened(&key, event),
                path = self.files.next() => self.state.lock().sources.moved(&path),
                () = until(deadline) => self.state.lock().elapsed(Instant::now()),
                Some(cluster) = self.names.next() => self.state.lock().resolved(&cluster, Instant::now()),
                Some(ask) = next_ask(&mut self.asks) => self.asked(ask),
                () = next_certificate(&mut self.identity) => self.state.lock().certificate_came(Instant::now()),
                () = writable => {}
                () = until(save), if self.writing.is_empty() => self.save(),
                Some(_) = self.writing.join_next() => {}
            }
        }
    }

    /// Keeps what is in force, on a thread that may wait for a disk.
    fn save(&mut self) {
        let save = self.state.lock().save(Instant::now());
        if let Some(save) = save {
            self.writing.spawn_blocking(|| save.write());
        }
    }

    /// Takes all that was asked for: it becomes one request.
    fn asked(&mut self, ask: Ask) {
        let mut state = self.state.lock();
        state.ask(ask);
        while let Some(Ok(ask)) = self.asks.as_mut().map(mpsc::Receiver::try_recv) {
            state.ask(ask);
        }
    }

    /// Opens streams and resolves names that were asked for since.
    fn begin_what_is_new(&mut self) {
        // Each may bring what the other is asked for.
        loop {
            self.read_files();
            self.serve_cached();
            if self.state.lock().sources.unread.is_empty() {
                break;
            }
        }
        let (streams, resolve) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.sources.unopened), std::mem::take(&mut state.resolve))
        };
        for (key, config) in streams {
            self.open(key, config);
        }
        for cluster in resolve {
            let name = cluster.name.to_string();
            if let Some(warm) = self.dns.add(&cluster) {
                self.names.push(Box::pin(async move {
                    // The task may have ended with its cluster.
                    let _ = warm.await;
                    name
                }));
            } else {
                self.names.push(Box::pin(std::future::ready(name)));
            }
        }
    }

    /// Answers for servers that are away, and calls those anew that are not and came late.
    fn serve_cached(&mut self) {
        let mut state = self.state.lock();
        state.serve_cached(Instant::now());
        for key in std::mem::take(&mut state.cache.reopen) {
            if self.requests.remove(&key).is_some() {
                tracing::info!(stream = ?kind(&key), "the management server is silent: the cache answers, and the stream is opened anew");
            }
        }
    }

    /// Reads files that are new, that changed, or that somebody else wants; what they bring may want others.
    fn read_files(&mut self) {
        loop {
            let Some((source, kind)) = self.state.lock().sources.unread.pop_first() else { return };
            let content = self.files.read(&source);
            self.state.lock().file_read(&source, kind, content, Instant::now());
        }
    }

    fn open(&mut self, key: Key, config: ApiConfigSource) {
        let dialer = dial::check(&config, &self.parts.clusters)
            .and_then(|()| Dialer::new(&config, &self.parts.clusters, &self.parts.secrets, &self.parts.stats.root()));
        let dialer = match dialer {
            Ok(dialer) => dialer,
            Err(error) => {
                // What waits for it goes on after its time limit.
                tracing::error!(%error, "a management server cannot be called");
                return;
            }
        };
        let methods = match &key {
            Key::Ads => AGGREGATED,
            Key::Separate(_, kind) => kind.methods(),
        };
        let path = if config.delta { methods.1 } else { methods.0 };
        self.state.lock().cache_opening(&key, Instant::now());
        let limited = self.stats.rate_limit_enforced.clone();
        let token = self.identity.as_ref().and_then(|identity| identity.token_for(&config.target));
        let client = Client { dialer, path, config, token, limited, pending: self.stats.pending_requests.clone() };
        self.streams.spawn(client.run(key, self.tell.clone()));
    }

    /// Gives streams what there is to say; those that have no room for it.
    fn send(&mut self) -> Vec<mpsc::Sender<Vec<u8>>> {
        let mut state = self.state.lock();
        let mut full = Vec::new();
        for (key, sender) in &self.requests {
            let Some(mux) = state.sources.streams.get_mut(key) else { continue };
            while mux.has_next() {
                let Ok(room) = sender.try_reserve() else {
                    full.push(sender.clone());
                    break;
                };
                if let Some(request) = mux.next_request() {
                    room.send(request);
                }
            }
        }
        full
    }

    fn happened(&mut self, key: &Key, event: Event) {
        let mut state = self.state.lock();
        let Some(mux) = state.sources.streams.get_mut(key) else { return };
        match event {
            Event::Connected(requests) => {
                tracing::info!(stream = ?kind(key), "connected to the management server");
                mux.connected();
                self.requests.insert(key.clone(), requests);
                state.unanswered(&key.source());
                self.stats.connected_state.set(1);
            }
            Event::Lost(reason) => {
                tracing::warn!(stream = ?kind(key), reason, "no stream to the management server");
                let kinds: Vec<_> = Kind::ALL.into_iter().filter(|k| mux.watches(*k)).collect();
                mux.disconnected();
                self.requests.remove(key);
                state.lost(&kinds);
                state.unanswered(&key.source());
                state.cache_lost(key);
                self.stats.connected_state.set(u64::from(!self.requests.is_empty()));
            }
            Event::Message(message) => match mux.received(&message, Instant::now()) {
                Ok(Received::Update(update)) => {
                    if !mux.control_plane().is_empty() {
                        self.stats.identifier.set(mux.control_plane());
                    }
                    let (answered, verdict) = state.update(&key.source(), update, Instant::now());
                    state.cache_heard(key, answered.kind, verdict.is_ok(), Instant::now());
                    if let Some(mux) = state.sources.streams.get_mut(key) {
                        mux.answer(&answered, verdict);
                    }
                }
                Ok(Received::Ignored(reason)) => tracing::warn!(reason, "a response is ignored"),
                Err(error) => {
                    tracing::warn!(%error, "the stream to the management server is opened anew");
                    // Without its requests the stream ends, and comes back.
                    self.requests.remove(key);
                }
            },
        }
    }
}

fn kind(key: &Key) -> Option<Kind> {
    match key {
        Key::Ads => None,
        Key::Separate(_, kind) => Some(*kind),
    }
}

async fn next_ask(asks: &mut Option<mpsc::Receiver<Ask>>) -> Option<Ask> {
    match asks {
        Some(asks) => asks.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends when the workload has another certificate.
async fn next_certificate(identity: &mut Option<Identity>) {
    match identity {
        Some(identity) => identity.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Ends when one of these has room.
async fn wait_for_room(senders: Vec<mpsc::Sender<Vec<u8>>>) {
    if senders.is_empty() {
        return std::future::pending().await;
    }
    let waits = senders.into_iter().map(|s| Box::pin(async move { drop(s.reserve_owned().await) }));
    futures_util::future::select_all(waits).await;
}
