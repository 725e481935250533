//! The Gateway API and Ingresses in the form of Istio's Gateways and VirtualServices.
//!
//! There is one way from routes to xDS; what differs between the APIs is settled here: which routes attach to which listener,
//! in which order rules of several routes are tried, who may refer to whom.

mod backend_tls;
mod gateways;
mod ingress;
mod order;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::{Config, Gateway, GatewayRef, Problems, VirtualService};
use super::host;
use super::kinds::gateway_api::ParentRef;
use super::kinds::gateway_routes::{ApiHttpRoute, ApiTcpRoute, ApiTlsRoute, GrpcRoute};
use super::kinds::virtual_service::{HttpRoute, TcpRoute, TlsMatch, TlsRoute};
use super::kinds::{Kind, Object};
use super::objects::Objects;
use super::visibility::Visibility;
use gateways::Listeners;
pub(crate) use rules::{FULL_MARK, PREFIX_MARK};

/// What a route attaches to, and for which hosts.
type Place = (GatewayRef, Arc<str>);

/// A rule that stands for one match, with what orders it.
struct Ordered {
    rank: order::Rank,
    rule: HttpRoute,
    object: Arc<Object>,
    /// A route to the mesh of somebody else's Service counts in its own namespace only.
    visibility: Visibility,
}

/// Adds what the Gateway API and Ingresses say.
pub(super) fn convert(objects: &Objects, config: &mut Config, problems: &mut Problems) {
    let listeners = Listeners::new(objects, problems);
    let mut http: BTreeMap<Place, Vec<Ordered>> = BTreeMap::new();
    for (object, route) in objects.by_age::<ApiHttpRoute>(Kind::HttpRoute) {
        let rules = rules::of_http(object, route, objects, problems);
        let (parents, hosts) = (&route.spec.parent_refs, &route.spec.hostnames);
        attach(object, parents, hosts, &rules, &listeners, objects, problems, &mut http);
    }
    for (object, route) in objects.by_age::<GrpcRoute>(Kind::GrpcRoute) {
        let rules = rules::of_grpc(object, route, objects, problems);
        let (parents, hosts) = (&route.spec.parent_refs, &route.spec.hostnames);
        attach(object, parents, hosts, &rules, &listeners, objects, problems, &mut http);
    }
    let mut made: Vec<VirtualService> = http.into_iter().flat_map(|(place, rules)| of_place(place, rules)).collect();
    // A consumer's own routes win over the producer's.
    made.sort_by_key(|routes| routes.visibility == Visibility::Everywhere);
    made.extend(of_connections(objects, &listeners, problems));
    config.gateways.extend(listeners.into_gateways().into_iter().map(Arc::new));
    config.virtual_services.extend(made.into_iter().map(Arc::new));
    ingress::convert(objects, config, problems);
    backend_tls::convert(objects, config, problems);
}

#[expect(clippy::too_many_arguments, reason = "both kinds of routes hand over what they have in common")]
fn attach(
    object: &Arc<Object>,
    parents: &[ParentRef],
    hostnames: &[String],
    rules: &[HttpRoute],
    listeners: &Listeners,
    objects: &Objects,
    problems: &mut Problems,
    places: &mut BTreeMap<Place, Vec<Ordered>>,
) {
    for parent in parents {
        for (place, port) in placed(object, parent, hostnames, listeners, objects, problems) {
            let visibility = visibility(object, parent);
            for (index, rule) in rules.iter().enumerate() {
                places.entry(place.clone()).or_default().extend(split(object, rule, index, port, &visibility));
            }
        }
    }
}

/// Where a parent puts a route, and on which port of it.
fn placed(
    object: &Object,
    parent: &ParentRef,
    hostnames: &[String],
    listeners: &Listeners,
    objects: &Objects,
    problems: &mut Problems,
) -> Vec<(Place, Option<u32>)> {
    let namespace = parent.namespace.as_deref().unwrap_or(&object.key.namespace);
    if parent.is_service() {
        let exists = objects.get(Kind::Service, namespace, &parent.name).is_some();
        if !exists {
            let reason = format!("Service {namespace}/{} does not exist: the route has no effect there", parent.name);
            rules::told(object, parent.at.0, "spec.parentRefs", reason, problems);
        }
        let host: Arc<str> = host::service_host(&parent.name, namespace).into();
        return vec![((GatewayRef::Mesh, host), parent.port)];
    }
    if !parent.is_gateway() {
        rules::told(object, parent.at.0, "spec.parentRefs", "is neither a Gateway nor a Service".to_owned(), problems);
        return Vec::new();
    }
    listeners.attach(object, parent, hostnames, objects, problems).into_iter().map(|place| (place, None)).collect()
}

