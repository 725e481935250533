//! `weft control-plane`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::ca::Ca;
use crate::feed::Feed;
use crate::jwks::Fetcher;
use crate::server::connections::TrustFollowers;
use crate::server::{Bound, Limits, Secure, TlsFiles, serve_grpc, serve_http};
use crate::source::files::Files;

/// How long the start waits for keys of tokens: whoever serves already has them, and must not lose them for a moment.
const FIRST_KEYS: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    after_help = "Ports are Istio's. Port 0 takes any free one; the line `listening` on standard output says which.

Examples:
  weft control-plane --config-dir mesh/
  weft control-plane --config-dir mesh/ --ca-dir /var/lib/weft/ca --token-jwks jwks.json --token-issuer https://kubernetes.default.svc
  weft control-plane --config-dir mesh/ --tls-cert cert.pem --tls-key key.pem --tls-client-ca ca.pem
  weft control-plane --config-dir mesh/ --grpc-addr 127.0.0.1:0 --http-addr 127.0.0.1:0 --monitoring-addr 127.0.0.1:0"
)]
pub(super) struct Options {
    /// Directory of YAML and JSON files, followed as they change
    #[arg(long, value_name = "DIR")]
    config_dir: PathBuf,
    /// xDS without TLS; asks nobody who they are, and hands out secrets
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    grpc_addr: SocketAddr,
    /// xDS and certificates over TLS, for callers that prove who they are
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15012")]
    secure_grpc_addr: SocketAddr,
    /// Health, debug pages and metrics; asks nobody who they are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    http_addr: SocketAddr,
    /// The same once more, where Istio has its metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    monitoring_addr: SocketAddr,
    /// Certificate chain for xDS over TLS, as PEM; without it the authority makes one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Whom to trust besides the authority, as PEM: their certificates prove who a proxy is
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Ask proxies for no proof of who they are: whoever reaches the port has what any proxy gets, secrets too
    #[arg(long)]
    tls_any_client: bool,
    /// Whom to trust besides the system's authorities when keys of tokens are fetched over HTTPS, as PEM
    #[arg(long, value_name = "FILE")]
    jwks_ca: Option<PathBuf>,
    #[command(flatten)]
    authority: super::ca::AuthorityOptions,
    /// Serve changes when there was none for this long
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = super::duration)]
    debounce: Duration,
    /// Serve changes after this long even if they go on
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    debounce_max: Duration,
    /// Largest request of a proxy, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_message_bytes)]
    max_message_bytes: usize,
    /// Streams on one connection
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_streams)]
    max_streams: u32,
    /// Ask an idle connection this often whether it is alive
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = super::duration)]
    keepalive_interval: Duration,
    /// Close it if it has not answered after this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    keepalive_timeout: Duration,
    /// What to log: error, warn, info, debug, trace, or directives as `weft=debug,info`
    #[arg(short, long, value_name = "LEVEL", default_value = "info", env = "WEFT_LOG")]
    log_level: String,
    /// How to log
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl Options {
    fn limits(&self) -> Limits {
        Limits {
            max_message_bytes: self.max_message_bytes,
            max_streams: self.max_streams,
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
        }
    }

    fn tls(&self) -> Option<TlsFiles> {
        let (cert, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() })
    }

    /// The TLS port, if there is something to show there.
    fn secure(&self, ca: Option<Arc<Ca>>) -> Option<Secure> {
        let files = self.tls();
        (files.is_some() || ca.is_some()).then_some(Secure { files, ca, any_client: self.tls_any_client })
    }
}

/// Runs until it is told to stop.
pub(super) fn run(options: &Options) -> Result<()> {
    log(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

fn log(options: &Options) -> Result<()> {
    let filter = EnvFilter::try_new(&options.log_level).context("--log-level")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = match options.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

async fn serve(options: &Options) -> Result<()> {
    let grpc = Bound::open("--grpc-addr", options.grpc_addr).await?;
    let http = Bound::open("--http-addr", options.http_addr).await?;
    let monitoring = Bound::open("--monitoring-addr", options.monitoring_addr).await?;
    let files = Files::watch(&options.config_dir).context("--config-dir")?;
    let feed = Feed::open(files, options.debounce, options.debounce_max).await;
    let mut feed = feed.context("--config-dir: it was not read; see the log")?;
    let ca = options.authority.open(feed.world().config().mesh.trust_domain())?;
    if let Some(ca) = &ca {
        feed = feed.trusting(ca.bundle());
    }
    let stop = CancellationToken::new();
    let (fetcher, keys) = Fetcher::new(options.jwks_ca.clone());
    let key_status = fetcher.status();
    let fetch = tokio::spawn(fetcher.run(stop.clone()));
    feed = feed.fetching(keys, FIRST_KEYS).await;
    let secure = match options.secure(ca.clone()) {
        None => None,
        Some(secure) => Some((Bound::open("--secure-grpc-addr", options.secure_grpc_addr).await?, secure)),
    };
    let mut line =
        format!("listening grpc={} http={} monitoring={}", grpc.address(), http.address(), monitoring.address());
    if let Some((socket, _)) = &secure {
        line.push_str(&format!(" secure-grpc={}", socket.address()));
    }
    let shared = feed.serve(options.limits(), stop.clone());
    shared.show_keys(key_status);

    let mut servers = JoinSet::new();
    servers.spawn(serve_grpc(shared.clone(), grpc, None));
    if let Some((socket, secure)) = secure {
        servers.spawn(serve_grpc(shared.clone(), socket, Some(secure)));
    }
    let mut tasks = vec![fetch];
    if let Some(ca) = ca {
        tracing::info!("whom clients of this control plane are to trust: {}", ca.bundle_path().display());
        shared.show(ca.clone());
        tasks.push(tokio::spawn(ca.tend(TrustFollowers::new(shared.connections.clone()), stop.clone())));
    }
    let pages = [http, monitoring].map(|socket| tokio::spawn(serve_http(shared.clone(), socket)));
    let follow = tokio::spawn(feed.follow(shared, stop.clone()));
    println!("{line}");
    tracing::info!("{line}");
    if options.tls_any_client {
        tracing::warn!("--tls-any-client: whoever reaches {} has what any proxy gets", options.secure_grpc_addr);
    }

    let outcome = tokio::select! {
        ended = servers.join_next() => ended.map_or(Ok(()), |ended| Ok(ended??)),
        told = told_to_stop() => told,
    };
    stop.cancel();
    tracing::info!("stopping");
    while servers.join_next().await.is_some() {}
    for task in pages.into_iter().chain([follow]).chain(tasks) {
        task.await.context("a task failed")?;
    }
    outcome
}

async fn told_to_stop() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
    }
}
