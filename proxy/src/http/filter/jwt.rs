//! `envoy.filters.http.jwt_authn`: requests that need a token of an end user.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Flow, jwt_settings};
use crate::config::{ConfigError, DataSource, JwtAuthn, JwtPerRoute, JwtPlace, JwtProvider, JwtRequirement};
use crate::http::body::Body;
use crate::http::local_reply;
use crate::http::request;
use crate::http::route;
use crate::http::stream::StreamCtx;
use crate::jwt::{Keys, Status, Token};
use crate::stats::{Counter, Scope};

/// Namespace of the dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// So much of a request's address is in `WWW-Authenticate`.
const MAX_REALM: usize = 256;
/// What may be between a prefix and a token.
const NO_TOKEN: fn(char) -> bool = |c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '='));

/// The filter.
pub(super) struct Jwt {
    config: JwtAuthn,
    /// Of each provider.
    keys: Vec<Keys>,
    allowed: Counter,
    denied: Counter,
    bypassed: Counter,
}

/// A request that is judged.
struct Judge<'a> {
    ctx: &'a mut StreamCtx,
    now: Duration,
    /// A token was taken whose provider has the route looked for again.
    says_more: bool,
}

/// A token that was found, and where.
struct Found {
    text: String,
    place: JwtPlace,
}

impl Jwt {
    /// `scope`: the connection manager's.
    pub(super) fn new(config: &JwtAuthn, scope: &Scope) -> Result<Self, ConfigError> {
        let scope = scope.scope("jwt_authn").scope(config.stat_prefix.trim_end_matches('.'));
        let read = |p: &JwtProvider| match &p.keys {
            DataSource::Inline(text) => Keys::read(text).map_err(|why| ConfigError::at("providers", why)),
            DataSource::File { .. } => Err(ConfigError::at("providers", "a key set that was not read")),
        };
        Ok(Jwt {
            keys: config.providers.iter().map(read).collect::<Result<_, _>>()?,
            allowed: scope.counter("allowed"),
            denied: scope.counter("denied"),
            bypassed: scope.counter("cors_preflight_bypassed"),
            config: config.clone(),
        })
    }

    /// Judges a request; `i`: the filter's place in the chain.
    pub(super) fn request(&self, mut ctx: Box<StreamCtx>, body: Body, i: usize) -> Flow {
        if self.config.bypass_cors_preflight && is_preflight(&ctx) {
            self.bypassed.inc();
            self.allowed.inc();
            return Flow::Continue(ctx, body);
        }
        let requirement = match self.requirement(&ctx, i) {
            Ok(requirement) => requirement,
            Err(unknown) => return Flow::Answer(self.misnamed(ctx, &unknown)),
        };
        let Some(requirement) = requirement else {
            self.allowed.inc();
            return Flow::Continue(ctx, body);
        };
        self.sanitize(&mut ctx, requirement);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut judge = Judge { ctx: &mut ctx, now, says_more: false };
        match self.judge(&mut judge, requirement) {
            Ok(()) => {
                let says_more = judge.says_more;
                self.allowed.inc();
                match if says_more { request::find_route_again(ctx) } else { Ok(ctx) } {
                    Ok(ctx) => Flow::Continue(ctx, body),
                    Err(answer) => Flow::Answer(answer),
                }
            }
            Err(status) => Flow::Answer(self.denied(ctx, status)),
        }
    }

    /// What a request needs; `Ok(None)`: nothing.
    fn requirement(&self, ctx: &StreamCtx, i: usize) -> Result<Option<&JwtRequirement>, String> {
        match jwt_settings(ctx, i) {
            Some(JwtPerRoute::Disabled) => return Ok(None),
            Some(JwtPerRoute::Named(name)) => {
                let found = self.config.named.get(name);
                return found.map(Some).ok_or_else(|| {
                    let known: Vec<&str> = self.config.named.keys().map(String::as_str).collect();
                    format!("Wrong requirement_name: {name}. It should be one of [{}]", known.join(","))
                });
            }
            None => {}
        }
        let path = ctx.request.path_only();
        let rule = self.config.rules.iter().find(|rule| route::matches(&rule.matches, ctx, path));
        Ok(rule.and_then(|rule| rule.requires.as_ref()))
    }

    fn judge(&self, judge: &mut Judge<'_>, of: &JwtRequirement) -> Result<(), Status> {
        match of {
            JwtRequirement::Provider(at, audiences) => {
                let Some(provider) = self.config.providers.get(*at) else { return Err(Status::UnknownIssuer) };
                let found = find(judge.ctx, &provider.places);
                if found.is_empty() {
                    return Err(Status::Missing);
                }
                // Each must be good: else one that is could hide another that the upstream looks at.
                found.iter().try_for_each(|found| self.take(judge, found, Some((*at, audiences.as_deref()))))
            }
            JwtRequirement::All(all) => all.iter().try_for_each(|of| self.judge(judge, of)),
            JwtRequirement::Any(any) => self.any(judge, any),
            JwtRequirement::AllowMissing => self.of_any_provider(judge, false),
            JwtRequirement::AllowMissingOrFailed => self.of_any_provider(judge, true),
        }
    }

