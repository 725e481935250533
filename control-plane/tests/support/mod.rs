//! BookInfo as a world, and what proxies get of it as text.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of test binaries, each of which uses some of it"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use weft::model::World;
use weft::model::kinds::meta::Labels;
use weft::model::kinds::{Kind, Object};
use weft::model::replicas;
use weft::node::{Proxy, ProxyKind};
use weft::resource::{ResourceType, Resources};
use weft::source::Change;
use weft::source::files::Directory;
use weft::translate::generate;
use weft_proto::problem::{Problem, Severity};

/// Where BookInfo is.
pub fn bookinfo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bookinfo")
}

/// All YAML files of a directory of BookInfo, sorted.
pub fn files(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(bookinfo().join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> =
        names.filter(|name| name.ends_with(".yaml")).map(|name| format!("{directory}/{name}")).collect();
    files.sort();
    files
}

/// What texts hold.
pub struct Loaded {
    pub objects: Vec<Arc<Object>>,
    pub problems: Vec<Problem>,
}

/// Reads texts, each with the name that messages call it by.
pub fn load(texts: &[(&str, String)]) -> Loaded {
    let mut directory = Directory::default();
    for (name, text) in texts {
        directory.put(Path::new(name), text);
    }
    let batch = directory.take_batch();
    let objects = batch.changes.into_iter().filter_map(|change| match change {
        Change::Applied(object) => Some(object),
        Change::Deleted(_) => None,
    });
    Loaded { objects: objects.collect(), problems: batch.problems.to_vec() }
}

/// Reads files of BookInfo.
pub fn load_files(names: &[&str]) -> Loaded {
    let texts: Vec<(&str, String)> =
        names.iter().map(|name| (*name, std::fs::read_to_string(bookinfo().join(name)).unwrap())).collect();
    load(&texts)
}

/// One pod for each replica of each Deployment, at addresses from 10.1.0.1 on in the order of names.
pub fn with_pods(objects: Vec<Arc<Object>>) -> Vec<Arc<Object>> {
    let mut next = 1u8;
    let mut made = Vec::new();
    for object in objects.iter().filter(|object| object.key.kind == Kind::Deployment) {
        let mut addresses = Vec::new();
        for _ in 0..replicas::count(object) {
            addresses.push(IpAddr::V4(Ipv4Addr::new(10, 1, 0, next)));
            next += 1;
        }
        made.extend(replicas::pods(object, &addresses).into_iter().map(Arc::new));
    }
    objects.into_iter().chain(made).collect()
}

/// A sidecar for each pod, by the pod's name.
pub fn sidecars(objects: &[Arc<Object>]) -> BTreeMap<String, Proxy> {
    let pods = objects.iter().filter_map(|object| Some((object, object.of::<weft::model::kinds::workload::Pod>()?)));
    let proxies = pods.filter_map(|(object, pod)| {
        let ip = *pod.addresses().first()?;
        let key = &object.key;
        Some((key.name.to_string(), Proxy::sidecar(ip, &key.name, &key.namespace, object.meta.labels.clone())))
    });
    proxies.collect()
}

/// The ingress gateway.
pub fn ingress_gateway() -> Proxy {
    let labels = Labels::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 1));
    Proxy::gateway(ip, "istio-ingressgateway-0", "istio-system", labels)
}

/// The proxy of the Gateway API's Gateway.
pub fn api_gateway() -> Proxy {
    let labels = Labels::from([("gateway.networking.k8s.io/gateway-name".to_owned(), "bookinfo-gateway".to_owned())]);
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 3));
    Proxy::gateway(ip, "bookinfo-gateway-istio-0", "default", labels)
}

/// A proxyless gRPC client in `default`.
pub fn grpc_client() -> Proxy {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 1, 2));
    Proxy { kind: ProxyKind::Grpc, ..Proxy::sidecar(ip, "client-0", "default", Labels::new()) }
}

/// Resources as JSON, by type and name.
pub fn as_json(resources: &Resources) -> BTreeMap<String, Json> {
    let mut all = BTreeMap::new();
    for ty in ResourceType::ALL {
        for resource in resources.get(ty).iter() {
            let json = weft_proto::to_json::encoded(ty.type_url(), &resource.message(), Default::default()).unwrap();
            all.insert(format!("{ty} {}", resource.name()), json);
        }
    }
    all
}

/// JSON, where what fits a line stands in one.
pub fn compact(json: &Json) -> String {
    let mut text = String::new();
    write(json, 0, &mut text);
    text
}

fn write(json: &Json, depth: usize, text: &mut String) {
    const WIDTH: usize = 118;
    let line = json.to_string();
    if line.len() + depth * 2 <= WIDTH {
        text.push_str(&line);
        return;
    }
    let pad = "  ".repeat(depth + 1);
    let end = "  ".repeat(depth);
    match json {
        Json::Array(items) => {
            text.push_str("[\n");
            for (index, item) in items.iter().enumerate() {
                text.push_str(&pad);
                write(item, depth + 1, text);
                text.push_str(if index + 1 < items.len() { ",\n" } else { "\n" });
            }
            let _ = write!(text, "{end}]");
        }
        Json::Object(fields) => {
            text.push_str("{\n");
            for (index, (key, value)) in fields.iter().enumerate() {
                let _ = write!(text, "{pad}{key:?}: ");
                write(value, depth + 1, text);
                text.push_str(if index + 1 < fields.len() { ",\n" } else { "\n" });
            }
            let _ = write!(text, "{end}}}");
        }
        other => text.push_str(&other.to_string()),
    }
}

/// What nearly every cluster and route has, and how it is shown where it stands for the hundredth time.
pub fn shorten(json: &mut Json) {
    let Json::Object(fields) = json else {
        if let Json::Array(items) = json {
            items.iter_mut().for_each(shorten);
        }
        return;
    };
    for (key, value) in fields.iter_mut() {
        let text = value.to_string();
        let usual = match key.as_str() {
            "circuit_breakers" => text.matches("4294967295").count() == 4 && !text.contains("retry_budget"),
            "retry_policy" => text.contains("\"num_retries\":2") && text.contains("unavailable,cancelled\"}"),
            "http_filters" => text.matches("\"name\"").count() == 3 && text.contains("fault") && text.contains("cors"),
            "eds_config" | "config_source" => text.contains("\"ads\":{}"),
            "metadata" => text.contains("\"config\":\"/apis/") && !text.contains("services"),
            "access_log" => text.contains("/dev/stdout"),
            _ => false,
        };
        if usual {
            *value = Json::from("(the usual)");
        } else {
            shorten(value);
        }
    }
}

/// Compares with a file in `tests/golden`, or writes it if `WEFT_UPDATE_GOLDEN` is set.
pub fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| expected.lines().count().min(text.lines().count()));
    assert!(
        expected == text,
        "{} differs from line {} on:\n- {}\n+ {}\nIf that is meant, run with WEFT_UPDATE_GOLDEN=1 and review the difference.",
        path.display(),
        line + 1,
        expected.lines().nth(line).unwrap_or("(end)"),
        text.lines().nth(line).unwrap_or("(end)"),
    );
}

/// What is wrong in earnest.
pub fn errors(world: &World, loaded: &[Problem]) -> Vec<String> {
    let all = loaded.iter().cloned().chain(world.problems());
    all.filter(|problem| problem.severity == Severity::Invalid).map(|problem| problem.to_string()).collect()
}

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
pub fn bootstrap(world: &World, proxy: &Proxy) -> Json {
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
pub fn validate(directory: &Path, bootstrap: &Json) -> Option<Result<(), String>> {
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
