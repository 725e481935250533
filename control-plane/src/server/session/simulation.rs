//! A client much like Envoy against a session, driven by a seed through every order of changes, answers, refusals, delays and
//! reconnects that comes up. What must hold is checked after each step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use weft_proto::pb::google::rpc::Status;

use super::*;
use crate::resource::{ResourceSet, ResourceType as Type};
use crate::server::fixtures::{cluster, endpoints};

const STEPS: usize = 400;
/// Envoy's default for how long a cluster waits for its endpoints.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// What there is: routes name clusters, listeners name routes.
#[derive(Debug, Default)]
struct World {
    clusters: BTreeMap<u8, u32>,
    routes: BTreeMap<u8, (u32, BTreeSet<u8>)>,
    listeners: BTreeMap<u8, (u32, u8)>,
    revision: u32,
}

impl World {
    /// Anything may change, but what is named exists.
    fn change(&mut self, rng: &mut SmallRng) {
        self.revision += 1;
        let id = rng.random_range(0..5);
        match rng.random_range(0..6) {
            0 | 1 => drop(self.clusters.insert(id, self.revision)),
            2 => {
                self.clusters.remove(&id);
                let named = self.routes.values_mut().filter(|(_, clusters)| clusters.contains(&id));
                for (revision, clusters) in named {
                    *revision = self.revision;
                    clusters.remove(&id);
                }
            }
            3 => {
                let clusters = self.clusters.keys().copied().filter(|_| rng.random_bool(0.5)).collect();
                self.routes.insert(id, (self.revision, clusters));
            }
            4 => {
                let routes: Vec<u8> = self.routes.keys().copied().collect();
                if !routes.is_empty() {
                    let route = routes[rng.random_range(0..routes.len())];
                    self.listeners.insert(id, (self.revision, route));
                }
            }
            _ => {
                self.routes.remove(&id);
                self.listeners.retain(|_, (_, route)| *route != id);
            }
        }
    }

    /// Everything differs from what it was.
    fn touch(&mut self) {
        self.revision += 1;
        let revision = self.revision;
        self.clusters.values_mut().for_each(|of| *of = revision);
        self.routes.values_mut().for_each(|(of, _)| *of = revision);
        self.listeners.values_mut().for_each(|(of, _)| *of = revision);
    }

    fn resources(&self) -> Resources {
        let route = |(id, (revision, clusters)): (&u8, &(u32, BTreeSet<u8>))| {
            let names = clusters.iter().map(|cluster| format!("c{cluster}"));
            let internal_only_headers = std::iter::once(revision.to_string()).chain(names).collect();
            let message =
                RouteConfiguration { name: format!("r{id}"), internal_only_headers, ..RouteConfiguration::default() };
            Resource::new(format!("r{id}"), &message)
        };
        let listener = |(id, (revision, route)): (&u8, &(u32, u8))| {
            let stat_prefix = format!("r{route} {revision}");
            Resource::new(format!("l{id}"), &Listener { stat_prefix, ..Listener::default() })
        };
        let mut resources = Resources::default();
        let clusters = self.clusters.iter();
        resources.set(Type::Cluster, clusters.map(|(id, n)| cluster(&format!("c{id}"), *n)).collect::<ResourceSet>());
        let clusters = self.clusters.keys();
        resources.set(Type::Endpoints, clusters.map(|id| endpoints(&format!("c{id}"))).collect::<ResourceSet>());
        resources.set(Type::Route, self.routes.iter().map(route).collect::<ResourceSet>());
        resources.set(Type::Listener, self.listeners.iter().map(listener).collect::<ResourceSet>());
        resources
    }
}

fn route_clusters(route: &Resource) -> Vec<String> {
    let message: RouteConfiguration = prost::Message::decode(route.message()).unwrap();
    message.internal_only_headers.into_iter().skip(1).collect()
}

fn listener_route(listener: &Resource) -> String {
    let message: Listener = prost::Message::decode(listener.message()).unwrap();
    message.stat_prefix.split(' ').next().unwrap().to_owned()
}

type Held = BTreeMap<String, Arc<Resource>>;

/// A request on its way.
struct Said {
    ty: Type,
    nonce: String,
    refused: bool,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
    initial: Held,
}

