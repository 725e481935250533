//! What is answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::mpsc;

use super::ask::{self, AskError};
use super::config::{AppMetrics, Beside};
use super::{Ready, probe};
use crate::admin::Command;
use crate::stats::{Counter, Query, Store};

/// The largest page of the application.
const MAX_PAGE: usize = 16 << 20;
/// How long the application may take if the scraper does not say.
const SCRAPE: Duration = Duration::from_secs(5);
/// How long it may take at most.
const MAX_SCRAPE: Duration = Duration::from_secs(60);
/// How long Prometheus waits, in seconds.
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
/// Prometheus' text, which can be added to.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The pages, and what they are made of.
pub(super) struct Pages {
    beside: Beside,
    stats: Arc<Store>,
    ready: Ready,
    commands: mpsc::UnboundedSender<Command>,
    scrapes: Counter,
    scrape_failures: Counter,
    probes: Counter,
    probe_failures: Counter,
    /// The application's metrics could not be had the last time.
    failing: AtomicBool,
}

impl Pages {
    pub(super) fn new(
        beside: Beside,
        stats: Arc<Store>,
        ready: Ready,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let scope = stats.root().scope("agent");
        Pages {
            scrapes: scope.counter("app_scrape"),
            scrape_failures: scope.counter("app_scrape_failure"),
            probes: scope.counter("app_probe"),
            probe_failures: scope.counter("app_probe_failure"),
            failing: AtomicBool::new(false),
            beside,
            stats,
            ready,
            commands,
        }
    }

    pub(super) async fn answer<B>(&self, request: &Request<B>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz/ready" if is_get => match (self.ready)() {
                Ok(()) => text(StatusCode::OK, ""),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            "/stats/prometheus" | "/metrics" if is_get => self.metrics(request.headers()).await,
            "/quitquitquit" => self.quit(request.method(), peer),
            path => match self.beside.probes.get(path) {
                Some(of) if is_get => self.probe(of, request.headers(), path).await,
                Some(_) => text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET"),
                None => text(StatusCode::NOT_FOUND, "there is no such page"),
            },
        }
    }

    fn quit(&self, method: &Method, peer: SocketAddr) -> Response<Full<Bytes>> {
        if !peer.ip().to_canonical().is_loopback() {
            return text(StatusCode::FORBIDDEN, "only from this pod");
        }
        if method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "ask with POST");
        }
        // It ends a moment later, if it has not yet.
        let _ = self.commands.send(Command::Quit);
        text(StatusCode::OK, "")
    }

    async fn probe(&self, of: &super::Probe, asked: &HeaderMap, path: &str) -> Response<Full<Bytes>> {
        self.probes.inc();
        let outcome = probe::ask(of, &self.beside, asked).await;
        match outcome {
            Ok(status) => {
                if !(200..400).contains(&status) {
                    self.probe_failures.inc();
                }
                text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "")
            }
            Err(error) => {
                self.probe_failures.inc();
                tracing::debug!(path, %error, "the application's probe fails");
                text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
            }
        }
    }

    /// The proxy's metrics, and the application's behind them.
    async fn metrics(&self, asked: &HeaderMap) -> Response<Full<Bytes>> {
        let query = Query { used_only: true, ..Query::default() };
        let app = match &self.beside.metrics {
            Some(of) => self.of_app(of, limit(asked)).await,
            None => Bytes::new(),
        };
        let mut page = self.stats.prometheus(&query).unwrap_or_default().into_bytes();
        append(&mut page, &app);
        let mut answer = Response::new(Full::new(Bytes::from(page)));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        answer
    }

    /// The application's page; empty where it cannot be had, which is told once.
    async fn of_app(&self, of: &AppMetrics, limit: Duration) -> Bytes {
        self.scrapes.inc();
        let fetched = tokio::time::timeout(limit, self.fetch(of)).await;
        match fetched.unwrap_or(Err(AskError::Timeout)) {
            Ok(page) => {
                if self.failing.swap(false, Relaxed) {
                    tracing::info!(port = of.port, path = of.path, "the application's metrics are there again");
                }
                page
            }
            Err(error) => {
                self.scrape_failures.inc();
                if !self.failing.swap(true, Relaxed) {
                    tracing::warn!(
                        port = of.port,
                        path = of.path,
                        "the application's metrics cannot be had: {error}; the proxy's own are served without them"
                    );
                }
                Bytes::new()
            }
        }
    }

    async fn fetch(&self, of: &AppMetrics) -> Result<Bytes, AskError> {
        // On its loopback, as Istio's agent does it; else where its clients find it.
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), of.port);
        let (stream, to) = match ask::connect(local, None).await {
            Ok(stream) => (stream, local),
            Err(_) => {
                let own = SocketAddr::new(self.beside.address, of.port);
                (ask::connect(own, self.beside.from).await?, own)
            }
        };
        let mut request = Request::new(Full::default());
        *request.uri_mut() = of.path.parse().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(&to.to_string()) {
            request.headers_mut().insert(HOST, host);
        }
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4;q=1,*/*;q=0.1"));
        let answer = ask::http1(stream, request, MAX_PAGE).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(AskError::Status(status.as_u16())),
        }
    }
}

/// How long the application may take: most of what the scraper waits, so that it hears of the proxy in any case.
fn limit(asked: &HeaderMap) -> Duration {
    let told = asked.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let told = told.and_then(|seconds| Duration::try_from_secs_f64(seconds * 0.8).ok());
    told.map_or(SCRAPE, |told| told.min(MAX_SCRAPE))
}

/// Adds a page to another. `# EOF`, which ends OpenMetrics, would end both.
fn append(page: &mut Vec<u8>, more: &[u8]) {
    if more.is_empty() {
        return;
    }
    if page.last().is_some_and(|last| *last != b'\n') {
        page.push(b'\n');
    }
    page.reserve(more.len() + 1);
    for line in more.split_inclusive(|byte| *byte == b'\n') {
        if line.trim_ascii() != b"# EOF" {
            page.extend_from_slice(line);
        }
    }
    if page.last().is_some_and(|last| *last != b'\n') {
        page.push(b'\n');
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let body = if body.is_empty() { Bytes::new() } else { Bytes::from(format!("{body}\n")) };
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
