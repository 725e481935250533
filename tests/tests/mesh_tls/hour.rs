//! An hour of a mesh's life in five minutes: certificates of a minute, roots that are replaced, a control plane that is killed, workloads
//! that are scaled and rolled, all under a constant load. `WEFT_HOUR_SECONDS` for another length.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use weft_tests::load::setting;
use weft_tests::locate::Kind;
use weft_tests::mesh::{Root, Workload};
use weft_tests::ports::Reserved;
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

use super::rotation::{ONE_REQUEST, ask_for_another, replaced, roots};
use super::scene::{Caller, Mesh, Prober, Protocol, skipped};

/// How often each kind of request is made, per second.
const RATE: u64 = 20;

/// Requests of one kind: how many were made, and how many were answered.
#[derive(Default)]
struct Count {
    made: AtomicUsize,
    answered: AtomicUsize,
    /// When and how some that were not answered failed.
    failures: Mutex<Vec<String>>,
}

impl Count {
    fn failed(&self, how: String) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < 10 {
            failures.push(how);
        }
    }
}

/// What goes on all the time.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<Count>,
    strangers: Arc<Count>,
    tasks: JoinSet<()>,
}

impl Load {
    fn new() -> Self {
        let (stop, served, strangers) = Default::default();
        Self { stop, served, strangers, tasks: JoinSet::new() }
    }

    /// Asks at a constant rate, whether or not what was asked before has been answered.
    fn ask(&mut self, prober: &Prober, caller: Caller, protocol: Protocol) {
        let (prober, stop) = (prober.clone(), self.stop.clone());
        let count = if matches!(caller, Caller::Sidecar) { &self.served } else { &self.strangers }.clone();
        self.tasks.spawn(async move {
            let mut under_way = JoinSet::new();
            let began = Instant::now();
            let mut due = began;
            while !stop.load(Relaxed) {
                due += Duration::from_millis(1000 / RATE);
                sleep_until(due).await;
                let (prober, caller, count) = (prober.clone(), caller.clone(), count.clone());
                under_way.spawn(async move {
                    count.made.fetch_add(1, Relaxed);
                    match prober.called(&caller, protocol).await {
                        Ok(()) => drop(count.answered.fetch_add(1, Relaxed)),
                        Err(error) => count.failed(format!("{:?}: {protocol:?}: {error:#}", due - began)),
                    }
                });
                while under_way.try_join_next().is_some() {}
            }
            while under_way.join_next().await.is_some() {}
        });
    }

    async fn end(&mut self) {
        self.stop.store(true, Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The replicas that come and go beside the first.
struct Replicas {
    running: Vec<(Workload, World, Reserved)>,
    gone: Vec<IpAddr>,
    next: usize,
}

impl Replicas {
    /// Adds one, and returns when every proxy knows of it.
    async fn add(&mut self, mesh: &Mesh) -> Result<()> {
        let place = Reserved::new()?;
        let mut workload = Workload { ttl: ttl(), ..Workload::new("echo", "shop", place.port()) };
        workload.pod = format!("echo-{}", self.next);
        self.next += 1;
        let proxy = World::start(Kind::Weft, &workload.weft(&mesh.plane).await?).await?;
        self.running.push((workload, proxy, place));
        self.tell(mesh).await
    }

    /// Takes the oldest away: first nobody is sent there any more, then its proxy is asked to end.
    async fn remove(&mut self, mesh: &Mesh) -> Result<()> {
        let (workload, mut proxy, _place) = self.running.remove(0);
        self.gone.push(workload.ip);
        self.tell(mesh).await?;
        proxy.proxy.terminate().await?;
        let ended = proxy.proxy.end(Duration::from_secs(60)).await.context("a replica's proxy does not end")?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    }

    async fn tell(&self, mesh: &Mesh) -> Result<()> {
        let mut pods = String::new();
        for (workload, ..) in &self.running {
            let _ = write!(pods, "{}", workload.pod());
        }
        mesh.plane.write("replicas.yaml", &pods)?;
        // The caller's own word: nobody else knows where the next connection goes.
        let known = || async {
            let clusters = mesh.client.proxy.admin().text("/clusters").await.ok()?;
            let has = |ip: &IpAddr| clusters.contains(&format!("::{ip}:"));
            let all = self.running.iter().all(|(of, ..)| has(&of.ip));
            (all && !self.gone.iter().any(has)).then_some(())
        };
        eventually("the caller knows the replicas", PATIENCE * 2, known).await
    }
}

fn seconds() -> u64 {
    setting("WEFT_HOUR_SECONDS", 300)
}

fn ttl() -> u32 {
    u32::try_from(seconds() / 5).unwrap_or(u32::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_life_in_five_minutes() -> Result<()> {
    if skipped(Kind::Weft) {
        return Ok(());
    }
    let began = Instant::now();
    let mut mesh = Mesh::start(Kind::Weft, ttl(), false, ONE_REQUEST).await?;
    mesh.reached(&Caller::Sidecar, Protocol::Http1).await?;
    let mut load = Load::new();
    for protocol in [Protocol::Http1, Protocol::Grpc, Protocol::Tcp] {
        load.ask(&mesh.prober, Caller::Sidecar, protocol);
    }
    let stranger = Root::new("Stranger")?.identity("spiffe://cluster.local/ns/default/sa/client", false)?;
    for caller in [Caller::Plaintext, Caller::Tls(None), Caller::Tls(Some(stranger))] {
        load.ask(&mesh.prober, caller, Protocol::Http1);
    }

    let mut replicas = Replicas { running: Vec::new(), gone: Vec::new(), next: 1 };
    for round in 0..3 {
        replicas.add(&mesh).await?;
        let before = roots(&mesh);
        if round < 2 {
            ask_for_another(&mesh).await?;
        }
        // Scaled up, and rolled: the new one comes before the old one goes.
        replicas.add(&mesh).await?;
        replicas.remove(&mesh).await?;
        mesh.plane.kill().await?;
        sleep(Duration::from_secs(seconds() / 30)).await;
        mesh.plane.restart().await?;
        mesh.plane.quiet(2).await?;
        if round < 2 {
            replaced(&mesh, &before, ttl()).await?;
        }
        replicas.remove(&mesh).await?;
    }
    sleep_until(began + Duration::from_secs(seconds())).await;
    load.end().await;

    let (made, answered) = (load.served.made.load(Relaxed), load.served.answered.load(Relaxed));
    let (tried, let_in) = (load.strangers.made.load(Relaxed), load.strangers.answered.load(Relaxed));
    let certificates = mesh.plane.metric("weft_ca_certificates_total").await?;
    println!(
        "{made} requests, {tried} of strangers, {certificates} certificates since the last start, {:?}",
        began.elapsed()
    );
    let how = load.served.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(made == answered, "{} of {made} requests failed: {how:#?}\n{}", made - answered, mesh.plane.log());
    ensure!(let_in == 0 && tried > 50, "{let_in} of {tried} strangers were let in");
    Ok(())
}
