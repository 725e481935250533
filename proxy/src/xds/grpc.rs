//! A bidirectional gRPC call over HTTP/2: as much of gRPC as discovery needs.
//!
//! Runs on: the control thread.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bounds a message: more than any configuration that Envoy could take, too little to take all memory. 12 MiB are usual for
/// thousands of clusters.
pub const MAX_MESSAGE: usize = 256 << 20;
/// What the server may send before it is read.
const WINDOW: u32 = 1 << 20;

/// Why a call ended.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// HTTP/2 failed.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The server ended it.
    #[error("gRPC status {code}: {message}")]
    Status {
        /// gRPC's code.
        code: u32,
        /// `grpc-message`.
        message: String,
    },
    /// No gRPC server answers there.
    #[error("HTTP status {0}")]
    Http(StatusCode),
    /// A message larger than [`MAX_MESSAGE`], or compressed.
    #[error("{0}")]
    Message(String),
    /// The request cannot be made.
    #[error("{0}")]
    Request(String),
}

/// Where a call goes.
pub struct Target<'a> {
    /// Its `:authority`.
    pub authority: &'a str,
    /// Service and method.
    pub path: &'a str,
    /// Further headers.
    pub metadata: &'a [(String, String)],
    /// Time between pings, and for their answers; absent: none are sent.
    pub keepalive: Option<(Duration, Duration)>,
}

/// The requests of a call.
pub struct Requests(SendStream<Bytes>);

/// The responses of a call. Dropped, the connection ends.
pub struct Responses {
    state: State,
    buffer: BytesMut,
    connection: tokio::task::JoinHandle<()>,
}

enum State {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Begins a call on a fresh connection.
///
/// # Errors
/// The other side does not speak HTTP/2.
pub async fn call<T>(io: T, target: &Target<'_>) -> Result<(Requests, Responses), GrpcError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (send, mut connection) = builder.handshake::<_, Bytes>(io).await?;
    let pings = connection.ping_pong().zip(target.keepalive);
    let connection = tokio::spawn(async move {
        let alive = async move {
            match pings {
                Some((pings, (every, within))) => keep_alive(pings, every, within).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = connection => drop(ended),
            () = alive => tracing::debug!("a management server no longer answers pings"),
        }
    });
    let mut send = match send.ready().await {
        Ok(send) => send,
        Err(e) => {
            connection.abort();
            return Err(e.into());
        }
    };
    let (head, requests) = send.send_request(request(target)?, false)?;
    Ok((Requests(requests), Responses { state: State::Head(head), buffer: BytesMut::new(), connection }))
}

fn request(target: &Target<'_>) -> Result<Request<()>, GrpcError> {
    let refused = |e: &dyn std::fmt::Display| GrpcError::Request(e.to_string());
    let uri = http::Uri::builder().scheme("http").authority(target.authority).path_and_query(target.path).build();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = uri.map_err(|e| refused(&e))?;
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("user-agent", HeaderValue::from_static("weft-proxy"));
    for (name, value) in target.metadata {
        let name = HeaderName::try_from(name.as_str()).map_err(|e| refused(&e))?;
        headers.append(name, HeaderValue::try_from(value.as_str()).map_err(|e| refused(&e))?);
    }
    Ok(request)
}

/// Ends when a ping is not answered in time.
async fn keep_alive(mut pings: h2::PingPong, every: Duration, within: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match tokio::time::timeout(within, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

impl Requests {
    /// Sends a message, as fast as the server takes it.
    ///
    /// # Errors
    /// The call is over.
    ///
    /// # Cancel safety
    /// None: a message cut short ends the call.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), GrpcError> {
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).map_err(|_| GrpcError::Message("a request of 4 GiB".into()))?);
        frame.put_slice(message);
        let mut frame = frame.freeze();
        while !frame.is_empty() {
            self.0.reserve_capacity(frame.len());
            let Some(room) = poll_fn(|cx| self.0.poll_capacity(cx)).await else {
                return Err(GrpcError::Request("the call is over".into()));
            };
            let part = frame.split_to(room?.min(frame.len()));
            self.0.send_data(part, false)?;
        }
        Ok(())
    }

    /// Says that there are no more.
    ///
    /// # Errors
    /// The call is over.
    pub fn finish(&mut self) -> Result<(), GrpcError> {
        Ok(self.0.send_data(Bytes::new(), true)?)
    }
}

impl Responses {
    /// The next message; `None`: the server ended the call in good order.
    ///
    /// # Errors
    /// The call failed.
    ///
    /// # Cancel safety
    /// Nothing is lost: what came of a message is kept.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GrpcError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match &mut self.state {
                State::Head(head) => {
                    let (parts, body) = head.await?.into_parts();
                    status(&parts.headers)?;
                    if parts.status != StatusCode::OK {
                        return Err(GrpcError::Http(parts.status));
                    }
                    self.state = State::Body(body);
                }
                State::Body(body) => match body.data().await {
                    Some(data) => {
                        let data = data?;
                        // Another reset would tell, if this cannot be given back.
                        let _ = body.flow_control().release_capacity(data.len());
                        self.buffer.extend_from_slice(&data);
                    }
                    None => {
                        status(&body.trailers().await?.unwrap_or_default())?;
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// A whole message of what came.
    fn take(&mut self) -> Result<Option<Bytes>, GrpcError> {
        let Some(&[compressed, a, b, c, d]) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Err(GrpcError::Message("a compressed message, which nobody asked for".into()));
        }
        if length > MAX_MESSAGE {
            return Err(GrpcError::Message(format!("a message of {length} bytes; {MAX_MESSAGE} are taken")));
        }
        if self.buffer.len() < length + 5 {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // A large message must not stay for the life of the stream.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// # Errors
/// The status is not OK.
fn status(headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    match text("grpc-status").map(|code| code.parse().unwrap_or(2)) {
        None | Some(0) => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
            Err(GrpcError::Status { code, message })
        }
    }
}
