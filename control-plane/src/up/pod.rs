//! A pod that runs: its namespace, its proxy, and then its application.
//!
//! Owns the order. The proxy is ready before the application starts, and outlives its last request: it ends after it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fabric;
use super::names;
use super::namespace::Namespace;
use super::plan::{Command, PodPlan};
use super::probes::{self, Asker, Purpose};
use super::process::{Process, Start, describe};
use crate::ca::Ca;
use crate::capture::{Backend, PROXY_ID, Rules};

/// Nobody's user: what an application is whose mesh root has started.
const NOBODY: u32 = 65534;
/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether something listens.
const LOOK: Duration = Duration::from_millis(20);
/// The first pause before a process that ended is started again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// For how long a pod may prove who it is: longer than a mesh on one machine is up.
const TOKEN: Duration = Duration::from_secs(90 * 24 * 3600);
/// The proxy's port of health.
const HEALTH: u16 = 15021;

/// How far a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its network is made.
    Starting,
    /// Its proxy has no configuration yet.
    WaitingForProxy,
    /// Its application does not listen yet.
    WaitingForApplication,
    /// Its application listens; not every proxy knows it yet.
    Started,
    /// It serves, and everybody knows it.
    Ready,
    /// Its probes say that it cannot be used now.
    NotReady(String),
    /// Something ended, and is started again.
    Restarting(String),
    /// It cannot run.
    Failed(String),
    /// It ends.
    Stopping,
}

/// What all pods share.
pub struct Surroundings {
    /// Where the control plane is for pods.
    pub discovery: String,
    /// Who gives pods their identities.
    pub authority: Arc<Ca>,
    /// Where pods' tokens are written.
    pub tokens: PathBuf,
    /// Whom pods trust as the control plane.
    pub root: PathBuf,
    /// For how long pods' certificates are good, if not for the authority's time.
    pub certificate_ttl: Option<Duration>,
    /// For pods' logs.
    pub logs: PathBuf,
    /// The level of the proxies' logs.
    pub proxy_log_level: String,
    /// Where files are that pods see in the place of others.
    pub etc: PathBuf,
    /// What programs rules.
    pub backend: Backend,
    /// Whose processes may be of other users: root's.
    pub is_root: bool,
}

/// A pod.
pub struct Pod {
    /// What it is.
    pub plan: Arc<PodPlan>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network.
    pub namespace: Namespace,
    phase: watch::Sender<Phase>,
    pids: Mutex<Pids>,
    /// Its end is asked for.
    pub stop: CancellationToken,
}

/// The processes of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    /// The proxy.
    pub proxy: Option<i32>,
    /// The application's, by container.
    pub containers: Vec<(String, i32)>,
    /// How often something was started again.
    pub restarts: u32,
}

impl Pod {
    /// A pod in its namespace; nothing runs yet.
    #[must_use]
    pub fn new(plan: Arc<PodPlan>, addresses: Vec<IpAddr>, namespace: Namespace) -> Self {
        let phase = watch::Sender::new(Phase::Starting);
        let (pids, stop) = (Mutex::default(), CancellationToken::new());
        Self { plan, addresses, namespace, phase, pids, stop }
    }

    /// How far it is, and how that changes.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Its processes.
    #[must_use]
    pub fn pids(&self) -> Pids {
        self.pids.lock().clone()
    }

    /// Everybody knows that it serves, if it still does.
    pub fn known(&self) {
        self.phase.send_if_modified(|phase| {
            let serves = *phase == Phase::Started;
            if serves {
                *phase = Phase::Ready;
            }
            serves
        });
    }

    /// It cannot run.
    pub fn fail(&self, reason: String) {
        self.phase.send_replace(Phase::Failed(reason));
    }

