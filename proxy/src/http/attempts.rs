//! The attempts of a forwarded request: a host each, until one answers or there is nothing more to try.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, Method};

use super::body::Body;
use super::head::{ResponseHead, Scheme};
use super::limits::Expiry;
use super::replay::Replay;
use super::retry::{Failure, RetryState};
use super::route::Forward;
use super::stream::StreamCtx;
use super::timed_body::{self, Limits};
use super::timeout::{Timeouts, to_grpc_timeout};
use super::upload;
use crate::cluster::{Cluster, Host, Permit, Resource, lb, outlier};
use crate::config::{HostRewrite, TransportMatch, UpstreamTransport};
use crate::stream_info::{PeerAddr, ResponseFlags};
use crate::upstream::attempt::{self, Books, Failed, Via};
use crate::upstream::pool::Checkout;

/// Everything of a forwarded request that outlives its attempts.
pub(super) struct Forwarding<'a> {
    pub(super) forward: &'a Forward,
    pub(super) cluster: Arc<Cluster>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<RetryState>,
    /// A retry under way holds its place.
    pub(super) retrying: Option<Permit>,
    pub(super) replay: Option<Replay>,
    pub(super) attempts: u32,
    /// The attempt before ran out of its time.
    pub(super) timed_out: bool,
    /// Hosts of attempts so far, where the policy asks for them.
    pub(super) tried: Vec<Arc<Host>>,
    pub(super) upload: upload::Progress,
}

/// How forwarding ended.
pub(super) enum Outcome {
    /// With an upstream's answer.
    Response(ResponseHead, Body),
    /// Without.
    Failed(Failure),
    /// A time limit of the whole stream was reached.
    Expired(Expiry),
}

/// Attempts until there is something to answer with.
pub(super) async fn run(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>, first: Body) -> Outcome {
    let mut body = Some(first);
    let mut raced = false;
    loop {
        let Some(host) = pick(ctx, fw) else {
            fw.cluster.stats.upstream_cx_none_healthy.inc();
            return Outcome::Failed(Failure::NoHost);
        };
        fw.attempts += 1;
        if fw.retry.as_ref().is_some_and(RetryState::remembers_hosts) {
            fw.tried.push(host.clone());
        }
        let Some(this) = body.take().or_else(|| fw.replay.as_ref().map_or(Some(Body::Empty), Replay::reader)) else {
            return Outcome::Failed(Failure::Closed);
        };
        let failed = match one(ctx, fw, &host, this).await {
            Ok((head, response)) => {
                if !again_after_response(ctx, fw, &host, &head) {
                    return Outcome::Response(head, response);
                }
                drop(response);
                let random = lb::mix(ctx.random ^ u64::from(fw.attempts));
                let asked = fw.retry.as_ref();
                let asked =
                    asked.and_then(|r| r.rate_limited(&head.headers, std::time::SystemTime::now(), lb::mix(random)));
                Box::pin(pause(ctx, fw, asked, random)).await;
                continue;
            }
            Err(f) => f,
        };
        let failure = failed.failure;
        let wanted = fw.retry.as_ref().is_some_and(|r| r.wants_failure(&failure, failed.sent));
        if !wanted && failed.idle_race && !raced && may_replay(ctx, fw) {
            // The connection was closed while it was idle: the request was never looked at. Once, and not counted as a retry.
            raced = true;
            fw.attempts -= 1;
            fw.tried.pop();
            ctx.books = None;
            continue;
        }
        observe_failure(fw, &host, &failure);
        if !wanted {
            fw.settled();
            return Outcome::Failed(failure);
        }
        if !may_retry(ctx, fw) {
            return Outcome::Failed(failure);
        }
        fw.timed_out = matches!(failure, Failure::PerTry { .. });
        let random = lb::mix(ctx.random ^ u64::from(fw.attempts));
        Box::pin(pause(ctx, fw, None, random)).await;
    }
}

/// Counts a response, and says whether another attempt is to follow it.
fn again_after_response(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>, host: &Arc<Host>, head: &ResponseHead) -> bool {
    if let Some(t) = &fw.cluster.tracked {
        t.response_head(&head.headers);
    }
    let status = head.status.as_u16();
    let ok = !head.status.is_server_error();
    fw.cluster.observe(host, outlier::Outcome::Status(status));
    let retried = match &fw.retry {
        None => false,
        Some(retry) if !retry.wants_response(status, &head.headers) => {
            fw.settled();
            false
        }
        Some(_) => may_retry(ctx, fw),
    };
    if retried {
        fw.cluster.stats.retried(status);
        if let Some(t) = &fw.cluster.tracked {
            t.bodies(fw.upload.bytes(), 0);
        }
    }
    let count = if ok && !retried { &host.rq_success } else { &host.rq_error };
    count.fetch_add(1, Ordering::Relaxed);
    retried
}

