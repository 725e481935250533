//! Asking a control plane or a proxy over HTTP.
//!
//! Must not know: what the answers mean.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpStream;

/// How long an answer may take. The configuration of a proxy is some tens of MB at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// A JSON document from `http://address/path`.
///
/// # Errors
/// When nobody answers there, or not with that.
pub(super) async fn get(address: &str, path: &str) -> Result<Json> {
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let body = tokio::time::timeout(PATIENCE, body(address, path));
    let body = body.await.with_context(|| format!("http://{address}{path}: no answer within {PATIENCE:?}"))??;
    serde_json::from_slice(&body)
        .with_context(|| format!("http://{address}{path} does not answer with JSON; is it the right port?"))
}

async fn body(address: &str, path: &str) -> Result<Bytes> {
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!("cannot connect to {address}; is it running there? Say where with --control-plane or --admin")
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", address).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    tokio::pin!(connection);
    let (status, body) = tokio::select! {
        biased;
        answer = exchange => answer?,
        ended = &mut connection => {
            ended?;
            bail!("{address} closed the connection without an answer")
        }
    };
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body).trim_end());
    }
    Ok(body)
}
