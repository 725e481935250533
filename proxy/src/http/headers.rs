//! Header mutations with `%OPERATORS%`.

use http::{HeaderName, HeaderValue};

use super::head::ResponseHead;
use super::stream::StreamCtx;
use crate::access_log::{LogContext, LogType, Template};
use crate::config::{self, AppendAction, ConfigError, HeaderMutation};
use crate::http::HeaderMap;

/// A text with operators. One without any costs nothing to evaluate.
#[derive(Clone)]
pub struct Format {
    template: Template,
}

impl Format {
    /// Compiles.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Format { template: Template::value(text)? })
    }

    /// The text for a request.
    pub fn text(&self, ctx: &StreamCtx) -> String {
        String::from_utf8_lossy(&self.render(&ctx.log_context(LogType::NotSet))).into_owned()
    }

    /// The text for what `ctx` knows.
    pub fn render(&self, ctx: &LogContext<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        self.template.render(ctx, &mut out);
        out
    }
}

/// Fields of a request that Envoy keeps as one: a repeated one goes on as a list.
const JOINED: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authentication",
    "authorization",
    "cache-control",
    "cdn-loop",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "proxy-status",
    "referer",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Makes one field of a request's repeated ones, where everything behind reads them as one.
pub(crate) fn join_repeated(headers: &mut HeaderMap) {
    if !headers.may_repeat() {
        return;
    }
    for name in JOINED {
        if headers.get_all(name).nth(1).is_none() {
            continue;
        }
        let values: Vec<&[u8]> = headers.get_all(name).map(HeaderValue::as_bytes).collect();
        // What was made of valid values is valid.
        if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b',')) {
            headers.insert(*name, joined);
        }
    }
}

#[derive(Clone)]
enum Value {
    Fixed(HeaderValue),
    Format(Format),
}

#[derive(Clone)]
enum Op {
    Remove(HeaderName),
    RemoveMatching(config::StringMatcher),
    Append { name: HeaderName, host: bool, value: Value, action: AppendAction, keep_empty: bool },
}

/// Mutations, compiled.
#[derive(Default)]
pub struct Mutations(Vec<Op>);

impl Mutations {
    /// Compiles.
    ///
    /// # Errors
    /// A bad name, value or format.
    pub fn new(list: &config::HeaderMutations) -> Result<Self, ConfigError> {
        list.0.iter().map(compile).collect::<Result<_, _>>().map(Mutations)
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies them to the request of `ctx`.
    pub fn apply_request(&self, ctx: &mut StreamCtx) {
        for op in &self.0 {
            if let Op::Append { host: true, value, .. } = op {
                // `host` and `:authority` are the request's own part, not a field.
                if let Some(v) = evaluate(value, &ctx.log_context(LogType::NotSet), false) {
                    ctx.request.authority = Some(v);
                }
                continue;
            }
            let computed = computed(op, || ctx.log_context(LogType::NotSet));
            apply(op, computed, &mut ctx.request.headers);
        }
        if !self.0.is_empty() {
            join_repeated(&mut ctx.request.headers);
        }
    }

    /// Applies them to an answer.
    pub fn apply_response(&self, ctx: &StreamCtx, head: &mut ResponseHead) {
        for op in &self.0 {
            let computed = computed(op, || LogContext { response: Some(&*head), ..ctx.log_context(LogType::NotSet) });
            apply(op, computed, &mut head.headers);
        }
    }

    /// Fills in their formats for a later moment.
    pub fn resolve(&self, ctx: &StreamCtx) -> Resolved {
        Resolved(self.0.iter().map(|op| (op.clone(), computed(op, || ctx.log_context(LogType::NotSet)))).collect())
    }

    /// As [`Mutations::resolve`], of mutations without formats.
    #[cfg(test)]
    pub(crate) fn resolve_fixed(&self) -> Resolved {
        let value = |op: &Op| match op {
            Op::Append { value: Value::Fixed(v), keep_empty, .. } => (*keep_empty || !v.is_empty()).then(|| v.clone()),
            _ => None,
        };
        Resolved(self.0.iter().map(|op| (op.clone(), value(op))).collect())
    }

    /// Applies them to headers of what is no request of a client's.
    pub fn apply_logged(&self, ctx: &LogContext<'_>, headers: &mut HeaderMap) {
        for op in &self.0 {
            apply(op, computed(op, || *ctx), headers);
        }
    }

    /// Applies them to headers of any other kind.
    pub fn apply_to(&self, ctx: &StreamCtx, headers: &mut HeaderMap) {
        self.apply_in(&ctx.log_context(LogType::NotSet), headers);
    }

    /// As [`Mutations::apply_to`], where there may be no request.
    pub fn apply_in(&self, ctx: &LogContext<'_>, headers: &mut HeaderMap) {
        for op in &self.0 {
            apply(op, computed(op, || *ctx), headers);
        }
    }
}

/// Mutations with their values.
pub struct Resolved(Vec<(Op, Option<HeaderValue>)>);

impl Resolved {
    /// Applies them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (op, value) in &self.0 {
            apply(op, value.clone(), headers);
        }
    }
}

