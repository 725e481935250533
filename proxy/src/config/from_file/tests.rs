use std::path::PathBuf;

use super::*;
use crate::config::{LbPolicy, LocalityLb, SecretKind};

const BOOTSTRAP: &str = r#"
node: {id: "n1"}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: web}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: web
    type: STRICT_DNS
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: web.test, port_value: 80}}}
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// The lines of the refusal of a YAML text, the directory cut off.
fn refusal(text: &str, overlay: Option<&str>) -> Vec<String> {
    let files = Files::new();
    let path = files.write("b.yaml", text);
    let error = load(Some(&path), overlay, &LoadOptions::default()).unwrap_err().to_string();
    let directory = format!("{}/", files.0.path().display());
    error.lines().map(|line| line.replace(&directory, "")).collect()
}

fn replaced(from: &str, to: &str) -> String {
    assert!(BOOTSTRAP.contains(from), "{from}");
    BOOTSTRAP.replace(from, to)
}

#[test]
fn a_bootstrap_is_loaded() {
    let files = Files::new();
    let path = files.write("b.yaml", BOOTSTRAP);
    let options = LoadOptions {
        node: NodeOverrides { cluster: Some("mine".into()), ..Default::default() },
        ..Default::default()
    };
    let loaded = load(Some(&path), None, &options).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!((loaded.bootstrap.node.id.as_str(), loaded.bootstrap.node.cluster.as_str()), ("n1", "mine"));
    assert_eq!((loaded.bootstrap.listeners.len(), loaded.bootstrap.clusters.len()), (1, 1));
}

#[test]
fn a_text_is_merged_over_a_file() {
    let files = Files::new();
    let path = files.write("b.yaml", BOOTSTRAP);
    let overlay = "node: {id: n2}\nstatic_resources: {clusters: [{name: other, type: STATIC}]}";
    let loaded = load(Some(&path), Some(overlay), &LoadOptions::default()).unwrap().bootstrap;
    assert_eq!(loaded.node.id, "n2");
    assert_eq!(loaded.clusters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["web", "other"]);
    let alone = load(None, Some(overlay), &LoadOptions::default()).unwrap().bootstrap;
    assert_eq!(alone.clusters.len(), 1);
    assert_eq!(
        load(None, None, &LoadOptions::default()).unwrap_err().to_string(),
        "at least one of --config-path or --config-yaml should be non-empty"
    );
}

#[test]
fn problems_name_file_line_and_column() {
    let text = replaced("cluster: web}", "cluster: gone}")
        .replace("stat_prefix: h", "stat_prefix: h\n          via: \"a\\nb\"");
    let route = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.cluster";
    assert_eq!(
        refusal(&replaced("cluster: web}", "cluster: gone}"), None),
        [format!("b.yaml:19:25: {route}: route: unknown cluster 'gone'")]
    );
    // What the API itself forbids is found before anything is given a meaning.
    assert_eq!(refusal(&text, None).len(), 1);
}

#[test]
fn problems_of_the_text_are_found_in_the_text() {
    let overlay = "static_resources:\n  clusters:\n  - name: static\n    load_assignment:\n      cluster_name: x\n      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: name, port_value: 1}}}}]}]\n";
    let found = refusal(BOOTSTRAP, Some(overlay));
    assert_eq!(found.len(), 1);
    let place = "--config-yaml:6:74: static_resources.clusters[1].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: ";
    assert!(found[0].starts_with(place), "{found:?}");
}

#[test]
fn all_problems_come_in_the_order_of_the_document() {
    let text = replaced("cluster: web}", "cluster: gone}")
        .replace("    type: STRICT_DNS", "    type: STATIC\n    lb_subset_config: {}");
    let found = refusal(&text, None);
    let lines: Vec<_> = found.iter().map(|l| l.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["19", "26", "31"], "{found:#?}");
    assert!(found[1].contains("lb_subset_config"));
}

#[test]
fn unsupported_fields_are_refused_unless_allowed() {
    let text = replaced(
        "    type: STRICT_DNS",
        "    type: STRICT_DNS\n    respect_dns_ttl: true\n    use_tcp_for_dns_lookups: true",
    );
    let found = refusal(&text, None);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("b.yaml:27:5: static_resources.clusters[0].use_tcp_for_dns_lookups: "), "{found:?}");
    let files = Files::new();
    let options = LoadOptions { allow_unknown_fields: true, ..Default::default() };
    let loaded = load(Some(&files.write("b.yaml", &text)), None, &options).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].path, "static_resources.clusters[0].use_tcp_for_dns_lookups");
}

