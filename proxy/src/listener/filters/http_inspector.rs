//! Whether a plaintext client speaks HTTP, and which version.
//!
//! Looks at the request line only; no I/O. Runs on: workers.

/// The client's HTTP/2 preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is given up on, as in Envoy.
const MAX_LINE: usize = 64 * 1024;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, 0.9 and whatever else is not the next two.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 without TLS.
    H2c,
}

impl Version {
    /// As filter chains match it.
    pub fn as_alpn(self) -> &'static str {
        match self {
            Version::Http10 => "http/1.0",
            Version::Http11 => "http/1.1",
            Version::H2c => "h2c",
        }
    }
}

/// What is known so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    NeedMore,
    /// It is HTTP.
    Http(Version),
    /// It is something else.
    NotHttp,
    /// No end of the request line within the limit.
    TooLarge,
}

/// Remembers how far it has looked, so that bytes that come one by one cost no more.
#[derive(Debug, Default)]
pub struct HttpInspector {
    seen: usize,
    after_method: bool,
}

impl HttpInspector {
    /// Looks at all the bytes so far; each call has the bytes of the one before and more.
    ///
    /// ```
    /// use weft_proxy::listener::filters::http_inspector::{HttpInspector, Step, Version};
    ///
    /// let mut inspector = HttpInspector::default();
    /// assert_eq!(inspector.parse(b"GET / HT"), Step::NeedMore);
    /// assert_eq!(inspector.parse(b"GET / HTTP/1.1\r\n"), Step::Http(Version::Http11));
    /// ```
    pub fn parse(&mut self, bytes: &[u8]) -> Step {
        let n = bytes.len().min(PREFACE.len());
        if bytes[..n] == PREFACE[..n] {
            return if n == PREFACE.len() { Step::Http(Version::H2c) } else { Step::NeedMore };
        }
        for (i, b) in bytes.iter().enumerate().skip(self.seen) {
            match b {
                b'\n' if i > 0 => return version(&bytes[..i]).map_or(Step::NotHttp, Step::Http),
                b'\r' if self.after_method => {}
                b' ' if !self.after_method && i > 0 => self.after_method = true,
                // Known early: a client that waits for an answer to other bytes is not kept waiting for ours.
                _ if self.after_method && b.is_ascii_control() && *b != b'\t' => return Step::NotHttp,
                _ if !self.after_method && !is_token(*b) && *b != b'\r' => return Step::NotHttp,
                b'\r' if i == 0 => return Step::NotHttp,
                _ => {}
            }
        }
        self.seen = bytes.len();
        if self.seen >= MAX_LINE { Step::TooLarge } else { Step::NeedMore }
    }
}

/// The version of a request line without its end; `None`: it is none.
fn version(line: &[u8]) -> Option<Version> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|b| *b == b' ').filter(|w| !w.is_empty());
    let method = words.next()?;
    words.next()?;
    if !method.iter().all(|b| is_token(*b)) {
        return None;
    }
    match (words.next(), words.next()) {
        (None, _) => Some(Version::Http10),
        (Some(b"HTTP/1.1"), None) => Some(Version::Http11),
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(Version::Http10)
        }
        _ => None,
    }
}

/// RFC 9110 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
