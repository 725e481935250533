//! The time limits of one request, out of its route and its headers.

use std::time::Duration;

use http::HeaderMap;

use super::local_reply;
use super::route::Forward;
use super::stream::StreamCtx;

/// Request headers that steer the router and stop here.
pub const CONSUMED: &[&str] = &[
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-hedge-on-per-try-timeout",
];

/// Limits; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the answer's head, retries included.
    pub route: Option<Duration>,
    /// One attempt.
    pub per_try: Option<Duration>,
}

impl Timeouts {
    /// The limits of a request.
    pub fn new(ctx: &StreamCtx, f: &Forward) -> Self {
        let c = &f.config;
        let headers = &ctx.request.headers;
        let mut route = c.timeout;
        if local_reply::is_grpc(ctx)
            && let Some(max) = c.grpc_timeout_header_max.or(c.max_grpc_timeout)
            && let Some(asked) = headers.get("grpc-timeout").and_then(|v| grpc_timeout(v.as_bytes()))
        {
            let offset = c.grpc_timeout_header_offset.or(c.grpc_timeout_offset).unwrap_or_default();
            let shortened = if offset < asked { asked - offset } else { asked };
            route = Some(max.filter(|m| !m.is_zero()).map_or(shortened, |m| m.min(shortened)));
        }
        if ctx.conn.manager.chain.router.respect_expected_rq_timeout
            && let Some(t) = millis(headers, "x-envoy-expected-rq-timeout-ms")
        {
            route = Some(t);
        } else if let Some(t) = millis(headers, "x-envoy-upstream-rq-timeout-ms") {
            route = Some(t);
        }
        let mut per_try = f.retry.as_ref().and_then(|r| r.per_try_timeout);
        if let Some(t) = millis(headers, "x-envoy-upstream-rq-per-try-timeout-ms") {
            per_try = Some(t);
        }
        let route = route.filter(|t| !t.is_zero());
        // An attempt never outlasts the whole.
        let per_try = per_try.filter(|t| !t.is_zero() && route.is_none_or(|r| *t < r));
        Timeouts { route, per_try }
    }
}

fn millis(headers: &HeaderMap, name: &str) -> Option<Duration> {
    headers.get(name)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// `grpc-timeout`: at most eight digits and a unit.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(grpc_timeout(b"1S"), Some(Duration::from_secs(1)));
        assert_eq!(grpc_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [&b""[..], b"S", b"123456789S", b"1x", b"-1S", b"1"] {
            assert_eq!(grpc_timeout(bad), None);
        }
    }
}