    fn any(&self, judge: &mut Judge<'_>, any: &[JwtRequirement]) -> Result<(), Status> {
        let mut worst = Status::Missing;
        let (mut missing, mut failed) = (false, false);
        for of in any {
            match of {
                JwtRequirement::AllowMissing => missing = true,
                JwtRequirement::AllowMissingOrFailed => failed = true,
                of => match self.judge(judge, of) {
                    Ok(()) => return Ok(()),
                    // That a token is there says more than that none is, and that it is bad says more than whose it is not.
                    Err(Status::Missing) => {}
                    Err(Status::UnknownIssuer) if worst != Status::Missing => {}
                    Err(status) => worst = status,
                },
            }
        }
        if failed || (missing && worst == Status::Missing) { Ok(()) } else { Err(worst) }
    }

    /// Tokens wherever any provider has them.
    fn of_any_provider(&self, judge: &mut Judge<'_>, may_fail: bool) -> Result<(), Status> {
        let mut places: Vec<JwtPlace> = Vec::new();
        for place in self.config.providers.iter().flat_map(|p| &p.places) {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        for found in find(judge.ctx, &places) {
            let taken = self.take(judge, &found, None);
            if !may_fail {
                taken?;
            }
        }
        Ok(())
    }

    /// Verifies a token, and does what its provider asks to be done with it. Without a provider its issuer tells.
    fn take(&self, judge: &mut Judge<'_>, found: &Found, of: Option<(usize, Option<&[String]>)>) -> Result<(), Status> {
        let token = Token::read(&found.text)?;
        let issuer = token.claim("iss");
        let fits = |p: &JwtProvider| p.issuer.is_empty() || p.issuer == issuer;
        let (at, audiences) = match of {
            Some((at, audiences)) => {
                (Some(at).filter(|at| self.config.providers.get(*at).is_some_and(fits)), audiences)
            }
            None => (self.config.providers.iter().position(|p| fits(p) && p.places.contains(&found.place)), None),
        };
        let at = at.ok_or(Status::UnknownIssuer)?;
        let (Some(provider), Some(keys)) = (self.config.providers.get(at), self.keys.get(at)) else {
            return Err(Status::UnknownIssuer);
        };
        check(provider, &token, audiences, judge.now)?;
        keys.verify(&token)?;
        accept(judge.ctx, provider, &token, found);
        judge.says_more |= provider.clear_route_cache;
        Ok(())
    }

    /// Nobody but the filter says what a token said.
    fn sanitize(&self, ctx: &mut StreamCtx, of: &JwtRequirement) {
        let mut clear = |p: &JwtProvider| {
            for name in p.forward_payload_header.iter().chain(p.claims.iter().map(|(name, _)| name)) {
                ctx.request.headers.remove(name.as_str());
            }
        };
        match of {
            JwtRequirement::Provider(at, _) => self.config.providers.get(*at).into_iter().for_each(&mut clear),
            JwtRequirement::Any(list) | JwtRequirement::All(list) => {
                for of in list {
                    self.sanitize(ctx, of);
                }
            }
            JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed => {
                self.config.providers.iter().for_each(&mut clear);
            }
        }
    }
}

impl Jwt {
    /// The answer to a request whose token is not taken.
    fn denied(&self, ctx: Box<StreamCtx>, status: Status) -> crate::http::connection::Reply {
        self.denied.inc();
        let code = match status {
            Status::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        tracing::debug!(%status, peer = %ctx.conn.info.direct_remote, client = %ctx.info.remote, "JWT refused");
        let text = status.to_string();
        let details = details(&text);
        if self.config.strip_failure_response {
            return local_reply::with_headers(ctx, code, Bytes::new(), details, |_| {});
        }
        let host = ctx.request.authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path: String = ctx.request.path.chars().take(MAX_REALM).collect();
        let error = if status == Status::Missing { "" } else { ", error=\"invalid_token\"" };
        let challenge = format!("Bearer realm=\"{}://{host}{path}\"{error}", ctx.request.scheme.as_str());
        local_reply::with_headers(ctx, code, text.into(), details, |headers| {
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
        })
    }

    /// The answer to a request whose route names a requirement that there is not.
    fn misnamed(&self, ctx: Box<StreamCtx>, why: &str) -> crate::http::connection::Reply {
        self.denied.inc();
        let body = format!("Failed JWT authentication: {why}");
        local_reply::with_headers(ctx, StatusCode::FORBIDDEN, body.into(), details(why), |_| {})
    }
}

fn details(why: &str) -> String {
    format!("jwt_authn_access_denied{{{}}}", why.replace(char::is_whitespace, "_"))
}

fn is_preflight(ctx: &StreamCtx) -> bool {
    let has = |name: HeaderName| ctx.request.headers.get(name).is_some_and(|v| !v.is_empty());
    ctx.request.method == Method::OPTIONS && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a token's claims are what its provider asks for.
fn check(p: &JwtProvider, token: &Token<'_>, audiences: Option<&[String]>, now: Duration) -> Result<(), Status> {
    token.check_time(now, p.clock_skew)?;
    if p.subjects.as_ref().is_some_and(|subjects| !subjects.matches(token.claim("sub"))) {
        return Err(Status::VerificationFailed);
    }
    let expires = token.payload().get("exp").and_then(Value::as_f64).filter(|exp| *exp != 0.0);
    if expires.is_none() && (p.require_expiration || p.max_lifetime.is_some()) {
        return Err(Status::VerificationFailed);
    }
    let too_far = |max: Duration| expires.is_some_and(|exp| exp > (now + max).as_secs_f64());
    if p.max_lifetime.is_some_and(too_far) {
        return Err(Status::VerificationFailed);
    }
    if !token.is_for(audiences.unwrap_or(&p.audiences)) {
        return Err(Status::AudienceNotAllowed);
    }
    Ok(())
}

/// Does what a provider asks to be done with a token that is good.
fn accept(ctx: &mut StreamCtx, p: &JwtProvider, token: &Token<'_>, found: &Found) {
    for (name, path) in &p.claims {
        let claim = path.iter().try_fold(token.payload(), |value, key| value.get(key));
        if let Some(value) = claim.and_then(claim_text)
            && let Ok(name) = HeaderName::try_from(name.as_str())
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            ctx.request.headers.append(name, value);
        }
    }
    if let Some(name) = p.forward_payload_header.as_ref().and_then(|name| HeaderName::try_from(name.as_str()).ok()) {
        let raw = token.raw_payload();
        let padded = p.pad_forward_payload_header.then(|| URL_SAFE_NO_PAD.decode(raw).ok().map(|b| URL_SAFE.encode(b)));
        let value = padded.flatten().unwrap_or_else(|| raw.to_owned());
        if let Ok(value) = HeaderValue::from_str(&value) {
            ctx.request.headers.insert(name, value);
        }
    }
    if !p.forward {
        remove(ctx, &found.place);
    }
    let said = [
        p.payload_in_metadata.as_ref().map(|key| (key, normalized(token.payload(), &p.space_delimited_claims))),
        p.header_in_metadata.as_ref().map(|key| (key, token.header().clone())),
    ];
    for (key, value) in said.into_iter().flatten() {
        let all = ctx.info.metadata.get_or_insert_default();
        let own = all.entry(NAMESPACE.to_owned()).or_insert_with(|| json!({}));
        if let Some(own) = own.as_object_mut() {
            own.insert(key.clone(), value);
        }
    }
}

/// A payload in which these claims are lists: in tokens their items have spaces between them.
fn normalized(payload: &Value, space_delimited: &[String]) -> Value {
    let mut payload = payload.clone();
    for name in space_delimited {
        if let Some(value) = payload.get_mut(name)
            && let Value::String(text) = value
        {
            *value = text.split(' ').filter(|item| !item.is_empty()).collect();
        }
    }
    payload
}

/// A claim as a header has it: text, numbers and truth as they are, all else as JSON in base64.
fn claim_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) => Some(STANDARD.encode(value.to_string())),
    }
}

