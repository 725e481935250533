//! The objects people write, as types: Kubernetes, the Gateway API, Istio.
//!
//! Owns which kinds and which of their fields are known. Must not know: what a field does, where a document came from.
//! A field that no type here lists is reported by its path, so the lists *are* what is honoured.

pub mod authorization;
pub mod destination_rule;
pub mod envoy_filter;
pub mod extension_provider;
pub mod gateway;
pub mod gateway_api;
pub mod gateway_routes;
pub mod ingress;
pub mod mesh_config;
pub mod meta;
pub mod peer_authentication;
pub mod policy_target;
pub mod request_authentication;
pub mod service;
pub mod service_entry;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod virtual_service;
pub mod workload;

use std::fmt;
use std::sync::Arc;

use weft_proto::document::{Data, Node};
use weft_proto::problem::{Position, Problem, Severity};

use self::meta::Meta;
use super::read::{Read, Reader};

macro_rules! kinds {
    ($( $(#[$meta:meta])* $kind:ident = $group:literal $name:literal $scope:ident $ty:ty ),* $(,)?) => {
        /// A kind of object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $( $(#[$meta])* $kind, )* }

        /// What an object holds besides its metadata.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Spec { $( $(#[$meta])* $kind(Box<$ty>), )* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its API group, empty for Kubernetes' core, and its name there.
            #[must_use]
            pub fn group_and_name(self) -> (&'static str, &'static str) {
                match self { $( Self::$kind => ($group, $name), )* }
            }

            /// Whether its objects are in namespaces.
            #[must_use]
            pub fn is_namespaced(self) -> bool {
                match self { $( Self::$kind => kinds!(@$scope), )* }
            }
        }

        impl Spec {
            /// Its kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $( Self::$kind(_) => Kind::$kind, )* }
            }

            fn read(kind: Kind, node: &Node, reader: &mut Reader) -> Option<Self> {
                match kind { $( Kind::$kind => <$ty>::read(node, reader).map(|spec| Self::$kind(Box::new(spec))), )* }
            }
        }

        $( impl AsSpec for $ty {
            fn of(spec: &Spec) -> Option<&Self> {
                match spec { Spec::$kind(spec) => Some(spec), _ => None }
            }
        } )*
    };
    (@namespaced) => { true };
    (@cluster) => { false };
}

/// A type that a [`Spec`] may hold.
pub trait AsSpec: Sized {
    /// The content, if it is of this type.
    fn of(spec: &Spec) -> Option<&Self>;
}

/// A StatefulSet, which has what counts of a Deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct StatefulSet(pub workload::Deployment);

impl Read for StatefulSet {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        workload::Deployment::read(node, reader).map(Self)
    }
}

