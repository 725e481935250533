//! A proxy as a node of Envoy's API.

use weft_proto::pb::envoy::config::core::v3::{Locality, Node, node::UserAgentVersionType};
use weft_proto::wkt::to_struct;

use crate::node::Proxy;

/// A proxy as the node it said it is.
pub(super) fn node(proxy: &Proxy) -> Node {
    let locality = &proxy.locality;
    Node {
        id: proxy.id.clone(),
        cluster: proxy.cluster.clone(),
        metadata: (!proxy.metadata.is_empty()).then(|| to_struct(&proxy.metadata)),
        locality: (*locality != crate::node::Locality::default()).then(|| Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        }),
        user_agent_name: proxy.user_agent.clone(),
        user_agent_version_type: None::<UserAgentVersionType>,
        client_features: proxy.client_features.iter().cloned().collect(),
        ..Node::default()
    }
}
