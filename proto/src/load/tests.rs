use super::*;
use crate::pb::envoy::config::bootstrap::v3::Bootstrap;

const STRICT: Options = Options { allow_unknown: false };
const LENIENT: Options = Options { allow_unknown: true };

fn yaml(name: &str, text: &str) -> Source {
    Source::text(name, text, Format::Yaml)
}

fn refused(text: &str, options: Options) -> Vec<String> {
    let problems = load::<Bootstrap>(&[yaml("b.yaml", text)], options).unwrap_err();
    problems.0.iter().map(ToString::to_string).collect()
}

fn accepted(text: &str, options: Options) -> Loaded<Bootstrap> {
    load(&[yaml("b.yaml", text)], options).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A listener that routes to a cluster: the shape of most bootstraps.
pub(crate) const SAMPLE: &str = "
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 9901}}
static_resources:
  listeners:
  - name: in
    address:
      socket_address: {address: 0.0.0.0, port_value: 8080}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          access_log:
          - name: out
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {prefix: /}
                route: {cluster: one, timeout: 5s}
          http_filters:
          - name: router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: one
    type: STRICT_DNS
    load_assignment:
      cluster_name: one
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: one.test, port_value: 80}}}
";

#[test]
fn a_supported_bootstrap_has_no_problems() {
    let loaded = accepted(SAMPLE, STRICT);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let resources = loaded.message.static_resources.unwrap();
    assert_eq!((resources.listeners.len(), resources.clusters.len()), (1, 1));
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]";
    assert_eq!(loaded.spans.locate(&format!("{path}.routes[0].route.timeout")), Some((25, 39)));
}

#[test]
fn rules_inside_an_any_are_found_with_their_lines() {
    let text = SAMPLE.replace("stat_prefix: in", "stat_prefix: \"\"").replace("domains: [\"*\"]", "domains: []");
    let path = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    assert_eq!(
        refused(&text, STRICT),
        [
            format!("b.yaml:14:11: {path}.stat_prefix: value length must be at least 1 characters"),
            format!(
                "b.yaml:22:15: {path}.route_config.virtual_hosts[0].domains: value must contain at least 1 item(s)"
            ),
        ]
    );
    // Broken rules are refused whatever is allowed to be unknown.
    assert_eq!(refused(&text, LENIENT).len(), 2);
}

#[test]
fn what_is_unknown_or_unsupported_is_an_error_or_a_warning() {
    let text = "
node: {id: a, idd: b}
flags_path: /flags
stats_flush_interval: 1s
static_resources:
  clusters:
  - {name: a, lb_policy: MAGLEV}
  - name: b
    typed_extension_protocol_options:
      x:
        '@type': type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap
";
    let problems = [
        "b.yaml:2:15: node.idd: unknown field of envoy.config.core.v3.Node, did you mean `id`?",
        "b.yaml:3:1: flags_path: field `flags_path` of envoy.config.bootstrap.v3.Bootstrap is not supported by weft",
        "b.yaml:7:15: static_resources.clusters[0].lb_policy: MAGLEV of envoy.config.cluster.v3.Cluster.LbPolicy is not supported by weft",
        "b.yaml:11:9: static_resources.clusters[1].typed_extension_protocol_options[\"x\"]: envoy.extensions.filters.http.tap.v3.Tap is not supported by weft",
    ];
    assert_eq!(refused(text, STRICT), problems);
    let warnings: Vec<_> = accepted(text, LENIENT).warnings.iter().map(ToString::to_string).collect();
    let flush = "b.yaml:4:1: stats_flush_interval: field `stats_flush_interval` has no effect: there are no stats sinks to \
                 flush to, and stats are summed when they are read";
    assert_eq!(warnings, [problems[0], problems[1], flush, problems[2], problems[3]]);
}

#[test]
fn an_overlay_is_merged_over_the_file() {
    let over =
        yaml("--config-yaml", "node: {cluster: c}\nstatic_resources:\n  clusters:\n  - name: two\n  - {name: 3}\n");
    let base = yaml("b.yaml", "node: {id: a, cluster: b}\nstatic_resources:\n  clusters:\n  - name: one\n");
    let problems = load::<Bootstrap>(&[base.clone(), over.clone()], STRICT).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "--config-yaml:5:12: static_resources.clusters[1].name: expected a string (put it in quotes), found the number 3\n\
         --config-yaml:5:5: static_resources.clusters[2].name: value length must be at least 1 characters"
            .replace("5:5:", "5:6:")
            .split('\n')
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    );
    let over = yaml("--config-yaml", "node: {cluster: c}\nstatic_resources:\n  clusters:\n  - name: two\n");
    let loaded = load::<Bootstrap>(&[base, over], STRICT).unwrap();
    let node = loaded.message.node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("a", "c"));
    let names: Vec<_> = loaded.message.static_resources.unwrap().clusters.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["one", "two"]);
    let found = loaded.spans.location("static_resources.clusters[1].name").unwrap();
    assert_eq!((&*found.source, found.at.line), ("--config-yaml", 4));
    assert_eq!(&*loaded.spans.location("node.id").unwrap().source, "b.yaml");
    assert_eq!(&*loaded.spans.location("node.cluster").unwrap().source, "--config-yaml");
}

#[test]
fn a_binary_file_is_a_message() {
    use prost::Message as _;
    let bootstrap = accepted(SAMPLE, STRICT).message;
    let binary = Source { name: "b.pb".into(), content: Content::Binary(bootstrap.encode_to_vec()) };
    let loaded = load::<Bootstrap>(&[binary], STRICT).unwrap();
    assert_eq!(loaded.message, bootstrap);
    assert_eq!(loaded.spans.locate("admin"), None);
    let bad = Source { name: "b.pb".into(), content: Content::Binary(vec![0xff]) };
    let shown = load::<Bootstrap>(&[bad], STRICT).unwrap_err().to_string();
    assert!(shown.starts_with("b.pb: cannot be decoded as envoy.config.bootstrap.v3.Bootstrap"), "{shown}");
}

#[test]
fn a_missing_file_is_named() {
    let shown = Source::file(Path::new("/does/not/exist.yaml")).unwrap_err().to_string();
    assert!(shown.starts_with("/does/not/exist.yaml: cannot be read: "), "{shown}");
}

#[test]
fn a_resource_from_the_wire_is_checked() {
    use crate::pb::envoy::config::cluster::v3::Cluster;
    let shown = |resource: &Any| check_resource(resource).iter().map(ToString::to_string).collect::<Vec<_>>();
    let cluster = Cluster { name: "a".into(), ..Default::default() };
    assert_eq!(shown(&crate::any::pack(&cluster)), [""; 0]);
    let cluster = Cluster { lb_subset_config: Some(Default::default()), ..Default::default() };
    assert_eq!(
        shown(&crate::any::pack(&cluster)),
        [
            "lb_subset_config: field `lb_subset_config` of envoy.config.cluster.v3.Cluster is not supported by weft",
            "name: value length must be at least 1 characters",
        ]
    );
    let unknown = Any { type_url: "a/b.C".into(), value: Vec::new() };
    assert_eq!(shown(&unknown), ["b.C is not supported by weft"]);
}
