//! What a request needs that nobody has asked the management server for yet: clusters and virtual hosts on demand.
//!
//! Workers ask and wait here; discovery takes what was asked for and lets go of those that wait once it is there, or is known not to
//! exist. How many wait at a time, and how long a name may be, is bounded: both are the clients' choice. Where nothing is
//! discovered on demand nobody comes here. Runs on: workers wait; the control thread answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::config::Source;

/// Requests that wait at a time; further ones go on without what they need.
const MAX_WAITING: usize = 1024;
/// Longest name that is asked for: names of clusters and hosts are shorter, and every one is kept.
const MAX_NAME_BYTES: usize = 512;

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// A cluster, by name, and who delivers it.
    Cluster(Source, String),
    /// The virtual host of a host, in routes of this source and name.
    VirtualHost((Source, String), String),
}

impl Wanted {
    fn name(&self) -> &str {
        match self {
            Wanted::Cluster(_, name) | Wanted::VirtualHost(_, name) => name,
        }
    }
}

/// Something that is asked for.
#[derive(Debug)]
pub struct Ask {
    /// What.
    pub wanted: Wanted,
    /// Dropped when there is nothing more to wait for; closed when nobody waits any more.
    pub waiting: oneshot::Sender<()>,
}

/// The counter between workers and discovery.
#[derive(Debug)]
pub struct OnDemand {
    asks: mpsc::Sender<Ask>,
    inbox: Mutex<Option<mpsc::Receiver<Ask>>>,
    waiting: AtomicUsize,
}

impl Default for OnDemand {
    fn default() -> Self {
        let (asks, inbox) = mpsc::channel(MAX_WAITING);
        OnDemand { asks, inbox: Mutex::new(Some(inbox)), waiting: AtomicUsize::new(0) }
    }
}

impl OnDemand {
    /// Asks for something and waits until discovery has it or knows that it does not exist, or `limit` is over; where too many wait
    /// already it is over at once. Whether it was answered; which way shows when it is looked for.
    ///
    /// # Cancel safety
    /// Dropped, it no longer waits; what was asked for may still come.
    pub async fn wait(&self, wanted: Wanted, limit: Option<Duration>) -> bool {
        if wanted.name().len() > MAX_NAME_BYTES {
            return false;
        }
        let _place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return false;
        }
        let (waiting, answered) = oneshot::channel();
        if self.asks.try_send(Ask { wanted, waiting }).is_err() {
            return false;
        }
        // Nothing is ever sent: letting go is the answer.
        match limit {
            Some(limit) => tokio::time::timeout(limit, answered).await.is_ok(),
            None => answered.await.is_err(),
        }
    }

    /// What is asked for; there is one taker.
    pub fn take_inbox(&self) -> Option<mpsc::Receiver<Ask>> {
        self.inbox.lock().take()
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn cluster(name: &str) -> Wanted {
        Wanted::Cluster(Source::Ads, name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_let_go_or_for_so_long() {
        let all = Arc::new(OnDemand::default());
        let mut inbox = all.take_inbox().unwrap();
        assert!(all.take_inbox().is_none());
        let waits = tokio::spawn({
            let all = all.clone();
            async move { assert!(all.wait(cluster("a"), None).await) }
        });
        let ask = inbox.recv().await.unwrap();
        assert_eq!(ask.wanted, cluster("a"));
        assert!(!waits.is_finished());
        drop(ask);
        waits.await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(!all.wait(cluster("b"), Some(Duration::from_secs(5))).await);
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert!(inbox.recv().await.unwrap().waiting.is_closed(), "discovery sees that nobody waits");
        assert_eq!(all.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_there_are_places() {
        let all = Arc::new(OnDemand::default());
        let one = |name: String| {
            let all = all.clone();
            tokio::spawn(async move { all.wait(cluster(&name), None).await })
        };
        let tasks: Vec<_> = (0..MAX_WAITING).map(|n| one(n.to_string())).collect();
        while all.waiting.load(Ordering::Relaxed) < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        assert!(!all.wait(cluster("one too many"), None).await);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(all.waiting.load(Ordering::Relaxed), 0, "who is gone leaves its place");
        assert!(!all.wait(cluster(&"x".repeat(MAX_NAME_BYTES + 1)), None).await);
    }
}
