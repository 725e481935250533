//! State of the world: every request names all that is wanted, every response of clusters or listeners holds all there is.

use prost::Message;
use weft_proto::any::unpack;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource};
use weft_proto::pb::google::protobuf::Any;
use weft_proto::schema::type_url_name;

use super::{Decoded, Subscription, Wrapped};
use crate::xds::kind::Kind;

/// The request of a kind; `None`: there is nothing to say.
pub(super) fn request(kind: Kind, s: &mut Subscription, node: Option<Node>) -> Option<Vec<u8>> {
    // An empty list on a new stream would ask for everything.
    if !s.asked && !s.wildcard && s.names.is_empty() {
        return None;
    }
    let answer = s.answer.take();
    let request = DiscoveryRequest {
        version_info: s.version.clone(),
        node,
        resource_names: if s.wildcard { Vec::new() } else { s.names.iter().cloned().collect() },
        type_url: kind.type_url().to_owned(),
        response_nonce: answer.as_ref().map_or_else(|| s.nonce.clone(), |a| a.nonce.clone()),
        error_detail: answer.and_then(|a| a.error),
        ..DiscoveryRequest::default()
    };
    Some(request.encode_to_vec())
}

/// A resource, alone or with its name and time to live.
pub(super) fn wrapped(any: Any) -> Wrapped {
    let resource =
        (type_url_name(&any.type_url) == "envoy.service.discovery.v3.Resource").then(|| unpack::<Resource>(&any));
    match resource {
        Some(Ok(resource)) => Wrapped::from(resource),
        // What cannot be unpacked is refused as what it is not.
        Some(Err(_)) | None => Wrapped { body: Some(any), ..Wrapped::default() },
    }
}

/// A response.
pub(super) fn response(message: &[u8]) -> Result<Decoded, prost::DecodeError> {
    let r = DiscoveryResponse::decode(message)?;
    Ok(Decoded {
        type_url: r.type_url,
        version: r.version_info,
        update_nonce: r.nonce,
        resources: r.resources.into_iter().map(wrapped).collect(),
        removed: Vec::new(),
        control_plane: r.control_plane.map(|c| c.identifier),
    })
}
