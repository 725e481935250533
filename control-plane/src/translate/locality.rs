//! Localities: who takes over, and who gets which share (`localityLbSetting`).

use std::collections::BTreeMap;

use super::cluster::Target;
use super::policy::Policy;
use super::view::View;
use crate::model::endpoint::{Endpoint, parse_locality};
use crate::model::kinds::destination_rule::{Distribute, Failover, LocalityLb, ZoneAwareLb};
use crate::model::kinds::meta::Labels;
use crate::node::Locality;

/// How traffic of one caller is spread over localities.
pub(super) enum Shares<'w> {
    /// By the number of endpoints.
    Even,
    /// By percentages.
    Distributed(&'w Distribute),
    /// The nearest first.
    Failover {
        /// Where the caller is.
        from: &'w Locality,
        /// Which region takes over, if that is told.
        to: Option<&'w str>,
    },
    /// By labels that are equal.
    Labels {
        /// The labels, the most important first; `key` or `key=value`.
        order: &'w [String],
        /// The caller's.
        own: &'w Labels,
    },
    /// The caller's region first, in which the proxy itself looks at zones.
    Regions {
        /// Where the caller is.
        from: &'w Locality,
        /// Which regions take over.
        failover: &'w [Failover],
        /// Labels, which go before.
        order: &'w [String],
        /// The caller's.
        own: &'w Labels,
    },
}

/// The setting of zones that counts, if one does: a rule's settings of localities go before the mesh's.
pub(super) fn zone_aware<'w>(view: &View<'w>, policy: &Policy<'w>) -> Option<&'w ZoneAwareLb> {
    let own = policy.load_balancer;
    let told = own.and_then(|of| of.zone_aware_lb_setting.as_ref());
    let of_mesh = || view.world.config().mesh.zone_aware_lb_setting.as_ref();
    let other = own.is_some_and(|of| of.locality_lb_setting.is_some());
    told.or_else(|| of_mesh().filter(|_| !other))
}

impl<'w> Shares<'w> {
    /// What counts for a target. As in Istio, failover needs outlier detection: without, nobody would notice a failure.
    pub(super) fn of(view: &View<'w>, target: &Target<'w>) -> Self {
        if let Some(zones) = zone_aware(view, &target.policy) {
            return match zones.enabled {
                Some(false) => Self::Even,
                _ => Self::Regions {
                    from: &view.proxy.locality,
                    failover: &zones.failover,
                    order: &zones.failover_priority,
                    own: view.labels,
                },
            };
        }
        let own = target.policy.load_balancer.and_then(|of| of.locality_lb_setting.as_ref());
        let setting: Option<&'w LocalityLb> = own.or(view.world.config().mesh.locality_lb_setting.as_ref());
        let from = &view.proxy.locality;
        if setting.is_some_and(|of| of.enabled == Some(false)) {
            return Self::Even;
        }
        if let Some(setting) = setting {
            let distribute = setting.distribute.iter().find(|of| locality_matches(&of.from, from));
            if let Some(distribute) = distribute.filter(|_| !from.region.is_empty()) {
                return Self::Distributed(distribute);
            }
        }
        if target.policy.outlier_detection.is_none() && !target.service.prefer_close {
            return Self::Even;
        }
        if let Some(setting) = setting.filter(|of| !of.failover_priority.is_empty()) {
            return Self::Labels { order: &setting.failover_priority, own: view.labels };
        }
        if from.region.is_empty() {
            return Self::Even;
        }
        let to = setting.and_then(|of| of.failover.iter().find(|of| of.from == from.region)).map(|of| of.to.as_str());
        Self::Failover { from, to }
    }

    /// An endpoint's priority; lower ones are used first.
    pub(super) fn priority(&self, endpoint: &Endpoint) -> u32 {
        match self {
            Self::Even | Self::Distributed(_) => 0,
            Self::Failover { from, to } => {
                let of = &endpoint.locality;
                match () {
                    () if of == *from => 0,
                    () if of.region == from.region && of.zone == from.zone => 1,
                    () if of.region == from.region => 2,
                    () if to.is_none_or(|to| of.region == to) => 3,
                    () => 4,
                }
            }
            Self::Labels { order, own } => unequal(order, own, endpoint),
            Self::Regions { from, failover, order, own } => {
                let region = &endpoint.locality.region;
                let to = failover.iter().find(|of| of.from == from.region).map(|of| &of.to);
                let distance = match () {
                    () if *region == from.region => 0,
                    () if to == Some(region) => 1,
                    () => 2,
                };
                unequal(order, own, endpoint).saturating_mul(3) + distance
            }
        }
    }

