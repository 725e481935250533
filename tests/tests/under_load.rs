//! Under a constant arrival of requests: certificates are rotated by file, and the process is asked to end. No request fails.
//!
//! The load is open loop: requests fall due at a fixed rate whether or not the ones before have been answered, and their time
//! is measured from when they fell due. `WEFT_LOAD_SECONDS` (10) and `WEFT_LOAD_RATE` (1000 a second) set how long and how much.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_tests::config::{Config, connection_manager, indent};
use weft_tests::locate::{Kind, NO_WEFT, skipped};
use weft_tests::wait::{PATIENCE, eventually};
use weft_tests::world::World;

/// Connections of HTTP/1.1; each is one request at a time.
const H1: usize = 24;
/// Connections of HTTP/2, with as many requests at a time on each.
const H2: usize = 4;
const STREAMS: usize = 16;
/// A connection is left after so many requests, so that handshakes go on all the time.
const PER_CONNECTION: u32 = 40;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Answers every request alike, as fast as it can.
async fn upstream() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut seen, mut at) = (vec![0_u8; 16 << 10], 0);
                while let Ok(n @ 1..) = stream.read(&mut seen[at..]).await {
                    at += n;
                    if seen[..at].ends_with(b"\r\n\r\n") {
                        at = 0;
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(port)
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// Requests that were sent and not answered by 200.
    failed: Mutex<Vec<String>>,
    /// Certificates shown, and how often.
    certificates: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Microseconds from falling due to the end of the answer.
    times: Mutex<Vec<u64>>,
    /// The proxy was asked to end: that it takes no further connections is no failure.
    ending: AtomicBool,
}

impl Seen {
    fn answered(&self, due: Instant) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push(us);
    }

    fn failed(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn summary(&self) -> String {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 1000).map_or(0.0, |us| *us as f64 / 1000.0);
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        format!(
            "{} answered, P50 {} ms, P99 {} ms, P99.9 {} ms; certificates {certificates:?}",
            times.len(),
            at(500),
            at(990),
            at(999)
        )
    }
}

/// Requests that are due, handed to whichever connection is free.
type Due = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Instant>>>;

async fn next(due: &Due) -> Option<Instant> {
    due.lock().await.recv().await
}

async fn connect(port: u16, alpn: &'static str, seen: &Seen) -> Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
    tcp.set_nodelay(true)?;
    let config = weft_tests::tls::client(None, &[alpn])?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.context("handshake")?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    let name = weft_tests::tls::common_name(shown);
    *seen.certificates.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    Ok(stream)
}

/// One request; whether the connection may carry another.
async fn h1_request(stream: &mut TlsStream<TcpStream>) -> Result<bool> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let (mut answer, mut at) = ([0_u8; 4096], 0);
    loop {
        let n = stream.read(&mut answer[at..]).await?;
        ensure!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer[..at]));
        at += n;
        let text = String::from_utf8_lossy(&answer[..at]);
        if text.ends_with("\r\n\r\nok") {
            ensure!(text.starts_with("HTTP/1.1 200 "), "{text}");
            return Ok(!text.contains("connection: close"));
        }
    }
}

async fn h1(port: u16, due: Due, seen: Arc<Seen>) {
    let mut open: Option<TlsStream<TcpStream>> = None;
    let mut used = 0;
    while let Some(at) = next(&due).await {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => match connect(port, "http/1.1", &seen).await {
                Ok(stream) => {
                    used = 0;
                    stream
                }
                Err(_) if seen.ending.load(Ordering::Acquire) => return,
                Err(error) => {
                    seen.failed(format!("HTTP/1.1: {error:#}"));
                    continue;
                }
            },
        };
        match h1_request(&mut stream).await {
            Ok(again) => {
                seen.answered(at);
                used += 1;
                open = (again && used < PER_CONNECTION).then_some(stream);
            }
            Err(error) => seen.failed(format!("HTTP/1.1, request {used} of its connection: {error:#}")),
        }
    }
}

