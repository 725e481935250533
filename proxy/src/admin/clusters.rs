//! `/clusters`.

use std::fmt::Write;

use http::StatusCode;
use serde::Serialize;

use super::body::{Params, Reply};
use super::listeners::AddressJson;
use super::sources::Sources;
use super::status::{ClusterStatus, HealthFlags, HostStatus, Thresholds};
use crate::config::Locality;

pub(super) fn clusters(sources: &Sources, params: &Params) -> Reply {
    let filter = match params.non_empty("filter").map(regex::Regex::new) {
        None => None,
        Some(Ok(filter)) => Some(filter),
        Some(Err(_)) => return Reply::error(StatusCode::BAD_REQUEST, "Invalid re2 regex"),
    };
    let mut clusters = (sources.clusters)();
    clusters.retain(|cluster| filter.as_ref().is_none_or(|filter| filter.is_match(&cluster.name)));
    match params.get("format") {
        Some("json") => Reply::json(&Json { cluster_statuses: clusters.iter().map(ClusterJson::new).collect() }),
        _ => {
            let mut out = String::new();
            clusters.iter().for_each(|cluster| text(&mut out, cluster));
            Reply::text(out)
        }
    }
}

/// A rate in percent, or -1.
fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-1".to_owned(), |rate| rate.to_string())
}

// Writing to a string cannot fail.
fn text(out: &mut String, cluster: &ClusterStatus) {
    let name = &cluster.name;
    let _ = writeln!(out, "{name}::observability_name::{}", cluster.observability_name);
    if let Some(outlier) = &cluster.outlier {
        let _ = writeln!(out, "{name}::outlier::success_rate_average::{}", rate(outlier.average));
        let _ = writeln!(out, "{name}::outlier::success_rate_ejection_threshold::{}", rate(outlier.threshold));
        let average = rate(outlier.local_origin_average);
        let _ = writeln!(out, "{name}::outlier::local_origin_success_rate_average::{average}");
        let threshold = rate(outlier.local_origin_threshold);
        let _ = writeln!(out, "{name}::outlier::local_origin_success_rate_ejection_threshold::{threshold}");
    }
    for (priority, limits) in [("default", &cluster.default_priority), ("high", &cluster.high_priority)] {
        let _ = writeln!(out, "{name}::{priority}_priority::max_connections::{}", limits.max_connections);
        let _ = writeln!(out, "{name}::{priority}_priority::max_pending_requests::{}", limits.max_pending_requests);
        let _ = writeln!(out, "{name}::{priority}_priority::max_requests::{}", limits.max_requests);
        let _ = writeln!(out, "{name}::{priority}_priority::max_retries::{}", limits.max_retries);
    }
    let _ = writeln!(out, "{name}::added_via_api::{}", cluster.added_via_api);
    if !cluster.eds_service_name.is_empty() {
        let _ = writeln!(out, "{name}::eds_service_name::{}", cluster.eds_service_name);
    }
    cluster.hosts.iter().for_each(|host| host_text(out, name, host));
}

fn host_text(out: &mut String, cluster: &str, host: &HostStatus) {
    let mut stats: Vec<(&str, String)> =
        host.counters.iter().chain(&host.gauges).map(|(n, v)| (*n, v.to_string())).collect();
    stats.sort_unstable();
    let Locality { region, zone, sub_zone } = host.locality.clone();
    stats.extend([
        ("hostname", host.hostname.clone()),
        ("health_flags", host.health.names()),
        ("weight", host.weight.to_string()),
        ("region", region),
        ("zone", zone),
        ("sub_zone", sub_zone),
        ("canary", host.canary.to_string()),
        ("priority", host.priority.to_string()),
        ("success_rate", rate(host.success_rate)),
        ("local_origin_success_rate", rate(host.local_origin_success_rate)),
    ]);
    for (stat, value) in stats {
        let _ = writeln!(out, "{cluster}::{}::{stat}::{value}", host.address);
    }
}

// As `envoy.admin.v3.Clusters` comes out of protobuf's JSON mapping: defaults are left out, 64-bit integers are strings.

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster_statuses: Vec<ClusterJson<'a>>,
}

#[derive(Serialize)]
struct ClusterJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    added_via_api: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_rate_ejection_threshold: Option<Percent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    host_statuses: Vec<HostJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_origin_success_rate_ejection_threshold: Option<Percent>,
    circuit_breakers: Breakers,
    #[serde(skip_serializing_if = "str::is_empty")]
    observability_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    eds_service_name: &'a str,
}

#[derive(Serialize)]
struct Percent {
    value: f64,
}

