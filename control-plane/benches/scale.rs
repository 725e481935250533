//! 1,000 services with 10 endpoints each and 1,000 simulated proxies, each of another workload, on one machine: how long an endpoint
//! change takes to reach and be accepted by all, what changes of routes and services take, what all connecting at once takes, and
//! what a connected proxy costs. A change counts from the text of its file to the last answer. The time that processors worked for
//! it says how much of that was the simulated proxies', which share them.
//!
//! `cargo bench -p weft --bench scale`; `WEFT_SCALE=100` for fewer. The proxies are a process of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use weft::generate::Changes;
use weft::model::World;
use weft::resource::ResourceType as Type;
use weft::server::{Bound, Limits, Shared, serve_grpc};
use weft::source::files::Directory;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

const ENDPOINTS: usize = 10;
const CHANGES: usize = 21;
/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|arg| arg == "proxies") {
        Some(at) => runtime.block_on(proxies(args[at + 1].parse()?, args[at + 2].parse()?)),
        None => runtime.block_on(measure()),
    }
}

fn ip(service: usize, endpoint: usize) -> String {
    format!("10.{}.{}.{}", endpoint + 1, service / 250, service % 250 + 1)
}

/// A service with its pods and their addresses; `moved` is how often its last endpoint has changed.
fn service(number: usize, moved: usize) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: svc-{number}, namespace: default}}\n\
         spec: {{clusterIP: 10.200.{}.{}, selector: {{app: svc-{number}}}, ports: [{{name: http, port: 8080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: svc-{number}, namespace: default, labels: {{kubernetes.io/service-name: svc-{number}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n",
        number / 250,
        number % 250 + 1
    );
    for endpoint in 0..ENDPOINTS {
        let shift = if endpoint + 1 == ENDPOINTS { moved % 100 } else { 0 };
        let address = ip(number, endpoint + shift);
        text += &format!(
            "- {{addresses: [{address}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: svc-{number}-{endpoint}}}}}\n"
        );
    }
    for endpoint in 0..ENDPOINTS {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: svc-{number}-{endpoint}, namespace: default, labels: {{app: svc-{number}}}}}\n\
             status: {{podIP: {}, phase: Running}}\n",
            ip(number, endpoint)
        );
    }
    text
}

fn route(timeout: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: one, namespace: default}}\n\
         spec: {{hosts: [svc-0], http: [{{timeout: {}s, route: [{{destination: {{host: svc-0}}}}]}}]}}\n",
        timeout + 1
    )
}

struct Mesh {
    directory: Directory,
    world: World,
    shared: Option<Arc<Shared<World>>>,
}

impl Mesh {
    fn put(&mut self, name: &str, text: &str) -> Changes {
        self.directory.put(Path::new(name), text);
        let (world, changes) = self.world.apply(self.directory.take_batch().changes);
        self.world = world;
        changes
    }

    /// Takes a file over, publishes, and waits until all have accepted.
    async fn converge(&mut self, name: &str, text: &str, streams: usize) -> Result<(Changes, Took)> {
        let (started, ours) = (Instant::now(), processor_time("self")?);
        let changes = self.put(name, text);
        let applied = started.elapsed();
        let shared = self.shared.as_ref().context("not served")?;
        let sequence = shared.publish(Arc::new(self.world.clone()), changes.clone(), started);
        all(shared, sequence, streams).await?;
        Ok((changes, Took { whole: started.elapsed(), applied, ours: processor_time("self")? - ours }))
    }
}

/// What a change took.
#[derive(Clone, Copy)]
struct Took {
    whole: Duration,
    /// From the text of the file to a world.
    applied: Duration,
    /// The time processors worked for this process.
    ours: Duration,
}

