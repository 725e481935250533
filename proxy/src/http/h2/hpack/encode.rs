//! Writes header blocks: the static table, a dynamic one for fields that repeat, no Huffman code.
//!
//! A name has one place in the encoder. Where its value is the one of last time, an index says both; where it changes, the new
//! value is added to the table until the name has shown that its values do not repeat. What is secret is never added.

use std::collections::VecDeque;

use bytes::BufMut;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http::HeaderMap;

/// Indices of the static table.
const METHOD: u8 = 2;
const STATUS: u8 = 8;
const STATIC: u64 = 61;

/// Every decoder has room for this before it said anything, and more is not used.
const TABLE: usize = 4096;
/// Places of names.
const PLACES: usize = 32;
/// Values beyond this do not enter the table.
const LONGEST: usize = 256;
/// A name whose values changed so often, less the times they did not, is not indexed any more.
const TIRED: u8 = 8;

/// Whose value it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Authority,
    Header(HeaderName),
}

/// The same, borrowed.
#[derive(Clone, Copy)]
enum Named<'a> {
    Authority,
    Header(&'a HeaderName),
}

impl Named<'_> {
    fn as_str(&self) -> &str {
        match self {
            Named::Authority => ":authority",
            Named::Header(name) => name.as_str(),
        }
    }

    fn is(self, name: &Name) -> bool {
        match (self, name) {
            (Named::Authority, Name::Authority) => true,
            (Named::Header(this), Name::Header(name)) => this == name,
            _ => false,
        }
    }

    fn to_owned(self) -> Name {
        match self {
            Named::Authority => Name::Authority,
            Named::Header(name) => Name::Header(name.clone()),
        }
    }

    /// Where the static table has it.
    fn index(self) -> Option<usize> {
        match self {
            Named::Authority => Some(1),
            Named::Header(name) => index(name.as_str()),
        }
    }
}

/// What is known of a name.
struct Place {
    name: Name,
    /// Its newest entry, counted from the first ever added.
    entry: u64,
    changes: u8,
}

/// The encoder of one connection.
#[derive(Default)]
pub(in super::super) struct Encoder {
    /// Newest first.
    table: VecDeque<(usize, Box<[u8]>)>,
    size: usize,
    /// Entries ever added.
    added: u64,
    places: Vec<Option<Place>>,
    max: Option<usize>,
    /// The smallest size and the last that the peer asked for since the last block.
    resized: Option<(usize, usize)>,
}

impl Encoder {
    /// The peer's choice of the table's size.
    pub(in super::super) fn resize(&mut self, max: u32) {
        let max = (max as usize).min(TABLE);
        if max == self.max() && self.resized.is_none() {
            return;
        }
        let least = self.resized.map_or(max, |(least, _)| least.min(max));
        self.resized = Some((least, max));
        self.max = Some(max);
        self.evict(self.max().saturating_sub(least));
        self.evict(0);
    }

    fn max(&self) -> usize {
        self.max.unwrap_or(TABLE)
    }

