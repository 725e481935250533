//! A control plane process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::admin::Admin;
use crate::locate;
use crate::wait::{PATIENCE, eventually};

/// A running `weft control-plane` on a directory of its own; it is killed with this value.
#[derive(Debug)]
pub struct ControlPlane {
    child: Child,
    dir: TempDir,
    grpc: u16,
    secure_grpc: u16,
    http: Admin,
    args: Vec<String>,
}

impl ControlPlane {
    /// Starts it on files of these names and contents.
    ///
    /// # Errors
    /// When there is no binary, or it does not come up.
    pub async fn start(files: &[(&str, &str)]) -> Result<Self> {
        Self::launch(files, true, &[]).await
    }

    /// Starts it with a certificate of its own authority on the TLS port, and with further arguments.
    ///
    /// # Errors
    /// When there is no binary, or it does not come up.
    pub async fn secured(files: &[(&str, &str)], args: &[&str]) -> Result<Self> {
        Self::launch(files, false, args).await
    }

    async fn launch(files: &[(&str, &str)], tls_files: bool, more: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weft-mesh-").tempdir()?;
        std::fs::create_dir(dir.path().join("mesh"))?;
        for (name, text) in files {
            std::fs::write(dir.path().join("mesh").join(name), text)?;
        }
        crate::tls::material()?.write(dir.path())?;
        let mut args: Vec<String> = more.iter().map(|arg| (*arg).to_owned()).collect();
        let files = [("--tls-cert", "server.pem"), ("--tls-key", "server.key"), ("--tls-client-ca", "ca.pem")];
        for (flag, file) in files.into_iter().filter(|_| tls_files) {
            args.extend([flag.to_owned(), dir.path().join(file).to_string_lossy().into_owned()]);
        }
        let (child, ports) = spawn(dir.path(), [0, 0], &args).await?;
        let [grpc, secure_grpc, http] = ports;
        Ok(Self { child, dir, grpc, secure_grpc, http: Admin { port: http }, args })
    }

