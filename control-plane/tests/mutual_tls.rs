//! Mutual TLS between workloads: what clients and servers get for each PeerAuthentication, and what changes when endpoints come
//! that have no identity.

mod support;

use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::{Value as Json, json};
use support::{as_json, assert_golden, bootstrap, compact, load, shorten, validate};
use weft::generate::{Generator, Part, Update};
use weft::model::World;
use weft::node::Proxy;
use weft::resource::ResourceType;
use weft::source::Change;
use weft::translate::generate;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 90, targetPort: 9090}, {name: tcp, port: 70, targetPort: 7070}, {name: any, port: 60, targetPort: 6060}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
---
";

fn pod(name: &str, ip: &str, tls: bool) -> String {
    let label = if tls { ", security.istio.io/tlsMode: istio" } else { "" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web, version: v1{label}}}}}\n\
         spec: {{serviceAccountName: shop-web}}\nstatus: {{podIP: {ip}, phase: Running}}\n---\n"
    )
}

fn world(more: &str) -> World {
    let loaded = load(&[("all.yaml", format!("{OBJECTS}{}{more}", pod("web-0", "10.1.0.1", true)))]);
    let world = World::of(loaded.objects);
    let problems: Vec<String> = loaded.problems.iter().chain(&world.problems()).map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0]);
    world.trusting("roots".into())
}

fn sidecar(ip: &str, name: &str, identity: bool) -> Proxy {
    let mut labels: std::collections::BTreeMap<String, String> = [("app".to_owned(), name.to_owned())].into();
    if identity {
        labels.insert("security.istio.io/tlsMode".to_owned(), "istio".to_owned());
    }
    let ip: IpAddr = ip.parse().expect("an address");
    Proxy::sidecar(ip, &format!("{name}-0"), "shop", labels)
}

fn policy(mode: &str, ports: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}{ports}}}\n---\n"
    )
}

/// What a proxy gets of these types.
fn show(text: &mut String, title: &str, world: &World, proxy: &Proxy, wanted: &[&str]) {
    for (name, mut json) in as_json(&generate(world, proxy)) {
        if wanted.iter().any(|prefix| name.starts_with(prefix)) {
            shorten(&mut json);
            let _ = writeln!(text, "# {title}: {name}\n{}\n", compact(&json));
        }
    }
}

fn envoy_takes(world: &World, proxy: &Proxy) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bootstrap = bootstrap(world, proxy);
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().expect("clusters");
    let mut agent = clusters.last().expect("one").clone();
    agent["name"] = json!("sds-grpc");
    agent["load_assignment"]["cluster_name"] = json!("sds-grpc");
    clusters.push(agent);
    match validate(directory.path(), &bootstrap) {
        Some(outcome) => outcome.expect("Envoy takes it"),
        None => eprintln!("SKIPPED: mutual TLS with Envoy: it is not installed"),
    }
}

#[test]
fn what_callers_and_the_called_get() {
    let mut text = String::new();
    let (caller, called) = (sidecar("10.1.0.9", "caller", true), sidecar("10.1.0.1", "web", true));
    let plain = world("");
    show(&mut text, "a caller", &plain, &caller, &["CDS outbound", "EDS", "SDS"]);
    let mixed = world(&pod("web-1", "10.1.0.2", false));
    show(&mut text, "a caller, one endpoint is outside", &mixed, &caller, &["CDS outbound|80||", "EDS outbound|80||"]);
    let outside = sidecar("10.1.0.9", "caller", false);
    show(&mut text, "a caller without an identity", &plain, &outside, &["CDS outbound|80||", "EDS outbound|80||"]);
    let port = ", portLevelMtls: {7070: {mode: DISABLE}}";
    for (mode, ports) in [("PERMISSIVE", ""), ("STRICT", port), ("DISABLE", "")] {
        let world = world(&policy(mode, ports));
        let title = format!("{mode}{ports}");
        show(&mut text, &title, &world, &called, &["LDS virtualInbound"]);
        show(&mut text, &title, &world, &caller, &["EDS outbound|70||"]);
        envoy_takes(&world, &called);
        envoy_takes(&world, &caller);
    }
    envoy_takes(&mixed, &caller);
    assert_golden("mutual-tls.txt", &text);
}

/// Without an identity nobody can be asked for one: who must be, is not let in.
#[test]
fn strict_without_an_identity_is_closed() {
    let world = world(&policy("STRICT", ""));
    let all = as_json(&generate(&world, &sidecar("10.1.0.1", "web", false)));
    let chains = all["LDS virtualInbound"]["filter_chains"].as_array().expect("chains").clone();
    for chain in chains {
        let text = chain.to_string();
        assert!(text.contains("BlackHoleCluster") && !text.contains("inbound|"), "{text}");
    }
}

/// A cluster that may negotiate HTTP/2 has only endpoints that speak TLS: it changes before another one comes.
#[test]
fn an_endpoint_without_an_identity_changes_clusters() {
    let before = world("");
    let caller = sidecar("10.1.0.9", "caller", true);
    let shared = before.generate(Part::Shared, &caller, None);
    let joined = load(&[("pod.yaml", pod("web-1", "10.1.0.2", false))]).objects;
    let (after, changes) = before.apply(joined.into_iter().map(Change::Applied));
    assert!(!changes.everything && changes.hosts.contains("web.shop.svc.cluster.local"), "{changes:?}");
    let update = Update { changes: &changes, previous: &shared };
    let updated = after.generate(Part::Shared, &caller, Some(update));
    assert_eq!(updated, after.generate(Part::Shared, &caller, None));
    let cluster =
        |of: &weft::resource::Resources| -> Json { as_json(of)["CDS outbound|80||web.shop.svc.cluster.local"].clone() };
    assert!(cluster(&shared)["transport_socket_matches"].is_null());
    assert_eq!(cluster(&updated)["transport_socket_matches"].as_array().map(Vec::len), Some(2));
    // One more of the same sort changes endpoints alone.
    let another = load(&[("pod.yaml", pod("web-2", "10.1.0.3", true))]).objects;
    let (_, changes) = after.apply(another.into_iter().map(Change::Applied));
    assert!(changes.hosts.is_empty() && !changes.endpoints.is_empty(), "{changes:?}");
    assert!(updated.get(ResourceType::Secret).get("ROOTCA").is_some());
}
