//! The HTTP/2 side of an upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::script::Answer;
use super::service::Method;
use super::{Journal, show};
use crate::client::Socket;
use crate::message::Reader;

/// A stream whose first bytes were read already.
pub(super) struct Rewound {
    inner: Box<dyn Socket>,
    pending: Vec<u8>,
}

impl Rewound {
    pub(super) fn new(reader: Reader<Box<dyn Socket>>) -> Self {
        let (inner, pending, _) = reader.into_parts();
        Self { inner, pending }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.pending.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, into);
        }
        let count = self.pending.len().min(into.remaining());
        let first: Vec<u8> = self.pending.drain(..count).collect();
        into.put_slice(&first);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

pub(super) async fn serve(stream: Rewound, name: &str, journal: &Journal) {
    let Ok(mut connection) = server::handshake(stream).await else {
        journal.note(format!("[{name}] HTTP/2 handshake failed"));
        return;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let script = request.headers().get("x-script").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = match &script {
            Some(script) => Answer::of(script, journal.next_scripted()),
            None => Answer::of("", 0),
        };
        if answer.close {
            journal.note(format!("[{name}] {} {} (closing)", request.method(), request.uri()));
            return;
        }
        let (name, journal) = (name.to_owned(), journal.clone());
        streams.spawn(async move {
            let _gone = one(request, respond, answer, &name, &journal).await;
        });
        while streams.try_join_next().is_some() {}
    }
}

async fn one(
    request: Request<RecvStream>,
    respond: server::SendResponse<Bytes>,
    mut answer: Answer,
    name: &str,
    journal: &Journal,
) -> Result<(), h2::Error> {
    let slot = journal.slot();
    let (head, mut body) = request.into_parts();
    let start = format!("[{name}] {} {} HTTP/2", head.method, head.uri);
    let mut bytes = Vec::new();
    journal.fill(slot, &entry(&start, &head.headers, &bytes, None));
    if !answer.early {
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?;
        journal.fill(slot, &entry(&start, &head.headers, &bytes, trailers.as_ref()));
    }
    if let Some(method) = Method::at(head.uri.path()) {
        let (message, scripted) = method.read(&bytes);
        journal.fill(slot, &format!("{}\n    {message}", entry(&start, &head.headers, &[], None)));
        answer = scripted;
    }
    respond_with(respond, &answer, head.method.as_str()).await
}

async fn respond_with(
    mut respond: server::SendResponse<Bytes>,
    answer: &Answer,
    method: &str,
) -> Result<(), h2::Error> {
    tokio::time::sleep(answer.delay).await;
    if answer.reset || answer.refuse {
        respond.send_reset(if answer.refuse { Reason::REFUSED_STREAM } else { Reason::INTERNAL_ERROR });
        return Ok(());
    }
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::OK);
    *response.headers_mut() = fields(&answer.headers);
    let empty = answer.bodiless(method) || answer.body.is_empty();
    let mut stream = respond.send_response(response, empty && answer.trailers.is_empty())?;
    if !empty {
        tokio::time::sleep(answer.stall).await;
        let last = answer.trailers.is_empty() && !answer.cut;
        stream.send_data(Bytes::from(answer.body.clone()), last)?;
        if answer.cut {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
    }
    if !answer.trailers.is_empty() {
        stream.send_trailers(fields(&answer.trailers))?;
    }
    Ok(())
}

fn fields(list: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            map.append(name, value);
        }
    }
    map
}

fn entry(start: &str, headers: &HeaderMap, body: &[u8], trailers: Option<&HeaderMap>) -> String {
    let mut text = start.to_owned();
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("\n    {name}: {}", value.as_bytes().escape_ascii())).collect();
    lines.sort();
    text.extend(lines);
    if !body.is_empty() {
        text += &format!("\n    body {}", show(body));
    }
    for (name, value) in trailers.into_iter().flatten() {
        text += &format!("\n    trailer {name}: {}", value.as_bytes().escape_ascii());
    }
    text
}
