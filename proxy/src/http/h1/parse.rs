//! HTTP/1 heads: finding their end, reading the first line and the fields, and deciding how the body is framed.
//!
//! Values are slices of the one buffer the head arrived in. Where a spelling is tolerated (bare LF, folded lines, spare
//! spaces in the request line, a bare CR in a value) it is repaired here, so that nothing above or behind sees it.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::super::head::Spelling;
use super::Framing;
use super::line::{self, RequestLine};
use crate::config::UnderscoresAction;
use crate::http::HeaderMap;
use crate::http::header_map::Names;
use crate::http::names;
use crate::stream_info::Protocol;

/// Why a message was refused. [`ParseError::status`] is Envoy's answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ParseError {
    #[error("bad request or status line")]
    StartLine,
    #[error("unknown method")]
    Method,
    #[error("HTTP version not supported")]
    Version,
    #[error("bad request target")]
    Url,
    #[error("scheme of the request target not supported")]
    Scheme,
    #[error("bad host")]
    Authority,
    #[error("CONNECT with a body")]
    ConnectBody,
    #[error("bad header line")]
    Header,
    #[error("bad characters in a header's value")]
    Value,
    #[error("fields named in connection that cannot be")]
    Nominated,
    #[error("conflicting or malformed content-length")]
    ContentLength,
    #[error("both transfer-encoding and content-length")]
    LengthAndEncoding,
    #[error("unsupported transfer-encoding")]
    TransferEncoding,
    #[error("bad chunk")]
    Chunk,
    #[error("headers too large")]
    HeadersTooLarge,
    #[error("too many headers")]
    TooManyHeaders,
    #[error("header name with an underscore")]
    Underscore,
    #[error("message cut off")]
    Incomplete,
}

impl ParseError {
    /// Envoy's status for a request refused for this.
    pub fn status(self) -> StatusCode {
        match self {
            ParseError::HeadersTooLarge | ParseError::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ParseError::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            ParseError::Version => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub fn details(self) -> &'static str {
        match self {
            ParseError::HeadersTooLarge => "http1.headers_too_large",
            ParseError::TooManyHeaders => "http1.too_many_headers",
            ParseError::TransferEncoding => "http1.invalid_transfer_encoding",
            ParseError::LengthAndEncoding => "http1.content_length_and_chunked_not_allowed",
            ParseError::Version => "low_version",
            ParseError::Underscore => "http1.unexpected_underscore",
            ParseError::Url => "http1.invalid_url",
            ParseError::Scheme => "http1.invalid_scheme",
            ParseError::Authority => "http.invalid_authority",
            ParseError::ConnectBody => "http1.body_disallowed",
            ParseError::Nominated => "http1.connection_header_rejected",
            ParseError::Value => "http1.invalid_characters",
            _ => "http1.codec_error",
        }
    }
}

/// Limits of a head.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// Bytes of the whole head.
    pub max_bytes: usize,
    /// Fields.
    pub max_headers: usize,
    /// Names with underscores.
    pub underscores: UnderscoresAction,
    /// Methods beyond the registered ones.
    pub custom_methods: bool,
    /// A length beside chunks is dropped.
    pub allow_chunked_length: bool,
}

impl ParseLimits {
    /// Limits of what frames the body behind such a head; trailers that are dropped are not counted.
    pub(super) fn body(&self, trailers_kept: bool) -> super::chunked::Limits {
        let trailers = if trailers_kept { self.max_headers } else { usize::MAX };
        super::chunked::Limits { bytes: self.max_bytes, trailers }
    }
}

/// A parsed request head.
#[derive(Debug)]
pub struct ParsedRequest {
    /// Method.
    pub method: Method,
    /// Request target as sent.
    pub target: String,
    /// Version.
    pub protocol: Protocol,
    /// Fields, `Host` included.
    pub headers: HeaderMap,
    /// Fields dropped for their underscores.
    pub dropped_underscores: u32,
    /// Names as they were spelled, where they are to be kept.
    pub spelling: Spelling,
}

/// A parsed response head.
#[derive(Debug)]
pub struct ParsedResponse {
    /// Status.
    pub status: StatusCode,
    /// Version.
    pub protocol: Protocol,
    /// Fields.
    pub headers: HeaderMap,
    /// Names as they were spelled, where they are to be kept.
    pub spelling: Spelling,
}

/// Position after the empty line that ends a head, searching from `from` on.
pub fn head_end(buf: &[u8], from: usize) -> Option<usize> {
    // Step back far enough to see an end that straddles two reads.
    let mut at = from.saturating_sub(3);
    while let Some(i) = memchr::memchr(b'\n', &buf[at..]) {
        let next = at + i + 1;
        match buf.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            _ => at = next,
        }
    }
    None
}

