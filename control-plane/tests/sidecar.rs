//! Where a Sidecar puts listeners: `bind` and `captureMode`.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use support::{as_json, bootstrap, load, validate};
use weft::model::World;
use weft::node::Proxy;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.0.0.1, selector: {app: a}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec: {clusterIP: 10.0.0.4, selector: {app: c}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 10.0.0.2, selector: {app: b}, ports: [{name: http, port: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.0.0.3, selector: {app: db}, ports: [{name: tcp, port: 3306}]}
---
";

fn world(spec: &str) -> (World, Vec<String>) {
    let sidecar = format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s}}\nspec: {spec}\n");
    let loaded = load(&[("all.yaml", format!("{SERVICES}{sidecar}"))]);
    let world = World::of(loaded.objects);
    let problems = loaded.problems.iter().chain(&world.problems()).map(ToString::to_string).collect();
    (world, problems)
}

fn proxy() -> Proxy {
    Proxy::sidecar([10, 1, 0, 1].into(), "a-0", "default", [("app".to_owned(), "a".to_owned())].into())
}

/// The address of each listener, and whether it is bound.
fn listeners(world: &World, proxy: &Proxy) -> BTreeMap<String, (Json, bool)> {
    let all = as_json(&weft::translate::generate(world, proxy));
    let of = |(name, json): (&String, &Json)| {
        let address = json["address"]["socket_address"]["address"].clone();
        let address = if address.is_null() { json["address"]["pipe"]["path"].clone() } else { address };
        Some((name.strip_prefix("LDS ")?.to_owned(), (address, json["bind_to_port"] != json!(false))))
    };
    all.iter().filter_map(of).collect()
}

fn envoy_takes(world: &World, proxy: &Proxy) {
    let directory = tempfile::tempdir().expect("a directory");
    match validate(directory.path(), &bootstrap(world, proxy)) {
        Some(outcome) => outcome.expect("Envoy takes it"),
        None => eprintln!("SKIPPED: a Sidecar's listeners with Envoy: it is not installed"),
    }
}

#[test]
fn what_is_not_redirected_has_a_listener_of_its_own() {
    let (world, problems) = world(
        "{egress: [{port: {number: 8080, protocol: HTTP, name: h}, captureMode: NONE, hosts: [./a.default.svc.cluster.local]}, \
          {port: {number: 8081, protocol: HTTP, name: h}, bind: 127.0.0.9, captureMode: NONE, hosts: [./b.default.svc.cluster.local]}, \
          {port: {number: 3306, protocol: MYSQL, name: m}, bind: 'unix:///tmp/db.sock', captureMode: NONE, hosts: [./db.default.svc.cluster.local]}], \
          ingress: [{port: {number: 9000, protocol: HTTP, name: x}, captureMode: NONE, bind: 10.1.0.7, defaultEndpoint: '127.0.0.1:3000'}, \
          {port: {number: 9001, protocol: HTTP, name: other}}]}",
    );
    assert_eq!(problems, [""; 0]);
    let found = listeners(&world, &proxy());
    let is =
        |name: &str, address: &str, bound: bool| assert_eq!(found.get(name), Some(&(json!(address), bound)), "{name}");
    is("127.0.0.1_8080", "127.0.0.1", true);
    is("127.0.0.9_8081", "127.0.0.9", true);
    is("unix:///tmp/db.sock", "/tmp/db.sock", true);
    is("10.1.0.7_9000", "10.1.0.7", true);
    is("virtualInbound", "0.0.0.0", true);
    assert!(!found.contains_key("0.0.0.0_8080") && !found.contains_key("0.0.0.0_8081"), "{found:?}");
    let all = as_json(&weft::translate::generate(&world, &proxy()));
    assert!(
        all["LDS virtualInbound"].to_string().contains("9001")
            && !all["LDS virtualInbound"].to_string().contains("9000")
    );
    envoy_takes(&world, &proxy());
}

#[test]
fn a_bind_with_redirection_is_an_address_that_is_redirected() {
    let (world, problems) = world(
        "{egress: [{port: {number: 8080, protocol: HTTP, name: h}, bind: 10.0.0.1, hosts: [./a.default.svc.cluster.local]}, {hosts: [./*]}]}",
    );
    assert_eq!(problems, [""; 0]);
    let found = listeners(&world, &proxy());
    assert_eq!(found.get("10.0.0.1_8080"), Some(&(json!("10.0.0.1"), false)), "{found:?}");
    assert_eq!(found.get("0.0.0.0_8081"), Some(&(json!("0.0.0.0"), false)));
    envoy_takes(&world, &proxy());
}

#[test]
fn two_places_on_one_port_have_routes_of_their_own() {
    let (world, problems) = world(
        "{egress: [{port: {number: 8080, protocol: HTTP, name: h}, bind: 127.0.0.8, captureMode: NONE, hosts: [./a.default.svc.cluster.local]}, \
          {port: {number: 8080, protocol: HTTP, name: h}, bind: 127.0.0.9, captureMode: NONE, hosts: [./c.default.svc.cluster.local]}, \
          {port: {number: 8080, protocol: HTTP, name: h}, hosts: [./a.default.svc.cluster.local, ./c.default.svc.cluster.local]}]}",
    );
    assert_eq!(problems, [""; 0]);
    let all = as_json(&weft::translate::generate(&world, &proxy()));
    let found = listeners(&world, &proxy());
    assert_eq!(found.get("127.0.0.8_8080"), Some(&(json!("127.0.0.8"), true)), "{found:?}");
    for (listener, table, hosts) in [
        ("127.0.0.8_8080", "127.0.0.8_8080", vec!["a.default.svc.cluster.local:8080"]),
        ("127.0.0.9_8080", "127.0.0.9_8080", vec!["c.default.svc.cluster.local:8080"]),
        ("0.0.0.0_8080", "8080", vec!["a.default.svc.cluster.local:8080", "c.default.svc.cluster.local:8080"]),
    ] {
        let rds = format!("\"route_config_name\":\"{table}\"");
        assert!(all[&format!("LDS {listener}")].to_string().contains(&rds), "{listener}: {found:?}");
        let served = all[&format!("RDS {table}")]["virtual_hosts"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> = served.iter().filter_map(|host| host["name"].as_str()).collect();
        names.retain(|name| *name != "allow_any");
        assert_eq!(names, hosts, "{table}");
    }
    envoy_takes(&world, &proxy());
}

#[test]
fn what_has_no_effect_is_told() {
    let (_, problems) = world(
        "{egress: [{bind: 127.0.0.1, hosts: [./*]}, {captureMode: NONE, hosts: [./*]}, \
          {port: {number: 80, protocol: HTTP, name: h}, bind: nowhere, hosts: [./*]}], \
          ingress: [{port: {number: 9000, protocol: HTTP, name: x}, bind: 'unix:///x'}]}",
    );
    for path in ["spec.ingress[0].bind", "spec.egress[0].bind", "spec.egress[1].captureMode", "spec.egress[2].bind"] {
        assert!(problems.iter().any(|problem| problem.contains(path)), "{path}: {problems:#?}");
    }
    assert_eq!(problems.len(), 4, "{problems:#?}");
}
