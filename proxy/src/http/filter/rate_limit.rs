//! `envoy.filters.http.ratelimit`: a service counts requests and says when it is enough.
//!
//! The request is held while the service is asked. Runs on: workers, in the task of the stream.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use weft_proto::pb::envoy::service::ratelimit::v3::RateLimitResponse;

use super::held::until;
use super::{Edits, Flow, HeldBody, Override, slots};
use crate::access_log::LogType;
use crate::app::Parts;
use crate::cluster::{Cluster, lb};
use crate::config::{self, AppendAction, ConfigError, HostLimits, LimitedRequests, PerMillion, RuntimeFraction};
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::connection::Reply;
use crate::http::grpc_client::{GrpcClient, GrpcFailure};
use crate::http::headers::Mutations;
use crate::http::limit_rules::LimitRules;
use crate::http::local_reply::{self, is_grpc};
use crate::http::names;
use crate::http::route::Kind;
use crate::http::stream::StreamCtx;
use crate::rate_limit::{self, Answer, Count, SHOULD_RATE_LIMIT};
use crate::runtime::{Fraction, Runtime};
use crate::stream_info::ResponseFlags;

/// gRPC's `RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: u32 = 8;
/// What follows a roll for one decision is independent of the rolls for others.
const ENABLED: u64 = 0x656e_6162;
const ENFORCED: u64 = 0x656e_666f;
const DENIED: u64 = 0x6465_6e79;

/// The filter.
pub(super) struct RateLimit {
    config: config::GlobalRateLimit,
    service: GrpcClient,
    enabled: Fraction,
    enforced: Fraction,
    /// Of requests without an answer.
    denied: Fraction,
    headers: Mutations,
    rules: LimitRules,
    /// The service cluster this proxy belongs to.
    own_cluster: Arc<str>,
}

/// The filter for some routes, compiled.
pub(super) struct Settings {
    of_host: HostLimits,
    rules: LimitRules,
    domain: String,
}

impl Settings {
    /// # Errors
    /// A format that is none.
    pub(super) fn new(config: &config::LimitPerRoute, runtime: &Runtime) -> Result<Self, ConfigError> {
        Ok(Settings {
            of_host: config.of_host,
            rules: LimitRules::new(&config.rules, runtime)?,
            domain: config.domain.clone(),
        })
    }
}

/// A request's question, and the cluster it counts for.
pub(super) struct Question {
    descriptors: Vec<RateLimitDescriptor>,
    domain: String,
    cluster: Arc<Cluster>,
}

impl RateLimit {
    /// # Errors
    /// A name, value or format that is none.
    pub(super) fn new(config: &config::GlobalRateLimit, parts: &Parts) -> Result<Self, ConfigError> {
        let share = |own: &Option<RuntimeFraction>, key: &str, default: PerMillion| {
            let by_key = RuntimeFraction { default, key: key.to_owned(), denominator: 100 };
            parts.runtime.fraction(own.as_ref().unwrap_or(&by_key))
        };
        let denied = if config.failure_mode_deny { PerMillion::ALL } else { PerMillion(0) };
        Ok(RateLimit {
            service: GrpcClient::new(&config.service, SHOULD_RATE_LIMIT, &parts.clusters)?,
            enabled: share(&config.enabled, "ratelimit.http_filter_enabled", PerMillion::ALL),
            enforced: share(&config.enforced, "ratelimit.http_filter_enforcing", PerMillion::ALL),
            denied: config.deny_share.as_ref().map_or(Fraction::fixed(denied), |f| parts.runtime.fraction(f)),
            headers: Mutations::new(&config.headers)?,
            rules: LimitRules::new(&config.rules, &parts.runtime)?,
            own_cluster: parts.healthy.cluster().into(),
            config: config.clone(),
        })
    }

    /// What a request is to be counted under; `None`: nothing. `i`: the filter's place in the chain.
    pub(super) fn question(&self, ctx: &StreamCtx, i: usize) -> Option<Question> {
        let wanted = match self.config.requests {
            LimitedRequests::Both => true,
            LimitedRequests::Internal => ctx.internal,
            LimitedRequests::External => !ctx.internal,
        };
        if !wanted || !self.enabled.admits(lb::mix(ctx.random ^ ENABLED)) {
            return None;
        }
        let route = ctx.route.as_ref()?;
        let Kind::Forward(forward) = &route.entry.kind else { return None };
        let own = settings(ctx, i);
        let mut descriptors = Vec::new();
        let mut add = |rules: &LimitRules, stage| rules.describe(ctx, stage, &self.own_cluster, &mut descriptors);
        let embedded = own.map(|s| &s.rules).filter(|r| !r.is_empty());
        match embedded.or(Some(&self.rules).filter(|r| !r.is_empty())) {
            Some(rules) => add(rules, None),
            None => {
                let stage = Some(self.config.stage);
                add(&forward.limits, stage);
                let of_host = match own {
                    _ if forward.config.include_vh_rate_limits => HostLimits::Include,
                    own => own.map_or(HostLimits::Override, |s| s.of_host),
                };
                match of_host {
                    HostLimits::Include => add(&route.entry.vhost.limits, stage),
                    HostLimits::Override if forward.limits.is_empty() => add(&route.entry.vhost.limits, stage),
                    _ => {}
                }
            }
        }
        if descriptors.is_empty() {
            return None;
        }
        let domain = own.map(|s| &s.domain).filter(|d| !d.is_empty()).unwrap_or(&self.config.domain).clone();
        Some(Question { descriptors, domain, cluster: ctx.routed_cluster()? })
    }

