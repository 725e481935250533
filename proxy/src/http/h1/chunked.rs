//! The chunked transfer coding (RFC 9112 section 7.1), decoded without a copy.

use bytes::{Buf, Bytes, BytesMut};

use super::parse::{self, ParseError};
use crate::http::HeaderMap;

/// Decoder of one chunked body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    limits: Limits,
}

/// Bounds of what frames a body.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the trailers, and of one chunk's size line with its extensions.
    pub bytes: usize,
    /// Fields of the trailers.
    pub trailers: usize,
}

#[derive(Debug)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What the decoder found.
#[derive(Debug)]
pub enum Event {
    /// Payload.
    Data(Bytes),
    /// The end, with trailers if there were any.
    End(HeaderMap),
    /// Nothing complete yet: read more.
    NeedMore,
}

impl Chunked {
    /// A decoder at the start of a body.
    pub fn new(limits: Limits) -> Self {
        Chunked { state: State::Size, limits }
    }

    /// Whether the last chunk and its trailers were read.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes the next piece off `buf`.
    ///
    /// # Errors
    /// Bad syntax; the connection cannot be used any more.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Event, ParseError> {
        loop {
            match &mut self.state {
                State::Size => match size_line(buf, self.limits.bytes)? {
                    None => return Ok(Event::NeedMore),
                    Some(0) => self.state = State::Trailers,
                    Some(n) => self.state = State::Data(n),
                },
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Event::NeedMore);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    // What follows the data stays in the buffer, so this split shares it instead of copying.
                    return Ok(Event::Data(buf.split_to(n).freeze()));
                }
                State::DataEnd => match *buf.as_ref() {
                    [] => return Ok(Event::NeedMore),
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    [b'\r'] => return Ok(Event::NeedMore),
                    [b'\n', ..] => {
                        buf.advance(1);
                        self.state = State::Size;
                    }
                    _ => return Err(ParseError::Chunk),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(buf, self.limits)? else { return Ok(Event::NeedMore) };
                    self.state = State::Done;
                    return Ok(Event::End(trailers));
                }
                State::Done => return Ok(Event::End(HeaderMap::new())),
            }
        }
    }
}

/// Reads `1*HEXDIG [ chunk-ext ] CRLF`. A bare LF is no end of it: who takes it for one reads other chunks than who does not.
fn size_line(buf: &mut BytesMut, max: usize) -> Result<Option<u64>, ParseError> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if buf.len() > max { Err(ParseError::Chunk) } else { check_partial(buf).map(|()| None) };
    };
    if end > max {
        return Err(ParseError::Chunk);
    }
    let line = buf[..end].strip_suffix(b"\r").ok_or(ParseError::Chunk)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let zeros = line.iter().take_while(|b| **b == b'0').count();
    // 16 digits are 64 bits: no overflow below.
    if digits == 0 || digits - zeros > 16 {
        return Err(ParseError::Chunk);
    }
    let extension = &line[digits..];
    let rest = extension.iter().position(|b| !matches!(b, b' ' | b'\t')).map(|i| extension[i]);
    if !matches!(rest, None | Some(b';')) || extension.iter().any(|b| matches!(b, 0 | b'\r')) {
        return Err(ParseError::Chunk);
    }
    let mut size = 0u64;
    for b in &line[zeros..digits] {
        size = size << 4 | u64::from((*b as char).to_digit(16).unwrap_or(0));
    }
    buf.advance(end + 1);
    Ok(Some(size))
}

/// A size line that has begun wrongly is refused at once, not when its end arrives.
fn check_partial(buf: &BytesMut) -> Result<(), ParseError> {
    match buf.first() {
        Some(b) if !b.is_ascii_hexdigit() => Err(ParseError::Chunk),
        _ => Ok(()),
    }
}

fn trailers(buf: &mut BytesMut, limits: Limits) -> Result<Option<HeaderMap>, ParseError> {
    match *buf.as_ref() {
        [b'\r', b'\n', ..] => {
            buf.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        [b'\n', ..] => {
            buf.advance(1);
            return Ok(Some(HeaderMap::new()));
        }
        _ => {}
    }
    match parse::head_end(buf, 0) {
        Some(end) if end <= limits.bytes => parse::trailers(buf.split_to(end).freeze(), limits.trailers).map(Some),
        None if buf.len() <= limits.bytes => Ok(None),
        _ => Err(ParseError::HeadersTooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), ParseError> {
        let (mut d, mut buf, mut out) =
            (Chunked::new(Limits { bytes: 1024, trailers: 3 }), BytesMut::new(), Vec::new());
        let mut parts = parts.iter();
        loop {
            match d.next(&mut buf)? {
                Event::Data(b) => out.extend_from_slice(&b),
                Event::End(t) => return Ok((out, t, buf.to_vec())),
                Event::NeedMore => match parts.next() {
                    Some(p) => buf.extend_from_slice(p),
                    None => return Err(ParseError::Incomplete),
                },
            }
        }
    }

    #[test]
    fn plain_with_extension_trailers_and_rest() {
        let (body, trailers, rest) = decode(&[b"4;a=b\r\nWeft\r\n0\r\nx-t: 1\r\n\r\nGET"]).unwrap();
        assert_eq!((body.as_slice(), rest.as_slice()), (b"Weft".as_slice(), b"GET".as_slice()));
        assert_eq!(trailers.get("x-t").unwrap(), "1");
    }

    #[test]
    fn refused() {
        for bad in [
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x4\r\n",
            "1 2\r\n",
            "4\r\nWeft0\r\n\r\n",
            "\r\n",
            "10000000000000000\r\n",
            "4\nWeft\r\n0\r\n\r\n",
            "4;a\nWeft\r\n0\r\n\r\n",
            "0\n\n",
            "4\0\r\n",
        ] {
            assert!(matches!(decode(&[bad.as_bytes()]), Err(ParseError::Chunk)), "{bad:?}");
        }
        assert_eq!(decode(&[b"000000000000000000004\r\nWeft\r\n0\r\n\r\n"]).unwrap().0, b"Weft");
        assert!(matches!(decode(&[b"ffffffffffffffff\r\nabc"]), Err(ParseError::Incomplete)));
        let many = decode(&[b"0\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n\r\n"]);
        assert!(matches!(many, Err(ParseError::TooManyHeaders)));
        let long = format!("1;{}", "a".repeat(5000));
        assert!(matches!(decode(&[long.as_bytes()]), Err(ParseError::Chunk)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(cut in proptest::collection::vec(0usize..60, 0..6)) {
            let text: &[u8] = b"5\r\nhello\r\nA; x\r\n0123456789\r\n0\r\na: b\r\nc: d\r\n\r\n";
            let mut cuts: Vec<usize> = cut.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut parts, mut at) = (Vec::new(), 0);
            for c in cuts { parts.push(&text[at..c]); at = c; }
            parts.push(&text[at..]);
            let (body, trailers, _) = decode(&parts).unwrap();
            prop_assert_eq!(body, b"hello0123456789".to_vec());
            prop_assert_eq!(trailers.len(), 2);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
