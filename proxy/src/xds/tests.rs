//! The whole state under a server that sends anything in any order: what must hold after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use weft_proto::convert::convert;
use weft_proto::document::{Document, Format};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use weft_proto::pb::google::protobuf::Any;
use weft_proto::schema::{MessageType, type_url_name};

use super::mux::{Received, Update};
use super::sources::Key;
use super::state::Item;
use super::*;
use crate::config::{ApiConfigSource, ConfigSource, GrpcTarget, Source};
use crate::listener::{DrainStyle, ListenerManager};

const LIMIT: Duration = Duration::from_secs(15);

mod outages;
mod simulation;
mod vhosts;

struct World {
    state: State,
    nonce: u64,
    delta: bool,
}

fn any(kind: Kind, resource: &Value) -> Any {
    let ty = MessageType::find(type_url_name(kind.type_url())).unwrap();
    let document = Document::parse("r", &resource.to_string(), Format::Json).unwrap();
    let converted = convert(&document, ty);
    let problems: Vec<_> = converted.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:?}");
    Any { type_url: kind.type_url().to_owned(), value: converted.message.encode() }
}

impl World {
    fn new() -> World {
        World::speaking(false)
    }

    fn speaking(delta: bool) -> World {
        World::of(crate::cluster::fixture::parts(1), delta)
    }

    /// One that speaks delta, and takes a layer of runtime values from the server.
    fn with_runtime_layer() -> World {
        let mut parts = crate::cluster::fixture::parts(1);
        let source = ConfigSource { from: Source::Ads, initial_fetch_timeout: Some(LIMIT) };
        let kind = config::RuntimeLayerKind::Discovered { resource: "rt".into(), source };
        let layer = config::RuntimeLayer { name: "rt".into(), kind };
        parts.runtime = crate::runtime::Runtime::new(&[layer], "", &parts.stats.root());
        World::of(parts, true)
    }

    fn of(parts: Parts, delta: bool) -> World {
        let parts = Arc::new(parts);
        let ads = ApiConfigSource {
            delta,
            target: GrpcTarget::Envoy { cluster: "plane".into(), authority: None },
            set_node_on_first_message_only: true,
            back_off_base: Duration::from_millis(500),
            back_off_max: Duration::from_secs(30),
            rate_limit: None,
            metadata: Vec::new(),
        };
        let source = || Some(ConfigSource { from: Source::Ads, initial_fetch_timeout: Some(LIMIT) });
        let dynamic = DynamicResources { listeners: source(), clusters: source(), ads: Some(ads.clone()) };
        let root = parts.stats.root();
        let style = DrainStyle { time: Duration::from_secs(600), gradual: true };
        let manager = ListenerManager::new(Vec::new(), parts.listeners.clone(), style, &root);
        let environment = Environment { clusters: Some(Default::default()), ..Environment::default() };
        let sources = Sources::new(Node::default(), Some(ads));
        let mut state = State::new(parts, environment, false, dynamic, sources, manager, Vec::new());
        state.start(Instant::now());
        let mut world = World { state, nonce: 0, delta };
        world.mux().connected();
        world
    }

    fn mux(&mut self) -> &mut mux::Mux {
        self.state.sources.streams.get_mut(&Key::Ads).unwrap()
    }

    /// Sends everything there is to say; the server hears it and says nothing.
    fn flush(&mut self) {
        while self.mux().next_request().is_some() {}
    }

    /// The server sends resources; what the proxy answers, if it takes the response.
    fn send(&mut self, kind: Kind, resources: &[Value]) -> Option<Result<(), String>> {
        self.tell(kind, resources, &[])
    }

    /// The server sends resources, and says that others are gone, where the protocol is delta.
    fn tell(&mut self, kind: Kind, resources: &[Value], removed: &[&str]) -> Option<Result<(), String>> {
        self.flush();
        self.nonce += 1;
        let version = self.nonce.to_string();
        let response = if self.delta {
            let name = |r: &Value| r["name"].as_str().or(r["cluster_name"].as_str()).unwrap_or_default().to_owned();
            let resource = |r: &Value| Resource {
                name: name(r),
                version: version.clone(),
                resource: Some(any(kind, r)),
                ..Resource::default()
            };
            DeltaDiscoveryResponse {
                system_version_info: version.clone(),
                nonce: version.clone(),
                type_url: kind.type_url().to_owned(),
                resources: resources.iter().map(resource).collect(),
                removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
                ..DeltaDiscoveryResponse::default()
            }
            .encode_to_vec()
        } else {
            DiscoveryResponse {
                version_info: version.clone(),
                nonce: version.clone(),
                type_url: kind.type_url().to_owned(),
                resources: resources.iter().map(|r| any(kind, r)).collect(),
                ..DiscoveryResponse::default()
            }
            .encode_to_vec()
        };
        let now = Instant::now();
        let received = self.mux().received(&response, now).unwrap();
        let Received::Update(update) = received else { return None };
        let (answered, verdict) = self.state.update(&Source::Ads, update, now);
        self.mux().answer(&answered, verdict.clone());
        Some(verdict)
    }

