//! Asking.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{sleep, timeout};

use super::{Probe, Purpose, Question, Verdict};
use crate::up::namespace::Namespace;
use crate::up::process::Start;
use crate::up::relay;

/// The proxy's port of probes.
const PORT: u16 = 15020;
/// What the proxy's answer may take longer than the application's.
const SPARE: Duration = Duration::from_secs(1);
/// The longest first line of an answer, and the most of its reason that is told.
const LINE_BYTES: u64 = 4096;

/// Who asks: everything of the pod that is needed for it.
pub struct Asker<'p> {
    /// The pod's network.
    pub namespace: &'p Namespace,
    /// What a command sees in the place of other files.
    pub over: Vec<(PathBuf, String)>,
    /// The user a command is.
    pub uid: Option<u32>,
    /// Where a command's output goes.
    pub log: PathBuf,
}

impl Asker<'_> {
    /// Asks once.
    ///
    /// # Errors
    /// Why the answer is bad.
    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let asked = async {
            match &probe.question {
                Question::Proxy(_) => self.by_proxy(&probe.path()).await.map_err(|e| e.to_string())?,
                Question::Exec(argv) => self.by_command(argv).await.map_err(|e| e.to_string())?,
            }
        };
        let limit = match probe.question {
            Question::Proxy(_) => probe.timeout + SPARE,
            Question::Exec(_) => probe.timeout,
        };
        timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer in {:?}", probe.timeout)))
    }

    async fn by_proxy(&self, path: &str) -> io::Result<Result<(), String>> {
        let mut stream = relay::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), self.namespace).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: kube-probe/weft\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = BufReader::new(stream).take(LINE_BYTES);
        let mut line = String::new();
        answer.read_line(&mut line).await?;
        let status: Option<u16> = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        if status.is_some_and(|status| (200..400).contains(&status)) {
            return Ok(Ok(()));
        }
        let mut rest = String::new();
        // What is not read of it is no reason to fail.
        let _ = answer.read_to_string(&mut rest).await;
        let why = rest.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned();
        let status = status.map_or_else(|| "no answer".to_owned(), |status| format!("status {status}"));
        Ok(Err(if why.is_empty() { status } else { why }))
    }

    async fn by_command(&self, argv: &[String]) -> io::Result<Result<(), String>> {
        let start = Start {
            netns: self.namespace.path(),
            over: self.over.clone(),
            uid: self.uid,
            argv: argv.to_vec(),
            env: Default::default(),
            log: self.log.clone(),
        };
        let status = start.spawn()?.ended().await?;
        Ok(if status.success() { Ok(()) } else { Err(super::super::process::describe(status)) })
    }
}

/// Asks for ever; `said` is told what is the case: `Ok` or why not.
async fn follow(asker: &Asker<'_>, probe: &Probe, said: &Sender<Option<Result<(), String>>>) {
    sleep(probe.initial_delay).await;
    let mut verdict = Verdict::new(probe);
    loop {
        let began = tokio::time::Instant::now();
        let answer = asker.ask(probe).await;
        if let Err(why) = &answer {
            tracing::debug!(container = probe.container, purpose = probe.purpose.name(), why, "a probe fails");
        }
        if verdict.answer(answer.is_ok()) {
            let reason =
                answer.map_err(|why| format!("the {} probe of {} fails: {why}", probe.purpose.name(), probe.container));
            said.send_replace(Some(reason));
        }
        if probe.purpose == Purpose::Startup && verdict.is_good {
            return;
        }
        sleep(probe.period.saturating_sub(began.elapsed())).await;
    }
}

/// Asks everything a pod wants asked: what has to start is waited for. `ready` is told whether all of it can be used, or why not.
///
/// Returns why the application has to be started again; without a reason never.
pub async fn watch(asker: &Asker<'_>, probes: &[Probe], ready: impl Fn(Result<(), String>) + Send + Sync) -> String {
    let of = |purpose| probes.iter().filter(move |probe| probe.purpose == purpose);
    let started = all(asker, of(Purpose::Startup), |said| match said {
        // It had so long to start, and has not.
        Some(Err(why)) => Some(Err(why.clone())),
        Some(Ok(())) => None,
        None => Some(Ok(())),
    });
    if let Err(why) = started.await {
        return why;
    }
    let alive = all(asker, of(Purpose::Liveness), |said| match said {
        Some(Err(why)) => Some(Err(why.clone())),
        _ => Some(Ok(())),
    });
    let ill = async {
        match alive.await {
            Err(why) => why,
            // Nobody asks.
            Ok(()) => std::future::pending().await,
        }
    };
    let usable = async {
        let told = Mutex::new(None);
        let tell = |state: Result<(), String>| {
            let mut told = told.lock();
            if told.as_ref() != Some(&state) {
                *told = Some(state.clone());
                ready(state);
            }
        };
        if of(Purpose::Readiness).next().is_none() {
            tell(Ok(()));
        }
        let _ = each(asker, of(Purpose::Readiness), |all| {
            let bad = all.iter().find_map(|said| said.as_ref()?.as_ref().err().cloned());
            let known = all.iter().all(Option::is_some);
            match bad {
                Some(why) => tell(Err(why)),
                None if known => tell(Ok(())),
                None => {}
            }
            None::<()>
        })
        .await;
    };
    tokio::select! {
        why = ill => why,
        () = usable => std::future::pending().await,
    }
}

type Said = Option<Result<(), String>>;

/// Asks until one of them ends it (`Some(Err)`), or none goes on (`None` for all: `Ok`); `Some(Ok)` is to go on.
async fn all<'p>(
    asker: &Asker<'_>,
    probes: impl Iterator<Item = &'p Probe>,
    of: impl Fn(&Said) -> Option<Result<(), String>>,
) -> Result<(), String> {
    let outcome = each(asker, probes, |all| {
        if let Some(why) = all.iter().find_map(|said| of(said)?.err()) {
            return Some(Err(why));
        }
        all.iter().all(|said| of(said).is_none()).then_some(Ok(()))
    });
    outcome.await
}

/// Asks all of them until `look`, which sees what each has said last, has a result.
async fn each<'p, T>(
    asker: &Asker<'_>,
    probes: impl Iterator<Item = &'p Probe>,
    mut look: impl FnMut(&[Said]) -> Option<T>,
) -> T {
    let mut said: Vec<Receiver<Said>> = Vec::new();
    let mut asking = Vec::new();
    for probe in probes {
        let (sender, receiver) = tokio::sync::watch::channel(None);
        said.push(receiver);
        asking.push(async move {
            follow(asker, probe, &sender).await;
            // What it has said last stays.
            std::future::pending::<()>().await;
        });
    }
    let asking = futures_util::future::join_all(asking);
    tokio::pin!(asking);
    loop {
        let now: Vec<Said> = said.iter_mut().map(|said| said.borrow_and_update().clone()).collect();
        if let Some(result) = look(&now) {
            return result;
        }
        if said.is_empty() {
            return std::future::pending().await;
        }
        let changed = said.iter_mut().map(|said| Box::pin(said.changed()));
        tokio::select! {
            _ = futures_util::future::select_all(changed) => {}
            _ = &mut asking => {}
        }
    }
}