/// The tokens at these places, in their order.
fn find(ctx: &StreamCtx, places: &[JwtPlace]) -> Vec<Found> {
    let mut found = Vec::new();
    for place in places {
        let mut push = |text: &str| {
            if !text.is_empty() {
                found.push(Found { text: text.to_owned(), place: place.clone() });
            }
        };
        match place {
            JwtPlace::Header { name, prefix } => {
                // Of a header that is there twice all values count, as Envoy joins them: two tokens are none, so that no upstream
                // looks at one that was not judged.
                let values: Vec<_> = ctx.request.values(name).map(String::from_utf8_lossy).collect();
                let value = values.join(",");
                if prefix.is_empty() {
                    push(&value);
                } else if let Some((_, rest)) = value.split_once(prefix.as_str()) {
                    push(rest.trim_start_matches(NO_TOKEN));
                }
            }
            JwtPlace::Param(name) => {
                if let Some(value) = ctx.request.query().and_then(|query| route::query_value(query, name)) {
                    push(&percent_encoding::percent_decode_str(value).decode_utf8_lossy());
                }
            }
            JwtPlace::Cookie(name) => {
                if let Some(value) = route::cookie(ctx, name) {
                    push(value);
                }
            }
        }
    }
    found
}

/// Takes a token away; a cookie stays, as in Envoy.
fn remove(ctx: &mut StreamCtx, place: &JwtPlace) {
    match place {
        JwtPlace::Header { name, .. } => {
            ctx.request.headers.remove(name.as_str());
        }
        JwtPlace::Param(name) => {
            let Some((path, query)) = ctx.request.path.split_once('?') else { return };
            let kept: Vec<&str> = query.split('&').filter(|p| p.split('=').next() != Some(name.as_str())).collect();
            let all = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
            ctx.request.path = all;
        }
        JwtPlace::Cookie(_) => {}
    }
}
