//! Messages of both protocols in and out of gRPC.
//!
//! Must not know: what they say.

use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::session::Variant;
use super::session::push::Response;

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

/// The codec of a stream, as its method says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discovery(pub(super) Variant);

impl Codec for Discovery {
    type Encode = Response;
    type Decode = Request;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Discovery {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = match response {
            Response::Sotw(response) => response.encode(out),
            Response::Delta(response) => response.encode(out),
        };
        encoded.map_err(|error| Status::internal(format!("a response cannot be encoded: {error}")))
    }
}

impl Decoder for Discovery {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        let request = match self.0 {
            Variant::Sotw => DiscoveryRequest::decode(bytes).map(|request| Request::Sotw(Box::new(request))),
            Variant::Delta => DeltaDiscoveryRequest::decode(bytes).map(|request| Request::Delta(Box::new(request))),
        };
        request.map(Some).map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))
    }
}
