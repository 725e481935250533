//! The gRPC services: which path is which method.
//!
//! One service for all paths, as all discovery services are the same stream with a type or without. Must not know: what streams do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::server::Grpc;
use tonic::{Status, Streaming};

use super::Shared;
use super::codec::{Discovery, Request};
use super::session::Variant;
use super::session::push::Response;
use super::stream::{self, Method};
use crate::generate::Generator;
use crate::resource::ResourceType;

/// Discovery services, and the names of their two methods after `Stream` and `Delta`.
const SERVICES: [(&str, &str, &str, Option<ResourceType>); 8] = [
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources", "ADS", None),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", "CDS", Some(ResourceType::Cluster)),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", "EDS", Some(ResourceType::Endpoints)),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", "LDS", Some(ResourceType::Listener)),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", "RDS", Some(ResourceType::Route)),
    ("envoy.service.route.v3.VirtualHostDiscoveryService", "VirtualHosts", "VHDS", Some(ResourceType::VirtualHost)),
    ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", "SDS", Some(ResourceType::Secret)),
    (
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        "ExtensionConfigs",
        "ECDS",
        Some(ResourceType::Extension),
    ),
];

/// The discovery service of a path.
fn discovery(path: &str) -> Option<Method> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, resources, name, only) = SERVICES.into_iter().find(|(known, ..)| *known == service)?;
    let variant = if method.strip_prefix("Stream") == Some(resources) {
        Variant::Sotw
    } else if method.strip_prefix("Delta") == Some(resources) {
        Variant::Delta
    } else {
        return None;
    };
    Some(Method { service: name, only, variant })
}

/// Answers every gRPC call.
pub(super) struct Api<G: Generator> {
    pub(super) shared: Arc<Shared<G>>,
}

impl<G: Generator> Clone for Api<G> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<G: Generator, B> Service<http::Request<B>> for Api<G>
where
    B: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let Some(method) = discovery(request.uri().path()) else {
                let text = format!("{} is not served here", request.uri().path());
                return Ok(Status::unimplemented(text).into_http());
            };
            let limit = shared.limits.max_message_bytes;
            let mut grpc = Grpc::new(Discovery(method.variant)).max_decoding_message_size(limit);
            Ok(grpc.streaming(Open { shared, method }, request).await)
        })
    }
}

/// Opens a discovery stream.
struct Open<G: Generator> {
    shared: Arc<Shared<G>>,
    method: Method,
}

type Responses = Pin<Box<dyn futures_util::Stream<Item = Result<Response, Status>> + Send>>;

impl<G: Generator> Service<tonic::Request<Streaming<Request>>> for Open<G> {
    type Response = tonic::Response<Responses>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let peer = request.remote_addr();
        let stream = stream::serve(self.shared.clone(), self.method, peer, request.into_inner());
        std::future::ready(Ok(tonic::Response::new(Box::pin(stream))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let found = |path: &str| discovery(path).map(|method| (method.service, method.variant));
        let ads = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
        assert_eq!(found(&format!("{ads}StreamAggregatedResources")), Some(("ADS", Variant::Sotw)));
        assert_eq!(found(&format!("{ads}DeltaAggregatedResources")), Some(("ADS", Variant::Delta)));
        let eds = "/envoy.service.endpoint.v3.EndpointDiscoveryService/";
        assert_eq!(found(&format!("{eds}StreamEndpoints")), Some(("EDS", Variant::Sotw)));
        assert_eq!(found(&format!("{eds}FetchEndpoints")), None);
        assert_eq!(found("/"), None);
    }
}
