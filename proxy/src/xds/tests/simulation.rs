//! Seeded simulations by delta, with virtual hosts, runtime values and what comes on demand; and of a server that does all in
//! order, and ends at any moment.

use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use super::vhosts::host;
use super::*;
use crate::on_demand::{Ask, Wanted};

impl World {
    /// What must hold of virtual hosts and of names that are asked for.
    fn check_hosts(&mut self) {
        self.check();
        let mut followed = BTreeSet::new();
        for (key, entry) in &self.state.routes.all {
            let Some(vhds) = &entry.vhds else { continue };
            followed.insert(key.1.clone());
            for (name, host) in &vhds.hosts {
                let waits = self.state.warming.is_waiting(&Item::Host(key.clone(), name.clone()));
                assert_eq!(waits, host.waiting.is_some(), "{name}");
                assert!(host.active.is_some() || waits, "{name} is there or waits");
            }
            if entry.active.is_some() && !self.state.warming.is_waiting(&Item::Routes(key.0.clone(), key.1.clone())) {
                assert_eq!(self.state.parts.routes.hosts(&key.0, &key.1), vhds.active(), "what is known is in force");
            }
        }
        assert_eq!(self.mux().watches_all(Kind::VirtualHost), !followed.is_empty());
        let names: Vec<String> = self.mux().names(Kind::VirtualHost).map(str::to_owned).collect();
        for name in names {
            let (routes, _) = name.rsplit_once('/').unwrap();
            assert!(followed.contains(routes), "{name} is not asked for any more");
        }
    }

    fn ask(&mut self, wanted: Wanted) -> Receiver<()> {
        let (waiting, answered) = tokio::sync::oneshot::channel();
        self.state.ask(Ask { wanted, waiting });
        answered
    }
}

/// Routes, some of them with discovered hosts; refused where a host has taken their domain.
fn some_routes(random: &mut StdRng, name: &str) -> Value {
    let mut made = routes(random, name);
    if random.random_bool(0.7) {
        let own = if random.random_bool(0.2) { "h1" } else { "own" };
        made["virtual_hosts"][0]["domains"] = json!([own]);
        made["vhds"] = json!({ "config_source": { "ads": {} } });
    }
    made
}

fn layer(random: &mut StdRng) -> Value {
    json!({ "name": "rt", "layer": { "key": random.random_range(0..3) } })
}

