//! `envoy.filters.http.grpc_stats`: counts calls and messages by method.

use bytes::Bytes;
use http::HeaderMap;

use super::{FilteredBody, FrameMap};
use crate::config::GrpcStatsFilter;
use crate::http::body::Body;
use crate::http::head::ResponseHead;
use crate::http::local_reply::is_grpc;
use crate::http::stream::StreamCtx;
use crate::stats::Scope;

/// The filter.
pub(super) struct GrpcStats {
    config: GrpcStatsFilter,
}

impl GrpcStats {
    pub(super) fn new(config: &GrpcStatsFilter) -> Self {
        GrpcStats { config: config.clone() }
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

    pub(super) fn response(&self, ctx: &mut StreamCtx, head: &ResponseHead, body: Body) -> Body {
        if !is_grpc(ctx) {
            return body;
        }
        let Some(cluster) = ctx.info.upstream.cluster.clone() else { return body };
        let Some(prefix) = self.prefix(ctx.request.path_only()) else { return body };
        let Some(cluster) = ctx.forward_clusters().and_then(|c| c.find(&cluster)) else { return body };
        let scope = cluster.stats.scope.scope(&prefix);
        scope.counter("total").inc();
        if let Some(status) = head.headers.get("grpc-status").and_then(|v| v.to_str().ok()) {
            count_status(&scope, status);
            return body;
        }
        FilteredBody::wrap(body, Messages { scope, left: 0, header: Vec::new(), messages: 0 })
    }
}

fn count_status(scope: &Scope, status: &str) {
    scope.counter(status).inc();
    scope.counter(if status == "0" { "success" } else { "failure" }).inc();
}

/// Counts the messages of an answer by their length prefixes.
struct Messages {
    scope: Scope,
    left: usize,
    header: Vec<u8>,
    messages: u64,
}

impl FrameMap for Messages {
    fn data(&mut self, data: Bytes) -> Bytes {
        let mut rest = &data[..];
        while !rest.is_empty() {
            if self.left > 0 {
                let n = self.left.min(rest.len());
                self.left -= n;
                rest = &rest[n..];
                continue;
            }
            let n = (5 - self.header.len()).min(rest.len());
            self.header.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            if let [_, a, b, c, d] = self.header[..] {
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.messages += 1;
                self.header.clear();
            }
        }
        data
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        if let Some(status) = trailers.get("grpc-status").and_then(|v| v.to_str().ok()) {
            count_status(&self.scope, status);
        }
        Ok(trailers)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.scope.counter("response_message_count").add(self.messages);
    }
}
