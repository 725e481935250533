//! The gRPC services: which path is which method.
//!
//! One service for all paths, as all discovery services are the same stream with a type or without. Must not know: what streams do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::server::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use weft_proto::own::istio_auth::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use weft_proto::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};

use super::Shared;
use super::caller::{Caller, Door, Origin};
use super::certificates;
use super::csds;
use super::fetch;
use super::framing::{self, Messages};
use super::health::{self, HealthRequest, HealthResponse};
use super::reflection::{self, ReflectionRequest, ReflectionResponse};
use super::session::Variant;
use super::stream::{self, Client, Method};
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

/// The type of a unary discovery method. ADS has none, nor has VHDS.
fn fetched(path: &str) -> Option<ResourceType> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, resources, _, only) = SERVICES.into_iter().find(|(known, ..)| *known == service)?;
    only.filter(|ty| *ty != ResourceType::VirtualHost && method.strip_prefix("Fetch") == Some(resources))
}

/// Services besides discovery.
const CERTIFICATES: &str = "istio.v1.auth.IstioCertificateService";
const CSDS: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The names of all services that are described.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    SERVICES.into_iter().map(|(name, ..)| name).chain([CSDS, HEALTH]).chain(REFLECTION)
}

/// Whether a service is served.
pub(super) fn knows(service: &str) -> bool {
    service == CERTIFICATES || services().any(|name| name == service)
}

/// A method, by its path.
enum Call {
    Discovery(Method),
    Fetch(ResourceType),
    FetchStatus,
    StreamStatus,
    HealthCheck,
    HealthWatch,
    Reflection,
    CreateCertificate,
}

fn call(path: &str) -> Option<Call> {
    if let Some(method) = discovery(path) {
        return Some(Call::Discovery(method));
    }
    if let Some(ty) = fetched(path) {
        return Some(Call::Fetch(ty));
    }
    match path.strip_prefix('/')?.split_once('/')? {
        (CSDS, "FetchClientStatus") => Some(Call::FetchStatus),
        (CSDS, "StreamClientStatus") => Some(Call::StreamStatus),
        _ if path == CREATE_CERTIFICATE => Some(Call::CreateCertificate),
        (HEALTH, "Check") => Some(Call::HealthCheck),
        (HEALTH, "Watch") => Some(Call::HealthWatch),
        (service, "ServerReflectionInfo") if REFLECTION.contains(&service) => Some(Call::Reflection),
        _ => None,
    }
}

/// Answers every gRPC call.
pub(super) struct Api<G: Generator> {
    pub(super) shared: Arc<Shared<G>>,
    pub(super) door: Door,
}

impl<G: Generator> Clone for Api<G> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), door: self.door.clone() }
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
        let (shared, door) = (self.shared.clone(), self.door.clone());
        Box::pin(async move {
            let call = call(request.uri().path());
            let caller = match &call {
                // Who watches health has no identity, and certificates are for those that have none yet.
                None | Some(Call::HealthCheck | Call::HealthWatch | Call::CreateCertificate) => Caller::Anybody,
                Some(_) => match admit(&shared, &door, &request) {
                    Ok(caller) => caller,
                    Err(status) => return Ok(status.into_http()),
                },
            };
            Ok(match call {
                None => Status::unimplemented(format!(
                    "{} is not served here; reflection lists what is, configuration comes by \
                     StreamAggregatedResources or DeltaAggregatedResources",
                    request.uri().path()
                ))
                .into_http(),
                Some(Call::Discovery(method)) => {
                    let (head, body) = request.into_parts();
                    let peer = Origin::of(&head.extensions).address;
                    let messages = Messages::new(Body::new(body), shared.limits.max_message_bytes);
                    framing::respond(stream::serve(shared, method, Client { peer, caller }, messages))
                }
                Some(Call::Fetch(ty)) => {
                    let limit = shared.limits.max_message_bytes;
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(limit);
                    grpc.unary(Fetch { shared, ty, caller }, request).await
                }
                Some(Call::FetchStatus) => {
                    let limit = shared.limits.max_message_bytes;
                    let mut grpc = Grpc::new(StatusCodec::default()).max_decoding_message_size(limit);
                    grpc.unary(ClientStatus { shared }, request).await
                }
                Some(Call::StreamStatus) => {
                    let limit = shared.limits.max_message_bytes;
                    let mut grpc = Grpc::new(StatusCodec::default()).max_decoding_message_size(limit);
                    grpc.streaming(ClientStatus { shared }, request).await
                }
                Some(Call::CreateCertificate) => {
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(certificates::MAX_BYTES);
                    grpc.unary(Certificates { door }, request).await
                }
                Some(Call::HealthCheck) => Grpc::new(ProstCodec::default()).unary(Check { shared }, request).await,
                Some(Call::HealthWatch) => {
                    Grpc::new(ProstCodec::default()).server_streaming(Watch { shared }, request).await
                }
                Some(Call::Reflection) => Grpc::new(ProstCodec::default()).streaming(Reflect, request).await,
            })
        })
    }
}

