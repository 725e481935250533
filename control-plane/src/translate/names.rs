//! Names as Istio makes them, so that the tools around it recognise them.

use crate::model::kinds::{Kind, ObjectKey};

/// Where traffic to nowhere goes.
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where outbound traffic goes that the mesh does not know.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// Where inbound traffic goes that no service asks for.
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The listener all outbound connections are redirected to.
pub(super) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener all inbound connections are redirected to.
pub(super) const VIRTUAL_INBOUND: &str = "virtualInbound";

/// A cluster of a service or of a subset of it.
pub(super) fn outbound(port: u32, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// The host that a cluster is of, by its name.
pub(super) fn host(cluster: &str) -> Option<&str> {
    let (_, host) = cluster.strip_prefix("outbound|")?.rsplit_once('|')?;
    Some(host)
}

/// A cluster of the workload itself.
pub(super) fn inbound(port: u32) -> String {
    format!("inbound|{port}||")
}

/// The path of an object in its API, as Istio's metadata has it.
pub(super) fn config_path(key: &ObjectKey) -> String {
    let (group, _) = key.kind.group_and_name();
    let kind = match key.kind {
        Kind::VirtualService => "virtual-service",
        Kind::DestinationRule => "destination-rule",
        Kind::HttpRoute => "http-route",
        Kind::GrpcRoute => "grpc-route",
        Kind::Ingress => "ingress",
        other => other.group_and_name().1,
    };
    format!("/apis/{group}/v1/namespaces/{}/{kind}/{}", key.namespace, key.name)
}