fn visibility(object: &Object, parent: &ParentRef) -> Visibility {
    let foreign = parent.namespace.as_deref().is_some_and(|namespace| *namespace != *object.key.namespace);
    if parent.is_service() && foreign {
        Visibility::Namespaces([object.key.namespace.clone()].into())
    } else {
        Visibility::Everywhere
    }
}

/// A rule for each of its matches, as they are ordered one by one.
fn split(
    object: &Arc<Object>,
    rule: &HttpRoute,
    index: usize,
    port: Option<u32>,
    visibility: &Visibility,
) -> Vec<Ordered> {
    let single = |(at, of)| {
        let mut of: super::kinds::virtual_service::HttpMatch = of;
        of.port = port;
        let rank = order::rank(&of, object, (index, at));
        let rule = HttpRoute { r#match: vec![of], ..rule.clone() };
        Ordered { rank, rule, object: object.clone(), visibility: visibility.clone() }
    };
    rule.r#match.iter().cloned().enumerate().map(single).collect()
}

/// The VirtualServices of one place: one, but for routes that only one namespace sees.
fn of_place((gateway, host): Place, mut rules: Vec<Ordered>) -> Vec<VirtualService> {
    rules.sort_by(|a, b| a.rank.cmp(&b.rank));
    let mut made: Vec<VirtualService> = Vec::new();
    for rule in rules {
        match made.iter_mut().find(|routes| routes.visibility == rule.visibility) {
            Some(routes) => routes.http.push(rule.rule),
            None => made.push(VirtualService {
                key: rule.object.key.clone(),
                hosts: vec![host.clone()],
                gateways: vec![gateway.clone()],
                visibility: rule.visibility,
                http: vec![rule.rule],
                tls: Vec::new(),
                tcp: Vec::new(),
            }),
        }
    }
    made
}

fn of_connections(objects: &Objects, listeners: &Listeners, problems: &mut Problems) -> Vec<VirtualService> {
    let mut made = Vec::new();
    let tls = objects.by_age::<ApiTlsRoute>(Kind::TlsRoute).into_iter().map(|(object, route)| (object, &route.spec));
    let tcp = objects.by_age::<ApiTcpRoute>(Kind::TcpRoute).into_iter().map(|(object, route)| (object, &route.spec));
    for (object, spec) in tls.chain(tcp) {
        let Some(rule) = spec.rules.first() else { continue };
        let to = rules::connections(object, &rule.backend_refs, objects, problems);
        for parent in &spec.parent_refs {
            for ((gateway, host), _) in placed(object, parent, &spec.hostnames, listeners, objects, problems) {
                let of = TlsMatch { sni_hosts: vec![host.to_string()], ..TlsMatch::default() };
                let tls = TlsRoute { r#match: vec![of], route: to.clone(), ..TlsRoute::default() };
                let tcp = TcpRoute { route: to.clone(), ..TcpRoute::default() };
                made.push(VirtualService {
                    key: object.key.clone(),
                    hosts: vec![host],
                    gateways: vec![gateway],
                    visibility: Visibility::Everywhere,
                    http: Vec::new(),
                    tls: if object.key.kind == Kind::TlsRoute { vec![tls] } else { Vec::new() },
                    tcp: vec![tcp],
                });
            }
        }
    }
    made
}

/// A Gateway that only proxies with these labels serve.
fn gateway(
    object: &Object,
    name: &str,
    selector: super::kinds::meta::Labels,
    server: super::kinds::gateway::Server,
) -> Gateway {
    Gateway {
        key: object.key.clone(),
        reference: GatewayRef::Named { namespace: object.key.namespace.clone(), name: name.into() },
        // Its proxies are beside it; those of Ingresses are wherever they are.
        own_namespace_only: object.key.kind == Kind::Gateway,
        spec: super::kinds::gateway::GatewaySpec { selector, servers: vec![server], ..Default::default() },
    }
}
