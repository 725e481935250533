//! The bootstrap of a proxy in a mesh.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{Interception, Workload};

/// The cluster of the control plane (Istio's name).
const DISCOVERY: &str = "xds-grpc";
/// The cluster of the proxy's own admin interface (Istio's name).
const ADMIN: &str = "agent";

/// The bootstrap of a proxy of this kind (`sidecar`, `router`).
pub(super) fn of(kind: &str, of: &Workload, labels: &[(String, String)]) -> Json {
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s"});
    let mut made = json!({
        "node": node(kind, of, labels),
        "admin": {"address": address("127.0.0.1", of.admin_port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": DISCOVERY}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [discovery(of), own("prometheus_stats", of.admin_port), own(ADMIN, of.admin_port)],
            "listeners": [
                page("prometheus_stats", of.metrics_port, "/stats/prometheus", "/stats/prometheus", "prometheus_stats"),
                page("agent", of.status_port, "/healthz/ready", "/ready", ADMIN),
            ],
        },
    });
    if let Some(token) = &of.token {
        made["bootstrap_extensions"] = json!([identity(of, token)]);
    }
    made
}

/// Who the workload is, and how it proves that.
fn identity(of: &Workload, token: &Path) -> Json {
    let mut config = json!({
        "@type": "type.googleapis.com/weft.identity.v1.WorkloadIdentity",
        "ca": {"envoy_grpc": {"cluster_name": DISCOVERY}},
        "token_path": token,
        "trust_domain": of.trust_domain,
        "namespace": of.namespace,
        "service_account": of.service_account,
    });
    if let Some(seconds) = of.certificate_ttl {
        config["ttl"] = json!(format!("{seconds}s"));
    }
    json!({"name": "weft.identity", "typed_config": config})
}

fn node(kind: &str, of: &Workload, labels: &[(String, String)]) -> Json {
    let first = of.ips.first().map(ToString::to_string).unwrap_or_default();
    let (name, namespace, domain) = (&of.name, &of.namespace, &of.domain);
    let label = |key: &str| labels.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let workload = of.workload_name.as_deref().unwrap_or(name);
    let app = label("app").or_else(|| label("app.kubernetes.io/name")).unwrap_or(workload);
    let revision = label("service.istio.io/canonical-revision").or_else(|| label("version")).unwrap_or("latest");
    let ips: Vec<_> = of.ips.iter().map(IpAddr::to_string).collect();
    let interception = match of.interception {
        Interception::Redirect => "REDIRECT",
        Interception::Tproxy => "TPROXY",
        Interception::None => "NONE",
    };
    let mut metadata = Map::new();
    let mut set = |key: &str, value: Json| metadata.insert(key.to_owned(), value);
    set("NAME", json!(name));
    set("NAMESPACE", json!(namespace));
    set("INSTANCE_IPS", json!(ips.join(",")));
    set("SERVICE_ACCOUNT", json!(of.service_account));
    set("WORKLOAD_NAME", json!(workload));
    set("CLUSTER_ID", json!(of.cluster_id));
    set("INTERCEPTION_MODE", json!(interception));
    set("LABELS", labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>().into());
    set("CANONICAL_SERVICE", json!(label("service.istio.io/canonical-name").unwrap_or(app)));
    set("CANONICAL_REVISION", json!(revision));
    for (key, value) in &of.metadata {
        metadata.insert(key.clone(), json!(value));
    }
    json!({
        "id": format!("{kind}~{first}~{name}.{namespace}~{namespace}.svc.{domain}"),
        "cluster": format!("{app}.{namespace}"),
        "metadata": metadata,
    })
}

fn discovery(of: &Workload) -> Json {
    let (host, port) = of.discovery_address.rsplit_once(':').unwrap_or((&of.discovery_address, "15012"));
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().unwrap_or(15012);
    let by_dns = host.parse::<IpAddr>().is_err();
    let mut made = json!({
        "name": DISCOVERY,
        "type": if by_dns { "STRICT_DNS" } else { "STATIC" },
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    // A control plane that went without a word is noticed, and looked for again.
                    "connection_keepalive": {"interval": "30s", "timeout": "10s"},
                }},
            },
        },
        "load_assignment": assignment(DISCOVERY, host, port),
    });
    if let Some(ca) = &of.discovery_ca {
        let name = of.discovery_name.as_deref().unwrap_or(host);
        let mut trusted = json!({"filename": ca});
        if let Some(directory) = ca.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            // Another root comes as another file.
            trusted["watched_directory"] = json!({"path": directory});
        }
        let kind = if name.parse::<IpAddr>().is_ok() { "IP_ADDRESS" } else { "DNS" };
        made["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {
                        "trusted_ca": trusted,
                        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
                    },
                },
            },
        });
    }
    made
}

/// A cluster of this process.
fn own(name: &str, port: u16) -> Json {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": assignment(name, "127.0.0.1", port),
    })
}

/// A listener for one page of the admin interface.
fn page(name: &str, port: u16, path: &str, at: &str, cluster: &str) -> Json {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let route = json!({
        "match": {"path": path},
        "route": {"cluster": cluster, "prefix_rewrite": at},
    });
    json!({
        "name": name,
        "address": address("0.0.0.0", port),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "codec_type": "AUTO",
                "route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}]},
                "http_filters": [router],
            },
        }]}],
    })
}

fn assignment(name: &str, host: &str, port: u16) -> Json {
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}]})
}

fn address(host: &str, port: u16) -> Json {
    json!({"socket_address": {"address": host, "port_value": port}})
}
