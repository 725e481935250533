//! `envoy.filters.http.grpc_stats`: counts calls and messages by method, below the stats of the cluster they go to.
//!
//! Runs on: workers. What a method counts with is made at its first call and kept: counters go with their last handle.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{FilteredBody, FrameMap};
use crate::config::GrpcStatsFilter;
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::head::ResponseHead;
use crate::http::local_reply::is_grpc;
use crate::http::stream::StreamCtx;
use crate::stats::{Counter, Histogram, Scope, Unit};

/// Methods told apart by one filter. Callers choose the names, so there must be an end to them: what comes beyond is counted
/// together.
const MAX_CALLS: usize = 10_000;
/// gRPC's own status codes.
const STATUSES: usize = 17;

/// The filter.
pub(super) struct GrpcStats {
    config: GrpcStatsFilter,
    calls: Mutex<Calls>,
}

/// By cluster and stat prefix.
type Calls = HashMap<(Arc<str>, String), Arc<Call>>;

/// Stats of one method on one cluster.
struct Call {
    scope: Scope,
    total: Counter,
    success: OnceLock<Counter>,
    failure: OnceLock<Counter>,
    by_status: [OnceLock<Counter>; STATUSES],
    requests: Counter,
    responses: Counter,
    time: Option<Histogram>,
}

impl Call {
    fn new(scope: Scope, timed: bool) -> Self {
        Call {
            total: scope.counter("total"),
            success: OnceLock::new(),
            failure: OnceLock::new(),
            by_status: Default::default(),
            requests: scope.counter("request_message_count"),
            responses: scope.counter("response_message_count"),
            time: timed.then(|| scope.histogram("upstream_rq_time", Unit::Milliseconds)),
            scope,
        }
    }

    /// Sees the messages of one side.
    fn counted(self: Arc<Self>, is_answer: bool) -> impl FrameMap + 'static {
        let call = self.clone();
        let frames = Frames::new(move || if is_answer { call.responses.inc() } else { call.requests.inc() });
        Counted { call: self, frames, is_answer }
    }

    fn ended(&self, status: &http::HeaderValue) {
        let Some(code) = status.to_str().ok().and_then(|s| s.parse::<usize>().ok()) else { return };
        if let Some(slot) = self.by_status.get(code) {
            slot.get_or_init(|| self.scope.counter(&code.to_string())).inc();
        }
        let (slot, name) = if code == 0 { (&self.success, "success") } else { (&self.failure, "failure") };
        slot.get_or_init(|| self.scope.counter(name)).inc();
    }
}

impl GrpcStats {
    pub(super) fn new(config: &GrpcStatsFilter) -> Self {
        GrpcStats { config: config.clone(), calls: Mutex::default() }
    }

    /// The stat prefix of a call, below its cluster: `grpc`, or `grpc.<service>.<method>` for the methods that are told apart.
    fn prefix(&self, path: &str) -> Option<String> {
        let (service, method) = path.trim_start_matches('/').split_once('/')?;
        let listed = self.config.allowlist.iter().any(|(s, m)| s == service && m.iter().any(|x| x == method));
        if !self.config.all_methods && !listed {
            return Some("grpc".into());
        }
        let service = if self.config.replace_dots { service.replace('.', "_") } else { service.to_owned() };
        Some(format!("grpc.{service}.{method}"))
    }

    fn call(&self, ctx: &StreamCtx) -> Option<Arc<Call>> {
        if !is_grpc(ctx) {
            return None;
        }
        let cluster = ctx.routed_cluster()?;
        let prefix = self.prefix(ctx.request.path_only())?;
        let mut calls = self.calls.lock();
        let key = (cluster.name.clone(), prefix);
        if let Some(call) = calls.get(&key) {
            return Some(call.clone());
        }
        let key = if calls.len() < MAX_CALLS { key } else { (key.0, "grpc".to_owned()) };
        let make = || Arc::new(Call::new(cluster.stats.scope.scope(&key.1), self.config.upstream_stats));
        Some(calls.entry(key.clone()).or_insert_with(make).clone())
    }

    pub(super) fn request(&self, ctx: &StreamCtx, body: Body) -> Body {
        let Some(call) = self.call(ctx) else { return body };
        call.total.inc();
        if body.is_end() {
            return body;
        }
        FilteredBody::wrap(body, call.counted(false))
    }

    pub(super) fn response(&self, ctx: &StreamCtx, head: &ResponseHead, body: Body) -> Body {
        let Some(call) = self.call(ctx) else { return body };
        if let Some(time) = &call.time {
            time.record(ctx.info.start.elapsed().as_millis() as u64);
        }
        if let Some(status) = head.headers.get("grpc-status") {
            call.ended(status);
            return body;
        }
        FilteredBody::wrap(body, call.counted(true))
    }
}

/// Tells of each message, by its length prefix.
pub(super) struct Frames<F> {
    tell: F,
    left: usize,
    header: [u8; PREFIX],
    have: usize,
}

/// A flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

impl<F: FnMut()> Frames<F> {
    pub(super) fn new(tell: F) -> Self {
        Frames { tell, left: 0, header: [0; PREFIX], have: 0 }
    }

    fn see(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            if self.left > 0 {
                let n = self.left.min(rest.len());
                self.left -= n;
                rest = &rest[n..];
                continue;
            }
            let n = (PREFIX - self.have).min(rest.len());
            self.header[self.have..self.have + n].copy_from_slice(&rest[..n]);
            self.have += n;
            rest = &rest[n..];
            if self.have == PREFIX {
                let [_, a, b, c, d] = self.header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.have = 0;
                (self.tell)();
            }
        }
    }
}

impl<F: FnMut() + Send> FrameMap for Frames<F> {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.see(&data);
        data
    }
}

/// The messages of one side of a call, and at the end of the answer how it went.
struct Counted<F> {
    call: Arc<Call>,
    frames: Frames<F>,
    is_answer: bool,
}

impl<F: FnMut() + Send> FrameMap for Counted<F> {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.frames.data(data)
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        if self.is_answer
            && let Some(status) = trailers.get("grpc-status")
        {
            self.call.ended(status);
        }
        Ok(trailers)
    }
}
