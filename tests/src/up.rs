//! A mesh of `weft up`, on a loopback address of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::bookinfo::apps::{Net, get};
use crate::locate::{NO_WEFT_CLI, skipped, weft_cli};
use crate::message::Message;
use crate::wait::{PATIENCE, eventually};

/// How long a mesh of ten pods may take to come up on a machine that is busy compiling.
const START: Duration = Duration::from_secs(60);

/// A running `weft up`; it is killed with this value, and its pods with it.
pub struct Up {
    child: Child,
    dir: TempDir,
    name: String,
    /// The address of gateways' ports.
    pub listen: IpAddr,
}

impl Drop for Up {
    fn drop(&mut self) {
        // It is killed, and cannot.
        let _ = std::fs::remove_dir_all(self.state());
    }
}

/// Why there are no network namespaces with rules here.
fn missing() -> Option<&'static str> {
    if !nix_is_root() {
        return Some("network namespaces need root");
    }
    let has = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).is_file())
    };
    (!has("nft") && !has("iptables-restore")).then_some("neither nft nor iptables is installed")
}

fn nix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

impl Up {
    /// Starts a mesh of these files, and waits until every pod that can run serves. `None` where it cannot be had, which is said.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(test: &str, files: &[(&str, String)]) -> Result<Option<Self>> {
        if let Some(why) = missing() {
            skipped(test, why);
            return Ok(None);
        }
        let Some(weft) = weft_cli() else {
            skipped(test, NO_WEFT_CLI);
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("weft-up-").tempdir()?;
        std::fs::create_dir(dir.path().join("mesh"))?;
        for (name, text) in files {
            std::fs::write(dir.path().join("mesh").join(name), text)?;
        }
        let listen = Net::new().ip(1);
        let name = format!("test-{}", listen.to_string().replace('.', "-"));
        let log = |file: &str| std::fs::File::create(dir.path().join(file));
        let mut command = Command::new(weft);
        command.arg("up").arg(dir.path().join("mesh")).args(["--mesh", &name, "--http-addr", "127.0.0.1:0"]);
        command.args(["--listen", &listen.to_string(), "--log-level", "info"]);
        command.stdin(Stdio::null()).stdout(log("out")?).stderr(log("err")?).kill_on_drop(true);
        let up = Self { child: command.spawn()?, dir, name, listen };
        let ready = || async { up.said().contains("The mesh is up").then_some(()) };
        eventually("the mesh is up", START, ready).await.with_context(|| up.said())?;
        Ok(Some(up))
    }

    /// All that it has said.
    #[must_use]
    pub fn said(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// Replaces a file, at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(fresh, self.dir.path().join("mesh").join(name)).context("rename")
    }

    /// Has these files and no others.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn only(&self, files: &[(String, String)]) -> Result<()> {
        for (name, text) in files {
            self.write(name, text)?;
        }
        for entry in std::fs::read_dir(self.mesh())? {
            let entry = entry?;
            if files.iter().all(|(name, _)| entry.file_name() != name.as_str()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// What a `weft` command prints about this mesh.
    ///
    /// # Errors
    /// When it fails.
    pub async fn weft(&self, args: &[&str]) -> Result<String> {
        let (first, rest) = args.split_first().context("a command")?;
        let mut command = Command::new(weft_cli().context(NO_WEFT_CLI)?);
        let run = command.arg(first).args(["--mesh", &self.name]).args(rest).output().await?;
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        ensure!(run.status.success(), "weft {args:?}: {out}{err}\n{}", self.said());
        Ok(out.into_owned())
    }

    /// A command in a pod's network, which ends with the value.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn within(&self, pod: &str, command: &[&str], log: &Path) -> Result<Child> {
        let mut exec = Command::new(weft_cli().context(NO_WEFT_CLI)?);
        exec.args(["exec", "--mesh", &self.name, pod, "--"]).args(command).kill_on_drop(true);
        let log = std::fs::File::create(log)?;
        exec.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        exec.spawn().context("weft exec")
    }

    /// Its pods, as `weft ps` tells of them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn pods(&self) -> Result<Vec<Value>> {
        let json: Value = serde_json::from_str(&self.weft(&["ps", "-o", "json"]).await?)?;
        Ok(json["pods"].as_array().cloned().unwrap_or_default())
    }

    /// A GET at a port of the gateway.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, port: u16, path: &str, headers: &str) -> Result<Message> {
        get(SocketAddr::new(self.listen, port), "bookinfo", path, headers).await
    }

    /// The page that a user gets.
    ///
    /// # Errors
    /// When there is none.
    pub async fn page(&self, user: Option<&str>) -> Result<String> {
        let headers = user.map_or_else(String::new, |user| format!("cookie: session-user={user}\r\n"));
        let answer = self.get(8080, "/productpage", &headers).await?;
        ensure!(answer.status() == 200, "{answer:?}");
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// What a counter of a pod's proxy says; 0 if there is none.
    ///
    /// # Errors
    /// When the proxy does not answer.
    pub async fn counter(&self, pod: &str, name: &str) -> Result<u64> {
        let text = self.weft(&["exec", pod, "--", "curl", "-s", "http://127.0.0.1:15000/stats"]).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or_default())
    }

    /// Asks it to end by a signal or a command, and waits until it has.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn down(&mut self) -> Result<()> {
        self.weft(&["down"]).await?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not end")??;
        ensure!(ended.success(), "{ended}: {}", self.said());
        Ok(())
    }

    /// Kills it without a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("kill")
    }

    /// How its pods are, for a test that has failed.
    pub async fn picture(&self) -> String {
        let table = self.weft(&["ps"]).await.unwrap_or_else(|error| format!("{error:#}"));
        format!("{table}\n{}", self.said())
    }

    /// What it keeps while it runs.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        Path::new("/run/weft").join(&self.name)
    }

    /// Where its files are.
    #[must_use]
    pub fn mesh(&self) -> PathBuf {
        self.dir.path().join("mesh")
    }
}
