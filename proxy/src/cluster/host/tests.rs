use std::sync::Arc;

use super::{Host, HostSet, HostSetSettings};
use crate::cluster::lb::mix;
use crate::config::{self, HealthStatus};

fn host(port: u16, level: u32, health: HealthStatus) -> Arc<Host> {
    let endpoint = config::Endpoint {
        address: config::Address::Ip(([127, 0, 0, 1], port).into()),
        additional_addresses: Vec::new(),
        hostname: String::new(),
        weight: 1,
        health,
        metadata: Default::default(),
    };
    let group = config::LocalityEndpoints { priority: level, ..Default::default() };
    Arc::new(Host::new(&endpoint, &Arc::default(), &group, 1).unwrap())
}

/// A set with so many healthy, degraded and unhealthy hosts on each level.
fn set(levels: &[[usize; 3]]) -> HostSet {
    let kinds = [HealthStatus::Healthy, HealthStatus::Degraded, HealthStatus::Unhealthy];
    let level = |(i, counts): (usize, &[usize; 3])| -> Vec<Arc<Host>> {
        let of = |(n, kind): (&usize, HealthStatus)| (0..*n).map(move |p| host(p as u16 + 1, i as u32, kind));
        counts.iter().zip(kinds).flat_map(of).collect()
    };
    let settings = HostSetSettings { overprovisioning: 0, panic_threshold: 50.0, by_locality: false };
    HostSet::new(levels.iter().enumerate().map(level).collect(), settings, 1)
}

/// The examples of Envoy's documentation of priority levels and degraded endpoints.
#[test]
fn traffic_spills_over() {
    let loads = |levels: &[[usize; 3]]| {
        let s = set(levels);
        (s.healthy_load, s.degraded_load)
    };
    assert_eq!(loads(&[[100, 0, 0], [100, 0, 0]]).0, [100, 0]);
    assert_eq!(loads(&[[72, 0, 28], [100, 0, 0]]).0, [100, 0]);
    assert_eq!(loads(&[[71, 0, 29], [100, 0, 0]]).0, [99, 1]);
    assert_eq!(loads(&[[50, 0, 50], [50, 0, 50]]).0, [70, 30]);
    assert_eq!(loads(&[[0, 0, 100], [100, 0, 0]]).0, [0, 100]);
    assert_eq!(loads(&[[25, 0, 75], [25, 0, 75]]).0, [50, 50]);
    // The documentation rounds to 7 and 93; what rounding leaves goes to the first level that has anything.
    assert_eq!(loads(&[[5, 0, 95], [65, 0, 35]]).0, [8, 92]);
    assert_eq!(loads(&[[25, 75, 0], [0, 0, 0]]), (vec![35, 0], vec![65, 0]));
}

#[test]
fn loads_always_add_up() {
    for seed in 0..2000 {
        let mut random = mix(seed);
        let mut next = |below: u64| {
            random = mix(random);
            (random % below) as usize
        };
        let levels: Vec<[usize; 3]> = (0..=next(4)).map(|_| [next(6), next(4), next(6)]).collect();
        let s = set(&levels);
        let sum: u32 = s.healthy_load.iter().chain(&s.degraded_load).sum();
        let any = levels.iter().flatten().any(|n| *n > 0);
        // Without any usable host there is panic, in which all are used; without any host there is nothing.
        assert_eq!(sum, if any { 100 } else { 0 }, "{levels:?}: {:?} {:?}", s.healthy_load, s.degraded_load);
        for (i, counts) in levels.iter().enumerate() {
            if !s.levels[i].panic {
                assert!(counts[0] > 0 || s.healthy_load[i] == 0, "{levels:?}");
            }
            assert!(counts[1] > 0 || s.degraded_load[i] == 0, "{levels:?}");
            assert!(counts.iter().sum::<usize>() > 0 || s.healthy_load[i] == 0, "{levels:?}");
        }
    }
}
