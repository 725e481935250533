//! From the library's request to what the layers above work with: what it does not judge is judged here.

use std::sync::Arc;

use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, header};

use super::super::body::Body;
use super::super::codec_stats::CodecStats;
use super::super::connection::HttpConn;
use super::super::head::{RequestHead, Scheme};
use super::super::headers::join_repeated;
use super::super::limits::Shared;
use super::server::H2Recv;
use crate::config::UnderscoresAction;
use crate::stream_info::Protocol;

/// Why a request goes no further than its stream.
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) details: &'static str,
}

impl Refused {
    /// A message that is none: by default it costs the connection, which the guard sees to.
    pub(super) const MALFORMED: Refused =
        Refused { reason: Reason::PROTOCOL_ERROR, details: "http2.violation.of.messaging.rule" };
    const TOO_MANY: Refused = Refused { reason: Reason::INTERNAL_ERROR, details: "http2.too_many_headers" };
    const UNDERSCORE: Refused = Refused { reason: Reason::INTERNAL_ERROR, details: "http2.unexpected_underscore" };
}

/// A request as the layers above work with it.
pub(super) fn split(
    request: Request<RecvStream>,
    conn: &HttpConn,
    limits: &Arc<Shared>,
) -> Result<(RequestHead, Body), Refused> {
    let (mut parts, recv) = request.into_parts();
    let common = &conn.manager.config.common;
    // Envoy counts pseudo-headers too.
    let uri = &parts.uri;
    let pseudo = [true, uri.scheme().is_some(), uri.path_and_query().is_some(), uri.authority().is_some()];
    if parts.headers.len() + pseudo.iter().filter(|p| **p).count() > common.max_headers_count as usize {
        conn.manager.stats.http2.header_overflow.inc();
        return Err(Refused::TOO_MANY);
    }
    underscores(&mut parts.headers, common.underscores, &conn.manager.stats.http2.common)?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Refused::MALFORMED);
    let upgrade = parts.extensions.remove::<h2::ext::Protocol>().map(|p| value(p.as_str())).transpose()?;
    join_cookies(&mut parts.headers);
    join_repeated(&mut parts.headers);
    let host = parts.headers.remove(header::HOST);
    let authority = match parts.uri.authority() {
        // Unlike a Host field, it may not say who asks.
        Some(a) if a.as_str().contains('@') => return Err(Refused::MALFORMED),
        Some(a) => value(a.as_str())?,
        None => host.ok_or(Refused::MALFORMED)?,
    };
    let method = if upgrade.is_some() { Method::GET } else { parts.method };
    let scheme = if conn.info.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let path = parts.uri.path_and_query().map_or_else(String::new, |p| p.as_str().to_owned());
    if path == "*" && method != Method::OPTIONS {
        return Err(Refused::MALFORMED);
    }
    let body = if recv.is_end_stream() {
        limits.set_uploaded();
        Body::Empty
    } else {
        Body::H2Recv(H2Recv::new(recv, limits.clone()))
    };
    let (headers, authority) = (parts.headers, Some(authority));
    let head =
        RequestHead { method, scheme, authority, path, headers, protocol: Protocol::Http2, upgrade, spelling: None };
    Ok((head, body))
}

/// `headers_with_underscores_action`.
fn underscores(headers: &mut http::HeaderMap, action: UnderscoresAction, stats: &CodecStats) -> Result<(), Refused> {
    if action == UnderscoresAction::Allow || !headers.keys().any(|n| n.as_str().contains('_')) {
        return Ok(());
    }
    if action == UnderscoresAction::Reject {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(Refused::UNDERSCORE);
    }
    let gone: Vec<_> = headers.keys().filter(|n| n.as_str().contains('_')).cloned().collect();
    for name in gone {
        stats.dropped_headers_with_underscores.inc();
        headers.remove(name);
    }
    Ok(())
}

/// Cookie crumbs are one field again (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut http::HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (all.next(), all.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(v) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, v);
    }
}
