use std::time::Duration;

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weft_proto::any::pack;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::service::discovery::v3::{
    self as pb, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use weft_proto::pb::google::protobuf::Any;

use super::*;

fn mux(delta: bool) -> Mux {
    Mux::new(delta, Node { id: "n".into(), ..Node::default() }, true)
}

fn cluster(name: &str) -> Any {
    pack(&Cluster { name: name.into(), ..Cluster::default() })
}

fn sotw(mux: &mut Mux) -> Option<DiscoveryRequest> {
    mux.next_request().map(|bytes| DiscoveryRequest::decode(&*bytes).unwrap())
}

fn delta(mux: &mut Mux) -> Option<DeltaDiscoveryRequest> {
    mux.next_request().map(|bytes| DeltaDiscoveryRequest::decode(&*bytes).unwrap())
}

fn clusters(version: &str, nonce: &str, resources: Vec<Any>) -> Vec<u8> {
    let type_url = Kind::Cluster.type_url().to_owned();
    let (version_info, nonce) = (version.to_owned(), nonce.to_owned());
    DiscoveryResponse { version_info, nonce, resources, type_url, ..DiscoveryResponse::default() }.encode_to_vec()
}

fn update(mux: &mut Mux, message: &[u8]) -> Update {
    match mux.received(message, Instant::now()).unwrap() {
        Received::Update(update) => update,
        Received::Ignored(reason) => panic!("{reason}"),
    }
}

#[tokio::test(start_paused = true)]
async fn state_of_the_world_is_acked_nacked_and_asked_for_again() {
    let mut m = mux(false);
    m.watch_all(Kind::Cluster);
    assert!(m.next_request().is_none(), "there is no stream yet");
    m.connected();
    let first = sotw(&mut m).unwrap();
    assert!(first.node.is_some() && first.resource_names.is_empty() && first.version_info.is_empty());
    assert!(m.next_request().is_none());

    let u = update(&mut m, &clusters("1", "a", vec![cluster("x")]));
    assert!(u.complete && u.resources[0].name == "x");
    m.answer(&Answered::from(&u), Ok(()));
    let ack = sotw(&mut m).unwrap();
    assert_eq!((&*ack.version_info, &*ack.response_nonce, ack.error_detail), ("1", "a", None));
    assert!(ack.node.is_none(), "only the first says who asks");

    let u = update(&mut m, &clusters("2", "b", vec![cluster("y")]));
    m.answer(&Answered::from(&u), Err("y: bad".into()));
    let nack = sotw(&mut m).unwrap();
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("1", "b"));
    assert_eq!(nack.error_detail.unwrap().message, "y: bad");
    assert!(m.next_request().is_none(), "once");

    m.connected();
    let again = sotw(&mut m).unwrap();
    assert_eq!((&*again.version_info, &*again.response_nonce), ("1", ""));
    assert!(again.node.is_some());
}

#[tokio::test(start_paused = true)]
async fn names_that_come_together_are_one_request() {
    let mut m = mux(false);
    m.connected();
    ["b", "a", "c"].iter().for_each(|n| m.watch(Kind::Endpoints, n));
    assert_eq!(sotw(&mut m).unwrap().resource_names, ["a", "b", "c"]);
    m.unwatch(Kind::Endpoints, "b");
    assert_eq!(sotw(&mut m).unwrap().resource_names, ["a", "c"]);
    m.ask_again(Kind::Endpoints, "a");
    assert_eq!(sotw(&mut m).unwrap().resource_names, ["a", "c"]);
    ["a", "c"].iter().for_each(|n| m.unwatch(Kind::Endpoints, n));
    assert!(sotw(&mut m).unwrap().resource_names.is_empty());
    m.connected();
    assert!(m.next_request().is_none(), "nothing is wanted: an empty list would ask for all");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_comes_later_and_once() {
    let mut m = mux(false);
    m.watch_all(Kind::Cluster);
    m.connected();
    m.next_request();
    m.hold(Kind::Cluster, true);
    for (version, nonce) in [("1", "a"), ("2", "b")] {
        let u = update(&mut m, &clusters(version, nonce, vec![]));
        m.answer(&Answered::from(&u), Ok(()));
        assert!(!m.has_next() && m.next_request().is_none());
    }
    m.watch(Kind::Endpoints, "a");
    assert_eq!(sotw(&mut m).unwrap().type_url, Kind::Endpoints.type_url());
    m.hold(Kind::Cluster, false);
    let ack = sotw(&mut m).unwrap();
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("2", "b"));
    assert!(m.next_request().is_none());
}

