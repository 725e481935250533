//! HTTP, as little as the applications need.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How many connections are served at once.
const CONNECTIONS: usize = 1024;
/// The longest body that is read.
const BODY_BYTES: usize = 1 << 20;

/// Where every application has its metrics, as the originals do.
const METRICS: &str = "/metrics";
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// Headers that go from a request to those it leads to: who asks, and which request it belongs to.
const FORWARDED: [&str; 12] = [
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "traceparent",
    "tracestate",
];

/// A request that was read whole.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An application.
pub(super) trait Application: Send + Sync + 'static {
    /// Answers a request.
    fn answer(&self, asked: Asked) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, app: Arc<impl Application>) -> Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(one(&*app, request).await) }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn one(app: &impl Application, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (method, at) = (head.method.clone(), path.clone());
    if path == METRICS {
        return typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics());
    }
    let asked = Asked { method: head.method, path, headers: head.headers, body: body.to_bytes() };
    let answer = app.answer(asked).await;
    println!("{method} {at} {}", answer.status().as_u16());
    let answered = if answer.status().is_server_error() { &FAILED } else { &ANSWERED };
    answered.fetch_add(1, Relaxed);
    answer
}

/// What it has answered, as Prometheus reads it.
fn metrics() -> String {
    let (answered, failed) = (ANSWERED.load(Relaxed), FAILED.load(Relaxed));
    format!(
        "# TYPE demo_requests_total counter\ndemo_requests_total{{outcome=\"answered\"}} {answered}\n\
         demo_requests_total{{outcome=\"failed\"}} {failed}\n"
    )
}

pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn json_of(status: StatusCode, json: &Json) -> Response<Full<Bytes>> {
    typed(status, "application/json", json.to_string())
}

pub(super) fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// What of a request's headers goes on.
pub(super) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut all = HeaderMap::new();
    for name in FORWARDED {
        if let Some(value) = headers.get(name) {
            all.insert(name, value.clone());
        }
    }
    all
}

/// A GET of a JSON document.
pub(super) async fn get(host: &str, port: u16, path: &str, headers: &HeaderMap, patience: Duration) -> Result<Json> {
    let exchange = async {
        let stream = TcpStream::connect((host, port)).await.with_context(|| format!("{host}:{port}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request =
            Request::get(path).header(header::HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new())?;
        request.headers_mut().extend(headers.clone());
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES).collect().await.map_err(|e| anyhow::anyhow!(e))?;
        connection.abort();
        anyhow::Ok((status, body.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(patience, exchange).await.context("no answer in time")??;
    anyhow::ensure!(status.is_success(), "{}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim());
    serde_json::from_slice(&body).context("the answer is no JSON")
}

/// Answers with what it was sent.
pub(super) struct Echo;

impl Application for Echo {
    async fn answer(&self, asked: Asked) -> Response<Full<Bytes>> {
        let headers: serde_json::Map<_, _> = asked
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
            .collect();
        let body = String::from_utf8_lossy(&asked.body);
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let said = json!({"method": asked.method.as_str(), "path": asked.path, "headers": headers, "body": body, "host": host});
        json_of(StatusCode::OK, &said)
    }
}
