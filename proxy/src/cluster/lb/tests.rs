use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Request, mix};
use crate::cluster::{Cluster, Host, fixture, outlier};

fn group(zone: &str, weight: u32, priority: u32, ports: &[u16]) -> Value {
    let endpoints: Vec<Value> = ports.iter().map(|p| fixture::endpoint(*p)).collect();
    json!({
        "locality": { "zone": zone }, "load_balancing_weight": weight, "priority": priority, "lb_endpoints": endpoints,
    })
}

fn eject(cluster: &Cluster, port: u16) {
    let set = cluster.hosts();
    let host = set.all().find(|h| at(h) == port).unwrap();
    for _ in 0..5 {
        cluster.observe(host, outlier::Outcome::Status(500));
    }
    assert!(host.outlier.is_ejected());
}

fn at(host: &Host) -> u16 {
    match &host.address {
        crate::config::Address::Ip(a) => a.port(),
        other => panic!("{other}"),
    }
}

/// How many of 1000 picks each port gets.
fn shares(cluster: &Arc<Cluster>, avoid_levels: &[u32]) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for n in 0..1000 {
        let host = cluster.pick(0, &Request { random: mix(n), avoid_levels, ..Request::default() }).unwrap();
        *shares.entry(at(&host)).or_default() += 1;
    }
    shares
}

fn by_locality(policy: &str, endpoints: &Value) -> Arc<Cluster> {
    let fields = json!({
        "lb_policy": policy,
        "common_lb_config": { "locality_weighted_lb_config": {}, "healthy_panic_threshold": { "value": 10 } },
        "outlier_detection": { "max_ejection_percent": 100 },
    });
    fixture::cluster(&fields, endpoints)
}

fn about(shares: &BTreeMap<u16, usize>, port: u16, wanted: usize) {
    let got = shares.get(&port).copied().unwrap_or(0);
    assert!(got.abs_diff(wanted) <= 40, "{port}: {got} of {shares:?}, wanted about {wanted}");
}

#[test]
fn localities_share_by_weight_and_health() {
    for policy in ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"] {
        let cluster = by_locality(policy, &json!([group("a", 3, 0, &[1, 2]), group("b", 1, 0, &[3, 4, 5, 6])]));
        let all = shares(&cluster, &[]);
        assert!((all[&1] + all[&2]).abs_diff(750) <= 5, "{policy}: {all:?}");
        about(&all, 3, 62);
        // Half of locality a is left, overprovisioned to 70 %: 2.1 to 1.
        eject(&cluster, 1);
        let left = shares(&cluster, &[]);
        about(&left, 1, 0);
        about(&left, 2, 677);
    }
}

#[test]
fn a_locality_without_weight_gets_nothing() {
    let mut none = group("b", 1, 0, &[2]);
    none.as_object_mut().unwrap().remove("load_balancing_weight");
    let cluster = by_locality("ROUND_ROBIN", &json!([group("a", 1, 0, &[1]), none.clone()]));
    about(&shares(&cluster, &[]), 1, 1000);
    let cluster = by_locality("ROUND_ROBIN", &json!([none]));
    about(&shares(&cluster, &[]), 2, 1000);
}

#[test]
fn priorities_tried_are_left_out() {
    let endpoints = json!([group("a", 1, 0, &[1]), group("a", 1, 1, &[2]), group("a", 1, 2, &[3])]);
    let cluster = fixture::cluster(&json!({}), &endpoints);
    about(&shares(&cluster, &[]), 1, 1000);
    // The next healthy one takes all, as it would if the first were down.
    about(&shares(&cluster, &[0]), 2, 1000);
    about(&shares(&cluster, &[0, 1]), 3, 1000);
    about(&shares(&cluster, &[0, 2]), 2, 1000);
    about(&shares(&cluster, &[0, 1, 2]), 1, 1000);
}
