use clap::Parser as _;

use super::*;
use crate::cli::Args;
use crate::config::from_file::{self, LoadOptions};

fn role(args: &[&str]) -> Role {
    let all = ["weft-proxy", "sidecar", "--name", "reviews-v1-0", "--namespace", "shop"];
    Args::try_parse_from(all.iter().chain(args)).unwrap().role.unwrap()
}

#[test]
fn a_sidecar_says_who_it_is() {
    let of = role(&["--ip", "10.0.0.7,fd00::7", "--label", "app=reviews", "--service-account", "books"]);
    let json: serde_json::Value = serde_json::from_str(&of.bootstrap().unwrap()).unwrap();
    assert_eq!(json["node"]["id"], "sidecar~10.0.0.7~reviews-v1-0.shop~shop.svc.cluster.local");
    assert_eq!(json["node"]["cluster"], "reviews.shop");
    let metadata = &json["node"]["metadata"];
    assert_eq!(metadata["INSTANCE_IPS"], "10.0.0.7,fd00::7");
    assert_eq!(metadata["SERVICE_ACCOUNT"], "books");
    assert_eq!(metadata["LABELS"]["app"], "reviews");
    assert_eq!(metadata["INTERCEPTION_MODE"], "REDIRECT");
}

#[test]
fn its_bootstrap_is_taken_and_may_be_overlaid() {
    let of = role(&["--ip", "10.0.0.7", "--discovery-address", "10.0.0.1:15010"]);
    let base = of.bootstrap().unwrap();
    let loaded = from_file::load_over(Some(&base), None, None, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.warnings, []);
    let names: Vec<_> = loaded.bootstrap.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["prometheus_stats", "agent"]);
    let overlay = "node: {cluster: other}";
    let loaded = from_file::load_over(Some(&base), None, Some(overlay), &LoadOptions::default()).unwrap();
    assert_eq!(loaded.bootstrap.node.cluster, "other");
}

#[test]
fn with_a_token_it_has_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let root = rcgen::generate_simple_self_signed(vec!["root".to_owned()]).unwrap();
    std::fs::write(dir.path().join("root.pem"), root.cert.pem()).unwrap();
    let (ca, token) = (dir.path().join("root.pem"), dir.path().join("token"));
    let args = ["--ip", "10.0.0.7", "--discovery-address", "10.0.0.1:15012", "--service-account", "books"];
    let files = ["--discovery-ca", ca.to_str().unwrap(), "--token", token.to_str().unwrap()];
    let of = role(&[&args[..], &files, &["--certificate-ttl", "60"]].concat());
    let base = of.bootstrap().unwrap();
    let loaded = from_file::load_over(Some(&base), None, None, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.warnings, []);
    let json: serde_json::Value = serde_json::from_str(&base).unwrap();
    let identity = &json["bootstrap_extensions"][0]["typed_config"];
    assert_eq!((identity["service_account"].as_str(), identity["ttl"].as_str()), (Some("books"), Some("60s")));
}

#[test]
fn labels_of_the_downward_api_are_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "app=\"reviews\"\nnote=\"a \\\"b\\\"\"\n").unwrap();
    let of = role(&["--ip", "10.0.0.7", "--labels-file", file.path().to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&of.bootstrap().unwrap()).unwrap();
    assert_eq!(json["node"]["metadata"]["LABELS"]["note"], "a \"b\"");
}