async fn step(world: &mut World, random: &mut StdRng) {
    let some = |random: &mut StdRng, prefix: &str, of: u32| -> Vec<String> {
        (0..of).filter(|_| random.random_bool(0.4)).map(|n| format!("{prefix}{n}")).collect()
    };
    match random.random_range(0..12) {
        0..=1 => {
            let all: Vec<_> = some(random, "c", 5).iter().map(|name| cluster(random, name)).collect();
            let gone = some(random, "c", 5);
            let named = |name: &&String| all.iter().any(|c| c["name"] == json!(name));
            let gone: Vec<_> = gone.iter().filter(|name| !named(name)).map(String::as_str).collect();
            world.tell(Kind::Cluster, &all, &gone);
        }
        2..=3 => {
            let asked: Vec<String> = world.mux().names(Kind::Endpoints).map(str::to_owned).collect();
            let some: Vec<_> = asked.iter().filter(|_| random.random_bool(0.5)).cloned().collect();
            let all: Vec<_> = some.iter().map(|name| endpoints(random, name)).collect();
            world.send(Kind::Endpoints, &all);
        }
        4 => {
            let all: Vec<_> = (0..2).map(|n| listener(random, &format!("l{n}"), 10_000 + n)).collect();
            let gone: &[&str] = if random.random_bool(0.2) { &["l2"] } else { &[] };
            world.tell(Kind::Listener, &all, gone);
        }
        5 => {
            let asked: Vec<String> = world.mux().names(Kind::Routes).map(str::to_owned).collect();
            let all: Vec<_> = asked.iter().map(|name| some_routes(random, name)).collect();
            world.send(Kind::Routes, &all);
        }
        6..=7 => {
            let of = format!("r{}", random.random_range(0..2));
            let hosts = some(random, "h", 4);
            let to = |random: &mut StdRng| format!("c{}", random.random_range(0..6));
            let all: Vec<_> = hosts.iter().map(|name| host(&of, name, &to(random))).collect();
            let gone: Vec<_> =
                some(random, "h", 4).iter().filter(|h| !hosts.contains(h)).map(|h| format!("{of}/{h}")).collect();
            world.tell(Kind::VirtualHost, &all, &gone.iter().map(String::as_str).collect::<Vec<_>>());
        }
        8 => {
            world.tell(Kind::Runtime, &[layer(random)], &[]);
        }
        9 => {
            let name = format!("c{}", random.random_range(0..6));
            let mut answered = world.ask(Wanted::Cluster(Source::Ads, name.clone()));
            let waits = answered.try_recv() == Err(TryRecvError::Empty);
            assert_eq!(waits, !world.has(&name), "who has what it needs does not wait");
            let routes = (Source::Ads, format!("r{}", random.random_range(0..2)));
            world.ask(Wanted::VirtualHost(routes, format!("h{}", random.random_range(0..4))));
        }
        10 => {
            tokio::time::advance(Duration::from_secs(random.random_range(0..20))).await;
            world.state.elapsed(Instant::now());
        }
        _ => {
            world.state.lost(&Kind::ALL);
            world.state.unanswered(&Source::Ads);
            world.reconnect();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_order_of_updates_by_delta_leaves_a_sound_state() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::with_runtime_layer();
        for _ in 0..80 {
            step(&mut world, &mut random).await;
            world.check_hosts();
        }
        world.mux().hold(Kind::Cluster, false);
        let clusters: Vec<_> = (0..6).map(|n| ready(&format!("c{n}"))).collect();
        world.tell(Kind::Runtime, &[json!({ "name": "rt", "layer": {} })], &[]);
        world.send(Kind::Cluster, &clusters);
        for _ in 0..3 {
            world.check_hosts();
            tokio::time::advance(LIMIT).await;
            world.state.elapsed(Instant::now());
        }
        assert_eq!(world.state.phase, Phase::Live, "seed {seed}");
        assert!(world.state.unready().is_empty(), "seed {seed}: {:?}", world.state.unready());
    }
}

/// A server that makes before it breaks; and what it has come to.
struct Server {
    routes: String,
    /// Names of clusters that were given away.
    names: u32,
    /// Where all leads to by now, and what it led to before that is still there.
    now: String,
    before: Vec<String>,
    /// What is still to be said.
    script: Vec<Kind>,
}

impl Server {
    /// Another cluster takes the place of the one there is.
    fn rename(&mut self) {
        self.names += 1;
        self.before.push(std::mem::replace(&mut self.now, format!("n{}", self.names)));
    }

    /// Says the next thing, or goes on to the next change.
    fn go_on(&mut self, world: &mut World, random: &mut StdRng) {
        match self.script.pop() {
            None => {
                self.rename();
                // In the end those that nobody names any more go.
                self.script = vec![Kind::Listener, Kind::VirtualHost, Kind::Routes, Kind::Cluster];
            }
            Some(Kind::Cluster) => {
                let kept: Vec<_> = self.before.iter().chain([&self.now]).map(|name| warming(name)).collect();
                world.send(Kind::Cluster, &kept);
            }
            Some(Kind::Routes) => {
                let mut made = lead(&self.routes, &self.now);
                if world.delta {
                    made["virtual_hosts"][0]["domains"] = json!(["own"]);
                    made["vhds"] = json!({ "config_source": { "ads": {} } });
                }
                world.send(Kind::Routes, &[made]);
            }
            Some(Kind::VirtualHost) if world.delta => {
                world.send(Kind::VirtualHost, &[host(&self.routes, "h", &self.now)]);
            }
            // The last of a script: what went goes.
            Some(Kind::Listener) => {
                let gone: Vec<_> = std::mem::take(&mut self.before);
                world.tell(Kind::Cluster, &[warming(&self.now)], &gone.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Some(_) => {}
        }
        if random.random_bool(0.2) {
            self.end(world, random);
        }
    }

    /// It ends, and another one begins, with the newest there is; its answers come in some order.
    fn end(&mut self, world: &mut World, random: &mut StdRng) {
        world.state.lost(&Kind::ALL);
        world.state.unanswered(&Source::Ads);
        if random.random_bool(0.5) {
            self.rename();
        }
        world.reconnect();
        self.script = match random.random_range(0..3) {
            0 => vec![Kind::VirtualHost, Kind::Routes, Kind::Listener],
            1 => vec![Kind::VirtualHost, Kind::Listener, Kind::Routes],
            _ => vec![Kind::Routes, Kind::VirtualHost, Kind::Listener],
        };
    }
}

/// No request finds a route to a cluster that is not there.
#[tokio::test(start_paused = true)]
async fn routes_in_force_lead_to_clusters_that_are_there() {
    for (seed, delta) in (0..40).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::speaking(delta);
        world.send(Kind::Cluster, &[ready("n0")]);
        world.send(Kind::Listener, &[listener(&mut StdRng::seed_from_u64(1), "l", 10_000)]);
        let routes = world.mux().names(Kind::Routes).next().unwrap().to_owned();
        let mut server = Server { routes, names: 0, now: "n0".into(), before: Vec::new(), script: vec![Kind::Routes] };
        world.send(Kind::Routes, &[lead(&server.routes, "n0")]);
        assert_eq!(world.state.phase, Phase::Live);
        for step in 0..80 {
            if random.random_bool(0.6) {
                server.go_on(&mut world, &mut random);
            } else {
                let asked: Vec<String> = world.mux().names(Kind::Endpoints).map(str::to_owned).collect();
                let all: Vec<_> = asked.iter().map(|name| endpoints(&mut random, name)).collect();
                world.send(Kind::Endpoints, &all);
            }
            world.check_hosts();
            let hosts = world.state.parts.routes.hosts(&Source::Ads, &server.routes);
            let of_hosts = hosts.values().flat_map(|h| needs::host_clusters(h)).map(str::to_owned);
            for name in world.led_to(&server.routes).into_iter().chain(of_hosts) {
                assert!(world.has(&name), "seed {seed}, delta {delta}, step {step}: {name} is not there");
            }
        }
    }
}
