//! Services: what hosts there are, and what is spoken on their ports.

use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::problem::{Problem, Severity};

use super::host::service_host;
use super::kinds::meta::Labels;
use super::kinds::service::{IpFamily, PortRef, Service as KubeService, ServicePort};
use super::kinds::service_entry::{
    EntryPort, Location, Resolution as EntryResolution, ServiceEntry, WorkloadEntrySpec,
};
use super::kinds::{Object, ObjectKey};
use super::visibility::Visibility;

/// What tells services apart: two namespaces may each have a ServiceEntry for one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The full host name, or a wildcard.
    pub host: Arc<str>,
    /// The namespace it is defined in.
    pub namespace: Arc<str>,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// What tells it apart.
    pub key: ServiceKey,
    /// The object that defines it.
    pub object: ObjectKey,
    /// Virtual addresses or networks (`10.0.0.0/8`); none: it is reached by name, or not told.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Whether it is outside of the mesh.
    pub external: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// Labels of its pods or workloads; `None`: its endpoints are listed.
    pub selector: Option<Labels>,
    /// Endpoints that a ServiceEntry lists.
    pub listed: Vec<WorkloadEntrySpec>,
    /// Families of pods' addresses that count; empty: that of a pod's first address.
    pub families: Vec<IpFamily>,
    /// Whether pods count that are not ready.
    pub publish_not_ready: bool,
    /// Whether a caller stays with an endpoint (`sessionAffinity: ClientIP`).
    pub client_ip_affinity: bool,
    /// Whether endpoints in the caller's zone are preferred.
    pub prefer_close: bool,
    /// Names one of which its endpoints' certificates have.
    pub subject_alt_names: Vec<String>,
}

/// How endpoints are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The control plane knows them.
    Endpoints,
    /// The client has chosen: a headless Service, or a ServiceEntry without resolution.
    Passthrough,
    /// By DNS, of the listed endpoints or the host itself; all addresses are used.
    Dns,
    /// By DNS; one address at a time.
    LogicalDns,
    /// By DNS of another name.
    ExternalName(String),
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// Its name, may be empty.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// The endpoints' port.
    pub target: PortRef,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 (or HTTP/2 in plaintext, if the client does).
    Http,
    /// HTTP/2 in plaintext.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC for browsers.
    GrpcWeb,
    /// TLS that is passed on, with HTTP in it.
    Https,
    /// TLS that is passed on.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams, which the mesh leaves alone.
    Udp,
    /// Not told: it is looked for in what comes.
    Auto,
}

impl Protocol {
    /// Whether requests are routed.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether upstreams speak HTTP/2.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether connections are routed by SNI.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Reads a protocol: an `appProtocol`, a `protocol` of a ServiceEntry or Gateway, or what begins a port's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" | "kubernetes.io/wss" => Self::Https,
            "tls" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            "udp" | "http3" | "quic" => Self::Udp,
            _ => return None,
        })
    }

    fn of_service_port(port: &ServicePort) -> Self {
        match port.protocol.as_deref() {
            None | Some("TCP") => {}
            Some(_) => return Self::Udp,
        }
        let name = port.name.as_deref().unwrap_or_default();
        let told = match &port.app_protocol {
            Some(told) => Self::parse(told),
            None if name.starts_with("grpc-web") => Some(Self::GrpcWeb),
            None => Self::parse(name.split('-').next().unwrap_or_default()),
        };
        // On these the server speaks first, so there is nothing to look at (Istio has the same list).
        const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];
        let server_first = SERVER_FIRST.contains(&port.port);
        told.unwrap_or(if server_first { Self::Tcp } else { Self::Auto })
    }

    fn of_entry_port(port: &EntryPort) -> Self {
        let told = port.protocol.as_deref().or(port.name.as_deref().and_then(|name| name.split('-').next()));
        told.and_then(Self::parse).unwrap_or(Self::Auto)
    }
}

impl Service {
    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u32) -> Option<&Port> {
        self.ports.iter().find(|port| u32::from(port.number) == number)
    }

    /// The port a reference names.
    #[must_use]
    pub fn port_of(&self, reference: &PortRef) -> Option<&Port> {
        match reference {
            PortRef::Number(number) => self.port((*number).into()),
            PortRef::Name(name) => self.ports.iter().find(|port| port.name == *name),
        }
    }

    /// Its name in Kubernetes, if it is a Kubernetes Service.
    #[must_use]
    pub fn kubernetes_name(&self) -> Option<&str> {
        (self.object.kind == super::kinds::Kind::Service).then_some(&*self.object.name)
    }
}

