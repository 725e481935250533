//! Delta: requests and responses name what changed.

use prost::Message;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{ALL, Decoded, Subscription, Wrapped};
use crate::xds::kind::Kind;

/// The request of a kind; `None`: there is nothing to say.
pub(super) fn request(kind: Kind, s: &mut Subscription, node: Option<Node>) -> Option<Vec<u8>> {
    let answer = if s.held { None } else { s.answer.take() };
    let mut subscribe: Vec<_> = std::mem::take(&mut s.subscribe).into_iter().collect();
    subscribe.extend(std::mem::take(&mut s.again));
    let unsubscribe: Vec<_> = std::mem::take(&mut s.unsubscribe).into_iter().collect();
    // To ask for all for the first time is to name nothing.
    let first_of_all = s.wildcard && !s.asked;
    if answer.is_none() && subscribe.is_empty() && unsubscribe.is_empty() && !first_of_all {
        return None;
    }
    if first_of_all && !subscribe.is_empty() {
        // With names beside it, it has to be said.
        subscribe.insert(0, ALL.to_owned());
    }
    let held = if s.asked { Vec::new() } else { s.versions.iter().map(|(n, v)| (n.clone(), v.clone())).collect() };
    let (nonce, error) = answer.map_or((String::new(), None), |a| (a.nonce, a.error));
    let request = DeltaDiscoveryRequest {
        node,
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions: held.into_iter().collect(),
        response_nonce: nonce,
        error_detail: error,
        ..DeltaDiscoveryRequest::default()
    };
    Some(request.encode_to_vec())
}

/// A response.
pub(super) fn response(message: &[u8]) -> Result<Decoded, prost::DecodeError> {
    let r = DeltaDiscoveryResponse::decode(message)?;
    Ok(Decoded {
        type_url: r.type_url,
        version: r.system_version_info,
        update_nonce: r.nonce,
        resources: r.resources.into_iter().map(Wrapped::from).collect(),
        removed: r.removed_resources,
        control_plane: r.control_plane.map(|c| c.identifier),
    })
}