/// Takes empty lines off the front, as RFC 9112 section 2.2 asks of a robust server.
pub fn skip_empty_lines(buf: &mut BytesMut) {
    let n = buf.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if n > 0 {
        bytes::Buf::advance(buf, n);
    }
}

/// Reads a request head, the bytes up to and with the empty line.
///
/// # Errors
/// What is wrong with it.
pub fn request(head: Bytes, limits: &ParseLimits, keep_spelling: bool) -> Result<ParsedRequest, ParseError> {
    let (line, rest) = first_line(&head);
    let line = RequestLine::parse(&head[line], limits.custom_methods)?;
    let (method, target, protocol) = (line.method, line.target.to_owned(), line.protocol);
    let mut fields = Fields::new(limits, keep_spelling);
    fields.read(&head, rest)?;
    Ok(ParsedRequest {
        method,
        target,
        protocol,
        headers: fields.map,
        dropped_underscores: fields.dropped,
        spelling: keep_spelling.then(|| fields.spelling.into()),
    })
}

/// Reads a response head.
///
/// # Errors
/// What is wrong with it.
pub fn response(head: Bytes, limits: &ParseLimits, keep_spelling: bool) -> Result<ParsedResponse, ParseError> {
    let (line, rest) = first_line(&head);
    let line = &head[line];
    let (version, tail) = match memchr::memchr(b' ', line) {
        Some(i) => (&line[..i], &line[i + 1..]),
        None => return Err(ParseError::StartLine),
    };
    let protocol = line::version(version)?;
    let status = tail.get(..3).ok_or(ParseError::StartLine)?;
    if !matches!(tail.get(3), None | Some(b' ')) {
        return Err(ParseError::StartLine);
    }
    let status = StatusCode::from_bytes(status).map_err(|_| ParseError::StartLine)?;
    let mut fields = Fields::new(limits, keep_spelling);
    fields.read(&head, rest)?;
    let spelling = keep_spelling.then(|| fields.spelling.into());
    Ok(ParsedResponse { status, protocol, headers: fields.map, spelling })
}

/// Reads a trailer section.
///
/// # Errors
/// What is wrong with it.
pub fn trailers(section: Bytes, max_headers: usize) -> Result<HeaderMap, ParseError> {
    let limits = ParseLimits {
        max_bytes: section.len(),
        max_headers,
        underscores: UnderscoresAction::Allow,
        custom_methods: true,
        allow_chunked_length: false,
    };
    let mut fields = Fields::new(&limits, false);
    fields.read(&section, 0)?;
    Ok(fields.map)
}

/// The first line without its end, and where the fields begin.
fn first_line(head: &[u8]) -> (std::ops::Range<usize>, usize) {
    let end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line_end = if end > 0 && head[end - 1] == b'\r' { end - 1 } else { end };
    (0..line_end, (end + 1).min(head.len()))
}

struct Fields<'a> {
    map: HeaderMap,
    limits: &'a ParseLimits,
    count: usize,
    dropped: u32,
    keep_spelling: bool,
    spelling: Vec<Bytes>,
}

impl<'a> Fields<'a> {
    fn new(limits: &'a ParseLimits, keep_spelling: bool) -> Self {
        Fields { map: HeaderMap::with_capacity(12), limits, count: 0, dropped: 0, keep_spelling, spelling: Vec::new() }
    }

    fn read(&mut self, head: &Bytes, mut at: usize) -> Result<(), ParseError> {
        if matches!(head.get(at), Some(b' ' | b'\t')) {
            // There is no line it could continue.
            return Err(ParseError::Header);
        }
        while at < head.len() {
            let (line, mut next) = line_at(head, at);
            if line.is_empty() {
                return Ok(());
            }
            let folded = matches!(head.get(next), Some(b' ' | b'\t'));
            if folded {
                // obs-fold: only the ends of lines go.
                let mut joined = head[line].to_vec();
                while matches!(head.get(next), Some(b' ' | b'\t')) {
                    let (more, after) = line_at(head, next);
                    joined.extend_from_slice(&head[more]);
                    next = after;
                }
                let joined = Bytes::from(joined);
                self.field(&joined, 0..joined.len())?;
            } else {
                self.field(head, line)?;
            }
            at = next;
        }
        Ok(())
    }