    /// Runs until `end`.
    pub async fn run(&self, around: &Surroundings, end: &CancellationToken) {
        if let Err(error) = self.prepare(around) {
            self.fail(format!("{error:#}"));
            end.cancelled().await;
            return;
        }
        let mut pause = PAUSES.0;
        loop {
            let began = tokio::time::Instant::now();
            let outcome = self.once(around, end).await;
            if end.is_cancelled() {
                return;
            }
            let reason = outcome.unwrap_or_else(|error| format!("{error:#}"));
            tracing::warn!(pod = self.plan.full_name(), "{reason}; starting it again in {pause:?}");
            self.phase.send_replace(Phase::Restarting(reason));
            self.pids.lock().restarts += 1;
            // What ran for a while is not what ends at once.
            pause = if began.elapsed() > PAUSES.1 { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::select! {
                () = sleep(pause) => {}
                () = end.cancelled() => return,
            }
        }
    }

    /// Rules, and what a process of another user than root may do.
    fn prepare(&self, around: &Surroundings) -> Result<()> {
        self.write_token(around).context("a token")?;
        let rules = Rules::default();
        let is_gateway = self.plan.is_gateway;
        self.namespace.run(move || {
            // The proxy is not root, and listens where a Gateway says, on port 80 perhaps.
            std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
                .context("ip_unprivileged_port_start")?;
            if is_gateway { Ok(()) } else { crate::capture::apply(&rules, around.backend) }
        })?
    }

    fn token(&self, around: &Surroundings) -> PathBuf {
        around.tokens.join(self.plan.full_name())
    }

    /// Takes away what was written for it: its token proves somebody who is gone.
    pub fn clear(&self, around: &Surroundings) {
        let _ = std::fs::remove_file(self.token(around));
        let prefix = format!("{}.", self.plan.full_name());
        for entry in std::fs::read_dir(&around.logs).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// What proves who it is, for its proxy alone.
    fn write_token(&self, around: &Surroundings) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let token = around.authority.mint_token(&self.plan.namespace, self.plan.service_account(), TOKEN)?;
        let path = self.token(around);
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(token.as_bytes())?;
        if around.is_root {
            std::os::unix::fs::chown(&path, Some(PROXY_ID), Some(PROXY_ID))?;
        }
        Ok(())
    }

    /// Runs everything once; returns what has ended.
    async fn once(&self, around: &Surroundings, end: &CancellationToken) -> Result<String> {
        self.phase.send_replace(Phase::WaitingForProxy);
        let mut proxy = self.proxy(around).spawn().context("the proxy")?;
        self.pids.lock().proxy = proxy.pid();
        let mut containers = Vec::new();
        let outcome = tokio::select! {
            ended = proxy.ended() => Ok(format!("the proxy {}", describe(ended?))),
            ended = self.application(around, &mut containers) => ended,
            () = end.cancelled() => Ok(String::new()),
        };
        if end.is_cancelled() {
            self.phase.send_replace(Phase::Stopping);
        }
        // The application first: its last answers still have their way out.
        for container in containers {
            container.stop(GRACE).await;
        }
        proxy.stop(GRACE).await;
        let mut pids = self.pids.lock();
        *pids = Pids { restarts: pids.restarts, ..Pids::default() };
        outcome
    }

    /// Waits for the proxy, starts the application, and says what of it has ended.
    async fn application(&self, around: &Surroundings, containers: &mut Vec<Process>) -> Result<String> {
        self.listens(HEALTH).await;
        self.phase.send_replace(Phase::WaitingForApplication);
        for command in &self.plan.commands {
            let start = Start {
                netns: self.namespace.path(),
                over: names::mounts(&around.etc, &self.plan.namespace),
                uid: around.is_root.then_some(NOBODY),
                argv: command.argv.clone(),
                env: self.environment(command),
                log: around.logs.join(format!("{}.{}.log", self.plan.full_name(), command.container)),
            };
            let started = start.spawn().with_context(|| format!("container {}", command.container))?;
            if let Some(pid) = started.pid() {
                self.pids.lock().containers.push((command.container.clone(), pid));
            }
            containers.push(started);
        }
        let names: Vec<_> = self.plan.commands.iter().map(|command| command.container.clone()).collect();
        let end = first_end(containers, &names);
        tokio::select! {
            ended = end => ended,
            why = self.probed(around) => Ok(why),
        }
    }

    /// Asks the application how it is, and says so; returns why it has to be started again.
    async fn probed(&self, around: &Surroundings) -> String {
        let asker = Asker {
            namespace: &self.namespace,
            over: names::mounts(&around.etc, &self.plan.namespace),
            uid: around.is_root.then_some(NOBODY),
            log: around.logs.join(format!("{}.probes.log", self.plan.full_name())),
        };
        let asked = |command: &&Command| {
            let mut probes = self.plan.probes.iter();
            probes.any(|probe| probe.container == command.container && probe.purpose == Purpose::Readiness)
        };
        // What probes say, while it does not listen yet where nobody asks.
        let (listens, said) = (AtomicBool::new(false), Mutex::new(None));
        let tell = || match (listens.load(Relaxed), said.lock().clone()) {
            (true, Some(Ok(()))) => self.serves(),
            (_, Some(Err(why))) => {
                self.phase.send_replace(Phase::NotReady(why));
            }
            _ => {}
        };
        let listening = async {
            for port in self.plan.commands.iter().filter(|of| !asked(of)).flat_map(|of| &of.ports) {
                self.listens(*port).await;
            }
            listens.store(true, Relaxed);
            tell();
            std::future::pending::<()>().await;
        };
        let watched = probes::watch(&asker, &self.plan.probes, |state| {
            *said.lock() = Some(state);
            tell();
        });
        tokio::select! {
            why = watched => why,
            () = listening => String::new(),
        }
    }

    /// It can be used; what is known stays known.
    fn serves(&self) {
        self.phase.send_if_modified(|phase| {
            let is_new = !matches!(phase, Phase::Started | Phase::Ready);
            if is_new {
                *phase = Phase::Started;
            }
            is_new
        });
    }

    /// Waits until something listens on a port of the pod's loopback.
    async fn listens(&self, port: u16) {
        loop {
            let tried = self.connect(SocketAddr::from(([127, 0, 0, 1], port)));
            if matches!(tokio::time::timeout(Duration::from_secs(1), tried).await, Ok(Ok(_))) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// A connection from within the pod.
    ///
    /// # Errors
    /// When nothing listens there.
    pub async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        super::relay::connect(to, &self.namespace).await
    }

    /// As in a container: its name is the pod's.
    fn environment(&self, command: &Command) -> std::collections::BTreeMap<String, String> {
        let mut env = command.env.clone();
        env.entry("HOSTNAME".to_owned()).or_insert_with(|| self.plan.name.clone());
        env
    }

    /// What the proxy is told of the application, as Istio's injector tells it.
    fn of_application(&self) -> Vec<String> {
        let annotation = |key: &str| self.plan.annotations.get(&format!("prometheus.io/{key}"));
        let scraped: serde_json::Map<_, _> = ["scrape", "port", "path"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), annotation(key)?.clone().into())))
            .collect();
        let mut argv = Vec::new();
        if annotation("scrape").is_some_and(|scrape| scrape == "true") {
            argv.extend(["--prometheus-annotations".to_owned(), serde_json::Value::from(scraped).to_string()]);
        }
        let probers = probes::for_proxy(&self.plan.probes);
        if probers.as_object().is_some_and(|all| !all.is_empty()) {
            argv.extend(["--app-probers".to_owned(), probers.to_string()]);
        }
        argv
    }

    fn proxy(&self, around: &Surroundings) -> Start {
        let plan = &self.plan;
        let role = if plan.is_gateway { "router" } else { "sidecar" };
        let mut argv: Vec<String> =
            ["weft", "proxy", "--log-level", &around.proxy_log_level, "--concurrency", "1", "--drain-time-s", "3"]
                .map(str::to_owned)
                .into();
        let ips: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let told = [
            ("--name", plan.name.clone()),
            ("--namespace", plan.namespace.clone()),
            ("--ip", ips.join(",")),
            ("--service-account", plan.service_account().to_owned()),
            ("--workload-name", plan.workload.clone()),
            ("--discovery-address", around.discovery.clone()),
            ("--discovery-ca", around.root.display().to_string()),
            ("--token", self.token(around).display().to_string()),
            ("--trust-domain", around.authority.trust_domain().to_owned()),
        ];
        argv.push(role.to_owned());
        if let Some(ttl) = around.certificate_ttl {
            argv.extend(["--certificate-ttl".to_owned(), ttl.as_secs().max(1).to_string()]);
        }
        argv.extend(self.of_application());
        argv.extend(told.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        argv.extend(plan.labels.iter().flat_map(|(key, value)| ["--label".to_owned(), format!("{key}={value}")]));
        Start {
            netns: self.namespace.path(),
            over: Vec::new(),
            uid: around.is_root.then_some(PROXY_ID),
            argv,
            env: Default::default(),
            log: around.logs.join(format!("{}.weft-proxy.log", plan.full_name())),
        }
    }
}

/// Waits for the first container that ends; there is none: for ever.
async fn first_end(containers: &mut [Process], names: &[String]) -> Result<String> {
    let ends = containers.iter_mut().zip(names).map(|(container, name)| {
        Box::pin(async move { container.ended().await.map(|status| format!("container {name} {}", describe(status))) })
    });
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    Ok(futures_util::future::select_all(ends).await.0?)
}

/// How many addresses a pod has.
#[must_use]
pub fn addresses_of(n: u32) -> Option<Vec<IpAddr>> {
    let (v4, v6) = fabric::pod_address(n)?;
    let mut all = vec![IpAddr::from(v4)];
    if fabric::has_v6() {
        all.push(v6.into());
    }
    Some(all)
}
