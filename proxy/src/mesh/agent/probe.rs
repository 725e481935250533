//! The application's own probes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body_util::Full;
use prost::Message;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::ask::{self, AskError};
use super::config::{Beside, Probe, ProbeKind};
use super::unchecked;

/// Of an answer only the status counts.
const MAX_BYTES: usize = 1 << 20;
/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`
const SERVING: i32 = 1;

/// **Source**: `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// **Source**: `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks; the status that the application answers with, which is 200 where it is not HTTP. `asked`: the headers of who asks.
///
/// # Errors
/// It does not answer, or not that it is well.
pub(super) async fn ask(probe: &Probe, beside: &Beside, asked: &HeaderMap) -> Result<u16, AskError> {
    tokio::time::timeout(probe.timeout, once(probe, beside, asked)).await.unwrap_or(Err(AskError::Timeout))
}

async fn once(probe: &Probe, beside: &Beside, asked: &HeaderMap) -> Result<u16, AskError> {
    let to = SocketAddr::new(beside.address, probe.port);
    let stream = ask::connect(to, beside.from).await?;
    match &probe.kind {
        ProbeKind::Tcp => Ok(200),
        ProbeKind::Grpc(service) => grpc(stream, to, service).await,
        ProbeKind::Http { tls, path, headers } => {
            let request = get(path, to, headers, asked);
            let answer = if *tls {
                let connector = TlsConnector::from(Arc::new(unchecked::client().map_err(std::io::Error::other)?));
                let stream = connector.connect(ServerName::from(beside.address), stream).await?;
                ask::http1(stream, request, MAX_BYTES).await?
            } else {
                ask::http1(stream, request, MAX_BYTES).await?
            };
            Ok(answer.status().as_u16())
        }
    }
}

fn get(path: &str, to: SocketAddr, headers: &[(String, String)], asked: &HeaderMap) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    // What configuration has checked.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let own = request.headers_mut();
    if let Some(agent) = asked.get(USER_AGENT) {
        own.insert(USER_AGENT, agent.clone());
    }
    if let Ok(host) = HeaderValue::from_str(&to.to_string()) {
        own.insert(HOST, host);
    }
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            if name == HOST {
                own.insert(name, value);
            } else {
                own.append(name, value);
            }
        }
    }
    request
}

async fn grpc(stream: tokio::net::TcpStream, to: SocketAddr, service: &str) -> Result<u16, AskError> {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    // A byte that says that it is not compressed, and the length.
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = format!("http://{to}/grpc.health.v1.Health/Check").parse().unwrap_or_default();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    let answer = ask::http2(stream, request, MAX_BYTES).await?;
    let is_ok = answer.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == b"0");
    let status = answer.body().get(5..).and_then(|bytes| HealthCheckResponse::decode(bytes).ok());
    match status {
        Some(of) if is_ok && of.status == SERVING => Ok(200),
        _ => Err(AskError::Status(503)),
    }
}