    /// Kills it and starts another one where it was.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        let (child, ports) = spawn(self.dir.path(), [self.grpc, self.secure_grpc], &self.args).await?;
        self.child = child;
        [self.grpc, self.secure_grpc, self.http.port] = ports;
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("kill")
    }

    /// Replaces a file, at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.dir.path().join("mesh").join(name);
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(fresh, file).context("rename")
    }

    /// Takes a file away.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.dir.path().join("mesh").join(name)).with_context(|| name.to_owned())
    }

    /// Waits until nothing has changed for a moment, and every one of at least `streams` streams has answered for all of it.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn quiet(&self, streams: usize) -> Result<()> {
        // The debounce is 20 ms; this is long enough for a file to be seen on a busy machine.
        const STABLE: Duration = Duration::from_millis(250);
        let seen = std::cell::RefCell::new((Value::Null, Instant::now()));
        let look = || async {
            let status = self.debug("/debug/push_status").await.ok()?;
            let mut seen = seen.borrow_mut();
            if seen.0 != status["sequence"] {
                *seen = (status["sequence"].clone(), Instant::now());
            }
            let count = |state: &str| status["byState"][state].as_u64();
            let answered = count("synced")? + count("nacked")?;
            let all = answered == status["streams"].as_u64()? && answered >= streams as u64;
            (all && seen.1.elapsed() >= STABLE).then_some(())
        };
        let outcome = eventually("all proxies have answered", PATIENCE * 2, look).await;
        outcome.with_context(|| self.log())
    }

    /// The port of xDS.
    #[must_use]
    pub fn grpc(&self) -> u16 {
        self.grpc
    }

    /// The port of xDS over TLS, for clients with a certificate.
    #[must_use]
    pub fn secure_grpc(&self) -> u16 {
        self.secure_grpc
    }

    /// Where its authority keeps its state: `root-cert.pem` is whom to trust.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// A token that proves a service account to it, in a file.
    ///
    /// # Errors
    /// When none is made.
    pub async fn token(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let dir = self.ca_dir();
        let dir = dir.to_string_lossy();
        let token = self.weft(&["token", "create", "-n", namespace, "-s", account, "--ca-dir", &dir]).await?;
        let path = self.dir.path().join(format!("token-{namespace}-{account}"));
        std::fs::write(&path, token)?;
        Ok(path)
    }

    /// A metric.
    ///
    /// # Errors
    /// When there is none of this name and these labels, as they are printed.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.http.text("/metrics").await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name} in\n{metrics}"))?.parse()?)
    }

    /// A directory for what a test needs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A debug page.
    ///
    /// # Errors
    /// When it is not there or not JSON.
    pub async fn debug(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.http.text(path).await?).with_context(|| path.to_owned())
    }

    /// What a `weft` command prints when it asks this control plane.
    ///
    /// # Errors
    /// When it fails.
    pub async fn weft(&self, args: &[&str]) -> Result<String> {
        let server = format!("127.0.0.1:{}", self.http.port);
        let run = Command::new(binary()?).args(args).env("WEFT_CONTROL_PLANE", server).output().await?;
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        ensure!(run.status.success(), "weft {}: {err}", args.join(" "));
        Ok(out.into_owned())
    }

    /// Waits until `streams` streams have accepted everything, and that nobody has refused anything.
    ///
    /// # Errors
    /// When they have not in time, or somebody has.
    pub async fn settled(&self, streams: usize) -> Result<()> {
        let look = || async {
            let status = self.debug("/debug/push_status").await.ok()?;
            (status["byState"]["synced"].as_u64()? >= streams as u64).then_some(())
        };
        let outcome = eventually("all proxies are synced", PATIENCE, look).await;
        let metrics = self.http.text("/metrics").await?;
        for line in metrics.lines().filter(|line| line.starts_with("weft_xds_nacks_total")) {
            ensure!(line.ends_with(" 0"), "{line}\n{}{}", self.weft(&["proxy-status"]).await?, self.log());
        }
        let status = self.weft(&["proxy-status"]).await?;
        outcome.with_context(|| format!("{status}{}", self.log()))
    }

    /// Everything the process has written.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// The bootstrap of a proxy with everything by ADS: its node, `labels` as the inside of a YAML flow map, `GRPC` or `DELTA_GRPC`, and
/// the port of the control plane.
#[must_use]
pub fn bootstrap(id: &str, labels: &str, api_type: &str, port: u16) -> String {
    format!(
        r#"
node: {{id: "{id}", cluster: test, metadata: {{LABELS: {{{labels}}}, INTERCEPTION_MODE: NONE}}}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{admin}}}}}}}}}}
dynamic_resources:
  ads_config: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#
    )
}

/// `weft`, if it is built.
fn binary() -> Result<PathBuf> {
    locate::weft_cli().context(locate::NO_WEFT_CLI)
}

/// The process, and its ports: xDS, xDS over TLS, HTTP.
async fn spawn(dir: &Path, ports: [u16; 2], args: &[String]) -> Result<(Child, [u16; 3])> {
    let log = std::fs::File::options().append(true).create(true).open(dir.join("log"))?;
    let mut command = Command::new(binary()?);
    command.arg("control-plane").arg("--config-dir").arg(dir.join("mesh")).args(["--debounce", "20ms"]);
    command.args(["--grpc-addr", &format!("127.0.0.1:{}", ports[0]), "--http-addr", "127.0.0.1:0"]);
    command.args(["--monitoring-addr", "127.0.0.1:0", "--secure-grpc-addr", &format!("127.0.0.1:{}", ports[1])]);
    command.arg("--ca-dir").arg(dir.join("ca")).args(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line =
        tokio::time::timeout(PATIENCE * 2, lines.next_line()).await.context("the control plane does not start")??;
    let line = line.with_context(|| std::fs::read_to_string(dir.join("log")).unwrap_or_default())?;
    let port = |name: &str| -> Result<u16> {
        let address = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let address = address.with_context(|| line.clone())?;
        Ok(address.rsplit(':').next().unwrap_or_default().parse()?)
    };
    Ok((child, [port("grpc")?, port("secure-grpc")?, port("http")?]))
}
