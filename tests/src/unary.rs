//! gRPC calls with one message and one answer, over TLS.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use rustls::ClientConfig;
use tokio::net::TcpStream;

use crate::tls;
use crate::wait::PATIENCE;

/// A call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Of the server, on the loopback.
    pub port: u16,
    /// `/service/method`.
    pub path: &'a str,
    /// The certificate that is shown, of [`tls::material`].
    pub identity: Option<&'a str>,
    /// Another TLS configuration, which shows another certificate.
    pub tls: Option<Arc<ClientConfig>>,
    /// The token that is shown.
    pub token: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The gRPC status; 0 is good.
    pub status: u32,
    /// What it says.
    pub message: String,
    /// The message, encoded.
    pub body: Bytes,
}

impl<'a> Call<'a> {
    /// A call by nobody.
    #[must_use]
    pub fn to(port: u16, path: &'a str) -> Self {
        Self { port, path, identity: None, tls: None, token: None }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When there is no answer: the handshake or the connection fails.
    pub async fn send(&self, message: &[u8]) -> Result<Answer> {
        tokio::time::timeout(PATIENCE, self.exchange(message)).await.context("no answer")?
    }

    async fn exchange(&self, message: &[u8]) -> Result<Answer> {
        let config = match &self.tls {
            Some(config) => config.clone(),
            None => tls::client(self.identity, &["h2"])?,
        };
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let stream = tokio_rustls::TlsConnector::from(config).connect("localhost".try_into()?, tcp).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let task = tokio::spawn(connection);
        let mut request = Request::post(format!("https://localhost{}", self.path)).header("te", "trailers");
        request = request.header("content-type", "application/grpc");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (response, mut body) = sender.ready().await?.send_request(request.body(())?, false)?;
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len())?);
        frame.put_slice(message);
        body.send_data(frame.freeze(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut received = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            received.extend_from_slice(&part);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        task.abort();
        let header = |name: &str| {
            let value = trailers.get(name).or_else(|| head.headers.get(name))?;
            Some(value.to_str().ok()?.to_owned())
        };
        let status = header("grpc-status").context("no grpc-status")?.parse()?;
        let body = received.freeze();
        let body = if body.len() > 5 { body.slice(5..) } else { Bytes::new() };
        Ok(Answer { status, message: header("grpc-message").unwrap_or_default().replace("%20", " "), body })
    }
}