/// The time processors have worked for a process.
fn processor_time(process: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name may have spaces; user and system time are the 12th and 13th field after it, in hundredths of a second.
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Waits until all streams have accepted a world.
async fn all(shared: &Shared<World>, sequence: u64, streams: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let metrics = shared.connections.metrics();
    loop {
        // Cheap to ask first; the list says it for certain.
        if metrics.streams.value() == i64::try_from(streams)? && metrics.unsynced_streams.value() == 0 {
            let list = shared.connections.list();
            if list.iter().all(|connection| connection.synced() >= sequence) {
                return Ok(());
            }
        }
        ensure!(Instant::now() < end, "not all have followed within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn resident_kib() -> Result<i64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Kills the proxies with it.
struct Proxies(Child);

impl Drop for Proxies {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

async fn measure() -> Result<()> {
    let size: usize = std::env::var("WEFT_SCALE").map_or(Ok(1000), |text| text.parse())?;
    let mut mesh = Mesh { directory: Directory::default(), world: World::default(), shared: None };
    let started = Instant::now();
    for number in 0..size {
        mesh.directory.put(Path::new(&format!("{number}.yaml")), &service(number, 0));
    }
    mesh.put("route.yaml", &route(0));
    println!("{size} services x {ENDPOINTS} endpoints: read and indexed in {:.2?}", started.elapsed());

    let stop = CancellationToken::new();
    let shared =
        Shared::new(Arc::new(mesh.world.clone()), |_| serde_json::Value::Null, Limits::default(), stop.clone());
    mesh.shared = Some(shared.clone());
    let socket = Bound::open("scale", ([127, 0, 0, 1], 0).into()).await?;
    let address = socket.address();
    let server = tokio::spawn(serve_grpc(shared.clone(), socket, None));

    // One proxy first: what all share is there then.
    let first = spawn(address, 1)?;
    all(&shared, 1, 1).await?;
    let base = resident_kib()?;
    drop(first);
    let (started, ours) = (Instant::now(), processor_time("self")?);
    let proxies = spawn(address, size)?;
    all(&shared, 1, size).await?;
    let connected = resident_kib()?;
    let per_proxy = (connected - base) as f64 / size as f64;
    println!(
        "{size} proxies of {} scopes and {} kinds connected at once and synced in {:.2?}; processor time {:.2?}, theirs {:.2?}",
        shared.cache.scopes(),
        shared.cache.len(),
        started.elapsed(),
        processor_time("self")? - ours,
        processor_time(&proxies.0.id().to_string())?,
    );
    println!("memory: {} MiB, {per_proxy:.1} KiB for each proxy more", connected / 1024);

    let their_time = || processor_time(&proxies.0.id().to_string());
    let (mut times, theirs) = (Vec::new(), their_time()?);
    for moved in 1..=CHANGES {
        let number = moved % size;
        let (changes, took) = mesh.converge(&format!("{number}.yaml"), &service(number, moved), size).await?;
        ensure!(changes == Changes { endpoints: changes.endpoints.clone(), ..Changes::default() }, "{changes:?}");
        ensure!(changes.endpoints.len() == 1, "{changes:?}");
        times.push(took);
    }
    report("an endpoint of one service moves", &mut times, their_time()? - theirs);

    let (mut times, theirs) = (Vec::new(), their_time()?);
    for timeout in 1..=5 {
        times.push(mesh.converge("route.yaml", &route(timeout), size).await?.1);
    }
    report("a route changes", &mut times, their_time()? - theirs);

    let (mut times, theirs) = (Vec::new(), their_time()?);
    for number in 0..5 {
        let text = service(number, 0).replace("port: 8080}]}\n---", "port: 8080, appProtocol: http2}]}\n---");
        times.push(mesh.converge(&format!("{number}.yaml"), &text, size).await?.1);
    }
    report("a service changes", &mut times, their_time()? - theirs);
    println!("memory at the end: {} MiB", resident_kib()? / 1024);
    stop.cancel();
    server.await??;
    Ok(())
}

/// `theirs`: the processor time of the proxies for all of the changes.
fn report(what: &str, times: &mut [Took], theirs: Duration) {
    times.sort_by_key(|took| took.whole);
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    println!(
        "{what}: accepted by all after {:.2?} at the median, {:.2?} at most, of {count}; {:.1?} of it until there is a world; \
         processor time {:.2?}, theirs {:.2?}",
        median.whole,
        most.whole,
        median.applied,
        times.iter().map(|took| took.ours).sum::<Duration>() / count,
        theirs / count,
    );
}

fn spawn(address: SocketAddr, count: usize) -> Result<Proxies> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["proxies", &address.to_string(), &count.to_string()]).stdin(Stdio::null());
    Ok(Proxies(command.spawn()?))
}

/// The simulated proxies: they subscribe as Envoy does, accept everything, and keep nothing.
async fn proxies(address: SocketAddr, count: usize) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        tasks.spawn(proxy(address, number));
    }
    while let Some(ended) = tasks.join_next().await {
        // The server stops at the end.
        drop(ended?);
    }
    Ok(())
}

async fn proxy(address: SocketAddr, number: usize) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let (requests, receiver) = mpsc::channel::<DeltaDiscoveryRequest>(16);
    let outgoing =
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|request| (request, receiver)) });
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let id = format!("sidecar~{}~svc-{number}-0.default~default.svc.cluster.local", ip(number, 0));
    let node = Node { id, ..Node::default() };
    requests.send(DeltaDiscoveryRequest { node: Some(node), ..request(Type::Cluster) }).await?;
    let mut responses = client.delta_aggregated_resources(outgoing).await?.into_inner();
    let mut listening = false;
    while let Some(response) = responses.message().await? {
        let ty = Type::from_type_url(&response.type_url).context("an unknown type")?;
        let answer = DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..request(ty) };
        requests.send(answer).await?;
        if ty == Type::Cluster {
            let names = eds_names(&response);
            if !names.is_empty() {
                let request = DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(Type::Endpoints) };
                requests.send(request).await?;
            }
        }
        if ty == Type::Endpoints && !listening {
            listening = true;
            requests.send(request(Type::Listener)).await?;
            let routes = vec!["8080".to_owned()];
            requests.send(DeltaDiscoveryRequest { resource_names_subscribe: routes, ..request(Type::Route) }).await?;
        }
    }
    Ok(())
}

fn request(ty: Type) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: ty.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

/// The endpoints that clusters in a response ask for.
fn eds_names(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let cluster = |resource: &weft_proto::pb::envoy::service::discovery::v3::Resource| {
        let cluster: Cluster = prost::Message::decode(resource.resource.as_ref()?.value.as_slice()).ok()?;
        let eds = cluster.eds_cluster_config?;
        Some(if eds.service_name.is_empty() { cluster.name } else { eds.service_name })
    };
    response.resources.iter().filter_map(cluster).collect()
}
