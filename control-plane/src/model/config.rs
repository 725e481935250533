//! What steers traffic: routes, rules, gateways, scopes and patches, with their names resolved.
//!
//! Owns the order of objects of a kind (the oldest first) and which of two that conflict counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_proto::document::{Document, Format};
use weft_proto::problem::{Problem, Severity};

use super::host;
use super::kinds::destination_rule::{DestinationRule as RuleObject, DestinationRuleSpec};
use super::kinds::gateway::{GatewaySpec, IstioGateway};
use super::kinds::mesh_config::MeshConfig;
use super::kinds::service::ConfigMap;
use super::kinds::service_entry::{Sidecar as SidecarObject, SidecarSpec};
use super::kinds::virtual_service::{HttpRoute, TcpRoute, TlsRoute, VirtualService as RoutesObject};
use super::kinds::{Kind, Object, ObjectKey};
use super::objects::Objects;
use super::patches::{self, EnvoyFilter};
use super::peer_authentication::PeerAuthentications;
use super::read::{Read, Reader};
use super::visibility::Visibility;
use super::{check, convert, delegate};

/// What is wrong with objects beyond what reading them shows.
pub type Problems = BTreeMap<ObjectKey, Vec<Problem>>;

/// What steers traffic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Settings of the whole mesh.
    pub mesh: MeshConfig,
    /// Routes, the oldest first. Delegates are merged into those that refer to them.
    pub virtual_services: Vec<Arc<VirtualService>>,
    /// Rules by their namespace and host, the oldest first.
    pub destination_rules: Vec<Arc<DestinationRule>>,
    /// Gateways, the oldest first.
    pub gateways: Vec<Arc<Gateway>>,
    /// Scopes, the oldest first.
    pub sidecars: Vec<Arc<Sidecar>>,
    /// What workloads ask of those that connect to them.
    pub peer_authentications: PeerAuthentications,
    /// Patches, by priority, then the oldest first.
    pub envoy_filters: Vec<Arc<EnvoyFilter>>,
}

/// Routes for hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualService {
    /// The object.
    pub key: ObjectKey,
    /// Full names or wildcards.
    pub hosts: Vec<Arc<str>>,
    /// Where they count.
    pub gateways: Vec<GatewayRef>,
    /// Who sees them.
    pub visibility: Visibility,
    /// HTTP routes.
    pub http: Vec<HttpRoute>,
    /// TLS routes.
    pub tls: Vec<TlsRoute>,
    /// TCP routes.
    pub tcp: Vec<TcpRoute>,
}

/// Where routes count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRef {
    /// In every sidecar.
    Mesh,
    /// In this gateway.
    Named {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

impl GatewayRef {
    /// Reads `mesh`, `name` or `namespace/name`.
    #[must_use]
    pub fn parse(text: &str, own_namespace: &str) -> Self {
        match text.split_once('/') {
            None if text == "mesh" => Self::Mesh,
            None => Self::Named { namespace: own_namespace.into(), name: text.into() },
            Some((".", name)) => Self::Named { namespace: own_namespace.into(), name: name.into() },
            Some((namespace, name)) => Self::Named { namespace: namespace.into(), name: name.into() },
        }
    }
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRule {
    /// The object.
    pub key: ObjectKey,
    /// A full name or a wildcard.
    pub host: Arc<str>,
    /// Who sees it.
    pub visibility: Visibility,
    /// The rule.
    pub spec: DestinationRuleSpec,
}

/// What gateway proxies open.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// The object.
    pub key: ObjectKey,
    /// What routes call it.
    pub reference: GatewayRef,
    /// Only for proxies of its own namespace.
    pub own_namespace_only: bool,
    /// What it opens.
    pub spec: GatewaySpec,
}

/// What workloads see.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// The object.
    pub key: ObjectKey,
    /// What they see and accept.
    pub spec: SidecarSpec,
}

