//! A request from its head to its answer, read from top to bottom.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::attempts::{self, Forwarding, Outcome};
use super::body::Body;
use super::connection::Reply;
use super::filter::Flow;
use super::head::ResponseHead;
use super::limits::Expiry;
use super::manager;
use super::mirror::{self, Mirror};
use super::names;
use super::replay::Replay;
use super::retry::{Failure, RetryState};
use super::route::{Forward, Found, Kind};
use super::stream::StreamCtx;
use super::timeout::{self, Timeouts};
use super::{failure, local_reply, strict, upload};

use crate::access_log::LogType;
use crate::stream_info::{Protocol, ResponseFlags};

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
    let ctx = manager::prepare(ctx)?;
    let ctx = look_up(ctx)?;
    let manager = &ctx.conn.manager;
    if manager.config.access_log_on_new_request {
        manager.access_logs.log(&ctx.log_context(LogType::DownstreamStart));
    }
    check_upgrade(ctx)
}

/// Finds the route of a request that had none: routes have changed meanwhile.
///
/// # Errors
/// The answer, where the request goes no further.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub(super) fn find_route(ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    check_upgrade(look_up(ctx)?)
}

/// Finds the route of a request once more: a filter has learned what it may match by.
///
/// # Errors
/// The answer, where the request goes no further.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub(super) fn find_route_again(mut ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    ctx.route = None;
    ctx.info.route = None;
    ctx.info.vhost = None;
    find_route(ctx)
}