struct Client {
    variant: Variant,
    session: Session,
    now: Instant,
    /// Pushes on their way.
    pushes: VecDeque<Push>,
    /// Requests on their way.
    requests: VecDeque<Said>,
    /// The answer about clusters, withheld while one warms.
    withheld: Option<u64>,
    held: [Held; ResourceType::ALL.len()],
    subscribed: [BTreeSet<String>; ResourceType::ALL.len()],
    /// The route configuration each listener serves with; it changes when the new one is there.
    active: BTreeMap<String, String>,
    /// Clusters that warm until their endpoints come, or that takes too long.
    warming: BTreeSet<String>,
    warming_since: Instant,
    /// It has refused clusters and may have routes to some of them.
    refused_clusters: bool,
    /// It came back without saying what it has, so clusters it needs may be taken away at once.
    resumed_blindly: bool,
}

impl Client {
    fn new(variant: Variant, now: Instant) -> Self {
        let mut client = Self {
            variant,
            session: Session::new(variant, Resources::default()),
            now,
            pushes: VecDeque::new(),
            requests: VecDeque::new(),
            withheld: None,
            held: Default::default(),
            subscribed: Default::default(),
            active: BTreeMap::new(),
            warming: BTreeSet::new(),
            warming_since: now,
            refused_clusters: false,
            resumed_blindly: false,
        };
        client.connect(Resources::default());
        client
    }

    fn connect(&mut self, resources: Resources) {
        self.session = Session::new(self.variant, resources);
        (self.pushes, self.requests, self.withheld) = Default::default();
        // Answers that were withheld or lost are not missed: what it has, it has.
        self.warming.clear();
        self.resumed_blindly = self.variant == Variant::Sotw;
        for ty in [Type::Cluster, Type::Endpoints, Type::Listener, Type::Route] {
            let subscribe = self.subscribed[ty as usize].clone();
            let mut initial = if self.variant == Variant::Delta { self.held[ty as usize].clone() } else { Held::new() };
            if !matches!(ty, Type::Cluster | Type::Listener) {
                initial.retain(|name, _| subscribe.contains(name));
                if subscribe.is_empty() {
                    continue;
                }
            }
            let (nonce, unsubscribe) = (String::new(), BTreeSet::new());
            self.requests.push_back(Said { ty, nonce, refused: false, subscribe, unsubscribe, initial });
        }
    }

    fn say(&mut self, ty: Type, nonce: String, refused: bool) {
        let (subscribe, unsubscribe) = Default::default();
        self.requests.push_back(Said { ty, nonce, refused, subscribe, unsubscribe, initial: Held::new() });
    }

