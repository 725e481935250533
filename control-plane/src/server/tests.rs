//! Real streams against a server on a free port.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use weft_proto::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use weft_proto::pb::google::rpc;

use super::connections::Status as TypeStatus;
use super::fixtures::state;
use super::*;
use crate::generate::{Origin, Part, Update};
use crate::node::Proxy;
use crate::resource::{Resource, ResourceType as Type, Resources};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A world that has the same for everybody.
pub(crate) struct World {
    pub(crate) resources: Resources,
    pub(crate) generated: Arc<AtomicUsize>,
}

impl Generator for World {
    type Scope = String;
    type Key = ();

    fn scope(&self, proxy: &Proxy) -> String {
        proxy.namespace.clone()
    }

    fn key(&self, _: &Proxy) {}

    fn generate(&self, part: Part, proxy: &Proxy, _: Option<Update<'_>>) -> Resources {
        if part == Part::Own {
            return Resources::default();
        }
        self.generated.fetch_add(1, Relaxed);
        assert_ne!(proxy.namespace, "bad", "this one panics");
        self.resources.clone()
    }

    fn origins(&self, _: Type, refused: &Resource, _: Option<&Resource>) -> Vec<Origin> {
        refused.origins().iter().map(|object| Origin { object: object.clone(), at: None }).collect()
    }

    fn written_at(&self, _: &str) -> Option<String> {
        None
    }

    fn touches_own(&self, (): &(), _: &Changes) -> bool {
        false
    }
}

