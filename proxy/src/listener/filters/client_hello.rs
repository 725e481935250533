//! What a TLS ClientHello asks for: server name and protocols.
//!
//! Bytes in, facts out; no I/O. It decides as early as it can: what does not begin like TLS is known not to be by its first
//! byte. Runs on: workers.

/// The largest handshake message BoringSSL takes for a ClientHello.
const MAX_MESSAGE: usize = 16_384;
/// A record's payload with the most expansion any version allows.
const MAX_RECORD: usize = 16_384 + 2_048;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What is known so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// At least so many bytes in all are needed.
    NeedMore(usize),
    /// It is complete.
    Hello(ClientHello),
}

/// The facts of a ClientHello.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name in lower case; empty: none.
    pub sni: String,
    /// Protocols in the client's order; what is not UTF-8 is left out.
    pub alpn: Vec<String>,
}

/// Why it is no ClientHello, as BoringSSL would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTls {
    /// A plaintext HTTP request.
    HttpRequest,
    /// A plaintext CONNECT request.
    ConnectRequest,
    /// Not a TLS record.
    WrongVersion,
    /// A record of another kind.
    UnexpectedRecord,
    /// Not well-formed.
    Malformed,
    /// Older than TLS 1.0.
    Unsupported,
    /// Larger than allowed.
    TooLarge,
}

impl NotTls {
    /// As Envoy has it in `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub fn reason(self) -> String {
        let (code, name) = match self {
            NotTls::HttpRequest => (156, "HTTP_REQUEST"),
            NotTls::ConnectRequest => (155, "HTTPS_PROXY_REQUEST"),
            NotTls::WrongVersion => (247, "WRONG_VERSION_NUMBER"),
            NotTls::UnexpectedRecord => (226, "UNEXPECTED_RECORD"),
            NotTls::Malformed => (137, "DECODE_ERROR"),
            NotTls::Unsupported => (240, "UNSUPPORTED_PROTOCOL"),
            NotTls::TooLarge => (150, "EXCESSIVE_MESSAGE_SIZE"),
        };
        format!("TLS_error|error:{:08x}:SSL routines:OPENSSL_internal:{name}:TLS_error_end", 0x1000_0000 + code)
    }
}

/// Looks at all the bytes a client has sent; `max` bounds how many it may need for its ClientHello.
///
/// # Errors
/// It is not TLS, or not acceptable.
///
/// ```
/// use weft_proxy::listener::filters::client_hello::{NotTls, Step, parse};
///
/// assert_eq!(parse(b"\x16\x03\x01", 16_384), Ok(Step::NeedMore(5)));
/// assert_eq!(parse(b"GET / HTTP/1.1\r\n", 16_384), Err(NotTls::HttpRequest));
/// ```
pub fn parse(bytes: &[u8], max: usize) -> Result<Step, NotTls> {
    let mut at = 0;
    // A ClientHello as a rule is one record; only one in pieces has to be put together.
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let Some(header) = bytes[at..].first_chunk::<RECORD_HEADER>() else {
            return match not_tls(bytes, at) {
                Some(e) => Err(e),
                None => need(at + RECORD_HEADER, max),
            };
        };
        if let Some(e) = not_tls(bytes, at) {
            return Err(e);
        }
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len == 0 || len > MAX_RECORD {
            return Err(NotTls::Malformed);
        }
        let start = at + RECORD_HEADER;
        let available = &bytes[start..bytes.len().min(start + len)];
        let message = if joined.is_empty() { available } else { &[&joined[..], available].concat() };
        let size = message_size(message)?;
        if available.len() < len {
            return need(start + len, max);
        }
        match size.map(|n| message.get(MESSAGE_HEADER..n)) {
            Some(Some(body)) => return client_hello(body).ok_or(NotTls::Malformed)?.map(Step::Hello),
            _ => joined = message.to_vec(),
        }
        at = start + len;
    }
}

