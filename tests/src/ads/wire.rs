//! gRPC on the wire: HTTP/2 streams of length-prefixed messages.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Inner, Out, Stream};

type Shared = Arc<Mutex<Inner>>;

/// Accepts until dropped; connections end with it.
pub(super) async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, inner: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _late = stream.set_nodelay(true);
        let (inner, tls) = (inner.clone(), tls.clone());
        connections.spawn(async move {
            // A client that is killed leaves in any way it likes.
            let _gone = match tls {
                None => connection(stream, inner).await,
                Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                    Ok(stream) => connection(stream, inner).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, inner: Shared) -> Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let mut calls = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let inner = inner.clone();
        calls.spawn(async move { drop(call_of(request, respond, inner).await) });
    }
    Ok(())
}

async fn call_of(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, inner: Shared) -> Result<()> {
    let method = request.uri().path().to_owned();
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let send = respond.send_response(response, false)?;
    let (out, outbox) = unbounded_channel();
    let id = with(&inner, |inner| {
        inner.opened += 1;
        let delta = method.contains("/Delta");
        let stream = Stream { delta, out, subscriptions: Default::default(), nonce: 0 };
        inner.streams.insert(inner.opened - 1, stream);
        inner.opened - 1
    });
    tokio::select! {
        read = read(request.into_body(), &inner, id, &method) => drop(read),
        written = write(send, outbox) => drop(written),
    }
    with(&inner, |inner| drop(inner.streams.remove(&id)));
    Ok(())
}

fn with<T>(inner: &Shared, act: impl FnOnce(&mut Inner) -> T) -> T {
    act(&mut inner.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn read(mut body: RecvStream, inner: &Shared, id: usize, method: &str) -> Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
        while let Some(&[_, a, b, c, d]) = buffer.first_chunk::<5>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if buffer.len() < length + 5 {
                break;
            }
            buffer.advance(5);
            let message = buffer.split_to(length);
            with(inner, |inner| inner.received(id, method, &message));
        }
    }
    Ok(())
}

async fn write(mut send: SendStream<Bytes>, mut outbox: UnboundedReceiver<Out>) -> Result<()> {
    while let Some(out) = outbox.recv().await {
        let bytes = match out {
            Out::Reset => {
                send.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Out::Bytes(bytes) => bytes,
            Out::Message(message) => {
                let mut frame = BytesMut::with_capacity(message.len() + 5);
                frame.put_u8(0);
                frame.put_u32(u32::try_from(message.len()).context("a message of 4 GiB")?);
                frame.put_slice(&message);
                frame.to_vec()
            }
        };
        let mut bytes = Bytes::from(bytes);
        while !bytes.is_empty() {
            send.reserve_capacity(bytes.len());
            let room = poll_fn(|cx| send.poll_capacity(cx)).await.context("the stream is gone")??;
            send.send_data(bytes.split_to(room.min(bytes.len())), false)?;
        }
    }
    Ok(())
}
