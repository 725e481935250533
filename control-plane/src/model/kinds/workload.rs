//! Kubernetes' workloads and where they run: Namespace, Node, Pod, Deployment, StatefulSet, ServiceAccount.
//!
//! Most of their fields are the kubelet's business and are left alone.

use std::net::IpAddr;

use super::meta::{LabelSelector, Labels, Meta};
use super::service::PortRef;
use crate::model::read::record;

record! {
    /// A Namespace; what counts is its labels. **Source**: `v1.Namespace`.
    pub struct Namespace (foreign) {}
}

record! {
    /// A Node; its labels `topology.kubernetes.io/{region,zone}` are its pods' locality. **Source**: `v1.Node`.
    pub struct Node (foreign) {}
}

record! {
    /// A ServiceAccount; what counts is that it exists. **Source**: `v1.ServiceAccount`.
    pub struct ServiceAccount (foreign) {}
}

record! {
    /// A Pod. **Source**: `v1.Pod`.
    pub struct Pod (foreign) {
        /// What it runs.
        spec: PodSpec,
        /// Where it runs, and how it is.
        status: PodStatus,
    }
}

record! {
    /// What a pod runs. **Source**: `v1.PodSpec`.
    pub struct PodSpec (foreign) {
        /// Its identity. Default: `default`.
        service_account_name: Option<String>,
        /// The node it runs on.
        node_name: Option<String>,
        /// What Services find named ports in.
        containers: Vec<Container>,
        /// Its DNS name in a headless Service.
        hostname: Option<String>,
        /// The headless Service its DNS name is in.
        subdomain: Option<String>,
    }
}

record! {
    /// A container. **Source**: `v1.Container`.
    pub struct Container (foreign) {
        /// Its name.
        name: String,
        /// What it listens on.
        ports: Vec<ContainerPort>,
        /// What it runs: an image.
        image: Option<String>,
        /// What is started in it, in place of the image's own.
        command: Vec<String>,
        /// Arguments to that.
        args: Vec<String>,
        /// Its environment.
        env: Vec<EnvVar>,
        /// Whether it can be used.
        readiness_probe: Option<Probe>,
        /// Whether it has to be started again.
        liveness_probe: Option<Probe>,
        /// Whether it has started; until then the others wait.
        startup_probe: Option<Probe>,
    }
}

record! {
    /// A question to a container. **Source**: `v1.Probe`.
    pub struct Probe (foreign) {
        /// A GET; an answer below 400 is good.
        http_get: Option<HttpGet>,
        /// A connection.
        tcp_socket: Option<TcpSocket>,
        /// gRPC's health service.
        grpc: Option<GrpcAction>,
        /// A command that ends with 0.
        exec: Option<ExecAction>,
        /// When it begins. Default: 0.
        initial_delay_seconds: Option<u32>,
        /// How often. Default: 10, at least 1.
        period_seconds: Option<u32>,
        /// How long an answer may take. Default: 1, at least 1.
        timeout_seconds: Option<u32>,
        /// So many good ones in a row are good. Default: 1.
        success_threshold: Option<u32>,
        /// So many bad ones in a row are bad. Default: 3.
        failure_threshold: Option<u32>,
    }
}

record! {
    /// A GET. **Source**: `v1.HTTPGetAction`.
    pub struct HttpGet (foreign) {
        /// Path and query. Default: `/`.
        path: Option<String>,
        /// The container's port.
        port: Option<PortRef>,
        /// `HTTP` (the default) or `HTTPS`.
        scheme: Option<String>,
        /// Headers.
        http_headers: Vec<HttpHeader>,
    }
}

record! {
    /// A header. **Source**: `v1.HTTPHeader`.
    pub struct HttpHeader {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    }
}

record! {
    /// A connection. **Source**: `v1.TCPSocketAction`.
    pub struct TcpSocket (foreign) {
        /// The container's port.
        port: Option<PortRef>,
    }
}

