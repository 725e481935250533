//! Health, metrics and debug pages over HTTP.
//!
//! Owns the sockets' connections and which path is which page. Must not know: what the pages say.

mod debug;
#[cfg(test)]
mod tests;

pub(super) use debug::timestamp;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;
use tokio::task::JoinSet;

use super::{Bound, Shared, provenance};
use crate::generate::Generator;

/// What the pages are, for the one that lists them.
const PAGES: &str = "\
/healthz                            200 while the process works
/ready                              200 while it takes proxies
/metrics                            Prometheus
/debug/syncz                        what each proxy has, and what it refused and why
/debug/connections                  who is connected
/debug/push_status                  which configuration is served, how many follow
/debug/ca                           who signs certificates, which roots are trusted, how far the replacement of one is
/debug/jwksz                        where keys of tokens are fetched, and how that goes
/debug/configz                      the objects the configuration is made of, what is wrong with them, who refuses what they make
/debug/objectz?object=OBJECT        which proxies run the newest state of an object: VirtualService default/reviews
/debug/config_dump?proxyID=PROXY    what a proxy gets, in the form of Envoy's /config_dump
/debug/endpointz[?proxyID=PROXY]    endpoints by cluster, of one proxy or of all
";

/// Answers on a socket until `shared` is stopped.
pub async fn serve_http<G: Generator>(shared: Arc<Shared<G>>, socket: Bound) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(_) = tasks.join_next() => {}
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(connection(shared.clone(), TokioIo::new(stream)));
                }
                Err(error) => {
                    tracing::warn!("http {}: accept: {error}; trying again", socket.address);
                    // Out of descriptors, mostly: give others the time to let go of some.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection<G: Generator>(shared: Arc<Shared<G>>, stream: TokioIo<tokio::net::TcpStream>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(response(page(&shared, &request))) }
    });
    if let Err(error) = auto::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await {
        tracing::debug!("http: a connection ended: {error}");
    }
}

/// An answer.
#[derive(Debug)]
struct Page {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Page {
    fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn json(json: &Json) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", body: format!("{json:#}\n") }
    }
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(page.body));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn page<G: Generator>(shared: &Shared<G>, request: &Request<Incoming>) -> Page {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Page::text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
    }
    answer(shared, request.uri().path(), request.uri().query().unwrap_or_default())
}

fn answer<G: Generator>(shared: &Shared<G>, path: &str, query: &str) -> Page {
    let connections = shared.connections.list();
    match path {
        "/healthz" => Page::text(StatusCode::OK, "ok\n"),
        "/ready" if shared.stop.is_cancelled() => Page::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        "/ready" => Page::text(StatusCode::OK, "ready\n"),
        "/metrics" => {
            let (ca, keys) = (shared.ca.get().map(|ca| &**ca), shared.keys.get().map(|keys| &**keys));
            let body = shared.connections.metrics().prometheus(ca, keys);
            Page { status: StatusCode::OK, content_type: "text/plain; version=0.0.4", body }
        }
        "/debug/syncz" => Page::json(&debug::syncz(&*shared.cache.current().world, &connections)),
        "/debug/connections" => Page::json(&debug::connections(&connections)),
        "/debug/ca" => Page::json(&shared.ca.get().map_or(Json::Null, |ca| ca.status())),
        "/debug/jwksz" => Page::json(&shared.keys.get().map_or(Json::Null, |keys| keys.sets())),
        "/debug/push_status" => Page::json(&debug::push_status(&shared.cache, &connections)),
        "/debug/configz" => {
            let world = &shared.cache.current().world;
            Page::json(&debug::objects(&**world, (shared.describe)(world), &connections))
        }
        "/debug/objectz" => match parameter(query, "object") {
            Some(called) => Page::json(&provenance::object(shared, &called)),
            None => Page::text(StatusCode::BAD_REQUEST, "say which: ?object=VirtualService%20default/reviews\n"),
        },
        "/debug/config_dump" | "/debug/endpointz" => {
            let wanted = parameter(query, "proxyID");
            let found = debug::find(&connections, wanted.as_deref());
            match (path, found) {
                (_, Err(reason)) => Page::text(StatusCode::NOT_FOUND, reason),
                ("/debug/endpointz", Ok(found)) => Page::json(&debug::endpointz(&found)),
                (_, Ok(found)) if wanted.is_some() => Page::json(&debug::config_dump(&found)),
                _ => Page::text(StatusCode::BAD_REQUEST, "say which proxy: ?proxyID=, see /debug/connections\n"),
            }
        }
        "/" | "/debug" | "/debug/" => Page::text(StatusCode::OK, PAGES),
        _ => Page::text(StatusCode::NOT_FOUND, format!("no such page; these are there:\n{PAGES}")),
    }
}

/// A parameter of a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}