    /// The server takes all that was said.
    fn deliver(&mut self) {
        while let Some(said) = self.requests.pop_front() {
            let error_detail = said.refused.then(|| Status { message: "no".into(), ..Status::default() });
            let result = if self.variant == Variant::Sotw {
                let request = DiscoveryRequest {
                    resource_names: self.subscribed[said.ty as usize].iter().cloned().collect(),
                    response_nonce: said.nonce,
                    error_detail,
                    ..DiscoveryRequest::default()
                };
                self.session.sotw_request(said.ty, &request, self.now)
            } else {
                let versions = said.initial.iter().map(|(name, held)| (name.clone(), held.version().to_string()));
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe: said.subscribe.into_iter().collect(),
                    resource_names_unsubscribe: said.unsubscribe.into_iter().collect(),
                    initial_resource_versions: versions.collect(),
                    response_nonce: said.nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                };
                self.session.delta_request(said.ty, &request, self.now)
            };
            result.unwrap();
        }
    }

    /// The server sends what it may.
    fn pump(&mut self) {
        while let Some(push) = self.session.next_push(self.now) {
            self.pushes.push_back(push);
        }
    }

    fn receive(&mut self, rng: &mut SmallRng, refusals: f64) {
        let Some(push) = self.pushes.pop_front() else { return };
        // Endpoints never differ here, so that one refusal would last.
        let refused = push.ty != Type::Endpoints && !push.changed.is_empty() && rng.random_bool(refusals);
        self.refused_clusters |= refused && push.ty == Type::Cluster;
        if refused {
            self.refuse(push);
            return;
        }
        let withholds = match push.ty {
            Type::Cluster => self.take_clusters(&push),
            Type::Listener => self.take_listeners(&push),
            _ => self.take_named(&push),
        };
        if withholds {
            self.withheld = Some(push.nonce);
            self.warming_since = self.now;
        } else {
            self.say(push.ty, push.nonce.to_string(), false);
        }
    }

    /// Keeps what it has of what is new, as Envoy does; what is gone by a push that it refuses is gone.
    fn refuse(&mut self, mut push: Push) {
        let nonce = push.nonce.to_string();
        let held = &self.held[push.ty as usize];
        push.resources = push.resources.iter().filter_map(|fresh| held.get(&**fresh.name()).cloned()).collect();
        match push.ty {
            Type::Cluster => drop(self.take_clusters(&push)),
            Type::Listener => drop(self.take_listeners(&push)),
            _ => {}
        }
        self.say(push.ty, nonce, true);
    }

    /// Answers for the clusters when none warms any longer.
    fn warm(&mut self) {
        if self.now >= self.warming_since + FETCH_TIMEOUT {
            self.warming.clear();
        }
        if self.warming.is_empty()
            && let Some(nonce) = self.withheld.take()
        {
            self.say(Type::Cluster, nonce.to_string(), false);
        }
    }

    /// Replaces what is held; what is gone by it.
    fn replace(&mut self, push: &Push) -> Vec<String> {
        let held = &mut self.held[push.ty as usize];
        let named: BTreeSet<&str> = push.resources.iter().map(|resource| &**resource.name()).collect();
        let gone: Vec<String> = match push.variant {
            Variant::Sotw => held.keys().filter(|name| !named.contains(name.as_str())).cloned().collect(),
            Variant::Delta => push.removed.iter().map(ToString::to_string).collect(),
        };
        gone.iter().for_each(|name| drop(held.remove(name)));
        held.extend(push.resources.iter().map(|resource| (resource.name().to_string(), resource.clone())));
        gone
    }

    /// Whether the answer has to wait.
    fn take_clusters(&mut self, push: &Push) -> bool {
        let before = self.held[Type::Cluster as usize].clone();
        let gone = self.replace(push);
        for route in self.routes_in_use() {
            for name in route_clusters(&route) {
                let allowed = self.resumed_blindly || !gone.contains(&name) || !before.contains_key(&name);
                assert!(allowed, "{name} is taken away while {} sends to it", route.name());
            }
        }
        for resource in &push.resources {
            if before.get(&**resource.name()).is_none_or(|held| held.version() != resource.version()) {
                self.warming.insert(format!("eds-{}", resource.name()));
            }
        }
        self.warming.retain(|name| !gone.iter().any(|gone| *name == format!("eds-{gone}")));
        let wanted = self.held[Type::Cluster as usize].keys().map(|name| format!("eds-{name}")).collect();
        self.want(Type::Endpoints, wanted);
        !self.warming.is_empty()
    }

    fn take_listeners(&mut self, push: &Push) -> bool {
        self.replace(push);
        self.activate();
        false
    }

    /// Endpoints and routes: what is gone of them stays in use.
    fn take_named(&mut self, push: &Push) -> bool {
        for resource in &push.resources {
            if push.ty == Type::Route {
                self.check_route(resource);
            }
            self.warming.remove(&**resource.name());
            if self.subscribed[push.ty as usize].contains(&**resource.name()) {
                self.held[push.ty as usize].insert(resource.name().to_string(), resource.clone());
            }
        }
        self.warming.retain(|name| !push.removed.iter().any(|gone| **gone == **name));
        self.activate();
        false
    }

    /// A route that is new goes to clusters that are there.
    fn check_route(&self, route: &Resource) {
        let late = self.session.awaited_clusters().is_some_and(|sent| self.now >= sent + CLUSTERS_GRACE);
        if self.refused_clusters || late {
            return;
        }
        for name in route_clusters(route) {
            let cluster = self.held[Type::Cluster as usize].get(&name);
            assert!(cluster.is_some(), "{} sends to {name}, which the client does not have", route.name());
        }
    }

    fn routes_in_use(&self) -> Vec<Arc<Resource>> {
        self.active.values().filter_map(|route| self.held[Type::Route as usize].get(route).cloned()).collect()
    }

    /// Listeners take the route configuration they name once it is there.
    fn activate(&mut self) {
        let listeners = &self.held[Type::Listener as usize];
        self.active.retain(|name, _| listeners.contains_key(name));
        for (name, listener) in listeners {
            let route = listener_route(listener);
            if self.held[Type::Route as usize].contains_key(&route) {
                self.active.insert(name.clone(), route);
            }
        }
        let named = listeners.values().map(|listener| listener_route(listener));
        let wanted = named.chain(self.active.values().cloned()).collect();
        self.want(Type::Route, wanted);
    }

    fn want(&mut self, ty: Type, wanted: BTreeSet<String>) {
        let subscribed = std::mem::replace(&mut self.subscribed[ty as usize], wanted);
        let wanted = &self.subscribed[ty as usize];
        if subscribed == *wanted {
            return;
        }
        self.held[ty as usize].retain(|name, _| wanted.contains(name));
        let subscribe = wanted.difference(&subscribed).cloned().collect();
        let unsubscribe = subscribed.difference(wanted).cloned().collect();
        let newest = self.session.subscription(ty).and_then(Subscription::nonce).map(|nonce| nonce.to_string());
        let on_its_way = self.pushes.iter().any(|push| push.ty == ty);
        // In a state-of-the-world request with an older nonce the names would be passed over, as the answer repeats them.
        let nonce = newest.filter(|_| self.variant == Variant::Sotw && !on_its_way).unwrap_or_default();
        let refused = nonce_is_refused(&self.session, ty);
        self.requests.push_back(Said { ty, nonce, refused, subscribe, unsubscribe, initial: Held::new() });
    }

    fn check_outstanding(&self) {
        for ty in Type::ALL {
            let count = self.pushes.iter().filter(|push| push.ty == ty).count();
            assert!(count <= 1, "{count} pushes of {ty} at a time");
        }
    }

    /// Everything is as in the world.
    fn check_converged(&self, world: &World) {
        let unsettled: Vec<_> = Type::ALL.into_iter().filter(|ty| !self.session.is_settled(*ty)).collect();
        assert!(self.session.is_synced(), "{unsettled:?} withheld {:?} warming {:?}", self.withheld, self.warming);
        let resources = world.resources();
        for ty in [Type::Cluster, Type::Listener] {
            let have: Vec<_> =
                self.held[ty as usize].values().map(|held| (held.name().clone(), held.version())).collect();
            let want: Vec<_> =
                resources.get(ty).iter().map(|resource| (resource.name().clone(), resource.version())).collect();
            assert_eq!(have, want, "{ty}");
        }
        for ty in [Type::Endpoints, Type::Route] {
            for name in &self.subscribed[ty as usize] {
                let have = self.held[ty as usize].get(name).map(|held| held.version());
                assert_eq!(have, resources.get(ty).get(name).map(|resource| resource.version()), "{ty} {name}");
            }
        }
    }
}