impl Config {
    /// Reads it from all objects.
    pub(super) fn new(objects: &Objects, problems: &mut Problems) -> Self {
        let mesh = mesh_config(objects, problems);
        let virtual_services = virtual_services(objects, &mesh, problems);
        let rules = objects.by_age::<RuleObject>(Kind::DestinationRule).into_iter();
        let destination_rules = rules.map(|(object, rule)| destination_rule(object, rule, &mesh)).collect();
        let gateways = objects.by_age::<IstioGateway>(Kind::IstioGateway).into_iter();
        let gateways = gateways.map(|(object, gateway)| istio_gateway(object, gateway)).collect();
        let sidecars = objects.by_age::<SidecarObject>(Kind::Sidecar).into_iter();
        let sidecars =
            sidecars.map(|(object, sidecar)| Sidecar { key: object.key.clone(), spec: sidecar.spec.clone() });
        let mut config = Self {
            virtual_services,
            destination_rules,
            gateways,
            sidecars: sidecars.map(Arc::new).collect(),
            peer_authentications: PeerAuthentications::of(objects, mesh.root_namespace()),
            envoy_filters: patches::all(objects, problems),
            mesh,
        };
        convert::convert(objects, &mut config, problems);
        check::all(objects, &config, problems);
        config
    }
}

fn virtual_services(objects: &Objects, mesh: &MeshConfig, problems: &mut Problems) -> Vec<Arc<VirtualService>> {
    let all = objects.by_age::<RoutesObject>(Kind::VirtualService);
    let mut made = Vec::new();
    for (object, routes) in all.iter().filter(|(_, routes)| !routes.spec.hosts.is_empty()) {
        let namespace = &object.key.namespace;
        let spec = &routes.spec;
        let mut gateways: Vec<GatewayRef> =
            spec.gateways.iter().map(|name| GatewayRef::parse(name, namespace)).collect();
        if gateways.is_empty() {
            gateways.push(GatewayRef::Mesh);
        }
        let export_to = spec.export_to.iter().map(String::as_str);
        made.push(Arc::new(VirtualService {
            key: object.key.clone(),
            hosts: spec.hosts.iter().map(|name| host::resolve(name, namespace)).collect(),
            gateways,
            visibility: Visibility::of(export_to, &mesh.default_virtual_service_export_to, namespace),
            http: delegate::expand(object, spec, objects, mesh, problems),
            tls: spec.tls.clone(),
            tcp: spec.tcp.clone(),
        }));
    }
    made
}

fn destination_rule(object: &Object, rule: &RuleObject, mesh: &MeshConfig) -> Arc<DestinationRule> {
    let export_to = rule.spec.export_to.iter().map(String::as_str);
    Arc::new(DestinationRule {
        key: object.key.clone(),
        host: host::resolve(&rule.spec.host, &object.key.namespace),
        visibility: Visibility::of(export_to, &mesh.default_destination_rule_export_to, &object.key.namespace),
        spec: rule.spec.clone(),
    })
}

fn istio_gateway(object: &Object, gateway: &IstioGateway) -> Arc<Gateway> {
    let ObjectKey { namespace, name, .. } = object.key.clone();
    Arc::new(Gateway {
        key: object.key.clone(),
        reference: GatewayRef::Named { namespace, name },
        own_namespace_only: false,
        spec: gateway.spec.clone(),
    })
}

/// The MeshConfig of ConfigMap `istio`: that of `istio-system`, else the oldest.
fn mesh_config(objects: &Objects, problems: &mut Problems) -> MeshConfig {
    let all = objects.by_age::<ConfigMap>(Kind::ConfigMap);
    let named = |(object, _): &&(&Arc<Object>, &ConfigMap)| &*object.key.name == "istio";
    let main = all.iter().filter(named).find(|(object, _)| &*object.key.namespace == "istio-system");
    let Some((object, map)) = main.or_else(|| all.iter().find(named)) else { return MeshConfig::default() };
    let Some(text) = map.data.get("mesh") else { return MeshConfig::default() };
    let mut found = Vec::new();
    let mut reader = Reader::default();
    let read = match Document::parse(&object.source, text, Format::Yaml) {
        Ok(document) => MeshConfig::read(&document.root, &mut reader),
        Err(problem) => {
            found.push(object.problem(Severity::Invalid, object.at, "data[\"mesh\"]", problem.reason));
            None
        }
    };
    found.extend(reader.into_problems().into_iter().map(|problem| {
        // Its lines are those of the text within the ConfigMap.
        let reason = format!("{} (line {} of the text)", problem.reason, problem.at.line);
        object.problem(problem.severity, object.at, format!("data[\"mesh\"].{}", problem.path), reason)
    }));
    if !found.is_empty() {
        problems.entry(object.key.clone()).or_default().extend(found);
    }
    read.unwrap_or_default()
}
