//! Writes header blocks: static table, nothing indexed, no Huffman code.

use bytes::BufMut;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

/// Indices of the static table.
const METHOD: usize = 2;
const STATUS: usize = 8;

/// What the first block of a connection begins with: a table of size 0. Whatever the peer says of the size later, there is
/// nothing to tell it.
pub(in super::super) fn begin(out: &mut Vec<u8>) {
    out.put_u8(0x20);
}

/// `:method`
pub(in super::super) fn method(out: &mut Vec<u8>, method: &Method) {
    match *method {
        Method::GET => out.put_u8(0x82),
        Method::POST => out.put_u8(0x83),
        _ => {
            out.put_u8(METHOD as u8);
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
            out.put_u8(STATUS as u8);
            return string(out, status.as_str().as_bytes());
        }
    };
    out.put_u8(0x80 | index);
}

/// Any other pseudo-header.
pub(in super::super) fn pseudo(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    match (name, value) {
        (":path", b"/") => return out.put_u8(0x84),
        (":scheme", b"http") => return out.put_u8(0x86),
        (":scheme", b"https") => return out.put_u8(0x87),
        (":authority", _) => out.put_u8(1),
        (":path", _) => out.put_u8(4),
        (":scheme", _) => out.put_u8(6),
        _ => {
            out.put_u8(0);
            string(out, name.as_bytes());
        }
    }
    string(out, value);
}

/// A field.
pub(in super::super) fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    // Nobody on the way is to keep a secret in its table, where it could be guessed by what compresses well.
    let never = if value.is_sensitive() || *name == header::AUTHORIZATION { 0x10 } else { 0 };
    let text = name.as_str();
    match index(text) {
        Some(index) => integer(out, 4, never, index),
        None => {
            out.put_u8(never);
            string(out, text.as_bytes());
        }
    }
    string(out, value.as_bytes());
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

    #[test]
    fn secrets_are_marked() {
        let mut out = Vec::new();
        field(&mut out, &header::AUTHORIZATION, &HeaderValue::from_static("Basic x"));
        assert!(matches!(&decoded(&out)[..], [Field::Header(_, v)] if v.is_sensitive()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            code in 100u16..1000,
            verb in "[A-Z]{1,12}",
            path in "/[ -~]{0,300}",
            fields in proptest::collection::vec(("[a-z][a-z0-9-]{0,40}", "[ -~]{0,200}"), 0..12),
        ) {
            let mut out = Vec::new();
            begin(&mut out);
            status(&mut out, StatusCode::from_u16(code).unwrap());
            method(&mut out, &Method::from_bytes(verb.as_bytes()).unwrap());
            for name in [":path", ":scheme", ":authority", ":protocol"] {
                pseudo(&mut out, name, path.as_bytes());
            }
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                field(&mut out, &name, &HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let all = decoded(&out);
            prop_assert!(matches!(&all[0], Field::Status(s) if s.as_u16() == code));
            prop_assert!(matches!(&all[1], Field::Method(m) if m.as_str() == verb));
            prop_assert!(matches!(&all[2], Field::Path(v) if v == path.as_bytes()));
            prop_assert!(matches!(&all[3], Field::Scheme(v) if v == path.as_bytes()));
            prop_assert!(matches!(&all[4], Field::Authority(v) if v == path.as_bytes()));
            prop_assert!(matches!(&all[5], Field::Protocol(v) if v == path.as_bytes()));
            prop_assert_eq!(all.len(), 6 + fields.len());
            for (got, (name, value)) in all[6..].iter().zip(&fields) {
                prop_assert!(matches!(got, Field::Header(n, v) if n.as_str() == name && v.as_bytes() == value.as_bytes()));
            }
        }
    }
}
