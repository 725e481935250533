//! Istio's ServiceEntry, WorkloadEntry and Sidecar.

use std::collections::BTreeMap;

use super::destination_rule::{ConnectionPool, WorkloadSelector};
use super::gateway::ServerTls;
use super::meta::Labels;
use crate::model::read::{choice, record};

record! {
    /// A ServiceEntry. **Source**: `networking.istio.io/v1.ServiceEntry`.
    pub struct ServiceEntry (ignoring "status") {
        /// What it adds.
        spec: ServiceEntrySpec,
    }
}

record! {
    /// A service Kubernetes does not know. **Source**: `networking.istio.io/v1.ServiceEntry`.
    pub struct ServiceEntrySpec {
        /// Its names.
        hosts: Vec<String>,
        /// Its virtual addresses or networks.
        addresses: Vec<String>,
        /// Its ports.
        ports: Vec<EntryPort>,
        /// In the mesh or outside. Default: outside.
        location: Location,
        /// How its endpoints are found. Default: the client's choice.
        resolution: Resolution,
        /// Its endpoints.
        endpoints: Vec<WorkloadEntrySpec>,
        /// Workloads that are its endpoints.
        workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see it. Default: the mesh's `defaultServiceExportTo`.
        export_to: Vec<String>,
        /// Identities its endpoints have.
        subject_alt_names: Vec<String>,
    }
}

record! {
    /// A port. **Source**: `networking.istio.io/v1.ServicePort`.
    pub struct EntryPort {
        /// The number.
        number: u16,
        /// What is spoken.
        protocol: Option<String>,
        /// Its name.
        name: Option<String>,
        /// The endpoints' port. Default: `number`.
        target_port: Option<u16>,
    }
}

choice! {
    /// Where a service is. **Source**: `networking.istio.io/v1.ServiceEntry.Location`.
    pub enum Location {
        /// Outside.
        #[default]
        MeshExternal = "MESH_EXTERNAL",
        /// In the mesh.
        MeshInternal = "MESH_INTERNAL",
    }
}

choice! {
    /// How endpoints are found. **Source**: `networking.istio.io/v1.ServiceEntry.Resolution`.
    pub enum Resolution {
        /// Where the client wanted to go.
        #[default]
        None = "NONE",
        /// The endpoints that are listed.
        Static = "STATIC",
        /// By DNS, all addresses.
        Dns = "DNS",
        /// By DNS, one address at a time.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// By DNS, for each request's host.
        DynamicDns = "DYNAMIC_DNS",
    }
}

record! {
    /// A WorkloadEntry. **Source**: `networking.istio.io/v1.WorkloadEntry`.
    pub struct WorkloadEntry (ignoring "status") {
        /// The workload.
        spec: WorkloadEntrySpec,
    }
}

record! {
    /// A workload without a pod. **Source**: `networking.istio.io/v1.WorkloadEntry`.
    pub struct WorkloadEntrySpec {
        /// An IP address, a DNS name, or `unix:///path`.
        address: String,
        /// Its ports by the service ports' names.
        ports: BTreeMap<String, u16>,
        /// What selectors match.
        labels: Labels,
        /// `region/zone/sub-zone`.
        locality: Option<String>,
        /// Its share. Default: 1.
        weight: Option<u32>,
        /// Its identity.
        service_account: Option<String>,
    }
}

record! {
    /// A Sidecar. **Source**: `networking.istio.io/v1.Sidecar`.
    pub struct Sidecar (ignoring "status") {
        /// What its workloads see.
        spec: SidecarSpec,
    }
}

record! {
    /// What workloads see and accept. **Source**: `networking.istio.io/v1.Sidecar`.
    pub struct SidecarSpec {
        /// Which workloads. None: all of the namespace; in the root namespace: all.
        workload_selector: Option<WorkloadSelector>,
        /// What they accept. Default: what their services say.
        ingress: Vec<IngressListener>,
        /// What they see. Default: everything.
        egress: Vec<EgressListener>,
        /// What happens to traffic to hosts that are not known.
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// Limits of what they accept.
        inbound_connection_pool: Option<ConnectionPool>,
    }
}

record! {
    /// A port that is accepted. **Source**: `networking.istio.io/v1.IstioIngressListener`.
    pub struct IngressListener {
        /// The port.
        port: EntryPort,
        /// `127.0.0.1:port`, `0.0.0.0:port` (the pod's own address) or `unix:///path`.
        default_endpoint: Option<String>,
        /// An IP address to listen on, where connections are not redirected. Default: the pod's own.
        bind: Option<String>,
        /// Whether connections to it are redirected.
        capture_mode: CaptureMode,
        /// Limits.
        connection_pool: Option<ConnectionPool>,
        /// TLS that ends here, where the mesh's own is disabled for the port.
        tls: Option<ServerTls>,
    }
}

record! {
    /// Hosts that are seen. **Source**: `networking.istio.io/v1.IstioEgressListener`.
    pub struct EgressListener {
        /// Only on this port.
        port: Option<EntryPort>,
        /// An IP address to listen on, or `unix:///path`; with a port. Default: where connections are not redirected the loopback.
        bind: Option<String>,
        /// Whether connections to it are redirected.
        capture_mode: CaptureMode,
        /// `namespace/host`, with `*`, `.` and `~` as namespace.
        hosts: Vec<String>,
    }
}

choice! {
    /// Whether connections are redirected to a listener. **Source**: `networking.istio.io/v1.CaptureMode`.
    pub enum CaptureMode {
        /// If the proxy's are.
        #[default]
        Default = "DEFAULT",
        /// They are.
        Iptables = "IPTABLES",
        /// Clients connect to it.
        None = "NONE",
    }
}

impl CaptureMode {
    /// Whether connections are redirected, at a proxy where they are or are not.
    #[must_use]
    pub fn is_captured(self, proxy: bool) -> bool {
        match self {
            Self::Default => proxy,
            Self::Iptables => true,
            Self::None => false,
        }
    }
}

record! {
    /// What happens to traffic to hosts that are not known. **Source**: `networking.istio.io/v1.OutboundTrafficPolicy`.
    pub struct OutboundTrafficPolicy {
        /// Which.
        mode: OutboundMode,
    }
}

choice! {
    /// **Source**: `networking.istio.io/v1.OutboundTrafficPolicy.Mode`, `MeshConfig.OutboundTrafficPolicy.Mode`.
    pub enum OutboundMode {
        /// It goes where it wants.
        #[default]
        AllowAny = "ALLOW_ANY",
        /// It is refused.
        RegistryOnly = "REGISTRY_ONLY",
    }
}