    /// What must hold at any moment.
    fn check(&mut self) {
        let entries = &self.state.clusters.all;
        let mut services = BTreeSet::new();
        for (name, entry) in entries {
            let there = self.state.parts.clusters.find(name);
            assert_eq!(there.is_some(), entry.active.is_some(), "{name}");
            let waits = self.state.warming.is_waiting(&Item::Cluster(name.clone()));
            assert_eq!(waits, entry.warming.is_some(), "{name}");
            let used = there.into_iter().chain(entry.warming.as_ref().map(|(_, c)| c.clone()));
            services.extend(used.filter_map(|c| match &c.config.discovery {
                config::Discovery::Eds { service_name, .. } => Some(service_name.clone()),
                _ => None,
            }));
        }
        assert_eq!(self.state.parts.clusters.all().len(), entries.values().filter(|e| e.active.is_some()).count());
        let kept: BTreeSet<_> = self.state.endpoints.all.keys().map(|(_, name)| name.clone()).collect();
        assert_eq!(kept, services, "endpoints are kept for as long as they are used");
        let asked: BTreeSet<_> = self.mux().names(Kind::Endpoints).map(str::to_owned).collect();
        assert_eq!(asked, services, "and asked for");
        let wanted: BTreeSet<_> = self.state.filters.all.keys().map(|(_, name, _)| name.clone()).collect();
        let asked: BTreeSet<_> = self.mux().names(Kind::Extension).map(str::to_owned).collect();
        assert_eq!(asked, wanted, "filters are asked for as long as they are used");
        for (name, entry) in &self.state.listeners.all {
            let open = self.state.listeners.manager.find(name).is_some();
            assert_eq!(open, entry.active.is_some(), "{name}");
            assert!(
                entry.active.is_none() || self.state.phase == Phase::Live,
                "nothing opens before the start is over"
            );
        }
    }
}

fn cluster(random: &mut StdRng, name: &str) -> Value {
    let mut c = json!({ "name": name, "connect_timeout": format!("{}s", random.random_range(1..3)) });
    match random.random_range(0..4) {
        0 => c["type"] = json!("STATIC"),
        1 => {
            c["type"] = json!("EDS");
            c["eds_cluster_config"] =
                json!({ "service_name": format!("s{}", random.random_range(0..2)), "eds_config": { "ads": {} } });
        }
        2 => {
            c["type"] = json!("EDS");
            c["eds_cluster_config"] = json!({ "eds_config": { "ads": {} } });
        }
        // Refused: there is nothing to take endpoints from.
        _ => c["type"] = json!("EDS"),
    }
    c
}

fn endpoints(random: &mut StdRng, name: &str) -> Value {
    let port = random.random_range(1..5);
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

const SNI_CLUSTER: &str = "envoy.extensions.filters.network.sni_cluster.v3.SniCluster";
const INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

fn listener(random: &mut StdRng, name: &str, port: u16) -> Value {
    let typed = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = json!({ "name": "router", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } });
    let routes = format!("r{}", random.random_range(0..2));
    let mut filters = vec![router];
    if random.random_bool(0.5) {
        let buffer = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer";
        let source = json!({ "config_source": { "ads": {} }, "type_urls": [buffer] });
        filters.insert(0, json!({ "name": format!("f{}", random.random_range(0..2)), "config_discovery": source }));
    }
    let manager = json!({
        "@type": typed,
        "stat_prefix": name,
        "rds": { "route_config_name": routes, "config_source": { "ads": {} } },
        "http_filters": filters,
    });
    // The same names as HTTP filters: each layer takes what is of its kind, and refuses the rest.
    let mut by_discovery = |ty: &str| {
        let source = json!({ "config_source": { "ads": {} }, "type_urls": [format!("type.googleapis.com/{ty}")] });
        let one = json!({ "name": format!("f{}", random.random_range(0..2)), "config_discovery": source });
        random.random_bool(0.3).then_some(one)
    };
    let own: Vec<_> = by_discovery(INSPECTOR).into_iter().collect();
    let mut network: Vec<_> = by_discovery(SNI_CLUSTER).into_iter().collect();
    network.push(json!({ "name": "hcm", "typed_config": manager }));
    json!({
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "listener_filters": own,
        "filter_chains": [{ "filters": network }],
    })
}