/// A running server.
struct Running {
    shared: Arc<Shared<World>>,
    address: SocketAddr,
    generated: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Running {
    async fn start(resources: Resources) -> Self {
        Self::limited(resources, Limits::default()).await
    }

    async fn limited(resources: Resources, limits: Limits) -> Self {
        let (generated, stop) = (Arc::default(), CancellationToken::new());
        let world = World { resources, generated: Arc::clone(&generated) };
        let shared = Shared::new(Arc::new(world), |_| serde_json::Value::Null, limits, stop.clone());
        let socket = Bound::open("--grpc-addr", (std::net::Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = socket.address();
        tokio::spawn(serve_grpc(shared.clone(), socket, None));
        Self { shared, address, generated, stop }
    }

    fn publish(&self, resources: Resources) {
        let world = World { resources, generated: self.generated.clone() };
        self.shared.publish(Arc::new(world), Changes::everything(), Instant::now());
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn sotw(&self, id: &str) -> Sotw {
        Sotw::open(self.channel().await, id).await
    }

    /// Waits until what the server shows of its streams is as wanted.
    async fn shows(&self, what: &str, wanted: impl Fn(&Shared<World>) -> bool) {
        let look = async {
            while !wanted(&self.shared) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("not seen: {what}"));
    }
}

/// A state-of-the-world client.
struct Sotw {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    id: String,
    passed_over: VecDeque<DiscoveryResponse>,
}

fn node(id: &str) -> Option<Node> {
    Some(Node { id: id.to_owned(), ..Node::default() })
}

impl Sotw {
    async fn open(channel: Channel, id: &str) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let requests_stream = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.stream_aggregated_resources(requests_stream).await.unwrap().into_inner();
        Self { requests, responses, id: id.to_owned(), passed_over: VecDeque::new() }
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(DiscoveryRequest { node: node(&self.id), ..request }).await.unwrap();
    }

    async fn subscribe(&self, ty: Type, names: &[&str]) {
        let resource_names = names.iter().map(ToString::to_string).collect();
        self.send(DiscoveryRequest { type_url: ty.type_url().into(), resource_names, ..DiscoveryRequest::default() })
            .await;
    }

    async fn answer(&self, response: &DiscoveryResponse, error: Option<&str>) {
        let error_detail = error.map(|message| rpc::Status { message: message.into(), ..rpc::Status::default() });
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.send(DiscoveryRequest { type_url, response_nonce, error_detail, ..DiscoveryRequest::default() }).await;
    }

    async fn message(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        if let Some(response) = self.passed_over.pop_front() {
            return Ok(Some(response));
        }
        timeout(PATIENCE, self.responses.message()).await.expect("a response or the end of the stream")
    }

    /// The next response, with the names of the clusters or listeners in it.
    async fn next(&mut self) -> (DiscoveryResponse, usize) {
        let response = self.message().await.unwrap().expect("the stream goes on");
        let count = response.resources.len();
        (response, count)
    }
}

fn clusters(revision: u32) -> Resources {
    state(&[("a", revision), ("b", 1)], &[], &[])
}

fn type_status(shared: &Shared<World>, ty: Type) -> Vec<TypeStatus> {
    let of = |c: &Arc<connections::Connection>| c.state().types.iter().find(|t| t.ty == ty).map(|t| t.status);
    shared.connections.list().iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_change_reaches_a_client_and_its_answer_is_seen() {
    let server = Running::start(clusters(1)).await;
    let mut client = server.sotw("one").await;
    client.subscribe(Type::Cluster, &[]).await;
    let (first, count) = client.next().await;
    assert_eq!(count, 2);
    client.answer(&first, None).await;
    server.shows("synced", |shared| type_status(shared, Type::Cluster) == [TypeStatus::Synced]).await;
    server.publish(clusters(2));
    let (second, count) = client.next().await;
    assert_eq!(count, 2);
    assert_ne!(first.version_info, second.version_info);
    server.shows("stale", |shared| type_status(shared, Type::Cluster) == [TypeStatus::Stale]).await;
    client.answer(&second, None).await;
    server.shows("converged", |shared| shared.connections.metrics().convergence_seconds.count() == 1).await;
    assert_eq!(server.shared.connections.list()[0].state().synced, 2);
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason() {
    let server = Running::start(clusters(1)).await;
    let mut client = server.sotw("one").await;
    client.subscribe(Type::Cluster, &[]).await;
    let (response, _) = client.next().await;
    client.answer(&response, Some("no such thing")).await;
    server.shows("nacked", |shared| type_status(shared, Type::Cluster) == [TypeStatus::Nacked]).await;
    let state = server.shared.connections.list()[0].state();
    assert_eq!(state.types[0].nack.as_ref().unwrap().reason, "no such thing");
    assert_eq!(server.shared.connections.metrics().nacks[Type::Cluster as usize].value(), 1);
}

#[tokio::test]
async fn delta_sends_what_changed() {
    let server = Running::start(clusters(1)).await;
    let (requests, receiver) = mpsc::channel(16);
    let stream = stream::unfold(receiver, |mut receiver: mpsc::Receiver<DeltaDiscoveryRequest>| async {
        receiver.recv().await.map(|request| (request, receiver))
    });
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel().await);
    let mut responses = client.delta_aggregated_resources(stream).await.unwrap().into_inner();
    let request = |nonce: &str| DeltaDiscoveryRequest {
        node: node("delta"),
        type_url: Type::Cluster.type_url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request("")).await.unwrap();
    let mut next =
        async || -> DeltaDiscoveryResponse { timeout(PATIENCE, responses.message()).await.unwrap().unwrap().unwrap() };
    let first = next().await;
    assert_eq!(first.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    requests.send(request(&first.nonce)).await.unwrap();
    server.publish(state(&[("a", 2)], &[], &[]));
    let second = next().await;
    assert_eq!(second.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(second.removed_resources, ["b"]);
}

#[tokio::test]
async fn one_type_has_a_stream_of_its_own() {
    let server = Running::start(clusters(1)).await;
    let request = |type_url: &str| DiscoveryRequest {
        node: node("eds"),
        type_url: type_url.into(),
        resource_names: vec!["eds-a".into()],
        ..DiscoveryRequest::default()
    };
    let mut client = EndpointDiscoveryServiceClient::new(server.channel().await);
    for (type_url, served) in [("", true), (Type::Endpoints.type_url(), true), (Type::Cluster.type_url(), false)] {
        let open = stream::iter([request(type_url)]);
        let mut responses = client.stream_endpoints(open).await.unwrap().into_inner();
        match timeout(PATIENCE, responses.message()).await.unwrap() {
            Ok(response) => assert!(served && response.unwrap().resources.len() == 1),
            Err(status) => assert!(!served && status.code() == Code::InvalidArgument, "{status}"),
        }
    }
}

#[tokio::test]
async fn one_type_is_fetched_once() {
    let server = Running::start(clusters(1)).await;
    let mut client = ClusterDiscoveryServiceClient::new(server.channel().await);
    let request = |names: &[&str]| DiscoveryRequest {
        node: node("fetch"),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..DiscoveryRequest::default()
    };
    let all = client.fetch_clusters(request(&[])).await.unwrap().into_inner();
    assert_eq!((all.resources.len(), all.type_url.as_str()), (2, Type::Cluster.type_url()));
    assert_eq!(all.version_info, clusters(1).get(Type::Cluster).version().to_string());
    let one = client.fetch_clusters(request(&["b", "none"])).await.unwrap().into_inner();
    assert_eq!(one.resources.len(), 1);
    assert_ne!(one.version_info, all.version_info);
    for (bad, reason) in [
        (DiscoveryRequest { node: None, ..request(&[]) }, "no node"),
        (DiscoveryRequest { type_url: Type::Route.type_url().into(), ..request(&[]) }, "type_url"),
    ] {
        let status = client.fetch_clusters(bad).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(reason), "{status}");
    }
    // Nobody is connected for it, and nothing is kept.
    assert!(server.shared.connections.list().is_empty() && server.shared.cache.is_empty());
}

#[tokio::test]
async fn a_breach_of_protocol_ends_its_stream_and_no_other() {
    let server = Running::start(clusters(1)).await;
    let channel = server.channel().await;
    let mut good = Sotw::open(channel.clone(), "good").await;
    good.subscribe(Type::Cluster, &[]).await;
    let (first, _) = good.next().await;
    good.answer(&first, None).await;

    let wrong_nonce = DiscoveryRequest {
        type_url: Type::Cluster.type_url().into(),
        response_nonce: "77".into(),
        ..Default::default()
    };
    let other_node = DiscoveryRequest { type_url: Type::Cluster.type_url().into(), ..Default::default() };
    for (bad, id, reason) in [(wrong_nonce, "bad", "never sent"), (other_node, "other", "node.id changed")] {
        let mut client = Sotw::open(channel.clone(), "bad").await;
        client.subscribe(Type::Cluster, &[]).await;
        client.next().await;
        client.id = id.to_owned();
        client.send(bad).await;
        let status = client.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{status}");
    }
    let mut nameless = Sotw::open(channel.clone(), "").await;
    nameless.subscribe(Type::Cluster, &[]).await;
    assert!(nameless.message().await.unwrap_err().message().contains("node.id is empty"));
    assert_eq!(server.shared.connections.metrics().refused_streams.value(), 3);

    // What is not served is passed over, as are requests of no type at all, which Envoy sends.
    good.send(DiscoveryRequest::default()).await;
    good.send(DiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() }).await;
    server.publish(clusters(2));
    good.next().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let limits = Limits { max_message_bytes: 10_000, ..Limits::default() };
    let server = Running::limited(clusters(1), limits).await;
    let mut client = server.sotw("one").await;
    client.subscribe(Type::Route, &[&"x".repeat(20_000)]).await;
    assert_eq!(client.message().await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_not_sent_more_and_holds_nobody_up() {
    let server = Running::start(clusters(1)).await;
    let (mut slow, mut quick) = (server.sotw("slow").await, server.sotw("quick").await);
    slow.subscribe(Type::Cluster, &[]).await;
    quick.subscribe(Type::Cluster, &[]).await;
    let (unanswered, _) = slow.next().await;
    let (mut response, _) = quick.next().await;
    for revision in 2..=50 {
        quick.answer(&response, None).await;
        server.publish(clusters(revision));
        response = quick.next().await.0;
    }
    // Had anything been queued for the slow one, it would come before the newest.
    slow.answer(&unanswered, None).await;
    let (newest, _) = slow.next().await;
    assert_eq!(newest.version_info, response.version_info);
    assert_eq!(server.shared.connections.metrics().pushes[Type::Cluster as usize].value(), 50 + 2);
}

#[tokio::test]
async fn proxies_of_one_scope_share_what_they_get() {
    let server = Running::start(clusters(1)).await;
    let mut clients = Vec::new();
    for pod in ["a", "b", "c"] {
        let mut client = server.sotw(&format!("sidecar~10.0.0.1~{pod}.ns~ns.svc.cluster.local")).await;
        client.subscribe(Type::Cluster, &[]).await;
        client.next().await;
        clients.push(client);
    }
    assert_eq!((server.generated.load(Relaxed), server.shared.cache.len()), (1, 1));
    let mut other = server.sotw("sidecar~10.0.0.1~d.other~other.svc.cluster.local").await;
    other.subscribe(Type::Cluster, &[]).await;
    other.next().await;
    assert_eq!((server.generated.load(Relaxed), server.shared.cache.len()), (2, 2));
    drop(other);
    server.shows("what nobody needs is let go", |shared| shared.cache.len() == 1).await;
    let [first, second] = [0, 1].map(|n| server.shared.connections.list()[n].state().resources);
    assert!(Arc::ptr_eq(first.get(Type::Cluster), second.get(Type::Cluster)));
}

#[tokio::test]
async fn a_bug_in_generating_harms_only_whom_it_is_for() {
    let server = Running::start(clusters(1)).await;
    let mut bad = server.sotw("sidecar~10.0.0.1~x.bad~bad.svc.cluster.local").await;
    bad.subscribe(Type::Cluster, &[]).await;
    assert_eq!(bad.message().await.unwrap_err().code(), Code::Unavailable);
    let mut good = server.sotw("one").await;
    good.subscribe(Type::Cluster, &[]).await;
    good.next().await;
    assert_eq!(server.shared.connections.metrics().generation_failures.value(), 1);
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let server = Running::start(clusters(1)).await;
    let mut client = server.sotw("one").await;
    client.subscribe(Type::Cluster, &[]).await;
    client.next().await;
    server.stop.cancel();
    let status = client.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    server.shows("nobody is left", |shared| shared.connections.list().is_empty()).await;
    let metrics = server.shared.connections.metrics();
    assert_eq!(
        (metrics.streams.value(), metrics.connected_proxies.value(), metrics.unsynced_streams.value()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn health_is_told_until_the_server_stops() {
    use super::health::{Health, HealthRequest, HealthResponse};
    let server = Running::start(clusters(1)).await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    let ask = |service: &str| tonic::Request::new(HealthRequest { service: service.to_owned() });
    let path = |method: &str| format!("/grpc.health.v1.Health/{method}").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default;
    for (service, code) in
        [("", None), ("envoy.service.discovery.v3.AggregatedDiscoveryService", None), ("x", Some(Code::NotFound))]
    {
        grpc.ready().await.unwrap();
        match grpc.unary(ask(service), path("Check"), codec()).await {
            Ok(response) => assert_eq!((response.into_inner().status(), code), (Health::Serving, None)),
            Err(status) => assert_eq!(Some(status.code()), code, "{status}"),
        }
    }
    grpc.ready().await.unwrap();
    let mut watch = grpc.server_streaming(ask(""), path("Watch"), codec()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), Health::Serving);
    server.stop.cancel();
    let last = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(last.status(), Health::NotServing);
}
