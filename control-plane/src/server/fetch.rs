//! Unary discovery: `FetchClusters` and its like. One answer, and nothing is remembered of who asked.
//!
//! Must not know: streams. What is answered is what a stream of the type would be sent first.

use std::sync::Arc;

use prost::Message as _;
use tonic::Status;
use weft_proto::pb::envoy::config::core::v3::ControlPlane;
use weft_proto::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use weft_proto::pb::google::protobuf::Any;

use super::Shared;
use super::caller::Caller;
use crate::generate::Generator;
use crate::node::Proxy;
use crate::resource::{ResourceSet, ResourceType};

/// All resources of a type that a node may have; those that it names, if it names some.
///
/// # Errors
/// A request of another type, without a node or with somebody else's, and when generating fails.
pub(super) async fn answer<G: Generator>(
    shared: &Shared<G>,
    ty: ResourceType,
    caller: &Caller,
    request: &DiscoveryRequest,
) -> Result<DiscoveryResponse, Status> {
    if !request.type_url.is_empty() && request.type_url != ty.type_url() {
        let text = format!("type_url {:?} for the method of {}", request.type_url, ty.type_url());
        return Err(Status::invalid_argument(text));
    }
    let node = request.node.as_ref().ok_or_else(|| {
        Status::invalid_argument("the request has no node; set it, it says whose configuration is wanted")
    })?;
    let proxy = Proxy::from_node(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
    caller.check(&proxy).inspect_err(|status| {
        shared.connections.metrics().refused_callers.add(1);
        tracing::warn!(proxy = proxy.id, "call refused: {}", status.message());
    })?;
    let Some((computed, _lease)) = shared.cache.resources(&Arc::new(proxy)).await else {
        return Err(Status::unavailable("generating the configuration failed, see the control plane's log"));
    };
    let all = computed.resources.get(ty);
    let wanted: ResourceSet = match request.resource_names.as_slice() {
        [] => ResourceSet::clone(all),
        names => names.iter().filter_map(|name| all.get(name)).cloned().collect(),
    };
    let resources = wanted.iter().map(|resource| Any::decode(resource.any().clone())).collect::<Result<_, _>>();
    Ok(DiscoveryResponse {
        version_info: wanted.version().to_string(),
        resources: resources.map_err(|error| Status::internal(error.to_string()))?,
        type_url: ty.type_url().to_owned(),
        control_plane: Some(ControlPlane { identifier: shared.identifier.to_string() }),
        ..DiscoveryResponse::default()
    })
}
