use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, LookupError, Resolver, Targets, run};
use crate::cluster::Cluster;
use crate::cluster::fixture::parts;
use crate::config::from_file::{self, LoadOptions};
use crate::config::{self, Address, DnsFamily, DnsOptions, LoadAssignment};

pub(super) fn options() -> DnsOptions {
    DnsOptions {
        refresh: Duration::from_secs(5),
        jitter: Duration::ZERO,
        failure_refresh: None,
        respect_ttl: false,
        family: DnsFamily::Auto,
        resolvers: Vec::new(),
    }
}

fn bootstrap(kind: &str, endpoints: &[(&str, u16, &str)]) -> config::Bootstrap {
    let endpoint = |(address, port, hostname): &(&str, u16, &str)| {
        serde_json::json!({ "endpoint": {
            "hostname": hostname,
            "address": { "socket_address": { "address": address, "port_value": port } },
        }})
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    let cluster = serde_json::json!({
        "name": "c",
        "type": kind,
        "load_assignment": { "cluster_name": "c", "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    let all = serde_json::json!({ "static_resources": { "clusters": [cluster] } });
    from_file::load(None, Some(&all.to_string()), &LoadOptions::default()).unwrap().bootstrap
}

fn cluster_config(kind: &str, endpoints: &[(&str, u16, &str)]) -> Arc<config::Cluster> {
    Arc::new(bootstrap(kind, endpoints).clusters.remove(0))
}

fn answer(addresses: &[&str]) -> Result<Answer, LookupError> {
    Ok(Answer { addresses: addresses.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect(), ttl: None })
}

fn failure() -> Result<Answer, LookupError> {
    Err(LookupError::Name { name: "n".into(), reason: "scripted".into() })
}

/// `address hostname` of every endpoint.
fn endpoints(a: &LoadAssignment) -> Vec<String> {
    let all = a.localities.iter().flat_map(|l| &l.endpoints);
    all.map(|e| format!("{} {}", e.address, e.hostname)).collect()
}

#[test]
fn strict_every_address_is_an_endpoint() {
    let config = cluster_config("STRICT_DNS", &[("a.test", 80, ""), ("a.test", 81, "own"), ("10.0.0.9", 82, "")]);
    let mut t = Targets::new(&config).unwrap();
    assert_eq!(t.names().collect::<Vec<_>>(), [Arc::from("a.test")]);
    assert!(!t.all_answered());
    let next = t.answered(0, answer(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), 0);
    assert!(t.all_answered());
    assert_eq!(
        endpoints(&next.assignment.unwrap()),
        ["10.0.0.1:80 a.test", "10.0.0.2:80 a.test", "10.0.0.1:81 own", "10.0.0.2:81 own", "10.0.0.9:82 10.0.0.9"]
    );
    // Another order is no change, a failure neither; no addresses is one.
    assert!(t.answered(0, answer(&["10.0.0.1", "10.0.0.2"]), 0).assignment.is_none());
    let failed = t.answered(0, failure(), 0);
    assert!(failed.failed && failed.assignment.is_none());
    assert_eq!(endpoints(&t.answered(0, answer(&[]), 0).assignment.unwrap()), ["10.0.0.9:82 10.0.0.9"]);
}

#[test]
fn logical_keeps_its_address_while_it_is_listed() {
    let config = cluster_config("LOGICAL_DNS", &[("a.test", 80, "")]);
    let mut t = Targets::new(&config).unwrap();
    let first = t.answered(0, answer(&["10.0.0.2", "10.0.0.1"]), 0).assignment.unwrap();
    assert_eq!(endpoints(&first), ["10.0.0.2:80 a.test"]);
    assert!(t.answered(0, answer(&["10.0.0.1", "10.0.0.2"]), 0).assignment.is_none());
    assert!(t.answered(0, answer(&[]), 0).assignment.is_none());
    let moved = t.answered(0, answer(&["10.0.0.1", "10.0.0.3"]), 0).assignment.unwrap();
    assert_eq!(endpoints(&moved), ["10.0.0.1:80 a.test"]);
    let more = &moved.localities[0].endpoints[0].additional_addresses;
    assert_eq!(more.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.3:80"]);
}

#[test]
fn a_name_that_fails_leaves_the_others() {
    let config = cluster_config("STRICT_DNS", &[("a.test", 80, ""), ("b.test", 80, "")]);
    let mut t = Targets::new(&config).unwrap();
    t.answered(0, answer(&["10.0.0.1"]), 0);
    assert!(t.answered(1, failure(), 0).failed);
    let both = t.answered(1, answer(&["10.0.0.2"]), 0).assignment.unwrap();
    assert_eq!(endpoints(&both), ["10.0.0.1:80 a.test", "10.0.0.2:80 b.test"]);
    assert!(Targets::new(&cluster_config("STATIC", &[("10.0.0.1", 80, "")])).is_none());
}

/// Gives the answers of a list in turn, the last one for ever, and tells of each.
struct Script {
    answers: Mutex<HashMap<String, VecDeque<Result<Answer, LookupError>>>>,
    asked: mpsc::UnboundedSender<String>,
}

impl Resolver for Script {
    async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        self.asked.send(name.to_owned()).unwrap();
        let mut answers = self.answers.lock();
        let list = answers.get_mut(name).unwrap();
        if list.len() > 1 { list.pop_front().unwrap() } else { list[0].clone() }
    }
}

fn hosts(cluster: &Cluster) -> Vec<String> {
    let set = cluster.hosts();
    set.all()
        .map(|h| match &h.address {
            Address::Ip(a) => a.to_string(),
            other => panic!("{other}"),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_cluster_follows_its_name_until_it_is_gone() {
    let config = bootstrap("STRICT_DNS", &[("a.test", 80, "")]).clusters.remove(0);
    let cluster = Cluster::new(config, &parts(1)).unwrap();
    let (asked, mut lookups) = mpsc::unbounded_channel();
    let script = [answer(&["10.0.0.1"]), failure(), answer(&["10.0.0.1"]), answer(&["10.0.0.2"])];
    let answers = Mutex::new(HashMap::from([("a.test".to_owned(), VecDeque::from(script))]));
    let (warm, warmed) = oneshot::channel();
    let targets = Targets::new(&cluster.config).unwrap();
    let task = tokio::spawn(run(Arc::downgrade(&cluster), targets, Script { answers, asked }, warm));

    let start = tokio::time::Instant::now();
    warmed.await.unwrap();
    assert_eq!(hosts(&cluster), ["10.0.0.1:80"]);
    let kept = cluster.hosts().all().next().unwrap().clone();
    for _ in 0..3 {
        lookups.recv().await.unwrap();
    }
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(!kept.is_removed(), "a failure and the same answer keep the host");
    lookups.recv().await.unwrap();
    assert_eq!(hosts(&cluster), ["10.0.0.2:80"]);
    assert!(kept.is_removed());
    let s = &cluster.stats;
    let counts = [&s.update_attempt, &s.update_success, &s.update_failure, &s.update_no_rebuild];
    assert_eq!(counts.map(|c| c.value()), [4, 3, 1, 1]);
    drop(cluster);
    task.await.unwrap();
}