kinds! {
    /// Kubernetes.
    Namespace = "" "Namespace" cluster workload::Namespace,
    /// Kubernetes.
    Node = "" "Node" cluster workload::Node,
    /// Kubernetes.
    Pod = "" "Pod" namespaced workload::Pod,
    /// Kubernetes.
    Service = "" "Service" namespaced service::Service,
    /// Kubernetes.
    Endpoints = "" "Endpoints" namespaced service::Endpoints,
    /// Kubernetes.
    Secret = "" "Secret" namespaced service::Secret,
    /// Kubernetes.
    ConfigMap = "" "ConfigMap" namespaced service::ConfigMap,
    /// Kubernetes.
    ServiceAccount = "" "ServiceAccount" namespaced workload::ServiceAccount,
    /// Kubernetes.
    Deployment = "apps" "Deployment" namespaced workload::Deployment,
    /// Kubernetes.
    StatefulSet = "apps" "StatefulSet" namespaced StatefulSet,
    /// Kubernetes.
    EndpointSlice = "discovery.k8s.io" "EndpointSlice" namespaced service::EndpointSlice,
    /// Kubernetes.
    Ingress = "networking.k8s.io" "Ingress" namespaced ingress::Ingress,
    /// The Gateway API.
    GatewayClass = "gateway.networking.k8s.io" "GatewayClass" cluster gateway_api::GatewayClass,
    /// The Gateway API.
    Gateway = "gateway.networking.k8s.io" "Gateway" namespaced gateway_api::Gateway,
    /// The Gateway API.
    HttpRoute = "gateway.networking.k8s.io" "HTTPRoute" namespaced gateway_routes::ApiHttpRoute,
    /// The Gateway API.
    GrpcRoute = "gateway.networking.k8s.io" "GRPCRoute" namespaced gateway_routes::GrpcRoute,
    /// The Gateway API.
    TlsRoute = "gateway.networking.k8s.io" "TLSRoute" namespaced gateway_routes::ApiTlsRoute,
    /// The Gateway API.
    TcpRoute = "gateway.networking.k8s.io" "TCPRoute" namespaced gateway_routes::ApiTcpRoute,
    /// The Gateway API.
    ReferenceGrant = "gateway.networking.k8s.io" "ReferenceGrant" namespaced gateway_api::ReferenceGrant,
    /// The Gateway API.
    BackendTlsPolicy = "gateway.networking.k8s.io" "BackendTLSPolicy" namespaced gateway_api::BackendTlsPolicy,
    /// Istio.
    VirtualService = "networking.istio.io" "VirtualService" namespaced virtual_service::VirtualService,
    /// Istio.
    DestinationRule = "networking.istio.io" "DestinationRule" namespaced destination_rule::DestinationRule,
    /// Istio.
    IstioGateway = "networking.istio.io" "Gateway" namespaced gateway::IstioGateway,
    /// Istio.
    ServiceEntry = "networking.istio.io" "ServiceEntry" namespaced service_entry::ServiceEntry,
    /// Istio.
    WorkloadEntry = "networking.istio.io" "WorkloadEntry" namespaced service_entry::WorkloadEntry,
    /// Istio.
    Sidecar = "networking.istio.io" "Sidecar" namespaced service_entry::Sidecar,
    /// Istio.
    EnvoyFilter = "networking.istio.io" "EnvoyFilter" namespaced envoy_filter::EnvoyFilter,
    /// Istio.
    PeerAuthentication = "security.istio.io" "PeerAuthentication" namespaced peer_authentication::PeerAuthentication,
    /// Istio.
    RequestAuthentication = "security.istio.io" "RequestAuthentication" namespaced request_authentication::RequestAuthentication,
    /// Istio.
    AuthorizationPolicy = "security.istio.io" "AuthorizationPolicy" namespaced authorization::AuthorizationPolicy,
    /// Istio.
    Telemetry = "telemetry.istio.io" "Telemetry" namespaced telemetry::Telemetry,
}

impl Kind {
    /// The kind of this `apiVersion` (of any version) and `kind`.
    #[must_use]
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Self::ALL.iter().copied().find(|known| known.group_and_name() == (group, kind))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.group_and_name().1)
    }
}

/// What tells objects apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// An object.
#[derive(Debug, Clone)]
pub struct Object {
    /// What tells it apart.
    pub key: ObjectKey,
    /// Its metadata.
    pub meta: Meta,
    /// What it holds.
    pub spec: Spec,
    /// What to call where it came from: a file's name.
    pub source: Arc<str>,
    /// Where in that it begins.
    pub at: Position,
    /// What of it has no effect, or is likely a mistake.
    pub problems: Vec<Problem>,
}

/// Two objects are equal if they say the same, wherever they were written.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.meta == other.meta && self.spec == other.spec
    }
}

/// What became of a document.
#[derive(Debug)]
pub enum Outcome {
    /// An object.
    Object(Box<Object>),
    /// An object of a kind that does not concern the mesh.
    Foreign(Problem),
    /// An object that cannot be accepted; `key` is known if it could be read.
    Rejected {
        /// What it would have been.
        key: Option<ObjectKey>,
        /// Why not.
        problems: Vec<Problem>,
    },
}