type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// Who calls; who may not is logged and counted.
fn admit<G: Generator, B>(shared: &Shared<G>, door: &Door, request: &http::Request<B>) -> Result<Caller, Status> {
    let origin = Origin::of(request.extensions());
    door.caller(&origin, request.headers()).inspect_err(|status| {
        shared.connections.metrics().refused_callers.add(1);
        tracing::warn!(peer = ?origin.address, path = request.uri().path(), "call refused: {}", status.message());
    })
}

/// Makes certificates.
struct Certificates {
    door: Door,
}

impl Service<tonic::Request<IstioCertificateRequest>> for Certificates {
    type Response = tonic::Response<IstioCertificateResponse>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<IstioCertificateRequest>) -> Self::Future {
        let made = certificates::create(self.door.clone(), request);
        Box::pin(async move { made.await.map(tonic::Response::new) })
    }
}

/// Answers with all of a type, once.
struct Fetch<G: Generator> {
    shared: Arc<Shared<G>>,
    ty: ResourceType,
    caller: Caller,
}

impl<G: Generator> Service<tonic::Request<DiscoveryRequest>> for Fetch<G> {
    type Response = tonic::Response<DiscoveryResponse>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<DiscoveryRequest>) -> Self::Future {
        let (shared, ty, caller) = (self.shared.clone(), self.ty, self.caller.clone());
        Box::pin(async move { fetch::answer(&shared, ty, &caller, request.get_ref()).await.map(tonic::Response::new) })
    }
}

type StatusCodec = ProstCodec<ClientStatusResponse, ClientStatusRequest>;

/// Says what clients have, once or whenever it is asked.
struct ClientStatus<G: Generator> {
    shared: Arc<Shared<G>>,
}

impl<G: Generator> Service<tonic::Request<ClientStatusRequest>> for ClientStatus<G> {
    type Response = tonic::Response<ClientStatusResponse>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<ClientStatusRequest>) -> Self::Future {
        let connections = self.shared.connections.list();
        std::future::ready(csds::answer(&connections, request.get_ref()).map(tonic::Response::new))
    }
}

impl<G: Generator> Service<tonic::Request<Streaming<ClientStatusRequest>>> for ClientStatus<G> {
    type Response = tonic::Response<Answers<ClientStatusResponse>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<ClientStatusRequest>>) -> Self::Future {
        let shared = self.shared.clone();
        let answer = move |question: Result<_, Status>| csds::answer(&shared.connections.list(), &question?);
        let stream: Answers<_> = Box::pin(request.into_inner().map(answer));
        std::future::ready(Ok(tonic::Response::new(stream)))
    }
}

/// Says whether it is healthy.
struct Check<G: Generator> {
    shared: Arc<Shared<G>>,
}

impl<G: Generator> Service<tonic::Request<HealthRequest>> for Check<G> {
    type Response = tonic::Response<HealthResponse>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthRequest>) -> Self::Future {
        std::future::ready(health::check(&self.shared, request.get_ref()).map(tonic::Response::new))
    }
}

/// Says it again when it changes.
struct Watch<G: Generator> {
    shared: Arc<Shared<G>>,
}

impl<G: Generator> Service<tonic::Request<HealthRequest>> for Watch<G> {
    type Response = tonic::Response<Answers<HealthResponse>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<HealthRequest>) -> Self::Future {
        let stream: Answers<_> = Box::pin(health::watch(self.shared.clone(), request.into_inner()));
        std::future::ready(Ok(tonic::Response::new(stream)))
    }
}

/// Describes the API.
struct Reflect;

impl Service<tonic::Request<Streaming<ReflectionRequest>>> for Reflect {
    type Response = tonic::Response<Answers<ReflectionResponse>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Streaming<ReflectionRequest>>) -> Self::Future {
        let answers = request.into_inner().map(|question| question.map(reflection::answer));
        let stream: Answers<_> = Box::pin(answers);
        std::future::ready(Ok(tonic::Response::new(stream)))
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
        assert_eq!(fetched(&format!("{eds}FetchEndpoints")), Some(ResourceType::Endpoints));
        assert_eq!(fetched(&format!("{ads}FetchAggregatedResources")), None);
        assert_eq!(found("/"), None);
    }
}
