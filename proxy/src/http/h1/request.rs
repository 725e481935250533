//! From a request head's bytes to what the layers above work with: the target taken apart, the body's framing decided, and
//! the fields that were meant for this connection gone.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::super::head::{RequestHead, Scheme};
use super::super::headers::join_repeated;
use super::super::names;
use super::{Framing, ParseError, ParseLimits, line, parse};
use crate::config::{HeaderKeyFormat, Http1Options, StringMatcher};
use crate::http::HeaderMap;
use crate::stream_info::Protocol;

/// A request, and what it asks of its connection.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) head: RequestHead,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    /// Fields dropped for the underscores in their names.
    pub(super) dropped: u32,
}

/// What a field that `Connection` names at most: beyond this it is an attack, as in Envoy.
const MAX_NOMINATED: usize = 10;

/// Reads a head of a connection that is secure or not.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    head: Bytes,
    limits: &ParseLimits,
    options: &Http1Options,
    secure: bool,
) -> Result<Received, ParseError> {
    let keep_case = options.header_key_format == HeaderKeyFormat::Preserve;
    let parsed = parse::request(head, limits, keep_case)?;
    if parsed.protocol == Protocol::Http10 && !options.accept_http_10 {
        return Err(ParseError::Version);
    }
    let mut headers = parsed.headers;
    let lengths = parse::lengths(&mut headers, limits.allow_chunked_length)?;
    let mut framing = lengths.request();
    // Most requests say nothing of their connection.
    let of_connection = headers.may_have(parse::OF_CONNECTION);
    let keep_alive =
        if of_connection { keeps_alive(&headers, parsed.protocol) } else { parsed.protocol != Protocol::Http10 };
    let upgrade = if of_connection { upgrade(&mut headers, &options.ignore_upgrade) } else { None };
    join_repeated(&mut headers);
    let mut authority = headers.remove(header::HOST);
    if authority.as_ref().is_some_and(|a| !line::is_authority(a.as_bytes())) {
        return Err(ParseError::Authority);
    }
    let mut path = parsed.target;
    if parsed.method == Method::CONNECT {
        if framing != Framing::None {
            return Err(ParseError::ConnectBody);
        }
        headers.remove(header::CONTENT_LENGTH);
        authority = HeaderValue::from_str(line::connect(&path)?).ok();
        path = String::new();
        framing = Framing::UntilClose;
    } else if path == "*" && parsed.method != Method::OPTIONS {
        return Err(ParseError::Url);
    } else if !path.starts_with('/') && path != "*" && options.allow_absolute_url {
        let (host, rest) = line::absolute(&path)?;
        authority = Some(HeaderValue::from_str(host).map_err(|_| ParseError::Url)?);
        path = rest.to_owned();
    }
    if upgrade.is_some() {
        framing = Framing::UntilClose;
    }
    if of_connection {
        if drop_nominated(&mut headers)? {
            authority = None;
        }
        only_trailers(&mut headers);
        parse::drop_of_codec(&mut headers);
    }
    let scheme = if secure { Scheme::Https } else { Scheme::Http };
    let (method, protocol, spelling) = (parsed.method, parsed.protocol, parsed.spelling);
    let head = RequestHead { method, scheme, authority, path, headers, protocol, upgrade, spelling };
    Ok(Received { head, framing, keep_alive, dropped: parsed.dropped_underscores })
}

fn keeps_alive(headers: &HeaderMap, protocol: Protocol) -> bool {
    let says = |token| {
        parse::list_has(headers, &header::CONNECTION, token)
            || parse::list_has(headers, &names::PROXY_CONNECTION, token)
    };
    match protocol {
        Protocol::Http10 => says("keep-alive") && !says("close"),
        _ => !says("close"),
    }
}

/// Takes the upgrade asked for; one to HTTP/2, or one that is to be ignored, is none.
fn upgrade(headers: &mut HeaderMap, ignored: &[StringMatcher]) -> Option<HeaderValue> {
    let asked = headers.remove(header::UPGRADE)?;
    if asked.as_bytes().eq_ignore_ascii_case(b"h2c") {
        headers.remove(names::HTTP2_SETTINGS);
        return None;
    }
    if !parse::list_has(headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    if ignored.is_empty() {
        return Some(asked);
    }
    let text = asked.to_str().ok()?;
    let kept: Vec<&str> =
        text.split(',').map(str::trim).filter(|t| !t.is_empty() && !ignored.iter().any(|m| m.matches(t))).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join(",")).ok() }
}

/// Removes the fields that `Connection` names: they were meant for us. `true`: `Host` was one of them.
fn drop_nominated(headers: &mut HeaderMap) -> Result<bool, ParseError> {
    if !headers.contains_key(header::CONNECTION) {
        return Ok(false);
    }
    let mut named = Vec::new();
    let mut host = false;
    let values = headers.get_all(header::CONNECTION);
    let tokens = values.flat_map(|v| v.as_bytes().split(|b| *b == b',')).filter(|t| !t.is_empty());
    for (i, token) in tokens.enumerate() {
        let token = token.trim_ascii();
        if i + 1 >= MAX_NOMINATED || token.starts_with(b":") {
            return Err(ParseError::Nominated);
        }
        // What is no name names nothing.
        let Ok(name) = HeaderName::from_bytes(token) else { continue };
        match name.as_str() {
            "close" | "keep-alive" | "upgrade" | "http2-settings" | "connection" | "te" => {}
            // Removing these would hide where a request came from.
            "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => return Err(ParseError::Nominated),
            "host" => host = true,
            _ => named.push(name),
        }
    }
    for name in named {
        headers.remove(name);
    }
    Ok(host)
}

