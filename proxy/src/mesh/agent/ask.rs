//! Questions to the application.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody is there.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// What came is no answer.
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    /// It ends badly, or is too large.
    #[error("the answer is cut off or larger than {0} bytes")]
    Body(usize),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// Another status than wanted.
    #[error("status {0}")]
    Status(u16),
}

/// A connection to the application, `from` an address of this machine.
///
/// # Errors
/// Nobody takes it.
pub(super) async fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks in HTTP/1.1; the answer's body is at most `max` bytes.
///
/// # Errors
/// No whole answer came.
///
/// # Cancel safety
/// Dropped, the connection is closed.
pub(super) async fn http1<S>(stream: S, request: Request<Full<Bytes>>, max: usize) -> Result<Response<Bytes>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        whole(answer, max).await
    };
    driven(exchange, connection).await
}

/// Asks in HTTP/2.
///
/// # Errors
/// No whole answer came.
pub(super) async fn http2<S>(stream: S, request: Request<Full<Bytes>>, max: usize) -> Result<Response<Bytes>, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        whole(answer, max).await
    };
    driven(exchange, connection).await
}

async fn whole(answer: Response<hyper::body::Incoming>, max: usize) -> Result<Response<Bytes>, AskError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, max).collect().await.map_err(|_| AskError::Body(max))?;
    let mut answer = Response::from_parts(head, Bytes::new());
    // Of gRPC it is the trailers that say how it went.
    if let Some(trailers) = body.trailers() {
        answer.headers_mut().extend(trailers.clone());
    }
    *answer.body_mut() = body.to_bytes();
    Ok(answer)
}

/// Polls the connection for as long as the exchange takes.
async fn driven<T>(
    exchange: impl Future<Output = Result<T, AskError>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<T, AskError> {
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // It may have ended with the answer.
            Ok(()) => exchange.await,
            Err(e) => Err(e.into()),
        },
    }
}
