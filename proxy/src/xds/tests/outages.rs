//! A server that ends while what it has said still waits.

use super::vhosts::host;
use super::*;

#[tokio::test(start_paused = true)]
async fn routes_that_go_live_after_their_server_ended_were_not_answered_by_the_next() {
    let mut world = World::new();
    let routes = led_to_c(&mut world);
    world.send(Kind::Cluster, &[ready("c"), warming("d")]);
    world.send(Kind::Routes, &[lead(&routes, "d")]);
    world.reconnect();
    world.send(Kind::Endpoints, &[endpoints(&mut StdRng::seed_from_u64(1), "d")]);
    assert_eq!(world.led_to(&routes), ["d".to_owned()].into(), "what the server before has said");
    world.send(Kind::Cluster, &[ready("e")]);
    assert!(world.has("d"), "routes in force name it, and newer ones are to come");
    assert!(!world.has("c"), "nothing names it any more");
    world.check();
    world.send(Kind::Routes, &[lead(&routes, "e")]);
    assert_eq!(world.led_to(&routes), ["e".to_owned()].into());
    assert!(!world.has("d"));
    world.check();
}

#[tokio::test(start_paused = true)]
async fn a_new_host_whose_cluster_went_with_its_server_waits_for_the_next_to_say_where_it_leads() {
    let mut world = World::speaking(true);
    let routes = led_to_c(&mut world);
    let mut base = lead(&routes, "c");
    base["virtual_hosts"][0]["domains"] = json!(["own"]);
    base["vhds"] = json!({ "config_source": { "ads": {} } });
    world.send(Kind::Routes, &[base]);
    world.send(Kind::Cluster, &[warming("d")]);
    world.send(Kind::VirtualHost, &[host(&routes, "h", "d")]);
    let hosts = |world: &World| -> Vec<String> {
        let hosts = world.state.parts.routes.hosts(&Source::Ads, &routes);
        hosts.values().flat_map(|h| needs::host_clusters(h)).map(str::to_owned).collect()
    };
    assert!(hosts(&world).is_empty(), "d warms");
    world.reconnect();
    world.tell(Kind::Cluster, &[ready("e")], &["d"]);
    assert!(hosts(&world).is_empty(), "d never came, and the server has not said yet what is in its place");
    world.send(Kind::VirtualHost, &[host(&routes, "h", "e")]);
    assert_eq!(hosts(&world), ["e"]);
    // A server that was heard since is taken at its word.
    world.tell(Kind::Cluster, &[warming("f")], &[]);
    world.send(Kind::VirtualHost, &[host(&routes, "i", "f")]);
    world.mux().hold(Kind::Cluster, false);
    world.tell(Kind::Cluster, &[], &["f"]);
    assert_eq!(hosts(&world), ["e", "f"]);
    world.check();
}