async fn h2_answer(response: h2::client::ResponseFuture) -> Result<http::StatusCode, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    while let Some(piece) = body.data().await {
        let piece: Bytes = piece?;
        let _closed = body.flow_control().release_capacity(piece.len());
    }
    Ok(head.status)
}

/// One connection until the server says that it takes no more, or enough were sent. False: none could be had any more.
async fn h2_connection(port: u16, due: &Due, seen: &Arc<Seen>) -> Result<bool> {
    let stream = match connect(port, "h2", seen).await {
        Ok(stream) => stream,
        Err(_) if seen.ending.load(Ordering::Acquire) => return Ok(false),
        Err(error) => bail!("HTTP/2: {error:#}"),
    };
    let (mut send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let places = Arc::new(Semaphore::new(STREAMS));
    for _ in 0..PER_CONNECTION * 10 {
        let place = places.clone().acquire_owned().await?;
        let Some(at) = next(due).await else { break };
        // GOAWAY: what is not sent goes on another connection.
        let mut request = Some(http::Request::get("https://localhost/").body(())?);
        let started = match send.clone().ready().await {
            Ok(mut ready) => ready.send_request(request.take().unwrap_or_default(), true).map(|(response, _)| response),
            Err(error) => Err(error),
        };
        let Ok(response) = started else {
            return again(port, at, seen).await.map(|()| true);
        };
        send = send.clone();
        let seen = seen.clone();
        tokio::spawn(async move {
            match h2_answer(response).await {
                Ok(http::StatusCode::OK) => seen.answered(at),
                Ok(status) => seen.failed(format!("HTTP/2: {status}")),
                // Refused or beyond the last stream: by the protocol not looked at, so it may be sent again.
                Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away() => {
                    if let Err(error) = again(port, at, &seen).await {
                        seen.failed(format!("{error:#}"));
                    }
                }
                Err(error) => seen.failed(format!("HTTP/2: {error}")),
            }
            drop(place);
        });
    }
    // The last answers come before the connection is let go.
    let _all = places.acquire_many(u32::try_from(STREAMS)?).await?;
    Ok(true)
}

/// Sends a request that was turned away unseen on a connection of its own.
async fn again(port: u16, at: Instant, seen: &Seen) -> Result<()> {
    match connect(port, "http/1.1", seen).await {
        Ok(mut stream) => h1_request(&mut stream).await.map(|_| seen.answered(at)),
        Err(_) if seen.ending.load(Ordering::Acquire) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn h2(port: u16, due: Due, seen: Arc<Seen>) {
    loop {
        if due.lock().await.is_closed() && due.lock().await.is_empty() {
            return;
        }
        match h2_connection(port, &due, &seen).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => seen.failed(format!("{error:#}")),
        }
    }
}

/// Requests at a constant rate until told to stop.
struct Load {
    clients: JoinSet<()>,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (tickets, due) = mpsc::unbounded_channel();
        let due: Due = Arc::new(tokio::sync::Mutex::new(due));
        let seen = Arc::new(Seen::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..H1 {
            clients.spawn(h1(port, due.clone(), seen.clone()));
        }
        for _ in 0..H2 {
            clients.spawn(h2(port, due.clone(), seen.clone()));
        }
        let (rate, stopped) = (setting("WEFT_LOAD_RATE", 1000).max(1), stop.clone());
        clients.spawn(async move {
            let began = Instant::now();
            let mut handed = 0_u64;
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            while !stopped.load(Ordering::Acquire) {
                tick.tick().await;
                let wanted =
                    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_mul(rate) / 1_000_000;
                for n in handed..wanted {
                    let at = began + Duration::from_micros(n.saturating_mul(1_000_000) / rate);
                    if tickets.send(at).is_err() {
                        return;
                    }
                }
                handed = wanted;
            }
        });
        Self { clients, seen, stop }
    }

    /// Waits for the last answers.
    async fn finish(mut self) -> Result<Arc<Seen>> {
        self.stop.store(true, Ordering::Release);
        let all = async { while self.clients.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE * 4, all).await.context("the clients do not come to an end")?;
        Ok(self.seen)
    }
}

/// Replaces the secret in one step, as whoever rotates certificates does.
fn rotate(dir: &Path, identity: &str) -> Result<()> {
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: own\n  \
         tls_certificate:\n    certificate_chain: {{filename: {0}/{identity}.pem}}\n    private_key: {{filename: {0}/{identity}.key}}\n",
        dir.display()
    );
    let new = dir.join("sds.yaml.tmp");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, dir.join("sds.yaml"))?;
    Ok(())
}

