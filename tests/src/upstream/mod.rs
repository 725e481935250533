//! Scripted upstreams.
//!
//! An HTTP upstream speaks HTTP/1 and, to a client preface, HTTP/2 on one port. It answers what the request's
//! `x-script` field asks for ([`script`]), by default 200 with the body `ok`, and records each request. It is also the gRPC
//! services that proxies ask (`service`). A TCP upstream
//! greets nobody, records all bytes and sends them back, with `echo:` before the first.

mod http1;
mod http2;
pub mod script;
mod service;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::client::Socket;
use crate::message::Reader;
use crate::wait::PATIENCE;

/// What an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// HTTP/1 and HTTP/2 by preface.
    Http,
    /// The same over TLS, with ALPN for both.
    Tls,
    /// Bytes.
    Tcp,
}

/// What upstreams of one world have seen, in order.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Entries with their numbers, which are never used again: one that is still growing may have been taken.
    seen: Vec<(usize, String)>,
    last: usize,
    /// How many scripted requests came since the last [`Journal::take`].
    scripted: usize,
}

impl Journal {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds an entry.
    pub fn note(&self, entry: String) {
        let slot = self.slot();
        self.fill(slot, &entry);
    }

    /// Makes room for an entry that grows; [`Journal::fill`] writes it.
    fn slot(&self) -> usize {
        self.with(|inner| {
            inner.last += 1;
            inner.seen.push((inner.last, String::new()));
            inner.last
        })
    }

    fn fill(&self, slot: usize, entry: &str) {
        self.with(|inner| {
            if let Some((_, place)) = inner.seen.iter_mut().find(|(number, _)| *number == slot) {
                entry.clone_into(place);
            }
        });
    }

    fn next_scripted(&self) -> usize {
        self.with(|inner| {
            inner.scripted += 1;
            inner.scripted - 1
        })
    }

    /// All entries since the last call; scripts start again.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        self.with(|inner| {
            inner.scripted = 0;
            std::mem::take(&mut inner.seen).into_iter().map(|(_, entry)| entry).collect()
        })
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|inner| inner.seen.len())
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A listening upstream; it ends with this value.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is no port, or no certificate for a TLS upstream.
    pub async fn start(name: &str, flavour: Flavour, journal: Journal) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind an upstream")?;
        let port = listener.local_addr()?.port();
        let tls = match flavour {
            Flavour::Tls => Some(TlsAcceptor::from(crate::tls::server(&["h2", "http/1.1"])?)),
            Flavour::Http | Flavour::Tcp => None,
        };
        let task = tokio::spawn(accept(listener, name.to_owned(), flavour, tls, journal));
        Ok(Self { port, task })
    }

    /// The loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, name: String, flavour: Flavour, tls: Option<TlsAcceptor>, journal: Journal) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _fast = stream.set_nodelay(true);
        let (name, journal, tls) = (name.clone(), journal.clone(), tls.clone());
        connections.spawn(async move {
            match flavour {
                Flavour::Tcp => echo(stream, &name, &journal).await,
                Flavour::Http => {
                    let linger = Resettable::of(&stream);
                    serve(Box::new(stream), linger, &name, &journal).await;
                }
                Flavour::Tls => {
                    let linger = Resettable::of(&stream);
                    let Some(acceptor) = tls else { return };
                    match acceptor.accept(stream).await {
                        Ok(stream) => {
                            let (_, session) = stream.get_ref();
                            let sni = session.server_name().unwrap_or("-");
                            let alpn = session.alpn_protocol().map_or("-".into(), String::from_utf8_lossy);
                            let version =
                                session.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
                            let version = version.unwrap_or_default();
                            journal.note(format!("[{name}] tls {version} sni={sni} alpn={alpn}"));
                            serve(Box::new(stream), linger, &name, &journal).await;
                        }
                        Err(_refused) => journal.note(format!("[{name}] tls handshake failed")),
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A handle with which a connection can be reset rather than closed.
#[derive(Debug)]
pub(crate) struct Resettable(Option<std::net::TcpStream>);

impl Resettable {
    fn of(stream: &TcpStream) -> Self {
        use std::os::fd::AsFd;
        Self(stream.as_fd().try_clone_to_owned().ok().map(std::net::TcpStream::from))
    }

    /// From now on closing the connection sends RST.
    pub(crate) fn reset_on_close(self) {
        if let Some(stream) = self.0 {
            let _unsupported = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

async fn serve(stream: Box<dyn Socket>, reset: Resettable, name: &str, journal: &Journal) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut reader = Reader::new(stream);
    while reader.pending.len() < PREFACE.len() && PREFACE.starts_with(&reader.pending) {
        // A pooled connection may idle for as long as its test takes.
        if !reader.more(Instant::now() + PATIENCE * 20).await {
            break;
        }
    }
    if reader.pending.starts_with(PREFACE) {
        http2::serve(http2::Rewound::new(reader), name, journal).await;
    } else {
        http1::serve(reader, reset, name, journal).await;
    }
}

async fn echo(mut stream: TcpStream, name: &str, journal: &Journal) {
    let slot = journal.slot();
    let mut all = Vec::new();
    journal.fill(slot, &format!("[{name}] tcp connection"));
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => {
                journal.fill(slot, &format!("[{name}] tcp {} FIN", show(&all)));
                return;
            }
            Err(_) => {
                journal.fill(slot, &format!("[{name}] tcp {} RST", show(&all)));
                return;
            }
            Ok(count) => {
                all.extend_from_slice(&chunk[..count]);
                journal.fill(slot, &format!("[{name}] tcp {}", show(&all)));
                if all.ends_with(b"reset!") {
                    let _best_effort = stream.set_zero_linger();
                    return;
                }
                // Once: how a client's bytes are cut into reads is nobody's choice.
                let greeting: &[u8] = if all.len() == count { b"echo:" } else { b"" };
                // In one piece: a client that resets at the first bytes has the same in any case.
                if stream.write_all(&[greeting, &chunk[..count]].concat()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Bytes for a report: escaped, and shortened where they are many.
#[must_use]
pub fn show(bytes: &[u8]) -> String {
    const MANY: usize = 400;
    if bytes.len() > MANY {
        let sum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        return format!("{}... ({} bytes, sum {sum:08x})", bytes[..40].escape_ascii(), bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii())
}
