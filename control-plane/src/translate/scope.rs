//! Which proxies get the same.
//!
//! Owns what generation may look at of a proxy. What all of a namespace have in common (the way out) is told apart by what the
//! configuration tells apart; what a workload accepts is its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{telemetry, view};
use crate::model::World;
use crate::model::distinctions::Told;
use crate::model::kinds::ObjectKey;
use crate::model::kinds::meta::Labels;
use crate::model::service::ServiceKey;
use crate::node::{Locality, Proxy, ProxyKind};

/// What proxies have in common that see the same, and reach it in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    kind: ProxyKind,
    namespace: String,
    captured: bool,
    locality: Locality,
    sidecar: Option<ObjectKey>,
    told: Told,
    /// It has a certificate of the mesh.
    identity: bool,
    /// It has Istio's filters.
    counting: bool,
    /// What says how.
    telemetry: Vec<ObjectKey>,
    /// Of a gateway: its Gateways select it by any of them.
    labels: Labels,
}

impl Scope {
    pub(super) fn of(world: &World, proxy: &Proxy) -> Self {
        let labels = view::labels(world, proxy);
        Self {
            kind: proxy.kind,
            namespace: proxy.namespace.clone(),
            captured: is_captured(proxy),
            locality: proxy.locality.clone(),
            sidecar: view::sidecar(world, proxy, labels).map(|sidecar| sidecar.key.clone()),
            told: world.told_of(labels),
            identity: view::has_identity(world, proxy, labels),
            counting: telemetry::is_counting(proxy),
            telemetry: telemetry_of(world, proxy, labels),
            labels: if proxy.kind == ProxyKind::Gateway { labels.clone() } else { Labels::new() },
        }
    }
}

/// What generation looks at of a workload for what it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Those that the world knows, if the proxy does not say.
    labels: Labels,
    /// What it asks of those that connect may be a namespace's.
    namespace: String,
    /// It has Istio's filters.
    counting: bool,
    /// The services of its workload, and their ports there.
    services: Vec<(ServiceKey, BTreeMap<u16, u16>)>,
    /// Its addresses, where listeners are bound to them.
    ips: Vec<IpAddr>,
}

impl Key {
    pub(super) fn of(world: &World, proxy: &Proxy) -> Self {
        if proxy.kind != ProxyKind::Sidecar {
            // It has nothing of its own.
            let (labels, namespace) = Default::default();
            return Self { labels, namespace, counting: false, services: Vec::new(), ips: Vec::new() };
        }
        let labels = view::labels(world, proxy);
        let ports = |key: &ServiceKey| {
            let own = world.endpoints(key).iter().find(|of| of.ip().is_some_and(|ip| proxy.ips.contains(&ip)));
            own.map(|own| own.ports.clone()).unwrap_or_default()
        };
        let services =
            view::own_services(world, proxy, labels).into_iter().map(|key| (key.clone(), ports(&key))).collect();
        // A Sidecar may name the proxy's own address, and without redirection listeners are bound to it.
        let by_address = !is_captured(proxy) || !world.config().sidecars.is_empty();
        let ips = if by_address { proxy.ips.clone() } else { Vec::new() };
        Self {
            labels: labels.clone(),
            namespace: proxy.namespace.clone(),
            counting: telemetry::is_counting(proxy),
            services,
            ips,
        }
    }

    /// The services of the workload.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.iter().map(|(key, _)| key)
    }
}

fn telemetry_of(world: &World, proxy: &Proxy, labels: &Labels) -> Vec<ObjectKey> {
    telemetry::objects(world, proxy, labels).into_iter().map(|(object, _)| object.key.clone()).collect()
}

/// Whether the proxy's connections are redirected to it. Istio's agents say so in the metadata; it is the default.
pub(super) fn is_captured(proxy: &Proxy) -> bool {
    proxy.metadata_text("INTERCEPTION_MODE") != "NONE"
}