/// Waiting for bytes that the limit does not allow is as good as having got them.
fn need(total: usize, max: usize) -> Result<Step, NotTls> {
    if total > max { Err(NotTls::TooLarge) } else { Ok(Step::NeedMore(total)) }
}

/// Whether what begins at `at` is no handshake record, by as many bytes as there are.
fn not_tls(bytes: &[u8], at: usize) -> Option<NotTls> {
    let here = &bytes[at..];
    let kind = *here.first()?;
    if at == 0 && !matches!(kind, 20..=23) {
        return plaintext(here);
    }
    if here.get(1).is_some_and(|major| *major != 3) {
        return Some(NotTls::WrongVersion);
    }
    (kind != 22).then_some(NotTls::UnexpectedRecord)
}

/// `None`: too few bytes to tell one request from another.
fn plaintext(bytes: &[u8]) -> Option<NotTls> {
    const KNOWN: [(&[u8], NotTls); 5] = [
        (b"GET ", NotTls::HttpRequest),
        (b"POST ", NotTls::HttpRequest),
        (b"HEAD ", NotTls::HttpRequest),
        (b"PUT ", NotTls::HttpRequest),
        (b"CONNE", NotTls::ConnectRequest),
    ];
    if let Some((_, kind)) = KNOWN.iter().find(|(method, _)| bytes.starts_with(method)) {
        return Some(*kind);
    }
    let undecided = KNOWN.iter().any(|(method, _)| method.starts_with(bytes));
    (!undecided).then_some(NotTls::WrongVersion)
}

/// Header and body of the handshake message; `None`: its header is not complete.
fn message_size(message: &[u8]) -> Result<Option<usize>, NotTls> {
    match message {
        [kind, ..] if *kind != 1 => Err(NotTls::Malformed),
        [_, a, b, c, ..] => {
            let body = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if body > MAX_MESSAGE { Err(NotTls::TooLarge) } else { Ok(Some(MESSAGE_HEADER + body)) }
        }
        _ => Ok(None),
    }
}

/// Reads length-prefixed parts.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn prefixed8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n.into())
    }

    fn prefixed16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(n.into())
    }
}

/// `None`: malformed.
fn client_hello(body: &[u8]) -> Option<Result<ClientHello, NotTls>> {
    let mut r = Reader(body);
    let version = r.u16()?;
    r.take(32)?;
    if r.prefixed8()?.len() > 32 {
        return None;
    }
    let suites = r.prefixed16()?;
    if suites.is_empty() || suites.len() % 2 != 0 || r.prefixed8()?.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if !r.0.is_empty() {
        let mut extensions = Reader(r.prefixed16()?);
        if !r.0.is_empty() {
            return None;
        }
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let body = extensions.prefixed16()?;
            match kind {
                0 => hello.sni = server_name(body)?,
                16 => hello.alpn = protocols(body).unwrap_or_default(),
                _ => {}
            }
        }
    }
    Some(if version < 0x0301 { Err(NotTls::Unsupported) } else { Ok(hello) })
}

/// `None`: malformed, as BoringSSL sees it: exactly one host name, and no NUL within.
fn server_name(body: &[u8]) -> Option<String> {
    let mut r = Reader(body);
    let mut list = Reader(r.prefixed16()?);
    let kind = list.u8()?;
    let name = list.prefixed16()?;
    let sound = kind == 0 && list.0.is_empty() && r.0.is_empty() && (1..=255).contains(&name.len());
    if !sound || name.contains(&0) {
        return None;
    }
    // A name that is not ASCII names no certificate and no filter chain.
    Some(std::str::from_utf8(name).unwrap_or_default().to_ascii_lowercase())
}

/// `None`: malformed; the TLS stack will complain, not we.
fn protocols(body: &[u8]) -> Option<Vec<String>> {
    let mut r = Reader(body);
    let mut list = Reader(r.prefixed16()?);
    if !r.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    while !list.0.is_empty() {
        let name = list.prefixed8()?;
        if name.is_empty() {
            return None;
        }
        out.extend(std::str::from_utf8(name).ok().map(str::to_owned));
    }
    Some(out)
}
