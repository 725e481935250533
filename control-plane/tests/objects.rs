//! Where the author of an object looks: what a proxy refuses is told of the objects it was made of, and `weft wait` waits for one.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use support::{load_files, sidecars, with_pods};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use weft::model::World;
use weft::node::Proxy;
use weft::resource::{ResourceType as Type, Resources};
use weft::server::{Bound, Limits, Shared, serve_grpc, serve_http};
use weft::source::files::Directory;
use weft::translate::generate;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::pb::google::rpc;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {clusterIP: 10.0.0.2, selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec: {hosts: [ratings], http: [{route: [{destination: {host: ratings}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
";

fn reviews(seconds: u32) -> String {
    format!(
        "# A comment, so that it does not begin in the first line.\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: reviews}}\nspec: {{hosts: [reviews], http: [{{timeout: {seconds}s, route: [{{destination: {{host: reviews}}}}]}}]}}\n"
    )
}

/// A control plane in this process, asked by the real command.
struct Plane {
    directory: Directory,
    world: World,
    shared: Arc<Shared<World>>,
    grpc: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
}

impl Plane {
    async fn start(files: &[(&str, &str)]) -> Result<Self> {
        let mut directory = Directory::default();
        files.iter().for_each(|(name, text)| directory.put(Path::new(name), text));
        let world = World::default().apply(directory.take_batch().changes).0;
        let stop = CancellationToken::new();
        let describe = weft::feed::describe;
        let shared = Shared::new(Arc::new(world.clone()), describe, Limits::default(), stop.clone());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (grpc, http) = (Bound::open("grpc", any).await?, Bound::open("http", any).await?);
        let (grpc_address, http_address) = (grpc.address(), http.address());
        tokio::spawn(serve_grpc(shared.clone(), grpc, None));
        tokio::spawn(serve_http(shared.clone(), http));
        Ok(Self { directory, world, shared, grpc: grpc_address, http: http_address, stop })
    }

    fn change(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.directory.put(Path::new(name), text),
            None => self.directory.remove(Path::new(name)),
        }
        let (world, changes) = self.world.apply(self.directory.take_batch().changes);
        self.world = world.clone();
        self.shared.publish(Arc::new(world), changes, Instant::now());
    }

    async fn weft(&self, line: &str) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(line.split(' ')).env("WEFT_CONTROL_PLANE", self.http.to_string()).kill_on_drop(true);
        timeout(PATIENCE, command.output()).await.with_context(|| line.to_owned())?.context("weft")
    }

    /// What a command says that succeeds.
    async fn says(&self, line: &str) -> Result<String> {
        let run = self.weft(line).await?;
        ensure!(run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stderr));
        Ok(String::from_utf8(run.stdout)?)
    }

    /// What a command complains of that fails.
    async fn fails(&self, line: &str) -> Result<String> {
        let run = self.weft(line).await?;
        ensure!(!run.status.success(), "{line}: {}", String::from_utf8_lossy(&run.stdout));
        Ok(String::from_utf8(run.stderr)?)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A client of the incremental protocol.
struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn open(plane: &Plane) -> Result<Self> {
        let (requests, receiver) = mpsc::channel::<DeltaDiscoveryRequest>(16);
        let outgoing =
            stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|request| (request, receiver)) });
        let id = "sidecar~10.1.1.1~client-1.default~default.svc.cluster.local".to_owned();
        let node = Some(Node { id, ..Node::default() });
        let cluster = DeltaDiscoveryRequest { node, type_url: Type::Cluster.type_url().into(), ..Default::default() };
        requests.send(cluster).await?;
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{}", plane.grpc)).await?;
        let responses = client.delta_aggregated_resources(outgoing).await?.into_inner();
        let mut client = Self { requests, responses };
        client.answer(Type::Cluster, None).await?;
        let type_url = Type::Route.type_url().into();
        let names = vec!["9080".to_owned()];
        let routes = DeltaDiscoveryRequest { type_url, resource_names_subscribe: names, ..Default::default() };
        client.requests.send(routes).await?;
        client.answer(Type::Route, None).await?;
        Ok(client)
    }

    async fn next(&mut self, ty: Type) -> Result<DeltaDiscoveryResponse> {
        let response = timeout(PATIENCE, self.responses.message()).await.context("no response")??;
        let response = response.context("the stream has ended")?;
        ensure!(response.type_url == ty.type_url(), "not {ty}: {}", response.type_url);
        Ok(response)
    }

    async fn say(&self, to: &DeltaDiscoveryResponse, error: Option<&str>) -> Result<()> {
        let error_detail = error.map(|message| rpc::Status { message: message.to_owned(), ..Default::default() });
        let (type_url, response_nonce) = (to.type_url.clone(), to.nonce.clone());
        let answer = DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() };
        self.requests.send(answer).await.context("say")
    }

    async fn answer(&mut self, ty: Type, error: Option<&str>) -> Result<()> {
        let response = self.next(ty).await?;
        self.say(&response, error).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_of_the_object_that_changed() -> Result<()> {
    let mut plane = Plane::start(&[("all.yaml", SERVICES), ("reviews.yaml", &reviews(1))]).await?;
    let mut client = Client::open(&plane).await?;
    plane.says("wait --timeout 20s").await?;
    assert_eq!(plane.says("status").await?.trim_end(), "nothing is wrong with any object");
    plane.change("reviews.yaml", Some(&reviews(2)));
    client.answer(Type::Route, Some("no such thing")).await?;

    let wait = plane.fails("wait virtualservice/reviews --timeout 1s").await?;
    assert!(wait.contains("VirtualService default/reviews (reviews.yaml:2): 0 of 1 proxies run it as it is"), "{wait}");
    assert!(wait.contains("client-1.default has refused RDS 9080: no such thing"), "{wait}");
    // The table has routes of ratings as well, but these have not changed.
    let status = plane.says("status").await?;
    assert!(status.contains("VirtualService default/reviews   reviews.yaml:2   0          1"), "{status}");
    assert!(status.contains("default~default.svc.cluster.local refused RDS at "), "{status}");
    assert!(!status.contains("ratings"), "{status}");
    let proxies = plane.says("proxy-status").await?;
    assert!(proxies.contains("\n  made of VirtualService default/reviews (reviews.yaml:2)\n"), "{proxies}");

    plane.change("reviews.yaml", Some(&reviews(3)));
    client.answer(Type::Route, None).await?;
    let wait = plane.says("wait virtualservice/reviews.default --timeout 20s").await?;
    assert!(wait.contains("1 of 1 proxies run it as it is"), "{wait}");
    assert_eq!(plane.says("status").await?.trim_end(), "nothing is wrong with any object");
    assert!(plane.says("status vs/ratings").await?.contains("all.yaml:"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_is_for_one_object_there_or_gone() -> Result<()> {
    let mut plane = Plane::start(&[("all.yaml", SERVICES), ("reviews.yaml", &reviews(1))]).await?;
    let mut client = Client::open(&plane).await?;
    plane.says("wait virtualservice/reviews --timeout 20s").await?;
    plane.change("reviews.yaml", Some(&reviews(2)));
    let response = client.next(Type::Route).await?;
    let wait = plane.fails("wait vs/reviews --timeout 1s").await?;
    assert!(wait.contains("client-1.default has not answered for RDS 9080"), "{wait}");
    // What has nothing to do with it is waited for by itself.
    let rule = plane.says("wait destinationrules/reviews -n default --timeout 20s").await?;
    assert!(rule.contains("DestinationRule default/reviews (all.yaml:"), "{rule}");
    client.say(&response, None).await?;
    plane.says("wait vs/reviews --timeout 20s").await?;

    let there = plane.fails("wait vs/reviews --for delete --timeout 300ms").await?;
    assert!(there.contains("VirtualService default/reviews is still there (reviews.yaml:2)"), "{there}");
    plane.change("reviews.yaml", None);
    let response = client.next(Type::Route).await?;
    let going = plane.fails("wait vs/reviews --for delete --timeout 300ms").await?;
    assert!(going.contains("is gone, but 1 of 1 proxies are not done with it"), "{going}");
    client.say(&response, None).await?;
    let gone = plane.says("wait vs/reviews --for delete --timeout 20s").await?;
    assert!(gone.contains("VirtualService default/reviews is gone, from all proxies too"), "{gone}");
    let missing = plane.fails("wait vs/reviews --timeout 300ms").await?;
    assert!(missing.contains("VirtualService default/reviews is not there"), "{missing}");
    // An object of which no proxy has anything.
    plane.change("alone.yaml", Some(&reviews(1).replace("reviews", "alone")));
    let alone = plane.fails("wait vs/alone --timeout 300ms").await?;
    assert!(alone.contains("1 wanted at least: no other proxy that is connected has something of it"), "{alone}");
    plane.says("wait vs/alone --proxies 0 --timeout 20s").await?;
    Ok(())
}

/// The objects that a resource is made of.
fn origins(resources: &Resources, ty: Type, name: &str) -> Vec<String> {
    let resource = resources.get(ty).get(name).unwrap_or_else(|| panic!("no {ty} {name}"));
    resource.origins().iter().map(ToString::to_string).collect()
}

#[test]
fn resources_know_the_objects_they_are_made_of() {
    let files = [
        "platform/kube/bookinfo.yaml",
        "networking/bookinfo-gateway.yaml",
        "networking/destination-rule-all.yaml",
        "networking/virtual-service-reviews-jason-v2-v3.yaml",
        "policy/productpage_envoy_ratelimit.yaml",
    ];
    let objects = with_pods(load_files(&files).objects);
    let world = World::of(objects.clone());
    let sidecar = generate(&world, &sidecars(&objects)["productpage-v1-0"]);
    let subset = "outbound|9080|v2|reviews.default.svc.cluster.local";
    let of_subset = ["DestinationRule default/reviews", "Service default/reviews"];
    assert_eq!(origins(&sidecar, Type::Cluster, subset), of_subset);
    assert_eq!(origins(&sidecar, Type::Endpoints, subset), of_subset);
    assert_eq!(origins(&sidecar, Type::Route, "9080"), ["VirtualService default/reviews"]);
    let inbound = origins(&sidecar, Type::Listener, "virtualInbound");
    assert_eq!(inbound, ["Service default/productpage"]);
    assert_eq!(origins(&sidecar, Type::Cluster, "PassthroughCluster"), [""; 0]);

    let labels = [("istio".to_owned(), "ingressgateway".to_owned())].into();
    let gateway = Proxy::gateway([10, 0, 0, 9].into(), "gw", "istio-system", labels);
    let gateway = generate(&world, &gateway);
    let listener = origins(&gateway, Type::Listener, "0.0.0.0_8080");
    assert_eq!(listener, ["EnvoyFilter istio-system/filter-ratelimit", "Gateway default/bookinfo-gateway"]);
    let table = origins(&gateway, Type::Route, "http.8080");
    assert_eq!(table, ["EnvoyFilter istio-system/filter-ratelimit-svc", "VirtualService default/bookinfo"]);
}
