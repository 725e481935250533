//! The route configuration of a sidecar's outbound port: every HTTP service of the port, and what is not known.

use std::collections::BTreeSet;

use weft_proto::pb::envoy::config::route::v3::{self as pb, route, route_action, route_match};

use super::super::names;
use super::super::view::View;
use super::super::wire::{bool_value, duration};
use super::{Rules, retry};
use crate::model::config::{GatewayRef, VirtualService};
use crate::model::host;
use crate::model::kinds::service_entry::OutboundMode;
use crate::model::service::{Port, Protocol, Service};

/// The route configuration of a port.
pub(in crate::translate) fn port_table(view: &View<'_>, port: u32, name: &str) -> pb::RouteConfiguration {
    let mut virtual_hosts = Vec::new();
    let mut domains: BTreeSet<String> = BTreeSet::new();
    let services: Vec<(&Service, &Port)> = http_services(view, port).collect();
    let mut served: BTreeSet<&str> = BTreeSet::new();
    for routes in view.virtual_services(&[GatewayRef::Mesh]).filter(|routes| !routes.http.is_empty()) {
        for (host_name, service) in hosts(routes, &services, port) {
            if !served.insert(host_name) {
                // Another one for this host is older.
                continue;
            }
            let rules = Rules { view, routes, port, gateways: &[GatewayRef::Mesh], is_grpc: false };
            let made = rules.routes();
            // A VirtualService none of whose rules is for this port leaves the service as it is.
            let made = match (made.is_empty(), service) {
                (true, Some((service, of))) => vec![default_route(view, service, of)],
                _ => made,
            };
            virtual_hosts.push(virtual_host(
                view,
                host_name,
                service.map(|(service, _)| service),
                port,
                made,
                &mut domains,
            ));
        }
    }
    for (service, of) in &services {
        if served.insert(&service.key.host) {
            let made = vec![default_route(view, service, of)];
            virtual_hosts.push(virtual_host(view, &service.key.host, Some(service), port, made, &mut domains));
        }
    }
    virtual_hosts.retain(|host| !host.domains.is_empty());
    virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
    virtual_hosts.push(unknown_hosts(view.outbound_mode()));
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: bool_value(false),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: super::super::wire::u32_value(1 << 20),
        ..Default::default()
    }
}

/// The services that speak HTTP on this port, or may.
fn http_services<'w>(view: &View<'w>, port: u32) -> impl Iterator<Item = (&'w Service, &'w Port)> {
    let all =
        view.services.iter().flat_map(|seen| seen.ports().map(|port| (&**seen.service, port)).collect::<Vec<_>>());
    all.filter(move |(_, of)| u32::from(of.number) == port && (of.protocol.is_http() || of.protocol == Protocol::Auto))
}

type Host<'w> = (&'w str, Option<(&'w Service, &'w Port)>);

/// The hosts a VirtualService has on a port: the services it covers, else its names themselves, which are on port 80.
fn hosts<'w>(routes: &'w VirtualService, services: &[(&'w Service, &'w Port)], port: u32) -> Vec<Host<'w>> {
    let mut found: Vec<Host<'w>> = Vec::new();
    for pattern in &routes.hosts {
        let covered: Vec<Host<'w>> = services
            .iter()
            .filter(|(service, _)| host::covers(pattern, &service.key.host))
            .map(|of| (&*of.0.key.host, Some(*of)))
            .collect();
        if covered.is_empty() && port == 80 {
            found.push((pattern, None));
        }
        found.extend(covered);
    }
    found
}

/// A route of everything to a service.
pub(in crate::translate) fn default_route(view: &View<'_>, service: &Service, port: &Port) -> pb::Route {
    let cluster = names::outbound(port.number.into(), "", &service.key.host);
    let action = pb::RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
        timeout: duration(std::time::Duration::ZERO),
        retry_policy: retry::policy(None, &view.world.config().mesh),
        hash_policy: hash_policies(view, service, port),
        ..Default::default()
    };
    pb::Route {
        name: "default".to_owned(),
        r#match: everything(),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    }
}

fn hash_policies(view: &View<'_>, service: &Service, port: &Port) -> Vec<route_action::HashPolicy> {
    let rules = view.destination_rules(service);
    let whole = rules.first().and_then(|rule| rule.spec.traffic_policy.as_ref());
    super::action::hash_policies_of(whole, None, port.number.into(), service)
}

fn everything() -> Option<pb::RouteMatch> {
    Some(pb::RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    })
}

fn virtual_host(
    view: &View<'_>,
    host_name: &str,
    service: Option<&Service>,
    port: u32,
    routes: Vec<pb::Route>,
    taken: &mut BTreeSet<String>,
) -> pb::VirtualHost {
    let mut domains = domains(view, host_name, service);
    // Each domain once: Envoy refuses a table that has one twice.
    domains.retain(|domain| taken.insert(domain.clone()));
    pb::VirtualHost {
        name: format!("{host_name}:{port}"),
        domains,
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// The names a host is called by: in full, and as its callers' DNS would complete it; and its addresses.
fn domains(view: &View<'_>, host_name: &str, service: Option<&Service>) -> Vec<String> {
    let mut domains = vec![host_name.to_owned()];
    let Some(service) = service else { return domains };
    if let Some(name) = service.kubernetes_name() {
        let namespace = &service.key.namespace;
        if **namespace == *view.proxy.namespace {
            domains.push(name.to_owned());
        }
        domains.extend([format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")]);
    }
    let address = |text: &String| text.parse::<std::net::IpAddr>().ok();
    domains.extend(service.addresses.iter().filter_map(address).map(|ip| match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    domains
}

/// Where requests for hosts go that are not known.
fn unknown_hosts(mode: OutboundMode) -> pb::VirtualHost {
    let (name, action) = match mode {
        OutboundMode::AllowAny => {
            let action = pb::RouteAction {
                cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(names::PASSTHROUGH.to_owned())),
                timeout: duration(std::time::Duration::ZERO),
                ..Default::default()
            };
            ("allow_any", route::Action::Route(action))
        }
        OutboundMode::RegistryOnly => {
            let action = pb::DirectResponseAction { status: 502, ..Default::default() };
            ("block_all", route::Action::DirectResponse(action))
        }
    };
    let route = pb::Route { name: name.to_owned(), r#match: everything(), action: Some(action), ..Default::default() };
    pb::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        include_request_attempt_count: true,
        ..Default::default()
    }
}