/// A client that repeats its last answer repeats what it was.
fn nonce_is_refused(session: &Session, ty: Type) -> bool {
    session.subscription(ty).is_some_and(|held| held.outstanding().is_none() && held.nack().is_some())
}

fn simulate(seed: u64, variant: Variant, refusals: f64, reconnects: f64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::default();
    let mut client = Client::new(variant, Instant::now());
    for _ in 0..STEPS {
        match rng.random_range(0..10) {
            0 | 1 => {
                world.change(&mut rng);
                client.session.update(world.resources());
            }
            2..=5 => client.receive(&mut rng, refusals),
            6..=8 => client.deliver(),
            _ => client.now += Duration::from_millis(rng.random_range(0..400)),
        }
        if rng.random_bool(reconnects) {
            client.connect(world.resources());
            client.deliver();
        }
        client.warm();
        client.pump();
        client.check_outstanding();
    }
    // What was refused is not repeated, so that everything has to differ for everything to be accepted.
    world.touch();
    client.session.update(world.resources());
    client.refused_clusters = true;
    let mut quiet = 0;
    while quiet < FETCH_TIMEOUT.as_secs() * 2 {
        client.warm();
        client.pump();
        quiet = if client.pushes.is_empty() && client.requests.is_empty() { quiet + 1 } else { 0 };
        client.receive(&mut rng, 0.0);
        client.deliver();
        client.now += SUBSCRIBE_GRACE;
    }
    client.check_converged(&world);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_takes_everything_converges_and_never_sends_into_the_void(seed: u64) {
        for variant in [Variant::Sotw, Variant::Delta] {
            simulate(seed, variant, 0.0, 0.0);
        }
    }

    #[test]
    fn a_client_that_refuses_some_converges_on_what_it_takes(seed: u64) {
        for variant in [Variant::Sotw, Variant::Delta] {
            simulate(seed, variant, 0.2, 0.0);
        }
    }

    #[test]
    fn a_client_that_comes_and_goes_converges(seed: u64) {
        for variant in [Variant::Sotw, Variant::Delta] {
            simulate(seed, variant, 0.1, 0.02);
        }
    }
}
