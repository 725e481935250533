//! What each proxy of BookInfo gets: the whole of it for the services alone, and for each file what differs from that.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value as Json;
use support::{
    api_gateway, as_json, assert_golden, compact, grpc_client, ingress_gateway, load_files, shorten, sidecars,
    with_pods,
};
use weft::model::World;
use weft::node::Proxy;
use weft::translate::generate;

const SERVICES: &str = "platform/kube/bookinfo.yaml";

/// What each proxy gets when these files are applied.
fn all_of(files: &[&str]) -> (BTreeMap<String, BTreeMap<String, Json>>, Vec<String>) {
    let loaded = load_files(files);
    let objects = with_pods(loaded.objects);
    let mut proxies: BTreeMap<String, Proxy> = sidecars(&objects);
    proxies.insert("ingressgateway".to_owned(), ingress_gateway());
    proxies.insert("bookinfo-gateway".to_owned(), api_gateway());
    proxies.insert("grpc client".to_owned(), grpc_client());
    let world = World::of(objects);
    let told: Vec<String> = loaded.problems.iter().chain(&world.problems()).map(ToString::to_string).collect();
    let of = |(name, proxy): (String, Proxy)| (name, as_json(&generate(&world, &proxy)));
    (proxies.into_iter().map(of).collect(), told)
}

/// Each resource once, with who gets it.
fn render(all: &BTreeMap<String, BTreeMap<String, Json>>, before: &BTreeMap<String, BTreeMap<String, Json>>) -> String {
    let mut by_content: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    let nothing = BTreeMap::new();
    for (proxy, resources) in all {
        let before = before.get(proxy).unwrap_or(&nothing);
        for (name, json) in resources.iter().filter(|(name, json)| before.get(*name) != Some(json)) {
            by_content.entry((name.clone(), compact(json))).or_default().insert(proxy);
        }
        for name in before.keys().filter(|name| !resources.contains_key(*name)) {
            by_content.entry((name.clone(), "(gone)".to_owned())).or_default().insert(proxy);
        }
    }
    let is_sidecar = |name: &&str| name.ends_with("-0");
    let sidecars = all.keys().filter(|name| is_sidecar(&name.as_str())).count();
    let mut text = String::new();
    for ((name, json), proxies) in by_content {
        let mut who: Vec<&str> = proxies.iter().copied().filter(|name| !is_sidecar(name)).collect();
        if proxies.len() - who.len() == sidecars {
            who.insert(0, "every sidecar");
        } else {
            who = proxies.into_iter().collect();
        }
        let who = who.join(", ");
        let _ = writeln!(text, "# {name}: {who}\n{json}\n");
    }
    text
}

fn golden(file: &str, with: &[&str]) {
    let (before, _) = all_of(with);
    let (all, told) = all_of(&[with, &[file]].concat());
    let told: String = told.iter().map(|line| format!("! {line}\n")).collect();
    let mut all = all;
    all.values_mut().flat_map(|of| of.values_mut()).for_each(shorten);
    let mut before = before;
    before.values_mut().flat_map(|of| of.values_mut()).for_each(shorten);
    let changes = render(&all, &before);
    let nothing = if changes.is_empty() { "(nothing differs)\n" } else { "" };
    assert_golden(&file.replace(".yaml", ".txt"), &format!("{told}{changes}{nothing}"));
}

#[test]
fn the_services_alone() {
    let (all, told) = all_of(&[SERVICES]);
    assert_eq!(told, Vec::<String>::new());
    assert_golden("bookinfo.txt", &render(&all, &BTreeMap::new()));
}

#[test]
fn every_file_of_networking() {
    for file in support::files("networking") {
        let subsets = "networking/destination-rule-all.yaml";
        let with: &[&str] = if file.contains("virtual-service") { &[SERVICES, subsets] } else { &[SERVICES] };
        golden(&file, with);
    }
}

#[test]
fn every_file_of_the_gateway_api() {
    for file in support::files("gateway-api") {
        golden(&file, &[SERVICES, "platform/kube/bookinfo-versions.yaml"]);
    }
}

#[test]
fn every_file_of_the_platform() {
    for file in support::files("platform/kube").into_iter().filter(|file| file != SERVICES) {
        // Those that are the whole of it stand alone, the others add to it.
        let whole = ["dualstack", "psa"].iter().any(|word| file == format!("platform/kube/bookinfo-{word}.yaml"));
        let again = ["bookinfo-details", "bookinfo-ratings", "bookinfo-reviews-v2", "bookinfo-details-dualstack"];
        let again = again.iter().any(|name| file == format!("platform/kube/{name}.yaml"));
        let alone = whole || again || file.contains("ratings-d") || file.contains("nodeport");
        golden(&file, if alone { &[] } else { &[SERVICES] });
    }
}

#[test]
fn every_policy() {
    for file in support::files("policy") {
        golden(&file, &[SERVICES, "networking/bookinfo-gateway.yaml"]);
    }
}

#[test]
fn every_file_loads_without_an_error() {
    let mut told = Vec::new();
    for directory in ["networking", "gateway-api", "policy", "platform/kube"] {
        for file in support::files(directory) {
            let loaded = load_files(&[&file]);
            told.extend(loaded.problems.iter().map(ToString::to_string));
            let read = loaded.objects.iter().flat_map(|object| &object.problems);
            told.extend(read.map(ToString::to_string));
        }
    }
    assert_eq!(told, Vec::<String>::new());
}
