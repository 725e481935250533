//! From what a header block says to what the layers above work with.

use std::sync::Arc;

use http::{HeaderValue, Method, header};

use super::super::body::Body;
use super::super::codec_stats::CodecStats;
use super::super::connection::HttpConn;
use super::super::h1::is_authority;
use super::super::head::{RequestHead, Scheme};
use super::super::headers::join_repeated;
use super::super::limits::Shared;
use super::Reason;
use super::handle::StreamRef;
use super::heads::{Block, Wrong};
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

/// A request as the layers above work with it. `end`: it has no body.
pub(super) fn split(
    head: Result<Block, Wrong>,
    end: bool,
    stream: &StreamRef,
    conn: &HttpConn,
    limits: &Arc<Shared>,
) -> Result<(RequestHead, Body), Refused> {
    let stats = &conn.manager.stats.http2;
    let common = &conn.manager.config.common;
    let too_many = || {
        stats.header_overflow.inc();
        Refused::TOO_MANY
    };
    let mut block = head.map_err(|wrong| match wrong {
        Wrong::Malformed => Refused::MALFORMED,
        Wrong::TooLarge => too_many(),
    })?;
    // Envoy counts pseudo-headers too.
    if block.count > common.max_headers_count as usize {
        return Err(too_many());
    }
    underscores(&mut block.fields, common.underscores, &stats.common)?;
    let value = |text: &[u8]| HeaderValue::from_bytes(text).map_err(|_| Refused::MALFORMED);
    let upgrade = block.protocol.map(|p| value(&p)).transpose()?;
    join_cookies(&mut block.fields);
    join_repeated(&mut block.fields);
    let host = block.fields.remove(header::HOST);
    let authority = match block.authority {
        // Unlike a Host field, it may not say who asks.
        Some(a) if a.contains(&b'@') || !is_authority(&a) => return Err(Refused::MALFORMED),
        Some(a) => HeaderValue::from_maybe_shared(a).map_err(|_| Refused::MALFORMED)?,
        None => host.ok_or(Refused::MALFORMED)?,
    };
    let method = if upgrade.is_some() { Method::GET } else { block.method.ok_or(Refused::MALFORMED)? };
    let scheme = if conn.info.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let path = path(block.path.as_deref().unwrap_or_default(), &method).ok_or(Refused::MALFORMED)?;
    let body = if end {
        limits.set_uploaded();
        Body::Empty
    } else {
        Body::H2Recv(H2Recv::new(stream.clone(), limits.clone()))
    };
    let (headers, authority) = (block.fields, Some(authority));
    let head =
        RequestHead { method, scheme, authority, path, headers, protocol: Protocol::Http2, upgrade, spelling: None };
    Ok((head, body))
}

/// A path of visible ASCII in origin form, or the asterisk of OPTIONS.
fn path(bytes: &[u8], method: &Method) -> Option<String> {
    let formed = match bytes {
        [] => *method == Method::CONNECT,
        [b'/', ..] => true,
        b"*" => *method == Method::OPTIONS,
        _ => false,
    };
    let text = str::from_utf8(bytes).ok().filter(|_| formed)?;
    text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
}

/// `headers_with_underscores_action`.
fn underscores(
    headers: &mut crate::http::HeaderMap,
    action: UnderscoresAction,
    stats: &CodecStats,
) -> Result<(), Refused> {
    if action == UnderscoresAction::Allow || !headers.keys().any(|n| n.as_str().contains('_')) {
        return Ok(());
    }
    if action == UnderscoresAction::Reject {
        stats.requests_rejected_with_underscores_in_headers.inc();
        return Err(Refused::UNDERSCORE);
    }
    headers.retain(|name, _| {
        let goes = name.as_str().contains('_');
        if goes {
            stats.dropped_headers_with_underscores.inc();
        }
        !goes
    });
    Ok(())
}

/// Cookie crumbs are one field again (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut crate::http::HeaderMap) {
    let mut all = headers.get_all(header::COOKIE);
    let (Some(first), Some(_)) = (all.next(), all.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in headers.get_all(header::COOKIE).skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(v) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, v);
    }
}