/// Tells outlier detection and the host's counters of an attempt without a response.
fn observe_failure(fw: &Forwarding<'_>, host: &Arc<Host>, failure: &Failure) {
    let outcome = match failure {
        // Neither is the host's doing.
        Failure::Upload(_) | Failure::Overflow | Failure::NoHost => return,
        Failure::PerTry { .. } => outlier::Outcome::Timeout,
        // Envoy leaves a limit of its own out of account.
        Failure::MaxDuration => {
            host.rq_error.fetch_add(1, Ordering::Relaxed);
            return;
        }
        _ => outlier::Outcome::LocalFailure,
    };
    host.rq_error.fetch_add(1, Ordering::Relaxed);
    fw.cluster.observe(host, outcome);
}

/// One attempt, within its own time.
async fn one(
    ctx: &mut StreamCtx,
    fw: &Forwarding<'_>,
    host: &Arc<Host>,
    body: Body,
) -> Result<(ResponseHead, Body), Failed> {
    let c = &fw.cluster;
    begin(ctx, fw, host);
    let via = Via {
        cluster: c,
        host,
        worker: ctx.conn.worker,
        high: fw.forward.config.high_priority,
        downstream: ctx.conn.info.id,
        tunnel: fw.forward.terminates(&ctx.request),
    };
    let (checkout, permit) = attempt::connect(&via, &ctx.request, &mut ctx.info).await?;
    c.observe(host, outlier::Outcome::Connected);
    if let Some(b) = &mut ctx.books {
        b.sent(permit);
    }
    if via.tunnel {
        return attempt::tunnel(checkout, body, &mut ctx.info);
    }
    if let Some(t) = &c.tracked {
        let r = &ctx.request;
        let host = r.authority.as_ref().map_or(0, |a| ":authority".len() + a.len());
        let line = [":method".len() + r.method.as_str().len(), ":path".len() + r.path.len()];
        t.request_head(&r.headers, &[host, line[0], line[1], ":scheme".len() + r.scheme.as_str().len()]);
    }
    let limits = Limits {
        per_try: fw.timeouts.per_try,
        idle: fw.timeouts.per_try_idle,
        whole: c.config.common.max_stream_duration,
    };
    if limits.is_none() {
        return attempt::exchange(checkout, &ctx.request, body, &mut ctx.info).await;
    }
    // Boxed: the room for timers is needed by few.
    Box::pin(within(ctx, fw, limits, host, checkout, body)).await
}

/// An exchange within an attempt's limits.
async fn within(
    ctx: &mut StreamCtx,
    fw: &Forwarding<'_>,
    limits: Limits,
    host: &Host,
    checkout: Checkout,
    body: Body,
) -> Result<(ResponseHead, Body), Failed> {
    let stats = &fw.cluster.stats;
    let began = crate::clock::now();
    let failure = tokio::select! {
        biased;
        result = attempt::exchange(checkout, &ctx.request, body, &mut ctx.info) => {
            return result.map(|(head, body)| (head, timed_body::wrap(body, &limits, began)));
        }
        failure = limits.passed(&fw.upload, began) => failure,
    };
    match failure {
        Failure::PerTry { idle: true } => stats.upstream_rq_per_try_idle_timeout.inc(),
        Failure::PerTry { idle: false } => stats.upstream_rq_per_try_timeout.inc(),
        _ => stats.upstream_rq_max_duration_reached.inc(),
    }
    if matches!(failure, Failure::PerTry { .. }) {
        host.rq_timeout.fetch_add(1, Ordering::Relaxed);
    }
    Err(Failed { failure, sent: true, idle_race: false })
}

