//! Who called whom, and how it went: Istio's standard metrics (`istio_requests_total` and its like).
//!
//! Owns what a proxy knows of workloads (its own, and the peers of its requests), and the series that requests and connections
//! are counted in. Must not know: how requests get here. Labels are texts of callers and of configuration, so series are bounded:
//! what comes beyond [`MAX_SERIES`] is counted without the peer, and told by `istio_stats.overflow`.
//!
//! Runs on: workers, which find the series of a request in a table of their own; the common one is locked once for each series.

mod edge;
mod labels;
mod messages;
mod overrides;
mod peers;
mod series;
mod tcp;
#[cfg(test)]
mod tests;
mod workload;

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

pub use self::edge::{Edge, Outcome, Protocol, Reporter, Security, Service, principal};
pub use self::messages::{Messages, Side};
pub use self::overrides::Plan;
pub use self::peers::{of_endpoint, of_header};
pub use self::series::{Key, Kind, Series};
pub use self::tcp::TcpReport;
pub use self::workload::Workload;

use crate::config;
use crate::stats::Store;

/// Series of a process. A sidecar sees the workloads it calls and those that call it, with some codes and flags each.
pub const MAX_SERIES: usize = 2_000;

/// What a process knows of itself, and what it has counted.
pub struct Telemetry {
    /// The workload that it is beside.
    pub own: Workload,
    /// `x-envoy-peer-metadata` of it.
    pub header: HeaderValue,
    /// `x-envoy-peer-metadata-id` of it.
    pub id: HeaderValue,
    table: series::Table,
    /// Overrides that there are, so that the same have the same series.
    plans: Mutex<Vec<Arc<Plan>>>,
}

impl Telemetry {
    /// That of the process of this node.
    pub fn new(node: &config::Node, stats: &Arc<Store>) -> Arc<Self> {
        let own = Workload::of_node(&node.metadata);
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        Arc::new(Telemetry {
            header: value(&own.to_header()),
            id: value(&node.id),
            own: own.named(),
            table: series::Table::new(stats),
            plans: Mutex::default(),
        })
    }

    /// What is counted and how it is called; the same for the same configuration.
    pub fn plan(&self, overrides: &[config::MetricOverride]) -> Arc<Plan> {
        let mut plans = self.plans.lock();
        if let Some(known) = plans.iter().find(|plan| plan.overrides == overrides) {
            return known.clone();
        }
        // Numbers go on, so that no other takes the series of one that is forgotten.
        let id = plans.last().map_or(0, |plan| plan.id + 1);
        plans.retain(|plan| Arc::strong_count(plan) > 1);
        let plan = Arc::new(Plan::new(id, overrides));
        plans.push(plan.clone());
        plan
    }

    /// The series of a request or a connection.
    pub fn series(&self, key: &Key<'_>, plan: &Plan) -> Arc<Series> {
        self.table.find(key, plan, &self.own)
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("own", &self.own).finish_non_exhaustive()
    }
}