fn compile(m: &HeaderMutation) -> Result<Op, ConfigError> {
    let name = |n: &str| {
        HeaderName::from_bytes(n.as_bytes())
            .map_err(|_| ConfigError::at("header.key", format!("{n:?} is not a valid header name")))
    };
    Ok(match m {
        HeaderMutation::Remove(n) => Op::Remove(name(n)?),
        HeaderMutation::RemoveOnMatch(m) => Op::RemoveMatching(m.clone()),
        HeaderMutation::Append { name: n, value, action, keep_empty } => {
            let host = n.eq_ignore_ascii_case(":authority") || n.eq_ignore_ascii_case("host");
            let value = if value.contains('%') {
                Value::Format(Format::new(value).map_err(|e| ConfigError::at("header.value", e))?)
            } else {
                Value::Fixed(super::route::header_value(value, "header.value")?)
            };
            let name = if host { http::header::HOST } else { name(n)? };
            Op::Append { name, host, value, action: *action, keep_empty: *keep_empty }
        }
    })
}

fn computed<'a>(op: &Op, ctx: impl FnOnce() -> LogContext<'a>) -> Option<HeaderValue> {
    match op {
        Op::Append { value: Value::Fixed(v), keep_empty, .. } => (*keep_empty || !v.is_empty()).then(|| v.clone()),
        Op::Append { value, keep_empty, .. } => evaluate(value, &ctx(), *keep_empty),
        _ => None,
    }
}

/// The value; `None` where it comes out empty (an operator without a value adds nothing).
fn evaluate(value: &Value, ctx: &LogContext<'_>, keep_empty: bool) -> Option<HeaderValue> {
    let v = match value {
        Value::Fixed(v) => v.clone(),
        Value::Format(f) => HeaderValue::from_bytes(&f.render(ctx)).ok()?,
    };
    (keep_empty || !v.is_empty()).then_some(v)
}

fn apply(op: &Op, value: Option<HeaderValue>, headers: &mut HeaderMap) {
    match op {
        Op::Remove(name) => {
            headers.remove(name);
        }
        Op::RemoveMatching(m) => {
            headers.retain(|name, _| !m.matches(name.as_str()));
        }
        Op::Append { name, action, .. } => {
            let Some(value) = value else { return };
            let present = headers.contains_key(name);
            match action {
                AppendAction::AppendIfExistsOrAdd => {
                    headers.append(name, value);
                }
                AppendAction::AddIfAbsent if present => {}
                AppendAction::OverwriteIfExists if !present => {}
                _ => {
                    headers.insert(name, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_that_are_one() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "a"), ("x-own", "1"), ("accept", "b"), ("x-own", "2"), ("via", "c")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        join_repeated(&mut headers);
        assert_eq!(
            (headers.get_all("accept").count(), headers.get("accept").unwrap()),
            (1, &HeaderValue::from_static("a,b"))
        );
        assert_eq!((headers.get_all("x-own").count(), headers.len()), (2, 4));
    }
}