#[tokio::test(start_paused = true)]
async fn delta_tells_changes_and_after_a_reconnect_what_it_holds() {
    let mut m = mux(true);
    m.watch_all(Kind::Cluster);
    m.watch(Kind::Endpoints, "a");
    m.connected();
    let first = delta(&mut m).unwrap();
    assert!(first.resource_names_subscribe.is_empty() && first.initial_resource_versions.is_empty());
    assert_eq!(delta(&mut m).unwrap().resource_names_subscribe, ["a"]);
    m.watch(Kind::Endpoints, "b");
    m.unwatch(Kind::Endpoints, "a");
    let change = delta(&mut m).unwrap();
    assert_eq!(
        (change.resource_names_subscribe, change.resource_names_unsubscribe),
        (vec!["b".into()], vec!["a".into()])
    );

    let response = |nonce: &str, names: &[&str], removed: &[&str]| {
        let resource = |n: &&str| pb::Resource {
            name: (*n).into(),
            version: format!("v{n}"),
            resource: Some(cluster(n)),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            type_url: Kind::Cluster.type_url().into(),
            nonce: nonce.into(),
            resources: names.iter().map(resource).collect(),
            removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    };
    let u = update(&mut m, &response("1", &["x", "y"], &[]));
    assert!(!u.complete);
    m.answer(&Answered::from(&u), Ok(()));
    assert_eq!(delta(&mut m).unwrap().response_nonce, "1");
    let u = update(&mut m, &response("2", &["z"], &["x"]));
    m.answer(&Answered::from(&u), Err("z: bad".into()));
    assert!(delta(&mut m).unwrap().error_detail.is_some());
    m.connected();
    let again = delta(&mut m).unwrap();
    assert_eq!(again.initial_resource_versions, [("y".to_owned(), "vy".to_owned())].into(), "x is gone, z was refused");
    m.ask_again(Kind::Cluster, "y");
    assert!(m.next_request().is_some() && m.next_request().is_none(), "the server knows by itself");
    m.connected();
    assert_eq!(delta(&mut m).unwrap().initial_resource_versions, [].into(), "y has to come again");
    assert_eq!(delta(&mut m).unwrap().resource_names_subscribe, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_needs_is_asked_for_again() {
    let mut m = mux(true);
    m.watch_all(Kind::Cluster);
    m.connected();
    assert!(delta(&mut m).unwrap().resource_names_subscribe.is_empty(), "all of a kind");
    for _ in 0..2 {
        m.demand(Kind::Cluster, "a");
        assert_eq!(delta(&mut m).unwrap().resource_names_subscribe, ["a"]);
    }
    m.demand(Kind::Cluster, "b");
    m.demand(Kind::Cluster, "b");
    m.connected();
    assert_eq!(delta(&mut m).unwrap().resource_names_subscribe, ["*", "a", "b"], "all, and names: it has to be said");
    m.unwatch_all(Kind::Cluster);
    assert_eq!(delta(&mut m).unwrap().resource_names_unsubscribe, ["*"]);
    m.watch_all(Kind::Cluster);
    assert_eq!(delta(&mut m).unwrap().resource_names_subscribe, ["*"]);
    m.demand(Kind::Cluster, "a");
    m.unwatch(Kind::Cluster, "a");
    let left = delta(&mut m).unwrap();
    assert_eq!((left.resource_names_subscribe.len(), left.resource_names_unsubscribe), (0, vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn names_that_are_added_are_not_held_back_by_delta() {
    let mut m = mux(true);
    m.watch_all(Kind::Cluster);
    m.connected();
    m.next_request();
    let type_url = Kind::Cluster.type_url().to_owned();
    let response = DeltaDiscoveryResponse { type_url, nonce: "1".into(), ..Default::default() }.encode_to_vec();
    let u = update(&mut m, &response);
    m.hold(Kind::Cluster, true);
    m.answer(&Answered::from(&u), Ok(()));
    assert!(!m.has_next(), "the answer is");
    m.demand(Kind::Cluster, "a");
    assert!(m.has_next());
    let asks = delta(&mut m).unwrap();
    assert_eq!((asks.resource_names_subscribe, &*asks.response_nonce), (vec!["a".to_owned()], ""));
    assert!(!m.has_next());
    m.hold(Kind::Cluster, false);
    assert_eq!(delta(&mut m).unwrap().response_nonce, "1");
    assert!(m.next_request().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_begins_with_what_is_held_back() {
    for is_delta in [false, true] {
        let mut m = mux(is_delta);
        m.watch_all(Kind::Cluster);
        m.watch(Kind::Routes, "r");
        m.connected();
        while m.next_request().is_some() {}
        m.hold(Kind::Cluster, true);
        m.connected();
        let mut types = Vec::new();
        while let Some(request) = m.next_request() {
            // Both kinds of requests have their type in a field of their own, and it stands there in clear.
            let text = String::from_utf8_lossy(&request).into_owned();
            types.push(Kind::ALL.into_iter().find(|kind| text.contains(kind.type_url())));
        }
        assert_eq!(types, [Some(Kind::Cluster), Some(Kind::Routes)], "answers for routes must not come first");
        m.hold(Kind::Cluster, false);
        assert!(m.next_request().is_none(), "it was said");
        // A kind that nobody wants has nothing to say, held back or not.
        m.unwatch_all(Kind::Cluster);
        m.hold(Kind::Cluster, true);
        m.connected();
        assert!(m.next_request().is_some() && m.next_request().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_virtual_host_is_called_what_the_server_calls_it() {
    use weft_proto::pb::envoy::config::route::v3::VirtualHost;
    let mut m = mux(true);
    m.watch(Kind::VirtualHost, "r/a");
    m.connected();
    m.next_request();
    let host = |name: &str, body: Option<&str>| pb::Resource {
        name: name.into(),
        aliases: vec![format!("{name}.alias")],
        resource: body.map(|name| pack(&VirtualHost { name: name.into(), ..VirtualHost::default() })),
        ..Default::default()
    };
    let resources = vec![host("r/a", Some("something else")), host("r/none", None)];
    let type_url = Kind::VirtualHost.type_url().into();
    let u = update(&mut m, &DeltaDiscoveryResponse { type_url, resources, ..Default::default() }.encode_to_vec());
    assert_eq!((&*u.resources[0].name, &*u.resources[0].aliases), ("r/a", &["r/a.alias".to_owned()][..]));
    assert_eq!((u.resources.len(), u.absent), (1, vec!["r/none.alias".to_owned(), "r/none".to_owned()]));
    assert!(u.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_response_is_named() {
    let mut m = mux(false);
    m.watch_all(Kind::Cluster);
    m.connected();
    m.next_request();
    let other = pack(&ClusterLoadAssignment { cluster_name: "e".into(), ..Default::default() });
    let garbage = Any { type_url: Kind::Cluster.type_url().into(), value: vec![0xff, 0xff] };
    let u = update(&mut m, &clusters("1", "a", vec![cluster("x"), other, garbage, cluster("x")]));
    assert_eq!(u.resources.len(), 1);
    assert!(
        u.problems[0].starts_with("resources[1]: type URL type.googleapis.com/envoy.config.endpoint"),
        "{:?}",
        u.problems
    );
    assert!(u.problems[1].starts_with("resources[2]: cannot be decoded"), "{:?}", u.problems);
    assert_eq!(u.problems[2], "x: duplicate resource x found");

    assert!(m.received(&[0xff, 0xff, 0xff], Instant::now()).is_err());
    let unknown = DiscoveryResponse { type_url: "type.googleapis.com/no.such.Type".into(), ..Default::default() };
    assert!(matches!(m.received(&unknown.encode_to_vec(), Instant::now()), Ok(Received::Ignored(_))));
    let unasked = DiscoveryResponse { type_url: Kind::Secret.type_url().into(), ..Default::default() };
    assert!(matches!(m.received(&unasked.encode_to_vec(), Instant::now()), Ok(Received::Ignored(_))));
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_ends_unless_it_is_renewed() {
    let mut m = mux(true);
    m.watch_all(Kind::Cluster);
    m.connected();
    m.next_request();
    let response = |body: Option<Any>, ttl: i64| {
        let ttl = Some(weft_proto::pb::google::protobuf::Duration { seconds: ttl, nanos: 0 });
        let resource =
            pb::Resource { name: "x".into(), version: "1".into(), resource: body, ttl, ..Default::default() };
        let type_url = Kind::Cluster.type_url().into();
        DeltaDiscoveryResponse { type_url, resources: vec![resource], ..Default::default() }.encode_to_vec()
    };
    let start = Instant::now();
    assert_eq!(update(&mut m, &response(Some(cluster("x")), 5)).resources.len(), 1);
    assert_eq!(m.next_expiry(), Some(start + Duration::from_secs(5)));
    tokio::time::advance(Duration::from_secs(4)).await;
    let heartbeat = update(&mut m, &response(None, 5));
    assert!(heartbeat.resources.is_empty() && heartbeat.problems.is_empty() && !heartbeat.complete);
    assert!(m.expired(start + Duration::from_secs(8)).is_empty());
    assert_eq!(m.expired(start + Duration::from_secs(9)), [(Kind::Cluster, "x".to_owned())]);
    assert_eq!(m.next_expiry(), None);
}

#[test]
fn a_nack_is_bounded() {
    let long = shorten("ä".repeat(5000));
    assert!(long.len() <= MAX_NACK_TEXT + '…'.len_utf8() && long.ends_with('…'));
}

/// What a server knows of a client that says all this.
#[derive(Default)]
struct Server {
    wanted: BTreeMap<String, BTreeSet<String>>,
    first: bool,
}

impl Server {
    fn hears(&mut self, delta: bool, bytes: &[u8]) {
        let node = if delta {
            let r = DeltaDiscoveryRequest::decode(bytes).unwrap();
            let names = self.wanted.entry(r.type_url).or_default();
            for name in r.resource_names_subscribe {
                assert!(names.insert(name), "subscribed to twice");
            }
            for name in r.resource_names_unsubscribe {
                assert!(names.remove(&name), "was not subscribed to");
            }
            r.node
        } else {
            let r = DiscoveryRequest::decode(bytes).unwrap();
            self.wanted.insert(r.type_url, r.resource_names.into_iter().collect());
            r.node
        };
        assert_eq!(node.is_some(), self.first, "the node is on the first message only");
        self.first = false;
    }
}

/// Any order of events: once everything was said, the server knows what is wanted, and answers carry the last nonce.
#[tokio::test(start_paused = true)]
async fn the_server_always_gets_to_know() {
    for seed in 0..400 {
        let delta = seed % 2 == 0;
        let mut random = StdRng::seed_from_u64(seed);
        let mut m = mux(delta);
        let mut server = Server::default();
        let kinds = [Kind::Endpoints, Kind::Routes];
        let mut wanted: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        for step in 0..150 {
            let kind = kinds[random.random_range(0..2)];
            let name = format!("n{}", random.random_range(0..5));
            match random.random_range(0..8) {
                0..=2 => {
                    m.watch(kind, &name);
                    wanted.entry(kind).or_default().insert(name);
                }
                3 | 4 => {
                    m.unwatch(kind, &name);
                    wanted.entry(kind).or_default().remove(&name);
                }
                5 => m.hold(kind, random.random_bool(0.5)),
                6 if random.random_bool(0.2) => {
                    m.connected();
                    server = Server { first: true, ..Server::default() };
                }
                6 if random.random_bool(0.1) => m.disconnected(),
                6 => {
                    let nonce = format!("{step}");
                    let type_url = kind.type_url().to_owned();
                    let message = if delta {
                        DeltaDiscoveryResponse { type_url, nonce, ..Default::default() }.encode_to_vec()
                    } else {
                        DiscoveryResponse { type_url, nonce, ..Default::default() }.encode_to_vec()
                    };
                    if m.is_connected()
                        && let Ok(Received::Update(u)) = m.received(&message, Instant::now())
                    {
                        let verdict = if random.random_bool(0.5) { Ok(()) } else { Err("no".to_owned()) };
                        m.answer(&Answered::from(&u), verdict);
                    }
                }
                _ => {
                    while let Some(bytes) = m.next_request() {
                        server.hears(delta, &bytes);
                    }
                }
            }
            assert!(m.queue.len() <= kinds.len(), "nothing but kinds is queued");
        }
        kinds.iter().for_each(|k| m.hold(*k, false));
        if !m.is_connected() {
            m.connected();
            server = Server { first: true, ..Server::default() };
        }
        while let Some(bytes) = m.next_request() {
            server.hears(delta, &bytes);
        }
        for (kind, names) in &wanted {
            let known = server.wanted.get(kind.type_url()).cloned().unwrap_or_default();
            assert_eq!(known, *names, "seed {seed} {kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_not_to_exist_is_known_until_it_does() {
    let mut m = mux(true);
    m.watch(Kind::Endpoints, "a");
    m.connected();
    m.next_request();
    let type_url: String = Kind::Endpoints.type_url().into();
    let removed_resources = vec!["a".to_owned(), "other".to_owned()];
    let gone = DeltaDiscoveryResponse { type_url: type_url.clone(), removed_resources, ..Default::default() };
    update(&mut m, &gone.encode_to_vec());
    assert!(m.is_absent(Kind::Endpoints, "a"));
    assert!(!m.is_absent(Kind::Endpoints, "other"), "nobody asked for it");
    let assignment = ClusterLoadAssignment { cluster_name: "a".into(), ..Default::default() };
    let resources = vec![pb::Resource { name: "a".into(), resource: Some(pack(&assignment)), ..Default::default() }];
    update(&mut m, &DeltaDiscoveryResponse { type_url, resources, ..Default::default() }.encode_to_vec());
    assert!(!m.is_absent(Kind::Endpoints, "a"));
    update(&mut m, &gone.encode_to_vec());
    m.unwatch(Kind::Endpoints, "a");
    assert!(!m.is_absent(Kind::Endpoints, "a"));
}
