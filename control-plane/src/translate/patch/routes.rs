//! Patches of route configurations.

use weft_proto::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost, route::Action};

use super::{in_list, merged};
use crate::model::kinds::envoy_filter::{ApplyTo, Operation, RouteActionMatch, RouteMatch, VirtualHostMatch};
use crate::model::patches::Patch;

/// Applies a patch of a route configuration or what is in it.
pub(super) fn apply(patch: &Patch, table: &mut RouteConfiguration) {
    let of = patch.of.route_configuration.as_ref();
    let named = of.is_none_or(|of| {
        of.name.as_deref().is_none_or(|name| name == table.name)
            && of.port_number.is_none_or(|port| port_of(&table.name) == Some(port))
    });
    if !named {
        return;
    }
    let of_host = of.and_then(|of| of.vhost.as_ref());
    match patch.apply_to {
        ApplyTo::RouteConfiguration => {
            if patch.operation == Operation::Merge
                && let Some(made) = merged(table, &patch.value)
            {
                *table = made;
            }
        }
        ApplyTo::VirtualHost => {
            in_list(&mut table.virtual_hosts, patch, |host| host_fits(of_host, host), merged);
        }
        _ => {
            let of_route = of_host.and_then(|of| of.route.as_ref());
            for host in table.virtual_hosts.iter_mut().filter(|host| host_fits(of_host, host)) {
                in_list(&mut host.routes, patch, |route| route_fits(of_route, route), merged);
            }
        }
    }
}

/// The port in `9080`, `127.0.0.9_9080`, `http.8080`, `https.443.…`, `inbound|9080||`.
fn port_of(name: &str) -> Option<u32> {
    if let Some(port) = name.rsplit_once('_').and_then(|(_, port)| port.parse().ok()) {
        return Some(port);
    }
    name.split(['.', '|']).find_map(|part| part.parse().ok())
}

fn host_fits(of: Option<&VirtualHostMatch>, host: &VirtualHost) -> bool {
    let Some(of) = of else { return true };
    // An empty name is every virtual host, as in Istio.
    of.name.as_deref().is_none_or(|name| name.is_empty() || name == host.name)
        && of.domain_name.as_ref().is_none_or(|domain| host.domains.contains(domain))
}

fn route_fits(of: Option<&RouteMatch>, route: &Route) -> bool {
    let Some(of) = of else { return true };
    let action = matches!(
        (of.action, &route.action),
        (RouteActionMatch::Any, _)
            | (RouteActionMatch::Route, Some(Action::Route(_)))
            | (RouteActionMatch::Redirect, Some(Action::Redirect(_)))
            | (RouteActionMatch::DirectResponse, Some(Action::DirectResponse(_)))
    );
    action && of.name.as_deref().is_none_or(|name| name == route.name)
}
