//! The request line, and the forms of its target: origin, absolute, authority and asterisk (RFC 9112 section 3).
//!
//! Sans-io. What is refused here, and with which words, is what Envoy refuses.

use std::net::Ipv6Addr;

use http::Method;

use super::ParseError;
use crate::stream_info::Protocol;

/// The three parts of a request line, each looked at by itself.
#[derive(Debug)]
pub(super) struct RequestLine<'a> {
    pub(super) method: Method,
    pub(super) target: &'a str,
    pub(super) protocol: Protocol,
}

impl<'a> RequestLine<'a> {
    /// Reads the line without its end; any white space separates.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(line: &'a [u8], custom_methods: bool) -> Result<Self, ParseError> {
        if line.first().is_some_and(|b| is_space(*b)) {
            return Err(ParseError::StartLine);
        }
        let mut parts = line.split(|b| is_space(*b)).filter(|p| !p.is_empty());
        let method = method(parts.next().ok_or(ParseError::StartLine)?, custom_methods)?;
        let target = parts.next().ok_or(ParseError::StartLine)?;
        if target.iter().any(|b| *b < 0x21 || *b == 0x7f) {
            return Err(ParseError::Value);
        }
        let target = std::str::from_utf8(target).ok().filter(|t| t.is_ascii()).ok_or(ParseError::StartLine)?;
        if !is_target(target, &method) {
            return Err(ParseError::StartLine);
        }
        let version = parts.next();
        if parts.next().is_some() {
            return Err(ParseError::StartLine);
        }
        // A line without a version is HTTP/0.9.
        let protocol = version.map_or(Err(ParseError::Version), self::version)?;
        Ok(RequestLine { method, target, protocol })
    }
}

/// Whether a line that has arrived without the fields behind it is already known to be refused.
pub(super) fn check_early(line: &[u8], custom_methods: bool) -> Result<(), ParseError> {
    match RequestLine::parse(line, custom_methods) {
        // What the fields may hold is found out together with them.
        Err(ParseError::Value) | Ok(_) => Ok(()),
        // An old version is answered once its fields are here, a missing one has none.
        Err(ParseError::Version) if line.split(|b| is_space(*b)).filter(|p| !p.is_empty()).count() > 2 => Ok(()),
        Err(e) => Err(e),
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r')
}

fn method(name: &[u8], custom: bool) -> Result<Method, ParseError> {
    const REGISTERED: &[&str] = &[
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "MSEARCH",
        "M-SEARCH",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ];
    let method = Method::from_bytes(name).map_err(|_| ParseError::Method)?;
    let standard = matches!(
        method,
        Method::GET
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS
            | Method::CONNECT
            | Method::PATCH
            | Method::TRACE
    );
    if standard || custom || REGISTERED.contains(&method.as_str()) { Ok(method) } else { Err(ParseError::Method) }
}

/// The version of a start line.
pub(super) fn version(text: &[u8]) -> Result<Protocol, ParseError> {
    match text {
        b"HTTP/1.1" => Ok(Protocol::Http11),
        b"HTTP/1.0" => Ok(Protocol::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(ParseError::Version)
        }
        _ => Err(ParseError::StartLine),
    }
}

/// Whether a target has the shape of one; its parts are looked at when it is taken apart.
fn is_target(target: &str, method: &Method) -> bool {
    if target.starts_with(['/', '*']) {
        return true;
    }
    let rest = if *method == Method::CONNECT {
        target
    } else {
        match target.split_once("://") {
            Some((scheme, rest)) if !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphabetic()) => rest,
            _ => return false,
        }
    };
    let host = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(&b);
    host.bytes().all(allowed) && !host.contains("@@")
}

/// Takes apart `http://host/path`: authority and path. The path may lack its slash where only a query follows.
///
/// # Errors
/// Another scheme, or an authority that is none.
pub(super) fn absolute(target: &str) -> Result<(&str, &str), ParseError> {
    let (scheme, rest) = target.split_once("://").ok_or(ParseError::Url)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(ParseError::Scheme);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Who asks is not the next hop's business, and no part of where the request goes.
    let host = match authority.split_once('@') {
        Some((_, host)) => host,
        None => authority,
    };
    match host_and_port(host) {
        Some(_) => Ok((host, if path.is_empty() { "/" } else { path })),
        None => Err(ParseError::Url),
    }
}

/// Checks the target of a CONNECT: `host:port`, nothing else.
///
/// # Errors
/// It is something else.
pub(super) fn connect(target: &str) -> Result<&str, ParseError> {
    match host_and_port(target) {
        Some(Some(_)) => Ok(target),
        _ => Err(ParseError::Url),
    }
}