impl Object {
    /// Reads an object. `source` is what to call the document in messages.
    pub fn read(node: &Node, source: &Arc<str>) -> Outcome {
        let invalid = |at, path: &str, reason: String| Outcome::Rejected {
            key: None,
            problems: vec![Problem {
                source: Some(source.clone()),
                at,
                ..Problem::new(Severity::Invalid, path, reason)
            }],
        };
        let Some(kind) = text_of(node, "kind") else {
            return invalid(
                node.at,
                "kind",
                "missing: an object says what it is, for example kind: Service".to_owned(),
            );
        };
        let Some(api_version) = text_of(node, "apiVersion") else {
            let reason = "missing: an object says its API, for example apiVersion: networking.istio.io/v1";
            return invalid(node.at, "apiVersion", reason.to_owned());
        };
        let Some(kind) = Kind::find(api_version, kind) else {
            let reason = format!("{api_version} {kind} is not a kind that configures the mesh: it has no effect");
            let problem = Problem::new(Severity::Unsupported, "kind", reason);
            return Outcome::Foreign(Problem { source: Some(source.clone()), at: node.at, ..problem });
        };
        Self::read_kind(kind, node, source)
    }

    fn read_kind(kind: Kind, node: &Node, source: &Arc<str>) -> Outcome {
        let mut reader = Reader::default();
        let mut meta = Meta::default();
        let mut rest = node.clone();
        if let Data::Map(entries) = &mut rest.data {
            if let Some(entry) = entries.iter().find(|entry| &*entry.key == "metadata") {
                meta = reader.field("metadata", |reader| Meta::read(&entry.value, reader)).unwrap_or_default();
            }
            entries.retain(|entry| !matches!(&*entry.key, "kind" | "apiVersion" | "metadata"));
        }
        if meta.name.is_empty() {
            reader
                .field("metadata.name", |reader| reader.problem(Severity::Invalid, node.at, "missing: give it a name"));
        }
        match (kind.is_namespaced(), meta.namespace.is_empty()) {
            (true, true) => "default".clone_into(&mut meta.namespace),
            (false, false) => meta.namespace.clear(),
            _ => {}
        }
        let key = ObjectKey { kind, namespace: meta.namespace.as_str().into(), name: meta.name.as_str().into() };
        let spec = Spec::read(kind, &rest, &mut reader);
        let mut problems = reader.into_problems();
        problems.iter_mut().for_each(|problem| problem.source = Some(source.clone()));
        if matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication) {
            // A rule without one of its conditions would allow more than its author meant.
            for problem in problems.iter_mut().filter(|problem| problem.severity == Severity::Unsupported) {
                problem.severity = Severity::Invalid;
                problem.reason = format!("{}; in a policy that is refused", problem.reason);
            }
        }
        let named = !key.name.is_empty();
        match spec {
            Some(spec) if problems.iter().all(|problem| problem.severity != Severity::Invalid) => {
                Outcome::Object(Box::new(Self { key, meta, spec, source: source.clone(), at: node.at, problems }))
            }
            _ => Outcome::Rejected { key: named.then_some(key), problems },
        }
    }

    /// A problem of this object, at a place in it.
    #[must_use]
    pub fn problem(
        &self,
        severity: Severity,
        at: Position,
        path: impl Into<String>,
        reason: impl Into<String>,
    ) -> Problem {
        let at = if at.line == 0 { self.at } else { at };
        Problem { source: Some(self.source.clone()), at, ..Problem::new(severity, path, reason) }
    }

    /// Its content, if it is of this type.
    #[must_use]
    pub fn of<T: AsSpec>(&self) -> Option<&T> {
        T::of(&self.spec)
    }

    /// What orders objects by age: the older first, those that do not tell last, then by name.
    #[must_use]
    pub fn age(&self) -> (bool, &str, &str, &str) {
        let created = self.meta.creation_timestamp.as_deref();
        (created.is_none(), created.unwrap_or_default(), &self.key.name, &self.key.namespace)
    }
}

/// A text of a map.
pub(crate) fn text_of<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    let Data::Map(entries) = &node.data else { return None };
    match &entries.iter().rfind(|entry| &*entry.key == key)?.value.data {
        Data::String(text) => Some(text),
        _ => None,
    }
}
