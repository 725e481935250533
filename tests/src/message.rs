//! HTTP/1 messages as bytes: enough of a parser to read what a proxy wrote, and no more forgiving than that.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// One message as it was on the wire, with its body joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The request line or status line.
    pub start: String,
    /// Field names as written, in order.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Fields after the last chunk.
    pub trailers: Vec<(String, String)>,
    /// Whether the body was complete when reading ended.
    pub complete: bool,
}

impl Message {
    /// The first value of a field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The status code; 0 where there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The method of a request line.
    #[must_use]
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }
}

/// A stream with what was read too far.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Bytes read and not yet used.
    pub pending: Vec<u8>,
    /// Whether the peer has closed (or reset) its side.
    pub ended: bool,
    /// Whether that was a reset.
    pub reset: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Wraps a stream.
    pub fn new(inner: R) -> Self {
        Self { inner, pending: Vec::new(), ended: false, reset: false }
    }

    /// The stream, what is pending, and whether the peer has closed.
    pub fn into_parts(self) -> (R, Vec<u8>, bool) {
        (self.inner, self.pending, self.ended)
    }

    /// Reads once; false when there is no more or `end` has passed.
    pub async fn more(&mut self, end: Instant) -> bool {
        if self.ended {
            return false;
        }
        let mut chunk = vec![0; 16 * 1024];
        match tokio::time::timeout_at(end, self.inner.read(&mut chunk)).await {
            Err(_) => false,
            Ok(Ok(0)) => {
                self.ended = true;
                false
            }
            Ok(Err(error)) => {
                self.ended = true;
                self.reset = error.kind() == std::io::ErrorKind::ConnectionReset;
                false
            }
            Ok(Ok(count)) => {
                self.pending.extend_from_slice(&chunk[..count]);
                true
            }
        }
    }

    /// Reads until the peer closes, or until it has been silent for `quiet`.
    pub async fn until_quiet(&mut self, quiet: Duration) {
        while self.more(Instant::now() + quiet).await {}
    }

    /// Takes what is pending.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    async fn line(&mut self, end: Instant) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                return Ok(Some(text));
            }
            if !self.more(end).await {
                if self.pending.is_empty() {
                    return Ok(None);
                }
                bail!("ended inside a line: {:?}", String::from_utf8_lossy(&self.pending));
            }
        }
    }

    async fn fields(&mut self, end: Instant) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line(end).await?.context("ended inside the fields")?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no colon in {line:?}"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads start line and fields; `None` when the peer closed before the first byte.
    ///
    /// # Errors
    /// When what came is not a head, or came too late.
    pub async fn head(&mut self, end: Instant) -> Result<Option<Message>> {
        let Some(start) = self.line(end).await? else { return Ok(None) };
        let headers = self.fields(end).await?;
        Ok(Some(Message { start, headers, ..Message::default() }))
    }

    /// Reads the body that belongs to `message`. A truncated one leaves `complete` false and is not an error.
    ///
    /// # Errors
    /// When the chunked coding is broken.
    pub async fn body(&mut self, message: &mut Message, bodiless: bool, until_close: bool, end: Instant) -> Result<()> {
        if bodiless {
            message.complete = true;
        } else if message.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            self.chunked(message, end).await?;
        } else if let Some(length) = message.header("content-length") {
            let length: usize = length.parse().with_context(|| format!("content-length {length:?}"))?;
            message.complete = self.exactly(length, &mut message.body, end).await;
        } else if until_close {
            while self.more(end).await {}
            message.body = self.take();
            message.complete = self.ended && !self.reset;
        } else {
            message.complete = true;
        }
        Ok(())
    }

    async fn exactly(&mut self, length: usize, into: &mut Vec<u8>, end: Instant) -> bool {
        while self.pending.len() < length {
            if !self.more(end).await {
                into.append(&mut self.pending);
                return false;
            }
        }
        into.extend(self.pending.drain(..length));
        true
    }

    async fn chunked(&mut self, message: &mut Message, end: Instant) -> Result<()> {
        loop {
            let Ok(Some(line)) = self.line(end).await else { return Ok(()) };
            let digits = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(digits, 16).with_context(|| format!("chunk size {line:?}"))?;
            if size == 0 {
                if let Ok(trailers) = self.fields(end).await {
                    message.trailers = trailers;
                    message.complete = true;
                }
                return Ok(());
            }
            if !self.exactly(size, &mut message.body, end).await {
                return Ok(());
            }
            let Ok(Some(_)) = self.line(end).await else { return Ok(()) };
        }
    }
}
