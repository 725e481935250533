//! From the world to xDS: what each proxy gets.
//!
//! Pure functions. Must not know: files, streams, versions.
//!
//! | | |
//! |---|---|
//! | `scope` | which proxies get the same |
//! | `view` | what a proxy sees: `exportTo`, Sidecars, which rule counts |
//! | `cluster`, `policy`, `balancing`, `upstream_tls` | clusters |
//! | `mutual_tls` | mutual TLS between workloads |
//! | `secrets` | certificates and keys |
//! | `endpoints`, `locality` | their endpoints |
//! | `routes` | route configurations |
//! | `telemetry` | what counts who calls whom |
//! | `authorization`, `request_authentication`, `attachment` | who may reach a workload, whose tokens are taken |
//! | `patch` | EnvoyFilters, over all of it |
//! | `origins` | of which objects something is made |
//! | `gateway`, `downstream_tls` | listeners of gateways |
//! | `grpc` | all of it for proxyless gRPC clients |
//! | `egress` | where a Sidecar puts listeners |
//! | `outbound`, `inbound`, `tcp_routes`, `chains`, `http` | listeners |

mod attachment;
mod authorization;
mod balancing;
mod chains;
mod cluster;
mod downstream_tls;
mod egress;
mod endpoints;
mod gateway;
mod grpc;
mod http;
mod inbound;
mod locality;
mod mutual_tls;
mod names;
mod origins;
mod outbound;
mod patch;
mod policy;
mod request_authentication;
mod routes;
mod scope;
mod secrets;
mod tcp_routes;
mod telemetry;
mod upstream_tls;
mod view;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Name;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

pub use self::scope::{Key, Scope};
pub use self::secrets::TRUST_BUNDLE;

use self::cluster::{Discovery, Target};
use self::origins::{Objects, OfListeners};
use self::patch::Generated;
use self::scope::is_captured;
use self::view::View;
use crate::generate::{Changes, Generator, Origin, Part, Update};
use crate::model::World;
use crate::node::{Proxy, ProxyKind};
use crate::resource::{Resource, ResourceSet, ResourceType, Resources};

impl Generator for World {
    type Scope = Scope;
    type Key = Key;

    fn scope(&self, proxy: &Proxy) -> Scope {
        Scope::of(self, proxy)
    }

    fn key(&self, proxy: &Proxy) -> Key {
        Key::of(self, proxy)
    }

    fn generate(&self, part: Part, proxy: &Proxy, update: Option<Update<'_>>) -> Resources {
        match (part, update) {
            (Part::Own, _) => own(self, proxy),
            (Part::Shared, Some(Update { changes, previous })) if !changes.everything => {
                updated(self, proxy, changes, previous)
            }
            (Part::Shared, _) => shared(self, proxy),
        }
    }

    fn origins(&self, ty: ResourceType, refused: &Resource, before: Option<&Resource>) -> Vec<Origin> {
        origins::of_refused(self, ty == ResourceType::Route, refused, before)
    }

    fn written_at(&self, called: &str) -> Option<String> {
        self.called(called).map(|object| format!("{}:{}", object.source, object.at.line))
    }

    fn touches_own(&self, key: &Key, changes: &Changes) -> bool {
        changes.everything || key.services().any(|service| changes.hosts.contains(&service.host))
    }
}

/// The resource that tells proxies to trust these roots, given as PEM.
#[must_use]
pub fn trust_bundle(roots: &str) -> Resource {
    encoded(&secrets::trust_bundle(roots))
}

/// Everything a proxy gets.
#[must_use]
pub fn generate(world: &World, proxy: &Proxy) -> Resources {
    shared(world, proxy).with(&own(world, proxy))
}

/// What a proxy has in common with all of its scope.
fn shared(world: &World, proxy: &Proxy) -> Resources {
    let view = View::new(world, proxy);
    let mut resources = Resources::default();
    let targets = cluster::targets(&view);
    resources.set(ResourceType::Secret, all_secrets(&view, &targets));
    resources.set(ResourceType::Endpoints, all_endpoints(&view, &targets));
    let mut generated = listeners_and_tables(&view);
    generated.clusters = targets.iter().map(|target| cluster::cluster(&view, target)).collect();
    match proxy.kind {
        ProxyKind::Sidecar => {
            generated.clusters.extend([cluster::black_hole(), cluster::original_dst(names::PASSTHROUGH)]);
        }
        ProxyKind::Gateway => generated.clusters.push(cluster::black_hole()),
        ProxyKind::Grpc => {
            let (nowhere, nobody) = grpc::black_hole();
            resources.set_mut(ResourceType::Endpoints).insert(encoded(&nobody));
            generated.clusters.push(nowhere);
        }
    }
    patch::apply(&view, &mut generated);
    set_generated(&view, &mut resources, &generated);
    resources
}

/// What a proxy has of its own: what its workload accepts.
fn own(world: &World, proxy: &Proxy) -> Resources {
    let mut resources = Resources::default();
    if proxy.kind == ProxyKind::Sidecar {
        let view = View::of_hosts(world, proxy, &BTreeSet::new());
        let captured = is_captured(proxy);
        let ports = inbound::ports(&view, captured);
        let mut generated = Generated {
            clusters: inbound::clusters(&view, &ports),
            listeners: inbound::listeners(&view, &ports, captured),
            ..Generated::default()
        };
        patch::apply_to_own(&view, &mut generated);
        set_generated(&view, &mut resources, &generated);
    }
    resources
}

