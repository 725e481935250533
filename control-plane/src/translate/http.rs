//! HTTP connection managers and TCP proxies.

use std::time::Duration;

use prost::Name;
use weft_proto::any::pack;
use weft_proto::pb::envoy::config::accesslog::v3 as accesslog;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3 as listener;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_proto::pb::envoy::extensions::access_loggers::file::v3 as file;
use weft_proto::pb::envoy::extensions::filters::http::cors::v3::Cors;
use weft_proto::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use weft_proto::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use weft_proto::pb::envoy::extensions::filters::http::router::v3::Router;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as pb, HttpConnectionManager, HttpFilter, http_connection_manager as hcm, http_filter,
};
use weft_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::{self as tcp, TcpProxy, tcp_proxy};

use super::telemetry;
use super::wire::{self, bool_value, duration};
use crate::model::kinds::destination_rule::Tunnel;
use crate::model::kinds::mesh_config::MeshConfig;

/// The filter for cross-origin rules.
pub(super) const CORS: &str = "envoy.filters.http.cors";
/// The filter for faults.
pub(super) const FAULT: &str = "envoy.filters.http.fault";
/// The filter that ends every list.
pub(super) const ROUTER: &str = "envoy.filters.http.router";
/// The network filter for HTTP.
pub(super) const MANAGER: &str = "envoy.filters.network.http_connection_manager";
/// The network filter for bytes.
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// Where a connection manager's routes are.
pub(super) enum Routes {
    /// With their own subscription.
    Named(String),
    /// In the listener.
    Inline(Box<RouteConfiguration>),
}

/// What differs between connection managers.
pub(super) struct Options {
    /// In front of its stats.
    pub(super) stat_prefix: String,
    /// Its routes.
    pub(super) routes: Routes,
    /// Whether the peer is a client itself, whose address counts, and not another proxy.
    pub(super) edge: bool,
    /// Whether requests are gRPC from browsers.
    pub(super) grpc_web: bool,
    /// Whether callers show certificates: the workload is told whose.
    pub(super) certificates: bool,
    /// What counts requests, and tells both sides of each other.
    pub(super) telemetry: telemetry::Filters,
    /// Who may come in: in front of everything else.
    pub(super) authorization: Vec<HttpFilter>,
}

/// An HTTP filter.
pub(super) fn http_filter<M: prost::Message + Name>(name: &str, config: &M) -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(pack(config)));
    HttpFilter { name: name.to_owned(), config_type, ..Default::default() }
}

/// The filters of every connection manager. What a proxy may not know does nothing until a route uses it, so it is optional.
fn filters(grpc_web: bool, stats: Option<HttpFilter>) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if grpc_web {
        filters.push(http_filter("envoy.filters.http.grpc_web", &GrpcWeb {}));
    }
    filters.extend([
        HttpFilter { is_optional: true, ..http_filter(FAULT, &HttpFault::default()) },
        HttpFilter { is_optional: true, ..http_filter(CORS, &Cors {}) },
    ]);
    filters.extend(stats);
    filters.push(http_filter(ROUTER, &Router::default()));
    filters
}