/// A filter that is refused now and then: by its rules, or because it is of another type than wanted.
fn filter(random: &mut StdRng, name: &str) -> Value {
    let http = |ty: &str| format!("envoy.extensions.filters.http.{ty}");
    let types = [http("buffer.v3.Buffer"), http("cors.v3.Cors"), SNI_CLUSTER.to_owned(), INSPECTOR.to_owned()];
    let ty = format!("type.googleapis.com/{}", types[random.random_range(0..types.len())]);
    let mut config = json!({ "@type": ty });
    if ty.ends_with("Buffer") {
        config["max_request_bytes"] = json!(random.random_range(0..3));
    }
    json!({ "name": name, "typed_config": config })
}

fn routes(random: &mut StdRng, name: &str) -> Value {
    let to = format!("c{}", random.random_range(0..5));
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": to } });
    json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] })
}

#[tokio::test(start_paused = true)]
async fn any_order_of_updates_leaves_a_sound_state() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        for _ in 0..60 {
            step(&mut world, &mut random).await;
            world.check();
        }
        // In the end a good server sends everything once, and nothing waits for ever.
        let clusters: BTreeMap<_, _> = (0..5)
            .map(|n| (format!("c{n}"), json!({ "name": format!("c{n}"), "type": "STATIC", "connect_timeout": "9s" })))
            .collect();
        world.mux().hold(Kind::Cluster, false);
        world.send(Kind::Cluster, &clusters.values().cloned().collect::<Vec<_>>());
        world.check();
        for _ in 0..3 {
            tokio::time::advance(LIMIT).await;
            world.state.elapsed(Instant::now());
            world.check();
        }
        assert_eq!(world.state.phase, Phase::Live, "seed {seed}");
        assert!(world.state.unready().is_empty(), "seed {seed}: {:?}", world.state.unready());
        assert!(world.state.next_deadline().is_none());
        assert_eq!(world.state.parts.clusters.all().len(), 5, "seed {seed}");
    }
}

async fn step(world: &mut World, random: &mut StdRng) {
    match random.random_range(0..11) {
        10 => {
            let asked: Vec<String> = world.mux().names(Kind::Extension).map(str::to_owned).collect();
            let all: Vec<_> = asked.iter().map(|name| filter(random, name)).collect();
            world.send(Kind::Extension, &all);
        }
        0..=2 => {
            let names: Vec<_> = (0..5).filter(|_| random.random_bool(0.6)).collect();
            let all: Vec<_> = names.iter().map(|n| cluster(random, &format!("c{n}"))).collect();
            world.send(Kind::Cluster, &all);
        }
        3..=5 => {
            let asked: Vec<String> = world.mux().names(Kind::Endpoints).map(str::to_owned).collect();
            let some: Vec<_> = asked.iter().filter(|_| random.random_bool(0.6)).cloned().collect();
            let all: Vec<_> = some.iter().map(|name| endpoints(random, name)).collect();
            world.send(Kind::Endpoints, &all);
        }
        6 => {
            let some: Vec<u16> = (0..3).filter(|_| random.random_bool(0.6)).collect();
            let all: Vec<_> = some.iter().map(|n| listener(random, &format!("l{n}"), 10_000 + n)).collect();
            world.send(Kind::Listener, &all);
        }
        7 => {
            let asked: Vec<String> = world.mux().names(Kind::Routes).map(str::to_owned).collect();
            let all: Vec<_> = asked.iter().map(|name| routes(random, name)).collect();
            world.send(Kind::Routes, &all);
        }
        8 => {
            tokio::time::advance(Duration::from_secs(random.random_range(0..20))).await;
            world.state.elapsed(Instant::now());
        }
        _ => {
            world.mux().connected();
            world.state.unanswered(&Source::Ads);
            world.state.lost(&Kind::ALL);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_again_changes_nothing() {
    let mut world = World::new();
    let mut random = StdRng::seed_from_u64(1);
    let eds = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } });
    world.send(Kind::Cluster, std::slice::from_ref(&eds));
    let assignment = endpoints(&mut random, "c");
    world.send(Kind::Endpoints, std::slice::from_ref(&assignment));
    let first = world.state.parts.clusters.find("c").unwrap();
    let hosts = first.hosts();
    assert_eq!(hosts.counts().0, 1);
    world.send(Kind::Cluster, std::slice::from_ref(&eds));
    world.send(Kind::Endpoints, std::slice::from_ref(&assignment));
    // The same in another spelling: a default that is written out.
    let mut spelled = eds.clone();
    spelled["connect_timeout"] = json!("5s");
    world.send(Kind::Cluster, &[spelled]);
    let again = world.state.parts.clusters.find("c").unwrap();
    assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&hosts, &again.hosts()));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_the_server_does_not_have_are_not_waited_for() {
    let mut world = World::new();
    let eds = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } });
    world.send(Kind::Cluster, &[eds]);
    assert!(world.state.parts.clusters.find("c").is_none(), "it waits");
    let none = Update {
        kind: Kind::Endpoints,
        version: "1".into(),
        nonce: "1".into(),
        resources: Vec::new(),
        removed: vec!["c".into()],
        absent: Vec::new(),
        complete: false,
        problems: Vec::new(),
    };
    let (_, verdict) = world.state.update(&Source::Ads, none, Instant::now());
    assert_eq!(verdict, Ok(()));
    world.check();
    assert_eq!(world.state.parts.clusters.find("c").map(|c| c.hosts().counts().0), Some(0));
    let mut random = StdRng::seed_from_u64(1);
    world.send(Kind::Endpoints, &[endpoints(&mut random, "c")]);
    assert_eq!(world.state.parts.clusters.find("c").map(|c| c.hosts().counts().0), Some(1));
}

