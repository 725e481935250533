//! Kinds of resources.

use prost::Name;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3::Listener;
use weft_proto::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use weft_proto::pb::envoy::service::runtime::v3::Runtime;
use weft_proto::schema::type_url_name;

/// A kind of resource that is discovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Routes,
    /// SDS.
    Secret,
    /// RTDS.
    Runtime,
    /// ECDS.
    Extension,
    /// VHDS. Delta only; a resource is named `<routes>/<host>`, whatever it calls itself.
    VirtualHost,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Cluster,
        Kind::Endpoints,
        Kind::Listener,
        Kind::Routes,
        Kind::Secret,
        Kind::Runtime,
        Kind::Extension,
        Kind::VirtualHost,
    ];

    /// The full name of its message.
    fn message(self) -> String {
        match self {
            Kind::Cluster => Cluster::full_name(),
            Kind::Endpoints => ClusterLoadAssignment::full_name(),
            Kind::Listener => Listener::full_name(),
            Kind::Routes => RouteConfiguration::full_name(),
            Kind::Secret => Secret::full_name(),
            Kind::Runtime => Runtime::full_name(),
            Kind::Extension => TypedExtensionConfig::full_name(),
            Kind::VirtualHost => VirtualHost::full_name(),
        }
    }

    /// Its type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Kind::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Kind::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Kind::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// The kind of a type URL.
    pub fn of(type_url: &str) -> Option<Kind> {
        let name = type_url_name(type_url);
        Kind::ALL.into_iter().find(|kind| kind.message() == name)
    }

    /// A response holds all there are, so that absence means removal.
    pub const fn is_whole(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }

    /// The method of a stream of its own: state of the world, delta.
    pub const fn methods(self) -> (&'static str, &'static str) {
        match self {
            Kind::Cluster => (
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            ),
            Kind::Endpoints => (
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            ),
            Kind::Listener => (
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            ),
            Kind::Routes => (
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            ),
            Kind::Secret => (
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            ),
            Kind::Runtime => (
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            ),
            Kind::Extension => (
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
            ),
            Kind::VirtualHost => (
                "/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts",
                "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
            ),
        }
    }
}

/// Methods of the aggregated stream: state of the world, delta.
pub(super) const AGGREGATED: (&str, &str) = (
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
);

/// The name of an encoded resource: field 1 in every kind. `None`: it cannot be read.
pub fn resource_name(mut bytes: &[u8]) -> Option<String> {
    use prost::encoding::{DecodeContext, WireType, decode_key, skip_field, string};
    let mut name = String::new();
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if tag == 1 && wire == WireType::LengthDelimited {
            string::merge(wire, &mut name, &mut bytes, DecodeContext::default()).ok()?;
        } else {
            skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?;
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn type_urls_are_those_of_the_messages() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::of("type.googleapis.com/envoy.config.core.v3.Node"), None);
    }

    #[test]
    fn a_resource_tells_its_name() {
        let cluster = Cluster { name: "c".into(), alt_stat_name: "other".into(), ..Cluster::default() };
        assert_eq!(resource_name(&cluster.encode_to_vec()).as_deref(), Some("c"));
        assert_eq!(resource_name(&[0xff, 0xff]), None);
        assert_eq!(resource_name(&[]).as_deref(), Some(""));
    }
}