/// A connection manager.
pub(super) fn manager(mesh: &MeshConfig, options: Options) -> listener::Filter {
    let route_specifier = match options.routes {
        Routes::Named(name) => {
            hcm::RouteSpecifier::Rds(pb::Rds { config_source: wire::ads(), route_config_name: name })
        }
        Routes::Inline(table) => hcm::RouteSpecifier::RouteConfig(*table),
    };
    let telemetry::Filters { first, last } = options.telemetry;
    let others = filters(options.grpc_web, last);
    let http_filters = first.into_iter().chain(options.authorization).chain(others).collect();
    let mut manager = HttpConnectionManager {
        stat_prefix: options.stat_prefix,
        route_specifier: Some(route_specifier),
        http_filters,
        use_remote_address: bool_value(options.edge),
        // Streams of the mesh may be silent for as long as they like.
        stream_idle_timeout: duration(Duration::ZERO),
        upgrade_configs: vec![hcm::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        access_log: access_log(mesh),
        ..Default::default()
    };
    if options.certificates {
        manager.forward_client_cert_details = hcm::ForwardClientCertDetails::AppendForward as i32;
        manager.set_current_client_cert_details = Some(hcm::SetCurrentClientCertDetails {
            subject: bool_value(true),
            dns: true,
            uri: true,
            ..Default::default()
        });
    }
    normalize(mesh, &mut manager);
    wire::network_filter(MANAGER, &manager)
}

/// A connection manager for a proxyless gRPC client: it checks what it does not use.
pub(super) fn grpc_manager(routes: Routes) -> HttpConnectionManager {
    let route_specifier = match routes {
        Routes::Named(name) => {
            hcm::RouteSpecifier::Rds(pb::Rds { config_source: wire::ads(), route_config_name: name })
        }
        Routes::Inline(table) => hcm::RouteSpecifier::RouteConfig(*table),
    };
    let fault = HttpFilter { is_optional: true, ..http_filter(FAULT, &HttpFault::default()) };
    HttpConnectionManager {
        route_specifier: Some(route_specifier),
        http_filters: vec![fault, http_filter(ROUTER, &Router::default())],
        ..Default::default()
    }
}

fn normalize(mesh: &MeshConfig, manager: &mut HttpConnectionManager) {
    let how = mesh.path_normalization.as_ref().and_then(|of| of.normalization.as_deref()).unwrap_or("DEFAULT");
    manager.normalize_path = bool_value(how != "NONE");
    manager.merge_slashes = matches!(how, "MERGE_SLASHES" | "DECODE_AND_MERGE_SLASHES");
    if how == "DECODE_AND_MERGE_SLASHES" {
        manager.path_with_escaped_slashes_action = hcm::PathWithEscapedSlashesAction::UnescapeAndForward as i32;
    }
}

/// Where requests and connections are logged.
pub(super) fn access_log(mesh: &MeshConfig) -> Vec<accesslog::AccessLog> {
    let Some(path) = mesh.access_log_file.clone().filter(|path| !path.is_empty()) else { return Vec::new() };
    let json = mesh.access_log_encoding.as_deref() == Some("JSON");
    let format = mesh.access_log_format.as_deref().filter(|format| !format.is_empty());
    let format = match (json, format) {
        (false, None) => None,
        (false, Some(text)) => {
            let source = core::data_source::Specifier::InlineString(text.to_owned());
            let source = core::DataSource { specifier: Some(source), ..Default::default() };
            Some(core::substitution_format_string::Format::TextFormatSource(source))
        }
        (true, format) => Some(core::substitution_format_string::Format::JsonFormat(json_format(format))),
    };
    let access_log_format = format.map(|format| {
        let format = core::SubstitutionFormatString { format: Some(format), ..Default::default() };
        file::file_access_log::AccessLogFormat::LogFormat(format)
    });
    let config = file::FileAccessLog { path, access_log_format };
    vec![accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(pack(&config))),
        ..Default::default()
    }]
}

/// The JSON object of a log line: what is given, else the fields everybody looks at.
fn json_format(given: Option<&str>) -> weft_proto::pb::google::protobuf::Struct {
    const FIELDS: [(&str, &str); 10] = [
        ("start_time", "%START_TIME%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("protocol", "%PROTOCOL%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("duration", "%DURATION%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
    ];
    let given = given.and_then(|text| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok());
    match given {
        Some(fields) => weft_proto::wkt::to_struct(&fields),
        None => wire::object(FIELDS.map(|(name, value)| (name, wire::text(value)))),
    }
}

/// A proxy of bytes to one cluster, or by weight.
pub(super) fn tcp_proxy(
    mesh: &MeshConfig,
    stat_prefix: &str,
    clusters: &[(String, u32)],
    idle: Option<Duration>,
) -> listener::Filter {
    wire::network_filter(TCP_PROXY, &tcp_proxy_config(mesh, stat_prefix, clusters, idle))
}

/// The same, through a request where a rule says so.
pub(super) fn tunnelled(
    mesh: &MeshConfig,
    stat_prefix: &str,
    clusters: &[(String, u32)],
    idle: Option<Duration>,
    tunnel: Option<&Tunnel>,
) -> listener::Filter {
    let mut config = tcp_proxy_config(mesh, stat_prefix, clusters, idle);
    let usable = |of: &&Tunnel| !of.target_host.is_empty() && (1..=65535).contains(&of.target_port);
    config.tunneling_config = tunnel.filter(usable).map(|tunnel| tcp_proxy::TunnelingConfig {
        hostname: match tunnel.target_host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{}", tunnel.target_port),
            Err(_) => format!("{}:{}", tunnel.target_host, tunnel.target_port),
        },
        use_post: tunnel.protocol.as_deref() == Some("POST"),
        ..Default::default()
    });
    wire::network_filter(TCP_PROXY, &config)
}

fn tcp_proxy_config(
    mesh: &MeshConfig,
    stat_prefix: &str,
    clusters: &[(String, u32)],
    idle: Option<Duration>,
) -> TcpProxy {
    let specifier = match clusters {
        [(only, _)] => tcp_proxy::ClusterSpecifier::Cluster(only.clone()),
        several => {
            let weigh = |(name, weight): &(String, u32)| tcp_proxy::weighted_cluster::ClusterWeight {
                name: name.clone(),
                weight: *weight,
                ..Default::default()
            };
            let clusters = several.iter().map(weigh).collect();
            tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster { clusters })
        }
    };
    TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        idle_timeout: idle.and_then(duration),
        access_log: access_log(mesh),
        cluster_specifier: Some(specifier),
        ..tcp::TcpProxy::default()
    }
}
