//! Requests of both protocols.
//!
//! Must not know: what they say.

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::session::Variant;

/// A request of either protocol.
#[derive(Debug)]
pub(super) enum Request {
    Sotw(Box<DiscoveryRequest>),
    Delta(Box<DeltaDiscoveryRequest>),
}

impl Request {
    pub(super) fn type_url(&self) -> &str {
        match self {
            Self::Sotw(request) => &request.type_url,
            Self::Delta(request) => &request.type_url,
        }
    }

    pub(super) fn node(&self) -> Option<&Node> {
        match self {
            Self::Sotw(request) => request.node.as_ref(),
            Self::Delta(request) => request.node.as_ref(),
        }
    }
}

/// Reads a request of a protocol.
///
/// # Errors
/// What is no such request.
pub(super) fn decode(variant: Variant, message: Bytes) -> Result<Request, Status> {
    let request = match variant {
        Variant::Sotw => DiscoveryRequest::decode(message).map(|request| Request::Sotw(Box::new(request))),
        Variant::Delta => DeltaDiscoveryRequest::decode(message).map(|request| Request::Delta(Box::new(request))),
    };
    request.map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))
}