/// Reads `host` or `host:port`; the outer `None`: neither.
fn host_and_port(text: &str) -> Option<Option<u16>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            return port.map(port_number).map_or(Some(None), |p| p.map(Some));
        }
        None => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
    };
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
        return None;
    }
    port.map(port_number).map_or(Some(None), |p| p.map(Some))
}

fn port_number(text: &str) -> Option<u16> {
    // `parse` would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether a `Host` value can be one: RFC 3986's characters of an authority, no more is asked.
pub(in crate::http) fn is_authority(value: &[u8]) -> bool {
    value.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ParseError::{Method as BadMethod, Scheme, StartLine, Url, Value, Version};

    fn read(line: &str) -> Result<(String, String), ParseError> {
        RequestLine::parse(line.as_bytes(), false).map(|l| (l.method.to_string(), l.target.to_owned()))
    }

    #[test]
    fn lines() {
        for line in
            ["GET / HTTP/1.1", "GET\t \t/ HTTP/1.0", "GET / HTTP/1.1 \r", "GET /  HTTP/1.1", "OPTIONS * HTTP/1.1"]
        {
            assert!(read(line).is_ok(), "{line:?}");
        }
        for (line, error) in [
            ("", StartLine),
            ("GET", StartLine),
            (" GET / HTTP/1.1", StartLine),
            ("GET / x HTTP/1.1", StartLine),
            ("GET x HTTP/1.1", StartLine),
            ("GET ?x HTTP/1.1", StartLine),
            ("GET HTTP/1.1", StartLine),
            ("GET /\u{e9} HTTP/1.1", StartLine),
            ("GET /\u{1} HTTP/1.1", Value),
            ("GET http://u@@b/ HTTP/1.1", StartLine),
            ("GET http://b<c/ HTTP/1.1", StartLine),
            ("BREW / HTTP/1.1", BadMethod),
            ("get / HTTP/1.1", BadMethod),
            ("GET /", Version),
            ("GET / HTTP/2.0", Version),
            ("GET / HTTP/1.10", StartLine),
            ("GET / http/1.1", StartLine),
            ("GET / HTTP/1,1", StartLine),
        ] {
            assert_eq!(read(line).unwrap_err(), error, "{line:?}");
        }
    }

    #[test]
    fn what_needs_no_fields_to_be_refused() {
        for (line, refused) in [
            ("GET /", Some(Version)),
            ("GET / HTTP/1.0", None),
            ("GET / HTTP/0.9", None),
            ("BREW / HTTP/1.1", Some(BadMethod)),
        ] {
            assert_eq!(check_early(line.as_bytes(), false).err(), refused, "{line:?}");
        }
    }

    #[test]
    fn absolute_targets() {
        for (target, want) in [
            ("http://b/x", Ok(("b", "/x"))),
            ("HTTP://B:80", Ok(("B:80", "/"))),
            ("https://u:p@b/x?y", Ok(("b", "/x?y"))),
            ("http://@b/", Ok(("b", "/"))),
            ("http://b?x", Ok(("b", "?x"))),
            ("http://[::1]:80/x", Ok(("[::1]:80", "/x"))),
            ("http://b:000080/", Ok(("b:000080", "/"))),
            ("http:///x", Err(Url)),
            ("http://u@v@b/", Err(Url)),
            ("http://b:/", Err(Url)),
            ("http://b:65536/", Err(Url)),
            ("http://b:+1/", Err(Url)),
            ("http://b:1:2/", Err(Url)),
            ("http://[::1/", Err(Url)),
            ("http://[::1]80/", Err(Url)),
            ("http://a_b/", Err(Url)),
            ("ftp://b/", Err(Scheme)),
        ] {
            assert_eq!(absolute(target), want, "{target}");
        }
    }

    #[test]
    fn connect_targets() {
        for good in ["a:80", "a:0", "[::1]:443"] {
            assert_eq!(connect(good), Ok(good));
        }
        for bad in ["a", "a:", "a:x", "a:65536", ":80", "u@a:80", "a:80/x", "/x", "*"] {
            assert_eq!(connect(bad), Err(Url), "{bad}");
        }
        assert!(is_authority(b"u@a:80") && is_authority(b"") && is_authority(b"a,b"));
        for bad in [&b"a b"[..], b"a/b", b"a?b", b"a#b", b"\"a\"", b"<a>", b"a\\b", b"\xc3\xa9", b"a\x01"] {
            assert!(!is_authority(bad));
        }
    }
}