    fn field(&mut self, head: &Bytes, line: std::ops::Range<usize>) -> Result<(), ParseError> {
        self.count += 1;
        if self.count > self.limits.max_headers {
            return Err(ParseError::TooManyHeaders);
        }
        let text = &head[line.clone()];
        let colon = memchr::memchr(b':', text).ok_or(ParseError::Header)?;
        // HeaderName refuses spaces, controls and an empty name.
        let name = HeaderName::from_bytes(&text[..colon]).map_err(|_| ParseError::Header)?;
        match self.limits.underscores {
            UnderscoresAction::Reject if name.as_str().contains('_') => return Err(ParseError::Underscore),
            UnderscoresAction::Drop if name.as_str().contains('_') => {
                self.dropped += 1;
                return Ok(());
            }
            _ => {}
        }
        let value = &text[colon + 1..];
        let lead = value.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let trail = value[lead..].iter().rev().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
        let start = line.start + colon + 1 + lead;
        let end = line.end - trail;
        let value = match HeaderValue::from_maybe_shared(head.slice(start..end)) {
            Ok(value) => value,
            // Repairing what frames or routes a message would be guessing.
            Err(_) if matches!(name, header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::HOST) => {
                return Err(ParseError::Value);
            }
            // A bare CR is tolerated elsewhere, and goes.
            Err(_) => {
                let rest: Vec<u8> = head[start..end].iter().copied().filter(|b| *b != b'\r').collect();
                HeaderValue::from_maybe_shared(Bytes::from(rest)).map_err(|_| ParseError::Value)?
            }
        };
        if self.keep_spelling && text[..colon].iter().any(u8::is_ascii_uppercase) {
            self.spelling.push(head.slice(line.start..line.start + colon));
        }
        self.map.append(name, value);
        Ok(())
    }
}

/// The line at `at` without its end, and where the next one begins.
fn line_at(head: &[u8], at: usize) -> (std::ops::Range<usize>, usize) {
    let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |i| at + i);
    let line_end = if end > at && head[end - 1] == b'\r' { end - 1 } else { end };
    (at..line_end, (end + 1).min(head.len()))
}

/// What the framing fields of a message say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// `Transfer-Encoding: chunked`.
    pub chunked: bool,
    /// `Content-Length`.
    pub length: Option<u64>,
}

/// Reads and checks the framing fields.
///
/// # Errors
/// Conflicts and malformed values.
pub fn lengths(headers: &mut HeaderMap, allow_chunked_length: bool) -> Result<Lengths, ParseError> {
    const FRAMING: Names = Names::of(&["transfer-encoding", "content-length"]);
    if !headers.may_have(FRAMING) {
        return Ok(Lengths { chunked: false, length: None });
    }
    let both = headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH);
    if both && !allow_chunked_length {
        return Err(ParseError::LengthAndEncoding);
    }
    let mut chunked = false;
    for v in headers.get_all(header::TRANSFER_ENCODING) {
        if chunked || !v.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(ParseError::TransferEncoding);
        }
        chunked = true;
    }
    let mut length = None;
    for v in headers.get_all(header::CONTENT_LENGTH) {
        let text = v.to_str().map_err(|_| ParseError::ContentLength)?;
        if length.is_some() || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseError::ContentLength);
        }
        length = Some(text.parse::<u64>().map_err(|_| ParseError::ContentLength)?);
    }
    if chunked && length.is_some() {
        headers.remove(header::CONTENT_LENGTH);
        length = None;
    }
    Ok(Lengths { chunked, length })
}

impl Lengths {
    /// Framing of a request.
    pub fn request(self) -> Framing {
        match self {
            Lengths { chunked: true, .. } => Framing::Chunked,
            Lengths { length: None | Some(0), .. } => Framing::None,
            Lengths { length: Some(n), .. } => Framing::Length(n),
        }
    }

    /// Framing of a response to `method` with `status`.
    pub fn response(self, method: &Method, status: StatusCode) -> Framing {
        let s = status.as_u16();
        if *method == Method::HEAD || s / 100 == 1 || s == 204 || s == 304 {
            return Framing::None;
        }
        match self {
            Lengths { chunked: true, .. } => Framing::Chunked,
            Lengths { length: Some(0), .. } => Framing::None,
            Lengths { length: Some(n), .. } => Framing::Length(n),
            Lengths { length: None, .. } => Framing::UntilClose,
        }
    }
}

/// Fields that are about one connection (RFC 9110 section 7.6.1).
pub(super) const OF_CONNECTION: Names =
    Names::of(&["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]);

/// Removes the fields that a codec writes by itself.
pub(super) fn drop_of_codec(headers: &mut HeaderMap) {
    if headers.may_have(OF_CONNECTION) {
        for name in [&header::CONNECTION, &header::TRANSFER_ENCODING, &names::KEEP_ALIVE, &names::PROXY_CONNECTION] {
            headers.remove(name);
        }
    }
}

/// Whether the comma-separated list of `name` holds `token`, without case.
pub fn list_has(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .any(|v| v.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes())))
}
