//! A proxy process.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::admin::Admin;
use crate::locate::Kind;
use crate::wait::{PATIENCE, eventually};

/// A running proxy; it is killed with this value.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: PathBuf,
    admin: Admin,
}

impl Proxy {
    /// Starts a proxy on a bootstrap file and waits until its admin interface says it is ready.
    ///
    /// # Errors
    /// When there is no binary, when the process ends, or when it is not ready in time; with the end of its log.
    pub async fn start(kind: Kind, bootstrap: &Path, admin: u16) -> Result<Self> {
        let mut proxy = Self::spawn(kind, bootstrap, admin, &[])?;
        proxy.ready(kind).await?;
        Ok(proxy)
    }

    /// Starts a proxy on a bootstrap file with further arguments, and waits for nothing.
    ///
    /// # Errors
    /// When there is no binary, or it cannot be started.
    pub fn spawn(kind: Kind, bootstrap: &Path, admin: u16, arguments: &[&str]) -> Result<Self> {
        let binary = kind.binary().with_context(|| format!("no {} binary", kind.name()))?;
        let log = bootstrap.with_extension("log");
        let output = std::fs::File::create(&log).context("log file")?;
        let mut command = Command::new(&binary);
        command.arg("-c").arg(bootstrap).args(["--concurrency", "1", "-l", "info", "--disable-hot-restart"]);
        command.args(["--file-flush-interval-msec", "20", "--drain-time-s", "1", "--parent-shutdown-time-s", "2"]);
        if kind == Kind::Weft {
            // What is not supported yet shows as a difference of the cases that use it, not of all that share a bootstrap.
            command.arg("--allow-unknown-static-fields");
        }
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {}", binary.display()))?;
        let admin = Admin { port: admin };
        Ok(Self { child, log, admin })
    }

    /// Waits until its admin interface says it is ready, and its workers listen.
    ///
    /// # Errors
    /// When the process ends, or when it is not ready in time; with the end of its log.
    pub async fn ready(&mut self, kind: Kind) -> Result<()> {
        self.says_ready().await?;
        let admin = self.admin;
        if kind == Kind::Envoy {
            // It calls itself ready before its workers listen.
            let started = || async move {
                let page = admin.text("/stats?filter=^listener_manager.workers_started$").await.ok()?;
                page.trim().ends_with(": 1").then_some(())
            };
            eventually("Envoy's workers listen", PATIENCE, started).await?;
        }
        Ok(())
    }

    async fn says_ready(&mut self) -> Result<()> {
        let admin = self.admin;
        let child = &mut self.child;
        let outcome = eventually("the proxy is ready", PATIENCE * 2, || {
            let ended = child.try_wait().ok().flatten();
            async move {
                if let Some(status) = ended {
                    return Some(Err(status));
                }
                let response = admin.request("GET", "/ready").await.ok()?;
                (response.status() == 200).then_some(Ok(()))
            }
        });
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("it ended with {status}: {}", self.log_tail()),
            Err(error) => bail!("{error:#}: {}", self.log_tail()),
        }
    }

    /// The admin interface.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admin
    }

    /// Whether the process has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the process to end, as an operator or an init system does.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn terminate(&self) -> Result<()> {
        let pid = self.pid().context("it has ended")?;
        let status = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await.context("kill")?;
        anyhow::ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    /// Ends the process as a crash does.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("kill")
    }

    /// How the process ended.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub async fn end(&mut self, patience: std::time::Duration) -> Result<std::process::ExitStatus> {
        let ended = tokio::time::timeout(patience, self.child.wait()).await;
        Ok(ended.with_context(|| format!("it still runs after {patience:?}"))??)
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything the process has written.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}
