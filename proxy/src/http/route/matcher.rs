//! Does a request match?

use http::header;

use crate::config::{self, HeaderMatcher, HeaderValueMatcher, PathMatch, RouteMatch, ValueMatcher};
use crate::http::local_reply::is_grpc_type;
use crate::http::stream::StreamCtx;

/// Whether everything a route asks for holds. `path` is without query.
pub(crate) fn matches(m: &RouteMatch, ctx: &StreamCtx, path: &str) -> bool {
    path_matches(m, ctx, path)
        && m.headers.iter().all(|h| header_matches(h, ctx))
        && m.query.iter().all(|q| query_matches(q, ctx))
        && m.cookies.iter().all(|c| cookie_matches(c, ctx))
        && (!m.grpc || ctx.request.headers.get(header::CONTENT_TYPE).is_some_and(|v| is_grpc_type(v.as_bytes())))
        && m.tls.is_none_or(|t| tls_matches(t, ctx))
        && m.dynamic_metadata.iter().all(|d| {
            let own = ctx.info.dynamic_metadata(&d.filter);
            metadata_matches(d, own.or_else(|| ctx.conn.info.metadata.get(&d.filter)))
        })
}

fn path_matches(m: &RouteMatch, ctx: &StreamCtx, path: &str) -> bool {
    if let PathMatch::Connect = m.path {
        return ctx.request.method == http::Method::CONNECT
            || (ctx.request.upgrade.is_some() && ctx.request.protocol == crate::stream_info::Protocol::Http2);
    }
    // A CONNECT has no path: nothing but the CONNECT matcher takes it.
    if ctx.request.method == http::Method::CONNECT && ctx.request.upgrade.is_none() {
        return false;
    }
    let same = |a: &str, b: &str| if m.case_sensitive { a == b } else { a.eq_ignore_ascii_case(b) };
    let starts = |p: &str| path.get(..p.len()).is_some_and(|head| same(head, p));
    match &m.path {
        // Envoy matches a prefix against the path with its query.
        PathMatch::Prefix(p) => ctx.request.path.get(..p.len()).is_some_and(|head| same(head, p)),
        PathMatch::Exact(p) => same(path, p),
        PathMatch::SeparatedPrefix(p) => starts(p) && matches!(path.as_bytes().get(p.len()), None | Some(b'/')),
        PathMatch::Regex(r) => r.is_match(path),
        PathMatch::Template { pattern, .. } => pattern.is_match(path),
        PathMatch::Connect => false,
    }
}

/// Whether a header matcher holds for the request.
pub(crate) fn header_matches(m: &HeaderMatcher, ctx: &StreamCtx) -> bool {
    values_match(m, ctx.request.values(&m.name))
}

/// Whether a header matcher holds for these values of its header. Values are tried one by one.
pub(crate) fn values_match<'a>(m: &HeaderMatcher, values: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut present = false;
    let mut any = false;
    for v in values {
        present = true;
        any |= value_matches(&m.value, v);
    }
    if let HeaderValueMatcher::Present(wanted) = m.value {
        return (present == wanted) != m.invert;
    }
    if !present {
        // A missing header never matches, not even inverted, unless it counts as empty.
        return m.treat_missing_as_empty && value_matches(&m.value, b"") != m.invert;
    }
    any != m.invert
}

fn value_matches(m: &HeaderValueMatcher, value: &[u8]) -> bool {
    match m {
        HeaderValueMatcher::Present(p) => *p,
        HeaderValueMatcher::String(s) => std::str::from_utf8(value).is_ok_and(|v| s.matches(v)),
        HeaderValueMatcher::Range { start, end } => {
            std::str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok()).is_some_and(|n| n >= *start && n < *end)
        }
    }
}

/// Whether a query matcher holds for the request.
pub(crate) fn query_matches(m: &config::QueryMatcher, ctx: &StreamCtx) -> bool {
    let found = ctx.request.query().and_then(|q| query_value(q, &m.name));
    match (&m.value, found) {
        (_, Some(_)) if m.absent => false,
        (_, None) => m.absent,
        (Some(want), Some(v)) => want.matches(v),
        (None, Some(_)) => true,
    }
}

