//! The route configuration of a gateway's port: the hosts of every VirtualService that is bound to it.

use std::collections::BTreeSet;

use weft_proto::pb::envoy::config::route::v3::{self as pb, virtual_host::TlsRequirementType};

use super::super::gateway::Opened;
use super::super::view::View;
use super::super::wire::{bool_value, u32_value};
use super::{Rules, matching};

/// The route configuration of these servers, which share a port.
pub(in crate::translate) fn gateway_table(
    view: &View<'_>,
    name: &str,
    port: u32,
    servers: &[Opened<'_>],
) -> pb::RouteConfiguration {
    let mut hosts: Vec<pb::VirtualHost> = Vec::new();
    // A VirtualService may be bound to several Gateways of one port; its routes are there once.
    let mut served = BTreeSet::new();
    for of in servers {
        let gateways = [of.reference()];
        let redirects = of.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if redirects {
            // Also for hosts without routes: nobody is to be served in plaintext.
            of.hosts().for_each(|(_, name)| require_tls(entry(&mut hosts, name, port)));
        }
        for routes in view.virtual_services(&gateways) {
            let made =
                Rules { view, routes, port: of.server.port.number, gateways: &gateways, is_grpc: false }.routes();
            if made.is_empty() {
                continue;
            }
            for name in of.common_hosts(routes) {
                let host = entry(&mut hosts, name, port);
                if served.insert((&routes.key, name)) {
                    host.routes.extend(made.clone());
                }
                if redirects {
                    require_tls(host);
                }
            }
        }
    }
    for host in &mut hosts {
        // Of several VirtualServices for a host, what takes everything goes behind what takes something.
        host.routes.sort_by_key(|route| route.r#match.as_ref().is_some_and(matching::is_catch_all));
    }
    if hosts.is_empty() {
        hosts.push(virtual_host(&format!("blackhole:{port}"), "*"));
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts,
        validate_clusters: bool_value(false),
        ignore_port_in_host_matching: true,
        max_direct_response_body_size_bytes: u32_value(1 << 20),
        ..Default::default()
    }
}

fn require_tls(host: &mut pb::VirtualHost) {
    host.require_tls = TlsRequirementType::All as i32;
}

fn entry<'h>(hosts: &'h mut Vec<pb::VirtualHost>, domain: &str, port: u32) -> &'h mut pb::VirtualHost {
    let name = format!("{domain}:{port}");
    let index = hosts.iter().position(|host| host.name == name).unwrap_or_else(|| {
        hosts.push(virtual_host(&name, domain));
        hosts.len() - 1
    });
    &mut hosts[index]
}

fn virtual_host(name: &str, domain: &str) -> pb::VirtualHost {
    pb::VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        include_request_attempt_count: true,
        ..Default::default()
    }
}
