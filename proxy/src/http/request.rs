//! A request from its head to its answer, read from top to bottom.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;

use super::body::{Body, BodyError};
use super::connection::Reply;
use super::filter::Flow;
use super::head::{ResponseHead, Scheme};
use super::limits::Expiry;
use super::manager;
use super::mirror;
use super::replay::Replay;
use super::retry::{Failure, RetryState};
use super::route::{Forward, Found, Kind};
use super::stream::StreamCtx;
use super::timeout::{self, Timeouts};
use super::{local_reply, upload};
use crate::cluster::{Cluster, Host, Permit, Resource, lb, outlier};
use crate::config::{HostRewrite, TransportMatch, UpstreamTransport};
use crate::stream_info::{PeerAddr, ResponseFlags};
use crate::upstream::attempt::{self, Books, Failed, Via};

/// Answers a request. Always answers.
pub(super) async fn handle(ctx: Box<StreamCtx>, body: Body) -> Reply {
    match admit(ctx) {
        Ok(ctx) => routed(ctx, body).await,
        Err(reply) => reply,
    }
}

/// Checks and prepares a request, and finds its route.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
fn admit(ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    let mut ctx = manager::prepare(ctx)?;
    let conn = ctx.conn.clone();
    match conn.manager.routes.find(&ctx) {
        Found::Route(m) => {
            ctx.info.route.clone_from(&m.entry.name);
            ctx.info.vhost = Some(m.entry.vhost.name.clone());
            ctx.route = Some(m);
        }
        Found::None => {}
        Found::TlsWanted => {
            let host = ctx.request.authority.as_ref().and_then(|a| a.to_str().ok()).unwrap_or_default();
            let location = HeaderValue::from_str(&format!("https://{host}{}", ctx.request.path)).ok();
            conn.manager.stats.rq_direct_response.inc();
            return Err(redirect(ctx, StatusCode::MOVED_PERMANENTLY, location));
        }
    }
    if is_upgrade(&ctx) && !upgrade_allowed(&ctx) {
        conn.manager.stats.downstream_rq_ws_on_non_ws_route.inc();
        return Err(local_reply::make(ctx, StatusCode::FORBIDDEN, "", "upgrade_failed"));
    }
    Ok(ctx)
}

fn is_upgrade(ctx: &StreamCtx) -> bool {
    ctx.request.upgrade.is_some() || ctx.request.method == Method::CONNECT
}

/// Whether the route, or else the connection manager, allows this upgrade.
fn upgrade_allowed(ctx: &StreamCtx) -> bool {
    let kind = match &ctx.request.upgrade {
        Some(u) => u.to_str().unwrap_or_default().to_ascii_lowercase(),
        None => "connect".to_owned(),
    };
    let route = ctx.route.as_ref().and_then(|m| match &m.entry.kind {
        Kind::Forward(f) => f.config.upgrades.iter().find(|u| u.upgrade_type.eq_ignore_ascii_case(&kind)),
        _ => None,
    });
    if let Some(u) = route {
        return u.enabled;
    }
    // Without a route there is nothing to upgrade: it ends in "no route".
    let configured = &ctx.conn.manager.config.upgrades;
    ctx.route.is_none() || configured.iter().any(|u| u.enabled && u.upgrade_type.eq_ignore_ascii_case(&kind))
}

