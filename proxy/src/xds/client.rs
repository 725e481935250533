//! The connection to a management server: dialling, carrying messages, coming back. Input and output only: what is said is the
//! [`super::mux`]'s business.
//!
//! Runs on: the control thread, a task for each stream.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dial::Dialer;
use super::grpc::{self, Requests, Responses};
use crate::config::{ApiConfigSource, BackOff, RateLimit};
use crate::identity;
use crate::stats::{Counter, Gauge};

/// Responses that wait for the control thread; the server is not read any further.
pub const RESPONSES: usize = 2;
/// Requests that wait for the server.
const REQUESTS: usize = 8;

/// What happened to a stream.
#[derive(Debug)]
pub enum Event {
    /// It is open; requests go here.
    Connected(mpsc::Sender<Vec<u8>>),
    /// A message came.
    Message(Bytes),
    /// It is gone, or could not be opened, and why. It is tried again.
    Lost(String),
}

/// How a stream is opened and kept.
pub struct Client {
    /// Who is called.
    pub dialer: Dialer,
    /// Service and method.
    pub path: &'static str,
    /// Settings.
    pub config: ApiConfigSource,
    /// A file with a token to show.
    pub token: Option<PathBuf>,
    /// Counts requests that the rate limit holds back.
    pub limited: Counter,
    /// Requests held back.
    pub pending: Gauge,
}

impl Client {
    /// Keeps a stream open until dropped; `tell` is given what happens. Ends when nobody listens any more.
    pub async fn run<K: Clone>(self, key: K, tell: mpsc::Sender<(K, Event)>) {
        let back_off = BackOff { base: self.config.back_off_base, max: self.config.back_off_max };
        let mut failures = 0;
        loop {
            let (reason, fruitful) = self.stream(&key, &tell).await;
            if tell.send((key.clone(), Event::Lost(reason))).await.is_err() {
                return;
            }
            failures = if fruitful { 1 } else { failures + 1 };
            tokio::time::sleep(back_off.interval(failures, crate::worker::random())).await;
        }
    }

    /// One stream, from dialling to its end. Why it ended, and whether anything came of it.
    async fn stream<K: Clone>(&self, key: &K, tell: &mpsc::Sender<(K, Event)>) -> (String, bool) {
        let dialled = match self.dialer.dial().await {
            Ok(d) => d,
            Err(reason) => return (reason, false),
        };
        let mut metadata = self.config.metadata.clone();
        match self.token.as_deref().map(identity::authorization).transpose() {
            Ok(header) => metadata.extend(header),
            Err(reason) => return (reason, false),
        }
        let target = grpc::Target {
            authority: &dialled.authority,
            path: self.path,
            metadata: &metadata,
            keepalive: dialled.keepalive,
        };
        let (requests, responses) = match grpc::call(dialled.stream, &target).await {
            Ok(call) => call,
            Err(e) => return (e.to_string(), false),
        };
        let (sender, inbox) = mpsc::channel(REQUESTS);
        if tell.send((key.clone(), Event::Connected(sender))).await.is_err() {
            return (String::new(), false);
        }
        let mut fruitful = false;
        let reason = tokio::select! {
            reason = self.write(requests, inbox) => reason,
            reason = read(responses, key, tell, &mut fruitful) => reason,
        };
        drop(dialled.open);
        (reason, fruitful)
    }

    async fn write(&self, mut requests: Requests, mut inbox: mpsc::Receiver<Vec<u8>>) -> String {
        let mut bucket = self.config.rate_limit.map(|limit| TokenBucket::new(limit, Instant::now()));
        while let Some(request) = inbox.recv().await {
            if let Some(bucket) = &mut bucket {
                while let Some(wait) = bucket.take(Instant::now()) {
                    self.limited.inc();
                    self.pending.set(1 + inbox.len() as u64);
                    tokio::time::sleep(wait).await;
                }
                self.pending.set(inbox.len() as u64);
            }
            if let Err(e) = requests.send(&request).await {
                return e.to_string();
            }
        }
        "closed here".to_owned()
    }
}

async fn read<K: Clone>(
    mut responses: Responses,
    key: &K,
    tell: &mpsc::Sender<(K, Event)>,
    fruitful: &mut bool,
) -> String {
    loop {
        match responses.next().await {
            Ok(Some(message)) => {
                *fruitful = true;
                if tell.send((key.clone(), Event::Message(message))).await.is_err() {
                    return String::new();
                }
            }
            Ok(None) => return "the server ended the stream".to_owned(),
            Err(e) => return e.to_string(),
        }
    }
}

/// Requests per time, without a clock of its own.
struct TokenBucket {
    limit: RateLimit,
    /// Thousandths.
    tokens: u64,
    filled: Instant,
}

impl TokenBucket {
    fn new(limit: RateLimit, now: Instant) -> Self {
        TokenBucket { limit, tokens: u64::from(limit.max_tokens) * 1000, filled: now }
    }

    /// Takes a token; `Some`: there is none, and how long to wait for it.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.filled);
        let new = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(self.limit.fill_per_mille) / 1000;
        if new > 0 {
            self.filled = now;
            self.tokens = self.tokens.saturating_add(new).min(u64::from(self.limit.max_tokens) * 1000);
        }
        if self.tokens >= 1000 {
            self.tokens -= 1000;
            return None;
        }
        let missing = (1000 - self.tokens).saturating_mul(1000).div_ceil(self.limit.fill_per_mille);
        Some(Duration::from_millis(missing.max(1)))
    }
}

/// An upstream connection in its cluster's books while it lives.
pub struct Open(Arc<crate::cluster::Cluster>);

impl Open {
    /// Counts it.
    pub fn new(cluster: Arc<crate::cluster::Cluster>) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        Open(cluster)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.stats.upstream_cx_active.dec();
        self.0.stats.upstream_rq_active.dec();
        self.0.stats.upstream_cx_destroy.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_fills_with_time() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(RateLimit { max_tokens: 2, fill_per_mille: 4000 }, start);
        assert_eq!((bucket.take(start), bucket.take(start)), (None, None));
        assert_eq!(bucket.take(start), Some(Duration::from_millis(250)));
        let later = start + Duration::from_millis(250);
        assert_eq!(bucket.take(later), None);
        assert_eq!(bucket.take(later), Some(Duration::from_millis(250)));
        let much_later = later + Duration::from_secs(60);
        assert_eq!((bucket.take(much_later), bucket.take(much_later)), (None, None));
        assert!(bucket.take(much_later).is_some(), "it holds no more than its burst");
    }
}
