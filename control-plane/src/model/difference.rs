//! What differs between two states of what does not depend on endpoints.
//!
//! Owns which parts of what proxies get a difference can reach. Whatever is not told apart here touches everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;

use super::config::{Config, DestinationRule};
use super::host;
use super::kinds::envoy_filter::{ApplyTo, Operation};
use super::patches::Patch;
use super::service::{Service, ServiceKey};
use crate::generate::Changes;

type Services = BTreeMap<ServiceKey, Arc<Service>>;

/// What is touched when one configuration and its services become the other.
pub(super) fn changes(before: (&Config, &Services), after: (&Config, &Services)) -> Changes {
    let ((old, _), (new, _)) = (before, after);
    let of_routes = old.virtual_services != new.virtual_services;
    let hosts = changed_hosts(before, after);
    let whole = old.mesh != new.mesh
        || old.sidecars != new.sidecars
        || old.gateways != new.gateways
        || old.envoy_filters != new.envoy_filters
        || old.peer_authentications != new.peer_authentications
        // A Sidecar may name what it lets through by the routes to it.
        || (of_routes && !new.sidecars.is_empty())
        // Whether somebody can be asked is in what workloads accept.
        || new.mesh.extension_providers.iter().any(|of| of.service().is_some_and(|name| hosts.contains(asked_host(name))))
        || (!hosts.is_empty() && patches_together(new));
    if whole {
        return Changes::everything();
    }
    Changes { routes: of_routes || !hosts.is_empty(), hosts, ..Changes::default() }
}

/// The host of `host` or `namespace/host`.
fn asked_host(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, host)| host)
}

/// Whether clusters have to be patched all together: one may be added because another one is there, or get another's name. What is
/// merged, removed, or added whatever else there is, comes out the same for some of them alone.
fn patches_together(config: &Config) -> bool {
    let of_clusters = |patch: &&Patch| patch.apply_to == ApplyTo::Cluster;
    config.envoy_filters.iter().flat_map(|filter| &filter.patches).filter(of_clusters).any(|patch| {
        match patch.operation {
            Operation::Remove | Operation::Add | Operation::InsertFirst | Operation::Invalid => false,
            Operation::Merge => Cluster::decode(patch.value.as_slice()).is_ok_and(|cluster| !cluster.name.is_empty()),
            Operation::Replace | Operation::InsertBefore | Operation::InsertAfter => true,
        }
    })
}

/// The hosts of services that differ, or by whose rules something differs.
fn changed_hosts(before: (&Config, &Services), after: (&Config, &Services)) -> BTreeSet<Arc<str>> {
    let both = || before.1.iter().chain(after.1);
    let other = |key: &ServiceKey| before.1.get(key) != after.1.get(key);
    let rules = changed_rules(&before.0.destination_rules, &after.0.destination_rules);
    let ruled = |key: &ServiceKey| rules.iter().any(|pattern| host::covers(pattern, &key.host));
    both().filter(|(key, _)| ruled(key) || other(key)).map(|(key, _)| key.host.clone()).collect()
}

/// The hosts of rules that differ, or stand in another order.
fn changed_rules<'c>(before: &'c [Arc<DestinationRule>], after: &'c [Arc<DestinationRule>]) -> BTreeSet<&'c Arc<str>> {
    let first = before.iter().zip(after).take_while(|(old, new)| old == new).count();
    let (before, after) = (&before[first..], &after[first..]);
    let last = before.iter().rev().zip(after.iter().rev()).take_while(|(old, new)| old == new).count();
    let (before, after) = (&before[..before.len() - last], &after[..after.len() - last]);
    before.iter().chain(after).map(|rule| &rule.host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::World;
    use crate::model::kinds::{Object, Outcome};
    use crate::source::Change;

    fn object(text: &str) -> Change {
        let document = weft_proto::document::Document::parse("test", text, weft_proto::document::Format::Yaml).unwrap();
        let Outcome::Object(object) = Object::read(&document.root, &"test".into()) else { panic!("{text}") };
        Change::Applied(Arc::new(*object))
    }

    fn service(name: &str, port: u16) -> Change {
        object(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}\n"
        ))
    }

    fn istio(kind: &str, name: &str, spec: &str) -> Change {
        object(&format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"))
    }

    fn world() -> World {
        let route = istio("VirtualService", "a", "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}");
        World::default().apply([service("a", 80), service("b", 80), service("c", 80), route]).0
    }

    fn hosts(changes: &Changes) -> Vec<&str> {
        changes.hosts.iter().map(|host| host.split('.').next().unwrap_or_default()).collect()
    }

    #[test]
    fn a_service_touches_itself_and_the_routes() {
        let changes = world().apply([service("b", 81)]).1;
        assert_eq!((hosts(&changes), changes.routes, changes.everything), (vec!["b"], true, false));
        let changes = world().apply([service("d", 80)]).1;
        assert_eq!((hosts(&changes), changes.routes, changes.everything), (vec!["d"], true, false));
    }

    #[test]
    fn a_service_that_is_asked_touches_everything() {
        let mesh = "extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: default/b.default.svc.cluster.local, port: 80}}]";
        let config = object(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{mesh}'}}\n"
        ));
        let world = world().apply([config]).0;
        assert!(world.apply([service("b", 81)]).1.everything);
        assert!(!world.apply([service("c", 81)]).1.everything);
    }

    #[test]
    fn a_route_touches_no_cluster() {
        let other = istio("VirtualService", "a", "{hosts: [a], http: [{route: [{destination: {host: b}}]}]}");
        let changes = world().apply([other]).1;
        assert_eq!(changes, Changes { routes: true, ..Changes::default() });
    }

    #[test]
    fn a_rule_touches_the_hosts_it_covers() {
        let changes = world().apply([istio("DestinationRule", "c", "{host: c, subsets: [{name: v1}]}")]).1;
        assert_eq!((hosts(&changes), changes.routes), (vec!["c"], true));
        let wildcard = istio("DestinationRule", "all", "{host: \"*.default.svc.cluster.local\"}");
        assert_eq!(hosts(&world().apply([wildcard]).1), ["a", "b", "c"]);
    }

    #[test]
    fn a_service_touches_itself_where_clusters_are_patched_one_by_one() {
        let patched = |operation: &str, value: &str| {
            let patch = format!(
                "{{configPatches: [{{applyTo: CLUSTER, match: {{cluster: {{service: a}}}}, patch: {{operation: {operation}, value: {value}}}}}]}}"
            );
            world().apply([istio("EnvoyFilter", "f", &patch)]).0.apply([service("b", 81)]).1
        };
        for (operation, value) in [("MERGE", "{connect_timeout: 9s}"), ("ADD", "{name: x}"), ("REMOVE", "{}")] {
            let changes = patched(operation, value);
            assert_eq!((hosts(&changes), changes.everything), (vec!["b"], false), "{operation}");
        }
        for (operation, value) in [("MERGE", "{name: x}"), ("INSERT_AFTER", "{name: x}"), ("REPLACE", "{name: x}")] {
            assert!(patched(operation, value).everything, "{operation}");
        }
    }

    #[test]
    fn what_tells_workloads_apart_touches_everything() {
        let by_label = "{hosts: [a], http: [{match: [{sourceLabels: {app: b}}], route: [{destination: {host: a}}]}]}";
        for change in [
            istio("Sidecar", "s", "{egress: [{hosts: [./a]}]}"),
            istio("VirtualService", "a", by_label),
            istio("EnvoyFilter", "f", "{workloadSelector: {labels: {app: a}}}"),
        ] {
            assert!(world().apply([change]).1.everything);
        }
    }
}