/// Runs the filters and then the route.
async fn routed(ctx: Box<StreamCtx>, body: Body) -> Reply {
    let conn = ctx.conn.clone();
    let chain = &conn.manager.chain;
    let (mut ctx, body) = if chain.is_empty() {
        (ctx, body)
    } else {
        match chain.request(ctx, body).await {
            Flow::Continue(ctx, body) => (ctx, body),
            Flow::Answer(reply) => return reply,
        }
    };
    let Some(matched) = ctx.route.as_ref() else {
        conn.manager.stats.no_route.inc();
        ctx.info.flags.set(ResponseFlags::NO_ROUTE_FOUND);
        return local_reply::make(ctx, StatusCode::NOT_FOUND, "", "route_not_found");
    };
    let entry = matched.entry.clone();
    match &entry.kind {
        Kind::Direct { status, body } => {
            conn.manager.stats.rq_direct_response.inc();
            local_reply::with_headers(ctx, *status, body.clone(), "direct_response", |_| {})
        }
        Kind::Redirect(r) => {
            conn.manager.stats.rq_direct_response.inc();
            let (status, location) = r.location(&ctx, &entry.matches.path, entry.matches.case_sensitive);
            redirect(ctx, status, location)
        }
        Kind::NonForwarding => {
            ctx.info.flags.set(ResponseFlags::NO_ROUTE_FOUND);
            local_reply::make(ctx, StatusCode::NOT_FOUND, "", "route_not_found")
        }
        Kind::Forward(f) => forward(ctx, body, f).await,
    }
}

fn redirect(ctx: Box<StreamCtx>, status: StatusCode, location: Option<HeaderValue>) -> Reply {
    local_reply::with_headers(ctx, status, Bytes::new(), "direct_response", |h| {
        if let Some(l) = location {
            h.insert(header::LOCATION, l);
        }
    })
}

/// Everything of a forwarded request that outlives its attempts.
struct Forwarding<'a> {
    forward: &'a Forward,
    cluster: Arc<Cluster>,
    timeouts: Timeouts,
    retry: Option<RetryState>,
    /// A retry under way holds its place.
    retrying: Option<Permit>,
    replay: Option<Replay>,
    attempts: u32,
    tried: Vec<Arc<Host>>,
    upload: upload::Progress,
}

