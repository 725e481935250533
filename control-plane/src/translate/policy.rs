//! Which traffic policy counts for a port of a service or subset.
//!
//! As in Istio: a subset's fields replace the whole's, one by one; settings of a port replace all of them and do not inherit.

use crate::model::kinds::destination_rule::{
    ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, Subset, TrafficPolicy,
};

/// What counts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Policy<'w> {
    pub(super) load_balancer: Option<&'w LoadBalancer>,
    pub(super) connection_pool: Option<&'w ConnectionPool>,
    pub(super) outlier_detection: Option<&'w OutlierDetection>,
    pub(super) tls: Option<&'w ClientTls>,
    pub(super) proxy_protocol: Option<&'w ProxyProtocol>,
    pub(super) retry_budget: Option<&'w RetryBudget>,
}

impl<'w> Policy<'w> {
    /// The policy of a port, with that of a subset over that of the whole.
    pub(super) fn of(whole: Option<&'w TrafficPolicy>, subset: Option<&'w Subset>, port: u32) -> Self {
        let mut policy = Self::default();
        for over in whole.into_iter().chain(subset.and_then(|subset| subset.traffic_policy.as_ref())) {
            policy = Self {
                load_balancer: over.load_balancer.as_ref().or(policy.load_balancer),
                connection_pool: over.connection_pool.as_ref().or(policy.connection_pool),
                outlier_detection: over.outlier_detection.as_ref().or(policy.outlier_detection),
                tls: over.tls.as_ref().or(policy.tls),
                proxy_protocol: over.proxy_protocol.as_ref().or(policy.proxy_protocol),
                retry_budget: over.retry_budget.as_ref().or(policy.retry_budget),
            };
            let of_port =
                over.port_level_settings.iter().find(|of| of.port.as_ref().is_some_and(|of| of.number == port));
            if let Some(of_port) = of_port {
                policy = Self {
                    load_balancer: of_port.load_balancer.as_ref(),
                    connection_pool: of_port.connection_pool.as_ref(),
                    outlier_detection: of_port.outlier_detection.as_ref(),
                    tls: of_port.tls.as_ref(),
                    ..policy
                };
            }
        }
        policy
    }
}