    /// Begins a block.
    pub(in super::super) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resized.take() {
            integer(out, 5, 0x20, least);
            if last != least {
                integer(out, 5, 0x20, last);
            }
        }
    }

    /// `:authority`
    pub(in super::super) fn authority(&mut self, out: &mut Vec<u8>, value: &HeaderValue) {
        self.indexed(out, Named::Authority, value);
    }

    /// Fields, but for those that `skip` names.
    pub(in super::super) fn fields(
        &mut self,
        out: &mut Vec<u8>,
        headers: &HeaderMap,
        skip: impl Fn(&HeaderName, &HeaderValue) -> bool,
    ) {
        for (name, value) in headers {
            if !skip(name, value) {
                self.field(out, name, value);
            }
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
        // Nobody on the way is to keep a secret in its table, where it could be guessed by what compresses well.
        let never = value.is_sensitive() || matches!(*name, header::AUTHORIZATION | header::PROXY_AUTHORIZATION);
        if never || matches!(*name, header::COOKIE | header::SET_COOKIE) || value.len() > LONGEST {
            literal(out, if never { 0x10 } else { 0 }, 4, Named::Header(name), value.as_bytes());
        } else {
            self.indexed(out, Named::Header(name), value);
        }
    }

    fn indexed(&mut self, out: &mut Vec<u8>, name: Named<'_>, value: &HeaderValue) {
        let text = name.as_str();
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let place = &mut self.places[place(text.as_bytes())];
        match place {
            Some(known) if name.is(&known.name) => {
                let age = self.added - known.entry;
                if let Some((_, kept)) = self.table.get(age as usize)
                    && **kept == *value.as_bytes()
                {
                    known.changes = known.changes.saturating_sub(1);
                    return integer(out, 7, 0x80, (STATIC + 1 + age) as usize);
                }
                if known.changes >= TIRED {
                    return literal(out, 0, 4, name, value.as_bytes());
                }
                known.changes += 2;
                known.entry = self.added + 1;
            }
            // Somebody else's: it gives way once its values have changed more than they repeat.
            Some(other) if other.changes < TIRED && self.added - other.entry < self.table.len() as u64 => {
                other.changes += 1;
                return literal(out, 0, 4, name, value.as_bytes());
            }
            _ => *place = Some(Place { name: name.to_owned(), entry: self.added + 1, changes: 0 }),
        }
        literal(out, 0x40, 6, name, value.as_bytes());
        self.add(text.len() + value.len() + 32, value.as_bytes());
    }

    /// An entry as the peer has it now; one that is larger than the table empties it.
    fn add(&mut self, size: usize, value: &[u8]) {
        self.evict(size);
        self.added += 1;
        if size <= self.max() {
            self.size += size;
            self.table.push_front((size, value.into()));
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max() {
            let Some((size, _)) = self.table.pop_back() else { return };
            self.size -= size;
        }
    }
}

/// Where a name has its place.
fn place(name: &[u8]) -> usize {
    let at = |i: usize| name.get(i).copied().map_or(0, usize::from);
    (name.len() * 31 + at(0) * 7 + at(name.len() / 2) * 5 + at(name.len().wrapping_sub(1)) * 3) % PLACES
}

/// `:method`
pub(in super::super) fn method(out: &mut Vec<u8>, method: &Method) {
    match *method {
        Method::GET => out.put_u8(0x82),
        Method::POST => out.put_u8(0x83),
        _ => {
            out.put_u8(METHOD);
            string(out, method.as_str().as_bytes());
        }
    }
}

/// `:status`
pub(in super::super) fn status(out: &mut Vec<u8>, status: StatusCode) {
    let index = match status.as_u16() {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            out.put_u8(STATUS);
            return string(out, status.as_str().as_bytes());
        }
    };
    out.put_u8(0x80 | index);
}

/// `:scheme`, `:path`, `:protocol`
pub(in super::super) fn pseudo(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    match (name, value) {
        (":path", b"/") => return out.put_u8(0x84),
        (":scheme", b"http") => return out.put_u8(0x86),
        (":scheme", b"https") => return out.put_u8(0x87),
        (":path", _) => out.put_u8(4),
        (":scheme", _) => out.put_u8(6),
        _ => {
            out.put_u8(0);
            string(out, name.as_bytes());
        }
    }
    string(out, value);
}

/// A literal, its name by index where there is one.
fn literal(out: &mut Vec<u8>, flags: u8, prefix: u32, name: Named<'_>, value: &[u8]) {
    match name.index() {
        Some(index) => integer(out, prefix, flags, index),
        None => {
            out.put_u8(flags);
            string(out, name.as_str().as_bytes());
        }
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 7, 0, text.len());
    out.put_slice(text);
}