record! {
    /// gRPC's health service. **Source**: `v1.GRPCAction`.
    pub struct GrpcAction (foreign) {
        /// The container's port.
        port: Option<PortRef>,
        /// What is asked for. Default: the server as a whole.
        service: Option<String>,
    }
}

record! {
    /// A command. **Source**: `v1.ExecAction`.
    pub struct ExecAction (foreign) {
        /// Program and arguments.
        command: Vec<String>,
    }
}

record! {
    /// A variable of the environment. **Source**: `v1.EnvVar`.
    pub struct EnvVar (foreign) {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
        /// Where else it comes from.
        value_from: Option<EnvVarSource>,
    }
}

record! {
    /// Where a variable comes from. **Source**: `v1.EnvVarSource`.
    pub struct EnvVarSource (foreign) {
        /// A field of the pod.
        field_ref: Option<FieldRef>,
    }
}

record! {
    /// A field of the pod. **Source**: `v1.ObjectFieldSelector`.
    pub struct FieldRef (foreign) {
        /// Its path: `metadata.name`.
        field_path: String,
    }
}

impl EnvVar {
    /// The pod's field it is.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        Some(self.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str())
    }
}

record! {
    /// A port of a container. **Source**: `v1.ContainerPort`.
    pub struct ContainerPort (foreign) {
        /// What `targetPort` may refer to.
        name: Option<String>,
        /// The number.
        container_port: u16,
        /// `TCP` (the default), `UDP` or `SCTP`.
        protocol: Option<String>,
    }
}

record! {
    /// The state of a pod. **Source**: `v1.PodStatus`.
    pub struct PodStatus (foreign) {
        /// Its first address.
        pod_ip: Option<IpAddr> = "podIP",
        /// All its addresses.
        pod_ips: Vec<PodIp> = "podIPs",
        /// `Running`, `Succeeded`, `Failed`…; a pod that ended is no endpoint.
        phase: Option<String>,
        /// `Ready` decides whether it is an endpoint; a pod without conditions is taken as ready.
        conditions: Vec<Condition>,
    }
}

record! {
    /// An address of a pod. **Source**: `v1.PodIP`.
    pub struct PodIp {
        /// The address.
        ip: Option<IpAddr>,
    }
}

record! {
    /// A condition of a pod. **Source**: `v1.PodCondition`.
    pub struct Condition (foreign) {
        /// Its name: `Ready`.
        r#type: String,
        /// `True`, `False` or `Unknown`.
        status: String,
    }
}

impl Pod {
    /// Its addresses, each once.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.status.pod_ip.into_iter().collect();
        for ip in self.status.pod_ips.iter().filter_map(|entry| entry.ip) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// Whether it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_over()
            && self.status.conditions.iter().find(|c| c.r#type == "Ready").is_none_or(|c| c.status == "True")
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

impl PodSpec {
    /// The number of a port that a container names.
    #[must_use]
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let ports = self.containers.iter().flat_map(|container| &container.ports);
        ports.into_iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
    }
}

record! {
    /// A Deployment or StatefulSet. **Source**: `apps/v1.Deployment`, `apps/v1.StatefulSet`.
    pub struct Deployment (foreign) {
        /// What it runs.
        spec: DeploymentSpec,
    }
}

record! {
    /// What a Deployment runs. **Source**: `apps/v1.DeploymentSpec`, `apps/v1.StatefulSetSpec`.
    pub struct DeploymentSpec (foreign) {
        /// How many pods. Default: 1.
        replicas: Option<u32>,
        /// Which pods are its own.
        selector: LabelSelector,
        /// What a pod is made from.
        template: PodTemplate,
        /// A StatefulSet's headless Service.
        service_name: Option<String>,
    }
}

record! {
    /// What a pod is made from. **Source**: `v1.PodTemplateSpec`.
    pub struct PodTemplate (foreign) {
        /// The pod's labels.
        metadata: Meta,
        /// The pod's spec.
        spec: PodSpec,
    }
}

impl DeploymentSpec {
    /// The labels of its pods.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.template.metadata.labels
    }
}