    /// The weights of localities, from the sums of their endpoints'.
    pub(super) fn weights(&self, localities: &[(&Locality, u32)]) -> Vec<u32> {
        let Self::Distributed(distribute) = self else {
            return localities.iter().map(|(_, weight)| (*weight).max(1)).collect();
        };
        let mut weights = vec![0; localities.len()];
        for (pattern, share) in &distribute.to {
            let of = |locality: &Locality| locality_matches(pattern, locality);
            let total: u64 =
                localities.iter().filter(|(locality, _)| of(locality)).map(|(_, weight)| u64::from(*weight)).sum();
            for ((locality, weight), slot) in localities.iter().zip(&mut weights) {
                if of(locality) && *share > 0 && total > 0 {
                    // In thousandths, so that a share can be split.
                    let part = u64::from(*share) * 1000 * u64::from(*weight) / total;
                    *slot = u32::try_from(part.max(1)).unwrap_or(u32::MAX);
                }
            }
        }
        weights
    }
}

/// Whether `region/zone/sub-zone`, `region/*` or `*` covers a locality.
fn locality_matches(pattern: &str, locality: &Locality) -> bool {
    let wanted = parse_locality(pattern, '/');
    let pairs =
        [(wanted.region, &locality.region), (wanted.zone, &locality.zone), (wanted.sub_zone, &locality.sub_zone)];
    for (wanted, is) in pairs {
        if wanted == "*" || wanted.is_empty() {
            return true;
        }
        if wanted != **is {
            return false;
        }
    }
    true
}

/// How many of the labels, from the last one, do not count as equal.
fn unequal(order: &[String], own: &Labels, endpoint: &Endpoint) -> u32 {
    let equal = order.iter().take_while(|entry| label_is_equal(entry, own, &endpoint.labels)).count();
    u32::try_from(order.len() - equal).unwrap_or(u32::MAX)
}

fn label_is_equal(entry: &str, own: &Labels, other: &Labels) -> bool {
    match entry.split_once('=') {
        Some((key, value)) => other.get(key).is_some_and(|is| is == value),
        None => other.get(entry).is_some_and(|is| Some(is) == own.get(entry)),
    }
}

/// Priorities without gaps, which Envoy and gRPC ask for.
pub(super) fn dense(priorities: impl Iterator<Item = u32>) -> BTreeMap<u32, u32> {
    let sorted: std::collections::BTreeSet<u32> = priorities.collect();
    sorted.into_iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_priorities() {
        let here = Locality { region: "r".into(), zone: "z".into(), sub_zone: "s".into() };
        assert!(locality_matches("r/z/s", &here) && locality_matches("r/*", &here) && locality_matches("*", &here));
        assert!(locality_matches("r", &here) && !locality_matches("r/y", &here) && !locality_matches("q/*", &here));
        assert_eq!(dense([4, 0, 2, 2].into_iter()), BTreeMap::from([(0, 0), (2, 1), (4, 2)]));
    }

    #[test]
    fn zones_are_for_the_own_region_and_labels_go_before_regions() {
        let at = |region: &str, label: &str| Endpoint {
            address: "10.0.0.1".to_owned(),
            ports: BTreeMap::new(),
            labels: Labels::from([("tier".to_owned(), label.to_owned())]),
            locality: Locality { region: region.into(), zone: "z".into(), sub_zone: String::new() },
            weight: 1,
            service_account: String::new(),
            workload: None,
            workload_name: Default::default(),
        };
        let here = Locality { region: "r1".into(), zone: "other".into(), sub_zone: String::new() };
        let failover = [Failover { from: "r1".to_owned(), to: "r2".to_owned(), ..Default::default() }];
        let own = Labels::from([("tier".to_owned(), "a".to_owned())]);
        let order = ["tier".to_owned()];
        let by = |order: &[String]| {
            let shares = Shares::Regions { from: &here, failover: &failover, order, own: &own };
            [at("r1", "a"), at("r2", "a"), at("r3", "a"), at("r1", "b")].map(|endpoint| shares.priority(&endpoint))
        };
        assert_eq!(by(&[]), [0, 1, 2, 0]);
        assert_eq!(by(&order), [0, 1, 2, 3]);
    }
}
