//! Resources that scenarios are made of.

/// An EDS cluster.
pub(crate) fn eds(name: &str, fields: &str) -> String {
    format!(
        "name: {name}\ntype: EDS\nconnect_timeout: 2s\neds_cluster_config: {{eds_config: {{ads: {{}}, resource_api_version: V3}}}}\n{fields}\n"
    )
}

/// A static cluster of one upstream.
pub(crate) fn fixed(name: &str, upstream: &str, fields: &str) -> String {
    format!(
        "name: {name}\ntype: STATIC\nconnect_timeout: 2s\n{fields}\nload_assignment:\n{}",
        indent(&endpoints(name, &[upstream]))
    )
}

/// Endpoints of these upstreams.
pub(crate) fn endpoints(name: &str, upstreams: &[&str]) -> String {
    let all: Vec<_> = upstreams
        .iter()
        .map(|u| format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{upstream:{u}}}}}}}}}}}}}"))
        .collect();
    format!("cluster_name: {name}\nendpoints: [{{lb_endpoints: [{}]}}]\n", all.join(", "))
}

/// A listener at a port with routes by discovery.
pub(crate) fn rds_listener(name: &str, port: &str, routes: &str) -> String {
    let rds = format!("rds: {{route_config_name: {routes}, config_source: {{ads: {{}}, resource_api_version: V3}}}}");
    listener(name, port, &rds)
}

/// A listener at a port whose routes are these fields of the connection manager.
pub(crate) fn listener(name: &str, port: &str, routes: &str) -> String {
    format!(
        r#"name: {name}
address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{port:{port}}}}}}}}}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: {name}
      {routes}
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#
    )
}

/// Inline routes to a cluster.
pub(crate) fn inline(cluster: &str) -> String {
    format!(
        "route_config: {{name: inline, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]}}"
    )
}

/// Inline routes that answer by themselves.
pub(crate) fn direct(body: &str) -> String {
    format!(
        "route_config: {{name: inline, virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}]}}]}}"
    )
}

/// Routes to a cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> String {
    format!(
        "name: {name}\nvirtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]\n"
    )
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
