//! The applications of BookInfo, as small as they can be: each says who it is and what it was told by those it asks.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::message::{Message, Reader};
use crate::wait::PATIENCE;

/// Addresses of the loopback network that one mesh has for itself: tests that run at the same time have others.
#[derive(Clone, Copy, Debug)]
pub struct Net([u8; 2]);

impl Net {
    /// A block that nobody else in this process has, and hardly anybody else on this machine.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n =
            std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let [.., high, low] = n.to_be_bytes();
        Self([32 + high % 192, low])
    }

    /// One of its addresses.
    #[must_use]
    pub fn ip(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0[0], self.0[1], last).into()
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

/// What an application answers with, and whom it asks for it.
#[derive(Clone, Debug)]
pub struct App {
    /// Who it is.
    pub name: String,
    /// Services it asks, and the address of the proxy beside it through which it does.
    pub asks: Vec<(String, SocketAddr)>,
}

/// A GET of `path` at `host`, with further header lines, each with its CRLF.
///
/// # Errors
/// When there is no answer.
pub async fn get(to: SocketAddr, host: &str, path: &str, headers: &str) -> Result<Message> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await.context("connect: too slow")?;
    get_over(stream.with_context(|| format!("connect to {to}"))?, host, path, headers).await
}

/// The same over a connection that is there.
///
/// # Errors
/// When there is no answer.
pub async fn get_over<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    path: &str,
    headers: &str,
) -> Result<Message> {
    let text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await?;
    let (reading, _writing) = tokio::io::split(stream);
    let mut reader = Reader::new(reading);
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut answer = reader.head(end).await?.context("no answer")?;
    reader.body(&mut answer, false, true, end).await?;
    Ok(answer)
}

impl App {
    /// What it says: `reviews-v2 ratings=ratings-v1`, or the status of who does not answer well.
    async fn answer(&self, user: Option<&str>) -> String {
        let mut text = self.name.clone();
        for (service, through) in &self.asks {
            let user = user.map_or_else(String::new, |user| format!("end-user: {user}\r\n"));
            let said = match Box::pin(get(*through, &format!("{service}:9080"), "/", &user)).await {
                Ok(answer) if answer.status() == 200 => String::from_utf8_lossy(&answer.body).into_owned(),
                Ok(answer) => answer.status().to_string(),
                Err(error) => format!("({error:#})"),
            };
            text += &format!(" {service}={said}");
        }
        text
    }

    /// Answers requests on a connection until it is closed.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, mut stream: S) {
        let mut seen = Vec::new();
        while matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
            while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
                seen.drain(..end + 4);
                let user = head.lines().find_map(|line| line.strip_prefix("end-user:")).map(str::trim);
                let body = self.answer(user).await;
                let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Starts it; it ends with the set.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(self, tasks: &mut JoinSet<()>, at: SocketAddr) -> Result<u16> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
        let port = listener.local_addr()?.port();
        let app = Arc::new(self);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(app.clone().serve(stream));
            }
        });
        Ok(port)
    }

    /// Starts it over TLS with this certificate; its name is followed by the server name it was asked for. `None`: the port is
    /// not for us to take.
    ///
    /// # Errors
    /// When it cannot listen there for another reason.
    pub async fn start_tls(self, tasks: &mut JoinSet<()>, at: SocketAddr, identity: &str) -> Result<Option<u16>> {
        let listener = match TcpListener::bind(at).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
            listener => listener.with_context(|| format!("listen on {at}"))?,
        };
        let port = listener.local_addr()?.port();
        let acceptor = TlsAcceptor::from(crate::tls::server_as(identity, &["http/1.1"])?);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, app) = (acceptor.clone(), self.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let asked = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                    Arc::new(App { name: format!("{} sni={asked}", app.name), ..app }).serve(stream).await;
                });
            }
        });
        Ok(Some(port))
    }
}

/// A database: says its name, then repeats what it is told.
///
/// # Errors
/// When it cannot listen there.
pub async fn database(tasks: &mut JoinSet<()>, name: String, at: SocketAddr) -> Result<u16> {
    let listener = TcpListener::bind(at).await.with_context(|| format!("listen on {at}"))?;
    let port = listener.local_addr()?.port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = format!("{name}\n");
            connections.spawn(async move {
                let _gone = stream.write_all(hello.as_bytes()).await;
                let (mut from, mut to) = stream.split();
                let _gone = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Ok(port)
}

/// What a database at the other end of a proxy says first, and that it repeats what it is told.
///
/// # Errors
/// When it does neither.
pub async fn ask_database(through: SocketAddr) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(through).await.with_context(|| format!("connect to {through}"))?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n") {
            ensure!(stream.read_buf(&mut seen).await? > 0, "closed after {seen:?}");
        }
        let name = String::from_utf8_lossy(&seen).trim().to_owned();
        stream.write_all(b"select 1").await?;
        let mut back = [0; 8];
        stream.read_exact(&mut back).await?;
        ensure!(&back == b"select 1", "{back:?}");
        Ok(name)
    };
    tokio::time::timeout(PATIENCE, talk).await.context("too slow")?
}

/// A name server that knows one address, and that every name has it (RFC 1035).
///
/// # Errors
/// When it cannot listen.
pub async fn name_server(tasks: &mut JoinSet<()>, at: IpAddr, knows: Ipv4Addr) -> Result<u16> {
    let socket = UdpSocket::bind((at, 0)).await.context("name server")?;
    let port = socket.local_addr()?.port();
    tasks.spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            if let Some(answer) = resolve(&query[..length], knows) {
                let _gone = socket.send_to(&answer, from).await;
            }
        }
    });
    Ok(port)
}

/// The answer to a query with one question: its header and question, and an address if that was asked for.
fn resolve(query: &[u8], knows: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let question_end = HEADER + name + 5;
    let kind = query.get(question_end - 4..question_end - 2)?;
    let asked = u16::from(kind == [0, 1]);
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion desired and available; one question, no more than one answer.
    answer.extend([0x81, 0x80, 0, 1]);
    answer.extend(asked.to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(query.get(HEADER..question_end)?);
    if asked == 1 {
        // The name of the question, A, IN, a minute, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(knows.octets());
    }
    Some(answer)
}
