//! Clusters on demand: a connection waits for one that is not there.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::config::OnDemandClusters;
use crate::on_demand::{OnDemand, Wanted};
use crate::stats::{Counter, Scope};

/// Who delivers clusters, and what came of it.
pub(super) struct Demand {
    config: OnDemandClusters,
    asks: Arc<OnDemand>,
    attempt: Counter,
    missing: Counter,
    success: Counter,
    timeout: Counter,
}

impl Demand {
    /// `scope`: the TCP proxy's.
    pub(super) fn new(config: &OnDemandClusters, asks: Arc<OnDemand>, scope: &Scope) -> Self {
        Demand {
            config: config.clone(),
            asks,
            attempt: scope.counter("on_demand_cluster_attempt"),
            missing: scope.counter("on_demand_cluster_missing"),
            success: scope.counter("on_demand_cluster_success"),
            timeout: scope.counter("on_demand_cluster_timeout"),
        }
    }

    /// Waits until the cluster `name` is there, is known not to exist, or for as long as configured.
    pub(super) async fn wait(&self, name: &str, find: &(dyn Fn() -> Option<Arc<Cluster>> + Send + Sync)) {
        self.attempt.inc();
        let wanted = Wanted::Cluster(self.config.source.from.clone(), name.to_owned());
        let answered = self.asks.wait(wanted, Some(self.config.timeout)).await;
        if find().is_some() {
            self.success.inc();
        } else if answered {
            self.missing.inc();
        } else {
            self.timeout.inc();
        }
    }
}