#[derive(Serialize)]
struct Breakers {
    thresholds: [BreakerJson; 2],
}

#[derive(Serialize)]
struct BreakerJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'static str>,
    max_connections: u32,
    max_pending_requests: u32,
    max_requests: u32,
    max_retries: u32,
}

#[derive(Serialize)]
struct HostJson<'a> {
    address: AddressJson,
    stats: Vec<StatJson>,
    health_status: HealthJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_rate: Option<Percent>,
    #[serde(skip_serializing_if = "is_zero")]
    weight: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    priority: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_origin_success_rate: Option<Percent>,
    locality: LocalityJson<'a>,
}

#[derive(Serialize)]
struct LocalityJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    region: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    zone: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_zone: &'a str,
}

#[derive(Serialize)]
struct StatJson {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    name: &'static str,
}

#[derive(Serialize)]
struct HealthJson {
    #[serde(skip_serializing_if = "is_false")]
    failed_active_health_check: bool,
    #[serde(skip_serializing_if = "is_false")]
    failed_outlier_check: bool,
    eds_health_status: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    failed_active_degraded_check: bool,
    #[serde(skip_serializing_if = "is_false")]
    pending_dynamic_removal: bool,
    #[serde(skip_serializing_if = "is_false")]
    pending_active_hc: bool,
    #[serde(skip_serializing_if = "is_false")]
    excluded_via_immediate_hc_fail: bool,
    #[serde(skip_serializing_if = "is_false")]
    active_hc_timeout: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl<'a> ClusterJson<'a> {
    fn new(cluster: &'a ClusterStatus) -> Self {
        let percent = |value: Option<f64>| value.map(|value| Percent { value });
        let thresholds =
            [BreakerJson::new(None, &cluster.default_priority), BreakerJson::new(Some("HIGH"), &cluster.high_priority)];
        ClusterJson {
            name: &cluster.name,
            added_via_api: cluster.added_via_api,
            success_rate_ejection_threshold: percent(cluster.outlier.and_then(|o| o.threshold)),
            host_statuses: cluster.hosts.iter().map(HostJson::new).collect(),
            local_origin_success_rate_ejection_threshold: percent(
                cluster.outlier.and_then(|o| o.local_origin_threshold),
            ),
            circuit_breakers: Breakers { thresholds },
            observability_name: &cluster.observability_name,
            eds_service_name: &cluster.eds_service_name,
        }
    }
}

impl BreakerJson {
    fn new(priority: Option<&'static str>, limits: &Thresholds) -> Self {
        BreakerJson {
            priority,
            max_connections: limits.max_connections,
            max_pending_requests: limits.max_pending_requests,
            max_requests: limits.max_requests,
            max_retries: limits.max_retries,
        }
    }
}

impl<'a> HostJson<'a> {
    fn new(host: &'a HostStatus) -> Self {
        let stat = |kind| {
            move |(name, value): &(&'static str, u64)| StatJson {
                kind,
                value: (*value != 0).then(|| value.to_string()),
                name,
            }
        };
        let percent = |value: Option<f64>| value.map(|value| Percent { value });
        let Locality { region, zone, sub_zone } = &host.locality;
        HostJson {
            address: AddressJson::from(&host.address),
            stats: host.counters.iter().map(stat(None)).chain(host.gauges.iter().map(stat(Some("GAUGE")))).collect(),
            health_status: HealthJson::new(&host.health),
            success_rate: percent(host.success_rate),
            weight: host.weight,
            hostname: &host.hostname,
            priority: host.priority,
            local_origin_success_rate: percent(host.local_origin_success_rate),
            locality: LocalityJson { region, zone, sub_zone },
        }
    }
}

impl HealthJson {
    fn new(health: &HealthFlags) -> Self {
        HealthJson {
            failed_active_health_check: health.failed_active_hc,
            failed_outlier_check: health.failed_outlier_check,
            eds_health_status: match health {
                HealthFlags { failed_eds_health: true, .. } => "UNHEALTHY",
                HealthFlags { eds_status_draining: true, .. } => "DRAINING",
                HealthFlags { degraded_eds_health: true, .. } => "DEGRADED",
                _ => "HEALTHY",
            },
            failed_active_degraded_check: health.degraded_active_hc,
            pending_dynamic_removal: health.pending_dynamic_removal,
            pending_active_hc: health.pending_active_hc,
            excluded_via_immediate_hc_fail: health.excluded_via_immediate_hc_fail,
            active_hc_timeout: health.active_hc_timeout,
        }
    }
}
