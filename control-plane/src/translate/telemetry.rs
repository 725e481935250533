//! Who calls whom: Istio's filters for its standard metrics, and what callers are told of endpoints.
//!
//! Only weft-proxy and Istio's build of Envoy have these filters, and of the two only weft-proxy says who it is: others are sent
//! none of it.

use weft_proto::own::{peer_metadata as peers, stats};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3::Filter;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use weft_proto::pb::google::protobuf as wkt;

use super::http::http_filter;
use super::view::View;
use super::wire::{self, object, text};
use crate::model::endpoint::Endpoint;
use crate::model::kinds::meta::Labels;
use crate::model::service::{Service, ServiceKey};
use crate::node::Proxy;

/// Istio's names of the filters, which EnvoyFilters refer to.
const STATS: &str = "istio.stats";
const METADATA_EXCHANGE: &str = "istio.metadata_exchange";
/// The only cluster that there is, by Istio's name for it.
const CLUSTER: &str = "Kubernetes";

/// For what side a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// What a workload receives.
    Inbound,
    /// What it sends.
    Outbound,
    /// What a gateway takes in.
    Gateway,
}

/// Filters of a connection manager.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// In front of all others.
    pub(super) first: Option<HttpFilter>,
    /// Behind all but the router.
    pub(super) last: Option<HttpFilter>,
}

/// Whether a proxy has the filters.
pub(super) fn is_counting(proxy: &Proxy) -> bool {
    proxy.user_agent == "weft-proxy"
}

/// The filters of connection managers on a side.
pub(super) fn http_filters(view: &View<'_>, side: Side) -> Filters {
    if !is_counting(view.proxy) {
        return Filters::default();
    }
    Filters {
        first: Some(http_filter(METADATA_EXCHANGE, &exchange(side))),
        last: Some(http_filter(STATS, &stats_of(side))),
    }
}

/// A proxy of bytes, and what counts its connections.
pub(super) fn counted(view: &View<'_>, side: Side, proxy: Filter) -> Vec<Filter> {
    let stats = is_counting(view.proxy).then(|| wire::network_filter(STATS, &stats_of(side)));
    stats.into_iter().chain([proxy]).collect()
}

fn stats_of(side: Side) -> stats::PluginConfig {
    // What outsiders call a service is no name of a service.
    stats::PluginConfig { disable_host_header_fallback: side != Side::Outbound, metrics: Vec::new() }
}

fn exchange(side: Side) -> peers::Config {
    let headers = |skip_external_clusters| Some(peers::IstioHeaders { skip_external_clusters });
    let found = || vec![peers::DiscoveryMethod { istio_headers: headers(false), workload_discovery: None }];
    let told = |skip| vec![peers::PropagationMethod { istio_headers: headers(skip) }];
    match side {
        Side::Inbound => peers::Config {
            downstream_discovery: found(),
            downstream_propagation: told(false),
            ..peers::Config::default()
        },
        Side::Outbound | Side::Gateway => {
            peers::Config { upstream_discovery: found(), upstream_propagation: told(true), ..peers::Config::default() }
        }
    }
}

/// What callers are told of an endpoint's workload, beside what its metadata says already.
pub(super) fn with_workload(
    view: &View<'_>,
    service: &Service,
    endpoint: &Endpoint,
    metadata: Option<core::Metadata>,
) -> Option<core::Metadata> {
    let told = is_counting(view.proxy).then(|| workload(service, endpoint)).flatten();
    let Some(told) = told else { return metadata };
    let mut metadata = metadata.unwrap_or_default();
    metadata.filter_metadata.insert("istio".to_owned(), object([("workload", text(&told))]));
    Some(metadata)
}

/// `workload;namespace;canonical name;canonical revision;cluster`, as in Istio; `None`: it is not known what runs there.
fn workload(service: &Service, endpoint: &Endpoint) -> Option<String> {
    let name = &*endpoint.workload_name;
    if name.is_empty() && endpoint.labels.is_empty() {
        return None;
    }
    let namespace = endpoint.workload.as_ref().map_or(&*service.key.namespace, |workload| &workload.namespace);
    let label = |keys: &[&str]| first_of(&endpoint.labels, keys);
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(name);
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    Some([name, namespace, canonical, revision.unwrap_or("latest"), CLUSTER].join(";"))
}

fn first_of<'a>(labels: &'a Labels, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| labels.get(*key)).map(String::as_str)
}

/// Says of a cluster of the workload itself for which service it is.
pub(super) fn of_service(key: &ServiceKey) -> core::Metadata {
    core::Metadata { filter_metadata: [("istio".to_owned(), services(key))].into(), ..Default::default() }
}

/// The service of a cluster, in Istio's metadata.
pub(super) fn services(key: &ServiceKey) -> wkt::Struct {
    let service = object([
        ("host", text(&key.host)),
        ("name", text(key.host.split('.').next().unwrap_or_default())),
        ("namespace", text(&key.namespace)),
    ]);
    let service = wkt::Value { kind: Some(wkt::value::Kind::StructValue(service)) };
    let services = wkt::ListValue { values: vec![service] };
    object([("services", wkt::Value { kind: Some(wkt::value::Kind::ListValue(services)) })])
}

/// Says of a cluster that it is outside the mesh, so that it is told nothing.
pub(super) fn mark_external(istio: &mut wkt::Struct) {
    istio.fields.insert("external".to_owned(), wkt::Value { kind: Some(wkt::value::Kind::BoolValue(true)) });
}