/// The first value of a query parameter, as it is written.
pub(crate) fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let query = query.split('#').next().unwrap_or_default();
    query.split('&').find_map(|pair| {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        (k == name).then_some(v)
    })
}

/// The value of a request cookie.
pub(crate) fn cookie<'a>(ctx: &'a StreamCtx, name: &str) -> Option<&'a str> {
    ctx.request.headers.get_all(header::COOKIE).filter_map(|v| v.to_str().ok()).find_map(|line| {
        line.split(';').find_map(|pair| {
            let (k, v) = pair.trim().split_once('=')?;
            (k == name).then(|| v.trim_matches('"'))
        })
    })
}

fn cookie_matches(m: &config::CookieMatcher, ctx: &StreamCtx) -> bool {
    cookie(ctx, &m.name).is_some_and(|v| m.value.matches(v)) != m.invert
}

fn tls_matches(t: config::TlsMatch, ctx: &StreamCtx) -> bool {
    let Some(tls) = &ctx.conn.info.tls else { return t.presented != Some(true) && t.validated != Some(true) };
    t.presented.is_none_or(|p| tls.peer.is_some() == p) && t.validated.is_none_or(|v| tls.peer_validated == v)
}

/// Whether a metadata matcher holds for the metadata of its filter.
pub(crate) fn metadata_matches(m: &config::MetadataMatcher, of_filter: Option<&serde_json::Value>) -> bool {
    let mut at = of_filter;
    for key in &m.path {
        at = at.and_then(|v| v.get(key));
    }
    json_matches(&m.value, at) != m.invert
}

fn json_matches(m: &ValueMatcher, value: Option<&serde_json::Value>) -> bool {
    match m {
        // As in Envoy nothing is matched by its absence, other than by turning the match round.
        ValueMatcher::Present(p) => *p && value.is_some(),
        ValueMatcher::Null => value.is_some_and(serde_json::Value::is_null),
        ValueMatcher::Bool(b) => value.and_then(serde_json::Value::as_bool) == Some(*b),
        ValueMatcher::String(s) => value.and_then(|v| v.as_str()).is_some_and(|v| s.matches(v)),
        ValueMatcher::Double(a, b) => {
            value.and_then(serde_json::Value::as_f64).is_some_and(|v| if a == b { v == *a } else { v >= *a && v < *b })
        }
        ValueMatcher::ListAnyOf(m) => {
            value.and_then(|v| v.as_array()).is_some_and(|list| list.iter().any(|v| json_matches(m, Some(v))))
        }
        ValueMatcher::Or(list) => list.iter().any(|m| json_matches(m, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StringMatcher;

    #[test]
    fn headers_match_value_by_value() {
        let m = |value, invert| HeaderMatcher { name: "x".into(), value, invert, treat_missing_as_empty: false };
        let exact = || HeaderValueMatcher::String(StringMatcher::exact("a"));
        let of = |v: &'static [&'static str]| v.iter().map(|s| s.as_bytes());
        assert!(values_match(&m(exact(), false), of(&["b", "a"])));
        assert!(!values_match(&m(exact(), false), of(&["a,b"])));
        assert!(!values_match(&m(exact(), true), of(&["a"])));
        assert!(values_match(&m(HeaderValueMatcher::Present(false), false), of(&[])));
        assert!(values_match(&m(HeaderValueMatcher::Range { start: -1, end: 5 }, false), of(&["-1"])));
        assert!(!values_match(&m(HeaderValueMatcher::Range { start: -1, end: 5 }, false), of(&["5"])));
    }

    #[test]
    fn query_values() {
        assert_eq!(query_value("a=1&b=%20x&c", "b"), Some("%20x"));
        assert_eq!(query_value("a=1&b=2&c", "c"), Some(""));
        assert_eq!(query_value("a=1", "z"), None);
    }
}
