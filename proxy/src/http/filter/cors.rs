//! `envoy.filters.http.cors`.

use http::{HeaderValue, Method, StatusCode, header};

use super::Flow;
use crate::config::Cors;
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::head::ResponseHead;
use crate::http::local_reply;
use crate::http::stream::StreamCtx;
use crate::runtime::{Fraction, Runtime};
use crate::stats::{Counter, Scope};

/// `http.<stat_prefix>.cors.*`.
pub(super) struct Stats {
    valid: Counter,
    invalid: Counter,
}

impl Stats {
    pub(super) fn new(scope: &Scope) -> Self {
        let scope = scope.scope("cors");
        Stats { valid: scope.counter("origin_valid"), invalid: scope.counter("origin_invalid") }
    }
}

/// A policy, compiled.
pub struct Policy {
    config: Cors,
    enabled: Fraction,
    /// Where the policy is not enabled: origins are judged and counted, and that is all.
    shadow: Option<Fraction>,
}

impl Policy {
    /// Compiles.
    pub fn new(config: &Cors, runtime: &Runtime) -> Self {
        Policy {
            enabled: runtime.fraction(&config.enabled),
            shadow: config.shadow.as_ref().map(|f| runtime.fraction(f)),
            config: config.clone(),
        }
    }
}

fn origin<'a>(ctx: &'a StreamCtx, policy: &Cors) -> Option<(&'a HeaderValue, bool)> {
    let value = ctx.request.headers.get(header::ORIGIN)?;
    let text = value.to_str().ok()?;
    let allowed = policy
        .allow_origins
        .iter()
        .any(|m| m.matches(text) || matches!(&m.pattern, crate::config::StringPattern::Exact(e) if e == "*"));
    Some((value, allowed))
}

/// Answers a preflight from an allowed origin.
pub(super) fn request(ctx: Box<StreamCtx>, body: Body, compiled: &Policy, stats: &Stats) -> Flow {
    let policy = &compiled.config;
    let enabled = compiled.enabled.admits(ctx.random);
    if !enabled && !compiled.shadow.as_ref().is_some_and(|f| f.admits(ctx.random)) {
        return Flow::Continue(ctx, body);
    }
    let Some((origin, allowed)) = origin(&ctx, policy) else { return Flow::Continue(ctx, body) };
    if allowed {
        stats.valid.inc()
    } else {
        stats.invalid.inc()
    }
    let preflight = ctx.request.method == Method::OPTIONS
        && ctx.request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !enabled || !preflight || (!allowed && policy.forward_not_matching_preflights) {
        return Flow::Continue(ctx, body);
    }
    let origin = origin.clone();
    let private = policy.allow_private_network
        && ctx.request.headers.get("access-control-request-private-network").is_some_and(|v| v == "true");
    let policy = policy.clone();
    Flow::Answer(local_reply::with_headers(ctx, StatusCode::OK, bytes::Bytes::new(), "cors_response", |h| {
        if private {
            h.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
        }
        if !allowed {
            return;
        }
        h.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers),
            (header::ACCESS_CONTROL_MAX_AGE, &policy.max_age),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers),
        ] {
            set(h, name, value);
        }
        if policy.allow_credentials {
            h.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }))
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if !value.is_empty()
        && let Ok(v) = HeaderValue::from_str(value)
    {
        headers.insert(name, v);
    }
}

/// Marks the answer to a request from an allowed origin.
pub(super) fn response(ctx: &StreamCtx, head: &mut ResponseHead, compiled: &Policy) {
    if !compiled.enabled.admits(ctx.random) {
        return;
    }
    let policy = &compiled.config;
    let Some((origin, true)) = origin(ctx, policy) else { return };
    head.headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    set(&mut head.headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &policy.expose_headers);
    if policy.allow_credentials {
        head.headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}
