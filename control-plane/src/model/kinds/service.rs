//! Service, Endpoints, EndpointSlice, Secret, ConfigMap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_proto::document::{Data, Node};

use super::meta::Labels;
use crate::model::read::{Read, Reader, record};

record! {
    /// A Service. **Source**: `v1.Service`.
    pub struct Service (ignoring "status") {
        /// What it is.
        spec: ServiceSpec,
    }
}

record! {
    /// What a Service is. The ignored fields steer kube-proxy and load balancers outside of the mesh.
    /// **Source**: `v1.ServiceSpec`.
    pub struct ServiceSpec (
        ignoring "externalTrafficPolicy", "allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges",
        "healthCheckNodePort", "internalTrafficPolicy", "loadBalancerIP", "topologyKeys"
    ) {
        /// `ClusterIP` (the default), `NodePort`, `LoadBalancer` or `ExternalName`.
        r#type: Option<String>,
        /// Its virtual address; `None` makes it headless.
        cluster_ip: Option<String> = "clusterIP",
        /// All its virtual addresses.
        cluster_ips: Vec<String> = "clusterIPs",
        /// Further addresses it is reached at.
        external_ips: Vec<IpAddr> = "externalIPs",
        /// What an `ExternalName` stands for.
        external_name: Option<String>,
        /// Its ports.
        ports: Vec<ServicePort>,
        /// Which pods it is made of; without, its Endpoints are somebody else's.
        selector: Labels,
        /// Also pods that are not ready.
        publish_not_ready_addresses: bool,
        /// `ClientIP` or `None`.
        session_affinity: Option<String>,
        /// `IPv4`, `IPv6`: those of its addresses, the first one first. Default: that of the pods' first address.
        ip_families: Vec<String>,
        /// `SingleStack` (the default), `PreferDualStack` or `RequireDualStack`.
        ip_family_policy: Option<String>,
        /// `PreferClose` or `PreferSameZone` keep traffic in the zone.
        traffic_distribution: Option<String>,
    }
}

impl ServiceSpec {
    /// The families of IP that it is reached by; empty: that of the pods' first address.
    #[must_use]
    pub fn families(&self) -> Vec<IpFamily> {
        if matches!(self.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack")) {
            let first_is_v6 = self.ip_families.first().is_some_and(|family| family == "IPv6");
            return if first_is_v6 { vec![IpFamily::V6, IpFamily::V4] } else { vec![IpFamily::V4, IpFamily::V6] };
        }
        let told = self.ip_families.first().map(|family| if family == "IPv6" { IpFamily::V6 } else { IpFamily::V4 });
        let of_address = || self.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).map(IpFamily::of);
        told.or_else(of_address).into_iter().collect()
    }
}

/// A family of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// That of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

record! {
    /// A port of a Service. **Source**: `v1.ServicePort`.
    pub struct ServicePort (ignoring "nodePort") {
        /// Its name, whose part before `-` tells the protocol.
        name: Option<String>,
        /// The number.
        port: u16,
        /// `TCP` (the default), `UDP` or `SCTP`.
        protocol: Option<String>,
        /// What is spoken on it; wins over the name.
        app_protocol: Option<String>,
        /// The pod's port. Default: `port`.
        target_port: Option<PortRef>,
    }
}

/// A port by its number or its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By a container port's name.
    Name(String),
}

impl Read for PortRef {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.data {
            Data::String(text) if !text.parse::<u16>().is_ok_and(|n| n > 0) => Some(Self::Name(text.to_string())),
            _ => u16::read(node, reader).map(Self::Number),
        }
    }
}

record! {
    /// Endpoints. **Source**: `v1.Endpoints`.
    pub struct Endpoints {
        /// Sets of addresses with the same ports.
        subsets: Vec<EndpointSubset>,
    }
}

record! {
    /// Addresses with the same ports. **Source**: `v1.EndpointSubset`.
    pub struct EndpointSubset (ignoring "notReadyAddresses") {
        /// Those that serve.
        addresses: Vec<EndpointAddress>,
        /// What they listen on.
        ports: Vec<EndpointPort>,
    }
}

record! {
    /// An address. **Source**: `v1.EndpointAddress`.
    pub struct EndpointAddress {
        /// The address.
        ip: Option<IpAddr>,
        /// Its name in a headless Service.
        hostname: Option<String>,
        /// The node it is on.
        node_name: Option<String>,
        /// The pod it is.
        target_ref: Option<TargetRef>,
    }
}

record! {
    /// What an address belongs to. **Source**: `v1.ObjectReference`.
    pub struct TargetRef (foreign) {
        /// `Pod`.
        kind: Option<String>,
        /// Its name.
        name: Option<String>,
        /// Its namespace.
        namespace: Option<String>,
    }
}

record! {
    /// A port of Endpoints. **Source**: `v1.EndpointPort`, `discovery.k8s.io/v1.EndpointPort`.
    pub struct EndpointPort (ignoring "appProtocol") {
        /// The Service port's name.
        name: Option<String>,
        /// The number.
        port: u16,
        /// `TCP`, `UDP` or `SCTP`.
        protocol: Option<String>,
    }
}

record! {
    /// A slice of a Service's endpoints, named by its label `kubernetes.io/service-name`.
    /// **Source**: `discovery.k8s.io/v1.EndpointSlice`.
    pub struct EndpointSlice {
        /// `IPv4`, `IPv6` or `FQDN` (which is not taken).
        address_type: Option<String>,
        /// The endpoints.
        endpoints: Vec<SliceEndpoint>,
        /// What all of them listen on.
        ports: Vec<EndpointPort>,
    }
}

record! {
    /// An endpoint of a slice. **Source**: `discovery.k8s.io/v1.Endpoint`.
    pub struct SliceEndpoint (ignoring "deprecatedTopology", "hints") {
        /// Addresses of the one endpoint.
        addresses: Vec<String>,
        /// Whether it serves.
        conditions: SliceConditions,
        /// Its name in a headless Service.
        hostname: Option<String>,
        /// The pod it is.
        target_ref: Option<TargetRef>,
        /// The node it is on.
        node_name: Option<String>,
        /// The zone it is in.
        zone: Option<String>,
    }
}

record! {
    /// Whether an endpoint serves. **Source**: `discovery.k8s.io/v1.EndpointConditions`.
    pub struct SliceConditions {
        /// Takes new connections. Default: true.
        ready: Option<bool>,
        /// Serves, ready or terminating.
        serving: Option<bool>,
        /// On its way out.
        terminating: Option<bool>,
    }
}

record! {
    /// A Secret. **Source**: `v1.Secret`.
    pub struct Secret (foreign) {
        /// What kind of secret: `kubernetes.io/tls`.
        r#type: Option<String>,
        /// Values in base64.
        data: BTreeMap<String, String>,
        /// Values as they are.
        string_data: BTreeMap<String, String>,
    }
}

record! {
    /// A ConfigMap. **Source**: `v1.ConfigMap`.
    pub struct ConfigMap (foreign) {
        /// Its values; `mesh` of ConfigMap `istio` in the root namespace is the MeshConfig.
        data: BTreeMap<String, String>,
    }
}
