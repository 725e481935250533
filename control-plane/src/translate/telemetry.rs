//! Who calls whom: Istio's filters for its standard metrics, and what callers are told of endpoints.
//!
//! Only weft-proxy and Istio's build of Envoy have these filters, and of the two only weft-proxy says who it is: others are sent
//! none of it.

use std::sync::Arc;

use weft_proto::own::{peer_metadata as peers, stats};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3::Filter;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use weft_proto::pb::google::protobuf as wkt;

use super::http::http_filter;
use super::view::View;
use super::wire::{self, object, text};
use crate::model::World;
use crate::model::endpoint::Endpoint;
use crate::model::kinds::destination_rule::WorkloadSelector;
use crate::model::kinds::meta::Labels;
use crate::model::kinds::telemetry::{MetricOverride, StandardMetric, TagOperation, Telemetry};
use crate::model::kinds::{Kind, Object};
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

/// The Telemetries of a workload: the oldest of the mesh, of its namespace, and for it alone.
pub(super) fn objects<'w>(world: &'w World, proxy: &Proxy, labels: &Labels) -> Vec<(&'w Arc<Object>, &'w Telemetry)> {
    if !is_counting(proxy) {
        return Vec::new();
    }
    let all = world.objects().by_age::<Telemetry>(Kind::Telemetry);
    let own = |object: &Object| *object.key.namespace == *proxy.namespace;
    let root = |object: &Object| &*object.key.namespace == world.config().mesh.root_namespace();
    let whole = |of: &Telemetry| of.spec.selector.as_ref().is_none_or(WorkloadSelector::is_empty);
    let selects = |of: &Telemetry| !whole(of) && of.spec.selector.as_ref().is_some_and(|of| of.matches(labels));
    let first = |fits: &dyn Fn(&Object, &Telemetry) -> bool| all.iter().copied().find(|(object, of)| fits(object, of));
    let mesh = first(&|object, of| root(object) && whole(of));
    let namespace = first(&|object, of| own(object) && !root(object) && whole(of));
    let workload = first(&|object, of| own(object) && selects(of));
    [mesh, namespace, workload].into_iter().flatten().collect()
}

/// What of the metrics of a side is not as it is without anybody's word; the narrower one has the last.
fn overrides(view: &View<'_>, side: Side) -> Vec<stats::MetricConfig> {
    let all = objects(view.world, view.proxy, view.labels);
    let all: Vec<&MetricOverride> = all
        .iter()
        .flat_map(|(_, of)| of.spec.metrics.iter().flat_map(|metrics| &metrics.overrides))
        .filter(|of| of.is_of(side != Side::Inbound))
        .collect();
    let dropped = StandardMetric::EACH.into_iter().filter(|metric| {
        let of = all.iter().filter(|of| [*metric, StandardMetric::All].contains(&of.metric()));
        of.filter_map(|of| of.disabled).next_back() == Some(true)
    });
    let dropped = dropped.map(|metric| stats::MetricConfig {
        name: metric.name().to_owned(),
        drop: true,
        ..stats::MetricConfig::default()
    });
    let tags = all.iter().filter(|of| !of.tag_overrides.is_empty()).map(|of| {
        let (removed, set): (Vec<_>, Vec<_>) =
            of.tag_overrides.iter().partition(|(_, of)| of.operation == TagOperation::Remove);
        // What is not understood is told of with the object.
        let set = set.into_iter().filter_map(|(name, of)| Some((name.clone(), of.value.clone()?)));
        stats::MetricConfig {
            name: of.metric().name().to_owned(),
            dimensions: set.filter(|(_, text)| stats::expression(text).is_some()).collect(),
            tags_to_remove: removed.into_iter().map(|(name, _)| name.clone()).collect(),
            drop: false,
        }
    });
    dropped.chain(tags).collect()
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
        last: Some(http_filter(STATS, &stats_of(view, side))),
    }
}

/// A proxy of bytes, and what counts its connections.
pub(super) fn counted(view: &View<'_>, side: Side, proxy: Filter) -> Vec<Filter> {
    let stats = is_counting(view.proxy).then(|| wire::network_filter(STATS, &stats_of(view, side)));
    stats.into_iter().chain([proxy]).collect()
}

fn stats_of(view: &View<'_>, side: Side) -> stats::PluginConfig {
    // What outsiders call a service is no name of a service.
    stats::PluginConfig { disable_host_header_fallback: side != Side::Outbound, metrics: overrides(view, side) }
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