/// What leads to clusters, but for what the workload accepts.
fn listeners_and_tables(view: &View<'_>) -> Generated {
    let (listeners, tables) = match view.proxy.kind {
        ProxyKind::Sidecar => {
            let captured = is_captured(view.proxy);
            (outbound::listeners(view, captured), outbound::tables(view, captured))
        }
        ProxyKind::Grpc => grpc::listeners_and_tables(view),
        ProxyKind::Gateway => gateway::listeners_and_tables(view),
    };
    Generated { listeners, tables, ..Generated::default() }
}

fn set_generated(view: &View<'_>, resources: &mut Resources, generated: &Generated) {
    let clusters = generated.encoded(ResourceType::Cluster, &generated.clusters, |of| origins::of_cluster(view, of));
    resources.set(ResourceType::Cluster, clusters);
    set_routes(view, resources, generated);
    let extensions = generated.encoded(ResourceType::Extension, &generated.extensions, |_| Objects::new());
    resources.set(ResourceType::Extension, extensions);
}

fn set_routes(view: &View<'_>, resources: &mut Resources, generated: &Generated) {
    let of_listeners = OfListeners::new(view);
    let listeners = generated.encoded(ResourceType::Listener, &generated.listeners, |of| of_listeners.of(of));
    resources.set(ResourceType::Listener, listeners);
    resources.set(ResourceType::Route, generated.encoded(ResourceType::Route, &generated.tables, origins::of_table));
}

impl Generated {
    /// Messages as resources, each made of what `origins` says and what has patched it.
    fn encoded<M: Named>(&self, ty: ResourceType, messages: &[M], origins: impl Fn(&M) -> Objects) -> ResourceSet {
        let one = |message: &M| {
            let mut objects = origins(message);
            if !self.patched.is_empty() {
                let patched = self.patched.get(&(ty, message.name().to_owned()));
                objects.extend(patched.into_iter().flatten().map(|key| Arc::from(key.to_string())));
            }
            encoded(message).made_of(objects)
        };
        messages.iter().map(one).collect()
    }
}

fn encoded<M: Named>(message: &M) -> Resource {
    Resource::new(message.name(), message)
}

/// A message that is a resource.
trait Named: prost::Message + Name {
    /// What proxies subscribe to.
    fn name(&self) -> &str;
}

macro_rules! named {
    ($($ty:ty: $field:ident),* $(,)?) => {$(
        impl Named for $ty {
            fn name(&self) -> &str {
                &self.$field
            }
        }
    )*};
}

named! {
    Cluster: name,
    Listener: name,
    RouteConfiguration: name,
    TypedExtensionConfig: name,
    weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment: cluster_name,
    weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret: name,
}

/// The endpoints of targets.
fn all_endpoints(view: &View<'_>, targets: &[Target<'_>]) -> ResourceSet {
    let wanted = targets.iter().filter(|target| target.discovery(view.proxy.kind) == Discovery::Endpoints);
    let of_target = |target| encoded(&endpoints::assignment(view, target)).made_of(origins::of_target(target));
    wanted.map(of_target).collect()
}

fn all_secrets(view: &View<'_>, targets: &[Target<'_>]) -> ResourceSet {
    let all = secrets::all(view, targets);
    all.iter().map(|secret| encoded(secret).made_of(origins::of_secret(view, &secret.name))).collect()
}

/// What was in common before, with what the changes touch.
fn updated(world: &World, proxy: &Proxy, changes: &Changes, previous: &Resources) -> Resources {
    let mut resources = previous.clone();
    if !changes.endpoints.is_empty() {
        let view = View::of_hosts(world, proxy, &changes.endpoints);
        let made = all_endpoints(&view, &cluster::targets(&view));
        replace(&mut resources, ResourceType::Endpoints, &BTreeSet::new(), made);
    }
    if !changes.hosts.is_empty() {
        let view = View::of_hosts(world, proxy, &changes.hosts);
        let targets = cluster::targets(&view);
        replace(&mut resources, ResourceType::Endpoints, &changes.hosts, all_endpoints(&view, &targets));
        let clusters = targets.iter().map(|target| cluster::cluster(&view, target)).collect();
        let mut generated = Generated { clusters, ..Generated::default() };
        patch::apply_to_clusters(&view, &mut generated);
        let clusters =
            generated.encoded(ResourceType::Cluster, &generated.clusters, |of| origins::of_cluster(&view, of));
        replace(&mut resources, ResourceType::Cluster, &changes.hosts, clusters);
    }
    if changes.routes || !changes.hosts.is_empty() || !changes.secrets.is_empty() {
        let view = View::new(world, proxy);
        resources.set(ResourceType::Secret, all_secrets(&view, &cluster::targets(&view)));
        if changes.routes {
            let mut generated = listeners_and_tables(&view);
            patch::apply(&view, &mut generated);
            set_routes(&view, &mut resources, &generated);
        }
    }
    resources
}

/// Takes out what was made for services of `hosts`, and adds what is `made` now.
fn replace(resources: &mut Resources, ty: ResourceType, hosts: &BTreeSet<Arc<str>>, made: ResourceSet) {
    let of_host = |resource: &&Arc<Resource>| names::host(resource.name()).is_some_and(|host| hosts.contains(host));
    let old = if hosts.is_empty() { Vec::new() } else { resources.get(ty).iter().filter(of_host).cloned().collect() };
    let gone =
        old.iter().filter(|resource| made.get(resource.name()).is_none()).map(|resource| resource.name().clone());
    let gone: Vec<Arc<str>> = gone.collect();
    if made.is_empty() && gone.is_empty() {
        return;
    }
    let set = resources.set_mut(ty);
    gone.iter().for_each(|name| drop(set.remove(name)));
    made.iter().for_each(|resource| set.insert(resource.clone()));
}