#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
fn look_up(mut ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    let conn = ctx.conn.clone();
    match conn.manager.routes.find(&ctx) {
        Found::Route(m) => {
            ctx.info.route.clone_from(&m.entry.name);
            ctx.info.vhost = Some(m.entry.vhost.name.clone());
            if let Kind::Forward(f) = &m.entry.kind {
                // In force from here on, as in Envoy: filters may hold the request.
                ctx.limits.of_route(f.config.idle_timeout, f.config.max_stream_duration, f.config.flush_timeout);
            }
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
    Ok(ctx)
}

#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
fn check_upgrade(ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    if is_upgrade(&ctx) && !upgrade_allowed(&ctx) {
        ctx.conn.manager.stats.downstream_rq_ws_on_non_ws_route.inc();
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
    let live = ctx.live_chain();
    let chain = conn.manager.chain_of(&live);
    let (mut ctx, body) = if chain.is_empty() {
        (ctx, body)
    } else {
        match chain.request(ctx, body).await {
            Flow::Continue(ctx, body) => (ctx, body),
            Flow::Answer(reply) => return reply,
        }
    };
    conn.manager.stats.rq_total.inc();
    let Some(matched) = ctx.route.as_ref() else {
        conn.manager.stats.no_route.inc();
        ctx.info.flags.set(ResponseFlags::NO_ROUTE_FOUND);
        return local_reply::make(ctx, StatusCode::NOT_FOUND, "", "route_not_found");
    };
    let entry = matched.entry.clone();
    match &entry.kind {
        Kind::Direct { status, body } => {
            conn.manager.stats.rq_direct_response.inc();
            let created = (*status == StatusCode::CREATED).then(|| own_url(&ctx)).flatten();
            local_reply::with_headers(ctx, *status, body.clone(), "direct_response", |h| {
                if let Some(l) = created {
                    h.insert(header::LOCATION, l);
                }
            })
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
        Kind::Forward(f) if ctx.chain().router.strict_check_headers.is_empty() => forward(ctx, body, f).await,
        Kind::Forward(f) => match strict::check(ctx) {
            Ok(ctx) => forward(ctx, body, f).await,
            Err(reply) => reply,
        },
    }
}

/// Where what a request created is: at its own URL.
fn own_url(ctx: &StreamCtx) -> Option<HeaderValue> {
    let host = ctx.request.authority.as_ref()?.to_str().ok()?;
    HeaderValue::from_str(&format!("{}://{host}{}", ctx.request.scheme.as_str(), ctx.request.path)).ok()
}

fn redirect(ctx: Box<StreamCtx>, status: StatusCode, location: Option<HeaderValue>) -> Reply {
    local_reply::with_headers(ctx, status, Bytes::new(), "direct_response", |h| {
        if let Some(l) = location {
            h.insert(header::LOCATION, l);
        }
    })
}

/// Forwards a request, again if need be.
async fn forward(mut ctx: Box<StreamCtx>, body: Body, f: &Forward) -> Reply {
    let choice = ctx.route.as_ref().and_then(|m| m.choice);
    let Some(cluster) = f.target(choice).and_then(|t| t.resolve(&ctx, &f.clusters)) else {
        return failure::no_cluster(ctx, f);
    };
    ctx.info.upstream.cluster = Some(cluster.name.clone());
    if let Some(shed) = cluster.sheds(ctx.random) {
        return failure::shed(ctx, &cluster, shed);
    }
    ctx.info.upstream.attempts = 1;
    let (body, progress) = upload::track(body);
    let policy = f.retry.as_ref().or(cluster.retry_policy.as_ref());
    let steered = timeout::steered(&ctx.request.headers);
    let mut fw = Forwarding {
        timeouts: Timeouts::new(&ctx, f, policy.map(|p| &**p), steered),
        retry: RetryState::new(policy, &ctx.request.headers, steered, local_reply::is_grpc(&ctx)),
        forward: f,
        cluster,
        retrying: None,
        replay: None,
        attempts: 0,
        timed_out: false,
        tried: Vec::new(),
        upload: progress,
    };
    let limits = ctx.limits.clone();
    limits.of_route(None, Timeouts::stream(&mut ctx, f), None);
    // Without filters nothing held it.
    let held = if ctx.chain().is_empty() {
        Duration::ZERO
    } else {
        crate::clock::now().saturating_duration_since(ctx.info.start)
    };
    limits.answer_within(fw.timeouts.route, held);
    if ctx.conn.manager.config.proxy_100_continue {
        ctx.info.interim = Some(ctx.limits.clone());
    }
    ctx.choose_virtual_cluster();
    prepare_upstream(&mut ctx, &fw);
    let body = fw.keep_body(&ctx, body);
    mirror::start(&ctx, fw.mirrors(), &f.clusters, fw.replay.as_ref(), fw.timeouts.route);
    let outcome = tokio::select! {
        biased;
        outcome = attempts::run(&mut ctx, &mut fw, body) => outcome,
        limit = limits.expired() => Outcome::Expired(limit),
    };
    match outcome {
        Outcome::Response(head, body) => respond(ctx, &fw, head, body),
        Outcome::Failed(f) if matches!(f, Failure::PerTry { .. }) => failure::timed_out(ctx, &fw, Some(f)),
        Outcome::Failed(failure) => failure::reply(ctx, &fw.cluster, &failure, fw.attempts.max(1)),
        Outcome::Expired(Expiry::Route) => failure::timed_out(ctx, &fw, None),
        Outcome::Expired(limit) => {
            ctx.info.bytes.received = fw.upload.bytes();
            limit.reply(ctx, fw.upload.is_done())
        }
    }
}

impl Forwarding<'_> {
    /// The cluster's mirrors, or else the route's.
    fn mirrors(&self) -> &[Mirror] {
        if self.cluster.mirrors.is_empty() { &self.forward.mirrors } else { &self.cluster.mirrors }
    }

    /// Makes the body replayable where a second sending may be needed.
    fn keep_body(&mut self, ctx: &StreamCtx, body: Body) -> Body {
        let mirrored = !self.mirrors().is_empty();
        if body.is_end() || is_upgrade(ctx) || (self.retry.is_none() && !mirrored) {
            return body;
        }
        let route = ctx.route.as_ref().and_then(|m| m.entry.body_limit);
        let limit = route.unwrap_or(self.cluster.config.per_connection_buffer_limit as u64);
        let replay = Replay::new(body, limit, self.cluster.stats.retry_or_shadow_abandoned.clone());
        let first = replay.reader().unwrap_or_default();
        self.replay = Some(replay);
        first
    }
}

/// Headers and target as the upstream gets them.
fn prepare_upstream(ctx: &mut StreamCtx, fw: &Forwarding<'_>) {
    // Formats read the route's metadata, so it stays where it is meanwhile.
    if ctx.route.as_ref().is_some_and(|m| m.request_mutations().any(|m| !m.is_empty()))
        && let Some(matched) = ctx.route.clone()
    {
        matched.request_mutations().for_each(|m| m.apply_request(ctx));
    }
    let Some(matched) = ctx.route.take() else { return };
    fw.forward.rewrite(ctx, &matched.entry.matches.path, matched.entry.matches.case_sensitive, matched.choice);
    ctx.route = Some(matched);
    let headers = &mut ctx.request.headers;
    if timeout::steered(headers) {
        for name in timeout::CONSUMED {
            headers.remove(HeaderName::from_static(name));
        }
    }
    if let Some(t) = fw.timeouts.expected(Duration::ZERO) {
        fw.announce(ctx, t);
    }
}

/// Passes an upstream's answer on.
fn respond(mut ctx: Box<StreamCtx>, fw: &Forwarding<'_>, mut head: ResponseHead, body: Body) -> Reply {
    if let Some(r) = &fw.replay {
        r.commit();
    }
    let status = head.status.as_u16();
    fw.cluster.stats.answered(status, ctx.internal);
    let conn = ctx.conn.clone();
    // An answer that comes before the end of the request says nothing about the time it took.
    if !ctx.chain().router.suppress_envoy_headers && fw.upload.is_done() {
        let since = fw.upload.finished_at().unwrap_or(ctx.info.start);
        let ms = crate::clock::now().duration_since(since).as_millis() as u64;
        head.headers.insert(names::UPSTREAM_SERVICE_TIME, HeaderValue::from(ms));
    }
    if ctx.route.as_ref().is_some_and(|m| m.entry.vhost.config.include_attempt_count_in_response) {
        head.headers.insert("x-envoy-attempt-count", HeaderValue::from(fw.attempts));
    }
    ctx.info.details = Some("via_upstream".into());
    let (mut body, mut refused) = (body, false);
    if ctx.request.upgrade.is_some() && head.protocol != Protocol::Http2 && head.status.is_success() {
        // No upgrade, and what was sent for a tunnel is no request whose answer this could be.
        ctx.info.details = Some("websocket_handshake_unsuccessful".into());
        head.headers.remove(header::CONTENT_LENGTH);
        body = Body::Empty;
        refused = true;
    }
    ctx.info.bytes.received = fw.upload.bytes();
    let live = ctx.live_chain();
    let body = conn.manager.chain_of(&live).response(&mut ctx, &mut head, body);
    let tunnel =
        !refused && is_upgrade(&ctx) && (head.status.is_success() || head.status == StatusCode::SWITCHING_PROTOCOLS);
    manager::finish_response(&mut ctx, &mut head, false);
    if tunnel {
        ctx.tunnel_opened();
    }
    Reply::new(ctx, head, body, false)
}
