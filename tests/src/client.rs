//! Raw clients: bytes out, messages in.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::message::{Message, Reader};
use crate::wait::PATIENCE;

/// What a client connection is made of: TCP or TLS.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A client connection driven byte by byte.
pub struct Client {
    /// The reading side.
    pub reader: Reader<ReadHalf<Box<dyn Socket>>>,
    writer: WriteHalf<Box<dyn Socket>>,
}

impl Client {
    /// Connects to a loopback port.
    ///
    /// # Errors
    /// When the connection is refused or takes too long.
    pub async fn connect(port: u16) -> Result<Self> {
        Ok(Self::over(Box::new(tcp(port).await?)))
    }

    /// Talks over a connection that is already there.
    #[must_use]
    pub fn over(stream: Box<dyn Socket>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: Reader::new(reader), writer }
    }

    /// Writes all of `bytes`. That the peer has closed already is for the reading side to tell.
    pub async fn send(&mut self, bytes: &[u8]) {
        let write = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        let _gone = tokio::time::timeout(PATIENCE, write).await;
    }

    /// Ends the writing side.
    pub async fn finish(&mut self) {
        let _gone = self.writer.shutdown().await;
    }

    /// Reads one final response; interim ones are put in front of it.
    ///
    /// # Errors
    /// When what came is not a response.
    pub async fn responses(&mut self, method: &str, patience: Duration) -> Result<Vec<Message>> {
        let end = Instant::now() + patience;
        let mut all = Vec::new();
        loop {
            let Some(mut head) = self.reader.head(end).await? else { return Ok(all) };
            let status = head.status();
            let interim = (100..200).contains(&status) && status != 101;
            let tunnel = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
            let bodiless = interim || tunnel || method == "HEAD" || status == 204 || status == 304;
            self.reader.body(&mut head, bodiless, true, end).await?;
            all.push(head);
            if !interim {
                return Ok(all);
            }
        }
    }

    /// Whether the peer closes within `patience`; what comes instead stays pending.
    pub async fn closes(&mut self, patience: Duration) -> bool {
        self.reader.until_quiet(patience).await;
        self.reader.ended
    }
}

/// Connects to a loopback port.
///
/// # Errors
/// When the connection is refused or takes too long.
pub async fn tcp(port: u16) -> Result<TcpStream> {
    let connect = TcpStream::connect(("127.0.0.1", port));
    let stream = tokio::time::timeout(PATIENCE, connect).await.context("connect: too slow")?;
    let stream = stream.with_context(|| format!("connect to port {port}"))?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    Ok(stream)
}

/// One request on its own connection; the final response.
///
/// # Errors
/// When no response came.
pub async fn fetch(port: u16, request: &[u8]) -> Result<Message> {
    let mut client = Client::connect(port).await?;
    client.send(request).await;
    let method = String::from_utf8_lossy(request).split(' ').next().unwrap_or("GET").to_owned();
    client.responses(&method, PATIENCE).await?.pop().context("closed without a response")
}
