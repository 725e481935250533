//! `strict_check_headers`: requests whose `x-envoy-*` headers say nothing sensible are answered 400.
//!
//! **Source**: `envoy.extensions.filters.http.router.v3.Router.strict_check_headers`. Runs on: workers.

use http::StatusCode;

use super::connection::Reply;
use super::local_reply;
use super::stream::StreamCtx;
use crate::http::HeaderMap;
use crate::stream_info::ResponseFlags;

const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
];
const RETRY_GRPC_ON: &[&str] = &["cancelled", "deadline-exceeded", "resource-exhausted", "unavailable", "internal"];

/// Checks a request.
///
/// # Errors
/// The answer, where a header that is to be checked does not hold.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub(super) fn check(mut ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    let (conn, live) = (ctx.conn.clone(), ctx.live_chain());
    let bad = conn
        .manager
        .chain_of(&live)
        .router
        .strict_check_headers
        .iter()
        .find_map(|name| invalid(&ctx.request.headers, name));
    let Some((name, value)) = bad else { return Ok(ctx) };
    ctx.info.flags.set(ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS);
    let text = format!("invalid header '{name}' with value '{value}'");
    let details = format!("request_headers_failed_strict_check{{{name}}}");
    Err(local_reply::with_headers(ctx, StatusCode::BAD_REQUEST, text.into(), details, |_| {}))
}

/// The header `name` and its value, where that is not valid.
fn invalid<'n>(headers: &HeaderMap, name: &'n str) -> Option<(&'n str, String)> {
    let value = headers.get(name)?;
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let each = |known: &[&str]| text.split(',').map(str::trim).filter(|t| !t.is_empty()).all(|t| known.contains(&t));
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let valid = match name {
        "x-envoy-retry-on" => each(RETRY_ON),
        "x-envoy-retry-grpc-on" => each(RETRY_GRPC_ON),
        "x-envoy-max-retries" => digits && text.parse::<u32>().is_ok(),
        _ => digits && text.parse::<u64>().is_ok(),
    };
    (!valid).then_some((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (name, value, valid) in [
            ("x-envoy-max-retries", "3", true),
            ("x-envoy-max-retries", "x", false),
            ("x-envoy-max-retries", "4294967296", false),
            ("x-envoy-upstream-rq-timeout-ms", "1s", false),
            ("x-envoy-upstream-rq-timeout-ms", "99999999999999999999", false),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "-1", false),
            ("x-envoy-retry-on", "5xx, reset", true),
            ("x-envoy-retry-on", "", true),
            ("x-envoy-retry-on", "5xx,bogus", false),
            ("x-envoy-retry-grpc-on", "cancelled,5xx", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            assert_eq!(invalid(&headers, name).is_none(), valid, "{name}: {value}");
            assert!(invalid(&HeaderMap::new(), name).is_none());
        }
    }
}
