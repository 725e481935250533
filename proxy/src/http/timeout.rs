//! The time limits of one request, out of its route and its headers.

use std::time::Duration;

use http::HeaderValue;

use super::local_reply;
use super::route::Forward;
use super::stream::StreamCtx;
use crate::config::RetryPolicy;
use crate::http::HeaderMap;

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

/// Whether a request has any of Envoy's own headers. Most have none, and need not be asked for each of them.
pub fn steered(headers: &HeaderMap) -> bool {
    headers.keys().any(|n| n.as_str().starts_with("x-envoy-"))
}

/// Limits; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the answer, retries included.
    pub route: Option<Duration>,
    /// One attempt, from its connection to its answer's head.
    pub per_try: Option<Duration>,
    /// Nothing came of an attempt for so long, also behind its answer's head.
    pub per_try_idle: Option<Duration>,
    /// `x-envoy-upstream-rq-timeout-alt-response`: a timeout is answered 204 in place of 504.
    pub alt_response: bool,
    /// `max_grpc_timeout`: `grpc-timeout` tells the upstream what is left.
    pub rewrite_grpc: bool,
}

impl Timeouts {
    /// The limits of a request, retried by `policy`; its headers are asked where it is [`steered`].
    pub fn new(ctx: &StreamCtx, f: &Forward, policy: Option<&RetryPolicy>, steered: bool) -> Self {
        let c = &f.config;
        let headers = &ctx.request.headers;
        let grpc = local_reply::is_grpc(ctx);
        let mut route = c.timeout;
        let mut rewrite_grpc = false;
        if c.stream_timeouts {
            // `max_stream_duration` takes the place of the route's timeout; the connection's side keeps it.
            route = None;
        } else if grpc && let Some(max) = c.max_grpc_timeout {
            let asked = asked_by_grpc(headers).unwrap_or_default();
            let offset = c.grpc_timeout_offset.filter(|o| *o < asked).unwrap_or_default();
            let asked = asked - offset;
            let max = max.unwrap_or_default();
            route = Some(if !max.is_zero() && (asked.is_zero() || asked > max) { max } else { asked });
            rewrite_grpc = true;
        }
        let millis = |headers: &HeaderMap, name: &str| steered.then(|| millis(headers, name)).flatten();
        if ctx.chain().router.respect_expected_rq_timeout
            && let Some(t) = millis(headers, "x-envoy-expected-rq-timeout-ms")
        {
            route = Some(t);
        } else if let Some(t) = millis(headers, "x-envoy-upstream-rq-timeout-ms") {
            route = Some(t);
        }
        let mut per_try = policy.and_then(|r| r.per_try_timeout);
        if let Some(t) = millis(headers, "x-envoy-upstream-rq-per-try-timeout-ms") {
            per_try = Some(t);
        }
        let route = route.filter(|t| !t.is_zero());
        // An attempt never outlasts the whole.
        let per_try = per_try.filter(|t| !t.is_zero() && route.is_none_or(|r| *t < r));
        let per_try_idle = policy.and_then(|r| r.per_try_idle_timeout);
        let alt_response = steered && headers.contains_key("x-envoy-upstream-rq-timeout-alt-response");
        Timeouts { route, per_try, per_try_idle, alt_response, rewrite_grpc }
    }

    /// The limit of the whole stream: the route's, or the client's `grpc-timeout` where the route honours that
    /// (`grpc_timeout_header_max`). The upstream is then told what became of it.
    pub fn stream(ctx: &mut StreamCtx, f: &Forward) -> Option<Option<Duration>> {
        let c = &f.config;
        let Some((max, asked)) = c.grpc_timeout_header_max.zip(asked_by_grpc(&ctx.request.headers)) else {
            return c.max_stream_duration;
        };
        let bounded = max.filter(|m| !m.is_zero()).map_or(asked, |m| m.min(asked));
        let left = bounded.saturating_sub(c.grpc_timeout_header_offset.unwrap_or_default());
        if let Ok(v) = HeaderValue::from_str(&to_grpc_timeout(left)) {
            ctx.request.headers.insert("grpc-timeout", v);
        }
        // The client's zero is over at once, which is not the zero of the configuration.
        Some(Some(left.max(Duration::from_millis(1))))
    }

    /// What the upstream is told of the time it has, `elapsed` after the end of the request.
    pub fn expected(&self, elapsed: Duration) -> Option<Duration> {
        let whole = self.per_try.or(self.route)?;
        let Some(route) = self.route else { return Some(whole) };
        Some(whole.min(route.saturating_sub(elapsed)).max(Duration::from_millis(1)))
    }
}

fn asked_by_grpc(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout(headers.get("grpc-timeout")?.as_bytes())
}

/// A duration as `grpc-timeout` has it: at most eight digits, so that hours serve where milliseconds do not.
pub fn to_grpc_timeout(t: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let ms = t.as_millis();
    match () {
        () if ms <= MOST => format!("{ms}m"),
        () if ms / 1000 <= MOST => format!("{}S", ms / 1000),
        () if ms / 60_000 <= MOST => format!("{}M", ms / 60_000),
        () => format!("{}H", (ms / 3_600_000).min(MOST)),
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

    #[test]
    fn what_is_left_is_told() {
        let ms = Duration::from_millis;
        let mut t = Timeouts {
            route: Some(ms(300)),
            per_try: Some(ms(200)),
            per_try_idle: None,
            alt_response: false,
            rewrite_grpc: false,
        };
        assert_eq!(t.expected(ms(0)), Some(ms(200)));
        assert_eq!(t.expected(ms(150)), Some(ms(150)));
        assert_eq!(t.expected(ms(400)), Some(ms(1)));
        t.per_try = None;
        assert_eq!(t.expected(ms(100)), Some(ms(200)));
        t.route = None;
        assert_eq!(t.expected(ms(100)), None);
        assert_eq!(to_grpc_timeout(ms(1500)), "1500m");
        assert_eq!(to_grpc_timeout(Duration::from_secs(100_000)), "100000S");
        assert_eq!(to_grpc_timeout(Duration::from_secs(99_999_999 * 3600)), "99999999H");
    }
}
