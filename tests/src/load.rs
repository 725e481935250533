//! A constant arrival of requests.
//!
//! The load is open loop: requests fall due at a fixed rate whether or not the ones before have been answered, and their time
//! is measured from when they fell due. `WEFT_LOAD_SECONDS` and `WEFT_LOAD_RATE` set how long and how much.

use std::collections::BTreeMap;
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

use crate::client::Socket;
use crate::wait::PATIENCE;

/// Connections of HTTP/1.1; each is one request at a time.
const H1: usize = 24;
/// Connections of HTTP/2, with as many requests at a time on each.
const H2: usize = 4;
const STREAMS: usize = 16;
/// A connection is left after so many requests, so that handshakes go on all the time.
const PER_CONNECTION: u32 = 40;

/// A number of the environment.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Answers every request alike, as fast as it can, and says at which port.
///
/// # Errors
/// When it cannot listen there.
pub async fn upstream(at: &str) -> Result<u16> {
    let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
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

/// Where requests go.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// A loopback port.
    pub port: u16,
    /// `Host`, and the name asked for in TLS.
    pub host: &'static str,
    /// Over TLS.
    pub tls: bool,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests answered by 200.
    pub answered: AtomicU64,
    /// Requests that were sent and not answered by 200.
    failed: Mutex<Vec<String>>,
    /// Certificates shown, and how often.
    certificates: Mutex<BTreeMap<&'static str, u64>>,
    /// Microseconds from falling due to the end of the answer.
    times: Mutex<Vec<u64>>,
    /// The proxy was asked to end: that it takes no further connections is no failure.
    pub ending: AtomicBool,
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

    /// How often a certificate was shown.
    #[must_use]
    pub fn shown(&self, identity: &str) -> Option<u64> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(identity).copied()
    }

    /// That everything was answered.
    ///
    /// # Errors
    /// When a request failed, or there was none.
    pub fn no_failure(&self) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let first = &failed[..failed.len().min(5)];
        ensure!(failed.is_empty(), "{} requests failed, the first: {first:#?}", failed.len());
        ensure!(self.answered.load(Ordering::Relaxed) > 0, "nothing was answered");
        Ok(())
    }

    /// How many, how fast, with which certificates.
    #[must_use]
    pub fn summary(&self) -> String {
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

type Stream = Box<dyn Socket>;

async fn connect(to: Target, alpn: &'static str, seen: &Seen) -> Result<Stream> {
    let tcp = TcpStream::connect(("127.0.0.1", to.port)).await.context("connect")?;
    tcp.set_nodelay(true)?;
    if !to.tls {
        return Ok(Box::new(tcp));
    }
    let config = crate::tls::client(None, &[alpn])?;
    let name = ServerName::try_from(to.host)?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.context("handshake")?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    let name = crate::tls::common_name(shown);
    *seen.certificates.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    Ok(Box::new(stream))
}

/// One request; whether the connection may carry another.
async fn h1_request(stream: &mut Stream, host: &str) -> Result<bool> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    let (mut answer, mut at) = ([0_u8; 4096], 0);
    loop {
        let n = stream.read(&mut answer[at..]).await?;
        ensure!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer[..at]));
        at += n;
        let text = String::from_utf8_lossy(&answer[..at]);
        // Of another answer the head is enough.
        ensure!(text.starts_with("HTTP/1.1 200 ") || !text.contains("\r\n\r\n"), "{text}");
        if text.ends_with("\r\n\r\nok") {
            return Ok(!text.contains("connection: close"));
        }
    }
}

async fn h1(to: Target, due: Due, seen: Arc<Seen>) {
    let mut open: Option<Stream> = None;
    let mut used = 0;
    while let Some(at) = next(&due).await {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => match connect(to, "http/1.1", &seen).await {
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
        let answer = tokio::time::timeout(PATIENCE * 2, h1_request(&mut stream, to.host)).await;
        match answer.unwrap_or_else(|late| Err(late.into())) {
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
async fn h2_connection(to: Target, due: &Due, seen: &Arc<Seen>) -> Result<bool> {
    let stream = match connect(to, "h2", seen).await {
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
        let scheme = if to.tls { "https" } else { "http" };
        let mut request = Some(http::Request::get(format!("{scheme}://{}/", to.host)).body(())?);
        let started = match send.clone().ready().await {
            Ok(mut ready) => ready.send_request(request.take().unwrap_or_default(), true).map(|(response, _)| response),
            Err(error) => Err(error),
        };
        let Ok(response) = started else {
            return again(to, at, seen).await.map(|()| true);
        };
        send = send.clone();
        let seen = seen.clone();
        tokio::spawn(async move {
            let Ok(answer) = tokio::time::timeout(PATIENCE * 2, h2_answer(response)).await else {
                seen.failed("HTTP/2: no answer".to_owned());
                return;
            };
            match answer {
                Ok(http::StatusCode::OK) => seen.answered(at),
                Ok(status) => seen.failed(format!("HTTP/2: {status}")),
                // Refused or beyond the last stream: by the protocol not looked at, so it may be sent again.
                Err(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_go_away() => {
                    if let Err(error) = again(to, at, &seen).await {
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
async fn again(to: Target, at: Instant, seen: &Seen) -> Result<()> {
    match connect(to, "http/1.1", seen).await {
        Ok(mut stream) => h1_request(&mut stream, to.host).await.map(|_| seen.answered(at)),
        Err(_) if seen.ending.load(Ordering::Acquire) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn h2(to: Target, due: Due, seen: Arc<Seen>) {
    loop {
        if due.lock().await.is_closed() && due.lock().await.is_empty() {
            return;
        }
        match h2_connection(to, &due, &seen).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => seen.failed(format!("{error:#}")),
        }
    }
}

/// Requests at a constant rate until told to stop.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<()>,
    /// What they saw so far.
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Requests to `to`, `rate` a second, half of the connections by HTTP/1.1.
    #[must_use]
    pub fn start(to: Target, rate: u64) -> Self {
        let (tickets, due) = mpsc::unbounded_channel();
        let due: Due = Arc::new(tokio::sync::Mutex::new(due));
        let seen = Arc::new(Seen::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..H1 {
            clients.spawn(h1(to, due.clone(), seen.clone()));
        }
        for _ in 0..H2 {
            clients.spawn(h2(to, due.clone(), seen.clone()));
        }
        let (rate, stopped) = (rate.max(1), stop.clone());
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
    ///
    /// # Errors
    /// When they do not come.
    pub async fn finish(mut self) -> Result<Arc<Seen>> {
        self.stop.store(true, Ordering::Release);
        let all = async { while self.clients.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(PATIENCE * 4, all).await;
        ended.with_context(|| format!("the clients do not come to an end: {}", self.seen.summary()))?;
        Ok(self.seen)
    }
}
