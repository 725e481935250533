//! All pods: started as they are wanted, and ended when they are not.
//!
//! Owns who runs. A pod whose template changed has another name, so that both run until the new one serves. Runs as one task on
//! the main thread's runtime, with a task for each pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fabric::{self, Fabric};
use super::local;
use super::plan::{Desired, PodPlan};
use super::pod::{Phase, Pod, Surroundings, addresses_of};
use crate::model::World;
use crate::server::Shared;
use crate::source::Change;

/// How long a pod still serves after every proxy knows that it ends: for requests that were on their way.
const LAME_DUCK: Duration = Duration::from_millis(500);
/// How long proxies may take to follow before nobody waits for them any more.
const FOLLOW: Duration = Duration::from_secs(10);
/// How many pods there may be.
const LAST: u32 = 60_000;
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(10);

/// What is there of pods, for those who look.
#[derive(Default)]
pub struct Pods {
    by_name: Mutex<BTreeMap<String, Arc<Pod>>>,
    open: Mutex<BTreeSet<SocketAddr>>,
    changed: watch::Sender<u64>,
}

impl Pods {
    /// All pods, by full name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.by_name.lock().values().cloned().collect()
    }

    /// Tells whenever a pod comes, goes, or changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// This machine's addresses of gateways.
    #[must_use]
    pub fn open(&self) -> Vec<SocketAddr> {
        self.open.lock().iter().copied().collect()
    }

    /// Sets this machine's addresses of gateways.
    pub fn set_open(&self, open: impl IntoIterator<Item = SocketAddr>) {
        *self.open.lock() = open.into_iter().collect();
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// The pods, and what they are made in.
pub struct Mesh {
    fabric: Fabric,
    around: Arc<Surroundings>,
    pods: Arc<Pods>,
    known: Known,
    /// Numbers of addresses that are taken.
    numbers: BTreeSet<u32>,
    /// Where the next number is looked for.
    next: u32,
    running: JoinSet<()>,
    /// What each task runs.
    tasks: BTreeMap<Id, (String, u32)>,
}

impl Mesh {
    /// No pods yet. `changes` is told of each one, and leads to what `shared` serves.
    #[must_use]
    pub fn new(
        fabric: Fabric,
        around: Surroundings,
        pods: Arc<Pods>,
        changes: mpsc::Sender<Change>,
        shared: Arc<Shared<World>>,
    ) -> Self {
        let (numbers, next, running, tasks) = Default::default();
        let known = Known { changes, shared };
        Self { fabric, around: Arc::new(around), pods, known, numbers, next, running, tasks }
    }

    /// Keeps what is wanted running until `stop`; then ends everything.
    pub async fn follow(mut self, mut desired: watch::Receiver<Desired>, stop: CancellationToken) {
        let mut phases = self.pods.changed();
        loop {
            let wanted = desired.borrow_and_update().clone();
            self.reconcile(&wanted).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = desired.changed() => if changed.is_err() { break },
                _ = phases.changed() => {}
                Some(ended) = self.running.join_next_with_id() => self.forget(ended.map_or_else(|e| e.id(), |(id, ())| id)),
            }
        }
        for pod in self.pods.all() {
            pod.stop.cancel();
        }
        while self.running.join_next().await.is_some() {}
    }

    fn forget(&mut self, id: Id) {
        if let Some((name, number)) = self.tasks.remove(&id) {
            self.numbers.remove(&number);
            self.pods.by_name.lock().remove(&name);
            self.pods.touch();
        }
    }

    async fn reconcile(&mut self, wanted: &Desired) {
        for (name, plan) in wanted {
            let before = self.pods.by_name.lock().get(name).cloned();
            match before {
                None => {
                    if let Err(error) = self.start(plan.clone()).await {
                        tracing::error!(pod = name, "cannot be started: {error:#}");
                    }
                }
                // Of the same name and another kind: it begins anew when it has ended.
                Some(pod) if pod.plan != *plan => pod.stop.cancel(),
                Some(_) => {}
            }
        }
        for pod in self.pods.all() {
            if !wanted.contains_key(&pod.plan.full_name()) && self.is_replaced(&pod, wanted) {
                pod.stop.cancel();
            }
        }
    }

    /// Whether everything that takes this pod's place serves.
    fn is_replaced(&self, old: &Pod, wanted: &Desired) -> bool {
        let pods = self.pods.by_name.lock();
        let same = |plan: &&Arc<PodPlan>| plan.workload == old.plan.workload && plan.namespace == old.plan.namespace;
        wanted.values().filter(same).all(|plan| {
            let phase = pods.get(&plan.full_name()).map(|pod| pod.phase().borrow().clone());
            matches!(phase, Some(Phase::Ready | Phase::Failed(_)))
        })
    }

    async fn start(&mut self, plan: Arc<PodPlan>) -> Result<()> {
        // Not one that somebody had just now: who has not heard of it yet would take this pod for that one.
        let candidates = (self.next..LAST).chain(0..self.next);
        let free = candidates.into_iter().find(|number| !self.numbers.contains(number)).unwrap_or(LAST);
        self.next = (free + 1) % LAST;
        let addresses = addresses_of(free).ok_or_else(|| anyhow::anyhow!("there are no free addresses"))?;
        let (v4, v6) = fabric::pod_address(free).ok_or_else(|| anyhow::anyhow!("there are no free addresses"))?;
        let namespace = self.fabric.attach(free, v4, v6).await?;
        let pod = Arc::new(Pod::new(plan.clone(), addresses, namespace));
        self.numbers.insert(free);
        self.pods.by_name.lock().insert(plan.full_name(), pod.clone());
        self.pods.touch();
        let life = live(pod, self.around.clone(), self.known.clone(), self.pods.clone());
        let task = self.running.spawn(life);
        self.tasks.insert(task.id(), (plan.full_name(), free));
        Ok(())
    }
}