/// The service of a Kubernetes Service.
pub(super) fn of_kubernetes(object: &Object, service: &KubeService, default_export_to: &[String]) -> Service {
    let spec = &service.spec;
    let kind = spec.r#type.as_deref().unwrap_or("ClusterIP");
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let resolution = match (&spec.external_name, kind) {
        (Some(name), "ExternalName") => Resolution::ExternalName(name.clone()),
        _ if headless => Resolution::Passthrough,
        _ => Resolution::Endpoints,
    };
    let mut addresses: Vec<String> = Vec::new();
    let given =
        spec.cluster_ip.iter().chain(&spec.cluster_ips).filter(|address| address.parse::<IpAddr>().is_ok()).cloned();
    for address in given.chain(spec.external_ips.iter().map(ToString::to_string)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let export_to = object.meta.annotations.get("networking.istio.io/exportTo").map(String::as_str).unwrap_or_default();
    let host = service_host(&object.key.name, &object.key.namespace);
    Service {
        key: ServiceKey { host: host.into(), namespace: object.key.namespace.clone() },
        object: object.key.clone(),
        addresses,
        ports: spec.ports.iter().map(kubernetes_port).collect(),
        external: matches!(resolution, Resolution::ExternalName(_)),
        resolution,
        visibility: Visibility::of(export_to.split(','), default_export_to, &object.key.namespace),
        selector: (!spec.selector.is_empty()).then(|| spec.selector.clone()),
        listed: Vec::new(),
        families: spec.families(),
        publish_not_ready: spec.publish_not_ready_addresses,
        client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
        prefer_close: spec.traffic_distribution.as_deref().is_some_and(|how| how.starts_with("Prefer")),
        subject_alt_names: Vec::new(),
    }
}

fn kubernetes_port(port: &ServicePort) -> Port {
    Port {
        number: port.port,
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::of_service_port(port),
        target: port.target_port.clone().unwrap_or(PortRef::Number(port.port)),
    }
}

/// The services of a ServiceEntry, one for each host, and what is wrong with it.
pub(super) fn of_entry(
    object: &Object,
    entry: &ServiceEntry,
    default_export_to: &[String],
) -> (Vec<Service>, Vec<Problem>) {
    let spec = &entry.spec;
    let mut problems = Vec::new();
    let mut invalid = |severity, path: &str, reason: &str| {
        problems.push(object.problem(severity, spec.at.0, path, reason));
    };
    if spec.hosts.is_empty() {
        invalid(Severity::Invalid, "spec.hosts", "missing: name at least one host");
    }
    if spec.ports.is_empty() {
        invalid(Severity::Invalid, "spec.ports", "missing: without a port there is no traffic");
    }
    if spec.resolution == EntryResolution::DynamicDns {
        invalid(
            Severity::Unsupported,
            "spec.resolution",
            "DYNAMIC_DNS is not supported yet: the client's address is used",
        );
    }
    let resolution = match spec.resolution {
        EntryResolution::Static => Resolution::Endpoints,
        EntryResolution::Dns => Resolution::Dns,
        EntryResolution::DnsRoundRobin => Resolution::LogicalDns,
        EntryResolution::None | EntryResolution::DynamicDns => Resolution::Passthrough,
    };
    let ports: Vec<Port> = spec.ports.iter().map(entry_port).collect();
    let service = |host: &String| Service {
        key: ServiceKey { host: host.as_str().into(), namespace: object.key.namespace.clone() },
        object: object.key.clone(),
        addresses: spec.addresses.clone(),
        ports: ports.clone(),
        resolution: resolution.clone(),
        external: spec.location == Location::MeshExternal,
        visibility: Visibility::of(spec.export_to.iter().map(String::as_str), default_export_to, &object.key.namespace),
        selector: spec.workload_selector.as_ref().map(|selector| {
            selector.labels.iter().chain(&selector.match_labels).map(|(k, v)| (k.clone(), v.clone())).collect()
        }),
        listed: spec.endpoints.clone(),
        families: Vec::new(),
        publish_not_ready: false,
        client_ip_affinity: false,
        prefer_close: false,
        subject_alt_names: spec.subject_alt_names.clone(),
    };
    (spec.hosts.iter().map(service).collect(), problems)
}

fn entry_port(port: &EntryPort) -> Port {
    Port {
        number: port.number,
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::of_entry_port(port),
        target: PortRef::Number(port.target_port.unwrap_or(port.number)),
    }
}
