//! A process of a pod: started, its output kept, started again when it ends, ended.
//!
//! Owns the child. Its output goes to a file of bounded size; the file before it is kept once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

/// How large a log may grow before it is begun anew.
const LOG_BYTES: u64 = 4 << 20;

/// What is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The pod's network namespace, as a path.
    pub netns: String,
    /// Files to see in the place of others.
    pub over: Vec<(PathBuf, String)>,
    /// The user it is.
    pub uid: Option<u32>,
    /// Program and arguments; `weft` is this program.
    pub argv: Vec<String>,
    /// Environment beside what this process has.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: tokio::task::JoinSet<()>,
}

impl Start {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no process to be had, or its log cannot be written. A program that is not there ends at once instead.
    pub fn spawn(&self) -> io::Result<Process> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("launch").arg("--netns").arg(&self.netns).arg("--parent").arg(std::process::id().to_string());
        for (file, place) in &self.over {
            command.arg("--over").arg(format!("{}={place}", file.display()));
        }
        if let Some(uid) = self.uid {
            command.arg("--uid").arg(uid.to_string());
        }
        command.arg("--").args(&self.argv).envs(&self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A group of its own: the terminal's Ctrl-C is for the mesh, which ends its processes in order.
        command.process_group(0);
        let mut child = command.spawn()?;
        let log = std::sync::Arc::new(parking_lot::Mutex::new(Log::open(&self.log)?));
        let mut output = tokio::task::JoinSet::new();
        if let Some(stream) = child.stdout.take() {
            output.spawn(keep(stream, log.clone()));
        }
        if let Some(stream) = child.stderr.take() {
            output.spawn(keep(stream, log));
        }
        Ok(Process { child, output })
    }
}

impl Process {
    /// Its number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    ///
    /// # Errors
    /// When the system does not tell.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and ends it after `grace`; with it everything in its group.
    pub async fn stop(mut self, grace: Duration) {
        let Some(pid) = self.pid() else { return };
        // The group is its own, see `spawn`.
        let group = Pid::from_raw(-pid);
        let _ = kill(group, Signal::SIGTERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            tracing::warn!(pid, "did not end in {grace:?}, and is killed");
            let _ = kill(group, Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
        // What its children still write is nobody's.
        let _ = tokio::time::timeout(Duration::from_millis(100), async {
            while self.output.join_next().await.is_some() {}
        })
        .await;
    }
}

/// How a process ended, for people.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            format!("was ended by {name}")
        }
        _ => "ended".to_owned(),
    }
}

struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes > LOG_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(&self.path)?;
        }
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Writes what comes to the log; a disk that is full loses it, the process goes on.
async fn keep(mut stream: impl AsyncRead + Unpin, log: std::sync::Arc<parking_lot::Mutex<Log>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let _ = log.lock().write(&buffer[..read]);
    }
}