/// Of `TE`, only "trailers" goes on.
fn only_trailers(headers: &mut HeaderMap) {
    if !headers.contains_key(header::TE) {
        return;
    }
    let trailers = parse::list_has(headers, &header::TE, "trailers");
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether the client waits to be told to go on.
pub(super) fn expects_continue(head: &RequestHead) -> bool {
    head.protocol != Protocol::Http10
        && head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether an answer to `method` never has a body.
pub(super) fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// How an answer to `method` says it is framed; to HEAD, as if it had its body.
pub(super) fn response_framing(reply: &super::super::connection::Reply, method: &Method, old: bool) -> Framing {
    if let Some(n) = reply.head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok()) {
        return Framing::Length(n);
    }
    if matches!(reply.head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Framing::None;
    }
    match reply.body.exact_len().filter(|_| *method != Method::HEAD) {
        Some(n) => Framing::Length(n),
        None if old => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn nominated_fields_go() {
        let mut headers = map(&[("connection", "x-a, close"), ("x-a", "1"), ("x-b", "2")]);
        assert_eq!(drop_nominated(&mut headers), Ok(false));
        assert!(!headers.contains_key("x-a") && headers.contains_key("x-b"));
        assert_eq!(drop_nominated(&mut map(&[("connection", "host")])), Ok(true));
        for bad in ["x-forwarded-for", ":path", "a,b,c,d,e,f,g,h,i,j"] {
            assert_eq!(drop_nominated(&mut map(&[("connection", bad)])), Err(ParseError::Nominated), "{bad}");
        }
        assert_eq!(drop_nominated(&mut map(&[("connection", "a,b,c,d,e,f,g,h,i")])), Ok(false));
    }

    #[test]
    fn upgrades() {
        let asks =
            |value| map(&[("connection", "upgrade, http2-settings"), ("upgrade", value), ("http2-settings", "A")]);
        assert_eq!(upgrade(&mut asks("websocket"), &[]).unwrap(), "websocket");
        let mut h2c = asks("H2C");
        assert_eq!(upgrade(&mut h2c, &[]), None);
        assert!(!h2c.contains_key("http2-settings"));
        assert_eq!(upgrade(&mut map(&[("upgrade", "websocket")]), &[]), None);
        let ignored = [StringMatcher::exact("TLS/1.2")];
        assert_eq!(upgrade(&mut asks("TLS/1.2"), &ignored), None);
        assert_eq!(upgrade(&mut asks("TLS/1.2, websocket"), &ignored).unwrap(), "websocket");
    }

    #[test]
    fn te_and_keep_alive() {
        let mut te = map(&[("te", "gzip, trailers")]);
        only_trailers(&mut te);
        assert_eq!(te.get("te").unwrap(), "trailers");
        let mut te = map(&[("te", "chunked")]);
        only_trailers(&mut te);
        assert!(te.is_empty());
        assert!(!keeps_alive(&map(&[("proxy-connection", "x, close")]), Protocol::Http11));
        assert!(!keeps_alive(&map(&[]), Protocol::Http10));
        assert!(keeps_alive(&map(&[("connection", "Keep-Alive")]), Protocol::Http10));
    }

    fn read_bytes(bytes: &[u8]) -> Result<Received, ParseError> {
        let limits = ParseLimits {
            max_bytes: 1 << 16,
            max_headers: 100,
            underscores: crate::config::UnderscoresAction::Allow,
            custom_methods: false,
            allow_chunked_length: false,
        };
        super::read(Bytes::copy_from_slice(bytes), &limits, &Http1Options::default(), false)
    }

    proptest::proptest! {
        /// Whatever is read: what goes on cannot be read as more than it was.
        #[test]
        fn what_is_read_is_clean(
            line in "(GET|POST|CONNECT|OPTIONS)[ \t]{1,2}(/|http://|\\*)?[ -~]{0,12} HTTP/1\\.1",
            fields in proptest::collection::vec("(host|te|connection|upgrade|content-length|transfer-encoding|x-a)[ ]?:[ -~\r\t]{0,14}", 0..6),
        ) {
            let mut bytes = line.into_bytes();
            for field in fields {
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(field.as_bytes());
            }
            bytes.extend_from_slice(b"\r\n\r\n");
            if let Ok(Received { head, framing, .. }) = read_bytes(&bytes) {
                proptest::prop_assert!(head.path.bytes().all(|b| (0x21..0x7f).contains(&b)));
                proptest::prop_assert!(head.authority.iter().all(|a| line::is_authority(a.as_bytes())));
                proptest::prop_assert!(head.headers.values().all(|v| !v.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0))));
                for hop in ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "host", "upgrade"] {
                    proptest::prop_assert!(!head.headers.contains_key(hop), "{hop}");
                }
                let te = head.headers.get("te");
                proptest::prop_assert!(te.is_none_or(|v| v == "trailers"));
                let length = head.headers.get("content-length");
                proptest::prop_assert!(framing != Framing::Chunked || length.is_none());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
            let _ = read_bytes(&[&bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