/// Notes an attempt's host and prepares the head for it.
fn begin(ctx: &mut StreamCtx, fw: &Forwarding<'_>, host: &Arc<Host>) {
    let up = &mut ctx.info.upstream;
    up.host = match &host.address {
        crate::config::Address::Ip(a) => Some(PeerAddr::Ip(*a)),
        other => Some(PeerAddr::Pipe(other.to_string().into())),
    };
    up.hostname = host.hostname.clone();
    up.attempts = fw.attempts;
    up.metadata = Some(host.metadata.clone());
    up.locality = Some(host.locality.clone());
    let mut books = Books::new(&fw.cluster, host);
    books.timeouts = [fw.timeouts.route, fw.timeouts.per_try];
    ctx.books = Some(books);
    if matches!(fw.forward.config.host_rewrite, HostRewrite::Auto)
        && !host.hostname.is_empty()
        && fw.attempts == 1
        && let Ok(v) = HeaderValue::from_str(&host.hostname)
    {
        fw.forward.set_host(ctx, v);
    }
    attempt_headers(ctx, fw);
    if ctx.conn.manager.config.scheme.match_upstream {
        ctx.request.scheme = upstream_scheme(&fw.cluster, host);
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
    if vhost.as_ref().is_some_and(|v| v.config.include_request_attempt_count) {
        ctx.request.headers.insert("x-envoy-attempt-count", HeaderValue::from(fw.attempts));
    }
    if fw.attempts == 1 {
        return;
    }
    if vhost.is_some_and(|v| v.config.include_is_timeout_retry_header) {
        let text = if fw.timed_out { "true" } else { "false" };
        ctx.request.headers.insert("x-envoy-is-timeout-retry", HeaderValue::from_static(text));
    }
    let elapsed =
        if fw.upload.is_done() { fw.upload.finished_at().unwrap_or(ctx.info.start).elapsed() } else { Duration::ZERO };
    if let Some(t) = fw.timeouts.expected(elapsed) {
        fw.announce(ctx, t);
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
        avoid_levels: &levels_tried(fw),
        destination: fw.cluster.destination(Some(&ctx.request.headers), &ctx.info),
    };
    fw.cluster.pick(ctx.conn.worker, &request)
}

/// The priorities not to try again, where the policy says so: those tried up to the last full step of `update_frequency`.
/// Once all were tried they begin anew.
fn levels_tried(fw: &Forwarding<'_>) -> Vec<u32> {
    let Some(step) = fw.retry.as_ref().and_then(|r| r.policy().previous_priorities) else { return Vec::new() };
    let whole = fw.tried.len() - fw.tried.len() % step.max(1) as usize;
    let all = fw.cluster.hosts().levels.iter().filter(|l| !l.all.is_empty()).count();
    let mut tried: Vec<u32> = Vec::new();
    for host in &fw.tried[..whole] {
        if !tried.contains(&host.priority) {
            tried.push(host.priority);
        }
        if tried.len() >= all {
            tried.clear();
        }
    }
    tried
}

/// Takes a place for a retry that is wanted.
fn may_retry(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>) -> bool {
    // The place of the retry before is free first: one request never holds two.
    fw.retrying = None;
    if fw.replay.as_ref().is_some_and(Replay::overflowed) || (fw.replay.is_none() && !fw.upload.is_done()) {
        return false;
    }
    let stats = &fw.cluster.stats;
    let Some(retry) = &mut fw.retry else { return false };
    if !retry.take() {
        stats.upstream_rq_retry_limit_exceeded.inc();
        ctx.info.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        return false;
    }
    fw.retrying = fw.cluster.breaker(fw.forward.config.high_priority).acquire(Resource::Retries);
    if fw.retrying.is_none() {
        stats.upstream_rq_retry_overflow.inc();
        ctx.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
    }
    fw.retrying.is_some()
}

/// Whether a request that was not looked at may be sent again: its body is at hand and its method does no harm twice.
fn may_replay(ctx: &StreamCtx, fw: &Forwarding<'_>) -> bool {
    let idempotent = matches!(
        ctx.request.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    idempotent && fw.replay.as_ref().map_or(fw.upload.was_empty(), |r| !r.overflowed())
}

/// Waits before the next attempt: for as long as the upstream asked, or a random back-off.
async fn pause(ctx: &mut StreamCtx, fw: &mut Forwarding<'_>, asked: Option<Duration>, random: u64) {
    ctx.books = None;
    let stats = &fw.cluster.stats;
    stats.upstream_rq_retry.inc();
    let Some(retry) = &mut fw.retry else { return };
    let wait = if let Some(wait) = asked {
        stats.upstream_rq_retry_backoff_ratelimited.inc();
        wait
    } else {
        stats.upstream_rq_retry_backoff_exponential.inc();
        retry.back_off(random)
    };
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

impl Forwarding<'_> {
    /// No further attempt is wanted: the retry before, if any, counts as a success, as Envoy has it.
    fn settled(&mut self) {
        if self.retrying.take().is_some() {
            self.cluster.stats.upstream_rq_retry_success.inc();
        }
    }

    /// Tells the upstream how much time it has.
    pub(super) fn announce(&self, ctx: &mut StreamCtx, left: Duration) {
        if !ctx.chain().router.suppress_envoy_headers {
            let ms = HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            ctx.request.headers.insert("x-envoy-expected-rq-timeout-ms", ms);
        }
        if self.timeouts.rewrite_grpc
            && let Ok(v) = HeaderValue::from_str(&to_grpc_timeout(left))
        {
            ctx.request.headers.insert("grpc-timeout", v);
        }
    }
}
