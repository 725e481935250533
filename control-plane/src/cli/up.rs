//! `weft up`, and what asks a mesh that runs: `down`, `ps`, `logs`, `exec`.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value as Json;
use tracing_subscriber::EnvFilter;

use super::output::{self, Format, Table};
use crate::up::{self, control, state};

/// How often a log is looked at that is followed, and whether a mesh has ended.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(
    after_help = "A pod is a network namespace with its own address, a proxy through which its connections are led, and
processes in the place of containers: what runs for an image stands in weft.yaml beside the YAML,
  images:
  - {match: my-shop-*, command: [./shop, --port, \"8080\"]}
and BookInfo's images are built in. It needs root, and nft or iptables.

Examples:
  weft up config/bookinfo
  weft up shop/ gateway.yaml --listen 0.0.0.0"
)]
pub(super) struct Options {
    /// Directories and files of YAML, followed as they change
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Address of this machine for the ports of gateways
    #[arg(long, value_name = "IP", default_value_t = up::run::loopback())]
    listen: IpAddr,
    /// Debug pages and metrics of the control plane
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    http_addr: SocketAddr,
    /// For how long pods' certificates are good [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    workload_cert_ttl: Option<Duration>,
    /// What to log: error, warn, info, debug, trace
    #[arg(short, long, value_name = "LEVEL", default_value = "warn", env = "WEFT_LOG")]
    log_level: String,
    /// What proxies log: trace, debug, info, warning, error, off
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    proxy_log_level: String,
}

/// Which mesh of this machine.
#[derive(Debug, Args)]
struct Which {
    /// Name of the mesh, if there are several on this machine
    #[arg(long = "mesh", value_name = "NAME", default_value = "weft")]
    name: String,
}

pub(super) fn run(options: Options) -> Result<()> {
    let filter = EnvFilter::try_new(&options.log_level).context("--log-level")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    log.try_init().map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    // One thread: a process of a pod ends with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(up::run(up::Options {
        paths: options.paths,
        name: options.which.name,
        listen: options.listen,
        http: options.http_addr,
        proxy_log_level: options.proxy_log_level,
        certificate_ttl: options.workload_cert_ttl,
    }))
}

#[derive(Debug, Args)]
pub(super) struct Down {
    #[command(flatten)]
    which: Which,
    /// How long to wait until it has ended
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = super::duration)]
    timeout: Duration,
}

pub(super) async fn down(options: &Down) -> Result<String> {
    let directory = state::directory(&options.which.name)?;
    control::ask(&directory, "down").await?;
    let ended = async {
        while state::socket(&directory).exists() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(options.timeout, ended).await.context("it does not end; look at what it says")?;
    Ok("the mesh has ended".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[command(flatten)]
    which: Which,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn ps(options: &Ps) -> Result<String> {
    let json = control::ask(&state::directory(&options.which.name)?, "ps").await?;
    Ok(output::print(options.output, &json, || table(&json)))
}

fn table(json: &Json) -> String {
    let mut table = Table::new(&["POD", "NAMESPACE", "STATUS", "RESTARTS", "ADDRESS", "PROXY", "PROCESSES"]);
    let mut reasons = Vec::new();
    for pod in json["pods"].as_array().into_iter().flatten() {
        let text = |key: &str| pod[key].as_str().unwrap_or_default().to_owned();
        let processes = pod["containers"].as_array().into_iter().flatten();
        let processes: Vec<_> =
            processes.map(|of| format!("{} {}", of["name"].as_str().unwrap_or_default(), of["pid"])).collect();
        let pid = pod["proxyPid"].as_i64().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let address = pod["addresses"][0].as_str().unwrap_or_default().to_owned();
        if let Some(reason) = pod["reason"].as_str() {
            reasons.push(format!("{}: {reason}", text("name")));
        }
        table.row([
            text("name"),
            text("namespace"),
            text("phase"),
            pod["restarts"].to_string(),
            address,
            pid,
            if processes.is_empty() { "-".to_owned() } else { processes.join(", ") },
        ]);
    }
    let mut text = table.sorted().render();
    for address in json["open"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        text.push_str(&format!("\nopen {address}"));
    }
    reasons.iter().for_each(|reason| {
        text.push('\n');
        text.push_str(reason);
    });
    text
}

/// The pod that is meant: its name, what its name begins with if that is only one, or `name.namespace`.
fn pod<'j>(json: &'j Json, wanted: &str) -> Result<&'j Json> {
    let all: Vec<&Json> = json["pods"].as_array().into_iter().flatten().collect();
    let full = |pod: &Json| {
        format!("{}.{}", pod["name"].as_str().unwrap_or_default(), pod["namespace"].as_str().unwrap_or_default())
    };
    let named = |pod: &&&Json| full(pod) == wanted || pod["name"].as_str() == Some(wanted);
    if let Some(&pod) = all.iter().find(named) {
        return Ok(pod);
    }
    let begins: Vec<_> = all.iter().filter(|pod| full(pod).starts_with(wanted)).collect();
    match begins.as_slice() {
        [pod] => Ok(pod),
        [] => bail!("no pod {wanted}; there are: {}", all.iter().map(|pod| full(pod)).collect::<Vec<_>>().join(", ")),
        several => {
            bail!("{wanted} is several: {}", several.iter().map(|pod| full(pod)).collect::<Vec<_>>().join(", "))
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The pod: its name, or how it begins
    pod: String,
    /// The container [default: the first one; of a gateway its proxy]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on with what it says from now on
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    which: Which,
}

pub(super) async fn logs(options: &Logs) -> Result<()> {
    let directory = state::directory(&options.which.name)?;
    let json = control::ask(&directory, "ps").await?;
    let found = pod(&json, &options.pod)?;
    let name =
        format!("{}.{}", found["name"].as_str().unwrap_or_default(), found["namespace"].as_str().unwrap_or_default());
    let first = || found["containers"][0]["name"].as_str().unwrap_or("weft-proxy").to_owned();
    let container = options.container.clone().unwrap_or_else(first);
    ensure!(!container.contains('/'), "-c {container}: a container's name has no /");
    let path = state::logs(&directory).join(format!("{name}.{container}.log"));
    let mut file = open(&path, &container)?;
    loop {
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        out.flush()?;
        drop(out);
        if !options.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
        // Begun anew: it had grown too large.
        let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if length < file.stream_position()? {
            file = open(&path, &container)?;
            file.seek(SeekFrom::Start(0))?;
        }
    }
}

fn open(path: &Path, container: &str) -> Result<std::fs::File> {
    std::fs::File::open(path)
        .with_context(|| format!("nothing of a container {container} ({}); -c weft-proxy is the proxy", path.display()))
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The pod: its name, or how it begins
    pod: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
    #[command(flatten)]
    which: Which,
}

pub(super) async fn exec(options: &Exec) -> Result<std::convert::Infallible> {
    let directory = state::directory(&options.which.name)?;
    let json = control::ask(&directory, "ps").await?;
    let found = pod(&json, &options.pod)?;
    let netns = found["netns"].as_str().context("the mesh does not say where the pod is")?;
    let namespace = found["namespace"].as_str().unwrap_or_default();
    up::launch::Launch::enter(Path::new(netns), &up::names::mounts(&directory.join("etc"), namespace), &options.command)
}
