//! Discovered virtual hosts: when they go live, and what an update costs.

use super::*;

/// Routes `r` whose further hosts are discovered, in force; a host of their own leads to `c`.
fn with_hosts() -> World {
    let mut world = World::speaking(true);
    world.send(Kind::Cluster, &[ready("c")]);
    world.send(Kind::Listener, &[listener(&mut StdRng::seed_from_u64(1), "l", 10_000)]);
    let name = world.mux().names(Kind::Routes).next().unwrap().to_owned();
    assert_eq!(world.send(Kind::Routes, &[base(&name)]), Some(Ok(())));
    world.send(Kind::VirtualHost, &[host(&name, "a", "c")]);
    assert_eq!(world.state.phase, Phase::Live);
    world
}

fn base(name: &str) -> Value {
    let mut routes = lead(name, "c");
    routes["virtual_hosts"][0]["domains"] = json!(["own"]);
    routes["vhds"] = json!({ "config_source": { "ads": {} } });
    routes
}

pub(super) fn host(routes: &str, name: &str, cluster: &str) -> Value {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    json!({ "name": format!("{routes}/{name}"), "domains": [name], "routes": [route] })
}

impl World {
    fn routes(&mut self) -> String {
        self.mux().names(Kind::Routes).next().unwrap().to_owned()
    }

    /// The cluster that requests for a discovered host get to.
    fn leads(&mut self, name: &str) -> Option<String> {
        let key = (Source::Ads, self.routes());
        let hosts = self.state.parts.routes.hosts(&key.0, &key.1);
        let host = hosts.get(&format!("{}/{name}", key.1))?;
        needs::host_clusters(host).into_iter().next().map(str::to_owned)
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_goes_live_when_its_cluster_is_warm() {
    let mut world = with_hosts();
    let r = world.routes();
    assert_eq!(world.leads("a").as_deref(), Some("c"));
    world.send(Kind::Cluster, &[warming("d")]);
    assert_eq!(world.send(Kind::VirtualHost, &[host(&r, "a", "d"), host(&r, "b", "d")]), Some(Ok(())));
    assert_eq!((world.leads("a").as_deref(), world.leads("b")), (Some("c"), None), "d warms");
    // The old one serves, so its cluster stays.
    world.mux().hold(Kind::Cluster, false);
    world.tell(Kind::Cluster, &[], &["c"]);
    assert!(world.has("c"));
    world.check();
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!((world.leads("a").as_deref(), world.leads("b").as_deref()), (Some("d"), Some("d")));
    world.check();
    // What is gone goes at once, and what waited with it.
    world.send(Kind::Cluster, &[warming("e")]);
    world.send(Kind::VirtualHost, &[host(&r, "a", "e")]);
    world.tell(Kind::VirtualHost, &[], &[&format!("{r}/a")]);
    assert_eq!(world.leads("a"), None);
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "e")]);
    assert_eq!(world.leads("a"), None);
    assert!(world.state.unready().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_waits_no_longer_than_its_cluster_may_warm() {
    let mut world = with_hosts();
    let r = world.routes();
    world.send(Kind::Cluster, &[warming("d")]);
    world.send(Kind::VirtualHost, &[host(&r, "a", "d"), host(&r, "n", "nowhere")]);
    assert_eq!(world.leads("n").as_deref(), Some("nowhere"), "nobody announced that one");
    tokio::time::advance(LIMIT).await;
    world.state.elapsed(Instant::now());
    assert_eq!(world.leads("a").as_deref(), Some("d"));
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_host_waits_until_it_is_live() {
    use crate::on_demand::{Ask, Wanted};
    use tokio::sync::oneshot::error::TryRecvError;
    let mut world = with_hosts();
    let r = world.routes();
    world.send(Kind::Cluster, &[warming("d")]);
    let (waiting, mut answered) = tokio::sync::oneshot::channel();
    world.state.ask(Ask { wanted: Wanted::VirtualHost((Source::Ads, r.clone()), "b".into()), waiting });
    world.send(Kind::VirtualHost, &[host(&r, "b", "d")]);
    assert_eq!(answered.try_recv(), Err(TryRecvError::Empty));
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!(answered.try_recv(), Err(TryRecvError::Closed), "it goes on");
    assert_eq!(world.leads("b").as_deref(), Some("d"));
}

#[tokio::test(start_paused = true)]
async fn hosts_of_routes_that_wait_come_with_them() {
    let mut world = World::speaking(true);
    world.send(Kind::Cluster, &[ready("c")]);
    world.send(Kind::Listener, &[listener(&mut StdRng::seed_from_u64(1), "l", 10_000)]);
    let r = world.routes();
    world.send(Kind::Routes, &[base(&r)]);
    world.send(Kind::Cluster, &[warming("d")]);
    world.send(Kind::VirtualHost, &[host(&r, "a", "d")]);
    assert_eq!((world.leads("a"), world.state.phase), (None, Phase::Listeners), "routes wait for d");
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!((world.leads("a").as_deref(), world.state.phase), (Some("d"), Phase::Live));
}

/// A host costs what it takes to compile it, however many others there are: tables share what does not change.
#[tokio::test(start_paused = true)]
async fn an_update_of_a_host_compiles_no_other() {
    let mut world = with_hosts();
    let r = world.routes();
    let all: Vec<_> = (0..200).map(|n| host(&r, &format!("h{n}"), "c")).collect();
    world.send(Kind::VirtualHost, &all);
    let compiled = |world: &World| {
        let managers = world.state.parts.routes.managers(&Source::Ads, &r);
        managers[0].routes.with(|table| table.compiled())
    };
    let before = compiled(&world);
    assert_eq!(world.send(Kind::VirtualHost, &[host(&r, "h7", "elsewhere")]), Some(Ok(())));
    let after = compiled(&world);
    assert_eq!(world.leads("h7").as_deref(), Some("elsewhere"));
    let changed: Vec<_> = after.iter().filter(|(name, host)| before.get(*name) != Some(host)).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(after.len(), 202);
}