    /// Asks.
    pub(super) async fn request(&self, ctx: Box<StreamCtx>, body: Body, question: Question, i: usize) -> Flow {
        let mut held = HeldBody::new(&ctx, body);
        match self.judge(ctx, &mut held, question, i).await {
            Ok(ctx) => Flow::Continue(ctx, held.into_body()),
            Err(reply) => Flow::Answer(reply),
        }
    }

    async fn judge(
        &self,
        ctx: Box<StreamCtx>,
        held: &mut HeldBody,
        question: Question,
        i: usize,
    ) -> Result<Box<StreamCtx>, Reply> {
        let Question { descriptors, domain, cluster } = question;
        let message = rate_limit::request(&domain, descriptors);
        let head = self.service.head(&ctx.log_context(LogType::NotSet));
        let conn = ctx.conn.info.clone();
        let (ctx, answer) = until(ctx, held, self.service.call::<RateLimitResponse>(head, &message, &conn)).await?;
        match answer {
            Ok(response) => self.decide(ctx, response.into(), &cluster, i),
            Err(failure) => self.failed(ctx, &failure, &cluster),
        }
    }

    #[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
    fn decide(
        &self,
        mut ctx: Box<StreamCtx>,
        mut answer: Answer,
        cluster: &Cluster,
        i: usize,
    ) -> Result<Box<StreamCtx>, Reply> {
        self.keep_metadata(&mut ctx, &mut answer);
        if answer.over_limit {
            self.count(cluster, Count::OverLimit);
            cluster.stats.answered(self.config.limited_status, true);
        } else {
            self.count(cluster, Count::Ok);
        }
        let fields = self.fields(&answer);
        if answer.over_limit && self.enforced.admits(lb::mix(ctx.random ^ ENFORCED)) {
            return Err(self.limited(ctx, answer, fields));
        }
        for (name, value) in answer.request.iter().filter_map(field) {
            ctx.request.headers.append(name, value);
        }
        if !fields.is_empty() {
            let fields = fields.into_iter().map(|(n, v)| (n, v, AppendAction::AppendIfExistsOrAdd)).collect();
            ctx.edits.push(Edits { filter: i, fields, limit: None });
        }
        Ok(ctx)
    }

    fn keep_metadata(&self, ctx: &mut StreamCtx, answer: &mut Answer) {
        if answer.metadata.is_empty() {
            return;
        }
        let all = ctx.info.metadata.get_or_insert_default();
        let own = all.entry(self.config.metadata_namespace.clone()).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.extend(std::mem::take(&mut answer.metadata));
        }
    }

    /// What the client's answer is given.
    fn fields(&self, answer: &Answer) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields: Vec<_> = answer.response.iter().filter_map(field).collect();
        if answer.over_limit && self.config.envoy_header {
            fields.retain(|(name, _)| name != "x-envoy-ratelimited");
            fields.push((HeaderName::from_static("x-envoy-ratelimited"), HeaderValue::from_static("true")));
        }
        if self.config.limit_headers {
            for (name, text) in answer.limit_headers().into_iter().flatten() {
                fields.extend(HeaderValue::from_str(&text).ok().map(|v| (HeaderName::from_static(name), v)));
            }
        }
        fields
    }

    /// The answer to a request that is one too many.
    fn limited(&self, mut ctx: Box<StreamCtx>, answer: Answer, fields: Vec<(HeaderName, HeaderValue)>) -> Reply {
        tracing::debug!(peer = %ctx.conn.info.direct_remote, client = %ctx.info.remote, "rate limited");
        ctx.info.flags.set(ResponseFlags::RATE_LIMITED);
        let exhausted = self.config.as_resource_exhausted && is_grpc(&ctx);
        let retry_after = answer.retry_after().filter(|_| self.config.retry_after && self.config.limited_status == 429);
        let status = StatusCode::from_u16(self.config.limited_status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
        let mut own = HeaderMap::new();
        for (name, value) in fields {
            own.append(name, value);
        }
        if let Some(seconds) = retry_after.filter(|_| !own.contains_key(header::RETRY_AFTER)) {
            own.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        self.headers.apply_to(&ctx, &mut own);
        if exhausted {
            own.insert(names::GRPC_STATUS, HeaderValue::from(RESOURCE_EXHAUSTED));
        }
        local_reply::with_headers(ctx, status, answer.body, "request_rate_limited", |headers| headers.extend(own))
    }

    /// Nobody could say anything.
    #[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
    fn failed(
        &self,
        mut ctx: Box<StreamCtx>,
        failure: &GrpcFailure,
        cluster: &Cluster,
    ) -> Result<Box<StreamCtx>, Reply> {
        tracing::debug!(?failure, "the rate limit service did not answer");
        self.count(cluster, Count::Error);
        if !self.denied.admits(lb::mix(ctx.random ^ DENIED)) {
            self.count(cluster, Count::FailureModeAllowed);
            return Ok(ctx);
        }
        ctx.info.flags.set(ResponseFlags::RATE_LIMIT_SERVICE_ERROR);
        let status = StatusCode::from_u16(self.config.status_on_error).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Err(local_reply::with_headers(ctx, status, Bytes::new(), "rate_limiter_error", |_| {}))
    }

    fn count(&self, cluster: &Cluster, what: Count) {
        cluster.stats.limited(&self.config.stat_prefix, what);
    }
}

/// The most specific settings that the request's route has for the filter `i`.
fn settings(ctx: &StreamCtx, i: usize) -> Option<&Settings> {
    slots(ctx, i).rev().flat_map(|slot| slot.configs.iter().rev()).find_map(|o| match o {
        Override::RateLimit(s) => Some(&**s),
        _ => None,
    })
}

/// A field that is one, and none that says where a body ends.
fn field((name, value): &(String, Bytes)) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name.as_str()).ok()?;
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(&name);
    Some((name, HeaderValue::from_bytes(value).ok()?)).filter(|_| !framing)
}