/// Forwards a request, again if need be.
async fn forward(mut ctx: Box<StreamCtx>, body: Body, f: &Forward) -> Reply {
    let choice = ctx.route.as_ref().and_then(|m| m.choice);
    let Some(cluster) = f.target(choice).and_then(|t| t.resolve(&ctx, &f.clusters)) else {
        ctx.conn.manager.stats.no_cluster.inc();
        ctx.info.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
        let status = StatusCode::from_u16(f.config.cluster_not_found_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return local_reply::make(ctx, status, "", "cluster_not_found");
    };
    ctx.info.upstream.cluster = Some(cluster.name.clone());
    ctx.info.upstream.attempts = 1;
    let high = f.config.high_priority;
    let Some(permit) = cluster.breaker(high).acquire(Resource::Requests) else {
        return failed(ctx, &cluster, &Failure::Overflow, false);
    };
    ctx.permit = Some(permit);
    let (body, progress) = upload::track(body);
    let mut fw = Forwarding {
        timeouts: Timeouts::new(&ctx, f),
        retry: RetryState::new(
            f.retry.clone().or_else(|| cluster.config.retry_policy.clone()),
            &ctx.request.headers,
            local_reply::is_grpc(&ctx),
        ),
        forward: f,
        cluster,
        retrying: None,
        replay: None,
        attempts: 0,
        tried: Vec::new(),
        upload: progress,
    };
    prepare_upstream(&mut ctx, &fw);
    let body = fw.keep_body(&ctx, body);
    mirror::start(&ctx, f, fw.replay.as_ref());
    let deadline = fw.upload.clone();
    let limit = fw.timeouts.route;
    let expired = async move {
        match limit {
            Some(limit) => {
                // The clock starts when the whole request is here.
                deadline.done().await;
                tokio::time::sleep(limit).await;
            }
            None => std::future::pending().await,
        }
    };
    let limits = ctx.limits.clone();
    limits.of_route(f.config.idle_timeout, f.config.max_stream_duration);
    let outcome = tokio::select! {
        biased;
        outcome = attempts(&mut ctx, &mut fw, body) => outcome,
        limit = limits.expired() => Outcome::Expired(limit),
        () = expired => Outcome::Timeout,
    };
    match outcome {
        Outcome::Response(head, body) => respond(ctx, &fw, head, body),
        Outcome::Failed(failure) => {
            if fw.retry.as_ref().is_some_and(RetryState::exhausted) && fw.attempts > 1 {
                ctx.info.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            }
            failed(ctx, &fw.cluster, &failure, fw.attempts > 1)
        }
        Outcome::Expired(limit) => limit.reply(ctx, fw.upload.is_done()),
        Outcome::Timeout => timed_out(ctx, &fw.cluster),
    }
}

enum Outcome {
    Response(ResponseHead, Body),
    Failed(Failure),
    Timeout,
    Expired(Expiry),
}

/// Attempts until there is something to answer with.
async fn attempts(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>, first: Body) -> Outcome {
    let mut body = Some(first);
    let mut raced = false;
    loop {
        let Some(host) = pick(ctx, fw) else {
            fw.cluster.stats.upstream_cx_none_healthy.inc();
            return Outcome::Failed(Failure::NoHost);
        };
        fw.attempts += 1;
        fw.tried.push(host.clone());
        let Some(this) = body.take().or_else(|| fw.replay.as_ref().map_or(Some(Body::Empty), Replay::reader)) else {
            return Outcome::Failed(Failure::Closed);
        };
        let result = one(ctx, fw, &host, this).await;
        let (failure, sent) = match result {
            Ok((head, response)) => {
                observe(fw, &host, outlier::Outcome::Status(head.status.as_u16()));
                let Some(retry) = &fw.retry else { return Outcome::Response(head, response) };
                if !retry.wants_response(head.status.as_u16(), &head.headers) {
                    if fw.attempts > 1 {
                        fw.cluster.stats.upstream_rq_retry_success.inc();
                    }
                    return Outcome::Response(head, response);
                }
                let wait = retry.rate_limited(&head.headers);
                if !may_retry(ctx, fw) {
                    return Outcome::Response(head, response);
                }
                fw.cluster.stats.codes.record(head.status.as_u16());
                drop(response);
                pause(ctx, fw, wait).await;
                continue;
            }
            Err(f) if f.idle_race && !raced && may_replay(ctx, fw) => {
                // The connection was closed while it was idle: the request was never looked at. Once, and not counted as a retry.
                raced = true;
                fw.attempts -= 1;
                fw.tried.pop();
                ctx.books = None;
                continue;
            }
            Err(f) => (f.failure, f.sent),
        };
        if !matches!(failure, Failure::Upload(_) | Failure::Overflow) {
            observe(fw, &host, outlier::Outcome::LocalFailure);
        }
        ctx.books = None;
        let wanted = fw.retry.as_ref().is_some_and(|r| r.wants_failure(&failure, sent));
        if !wanted || !may_retry(ctx, fw) {
            return Outcome::Failed(failure);
        }
        fw.cluster.stats.codes.record(503);
        pause(ctx, fw, None).await;
    }
}

/// One attempt, within its own time.
async fn one(
    ctx: &mut StreamCtx,
    fw: &Forwarding<'_>,
    host: &Arc<Host>,
    body: Body,
) -> Result<(ResponseHead, Body), Failed> {
    let c = &fw.cluster;
    let up = &mut ctx.info.upstream;
    up.host = match &host.address {
        crate::config::Address::Ip(a) => Some(PeerAddr::Ip(*a)),
        other => Some(PeerAddr::Pipe(other.to_string().into())),
    };
    up.hostname = host.hostname.clone();
    up.attempts = fw.attempts;
    up.metadata = Some(host.metadata.clone());
    up.locality = Some(host.locality.clone());
    ctx.books = Some(Books::new(c, host));
    if matches!(fw.forward.config.host_rewrite, HostRewrite::Auto)
        && !host.hostname.is_empty()
        && fw.attempts == 1
        && let Ok(v) = HeaderValue::from_str(&host.hostname)
    {
        fw.forward.set_host(ctx, v);
    }
    attempt_headers(ctx, fw);
    if ctx.conn.manager.config.scheme.match_upstream {
        ctx.request.scheme = upstream_scheme(c, host);
    }
    let via = Via { cluster: c, host, worker: ctx.conn.worker, high: fw.forward.config.high_priority };
    let sending = attempt::send(&via, &ctx.request, body, &mut ctx.info);
    let Some(limit) = fw.timeouts.per_try else { return sending.await };
    let deadline = fw.upload.clone();
    tokio::select! {
        biased;
        result = sending => result,
        () = async { deadline.done().await; tokio::time::sleep(limit).await } => {
            c.stats.upstream_rq_per_try_timeout.inc();
            host.rq_timeout.fetch_add(1, Ordering::Relaxed);
            Err(Failed { failure: Failure::PerTry { idle: false }, sent: true, idle_race: false })
        }
    }
}

/// The scheme that says how `host` is spoken to.
fn upstream_scheme(cluster: &Cluster, host: &Host) -> Scheme {
    let have = host.metadata.get("envoy.transport_socket_match");
    let holds = |m: &TransportMatch| m.labels.iter().all(|(k, v)| have.and_then(|h| h.get(k)) == Some(v));
    let chosen = cluster.config.transport_matches.iter().find(|m| holds(m)).map(|m| &m.transport);
    match chosen.unwrap_or(&cluster.config.transport) {
        UpstreamTransport::Tls(_) => Scheme::Https,
        _ => Scheme::Http,
    }
}

fn attempt_headers(ctx: &mut StreamCtx, fw: &Forwarding<'_>) {
    let vhost = ctx.route.as_ref().map(|m| m.entry.vhost.clone());
    let headers = &mut ctx.request.headers;
    if vhost.as_ref().is_some_and(|v| v.config.include_request_attempt_count) {
        headers.insert("x-envoy-attempt-count", HeaderValue::from(fw.attempts));
    }
    if fw.attempts > 1 && vhost.is_some_and(|v| v.config.include_is_timeout_retry_header) {
        headers.insert("x-envoy-is-timeout-retry", HeaderValue::from_static("false"));
    }
}

/// Picks a host, avoiding those already tried where the policy says so.
fn pick(ctx: &StreamCtx, fw: &Forwarding<'_>) -> Option<Arc<Host>> {
    use crate::config::RetryHostPredicate as P;
    let policy = fw.retry.as_ref().map(RetryState::policy).filter(|p| !p.host_predicates.is_empty() && fw.attempts > 0);
    let avoid = |h: &Host| {
        policy.is_some_and(|p| {
            p.host_predicates.iter().any(|predicate| match predicate {
                P::PreviousHosts => fw.tried.iter().any(|t| std::ptr::eq(&**t, h)),
                P::OmitCanaryHosts => h.metadata.get("envoy.lb").and_then(|m| m.get("canary")?.as_bool()) == Some(true),
                P::OmitHostMetadata(want) => {
                    let have = h.metadata.get("envoy.lb");
                    want.as_object().is_some_and(|w| w.iter().all(|(k, v)| have.and_then(|m| m.get(k)) == Some(v)))
                }
            })
        })
    };
    let request = lb::Request {
        random: lb::mix(ctx.random.wrapping_add(u64::from(fw.attempts))),
        avoid: policy.map(|_| &avoid as &(dyn Fn(&Host) -> bool + Sync)),
        avoid_attempts: policy.map_or(0, |p| p.host_selection_max_attempts.max(1)),
    };
    fw.cluster.pick(ctx.conn.worker, &request)
}

/// Tells outlier detection how an attempt ended; ejects at once where that trips it.
fn observe(fw: &Forwarding<'_>, host: &Arc<Host>, outcome: outlier::Outcome) {
    let ok = matches!(outcome, outlier::Outcome::Status(s) if s < 500);
    let count = if ok { &host.rq_success } else { &host.rq_error };
    count.fetch_add(1, Ordering::Relaxed);
    fw.cluster.observe(host, outcome);
}

/// Takes a place for a retry.
fn may_retry(ctx: &StreamCtx, fw: &mut Forwarding<'_>) -> bool {
    let stats = &fw.cluster.stats;
    let Some(retry) = &fw.retry else { return false };
    if retry.exhausted() {
        stats.upstream_rq_retry_limit_exceeded.inc();
        return false;
    }
    if fw.replay.as_ref().is_some_and(Replay::overflowed) {
        stats.retry_or_shadow_abandoned.inc();
        return false;
    }
    if fw.replay.is_none() && !fw.upload.is_done() {
        return false;
    }
    let _ = ctx;
    match fw.cluster.breaker(fw.forward.config.high_priority).acquire(Resource::Retries) {
        Some(p) => {
            fw.retrying = Some(p);
            true
        }
        None => {
            stats.upstream_rq_retry_overflow.inc();
            false
        }
    }
}

/// Whether a request that was not looked at may be sent again: its body is at hand and its method does no harm twice.
fn may_replay(ctx: &StreamCtx, fw: &Forwarding<'_>) -> bool {
    let idempotent = matches!(
        ctx.request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    idempotent && fw.replay.as_ref().map_or(fw.upload.was_empty(), |r| !r.overflowed())
}

async fn pause(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>, asked: Option<Duration>) {
    ctx.books = None;
    let stats = &fw.cluster.stats;
    stats.upstream_rq_retry.inc();
    let Some(retry) = &mut fw.retry else { return };
    let computed = retry.next(lb::mix(ctx.random ^ u64::from(fw.attempts)));
    let wait = match asked {
        Some(w) => {
            stats.upstream_rq_retry_backoff_ratelimited.inc();
            w
        }
        None => {
            stats.upstream_rq_retry_backoff_exponential.inc();
            computed
        }
    };
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

impl Forwarding<'_> {
    /// Makes the body replayable where a second sending may be needed.
    fn keep_body(&mut self, ctx: &StreamCtx, body: Body) -> Body {
        let mirrored = !self.forward.mirrors.is_empty();
        if body.is_end() || is_upgrade(ctx) || (self.retry.is_none() && !mirrored) {
            return body;
        }
        let route = ctx.route.as_ref().and_then(|m| m.entry.body_limit);
        let limit = route.unwrap_or(self.cluster.config.per_connection_buffer_limit as u64);
        let replay = Replay::new(body, limit);
        let first = replay.reader().unwrap_or_default();
        self.replay = Some(replay);
        first
    }
}

/// Headers and target as the upstream gets them.
fn prepare_upstream(ctx: &mut StreamCtx, fw: &Forwarding<'_>) {
    let Some(matched) = ctx.route.take() else { return };
    for mutations in matched.request_mutations() {
        mutations.apply_request(ctx);
    }
    fw.forward.rewrite(ctx, &matched.entry.matches.path, matched.entry.matches.case_sensitive, matched.choice);
    ctx.route = Some(matched);
    let suppress = ctx.conn.manager.chain.router.suppress_envoy_headers;
    let headers = &mut ctx.request.headers;
    if headers.keys().any(|n| n.as_str().starts_with("x-envoy-")) {
        for name in timeout::CONSUMED {
            headers.remove(HeaderName::from_static(name));
        }
    }
    // A per-try timeout bounds what the upstream may take, so it is what is announced.
    let expected = match (fw.timeouts.per_try, fw.timeouts.route) {
        (Some(p), Some(r)) => Some(p.min(r)),
        (p, r) => p.or(r),
    };
    if let Some(t) = expected.filter(|_| !suppress) {
        headers.insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from(t.as_millis() as u64));
    }
}

/// Passes an upstream's answer on.
fn respond(mut ctx: Box<StreamCtx>, fw: &Forwarding<'_>, mut head: ResponseHead, body: Body) -> Reply {
    if let Some(r) = &fw.replay {
        r.commit();
    }
    let status = head.status.as_u16();
    fw.cluster.stats.codes.record(status);
    let conn = ctx.conn.clone();
    if !conn.manager.chain.router.suppress_envoy_headers {
        let since = fw.upload.finished_at().unwrap_or(ctx.info.start);
        let ms = Instant::now().duration_since(since).as_millis() as u64;
        head.headers.insert("x-envoy-upstream-service-time", HeaderValue::from(ms));
    }
    if ctx.route.as_ref().is_some_and(|m| m.entry.vhost.config.include_attempt_count_in_response) {
        head.headers.insert("x-envoy-attempt-count", HeaderValue::from(fw.attempts));
    }
    ctx.info.details = Some("via_upstream".into());
    ctx.info.bytes.received = fw.upload.bytes();
    let body = conn.manager.chain.response(&mut ctx, &mut head, body);
    manager::finish_response(&mut ctx, &mut head, false);
    Reply::new(ctx, head, body, false)
}

/// Answers for an upstream that did not.
fn failed(mut ctx: Box<StreamCtx>, cluster: &Arc<Cluster>, failure: &Failure, retried: bool) -> Reply {
    let flag = match failure {
        Failure::NoHost => ResponseFlags::NO_HEALTHY_UPSTREAM,
        Failure::Connect { .. } => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        Failure::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        Failure::Closed => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        Failure::Reset(_) => ResponseFlags::UPSTREAM_REMOTE_RESET,
        Failure::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
        Failure::PerTry { .. } => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
        Failure::Upload(_) => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
    };
    ctx.info.flags.set(flag);
    match failure {
        Failure::NoHost => {
            cluster.stats.codes.record(503);
            return local_reply::make(
                ctx,
                StatusCode::SERVICE_UNAVAILABLE,
                "no healthy upstream",
                "no_healthy_upstream",
            );
        }
        Failure::PerTry { .. } => {
            cluster.stats.codes.record(504);
            let text = "upstream request timeout";
            return local_reply::make(ctx, StatusCode::GATEWAY_TIMEOUT, text, "upstream_per_try_timeout");
        }
        Failure::Upload(e @ (BodyError::TrailersTooLarge | BodyError::TooManyTrailers)) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let many = *e == BodyError::TooManyTrailers;
            let details = if many { "http1.too_many_trailers" } else { "http1.headers_too_large" };
            return local_reply::make(ctx, status, "Request Header Fields Too Large", details);
        }
        Failure::Upload(_) => {
            return local_reply::make(ctx, StatusCode::BAD_REQUEST, "Bad Request", "http1.codec_error");
        }
        _ => {}
    }
    let status =
        if matches!(failure, Failure::Protocol) { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
    cluster.stats.codes.record(status.as_u16());
    let reason = failure.reset_reason();
    let latest = if retried { "retried and the latest " } else { "" };
    let text = format!("upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}");
    let mut details = format!("upstream_reset_before_response_started{{{}", reason.replace(' ', "_"));
    if let Failure::Connect { reason, .. } = failure
        && !reason.is_empty()
    {
        ctx.info.upstream.transport_failure = Some(reason.clone());
        details.push('|');
        details.push_str(&reason.replace(' ', "_"));
    }
    details.push('}');
    let overflow = matches!(failure, Failure::Overflow);
    local_reply::with_headers(ctx, status, text.into(), details, |h: &mut HeaderMap| {
        if overflow {
            h.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
        }
    })
}

fn timed_out(mut ctx: Box<StreamCtx>, cluster: &Arc<Cluster>) -> Reply {
    cluster.stats.upstream_rq_timeout.inc();
    cluster.stats.codes.record(504);
    if let Some(b) = ctx.books.take() {
        b.host.rq_timeout.fetch_add(1, Ordering::Relaxed);
        cluster.observe(&b.host, outlier::Outcome::LocalFailure);
    }
    ctx.info.flags.set(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
    local_reply::make(ctx, StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "response_timeout")
}
