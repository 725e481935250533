//! `stats.PluginConfig`: Istio's standard metrics of requests.
//!
//! Runs on: workers, when a request has ended; messages of gRPC are counted as they flow.

use std::sync::Arc;

use bytes::Bytes;

use super::grpc_stats::Frames;
use super::{FilteredBody, FrameMap};
use crate::cluster::Cluster;
use crate::config::{self, Attribute, TrafficDirection};
use crate::http::body::Body;
use crate::http::local_reply::is_grpc;
use crate::http::stream::StreamCtx;
use crate::http::{HeaderMap, names};
use crate::telemetry::{
    Edge, Key, Kind, Messages, Outcome, Plan, Protocol, Reporter, Security, Service, Side, Telemetry, of_endpoint,
    principal,
};

/// The filter.
pub(super) struct IstioStats {
    telemetry: Arc<Telemetry>,
    plan: Arc<Plan>,
    host_fallback: bool,
}

impl IstioStats {
    pub(super) fn new(config: &config::IstioStats, telemetry: &Arc<Telemetry>) -> Self {
        IstioStats {
            telemetry: telemetry.clone(),
            plan: telemetry.plan(&config.overrides),
            host_fallback: config.host_fallback,
        }
    }

    /// Counts the messages of a call.
    pub(super) fn request(&self, ctx: &mut StreamCtx, body: Body, place: usize) -> Body {
        if !is_grpc(ctx) {
            return body;
        }
        let messages = Arc::new(Messages::default());
        ctx.messages.push((place, messages.clone()));
        if body.is_end() {
            return body;
        }
        FilteredBody::wrap(body, Frames::new(move || messages.count(Side::Request)))
    }

    /// Counts those of the answer.
    pub(super) fn response(&self, ctx: &StreamCtx, body: Body, place: usize) -> Body {
        match messages(ctx, place) {
            Some(messages) if !body.is_end() => {
                let messages = messages.clone();
                let told = messages.clone();
                let frames = Frames::new(move || told.count(Side::Response));
                FilteredBody::wrap(body, Answer { frames, messages })
            }
            _ => body,
        }
    }

    /// Both sides of a call are known.
    pub(super) fn answered(&self, ctx: &StreamCtx, place: usize) {
        if let Some(messages) = messages(ctx, place) {
            messages.belong(|| {
                let cluster = ctx.cluster();
                self.with_key(ctx, cluster.as_deref(), Kind::Messages, |key| self.telemetry.series(key, &self.plan))
            });
        }
    }

    /// Counts a request that has ended.
    pub(super) fn ended(&self, ctx: &StreamCtx, cluster: Option<&Cluster>, place: usize) {
        self.answered(ctx, place);
        let series = self.with_key(ctx, cluster, Kind::Requests, |key| self.telemetry.series(key, &self.plan));
        let (info, bytes) = (&ctx.info, &ctx.info.bytes);
        let end = info.times.end.unwrap_or(info.start);
        series.requests.inc();
        series.duration.record(end.saturating_duration_since(info.start).as_millis() as u64);
        series.request_bytes.record(bytes.headers_received + bytes.received);
        series.response_bytes.record(bytes.wire_sent.max(bytes.headers_sent + bytes.sent));
    }

    fn with_key<T>(
        &self,
        ctx: &StreamCtx,
        cluster: Option<&Cluster>,
        kind: Kind,
        then: impl FnOnce(&Key<'_>) -> T,
    ) -> T {
        let info = &ctx.info;
        let conn = &info.conn;
        let endpoint;
        let (reporter, peer, tls) = if conn.listener.direction == TrafficDirection::Inbound {
            (Reporter::Destination, ctx.peers.downstream.as_deref(), &conn.tls)
        } else {
            // What the control plane says of an endpoint, where it has not said anything itself.
            endpoint = match &ctx.peers.upstream {
                Some(told) => Some(told.clone()),
                None => info.upstream.metadata.as_deref().and_then(of_endpoint),
            };
            (Reporter::Source, endpoint.as_deref(), &info.upstream.tls)
        };
        let (peer_principal, own_principal) = principal(tls.as_deref());
        let host = ctx.request.authority.as_ref().filter(|_| self.host_fallback).and_then(|host| host.to_str().ok());
        let edge = Edge {
            reporter,
            peer,
            peer_principal,
            own_principal,
            service: Service::called(cluster, info.route.as_deref(), host),
            security: Security::of(reporter, peer_principal, own_principal),
        };
        let protocol = if is_grpc(ctx) { Protocol::Grpc } else { Protocol::Http };
        let outcome = match kind {
            Kind::Requests => {
                let in_trailers = || ctx.messages.iter().find_map(|(_, messages)| messages.status());
                let grpc = info.grpc_status.or_else(in_trailers);
                Outcome { protocol, code: info.response_code, grpc, flags: info.flags }
            }
            // How a call ends is not known while its messages flow.
            _ => Outcome { protocol, code: 0, grpc: None, flags: Default::default() },
        };
        let values = self.plan.values(|attribute| value(ctx, attribute));
        then(&Key { kind, edge, outcome, values: &values })
    }
}

/// The messages of an answer, and how it ends.
struct Answer<F> {
    frames: Frames<F>,
    messages: Arc<Messages>,
}

impl<F: FnMut() + Send> FrameMap for Answer<F> {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.frames.data(data)
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        if let Some(status) = trailers.get(names::GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok()) {
            self.messages.ended(status);
        }
        Ok(trailers)
    }
}

fn messages(ctx: &StreamCtx, place: usize) -> Option<&Arc<Messages>> {
    ctx.messages.iter().find(|(of, _)| *of == place).map(|(_, messages)| messages)
}

fn value(ctx: &StreamCtx, attribute: &Attribute) -> Option<String> {
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
    match attribute {
        Attribute::Text(text) => Some(text.clone()),
        Attribute::Method => Some(ctx.request.method.to_string()),
        Attribute::Host => text(ctx.request.authority.as_ref()?),
        Attribute::Path => Some(ctx.request.path.clone()),
        Attribute::UrlPath => Some(ctx.request.path_only().to_owned()),
        Attribute::Header(name) => text(ctx.request.headers.get(name)?),
        Attribute::Code => Some(ctx.info.response_code.to_string()),
        Attribute::Port => ctx.info.conn.local.port().map(|port| port.to_string()),
    }
}
