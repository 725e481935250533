//! By which labels the configuration tells callers apart.
//!
//! Owns which labels count for what a workload sends. Two workloads that no selector tells apart see the same services, by the
//! same rules, so it is generated once for both. What a workload receives is not looked at here.

use std::collections::BTreeSet;

use super::config::Config;
use super::kinds::destination_rule::{LoadBalancer, LocalityLb, TrafficPolicy, WorkloadSelector, ZoneAwareLb};
use super::kinds::meta::{Labels, contains_all};

/// The selectors of rules, routes and patches, and the labels whose values count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Distinctions {
    selectors: Vec<Labels>,
    keys: Vec<String>,
}

/// What is told of one workload: it means something only in the state of the world that said it, and those with the same
/// distinctions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// The selectors that take it, by their places.
    selected_by: Vec<usize>,
    /// Its values of the labels whose values count.
    values: Vec<Option<String>>,
}

impl Distinctions {
    /// Those that a configuration makes.
    pub(super) fn of(config: &Config) -> Self {
        let mut selectors: BTreeSet<Labels> = BTreeSet::new();
        let mut keys: BTreeSet<String> = BTreeSet::new();
        for routes in &config.virtual_services {
            let http = routes.http.iter().flat_map(|rule| &rule.r#match).map(|of| &of.source_labels);
            let tls = routes.tls.iter().flat_map(|rule| &rule.r#match).map(|of| &of.source_labels);
            let tcp = routes.tcp.iter().flat_map(|rule| &rule.r#match).map(|of| &of.source_labels);
            selectors.extend(http.chain(tls).chain(tcp).cloned());
        }
        let rules = config.destination_rules.iter();
        selectors.extend(rules.filter_map(|rule| rule.spec.workload_selector.as_ref()).map(labels));
        selectors.extend(config.envoy_filters.iter().filter_map(|filter| filter.selector.as_ref()).map(labels));
        let mesh = &config.mesh;
        keys.extend(of_labels(mesh.locality_lb_setting.as_ref(), mesh.zone_aware_lb_setting.as_ref()));
        for rule in &config.destination_rules {
            let subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
            let policies = rule.spec.traffic_policy.iter().chain(subsets);
            keys.extend(policies.flat_map(of_policy).flat_map(failover_keys));
        }
        selectors.remove(&Labels::new());
        Self { selectors: selectors.into_iter().collect(), keys: keys.into_iter().collect() }
    }

    /// What they tell of a workload with these labels.
    pub(super) fn tell(&self, labels: &Labels) -> Told {
        let takes = |(_, selector): &(usize, &Labels)| contains_all(labels, selector);
        let selected_by = self.selectors.iter().enumerate().filter(takes).map(|(place, _)| place).collect();
        Told { selected_by, values: self.keys.iter().map(|key| labels.get(key).cloned()).collect() }
    }
}

fn labels(selector: &WorkloadSelector) -> Labels {
    // If both say something of a label, that differs and nobody has both: then it takes nobody, whatever is told.
    let mut all = selector.match_labels.clone();
    all.extend(selector.labels.clone());
    all
}

/// The settings of a policy and of its ports.
fn of_policy(policy: &TrafficPolicy) -> impl Iterator<Item = &LoadBalancer> {
    let of_ports = policy.port_level_settings.iter().filter_map(|of| of.load_balancer.as_ref());
    policy.load_balancer.iter().chain(of_ports)
}

/// The labels of which failover compares the caller's value.
fn failover_keys(of: &LoadBalancer) -> impl Iterator<Item = String> + use<'_> {
    of_labels(of.locality_lb_setting.as_ref(), of.zone_aware_lb_setting.as_ref())
}

fn of_labels<'a>(
    localities: Option<&'a LocalityLb>,
    zones: Option<&'a ZoneAwareLb>,
) -> impl Iterator<Item = String> + use<'a> {
    let localities = localities.into_iter().flat_map(|of| &of.failover_priority);
    let all = localities.chain(zones.into_iter().flat_map(|of| &of.failover_priority));
    all.filter(|entry| !entry.contains('=')).cloned()
}