#[tokio::test(start_paused = true)]
async fn routes_wait_for_clusters_that_are_on_their_way() {
    let mut world = World::new();
    let mut random = StdRng::seed_from_u64(1);
    world.send(Kind::Cluster, &[]);
    world.send(Kind::Listener, &[listener(&mut random, "l", 10_000)]);
    let name = world.mux().names(Kind::Routes).next().unwrap().to_owned();
    let to = |cluster: &str| {
        let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
        json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] })
    };
    world.send(Kind::Routes, &[to("nowhere")]);
    let key = (Source::Ads, name.clone());
    let version = |world: &World| world.state.routes.all[&key].active.as_ref().map(|l| l.version.clone());
    let before = version(&world);
    assert!(before.is_some(), "nobody waits for what nobody announced");
    let eds = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } });
    world.send(Kind::Cluster, &[eds]);
    assert_eq!(world.send(Kind::Routes, &[to("c")]), Some(Ok(())), "it is accepted");
    assert_eq!(version(&world), before, "and not in force yet");
    world.send(Kind::Endpoints, &[endpoints(&mut random, "c")]);
    assert_ne!(version(&world), before);
}

/// A world in which routes `r0` or `r1` lead to cluster `c`; the routes' name.
fn led_to_c(world: &mut World) -> String {
    let c = json!({ "name": "c", "connect_timeout": "1s" });
    world.send(Kind::Cluster, &[c]);
    world.send(Kind::Listener, &[listener(&mut StdRng::seed_from_u64(1), "l", 10_000)]);
    let name = world.mux().names(Kind::Routes).next().unwrap().to_owned();
    world.send(Kind::Routes, &[lead(&name, "c")]);
    assert_eq!(world.state.phase, Phase::Live);
    name
}

fn lead(name: &str, cluster: &str) -> Value {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] })
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_went_meanwhile_stays_until_its_routes_were_answered() {
    let there = |world: &World| world.state.parts.clusters.find("c").is_some();
    let mut world = World::new();
    let routes = led_to_c(&mut world);
    let away = |world: &mut World| {
        world.mux().connected();
        world.state.unanswered(&Source::Ads);
        world.send(Kind::Cluster, &[]);
        world.check();
        assert!(there(world), "routes that were not answered yet name it");
    };
    away(&mut world);
    world.send(Kind::Routes, &[lead(&routes, "nowhere")]);
    assert!(!there(&world), "nobody names it any more");
    // It comes back in time: it stays.
    led_to_c(&mut world);
    away(&mut world);
    world.send(Kind::Cluster, &[json!({ "name": "c", "connect_timeout": "1s" })]);
    world.send(Kind::Routes, &[lead(&routes, "c")]);
    assert!(there(&world));
    // While the stream is open nothing is waited for.
    world.send(Kind::Cluster, &[]);
    assert!(!there(&world));
    // Routes that are never answered hold it for so long.
    led_to_c(&mut world);
    away(&mut world);
    tokio::time::advance(LIMIT).await;
    world.state.elapsed(Instant::now());
    assert!(!there(&world));
    world.check();
}

