//! Answers for upstreams that did not answer: which status, which flag, which words.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::attempts::Forwarding;
use super::body::BodyError;
use super::connection::Reply;
use super::local_reply;
use super::retry::Failure;
use super::route::Forward;
use super::stream::StreamCtx;
use crate::cluster::{Cluster, Shed, outlier};
use crate::http::HeaderMap;
use crate::stream_info::ResponseFlags;

/// The route's cluster does not exist.
pub(super) fn no_cluster(mut ctx: Box<StreamCtx>, f: &Forward) -> Reply {
    ctx.conn.manager.stats.no_cluster.inc();
    ctx.info.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
    let status = StatusCode::from_u16(f.config.cluster_not_found_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    answer(ctx, status, "", "cluster_not_found", 1, None)
}

/// The cluster is not to be asked.
pub(super) fn shed(mut ctx: Box<StreamCtx>, cluster: &Cluster, shed: Shed) -> Reply {
    cluster.stats.answered(503, ctx.internal);
    let (flag, text, details, header) = match shed {
        Shed::Maintenance => {
            cluster.stats.upstream_rq_maintenance_mode.inc();
            (ResponseFlags::UPSTREAM_OVERFLOW, "maintenance mode", "maintenance_mode", "x-envoy-overloaded")
        }
        Shed::Drop => (ResponseFlags::DROP_OVERLOAD, "drop overload", "drop_overload", "x-envoy-drop-overload"),
        Shed::DropAll => (
            ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
            "unconditional drop overload",
            "unconditional_drop_overload",
            "x-envoy-unconditional-drop-overload",
        ),
    };
    ctx.info.flags.set(flag);
    answer(ctx, StatusCode::SERVICE_UNAVAILABLE, text, details, 1, Some(header))
}

/// The last of `attempts` failed.
pub(super) fn reply(mut ctx: Box<StreamCtx>, cluster: &Arc<Cluster>, failure: &Failure, attempts: u32) -> Reply {
    ctx.info.flags.set(flag(failure));
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, text, details) = match failure {
        Failure::NoHost => (unavailable, "no healthy upstream".into(), "no_healthy_upstream".into()),
        Failure::Upload(e @ (BodyError::TrailersTooLarge | BodyError::TooManyTrailers)) => {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let many = *e == BodyError::TooManyTrailers;
            let details = if many { "http1.too_many_trailers" } else { "http1.headers_too_large" };
            return local_reply::make(ctx, status, "Request Header Fields Too Large", details);
        }
        Failure::Upload(_) => {
            return local_reply::make(ctx, StatusCode::BAD_REQUEST, "Bad Request", "http1.codec_error");
        }
        Failure::MaxDuration => {
            let text = "upstream max stream duration reached".into();
            // Envoy counts no response for it.
            let details = "upstream_max_stream_duration_reached";
            return answer::<String>(ctx, StatusCode::GATEWAY_TIMEOUT, text, details, attempts, None);
        }
        _ => {
            let status = if matches!(failure, Failure::Protocol) { StatusCode::BAD_GATEWAY } else { unavailable };
            let (text, details) = reset_text(failure, attempts > 1);
            (status, text, details)
        }
    };
    cluster.stats.answered(status.as_u16(), ctx.internal);
    if let Failure::Connect { reason, .. } = failure
        && !reason.is_empty()
    {
        ctx.info.upstream.transport_failure = Some(reason.clone());
    }
    let header = matches!(failure, Failure::Overflow).then_some("x-envoy-overloaded");
    answer::<String>(ctx, status, text, details, attempts, header)
}

fn flag(failure: &Failure) -> ResponseFlags {
    match failure {
        Failure::NoHost => ResponseFlags::NO_HEALTHY_UPSTREAM,
        Failure::Connect { .. } => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        Failure::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        Failure::Closed => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        Failure::Reset(_) => ResponseFlags::UPSTREAM_REMOTE_RESET,
        Failure::Protocol => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
        Failure::PerTry { .. } => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
        Failure::MaxDuration => ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED,
        Failure::Upload(_) => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
    }
}

/// Body and details of an attempt that was reset.
fn reset_text(failure: &Failure, retried: bool) -> (String, std::borrow::Cow<'static, str>) {
    let reason = failure.reset_reason();
    let latest = if retried { "retried and the latest " } else { "" };
    let text = format!("upstream connect error or disconnect/reset before headers. {latest}reset reason: {reason}");
    let mut details = format!("upstream_reset_before_response_started{{{}", reason.replace(' ', "_"));
    if let Failure::Connect { reason, .. } = failure
        && !reason.is_empty()
    {
        details.push('|');
        details.push_str(&reason.replace(' ', "_"));
    }
    details.push('}');
    (text, details.into())
}

/// The time for the whole answer was over (`None`), or that of the last attempt.
pub(super) fn timed_out(mut ctx: Box<StreamCtx>, fw: &Forwarding<'_>, attempt: Option<Failure>) -> Reply {
    let status = if fw.timeouts.alt_response { StatusCode::NO_CONTENT } else { StatusCode::GATEWAY_TIMEOUT };
    fw.cluster.stats.answered(status.as_u16(), ctx.internal);
    if attempt.is_none()
        && let Some(b) = ctx.books.take()
    {
        b.timed_out();
        b.host.rq_error.fetch_add(1, Ordering::Relaxed);
        fw.cluster.observe(&b.host, outlier::Outcome::Timeout);
    }
    if let Some(t) = &fw.cluster.tracked {
        t.request(fw.upload.finished_at().unwrap_or(ctx.info.start).elapsed(), fw.timeouts.route);
    }
    ctx.info.bytes.received = fw.upload.bytes();
    ctx.info.flags.set(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
    let details = match attempt {
        Some(Failure::PerTry { idle: true }) => "upstream_per_try_idle_timeout",
        Some(_) => "upstream_per_try_timeout",
        None => "response_timeout",
    };
    let text = if fw.timeouts.alt_response { "" } else { "upstream request timeout" };
    answer(ctx, status, text, details, fw.attempts.max(1), None)
}

/// A local reply with the router's own headers: how many attempts there were, and `header: true`.
fn answer<T: Into<Bytes>>(
    ctx: Box<StreamCtx>,
    status: StatusCode,
    text: T,
    details: impl Into<std::borrow::Cow<'static, str>>,
    attempts: u32,
    header: Option<&'static str>,
) -> Reply {
    let counted = ctx.route.as_ref().is_some_and(|m| m.entry.vhost.config.include_attempt_count_in_response);
    let header = header.filter(|_| !ctx.chain().router.suppress_envoy_headers);
    local_reply::with_headers(ctx, status, text.into(), details, |h: &mut HeaderMap| {
        if let Some(name) = header {
            h.insert(name, HeaderValue::from_static("true"));
        }
        if counted {
            h.insert("x-envoy-attempt-count", HeaderValue::from(attempts));
        }
    })
}
