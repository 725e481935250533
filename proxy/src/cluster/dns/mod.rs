//! STRICT_DNS and LOGICAL_DNS clusters: one task per cluster asks for its names and assigns the hosts.
//!
//! [`Targets`] is what is known of a cluster's names and when to ask again, without input or output; [`Resolver`] is who
//! answers. Must not know of requests: a cluster's hosts are swapped and nothing else. Runs on: the control thread.

mod resolver;
mod schedule;
mod targets;
#[cfg(test)]
mod tests;

pub use resolver::{Answer, LookupError, Names, Resolver};
pub use schedule::Schedule;
pub use targets::{Next, Targets};

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Cluster, Clusters};

/// How long a start waits for the first answers: as long as Envoy lets one query take. Past it, traffic finds no hosts until
/// the names resolve, which is better than a proxy that never starts for one name that does not.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// The tasks that keep the hosts of DNS clusters. Dropping it ends them.
pub struct DnsTasks(JoinSet<()>);

impl DnsTasks {
    /// Starts a task for each DNS cluster and waits, for at most five seconds, until every name of every cluster that is to be
    /// waited for was answered or failed once.
    pub async fn start(clusters: &Clusters) -> DnsTasks {
        let mut tasks = DnsTasks(JoinSet::new());
        let all = clusters.all();
        let first: Vec<_> =
            all.iter().filter_map(|c| tasks.add(c).filter(|_| c.config.wait_for_warm_on_init)).collect();
        if tokio::time::timeout(FIRST_ANSWERS, join_all(first)).await.is_err() {
            tracing::warn!(seconds = FIRST_ANSWERS.as_secs(), "starting before all names of DNS clusters are resolved");
        }
        tasks
    }

    /// Starts the task of `cluster`, if names are to be resolved for it. What is returned ends once each of them was answered
    /// or failed; the task itself ends when the cluster is gone.
    pub fn add(&mut self, cluster: &Arc<Cluster>) -> Option<oneshot::Receiver<()>> {
        let targets = Targets::new(&cluster.config)?;
        let names = match Names::new(targets.options()) {
            Ok(n) => n,
            Err(e) => {
                tracing::error!(cluster = %cluster.name, error = %e, "cannot resolve the names of a cluster");
                return None;
            }
        };
        let (warm, warmed) = oneshot::channel();
        self.0.spawn(run(Arc::downgrade(cluster), targets, names, warm));
        Some(warmed)
    }
}

/// Asks for each name when it is due, all independently, until the cluster is gone.
async fn run<R: Resolver>(cluster: Weak<Cluster>, mut targets: Targets, resolver: R, warm: oneshot::Sender<()>) {
    let mut warm = Some(warm);
    let attempts = match cluster.upgrade() {
        Some(c) => c.stats.update_attempt.clone(),
        None => return,
    };
    let ask = |index: usize, name: Arc<str>, wait: Duration| {
        let (resolver, attempts) = (&resolver, &attempts);
        async move {
            tokio::time::sleep(wait).await;
            attempts.inc();
            let answer = resolver.lookup(&name).await;
            (index, name, answer)
        }
    };
    let mut asked: FuturesUnordered<_> =
        targets.names().enumerate().map(|(i, name)| ask(i, name, Duration::ZERO)).collect();
    if targets.all_answered() {
        // Addresses only: nothing to ask, and no second thing to say.
        if let (Some(c), Some(a)) = (cluster.upgrade(), targets.assignment_if_new()) {
            c.assign(&a);
        }
        return;
    }
    while let Some((index, name, answer)) = asked.next().await {
        let Some(cluster) = cluster.upgrade() else { return };
        observe(&cluster, &name, &answer);
        let next = targets.answered(index, answer, crate::worker::random());
        match next.assignment {
            Some(a) => cluster.assign(&a),
            None if !next.failed => cluster.stats.update_no_rebuild.inc(),
            None => {}
        }
        if targets.all_answered()
            && let Some(warm) = warm.take()
        {
            // Whoever started the task may have waited long enough.
            let _ = warm.send(());
        }
        asked.push(ask(index, name, next.wait));
    }
}

/// Counts an answer, and logs what went wrong.
fn observe(cluster: &Cluster, name: &str, answer: &Result<Answer, LookupError>) {
    let stats = &cluster.stats;
    match answer {
        Ok(a) => {
            stats.update_success.inc();
            if a.addresses.is_empty() {
                stats.update_empty.inc();
                tracing::debug!(cluster = %cluster.name, name, "a name has no addresses");
            }
        }
        Err(e) => {
            stats.update_failure.inc();
            tracing::debug!(cluster = %cluster.name, name, error = %e, "a name cannot be resolved");
        }
    }
}