/// A cluster that warms until endpoints come.
fn warming(name: &str) -> Value {
    json!({ "name": name, "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } })
}

fn ready(name: &str) -> Value {
    json!({ "name": name, "connect_timeout": "1s" })
}

impl World {
    fn has(&self, cluster: &str) -> bool {
        self.state.parts.clusters.find(cluster).is_some()
    }

    /// The clusters that routes in force lead to.
    fn led_to(&self, routes: &str) -> BTreeSet<String> {
        let config = self.state.parts.routes.config(&Source::Ads, routes);
        config.iter().flat_map(|c| needs::route_clusters(c)).map(str::to_owned).collect()
    }

    fn reconnect(&mut self) {
        self.mux().connected();
        self.state.unanswered(&Source::Ads);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_stays_while_the_routes_that_no_longer_name_it_wait() {
    let mut world = World::new();
    let routes = led_to_c(&mut world);
    world.send(Kind::Cluster, &[ready("c"), warming("d")]);
    assert_eq!(world.send(Kind::Routes, &[lead(&routes, "d")]), Some(Ok(())));
    assert_eq!(world.led_to(&routes), ["c".to_owned()].into(), "d warms");
    world.mux().hold(Kind::Cluster, false);
    world.send(Kind::Cluster, &[warming("d")]);
    assert!(world.has("c"), "routes in force name it");
    world.check();
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!(world.led_to(&routes), ["d".to_owned()].into());
    assert!(world.has("d") && !world.has("c"), "now nothing does");
    world.check();
}

#[tokio::test(start_paused = true)]
async fn routes_go_on_with_what_they_have_when_a_cluster_goes_before_it_was_used() {
    let mut world = World::new();
    let routes = led_to_c(&mut world);
    world.send(Kind::Cluster, &[ready("c"), warming("d")]);
    world.send(Kind::Routes, &[lead(&routes, "d")]);
    // The server comes back with another name for both.
    world.reconnect();
    world.send(Kind::Cluster, &[ready("e")]);
    assert_eq!(world.led_to(&routes), ["c".to_owned()].into(), "newer routes are to come");
    assert!(world.has("c"));
    world.send(Kind::Routes, &[lead(&routes, "e")]);
    assert_eq!(world.led_to(&routes), ["e".to_owned()].into());
    assert!(!world.has("c"));
    world.check();
    // A server that never says more is not waited for longer than it may warm.
    world.send(Kind::Cluster, &[ready("e"), warming("d")]);
    world.send(Kind::Routes, &[lead(&routes, "d")]);
    world.mux().hold(Kind::Cluster, false);
    world.send(Kind::Cluster, &[ready("e")]);
    assert_eq!(world.led_to(&routes), ["e".to_owned()].into());
    tokio::time::advance(LIMIT).await;
    world.state.elapsed(Instant::now());
    assert_eq!(world.led_to(&routes), ["d".to_owned()].into(), "as the server has it");
}

#[tokio::test(start_paused = true)]
async fn routes_that_come_before_the_clusters_of_a_new_stream_wait_for_these() {
    let mut world = World::new();
    let routes = led_to_c(&mut world);
    world.reconnect();
    world.send(Kind::Routes, &[lead(&routes, "d")]);
    assert_eq!(world.led_to(&routes), ["c".to_owned()].into());
    world.send(Kind::Cluster, &[warming("d")]);
    assert!(world.has("c") && !world.has("d"));
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!(world.led_to(&routes), ["d".to_owned()].into());
    assert!(!world.has("c"));
    // What the server does not announce then is not waited for.
    world.reconnect();
    world.send(Kind::Routes, &[lead(&routes, "nowhere")]);
    assert_eq!(world.led_to(&routes), ["d".to_owned()].into());
    world.send(Kind::Cluster, &[warming("d")]);
    assert_eq!(world.led_to(&routes), ["nowhere".to_owned()].into());
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_about_to_go_keeps_its_endpoints() {
    let mut world = World::new();
    let mut random = StdRng::seed_from_u64(1);
    let eds = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } });
    world.send(Kind::Cluster, std::slice::from_ref(&eds));
    world.send(Kind::Endpoints, &[endpoints(&mut random, "c")]);
    world.send(Kind::Listener, &[listener(&mut random, "l", 10_000)]);
    let routes = world.mux().names(Kind::Routes).next().unwrap().to_owned();
    world.send(Kind::Routes, &[lead(&routes, "c")]);
    let hosts = |world: &World| world.state.parts.clusters.find("c").map(|c| c.hosts().counts().0);
    // A server that knows the cluster no more says that it has no endpoints, before it answers for routes.
    world.mux().connected();
    world.state.unanswered(&Source::Ads);
    world.send(Kind::Cluster, &[]);
    world.send(Kind::Endpoints, &[json!({ "cluster_name": "c" })]);
    assert_eq!(hosts(&world), Some(1), "routes in force lead there");
    world.send(Kind::Cluster, std::slice::from_ref(&eds));
    assert_eq!(hosts(&world), Some(0), "it is there again, and has what the server says");
    world.check();
}

fn demanded(resources: Vec<mux::Resource>, removed: &[&str]) -> Update {
    Update {
        kind: Kind::Cluster,
        version: "1".into(),
        nonce: "1".into(),
        resources,
        removed: removed.iter().map(|n| (*n).to_owned()).collect(),
        absent: Vec::new(),
        complete: false,
        problems: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_what_they_need_until_it_is_known() {
    use crate::on_demand::{Ask, Wanted};
    use tokio::sync::oneshot::{self, error::TryRecvError};
    let mut world = World::new();
    world.state.sources.streams.clear();
    let ads = ApiConfigSource { delta: true, ..world.state.dynamic.ads.clone().unwrap() };
    world.state.sources = Sources::new(Node::default(), Some(ads));
    let ask = |world: &mut World, name: &str| {
        let (waiting, answered) = oneshot::channel();
        world.state.ask(Ask { wanted: Wanted::Cluster(Source::Ads, name.to_owned()), waiting });
        answered
    };
    let asked = |world: &mut World| {
        world.mux().connected();
        world.mux().names(Kind::Cluster).map(str::to_owned).collect::<Vec<_>>()
    };
    let (mut one, mut two, mut other) = (ask(&mut world, "a"), ask(&mut world, "a"), ask(&mut world, "b"));
    assert_eq!(asked(&mut world), ["a", "b"]);
    let a = any(Kind::Cluster, &json!({ "name": "a" }));
    let a =
        mux::Resource { name: "a".into(), version: "1".into(), aliases: Vec::new(), body: a, said: None, held: false };
    let now = Instant::now();
    world.state.update(&Source::Ads, demanded(vec![a], &[]), now).1.unwrap();
    for waits in [&mut one, &mut two] {
        assert_eq!(waits.try_recv(), Err(TryRecvError::Closed), "those that waited for it go on");
    }
    assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(ask(&mut world, "a").try_recv(), Err(TryRecvError::Closed), "it is there");
    world.state.update(&Source::Ads, demanded(Vec::new(), &["b"]), now).1.unwrap();
    assert_eq!(other.try_recv(), Err(TryRecvError::Closed), "it is known not to exist");
    assert_eq!(asked(&mut world), ["a", "b"], "it may come to exist");
    while world.mux().next_request().is_some() {}
    let mut later = ask(&mut world, "b");
    assert_eq!(later.try_recv(), Err(TryRecvError::Empty));
    assert!(world.mux().next_request().is_some(), "and is asked for again when somebody needs it");
    let _waits = ask(&mut world, "b");
    assert!(world.mux().next_request().is_none(), "once");
}

#[tokio::test(start_paused = true)]
async fn no_more_names_than_there_is_room_for() {
    use crate::on_demand::{Ask, Wanted};
    let mut world = World::new();
    let mut held = Vec::new();
    for n in 0..20_000 {
        let (waiting, answered) = tokio::sync::oneshot::channel();
        world.state.ask(Ask { wanted: Wanted::Cluster(Source::Ads, format!("c{n}")), waiting });
        held.push(answered);
    }
    assert_eq!(world.mux().names(Kind::Cluster).count(), 16_384);
    assert!(held.last_mut().unwrap().try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Closed));
}

#[test]
fn a_file_is_an_update() {
    let resources = vec![any(Kind::Cluster, &json!({ "name": "c" }))];
    let update = Update::of_file(Kind::Cluster, &DiscoveryResponse { resources, ..DiscoveryResponse::default() });
    assert!(update.complete && update.problems.is_empty());
    assert_eq!(update.resources[0].name, "c");
}