#[test]
fn what_is_optional_may_be_unknown() {
    let lua = r#"          - name: lua
            is_optional: true
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: x}}
          - name: router"#;
    let policies = r#"    type: STRICT_DNS
    load_balancing_policy:
      policies:
      - typed_extension_config: {name: ring, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash}}
      - typed_extension_config: {name: random, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random}}"#;
    let text = replaced("          - name: router", lua).replace("    type: STRICT_DNS", policies);
    let files = Files::new();
    let loaded = load(Some(&files.write("b.yaml", &text)), None, &LoadOptions::default()).unwrap();
    assert_eq!(loaded.bootstrap.clusters[0].lb, LbPolicy::Random(LocalityLb::None));
    let found: Vec<_> = loaded.warnings.iter().map(|w| (w.at.line, w.reason.as_str())).collect();
    assert_eq!(
        found,
        [
            (23, "the optional filter 'lua' is unknown and left out"),
            (31, "the load balancer 'ring' is unknown and passed over"),
        ]
    );
    // The same without `is_optional` is refused, once.
    assert_eq!(refusal(&text.replace("            is_optional: true\n", ""), None).len(), 1);
}

#[test]
fn json_is_read_too() {
    let files = Files::new();
    let path = files.write(
        "b.json",
        "{\n  \"admin\": {\"address\": {\"socket_address\": {\"address\": \"a.b\", \"port_value\": 1}}}\n}",
    );
    let error = load(Some(&path), None, &LoadOptions::default()).unwrap_err().to_string();
    let expected = "b.json:2:44: admin.address.socket_address.address: malformed IP address: a.b";
    assert!(error.ends_with(expected), "{error}");
    let missing = load(Some(&files.0.path().join("none.yaml")), None, &LoadOptions::default()).unwrap_err();
    assert!(missing.to_string().contains("none.yaml: cannot be read"), "{missing}");
}

const SECRETS: &str = r#"- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: cert
  tls_certificate:
    certificate_chain: {filename: /c.pem}
    private_key: {filename: /k.pem}
- "@type": type.googleapis.com/envoy.service.discovery.v3.Resource
  name: trust
  resource:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: trust
    validation_context:
      trusted_ca: {filename: /ca.pem}
"#;

#[test]
fn secrets_come_as_a_response_or_as_a_list() {
    let files = Files::new();
    let indented: String = SECRETS.lines().map(|line| format!("  {line}\n")).collect();
    let response = format!("version_info: \"1\"\nresources:\n{indented}");
    for (name, text) in [("list.yaml", SECRETS), ("response.yaml", response.as_str())] {
        let secrets = load_secrets(&files.write(name, text)).unwrap();
        let names: Vec<_> = secrets.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["cert", "trust"], "{name}");
        assert!(matches!(secrets[0].kind, SecretKind::Certificate(_)));
    }
}

#[test]
fn bad_secrets_name_their_line() {
    let files = Files::new();
    let bad = |text: &str| load_secrets(&files.write("s.yaml", text)).unwrap_err();
    let error = bad(&SECRETS.replace("    private_key: {filename: /k.pem}\n", ""));
    assert!(error.resource.ends_with("s.yaml"));
    assert!(
        error.reason.ends_with("s.yaml:3:3: resources[0].tls_certificate.private_key: value is required"),
        "{error}"
    );
    let error = bad(&SECRETS.replace("validation_context:", "validation_context:\n      max_verify_depth: 101"));
    assert!(
        error.reason.contains("s.yaml:12:7: resources[1].resource.validation_context.max_verify_depth: "),
        "{error}"
    );
    let other = "- \"@type\": type.googleapis.com/envoy.config.core.v3.Pipe\n  path: /x\n";
    let error = bad(other);
    assert!(error.reason.contains("envoy.extensions.transport_sockets.tls.v3.Secret"), "{error}");
    assert!(bad("- [").reason.contains("s.yaml:"));
}