fn integer(out: &mut Vec<u8>, prefix: u32, flags: u8, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.put_u8(flags | value as u8);
    }
    out.put_u8(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(0x80 | rest as u8);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Where the static table has a name.
fn index(name: &str) -> Option<usize> {
    Some(match name {
        "accept-charset" => 15,
        "accept-encoding" => 16,
        "accept-language" => 17,
        "accept-ranges" => 18,
        "accept" => 19,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "authorization" => 23,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => 28,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "cookie" => 32,
        "date" => 33,
        "etag" => 34,
        "expect" => 35,
        "expires" => 36,
        "from" => 37,
        "host" => 38,
        "if-match" => 39,
        "if-modified-since" => 40,
        "if-none-match" => 41,
        "if-range" => 42,
        "if-unmodified-since" => 43,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "max-forwards" => 47,
        "proxy-authenticate" => 48,
        "proxy-authorization" => 49,
        "range" => 50,
        "referer" => 51,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "user-agent" => 58,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Field};
    use super::*;

    fn decoded(block: &[u8]) -> Vec<Field> {
        let mut all = Vec::new();
        Decoder::new(4096).decode(block, |f| all.push(f)).unwrap();
        all
    }

    #[test]
    fn names_have_the_index_of_the_table() {
        for i in 15..=61 {
            let all = decoded(&[0x80 | i]);
            let [Field::Header(name, _)] = &all[..] else { panic!("{i}: {all:?}") };
            if *name != header::TRANSFER_ENCODING {
                assert_eq!(index(name.as_str()), Some(usize::from(i)), "{name}");
            }
        }
    }

    fn block(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            encoder.field(&mut out, &name, &HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        out
    }

    #[test]
    fn secrets_are_marked_and_stay_out_of_the_table() {
        let mut encoder = Encoder::default();
        let out = block(&mut encoder, &[("authorization", "Basic x"), ("cookie", "a=b")]);
        assert!(matches!(&decoded(&out)[..], [Field::Header(_, v), _] if v.is_sensitive()));
        assert!(encoder.table.is_empty());
    }

    #[test]
    fn what_repeats_costs_a_byte_and_what_does_not_is_left_out() {
        let mut encoder = Encoder::default();
        let first = block(&mut encoder, &[("user-agent", "a browser")]);
        assert!(first.len() > 10);
        assert_eq!(block(&mut encoder, &[("user-agent", "a browser")]), [0x80 | 62]);
        for n in 0..100 {
            block(&mut encoder, &[("x-request-id", &n.to_string())]);
        }
        assert!(encoder.table.len() < 8, "{}", encoder.table.len());
        assert_eq!(block(&mut encoder, &[("user-agent", "a browser")]).len(), 1);
    }

    #[test]
    fn a_smaller_table_is_told() {
        let mut encoder = Encoder::default();
        block(&mut encoder, &[("user-agent", "a browser")]);
        encoder.resize(0);
        encoder.resize(100);
        let out = block(&mut encoder, &[("user-agent", "a browser")]);
        assert_eq!(out[..3], [0x20, 0x3f, 100 - 31]);
        assert!(out.len() > 10, "the entry is gone");
        encoder.resize(100);
        assert_eq!(block(&mut encoder, &[("user-agent", "a browser")]).len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            code in 100u16..1000,
            verb in "[A-Z]{1,12}",
            path in "/[ -~]{0,300}",
        ) {
            let mut out = Vec::new();
            status(&mut out, StatusCode::from_u16(code).unwrap());
            method(&mut out, &Method::from_bytes(verb.as_bytes()).unwrap());
            for name in [":path", ":scheme", ":protocol"] {
                pseudo(&mut out, name, path.as_bytes());
            }
            let all = decoded(&out);
            prop_assert!(matches!(&all[0], Field::Status(s) if s.as_u16() == code));
            prop_assert!(matches!(&all[1], Field::Method(m) if m.as_str() == verb));
            prop_assert!(matches!(&all[2], Field::Path(v) if v == path.as_bytes()));
            prop_assert!(matches!(&all[3], Field::Scheme(v) if v == path.as_bytes()));
            prop_assert!(matches!(&all[4], Field::Protocol(v) if v == path.as_bytes()));
        }

        /// Both tables stay in step, whatever repeats, is evicted or resized.
        #[test]
        fn fields_arrive_over_many_blocks(
            blocks in proptest::collection::vec(
                (
                    proptest::option::weighted(0.1, 0u32..6_000),
                    proptest::collection::vec((0usize..12, "[a-z]{1,2}", 0usize..300), 0..8),
                    "[a-z]{1,2}",
                ),
                1..60,
            ),
        ) {
            let names = [
                "user-agent", "accept", "x-a", "x-b", "x-request-id", "date", "cookie", "content-length", "x-forwarded-proto",
                "server", "authorization", "a-rather-long-name-that-nobody-has",
            ];
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096));
            for (size, fields, authority) in &blocks {
                if let Some(size) = size {
                    encoder.resize(*size);
                }
                let mut out = Vec::new();
                encoder.begin(&mut out);
                encoder.authority(&mut out, &HeaderValue::from_bytes(authority.as_bytes()).unwrap());
                let mut want = vec![(":authority".to_owned(), authority.clone())];
                for (name, value, longer) in fields {
                    let name = HeaderName::from_static(names[*name]);
                    let value = format!("{value}{}", "-".repeat(*longer / 100 * 100));
                    encoder.field(&mut out, &name, &HeaderValue::from_bytes(value.as_bytes()).unwrap());
                    want.push((name.as_str().to_owned(), value));
                }
                let mut got = Vec::new();
                decoder
                    .decode(&out, |field| {
                        got.push(match field {
                            Field::Header(n, v) => (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()),
                            Field::Authority(v) => (":authority".to_owned(), String::from_utf8_lossy(&v).into_owned()),
                            other => (format!("{other:?}"), String::new()),
                        });
                    })
                    .map_err(|_| TestCaseError::fail("the tables differ"))?;
                prop_assert_eq!(got, want);
            }
        }
    }
}