fn config(dir: &Path, upstream: u16) -> String {
    let chain = format!(
        r#"filter_chains:
- transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context:
        alpn_protocols: [h2, http/1.1]
        tls_certificate_sds_secret_configs:
        - name: own
          sds_config: {{path_config_source: {{path: {}/sds.yaml, watched_directory: {{path: {}}}}}}}
  filters:
{}"#,
        dir.display(),
        dir.display(),
        indent(
            &connection_manager(
                "load",
                r#"
                access_log: []
                route_config:
                  virtual_hosts:
                  - name: all
                    domains: ["*"]
                    routes: [{match: {prefix: "/"}, route: {cluster: a}}]
                "#
            ),
            2
        )
    );
    Config::new()
        .listener("load", &chain)
        .cluster_raw(&format!(
            r#"
            name: a
            type: STATIC
            load_assignment:
              cluster_name: a
              endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]
            "#
        ))
        .text()
}

async fn begin(dir: &Path) -> Result<World> {
    weft_tests::tls::material()?.write(dir)?;
    rotate(dir, "server")?;
    World::start(Kind::Weft, &config(dir, upstream().await?)).await
}

fn no_failure(seen: &Seen) -> Result<()> {
    let failed = seen.failed.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "{} requests failed, the first: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
    ensure!(seen.answered.load(Ordering::Relaxed) > 0, "nothing was answered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_certificates_rotate() -> Result<()> {
    if Kind::Weft.binary().is_none() {
        skipped("rotation under load", NO_WEFT);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let world = begin(dir.path()).await?;
    let load = Load::start(world.port("load")?);
    let end = Instant::now() + Duration::from_secs(setting("WEFT_LOAD_SECONDS", 10));
    let mut rotations = 0;
    while Instant::now() < end {
        let identity = if rotations % 2 == 0 { "other" } else { "server" };
        rotate(dir.path(), identity)?;
        rotations += 1;
        // The next rotation waits until clients have been shown this one.
        let shown = || load.seen.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(identity).copied();
        let before = shown();
        eventually("the new certificate in a handshake", PATIENCE, || async { (shown() > before).then_some(()) })
            .await?;
    }
    let seen = load.finish().await?;
    eprintln!("{rotations} rotations: {}", seen.summary());
    ensure!(rotations >= 4, "only {rotations} rotations");
    no_failure(&seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_asked_to_end() -> Result<()> {
    if Kind::Weft.binary().is_none() {
        skipped("SIGTERM under load", NO_WEFT);
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut world = begin(dir.path()).await?;
    let load = Load::start(world.port("load")?);
    let before = setting("WEFT_LOAD_SECONDS", 10).div_ceil(4);
    let warm = setting("WEFT_LOAD_RATE", 1000) * before / 2;
    let seen = load.seen.clone();
    eventually("load", PATIENCE * 4, || async { (seen.answered.load(Ordering::Relaxed) >= warm).then_some(()) })
        .await?;
    seen.ending.store(true, Ordering::Release);
    world.proxy.terminate().await?;
    let status = world.proxy.end(PATIENCE * 2).await?;
    let seen = load.finish().await?;
    eprintln!("{status}: {}", seen.summary());
    ensure!(status.success(), "{status}: {}", world.proxy.log_tail());
    no_failure(&seen)
}
