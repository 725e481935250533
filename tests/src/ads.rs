//! A scripted management server.
//!
//! It serves what a test has [set](Plane::set), by the state of the world or by delta, on the aggregated stream or on one of a
//! kind, as a good server does: at a first request, when more names are asked for, when something changed. A test may
//! withhold a kind, push it again, send bytes that are no message, reset every stream, or go away and come back. Every request is
//! written down.

mod delta;
mod resource;
mod sotw;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

pub use resource::{CDS, ECDS, EDS, LDS, RDS, RTDS, Resource, SDS, VHDS, resource};

use crate::wait::{PATIENCE, eventually};

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which stream, counted from 0.
    pub stream: usize,
    /// The stream's method.
    pub method: String,
    /// Type URL.
    pub type_url: String,
    /// State of the world: the version.
    pub version: String,
    /// The nonce it answers.
    pub nonce: String,
    /// State of the world: names asked for. Delta: names subscribed to.
    pub names: Vec<String>,
    /// Delta: names no longer wanted.
    pub unsubscribed: Vec<String>,
    /// Delta: versions held.
    pub initial: BTreeMap<String, String>,
    /// Why a response was refused.
    pub error: Option<String>,
    /// The node's id, where the node was sent.
    pub node: Option<String>,
}

/// What a stream is to send.
enum Out {
    Message(Vec<u8>),
    Bytes(Vec<u8>),
    Reset,
}

/// What is served of a type.
#[derive(Default)]
struct Served {
    version: String,
    resources: BTreeMap<String, Resource>,
    withheld: bool,
    /// Something was set.
    known: bool,
}

/// An open stream.
struct Stream {
    delta: bool,
    out: UnboundedSender<Out>,
    /// By type URL.
    subscriptions: BTreeMap<String, Subscription>,
    nonce: u64,
}

/// What a client wants of a type.
#[derive(Default)]
struct Subscription {
    names: BTreeSet<String>,
    wildcard: bool,
    /// Names of the last response (state of the world).
    answered: Option<BTreeSet<String>>,
    version: String,
    /// Versions sent (delta).
    sent: BTreeMap<String, String>,
}

#[derive(Default)]
struct Inner {
    served: BTreeMap<String, Served>,
    streams: BTreeMap<usize, Stream>,
    opened: usize,
    seen: Vec<Seen>,
}

/// The server; it ends with this value.
pub struct Plane {
    inner: Arc<Mutex<Inner>>,
    port: u16,
    tls: Option<Arc<rustls::ServerConfig>>,
    task: Option<JoinHandle<()>>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Plane {
    /// A server on a free port that has nothing to serve yet.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start() -> Result<Self> {
        Self::over(None).await
    }

    /// The same over TLS, with the certificate `server` of [`crate::tls`].
    ///
    /// # Errors
    /// There is no port, or no certificate.
    pub async fn start_tls() -> Result<Self> {
        Self::over(Some(crate::tls::server(&["h2"])?)).await
    }

    async fn over(tls: Option<Arc<rustls::ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the management server")?;
        let port = listener.local_addr()?.port();
        let inner = Arc::new(Mutex::new(Inner::default()));
        let task = Some(tokio::spawn(wire::serve(listener, tls.clone(), inner.clone())));
        Ok(Self { inner, port, tls, task })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves these resources of a type from now on, all others of the type are gone.
    pub fn set(&self, type_url: &str, version: &str, resources: Vec<Resource>) {
        self.with(|inner| {
            let served = inner.served.entry(type_url.to_owned()).or_default();
            served.known = true;
            version.clone_into(&mut served.version);
            served.resources = resources.into_iter().map(|r| (r.key(), r)).collect();
            inner.push(type_url, false);
        });
    }

    /// Sends a type again, changed or not.
    pub fn push(&self, type_url: &str) {
        self.with(|inner| inner.push(type_url, true));
    }

    /// Sends nothing of a type any more.
    pub fn withhold(&self, type_url: &str) {
        self.with(|inner| inner.served.entry(type_url.to_owned()).or_default().withheld = true);
    }

    /// Sends what was withheld.
    pub fn release(&self, type_url: &str) {
        self.with(|inner| {
            inner.served.entry(type_url.to_owned()).or_default().withheld = false;
            inner.push(type_url, true);
        });
    }

    /// Sends a message of these bytes on every stream.
    pub fn message(&self, bytes: &[u8]) {
        self.with(|inner| inner.streams.values().for_each(|s| drop(s.out.send(Out::Message(bytes.to_vec())))));
    }

    /// Sends bytes, which need not be whole messages, on every stream.
    pub fn bytes(&self, bytes: &[u8]) {
        self.with(|inner| inner.streams.values().for_each(|s| drop(s.out.send(Out::Bytes(bytes.to_vec())))));
    }

    /// Resets every stream; clients come back.
    pub fn reset(&self) {
        self.with(|inner| inner.streams.values().for_each(|s| drop(s.out.send(Out::Reset))));
    }

    /// Goes away: the port refuses.
    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.with(|inner| {
            inner.streams.values().for_each(|s| drop(s.out.send(Out::Reset)));
            inner.streams.clear();
        });
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    /// Somebody else took the port.
    pub async fn restart(&mut self) -> Result<()> {
        let port = self.port;
        let bind = || async move { TcpListener::bind(("127.0.0.1", port)).await.ok() };
        let listener = eventually("the management server's port is free", PATIENCE, bind).await?;
        self.task = Some(tokio::spawn(wire::serve(listener, self.tls.clone(), self.inner.clone())));
        Ok(())
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.with(|inner| inner.seen.clone())
    }

    /// How many streams were opened.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.with(|inner| inner.opened)
    }

    /// The first request that `wanted` is true of.
    ///
    /// # Errors
    /// There is none in time; what came instead.
    pub async fn request(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let found = eventually(what, PATIENCE, || {
            let found = self.seen().into_iter().find(&wanted);
            async move { found }
        });
        found.await.with_context(|| format!("requests: {:#?}", self.seen()))
    }

    /// The answer to a version of a type (delta: to the response that was sent for it).
    ///
    /// # Errors
    /// There is none in time.
    pub async fn answer(&self, type_url: &str, version: &str) -> Result<Seen> {
        let tag = format!("/{version}");
        let wanted = |s: &Seen| s.type_url == type_url && s.nonce.ends_with(&tag);
        self.request(&format!("an answer to {type_url} {version}"), wanted).await
    }
}

impl Inner {
    /// Sends a type to everyone who wants it.
    fn push(&mut self, type_url: &str, again: bool) {
        let Some(served) = self.served.get(type_url).filter(|s| s.known && !s.withheld) else { return };
        for stream in self.streams.values_mut() {
            if stream.delta {
                delta::push(stream, type_url, served, again);
            } else {
                sotw::push(stream, type_url, served);
            }
        }
    }

    fn received(&mut self, id: usize, method: &str, message: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let seen = if stream.delta {
            delta::received(stream, &self.served, message)
        } else {
            sotw::received(stream, &self.served, message)
        };
        if let Some(seen) = seen {
            self.seen.push(Seen { stream: id, method: method.to_owned(), ..seen });
        }
    }
}

impl Stream {
    /// A nonce that tells what it is for.
    fn next_nonce(&mut self, version: &str) -> String {
        self.nonce += 1;
        format!("{}/{version}", self.nonce)
    }
}
