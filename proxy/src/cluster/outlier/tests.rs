use std::time::Duration;

use serde_json::json;

use super::{Detector, HostState, Outcome, Rate, statistics};
use crate::cluster::lb::mix;
use crate::cluster::{Cluster, fixture};
use crate::config::OutlierDetection;

fn config(fields: &serde_json::Value) -> OutlierDetection {
    let cluster = fixture::cluster(&json!({ "outlier_detection": fields }), &json!([]));
    cluster.config.outlier.clone().unwrap()
}

#[test]
fn in_a_row() {
    let c = config(&json!({ "consecutive_5xx": 3, "consecutive_gateway_failure": 2 }));
    let host = HostState::default();
    let seen: Vec<Vec<Detector>> = [502, 502, 500, 200, 500, 500, 500, 500]
        .map(|s| host.record(&c, Outcome::Status(s)).into_iter().flatten().collect())
        .to_vec();
    use Detector::{Consecutive5xx as All, ConsecutiveGatewayFailure as Gateway};
    assert_eq!(seen, [vec![], vec![Gateway], vec![All], vec![], vec![], vec![], vec![All], vec![]]);
    // Without the split a failure is a 503, and a timeout a 504.
    host.record(&c, Outcome::Status(200));
    assert_eq!(host.record(&c, Outcome::Timeout), [None, None]);
    assert_eq!(host.record(&c, Outcome::Connected), [None, None]);
    assert_eq!(host.record(&c, Outcome::LocalFailure), [Some(Gateway), None]);
}

#[test]
fn failures_of_the_way_are_apart() {
    let c = config(&json!({ "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2 }));
    let host = HostState::default();
    assert_eq!(host.record(&c, Outcome::LocalFailure), [None, None]);
    host.record(&c, Outcome::Status(500));
    host.record(&c, Outcome::Connected);
    assert_eq!(host.record(&c, Outcome::Timeout), [None, None]);
    assert_eq!(host.record(&c, Outcome::LocalFailure), [Some(Detector::ConsecutiveLocalOriginFailure), None]);
    let [external, local] = host.take_rates();
    assert_eq!(external, Some(Rate { percent: 0.0, volume: 1 }));
    assert_eq!(local.map(|r| r.volume), Some(4));
    assert_eq!(host.take_rates(), [None, None]);
}

#[test]
fn worse_than_the_others() {
    let c = config(&json!({ "enforcing_failure_percentage": 100 }));
    let rates = |percents: &[f64], volume| -> Vec<Option<Rate>> {
        percents.iter().map(|percent| Some(Rate { percent: *percent, volume })).collect()
    };
    let five = [100.0, 100.0, 100.0, 100.0, 10.0];
    let both = [(4, Detector::SuccessRate), (4, Detector::FailurePercentage)];
    assert_eq!(statistics(&c, &rates(&five, 100), false), both);
    assert_eq!(statistics(&c, &rates(&five, 60), false), both[1..], "too few requests to compare");
    assert_eq!(statistics(&c, &rates(&five[1..], 100), false), [], "too few hosts");
    assert_eq!(statistics(&c, &rates(&[90.0, 91.0, 89.0, 90.0, 88.5], 100), false), [], "within the deviation");
    assert_eq!(statistics(&c, &rates(&five, 100), true)[0].1, Detector::LocalOriginSuccessRate);
}

#[test]
fn out_for_longer_each_time() {
    let c = config(&json!({ "base_ejection_time": "10s", "max_ejection_time": "25s" }));
    let host = HostState::default();
    let mut now = 0;
    for out in [10, 20, 25, 25] {
        host.eject(&c, Duration::from_secs(now), 0);
        assert!(!host.sweep(Duration::from_secs(now + out - 1)));
        assert!(host.sweep(Duration::from_secs(now + out)), "after {out} s");
        now += out;
    }
    // Two intervals in peace forgive two of the three.
    assert!(!host.sweep(Duration::from_secs(now)) && !host.sweep(Duration::from_secs(now)));
    host.eject(&c, Duration::from_secs(now), 0);
    assert!(host.sweep(Duration::from_secs(now + 20)));
}

/// Responses at random from hosts at random, with sweeps between: never are more out than may be, gauges and sets agree.
#[tokio::test(start_paused = true)]
async fn never_too_many_out() {
    for seed in 0..20 {
        let percent = [10, 34, 50, 100][seed % 4];
        let fields = json!({
            "outlier_detection": {
                "consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "2s", "max_ejection_percent": percent,
                "success_rate_request_volume": 5, "success_rate_minimum_hosts": 3, "always_eject_one_host": seed % 2 == 0,
            },
        });
        let endpoints: Vec<_> = (1..=8).map(fixture::endpoint).collect();
        let cluster = fixture::cluster(&fields, &json!([{ "lb_endpoints": endpoints }]));
        let out = |c: &Cluster| c.hosts().all().filter(|h| h.outlier.is_ejected()).count();
        let may = (8 * percent / 100).max(usize::from(seed % 2 == 0));
        let mut random = mix(seed as u64);
        for _ in 0..400 {
            random = mix(random);
            let set = cluster.hosts();
            let host = set.all().nth((random % 8) as usize).unwrap();
            let status = if random % 8 < 4 && random & 1024 != 0 { 500 } else { 200 };
            cluster.observe(host, Outcome::Status(status));
            if random & 0xf000 == 0 {
                tokio::time::advance(Duration::from_millis(700)).await;
                cluster.sweep_outliers();
            }
            let out = out(&cluster);
            assert!(out <= may, "{out} of 8 at {percent} %");
            let set = cluster.hosts();
            assert_eq!(set.counts().1, 8 - out);
            let active = cluster.stats.scope.scope("outlier_detection").gauge("ejections_active").value();
            assert_eq!(active, out as u64);
        }
        tokio::time::advance(Duration::from_secs(400)).await;
        cluster.sweep_outliers();
        assert_eq!(out(&cluster), 0, "all come back");
    }
}