/// What the pods tell the control plane, and what it knows.
#[derive(Clone)]
struct Known {
    changes: mpsc::Sender<Change>,
    shared: Arc<Shared<World>>,
}

impl Known {
    /// Says how a pod is, and waits until every proxy has followed.
    async fn tell(&self, pod: &Pod, ready: bool) {
        let object = Arc::new(local::running(&pod.plan, &pod.addresses, ready));
        if self.changes.send(Change::Applied(object.clone())).await.is_err() {
            return;
        }
        let followed = async {
            let mut worlds = self.shared.cache.subscribe();
            let has = |world: &World| world.objects().by_key(&object.key) == Some(&object);
            let sequence = match worlds.wait_for(|published| has(&published.world)).await {
                Ok(published) => published.sequence,
                // The control plane has ended.
                Err(_) => return,
            };
            while !self.shared.connections.have_followed(sequence) {
                sleep(LOOK).await;
            }
        };
        // A proxy that refuses something keeps nobody from going on.
        let _ = timeout(FOLLOW, followed).await;
    }
}

/// A pod from its start to its end; the control plane knows it meanwhile.
async fn live(pod: Arc<Pod>, around: Arc<Surroundings>, known: Known, pods: Arc<Pods>) {
    if let Some(reason) = &pod.plan.unrunnable {
        tracing::error!(pod = pod.plan.full_name(), "{reason}");
        pod.fail(reason.clone());
        pods.touch();
        pod.stop.cancelled().await;
        return;
    }
    // Its own token: it serves on for a moment after its end is asked for.
    let end = CancellationToken::new();
    let running = async {
        tokio::select! {
            () = pod.run(&around, &end) => {}
            never = report(&pod, &known, &pods) => match never {},
        }
    };
    let ending = async {
        pod.stop.cancelled().await;
        known.tell(&pod, false).await;
        sleep(LAME_DUCK).await;
        end.cancel();
    };
    tokio::join!(running, ending);
    pod.clear(&around);
    let _ = known.changes.send(Change::Deleted(local::pod_key(&pod.plan))).await;
}

/// Says what becomes of a pod, until its end is asked for.
async fn report(pod: &Pod, known: &Known, pods: &Pods) -> std::convert::Infallible {
    let mut phase = pod.phase();
    loop {
        let now = phase.borrow_and_update().clone();
        pods.touch();
        // What ends is not told of any more: it was said that it does.
        if !pod.stop.is_cancelled() {
            match now {
                Phase::Ready => {}
                Phase::Started => {
                    // It may end, or end up otherwise, while others learn that it serves.
                    tokio::select! {
                        () = known.tell(pod, true) => pod.known(),
                        _ = phase.changed() => phase.mark_changed(),
                        () = pod.stop.cancelled() => {}
                    }
                }
                _ => {
                    let object = local::running(&pod.plan, &pod.addresses, false);
                    let _ = known.changes.send(Change::Applied(Arc::new(object))).await;
                }
            }
        }
        if phase.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
