//! An HTTP/2 client for whole requests.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::client::Socket;
use crate::message::Message;
use crate::wait::PATIENCE;

/// A request for [`send`].
#[derive(Clone, Debug, Default)]
pub struct H2Request {
    /// `:method`; GET when empty.
    pub method: String,
    /// Scheme, authority and path in one, `http://host/path`.
    pub uri: String,
    /// Fields.
    pub headers: Vec<(String, String)>,
    /// Body; none when empty.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// Sends one request on its own connection. The response has HTTP/1's shape; what went wrong is its start line.
///
/// # Errors
/// When the request cannot be built or nothing came in time.
pub async fn send(stream: Box<dyn Socket>, request: &H2Request) -> Result<Message> {
    tokio::time::timeout(PATIENCE, exchange(stream, request)).await.context("HTTP/2: no answer in time")?
}

async fn exchange(stream: Box<dyn Socket>, request: &H2Request) -> Result<Message> {
    let (client, connection) = h2::client::handshake(stream).await.context("HTTP/2 handshake")?;
    let driver = tokio::spawn(connection);
    let answer = one(client, request).await;
    driver.abort();
    answer
}

async fn one(client: h2::client::SendRequest<Bytes>, request: &H2Request) -> Result<Message> {
    let mut client = match client.ready().await {
        Ok(client) => client,
        Err(error) => return Ok(failed(&error)),
    };
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    let mut head = Request::builder().method(method).uri(&request.uri).version(http::Version::HTTP_2).body(())?;
    *head.headers_mut() = fields(&request.headers)?;
    let end = request.body.is_empty() && request.trailers.is_empty();
    let (response, mut body) = match client.send_request(head, end) {
        Ok(sent) => sent,
        Err(error) => return Ok(failed(&error)),
    };
    let trailers = fields(&request.trailers)?;
    if !request.body.is_empty() {
        let _reset = body.send_data(Bytes::from(request.body.clone()), trailers.is_empty());
    }
    if !trailers.is_empty() {
        let _reset = body.send_trailers(trailers);
    }
    let (head, mut incoming) = match response.await {
        Ok(response) => response.into_parts(),
        Err(error) => return Ok(failed(&error)),
    };
    let mut message = Message { start: format!("HTTP/2 {}", head.status.as_u16()), ..Message::default() };
    message.headers = list(&head.headers);
    while let Some(chunk) = incoming.data().await {
        match chunk {
            Ok(chunk) => {
                let _closed = incoming.flow_control().release_capacity(chunk.len());
                message.body.extend_from_slice(&chunk);
            }
            Err(error) => {
                message.trailers.push(("(stream)".to_owned(), failed(&error).start));
                return Ok(message);
            }
        }
    }
    if let Ok(Some(trailers)) = incoming.trailers().await {
        message.trailers = list(&trailers);
    }
    message.complete = true;
    Ok(message)
}

fn failed(error: &h2::Error) -> Message {
    let reason = error.reason().map_or_else(|| "connection lost".to_owned(), |reason| format!("{reason:?}"));
    let what = if error.is_go_away() { "GOAWAY" } else { "failed" };
    Message { start: format!("HTTP/2 {what} {reason}"), ..Message::default() }
}

fn fields(list: &[(String, String)]) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(HeaderName::try_from(name.as_str())?, HeaderValue::try_from(value.as_str())?);
    }
    Ok(map)
}

fn list(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().escape_ascii().to_string())).collect()
}
