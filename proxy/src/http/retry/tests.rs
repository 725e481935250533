use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use super::{BY_HEADERS, Failure, RetryState};
use crate::cluster::lb::mix;
use crate::config::{BackOff, RateLimitedBackOff, RetryOn, RetryPolicy};
use crate::http::HeaderMap;
use crate::http::body::BodyError;
use crate::upstream::ConnectFault;

fn policy(on: &str, num_retries: u32) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy { on: RetryOn::parse(on).0, num_retries, ..RetryPolicy::clone(&BY_HEADERS) })
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
}

fn state(on: &str, request: &[(&'static str, &str)]) -> Option<RetryState> {
    RetryState::new(Some(&policy(on, 1)), &headers(request), !request.is_empty(), false)
}

fn failures() -> [Failure; 9] {
    [
        Failure::NoHost,
        Failure::Overflow,
        Failure::Upload(BodyError::Closed),
        Failure::Connect { reason: "".into(), fault: ConnectFault::Remote },
        Failure::Closed,
        Failure::Reset(crate::http::h2::Reason::REFUSED_STREAM),
        Failure::Reset(crate::http::h2::Reason::INTERNAL_ERROR),
        Failure::PerTry { idle: false },
        Failure::MaxDuration,
    ]
}

#[test]
fn responses() {
    let wants = |on: &str, status: u16, response: &[(&'static str, &str)]| {
        state(on, &[]).unwrap().wants_response(status, &headers(response))
    };
    for (on, status, wanted) in [
        ("5xx", 500, true),
        ("5xx", 599, true),
        ("5xx", 499, false),
        ("gateway-error", 500, false),
        ("gateway-error", 502, true),
        ("gateway-error", 505, false),
        ("retriable-4xx", 409, true),
        ("retriable-4xx", 404, false),
        ("connect-failure,reset,refused-stream", 503, false),
    ] {
        assert_eq!(wants(on, status, &[]), wanted, "{on} {status}");
    }
    assert!(wants("unavailable", 200, &[("grpc-status", "14")]));
    assert!(!wants("unavailable", 200, &[("grpc-status", "13")]));
    // A rate-limited response is not tried again unless that is asked for, and then whatever its status.
    assert!(!wants("5xx", 503, &[("x-envoy-ratelimited", "true")]));
    assert!(wants("envoy-ratelimited", 200, &[("x-envoy-ratelimited", "true")]));
}

#[test]
fn what_the_request_asks_for() {
    let asked = [
        ("x-envoy-retry-on", "retriable-status-codes,retriable-headers"),
        ("x-envoy-retriable-status-codes", "418, 429,junk"),
        ("x-envoy-retriable-header-names", "x-again"),
        ("x-envoy-max-retries", "2"),
    ];
    let mut s = RetryState::new(None, &headers(&asked), true, false).unwrap();
    assert!(s.wants_response(418, &HeaderMap::new()) && s.wants_response(429, &HeaderMap::new()));
    assert!(!s.wants_response(503, &HeaderMap::new()));
    assert!(s.wants_response(200, &headers(&[("x-again", "")])));
    assert_eq!([s.take(), s.take(), s.take()], [true, true, false]);
    assert!(RetryState::new(None, &headers(&asked), false, false).is_none(), "the edge does not listen");
    assert!(RetryState::new(Some(&policy("", 3)), &HeaderMap::new(), false, false).is_none());
}

#[test]
fn rate_limited_waits() {
    let mut p = RetryPolicy::clone(&policy("5xx", 1));
    let reset = [("retry-after", false), ("x-reset", true)].map(|(n, unix)| (n.to_owned(), unix)).to_vec();
    p.rate_limited_back_off = Some(RateLimitedBackOff { reset_headers: reset, max_interval: Duration::from_secs(10) });
    let s = RetryState::new(Some(&Arc::new(p)), &HeaderMap::new(), false, false).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let wait = |list: &[(&'static str, &str)], random| s.rate_limited(&headers(list), now, random);
    let ms = |n| Some(Duration::from_millis(n));
    assert_eq!(wait(&[("retry-after", "4")], 0), ms(4000));
    assert_eq!(wait(&[("retry-after", "4")], 1999), ms(5999), "up to half longer");
    assert_eq!(wait(&[("x-reset", "1007")], 0), ms(7000));
    assert_eq!(wait(&[("retry-after", "11"), ("x-reset", "1002")], 0), ms(2000), "too long: the next header counts");
    for none in [&[("retry-after", "0")][..], &[("retry-after", "soon")], &[("x-reset", "999")], &[]] {
        assert_eq!(wait(none, 0), None, "{none:?}");
    }
}

/// Attempts that fail at random under policies at random: never more retries than allowed, never after what must not be tried
/// again, never a wait beyond the bound.
#[test]
fn bounded_whatever_happens() {
    const CONDITIONS: [&str; 8] = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "refused-stream",
        "retriable-4xx",
        "unavailable",
    ];
    for seed in 0..500_u64 {
        let mut random = mix(seed);
        let on: Vec<&str> =
            CONDITIONS.iter().enumerate().filter(|(i, _)| random >> i & 1 == 1).map(|(_, c)| *c).collect();
        let on = on.join(",");
        let allowed = (random >> 20 & 3) as u32;
        let mut p = RetryPolicy::clone(&policy(&on, allowed));
        let (base, max) =
            (Duration::from_millis(1 + (random >> 30 & 63)), Duration::from_millis(64 + (random >> 40 & 255)));
        p.back_off = BackOff { base, max };
        let Some(mut s) = RetryState::new(Some(&Arc::new(p)), &HeaderMap::new(), false, false) else {
            assert!(on.is_empty());
            continue;
        };
        let (mut retries, mut ceiling) = (0, base);
        for _ in 0..12 {
            random = mix(random);
            let wanted = if random & 1 == 0 {
                let failure = &failures()[(random >> 8) as usize % 9];
                let wanted = s.wants_failure(failure, random & 2 == 0);
                let never = matches!(failure, Failure::NoHost | Failure::Overflow | Failure::Upload(_));
                assert!(!(never && wanted), "{failure:?}");
                wanted
            } else {
                let status = 200 + (random >> 8) as u16 % 400;
                let wanted = s.wants_response(status, &HeaderMap::new());
                assert!(!wanted || status >= 400, "{status}");
                wanted
            };
            if wanted && s.take() {
                retries += 1;
                let wait = s.back_off(mix(random));
                assert!(wait < ceiling && wait < max, "{wait:?} of {ceiling:?}");
                ceiling = (ceiling * 2).min(max);
            }
            assert!(retries <= allowed);
        }
    }
}
