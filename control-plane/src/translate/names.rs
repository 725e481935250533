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

/// The server name that callers show to the same, which gateways pass it on by; there it is also the cluster's name.
pub(super) fn server_name(port: u32, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// The host that a cluster is of, by its name.
pub(super) fn host(cluster: &str) -> Option<&str> {
    match cluster.strip_prefix("outbound|") {
        Some(rest) => Some(rest.rsplit_once('|')?.1),
        None => Some(cluster.strip_prefix("outbound_.")?.split_once("_.")?.1.split_once("_.")?.1),
    }
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

/// The object with this path, as people call it: `VirtualService default/reviews`.
pub(super) fn object_of_path(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix("/apis/")?.split('/');
    let (group, _version) = (parts.next()?, parts.next()?);
    let (_namespaces, namespace, slug, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let named = |kind: &&Kind| {
        let key = ObjectKey { kind: **kind, namespace: namespace.into(), name: name.into() };
        kind.group_and_name().0 == group && config_path(&key).split('/').nth(6) == Some(slug)
    };
    let kind = Kind::ALL.iter().find(named)?;
    Some(ObjectKey { kind: *kind, namespace: namespace.into(), name: name.into() }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_of_a_path_is_found() {
        for kind in [Kind::VirtualService, Kind::DestinationRule, Kind::HttpRoute, Kind::Ingress, Kind::TlsRoute] {
            let key = ObjectKey { kind, namespace: "shop".into(), name: "a".into() };
            assert_eq!(object_of_path(&config_path(&key)), Some(key.to_string()));
        }
        assert_eq!(object_of_path("/apis/x"), None);
    }
}
